import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.packing import count_rows, pack


def best_fit(sizes, capacity):
    """Best-fit decreasing, by trying every row."""
    rows = []
    for piece in sorted(range(len(sizes)), key=lambda piece: (-sizes[piece], piece)):
        fits = [row for row in rows if sum(sizes[p] for p in row) + sizes[piece] <= capacity]
        if fits:
            max(fits, key=lambda row: sum(sizes[p] for p in row)).append(piece)
        else:
            rows.append([piece])
    return rows


@given(
    st.integers(1, 41).flatmap(
        lambda capacity: st.tuples(
            st.just(capacity), st.lists(st.integers(1, capacity), max_size=60)
        )
    )
)
def test_every_piece_lies_in_one_row_and_no_row_overflows(case):
    capacity, sizes = case
    plan = pack(np.array(sizes, np.uint16), capacity)
    rows = [row.tolist() for row in np.split(plan.pieces, plan.row_offsets[1:-1])] if sizes else []
    assert sorted(piece for row in rows for piece in row) == list(range(len(sizes)))
    fills = sorted(sum(sizes[piece] for piece in row) for row in rows)
    assert all(0 < fill <= capacity for fill in fills)
    assert fills == sorted(sum(sizes[p] for p in row) for row in best_fit(sizes, capacity))
    assert count_rows(np.array(sizes, np.uint16), capacity) == plan.num_rows


def test_rows_of_a_long_tailed_corpus_are_full():
    sizes = np.minimum(512, np.random.default_rng(0).lognormal(5, 1, 100_000) + 3)
    sizes = sizes.astype(np.uint16)
    plan = pack(sizes, 512)
    assert sizes.sum(dtype=np.int64) / (512 * plan.num_rows) > 0.99
    assert count_rows(sizes, 512) == plan.num_rows


def test_a_piece_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"sizes must be in \[1, 16\], got 3 to 17"):
        pack(np.array([3, 17], np.uint16), 16)


def test_no_pieces_make_no_rows():
    assert pack(np.empty(0, np.uint16), 16).num_rows == 0
