"""A model to a folder that stock transformers classes open, and back. No remote code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lmdata.tokenizer import Tokenizer
from lmmodel.errors import HuggingFaceError
from lmmodel.handover.folders import read_config, read_weights, write_folder
from lmmodel.handover.names import from_their_weights, to_their_weights
from lmmodel.handover.settings import from_their_config, to_their_config
from lmmodel.model import ModelConfig, Transformer, make_model
from lmmodel.tasks.model import TaskModel
from lmmodel.tasks.task import AnyTask

# Heads that a checkpoint of the base model lacks; they begin as a new run's do.
HEADS = ("head.", "nsp_head.classifier.")


OBJECTIVE_KEY = "lmmodel_objective"


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
    weights = read_weights(folder)
    config = dataclasses.replace(config, has_nsp_head=_has_pooler(theirs, weights))
    found = from_their_weights(weights, config)
    if lost := [name for name in found.missing if not name.startswith(HEADS)]:
        raise HuggingFaceError(
            f"{folder} lacks {len(lost)} weights that a {config.family} model needs, first "
            f"{lost[0]}: is config.json that of these weights?"
        )
    model = make_model(config, seed=0).eval()
    for name, parameter in model.named_parameters():
        if name in found.state and found.state[name].shape != parameter.shape:
            raise HuggingFaceError(
                f"{name} has shape {tuple(found.state[name].shape)} in {folder}, config.json says "
                f"{tuple(parameter.shape)}"
            )
    model.load_state_dict(found.state, strict=False)
    return Imported(model, theirs, found.missing, found.unused)


def _has_pooler(theirs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Whether BERT's pooler is there, which fine-tuning goes on with."""
    names = ("bert.pooler.dense.weight", "pooler.dense.weight")
    return theirs.get("model_type") == "bert" and any(name in weights for name in names)
