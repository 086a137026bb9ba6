"""What runs make of held-out text of known domains, label by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmdata.dataset import open_store
from lmmodel.data import open_data
from lmmodel.errors import FitError
from lmmodel.evaluation import (
    HeldOut,
    MicroScores,
    TokensDone,
    held_out_for,
    score_held_out,
    scores_by_term,
)
from lmmodel.objectives.objective import TermScores, join_scores
from lmmodel.routing.domains import Labelled, read_documents
from lmmodel.texts import TextIds, join_texts
from lmmodel.trained import Run, check_tokenizer

PREFIXES = (8, 16, 32, 64, 128)
"""Tokens after which the accuracy of a router is told."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Held-out labels of known domains, and what every run makes of them.

    Attributes:
        losses: float64 (P, E), nats
        num_bytes: int64 (P,) of text that each label stands for
        domain: int64 (P,)
        document: int64 (P,), into `texts`
        texts: the documents' first tokens
        text_domain: int64 (N,)
    """

    losses: np.ndarray
    num_bytes: np.ndarray
    domain: np.ndarray
    document: np.ndarray
    texts: TextIds
    text_domain: np.ndarray

    def bits(self, losses: np.ndarray, is_counted: np.ndarray, num_domains: int) -> np.ndarray:
        """Return bits per byte of each domain, NaN of one without a label: float64 (D,).

        Args:
            losses: float64 (P,), nats
            is_counted: bool (P,)
            num_domains: D
        """
        own = self.domain[is_counted]
        nats = np.bincount(own, losses[is_counted], minlength=num_domains)
        num_bytes = np.bincount(own, self.num_bytes[is_counted], minlength=num_domains)
        return np.asarray(nats / np.where(num_bytes, num_bytes, np.nan) / np.log(2))


def judge(
    runs: Sequence[Run], stores: Sequence[Labelled], domains: Sequence[str], *, split: str,
    num_examples: int, progress: TokensDone | None = None,
) -> Judged:  # fmt: skip
    """Return what runs make of the same held-out labels.

    Raises:
        FitError: an objective that predicts no tokens, or other tokenizers
    """
    parts: list[Judged] = []
    for labelled in stores:
        data = open_data(labelled.path)
        check_tokenizer(runs[0].tokenizer, data)
        view = None if runs[0].objective.pair_view else "single"
        held_out = held_out_for(runs[0], data, split=split, num_examples=num_examples, view=view)
        found = [main_scores(held_out, score_held_out(run, held_out, progress)) for run in runs]
        names = labelled.domains(split)
        rows, document = np.unique(held_out.documents, return_inverse=True)
        numbers = {name: number for number, name in enumerate(domains)}
        text_domain = np.array([numbers[name] for name in names[rows.astype(np.int64)].tolist()])
        parts.append(Judged(
            losses=np.stack([own["losses"] for own in found], axis=1).astype(np.float64),
            num_bytes=held_out.vocabulary.piece_bytes[found[0]["labels"]],
            domain=text_domain[document],
            document=document,
            texts=read_documents(open_store(labelled.path, split), rows, max(PREFIXES)),
            text_domain=text_domain,
        ))  # fmt: skip
    return _join(parts)


def main_scores(held_out: HeldOut, scores: Sequence[MicroScores]) -> TermScores:
    """Return what the main term of an objective found, of each label.

    Raises:
        FitError: it does not predict tokens
    """
    found = join_scores(scores_by_term(held_out.objective, scores)[0])
    if "losses" not in found:
        raise FitError(
            "these runs learned an objective that predicts no tokens: experts are compared by "
            "the likelihood of text; take runs of another objective"
        )
    return found


def _join(parts: Sequence[Judged]) -> Judged:
    before = np.cumsum([0, *(len(part.texts) for part in parts)])
    return Judged(
        losses=np.concatenate([part.losses for part in parts]),
        num_bytes=np.concatenate([part.num_bytes for part in parts]),
        domain=np.concatenate([part.domain for part in parts]),
        document=np.concatenate([
            part.document + start for part, start in zip(parts, before, strict=False)
        ]),
        texts=join_texts([part.texts for part in parts]),
        text_domain=np.concatenate([part.text_domain for part in parts]),
    )  # fmt: skip
