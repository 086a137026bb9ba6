"""Shards are the view, frozen: same rows, same bytes whatever the workers or the interruptions."""

import dataclasses
import json
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from lmdata import examples as module
from lmdata.config import changes
from lmdata.dataset import open_examples, open_store
from lmdata.errors import ConfigError, DatasetError, MismatchError, OutputError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES, Recipe
from lmdata.schema import read_settings
from lmdata.views import view
from tests.lmdata.builds import all_bytes, build, random_documents, write_corpus

NSP = Recipe(view="nsp", max_seq_length=32, duplicates=3)


def make_sentences(num_documents, seed=0):
    """Documents of several short sentences; every fifth has only one."""
    plain = random_documents(num_documents, seed)
    return [
        text.replace(" the", ". The").replace(" one", "! One") if index % 5 else text
        for index, text in enumerate(plain)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    corpus = write_corpus(
        folder / "corpus", {"a.txt": make_sentences(97), "b.txt": make_sentences(41, 1)}
    )
    build(corpus, folder / "tokens", validation_ratio=0.1)
    return folder / "tokens"


@pytest.mark.parametrize(
    "recipe",
    [
        NSP,
        dataclasses.replace(NSP, balance_nsp=True, corruption="whole-word"),
        dataclasses.replace(NSP, compat="bert"),
        Recipe(view="sop", corruption="ngram", max_seq_length=32),
        Recipe(view="single", corruption="span", max_seq_length=23),
        Recipe(view="packed", count="bernoulli", max_seq_length=64, duplicates=2),
        Recipe(view="packed", corruption="none", max_seq_length=64),
    ],
    ids=lambda recipe: f"{recipe.view}-{recipe.corruption}",
)
def test_row_i_of_the_shards_is_example_i_of_the_view(store, tmp_path, recipe):
    manifest = write_examples(store, recipe, tmp_path / "shards", seed=5, epoch=2, shard_bytes=9000)
    assert read_settings(manifest).recipe == recipe
    for split in ("train", "validation"):
        expected = view(open_store(store, split), recipe, seed=5, epoch=2)
        found = open_examples(tmp_path / "shards", split, verify="hashes")
        rows = np.arange(len(expected))
        assert len(found) == len(expected)
        frozen, fresh = found.rows(rows), expected.examples(rows)
        for name, array in frozen.arrays().items():
            np.testing.assert_array_equal(array, fresh.arrays()[name], name)
    assert len(manifest.splits["train"]) > 1


def test_the_bytes_do_not_depend_on_workers_or_tasks(store, tmp_path, monkeypatch):
    write_examples(store, NSP, tmp_path / "one", seed=1, num_workers=1, shard_bytes=7000)
    monkeypatch.setattr(module, "_TASK_TOKENS", 700)
    write_examples(store, NSP, tmp_path / "three", seed=1, num_workers=3, shard_bytes=7000)
    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "three")


@pytest.mark.parametrize("calls", [1, 5, 11, 29])
def test_a_build_that_was_killed_continues_to_the_same_bytes(store, tmp_path, monkeypatch, calls):
    arguments = {"seed": 1, "shard_bytes": 5000}
    write_examples(store, NSP, tmp_path / "whole", **arguments)
    monkeypatch.setattr(module, "_TASK_TOKENS", 300)
    seen = []

    def die(done, total):
        seen.append(done)
        if len(seen) == calls:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(store, NSP, tmp_path / "cut", progress=die, **arguments)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.arrow")}
    write_examples(store, NSP, tmp_path / "cut", **arguments)
    assert all_bytes(tmp_path / "whole") == all_bytes(tmp_path / "cut")
    for name, time in kept.items():
        assert (tmp_path / "cut" / name).stat().st_mtime_ns == time, f"{name} was made again"


KILLED = """
import os, signal, sys
from pathlib import Path
from lmdata.examples import write_examples
from lmdata.recipes import Recipe

def die(done, total):
    if done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

recipe = Recipe(view="nsp", max_seq_length=32, duplicates=3)
write_examples(sys.argv[1], recipe, sys.argv[2], seed=1, shard_bytes=5000, progress=die)
"""


def test_a_process_that_was_killed_outright_leaves_a_build_to_continue(store, tmp_path):
    write_examples(store, NSP, tmp_path / "whole", seed=1, shard_bytes=5000)
    for done in (1, 400):
        command = [sys.executable, "-c", KILLED, str(store), str(tmp_path / "cut"), str(done)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "manifest.json").exists()
    write_examples(store, NSP, tmp_path / "cut", seed=1, shard_bytes=5000)
    assert all_bytes(tmp_path / "whole") == all_bytes(tmp_path / "cut")


def test_a_shard_that_was_damaged_before_continuing_is_made_again(store, tmp_path):
    write_examples(store, NSP, tmp_path / "whole", seed=1, shard_bytes=5000)

    def die(done, total):
        if len(list((tmp_path / "cut").glob("*.arrow"))) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(store, NSP, tmp_path / "cut", seed=1, shard_bytes=5000, progress=die)
    first = tmp_path / "cut" / "train-00000.arrow"
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    write_examples(store, NSP, tmp_path / "cut", seed=1, shard_bytes=5000)
    assert all_bytes(tmp_path / "whole") == all_bytes(tmp_path / "cut")


def interrupt(done, total):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"epoch": 1}, "epoch was 0, is 1"),
        ({"shard_bytes": 6000}, "shard_bytes was 5000, is 6000"),
        ({"recipe": dataclasses.replace(NSP, mlm_probability=0.2)},
         r"recipe.mlm_probability was 0.15, is 0.2"),
    ],
)  # fmt: skip
def test_another_plan_is_refused_by_name(store, tmp_path, change, message):
    settings = {"recipe": NSP, "seed": 1, "shard_bytes": 5000}
    with pytest.raises(KeyboardInterrupt):
        write_examples(store, output=tmp_path / "out", progress=interrupt, **settings)
    with pytest.raises(MismatchError, match=message):
        write_examples(store, output=tmp_path / "out", **{**settings, **change})


def test_a_finished_dataset_is_not_overwritten_unless_asked(store, tmp_path):
    write_examples(store, NSP, tmp_path / "out", seed=1)
    with pytest.raises(OutputError, match="--overwrite"):
        write_examples(store, NSP, tmp_path / "out", seed=2)
    manifest = write_examples(store, NSP, tmp_path / "out", seed=2, overwrite=True)
    assert manifest.configuration["seed"] == 2


def test_the_ledger_says_where_every_token_went(store, tmp_path):
    manifest = write_examples(store, NSP, tmp_path / "out", seed=1)
    flows = manifest.ledger.flows
    num_tokens = sum(open_store(store, split).num_tokens for split in manifest.splits)
    assert flows["tokens"].read == 3 * num_tokens
    assert set(flows["tokens"].dropped) == {"cut to max_seq_length"}
    assert flows["documents"].read == 138
    assert any("drawn again as random second segments" in note for note in manifest.notes)


def test_packed_rows_lose_no_token(store, tmp_path):
    recipe = Recipe(view="packed", max_seq_length=64)
    flow = write_examples(store, recipe, tmp_path / "out", seed=1).ledger.flows["tokens"]
    assert flow.read == flow.total_written
    assert flow.dropped == {}


def test_sentence_order_names_the_documents_without_neighbours(store, tmp_path):
    recipe = Recipe(view="sop", max_seq_length=32)
    flows = write_examples(store, recipe, tmp_path / "out", seed=1).ledger.flows
    assert flows["documents"].dropped["one sentence, no pair"] > 0
    flow = flows["tokens"]
    assert flow.read == flow.total_written + flow.total_dropped


def test_one_document_gives_no_random_pairs_and_a_note(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["The cat sat. The dog ran. One tree."]})
    build(corpus, tmp_path / "tokens", validation_ratio=0)
    manifest = write_examples(tmp_path / "tokens", NSP, tmp_path / "out", seed=1)
    labels = open_examples(tmp_path / "out").rows(np.arange(3)).next_sentence_label
    assert not labels.any()
    assert any("no pair is labelled random" in note for note in manifest.notes)


def test_a_split_without_pairs_is_a_note_and_a_train_split_an_error(tmp_path):
    lines = ["the cat sat"] * 60 + ["The cat. The dog."] * 3
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": [f"{i} {x}" for i, x in enumerate(lines)]})
    build(corpus, tmp_path / "tokens", validation_ratio=0.05, seed=3)
    manifest = write_examples(tmp_path / "tokens", NSP, tmp_path / "out", seed=1)
    assert "train" in manifest.splits
    if "validation" not in manifest.splits:
        assert any(note.startswith("validation: no examples") for note in manifest.notes)
    corpus = write_corpus(tmp_path / "lone", {"a.txt": ["the cat sat", "the dog ran"]})
    build(corpus, tmp_path / "lone-tokens", validation_ratio=0)
    with pytest.raises(DatasetError, match="none of the 2 documents has two"):
        write_examples(tmp_path / "lone-tokens", NSP, tmp_path / "nothing", seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": dataclasses.replace(NSP, mlm_probability=(0.3, 0.15))}, "must be one number"),
        ({"num_workers": 0}, "num_workers must be at least 1, got 0"),
        ({"shard_bytes": 0}, "shard_bytes must be at least 1, got 0"),
    ],
)
def test_settings_without_sense_are_refused(store, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        write_examples(store, output=tmp_path / "out", **{"recipe": NSP, "seed": 1, **settings})


def test_shards_open_in_polars_and_pyarrow(store, tmp_path):
    manifest = write_examples(store, NSP, tmp_path / "out", seed=1)
    frame = pl.scan_ipc(tmp_path / "out" / "train-*.arrow").collect()
    assert frame.height == manifest.num_rows("train")
    with pa.memory_map(str(tmp_path / "out" / "train-00000.arrow")) as file:
        assert pa.ipc.open_file(file).schema.names == frame.columns
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (tmp_path / "out" / written["configuration"]["store"]).resolve() == store.resolve()


def test_no_labels_are_null_on_disk(store, tmp_path):
    write_examples(store, RECIPES["roberta"], tmp_path / "out", seed=1)
    frame = pl.scan_ipc(tmp_path / "out" / "train-*.arrow").collect()
    assert frame["next_sentence_label"].null_count() == frame.height


def test_differences_between_settings_are_named_from_the_outside_in():
    begun, now = {"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}, "d": 4}
    assert list(changes(begun, now)) == [("b.c", [1, 2], [1, 3]), ("d", None, 4)]
