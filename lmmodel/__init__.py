"""Training examples to a model, and what it answers.

tokens/ or shards/ --train--> runs/NAME/ --evaluate, fill-mask, finetune, export--> answers, folders

    lmmodel.load("runs/wiki").fill_mask("The capital of France is [MASK].")
    lmmodel.load("runs/wiki").embed(["A cat sleeps.", "A dog barks."])
    lmmodel.load("runs/wiki-sequence-classification").classify("What a film!")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmmodel.asking import Pretrained, Specialist
    from lmmodel.ngrams import NgramModel
    from lmmodel.routing.team import Experts

__all__ = ["load"]


def load(path: Path | str, device: str = "auto") -> Pretrained | Specialist | NgramModel | Experts:
    """Return the model in a folder, ready to answer.

    Args:
        path: what `lmmodel train` or `lmmodel import` wrote: a `Pretrained`, with `.fill_mask`,
            `.score`, `.embed` and `.generate`; or what `lmmodel finetune` wrote: a `Specialist`,
            with `.classify`, `.tag` and `.answer`; or what `lmmodel count` wrote: an `NgramModel`,
            with `.score` and `.generate`; or what `lmmodel experts` wrote: `Experts`, with
            `.route` and what a `Pretrained` has
        device: "auto" (a GPU if there is one), "cpu" or "cuda"

    Raises:
        RunError: no model there, no weights yet, or written by another version
        CheckpointError: the weights are damaged or of another model
        DeviceError: a GPU is asked for and there is none
    """
    from lmmodel.asking import load_pretrained, load_specialist
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.finetuning.folder import is_fine_tuned
    from lmmodel.routing.folder import is_experts

    if is_experts(path):
        from lmmodel.routing.team import load_experts

        return load_experts(path, device)
    if is_ngrams(path):
        from lmmodel.ngrams import load_ngrams

        return load_ngrams(path)
    return load_specialist(path, device) if is_fine_tuned(path) else load_pretrained(path, device)
