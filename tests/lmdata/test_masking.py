"""Rules 15 to 19 of docs/fidelity.md, and the corruptions beyond BERT's script."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import TokenizerError
from lmdata.masking import (
    candidate_pieces,
    mask_rules,
    mask_tokens,
    predictions,
    span_length_weights,
)
from lmdata.recipes import Recipe
from references.pretraining import (
    CLS,
    MASK,
    SEP,
    UNK,
    AddressedDraws,
    choose_tokens,
    choose_words,
    group_words,
    make_tokenizer,
    mask_each,
    num_to_mask,
    replace_tokens,
)

VOCABULARY = 37
CONTINUES = set(range(20, VOCABULARY))  # these pieces go on with a word
rows_strategy = st.lists(
    st.lists(st.sampled_from([CLS, SEP, UNK, *range(5, VOCABULARY)]), max_size=41),
    min_size=1, max_size=7,
)  # fmt: skip


def make_batch(rows, dtype=np.uint16):
    ids = np.array([token for row in rows for token in row], dtype)
    return ids, np.cumsum([0, *map(len, rows)])


def run(rows, recipe, seed=1, epoch=0, progress=0.0, dtype=np.uint16, first=0):
    """Return (ids, positions, labels) of each row, addressed (first + number, number)."""
    tokenizer = make_tokenizer(VOCABULARY, CONTINUES)
    rules = mask_rules(recipe, tokenizer, seed=seed, epoch=epoch, progress=progress, id_dtype=dtype)
    ids, offsets = make_batch(rows, dtype)
    numbers = np.arange(len(rows))
    positions, labels, mask_offsets = mask_tokens(ids, offsets, first + numbers, numbers, rules)
    return [
        (
            ids[offsets[i] : offsets[i + 1]].tolist(),
            positions[mask_offsets[i] : mask_offsets[i + 1]].tolist(),
            labels[mask_offsets[i] : mask_offsets[i + 1]].tolist(),
        )
        for i in range(len(rows))
    ]


def masks_of_the_oracle(rows, recipe, seed, epoch):
    """Return what `run(rows, recipe, seed, epoch, first=5)` must return."""
    bert = recipe.compat == "bert"
    can_mask = set(range(VOCABULARY)) - ({CLS, SEP} if bert else set(range(UNK)))
    random_pieces = list(range(0 if bert else UNK + 1, VOCABULARY))
    expected = []
    for number, row in enumerate(rows):
        draws = AddressedDraws(seed, epoch, masked=(number + 5, number))
        k = num_to_mask(len(row), recipe.mlm_probability, recipe.most_predictions)
        if recipe.corruption == "token":
            spans = [[position] for position in choose_tokens(row, can_mask, k, draws)]
        else:
            words = group_words(row, can_mask, CONTINUES, bert)
            spans = choose_words(words, k, draws, recipe.corruption)
        one_decision = recipe.corruption == "span"
        expected.append(
            replace_tokens(row, spans, random_pieces, draws, one_decision_a_span=one_decision)
        )
    return expected


@given(
    rows=rows_strategy, seed=st.integers(0, 2**40), epoch=st.integers(0, 3),
    rate=st.floats(0.01, 0.9), most=st.one_of(st.none(), st.integers(1, 9)),
    corruption=st.sampled_from(["token", "whole-word", "span", "ngram"]),
    compat=st.sampled_from([None, "bert"]), dtype=st.sampled_from([np.uint16, np.uint32]),
)  # fmt: skip
def test_masks_equal_the_oracle_given_the_same_draws(
    rows, seed, epoch, rate, most, corruption, compat, dtype
):
    recipe = Recipe(
        corruption=corruption, mlm_probability=rate, max_predictions=most, compat=compat
    )
    expected = masks_of_the_oracle(rows, recipe, seed, epoch)
    assert run(rows, recipe, seed, epoch, dtype=dtype, first=5) == expected


@pytest.mark.parametrize("compat", [None, "bert"])
@pytest.mark.parametrize("corruption", ["token", "whole-word", "span", "ngram"])
def test_masks_of_long_rows_equal_the_oracle_too(corruption, compat):
    # Long enough for spans to meet each other, the special tokens and the end of the budget.
    generator = np.random.default_rng(11)
    pieces = [CLS, SEP, UNK, *range(5, VOCABULARY)]
    rows = [generator.choice(pieces, size).tolist() for size in range(20, 80, 3)]
    recipe = Recipe(corruption=corruption, mlm_probability=0.25, compat=compat)
    assert run(rows, recipe, 7, 1, first=5) == masks_of_the_oracle(rows, recipe, 7, 1)


def test_masks_by_hand():
    # Rules 16 to 18 with every masked token replaced by [MASK]: k = round(12 * 0.25) = 3.
    recipe = Recipe(
        mlm_probability=0.25, mask_proportion=1.0, random_proportion=0.0, keep_proportion=0.0
    )
    row = [CLS, 5, 6, 7, 8, SEP, 9, 10, 11, 12, 13, SEP]
    [(ids, positions, labels)] = run([row], recipe)
    assert len(positions) == 3
    assert labels == [row[position] for position in positions]
    assert ids == [MASK if i in positions else token for i, token in enumerate(row)]


@given(
    rows=rows_strategy, seed=st.integers(0, 2**40), rate=st.floats(0.01, 0.99),
    corruption=st.sampled_from(["token", "whole-word", "span", "ngram"]),
    count=st.sampled_from(["exact", "bernoulli"]),
)  # fmt: skip
def test_special_tokens_are_never_chosen_nor_produced(rows, seed, rate, corruption, count):
    # Rules 15 and 18, right; labels are the originals.
    if corruption in ("span", "ngram"):
        count = "exact"
    recipe = Recipe(corruption=corruption, mlm_probability=rate, count=count)
    for row, (ids, positions, labels) in zip(rows, run(rows, recipe, seed), strict=True):
        assert positions == sorted(set(positions))
        assert labels == [row[position] for position in positions]
        for position, (before, after) in enumerate(zip(row, ids, strict=True)):
            if position not in positions:
                assert before == after
            else:
                assert before >= UNK
                assert after in (MASK, before) or after > UNK
        if corruption == "token" and count == "exact":
            k = num_to_mask(len(row), rate, recipe.most_predictions)
            assert len(positions) == min(k, sum(token >= UNK for token in row))


def test_the_number_of_masks_rounds_halves_to_even_as_python_does():
    # Rule 16.
    lengths = np.arange(1, 600)
    for rate in (0.05, 0.15, 0.25, 0.5):
        expected = [num_to_mask(int(length), rate, 77) for length in lengths]
        assert predictions(lengths, rate, 77).tolist() == expected
    assert predictions(np.array([50, 90]), 0.15, 77).tolist() == [8, 14]
    rows = [[5] * length for length in (10, 14, 18, 22)]  # 2.5, 3.5, 4.5, 5.5
    masked = run(rows, Recipe(mlm_probability=0.25))
    assert [len(positions) for _, positions, _ in masked] == [2, 4, 4, 6]
    assert Recipe(max_seq_length=128).most_predictions == 20
    assert Recipe(max_seq_length=20).most_predictions == 3


def test_the_unknown_piece_is_a_candidate_and_bert_takes_all_but_cls_and_sep():
    # Rule 15.
    tokenizer = make_tokenizer(VOCABULARY)
    assert np.flatnonzero(~candidate_pieces(tokenizer)).tolist() == [0, CLS, SEP, MASK]
    assert np.flatnonzero(~candidate_pieces(tokenizer, bert=True)).tolist() == [CLS, SEP]


def test_a_word_never_goes_on_across_segments_unless_as_bert():
    # Rule 19: the piece 25 after [SEP] continues a word.
    row = [CLS, 5, SEP, 25, SEP]
    apart, joined = (
        [
            run([row], Recipe(corruption="whole-word", mlm_probability=0.4, compat=compat), seed)[0]
            for seed in range(40)
        ]
        for compat in (None, "bert")
    )
    assert {tuple(positions) for _, positions, _ in joined} == {(1, 3)}
    assert {tuple(positions) for _, positions, _ in apart} == {(1, 3)}
    small = [
        run([row], Recipe(corruption="whole-word", mlm_probability=0.2, compat=compat), seed)[0]
        for compat in (None, "bert")
        for seed in range(40)
    ]
    assert {tuple(positions) for _, positions, _ in small[:40]} == {(1,), (3,)}
    assert {tuple(positions) for _, positions, _ in small[40:]} == {()}  # two pieces exceed k = 1


@given(rows=rows_strategy, seed=st.integers(0, 2**40), corruption=st.sampled_from(
    ["whole-word", "span", "ngram"]
))  # fmt: skip
def test_words_are_masked_whole(rows, seed, corruption):
    recipe = Recipe(corruption=corruption, mlm_probability=0.4, max_seq_length=128)
    can_mask = set(range(UNK, VOCABULARY))
    for row, (_, positions, _) in zip(rows, run(rows, recipe, seed), strict=True):
        for word in group_words(row, can_mask, CONTINUES, bert=False):
            assert len(set(word) & set(positions)) in (0, len(word))


def test_spans_have_the_lengths_of_the_papers():
    # SpanBERT: mean 3.8 words.
    weights = span_length_weights("span")
    assert (weights * np.arange(1, 11)).sum() == pytest.approx(3.8, abs=0.01)
    ngrams = span_length_weights("ngram")  # ALBERT: in proportion to 1 / n
    assert (ngrams[0] / ngrams).tolist() == pytest.approx([1, 2, 3])


def test_a_span_decides_once_and_words_decide_for_each_token():
    row = [CLS, *range(5, 20), SEP]
    for corruption, sames in (("span", {0, 2}), ("ngram", {0, 1, 2})):
        recipe = Recipe(
            corruption=corruption, mlm_probability=0.12, mask_proportion=0.5,
            random_proportion=0.0, keep_proportion=0.5,
        )  # fmt: skip
        # With k = 2, a pair of neighbours that is not one span would need two spans side by side.
        tokenizer = make_tokenizer(VOCABULARY, CONTINUES)
        rules = mask_rules(recipe, tokenizer, seed=3)
        rules = rules._replace(span_words=np.zeros(1, np.int64))  # every span has two words
        ids, offsets = make_batch([row] * 300)
        numbers = np.arange(300)
        positions, _, _ = mask_tokens(ids, offsets, numbers, numbers, rules)
        pairs = positions.reshape(300, 2).astype(np.int64)
        together = np.diff(pairs)[:, 0] == 1
        is_mask = ids.reshape(300, -1)[numbers[:, None], pairs] == MASK
        assert set(is_mask[together].sum(axis=1).tolist()) == sames


def test_balanced_coverage_masks_every_token_once_a_cycle():
    row = [CLS, *range(5, 36), SEP]
    recipe = Recipe(view="single", coverage="balanced", mlm_probability=0.2)
    k = num_to_mask(len(row), 0.2, 99)
    period = -(-31 // k)
    for cycle in (0, 1, 5):
        times = np.zeros(len(row), int)
        for epoch in range(cycle * period, (cycle + 1) * period):
            [(_, positions, _)] = run([row], recipe, epoch=epoch)
            assert len(positions) == k
            times[positions] += 1
        assert times[1:-1].min() == 1
        assert times.sum() == k * period
    first = [run([row], recipe, epoch=epoch)[0][1] for epoch in range(period)]
    second = [run([row], recipe, epoch=epoch)[0][1] for epoch in range(period, 2 * period)]
    assert first != second


def test_the_rate_may_change_over_the_training():
    row = [CLS, *[5] * 98, SEP]
    recipe = Recipe(mlm_probability=(0.30, 0.15))
    counts = [len(run([row], recipe, progress=progress)[0][1]) for progress in (0.0, 0.5, 1.0)]
    assert counts == [30, 22, 15]
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got 1.5"):
        recipe.rate_at(1.5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@given(rows=rows_strategy, seed=st.integers(0, 2**40), rate=st.floats(0.01, 0.99))
def test_kernel_numpy_and_torch_mask_alike(device, rows, seed, rate):
    torch = pytest.importorskip("torch")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    recipe = Recipe(count="bernoulli", mlm_probability=rate)
    rules = mask_rules(recipe, make_tokenizer(VOCABULARY), seed=seed)
    ids, offsets = make_batch(rows)
    lengths = np.diff(offsets)
    numbers = np.arange(len(rows))
    starts = np.repeat(offsets[:-1], lengths)
    arrays = [
        ids.astype(np.int64), np.repeat(numbers + 2**40, lengths), np.repeat(numbers, lengths),
        np.arange(len(ids)) - starts, starts,
    ]  # fmt: skip
    tables = [rules.is_candidate, rules.random_pieces.astype(np.int64)]
    array_ids, is_masked = mask_each(*arrays, rules, *tables)
    tensor_ids, tensor_masked = mask_each(
        *(torch.from_numpy(array).to(device) for array in arrays),
        rules,
        *(torch.from_numpy(table).to(device) for table in tables),
    )
    positions, labels, mask_offsets = mask_tokens(ids, offsets, numbers + 2**40, numbers, rules)
    flat = np.repeat(offsets[:-1], np.diff(mask_offsets)) + positions
    assert ids.tolist() == array_ids.tolist() == tensor_ids.tolist()
    assert flat.tolist() == np.flatnonzero(is_masked).tolist()
    assert is_masked.tolist() == tensor_masked.tolist()
    assert labels.tolist() == arrays[0][is_masked].tolist()


def test_a_vocabulary_of_special_tokens_is_refused():
    with pytest.raises(TokenizerError, match="all 5 pieces of the vocabulary are special tokens"):
        mask_rules(Recipe(), make_tokenizer(5), seed=1)


def test_a_tokenizer_without_mask_token_is_refused():
    tokenizer = make_tokenizer(VOCABULARY)
    tokenizer.special_ids = {**tokenizer.special_ids, "mask": None}
    with pytest.raises(TokenizerError, match="no mask token: use corruption=none, or a tokenizer"):
        mask_rules(Recipe(), tokenizer, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mlm_probability": 0.0}, r"mlm_probability must be in \(0, 1\), got 0.0"),
        ({"mlm_probability": (0.3, 1.0)}, r"mlm_probability must be in \(0, 1\), got \(0.3, 1.0\)"),
        ({"mlm_probability": float("nan")}, r"mlm_probability must be in \(0, 1\), got nan"),
        ({"mask_proportion": 0.9}, r"at least 0 and sum to 1, got \(0.9, 0.1, 0.1\)"),
        ({"mask_proportion": 1.0, "keep_proportion": -0.1}, r"sum to 1, got \(1.0, 0.1, -0.1\)"),
        ({"max_seq_length": 7}, r"max_seq_length must be in \[8, 65535\], got 7"),
        ({"view": "pairs"}, "view must be one of nsp, sop, single, packed, sentence, got 'pairs'"),
        ({"corruption": "word"}, "corruption must be one of token, whole-word, span, ngram, "),
        ({"count": "all"}, "count must be one of exact, bernoulli, got 'all'"),
        ({"compat": "gpt"}, "compat must be one of None, bert, got 'gpt'"),
        ({"duplicates": 0}, r"duplicates must be in \[1, 65535\], got 0"),
        ({"max_predictions": 0}, "max_predictions must be at least 1, got 0"),
        ({"short_seq_prob": 1.5}, r"short_seq_prob must be in \[0, 1\], got 1.5"),
        ({"view": "packed", "short_seq_prob": 0.2}, "short_seq_prob=0.2 has no effect with view"),
        ({"view": "sop", "balance_nsp": True}, "balance_nsp=True has no effect with view=sop"),
        ({"view": "single", "compat": "bert"}, "compat=bert has no effect with view=single"),
        ({"corruption": "span", "count": "bernoulli"}, "count=bernoulli has no effect with"),
        ({"count": "bernoulli", "max_predictions": 9}, "max_predictions=9 has no effect with"),
        ({"coverage": "balanced"}, "coverage=balanced has no effect with view=nsp"),
        ({"compat": "bert", "balance_nsp": True}, "contradicts compat=bert"),
        ({"compat": "bert", "count": "bernoulli"}, "compat=bert masks an exact count"),
        ({"corruption": "none"}, "corruption=none needs view single or packed, got view=nsp"),
        ({"view": "packed", "corruption": "none", "mlm_probability": 0.2}, "has no effect with"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_or_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)
