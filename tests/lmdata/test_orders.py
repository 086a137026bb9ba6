"""Orders of factorisation: what they hold, that they are addressed, and broken ones refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lmdata.batch import ExampleBatch
from lmdata.dataset import open_examples, open_store
from lmdata.examples import write_examples
from lmdata.masking import draw_orders
from lmdata.recipes import Recipe
from lmdata.show import show_example
from lmdata.verification import verify_dataset
from lmdata.views import view
from references.pretraining import make_documents, make_store, make_tokenizer
from tests.contracts import check_view
from tests.lmdata.test_statistics import failed, make_batch
from tests.lmmodel.conftest import make_store as write_store

RECIPE = Recipe(view="packed", corruption="permutation", max_seq_length=64, mlm_probability=0.166)


@pytest.fixture(scope="module")
def store():
    documents = make_documents(7, 600, vocab_size=1000)
    return make_store(documents, tokenizer=make_tokenizer(1000, set(range(700, 1000))))


def segments_of(batch: ExampleBatch) -> dict[tuple[int, ...], tuple[list[int], list[int]]]:
    """Return orders and places to predict of each segment, by its ids."""
    flat = np.zeros(len(batch.input_ids), bool)
    flat[batch.flat_masked_positions()] = True
    cuts = np.cumsum(batch.segment_lengths)[:-1]
    parts = (np.split(array, cuts) for array in (batch.input_ids, batch.orders, flat))
    return {
        tuple(ids.tolist()): (orders.tolist(), np.flatnonzero(asked).tolist())
        for ids, orders, asked in zip(*parts, strict=True)
    }


@pytest.mark.parametrize("name", ["packed", "single", "nsp"])
def test_orders_keep_the_contract_of_views(name) -> None:
    recipe = dataclasses.replace(RECIPE, view=name)
    tokenizer = make_tokenizer(1000, continues=set(range(500, 1000)))
    documents = make_documents(11, 7)
    check_view(
        lambda epoch: view(make_store(documents, tokenizer=tokenizer), recipe, seed=3, epoch=epoch)
    )


def test_text_stays_as_it_is_and_what_is_asked_comes_last_in_whole_words(store) -> None:
    batch = make_batch(store, RECIPE)
    plain = make_batch(store, dataclasses.replace(RECIPE, corruption="whole-word"))
    np.testing.assert_array_equal(batch.input_ids, plain.original_ids())
    np.testing.assert_array_equal(batch.input_ids[batch.flat_masked_positions()],
                                  batch.masked_labels)  # fmt: skip
    asked = np.zeros(len(batch.input_ids), bool)
    asked[batch.flat_masked_positions()] = True
    special = store.tokenizer.is_special[batch.input_ids]
    np.testing.assert_array_equal(batch.orders > 0, asked | special)
    goes_on = (batch.input_ids >= 700)[1:] & ~special[:-1]
    assert (asked[1:] == asked[:-1])[goes_on].all()
    assert 0.14 < asked.mean() < 0.17


def test_an_order_is_the_same_however_segments_are_packed(store) -> None:
    packed = segments_of(make_batch(store, RECIPE))
    alone = segments_of(make_batch(store, dataclasses.replace(RECIPE, view="single")))
    longer = segments_of(make_batch(store, dataclasses.replace(RECIPE, max_seq_length=70)))
    for other in (alone, longer):
        common = packed.keys() & other.keys()
        assert len(common) > 300
        assert all(packed[key] == other[key] for key in common)
    next_epoch = segments_of(make_batch(store, RECIPE, epoch=1))
    assert np.mean([packed[key] == next_epoch[key] for key in packed]) < 0.05
    twice = make_batch(store, dataclasses.replace(RECIPE, duplicates=2, shuffle=False))
    first, second = (segments_of(twice.take(np.flatnonzero(twice.duplicate == n))) for n in (0, 1))
    assert np.mean([first[key] == second[key] for key in first]) < 0.05


def test_every_order_is_as_likely_and_the_order_of_places_is_refused(store) -> None:
    key, many = (5, 6), np.arange(60_000)
    orders = draw_orders(np.ones(180_000, bool), 3 * np.arange(60_001), (many, many), key)
    _, counts = np.unique(orders.reshape(-1, 3), axis=0, return_counts=True)
    assert len(counts) == 6
    assert abs(counts - 10_000).max() < 5 * np.sqrt(60_000 * 5 / 36)
    batch = make_batch(store, RECIPE)
    assert not failed(batch, RECIPE, store)
    cuts = np.cumsum(batch.segment_lengths)[:-1]
    in_place = [np.where(o > 0, np.cumsum(o > 0), 0) for o in np.split(batch.orders, cuts)]
    broken = batch.replace(orders=np.concatenate(in_place).astype(np.uint16))
    assert failed(broken, RECIPE, store) == {"share of neighbours in rising order"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda b: {"orders": b.orders + (b.orders > 2).astype(np.uint16)}, "order is none"),
        (lambda b: {"orders": np.roll(b.orders, 1)}, "order is none"),
        (lambda b: {"input_ids": np.where(b.input_ids == 77, 78, b.input_ids)}, "share kept"),
        (lambda b: {"masked_positions": b.masked_positions[::-1].copy()}, "out of order or range"),
    ],
)
def test_damaged_orders_are_caught(store, change, name) -> None:
    batch = make_batch(store, RECIPE)
    broken = batch.replace(**change(batch))
    assert any(name in message for message in failed(broken, RECIPE, store))


def test_settings_without_effect_are_refused() -> None:
    for settings, message in (
        ({"mask_proportion": 0.5, "keep_proportion": 0.4}, "mask_proportion=0.5 has no effect"),
        ({"count": "bernoulli"}, "count=bernoulli has no effect"),
        ({"coverage": "balanced"}, "coverage=balanced has no effect"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(RECIPE, **settings)


def test_frozen_orders_are_those_of_the_view_verified_and_shown(tmp_path) -> None:
    tokens = write_store(tmp_path / "data", num_documents=60)
    recipe = dataclasses.replace(RECIPE, max_seq_length=32)
    write_examples(tokens, recipe, tmp_path / "shards", seed=4)
    examples = open_examples(tmp_path / "shards")
    part = view(open_store(tokens), recipe, seed=4)
    frozen = examples.rows(np.arange(len(examples))).arrays()
    computed = part.examples(np.arange(len(part))).arrays()
    assert frozen.keys() == computed.keys()
    for name, array in computed.items():
        np.testing.assert_array_equal(frozen[name], array, name)
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, [row for row in report.rows if row.verdict == "fail"]
    assert any("rising order" in row.name for row in report.rows)
    shown = show_example(examples, 0)
    assert "asked (" in shown
    assert "[CLS]:" in shown
    asked = examples.rows(np.array([0]))
    numbers = asked.orders[asked.flat_masked_positions()]
    assert all(f":{number}>" in shown for number in numbers.tolist())
