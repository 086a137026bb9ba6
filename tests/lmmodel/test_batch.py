import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.batch import IGNORED, deal_rows, make_batch, pad_batch, spare_sequences


def small_batch():
    return make_batch(
        torch.arange(5, 15), torch.tensor([3, 7]), token_type_ids=torch.arange(10) % 2,
        masked_positions=torch.tensor([1, 8]), masked_labels=torch.tensor([2, 3]),
        next_sentence_label=torch.tensor([0, 1]),
    )  # fmt: skip


def test_positions_count_from_each_sequences_start() -> None:
    batch = small_batch()
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
    assert batch.first_positions.tolist() == [0, 3]
    assert (batch.num_tokens, batch.num_sequences, batch.max_seqlen) == (10, 2, 7)


def test_padding_adds_sequences_without_labels() -> None:
    padded = pad_batch(small_batch(), num_tokens=19, num_sequences=6, num_masked=5, pad_id=1)
    assert padded.input_ids.tolist() == [*range(5, 15), *[1] * 9]
    assert padded.cu_seqlens.tolist() == [0, 3, 10, 17, 19, 19, 19]
    assert padded.cu_seqlens.dtype == torch.int32
    assert padded.position_ids.tolist()[10:] == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert padded.masked_positions.tolist() == [1, 8, 0, 0, 0]
    assert padded.masked_labels.tolist() == [2, 3, IGNORED, IGNORED, IGNORED]
    assert padded.next_sentence_label.tolist() == [0, 1, *[IGNORED] * 4]
    assert int(padded.first_positions.max()) < padded.num_tokens


def test_padding_to_the_same_shape_changes_nothing() -> None:
    batch = small_batch()
    padded = pad_batch(batch, num_tokens=10, num_sequences=2, num_masked=2)
    for name, value in vars(batch).items():
        other = getattr(padded, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_moving_keeps_every_field() -> None:
    moved = small_batch().to("cpu", non_blocking=True)
    assert vars(moved).keys() == vars(small_batch()).keys()
    assert moved.max_seqlen == 7


def test_spare_sequences_cover_the_added_tokens() -> None:
    assert [spare_sequences(n, 3) for n in range(5)] == [0, 1, 1, 1, 2]


def test_what_does_not_fit_is_refused() -> None:
    batch = small_batch()
    for shape in ((9, 6, 5), (19, 3, 5), (19, 6, 1)):
        with pytest.raises(ValueError, match="a batch of 10 tokens, 2 sequences and 2 labels"):
            pad_batch(batch, num_tokens=shape[0], num_sequences=shape[1], num_masked=shape[2])


def test_lengths_that_do_not_sum_to_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence lengths sum to 3, but there are 4 tokens"):
        make_batch(torch.zeros(4, dtype=torch.int64), torch.tensor([3]))


def test_a_sequence_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 4 tokens is longer than max_seqlen=3"):
        make_batch(torch.zeros(4, dtype=torch.int64), torch.tensor([4]), max_seqlen=3)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=50),
    most=st.integers(1, 200),
    num_groups=st.integers(0, 9),
)
def test_rows_are_dealt_completely_and_no_group_is_too_large(
    lengths: list[int], most: int, num_groups: int
) -> None:
    array = np.array(lengths)
    groups = deal_rows(array, most, num_groups)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert len(groups) >= min(num_groups, len(lengths))
    for group in groups:
        assert array[group].sum() <= most or len(group) == 1
        assert array[group].tolist() == sorted(array[group].tolist())
    if max(lengths) <= most:  # each takes turns with the longest and the shortest
        totals = [int(array[group].sum()) for group in groups]
        assert max(totals) - min(totals) <= max(lengths)
