"""Labels of examples and what stands around them, scored by n-grams.

A context ends at a special token: the end of a segment, a mask, the edge of a row. Special tokens
themselves, as the end of each segment that a causal model learns, are guessed as often as they are
among the labels, and the rest shares what they leave: an n-gram model counts documents, whose ends
are rarer than those of segments.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np

from lmdata.batch import ExampleBatch
from lmmodel.counting.sorting import num_usable_cores
from lmmodel.counting.trie import Trie, advance, fill_distribution, find_state

_PIECE = 2048  # labels that a thread takes at a time


@dataclass(frozen=True)
class Places:
    """P labels, and the tokens around them.

    Attributes:
        ids: int64 (T,), what a model sees
        places: int64 (P,), of each label's token
        starts: int64 (P,), first token of its row
        stops: int64 (P,), behind the last one that may be seen
        labels: int64 (P,)
        is_special: bool (V,), of each piece
    """

    ids: np.ndarray
    places: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    labels: np.ndarray
    is_special: np.ndarray


def find_places(examples: ExampleBatch, is_special: np.ndarray, *, is_causal: bool) -> Places:
    """Return the labels of labelled examples; of causal ones the label is the token after it."""
    flat = examples.flat_masked_positions()
    rows = np.repeat(np.arange(len(examples)), np.diff(examples.mask_offsets))
    places = flat + 1 if is_causal else flat
    return Places(
        ids=examples.input_ids.astype(np.int64),
        places=places,
        starts=examples.offsets[rows],
        stops=places if is_causal else examples.offsets[rows + 1],
        labels=examples.masked_labels.astype(np.int64),
        is_special=is_special,
    )


def score_places(
    trie: Trie, unigrams: np.ndarray, found: Places, *, with_ranks: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return each label's loss after what stands before it, and how many pieces are likelier.

    Args:
        trie: the model
        unigrams: float64 (num_ids,), probabilities of its first level
        found: the labels
        with_ranks: whether pieces are compared, which takes long; else ranks are zeros

    Returns:
        float64 (P,) nats, and int64 (P,)
    """
    losses, ranks = np.empty(len(found.labels)), np.zeros(len(found.labels), np.int64)

    def fill(own: slice) -> None:
        _score_after(
            *trie.arrays, trie.order, unigrams, found.ids, found.is_special, found.places[own],
            found.starts[own], found.labels[own], with_ranks, losses[own], ranks[own],
        )  # fmt: skip

    _in_pieces(fill, len(losses))
    return guess_specials(losses, found), ranks


def score_between(
    left: tuple[Trie, np.ndarray], right: tuple[Trie, np.ndarray], counts: np.ndarray,
    found: Places,
) -> np.ndarray:  # fmt: skip
    """Return each label's loss between what stands before and what stands behind it.

    p(piece | left, right) is proportional to p(piece | left) p(piece | right) / p(piece): what
    stands on the two sides is taken to be independent once the piece is known. A side with nothing
    to see tells nothing.

    Args:
        left: a model, and the probabilities of its first level, float64 (num_ids,)
        right: the same of lines read backwards
        counts: int64 (V,) of each piece in the training split
        found: the labels

    Returns:
        float64 (P,) nats
    """
    frequencies = np.where(found.is_special, 0.0, counts + 1.0)
    frequencies /= frequencies.sum()
    losses = np.empty(len(found.labels))

    def fill(own: slice) -> None:
        _score_between(
            *left[0].arrays, left[1], *right[0].arrays, right[1], left[0].order, frequencies,
            found.ids, found.is_special, found.places[own], found.starts[own], found.stops[own],
            found.labels[own], losses[own],
        )  # fmt: skip

    _in_pieces(fill, len(losses))
    return guess_specials(losses, found)


def guess_specials(losses: np.ndarray, found: Places) -> np.ndarray:
    """Return losses with those of special labels by their share among the labels.

    Example:
        >>> found = Places(*[np.zeros(0, np.int64)] * 4, np.array([1, 0]), np.array([0, 1], bool))
        >>> guess_specials(np.array([np.nan, 1.0]), found).round(3).tolist()
        [0.693, 1.693]
    """
    is_special = found.is_special[found.labels]
    num, frequency = len(losses), np.bincount(found.labels, minlength=len(found.is_special))
    rest = max(num - int(is_special.sum()), 1) / max(num, 1)
    own = -np.log(np.maximum(frequency[found.labels], 1) / max(num, 1))
    return np.asarray(np.where(is_special, own, losses - np.log(rest)))


def distribution(trie: Trie, unigrams: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the probability of every id after some, int64 (n,) in reading order: float64."""
    state, p = np.empty(trie.order - 1, np.int64), np.empty(trie.sizes[0])
    find_state(trie.words, trie.first_child, ids, state)
    fill_distribution(*trie.arrays, unigrams, state, p)
    return p


def _in_pieces(fill: Callable[[slice], None], num_labels: int) -> None:
    pieces = [slice(start, start + _PIECE) for start in range(0, num_labels, _PIECE)]
    with ThreadPoolExecutor(num_usable_cores()) as pool:
        list(pool.map(fill, pieces))


@numba.njit(cache=True, nogil=True)
def _read(
    ids: np.ndarray, is_special: np.ndarray, place: np.int64, stop: int, step: np.int64,
    context: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the ids next to a place, farthest first: a view on the end of `context`."""
    count = 0
    place += step
    while count < len(context) and place != stop and not is_special[ids[place]]:
        count += 1
        context[len(context) - count] = ids[place]
        place += step
    return context[len(context) - count :]


@numba.njit(cache=True, nogil=True)
def _score_after(
    words: np.ndarray, first_child: np.ndarray, log_p: np.ndarray, log_backoff: np.ndarray,
    order: int, unigrams: np.ndarray, ids: np.ndarray, is_special: np.ndarray, places: np.ndarray,
    starts: np.ndarray, labels: np.ndarray, with_ranks: bool, losses: np.ndarray,
    ranks: np.ndarray,
) -> None:  # fmt: skip
    """Write the loss and rank of each label; see `score_places`."""
    context, state = np.empty(order - 1, np.int64), np.empty(order - 1, np.int64)
    p = np.empty(len(unigrams))
    end = len(unigrams) - 2
    for index in range(len(labels)):
        seen = _read(ids, is_special, places[index], starts[index] - 1, np.int64(-1), context)
        find_state(words, first_child, seen, state)
        if with_ranks:
            fill_distribution(words, first_child, log_p, log_backoff, unigrams, state, p)
            for piece in range(end):
                ranks[index] += p[piece] > p[labels[index]] and not is_special[piece]
        after = state.copy()
        ends = advance(words, first_child, log_p, log_backoff, after, end)
        own = advance(words, first_child, log_p, log_backoff, state, labels[index])
        losses[index] = np.log1p(-np.exp(ends)) - own


@numba.njit(cache=True, nogil=True)
def _score_between(
    words: np.ndarray, first_child: np.ndarray, log_p: np.ndarray, log_backoff: np.ndarray,
    unigrams: np.ndarray, back_words: np.ndarray, back_first_child: np.ndarray,
    back_log_p: np.ndarray, back_log_backoff: np.ndarray, back_unigrams: np.ndarray, order: int,
    frequencies: np.ndarray, ids: np.ndarray, is_special: np.ndarray, places: np.ndarray,
    starts: np.ndarray, stops: np.ndarray, labels: np.ndarray, losses: np.ndarray,
) -> None:  # fmt: skip
    """Write the loss of each label; see `score_between`."""
    context, state = np.empty(order - 1, np.int64), np.empty(order - 1, np.int64)
    p, back_p = np.empty(len(unigrams)), np.empty(len(unigrams))
    for index in range(len(labels)):
        before = _read(ids, is_special, places[index], starts[index] - 1, np.int64(-1), context)
        has_before = len(before) > 0
        if has_before:
            find_state(words, first_child, before, state)
            fill_distribution(words, first_child, log_p, log_backoff, unigrams, state, p)
        behind = _read(ids, is_special, places[index], stops[index], np.int64(1), context)
        has_behind = len(behind) > 0
        if has_behind:
            find_state(back_words, back_first_child, behind, state)
            fill_distribution(
                back_words, back_first_child, back_log_p, back_log_backoff, back_unigrams, state,
                back_p,
            )  # fmt: skip
        total, own = 0.0, 0.0
        for piece in range(len(frequencies)):
            if frequencies[piece] == 0:
                continue
            value = frequencies[piece]
            if has_before and has_behind:
                value = p[piece] * back_p[piece] / value
            elif has_before:
                value = p[piece]
            elif has_behind:
                value = back_p[piece]
            total += value
            if piece == labels[index]:
                own = value
        losses[index] = np.log(total) - np.log(own) if own > 0 else np.inf
