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
from lmmodel.handover.stock_weights import rows_before_positions
from lmmodel.handover.their_values import check_token_id, checked, our_layers, rows_of_padding

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

# Of old and new versions: which layers are local, and how far rotations turn.
ROTARY_SETTINGS = ("layer_types", "rope_parameters", "global_attn_every_n_layers",
                   "global_rope_theta", "local_rope_theta")  # fmt: skip
HEAD_SETTINGS = ("id2label", "label2id", "problem_type")


def architecture(
    config: ModelConfig, task: AnyTask | None = None, objective: str | None = None
) -> str:
    """Return the transformers class that opens an export of such a model, trained for an objective.

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
    if objective is not None and objective in family.of_objectives:
        return family.of_objectives[objective][0]
    return (config.has_nsp_head and family.paired) or family.pretrained


def to_their_config(
    config: ModelConfig,
    special_ids: Mapping[str, int | None],
    task: AnyTask | None = None,
    labels: Sequence[str] = (),
    objective: str | None = None,
) -> dict[str, Any]:
    """Return the content of their `config.json`.

    Args:
        config: ours
        special_ids: ids of cls, sep, mask, pad, unk, bos, eos where the tokenizer has them
        task: of a fine-tuned model
        labels: its classes or tags by number
        objective: of a run
    """
    family = stock_family(config.family)
    _check_expressible(config)
    theirs = their_settings(config, special_ids.get("pad"))
    theirs |= {**family.fixed, **family.written}
    theirs |= _layers_and_rotations(config) if config.traits.has_windows else {}
    theirs |= dict.fromkeys(family.dropouts, config.dropout)
    return {
        "architectures": [architecture(config, task, objective)],
        "model_type": family.model_type,
        **theirs,
        **token_ids(config, special_ids),
        **({} if task is None else task_settings(config, task, labels)),
        "dtype": "float32",
    }


def their_settings(config: ModelConfig, pad_id: int | None) -> dict[str, Any]:
    """Return the settings that the family's record lists, under their names.

    Raises:
        HuggingFaceError: positions follow the padding id, and there is none

    Example:
        >>> their_settings(ModelConfig(family="roberta"), pad_id=1)["max_position_embeddings"]
        514
    """
    names = stock_family(config.family).settings
    theirs = {their: getattr(config, our) for our, (their, _) in names.items()}
    theirs[names["max_position_embeddings"][0]] += rows_before_positions(config, pad_id)
    return theirs


def _check_expressible(config: ModelConfig) -> None:
    """Refuse what their class of the family has no setting for.

    Raises:
        HuggingFaceError: embeddings of another size than the layers, or shared layers
    """
    stock = stock_family(config.family)
    usual = {
        "embedding_size": config.hidden_size, "num_hidden_groups": config.num_hidden_layers,
    }  # fmt: skip
    for name, value in usual.items():
        if name not in stock.settings and getattr(config, name) != value:
            raise HuggingFaceError(
                f"{name}={getattr(config, name)} can't be exported: {stock.pretrained} knows only "
                f"{value} here; train with model.family=albert, whose class has both"
            )


def task_settings(config: ModelConfig, task: AnyTask, labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings of their head for a task.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> task_settings(ModelConfig(), TASKS["sentence-pair"], ["no", "yes"])["id2label"]
        {'0': 'no', '1': 'yes'}
    """
    stock, names = stock_class(task), task.output_names(labels)
    settings: dict[str, Any] = {
        stock_family(config.family).classifier_dropout: config.dropout
        if stock.has_dropout(config.family)
        else 0.0,
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
        our: checked(our, their, theirs.get(their, default), default)
        for our, (their, default) in stock.settings.items()
    }
    settings = {our: value for our, value in settings.items() if value is not None}
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


def _family_of(theirs: Mapping[str, Any]) -> str:
    """Return our family; BERT's first checkpoints name an architecture only, or nothing at all."""
    model_type, named = theirs.get("model_type"), theirs.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    for family, stock in STOCK_FAMILIES.items():
        classes = {
            stock.pretrained,
            stock.paired,
            *(own for own, _ in stock.of_objectives.values()),
        }
        is_named = first is not None and first in classes
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
            f"config.json says pad_token_id={value}: an id from 0 to {config.vocab_size - 1} is "
            "needed, or null"
        )
    return found
