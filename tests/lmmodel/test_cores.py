from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from lmmodel.batch import make_batch
from lmmodel.cores import SharedWeights, add_gradients, map_in_order, num_cores
from lmmodel.families import ModelConfig
from lmmodel.loader import MicroBatch
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.training.step import accumulate, dropout_seeds


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_however_long_each_takes() -> None:
    def wait(index: int) -> int:
        time.sleep(0.01 * (index % 3 == 0))
        return index

    assert list(map_in_order(wait, range(30), 3)) == list(range(30))


def test_items_are_taken_a_few_ahead_only() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for index in range(100):
            taken.append(index)
            yield index

    results = map_in_order(lambda index: index, items(), 2)
    next(results)
    assert len(taken) == 7  # six in work or waiting, one in hand
    results.close()


def test_threads_are_no_more_than_items() -> None:
    assert list(map_in_order(lambda _: torch.get_num_threads(), [0], 2)) == [2]


def test_no_more_gradients_exist_than_are_in_work() -> None:
    running, most = 0, 0

    def work(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)

    for _ in map_in_order(work, range(20), 2, ahead=0):
        running -= 1
    assert most <= 2


@pytest.mark.parametrize(("num_at_once", "share"), [(2, 1), (3, 1), (1, 2)])
def test_the_threads_of_torch_are_shared_out_and_given_back(num_at_once: int, share: int) -> None:
    shares = set(map_in_order(lambda _: torch.get_num_threads(), range(8), num_at_once))
    assert shares == {share}
    assert torch.get_num_threads() == 2
    counted: list[int] = []
    thread = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counted == [2]  # of threads to come, too


def test_a_gpu_computes_one_thing_at_a_time() -> None:
    assert num_cores(torch.device("cpu")) == 2
    assert num_cores(torch.device("cuda")) == 1


def test_gradients_add_up_in_order_and_unused_weights_have_none() -> None:
    module = torch.nn.Linear(3, 2)
    module.extra = torch.nn.Parameter(torch.ones(1))
    module.frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    module.bias.grad = torch.tensor([5.0, 5.0])

    def loss(factor: float) -> Tensor:
        return factor * module(torch.ones(1, 3)).sum()

    shared = SharedWeights(module, torch.float32)
    add_gradients([lambda f=f: loss(f) for f in (1.0, 2.0, 4.0)], shared, 2)
    assert module.weight.grad.tolist() == [[7.0] * 3] * 2
    assert module.bias.grad.tolist() == [12.0, 12.0]
    assert module.extra.grad is module.frozen.grad is None


def test_an_error_of_one_loss_is_raised() -> None:
    module = torch.nn.Linear(3, 2)

    def fail() -> Tensor:
        raise RuntimeError("can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        add_gradients(
            [lambda: module.bias.sum(), fail, fail, fail], SharedWeights(module, torch.float32), 2
        )
    assert torch.get_num_threads() == 2


def make_micro_batches() -> list[MicroBatch]:
    draw = np.random.default_rng(0)
    micro_batches = []
    for part, lengths in enumerate([[5, 7, 31], [11, 11], [3, 40], [17, 18, 19, 20]]):
        ids = torch.from_numpy(draw.integers(0, 53, sum(lengths)))
        positions = torch.from_numpy(np.flatnonzero(draw.random(sum(lengths)) < 0.3))
        batch = make_batch(
            ids, torch.tensor(lengths), masked_positions=positions, masked_labels=ids[positions]
        )
        micro_batches.append(MicroBatch(batch, part % 2))
    return micro_batches


def gradients(dtype: torch.dtype, *, num_at_once: int, seed: int = 0) -> tuple[Tensor, Transformer]:
    config = ModelConfig(
        vocab_size=53, hidden_size=14, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=29, max_position_embeddings=41, dropout=0.2, attention_dropout=0.1,
    )  # fmt: skip
    model = make_model(config, seed=0)
    model.compute_dtype = dtype
    objective = make_objective(ObjectiveConfig(name="hybrid"))
    sums = accumulate(
        model, objective, make_micro_batches(), torch.tensor([40, 40]),
        seeds=dropout_seeds(seed, 0, 0), shared=SharedWeights(model, dtype),
        num_at_once=num_at_once,
    )  # fmt: skip
    return sums, model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_has_the_same_bits_on_any_number_of_cores(dtype: torch.dtype) -> None:
    """Dropout is on: each micro-batch draws its own numbers, whoever runs beside it."""
    torch.set_num_threads(1)
    expected_sums, expected = gradients(dtype, num_at_once=1)
    torch.set_num_threads(2)
    for num_at_once in (2, 3, 4) * 3:
        sums, model = gradients(dtype, num_at_once=num_at_once)
        assert torch.equal(sums, expected_sums)
        for (name, own), weight in zip(
            model.named_parameters(), expected.parameters(), strict=True
        ):
            assert torch.equal(own.grad, weight.grad), name


def test_another_seed_drops_other_values() -> None:
    first, other = gradients(torch.float32, num_at_once=2), gradients(torch.float32, num_at_once=2)
    assert torch.equal(first[0], other[0])
    assert not torch.equal(first[0], gradients(torch.float32, num_at_once=2, seed=1)[0])
