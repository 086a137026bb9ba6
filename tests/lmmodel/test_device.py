"""Sharded tensors, in a group of one process; test_processes.py starts several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lmmodel.batch import make_batch
from lmmodel.device import (
    is_sharded,
    own_rows,
    put,
    release_weights,
    shard_model,
    whole,
    whole_groups,
)
from lmmodel.families import ModelConfig
from lmmodel.loader import MicroBatch
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.terms import sum_losses
from lmmodel.optimizing import AveragingConfig, OptimizerConfig
from lmmodel.saving.checkpoint import load_weights
from lmmodel.training.learner import WeightAverage
from lmmodel.training.optimizer import Optimizer
from lmmodel.training.step import accumulate, clip_gradients, even_out, idle

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


@pytest.fixture(scope="module")
def group(tmp_path_factory) -> Iterator[None]:
    path: Path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def make_tiny() -> Transformer:
    config = ModelConfig(
        vocab_size=53, hidden_size=14, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=29, max_position_embeddings=11, has_nsp_head=True,
    )  # fmt: skip
    return make_model(config, seed=0)


def make_micro_batches() -> list[MicroBatch]:
    draw = torch.Generator().manual_seed(0)
    batches = [
        make_batch(
            torch.randint(53, (sum(lengths),), generator=draw), torch.tensor(lengths),
            masked_positions=torch.tensor([1, 4]), masked_labels=torch.tensor([9, 50]),
            next_sentence_label=torch.ones(len(lengths), dtype=torch.int64),
        )
        for lengths in ([5, 7], [11])
    ]  # fmt: skip
    return [MicroBatch(batch, 0) for batch in batches]


def learn(model: Transformer, optimizer: Optimizer, num_steps: int) -> list[float]:
    objective, norms = make_objective(ObjectiveConfig(name="mlm+nsp")), []
    for _ in range(num_steps):
        optimizer.zero_grad()
        accumulate(model, objective, make_micro_batches(), torch.tensor([4, 3]), seeds=lambda i: i)
        norms.append(float(clip_gradients(model, 1.0)))
        optimizer.step(1.0)
    return norms


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_sharded_model_learns_like_a_whole_one_and_saves_the_same(group, name):
    plain, sharded = make_tiny(), make_tiny()
    shard_model(sharded)
    assert is_sharded(sharded)
    assert not is_sharded(plain)
    optimizers = [Optimizer(model, OptimizerConfig(name=name)) for model in (plain, sharded)]
    owned = [dict(model.named_parameters()) for model in (plain, sharded)]
    averages = [WeightAverage(own, AveragingConfig(kind="ema"), 3) for own in owned]
    assert learn(plain, optimizers[0], 3) == pytest.approx(learn(sharded, optimizers[1], 3))
    for own, average in zip(owned, averages, strict=True):
        average.update(own, 1)
    expected, saved = (
        whole_groups(
            {"model": dict(model.named_parameters()), "optimizer": optimizer.state_tensors(),
             "average": average.tensors}, is_kept=True,
        )
        for model, optimizer, average in zip((plain, sharded), optimizers, averages, strict=True)
    )  # fmt: skip
    for kind, tensors in expected.items():
        assert saved[kind].keys() == tensors.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(saved[kind][key], tensor, msg=f"{kind} {key}")


def test_what_a_sharded_model_saved_is_taken_over_by_another(group):
    one, two = make_tiny(), make_tiny()
    for model in (one, two):
        shard_model(model)
    optimizer, other = (Optimizer(m, OptimizerConfig(name="muon")) for m in (one, two))
    learn(one, optimizer, 2)
    state = {key: whole(tensor).clone() for key, tensor in optimizer.state_tensors().items()}
    load_weights(two, {key: whole(tensor).detach() for key, tensor in one.named_parameters()})
    other.load_state_tensors(state)
    assert learn(one, optimizer, 2) == learn(two, other, 2)


def test_only_the_process_that_saves_keeps_whole_tensors(group):
    model = make_tiny()
    shard_model(model)
    kept = whole_groups({"model": dict(model.named_parameters())}, is_kept=False)
    assert kept == {"model": {}}


def test_a_forward_alone_leaves_nothing_gathered(group):
    model = make_tiny()
    shard_model(model)
    before = {name: type(parameter) for name, parameter in model.named_parameters()}
    with torch.no_grad():
        model(make_micro_batches()[0].batch)
    release_weights(model)
    assert {name: type(parameter) for name, parameter in model.named_parameters()} == before


def test_rows_are_a_view_and_plain_tensors_stay_what_they_are(group):
    model = make_tiny()
    shard_model(model)
    weight = model.layers[0].mlp.input.weight
    own_rows(weight).zero_()
    assert not whole(weight).any()
    put(weight, torch.ones(29, 14))
    assert whole(weight).all()
    plain = torch.zeros(3)
    assert whole(plain) is own_rows(plain) is plain


def test_idle_micro_batches_even_out_a_step_and_change_nothing(group):
    micro_batches = make_micro_batches()
    assert even_out(micro_batches, 1, torch.device("cpu")) == tuple(micro_batches)
    model, part = make_tiny(), make_objective(ObjectiveConfig(name="mlm+nsp")).parts[0]
    added = idle(micro_batches[0], 1)
    assert added.part == 1
    sums = sum_losses(model, part, added.batch)
    sums.sum().backward()
    assert sums.tolist() == [0, 0]
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
