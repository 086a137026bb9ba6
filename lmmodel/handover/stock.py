"""A model to a folder that stock transformers classes open, and back. No remote code."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmdata.tokenizer import Tokenizer
from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.folders import read_config, read_weights, weight_shapes, write_folder
from lmmodel.handover.names import from_their_weights, to_their_weights
from lmmodel.handover.settings import from_their_config, padding_id, to_their_config
from lmmodel.model import Transformer, make_model
from lmmodel.tasks.model import TaskModel
from lmmodel.tasks.task import AnyTask

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
    theirs = to_their_config(config, _special_ids(tokenizer, config, task), task, labels)
    if objective is not None:
        theirs[OBJECTIVE_KEY] = objective
    write_folder(folder, theirs, to_their_weights(state, config, task), tokenizer, config)
    return theirs


def _special_ids(
    tokenizer: Tokenizer, config: ModelConfig, task: AnyTask | None
) -> Mapping[str, int | None]:
    """Return the special ids by purpose.

    A stock GPT-2 finds the last token of a padded text by its padding id; where the tokenizer has
    none, the end of a text, which no text holds, does.
    """
    ids = tokenizer.special_ids
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


def import_model(folder: Path) -> Imported:
    """Return the model of a Hugging Face folder.

    Only heads may be fresh: a checkpoint of the base model has none.

    Raises:
        HuggingFaceError: no such folder, only a pickle, an architecture or a setting that is not
            supported, or weights that do not fit
    """
    theirs = read_config(folder)
    config = from_their_config(theirs)  # first: nobody should fetch weights that can't be used
    padding_id(theirs, config)
    shapes = weight_shapes(folder)
    config = dataclasses.replace(config, has_nsp_head=_has_pooler(config, shapes))
    check_shapes(folder, config, shapes)  # all by arithmetic: nothing that large was made yet
    found = from_their_weights(read_weights(folder), config)
    for name, weight in found.state.items():
        if not weight.isfinite().all():
            raise HuggingFaceError(
                f"{name} in {folder} holds values that are no numbers: the weights are damaged, or "
                "their training diverged"
            )
    model = make_model(config, seed=0).eval()
    model.load_state_dict(found.state, strict=False)
    return Imported(model, theirs, found.missing, found.unused)


def check_shapes(folder: Path, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that a folder's weights are those of the model that its config.json describes.

    Raises:
        HuggingFaceError: some are missing or of another shape, or what the model computes once,
            for all positions, would be larger than its weights
    """
    if config.num_hidden_layers > len(shapes):
        raise HuggingFaceError(
            f"config.json says {config.num_hidden_layers} layers, {folder} holds {len(shapes)} "
            "weights: is it that of these weights?"
        )
    outlines = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    try:
        found = from_their_weights(outlines, config)
    except RuntimeError as error:
        raise HuggingFaceError(f"the weights in {folder} do not fit together: {error}") from error
    if lost := [name for name in found.missing if not name.startswith(HEADS)]:
        raise HuggingFaceError(
            f"{folder} lacks {len(lost)} weights that a {config.family} model needs, first "
            f"{lost[0]}: is config.json that of these weights?"
        )
    with torch.device("meta"):
        outline = Transformer(config)
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
    """Whether BERT's pooler is there, which fine-tuning goes on with."""
    pooler = ("bert.pooler.dense.weight", "pooler.dense.weight")
    return config.family == "bert" and any(name in names for name in pooler)
