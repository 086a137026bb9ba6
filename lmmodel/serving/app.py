"""HTTP around the engine: limits, one form of error, answers whole or piece by piece.

request ─▶ ready? key? size? JSON? fields? ─▶ engine ─▶ answer, or why not
                                               └ the client is gone, or the deadline: cancelled
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lmmodel.finetuning.folder import FineTuned
from lmmodel.serving.endpoints import MOST_TEXTS, Asked, Endpoint
from lmmodel.serving.engine import Engine, Pending, can_do
from lmmodel.serving.fields import AnyOf, Field, InvalidError, Many, String, check_fields
from lmmodel.serving.http import (
    Continuations,
    EventStream,
    GoneError,
    Limits,
    Metrics,
    RefusedError,
    check_key,
    deadline,
    error_response,
    is_gone,
    json_response,
    read_body,
    refusal,
)
from lmmodel.serving.openapi import ENDPOINTS, describe
from lmmodel.serving.questions import UnableError
from lmmodel.serving.routed import answering

# Texts of fewer characters in all are read at once; of more by a thread, as others go on.
_READ_AT_ONCE = 8192


@dataclass
class Service:
    """What the routes share."""

    names: tuple[str, ...]  # of the models, in their order
    limits: Limits = field(default_factory=Limits)
    api_key: str | None = None
    engine: Engine | None = None  # None while starting
    is_draining: bool = False
    num_active: int = 0  # requests that are being answered
    metrics: Metrics = field(default_factory=Metrics)
    started: float = field(default_factory=time.time)

    def ready(self) -> Engine:
        """Return the engine.

        Raises:
            RefusedError: there is none yet, or no more
        """
        if self.is_draining:
            raise RefusedError(
                503, "draining", "the server is shutting down: ask another one, or later",
                retry_after="5", connection="close",
            )  # fmt: skip
        if self.engine is None:
            raise RefusedError(
                503, "starting", "the models are being loaded: ask again in a second",
                retry_after="1",
            )  # fmt: skip
        return self.engine


def make_app(service: Service) -> Starlette:
    """Return the ASGI application of a service."""
    routes = [
        *(Route(e.path, _serving(service, e.path, _asking(e)), methods=["POST"])
          for e in ENDPOINTS),
        Route("/tokenize", _serving(service, "/tokenize", _tokenize), methods=["POST"]),
        Route("/v1/models", _serving(service, "/v1/models", _models), methods=["GET"]),
        Route("/metrics", _serving(service, "/metrics", _metrics), methods=["GET"]),
        Route("/ready", _serving(service, "/ready", _ready, is_open=True), methods=["GET"]),
        Route("/health", _serving(service, "/health", _health, is_open=True), methods=["GET"]),
        Route("/openapi.json", _serving(service, "/openapi.json", _openapi, is_open=True),
              methods=["GET"]),
        Route("/", _serving(service, "/", _page, is_open=True), methods=["GET"]),
    ]  # fmt: skip
    return Starlette(routes=routes, exception_handlers={HTTPException: _unknown_address})


OnToken = Callable[[list[list[int]]], None]
Handler = Callable[[Service, Request], Awaitable[Response]]


def _serving(
    service: Service, path: str, handler: Handler, *, is_open: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that answers errors as JSON, counts, and asks for the key."""

    async def serve(request: Request) -> Response:
        start, kind = time.perf_counter(), None
        service.num_active += 1
        try:
            if not is_open:
                check_key(service.api_key, request.headers.get("authorization"))
            response = await handler(service, request)
        except (GoneError, ClientDisconnect):
            response, kind = Response(status_code=499), "gone"
        except Exception as error:
            refused = refusal(error)
            response, kind = error_response(refused), refused.kind
        finally:
            service.num_active -= 1
        status, seconds = response.status_code, time.perf_counter() - start
        service.metrics.answered(path, status, seconds, kind)
        return response

    return serve


async def _unknown_address(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    paths = ", ".join(route.path for route in request.app.routes)
    if error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}: see /openapi.json"
    else:
        message = f"there is no {request.url.path[:100]} here: there are {paths}"
    kind = {404: "not_found", 405: "method"}.get(error.status_code, "http")
    refused = RefusedError(error.status_code, kind, message)
    refused.headers |= dict(error.headers or {})
    return error_response(refused)


# ---- What is asked of a model


def _asking(endpoint: Endpoint) -> Handler:
    """Return the handler of an endpoint."""

    async def handle(service: Service, request: Request) -> Response:
        engine, limits = service.ready(), service.limits
        body = await read_body(request, limits)
        values = check_fields(endpoint.fields, body)
        values["model"] = model = choose_model(engine, endpoint, values["model"])
        asked = endpoint.ask(values)
        if asked.streaming is not None:
            return await _stream(service, request, engine, model, asked)
        future = await submit(engine, model, asked, request, limits.timeout_s)
        answer = await wait_for(future, request, limits.timeout_s)
        return json_response(asked.tell(answer, model, future.tokens.read))

    return handle


def choose_model(engine: Engine, endpoint: Endpoint, name: str | None) -> str:
    """Return the model that a request names, or the only one that can do it.

    Raises:
        RefusedError: there is none, or several
    """
    if name is not None:
        if name not in engine.models:
            raise RefusedError(
                404, "no_model", f"there is no model {name[:100]!r}: there are "
                f"{', '.join(engine.models)}", "model",
            )  # fmt: skip
        return name
    able = [own for own, model in engine.models.items() if endpoint.kind.is_for(answering(model))]
    if not able:
        each = "; ".join(f"{own} can {', '.join(can_do(m))}" for own, m in engine.models.items())
        raise UnableError(f"no model here can {endpoint.kind.verb}: {each}")
    if len(able) > 1:
        raise InvalidError(f"model is missing: {' and '.join(able)} can do this", "model")
    return able[0]


async def submit(
    engine: Engine,
    model: str,
    asked: Asked,
    request: Request,
    timeout_s: float,
    on_token: OnToken | None = None,
) -> Pending:
    """Return the answer to come; long texts are read by another thread, as others go on.

    Raises:
        RefusedError: reading them took too long
        LmmodelError, LmdataError: as `Engine.submit`
    """

    def read() -> Pending:
        return engine.submit(model, asked.question, on_token=on_token)

    if int(request.headers.get("content-length") or _READ_AT_ONCE) < _READ_AT_ONCE:
        return read()
    reading = asyncio.get_running_loop().run_in_executor(None, read)
    try:
        return await asyncio.wait_for(asyncio.shield(reading), timeout_s)
    except TimeoutError as error:
        reading.add_done_callback(lambda done: done.exception() or done.result().cancel())
        raise deadline(timeout_s) from error


async def wait_for(future: Pending, request: Request, timeout_s: float) -> Any:
    """Return the answer, unless the client goes or the time is up: then nobody works on it.

    Raises:
        GoneError: the client is gone
        RefusedError: the deadline
    """
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(is_gone(request))
    try:
        await asyncio.wait({answer, gone}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        if gone.done():
            raise GoneError
        raise deadline(timeout_s)
    finally:
        answer.cancel()
        gone.cancel()


# ---- Piece by piece


async def _stream(
    service: Service, request: Request, engine: Engine, model: str, asked: Asked
) -> Response:
    loop, streaming = asyncio.get_running_loop(), asked.streaming
    assert streaming is not None
    coming: asyncio.Queue[list[list[int]] | None] = asyncio.Queue()

    def on_token(ids: list[list[int]]) -> None:
        loop.call_soon_threadsafe(coming.put_nowait, ids)

    timeout_s = service.limits.timeout_s
    future = await submit(engine, model, asked, request, timeout_s, on_token)
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(coming.put_nowait, None))
    pieces = Continuations(engine.models[model].tokenizer, streaming.stops)
    service.num_active += 1

    async def send_all(event: Callable[[Any], Awaitable[None]]) -> None:
        gone = asyncio.ensure_future(is_gone(request))
        try:
            async with asyncio.timeout(timeout_s):
                while (ids := await coming.get()) is not None and not gone.done():
                    for index, text in pieces.add(ids):
                        await event(streaming.piece(index, text))
                    if pieces.are_all_stopped:
                        break
            if gone.done():
                return
            found = future.result() if future.done() else [None] * len(pieces.texts)
            for index, own in enumerate(found):
                is_stopped = pieces.is_stopped[index]
                rest = "" if is_stopped else pieces.rest(index, own.continuation)
                if rest:
                    await event(streaming.piece(index, rest))
                last = None if pieces.is_stopped[index] else own
                await event(streaming.last(index, pieces.texts[index], last))
            if streaming.ends_with_done:
                await event(b"[DONE]")
        except Exception as error:
            told = deadline(timeout_s) if isinstance(error, TimeoutError) else refusal(error)
            await event(bytes(error_response(told).body))
        finally:
            future.cancel()
            gone.cancel()
            service.num_active -= 1

    return EventStream(send_all)


# ---- What is asked of the server

_TOKENIZE = {
    "model": Field(String(most=200), "Name of a model; may be left out where there is one."),
    "texts": Field(
        AnyOf((String(least=0), Many(String(least=0), MOST_TEXTS))), "A text, or a list.",
        is_needed=True,
    ),
}  # fmt: skip


async def _tokenize(service: Service, request: Request) -> Response:
    engine = service.ready()
    values = check_fields(_TOKENIZE, await read_body(request, service.limits))
    name, texts = values["model"], values["texts"]
    texts = texts if isinstance(texts, list) else [texts]
    if name is None and len(engine.models) > 1:
        raise InvalidError(f"model is missing: there are {', '.join(engine.models)}", "model")
    name = name or next(iter(engine.models))
    if name not in engine.models:
        raise RefusedError(404, "no_model", f"there is no model {name[:100]!r}: there are "
                           f"{', '.join(engine.models)}", "model")  # fmt: skip
    backend = engine.models[name].tokenizer.backend
    found = await asyncio.to_thread(backend.encode_batch, texts, add_special_tokens=False)
    answers = [
        {"ids": own.ids, "pieces": own.tokens, "offsets": own.offsets} for own in found
    ]  # fmt: skip
    return json_response({"model": name, "texts": answers})


async def _models(service: Service, request: Request) -> Response:
    engine = service.ready()
    data = []
    for name, named in engine.models.items():
        model = answering(named)
        most = model.model.config.max_position_embeddings
        if isinstance(model, FineTuned):
            most = model.record.max_seq_length
        data.append({
            "id": name, "object": "model", "created": int(service.started), "owned_by": "lmmodel",
            "can": can_do(model), "max_tokens": most,
            "mask": model.tokenizer.special_tokens.get("mask"),
        })  # fmt: skip
    return json_response({"object": "list", "data": data})


async def _metrics(service: Service, request: Request) -> Response:
    engine = service.engine
    gauges = {
        "lmmodel_queue_tokens": ("Tokens that wait or are computed.",
                                 lambda: engine.num_waiting_tokens if engine else 0),
        "lmmodel_queue_requests": ("Requests that wait.",
                                   lambda: engine.num_waiting if engine else 0),
        "lmmodel_active_requests": ("Requests that are being answered.",
                                    lambda: service.num_active),
        "lmmodel_ready": ("Whether requests are taken.",
                          lambda: float(engine is not None and not service.is_draining)),
    }  # fmt: skip
    return Response(service.metrics.text(gauges), media_type="text/plain; version=0.0.4")


async def _ready(service: Service, request: Request) -> Response:
    service.ready()
    return json_response({"status": "ready"})


async def _health(service: Service, request: Request) -> Response:
    return json_response({"status": "alive"})


async def _openapi(service: Service, request: Request) -> Response:
    return json_response(describe(_TOKENIZE))


async def _page(service: Service, request: Request) -> Response:
    page = resources.files("lmmodel.serving").joinpath("page.html").read_bytes()
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; " \
             "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"  # fmt: skip
    headers = {"content-security-policy": policy, "x-content-type-options": "nosniff"}
    return Response(page, headers=headers, media_type="text/html; charset=utf-8")
