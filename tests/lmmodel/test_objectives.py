"""Labels, sums and counts of each objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmdata.batch import ExampleBatch
from lmdata.errors import ConfigError
from lmmodel.batch import make_batch
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.loader import Shape, to_batch
from lmmodel.model import make_model
from lmmodel.objectives import OBJECTIVES, ObjectiveConfig, make_objective
from lmmodel.objectives.objective import draw_parts
from lmmodel.objectives.terms import combine, sum_losses
from lmmodel.objectives.tokens import next_token_labels
from tests.contracts import check_objective


def make_examples() -> ExampleBatch:
    """Two rows: 5 tokens with positions 1 and 3 masked; 2 + 3 tokens with position 4 masked."""
    return ExampleBatch(
        input_ids=np.array([1, 9, 3, 9, 5, 6, 7, 8, 2, 9], np.uint16),
        offsets=np.array([0, 5, 10]),
        token_type_ids=np.zeros(10, np.uint8),
        masked_positions=np.array([1, 3, 4], np.uint16),
        mask_offsets=np.array([0, 2, 3]),
        masked_labels=np.array([2, 4, 3], np.uint16),
        next_sentence_label=np.array([1, -1], np.int8),
        document_a=np.zeros(2, np.uint64),
        document_b=np.zeros(2, np.uint64),
        duplicate=np.zeros(2, np.uint16),
        segment_lengths=np.array([5, 2, 3], np.int32),
        segment_offsets=np.array([0, 1, 3]),
    )


def test_next_tokens_are_labels_and_masks_are_undone_and_segments_stay_apart():
    causal = next_token_labels(make_examples())
    assert causal.input_ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 2, 3]
    assert causal.masked_positions.tolist() == [0, 1, 2, 3, 0, 2, 3]
    assert causal.mask_offsets.tolist() == [0, 4, 7]
    assert causal.masked_labels.tolist() == [2, 3, 4, 5, 7, 2, 3]


def test_each_term_counts_its_own_labels():
    part = make_objective(ObjectiveConfig(name="mlm+nsp")).parts[0]
    assert part.count(make_examples()) == [3, 1]


@pytest.mark.parametrize(
    ("name", "terms", "weights"),
    [
        ("mlm", ["mlm"], [1]),
        ("mlm+nsp", ["mlm", "nsp"], [1, 0.5]),
        ("mlm+sop", ["mlm", "sop"], [1, 0.5]),
        ("clm", ["clm"], [1]),
        ("hybrid", ["mlm", "clm"], [0.75, 0.25]),
    ],
)
def test_an_objective_is_parts_and_weighted_terms(name, terms, weights):
    objective = make_objective(ObjectiveConfig(name=name, pair_weight=0.5, causal_share=0.25))
    assert [term.name for term in objective.terms] == terms
    assert objective.weights.tolist() == weights
    assert sum(part.share for part in objective.parts) == 1


def test_sums_are_those_of_a_plain_loop_over_the_rows():
    config = ModelConfig(
        vocab_size=11, hidden_size=14, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=7, has_nsp_head=True, initializer_range=0.3,
    )  # fmt: skip
    model = make_model(config, seed=0).eval()
    part = make_objective(ObjectiveConfig(name="mlm+nsp")).parts[0]
    examples = make_examples()
    sums = sum_losses(model, part, to_batch(examples, Shape(99)))
    token = 0.0
    for ids, labels in (([1, 9, 3, 9, 5], {1: 2, 3: 4}), ([6, 7], {}), ([8, 2, 9], {2: 3})):
        hidden = model(make_batch(torch.tensor(ids), torch.tensor([len(ids)])), is_causal=False)
        for position, label in labels.items():
            token -= model.lm_logits(hidden[position : position + 1]).log_softmax(1)[0, label]
    torch.testing.assert_close(sums[0], token)


def test_a_share_of_the_rows_is_causal_and_always_the_same_ones():
    rows = np.arange(10_000)
    drawn = draw_parts(rows, 3, [0.75, 0.25], seed=7)
    assert abs(drawn.mean() - 0.25) < 0.02
    assert np.array_equal(draw_parts(rows[::-1], 3, [0.75, 0.25], seed=7), drawn[::-1])
    assert not np.array_equal(draw_parts(rows, 4, [0.75, 0.25], seed=7), drawn)
    shares = np.bincount(draw_parts(rows, 3, [0.5, 0.3, 0.2], seed=7)) / len(rows)
    assert np.abs(shares - [0.5, 0.3, 0.2]).max() < 0.02


def test_the_loss_divides_once_by_the_counts_of_the_whole_step():
    weights, counts = torch.tensor([1.0, 0.5]), torch.tensor([4, 2])
    parts = torch.tensor([[3.0, 1.0], [5.0, 3.0]])
    total = sum(combine(sums, weights, counts) for sums in parts)
    torch.testing.assert_close(total, torch.tensor(8 / 4 + 0.5 * 4 / 2))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_keeps_the_contract(store, sentinel_store, name):
    own = sentinel_store if OBJECTIVES[name].has_targets else store
    check_objective(make_objective(ObjectiveConfig(name=name, pair_weight=0.5)), own)


def test_an_objective_that_is_not_there_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"name must be one of mlm, .*, hybrid, .*, got 'bert'"):
        tiny("objective.name=bert")


def test_missing_labels_are_an_error_that_says_what_to_do():
    examples = make_examples()
    unpaired = examples.replace(next_sentence_label=np.full(2, -1, np.int8))
    with pytest.raises(FitError, match=r"needs pair labels, and x has none: .* objective.name=mlm"):
        make_objective(ObjectiveConfig(name="mlm+nsp")).check_labels(unpaired, "x")
    unmasked = examples.replace(
        masked_positions=np.zeros(0, np.uint16), masked_labels=np.zeros(0, np.uint16),
        mask_offsets=np.zeros(3, np.int64),
    )  # fmt: skip
    with pytest.raises(FitError, match="needs masked tokens, and x has none"):
        make_objective(ObjectiveConfig(name="mlm")).check_labels(unmasked, "x")
