"""Losses and scores over hidden states: of labelled tokens, of sentence pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmdata.batch import ORDERS, ExampleBatch, targets_of
from lmdata.ragged import offsets_of
from lmmodel.batch import IGNORED, QUERIES, TARGET, TOKENS, Batch, Labels
from lmmodel.cores import summed_cross_entropy
from lmmodel.families import ModelConfig
from lmmodel.inference import chunk_rows
from lmmodel.model import Transformer, sentence_products, vocabulary_products
from lmmodel.objectives.objective import Part, TermScores, Vocabulary


@dataclass(frozen=True)
class TokenTerm:
    """Cross-entropy of labelled tokens over the vocabulary; the first of an objective is its main.

    Attributes:
        is_main: whether its figures are those of the whole evaluation, else one loss beside them
    """

    name: str
    weight: float = 1.0
    is_main: bool = True
    needs: str = "masked tokens, and {source} has none: mask it, or train with objective.name=clm"

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`."""
        return examples.flat_masked_positions()

    def labels(self, batch: Batch) -> Labels:
        """Return the rows that are asked, and their ids."""
        return batch.stream.labels[TOKENS]

    def rows(self, batch: Batch) -> Tensor:
        """As in `Term`."""
        return self.labels(batch).rows

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`."""
        return summed_cross_entropy(model.lm_logits(hidden), self.labels(batch).values)

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`."""
        return vocabulary_products(config)

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`: labels, losses in nats, and how many pieces are more likely."""
        labels = self.labels(batch).values
        losses, ranks = score_labels(model, hidden, labels)
        return {"labels": labels.cpu().numpy(), "losses": losses, "ranks": ranks}

    def figures(self, scores: TermScores, vocabulary: Vocabulary) -> dict[str, float]:
        """As in `Term`."""
        labels, losses, ranks = scores["labels"], scores["losses"], scores["ranks"]
        loss = float(losses.mean())
        if not self.is_main:
            return {"causal_loss": loss}
        return {
            "num_labels": len(labels),
            "loss": loss,
            "nats_per_byte": per_byte(losses, vocabulary.piece_bytes[labels]),
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": float((ranks == 0).mean()),
            "top5_accuracy": float((ranks < 5).mean()),
            "unigram_loss": unigram_cross_entropy(labels, vocabulary.counts, vocabulary.is_special),
        }


@dataclass(frozen=True)
class QueryTerm(TokenTerm):
    """Cross-entropy of the tokens that queries ask for."""

    needs: str = (
        "an order of tokens, and {source} has none: freeze one by `lmdata mask --recipe xlnet`, or "
        "train from a token store"
    )

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`."""
        has_order = ORDERS.name in examples.arrays()
        return examples.flat_masked_positions() if has_order else np.zeros(0, np.int64)

    def labels(self, batch: Batch) -> Labels:
        """As in `TokenTerm`."""
        return batch.streams[QUERIES].labels[TOKENS]


@dataclass(frozen=True)
class TargetTerm(TokenTerm):
    """Cross-entropy of every token of the targets, teacher-forced."""

    needs: str = (
        "sources and targets, and {source} has none: freeze them by `lmdata mask --recipe`, or "
        "train from a token store"
    )

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`: the first token of each label's source."""
        targets = targets_of(examples)
        if targets is None:
            return np.zeros(0, np.int64)
        sources = offsets_of(examples.segment_lengths)[:-1]
        return np.repeat(sources, targets.lengths - 1)

    def labels(self, batch: Batch) -> Labels:
        """As in `TokenTerm`."""
        return batch.streams[TARGET].labels[TOKENS]


@dataclass(frozen=True)
class PairTerm:
    """Cross-entropy of the labels of sentence pairs, from each sequence's first token."""

    name: str
    weight: float = 1.0
    needs: str = (
        "pair labels, and {source} has none: make it with pairs (view {view}), or train with "
        "objective.name=mlm"
    )

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`."""
        return examples.offsets[:-1][examples.next_sentence_label >= 0]

    def rows(self, batch: Batch) -> Tensor:
        """As in `Term`."""
        return batch.first_positions

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`."""
        logits, labels = model.nsp_logits(hidden).float(), batch.next_sentence_label
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`."""
        return sentence_products(config)

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`: losses in nats, and whether the label is the more likely one."""
        is_pair = batch.next_sentence_label != IGNORED
        logits, labels = model.nsp_logits(hidden[is_pair]), batch.next_sentence_label[is_pair]
        losses, ranks = losses_and_ranks(logits.float(), labels)
        return {"losses": losses, "hits": ranks == 0}

    def figures(self, scores: TermScores, vocabulary: Vocabulary) -> dict[str, float]:
        """As in `Term`."""
        return {
            "pair_loss": float(scores["losses"].mean()),
            "pair_accuracy": float(scores["hits"].mean()),
        }


def sum_losses(model: Transformer, part: Part, batch: Batch) -> Tensor:
    """Return the summed loss of each term of a part, in nats: float32 (terms of the part,)."""
    batch, states = part.read(model, part, batch)
    losses = zip(part.terms, states, strict=True)
    return torch.stack([term.loss(model, hidden, batch) for term, hidden in losses])


def score_terms(model: Transformer, part: Part, batch: Batch) -> tuple[TermScores, ...]:
    """Return what each term of a part finds for each label of a batch, without gradients."""
    batch, states = part.read(model, part, batch)
    scores = zip(part.terms, states, strict=True)
    return tuple(term.score(model, hidden, batch) for term, hidden in scores)


def combine(sums: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Return the weighted sum of the means, a scalar; a term without labels contributes 0.

    Args:
        sums: float (K,) nats
        weights: float (K,)
        counts: int64 (K,) labels of the whole step over all processes

    Example:
        >>> combine(torch.tensor([6.0, 1.0]), torch.tensor([1.0, 0.5]), torch.tensor([3, 0])).item()
        2.0
    """
    return (sums * weights * (counts > 0) / counts.clamp(min=1)).sum()


def score_labels(
    model: Transformer, hidden: Tensor, labels: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return each label's loss and rank, see `losses_and_ranks`; few logits exist at a time.

    They are float32, whatever the layers compute in: in bf16 many would be equal, and the right
    piece often the first of several.

    Args:
        model: on the device of the tensors
        hidden: floats (P, D) of the last layer
        labels: int64 (P,) ids
    """
    num_rows = chunk_rows(model.config.vocab_size, hidden.device)
    parts = [
        losses_and_ranks(model.lm_logits(rows.float()), own)
        for rows, own in zip(
            torch.split(hidden, num_rows), torch.split(labels, num_rows), strict=True
        )
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def losses_and_ranks(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's loss, float64 (N,), and how many logits exceed the label's, int64 (N,).

    Args:
        logits: float32 (N, V)
        labels: int64 (N,) in [0, V)

    Example:
        >>> losses, ranks = losses_and_ranks(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([1]))
        >>> round(float(losses[0]), 3), ranks.tolist()
        (9.0, [1])
    """
    right = logits.gather(1, labels[:, None])
    losses = logits.logsumexp(1) - right[:, 0]
    ranks = (logits > right).sum(1)
    return losses.double().cpu().numpy(), ranks.cpu().numpy()


def unigram_cross_entropy(labels: np.ndarray, counts: np.ndarray, is_special: np.ndarray) -> float:
    """Return what guessing labels by their frequency in the training split costs, nats a label.

    Counts are smoothed by one. Special tokens, which a store does not hold, are guessed as often
    as they are among the labels: never by a masked model, at each end of a text by a causal one.

    Args:
        labels: integers (P,), ids to guess
        counts: int64 (V,) of each id in the training split
        is_special: bool (V,)

    Example:
        >>> counts, special = np.array([9, 0, 1]), np.array([True, False, False])
        >>> round(unigram_cross_entropy(np.array([2, 2]), counts, special), 4)  # 2 of 3: ln 1.5
        0.4055
    """
    found = np.bincount(labels, minlength=len(counts))
    smoothed = _smoothed_counts(found, counts, is_special)
    is_guessed = found > 0
    costs = -np.log(smoothed[is_guessed] / smoothed.sum())
    return float(costs @ found[is_guessed] / max(len(labels), 1))


def log_frequencies(labels: np.ndarray, counts: np.ndarray, is_special: np.ndarray) -> np.ndarray:
    """Return the logits of guessing labels by their frequency in the training split: float64 (V,).

    Args:
        labels: integers (P,), a sample of those to guess, which tells how many are special
        counts: int64 (V,) of each id in the training split
        is_special: bool (V,)

    Example:
        >>> counts, special = np.array([9, 0, 2]), np.array([True, False, False])
        >>> np.exp(log_frequencies(np.array([2, 2]), counts, special)).tolist()
        [0.25, 0.25, 0.75]
    """
    smoothed = _smoothed_counts(np.bincount(labels, minlength=len(counts)), counts, is_special)
    return np.asarray(np.log(np.maximum(smoothed, 1.0) / smoothed.sum()))


def _smoothed_counts(found: np.ndarray, counts: np.ndarray, is_special: np.ndarray) -> np.ndarray:
    """Return counts and 1, of special tokens by their share in the labels: float64 (V,)."""
    smoothed = np.where(is_special, 0, counts + 1).astype(np.float64)
    per_label = smoothed.sum() / max(found[~is_special].sum(), 1)
    smoothed[is_special] = found[is_special] * per_label
    return smoothed


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
