import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.batch import (
    IGNORED,
    Batch,
    Labels,
    make_batch,
    make_stream,
    pad_batch,
    spare_sequences,
)
from lmmodel.packing import deal_rows


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
    for one, other in zip(tensors_of(batch), tensors_of(padded), strict=True):
        assert torch.equal(one, other)


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """Return every tensor of a batch."""
    found = [*batch.sequence_labels.values(), batch.addresses]
    for stream in batch.streams.values():
        found += [stream.input_ids, stream.token_type_ids, stream.position_ids, stream.cu_seqlens]
        found += [tensor for own in stream.labels.values() for tensor in (own.rows, own.values)]
    return found


def source_and_target() -> Batch:
    """Two sequences of each: the first source is empty, and so is the second target."""
    source = make_stream(torch.tensor([5, 6, 7]), torch.tensor([0, 3]))
    target = make_stream(
        torch.tensor([8, 9]), torch.tensor([2, 0]),
        labels={"next": Labels(torch.tensor([0]), torch.tensor([9]))},
    )  # fmt: skip
    return Batch(
        streams={"source": source, "target": target}, sequence_labels={},
        addresses=torch.tensor([[0, 4, 0], [0, 7, 0]]),
    )  # fmt: skip


@pytest.mark.parametrize("make", [small_batch, lambda: source_and_target()])
def test_every_tensor_of_every_stream_moves(make) -> None:
    batch = make()
    moved = batch.to("meta")
    assert len(tensors_of(moved)) == len(tensors_of(batch)) > 5
    assert all(tensor.device.type == "meta" for tensor in tensors_of(moved))
    assert all(tensor.device.type == "cpu" for tensor in tensors_of(batch))


def test_streams_are_padded_side_by_side() -> None:
    batch = source_and_target()
    assert (batch.num_tokens, batch.num_sequences, batch.num_labels) == (5, 2, 1)
    padded = pad_batch(batch, num_tokens=4, num_sequences=4, num_masked=3)
    assert padded.streams["source"].cu_seqlens.tolist() == [0, 0, 3, 4, 4]
    assert padded.streams["target"].cu_seqlens.tolist() == [0, 2, 2, 4, 4]
    assert padded.streams["target"].labels["next"].values.tolist() == [9, IGNORED, IGNORED]
    assert padded.addresses.tolist() == [[0, 4, 0], [0, 7, 0], [-1] * 3, [-1] * 3]
    with pytest.raises(ValueError, match="unpack"):
        _ = batch.stream  # there is no only one


def test_a_batch_without_labels_has_none_anywhere() -> None:
    for batch in (small_batch(), source_and_target()):
        idle = batch.without_labels()
        labels = [own for stream in idle.streams.values() for own in stream.labels.values()]
        assert all((own.values == IGNORED).all() for own in labels)
        assert all((values == IGNORED).all() for values in idle.sequence_labels.values())
        assert idle.num_labels == batch.num_labels


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
