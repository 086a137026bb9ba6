"""The noise of T5 and BART against its oracle, its chances, and that no text is lost."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata.batch import COLUMNS, ExampleBatch, concatenate, targets_of
from lmdata.checking.checks import chi_square, uniformity
from lmdata.checking.text_checks import count_noise, judge_noise
from lmdata.dataset import open_examples, open_store
from lmdata.denoising import Segments, span_counts
from lmdata.errors import ConfigError, TokenizerError
from lmdata.examples import write_examples
from lmdata.ragged import Ragged, offsets_of
from lmdata.recipes import RECIPES, Recipe
from lmdata.schema import read_manifest
from lmdata.show import show_rows
from lmdata.stats import dataset_statistics
from lmdata.verification import verify_dataset
from lmdata.views import view
from references import noise as oracle
from tests.contracts import assert_equal, check_view
from tests.lmdata.builds import build, make_sentinel_tokenizer, random_documents, write_corpus

T5, BART = RECIPES["t5"], RECIPES["bart"]
TOKENIZER = make_sentinel_tokenizer()
CLS, SEP, PAD, MASK = (TOKENIZER.special_ids[name] for name in ("cls", "sep", "pad", "mask"))
PLAIN = np.flatnonzero(~TOKENIZER.is_special)


@pytest.fixture(scope="module")
def store_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    long = [" ".join(random_documents(60, seed=3))]
    corpus = write_corpus(folder / "corpus", {"a.txt": [*random_documents(61), *long]})
    build(corpus, folder / "tokens", TOKENIZER, validation_ratio=0.1, sentences="rules")
    return folder / "tokens"


@pytest.fixture(scope="module")
def store(store_path):
    return open_store(store_path)


def plain_examples(texts, sentence_lengths, *, has_start, duplicates=None, first=0):
    """Return an example a text, and its segments: document 7 + i, place 3 i."""
    front = [CLS] if has_start else []
    rows = [np.array([*front, *text, SEP], np.uint16) for text in texts]
    lengths, count = np.array([len(row) for row in rows]), len(texts)
    none = np.empty(0, np.uint16)
    batch = ExampleBatch(
        COLUMNS, input_ids=np.concatenate(rows), offsets=offsets_of(lengths),
        token_type_ids=np.zeros(lengths.sum(), np.uint8), masked_positions=none,
        masked_labels=none, mask_offsets=np.zeros(count + 1, np.int64),
        next_sentence_label=np.full(count, -1, np.int8),
        document_a=np.arange(count, dtype=np.uint64), document_b=np.arange(count, dtype=np.uint64),
        duplicate=np.zeros(count, np.uint16), segment_lengths=lengths.astype(np.int32),
        segment_offsets=np.arange(count + 1),
    )  # fmt: skip
    numbers = np.arange(first, first + count)
    flat = np.array([length for own in sentence_lengths for length in own], np.int64)
    return batch, Segments(
        7 + numbers, 3 * numbers,
        np.zeros(count, np.int64) if duplicates is None else np.array(duplicates, np.int64),
        flat, offsets_of([len(own) for own in sentence_lengths]),
    )  # fmt: skip


def pairs_of(batch):
    """Return source and target of each segment."""
    sources = Ragged(batch.input_ids, offsets_of(batch.segment_lengths))
    return [
        (source.tolist(), target.tolist())
        for source, target in zip(sources.rows(), targets_of(batch).rows(), strict=True)
    ]


def corrupt(recipe, texts, sentence_lengths=None, *, seed=1, epoch=0, **addresses):
    has_start = recipe.corruption_traits.has_start
    batch, segments = plain_examples(
        texts, sentence_lengths or [[len(t)] for t in texts], has_start=has_start, **addresses
    )
    change = recipe.noise.prepare(recipe, TOKENIZER, seed=seed, epoch=epoch, id_dtype=np.uint16)
    return change(batch, segments, 0.0)


def texts_of(lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.choice(PLAIN, length).tolist() for length in lengths]


# ---- Lengths


def test_568_tokens_make_a_source_of_512_and_a_target_of_114_as_published():
    assert T5.text_capacity == 568
    source, target = T5.noise.stream_lengths(T5, np.array([568, 569]))
    assert source.tolist() == [512, 513]
    assert target[0] - 1 == 114  # without the start


@given(st.integers(0, 3000), st.sampled_from([0.15, 0.3, 0.5, 0.9]), st.sampled_from([1.0, 3, 20]))
def test_lengths_are_known_before_the_noise(length, rate, mean):
    noise, spans = (int(counts[0]) for counts in span_counts(np.array([length]), rate, mean))
    assert (noise, spans) == oracle.count_spans(length, rate, mean)
    recipe = dataclasses.replace(T5, mlm_probability=rate, mean_span_length=mean)
    sums = recipe.noise.stream_lengths(recipe, np.array([length]))
    assert recipe.noise.text_lengths(recipe, *sums).tolist() == [length]


# ---- Against the oracles


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 3)), min_size=1, max_size=5),
    st.sampled_from([(0.15, 3.0), (0.3, 1.0), (0.5, 2.5)]), st.integers(0, 3),
)  # fmt: skip
def test_spans_are_those_of_the_published_functions(shapes, noise, epoch):
    rate, mean = noise
    lengths, duplicates = zip(*shapes, strict=True)
    recipe = dataclasses.replace(
        T5, mlm_probability=rate, mean_span_length=mean, max_seq_length=100
    )
    texts = texts_of(lengths, seed=len(shapes))
    found = pairs_of(corrupt(recipe, texts, seed=5, epoch=epoch, duplicates=duplicates))
    for number, text in enumerate(texts):
        words = oracle.Words(5, "spans", epoch, 7 + number, 3 * number, duplicates[number])
        expected = oracle.t5(text, TOKENIZER.sentinel_ids, PAD, SEP, words, rate, mean)
        assert found[number] == expected


def find_words(ids):
    """Return the ids of each word: pieces that begin with ## go on with one."""
    words = []
    for index in ids:
        goes_on = TOKENIZER.piece(index).startswith("##") and words
        words = [*words[:-1], [*words[-1], index]] if goes_on else [*words, [index]]
    return words


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 17), min_size=1, max_size=6), min_size=1, max_size=4),
    st.booleans(), st.booleans(), st.booleans(), st.sampled_from([1.0, 3.0]),
)  # fmt: skip
def test_infilling_is_that_of_the_oracle(shapes, by_words, permutes, inserts, mean):
    recipe = dataclasses.replace(
        BART, whole_words=by_words, permute_sentences=permutes, insert_masks=inserts,
        mean_span_length=mean, max_seq_length=128,
    )  # fmt: skip
    texts = texts_of([sum(own) for own in shapes], seed=len(shapes))
    found = pairs_of(corrupt(recipe, texts, shapes, seed=2))
    for number, (text, own) in enumerate(zip(texts, shapes, strict=True)):
        sentences = [part.tolist() for part in np.split(np.array(text), np.cumsum(own)[:-1])]
        at = (2, "spans", 0, 7 + number, 3 * number), (2, "sentences", 0, 7 + number, 3 * number)
        expected = oracle.bart(
            sentences, MASK, (CLS, SEP), *(oracle.Words(*each) for each in at), mean=mean,
            find_units=find_words if by_words else lambda ids: [[i] for i in ids],
            permutes=permutes, inserts=inserts,
        )  # fmt: skip
        assert found[number] == expected
        assert len(found[number][0]) <= len(text) + 2


# ---- No text is lost, whatever the packing


@pytest.mark.parametrize("recipe", [T5, BART], ids=["t5", "bart"])
@pytest.mark.parametrize("shape", ["single", "packed"])
def test_sources_and_targets_together_are_the_documents(store, recipe, shape):
    recipe = dataclasses.replace(recipe, view=shape, max_seq_length=40, shuffle=False, duplicates=2)
    rows = view(store, recipe, seed=3)
    batch = rows.examples(np.arange(len(rows)))
    texts = recipe.noise.restore(batch, TOKENIZER)
    assert np.diff(batch.offsets).max() <= 40
    text = texts.values[~np.isin(texts.values, [CLS, SEP])]
    documents = np.concatenate([store.document(row)[0] for row in range(len(store))])
    assert Counter(text.tolist()) == Counter(np.repeat(documents, 2).tolist())
    if shape == "single":
        np.testing.assert_array_equal(
            np.concatenate([t[t != CLS][:-1] for t in list(texts.rows())[::2]]), documents
        )


@pytest.mark.parametrize("recipe", [T5, BART], ids=["t5", "bart"])
def test_the_noise_of_a_segment_is_the_same_however_it_is_packed(store, recipe):
    alone, packed, other = (
        by_text(store, dataclasses.replace(recipe, view=shape, max_seq_length=40), seed)
        for shape, seed in (("single", 3), ("packed", 3), ("single", 4))
    )
    both = alone.keys() & packed.keys()  # rows are filled by cutting long documents otherwise
    assert len(both) > 50
    assert all(alone[text] == packed[text] for text in both)
    assert any(alone[text] != other[text] for text in both)


def by_text(store, recipe, seed):
    """Return source and target of each segment by its text; each text here is another."""
    rows = view(store, recipe, seed=seed)
    batch = rows.examples(np.arange(len(rows)))
    texts = recipe.noise.restore(batch, TOKENIZER).values
    lengths = recipe.noise.text_lengths(
        recipe, batch.segment_lengths.astype(np.int64), batch.target_lengths.astype(np.int64)
    )
    segments = Ragged(texts, offsets_of(lengths + recipe.num_special)).rows()
    return dict(zip((tuple(own.tolist()) for own in segments), pairs_of(batch), strict=True))


@pytest.mark.parametrize("recipe", [T5, BART], ids=["t5", "bart"])
@pytest.mark.parametrize("shape", ["single", "packed"])
def test_views_with_noise_keep_their_contract(store, recipe, shape):
    recipe = dataclasses.replace(recipe, view=shape, max_seq_length=48, duplicates=2)
    check_view(lambda epoch: view(store, recipe, seed=5, epoch=epoch))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_frozen_noise_is_verified_shown_and_described(store_path, tmp_path, name):
    recipe = dataclasses.replace(RECIPES[name], max_seq_length=48)
    write_examples(store_path, recipe, tmp_path / "shards", seed=5)
    report = verify_dataset(tmp_path / "shards")
    assert report.passed, [row for row in report.rows if row.verdict == "fail"]
    names = {row.name for row in report.rows}
    assert "train: share of noise" in names
    shards, fresh = open_examples(tmp_path / "shards"), view(open_store(store_path), recipe, seed=5)
    rows = np.arange(len(shards))
    both = shards.rows(rows), fresh.examples(rows)
    for column in ("input_ids", "target_ids", "target_lengths", "segment_lengths"):
        np.testing.assert_array_equal(*(batch.arrays()[column] for batch in both))
    half = len(rows) // 2
    assert_equal(concatenate([both[0].slice(0, half), both[0].slice(half, len(rows))]), both[0])
    shown = show_rows(tmp_path / "shards", 0, 1)[0]
    assert "→" in shown
    assert ("<extra_id_0>" if name == "t5" else "[MASK]") in shown
    found = dataset_statistics(tmp_path / "shards")
    expected = {"t5": 0.15, "bart": 0.3}[name]
    assert abs(found.noise_share - expected) < 0.05
    assert found.target_tokens.largest <= 50


def test_a_sentinel_out_of_its_order_and_a_lost_token_are_found(store):
    recipe = dataclasses.replace(T5, view="single", max_seq_length=48)
    rows = view(store, recipe, seed=5)
    batch = rows.examples(np.arange(len(rows)))

    def failed(damaged):
        texts = recipe.noise.restore(damaged, TOKENIZER)
        checks = judge_noise(
            count_noise(damaged, texts, recipe, TOKENIZER), recipe, spells_marks=False
        )
        return {check.name for check in checks if not check.passed}

    assert not failed(batch)
    first = TOKENIZER.sentinel_ids[0]
    swapped = np.where(batch.input_ids == first, TOKENIZER.sentinel_ids[5], batch.input_ids)
    assert "examples whose source and target make no text" in failed(
        batch.replace(input_ids=swapped)
    )
    started = batch.target_ids.copy()
    started[0] = SEP
    assert failed(batch.replace(target_ids=started)) == {
        "targets or texts without their special tokens"
    }


# ---- Chances, each beside a broken twin


def compositions(total, parts):
    """Return every list of whole numbers of at least 1 that sum to a total."""
    cuts = itertools.combinations(range(1, total), parts - 1)
    return [tuple(np.diff([0, *own, total]).tolist()) for own in cuts]


def kept_parts(source):
    """Return how many tokens stand before each sentinel."""
    ends = np.flatnonzero(np.isin(source, TOKENIZER.sentinel_ids))
    return tuple(np.diff(ends, prepend=-1) - 1)


def test_every_division_into_spans_is_as_likely_and_one_span_after_the_other_is_not():
    recipe = dataclasses.replace(T5, mlm_probability=0.4, mean_span_length=1.4, max_seq_length=40)
    texts = texts_of([12] * 20_000)  # 5 of noise in 4 spans, 7 kept
    pairs = pairs_of(corrupt(recipe, texts))
    possible = {own: index for index, own in enumerate(compositions(7, 4))}
    places = [possible[kept_parts(np.array(source))] for source, _ in pairs]
    counts = np.bincount(places, minlength=len(possible))
    assert uniformity("divisions", counts).passed
    generator = np.random.default_rng(0)  # each length uniform in what is left: the usual mistake
    broken = np.zeros_like(counts)
    for _ in texts:
        left, own = 7, []
        for later in (3, 2, 1):
            own.append(int(generator.integers(1, left - later + 1)))
            left -= own[-1]
        broken[possible[(*own, left)]] += 1
    assert not uniformity("divisions", broken).passed


def test_spans_of_infilling_are_poisson_and_geometric_ones_are_refused():
    recipe = dataclasses.replace(BART, whole_words=False, permute_sentences=False)
    texts = [[*range(5, 45)]] * 4000  # each id once, in order: what is gone tells the spans
    lengths = []
    for source, _ in pairs_of(corrupt(recipe, texts)):
        masks = [i for i, token in enumerate(source) if token == MASK]
        alone = [i for i in masks if {source[i - 1], source[i + 1]}.isdisjoint({MASK})]
        known = [4, *source[1:-1], 45]
        lengths += [known[i + 1] - known[i - 1] - 1 for i in alone]
    counts = np.bincount(lengths, minlength=13)[:13].astype(float)
    shares = oracle_lengths(recipe)
    means = shares * len(lengths)
    assert chi_square("spans", counts, means, np.maximum(means, 1e-9)).passed
    geometric = 0.25 * 0.75 ** np.arange(13) * len(lengths)
    assert not chi_square("spans", geometric, means, np.maximum(means, 1e-9)).passed


def oracle_lengths(recipe):
    """Return how often the oracle's spans that touch no other have 0 .. 12 tokens."""
    generator = np.random.default_rng(7)
    found = []
    for _ in range(40_000):
        lengths, budget = [], 12
        while sum(lengths) < budget and len(lengths) < budget:
            lengths.append(min(int(generator.poisson(3.0)), budget - sum(lengths)))
        lengths[-1] += budget - sum(lengths)
        symbols = generator.permutation([*range(len(lengths)), *[-1] * 28])
        around = np.pad(symbols, 1, constant_values=-1)
        found += [
            lengths[symbol]
            for at, symbol in enumerate(symbols)
            if symbol >= 0 and around[at] < 0 and around[at + 2] < 0
        ]
    return np.bincount(found, minlength=13) / len(found)


def test_sentences_are_permuted_uniformly_and_a_rotation_is_refused():
    recipe = dataclasses.replace(BART, whole_words=False, mlm_probability=0.01)
    texts, own = [[5, 6, 7, 8, 9, 10, 11, 12]] * 12_000, [[2, 2, 2, 2]] * 12_000
    counts = Counter(
        tuple(token for token in source[1:-1] if token != MASK and token % 2)
        for source, _ in pairs_of(corrupt(recipe, texts, own))
    )
    whole = np.array([counts[order] for order in itertools.permutations((5, 7, 9, 11))])
    assert whole.sum() > 4000  # the others lost one of the four
    assert uniformity("orders", whole).passed
    rotated = np.zeros_like(whole)
    rotated[::6] = whole.sum() // 4
    assert not uniformity("orders", rotated).passed


# ---- What is refused


@pytest.mark.parametrize(("recipe", "num_sentinels", "match"), [
    (T5, 0, "the tokenizer has no sentinels .*train-tokenizer --num-sentinels 100"),
    (T5, 5, "only 5 sentinels .* need 28: .*or lower max_seq_length"),
])  # fmt: skip
def test_a_tokenizer_without_sentinels_is_told_how_to_get_them(store, recipe, num_sentinels, match):
    with pytest.raises(TokenizerError, match=match):
        recipe.noise.prepare(
            recipe, make_sentinel_tokenizer(num_sentinels), seed=1, epoch=0, id_dtype=np.uint16
        )


@pytest.mark.parametrize(("recipe", "missing", "match"), [
    (T5, "pad", "no pad token, and the decoder of T5 starts with it"),
    (BART, "mask", "no mask token, and BART puts it where a span was"),
    (BART, "sep", "no sep token, and the decoder of BART starts with it"),
])  # fmt: skip
def test_a_missing_special_token_is_named(monkeypatch, recipe, missing, match):
    tokenizer = make_sentinel_tokenizer()
    del tokenizer.special_tokens[missing]
    with pytest.raises(TokenizerError, match=match):
        recipe.noise.prepare(recipe, tokenizer, seed=1, epoch=0, id_dtype=np.uint16)


@pytest.mark.parametrize(("values", "match"), [
    ({"corruption": "sentinels", "mlm_probability": (0.3, 0.15)}, "must be one number"),
    ({"corruption": "sentinels", "view": "nsp"}, "needs view single or packed"),
    ({"corruption": "sentinels", "insert_masks": False}, "insert_masks=False has no effect"),
    ({"corruption": "token", "mean_span_length": 3.0}, "mean_span_length=3.0 has no effect"),
    ({"corruption": "infilling", "mean_span_length": 0.5}, r"must be in \[1, 100\], got 0.5"),
    ({"corruption": "infilling", "max_predictions": 5}, "max_predictions=5 has no effect"),
])  # fmt: skip
def test_settings_without_an_effect_or_sense_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        Recipe(**{"view": "packed", **values})


def test_packed_sources_are_not_for_stock_models(store):
    torch_data = pytest.importorskip("lmdata.torch_data")
    with pytest.raises(ConfigError, match="use view=single"):
        torch_data.Examples(view(store, T5, seed=1), 0)
    recipe = dataclasses.replace(T5, view="single", max_seq_length=48)
    examples = torch_data.Examples(view(store, recipe, seed=1), 0)
    row = examples[0]
    target = examples.view.examples(np.array([0])).target_ids
    assert row["labels"].tolist() == target[1:].tolist()


def test_manifests_of_other_recipes_do_not_name_the_new_settings(store_path, tmp_path):
    write_examples(store_path, Recipe(view="single"), tmp_path / "old", seed=1)
    write_examples(
        store_path, dataclasses.replace(BART, whole_words=False), tmp_path / "new", seed=1
    )
    old, new = (read_manifest(tmp_path / n).configuration["recipe"] for n in ("old", "new"))
    assert "mean_span_length" not in old
    assert new["whole_words"] is False
    assert "insert_masks" not in new
