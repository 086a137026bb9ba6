"""What makes a step fast on a CPU: a micro-batch for each core, and four things done our own way.

One operation after the other on all cores waits for the slowest core after each of them, hundreds
of times a batch. Here each core runs a whole batch by itself. While there are more than half as
many batches as cores, each is computed by one core: the same results for any number
of them, as long as a step is cut into the same micro-batches (`batch.min_micro_batches`).

The weights are float32, the products of a bf16 run are not. Where a step has several micro-batches
on a CPU, `SharedWeights` casts each weight once for all of them. Autograd stops at the copies and
looks rows up sparsely, so that no micro-batch fills fresh memory of the vocabulary's size. Dropout
takes a fourth of torch's time, the cross-entropy over a vocabulary a fifth.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.batch import IGNORED

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_AHEAD = 2  # results waiting to be taken, for each thread


def num_cores(device: torch.device) -> int:
    """Return how many pieces are computed at a time: torch's threads, on a GPU one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Have this thread compute with one thread of torch: products are added up in one order."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def map_in_order(
    function: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    num_at_once: int,
    *,
    ahead: int = _AHEAD,
) -> Iterator[ResultT]:
    """Yield what a function returns for each item, in order; a few items ahead are in work.

    Args:
        function: is called by several threads at once if `num_at_once` is above 1
        items: read as needed
        num_at_once: threads, no more than items, among which those of torch are divided
        ahead: results that may wait to be taken, for each thread; 0: only what is in work
    """
    if isinstance(items, Sized):
        num_at_once = min(num_at_once, len(items))
    if num_at_once <= 1:
        yield from map(function, items)
        return
    with _shared_out(num_at_once) as pool:
        waiting: deque[Future[ResultT]] = deque()
        for item in items:
            if len(waiting) == (1 + ahead) * num_at_once:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _shared_out(num_at_once: int) -> Iterator[ThreadPoolExecutor]:
    """Have threads with an equal share each of those that torch has."""
    num_threads = torch.get_num_threads()
    share = max(1, num_threads // num_at_once)
    try:
        # Torch keeps the number for each thread, and for threads to come.
        pool = ThreadPoolExecutor(num_at_once, initializer=torch.set_num_threads, initargs=(share,))
        with pool:
            try:
                yield pool
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(num_threads)


def add_gradients(
    losses: Sequence[Callable[[], Tensor]],
    shared: SharedWeights | None = None,
    num_at_once: int = 1,
) -> None:
    """Add the gradients of all losses to those of the weights, in the losses' order.

    Args:
        losses: each computes a scalar; called by several threads if `num_at_once` is above 1
        shared: the weights, where losses share them; None: the losses come one after the other
        num_at_once: losses in work at a time, each with gradients of its own
    """
    if shared is None:
        for loss in losses:
            loss().backward()  # type: ignore[no-untyped-call]
        return
    with shared.in_use():
        for gradients in map_in_order(
            lambda loss: shared.differentiate(loss()), losses, num_at_once, ahead=0
        ):
            shared.add(gradients)


# Weights in the numbers a batch is computed in: cast at each use, or once for many batches.

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


# Dropout.


class _Numbers(threading.local):
    """The generator of this thread; None: torch's own."""

    generator: torch.Generator | None = None


_numbers = _Numbers()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Have dropout in this thread draw from a seed, whatever other threads draw.

    Args:
        seed: in [0, 2**63)
        device: a GPU takes the seed for good, and so does what is compiled
    """
    torch.manual_seed(seed)
    before = _numbers.generator
    if device.type == "cpu":
        _numbers.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _numbers.generator = before


def dropout(x: Tensor, p: float) -> Tensor:
    """Return x with each value set to 0 with probability p, the others scaled by 1 / (1 - p).

    The numbers come from `seeded`, outside of it from torch's generator of the device. On a CPU 16
    random bits decide on a value (torch draws 64), so p is rounded to a multiple of 2**-16.

    Args:
        x: floats of any shape
        p: in [0, 1)

    Example:
        >>> dropout(torch.ones(2), 0.0)
        tensor([1., 1.])
    """
    if p == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
    words.random_(-(2**63), None, generator=_numbers.generator)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    scale = torch.empty(x.shape, dtype=x.dtype)  # 1 where kept: no booleans in between
    torch.ge(bits, min(round(p * 2**16), 2**16 - 1) - 2**15, out=scale)
    return x * scale.mul_(1 / (1 - p))


# Cross-entropy.


# Logits that are turned to float32 at once: 1 MiB, which stays in a core's cache.
CHUNK = 2**18


def summed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the sum over rows of -log softmax(logits)[label], taken in float32, in nats.

    On a CPU the gradient is made in the same pass as the loss, so that float32 copies of all
    logits never exist: a fifth of the time of `torch.nn.functional.cross_entropy` in bf16.

    Args:
        logits: floats (P, V)
        labels: int64 (P,) in [0, V), or IGNORED: the row does not count
        smoothing: share of a label's probability that all V have alike, in [0, 1)

    Returns:
        float32 scalar.

    Example:
        >>> round(float(summed_cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100]))), 4)
        1.3863
    """
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        loss: Tensor = _SummedCrossEntropy.apply(logits, labels, smoothing)  # type: ignore[no-untyped-call]
        return loss
    return F.cross_entropy(
        logits.float(), labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing
    )


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), dtype=torch.float32)
        num_rows = max(1, CHUNK // logits.shape[-1])
        for start in range(0, len(logits), num_rows):
            rows = slice(start, start + num_rows)
            chunk_loss, chunk_gradient = _rows_loss(logits[rows].float(), labels[rows], smoothing)
            loss += chunk_loss
            if gradient is not None:
                gradient[rows] = chunk_gradient
        ctx.gradient = gradient
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> tuple[Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("backward through a cross-entropy twice: compute the loss again")
        return gradient.mul_(upstream[0]), None, None


def _rows_loss(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the summed loss and its gradient: float32 () and (R, V)."""
    is_counted = labels != IGNORED
    safe = labels.where(is_counted, 0)[:, None]  # (R, 1)
    at_label = logits.gather(1, safe)[:, 0]
    probabilities = logits.softmax(dim=-1)
    # The largest probability is at least 1 / V, so its logarithm never overflows.
    log_sum = logits.amax(dim=-1) - probabilities.amax(dim=-1).log()
    if smoothing:
        at_label = (1 - smoothing) * at_label + smoothing * logits.mean(dim=-1)
        probabilities.sub_(smoothing / logits.shape[-1])
    wanted = torch.full_like(safe, smoothing - 1.0, dtype=torch.float32)
    probabilities.scatter_add_(1, safe, wanted)
    probabilities.mul_(is_counted[:, None])
    return ((log_sum - at_label) * is_counted).sum(), probabilities
