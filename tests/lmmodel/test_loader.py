"""batch(step): pure, complete, packed without padding, the same in every split of the work."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmdata.batch import ExampleBatch
from lmmodel.config import load_train_config
from lmmodel.data import ShardRows, open_data
from lmmodel.device import Processes, resolve_device
from lmmodel.errors import FitError
from lmmodel.loader import Prefetcher, Shape, split_micro_batches
from lmmodel.packing import cut_rows
from lmmodel.training.plan import make_loader, resolve_config


@pytest.fixture
def make(tiny, store):
    """Return a function from overrides and processes to a loader."""

    def loader(*overrides, path=store, processes=None):
        config, data = tiny(*overrides), open_data(path)
        if data.is_frozen:
            config = dataclasses.replace(config, recipe=None)
        processes = processes or Processes()
        resolved = resolve_config(config, data, resolve_device("cpu"), processes)
        return make_loader(resolved, data, 100, processes)

    return loader


def token_bags(batch) -> list[tuple[int, ...]]:
    """Return the sequences of a step, sorted, whatever the micro-batches."""
    bags = []
    for micro in batch.micro_batches:
        ends = micro.batch.cu_seqlens.tolist()
        ids = micro.batch.input_ids.tolist()
        bags += [tuple(ids[a:b]) for a, b in itertools.pairwise(ends)]
    return sorted(bags)


def test_a_step_is_the_same_whenever_it_is_asked_for(make):
    loader, other = make(), make()
    for step in (7, 0, 23, 7):
        first, second = loader.batch(step), other.batch(step)
        assert token_bags(first) == token_bags(second)
        assert np.array_equal(first.num_labels, second.num_labels)


def test_micro_batches_hold_at_most_their_tokens_without_padding(make):
    batch = make("batch.micro_batch_tokens=70").batch(0)
    sizes = [micro.batch.num_tokens for micro in batch.micro_batches]
    assert max(sizes) <= 70
    assert sum(sizes) == batch.num_tokens
    for micro in batch.micro_batches:
        assert int(micro.batch.cu_seqlens[-1]) == micro.batch.num_tokens
        lengths = np.diff(micro.batch.cu_seqlens.numpy()).tolist()
        assert lengths == sorted(lengths)


def test_labels_stay_with_their_tokens_in_every_cut(make):
    def labelled(tokens: int) -> list[tuple[tuple[int, ...], int, int]]:
        found = []
        for micro in make(f"batch.micro_batch_tokens={tokens}").batch(3).micro_batches:
            batch = micro.batch
            ends = batch.cu_seqlens.numpy()
            rows = np.searchsorted(ends, batch.masked_positions.numpy(), side="right") - 1
            for row, position, label in zip(
                rows, batch.masked_positions.tolist(), batch.masked_labels.tolist(), strict=True
            ):
                ids = tuple(batch.input_ids[ends[row] : ends[row + 1]].tolist())
                found.append((ids, position - int(ends[row]), label))
        return sorted(found)

    assert labelled(40) == labelled(200) == labelled(10_000)


@pytest.mark.parametrize("kind", ["store", "shards"])
def test_an_epoch_visits_every_row_once_in_an_order_of_its_own(make, request, kind):
    loader = make(path=request.getfixturevalue(kind))
    num_rows, size = loader.stages[0].rows.num_rows, 12
    seen: dict[int, list[int]] = {}
    for step in range(2 * num_rows // size + 1):
        for epoch, rows in loader.batch(step).rows:
            seen.setdefault(epoch, []).extend(rows.tolist())
    assert seen[0] == seen[1] == list(range(num_rows))
    first, second = (token_bags(loader.batch(step)) for step in (0, num_rows // size + 1))
    assert first != second


def test_frozen_rows_are_permuted_by_epoch(shards):
    data = open_data(shards)
    rows = data.rows("train", recipe_or_any_config(), seed=1)
    assert isinstance(rows, ShardRows)
    everything = np.arange(rows.num_rows)
    documents = [rows.take(epoch, everything).document_a for epoch in (0, 1)]
    assert not np.array_equal(*documents)
    assert np.array_equal(np.sort(documents[0]), np.sort(documents[1]))


def recipe_or_any_config():
    from lmdata.recipes import Recipe

    return Recipe()


def test_processes_share_a_step_without_overlap(make):
    whole = make().batch(5)
    halves = [make(processes=Processes(rank=rank, size=2)).batch(5) for rank in range(2)]
    assert sorted([*token_bags(halves[0]), *token_bags(halves[1])]) == token_bags(whole)
    assert sum(half.num_labels for half in halves).tolist() == whole.num_labels.tolist()


def test_a_batch_size_that_no_stage_uses_is_not_checked(make):
    """12 can't be shared by 5, but no step has 12 examples."""
    loader = make("stages=[{until=1, batch_size=25}]", processes=Processes(rank=1, size=5))
    assert sum(len(rows) for _, rows in loader.batch(0).rows) == 5


def test_hybrid_rows_are_split_between_its_parts(make):
    overrides = ("objective.name=hybrid", "recipe.view=packed", "batch.size=40")
    batch = make(*overrides).batch(0)
    tokens = [0, 0]
    for micro in batch.micro_batches:
        tokens[micro.part] += micro.batch.num_tokens
    assert min(tokens) > 0
    assert sum(tokens) == batch.num_tokens


def test_a_step_may_have_no_row_of_one_part(make):
    overrides = ("objective.name=hybrid", "recipe.view=packed", "batch.size=2")
    for cut in ("batch.min_micro_batches=1", "batch.min_micro_batches=2"):
        loader = make(*overrides, cut)
        parts = [{m.part for m in loader.batch(step).micro_batches} for step in range(20)]
        assert {0} in parts
        assert {0, 1} in parts


def test_a_static_shape_has_room_for_the_longest_example(make):
    overrides = ("objective.name=clm", "recipe.view=packed", "recipe.corruption=none")
    loader = make(*overrides, "compile=true", "batch.micro_batch_tokens=16")
    assert {micro.batch.num_tokens for micro in loader.batch(0).micro_batches} == {32}


def test_a_view_of_another_thread_is_not_taken_for_ones_own(make):
    """While one thread turns to epoch 1, another one goes on to epoch 2."""
    rows = make().stages[0].rows
    numbers, later = np.arange(8), rows._view.at_epoch(2)
    expected = rows._view.at_epoch(1).examples(numbers).input_ids

    class Interrupted:
        epoch = 0

        def at_epoch(self, epoch):
            return Slow(later.at_epoch(epoch))

    class Slow:
        def __init__(self, view):
            self.view = view

        def __len__(self):
            rows._view = later
            return len(self.view)

        def examples(self, *args, **options):
            return self.view.examples(*args, **options)

    rows._view = Interrupted()
    assert rows.take(1, numbers).input_ids.tolist() == expected.tolist()


def test_static_shapes_are_all_equal(make):
    loader = make("compile=true", "batch.micro_batch_tokens=256")
    shapes = {
        (micro.batch.num_tokens, micro.batch.num_sequences, len(micro.batch.masked_positions))
        for step in range(5)
        for micro in loader.batch(step).micro_batches
    }
    assert len(shapes) == 1


def test_an_error_in_the_background_is_raised_in_the_loop(make):
    loader = make()

    class Broken:
        num_rows = 50

        def take(self, *_):
            raise OSError("disk on fire")

    broken = dataclasses.replace(
        loader, stages=(dataclasses.replace(loader.stages[0], rows=Broken()),)
    )
    batches = Prefetcher(broken, 0)
    with pytest.raises(OSError, match="disk on fire"):
        next(batches)
    batches.close()


def test_prefetched_steps_are_those_asked_for(make):
    loader = make()
    for depth in (0, 3):
        batches = Prefetcher(loader, 4, depth)
        steps = [next(batches) for _ in range(3)]
        batches.close()
        assert [batch.step for batch in steps] == [4, 5, 6]
        assert token_bags(steps[2]) == token_bags(loader.batch(6))


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=40),
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=40),
    most=st.tuples(st.integers(1, 60), st.integers(1, 15)),
)
def test_cuts_are_complete_and_as_large_as_allowed(lengths, labels, most):
    amounts = [(np.array(lengths), most[0]), (np.array(labels[: len(lengths)]), most[1])]
    ends = cut_rows(amounts)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(lengths)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        fits = all(amount[start:end].sum() <= limit for amount, limit in amounts)
        assert fits or end == start + 1
        if end < len(lengths):
            assert any(amount[start : end + 1].sum() > limit for amount, limit in amounts)


def make_ragged(lengths: list[int]) -> ExampleBatch:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    masks = np.array([length // 2 for length in lengths])
    return ExampleBatch(
        input_ids=np.arange(offsets[-1], dtype=np.uint16),
        offsets=offsets,
        token_type_ids=(np.arange(offsets[-1]) % 2).astype(np.uint8),
        masked_positions=np.concatenate([np.arange(n) for n in masks]).astype(np.uint16),
        mask_offsets=np.concatenate([[0], np.cumsum(masks)]),
        masked_labels=np.arange(masks.sum(), dtype=np.uint16),
        next_sentence_label=np.zeros(len(lengths), np.int8),
        document_a=np.arange(len(lengths), dtype=np.uint64),
        document_b=np.arange(len(lengths), dtype=np.uint64),
        duplicate=np.zeros(len(lengths), np.uint16),
        segment_lengths=np.array(lengths, np.int32),
        segment_offsets=np.arange(len(lengths) + 1),
    )


def test_an_example_longer_than_a_micro_batch_is_one_of_its_own():
    batches = split_micro_batches(make_ragged([3, 11, 4]), Shape(7))
    assert [batch.num_tokens for batch in batches] == [7, 11]
    assert torch.equal(batches[1].input_ids, torch.arange(3, 14, dtype=torch.int32))


def test_an_empty_split_is_an_error_that_says_what_to_do(store):
    data = open_data(store)
    with pytest.raises(FitError, match=r"split test of .* is empty \(splits there: train, valid"):
        data.rows("test", recipe_or_any_config(), seed=0)
    empty = dataclasses.replace(data, manifest=dataclasses.replace(data.manifest, splits={}))
    with pytest.raises(FitError, match=r"set evaluation.num_examples=0"):
        empty.held_out(recipe_or_any_config(), 5)


def test_frozen_shards_take_no_recipe_and_fit_the_objective(tiny, shards, store):
    from lmdata.errors import ConfigError

    data, device = open_data(shards), resolve_device("cpu")
    with pytest.raises(ConfigError, match=r"recipe has no effect: .* holds frozen examples"):
        resolve_config(tiny(), data, device, Processes())
    frozen = dataclasses.replace(tiny(), recipe=None)
    assert resolve_config(frozen, data, device, Processes()).recipe is None
    short = dataclasses.replace(
        frozen, model=dataclasses.replace(frozen.model, max_position_embeddings=16)
    )
    with pytest.raises(FitError, match="up to 32 tokens, the model takes 16"):
        resolve_config(short, data, device, Processes())
    order = dataclasses.replace(
        frozen, objective=dataclasses.replace(frozen.objective, name="mlm+sop")
    )
    with pytest.raises(
        FitError, match=r"holds other examples: .* learns from recipe.view=sop, got nsp"
    ):
        resolve_config(order, data, device, Processes())
    staged = dataclasses.replace(frozen, stages=tiny("stages=[{until=1.0}]").stages)
    with pytest.raises(ConfigError, match="stages need a token store"):
        resolve_config(staged, data, device, Processes())
    with pytest.raises(ConfigError, match="batch size 12 can't be shared by 5 processes"):
        resolve_config(tiny(), open_data(store), device, Processes(size=5))


@pytest.mark.parametrize(
    ("family", "device", "expected"),
    [("bert", "cpu", (32, 0.15)), ("modern", "cpu", (16, 0.3)), ("modern", "cuda", (256, 0.3))],
)
def test_rows_and_masks_are_those_a_family_learns_by(store, shards, family, device, expected):
    config = load_train_config(None, [f"model.family={family}"])
    there = torch.device(device)  # nothing is computed on it
    resolved = resolve_config(config, open_data(store), there, Processes())
    assert resolved.recipe is not None
    assert (resolved.batch.size, resolved.recipe.mlm_probability) == expected
    frozen = resolve_config(config, open_data(shards), there, Processes())
    assert (frozen.batch.size, frozen.recipe) == (expected[0], None)


@pytest.mark.parametrize("view", ["packed", "single", "nsp"])
def test_a_token_has_the_same_address_in_every_micro_batch(make, view):
    """Its epoch, row and place there: one token each, whatever the cut and the number of ranks."""
    objective = "mlm+nsp" if view == "nsp" else "mlm"
    wanted = (f"recipe.view={view}", f"objective.name={objective}", "batch.size=8")
    cuts = [("batch.micro_batch_tokens=40",), ("batch.micro_batch_tokens=4096",)]
    found = [
        tokens_by_address([make(*wanted, *cut).batch(step) for step in (0, 30)]) for cut in cuts
    ]
    ranks = [make(*wanted, processes=Processes(rank, 2)) for rank in range(2)]
    found.append(tokens_by_address([rank.batch(step) for step in (0, 30) for rank in ranks]))
    assert found[0] == found[1] == found[2]


def tokens_by_address(batches) -> dict[tuple[int, int, int], int]:
    """Return the id at each address."""
    found: dict[tuple[int, int, int], int] = {}
    for micro in (micro.batch for batch in batches for micro in batch.micro_batches):
        sequence = torch.repeat_interleave(micro.cu_seqlens.diff().long())
        epoch, row, first = micro.addresses[sequence].T
        places = zip(epoch.tolist(), row.tolist(), (first + micro.position_ids).tolist(),
                     strict=True)  # fmt: skip
        for address, token in zip(places, micro.input_ids.tolist(), strict=True):
            assert address not in found
            assert min(address) >= 0
            found[address] = token
    return found
