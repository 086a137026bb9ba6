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

from lmmodel.model import Transformer
from lmmodel.predicting.embedding import embed
from lmmodel.predicting.generation import Generation, GenerationConfig, generate
from lmmodel.predicting.likelihood import Likelihoods, log_likelihoods
from lmmodel.predicting.mask_filling import Filling, fill_mask
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


def load_pretrained(path: Path | str, device: str = "auto") -> Pretrained:
    """Return the model in a run folder, ready to answer.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run`
    """
    return Pretrained(load_run(path, device))
