"""Embeddings that fresh weights begin with: which pieces stand near which others in the text.

Positive pointwise mutual information of pieces at most `WINDOW` places apart, its contexts'
frequencies smoothed, by the largest singular vectors (Levy, Goldberg and Dagan, "Improving
distributional similarity with lessons learned from word embeddings", 2015), which a few rounds of
products with a random matrix find (Halko, Martinsson and Tropp, 2011). It takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmmodel.cores import one_thread

WINDOW = 4  # places; a neighbour counts 1, one at distance d (WINDOW + 1 - d) / WINDOW
SMOOTHING = 0.75  # power of the contexts' frequencies
MOST_RANK = 256  # singular vectors; wider embeddings are these turned at random
NUM_ROUNDS = 4
_SPARE = 16  # vectors more, so that the last ones are found too

MOST_TOKENS = 1 << 21
"""Of the training split that are counted at most."""


@dataclass(frozen=True)
class Counts:
    """How often pieces are near each other; of each pair both orders.

    Attributes:
        pieces: int64 (n,), of each pair that was seen
        others: int64 (n,)
        weights: float64 (n,), above 0
    """

    pieces: np.ndarray
    others: np.ndarray
    weights: np.ndarray


def count_neighbours(ids: np.ndarray, offsets: np.ndarray, is_special: np.ndarray) -> Counts:
    """Return how often pieces are near each other within rows; special ones count as places only.

    Args:
        ids: integers (t,)
        offsets: int64 (n + 1,), where rows begin in `ids`
        is_special: bool (V,)

    Example:
        >>> counts = count_neighbours(np.array([1, 2, 2]), np.array([0, 2, 3]), np.zeros(3, bool))
        >>> counts.pieces.tolist(), counts.others.tolist(), counts.weights.tolist()
        ([1, 2], [2, 1], [1.0, 1.0])
    """
    ids, num = ids.astype(np.int64), len(is_special)
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    is_text = ~is_special[ids]
    seen = [np.zeros(0, np.int64)]  # pair x WINDOW + places less: sorted as one number
    for distance in range(1, WINDOW + 1):
        is_pair = (rows[:-distance] == rows[distance:]) & is_text[:-distance] & is_text[distance:]
        first, second = ids[:-distance][is_pair], ids[distance:][is_pair]
        seen += [
            pair * WINDOW + distance - 1 for pair in (first * num + second, second * num + first)
        ]
    keys = np.concatenate(seen)
    keys.sort()
    weights = (WINDOW - keys % WINDOW) / WINDOW
    keys //= WINDOW
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    totals = np.add.reduceat(weights, starts) if len(starts) else weights
    return Counts(*np.divmod(keys[starts], num), totals)


def mutual_information(counts: Counts, num_pieces: int) -> np.ndarray:
    """Return log p(a, b) / (p(a) p(b)) of each pair, p(b) smoothed: float64 (n,).

    Example:
        >>> counts = Counts(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([2.0, 1.0, 1.0]))
        >>> mutual_information(counts, 2).round(2).tolist()
        [-0.04, 0.09, 0.36]
    """
    own = np.bincount(counts.pieces, counts.weights, num_pieces)
    contexts = np.bincount(counts.others, counts.weights, num_pieces) ** SMOOTHING
    expected = own[counts.pieces] * (contexts / contexts.sum())[counts.others]
    return np.asarray(np.log(counts.weights / expected))


def find_embeddings(
    ids: np.ndarray, offsets: np.ndarray, is_special: np.ndarray, *, width: int, seed: int
) -> Tensor:
    """Return what the embeddings of pieces point to: float32 (V, width), of standard deviation 1.

    Rows of pieces that have no neighbours are 0. The bits do not depend on the number of cores.

    Args:
        ids: integers (t,) of rows of the training split
        offsets: int64 (n + 1,), where rows begin in `ids`
        is_special: bool (V,)
        width: features
        seed: of what is drawn by chance
    """
    num = len(is_special)
    counts = count_neighbours(ids, offsets, is_special)
    if not len(counts.pieces):
        return torch.zeros(num, width)
    information = mutual_information(counts, num)
    is_kept = information > 0
    rank = min(width, MOST_RANK, num)
    generator = torch.Generator().manual_seed(seed)
    with one_thread():
        table = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([counts.pieces[is_kept], counts.others[is_kept]])),
            torch.from_numpy(information[is_kept]).float(),
            (num, num),
            check_invariants=True,
            is_coalesced=True,
        )
        vectors = largest_vectors(table, rank, generator)
        turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        found = vectors @ turn[:rank]
    is_seen = torch.zeros(num, dtype=torch.bool)
    is_seen[torch.from_numpy(counts.pieces[is_kept])] = True
    return torch.where(is_seen[:, None], found / found[is_seen].std(), 0.0)


def largest_vectors(table: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Return left singular vectors, each times the root of its value: float32 (R, rank).

    Args:
        table: float32 (R, C), sparse
        rank: at most min(R, C)
        generator: of the first guess

    Example:
        >>> table = torch.diag(torch.tensor([1.0, 9.0, 4.0])).to_sparse()
        >>> found = largest_vectors(table, 2, torch.Generator().manual_seed(0))
        >>> found.abs().round(decimals=3).tolist()
        [[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]]
    """
    back = table.t().coalesce()
    num = min(rank + _SPARE, *table.shape)
    basis = torch.randn(table.shape[1], num, generator=generator)
    for _ in range(
        NUM_ROUNDS
    ):  # Q lies by columns, which a sparse product reads 25 times as slowly
        basis = torch.linalg.qr(table @ basis).Q.contiguous()  # (R, num)
        basis = torch.linalg.qr(back @ basis).Q.contiguous()  # (C, num)
    left, values, _ = torch.linalg.svd(table @ basis, full_matrices=False)
    found: Tensor = left[:, :rank] * values[:rank].sqrt()
    return found
