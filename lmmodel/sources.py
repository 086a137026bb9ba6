"""Held-out figures by the file that a document comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.dataset import open_store
from lmmodel.errors import FitError
from lmmodel.evaluation import (
    Evaluation,
    HeldOut,
    Report,
    Scores,
    data_for,
    held_out_for,
    per_byte,
    score_held_out,
    summarize,
)
from lmmodel.objectives import make_objective
from lmmodel.trained import load_run


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """Of the documents of one source file."""

    source: str
    num_documents: int  # that have a label
    num_labels: int  # predicted tokens
    loss: float  # nats per predicted token
    nats_per_byte: float
    accuracy: float  # in [0, 1]


@dataclass(frozen=True, kw_only=True)
class SourceEvaluation:
    """Of all documents, and of each source file, the hardest first."""

    total: Evaluation
    sources: tuple[SourceFigures, ...]


def evaluate_sources(
    run_path: Path, data_path: Path | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto", progress: Report | None = None,
) -> SourceEvaluation:  # fmt: skip
    """Return the held-out figures of a run for each source file of a token store.

    Where training packs several documents into a row, examples are of one document each here.

    Args:
        run_path: runs/NAME
        data_path: a token store; None: what the run was trained on
        split: of the data
        num_examples: None: as many as during training
        device: "auto", "cpu" or "cuda"
        progress: called with the tokens done and those of all

    Raises:
        RunError: no run there
        FitError: the split is empty, the data is frozen, or made with another tokenizer
    """
    run = load_run(run_path, device=device)
    data = data_for(run, data_path)
    if data.is_frozen:
        raise FitError(
            f"{data.path} holds frozen examples, which do not say what file they come from: "
            "evaluate by source on the token store that they were made from"
        )
    has_pairs = any(
        term.is_of_pairs for part in make_objective(run.record.config.objective).parts
        for term in part.terms
    )  # fmt: skip
    held_out = held_out_for(
        run, data, split=split, num_examples=num_examples, view=None if has_pairs else "single"
    )
    scores = score_held_out(run, held_out, progress)
    sources = sources_of(data.path, split, held_out.documents)
    figures = _group(held_out, [score for score in scores if score.part == 0], sources)
    return SourceEvaluation(total=summarize(held_out, scores), sources=figures)


def _group(
    held_out: HeldOut, scores: Sequence[Scores], sources: np.ndarray
) -> tuple[SourceFigures, ...]:
    """Return the figures of each source, the hardest first; `sources` names that of each label."""
    labels, losses, ranks = (
        np.concatenate([getattr(score, name) for score in scores])
        for name in ("labels", "losses", "ranks")
    )
    num_bytes = held_out.piece_bytes[labels]
    figures = [
        _figures(name, held_out.documents[own], losses[own], ranks[own], num_bytes[own])
        for name in sorted(set(sources.tolist()))
        for own in [np.flatnonzero(sources == name)]
    ]
    return tuple(sorted(figures, key=lambda found: -found.nats_per_byte))


def sources_of(path: Path, split: str, documents: np.ndarray) -> np.ndarray:
    """Return the name of the source file of each document: str (P,).

    Args:
        path: of a token store
        split: of it
        documents: uint64 (P,) rows of the split
    """
    store = open_store(path, split)
    rows, place = np.unique(documents, return_inverse=True)
    names = [store.provenance(int(row))[0] for row in rows]
    return np.array(names, dtype=np.str_)[place]


def _figures(
    source: str,
    documents: np.ndarray,
    losses: np.ndarray,
    ranks: np.ndarray,
    num_bytes: np.ndarray,
) -> SourceFigures:
    return SourceFigures(
        source=source,
        num_documents=len(np.unique(documents)),
        num_labels=len(losses),
        loss=float(losses.mean()),
        nats_per_byte=per_byte(losses, num_bytes),
        accuracy=float((ranks == 0).mean()),
    )
