"""Settings under our names and under those of transformers: pure functions over the tables."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.config import read_json
from lmdata.errors import TokenizerError
from lmmodel.errors import HuggingFaceError
from lmmodel.families import FAMILIES, ModelConfig
from lmmodel.handover.stock_families import STOCK_FAMILIES, stock_class, stock_family

if TYPE_CHECKING:
    from lmdata.tokenizer import Tokenizer
    from lmmodel.tasks.task import AnyTask

CONFIG_NAME = "config.json"
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")

# Names of one function: what lies between them is rounding.
SAME_FUNCTIONS = {
    "gelu": ("gelu_python",),
    "gelu_new": ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"),
}

# The most that a folder may ask for: beyond every model of these families, below what hurts.
MOST = {
    "vocab_size": 1 << 24, "hidden_size": 1 << 17, "num_hidden_layers": 1000,
    "num_attention_heads": 1 << 12, "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 24, "type_vocab_size": 1 << 16, "local_window": 1 << 24,
    "global_every": 1 << 12,
}  # fmt: skip
RANGES = {
    "norm_eps": (0, 1), "initializer_range": (0, 100), "dropout": (0, 0.999),
    "attention_dropout": (0, 0.999), "global_rope_theta": (1e-6, 1e12),
    "local_rope_theta": (1e-6, 1e12),
}  # fmt: skip

# Of old and new versions: which layers are local, and how far rotations turn.
ROTARY_SETTINGS = ("layer_types", "rope_parameters", "global_attn_every_n_layers",
                   "global_rope_theta", "local_rope_theta")  # fmt: skip
HEAD_SETTINGS = ("id2label", "label2id", "problem_type")


def architecture(config: ModelConfig, task: AnyTask | None = None) -> str:
    """Return the transformers class that opens an export of such a model.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> architecture(ModelConfig(has_nsp_head=True))
        'BertForPreTraining'
        >>> architecture(ModelConfig(), TASKS["regression"])
        'BertForSequenceClassification'
    """
    family = stock_family(config.family)
    if task is not None:
        return f"{family.class_prefix}For{stock_class(task).suffix}"
    return (config.has_nsp_head and family.paired) or family.pretrained


def to_their_config(
    config: ModelConfig,
    special_ids: Mapping[str, int | None],
    task: AnyTask | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of their `config.json`.

    Args:
        config: ours
        special_ids: ids of cls, sep, mask, pad, unk, bos, eos where the tokenizer has them
        task: of a fine-tuned model
        labels: its classes or tags by number
    """
    family = stock_family(config.family)
    theirs = {their: getattr(config, our) for our, (their, _) in family.settings.items()}
    theirs |= family.fixed
    theirs |= _layers_and_rotations(config) if config.traits.has_windows else {}
    theirs |= dict.fromkeys(family.dropouts, config.dropout)
    return {
        "architectures": [architecture(config, task)],
        "model_type": family.model_type,
        **theirs,
        **token_ids(config, special_ids),
        **({} if task is None else task_settings(config, task, labels)),
        "dtype": "float32",
    }


def task_settings(config: ModelConfig, task: AnyTask, labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings of their head for a task.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> task_settings(ModelConfig(), TASKS["sentence-pair"], ["no", "yes"])["id2label"]
        {'0': 'no', '1': 'yes'}
    """
    stock, names = stock_class(task), task.output_names(labels)
    settings: dict[str, Any] = {
        "classifier_dropout": config.dropout if stock.has_dropout(config.family) else 0.0,
        **stock_family(config.family).of_heads,
    }
    if not names:
        return settings
    settings["id2label"] = {str(index): name for index, name in enumerate(names)}
    settings["label2id"] = {name: index for index, name in enumerate(names)}
    if stock.problem_type is not None:
        settings["problem_type"] = stock.problem_type
    return settings


def _layers_and_rotations(config: ModelConfig) -> dict[str, Any]:
    """Return which layers are local and their rotary bases, as transformers 4 and 5 spell it."""
    kinds = [
        "full_attention" if config.window(i) is None else "sliding_attention"
        for i in range(config.num_hidden_layers)
    ]
    thetas = {
        "full_attention": config.global_rope_theta,
        "sliding_attention": config.local_rope_theta,
    }
    return {
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "layer_types": kinds,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
    }


def token_ids(config: ModelConfig, special_ids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the `*_token_id` settings that their class of the family has.

    Example:
        >>> token_ids(ModelConfig(family="gpt2"), {"pad": None, "bos": 1, "eos": 2, "cls": 3})
        {'pad_token_id': None, 'bos_token_id': 1, 'eos_token_id': 2}
    """
    purposes = stock_family(config.family).token_ids
    return {f"{name}_token_id": special_ids.get(name) for name in purposes}


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
        from_their_config(theirs)
        read_tokenizer(folder)


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer in a folder.

    Raises:
        HuggingFaceError: there is none, or it can't be read
    """
    from lmdata.tokenizer import load_tokenizer  # brings NumPy, which a refusal needs not

    try:
        return load_tokenizer(folder)
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
    for name, value in {**stock.fixed, **stock.unwritten}.items():
        given = theirs.get(name, value)
        if given != value and given not in SAME_FUNCTIONS.get(value, ()):
            raise HuggingFaceError(
                f"{name}={reprlib.repr(given)} is not supported for {family}, only {value!r}: "
                "this checkpoint can't be imported"
            )
    settings = {
        our: _checked(our, their, theirs.get(their, default), default)
        for our, (their, default) in stock.settings.items()
    }
    settings = {our: value for our, value in settings.items() if value is not None}
    if FAMILIES[family].has_windows:
        settings |= _our_layers(theirs, settings["num_hidden_layers"])
    for name in ("pad", "bos", "eos", "cls", "sep"):
        _check_token_id(theirs, f"{name}_token_id")
    try:
        return ModelConfig(family=family, **settings)
    except (ValueError, TypeError) as error:
        raise HuggingFaceError(f"config.json describes no model that works: {error}") from error


def _family_of(theirs: Mapping[str, Any]) -> str:
    """Return our family; BERT's first checkpoints name an architecture only, or nothing at all."""
    model_type, named = theirs.get("model_type"), theirs.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    for family, stock in STOCK_FAMILIES.items():
        is_named = first in (stock.pretrained, stock.paired) and first is not None
        if model_type == stock.model_type or (model_type is None and is_named):
            return family
    types = ", ".join(stock.model_type for stock in STOCK_FAMILIES.values())
    if model_type is None:
        raise HuggingFaceError(
            "config.json does not say what model it describes: give it a line like "
            f'"model_type": "bert"; import takes {types}'
        )
    raise HuggingFaceError(
        f"model_type {reprlib.repr(model_type)} is not supported: import takes {types}"
    )


def _checked(our: str, their: str, value: Any, default: Any) -> Any:
    """Return a setting of theirs as a number of the right type, None where that is its default.

    Raises:
        HuggingFaceError: another type, or out of range
    """
    if value is None and default is None:
        return None
    is_count = our in MOST
    lowest, highest = (1, MOST[our]) if is_count else RANGES[our]
    is_number = isinstance(value, int if is_count else (int, float)) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest:
        kind = "a whole number" if is_count else "a number"
        raise HuggingFaceError(
            f"config.json says {their}={reprlib.repr(value)}: {kind} from {lowest} to {highest:,} "
            "is needed"
        )
    return value if is_count else float(value)


def _check_token_id(theirs: Mapping[str, Any], name: str) -> None:
    value = theirs.get(name)
    ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
    if any(isinstance(one, bool) or not isinstance(one, int | None) for one in ids):
        raise HuggingFaceError(
            f"config.json says {name}={reprlib.repr(value)}: an id is needed, or null"
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
    value = theirs.get("pad_token_id")
    found = token_id(theirs, config, "pad")
    if value is not None and found is None and not config.is_causal:
        raise HuggingFaceError(
            f"config.json says pad_token_id={value}: an id from 0 to {config.vocab_size - 1} is "
            "needed, or null"
        )
    return found


def _our_layers(theirs: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """Return the layer pattern and rotary bases of a ModernBERT configuration."""
    every = theirs.get("global_attn_every_n_layers", 3)
    every = _checked("global_every", "global_attn_every_n_layers", every, 3)
    kinds = theirs.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != num_layers or set(map(repr, kinds)) - {
            "'full_attention'", "'sliding_attention'"
        }:  # fmt: skip
            raise HuggingFaceError(
                f"config.json says layer_types={reprlib.repr(kinds)}: a list of {num_layers} "
                "layers is needed, each full_attention or sliding_attention"
            )
        every = _every_nth(
            [i for i, kind in enumerate(kinds) if kind == "full_attention"], num_layers
        )
    return {"global_every": every, **_our_rotary_bases(theirs)}


def _every_nth(is_global: list[int], num_layers: int) -> int:
    """Return how far apart the layers lie that see everything.

    Raises:
        HuggingFaceError: they are not every n-th layer from the first

    Example:
        >>> _every_nth([0, 3, 6], 8)
        3
    """
    every = is_global[1] if len(is_global) > 1 else num_layers
    if is_global != list(range(0, num_layers, every or 1)):
        raise HuggingFaceError(
            f"layer_types has full attention in layers {is_global}: "
            "only every n-th layer from the first is supported"
        )
    return every


def _our_rotary_bases(theirs: Mapping[str, Any]) -> dict[str, float]:
    if theirs.get("rope_scaling") is not None:
        raise HuggingFaceError(
            f"rope_scaling={reprlib.repr(theirs['rope_scaling'])} is not supported, only null"
        )
    tables = theirs.get("rope_parameters")
    kinds = {"full_attention": "global", "sliding_attention": "local"}
    tables = {} if tables is None else tables
    if not isinstance(tables, dict) or any(
        kind not in kinds or not isinstance(table, dict) for kind, table in tables.items()
    ):
        raise HuggingFaceError(
            f"config.json says rope_parameters={reprlib.repr(tables)}: a table of two tables is "
            f"needed, {' and '.join(kinds)}, as its class writes it"
        )
    bases = {}
    for kind, ours in kinds.items():
        table = tables.get(kind, {})
        if other := {key: value for key, value in table.items() if key != "rope_theta"
                     and (key, value) != ("rope_type", "default")}:  # fmt: skip
            raise HuggingFaceError(
                f"rope_parameters of {kind} say {reprlib.repr(other)}: only rope_theta and "
                "rope_type='default' are supported"
            )
        name = f"{ours}_rope_theta"
        theta = table.get("rope_theta", theirs.get(name, getattr(ModelConfig, name)))
        bases[name] = _checked(name, name, theta, getattr(ModelConfig, name))
    return bases
