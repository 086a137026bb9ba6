"""Weights cast once for a whole step: the same gradients, and nothing stale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmmodel.cores import SharedWeights, _copies, add_gradients, cast, look_up


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


def gradients(module: Tied, dtype: torch.dtype, shared: SharedWeights | None) -> list[Tensor]:
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
        expected, found = gradients(module, dtype, None), gradients(module, dtype, shared)
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
    once = gradients(module, torch.float32, shared)[1]
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
