"""Stores as people have them: of one document, of one sentence, of nothing but special tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from lmdata.dataset import open_examples, open_store
from lmdata.errors import DatasetError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES, Recipe
from lmdata.schema import Ledger, manifest_json, read_manifest, token_schema
from lmdata.tokenizer import Tokenizer
from lmdata.verification import verify_dataset
from lmdata.views import view
from references.made_up import write_dataset
from tests.lmdata.builds import build, make_sentinel_tokenizer, write_corpus

LENGTH = 24
ALL_RECIPES = {
    **{
        name: dataclasses.replace(recipe, max_seq_length=LENGTH) for name, recipe in RECIPES.items()
    },
    "nsp-bert": Recipe(compat="bert", max_seq_length=LENGTH, duplicates=2),
    "nsp-balanced": Recipe(balance_nsp=True, corruption="whole-word", max_seq_length=LENGTH),
    "sop-plain": Recipe(view="sop", max_seq_length=LENGTH, duplicates=3),
    "single-none": Recipe(view="single", corruption="none", max_seq_length=LENGTH),
    "single-balanced": Recipe(view="single", coverage="balanced", max_seq_length=LENGTH),
    "packed-none": Recipe(view="packed", corruption="none", max_seq_length=LENGTH),
    "packed-words": Recipe(view="packed", corruption="whole-word", max_seq_length=LENGTH),
}
TOKENIZER = make_sentinel_tokenizer()
MASK = TOKENIZER.special_ids["mask"]
SPECIAL = [index for index in range(5) if index != MASK]  # as a text may spell them


def write_store(folder, documents):
    """Write documents of sentences of ids as the train split of a store."""
    ids = [[token for sentence in document for token in sentence] for document in documents]
    lengths = [[len(sentence) for sentence in document] for document in documents]
    schema = token_schema(np.dtype(np.uint16))
    names = pa.array(["a.txt"] * len(documents)).dictionary_encode()
    columns = [
        names.cast(schema.field("source").type),
        pa.array(range(len(documents)), pa.uint64()),
        pa.array(ids, schema.field("input_ids").type),
        pa.array(lengths, schema.field("sentence_lengths").type),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    return write_dataset(folder, "tokens", TOKENIZER, batch)


tokens = st.integers(0, TOKENIZER.vocab_size - 1).filter(
    lambda token: token != MASK and token not in TOKENIZER.sentinel_ids
)
sentences = st.lists(tokens, min_size=1, max_size=40)
documents_strategy = st.lists(st.lists(sentences, max_size=4), min_size=1, max_size=4).filter(any)


@settings(
    max_examples=10, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(documents=documents_strategy)
@pytest.mark.parametrize("name", ALL_RECIPES)
def test_any_small_store_is_masked_and_verified_or_refused_in_plain_words(
    tmp_path_factory, name, documents
):
    folder = tmp_path_factory.mktemp("tiny")
    store, recipe = write_store(folder / "tokens", documents), ALL_RECIPES[name]
    has_pairs = max(map(len, documents)) >= 2
    if recipe.has_pairs and not has_pairs:
        with pytest.raises(DatasetError, match=r"none of the \d documents has two"):
            write_examples(store, recipe, folder / "shards", seed=1)
        return
    write_examples(store, recipe, folder / "shards", seed=1, num_workers=1)
    report = verify_dataset(folder / "shards")
    assert report.passed, [row for row in report.rows if row.verdict == "fail"]
    found = open_examples(folder / "shards")
    fresh = view(open_store(store), recipe, seed=1).examples(np.arange(len(found)))
    assert found.rows(np.arange(len(found))).segment_lengths.tolist() == (
        fresh.segment_lengths.tolist()
    )


HAND_MADE = {
    "one token": [[[9]]],
    "one sentence": [[[9, 10, 11]]],
    "two sentences": [[[9, 10], [11]]],
    "three sentences, the last alone": [[list(range(9, 25)), list(range(9, 25)), [11]]],
    "one long sentence": [[[9] * 100]],
    "a document without text": [[[9, 10], [11]], []],
    "two documents of one sentence": [[[9, 10]], [[11]]],
    "all special": [[SPECIAL, SPECIAL], [SPECIAL]],
    "all unknown": [[[1] * 9, [1] * 9]],
    "the end of a segment in every place": [[[3] * 30, [9, 3, 9]], [[3], [3, 3]]],
}


@pytest.mark.parametrize("documents", HAND_MADE.values(), ids=HAND_MADE)
def test_every_recipe_takes_what_there_is(tmp_path, documents):
    store = write_store(tmp_path / "tokens", documents)
    for name, recipe in ALL_RECIPES.items():
        if recipe.has_pairs and max(map(len, documents)) < 2:
            continue
        write_examples(store, recipe, tmp_path / name, seed=2)
        failed = [row for row in verify_dataset(tmp_path / name).rows if row.verdict == "fail"]
        assert not failed, (name, failed)


def test_a_lone_last_sentence_takes_its_neighbour_again_and_the_ledger_says_so(tmp_path):
    sentence = list(range(9, 24))
    store = write_store(tmp_path / "tokens", [[sentence, sentence, sentence]])
    manifest = write_examples(store, Recipe(max_seq_length=LENGTH), tmp_path / "out", seed=1)
    assert manifest.views["train"].repeated_tokens == 15
    assert manifest.views["train"].expected_positive_share == 0.0
    flow = manifest.ledger.flows["tokens"]
    assert flow.read == 45 == flow.total_written + flow.total_dropped
    assert any("15 tokens are there twice" in note for note in manifest.notes)
    assert read_manifest(tmp_path / "out") == manifest


def test_one_document_by_the_rules_of_bert_is_noted_for_what_it_is(tmp_path):
    store = write_store(tmp_path / "tokens", [[[9, 10], [11, 12], [13]]])
    recipe = Recipe(max_seq_length=LENGTH, compat="bert")
    manifest = write_examples(store, recipe, tmp_path / "out", seed=1)
    assert manifest.views["train"].expected_positive_share > 0.5
    assert any("come from the same document" in note for note in manifest.notes)
    assert not any("no pair is labelled random" in note for note in manifest.notes)
    names = {row.name: row for row in verify_dataset(tmp_path / "out").rows}
    assert "train: special tokens put in" not in names
    assert "train: share replaced by special tokens" in names


def test_segments_are_stored_only_where_a_text_spells_their_end(tmp_path):
    recipe = ALL_RECIPES["roberta"]
    plain = write_store(tmp_path / "plain", [[[9, 10]], [[11]]])
    spelled = write_store(tmp_path / "spelled", [[[9, 3, 10]], [[11]]])
    manifest = write_examples(plain, recipe, tmp_path / "a", seed=1)
    assert "columns" not in manifest.configuration
    manifest = write_examples(spelled, recipe, tmp_path / "b", seed=1)
    assert [column["name"] for column in manifest.configuration["columns"]] == ["segment_lengths"]
    batch = open_examples(tmp_path / "b").rows(np.array([0]))
    assert sorted(batch.segment_lengths.tolist()) == [3, 5]


def unigram_tokenizer():
    """A Unigram model that reads `<s>` and `</s>` in a text as the pieces they are."""
    letters = [(chr(code), -5.0) for code in range(ord("a"), ord("z") + 1)]
    specials = ["<unk>", "<s>", "</s>", "<mask>", "<pad>"]
    pieces = [(piece, 0.0) for piece in specials] + [("▁", -3.0), *letters]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(specials)
    return Tokenizer(backend)


def test_text_that_spells_special_tokens_is_kept_and_verified(tmp_path):
    texts = ["the price was <s>nine</s> and is two", "a second text", "<mask> is html </s>"]
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": texts})
    build(corpus, tmp_path / "tokens", unigram_tokenizer(), validation_ratio=0)
    report = verify_dataset(tmp_path / "tokens")
    assert report.passed, report.rows
    for name in ("roberta", "spanbert", "single-none", "packed-none"):
        write_examples(tmp_path / "tokens", ALL_RECIPES[name], tmp_path / name, seed=1)
        report = verify_dataset(tmp_path / name)
        assert report.passed, (name, [row for row in report.rows if row.verdict == "fail"])


def test_ids_without_a_piece_are_never_drawn(tmp_path):
    letters = {chr(code): 2 * code for code in range(ord("a"), ord("z") + 1)}  # every other id
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, **letters}
    backend = Backend(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer = Tokenizer(backend)
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["a b c d e. f g h. i j k " * 40] * 9})
    build(corpus, tmp_path / "tokens", tokenizer, validation_ratio=0)
    for compat in (None, "bert"):
        recipe = Recipe(compat=compat, max_seq_length=32, duplicates=3)
        out = tmp_path / f"out-{compat}"
        write_examples(tmp_path / "tokens", recipe, out, seed=1)
        shards = open_examples(out)
        ids = shards.rows(np.arange(len(shards))).input_ids
        assert tokenizer.is_piece[ids].all()
        failed = [row for row in verify_dataset(out).rows if row.verdict == "fail"]
        assert not failed, (compat, failed)


def test_a_single_document_that_is_held_out_is_named(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["the cat sat on the mat"]})
    build(corpus, tmp_path / "tokens", validation_ratio=0.999)
    assert read_manifest(tmp_path / "tokens").num_rows("validation") == 1
    with pytest.raises(DatasetError, match=r"elsewhere \(1 in validation\); tokenize again with"):
        write_examples(tmp_path / "tokens", ALL_RECIPES["roberta"], tmp_path / "out", seed=1)


def test_shards_of_before_there_were_facts_are_verified_too(tmp_path):
    sentence = list(range(9, 24))
    write_store(tmp_path / "tokens", [[sentence, sentence, sentence]])
    recipe = ALL_RECIPES["sop-plain"]
    manifest = write_examples(tmp_path / "tokens", recipe, tmp_path / "out", seed=1)
    flows = {name: flow for name, flow in manifest.ledger.flows.items() if name != "tokens"}
    older = dataclasses.replace(manifest, views={}, ledger=Ledger(flows=flows))
    (tmp_path / "out" / "manifest.json").write_text(manifest_json(older))
    report = verify_dataset(tmp_path / "out")
    assert report.passed, [row for row in report.rows if row.verdict == "fail"]
