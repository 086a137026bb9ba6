"""Vectors of texts: near for two that belong together, far from all others of the step.

SimCSE (Gao et al., "SimCSE: simple contrastive learning of sentence embeddings", EMNLP 2021): a
sentence is read twice, with two draws of dropout, and of all the texts of a step its vector is to
find its own second. Rows that hold two texts, or three, are pairs of a file, and texts that must be
far apart. A vector is the mean of the last layer over a text's tokens, as `lmmodel embed` gives it.

The loss is about all vectors of a step at once, over all processes. So they are computed first,
without gradients; the loss tells the gradient of each; and each micro-batch is read a second time
with the same draws of dropout, which carries that gradient to the weights (Gao et al., "Scaling
deep contrastive learning batch size under memory limited setup", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmdata.batch import ExampleBatch
from lmdata.ragged import Ragged, offsets_of
from lmdata.xxh3 import xxh3_128
from lmmodel.batch import Batch
from lmmodel.device import gather_rows
from lmmodel.families import ModelConfig
from lmmodel.model import Transformer, forward_flops
from lmmodel.objectives.objective import ObjectiveConfig, Part, TermScores
from lmmodel.packing import pack_examples

SIDE = "side"
"""Labels of sequences: 0 what is asked, 1 its answer, 2 what is no answer."""
TEXT = "text"
"""Labels of sequences: a number that equal texts share."""
PULL = "pull"
"""What the loss of a step says of each vector: its gradient, and of what is asked the loss."""

MOST_COMPARED = 1 << 24  # cosines that exist at a time


def make_parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    """Return the one part: all vectors of a step are compared."""

    def flops(model: ModelConfig, num_tokens: int, num_pairs: int, num_labels: int) -> int:
        """Return the operations of the first reading, a third of those of training."""
        return forward_flops(
            model, num_tokens=num_tokens, num_pairs=num_pairs, num_rows=num_tokens, head_products=0
        ) // 3  # fmt: skip

    term = ContrastTerm(temperature=config.contrast_temperature)
    part = Part(
        terms=(term,), label=pair_up, pack=pack, read=read, compare=term.compare, other_flops=flops
    )
    return (part,)


def pair_up(examples: ExampleBatch) -> ExampleBatch:
    """Return the same rows, those of a single text with it twice.

    Texts come back from the labels of a corruption, so that frozen masks serve too.
    """
    if (np.diff(examples.segment_offsets) != 1).any():
        return examples
    num = len(examples)
    ids = Ragged(examples.original_ids(), examples.offsets)
    types = Ragged(examples.token_type_ids, examples.offsets)
    twice = np.repeat(np.arange(num), 2)
    return examples.replace(
        input_ids=ids.take(twice).values,
        token_type_ids=types.take(twice).values,
        offsets=2 * examples.offsets,
        segment_lengths=np.repeat(examples.segment_lengths, 2),
        segment_offsets=2 * np.arange(num + 1),
        masked_positions=examples.masked_positions[:0],
        masked_labels=examples.masked_labels[:0],
        mask_offsets=np.zeros(num + 1, np.int64),
    )


def pack(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return texts as sequences of their own that know their side and which others are equal."""
    num_texts = np.diff(examples.segment_offsets)
    sides = np.arange(num_texts.sum()) - np.repeat(examples.segment_offsets[:-1], num_texts)
    texts = Ragged(examples.input_ids, offsets_of(examples.segment_lengths.astype(np.int64)))
    numbers = [xxh3_128(own.tobytes()).intdigest() >> 65 for own in texts.rows()]
    batch = pack_examples(examples, max_seqlen)
    return batch.with_sequence_labels(
        {SIDE: torch.from_numpy(sides), TEXT: torch.tensor(numbers, dtype=torch.int64)}
    )


def read(model: Transformer, part: Part, batch: Batch) -> tuple[Batch, tuple[Tensor, ...]]:
    """Return the batch and the mean of the last layer over each sequence, float32 (S, D)."""
    hidden = model(batch)  # (T, D)
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    places = torch.arange(batch.num_tokens, device=hidden.device)
    sequence = torch.searchsorted(batch.cu_seqlens[1:].long(), places, right=True)
    sums = hidden.new_zeros(batch.num_sequences, hidden.shape[1]).index_add(0, sequence, hidden)
    return batch, (sums / batch.cu_seqlens.diff().clamp(min=1)[:, None],)


@dataclass(frozen=True)
class ContrastTerm:
    """Which text of the step belongs to each: cross-entropy over cosines at a temperature."""

    temperature: float
    name: str = "contrast"
    weight: float = 1.0
    needs: str = "two texts at least, and {source} has none: build it from other text"

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`: the first token of each row."""
        return examples.offsets[:-1]

    def rows(self, batch: Batch) -> Tensor:
        """As in `Term`."""
        return batch.first_positions

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`: of vectors (S, D), by what `compare` found of the whole step."""
        found = batch.stream.labels[PULL].values  # (S, D + 1)
        gradients, losses = found[:, :-1], found[:, -1]
        pulled = (hidden * gradients).sum()
        return losses.sum() + pulled - pulled.detach()

    def compare(self, batches: Sequence[Batch], vectors: Sequence[Tensor]) -> list[Batch]:
        """Return the batches of a process with what the loss of the step says of their vectors.

        Args:
            batches: of this process
            vectors: float32 (S, D) of each
        """
        labels = torch.cat([_labels_of(batch) for batch in batches])
        everywhere, start = gather_rows(torch.cat(list(vectors)))
        losses, gradients = contrast(everywhere, gather_rows(labels)[0], self.temperature)
        found = torch.cat([gradients, losses[:, None]], dim=1)[start : start + len(labels)]
        pieces = torch.split(found, [batch.num_sequences for batch in batches])
        return [
            batch.with_labels(PULL, batch.first_positions, piece)
            for batch, piece in zip(batches, pieces, strict=True)
        ]

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`: none worth counting."""
        return 0

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`: of each row, the vectors of its texts and their labels."""
        num_rows = int((batch.sequence_labels[SIDE] == 0).sum())
        labels = _labels_of(batch).view(num_rows, -1, 2)
        vectors = hidden.view(num_rows, -1, hidden.shape[1])
        return {"vectors": vectors.cpu().numpy(), "labels": labels.cpu().numpy()}

    def figures(self, scores: TermScores, vocabulary: object) -> dict[str, float]:
        """As in `Term`, of all texts together, without dropout.

        What compares a text with its answer is left out where that is the text itself.
        """
        vectors, labels = (torch.from_numpy(scores[name]) for name in ("vectors", "labels"))
        losses, _ = contrast(vectors.flatten(0, 1), labels.flatten(0, 1), self.temperature)
        unit = F.normalize(vectors, dim=2)
        asked, answers = unit.unbind(1)[:2]
        distinct = first_of_each(labels[:, :, 1].flatten())
        found = {"num_labels": len(labels), "loss": float(losses.sum()) / len(labels)}
        if len(distinct) > 1:
            found["uniformity"] = uniformity(unit.flatten(0, 1)[distinct].numpy())
        if (labels[:, 0, 1] != labels[:, 1, 1]).any():
            found["alignment"] = alignment(asked.numpy(), answers.numpy())
            nearest = (asked @ answers.T).argmax(1)
            is_right = labels[nearest, 1, 1] == labels[:, 1, 1]
            found["answers_found"] = float(is_right.double().mean())
        return found


def _labels_of(batch: Batch) -> Tensor:
    """Return side and number of each text: int64 (S, 2)."""
    return torch.stack([batch.sequence_labels[SIDE], batch.sequence_labels[TEXT]], dim=1)


def contrast(vectors: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return each text's loss, (N,), and the gradients of their sum, (N, D).

    A text of side 0 is asked for the next one, among all of other sides. What equals the text or
    its answer is no wrong answer, and not among them.

    Args:
        vectors: floats (N, D)
        labels: int64 (N, 2), side and number of each text
        temperature: of the cosines

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> losses, _ = contrast(vectors, torch.tensor([[0, 5], [1, 5], [0, 6], [1, 6]]), 1.0)
        >>> [round(loss, 4) for loss in losses.tolist()]  # ln(e + 1) - 1
        [0.3133, 0.0, 0.3133, 0.0]
    """
    vectors = vectors.detach().requires_grad_()
    (side, text), losses = labels.unbind(1), vectors.new_zeros(len(vectors))
    asked, offered = (side == 0).nonzero()[:, 0], (side > 0).nonzero()[:, 0]
    places = torch.searchsorted(offered, asked + 1)  # of the answers, among what is offered
    num_rows = max(1, MOST_COMPARED // max(1, len(offered)))
    gradients = torch.zeros_like(vectors)
    for rows, place in zip(
        torch.split(asked, num_rows), torch.split(places, num_rows), strict=True
    ):
        with torch.enable_grad():
            unit = F.normalize(vectors, dim=1)
            cosines = unit[rows] @ unit[offered].T / temperature
            is_equal = (text[offered] == text[rows, None]) | (text[offered] == text[rows + 1, None])
            is_equal[torch.arange(len(rows), device=rows.device), place] = False
            own = F.cross_entropy(cosines.masked_fill(is_equal, -math.inf), place, reduction="none")
            gradients += torch.autograd.grad(own.sum(), vectors)[0]
        losses[rows] = own.detach()
    return losses, gradients


def first_of_each(numbers: Tensor) -> np.ndarray:
    """Return the place of the first of each number, int64.

    Example:
        >>> first_of_each(torch.tensor([7, 5, 7])).tolist()
        [1, 0]
    """
    return np.unique(numbers.numpy(), return_index=True)[1]


def alignment(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared distance of texts that belong together; small is good.

    Wang and Isola, "Understanding contrastive representation learning" (ICML 2020).

    Args:
        one: floats (N, D), of length 1
        other: as `one`

    Example:
        >>> alignment(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
        2.0
    """
    return float(((one - other) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Return the logarithm of the mean of exp(-2 d²) over all pairs; low: they are spread out.

    Wang and Isola, as above.

    Args:
        vectors: floats (N, D), of length 1, N > 1

    Example:
        >>> round(uniformity(np.array([[1.0, 0.0], [0.0, 1.0]])), 6)
        -4.0
    """
    num, total = len(vectors), 0.0
    for start in range(0, num, max(1, MOST_COMPARED // num)):
        stop = min(num, start + max(1, MOST_COMPARED // num))
        cosines = vectors[start:stop].astype(np.float64) @ vectors.T
        total += float(np.exp(4 * (cosines - 1)).sum()) - float(
            np.exp(4 * (np.diagonal(cosines, start) - 1)).sum()
        )
    return math.log(total / (num * (num - 1)))
