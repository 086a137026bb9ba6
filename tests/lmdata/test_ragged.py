import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata import ragged
from lmdata.ragged import Ragged, concatenate, offsets_of, ranges

lists = st.lists(st.lists(st.integers(0, 255), max_size=150), max_size=13)
dtypes = st.sampled_from([np.uint8, np.uint16, np.int64])


def make(rows, dtype=np.int64, shift=0, offset_dtype=np.int64):
    """Return lists as one Ragged whose first row begins `shift` items into its values."""
    values = [0] * shift + [value for row in rows for value in row] + [0] * shift
    offsets = offsets_of([len(row) for row in rows]) + shift
    return Ragged(np.array(values, dtype), offsets.astype(offset_dtype))


def as_lists(found):
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.values)
    assert found.offsets.dtype == np.int64
    return [found.row(index).tolist() for index in range(len(found))]


def test_the_examples_hold():
    result = doctest.testmod(ragged)
    assert result.attempted
    assert not result.failed


@given(lists, dtypes, st.integers(0, 3), st.sampled_from([np.int32, np.int64]), st.data())
def test_taken_rows_are_those_of_plain_lists(rows, dtype, shift, offset_dtype, data):
    ragged = make(rows, dtype, shift, offset_dtype)
    wanted = data.draw(
        st.lists(st.integers(0, len(rows) - 1), max_size=20) if rows else st.just([])
    )
    taken = ragged.take(np.array(wanted, np.int64))
    assert as_lists(taken) == [rows[index] for index in wanted]
    assert taken.values.dtype == dtype
    assert ragged.lengths.tolist() == [len(row) for row in rows]


@given(lists, st.integers(0, 3), st.data())
def test_neighbours_are_copied_in_pieces_and_are_the_same(rows, shift, data):
    ragged = make(rows, np.uint8, shift)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    taken = ragged.take(np.arange(start, stop))
    sliced = ragged.slice(start, stop)
    assert as_lists(taken) == as_lists(sliced) == rows[start:stop]
    assert not np.shares_memory(taken.values, ragged.values)
    assert not len(sliced.values) or np.shares_memory(sliced.values, ragged.values)


@given(lists, lists, st.integers(0, 3), dtypes)
def test_concatenated_rows_follow_each_other(first, second, shift, dtype):
    whole = concatenate([make(first, dtype, shift), make(second, dtype), make(first, dtype)])
    assert as_lists(whole) == first + second + first
    assert whole.values.dtype == dtype


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 9)), max_size=20))
def test_ranges_are_those_of_python(pairs):
    starts, lengths = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    expected = [place for start, length in pairs for place in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int32])
def test_offsets_are_summed_in_64_bits(dtype):
    largest = np.iinfo(dtype).max
    assert offsets_of(np.full(3, largest, dtype)).tolist() == [0, *(n * largest for n in (1, 2, 3))]
