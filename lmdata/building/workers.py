"""Workers on this machine: threads, and processes that are cheap to start and never orphaned.

One fresh interpreter, the nursery, imports what the work needs, then forks the processes, which
share its memory. It has never used a thread pool, so forking it is safe whatever its parent did
(Polars, torch and tokenizers keep pools that do not survive a fork). Nursery and workers are
killed by the kernel when their parent dies; the death of a worker reaches the parent as a message.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import reduction
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, Protocol

from lmdata.errors import LmdataError

Report = Callable[[Any], None]
Work = Callable[[Any, Report], Any]
Prepare = Callable[[Callable[[], Any]], Work]  # gets what waits for the setup

# One thread each: the workers themselves fill the cores.
ONE_THREAD = {
    "POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1",
    "RUST_BACKTRACE": "0",  # a panic of `tokenizers` comes as an error of one line
}  # fmt: skip
_PR_SET_PDEATHSIG = 1
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from lmdata.building.workers import serve; serve({arguments})"
)


@dataclass(frozen=True)
class Reported:
    """A worker tells how far it is."""

    worker: int
    value: Any


@dataclass(frozen=True)
class Finished:
    """A worker has done its task."""

    worker: int
    result: Any


@dataclass(frozen=True)
class Failed:
    """A task raised an error, or the nursery did while it prepared (`worker` is None)."""

    worker: int | None
    error: Exception


@dataclass(frozen=True)
class Died:
    """A worker is no more; the reason is words."""

    worker: int | None
    reason: str


Message = Reported | Finished | Failed | Died


class Workers(Protocol):
    """Who does the units of a build: any engine that passes them on and brings back the results."""

    @property
    def num_workers(self) -> int:
        """How many units they take at a time, each under a number from 0."""

    def prepare(self, setup: Any, lock: int) -> None:
        """Send what the work function is made of.

        Args:
            setup: any picklable value
            lock: a file descriptor that stays open as long as anything is worked on
        """

    def submit(self, worker: int, task: Any) -> None:
        """Give an idle worker something to do."""

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what has happened, or nothing after a while."""

    def close(self) -> None:
        """End all work and wait until it has ended; may be called again."""


def find_function(name: str) -> Any:
    """Return the function that "module:function" names."""
    module, function = name.split(":")
    return getattr(import_module(module), function)


class Threads:
    """Workers in this process, for what runs without Python's global lock.

    Twice as many units as threads are taken, so that a thread need not wait for the next.
    """

    def __init__(self, num_threads: int, prepare: str) -> None:
        """Arguments as of `WorkerPool`."""
        self.num_workers = 2 * num_threads
        self._threads = ThreadPoolExecutor(num_threads, "worker")
        self._prepare = prepare
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._work: Work | None = None

    def prepare(self, setup: Any, lock: int) -> None:
        """Make the work function; the lock is this process's own."""
        self._work = find_function(self._prepare)(lambda: setup)

    def submit(self, worker: int, task: Any) -> None:
        """Give an idle worker something to do."""
        assert self._work is not None
        report = lambda value: self._messages.put(Reported(worker, value))  # noqa: E731
        future = self._threads.submit(self._work, task, report)
        future.add_done_callback(lambda done: self._finish(worker, done))

    def _finish(self, worker: int, done: Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if isinstance(error, Exception):
            self._messages.put(Failed(worker, error))
        else:
            self._messages.put(Finished(worker, done.result()))

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what has happened, or nothing after a while."""
        try:
            return [self._messages.get(timeout=timeout_s)]
        except queue.Empty:
            return []

    def close(self) -> None:
        """Drop what has not begun and wait for the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class WorkerPool:
    """Processes that run one function; started at once, told later what to prepare.

    `close` ends every process.
    """

    def __init__(self, num_workers: int, prepare: str, *hints: str) -> None:
        """Start the processes; they import while the caller goes on.

        Args:
            num_workers: at least 1
            prepare: "module:function"; the function gets another that waits for the setup, and
                returns the work function. It runs once, before the workers fork.
            hints: further arguments of it, what it may begin with before the setup comes
        """
        if num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {num_workers}")
        pairs = [socket.socketpair() for _ in range(num_workers + 1)]
        self._nursery, *self._workers = (Connection(ours.detach()) for ours, _ in pairs)
        theirs = [end.fileno() for _, end in pairs]
        arguments = f"{theirs!r}, {prepare!r}, {os.getpid()}, {hints!r}"
        code = _START.format(path=sys.path, arguments=arguments)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=theirs, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD}, process_group=0,
        )  # fmt: skip
        for _, end in pairs:
            end.close()

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def prepare(self, setup: Any, lock: int) -> None:
        """Send what the work function is made of.

        Args:
            setup: any picklable value
            lock: a file descriptor that stays open as long as any of the processes lives
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` tells why
            self._nursery.send(setup)
            reduction.send_handle(self._nursery, lock, self._process.pid)

    def submit(self, worker: int, task: Any) -> None:
        """Give an idle worker something to do; a dead one is reported by `receive`."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._workers[worker].send(task)

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what has happened, or nothing after a while."""
        connections: list[Any] = [self._nursery, *self._workers]
        messages: list[Message] = []
        for ready in wait(connections, timeout_s):
            worker = connections.index(ready) - 1
            messages.append(self._read(worker))
        return sorted(messages, key=lambda message: isinstance(message, Died))

    def _read(self, worker: int) -> Message:
        connection = self._workers[worker] if worker >= 0 else self._nursery
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionResetError, pickle.UnpicklingError):
            return self._explain_death(worker)
        place = worker if worker >= 0 else None
        if kind == "failed":
            return Failed(place, value)
        assert worker >= 0 or kind == "died"
        if kind == "died":
            return Died(value[0], value[1])
        return Finished(worker, value) if kind == "finished" else Reported(worker, value)

    def _explain_death(self, worker: int) -> Died:
        """A closed connection comes first; the nursery tells how the process ended.

        Where the nursery has ended too, that is why: its workers do not outlive it.
        """
        with contextlib.suppress(EOFError, ConnectionResetError):
            if worker >= 0:
                kind, value = self._nursery.recv() if self._nursery.poll(1.0) else ("silent", ())
                return Died(*value) if kind == "died" else Died(worker, "ended without a word")
        return Died(None, f"was {_how_ended(self._process.wait())}")

    def close(self) -> None:
        """End every process and wait until they are gone; may be called again."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for connection in (self._nursery, *self._workers):
            connection.close()


def start_tokenizing(num_workers: int, tokenizer_path: Path | None = None) -> WorkerPool:
    """Return the pool that `tokenize_corpus` needs; worth doing before heavy imports.

    Args:
        num_workers: at least 1
        tokenizer_path: of the tokenizer that will be taken, to be read meanwhile; None: unknown
    """
    hints = () if tokenizer_path is None else (str(tokenizer_path),)
    return WorkerPool(num_workers, "lmdata.building.units:prepare_nursery", *hints)


def _how_ended(status: int) -> str:
    """Return an exit status in words.

    Example:
        >>> _how_ended(-9), _how_ended(1)
        ('killed by SIGKILL', 'ended with exit code 1')
    """
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"ended with exit code {status}"


def serve(descriptors: list[int], prepare: str, parent: int, hints: tuple[str, ...]) -> NoReturn:
    """Be the nursery: import, prepare, fork the workers, tell how they end. Never returns."""
    die_with_parent(parent)
    nursery, *workers = (Connection(descriptor) for descriptor in descriptors)
    try:
        work = find_function(prepare)(lambda: _receive_setup(nursery), *hints)
    except EOFError:
        os._exit(0)
    except Exception as error:
        nursery.send(("failed", _portable(error)))
        os._exit(1)
    _fork_workers(nursery, workers, work)


def _receive_setup(nursery: Connection) -> Any:
    """Wait for the setup, and hold the lock from then on."""
    setup = nursery.recv()
    os.set_inheritable(reduction.recv_handle(nursery), False)
    return setup


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies (Linux; elsewhere a no-op)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _fork_workers(nursery: Connection, connections: list[Connection], work: Work) -> NoReturn:
    own_id = os.getpid()
    workers: dict[int, int] = {}
    # Python 3.12 warns of any thread; the only one here is the allocator's, which survives a fork.
    warnings.simplefilter("ignore", DeprecationWarning)
    for index, connection in enumerate(connections):
        process_id = os.fork()
        if process_id == 0:
            die_with_parent(own_id)
            for other in (nursery, *connections):
                if other is not connection:
                    other.close()
            _run_tasks(connection, work)
        workers[process_id] = index
    signal.signal(signal.SIGTERM, lambda *_: _end_workers(workers))
    for connection in connections:
        connection.close()
    while workers:
        process_id, status = os.wait()
        index = workers.pop(process_id)
        code = os.waitstatus_to_exitcode(status)
        if code:
            nursery.send(("died", (index, f"was {_how_ended(code)}")))
    os._exit(0)


def _end_workers(workers: dict[int, int]) -> NoReturn:
    for process_id in workers:
        os.kill(process_id, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # one that `_fork_workers` has just waited for
        for process_id in workers:
            os.waitpid(process_id, 0)
    os._exit(0)


def _run_tasks(connection: Connection, work: Work) -> NoReturn:
    """Be a worker: one task after the other until the parent hangs up."""
    while True:
        try:
            task = connection.recv()
            result = work(task, lambda value: connection.send(("reported", value)))
            connection.send(("finished", result))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except Exception as error:
            connection.send(("failed", _portable(error)))


def _portable(error: Exception) -> Exception:
    """Return the error itself if it is one of ours, else one that carries the traceback along."""
    if isinstance(error, LmdataError):
        return error
    text = "".join(traceback.format_exception(error))
    return RuntimeError(f"{type(error).__name__} in a worker process: {error}\n{text}")
