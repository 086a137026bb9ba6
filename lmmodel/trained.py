"""A trained model as its run folder holds it: data; what it can be asked is `lmmodel.asking`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import tokenizers
import torch

from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmmodel.device import resolve_device
from lmmodel.errors import RunError
from lmmodel.inference import Precision, prepare, state_of_weights
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import OBJECTIVES, Definition
from lmmodel.saving.checkpoint import load_tensors, load_weights
from lmmodel.saving.run import WEIGHTS_NAME, RunRecord, read_record


@dataclass(frozen=True)
class Run:
    """A trained model, its tokenizer and what it was trained by."""

    path: Path
    record: RunRecord
    model: Transformer  # float32, in evaluation mode
    tokenizer: Tokenizer
    device: torch.device
    _prepared: dict[Precision, tuple[object, Transformer]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def prepared(self, precision: Precision = "fp32") -> Transformer:
        """Return the model as `inference.prepare` lays it out: made at the first call, then kept.

        It is made anew where the weights were changed since.
        """
        state = state_of_weights(self.model)
        kept = self._prepared.get(precision)
        if kept is None or kept[0] != state:
            kept = self._prepared[precision] = (state, prepare(self.model, precision))
        return kept[1]

    @cached_property
    def prompt_backend(self) -> tokenizers.Tokenizer:
        """The tokenizer as prompts are read: special tokens that they spell are special."""
        backend = tokenizers.Tokenizer.from_str(self.tokenizer.backend.to_str())
        backend.encode_special_tokens = False
        return backend

    @property
    def objective(self) -> Definition:
        """What it was trained on."""
        return OBJECTIVES[self.record.config.objective.name]

    @property
    def is_causal(self) -> bool:
        """Whether it was trained on next tokens only, so that a token sees no later ones."""
        return self.objective.is_causal

    @property
    def can_generate(self) -> bool:
        """Whether it was trained on next tokens, alone or beside masked ones."""
        return self.objective.can_generate


def load_run(path: Path | str, device: str = "auto") -> Run:
    """Return the model in a run folder, ready to answer.

    Raises:
        RunError: no run there, or no weights yet
        CheckpointError: the weights are damaged, not finite or of another model
        DeviceError: a GPU is asked for and there is none
    """
    path = Path(path)
    record, where = read_record(path), resolve_device(device)
    if not (path / WEIGHTS_NAME).is_file():
        raise RunError(f"{path} has no {WEIGHTS_NAME} yet: train it to its first checkpoint")
    model = make_model(record.config.model, seed=0)
    load_weights(model, load_tensors(path / WEIGHTS_NAME))
    return Run(path, record, model.to(where).eval(), load_tokenizer(path), where)


def listed(texts: Sequence[str] | str) -> Sequence[str]:
    """Return one text as a list of it, others as they are."""
    return [texts] if isinstance(texts, str) else texts
