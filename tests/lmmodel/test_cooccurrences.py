"""Embeddings that begin with which pieces stand near which others."""

from __future__ import annotations

import collections

import numpy as np
import torch

from lmdata.ragged import offsets_of
from lmmodel.cooccurrences import WINDOW, count_neighbours, find_embeddings

NUM_PIECES = 12
IS_SPECIAL = np.arange(NUM_PIECES) < 2


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([np.array(row) for row in rows]), offsets_of(list(map(len, rows)))


def test_neighbours_are_counted_as_in_a_plain_loop():
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, NUM_PIECES, size).tolist() for size in (1, 9, 30, 2)]
    expected: collections.Counter[tuple[int, int]] = collections.Counter()
    for row in ids:
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if 0 < abs(i - j) <= WINDOW and min(a, b) >= 2:
                    expected[a, b] += (WINDOW + 1 - abs(i - j)) / WINDOW
    counts = count_neighbours(*flat(ids), IS_SPECIAL)
    pairs = zip(counts.pieces.tolist(), counts.others.tolist(), strict=True)
    assert dict(zip(pairs, counts.weights.tolist(), strict=True)) == expected


def test_pieces_of_the_same_company_point_to_the_same_side():
    """2 and 3 stand between 6 and 7, 4 and 5 between 8 and 9; 10 and 11 nowhere."""
    generator = np.random.default_rng(1)
    ids = [
        [6, int(generator.integers(2, 4)), 7]
        if index % 2
        else [8, int(generator.integers(4, 6)), 9]
        for index in range(200)
    ]
    found = find_embeddings(*flat(ids), IS_SPECIAL, width=16, seed=0)
    unit = torch.nn.functional.normalize(found, dim=1)
    near, far = (unit[2] @ unit[3]).item(), (unit[2] @ unit[4]).item()
    assert near > 0.9
    assert abs(far) < 0.1
    assert not found[IS_SPECIAL].any()
    assert not found[10:].any()
    assert torch.isclose(found[2:10].std(), torch.tensor(1.0))
    again = find_embeddings(*flat(ids), IS_SPECIAL, width=16, seed=0)
    assert torch.equal(found, again)


def test_where_nothing_has_neighbours_all_stay_as_they_are_drawn():
    assert not find_embeddings(*flat([[2], [3]]), IS_SPECIAL, width=8, seed=0).any()
