"""A process that serves: the port, the models, the signals.

bind ─▶ listen (503) ─▶ load, measure ─▶ ready ─▶ SIGTERM: finish what was taken (503) ─▶ exit 0
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

from lmdata.ragged import offsets_of
from lmmodel.cores import one_thread
from lmmodel.device import resolve_device
from lmmodel.errors import ServeError
from lmmodel.finetuning.folder import (
    FineTuned,
    is_fine_tuned,
    load_fine_tuned,
    read_fine_tuned_record,
)
from lmmodel.predicting.likelihood import embed
from lmmodel.routing.folder import is_experts, read_experts_record
from lmmodel.routing.team import Experts, load_experts
from lmmodel.saving.run import read_record
from lmmodel.serving.app import Service, make_app
from lmmodel.serving.engine import Engine, EngineConfig, can_do
from lmmodel.serving.http import Limits
from lmmodel.serving.questions import Model
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.model import predict_logits
from lmmodel.texts import TextIds
from lmmodel.trained import load_run

# ---- Folders to models, and how far an answer depends on its neighbours


_PROBES = (1, 2, 3, 7, 16, 31, 32, 33, 48)  # tokens of the texts that are tried


def name_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Return folders by the name that requests call them: their own, or one given as NAME=FOLDER.

    Raises:
        ServeError: two have one name, or none is given

    Example:
        >>> name_folders(["runs/wiki/", "films=runs/sst2"])
        {'wiki': PosixPath('runs/wiki'), 'films': PosixPath('runs/sst2')}
    """
    named: dict[str, Path] = {}
    for argument in arguments:
        name, equals, folder = argument.rpartition("=")
        if not equals or Path(argument).exists():
            name, folder = Path(argument).resolve().name, argument
        if name in named:
            raise ServeError(
                f"{named[name]} and {folder} are both called {name!r}: give one as NAME={folder}"
            )
        named[name] = Path(folder)
    if not named:
        raise ServeError("no model to serve: name the folder of a run or a fine-tuned model")
    return named


def check_folder(folder: Path) -> None:
    """Check that a folder says that it holds a model, without reading its weights.

    Raises:
        RunError: it does not
    """
    if is_experts(folder):
        read_experts_record(folder)
    elif is_fine_tuned(folder):
        read_fine_tuned_record(folder)
    else:
        read_record(folder)


def open_model(folder: Path, device: str) -> Model | Experts:
    """Return the model in a folder, its weights laid out.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run` and `load_fine_tuned`
    """
    if is_experts(folder):
        team = load_experts(folder, device)
        for run in team.runs:
            run.prepared()
        return team
    model = load_fine_tuned(folder, device) if is_fine_tuned(folder) else load_run(folder, device)
    model.prepared()
    return model


def measure_dependence(model: Model | Experts) -> float:
    """Return the largest difference that neighbours make to what a model computes of a text.

    Texts of several lengths are computed each alone, then all together, and compared. On a CPU in
    float32 it is 0.
    """
    if isinstance(model, Experts):
        return max(measure_dependence(run) for run in model.runs)
    if model.model.config.traits.is_encoder_decoder:  # it only writes, a request at a time
        return 0.0
    size = model.model.config.vocab_size
    assert size is not None
    most = model.model.config.max_position_embeddings - 2
    lengths = np.array([length for length in _PROBES if length <= most], np.int64)
    ids = (np.arange(lengths.sum()) * 7919 % size).astype(np.int32)
    offsets = offsets_of(lengths)
    together = _compute(model, ids, offsets)
    alone = [
        _compute(model, ids[a:b], np.array([0, b - a])) for a, b in itertools.pairwise(offsets)
    ]
    return float(np.abs(together - np.concatenate(alone)).max())


def _compute(model: Model, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    if not isinstance(model, FineTuned):
        return embed(model, TextIds(ids, offsets)).vectors
    examples = TaskExamples(
        num_rows=len(offsets) - 1, input_ids=ids, token_type_ids=np.zeros(len(ids), np.uint8),
        offsets=offsets, row=np.arange(len(offsets) - 1), labels=None,
    )  # fmt: skip
    logits: np.ndarray = predict_logits(model.prepared(), examples)
    return logits


# ---- The process


KEY_VARIABLE = "LMMODEL_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where a server listens, and how much it takes."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every one."""
    port: int = 8000
    """In [0, 65535]; 0: any that is free."""
    device: str = "auto"
    """auto, cpu or cuda."""
    drain_s: float = 20.0
    """Seconds that requests have to be finished after SIGTERM, at least 0."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How much is computed together, and how much may wait."""
    limits: Limits = field(default_factory=Limits)
    """What one request may take."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        if self.drain_s < 0:
            raise ValueError(f"drain_s must be at least 0, got {self.drain_s}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be auto, cpu or cuda, got {self.device!r}")


def serve(folders: Mapping[str, Path], config: ServeConfig, say: Callable[[str], None]) -> int:
    """Serve models until a signal, and return how many requests were not finished.

    Args:
        folders: of the models, by name
        config: where and how much
        say: is told, a line each, what a user should know

    Raises:
        ServeError: the port can't be had, or the key is empty
        RunError, CheckpointError, DeviceError: a model can't be opened
    """
    for folder in folders.values():
        check_folder(folder)
    resolve_device(config.device)
    key = find_key(os.environ)
    listener = bind(config.host, config.port)
    with listener:
        service = Service(tuple(folders), limits=config.limits, api_key=key)
        if key is None and config.host not in _LOOPBACK:
            say(f"note: who reaches {config.host} may ask: set {KEY_VARIABLE} to ask for a key")
        server = _Server(service, folders, config, say, address_of(listener, config.host))
        loop_factory = server.config.get_loop_factory()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(server.serve(sockets=[listener]))
    if server.failure is not None:
        raise server.failure
    return service.num_active


def find_key(environment: Mapping[str, str]) -> str | None:
    """Return the key that requests must have; None: none.

    Raises:
        ServeError: it is empty

    Example:
        >>> find_key({"LMMODEL_API_KEY": "secret"}), find_key({})
        ('secret', None)
    """
    key = environment.get(KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ServeError(f"{KEY_VARIABLE} is empty: set it to a key, or unset it")
    return key


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address, which listens as soon as the server runs.

    Raises:
        ServeError: the address can't be had
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        remedy = "choose another --host"
        if error.errno == errno.EADDRINUSE:
            remedy = "another program listens there: choose another --port (0: any that is free)"
        elif error.errno == errno.EACCES:
            remedy = "choose a --port above 1023"
        reason = str(error.strerror).partition(" (while")[0]
        raise ServeError(f"can't listen at {host}:{port}: {reason}; {remedy}") from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket, host: str) -> str:
    """Return the address as a browser takes it."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, with our way to start and to stop."""

    def __init__(
        self,
        service: Service,
        folders: Mapping[str, Path],
        config: ServeConfig,
        say: Callable[[str], None],
        address: str,
    ) -> None:
        super().__init__(uvicorn.Config(
            make_app(service), lifespan="off", ws="none", access_log=False, log_config=None,
            http=_impatient(_http_protocol(), config.limits.read_timeout_s), timeout_keep_alive=75,
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
        ))  # fmt: skip
        self.failure: Exception | None = None
        self._service, self._folders, self._settings = service, folders, config
        self._say, self._address = say, address
        self._drain: asyncio.Task[None] | None = None
        self._loading = threading.Thread(target=self._load, name="loading", daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and load the models beside."""
        await super().startup(sockets)
        self._loading.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open; the engine's threads end with the process."""
        await super().shutdown(sockets)
        if self._service.engine is not None:
            self._service.engine.close(timeout_s=0)
            self._loading.join()  # it makes kernels no more

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have the first signal finish what was taken, and a second end the process.

        Not by the loop's own `add_signal_handler`: that sends the number through a pipe, which
        drops it when the answers of a busy moment have filled it.
        """
        loop = asyncio.get_running_loop()

        def tell(number: int, _: object) -> None:
            loop.call_soon_threadsafe(self._on_signal, number)

        before = {number: signal.signal(number, tell) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int) -> None:
        if self._drain is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            self._service.is_draining = True
            self._drain = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        """Wait until every request that was taken is answered, or the time is up."""
        count = self._service.num_active
        self._say(f"finishing {count} requests; the same signal again ends it at once")
        end = time.monotonic() + self._settings.drain_s
        while self._service.num_active and time.monotonic() < end:
            await asyncio.sleep(0.02)
        self.should_exit = True

    def _load(self) -> None:
        """Open the models and tell that they are ready; what fails ends the server."""
        start = time.perf_counter()
        try:
            models, device = {}, self._settings.device
            with one_thread():
                for name, folder in self._folders.items():
                    models[name] = open_model(folder, device)
                difference = max(measure_dependence(model) for model in models.values())
            engine = Engine(models, self._settings.engine, self._service.metrics)
        except Exception as error:  # raised again by `serve`
            self.failure, self.should_exit = error, True
            return
        gc.collect()
        gc.freeze()  # what is here stays: going through it all would halt every request for 0.1 s
        self._service.engine = engine
        for name, model in models.items():
            self._say(f"{name}  {', '.join(can_do(model))}")
        self._say(
            f"largest difference that neighbours make to an answer, measured now: {difference:g}"
        )
        self._say(f"ready at {self._address} after {time.perf_counter() - start:.1f} s of loading")
        with one_thread():
            engine.make_kernels()


def _http_protocol() -> type[Any]:
    """Return how HTTP is read: by httptools where it is installed, which is faster than h11."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        return H11Protocol
    return HttpToolsProtocol


def _impatient(protocol: type[Any], patience_s: float) -> type[Any]:
    """Return a protocol that closes connections whose request does not begin within a time."""

    class Impatient(protocol):  # type: ignore[misc]
        _waiting_since: float | None = None
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._waiting_since = self.loop.time()
            self._timer = self.loop.call_later(patience_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._timer is not None:
                self._timer.cancel()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._waiting_since = None  # its headers are here; the body has a deadline too
            elif self._waiting_since is None:
                self._waiting_since = self.loop.time()

        def _look(self) -> None:
            since = self._waiting_since
            if since is not None and self.loop.time() - since >= patience_s:
                self.transport.close()
            else:
                self._timer = self.loop.call_later(patience_s, self._look)

    return Impatient
