"""Rules 4 to 14 and 20 of docs/fidelity.md; 1 and 2 belong to the corpus, 3 to the order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import DatasetError, IntegrityError, TokenizerError
from lmdata.pairs import dropped_in_front, truncated_lengths
from lmdata.rng import stream_key
from lmdata.views import Recipe, view
from references.pretraining import (
    CLS,
    SEP,
    AddressedDraws,
    create_pairs,
    flatten,
    make_documents,
    make_store,
    make_tokenizer,
    truncate,
)

documents_strategy = st.lists(
    st.lists(st.integers(1, 23), max_size=11), min_size=2, max_size=9
).filter(lambda lengths: any(len(document) > 1 for document in lengths))


def number_tokens(lengths):
    """Return documents of these sentence lengths in which every token is unique."""
    numbers = iter(range(5, 60_000))
    return [[[next(numbers) for _ in range(size)] for size in document] for document in lengths]


def make_view(documents, seed=1, epoch=0, num_blocks=1, **settings):
    store = make_store(documents, num_blocks=num_blocks, tokenizer=make_tokenizer(60_000))
    return view(store, Recipe(**{"shuffle": False, **settings}), seed=seed, epoch=epoch)


def split_pairs(batch):
    """Return (tokens of A, tokens of B) of every example, the corruption undone."""
    ids = batch.original_ids()
    pairs = []
    for first, last in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        row, types = ids[first:last].tolist(), batch.token_type_ids[first:last].tolist()
        middle = types.index(1)
        assert types == [0] * middle + [1] * (len(row) - middle)
        assert row[0] == CLS
        assert row[middle - 1] == SEP
        assert row[-1] == SEP
        pairs.append((row[1 : middle - 1], row[middle:-1]))
    return pairs


def all_examples(view):
    return view.examples(np.arange(len(view)))


@given(
    lengths=documents_strategy, seed=st.integers(0, 2**40), epoch=st.integers(0, 3),
    max_seq_length=st.integers(8, 61), duplicates=st.integers(1, 3),
    compat=st.sampled_from([None, "bert"]), num_blocks=st.integers(1, 4),
)  # fmt: skip
def test_pairs_equal_the_oracle_given_the_same_draws(
    lengths, seed, epoch, max_seq_length, duplicates, compat, num_blocks
):
    documents = number_tokens(lengths)
    if sum(map(bool, documents)) == 1 and compat is None:
        return  # One document makes other pairs, see below.
    pairs_view = make_view(
        documents, seed, epoch, num_blocks,
        max_seq_length=max_seq_length, duplicates=duplicates, compat=compat,
    )  # fmt: skip
    draws = AddressedDraws(seed, epoch)
    expected = [
        pair
        for row in range(len(documents))
        for pair in create_pairs(
            documents, row, draws, max_seq_length=max_seq_length, duplicates=duplicates,
            bert=compat == "bert",
        )
    ]  # fmt: skip
    batch = all_examples(pairs_view)
    assert split_pairs(batch) == [(pair.tokens_a, pair.tokens_b) for pair in expected]
    assert batch.next_sentence_label.tolist() == [pair.label for pair in expected]
    assert batch.document_a.tolist() == [pair.document_a for pair in expected]
    assert batch.document_b.tolist() == [pair.document_b for pair in expected]
    assert batch.duplicate.tolist() == [pair.duplicate for pair in expected]


def test_a_pair_by_hand():
    # Rule 7 and 14: one document of two sentences always gives the same chunk of both.
    documents = [[[5, 6, 7], [8, 9]], [[10]]]
    for seed in range(20):
        batch = all_examples(make_view(documents, seed, max_seq_length=128, short_seq_prob=0.0))
        tokens_a, tokens_b = split_pairs(batch)[0]
        assert tokens_a == [5, 6, 7]
        assert tokens_b == ([10] if batch.next_sentence_label[0] else [8, 9])


@given(lengths=documents_strategy, seed=st.integers(0, 2**40), max_seq_length=st.integers(8, 61))
def test_segments_come_from_their_documents_and_join_as_labelled(lengths, seed, max_seq_length):
    documents = number_tokens(lengths)
    flat = [flatten(document) for document in documents]
    batch = all_examples(make_view(documents, seed, max_seq_length=max_seq_length))
    one_document = sum(map(bool, documents)) == 1
    for number, (tokens_a, tokens_b) in enumerate(split_pairs(batch)):
        row_a, row_b = int(batch.document_a[number]), int(batch.document_b[number])
        assert len(tokens_a) >= 1
        assert len(tokens_b) >= 1
        assert len(tokens_a) + len(tokens_b) <= max_seq_length - 3
        start_a, start_b = flat[row_a].index(tokens_a[0]), flat[row_b].index(tokens_b[0])
        assert flat[row_a][start_a : start_a + len(tokens_a)] == tokens_a
        assert flat[row_b][start_b : start_b + len(tokens_b)] == tokens_b
        is_random = batch.next_sentence_label[number] == 1  # rule 20
        assert is_random == (row_a != row_b)
        assert not (is_random and one_document)
        if not is_random:
            assert start_b >= start_a + len(tokens_a)


@given(lengths=documents_strategy, seed=st.integers(0, 2**40))
def test_every_sentence_is_reached(lengths, seed):
    # Rules 7 and 12: nothing is truncated away when rows are long, and the unused come back.
    documents = number_tokens(lengths)
    batch = all_examples(make_view(documents, seed, max_seq_length=2000, short_seq_prob=0.3))
    if sum(map(bool, documents)) > 1 or len(max(documents, key=len)) > 1:
        assert set(flatten(flatten(documents))) <= set(batch.original_ids().tolist())


@given(
    length_a=st.integers(1, 70), length_b=st.integers(1, 70), capacity=st.integers(5, 97),
    seed=st.integers(0, 2**40), ordinal=st.integers(0, 2**31),
)  # fmt: skip
def test_truncation_drops_one_token_at_a_time_from_the_longer(
    length_a, length_b, capacity, seed, ordinal
):
    # Rule 13.
    tokens_a, tokens_b = list(range(length_a)), list(range(length_b))
    draws = AddressedDraws(seed)
    draws.at(3, 0, ordinal)
    truncate(tokens_a, tokens_b, capacity, draws)
    new_a, new_b = truncated_lengths(length_a, length_b, capacity)
    assert (new_a, new_b) == (len(tokens_a), len(tokens_b))
    key = stream_key(seed, "truncate")
    assert dropped_in_front(key, 3, ordinal, False, length_a - new_a) == tokens_a[0]
    assert dropped_in_front(key, 3, ordinal, True, length_b - new_b) == tokens_b[0]


def test_the_longest_pair_fills_the_row_but_for_three_special_tokens():
    # Rule 5.
    batch = all_examples(make_view(number_tokens([[40] * 9] * 3), max_seq_length=61))
    assert np.diff(batch.offsets).max() == 61


def test_duplicates_repeat_pairs_and_truncation_and_masks():
    # Rule 4: passes differ in all of them, yet each is a whole pass.
    documents = number_tokens([[7, 5, 11, 3, 8]] * 5)
    batch = all_examples(make_view(documents, duplicates=3, max_seq_length=23))
    for duplicate in range(3):
        rows = batch.duplicate == duplicate
        assert set(batch.document_a[rows].tolist()) == set(range(5))
    one = [pair for pair, dup in zip(split_pairs(batch), batch.duplicate, strict=True) if dup == 0]
    two = [pair for pair, dup in zip(split_pairs(batch), batch.duplicate, strict=True) if dup == 1]
    assert one != two


def test_bert_takes_the_same_document_after_ten_draws_and_labels_it_random():
    # Rule 10, left: with two documents, 1 in 1024 random pairs stays within its document.
    documents = number_tokens([[3, 4], [2, 5]])
    batch = all_examples(make_view(documents, compat="bert", duplicates=20_000))
    is_random = batch.next_sentence_label == 1
    same = (batch.document_a == batch.document_b)[is_random]
    assert is_random.sum() * 0.5**10 * 0.5 < same.sum() < is_random.sum() * 0.5**10 * 1.7
    alone = all_examples(make_view(documents[:1], compat="bert", duplicates=50))
    assert 0 < (alone.next_sentence_label == 1).sum() < len(alone)


def test_one_document_gives_no_random_pair_and_says_so():
    # Rule 10, right.
    pairs_view = make_view(number_tokens([[3, 40, 2, 5, 9, 61, 4], []]), max_seq_length=29)
    batch = all_examples(pairs_view)
    assert (batch.next_sentence_label == 0).all()
    assert "no pair is labelled random: there is no other document" in pairs_view.notes
    assert "1 of 2 documents are empty" in pairs_view.notes


def test_balanced_pairs_are_half_random():
    # Rule 9, right.
    documents = make_documents(3, 700)
    plain = all_examples(make_view(documents, duplicates=3, max_seq_length=64))
    balanced = all_examples(make_view(documents, duplicates=3, max_seq_length=64, balance_nsp=True))
    bound = 4 * (0.25 / len(balanced)) ** 0.5
    assert plain.next_sentence_label.mean() > 0.5 + bound
    assert abs(balanced.next_sentence_label.mean() - 0.5) < bound


@given(lengths=documents_strategy, seed=st.integers(0, 2**40), max_seq_length=st.integers(8, 61))
def test_sentence_order_pairs_are_neighbours_swapped_when_labelled(lengths, seed, max_seq_length):
    documents = number_tokens(lengths)
    batch = all_examples(make_view(documents, seed, view="sop", max_seq_length=max_seq_length))
    assert (batch.document_a == batch.document_b).all()
    for (tokens_a, tokens_b), label in zip(
        split_pairs(batch), batch.next_sentence_label, strict=True
    ):
        assert (tokens_a[0] > tokens_b[0]) == (label == 1)
    reached = set(batch.document_a.tolist())
    assert reached == {row for row, document in enumerate(documents) if len(document) > 1}


def test_sentence_order_pairs_are_swapped_half_of_the_time():
    batch = all_examples(make_view(make_documents(5, 900), view="sop", max_seq_length=64))
    assert abs(batch.next_sentence_label.mean() - 0.5) < 4 * (0.25 / len(batch)) ** 0.5


def test_lone_sentences_without_a_neighbour_are_counted():
    pairs_view = make_view(number_tokens([[3, 4], [5], [6]]), view="sop")
    note = "2 sentences are in no pair: they stand alone in their documents"
    assert pairs_view.notes == (note,)


def test_where_nearly_all_documents_are_empty_the_other_one_is_found_at_once():
    lengths = [[3, 4, 5], *[[]] * 30_000, [2, 5, 7]]
    store_view = make_view(number_tokens(lengths), max_seq_length=16, duplicates=50)
    batch = all_examples(store_view)
    is_random = batch.next_sentence_label == 1
    assert is_random.sum() > 50
    ends = {0: 30_001, 30_001: 0}
    others = [ends[row] for row in batch.document_a[is_random].tolist()]
    assert batch.document_b[is_random].tolist() == others
    alone = make_view(number_tokens(lengths[:-1]), compat="bert", duplicates=50)
    assert set(all_examples(alone).document_b.tolist()) == {0}


def test_rows_far_inside_a_long_book_equal_those_of_the_whole_walk():
    documents = make_documents(9, 3, most_sentences=9000)
    for name in ("nsp", "sop", "single"):
        book = make_view(documents, view=name, max_seq_length=64)
        batch, middle = all_examples(book), len(book) // 2 + 17
        one = book.examples(np.array([middle]))
        first, last = batch.offsets[middle : middle + 2]
        assert one.input_ids.tolist() == batch.input_ids[first:last].tolist()


@pytest.mark.parametrize("name", ["nsp", "sop"])
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [],
            "the split has 0 documents and not one token: tokenize more text, or hold out",
        ),
        ([[], []], "the split has 2 documents and not one token"),
        ([[[5, 6]]], "none of the 1 documents has two: tokenize with sentence boundaries, or use"),
        ([[[5, 6]], [[7]]], "view=... pairs sentences, but none of the 2 documents has two"),
    ],
)
def test_stores_that_no_pair_can_be_made_of_are_refused(name, documents, message):
    with pytest.raises(DatasetError, match=message):
        make_view(documents, view=name)


def test_a_tokenizer_without_the_frame_tokens_is_refused():
    store = make_store(number_tokens([[3, 4], [5, 6]]))
    store.tokenizer.special_ids = {**store.tokenizer.special_ids, "cls": None}
    with pytest.raises(TokenizerError, match="view=nsp needs a cls token, which the tokenizer"):
        view(store, Recipe(), seed=1)


def test_sentence_lengths_that_contradict_the_tokens_are_refused():
    store = make_store(number_tokens([[3, 4], [5, 6]]))
    store.blocks[0].sentence_lengths[2] = 5
    with pytest.raises(IntegrityError, match="from row 0 has 18 tokens, but its sentence lengths"):
        view(store, Recipe(), seed=1)
