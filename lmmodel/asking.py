"""What the model in a folder can be asked.

Each method is one call of the function of the same name in `lmmodel.predicting`, where more can be
set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmmodel.finetuning.folder import FineTuned, load_fine_tuned
from lmmodel.model import Transformer
from lmmodel.predicting.answering import answer, classify, tag
from lmmodel.predicting.generation import Generation, GenerationConfig, generate
from lmmodel.predicting.likelihood import Likelihoods, embed, log_likelihoods
from lmmodel.predicting.mask_filling import Filling, fill_mask
from lmmodel.tasks.answering import SpanAnswer
from lmmodel.tasks.classification import Classification
from lmmodel.tasks.model import TaskModel
from lmmodel.tasks.tagging import Tagging
from lmmodel.trained import Run, listed, load_run


@dataclass(frozen=True)
class Pretrained:
    """A trained or imported model, ready to answer."""

    run: Run

    @property
    def model(self) -> Transformer:
        """The Transformer: float32, in evaluation mode."""
        return self.run.model

    def fill_mask(self, texts: Sequence[str] | str, top_k: int = 5) -> list[list[list[Filling]]]:
        """Return guesses for each masked place of each text; see `mask_filling.fill_mask`."""
        return fill_mask(self.run, listed(texts), top_k=top_k)

    def score(self, texts: Sequence[str] | str) -> Likelihoods:
        """Return the log-likelihood of each text; see `likelihood.log_likelihoods`."""
        return log_likelihoods(self.run, listed(texts))

    def embed(self, texts: Sequence[str] | str) -> np.ndarray:
        """Return a vector of length 1 for each text, float32 (N, D); see `embedding.embed`."""
        return embed(self.run, listed(texts)).vectors

    def generate(self, prompts: Sequence[str] | str, **settings: Any) -> list[Generation]:
        """Return a continuation of each prompt; the settings are those of `GenerationConfig`."""
        return generate(self.run, listed(prompts), GenerationConfig(**settings))


@dataclass(frozen=True)
class Specialist:
    """A fine-tuned model, ready to answer."""

    tuned: FineTuned

    @property
    def model(self) -> TaskModel:
        """The Transformer with the head of its task: float32, in evaluation mode."""
        return self.tuned.model

    def classify(
        self, texts: Sequence[str] | str, pairs: Sequence[str] | str | None = None
    ) -> list[Classification]:
        """Return the class of each text, or pair of texts; of regression the number."""
        seconds = None if pairs is None else listed(pairs)
        return classify(self.tuned, listed(texts), seconds).answers

    def tag(self, texts: Sequence[str] | Sequence[Sequence[str]] | str) -> list[Tagging]:
        """Return a tag for each word of each text, or of each list of words."""
        return tag(self.tuned, [texts] if isinstance(texts, str) else texts).answers

    def answer(
        self, questions: Sequence[str] | str, passages: Sequence[str] | str
    ) -> list[SpanAnswer]:
        """Return where passages answer questions; one passage serves for all questions."""
        return answer(self.tuned, listed(questions), listed(passages)).answers


def load_specialist(path: Path | str, device: str = "auto") -> Specialist:
    """Return the model in a fine-tuned folder, ready to answer.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_fine_tuned`
    """
    return Specialist(load_fine_tuned(path, device))


def load_pretrained(path: Path | str, device: str = "auto") -> Pretrained:
    """Return the model in a run folder, ready to answer.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run`
    """
    return Pretrained(load_run(path, device))
