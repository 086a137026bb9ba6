"""A sound dataset passes every check; each kind of damage is caught, even under right hashes."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from lmdata.errors import IntegrityError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES, Recipe
from lmdata.schema import MANIFEST_NAME, manifest_json, read_manifest, to_json
from lmdata.verification import verify_dataset
from lmdata.writer import ShardFile
from tests.lmdata.builds import (
    build,
    edit_manifest,
    make_tokenizer,
    make_version_1,
    random_documents,
    write_corpus,
)
from tests.lmdata.test_examples import make_sentences

BERT = Recipe(view="nsp", max_seq_length=64, duplicates=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A token store and example shards of it."""
    path = tmp_path_factory.mktemp("datasets")
    corpus = write_corpus(
        path / "corpus", {"a.txt": make_sentences(600), "b.txt": random_documents(50)}
    )
    build(corpus, path / "tokens", validation_ratio=0.05)
    write_examples(path / "tokens", BERT, path / "shards", seed=3)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def failures(report):
    return {row.name for row in report.rows if row.verdict == "fail"}


def rewrite(folder, change, split="train", in_ledger=True):
    """Change the rows of a split's only shard and make every hash and count right again."""
    manifest = read_manifest(folder)
    (record,) = manifest.splits[split]
    with pa.memory_map(str(folder / record.file)) as file:
        table = pa.ipc.open_file(file).read_all()
        columns = {name: table[name].to_pylist() for name in table.column_names}
        schema = table.schema
    change(columns)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    shard = ShardFile(folder / record.file, schema)
    shard.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
    splits = {**manifest.splits, split: (shard.commit(),)}
    changed = dataclasses.replace(manifest, splits=splits)
    (folder / MANIFEST_NAME).write_text(manifest_json(changed))


def test_a_sound_store_and_sound_shards_pass(folder):
    for name, kind in (("tokens", "tokens"), ("shards", "examples")):
        report = verify_dataset(folder / name)
        assert report.passed, failures(report)
        assert report.kind == kind
        assert all(row.verdict == "pass" for row in report.rows)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(view="sop", corruption="ngram", max_seq_length=64),
        Recipe(view="single", corruption="span", max_seq_length=64, duplicates=5),
        Recipe(view="single", corruption="whole-word", count="bernoulli", max_seq_length=64),
        Recipe(view="packed", count="bernoulli", max_seq_length=96, duplicates=3),
        Recipe(view="packed", corruption="none", max_seq_length=96),
        dataclasses.replace(RECIPES["simcse"], max_seq_length=16),
        dataclasses.replace(BERT, balance_nsp=True, corruption="whole-word"),
        dataclasses.replace(BERT, mask_proportion=0.5, random_proportion=0.5, keep_proportion=0),
    ],
    ids=lambda recipe: f"{recipe.view}-{recipe.corruption}-{recipe.count}",
)
def test_sound_shards_of_every_recipe_pass(folder, tmp_path, recipe):
    write_examples(folder / "tokens", recipe, tmp_path / "shards", seed=3)
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, failures(report)


@pytest.mark.parametrize("view", ["nsp", "sop", "packed"])
def test_sound_shards_of_version_1_pass(folder, tmp_path, view):
    recipe = Recipe(view=view, max_seq_length=64)
    write_examples(folder / "tokens", recipe, tmp_path / "shards", seed=3)
    make_version_1(tmp_path / "shards")
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, failures(report)


def test_sound_shards_of_the_script_itself_pass(tmp_path):
    """The script draws [MASK] as a random piece too, which a tiny vocabulary would show."""
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": make_sentences(300)})
    tokenizer = make_tokenizer([f"piece{number}" for number in range(2000)])
    build(corpus, tmp_path / "tokens", tokenizer)
    recipe = dataclasses.replace(BERT, compat="bert")
    write_examples(tmp_path / "tokens", recipe, tmp_path / "shards", seed=3)
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, failures(report)


def shift_labels(columns):
    columns["masked_labels"] = [labels[1:] + labels[:1] for labels in columns["masked_labels"]]


def mask_special(columns):
    ids, positions, labels = (
        columns[n] for n in ("input_ids", "masked_positions", "masked_labels")
    )
    labels[7][0], positions[7][0], ids[7][0] = ids[7][0], 0, 4


def unmask_some(columns):
    """Leave 14 % of the tokens masked instead of 15 %."""
    for ids, positions, labels in zip(
        *(columns[n] for n in ("input_ids", "masked_positions", "masked_labels")), strict=True
    ):
        k = max(1, round(len(ids) * 0.14))
        for position, label in zip(positions[k:], labels[k:], strict=True):
            ids[position] = label
        del positions[k:], labels[k:]


def flip_labels(columns):
    columns["next_sentence_label"] = [1 - label for label in columns["next_sentence_label"]]


def count_twice(columns):
    first = columns["document_a"][0]
    again = [row for row, document in enumerate(columns["document_a"]) if document == first]
    for name, values in columns.items():
        columns[name] = values + [values[row] for row in again]


def put_special(columns):
    ids, positions = columns["input_ids"], columns["masked_positions"]
    ids[3][positions[3][0]] = 2


def always_mask(columns):
    for ids, positions in zip(columns["input_ids"], columns["masked_positions"], strict=True):
        for position in positions:
            ids[position] = 4


def mask_in_front(columns):
    """Put all masks of an example at its beginning."""
    columns_of = (columns[n] for n in ("input_ids", "masked_positions", "masked_labels"))
    for ids, positions, labels in zip(*columns_of, strict=True):
        for position, label in zip(positions, labels, strict=True):
            ids[position] = label
        chosen = [p for p, piece in enumerate(ids) if piece > 4][: len(positions)]
        positions[:], labels[:] = chosen, [ids[p] for p in chosen]
        for rank, position in enumerate(chosen):
            ids[position] = 4 if rank % 10 < 8 else ids[position]


def one_random_piece(columns):
    columns_of = (columns[n] for n in ("input_ids", "masked_positions", "masked_labels"))
    for ids, positions, labels in zip(*columns_of, strict=True):
        for position, label in zip(positions, labels, strict=True):
            if ids[position] not in (4, label):
                ids[position] = 9 if label != 9 else 10


def swap_segments_document(columns):
    columns["document_b"] = [0 for _ in columns["document_b"]]


DAMAGES = {
    shift_labels: ["share kept", "view of the store", "not in their documents"],
    mask_special: ["special tokens masked"],
    unmask_some: ["wrong number of masks", "mask rate"],
    flip_labels: ["pairs labelled against their documents", "ledger"],
    count_twice: ["examples written, counted again", "there twice"],
    put_special: ["special tokens put in"],
    always_mask: ["share replaced by [MASK]", "share kept"],
    mask_in_front: ["mask positions"],
    one_random_piece: ["random pieces"],
    swap_segments_document: ["pairs labelled against their documents", "not in their documents"],
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("has_store", [True, False], ids=["store", "no-store"])
def test_damage_under_right_hashes_is_caught(copy, damage, has_store):
    if not has_store:
        shutil.rmtree(copy / "tokens")
    rewrite(copy / "shards", damage)
    report = verify_dataset(copy / "shards")
    assert not report.passed
    needs_store = ("of the store", "their documents")
    for part in DAMAGES[damage]:
        if has_store or not any(words in part for words in needs_store) or "labelled" in part:
            assert any(part in name for name in failures(report)), (part, failures(report))


def test_a_sound_dataset_without_its_store_passes_and_says_what_it_skipped(copy):
    shutil.rmtree(copy / "tokens")
    report = verify_dataset(copy / "shards")
    assert report.passed
    (skipped,) = [row for row in report.rows if row.verdict == "skip"]
    assert "not at hand" in skipped.observed
    report = verify_dataset(copy / "shards", store_path=copy / "elsewhere")
    assert not report.passed


def test_another_store_is_not_the_one(copy):
    build(copy / "corpus", copy / "tokens", validation_ratio=0.05, seed=9, overwrite=True)
    report = verify_dataset(copy / "shards")
    assert failures(report) == {"token store, by hash"}


def store_document_twice(columns):
    for name, values in columns.items():
        columns[name] = [*values, values[5]]


def store_special(columns):
    columns["input_ids"][0][0] = 3


def lengthen_sentence(columns):
    columns["sentence_lengths"][2][0] += 1


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (store_document_twice, ["documents written", "there twice", "not those of the manifest"]),
        (store_special, ["special tokens that no text spells"]),
        (lengthen_sentence, ["don't sum to their tokens"]),
    ],
)
def test_damage_to_a_store_is_caught(copy, damage, parts):
    rewrite(copy / "tokens", damage)
    found = failures(verify_dataset(copy / "tokens"))
    for part in parts:
        assert any(part in name for name in found), found


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["tokens", "shards"])
def test_damage_to_files_is_caught_and_named(copy, kind):
    file = copy / kind / "train-00000.arrow"
    flip_byte(file)
    report = verify_dataset(copy / kind)
    (row,) = [row for row in report.rows if row.verdict == "fail"]
    assert "train-00000.arrow, block 0, column " in row.observed
    assert report.rows[-1].verdict == "skip"
    file.write_bytes(file.read_bytes()[:-9])
    assert (
        "truncated"
        in next(r for r in verify_dataset(copy / kind).rows if r.verdict == "fail").observed
    )
    file.unlink()
    assert (
        "missing"
        in next(r for r in verify_dataset(copy / kind).rows if r.verdict == "fail").observed
    )


def test_a_stranger_and_another_tokenizer_are_caught(copy):
    shutil.copy(copy / "shards" / "train-00000.arrow", copy / "shards" / "train-00009.arrow")
    assert failures(verify_dataset(copy / "shards")) == {"files that the manifest does not name"}
    path = copy / "tokens" / "tokenizer" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(definition))
    assert failures(verify_dataset(copy / "tokens")) == {"tokenizer, by hash"}


def test_a_manifest_with_another_ledger_is_caught(copy):
    values = json.loads(to_json(read_manifest(copy / "shards")))
    values["ledger"]["flows"]["tokens"]["written"]["train"] -= 10
    values["ledger"]["flows"]["tokens"]["dropped"]["cut to max_seq_length"] += 10
    edit_manifest(copy / "shards", ledger=values["ledger"])
    assert any("tokens written" in name for name in failures(verify_dataset(copy / "shards")))


def test_without_a_manifest_there_is_nothing_to_verify(copy):
    (copy / "shards" / MANIFEST_NAME).unlink()
    with pytest.raises(IntegrityError, match="not a dataset"):
        verify_dataset(copy / "shards")


def test_numbers_of_rows_are_shown(folder):
    rows = {row.name: row for row in verify_dataset(folder / "shards").rows}
    assert rows["train: mask rate"].interval.count(" to ") == 1
    assert np.isclose(float(rows["train: share kept"].expected), 0.1, atol=0.01)
