"""Every core at work, shared weights, dropout and cross-entropy: the numbers of the plain way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel import cores
from lmmodel.batch import IGNORED, make_batch
from lmmodel.cores import (
    SharedWeights,
    _copies,
    add_gradients,
    cast,
    dropout,
    look_up,
    map_in_order,
    num_cores,
    seeded,
    summed_cross_entropy,
)
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


class Tied(nn.Module):
    """A table that is looked up and multiplied with, as a language model's is."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(11, 4, generator=generator))
        self.matrix = nn.Parameter(torch.randn(4, 4, generator=generator))
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.randn(4, generator=generator), requires_grad=False)

    def loss(self, ids: list[int], dtype: torch.dtype) -> Tensor:
        x = look_up(self.table, torch.tensor(ids)).to(dtype) * cast(self.frozen, dtype)
        logits = torch.tanh(x @ cast(self.matrix, dtype)) @ cast(self.table, dtype).T
        return torch.logsumexp(logits.float(), dim=-1).sum()


IDS = [[1, 1, 7], [0, 10], [7, 3, 3, 3]]


def shared_gradients(
    module: Tied, dtype: torch.dtype, shared: SharedWeights | None
) -> list[Tensor]:
    module.zero_grad()
    add_gradients([lambda own=own: module.loss(own, dtype) for own in IDS], shared, 2)
    assert module.unused.grad is module.frozen.grad is None
    assert not _copies
    assert module.table.grad is not None
    assert module.matrix.grad is not None
    return [module.table.grad.clone(), module.matrix.grad.clone()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_weights_have_the_gradients_of_weights_cast_at_each_use(dtype: torch.dtype) -> None:
    module = Tied()
    shared = SharedWeights(module, dtype)
    for _ in range(3):
        expected, found = (
            shared_gradients(module, dtype, None),
            shared_gradients(module, dtype, shared),
        )
        for one, other in zip(expected, found, strict=True):
            assert one.dtype == other.dtype == torch.float32
            assert other.is_contiguous()
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        with torch.no_grad():  # the next step begins with other weights
            module.table.add_(0.5)
            module.matrix.mul_(-2.0)


def test_gradients_that_are_there_are_added_to() -> None:
    module = Tied()
    shared = SharedWeights(module, torch.float32)
    once = shared_gradients(module, torch.float32, shared)[1]
    add_gradients([lambda: module.loss(IDS[0], torch.float32)], shared)
    alone = module.matrix.grad - once
    module.zero_grad()
    add_gradients([lambda: module.loss(IDS[0], torch.float32)], shared)
    torch.testing.assert_close(module.matrix.grad, alone, rtol=1e-4, atol=1e-5)


def test_nothing_is_shared_after_an_error() -> None:
    module = Tied()

    def fail() -> Tensor:
        raise RuntimeError("can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        add_gradients([fail], SharedWeights(module, torch.bfloat16))
    assert not _copies
    assert cast(module.matrix, torch.float32) is module.matrix
    look_up(module.table, torch.tensor([1])).sum().backward()
    assert not module.table.grad.is_sparse


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_dropped_is_the_one_asked_for(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    num = 1_000_003
    out = dropout(torch.ones(num, dtype=dtype), 0.1)
    share = float((out == 0).double().mean())
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / num) ** 0.5
    assert set(out.tolist()) == {0.0, float(torch.tensor(1 / 0.9, dtype=dtype))}


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    is_dropped = dropout(torch.ones(400_000), 0.5).view(-1, 4) == 0
    # Four values share one 64-bit word: every one of 16 patterns occurs equally often.
    counts = (is_dropped.long() * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16)
    chi_square = float(((counts - 6250).double().square() / 6250).sum())
    assert chi_square < 44.3  # 15 degrees of freedom, p = 1e-4


def test_the_gradient_is_dropped_and_scaled_alike() -> None:
    torch.manual_seed(0)
    x = torch.ones(13, 7, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_the_same_seed_drops_the_same() -> None:
    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(101), 0.5)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_zero_returns_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert dropout(x, 0.0) is x


def test_nearly_all_may_be_dropped():
    assert (dropout(torch.ones(10_000), 1 - 1e-9) != 0).float().mean() < 0.001


def test_a_seed_holds_in_its_thread_until_its_end() -> None:
    x, cpu = torch.ones(1000), torch.device("cpu")
    with seeded(3, cpu):
        first = dropout(x, 0.5)
        with ThreadPoolExecutor(1) as pool:  # another thread draws elsewhere
            pool.submit(dropout, x, 0.5).result()
        second = dropout(x, 0.5)
    with seeded(3, cpu):
        both = [dropout(x, 0.5), dropout(x, 0.5)]
    assert torch.equal(both[0], first)
    assert torch.equal(both[1], second)
    torch.manual_seed(8)
    outside = dropout(x, 0.5)
    torch.manual_seed(8)
    assert torch.equal(dropout(x, 0.5), outside)


def make_rows(num_rows: int, num_ids: int, scale: float = 5.0):
    generator = torch.Generator().manual_seed(num_rows)
    logits = torch.randn(num_rows, num_ids, generator=generator) * scale
    labels = torch.randint(0, num_ids, (num_rows,), generator=generator)
    labels[::5] = IGNORED
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("chunk", [1, 3 * 97, 2**18])
def test_loss_and_gradient_equal_torchs(
    monkeypatch: pytest.MonkeyPatch, chunk: int, smoothing: float
) -> None:
    monkeypatch.setattr(cores, "CHUNK", chunk)
    logits, labels = make_rows(23, 97)
    (summed_cross_entropy(logits, labels, smoothing) / 7).backward()
    twin = logits.detach().clone().requires_grad_()
    expected = F.cross_entropy(
        twin, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing
    )
    (expected / 7).backward()
    torch.testing.assert_close(summed_cross_entropy(logits, labels, smoothing), expected)
    torch.testing.assert_close(logits.grad, twin.grad)


def test_bf16_logits_give_a_float32_loss() -> None:
    logits, labels = make_rows(23, 97)
    half = logits.detach().bfloat16().requires_grad_()
    loss = summed_cross_entropy(half, labels)
    expected = F.cross_entropy(half.float(), labels, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = summed_cross_entropy(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(loss, torch.tensor(2e4 + torch.log(torch.tensor(3.0)).item()))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_without_any_label_the_loss_is_zero() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    loss = summed_cross_entropy(logits, torch.full((5,), IGNORED))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    assert summed_cross_entropy(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)) == 0


def test_a_second_backward_is_refused() -> None:
    logits, labels = make_rows(5, 7)
    loss = summed_cross_entropy(logits, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward through a cross-entropy twice"):
        loss.backward()
