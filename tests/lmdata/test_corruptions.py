"""A corruption is one entry: this file adds one with columns of its own, and edits nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lmdata.batch import COLUMNS, SEGMENT_LENGTHS, Column, ExampleBatch, concatenate
from lmdata.dataset import open_examples, open_store
from lmdata.errors import TokenizerError
from lmdata.examples import write_examples
from lmdata.masking import prepare_corruption
from lmdata.recipes import CORRUPTIONS, Corruption, Recipe
from lmdata.rng import draw, stream_key
from lmdata.verification import verify_dataset
from lmdata.views import view
from references.pretraining import make_tokenizer
from tests.contracts import assert_equal, check_view
from tests.lmdata.builds import build, random_documents, write_corpus

PLACES = Column("places", "uint16", "token")
NUM_MOVED = Column("num_moved", "int32")
STORED = dataclasses.replace(SEGMENT_LENGTHS, is_stored=True)  # their ends may move


def prepare_shuffled(recipe, tokenizer, *, seed, epoch, id_dtype):
    """Return what permutes the tokens between the ends of each example, and says whence."""
    key = stream_key(seed, "sample", epoch)

    def corrupt(batch: ExampleBatch, addresses, progress: float) -> ExampleBatch:
        places = np.empty(len(batch.input_ids), np.uint16)
        for row in range(len(batch)):
            first, last = batch.offsets[row : row + 2]
            within = np.arange(last - first)
            words = draw(key, addresses[0][row] + 0 * within, within, addresses[1][row])
            words[0], words[-1] = -1, 2**32  # the ends stay
            places[first:last] = np.argsort(words, kind="stable")
        flat = places + np.repeat(batch.offsets[:-1], np.diff(batch.offsets))
        arrays = batch.arrays() | {"input_ids": batch.input_ids[flat]}
        is_moved = arrays["input_ids"] != batch.input_ids
        moved = np.add.reduceat(is_moved, batch.offsets[:-1]) if len(batch) else is_moved
        return ExampleBatch(
            (*COLUMNS, PLACES, NUM_MOVED), **arrays, places=places,
            num_moved=moved.astype(np.int32),
        )  # fmt: skip

    return corrupt


@pytest.fixture
def shuffled(monkeypatch):
    """Make the corruption known; one entry is all it takes."""
    corruption = Corruption(
        prepare=prepare_shuffled, columns=(PLACES, NUM_MOVED, STORED), is_undone_by_labels=False
    )
    monkeypatch.setitem(CORRUPTIONS, "shuffled", corruption)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    corpus = write_corpus(folder / "corpus", {"a.txt": random_documents(31)})
    build(corpus, folder / "tokens", validation_ratio=0.1)
    return folder / "tokens"


@pytest.mark.parametrize("name", ["nsp", "sop", "single", "packed"])
def test_an_added_corruption_goes_the_whole_road(shuffled, store, tmp_path, name):
    if name in ("nsp", "sop"):
        corpus = write_corpus(tmp_path / "c", {"a.txt": ["The cat sat. A dog ran. One mat."] * 9})
        build(corpus, tmp_path / "tokens", validation_ratio=0)
        store = tmp_path / "tokens"
    recipe = Recipe(view=name, corruption="shuffled", max_seq_length=32)
    opened = open_store(store)
    check_view(lambda epoch: view(opened, recipe, seed=5, epoch=epoch))
    write_examples(store, recipe, tmp_path / "shards", seed=5)
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, [row for row in report.rows if row.verdict == "fail"]
    shards = open_examples(tmp_path / "shards")
    rows = np.arange(len(shards))
    found, fresh = shards.rows(rows), view(opened, recipe, seed=5).examples(rows)
    for column in (PLACES, NUM_MOVED):
        np.testing.assert_array_equal(found.arrays()[column.name], fresh.arrays()[column.name])
    assert found.num_moved.sum() > 0
    half = len(rows) // 2
    assert_equal(concatenate([found.slice(0, half), found.slice(half, len(rows))]), found)
    assert_equal(found.take(rows[::-1]).take(rows[::-1]), found)


def test_a_corruption_uses_the_settings_it_has_and_no_others(shuffled):
    assert Recipe(corruption="shuffled", mlm_probability=0.3).mlm_probability == 0.3
    with pytest.raises(ValueError, match="max_predictions=7 has no effect"):
        Recipe(corruption="shuffled", max_predictions=7)
    with pytest.raises(ValueError, match=r"mlm_probability=0.3 has no effect"):
        Recipe(view="packed", corruption="none", mlm_probability=0.3)


def test_text_that_stays_as_it_is_needs_nothing_of_the_tokenizer():
    tokenizer = make_tokenizer(5)  # special tokens only: nothing to mask
    plain = Recipe(view="packed", corruption="none")
    assert prepare_corruption(plain, tokenizer, 1, 0) is None
    with pytest.raises(TokenizerError, match="there is nothing to mask"):
        prepare_corruption(Recipe(), tokenizer, 1, 0)
