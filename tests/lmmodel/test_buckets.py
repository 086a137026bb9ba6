import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.layers.buckets import (
    Filled,
    equal_buckets,
    joined_buckets,
    pad,
    padded_rows,
    round_up,
    rounded_buckets,
    unpad,
)

lengths_lists = st.lists(st.integers(0, 600), max_size=40)


@given(length=st.integers(1, 10_000))
def test_a_length_grows_by_a_fourth_at_most_and_a_rounded_one_stays(length: int) -> None:
    rounded = round_up(length)
    assert length <= rounded <= length * 5 / 4
    assert round_up(rounded) == rounded


@pytest.mark.parametrize(("num_digits", "num_lengths"), [(3, 4), (4, 8), (5, 16)])
def test_an_octave_has_few_lengths(num_digits: int, num_lengths: int) -> None:
    assert len({round_up(length, num_digits) for length in range(257, 513)}) == num_lengths


def test_equal_lengths_share_a_bucket() -> None:
    assert equal_buckets([]) == []
    found = [bucket.queries for bucket in equal_buckets([5, 5, 0, 0, 5])]
    assert found == [Filled((5, 5), 5), Filled((5,), 5)]


@given(pairs=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=30))
@pytest.mark.parametrize("kind", ["equal", "rounded", "joined", "joined and rounded"])
def test_sides_of_different_lengths_stay_together(kind: str, pairs) -> None:
    queries, keys = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if kind == "equal":
        buckets = equal_buckets(queries, keys)
    elif kind == "rounded":
        buckets = rounded_buckets(queries, keys, most_pairs=500)
    else:
        is_rounded = kind == "joined and rounded"
        buckets = joined_buckets(queries, keys, spare=90, most_pairs=900, is_rounded=is_rounded)
    found = [pair for bucket in buckets
             for pair in zip(bucket.queries.lengths, bucket.keys.lengths, strict=True)]  # fmt: skip
    assert found == [pair for pair in pairs if any(pair)]
    for bucket in buckets:
        assert max(bucket.queries.lengths) <= bucket.queries.length
        assert max(bucket.keys.lengths) <= bucket.keys.length


@given(lengths=lengths_lists, spare=st.integers(0, 5000))
@pytest.mark.parametrize("is_rounded", [False, True])
def test_joining_costs_no_more_padding_than_the_calls_it_saves(lengths, spare, is_rounded) -> None:
    options = {"most_pairs": 10**5, "is_rounded": is_rounded}
    apart = joined_buckets(lengths, spare=-1, **options)
    joined = joined_buckets(lengths, spare=spare, **options)
    work, least = (
        sum(len(one.queries.lengths) * one.queries.length**2 for one in buckets)
        for buckets in (joined, apart)
    )
    num_joins = len(apart) - len({id(one) for one in joined})
    assert work <= least + spare * max(num_joins, 0)
    for bucket in joined:
        num = len(bucket.queries.lengths)
        assert num == 1 or num * bucket.queries.length**2 <= 10**5
        assert not is_rounded or num < 8 or num % (1 << num.bit_length() - 3) == 0


@given(lengths=lengths_lists, most_pairs=st.integers(1, 10**6))
def test_buckets_hold_every_token_once_in_order(lengths: list[int], most_pairs: int) -> None:
    buckets = [bucket.queries for bucket in rounded_buckets(lengths, most_pairs=most_pairs)]
    assert [n for bucket in buckets for n in bucket.lengths] == [n for n in lengths if n]
    for bucket in buckets:
        num = len(bucket.lengths)
        assert {round_up(n) for n in bucket.lengths} == {bucket.length}
        assert num & (num - 1) == 0  # a power of two, or oneDNN meets ever new shapes
        assert num == 1 or num * bucket.length**2 <= most_pairs


@given(lengths=lengths_lists.filter(any))
def test_tokens_keep_their_order_and_padding_comes_last(lengths: list[int]) -> None:
    buckets = [bucket.queries for bucket in rounded_buckets(lengths, most_pairs=10**5)]
    rows, num_rows = padded_rows(buckets)
    is_token = torch.zeros(num_rows, dtype=torch.bool).index_fill_(0, rows, True)
    assert torch.equal(rows, is_token.nonzero()[:, 0])
    assert torch.equal(is_token, torch.cat([bucket.is_real().flatten() for bucket in buckets]))


def test_padding_and_its_inverse_have_the_right_gradients() -> None:
    rows, num_rows = padded_rows([Filled((3, 2), 3), Filled((5,), 7)])
    assert rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    x = torch.randn(10, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(num_rows, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(unpad(pad(x, rows, num_rows), rows), x)
    assert torch.autograd.gradcheck(lambda x: pad(x, rows, num_rows), x)
    assert torch.autograd.gradcheck(lambda y: unpad(y, rows), y)


@pytest.mark.parametrize(("lengths", "is_full"), [((7, 7), True), ((5, 7), False)])
def test_a_bucket_knows_its_padding(lengths: tuple[int, ...], is_full: bool) -> None:
    bucket = Filled(lengths, 7)
    assert (bucket.is_full, bucket.num_rows) == (is_full, 14)
    assert bucket.is_real().sum() == sum(lengths)
