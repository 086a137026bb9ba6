"""The description of all routes, as OpenAPI 3.1 has it, made of the same fields that check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmmodel.serving.as_openai import OPENAI
from lmmodel.serving.endpoints import OWN
from lmmodel.serving.fields import Fields, describe_fields

ENDPOINTS = (*OPENAI, *OWN)
"""All that is asked of models."""

_PROBLEM = {"$ref": "#/components/responses/Problem"}
_ASKING = (401, 404, 408, 413, 415, 422, 429, 500, 501, 503, 504)
_LOOKING = (401, 503)


def describe(tokenize: Fields) -> dict[str, Any]:
    """Return the description; `tokenize` are the fields of that route."""
    paths: dict[str, Any] = {
        endpoint.path: {
            "post": _operation(
                endpoint.path, endpoint.about, endpoint.answer, endpoint.fields, _ASKING,
                streams="stream" in endpoint.fields,
            )
        }
        for endpoint in ENDPOINTS
    }  # fmt: skip
    texts = {"type": "object", "properties": {"texts": {"type": "array"}}, "required": ["texts"]}
    paths["/tokenize"] = {
        "post": _operation("/tokenize", "Ids and pieces of texts.", texts, tokenize, _ASKING)
    }
    listed = {"type": "object", "properties": {"data": {"type": "array"}}, "required": ["data"]}
    paths["/v1/models"] = {
        "get": _operation("/v1/models", "The models, and what each can do.", listed, None, _LOOKING)
    }
    status = {"type": "object", "properties": {"status": {"type": "string"}}}
    paths["/ready"] = {
        "get": _operation("/ready", "Whether requests are taken.", status, None, (503,))
    }
    paths["/health"] = {"get": _operation("/health", "Whether it lives.", status, None, ())}
    paths["/openapi.json"] = {
        "get": _operation("/openapi.json", "This description.", {"type": "object"}, None, ())
    }
    for path, about, kind, more in (
        ("/metrics", "Counts and durations for Prometheus.", "text/plain", (401,)),
        ("/", "A page to try the models.", "text/html", ()),
    ):
        operation = _operation(path, about, {"type": "string"}, None, more)
        operation["responses"]["200"]["content"] = {kind: {"schema": {"type": "string"}}}
        paths[path] = {"get": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmmodel serve", "version": "1"},
        "paths": paths,
        "components": {
            "responses": {"Problem": _problem()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    path: str,
    about: str,
    answer: Mapping[str, Any],
    fields: Fields | None,
    problems: tuple[int, ...],
    *,
    streams: bool = False,
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": {}}  # of each event: its JSON
    operation: dict[str, Any] = {
        "operationId": path.strip("/").replace("/", "_").replace("-", "_") or "page",
        "summary": about,
        "responses": {
            "200": {"description": "The answer.", "content": content},
            **{str(status): _PROBLEM for status in problems},
        },
    }
    if 401 in problems:
        operation["security"] = [{}, {"key": []}]
    if fields is not None:
        schema = describe_fields(fields)
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["requestBody"] = body
    return operation


def _problem() -> dict[str, Any]:
    properties = {
        "type": {"type": "string"},
        "message": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": "integer"},
    }
    inner = {"type": "object", "properties": properties, "required": list(properties)}
    schema = {"type": "object", "properties": {"error": inner}, "required": ["error"]}
    return {
        "description": "What is wrong, and what to do.",
        "content": {"application/json": {"schema": schema}},
    }
