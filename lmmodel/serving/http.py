"""What HTTP asks of a server whoever answers: limits, errors, events one by one, counts."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from lmdata.errors import LmdataError
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import DivergedError, LmmodelError
from lmmodel.serving.engine import BusyError, ClosedError, TooLargeError
from lmmodel.serving.fields import InvalidError
from lmmodel.serving.questions import UnableError
from lmmodel.serving.task_questions import TruncatedError

# ---- Errors: one form, and how each is told


logger = logging.getLogger("lmmodel.serving")


class RefusedError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP
        kind: one word for programs
        param: the field that is wrong
        headers: more of the answer
    """

    def __init__(
        self, status: int, kind: str, message: str, param: str | None = None, **headers: str
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class GoneError(Exception):
    """The client has closed its connection: nobody waits for an answer."""


def refusal(error: Exception) -> RefusedError:
    """Return how an error is told; what is no fault of the client is logged."""
    match error:
        case RefusedError():
            return error
        case InvalidError():
            return RefusedError(422, "invalid", str(error), error.param)
        case BusyError():
            seconds = str(error.retry_after_s)
            return RefusedError(429, "busy", str(error), retry_after=seconds)
        case UnableError():
            return RefusedError(501, "unable", str(error), "model")
        case ClosedError():
            return RefusedError(503, "draining", str(error), retry_after="5")
        case TooLargeError():
            return RefusedError(422, "too_many_tokens", str(error))
        case TruncatedError():
            return RefusedError(422, "too_long", str(error))
        case DivergedError():
            return RefusedError(500, "diverged", str(error))
        case LmmodelError() | LmdataError() | ValueError():
            return RefusedError(422, "invalid", str(error))
    logger.error("a request failed", exc_info=error)
    return RefusedError(
        500, "internal", f"the server has failed ({type(error).__name__}), its log says more; "
        "please report it"
    )  # fmt: skip


def error_response(error: RefusedError) -> Response:
    """Return the one form that errors have, which OpenAI's clients read too."""
    body = {"error": {"type": error.kind, "message": str(error), "param": error.param,
                      "code": error.status}}  # fmt: skip
    return json_response(body, error.status, error.headers)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as JSON; arrays of numbers as they are, dataclasses by their fields."""
    return Response(to_json(body), status, headers, media_type="application/json")


def to_json(body: Any) -> bytes:
    """Return JSON in UTF-8; what is no number as null."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def deadline(timeout_s: float) -> RefusedError:
    """Return the error of an answer that takes too long."""
    message = f"there was no answer within {timeout_s:g} s: ask for less at once, or later"
    return RefusedError(504, "deadline", message)


# ---- What comes in: the key, a body of bounded size in bounded time, and that the client is gone


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may take."""

    max_body_bytes: int = 2**21
    """Of a request, at least 1."""
    timeout_s: float = 30.0
    """From a request to its answer, above 0; what takes longer is given up."""
    read_timeout_s: float = 10.0
    """For a client to send what it wants, above 0."""

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "timeout_s", "read_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


def check_key(key: str | None, header: str | None) -> None:
    """Check that a request has the server's key, where it has one.

    Raises:
        RefusedError: it has not
    """
    given = (header or "").removeprefix("Bearer ").encode()
    if key is not None and not hmac.compare_digest(given, key.encode()):
        raise RefusedError(
            401, "no_key", "send the server's key in the header Authorization: Bearer KEY",
            www_authenticate="Bearer",
        )  # fmt: skip


async def read_body(request: Request, limits: Limits) -> Any:
    """Return the JSON of a request.

    Raises:
        RefusedError: it is no JSON, too large, or takes too long to come
        ClientDisconnect: it never came
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, "no_json", "send JSON, with the header Content-Type: "
                           "application/json")  # fmt: skip
    most = limits.max_body_bytes
    too_large = RefusedError(
        413, "too_large", f"the body is larger than {most:,} bytes: send less at once",
        connection="close",
    )  # fmt: skip
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.read_timeout_s):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise too_large
    except TimeoutError as error:
        raise RefusedError(
            408, "too_slow", f"the body did not come within {limits.read_timeout_s:g} s",
            connection="close",
        ) from error  # fmt: skip
    try:
        return orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"the body is not valid JSON: {error}") from error


async def is_gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---- Continuations told piece by piece: whole characters, and nothing of a text that ends them


_UNFINISHED = "\ufffd"  # what a character is decoded to whose last bytes are yet to come


class Continuations:
    """What is new of each continuation.

    Args:
        tokenizer: of the model
        stops: texts at which a continuation ends, which are not part of it

    Attributes:
        texts: of each continuation, what was told so far
        is_stopped: whether a stop came
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self.texts: list[str] = []
        self.is_stopped: list[bool] = []

    @property
    def are_all_stopped(self) -> bool:
        """Whether there is nothing more to tell."""
        return bool(self.is_stopped) and all(self.is_stopped)

    def add(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[int, str]]:
        """Yield the number and the new text of each continuation that has any.

        Args:
            ids: of each continuation so far
        """
        if not self.texts:
            self.texts, self.is_stopped = [""] * len(ids), [False] * len(ids)
        for index, own in enumerate(ids):
            text = self._tokenizer.decode(list(own), skip_special_tokens=True)
            piece = self._new(index, text.rstrip(_UNFINISHED), is_last=False)
            if piece:
                yield index, piece

    def rest(self, index: int, text: str) -> str:
        """Return what is left to tell of a continuation that is finished."""
        return self._new(index, text, is_last=True)

    def _new(self, index: int, text: str, *, is_last: bool) -> str:
        if self.is_stopped[index]:
            return ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            text, self.is_stopped[index] = text[: min(places)], True
        elif not is_last:
            text = text[: len(text) - self._num_withheld(text)]
        told = self.texts[index]
        if not text.startswith(told):  # a decoder that changes what it said before
            return ""
        self.texts[index] = text
        return text[len(told) :]

    def _num_withheld(self, text: str) -> int:
        """Return how many characters at the end may begin a stop."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:size])
            ),
            default=0,
        )


class EventStream(Response):
    """Server-sent events, one line of JSON each."""

    def __init__(self, run: Callable[[Any], Awaitable[None]]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._run = run

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send what there is to send, as it comes."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        async def event(value: Any) -> None:
            line = value if isinstance(value, bytes) else to_json(value)
            body = b"data: " + line + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await self._run(event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# ---- Counts and durations, as Prometheus reads them (text format 0.0.4)


SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (32, 128, 512, 2048, 4096, 8192, 16_384, 65_536)


@dataclass
class Spread:
    """How often values were at most some bounds."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)  # the last is of all that exceed every bound
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        place = next((i for i, most in enumerate(self.bounds) if value <= most), len(self.bounds))
        self.counts[place] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> list[str]:
        """Return it in Prometheus' words; `labels` are as in `a="b"`."""
        comma = "," if labels else ""
        lines, below = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {below}')
        braces = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{braces} {self.total:.6f}", f"{name}_count{braces} {below}"]


class Metrics:
    """What `/metrics` shows. All methods may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, int], int] = {}  # by route and status
        self._errors: dict[str, int] = {}  # by kind
        self._durations: dict[str, Spread] = {}  # by route
        self._batches: dict[str, tuple[Spread, Spread, Spread]] = {}  # by verb

    def answered(self, route: str, status: int, seconds: float, error: str | None) -> None:
        """Count an answer to a client."""
        with self._lock:
            key = (route, status)
            self._answers[key] = self._answers.get(key, 0) + 1
            self._durations.setdefault(route, Spread(SECONDS)).add(seconds)
            if error is not None:
                self._errors[error] = self._errors.get(error, 0) + 1

    def computed(self, verb: str, num_requests: int, num_tokens: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            if verb not in self._batches:
                self._batches[verb] = (
                    Spread(SIZES),
                    Spread(TOKENS),
                    Spread(SECONDS),
                )
            sizes, tokens, durations = self._batches[verb]
            sizes.add(num_requests)
            tokens.add(num_tokens)
            durations.add(seconds)

    def text(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> str:
        """Return everything, and what is read just now: help and value by name."""
        with self._lock:
            lines = [
                *_head("lmmodel_requests_total", "counter", "Answers by route and status."),
                *(f'lmmodel_requests_total{{route="{route}",status="{status}"}} {count}'
                  for (route, status), count in sorted(self._answers.items())),
                *_head("lmmodel_errors_total", "counter", "Errors by kind."),
                *(f'lmmodel_errors_total{{kind="{kind}"}} {count}'
                  for kind, count in sorted(self._errors.items())),
                *_head("lmmodel_request_seconds", "histogram", "From request to answer."),
                *(line for route, own in sorted(self._durations.items())
                  for line in own.lines("lmmodel_request_seconds", f'route="{route}"')),
            ]  # fmt: skip
            kinds = ("requests", "tokens", "seconds")
            for place, kind in enumerate(kinds):
                name = f"lmmodel_batch_{kind}"
                lines += _head(name, "histogram", f"{kind.capitalize()} of a batch.")
                for verb, own in sorted(self._batches.items()):
                    lines += own[place].lines(name, f'verb="{verb}"')
        for name, (about, read) in gauges.items():
            lines += [*_head(name, "gauge", about), f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
