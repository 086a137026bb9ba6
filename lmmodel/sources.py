"""Held-out figures by the file that a document comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.dataset import open_store
from lmmodel.errors import FitError
from lmmodel.evaluation import (
    Evaluation,
    HeldOut,
    TokensDone,
    data_for,
    held_out_for,
    score_held_out,
    scores_by_term,
    summarize,
)
from lmmodel.objectives.objective import TermScores, join_scores
from lmmodel.trained import load_run


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """Of the documents of one source file."""

    source: str
    num_documents: int  # that have a label
    num_labels: int  # predicted tokens
    loss: float  # nats per predicted token
    nats_per_byte: float | None
    accuracy: float | None  # in [0, 1]


@dataclass(frozen=True, kw_only=True)
class SourceEvaluation:
    """Of all documents, and of each source file, the hardest first."""

    total: Evaluation
    sources: tuple[SourceFigures, ...]


def evaluate_sources(
    run_path: Path, data_path: Path | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto", progress: TokensDone | None = None,
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
    view = None if run.objective.pair_view else "single"
    held_out = held_out_for(run, data, split=split, num_examples=num_examples, view=view)
    scores = score_held_out(run, held_out, progress)
    sources = sources_of(data.path, split, held_out.documents)
    main = join_scores(scores_by_term(held_out.objective, scores)[0])
    total = summarize(held_out, scores)
    return SourceEvaluation(total=total, sources=_group(held_out, main, sources))


def _group(held_out: HeldOut, scores: TermScores, sources: np.ndarray) -> tuple[SourceFigures, ...]:
    """Return the figures of each source, the hardest first.

    Args:
        held_out: what was scored
        scores: of the main term, (P, ...) each
        sources: str (P,), of each label
    """
    figures = []
    for name in sorted(set(sources.tolist())):
        own = np.flatnonzero(sources == name)
        found = held_out.objective.terms[0].figures(
            {kind: values[own] for kind, values in scores.items()}, held_out.vocabulary
        )
        figures.append(SourceFigures(
            source=name,
            num_documents=len(np.unique(held_out.documents[own])),
            num_labels=len(own),
            loss=found["loss"],
            nats_per_byte=found.get("nats_per_byte"),
            accuracy=found.get("accuracy"),
        ))  # fmt: skip
    return tuple(sorted(figures, key=lambda found: -(found.nats_per_byte or found.loss)))


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
