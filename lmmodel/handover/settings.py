"""What a folder of transformers says of its model, checked, as settings under our names."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.config import read_json
from lmdata.errors import TokenizerError
from lmmodel.errors import HuggingFaceError
from lmmodel.families import FAMILIES, ModelConfig
from lmmodel.handover.stock_families import STOCK_FAMILIES, stock_family
from lmmodel.handover.stock_family import StockFamily
from lmmodel.handover.their_values import (
    check_token_id,
    checked,
    our_layers,
    rows_of_padding,
    shown,
)

if TYPE_CHECKING:
    from lmdata.tokenizer import Tokenizer

CONFIG_NAME = "config.json"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")

# Names of one function: what lies between them is rounding.
SAME_FUNCTIONS = {
    "gelu": ("gelu_python",),
    "gelu_new": ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"),
}

# Of old and new versions: which layers are local, and how far rotations turn.
ROTARY_SETTINGS = ("layer_types", "rope_parameters", "global_attn_every_n_layers",
                   "global_rope_theta", "local_rope_theta")  # fmt: skip
VARIANT_SETTINGS = ("feed_forward_proj", "scale_decoder_outputs")
HEAD_SETTINGS = ("id2label", "label2id", "problem_type")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's config.json.

    Raises:
        HuggingFaceError: no such file, or no JSON object
    """
    path = folder / CONFIG_NAME
    if not folder.exists():
        raise HuggingFaceError(
            f"there is no folder {folder}: a model is read from this machine, nothing is downloaded"
        )
    if not path.is_file():
        raise HuggingFaceError(f"{folder} holds no config.json: is it a Hugging Face folder?")
    content = read_their_json(path)
    if not isinstance(content, dict):
        raise HuggingFaceError(f"{path} must hold a table, it holds a {type(content).__name__}")
    return content


def read_their_json(path: Path) -> Any:
    """Return the content of a JSON file of a folder.

    Raises:
        HuggingFaceError: it is no JSON, too large or nested too deeply
    """
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise HuggingFaceError(f"{path} is not valid JSON: {error}") from error


def check_described(folder: Path) -> None:
    """Check that a folder describes a model that import takes, before anything slow is loaded.

    What is no folder, or one of ours, is left to `import_checkpoint`, which says so.

    Raises:
        HuggingFaceError: its config.json or its tokenizer is missing or damaged, or of a model or a
            class that is not supported
    """
    if not folder.is_file() and "format_version" not in (theirs := read_config(folder)):
        try:
            from_their_config(theirs)
        except HuggingFaceError as error:
            raise HuggingFaceError(f"{folder}: {error}") from error
        read_tokenizer(folder)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer in a folder.

    Raises:
        HuggingFaceError: there is none, or it can't be read
    """
    from lmdata.tokenizer import load_tokenizer  # brings NumPy, which a refusal needs not

    size = read_config(folder).get("vocab_size") if (folder / CONFIG_NAME).is_file() else None
    most = size if isinstance(size, int) else None
    try:
        return load_tokenizer(folder, most_ids=most)
    except TokenizerError as error:
        is_there = any((folder / name).is_file() for name in VOCABULARIES)
        advice = "get the tokenizer's files as well, or save them there by "
        advice += "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        raise HuggingFaceError(f"{error}" if is_there else f"{error}; {advice}") from error


def from_their_config(theirs: Mapping[str, Any]) -> ModelConfig:
    """Return our configuration of a model that their `config.json` describes.

    Every value is checked before anything is made of it: its type, its range, and that the model
    computes what it asks for. What says how a program should compute (`_attn_implementation`,
    `auto_map`) is not read at all.

    Raises:
        HuggingFaceError: an architecture or a setting that this model does not have
    """
    family = _family_of(theirs)
    if theirs.get("quantization_config") is not None:
        raise HuggingFaceError(
            "config.json describes quantized weights (quantization_config), which are not "
            "supported: get the checkpoint that is not quantized"
        )
    stock = stock_family(family)
    theirs = _with_implied(theirs, stock)
    for name, value in {**stock.fixed, **stock.unwritten}.items():
        given = theirs.get(name, value)
        if given != value and given not in SAME_FUNCTIONS.get(value, ()):
            raise HuggingFaceError(
                f"{name}={reprlib.repr(given)} is not supported for {family}, only {value!r}: "
                "this checkpoint can't be imported"
            )
    settings = {
        our: checked(our, their, theirs.get(their, default), default)
        for our, (their, default) in stock.settings.items()
    }
    settings = {our: value for our, value in settings.items() if value is not None}
    for their, our in stock.repeated.items():
        _check_repeated(theirs, their, stock.settings[our], settings[our])
    if FAMILIES[family].is_encoder_decoder:
        _check_start(theirs, FAMILIES[family].decoder_start)
    if stock.follows_padding:
        settings["max_position_embeddings"] -= rows_of_padding(
            theirs, family, settings["max_position_embeddings"]
        )
    if FAMILIES[family].has_windows:
        settings |= our_layers(theirs, settings["num_hidden_layers"])
    for name in ("pad", "bos", "eos", "cls", "sep"):
        check_token_id(theirs, f"{name}_token_id")
    try:
        return ModelConfig(family=family, **settings)
    except (ValueError, TypeError) as error:
        raise HuggingFaceError(f"config.json describes no model that works: {error}") from error


def _classes(stock: StockFamily) -> set[str | None]:
    """Return the classes that a pretrained model of the family may name."""
    return {stock.pretrained, stock.paired, *(own for own, _ in stock.of_objectives.values())}


def _family_of(theirs: Mapping[str, Any]) -> str:
    """Return our family; BERT's first checkpoints name an architecture only, or nothing at all."""
    model_type, named = theirs.get("model_type"), theirs.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    fitting = [
        family
        for family, stock in STOCK_FAMILIES.items()
        if model_type == stock.model_type
        or (model_type is None and first is not None and first in _classes(stock))
    ]
    if fitting:
        return fitting[0] if len(fitting) == 1 else _variant_of(theirs, fitting)
    types = ", ".join(dict.fromkeys(stock.model_type for stock in STOCK_FAMILIES.values()))
    if model_type is None:
        raise HuggingFaceError(
            "config.json does not say what model it describes: give it a line like "
            f'"model_type": "bert"; import takes {types}'
        )
    raise HuggingFaceError(
        f"model_type {reprlib.repr(model_type)} is not supported: import takes {types}"
    )


def _variant_of(theirs: Mapping[str, Any], families: Sequence[str]) -> str:
    """Return the family of several of one model_type whose fixed settings a folder has.

    Raises:
        HuggingFaceError: it is another variant
    """
    wanted = []
    for family in families:
        stock = STOCK_FAMILIES[family]
        own = _with_implied(theirs, stock)
        differing = [name for name in stock.implied if own[name] != stock.fixed[name]]
        if (
            not differing
            and own.get("feed_forward_proj", "relu") == stock.fixed["feed_forward_proj"]
        ):
            return family
        told = ", ".join(f"{name}={stock.fixed[name]!r}" for name in VARIANT_SETTINGS)
        wanted.append(f"{family} ({told})")
    given = _with_implied(theirs, STOCK_FAMILIES[families[0]])
    told = ", ".join(f"{name}={reprlib.repr(given.get(name))}" for name in VARIANT_SETTINGS)
    raise HuggingFaceError(
        f"a {theirs.get('model_type')} with {told} is not supported: import takes "
        f"{' and '.join(wanted)}"
    )


def _with_implied(theirs: Mapping[str, Any], stock: StockFamily) -> dict[str, Any]:
    """Return settings with those that follow from others where they are not told."""
    implied = {name: theirs.get(other, True) is not False for name, other in stock.implied.items()}
    return {**implied, **theirs}


def _check_repeated(
    theirs: Mapping[str, Any], name: str, original: tuple[str, Any], value: Any
) -> None:
    """Check that a decoder has a setting's value of the encoder, which is its default.

    Raises:
        HuggingFaceError: another one
    """
    if theirs.get(name, original[1]) != value:
        raise HuggingFaceError(
            f"config.json says {name}={shown(theirs.get(name))} and {original[0]}={shown(value)}: "
            "only a decoder with the encoder's is supported"
        )


def _check_start(theirs: Mapping[str, Any], purpose: str) -> None:
    """Check that targets begin with the token that they do here.

    Raises:
        HuggingFaceError: another one
    """
    start = theirs.get("decoder_start_token_id")
    own = theirs.get(f"{purpose}_token_id")
    if start is not None and own is not None and start != own:
        raise HuggingFaceError(
            f"config.json says decoder_start_token_id={shown(start)}, but targets of this "
            f"family begin with {purpose}_token_id={shown(own)}"
        )


def token_id(theirs: Mapping[str, Any], config: ModelConfig, name: str) -> int | None:
    """Return the id that a configuration names for a purpose, None where the model has no such id.

    Many checkpoints with a vocabulary of their own keep the ids of the one that they were made
    from. Of several ids that end a text, the first counts.

    Example:
        >>> config = ModelConfig(vocab_size=100)
        >>> [token_id({"eos_token_id": value}, config, "eos") for value in (7, [8, 9], 50256, None)]
        [7, 8, None, None]
    """
    value = theirs.get(f"{name}_token_id")
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) and 0 <= first < config.vocab_size else None


def padding_id(theirs: Mapping[str, Any], config: ModelConfig) -> int | None:
    """Return the id that fills rows up, None where there is none.

    Raises:
        HuggingFaceError: an encoder's is not an id of the model: no stock class opens it
    """
    value = theirs.get("pad_token_id", stock_family(config.family).default_pad_id)
    found = token_id({**theirs, "pad_token_id": value}, config, "pad")
    if value is not None and found is None and not config.is_causal:
        raise HuggingFaceError(
            f"config.json says pad_token_id={shown(value)}: an id from 0 to "
            f"{config.vocab_size - 1} is needed, or null"
        )
    return found
