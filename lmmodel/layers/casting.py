"""Weights in the numbers a batch is computed in: cast at each use, or once for many batches.

The weights are float32, the products of a bf16 run are not. Where a step has several micro-batches
on a CPU, `SharedWeights` casts each weight once for all of them. Autograd stops at the copies and
looks rows up sparsely, so that no micro-batch fills fresh memory of the vocabulary's size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_copies: dict[int, Tensor] = {}
"""Of the weights that are shared just now, by their id; read by all threads."""


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in a dtype: the copy that is shared, or one that autograd follows."""
    copy = None if torch.compiler.is_compiling() else _copies.get(id(weight))
    return weight.to(dtype) if copy is None or copy.dtype != dtype else copy


def look_up(table: Tensor, ids: Tensor) -> Tensor:
    """Return rows of a table (V, D): floats (*ids.shape, D).

    While the table is shared its gradient is sparse: one row for each that was looked up.
    """
    is_shared = not torch.compiler.is_compiling() and id(table) in _copies
    return F.embedding(ids, table, sparse=is_shared)


class SharedWeights:
    """A module's weights as the micro-batches of a step share them, and their gradients' sums.

    Args:
        module: its parameters may change their values between steps, not their memory
        dtype: of the copies; that of the weights: the copies are the weights themselves
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self._weights = list(module.parameters())
        self._copies = [
            weight.detach().to(dtype).requires_grad_(weight.requires_grad)
            for weight in self._weights
        ]
        self._learned = [weight for weight in self._weights if weight.requires_grad]
        self._leaves = self._learned + [copy for copy in self._copies if copy.requires_grad]
        self._sums = [torch.empty_like(weight) for weight in self._learned]
        largest = max((total.numel() for total in self._sums), default=0)
        self._scratch = torch.empty(largest, dtype=torch.float32)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Share what the weights are now, with all threads."""
        ids = [id(weight) for weight in self._weights]
        with torch.no_grad():
            for weight, copy in zip(self._weights, self._copies, strict=True):
                if copy.dtype != weight.dtype:
                    copy.copy_(weight)
        _copies.update(zip(ids, self._copies, strict=True))
        try:
            yield
        finally:
            for own in ids:
                del _copies[own]

    def differentiate(self, loss: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of a scalar that was computed while the weights were in use."""
        return torch.autograd.grad(loss, self._leaves, allow_unused=True)

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add what `differentiate` returned to the weights' `.grad`, in float32."""
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                self._add(index % len(self._learned), gradient)

    def _add(self, index: int, gradient: Tensor) -> None:
        weight = self._learned[index]
        if weight.grad is None:  # memory that is there already: fresh memory costs more than sums
            weight.grad = self._sums[index].zero_()
        if gradient.is_sparse:
            weight.grad.index_add_(0, gradient._indices()[0], gradient._values())
        elif gradient.dtype == weight.dtype:
            weight.grad.add_(gradient)
        else:
            cast_gradient = self._scratch[: gradient.numel()].view_as(gradient)
            weight.grad.add_(cast_gradient.copy_(gradient))
