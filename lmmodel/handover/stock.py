"""Folders that stock transformers classes open, written and read: no pickle, no remote code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lmdata.config import LFS_MARK
from lmdata.tokenizer import Tokenizer, save_tokenizer
from lmdata.xxh3 import hash_file, xxh3_128
from lmmodel.encoder_decoder import build_model, outline_of
from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.settings import (
    CONFIG_NAME,
    from_their_config,
    padding_id,
    read_config,
    read_their_json,
)
from lmmodel.handover.stock_families import stock_family
from lmmodel.handover.stock_weights import REDUNDANT, from_their_weights, to_their_weights
from lmmodel.handover.written import to_their_config
from lmmodel.model import Transformer
from lmmodel.objectives import ObjectiveConfig, modules_of
from lmmodel.saving.checkpoint import save_tensors
from lmmodel.tasks.model import TaskModel
from lmmodel.tasks.task import AnyTask

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
CARD_NAME = "README.md"
SUFFIX = ".safetensors"
WEIGHT_DTYPES = ("F32", "F16", "BF16", "F64")
PICKLES = frozenset({".bin", ".pt", ".pth", ".h5", ".ckpt", ".msgpack"})

# Heads that a checkpoint of the base model lacks; they begin as a new run's do.
HEADS = ("head.", "nsp_head.classifier.")


OBJECTIVE_KEY = "lmmodel_objective"

MOST_CONSTANTS = 1 << 26  # numbers that a small model may keep beside its weights: 256 MiB


def export_model(
    model: Transformer | TaskModel, tokenizer: Tokenizer, folder: Path,
    labels: Sequence[str] = (), objective: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a folder that `from_pretrained` of a stock transformers class opens.

    Args:
        model: on any device
        tokenizer: the one its ids belong to
        folder: is made; files in it are overwritten
        labels: classes or tags of a fine-tuned model, by number
        objective: of a run; kept under OBJECTIVE_KEY, since an encoder's shape does not say
            whether its vocabulary head was trained on masks or on next tokens

    Returns:
        What its config.json holds.

    Raises:
        HuggingFaceError: the tokenizer has more ids than the model
    """
    config = model.config
    task = model.task if isinstance(model, TaskModel) else None
    state = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    theirs = to_their_config(config, _special_ids(tokenizer, config, task), task, labels, objective)
    weights = to_their_weights(state, config, task, theirs.get("pad_token_id"), objective)
    if objective is not None:
        theirs[OBJECTIVE_KEY] = objective
    write_folder(folder, theirs, weights, tokenizer, config)
    return theirs


def _special_ids(
    tokenizer: Tokenizer, config: ModelConfig, task: AnyTask | None
) -> Mapping[str, int | None]:
    """Return the special ids by purpose.

    A stock GPT-2 finds the last token of a padded text by its padding id; where the tokenizer has
    none, the end of a text, which no text holds, does. What ends the texts of an encoder-decoder is
    the separator where there is no end.
    """
    ids = tokenizer.special_ids
    if config.traits.is_encoder_decoder and ids.get("eos") is None:
        return ids | {"eos": ids.get("sep")}
    if task is not None and config.is_causal and ids.get("pad") is None:
        return ids | {"pad": ids.get("eos")}
    return ids


@dataclass(frozen=True)
class Imported:
    """A model that was read from a Hugging Face folder."""

    model: Transformer  # on the CPU, in evaluation mode
    theirs: dict[str, Any]  # its config.json
    fresh: list[str]  # our weights that the folder lacks
    unused: list[str]  # their weights that have no place here
    objective: str | None = None  # whose modules its class has


def import_model(folder: Path) -> Imported:
    """Return the model of a Hugging Face folder.

    Only heads may be fresh: a checkpoint of the base model has none.

    Raises:
        HuggingFaceError: no such folder, only a pickle, an architecture or a setting that is not
            supported, or weights that do not fit
    """
    theirs = read_config(folder)
    config = from_their_config(theirs)  # first: nobody should fetch weights that can't be used
    pad_id = padding_id(theirs, config)
    shapes, objective = weight_shapes(folder), objective_of_class(theirs, config)
    config = dataclasses.replace(config, has_nsp_head=_has_pooler(config, shapes))
    # All by arithmetic: nothing that large was made yet.
    check_shapes(folder, config, shapes, pad_id, objective)
    found = from_their_weights(read_weights(folder), config, pad_id, objective)
    for name, weight in found.state.items():
        if not weight.isfinite().all():
            raise HuggingFaceError(
                f"{name} in {folder} holds values that are no numbers: the weights are damaged, or "
                "their training diverged"
            )
    model = build_model(config, seed=0, extras=_extras_of(objective, config)).eval()
    model.load_state_dict(found.state, strict=False)
    return Imported(model, theirs, found.missing, found.unused, objective)


def objective_of_class(theirs: Mapping[str, Any], config: ModelConfig) -> str | None:
    """Return the objective whose modules the class that a folder names has, None of all others."""
    named = theirs.get("architectures") or [None]
    classes = stock_family(config.family).of_objectives
    return next((name for name, (own, _) in classes.items() if own == named[0]), None)


def _extras_of(objective: str | None, config: ModelConfig) -> Mapping[str, nn.Module] | None:
    if objective is None:
        return None
    return modules_of(ObjectiveConfig(name=objective), config)


def check_shapes(
    folder: Path, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]],
    pad_id: int | None = None, objective: str | None = None,
) -> None:  # fmt: skip
    """Check that a folder's weights are those of the model that its config.json describes.

    Raises:
        HuggingFaceError: some are missing or of another shape, or what the model computes once,
            for all positions, would be larger than its weights
    """
    if config.num_hidden_groups > len(shapes):
        raise HuggingFaceError(
            f"config.json says {config.num_hidden_groups} layers, {folder} holds {len(shapes)} "
            "weights: is it that of these weights?"
        )
    outlines = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        found = from_their_weights(outlines, config, pad_id, objective)
    except RuntimeError as error:
        raise HuggingFaceError(f"the weights in {folder} do not fit together: {error}") from error
    if lost := [name for name in found.missing if not name.startswith(HEADS)]:
        raise HuggingFaceError(
            f"{folder} lacks {len(lost)} weights that a {config.family} model needs, first "
            f"{lost[0]}: is config.json that of these weights?"
        )
    with torch.device("meta"):
        outline = outline_of(config, _extras_of(objective, config))
    for name, parameter in outline.named_parameters():
        if name in found.state and found.state[name].shape != parameter.shape:
            raise HuggingFaceError(
                f"{name} has shape {tuple(found.state[name].shape)} in {folder}, config.json says "
                f"{tuple(parameter.shape)}"
            )
    num_constants = sum(buffer.numel() for buffer in outline.buffers())
    if num_constants > max(MOST_CONSTANTS, sum(weight.numel() for weight in outlines.values())):
        raise HuggingFaceError(
            f"config.json says {config.max_position_embeddings:,} positions of "
            f"{config.head_size:,} features: that table would be larger than the model"
        )


def _has_pooler(config: ModelConfig, names: Container[str]) -> bool:
    """Whether the pooler is there, which fine-tuning goes on with."""
    family = stock_family(config.family)
    pooler = family.names.get("nsp_head.pooler.weight", ())
    return any(name in names or name.removeprefix(family.prefix) in names for name in pooler)


def write_folder(
    folder: Path,
    theirs: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    config: ModelConfig,
) -> None:
    """Write what `from_pretrained` reads; files that are there are overwritten.

    Args:
        folder: is made
        theirs: content of config.json
        weights: under their names
        tokenizer: the one that the ids belong to
        config: of our model

    Raises:
        HuggingFaceError: the tokenizer has more ids than the model
    """
    check_vocabulary(tokenizer, config)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS_NAME, weights)
    write_json(folder / CONFIG_NAME, theirs)
    save_tokenizer(tokenizer, folder)
    path = folder / TOKENIZER_CONFIG_NAME
    own = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, own | _tokenizer_settings(tokenizer, config, theirs.get("pad_token_id")))


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Check that the model has a row for each id.

    Raises:
        HuggingFaceError: the tokenizer has more
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise HuggingFaceError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only {config.vocab_size}: "
            "take the tokenizer that it was trained with"
        )


def _tokenizer_settings(
    tokenizer: Tokenizer, config: ModelConfig, pad_id: int | None
) -> dict[str, Any]:
    """Return what their tokenizer must know of the model: its length and its inputs.

    GPT-2 would read segments as tokens, and add their embeddings.
    """
    segments = ["token_type_ids"] if config.traits.has_segments else []
    settings: dict[str, Any] = {
        "model_max_length": config.max_position_embeddings,
        "model_input_names": ["input_ids", *segments, "attention_mask"],
    }
    return settings if pad_id is None else settings | {"pad_token": tokenizer.piece(pad_id)}


def without_added_specials(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer that puts nothing around a text; the ids of the text stay the same."""
    if not tokenizer.backend.num_special_tokens_to_add(False):
        return tokenizer
    definition = json.dumps({**tokenizer.definition, "post_processor": None})
    return Tokenizer(tokenizers.Tokenizer.from_str(definition), tokenizer.special_tokens)


def with_frame(tokenizer: Tokenizer, before: Sequence[int], end: int) -> Tokenizer:
    """Return the tokenizer that puts some ids before a text and an end behind it."""
    usual = tokenizer.backend.encode("a").ids
    plain = tokenizer.backend.encode("a", add_special_tokens=False).ids
    if usual == [*before, *plain, end]:
        return tokenizer
    names = {id_: tokenizer.piece(id_) for id_ in (*before, end)}
    single = [*[names[id_] for id_ in before], "$A", names[end]]
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=[*single, "$B", names[end]],
        special_tokens=[(name, id_) for id_, name in names.items()],
    )  # fmt: skip
    return Tokenizer(backend, tokenizer.special_tokens)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as JSON that people can read."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a folder, from the heads of its files alone.

    Raises:
        HuggingFaceError: as `read_weights`; or numbers that are no weights, such as quantized ones
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name in _weight_files(folder):
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                if part.get_dtype() not in WEIGHT_DTYPES and not REDUNDANT.fullmatch(key):
                    raise HuggingFaceError(
                        f"{key} in {folder / name} holds {part.get_dtype()}: weights are read as "
                        f"{', '.join(WEIGHT_DTYPES)}; get the checkpoint that is not quantized"
                    )
                shapes[key] = tuple(part.get_shape())
    return shapes


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder's safetensors, one file or many with an index.

    Raises:
        HuggingFaceError: only a pickle, nothing, or a file that is missing or damaged
    """
    weights: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        with _opened(folder / name) as file:
            weights |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return weights


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise HuggingFaceError(f"{path} can't be read: {_why_unreadable(path, error)}") from error


def _why_unreadable(path: Path, error: Exception) -> str:
    mark = LFS_MARK.encode()
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(mark)) == mark:
                return (
                    "it is a Git LFS pointer, not the weights that it points to: fetch them with "
                    "`git lfs pull`"
                )
    is_damaged = isinstance(error, SafetensorError)
    return f"{error}: the file is damaged or cut short, get it again" if is_damaged else f"{error}"


def hash_weights(folder: Path) -> str:
    """Return the xxh3_128 of a folder's weights, in hex; of many files, that of their hashes."""
    hashes = [hash_file(folder / name) for name in _weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else xxh3_128(" ".join(hashes).encode()).hexdigest()


def _weight_files(folder: Path) -> list[str]:
    index = folder / INDEX_NAME
    if not index.is_file():
        if not (folder / WEIGHTS_NAME).is_file():
            raise HuggingFaceError(_why_no_weights(folder))
        return [WEIGHTS_NAME]
    content = read_their_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise HuggingFaceError(f"{index} says nothing of where weights lie: get the folder again")
    for weight, name in places.items():
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != SUFFIX:
            raise HuggingFaceError(
                f"{index} says that {weight} lies in {name!r}: only a {SUFFIX} file beside it is "
                "opened"
            )
    return sorted(set(places.values()))


def _why_no_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return f"{folder} holds no {WEIGHTS_NAME}: get the folder again, weights included"
    return (
        f"{folder} holds its weights as {pickles[0]} only, which can run code when it is opened: "
        "convert it with `AutoModel.from_pretrained(...).save_pretrained(..., "
        f"safe_serialization=True)` on a machine where that is safe, or get {WEIGHTS_NAME}"
    )
