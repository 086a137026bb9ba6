"""The one form that errors have, and how each is told: status, kind, what to do."""

from __future__ import annotations

import logging
from typing import Any

import orjson
from starlette.responses import Response

from lmdata.errors import LmdataError
from lmmodel.errors import DivergedError, LmmodelError
from lmmodel.serving.engine import BusyError, ClosedError, TooLargeError
from lmmodel.serving.fields import InvalidError
from lmmodel.serving.question import UnableError
from lmmodel.serving.task_questions import TruncatedError

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
