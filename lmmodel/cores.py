"""All cores of a CPU at work, each on a piece of its own.

One operation after the other on all cores waits for the slowest core after each of them, hundreds
of times a batch. Here each core runs a whole batch by itself. While there are more than half as
many batches as cores, each is computed by one core: the same results for any number
of them, as long as a step is cut into the same micro-batches (`batch.min_micro_batches`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from lmmodel.layers.casting import SharedWeights

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
