import dataclasses
import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.batch import COLUMNS
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.errors import DatasetError, TokenizerError
from lmdata.sentences import find_sentence_starts
from lmdata.tokenizer import load_tokenizer
from lmdata.views import NO_LABEL, RECIPES, Recipe, view
from lmdata.xxh3 import xxh3_128
from references.pretraining import (
    CLS,
    SEP,
    AddressedDraws,
    choose_tokens,
    create_pairs,
    flatten,
    make_documents,
    make_store,
    make_tokenizer,
    replace_tokens,
)
from tests.contracts import check_view

RAGGED = {
    "input_ids": "offsets",
    "token_type_ids": "offsets",
    "masked_positions": "mask_offsets",
    "masked_labels": "mask_offsets",
    "segment_lengths": "segment_offsets",
}
WHOLE = ("next_sentence_label", "document_a", "document_b", "duplicate")
RECIPES_TO_TRY = [
    Recipe(max_seq_length=61),
    Recipe(max_seq_length=61, corruption="whole-word", compat="bert", duplicates=2),
    Recipe(max_seq_length=61, view="sop", corruption="ngram"),
    Recipe(max_seq_length=61, view="single", corruption="span", duplicates=3),
    Recipe(max_seq_length=61, view="single", coverage="balanced"),
    Recipe(max_seq_length=61, view="packed", count="bernoulli"),
    Recipe(max_seq_length=61, view="packed", corruption="none"),
]
MORE_RECIPES = {
    **{name: recipe for name, recipe in RECIPES.items() if recipe.noise is None},
    "nsp-whole-word-balanced": Recipe(corruption="whole-word", balance_nsp=True, duplicates=2),
    "nsp-bert": Recipe(compat="bert"),
    "nsp-bert-whole-word": Recipe(compat="bert", corruption="whole-word"),
    "nsp-span": Recipe(corruption="span", short_seq_prob=0.5),
    "sop-ngram": Recipe(view="sop", corruption="ngram", duplicates=2),
    "sop-token-bernoulli": Recipe(view="sop", count="bernoulli"),
    "single-balanced": Recipe(view="single", coverage="balanced"),
    "single-none": Recipe(view="single", corruption="none"),
    "single-whole-word-bernoulli": Recipe(
        view="single", corruption="whole-word", count="bernoulli"
    ),
    "packed-none": Recipe(view="packed", corruption="none"),
    "packed-span": Recipe(view="packed", corruption="span"),
    "packed-rate": Recipe(view="packed", mlm_probability=(0.3, 0.15)),
    "packed-plain": Recipe(view="packed", shuffle=False, duplicates=3, max_predictions=5),
    "single-mask-only": Recipe(
        view="single", mask_proportion=1.0, random_proportion=0.0, keep_proportion=0.0
    ),
}
MORE_RECIPES |= {
    name: dataclasses.replace(recipe, max_seq_length=64)
    for name, recipe in MORE_RECIPES.items()
    if name not in RECIPES
}
# xxh3 of the examples of three stores, as the first release of the format made them.
GOLDEN = {
    "bert": "9f0e8c1cc0c064aa 4cdacaafbae12cd3 ff90a3547da9978f",
    "roberta": "d3aa4801e98b5ad1 01eb7ccc0083b386 2b35ce23915513dc",
    "simcse": "d6189eab671ace67 10f3f2ba6e0fb376 8335e4e23c995e35",
    "albert": "f5c5d16aa408fe64 3a1cfbcafecf23d9 39783339edf7c88f",
    "spanbert": "adca9b96f59a01db a06ecbf134b912e2 f50e388ffc4c4964",
    "xlnet": "c581908893aba66a 08242d1b58ee6a39 62c9f4ae496c962c",
    "nsp-whole-word-balanced": "0d3494e7bbd308cd e8866575f32ad9b4 92f764c049d11fa3",
    "nsp-bert": "4c7b845207b4e9c3 fee6cde65d83c016 dbf75e2634aff80c",
    "nsp-bert-whole-word": "09fe47b10ea1d0c8 bbb431f9a90b8139 1bd897e60b5153f9",
    "nsp-span": "ab4a63742e0d360b 0766d5d080ee6265 c43370c1dd368a5e",
    "sop-ngram": "9e4f734c2b1370c1 33342a98070f72b0 c1f5b2cc60a17394",
    "sop-token-bernoulli": "1993d4641a6a848f bb49c62d40ff0e7f 9611135276e12030",
    "single-balanced": "3eeff70dd04a0b19 247afc9fd5421d71 48e66af5ec90407d",
    "single-none": "611949a054dd62e4 efd46c27b71d5218 cb7feb8f064ec129",
    "single-whole-word-bernoulli": "f00f2b1d12ba0a76 6322afad599ed8e7 4c1f98807f5f855c",
    "packed-none": "1ee91ef822bbe65d 53eabcb77d788a77 ce1bf8881e0aa3cd",
    "packed-span": "ae55330440153abc 39c2336b93277e7c 6c72e0fea3b9084f",
    "packed-rate": "7dd60159e71fa139 7f3992386e66e534 6db85f3148a017bb",
    "packed-plain": "9392db6ab9877e28 5edd511105fa8c4a 937320d3ff0600af",
    "single-mask-only": "5975fbb2cb35f632 61301447b32d0cd6 6efe1f80d7fd523e",
}
names = [f"{recipe.view}-{recipe.corruption}" for recipe in RECIPES_TO_TRY]
recipes = pytest.mark.parametrize("recipe", RECIPES_TO_TRY, ids=names)
lengths_strategy = st.lists(
    st.lists(st.integers(1, 71), max_size=13), min_size=1, max_size=11
).filter(any)  # fmt: skip


def number_tokens(lengths):
    """Return documents of these sentence lengths in which every token is unique."""
    numbers = iter(range(5, 60_000))
    return [[[next(numbers) for _ in range(size)] for size in document] for document in lengths]


def make_view(documents, recipe, seed=1, epoch=0, **store_settings):
    tokenizer = make_tokenizer(60_000)
    return view(
        make_store(documents, tokenizer=tokenizer, **store_settings), recipe, seed=seed, epoch=epoch
    )


def rows_of(batch):
    """Return every example of a batch as comparable values."""
    rows = []
    for i in range(len(batch)):
        ragged = {
            name: getattr(batch, name)[
                getattr(batch, offsets)[i] : getattr(batch, offsets)[i + 1]
            ].tolist()
            for name, offsets in RAGGED.items()
        }
        rows.append(ragged | {name: getattr(batch, name)[i].item() for name in WHOLE})
    return rows


def segments_of(batch):
    """Return the tokens of every segment, the corruption undone."""
    bounds = np.cumsum(batch.segment_lengths)[:-1]
    return [segment.tolist() for segment in np.split(batch.original_ids(), bounds)]


def digest(batch):
    """Return a hash of a batch's arrays, their names and types."""
    hashed = xxh3_128()
    names = [column.name for column in COLUMNS] + ["offsets", "mask_offsets", "segment_offsets"]
    for name in names:
        array = np.ascontiguousarray(getattr(batch, name))
        for part in (name.encode(), array.dtype.str.encode(), array.tobytes()):
            hashed.update(part)
    return hashed.hexdigest()[:16]


@pytest.mark.parametrize("name", MORE_RECIPES)
def test_the_bytes_of_every_recipe_are_those_of_the_first_release(name):
    tokenizer = make_tokenizer(1000, continues=set(range(500, 1000)))
    stores = [
        make_store(
            make_documents(seed, num, most_sentences=most), tokenizer=tokenizer, num_blocks=n
        )
        for seed, num, most, n in ((7, 61, 40, 1), (8, 9, 13, 3), (9, 1, 40, 1))
    ]
    views = [view(store, MORE_RECIPES[name], seed=3, epoch=1) for store in stores]
    found = [digest(part.examples(np.arange(len(part)), progress=0.25)) for part in views]
    assert found == GOLDEN[name].split()


@pytest.mark.parametrize("name", MORE_RECIPES)
def test_every_view_and_corruption_keeps_the_contract(name):
    tokenizer = make_tokenizer(1000, continues=set(range(500, 1000)))
    for num_documents in (1, 7):
        documents = make_documents(11, num_documents)
        check_view(
            lambda epoch, documents=documents: view(
                make_store(documents, tokenizer=tokenizer), MORE_RECIPES[name], seed=3, epoch=epoch
            )
        )


@recipes
def test_an_example_is_the_same_whatever_the_batch_the_worker_and_the_resume_point(recipe):
    documents = make_documents(2, 31)
    whole = make_view(documents, recipe)
    expected = rows_of(whole.examples(np.arange(len(whole))))
    for batch_size in (1, 7, len(whole)):
        batches = np.array_split(np.arange(len(whole)), math.ceil(len(whole) / batch_size))
        for num_workers in (1, 2, 5):
            resumed = make_view(documents, recipe)
            with ThreadPoolExecutor(num_workers) as pool:
                parts = pool.map(lambda rows, v=resumed: rows_of(v.examples(rows)), batches)
                assert [row for part in parts for row in part] == expected


@recipes
def test_an_example_is_the_same_however_the_store_is_cut(recipe):
    documents = make_documents(2, 31)
    expected = None
    for num_blocks, dtype, offset_dtype in ((1, np.uint16, np.int32), (5, np.uint32, np.int64)):
        part = make_view(
            documents, recipe, num_blocks=num_blocks, dtype=dtype, offset_dtype=offset_dtype
        )
        batch = part.examples(np.arange(len(part)))
        assert batch.input_ids.dtype == batch.masked_labels.dtype == dtype
        expected = expected or rows_of(batch)
        assert rows_of(batch) == expected


@recipes
def test_shuffled_rows_are_the_canonical_examples_in_another_order(recipe):
    documents = make_documents(2, 31)
    shuffled = make_view(documents, recipe)
    plain = make_view(documents, Recipe(**{**vars(recipe), "shuffle": False}))
    rows = np.arange(len(shuffled))
    canonical = shuffled.canonical(rows)
    assert sorted(canonical) == rows.tolist() != canonical.tolist()
    assert rows_of(shuffled.examples(rows)) == rows_of(plain.examples(canonical))


@recipes
def test_epochs_and_seeds_differ_and_an_epoch_is_reached_from_another(recipe):
    documents = make_documents(2, 31)
    first = make_view(documents, recipe)
    third = make_view(documents, recipe, epoch=3)
    rows = np.arange(min(len(first), len(third)))
    assert rows_of(first.at_epoch(3).examples(rows)) == rows_of(third.examples(rows))
    assert rows_of(first.examples(rows)) != rows_of(third.examples(rows))
    other = make_view(documents, recipe, seed=2)
    rows = np.arange(min(len(first), len(other)))
    assert rows_of(first.examples(rows)) != rows_of(other.examples(rows))


@recipes
def test_arrays_have_their_types_and_agree(recipe):
    part = make_view(make_documents(2, 31), recipe)
    batch = part.examples(np.arange(len(part)))
    types = {name: array.dtype.name for name, array in batch.arrays().items()}
    assert types == {
        "input_ids": "uint16", "offsets": "int64", "token_type_ids": "uint8",
        "masked_positions": "uint16", "mask_offsets": "int64", "masked_labels": "uint16",
        "next_sentence_label": "int8", "document_a": "uint64", "document_b": "uint64",
        "duplicate": "uint16", "segment_lengths": "int32", "segment_offsets": "int64",
    }  # fmt: skip
    assert len(batch) == len(part) == part.facts.examples
    assert np.diff(batch.offsets).max() <= recipe.max_seq_length
    starts = np.concatenate([[0], np.cumsum(batch.segment_lengths)])[batch.segment_offsets]
    assert starts.tolist() == batch.offsets.tolist()
    assert (batch.duplicate < recipe.duplicates).all()
    assert ((batch.next_sentence_label == NO_LABEL) == (not recipe.has_pairs)).all()


@recipes
def test_torch_sees_the_same_numbers(recipe):
    torch = pytest.importorskip("torch")
    part = make_view(make_documents(2, 31), recipe)
    batch = part.examples(np.arange(len(part)))
    for array in batch.arrays().values():
        assert torch.from_numpy(array).tolist() == array.tolist()


@pytest.mark.parametrize("rows", [[-1], [0, 10**9]])
def test_rows_out_of_range_are_refused(rows):
    for recipe in RECIPES_TO_TRY:
        part = make_view(make_documents(2, 31), recipe)
        with pytest.raises(IndexError, match=rf"row {rows[-1]} is outside \[0, {len(part)}\)"):
            part.examples(np.array(rows))


@pytest.mark.parametrize("recipe", RECIPES_TO_TRY)
def test_an_empty_batch_is_empty(recipe):
    part = make_view(make_documents(2, 31), recipe)
    assert len(part.examples(np.empty(0, np.int64))) == 0


@given(seed=st.integers(0, 2**40), num_documents=st.integers(2, 9), duplicates=st.integers(1, 2))
def test_whole_examples_equal_the_oracle_given_the_same_draws(seed, num_documents, duplicates):
    documents = make_documents(seed, num_documents)
    recipe = Recipe(max_seq_length=53, duplicates=duplicates, shuffle=False)
    store = make_store(documents)
    part = view(store, recipe, seed=seed, epoch=5)
    draws = AddressedDraws(seed, 5)
    candidates = set(range(4, 1000))
    expected = []
    for row in range(num_documents):
        for pair in create_pairs(documents, row, draws, max_seq_length=53, duplicates=duplicates):
            tokens = [CLS, *pair.tokens_a, SEP, *pair.tokens_b, SEP]
            draws.at(row, pair.duplicate, pair.ordinal)
            k = min(recipe.most_predictions, max(1, round(len(tokens) * 0.15)))
            spans = [[p] for p in choose_tokens(tokens, candidates, k, draws)]
            expected.append(replace_tokens(tokens, spans, list(range(5, 1000)), draws))
    found = rows_of(part.examples(np.arange(len(part))))
    names = ("input_ids", "masked_positions", "masked_labels")
    assert [tuple(row[name] for name in names) for row in found] == expected


@given(lengths=lengths_strategy, max_seq_length=st.integers(8, 97), num_blocks=st.integers(1, 3))
def test_single_segments_hold_every_token_once_in_order(lengths, max_seq_length, num_blocks):
    documents = number_tokens(lengths)
    recipe = Recipe(view="single", max_seq_length=max_seq_length, shuffle=False)
    part = make_view(documents, recipe, num_blocks=num_blocks)
    segments = segments_of(part.examples(np.arange(len(part))))
    assert all(segment[0] == CLS and segment[-1] == SEP for segment in segments)
    tokens = [token for segment in segments for token in segment[1:-1]]
    assert tokens == flatten(flatten(documents))


@given(lengths=lengths_strategy, max_seq_length=st.integers(8, 97), num_blocks=st.integers(1, 3))
def test_sentences_stand_alone_and_only_long_ones_are_cut(lengths, max_seq_length, num_blocks):
    documents = number_tokens(lengths)
    recipe = Recipe(
        view="sentence", corruption="intact", max_seq_length=max_seq_length, shuffle=False
    )
    part = make_view(documents, recipe, num_blocks=num_blocks)
    batch, capacity = part.examples(np.arange(len(part))), max_seq_length - 2
    expected = [
        [CLS, *sentence[start : start + capacity], SEP]
        for sentence in flatten(documents)
        for start in range(0, len(sentence), capacity)
    ]
    assert segments_of(batch) == expected
    assert not len(batch.masked_labels)


@given(
    lengths=lengths_strategy, max_seq_length=st.integers(8, 97),
    corruption=st.sampled_from(["token", "none"]),
)  # fmt: skip
def test_packed_rows_hold_every_token_once_and_crop_nothing(lengths, max_seq_length, corruption):
    documents = number_tokens(lengths)
    recipe = Recipe(view="packed", max_seq_length=max_seq_length, corruption=corruption)
    part = make_view(documents, recipe)
    batch = part.examples(np.arange(len(part)))
    assert np.diff(batch.offsets).max() <= max_seq_length
    num_special = 1 if corruption == "none" else 2
    first = num_special - 1
    segments = [segment[first:-1] for segment in segments_of(batch)]
    assert sorted(flatten(segments)) == flatten(flatten(documents))
    ends = {tokens[-1] for document in documents for tokens in document}
    for document in documents:
        tokens = flatten(document)
        if 0 < len(tokens) <= max_seq_length - num_special:
            assert tokens in segments  # what fits a row is not cut
    for segment in segments:
        longest = max_seq_length - num_special
        assert segment[-1] in ends or len(segment) == longest  # cut at a sentence end, or hard
        assert segment == list(range(segment[0], segment[0] + len(segment)))


@pytest.mark.parametrize("name", ["single", "packed"])
def test_a_document_that_fits_exactly_is_not_cut(name):
    part = make_view(number_tokens([[30, 31]]), Recipe(view=name, max_seq_length=63))
    assert part.examples(np.arange(1)).segment_lengths.tolist() == [63]
    assert len(part) == 1


def test_packed_rows_name_their_first_and_last_document():
    documents = number_tokens([[3], [4], [50]])
    part = make_view(documents, Recipe(view="packed", max_seq_length=64, shuffle=False))
    batch = part.examples(np.arange(len(part)))
    for i, row in enumerate(rows_of(batch)):
        first = int(batch.segment_offsets[i])
        segments = segments_of(batch)[first : first + len(row["segment_lengths"])]
        assert documents[row["document_a"]][0][0] == segments[0][1]
        assert documents[row["document_b"]][0][0] == segments[-1][1]


def test_causal_rows_end_each_document_with_the_end_token_and_mask_nothing():
    store = make_store(number_tokens([[3, 4], [2]]))
    store.tokenizer.special_ids = {**store.tokenizer.special_ids, "eos": 3, "cls": None}
    recipe = Recipe(view="packed", corruption="none", max_seq_length=32)
    batch = view(store, recipe, seed=1).examples(np.arange(1))
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 11, 3, 12, 13, 3]
    assert len(batch.masked_positions) == 0
    store.tokenizer.special_ids = {**store.tokenizer.special_ids, "eos": None, "sep": None}
    with pytest.raises(TokenizerError, match="neither an eos nor a sep token to end a document"):
        view(store, recipe, seed=1)


def test_balanced_coverage_reaches_every_token_within_a_cycle_of_epochs():
    documents = number_tokens([[7, 11, 13]] * 5)
    recipe = Recipe(view="single", coverage="balanced", max_seq_length=48)
    first = make_view(documents, recipe)
    masked = set()
    for epoch in range(7):  # k = round(33 * 0.15) = 5 of 31 candidates
        batch = first.at_epoch(epoch).examples(np.arange(len(first)))
        masked |= set(batch.masked_labels.tolist())
    assert masked == set(flatten(flatten(documents)))


@pytest.mark.parametrize("name", ["single", "packed"])
def test_single_and_packed_views_take_stores_that_pairs_can_not(name):
    part = make_view([[[5, 6, 7]], []], Recipe(view=name))
    assert part.examples(np.arange(1)).original_ids().tolist() == [CLS, 5, 6, 7, SEP]
    assert part.notes[0] == "1 of 2 documents are empty"
    with pytest.raises(DatasetError, match="the split has 1 document and not one token"):
        make_view([[]], Recipe(view=name))


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].noise is None])
def test_named_recipes_make_examples(name):
    part = make_view(make_documents(4, 53, most_sentences=40), RECIPES[name])
    batch = part.examples(np.arange(min(31, len(part))))
    if not RECIPES[name].is_masking:
        assert len(batch.masked_labels) == 0 < len(batch.input_ids)
        return
    assert 0.05 < len(batch.masked_labels) / len(batch.input_ids) < 0.2


@pytest.fixture(scope="module")
def wikipedia(shared_data):
    """One file of Wikipedia as a store in memory."""
    tokenizer = load_tokenizer(shared_data / "vocab" / "bert-base-uncased")
    encoder, config, blocks, first_row = make_encoder(tokenizer), CorpusConfig(), [], 0
    files = sorted((shared_data / "wikipedia-en").glob("*.jsonl.zst"))[:1]
    for source in find_sources([str(file) for file in files], config):
        for batch in read_documents(source, config):
            starts = find_sentence_starts(batch.text, batch.offsets)
            encoded = encoder.encode(batch.text, batch.offsets, starts)
            blocks.append(
                SimpleNamespace(
                    first_row=first_row,
                    ids=encoded.ids,
                    unchecked_ids=encoded.ids,
                    id_offsets=encoded.document_offsets,
                    sentence_lengths=encoded.sentence_lengths,
                    sentence_offsets=encoded.sentence_offsets,
                )
            )
            first_row += len(batch.offsets) - 1
    return SimpleNamespace(blocks=tuple(blocks), tokenizer=tokenizer)


def test_packed_rows_of_wikipedia_are_99_percent_full(wikipedia):
    part = view(wikipedia, Recipe(view="packed", max_seq_length=512), seed=1)
    batch = part.examples(np.arange(len(part)))
    assert len(batch.input_ids) / (512 * len(part)) > 0.99
    assert f"rows are {len(batch.input_ids) / (512 * len(part)):.1%} full" in part.notes[0]
    num_tokens = sum(len(block.ids) for block in wikipedia.blocks)
    assert len(batch.input_ids) - 2 * len(batch.segment_lengths) == num_tokens


def test_examples_of_wikipedia_equal_the_oracle_given_the_same_draws(wikipedia):
    documents = []
    for block in wikipedia.blocks:
        sentences = np.split(block.ids, np.cumsum(block.sentence_lengths)[:-1])
        documents += [
            [sentence.tolist() for sentence in sentences[first:last]]
            for first, last in itertools.pairwise(block.sentence_offsets)
        ]
    part = view(wikipedia, Recipe(shuffle=False), seed=9)
    draws = AddressedDraws(9)
    pairs = flatten([create_pairs(documents, row, draws, max_seq_length=128) for row in range(5)])
    batch = part.examples(np.arange(len(pairs)))
    assert batch.next_sentence_label.tolist() == [pair.label for pair in pairs]
    cls_id, sep_id = (wikipedia.tokenizer.special_ids[name] for name in ("cls", "sep"))
    expected = flatten([[cls_id, *p.tokens_a, sep_id, *p.tokens_b, sep_id] for p in pairs])
    assert batch.original_ids().tolist() == expected
