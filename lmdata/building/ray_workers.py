"""Workers on a Ray cluster: one plain task a unit, over the same plan and receipts.

A task reads its sources and writes its part itself, so that no text goes through Ray; what comes
back is a receipt. A task whose node is lost is done again by Ray, perhaps while the first one still
runs: receipts, created once, decide. Nothing of Ray is imported before this engine is asked for.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import uuid
from typing import Any

from lmdata.building.names import PLAN_NAME
from lmdata.building.receipts import in_build
from lmdata.building.workers import (
    ONE_THREAD,
    Died,
    Failed,
    Finished,
    Message,
    Reported,
    Work,
    find_function,
)
from lmdata.errors import ConfigError, LmdataError, OutputError

_MAX_RETRIES = 3  # of a task whose worker or node was lost
_KNOCK_S = 10.0
_made: dict[str, Work] = {}  # in a worker process: the work function of the build it works on


# Kind of build -> what its workers run.
_PREPARE = {
    "tokens": "lmdata.building.units:prepare_units",
    "tags": "lmdata.tagging.units:prepare_tags",
    "examples": "lmdata.examples:prepare_examples",
    "counts": "lmdata.tokenizer_training:prepare_counts",
}


def start_ray(kind: str, num_workers: int | None, address: str | None = None) -> RayWorkers:
    """Return workers of Ray for a kind of build, as "tokens"; see `RayWorkers`."""
    return RayWorkers(num_workers, _PREPARE[kind], address)


class RayWorkers:
    """Units as tasks of Ray, so many at a time."""

    def __init__(self, num_workers: int | None, prepare: str, address: str | None = None) -> None:
        """Join a cluster, or begin one on this machine.

        Args:
            num_workers: units that are worked on at a time; None: one a core of the cluster
            prepare: as of `WorkerPool`
            address: of the cluster, such as "auto" or "ray://head:10001"; None: one of our own

        Raises:
            ConfigError: Ray is not installed, or no cluster answers
        """
        self._ray = _import_ray()
        self._is_own = not self._ray.is_initialized()
        if self._is_own:
            _join(self._ray, num_workers, address)
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        self.num_workers = num_workers or max(1, cores)
        self._prepare, self._key = prepare, uuid.uuid4().hex
        self._setup: Any = None
        self._doing: dict[Any, int] = {}  # what is under way -> worker
        self._do_unit = self._ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(do_unit)

    def prepare(self, setup: Any, lock: int) -> None:
        """Send what the work function is made of; the lock is of this machine alone."""
        self._setup = self._ray.put(pickle.dumps(setup))

    def submit(self, worker: int, task: Any) -> None:
        """Give an idle worker something to do."""
        self._doing[self._do_unit.remote(self._prepare, self._key, self._setup, task)] = worker

    def receive(self, timeout_s: float) -> list[Message]:
        """Return what has happened, or nothing after a while."""
        ready, _ = self._ray.wait(list(self._doing), num_returns=1, timeout=timeout_s)
        return [message for done in ready for message in self._take(done)]

    def _take(self, done: Any) -> list[Message]:
        worker = self._doing.pop(done)
        try:
            reports, result = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            return [Failed(worker, cause if isinstance(cause, Exception) else error)]
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            return [Died(worker, f"was lost {_MAX_RETRIES + 1} times ({reason})")]
        return [*(Reported(worker, value) for value in reports), Finished(worker, result)]

    def close(self) -> None:
        """End all work and leave the cluster; may be called again."""
        for reference in self._doing:
            with contextlib.suppress(Exception):  # it has just ended, or its node is lost
                self._ray.cancel(reference, force=True)
        self._doing.clear()
        if self._is_own and self._ray.is_initialized():
            self._ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("the engine ray needs Ray: pip install 'lmdata-lmmodel[ray]'") from error
    return ray


def _join(ray: Any, num_workers: int | None, address: str | None) -> None:
    """Join a cluster, or begin one on this machine.

    Raises:
        ConfigError: no cluster answers
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of it
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: whatever else runs goes first
        ray.init("local", num_cpus=num_workers, include_dashboard=False, **quiet)
        return
    try:
        _knock(address)
        ray.init(address=address, **quiet)
    except Exception as error:  # Ray raises what its layers below do
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"no Ray cluster answers at {address} ({reason}): begin one with `ray start --head`, "
            "or leave --address out for one of this machine's own"
        ) from error


def _knock(address: str) -> None:
    """Find out at once whether anything listens at HOST:PORT, where Ray would try for minutes.

    Raises:
        OSError: nothing does
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def do_unit(prepare: str, key: str, setup: bytes, task: Any) -> tuple[list[Any], Any]:
    """Be a task: one unit in a process that keeps its work function for the next.

    Returns:
        what was reported meanwhile, and the unit's result
    """
    if key not in _made:
        os.environ |= ONE_THREAD  # here: an environment of the task's own takes Ray seconds to make
        received = _receive(setup)
        _made.clear()
        _made[key] = find_function(prepare)(lambda: received)
    reports: list[Any] = []
    return reports, _made[key](task, reports.append)


def _receive(setup: bytes) -> Any:
    """Return the setup, where this machine sees the place that it names.

    Raises:
        OutputError: it does not
    """
    node = os.uname().nodename
    try:
        received = pickle.loads(setup)
    except LmdataError as error:
        raise OutputError(f"the worker on {node} can't read what it is given: {error}") from error
    place = getattr(received, "place", None)
    if place is not None and place.read(in_build(PLAN_NAME)) is None:
        raise OutputError(
            f"the worker on {node} does not see {place}: write to a disk that all machines of the "
            "cluster share, or to a store, as --output s3://BUCKET/tokens"
        )
    return received
