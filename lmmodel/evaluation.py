"""How good a model is on text it was not trained on, at masks that never change."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmdata.batch import ExampleBatch
from lmdata.recipes import Recipe
from lmmodel.batch import IGNORED
from lmmodel.config import TrainConfig
from lmmodel.cores import num_cores
from lmmodel.data import TrainingData, open_data, piece_bytes
from lmmodel.inference import Precision, batch_tokens, chunk_rows, map_batches, prepare
from lmmodel.loader import MicroBatch, Shape, split_micro_batches
from lmmodel.model import Transformer
from lmmodel.objectives import Objective, make_objective, next_token_labels
from lmmodel.parallel import is_sharded
from lmmodel.saving.run import check_tokenizer, own_data
from lmmodel.trained import Run, load_run

EVALUATION_MLM_PROBABILITY = 0.15

Report = Callable[[int, int], None]

# Training "sits on" the unigram line while its loss is no further below it than this, in nats.
UNIGRAM_MARGIN = 0.05

# Tokens of a micro-batch where the configuration leaves it open.
MAX_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out figures; the absent ones are None."""

    num_examples: int
    num_labels: int  # predicted tokens
    loss: float  # nats per predicted token
    nats_per_byte: float  # the same per byte of the predicted tokens, free of the vocabulary
    perplexity: float  # exp(loss)
    accuracy: float  # share of the tokens whose most likely piece is the right one, in [0, 1]
    top5_accuracy: float
    unigram_loss: float | None  # nats per token of guessing by frequency in the training split
    causal_loss: float | None  # of hybrid: nats per next token
    pair_loss: float | None  # nats per pair
    pair_accuracy: float | None  # in [0, 1]

    @property
    def is_at_unigram(self) -> bool:
        """Whether the model does no better than guessing by frequency."""
        return self.unigram_loss is not None and self.loss > self.unigram_loss - UNIGRAM_MARGIN


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, packed once and scored as often as wanted."""

    objective: Objective
    micro_batches: tuple[MicroBatch, ...]
    num_examples: int
    documents: np.ndarray  # uint64 (P,), store row of each label's document; packed rows: the first
    piece_bytes: np.ndarray  # int64 (V,)
    unigram_loss: float | None


def make_held_out(
    config: TrainConfig, data: TrainingData, *, num_examples: int, split: str = "validation",
    view: str | None = None,
) -> HeldOut:  # fmt: skip
    """Return held-out examples, the same at every step and in every run.

    A token store is viewed with standard masks (0.15, single tokens) whatever the training's are.

    Args:
        config: of the training, with the device to evaluate on
        data: a token store or shards
        num_examples: at most
        split: of the data
        view: of a token store; None: that of the training

    Raises:
        FitError: the split is empty or absent
    """
    recipe = config.recipe or Recipe()  # which frozen examples ignore
    recipe = dataclasses.replace(recipe, view=view or recipe.view)
    if recipe.corruption != "none":
        recipe = dataclasses.replace(
            recipe, corruption="token", coverage="independent", max_predictions=None,
            mlm_probability=EVALUATION_MLM_PROBABILITY,
        )  # fmt: skip
    examples = data.held_out(recipe, num_examples, split)
    # Micro-batches take the shortest first: in this order labels come back as they are here.
    examples = examples.take(np.argsort(np.diff(examples.offsets), kind="stable"))
    objective = make_objective(config.objective)
    device = torch.device(config.device)
    tokens = min(config.batch.micro_batch_tokens or MAX_TOKENS, batch_tokens(device))
    tokens = -(-tokens // num_cores(device))  # as many are in work at a time
    micro_batches = []
    for index, part in enumerate(objective.parts):
        own = next_token_labels(examples) if part.is_causal else examples
        batches = split_micro_batches(own, Shape(tokens))
        micro_batches += [MicroBatch(batch, index) for batch in batches]
    first = objective.parts[0]
    labels = next_token_labels(examples) if first.is_causal else examples
    return HeldOut(
        objective=objective,
        micro_batches=tuple(micro_batches),
        num_examples=len(examples),
        documents=_documents_of(labels),
        piece_bytes=piece_bytes(data.tokenizer),
        unigram_loss=unigram_cross_entropy(
            labels.masked_labels, data.count_tokens(), data.tokenizer.is_special
        ),
    )


def _documents_of(examples: ExampleBatch) -> np.ndarray:
    """Return the store row of the document that each label is in: uint64 (P,)."""
    rows = np.repeat(np.arange(len(examples)), np.diff(examples.mask_offsets))
    is_second = examples.token_type_ids[examples.flat_masked_positions()] == 1
    return np.where(is_second, examples.document_b[rows], examples.document_a[rows])


def evaluate(
    model: Transformer, held_out: HeldOut, device: torch.device, progress: Report | None = None
) -> Evaluation:
    """Return the figures of a model on held-out examples; leaves its mode as it was.

    `progress` is called with the tokens done and those of all.
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


def score_held_out(run: Run, held_out: HeldOut, progress: Report | None = None) -> list[Scores]:
    """Return the scores of each micro-batch, computed side by side."""
    return _scores(prepare(run.model), held_out, run.device, progress)


def _scores(
    model: Transformer, held_out: HeldOut, device: torch.device, progress: Report | None
) -> list[Scores]:
    score = functools.partial(_score, model, held_out.objective, device)
    return _listed(map_batches(score, held_out.micro_batches, device), held_out, progress)


def _listed(scores: Iterable[Scores], held_out: HeldOut, progress: Report | None) -> list[Scores]:
    """Return the scores as they come, reporting the tokens done."""
    done, listed = np.cumsum([micro.batch.num_tokens for micro in held_out.micro_batches]), []
    for num_tokens, score in zip(done.tolist(), scores, strict=True):
        listed.append(score)
        if progress is not None:
            progress(num_tokens, int(done[-1]))
    return listed


@dataclass(frozen=True)
class Scores:
    """Of one micro-batch: per labelled token, per pair."""

    part: int
    labels: np.ndarray  # int64 (P,)
    losses: np.ndarray  # float64 (P,)
    ranks: np.ndarray  # int64 (P,) pieces more likely than the right one
    pair_losses: np.ndarray  # float64 (S',)
    pair_hits: np.ndarray  # bool (S',)


def _score(
    model: Transformer, objective: Objective, device: torch.device, micro: MicroBatch
) -> Scores:
    part, batch = objective.parts[micro.part], micro.batch.to(device)
    pairs = batch.next_sentence_label != IGNORED
    firsts, num_labels = batch.first_positions[pairs], len(batch.masked_labels)
    hidden = model(
        batch, is_causal=part.is_causal, rows=torch.cat([batch.masked_positions, firsts])
    )
    losses, ranks = score_labels(model, hidden[:num_labels], batch.masked_labels)
    empty = np.zeros(0)
    pair_losses, pair_ranks = empty, empty
    if any(term.is_of_pairs for term in part.terms):
        pair_logits = model.nsp_logits(hidden[num_labels:]).float()
        pair_losses, pair_ranks = _losses_and_ranks(pair_logits, batch.next_sentence_label[pairs])
    return Scores(
        part=micro.part,
        labels=batch.masked_labels.cpu().numpy(),
        losses=losses,
        ranks=ranks,
        pair_losses=pair_losses,
        pair_hits=pair_ranks == 0,
    )


def score_labels(
    model: Transformer, hidden: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return each label's loss and rank, see `_losses_and_ranks`; few logits exist at a time.

    They are float32, whatever the layers compute in: in bf16 many would be equal, and the right
    piece often the first of several.
    """
    num_rows = chunk_rows(model.config.vocab_size, hidden.device)
    parts = [
        _losses_and_ranks(model.lm_logits(rows.float()), own)
        for rows, own in zip(
            torch.split(hidden, num_rows), torch.split(labels, num_rows), strict=True
        )
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _losses_and_ranks(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's loss, float64 (N,), and how many logits exceed the label's, int64 (N,)."""
    right = logits.gather(1, labels[:, None])
    losses = logits.logsumexp(1) - right[:, 0]
    ranks = (logits > right).sum(1)
    return losses.double().cpu().numpy(), ranks.cpu().numpy()


def summarize(held_out: HeldOut, scores: Sequence[Scores]) -> Evaluation:
    """Return the figures over all micro-batches."""
    token = [score for score in scores if score.part == 0]
    labels = np.concatenate([score.labels for score in token])
    losses = np.concatenate([score.losses for score in token])
    ranks = np.concatenate([score.ranks for score in token])
    causal = [score.losses for score in scores if score.part > 0]
    pair_losses = np.concatenate([score.pair_losses for score in scores])
    pair_hits = np.concatenate([score.pair_hits for score in scores])
    loss = float(losses.mean())
    return Evaluation(
        num_examples=held_out.num_examples,
        num_labels=len(labels),
        loss=loss,
        nats_per_byte=per_byte(losses, held_out.piece_bytes[labels]),
        perplexity=math.exp(min(loss, 700.0)),
        accuracy=float((ranks == 0).mean()),
        top5_accuracy=float((ranks < 5).mean()),
        unigram_loss=held_out.unigram_loss,
        causal_loss=float(np.concatenate(causal).mean()) if causal else None,
        pair_loss=float(pair_losses.mean()) if len(pair_losses) else None,
        pair_accuracy=float(pair_hits.mean()) if len(pair_hits) else None,
    )


def unigram_cross_entropy(labels: np.ndarray, counts: np.ndarray, is_special: np.ndarray) -> float:
    """Return what guessing labels by their frequency in the training split costs, nats a label.

    Counts are smoothed by one. Special tokens, which a store does not hold, are guessed as often
    as they are among the labels: never by a masked model, at each end of a text by a causal one.

    Args:
        labels: uint16 or uint32 (P,) ids to guess
        counts: int64 (V,) of each id in the training split
        is_special: bool (V,)

    Example:
        >>> counts, special = np.array([9, 0, 1]), np.array([True, False, False])
        >>> round(unigram_cross_entropy(np.array([2, 2]), counts, special), 4)  # 2 of 3: ln 1.5
        0.4055
    """
    found = np.bincount(labels, minlength=len(counts))
    smoothed = np.where(is_special, 0, counts + 1).astype(np.float64)
    per_label = smoothed.sum() / max(found[~is_special].sum(), 1)
    smoothed[is_special] = found[is_special] * per_label
    is_guessed = found > 0
    costs = -np.log(smoothed[is_guessed] / smoothed.sum())
    return float(costs @ found[is_guessed] / max(len(labels), 1))


def per_byte(losses: np.ndarray, num_bytes: np.ndarray) -> float:
    """Return nats per byte of text; of labels that stand for no text, per label.

    Args:
        losses: float64 (P,) nats of each label
        num_bytes: int64 (P,) of text that each label stands for

    Example:
        >>> per_byte(np.array([4.0, 2.0]), np.array([3, 0])), per_byte(np.ones(2), np.zeros(2))
        (2.0, 1.0)
    """
    return float(losses.sum() / (num_bytes.sum() or len(losses)))


def evaluate_run(
    run_path: Path, data_path: Path | None = None, *, split: str = "validation",
    num_examples: int | None = None, device: str = "auto", progress: Report | None = None,
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
    """
    run = load_run(run_path, device=device)
    data = data_for(run, data_path)
    held_out = held_out_for(run, data, split=split, num_examples=num_examples)
    return summarize(held_out, score_held_out(run, held_out, progress))


def data_for(run: Run, data_path: Path | None) -> TrainingData:
    """Return the data at a path, or what the run was trained on, checked to fit the run.

    Raises:
        RunError: no path is given and the run has no data of its own
        FitError: the data was made with another tokenizer
    """
    data = open_data(data_path or own_data(run.path, run.record))
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
