"""How good a model is on text it was not trained on, at masks that never change; also by source."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lmdata.batch import ExampleBatch
from lmdata.dataset import open_store
from lmdata.recipes import Recipe
from lmmodel.config import TrainConfig
from lmmodel.cores import num_cores
from lmmodel.data import TrainingData, piece_bytes
from lmmodel.device import is_sharded
from lmmodel.errors import DivergedError, FitError
from lmmodel.gates import find_gates
from lmmodel.inference import Precision, batch_tokens, map_batches, prepare
from lmmodel.loader import MicroBatch, Shape, split_micro_batches
from lmmodel.model import Transformer
from lmmodel.objectives import Objective, make_objective
from lmmodel.objectives.objective import TermScores, Vocabulary, join_scores
from lmmodel.objectives.terms import TokenTerm, score_terms
from lmmodel.pair_files import open_training_data
from lmmodel.saving.run import own_data
from lmmodel.trained import Run, check_tokenizer, load_run

TokensDone = Callable[[int, int], None]
FindGroups = Callable[[Sequence[str], np.ndarray], np.ndarray]  # of documents, by their places

# Training "sits on" the unigram line while its loss is no further below it than this, in nats.
UNIGRAM_MARGIN = 0.05

# Tokens of a micro-batch where the configuration leaves it open.
MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out figures; the absent ones are None. All are finite."""

    num_examples: int
    num_labels: int  # that the main loss is about: predicted tokens
    loss: float  # nats per label
    nats_per_byte: float | None = None  # of the predicted tokens, free of the vocabulary
    perplexity: float | None = None  # exp(loss)
    accuracy: float | None = None
    """Share of the tokens whose most likely piece is the right one, in [0, 1]."""
    top5_accuracy: float | None = None
    unigram_loss: float | None = None
    """Nats per token of guessing by frequency in the training split."""
    causal_loss: float | None = None  # of hybrid: nats per next token
    pair_loss: float | None = None  # nats per pair
    pair_accuracy: float | None = None  # in [0, 1]
    gates: Mapping[str, float] = field(default_factory=dict)
    """Nats per token of guessing the same tokens by n-grams, by name; see `lmmodel.gates`."""
    others: Mapping[str, float] = field(default_factory=dict)
    """What the terms of an objective score besides, by name."""

    @property
    def is_at_unigram(self) -> bool:
        """Whether the model does no better than guessing by frequency."""
        return self.unigram_loss is not None and self.loss > self.unigram_loss - UNIGRAM_MARGIN

    def figures(self) -> dict[str, float | None]:
        """Return all figures by name, those of `gates` and `others` beside the rest."""
        values = {**vars(self), **self.gates, **self.others}
        return {name: value for name, value in values.items() if name not in ("gates", "others")}


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, packed once and scored as often as wanted."""

    objective: Objective
    micro_batches: tuple[MicroBatch, ...]
    num_examples: int
    documents: np.ndarray
    """Store row of each main label's document, uint64 (P,); of packed rows the first."""
    vocabulary: Vocabulary
    gates: Mapping[str, float] = field(default_factory=dict)  # of the main labels


@dataclass(frozen=True)
class MicroScores:
    """What the terms of a part find for the labels of one micro-batch."""

    part: int
    terms: tuple[TermScores, ...]


def make_held_out(
    config: TrainConfig, data: TrainingData, *, num_examples: int, split: str = "validation",
    view: str | None = None,
) -> HeldOut:  # fmt: skip
    """Return held-out examples, the same at every step and in every run.

    The objective says how a token store is viewed for them: masks are standard ones (0.15, single
    tokens) whatever the training's are.

    Args:
        config: of the training, with the device to evaluate on
        data: a token store or shards
        num_examples: at most
        split: of the data
        view: of a token store; None: that of the training

    Raises:
        FitError: the split is empty or absent
    """
    objective = make_objective(config.objective)
    recipe = config.recipe or Recipe()  # which frozen examples ignore
    recipe = objective.definition.hold_out(dataclasses.replace(recipe, view=view or recipe.view))
    examples = data.held_out(recipe, num_examples, split)
    # Micro-batches take the shortest first: in this order labels come back as they are here.
    examples = examples.take(np.argsort(np.diff(examples.offsets), kind="stable"))
    device = torch.device(config.device)
    most = MAX_TOKENS if device.type == "cpu" else batch_tokens(device)
    tokens = min(config.batch.micro_batch_tokens or MAX_TOKENS, most)
    tokens = -(-tokens // num_cores(device))  # as many are in work at a time
    labelled = [part.label(examples) for part in objective.parts]
    micro_batches = [
        MicroBatch(batch, index)
        for index, (part, own) in enumerate(zip(objective.parts, labelled, strict=True))
        for batch in split_micro_batches(own, Shape(tokens), part.pack)
    ]
    vocabulary = vocabulary_of(data)
    gates = {}
    if isinstance(objective.terms[0], TokenTerm):
        gates = find_gates(data, labelled[0], vocabulary, is_causal=objective.parts[0].is_causal)
    return HeldOut(
        objective=objective,
        micro_batches=tuple(micro_batches),
        num_examples=len(examples),
        documents=_documents_of(labelled[0], objective.terms[0].places(labelled[0])),
        vocabulary=vocabulary,
        gates=gates,
    )


def vocabulary_of(data: TrainingData) -> Vocabulary:
    """Return what figures need to know of the pieces of some data."""
    tokenizer = data.tokenizer
    return Vocabulary(piece_bytes(tokenizer), data.token_counts, tokenizer.is_special)


def _documents_of(examples: ExampleBatch, places: np.ndarray) -> np.ndarray:
    """Return the store row of the document that each token, int64 (P,), is in: uint64 (P,)."""
    rows = np.searchsorted(examples.offsets, places, side="right") - 1
    is_second = examples.token_type_ids[places] == 1
    return np.where(is_second, examples.document_b[rows], examples.document_a[rows])


def evaluate(
    model: Transformer, held_out: HeldOut, device: torch.device, progress: TokensDone | None = None
) -> Evaluation:
    """Return the figures of a model on held-out examples; leaves its mode as it was.

    `progress` is called with the tokens done and those of all.

    Raises:
        DivergedError: a figure is no finite number
    """
    was_training = model.training
    model.eval()
    if is_sharded(model):  # a layer is gathered by all processes in one order
        score = functools.partial(_score, model, held_out.objective, device)
        with torch.no_grad():
            scores = _listed(map(score, held_out.micro_batches), held_out, progress)
    else:
        precision: Precision = "bf16" if model.compute_dtype == torch.bfloat16 else "fp32"
        scores = _scores(prepare(model, precision), held_out, device, progress)
    model.train(was_training)
    return summarize(held_out, scores)


def score_held_out(
    run: Run, held_out: HeldOut, progress: TokensDone | None = None
) -> list[MicroScores]:
    """Return the scores of each micro-batch, computed side by side."""
    return _scores(run.prepared(), held_out, run.device, progress)


def _scores(
    model: Transformer, held_out: HeldOut, device: torch.device, progress: TokensDone | None
) -> list[MicroScores]:
    score = functools.partial(_score, model, held_out.objective, device)
    return _listed(map_batches(score, held_out.micro_batches, device), held_out, progress)


def _listed(
    scores: Iterable[MicroScores], held_out: HeldOut, progress: TokensDone | None
) -> list[MicroScores]:
    """Return the scores as they come, reporting the tokens done."""
    done, listed = np.cumsum([micro.batch.num_tokens for micro in held_out.micro_batches]), []
    for num_tokens, score in zip(done.tolist(), scores, strict=True):
        listed.append(score)
        if progress is not None:
            progress(num_tokens, int(done[-1]))
    return listed


def _score(
    model: Transformer, objective: Objective, device: torch.device, micro: MicroBatch
) -> MicroScores:
    scores = score_terms(model, objective.parts[micro.part], micro.batch.to(device))
    return MicroScores(micro.part, scores)


def scores_by_term(objective: Objective, scores: Sequence[MicroScores]) -> list[list[TermScores]]:
    """Return what each term of an objective found in each micro-batch of its part."""
    return [
        [micro.terms[place] for micro in scores if micro.part == index]
        for index, part in enumerate(objective.parts)
        for place in range(len(part.terms))
    ]


def summarize(held_out: HeldOut, scores: Sequence[MicroScores]) -> Evaluation:
    """Return the figures over all micro-batches.

    Raises:
        DivergedError: a figure is no finite number, as where the weights are none
    """
    objective = held_out.objective
    found = objective.figures(scores_by_term(objective, scores), held_out.vocabulary)
    for name, value in found.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"the held-out {name} is {value}: the model gives no usable numbers on this data. "
                "Its weights, or what they make of a text, are not finite: take an earlier "
                "checkpoint, or train again with a lower optimizer.lr"
            )
    own = {item.name for item in dataclasses.fields(Evaluation)}
    known: dict[str, Any] = {name: value for name, value in found.items() if name in own}
    others = {name: value for name, value in found.items() if name not in own}
    return Evaluation(
        num_examples=held_out.num_examples, gates=held_out.gates, others=others, **known
    )


def evaluate_run(
    run_path: Path, data_path: Path | str | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto", progress: TokensDone | None = None,
) -> Evaluation:  # fmt: skip
    """Return the held-out figures of a finished or unfinished run.

    Args:
        run_path: runs/NAME
        data_path: token store or shards; None: those it was trained on
        split: of the data
        num_examples: None: as many as during training
        device: "auto", "cpu" or "cuda"
        progress: called with the tokens done and those of all

    Raises:
        RunError: no run there
        FitError: the split is empty
        MismatchError: the data was made with another tokenizer
        DivergedError: a figure is no finite number
    """
    run = load_run(run_path, device=device)
    data = data_for(run, data_path)
    held_out = held_out_for(run, data, split=split, num_examples=num_examples)
    return summarize(held_out, score_held_out(run, held_out, progress))


def data_for(run: Run, data_path: Path | str | None) -> TrainingData:
    """Return the data at a path, or what the run was trained on, checked to fit the run.

    Raises:
        RunError: no path is given and the run has no data of its own
        FitError: the data was made with another tokenizer
    """
    path = data_path or own_data(run.path, run.record)
    data = open_training_data(path, run.path, run.model.config)
    check_tokenizer(run.tokenizer, data)
    return data


def held_out_for(
    run: Run, data: TrainingData, *, split: str, num_examples: int | None, view: str | None = None
) -> HeldOut:
    """Return held-out examples of any data for a run, on its device; see `make_held_out`."""
    device: Literal["cpu", "cuda"] = "cpu" if run.device.type == "cpu" else "cuda"
    config = dataclasses.replace(run.record.config, device=device)
    if data.is_frozen:
        config = dataclasses.replace(config, recipe=None, stages=())
    count = num_examples or config.evaluation.num_examples or 256
    return make_held_out(config, data, num_examples=count, split=split, view=view)


@dataclass(frozen=True, kw_only=True)
class SourceFigures:
    """Of the documents of one source file, or of one group."""

    source: str  # or the name of the group
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
    run_path: Path, data_path: Path | str | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto", progress: TokensDone | None = None,
    groups: FindGroups | None = None,
) -> SourceEvaluation:  # fmt: skip
    """Return the held-out figures of a run for each source file of a token store, or each group.

    Where training packs several documents into a row, examples are of one document each here.

    Args:
        run_path: runs/NAME
        data_path: a token store; None: what the run was trained on
        split: of the data
        num_examples: None: as many as during training
        device: "auto", "cpu" or "cuda"
        progress: called with the tokens done and those of all
        groups: sources and positions, uint64, of documents to the groups in which they are counted,
            str; None: each source is one

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
    sources = sources_of(data.path, split, held_out.documents, groups)
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


def sources_of(
    path: Path, split: str, documents: np.ndarray, groups: FindGroups | None = None
) -> np.ndarray:
    """Return the name of the source file of each document, or of its group: str (P,).

    Args:
        path: of a token store
        split: of it
        documents: uint64 (P,) rows of the split
        groups: as of `evaluate_sources`
    """
    store = open_store(path, split)
    rows, place = np.unique(documents, return_inverse=True)
    names, positions = zip(*(store.provenance(int(row)) for row in rows), strict=True)
    told = names if groups is None else groups(names, np.array(positions, np.uint64))
    return np.array(told, dtype=np.str_)[place]
