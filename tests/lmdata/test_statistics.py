"""Chance at fixed seeds within stated bounds, and for each a broken variant that is refused.

A check passes within 5 standard errors (`checks.LIMIT`), which a sound view fails once in 1.7
million. The broken variants deviate by what a real mistake would cost.
"""

import dataclasses
import math

import numpy as np
import pytest

from lmdata.checking import checks
from lmdata.checking.checks import LIMIT, Check, example_hashes, share, uniformity
from lmdata.checking.example_checks import count_examples, judge
from lmdata.masking import mask_rules, mask_tokens
from lmdata.pairs import target_length
from lmdata.views import ExampleBatch, Recipe, view
from references.pretraining import (
    CLS,
    MASK,
    SEP,
    AddressedDraws,
    PlainDraws,
    create_pairs,
    make_documents,
    make_store,
    make_tokenizer,
)

VOCABULARY = 1000
NUM_ORDINARY = VOCABULARY - 5
SEED = 20_261_122


@pytest.fixture(scope="module")
def documents():
    return make_documents(7, 1500, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def store(documents):
    return make_store(documents, tokenizer=make_tokenizer(VOCABULARY, set(range(700, 1000))))


def make_batch(store, recipe, epoch=0):
    part = view(store, recipe, seed=SEED, epoch=epoch)
    return part.examples(np.arange(len(part)))


def failed(batch, recipe, store, **settings):
    counts = count_examples(batch, recipe, store.tokenizer)
    settings = {"num_random_pieces": NUM_ORDINARY, **settings}
    return {check.name for check in judge(counts, recipe, **settings) if not check.passed}


def damaged(batch, **arrays):
    return batch.replace(**arrays)


RECIPES = [
    Recipe(max_seq_length=64),
    Recipe(max_seq_length=64, balance_nsp=True),
    Recipe(max_seq_length=64, mlm_probability=0.3, count="bernoulli"),
    Recipe(max_seq_length=64, corruption="whole-word"),
    Recipe(max_seq_length=64, corruption="whole-word", count="bernoulli"),
    Recipe(max_seq_length=64, view="sop", corruption="ngram"),
    Recipe(max_seq_length=64, view="single", corruption="span"),
    Recipe(max_seq_length=64, view="packed", random_proportion=0.2, keep_proportion=0.0),
    Recipe(max_seq_length=64, view="packed", corruption="none"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.view}-{r.corruption}-{r.count}")
def test_every_view_holds_what_its_recipe_promises(store, recipe):
    assert failed(make_batch(store, recipe), recipe, store) == set()


@pytest.mark.parametrize("balance_nsp", [False, True])
def test_the_share_of_random_pairs_is_the_one_noted_and_3_percent_more_are_refused(
    store, balance_nsp
):
    # Rule 9: more than half, as a chunk of one sentence is always random.
    recipe = Recipe(max_seq_length=64, balance_nsp=balance_nsp, duplicates=5)
    part = view(store, recipe, seed=SEED)
    expected = part.facts.expected_positive_share
    assert abs(expected - 0.5) < 0.001 if balance_nsp else expected > 0.55
    batch = part.examples(np.arange(len(part)))
    assert failed(batch, recipe, store, positive_share=expected) == set()
    name = "share of random pairs"
    assert name in failed(batch, recipe, store, positive_share=expected - 0.03)
    labels = batch.next_sentence_label.copy()
    labels[:: len(labels) // 1000] = 1  # rule 20 for a few more than there should be
    broken = damaged(batch, next_sentence_label=labels)
    assert "pairs labelled against their documents" in failed(broken, recipe, store)


def test_counts_of_shards_add_up(store):
    recipe = Recipe(max_seq_length=64)
    part = view(store, recipe, seed=SEED)
    rows = np.array_split(np.arange(len(part)), 3)
    counts = [count_examples(part.examples(some), recipe, store.tokenizer) for some in rows]
    total = counts[0] + counts[1] + counts[2]
    whole = count_examples(part.examples(np.arange(len(part))), recipe, store.tokenizer)
    for field in dataclasses.fields(whole):
        assert np.allclose(getattr(total, field.name), getattr(whole, field.name)), field.name


# Shards damaged on purpose.


def test_labels_shifted_by_one_are_caught(store):
    recipe = Recipe(max_seq_length=64)
    batch = make_batch(store, recipe)
    broken = damaged(batch, masked_labels=np.roll(batch.masked_labels, 1))
    assert "share kept" in failed(broken, recipe, store)


def test_one_masked_special_token_is_caught(store):
    recipe = Recipe(max_seq_length=64)
    batch = make_batch(store, recipe)
    ids, labels, positions = (
        array.copy() for array in (batch.input_ids, batch.masked_labels, batch.masked_positions)
    )
    ids[0], labels[0], positions[0] = MASK, CLS, 0
    broken = damaged(batch, input_ids=ids, masked_labels=labels, masked_positions=positions)
    assert "special tokens masked" in failed(broken, recipe, store)


@pytest.mark.parametrize("count", ["exact", "bernoulli"])
def test_a_rate_of_14_percent_for_15_is_caught(store, count):
    batch = make_batch(store, Recipe(max_seq_length=64, mlm_probability=0.14, count=count))
    expected = {
        "exact": "examples with a wrong number of masks",
        "bernoulli": "mask rate",
    }
    assert failed(batch, Recipe(max_seq_length=64, count=count), store) == {expected[count]}


def test_flipped_labels_of_pairs_are_caught(store):
    recipe = Recipe(max_seq_length=64)
    batch = make_batch(store, recipe)
    broken = damaged(batch, next_sentence_label=1 - batch.next_sentence_label)
    assert "pairs labelled against their documents" in failed(broken, recipe, store)


def test_examples_written_twice_are_caught(store):
    batch = make_batch(store, Recipe(max_seq_length=64))
    hashes = example_hashes(batch)
    assert len(np.unique(hashes)) == len(hashes) > 3000
    rows = np.flatnonzero(batch.document_a == 31)
    part = view(store, Recipe(max_seq_length=64), seed=SEED)
    again = example_hashes(part.examples(rows))
    assert len(again)
    assert np.isin(again, hashes).all()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda b: {"masked_positions": b.masked_positions[::-1].copy()}, "out of order or range"),
        (lambda b: {"masked_positions": b.masked_positions + np.uint16(60)}, "order or range"),
        (lambda b: {"token_type_ids": 1 - b.token_type_ids}, "wrong token types"),
        (lambda b: {"token_type_ids": b.token_type_ids * 0}, "wrong token types"),
        (lambda b: {"input_ids": np.where(b.input_ids == CLS, SEP, b.input_ids)}, "without their"),
        (lambda b: {"input_ids": np.where(b.input_ids == 77, MASK, b.input_ids)}, "without a lab"),
        (lambda b: {"next_sentence_label": b.next_sentence_label * 0}, "share of random pairs"),
    ],
)
def test_other_damage_is_caught(store, change, name):
    recipe = Recipe(max_seq_length=64)
    batch = make_batch(store, recipe)
    broken = damaged(batch, **change(batch))
    assert any(name in message for message in failed(broken, recipe, store))


def test_examples_that_are_too_long_are_caught(store):
    batch = make_batch(store, Recipe(max_seq_length=65, max_predictions=10))
    recipe = Recipe(max_seq_length=64, max_predictions=10)
    assert failed(batch, recipe, store) == {"examples over max_seq_length"}


# Statistics of masks, each with a broken variant.


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"mask_proportion": 0.78, "keep_proportion": 0.12}, "share replaced by [MASK]"),
        ({"random_proportion": 0.12, "keep_proportion": 0.08}, "share replaced at random"),
        ({"mask_proportion": 0.82, "keep_proportion": 0.08}, "share kept"),
    ],
)
def test_proportions_that_are_2_percent_off_are_refused(store, settings, name):
    batch = make_batch(store, Recipe(max_seq_length=64, **settings))
    assert name in failed(batch, Recipe(max_seq_length=64), store)


def mask_long_rows(broken_rules=None, num_rows=4000, length=64):
    """Return a batch of single segments that are all ordinary pieces, masked."""
    tokenizer = make_tokenizer(VOCABULARY)
    rules = mask_rules(Recipe(view="single", max_seq_length=length), tokenizer, seed=SEED)
    rules = rules._replace(**(broken_rules or {}))
    ids = np.random.default_rng(5).integers(5, VOCABULARY, (num_rows, length)).astype(np.uint16)
    ids[:, 0], ids[:, -1] = CLS, SEP
    offsets = np.arange(num_rows + 1) * length
    rows = np.arange(num_rows)
    ids = ids.ravel()
    positions, labels, mask_offsets = mask_tokens(ids, offsets, rows, rows * 0, rules)
    zeros = np.zeros(num_rows, np.uint64)
    return ExampleBatch(
        input_ids=ids, offsets=offsets, token_type_ids=np.zeros(len(ids), np.uint8),
        masked_positions=positions, mask_offsets=mask_offsets, masked_labels=labels,
        next_sentence_label=np.full(num_rows, -1, np.int8), document_a=zeros, document_b=zeros,
        duplicate=zeros.astype(np.uint16), segment_lengths=np.diff(offsets).astype(np.int32),
        segment_offsets=np.arange(num_rows + 1),
    )  # fmt: skip


def judge_long_rows(batch):
    tokenizer = make_tokenizer(VOCABULARY)
    recipe = Recipe(view="single", max_seq_length=64)
    counts = count_examples(batch, recipe, tokenizer)
    return {c.name.split(",")[0]: c for c in judge(counts, recipe, num_random_pieces=NUM_ORDINARY)}


def test_random_pieces_are_uniform_and_a_missing_tenth_is_refused():
    assert judge_long_rows(mask_long_rows())["random pieces"].passed
    fewer = np.arange(5, 905, dtype=np.uint16)
    assert not judge_long_rows(mask_long_rows({"random_pieces": fewer}))["random pieces"].passed


def test_mask_positions_are_uniform_and_a_wrong_end_is_refused():
    batch = mask_long_rows()
    assert judge_long_rows(batch)["mask positions"].passed
    # An off-by-one that never masks the last token of a segment, as `randint(0, n - 1)` would.
    positions = np.where(batch.masked_positions == 62, 61, batch.masked_positions)
    broken = damaged(batch, masked_positions=positions.astype(np.uint16))
    assert not judge_long_rows(broken)["mask positions"].passed
    # A modulo of too few random bits prefers the front.
    skewed = np.where(batch.masked_positions > 56, batch.masked_positions - 32,
                      batch.masked_positions)  # fmt: skip
    assert not judge_long_rows(damaged(batch, masked_positions=skewed))["mask positions"].passed


def independence(name: str, first: ExampleBatch, second: ExampleBatch) -> Check:
    """Return a check that two epochs mask the same examples independently of each other.

    Args:
        name: of the check
        first: examples whose tokens are those of `second`, in the same order
        second: the same examples of another epoch

    Raises:
        ValueError: the examples are not the same
    """
    if not np.array_equal(first.offsets, second.offsets):
        raise ValueError("the two batches hold different examples: give the same rows unshuffled")
    masked = [np.zeros(len(batch.input_ids), bool) for batch in (first, second)]
    for is_masked, batch in zip(masked, (first, second), strict=True):
        is_masked[batch.flat_masked_positions()] = True
    starts = first.offsets[:-1]
    one, two = (np.add.reduceat(part, starts, dtype=np.int64) for part in masked)
    num_candidates = np.maximum(2, np.diff(first.offsets) - 2)
    means = one * two / num_candidates
    variances = means * (1 - one / num_candidates) * (num_candidates - two) / (num_candidates - 1)
    observed = int((masked[0] & masked[1]).sum())
    sigmas = (observed - means.sum()) / math.sqrt(max(1e-9, variances.sum()))
    return Check(f"{name} overlap, deviation in standard errors", 0.0, float(sigmas), -LIMIT, LIMIT)


def test_epochs_mask_independently_and_a_reused_seed_is_refused(store):
    recipe = Recipe(view="single", max_seq_length=64, shuffle=False)
    first, second, third = (make_batch(store, recipe, epoch) for epoch in (0, 1, 2))
    assert independence("masks of epochs 0 and 1", first, second).passed
    assert independence("masks of epochs 1 and 2", second, third).passed
    assert not independence("the same epoch", first, first).passed
    # `seed + epoch` used for some of the examples only: a twentieth of the masks agree.
    part = len(first) // 20
    mixed = damaged(
        second,
        masked_positions=np.concatenate(
            [
                first.masked_positions[: first.mask_offsets[part]],
                second.masked_positions[second.mask_offsets[part] :],
            ]
        ),
    )
    assert not independence("a twentieth of the masks", first, mixed).passed


def test_independence_of_other_examples_is_an_error(store):
    first = make_batch(store, Recipe(view="single", max_seq_length=64))
    second = make_batch(store, Recipe(view="single", max_seq_length=64), epoch=1)
    with pytest.raises(ValueError, match="different examples: give the same rows unshuffled"):
        independence("masks", first, second)


# Statistics of pairs. One-token sentences make lengths exact: a chunk is as long as its target.

CAPACITY = 61


@pytest.fixture(scope="module")
def dotted_store():
    return make_store([[[5 + i % 900] for i in range(400)] for _ in range(400)])


def target_lengths(store, short_seq_prob=0.1, num_documents=40_000):
    part = view(store, Recipe(max_seq_length=64, short_seq_prob=short_seq_prob), seed=SEED)
    return np.array([target_length(part._walk, row, 0) for row in range(num_documents)])


def check_short_share(targets, expected=0.1):
    # A short document may draw the full length: one in `CAPACITY - 1`.
    expected *= 1 - 1 / (CAPACITY - 1)
    return share("short documents", expected, int((targets < CAPACITY).sum()), len(targets))


def check_short_lengths(targets):
    short = targets[targets < CAPACITY]
    return uniformity("short lengths", np.bincount(short, minlength=CAPACITY)[2:CAPACITY])


def test_a_tenth_of_the_documents_is_short_and_two_percent_more_are_refused(dotted_store):
    # Rule 6.
    assert check_short_share(target_lengths(dotted_store)).passed
    assert not check_short_share(target_lengths(dotted_store, 0.12)).passed


def test_short_lengths_are_uniform_and_a_preference_is_refused(dotted_store):
    # Rule 6: uniform in [2, max_num_tokens].
    targets = target_lengths(dotted_store)
    assert targets.min() == 2
    assert check_short_lengths(targets).passed
    assert not check_short_lengths(np.where(targets == 2, 3, targets)).passed
    skewed = np.where(targets < CAPACITY, 2 + (targets - 2) ** 2 // CAPACITY, targets)
    assert not check_short_lengths(skewed).passed


def true_pairs(store):
    batch = make_batch(store, Recipe(max_seq_length=64, short_seq_prob=0.0, duplicates=5))
    is_true = batch.next_sentence_label == 0
    in_b = np.add.reduceat(batch.token_type_ids, batch.offsets[:-1], dtype=np.int64) - 1
    lengths = np.diff(batch.offsets) - 3
    return (lengths - in_b)[is_true & (lengths == CAPACITY)]


def test_a_ends_uniformly_within_its_chunk_and_bert_without_its_last_sentence_is_refused(
    dotted_store,
):
    # Rule 8: uniform in [1, n - 1] of n one-token sentences.
    ends = true_pairs(dotted_store)
    assert len(ends) > 1000
    assert uniformity("a_end", np.bincount(ends, minlength=CAPACITY)[1:CAPACITY]).passed
    broken = np.where(ends == CAPACITY - 1, 1, ends)  # randint(1, n - 2)
    assert not uniformity("a_end", np.bincount(broken, minlength=CAPACITY)[1:CAPACITY]).passed


def test_free_pairs_are_random_half_of_the_time_and_53_percent_are_refused(dotted_store):
    # Rule 9: chunks of one sentence do not occur here, but for the last token of a document.
    batch = make_batch(dotted_store, Recipe(max_seq_length=64, short_seq_prob=0.0, duplicates=9))
    num_random = int((batch.next_sentence_label == 1).sum())
    forced = 400 * 9 * 0.02  # at most: a lone last sentence is random
    assert share("random", 0.5, num_random - int(forced / 2), len(batch)).passed
    assert not share("random", 0.5, int(num_random * 1.06), len(batch)).passed


def check_other_documents(batch):
    """Rule 10: every other document is as likely, whatever the first one is."""
    is_random = batch.next_sentence_label == 1
    distance = (batch.document_b - batch.document_a)[is_random].astype(np.int64) % 400
    return uniformity("random document", np.bincount(distance, minlength=400)[1:])


def test_the_random_document_is_uniform_and_a_neighbour_is_refused(dotted_store):
    batch = make_batch(dotted_store, Recipe(max_seq_length=64, duplicates=5))
    assert check_other_documents(batch).passed
    close = np.where(
        (batch.document_a < 20) & (batch.next_sentence_label == 1),
        (batch.document_a + 1) % 400, batch.document_b,
    )  # fmt: skip
    assert not check_other_documents(damaged(batch, document_b=close)).passed


def front_shares(store, recipe):
    """Return how many tokens of A were dropped in front, and how many in all (rule 13)."""
    documents = [[list(range(100 * i, 100 * i + 90))] * 2 for i in range(1, 200)]
    batch = make_batch(make_store(documents, tokenizer=make_tokenizer(60_000)), recipe)
    ids = batch.original_ids()
    lengths = np.diff(batch.offsets) - 3
    in_b = np.add.reduceat(batch.token_type_ids, batch.offsets[:-1], dtype=np.int64) - 1
    in_front = ids[batch.offsets[:-1] + 1].astype(np.int64) % 100
    return int(in_front.sum()), int((90 - (lengths - in_b)).sum())


def test_truncation_takes_front_and_back_alike_and_the_back_alone_is_refused(store):
    recipe = Recipe(max_seq_length=64, short_seq_prob=0.0, duplicates=9)
    in_front, dropped = front_shares(store, recipe)
    assert share("front", 0.5, in_front, dropped).passed
    assert not share("front", 0.5, 0, dropped).passed
    assert not share("front", 0.5, int(in_front * 1.05), dropped).passed


def test_the_plain_oracle_and_the_view_agree_in_distribution(documents, store):
    # Ours and a sequential generator, as in BERT's script: the same shares and mean lengths.
    import random

    draws = PlainDraws(random.Random(3))
    pairs = [p for row in range(400) for p in create_pairs(documents[:400], row, draws,
                                                           max_seq_length=64)]  # fmt: skip
    batch = make_batch(make_store(documents[:400]), Recipe(max_seq_length=64))
    plain = np.array([(p.label, len(p.tokens_a), len(p.tokens_b)) for p in pairs])
    in_b = np.add.reduceat(batch.token_type_ids, batch.offsets[:-1], dtype=np.int64) - 1
    ours = np.stack([batch.next_sentence_label, np.diff(batch.offsets) - 3 - in_b, in_b], axis=1)
    error = np.sqrt(plain.var(axis=0) / len(plain) + ours.var(axis=0) / len(ours))
    assert (np.abs(plain.mean(axis=0) - ours.mean(axis=0)) < checks.LIMIT * error).all()
    biased = AddressedDraws(3)
    biased.is_random = lambda probability: True
    broken = [p.label for row in range(60) for p in create_pairs(documents[:400], row, biased,
                                                                 max_seq_length=64)]  # fmt: skip
    assert abs(np.mean(broken) - ours[:, 0].mean()) > checks.LIMIT * error[0]


def test_a_check_is_an_interval():
    assert Check("x", 0.5, 0.5, 0.4, 0.6).passed
    assert not Check("x", 0.5, 0.61, 0.4, 0.6).passed
