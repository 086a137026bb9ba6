"""Do examples hold the text of their documents, and is noise what its recipe promises? (pure)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lmdata.batch import TARGET_IDS, TARGET_LENGTHS, ExampleBatch
from lmdata.checking.checks import Check, never, share
from lmdata.dataset import TokenStore
from lmdata.ragged import Ragged, offsets_of
from lmdata.recipes import Recipe


def is_from_documents(
    batch: ExampleBatch, texts: Ragged, index: int, recipe: Recipe, store: TokenStore
) -> bool:
    """Return whether the segments of an example are stretches of the documents that it names.

    Args:
        batch: that has the example
        texts: ids of all its examples before the corruption
        index: of the example
        recipe: that it was made by
        store: with the documents
    """
    ids = texts.row(index)
    documents = int(batch.document_a[index]), int(batch.document_b[index])
    if max(documents) >= len(store):
        return False
    segments = _segments(batch, index, ids, recipe)
    return len(segments) > 0 and all(
        is_stretch(segment, store.document(document)[0])
        for segment, document in zip(segments, documents, strict=False)
    )


def _segments(batch: ExampleBatch, index: int, ids: np.ndarray, recipe: Recipe) -> list[np.ndarray]:
    """Return the first segment of an example and the last, without special tokens around.

    Args:
        batch: that has the example
        index: of the example
        ids: (t,), of the example before the corruption
        recipe: that it was made by
    """
    if recipe.has_pairs:
        first, last = batch.offsets[index : index + 2]
        middle = int(np.count_nonzero(batch.token_type_ids[first:last] == 0))
        return [ids[1 : middle - 1], ids[middle:-1]]
    begin, end = batch.segment_offsets[index : index + 2]
    lengths = batch.segment_lengths[begin:end].astype(np.int64)
    if recipe.noise is not None:
        target = batch.arrays()[TARGET_LENGTHS.name][begin:end].astype(np.int64)
        lengths = recipe.noise.text_lengths(recipe, lengths, target) + recipe.num_special
    in_front = int(recipe.corruption_traits.has_start)
    if not len(lengths):
        return []
    return [ids[in_front : int(lengths[0]) - 1], ids[len(ids) - int(lengths[-1]) + in_front : -1]]


def is_stretch(segment: np.ndarray, document: np.ndarray) -> bool:
    """Return whether a segment is a run of consecutive ids of a document.

    Example:
        >>> document = np.array([1, 2, 3])
        >>> is_stretch(np.array([2, 3]), document), is_stretch(np.array([1, 3]), document)
        (True, False)
    """
    needle, hay = segment.astype(document.dtype).tobytes(), document.tobytes()
    at = hay.find(needle)
    while at > 0 and at % document.itemsize:
        at = hay.find(needle, at + 1)
    return at >= 0


@dataclass(frozen=True)
class NoiseCounts:
    """What was counted in examples with a source and a target; `a + b` is the count of both.

    Attributes:
        num_examples: examples
        num_text: tokens of text before the noise
        num_noise: of them, those that no source shows
        expected_noise: how many it should be on average
        misfitting: examples whose sources and targets do not make up texts of their lengths
        unframed: examples with a target, or a text, without its special tokens around
        left_marks: examples of whose marks (sentinels, masks) some stand for no span
    """

    num_examples: int = 0
    num_text: int = 0
    num_noise: int = 0
    expected_noise: float = 0.0
    misfitting: int = 0
    unframed: int = 0
    left_marks: int = 0

    def __add__(self, other: NoiseCounts) -> NoiseCounts:
        names = [field.name for field in fields(self)]
        return NoiseCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def count_noise(batch: ExampleBatch, texts: Ragged, recipe: Recipe, tokenizer: Any) -> NoiseCounts:
    """Return the counts of a batch that `judge_noise` needs.

    Args:
        batch: examples with a source and a target
        texts: their ids before the noise, with special tokens
        recipe: that they were made by
        tokenizer: of the ids
    """
    noise, rows = recipe.noise, batch.segment_offsets
    assert noise is not None
    source = batch.segment_lengths.astype(np.int64)
    target = batch.arrays()[TARGET_LENGTHS.name].astype(np.int64)
    lengths = noise.text_lengths(recipe, source, target)
    framed = offsets_of(lengths + recipe.num_special)
    is_misfit = np.diff(framed[rows]) != texts.lengths
    is_mark = np.isin(np.arange(tokenizer.vocab_size), noise.marks(tokenizer))
    marked = Ragged(is_mark[texts.values], texts.offsets)
    num_marks = int(is_mark[batch.input_ids].sum())
    expected = 0.0
    if not is_misfit.any():
        expected = float(noise.expected(recipe, Ragged(texts.values, framed), tokenizer).sum())
    return NoiseCounts(
        num_examples=len(batch),
        num_text=int(lengths.sum()),
        num_noise=int((lengths - source).sum()) + recipe.num_special * len(source) + num_marks,
        expected_noise=expected,
        misfitting=int(is_misfit.sum()),
        unframed=_num_unframed(batch, texts, recipe, tokenizer),
        left_marks=int(np.count_nonzero(_sums(marked))),
    )


def _sums(rows: Ragged) -> np.ndarray:
    """Return the sum of each row, int64 (R,)."""
    before = offsets_of(rows.values)[rows.offsets]
    return np.diff(before)


def _num_unframed(batch: ExampleBatch, texts: Ragged, recipe: Recipe, tokenizer: Any) -> int:
    """Return how many examples have a first or last id of a text or target that is another."""
    assert recipe.noise is not None
    first, last = recipe.frame(tokenizer.special_ids)
    targets = batch.ragged(TARGET_IDS)
    start = recipe.noise.start_id(tokenizer)
    is_odd = (targets.values[targets.offsets[:-1]] != start) | (
        targets.values[targets.offsets[1:] - 1] != last
    )
    is_odd |= texts.values[texts.offsets[1:] - 1] != last
    if first is not None:
        is_odd |= texts.values[texts.offsets[:-1]] != first
    return int(is_odd.sum())


def judge_noise(counts: NoiseCounts, recipe: Recipe, *, spells_marks: bool) -> list[Check]:
    """Return every check of noise that applies to a recipe; none where it has no noise.

    Args:
        counts: of all examples
        recipe: that they were made by
        spells_marks: whether a text may spell a sentinel or mask, so that one more says nothing
    """
    if recipe.noise is None:
        return []
    checks = [
        never("examples whose source and target make no text", counts.misfitting),
        never("targets or texts without their special tokens", counts.unframed),
        share("share of noise", counts.expected_noise / max(1, counts.num_text), counts.num_noise,
              counts.num_text, recipe.noise.spread),
    ]  # fmt: skip
    if not spells_marks:
        checks.append(never("sentinels or masks that stand for no span", counts.left_marks))
    return checks
