"""What comes in: the key, a body of bounded size in bounded time, and that the client is gone."""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request

from lmmodel.serving.fields import InvalidError
from lmmodel.serving.refusals import RefusedError


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
