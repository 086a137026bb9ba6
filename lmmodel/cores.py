"""All cores of a CPU at work, each on a piece of its own.

One operation after the other on all cores waits for the slowest core after each of them, hundreds
of times a batch. Here each core runs a whole batch by itself. While there are more than half as
many batches as cores, each is computed by one core: the same results for any number of them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_AHEAD = 2  # results waiting to be taken, for each thread


def num_cores(device: torch.device) -> int:
    """Return how many pieces are computed at a time: torch's threads, on a GPU one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


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
    module: nn.Module, losses: Sequence[Callable[[], Tensor]], num_at_once: int
) -> None:
    """Add the gradients of all losses to those of a module's parameters, in the losses' order.

    Args:
        module: that the losses depend on
        losses: each computes a scalar; called by several threads if `num_at_once` is above 1
        num_at_once: losses in work at a time, each with gradients of its own
    """
    if num_at_once <= 1 or len(losses) <= 1:
        for loss in losses:
            loss().backward()  # type: ignore[no-untyped-call]
        return
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def differentiate(loss: Callable[[], Tensor]) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(loss(), parameters, allow_unused=True)

    for gradients in map_in_order(differentiate, losses, num_at_once, ahead=0):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient
            elif gradient is not None:
                parameter.grad.add_(gradient)
