"""The routes: OpenAI's client, the description, limits, errors, a client that is gone."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

httpx = pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("orjson", reason="the extra [serve] is not installed")
import uvicorn  # noqa: E402

from lmmodel.finetuning.folder import load_fine_tuned  # noqa: E402
from lmmodel.predicting.generation import GenerationConfig, generate  # noqa: E402
from lmmodel.predicting.likelihood import embed  # noqa: E402
from lmmodel.serving.app import Service, make_app  # noqa: E402
from lmmodel.serving.engine import Engine, EngineConfig  # noqa: E402
from lmmodel.serving.http import Limits  # noqa: E402
from lmmodel.serving.openapi import ENDPOINTS  # noqa: E402
from lmmodel.serving.questions import Embed  # noqa: E402
from lmmodel.serving.server import measure_dependence  # noqa: E402
from lmmodel.trained import Run  # noqa: E402
from tests.lmmodel.fine_tuned_folders import write_fine_tuned  # noqa: E402
from tests.lmmodel.serving_models import make_models  # noqa: E402

TEXT = "the old king finds a stone"


@pytest.fixture
def service(make_untrained_run: Callable[..., Run], tmp_path: Path) -> Iterator[Service]:
    models = make_models(make_untrained_run, tmp_path)
    limits = Limits(max_body_bytes=5000, timeout_s=20, read_timeout_s=1)
    made = Service(tuple(models), limits=limits)
    with Engine(models, EngineConfig(num_workers=1), made.metrics) as made.engine:
        yield made


@contextmanager
def listening(service: Service) -> Iterator[str]:
    """Have the service at a free port of this machine, in a thread of this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(service), lifespan="off", log_config=None, access_log=False,
                            ws="none")  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def ask(service: Service, method: str, path: str, **given: Any) -> Any:
    async def once() -> Any:
        transport = httpx.ASGITransport(app=make_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **given)

    return asyncio.run(once())


def post(service: Service, path: str, body: Any, **given: Any) -> Any:
    return ask(service, "POST", path, json=body, **given)


def wiki(service: Service) -> Run:
    assert service.engine is not None
    run = service.engine.models["wiki"]
    assert isinstance(run, Run)
    return run


# ---- Answers


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/embed", {"model": "wiki", "texts": TEXT}),
    ("/similarity", {"model": "gpt", "texts": ["the king", "a stone"], "others": ["a king"]}),
    ("/fill-mask", {"model": "wiki", "texts": "the [MASK] finds", "top_k": 2}),
    ("/score", {"model": "gpt", "texts": ["the old king", "a stone"]}),
    ("/generate", {"prompts": "the old", "max_new_tokens": 3, "seed": 1}),
    ("/classify", {"texts": ["the old king", "a stone"]}),
    ("/tag", {"texts": "the old king"}),
    ("/tag", {"texts": [["the", "old"], ["king"]]}),
    ("/answer", {"questions": "the king", "passages": TEXT}),
    ("/v1/embeddings", {"model": "wiki", "input": [TEXT, "a"]}),
    ("/v1/completions", {"prompt": ["the", "a"], "max_tokens": 3, "echo": True}),
    ("/tokenize", {"model": "wiki", "texts": ["the old", ""]}),
]


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_every_route_answers(service: Service, path: str, body: dict[str, Any]) -> None:
    found = post(service, path, body)
    assert found.status_code == 200, found.text
    described = ask(service, "GET", "/openapi.json").json()["paths"][path]["post"]["responses"]
    schema = described["200"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) <= set(found.json())


def test_vectors_are_those_of_the_command_line(service: Service) -> None:
    expected = embed(wiki(service), [TEXT, "a"]).vectors
    told = post(service, "/v1/embeddings", {"model": "wiki", "input": [TEXT, "a"]}).json()
    assert np.array_equal(np.array([d["embedding"] for d in told["data"]], np.float32), expected)
    body = {"model": "wiki", "input": [TEXT, "a"], "encoding_format": "base64"}
    coded = post(service, "/v1/embeddings", body).json()["data"]
    vectors = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded]
    assert np.array_equal(np.stack(vectors), expected)


def test_the_official_client_of_openai_gets_what_it_asks(service: Service) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with (
        listening(service) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        assert [model.id for model in client.models.list()] == list(service.names)
        found = client.embeddings.create(model="wiki", input=[TEXT], dimensions=8)
        vector = np.array(found.data[0].embedding)
        whole = client.completions.create(
            model="gpt", prompt="the old", max_tokens=6, seed=2, stop=["stone"]
        )
        pieces = client.completions.create(
            model="gpt", prompt="the old", max_tokens=6, seed=2, stop=["stone"], stream=True
        )
        told = "".join(event.choices[0].text for event in pieces)
        with pytest.raises(openai.NotFoundError, match="there is no model 'none'"):
            client.embeddings.create(model="none", input="a")
        with pytest.raises(openai.UnprocessableEntityError, match="at most 32, those of the"):
            client.embeddings.create(model="wiki", input="a", dimensions=99)
    assert vector.shape == (8,)
    assert abs(float(vector @ vector) - 1) < 1e-6
    assert found.usage.prompt_tokens > 2
    assert told == whole.choices[0].text
    assert whole.usage.completion_tokens <= 6


def test_a_stream_ends_with_the_whole_generation(service: Service) -> None:
    body = {"prompts": ["the old", "a"], "max_new_tokens": 5, "seed": 3, "stream": True}
    found = post(service, "/generate", body)
    events = [json.loads(line[6:]) for line in found.text.split("\n\n") if line]
    run = service.engine.models["gpt"]  # type: ignore[union-attr]
    expected = generate(run, ["the old", "a"], GenerationConfig(max_new_tokens=5, seed=3))
    done = {event["index"]: event["done"] for event in events if event.get("done")}
    assert [done[i]["continuation"] for i in (0, 1)] == [own.continuation for own in expected]
    for index in (0, 1):
        told = "".join(event["text"] for event in events if event["index"] == index)
        assert told == expected[index].continuation


def test_a_translator_is_served_whole_and_piece_by_piece(
    make_untrained_run: Callable[..., Run], tmp_path: Path
) -> None:
    tokenizer = make_untrained_run().tokenizer
    folder = write_fine_tuned(tmp_path / "translator", "sequence-to-sequence", tokenizer,
                              family="transformer", num_hidden_layers=1)  # fmt: skip
    translator = load_fine_tuned(folder, "cpu")
    assert measure_dependence(translator) == 0  # it only writes, each request by itself
    with Engine({"translator": translator}, EngineConfig(num_workers=1)) as engine:
        service = Service(("translator",), engine=engine)
        body = {"model": "translator", "prompt": TEXT, "max_tokens": 4}
        whole = post(service, "/v1/completions", body)
        found = post(service, "/v1/completions", {**body, "stream": True})
    assert whole.status_code == found.status_code == 200
    events = [line[6:] for line in found.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    told = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
    assert told == whole.json()["choices"][0]["text"]


def test_the_only_model_that_can_is_asked_where_none_is_named(service: Service) -> None:
    assert post(service, "/classify", {"texts": "a"}).json()["model"] == "sequence-classification"
    found = post(service, "/fill-mask", {"texts": "[MASK]"})
    assert found.status_code == 422
    message = found.json()["error"]["message"]
    assert message == "model is missing: wiki and modern and odd can do this"


# ---- The description


def test_the_description_names_every_route_and_no_other(service: Service) -> None:
    described = ask(service, "GET", "/openapi.json").json()
    routes = {
        (route.path, method.lower())
        for route in make_app(service).routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    operations = {(path, method) for path, own in described["paths"].items() for method in own}
    assert operations == routes
    for endpoint in ENDPOINTS:
        body = described["paths"][endpoint.path]["post"]["requestBody"]
        schema = body["content"]["application/json"]["schema"]
        assert set(schema["properties"]) == set(endpoint.fields)


@pytest.mark.parametrize("num_examples", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_requests_made_of_the_description_are_answered_as_it_says(
    service: Service, num_examples: int
) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(service))
    checks = schemathesis.checks
    # What fits the description may still be refused: a text to be filled in without a mask.
    left_out = [checks.CHECKS.get_by_names(["positive_data_acceptance"])[0]]
    paths = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=num_examples, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            case.validate_response(case.call(), excluded_checks=left_out)

        check()
        paths.append(operation.path)
    routes = {route.path for route in make_app(service).routes}  # type: ignore[attr-defined]
    assert set(paths) | {"/openapi.json"} == routes


# ---- Limits


def error_of(found: Any) -> dict[str, Any]:
    told: dict[str, Any] = found.json()["error"]
    assert set(told) == {"type", "message", "param", "code"}
    assert told["code"] == found.status_code
    return told


BAD: list[tuple[str, bytes, int, str]] = [
    ("/embed", b"", 422, "the body is not valid JSON"),
    ("/embed", b"{", 422, "the body is not valid JSON"),
    ("/embed", b"\xff", 422, "the body is not valid JSON"),
    ("/embed", b"[" * 4000, 422, "the body is not valid JSON"),
    ("/embed", b'{"texts":' * 400, 422, "the body is not valid JSON"),
    ("/embed", b'{"texts": "\\ud800", "model": "wiki"}', 422, "the body is not valid JSON"),
    ("/embed", b"[]", 422, "the body is a list: send an object with model, texts, normalize"),
    ("/embed", b"null", 422, "the body is null"),
    ("/embed", b'{"model": "wiki"}', 422, "texts is missing: A text, or a list of texts."),
    ("/embed", b'{"model": "wiki", "text": "a"}', 422, "unknown field 'text': known are model"),
    ("/embed", b'{"model": "wiki", "texts": ["a", 3]}', 422, r"texts\[1\] must be a string, got 3"),
    ("/embed", b'{"model": "wiki", "texts": ""}', 422, "texts must have 1 to 1,000,000 characters"),
    ("/embed", b'{"model": "wiki", "texts": []}', 422, "texts must have 1 to 2,048 items, got 0"),
    ("/embed", b'{"model": "wiki", "texts": " "}', 422, "text 1 of 1 has no token in it: ' '"),
    ("/embed", b'{"model": "none", "texts": "a"}', 404, "there is no model 'none': there are wiki"),
    ("/embed", b'{"model": "wiki", "texts": 3}', 422, "texts must be a string or a list, got 3"),
    ("/embed", b'{"model": 3, "texts": "a"}', 422, "model must be a string, got 3"),
    ("/fill-mask", b'{"model": "wiki", "texts": "the king"}', 422, r"has no \[MASK\]: put it"),
    ("/fill-mask", b'{"model": "gpt", "texts": "[MASK]"}', 501, "gpt can't fill-mask: it can be"),
    ("/fill-mask", b'{"model": "wiki", "texts": "[MASK]", "top_k": 0}', 422, r"in \[1, 100\], got"),
    ("/generate", b'{"model": "wiki", "prompts": "a"}', 501, "wiki can't generate: it can be ask"),
    ("/generate", b'{"prompts": "a", "temperature": 0, "top_k": 2}', 422, "top_k and top_p have"),
    ("/generate", b'{"prompts": "a", "temperature": 1e999}', 422, "temperature must be|not valid"),
    ("/classify", b'{"texts": "a", "pairs": "b"}', 422, "it takes no second ones"),
    ("/v1/completions", b'{"prompt": "a", "logprobs": 3}', 422, "logprobs must be null: leave it"),
    ("/v1/embeddings", b'{"model": "wiki", "input": [[5, 99999]]}', 422, "99999 is no piece"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD)
def test_what_is_wrong_is_told_in_one_form(
    service: Service, path: str, body: bytes, status: int, message: str
) -> None:
    headers = {"content-type": "application/json"}
    found = ask(service, "POST", path, content=body, headers=headers)
    assert found.status_code == status, found.text
    told = error_of(found)["message"]
    assert "\n" not in told
    assert re.search(message, told), told


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(service: Service) -> None:
    body = json.dumps({"model": "wiki", "texts": ["the king"] * 1000}).encode()
    headers = {"content-type": "application/json"}

    async def pieces() -> Any:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    for content in (body, pieces()):
        found = ask(service, "POST", "/embed", content=content, headers=headers)
        assert found.status_code == 413
        assert (
            error_of(found)["message"] == "the body is larger than 5,000 bytes: send less at once"
        )


def test_what_is_no_json_or_has_no_address_is_refused(service: Service) -> None:
    found = ask(service, "POST", "/embed", content=b"{}", headers={"content-type": "text/plain"})
    assert (found.status_code, error_of(found)["type"]) == (415, "no_json")
    found = ask(service, "GET", "/nowhere")
    assert (found.status_code, error_of(found)["type"]) == (404, "not_found")
    found = ask(service, "GET", "/embed")
    assert (found.status_code, error_of(found)["type"]) == (405, "method")
    assert found.headers["allow"] == "POST"


def test_a_server_that_starts_or_drains_says_so(service: Service) -> None:
    body = {"model": "wiki", "texts": "a"}
    starting = Service(service.names)
    for path in ("/ready", "/v1/models"):
        found = ask(starting, "GET", path)
        assert (found.status_code, error_of(found)["type"]) == (503, "starting")
        assert found.headers["retry-after"] == "1"
    assert ask(starting, "GET", "/health").status_code == 200
    assert ask(service, "GET", "/ready").status_code == 200
    service.is_draining = True
    found = post(service, "/embed", body)
    assert (found.status_code, error_of(found)["type"]) == (503, "draining")
    assert ask(service, "GET", "/health").status_code == 200


def test_a_key_is_asked_for_where_the_server_has_one(service: Service) -> None:
    service.api_key = "secret"
    body = {"model": "wiki", "texts": "a"}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer sécret"}):
        raw = {name: value.encode("utf-8") for name, value in headers.items()}
        found = post(service, "/embed", body, headers=raw)
        assert (found.status_code, error_of(found)["type"]) == (401, "no_key")
    headers = {"authorization": "Bearer secret"}
    assert post(service, "/embed", body, headers=headers).status_code == 200
    assert ask(service, "GET", "/metrics").status_code == 401
    assert [ask(service, "GET", path).status_code for path in ("/", "/ready", "/health")] == [
        200, 200, 200
    ]  # fmt: skip


class Slow:
    """Embedding that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.num_asked = threading.Event(), 0
        real = Embed.compute

        def compute(model: Any, asked: Any) -> Any:
            self.num_asked += len(asked)
            assert self.go.wait(30)
            return real(model, asked)

        monkeypatch.setattr(Embed, "compute", compute)


def test_a_full_queue_and_a_deadline_are_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, run = Slow(monkeypatch), wiki(service)
    config = EngineConfig(num_workers=1, max_batch_tokens=3, max_queue_tokens=3)
    with Engine({"wiki": run}, config) as engine:
        hasty = Service(("wiki",), engine=engine, limits=Limits(timeout_s=0.2))
        late = post(hasty, "/embed", {"texts": "a"})
        full = post(hasty, "/embed", {"texts": "a"})
        slow.go.set()
    assert (late.status_code, error_of(late)["type"]) == (504, "deadline")
    assert (full.status_code, error_of(full)["type"]) == (429, "busy")
    assert int(full.headers["retry-after"]) >= 1


def test_the_work_of_a_client_that_is_gone_leaves_the_queue(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, engine = Slow(monkeypatch), service.engine
    assert engine is not None
    with listening(service) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"model": "wiki", "texts": "a"}).encode()
        head = f"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" \
               f"content-length: {len(body)}\r\n\r\n"  # fmt: skip
        clients = [socket.create_connection((host, int(port))) for _ in range(4)]
        for client in clients[:1]:
            client.sendall(head.encode() + body)
        wait_until(lambda: slow.num_asked == 1)
        for client in clients[1:]:
            client.sendall(head.encode() + body)
        wait_until(lambda: engine.num_waiting == 3)
        for client in clients[1:]:
            client.close()
        wait_until(lambda: engine.num_waiting == 0)
        slow.go.set()
        assert clients[0].recv(12) == b"HTTP/1.1 200"
        clients[0].close()
    assert slow.num_asked == 1
    assert 'kind="gone"} 3' in service.metrics.text({})


def test_a_body_that_does_not_come_is_given_up(service: Service) -> None:
    with listening(service) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n"
                           b"content-type: application/json\r\n\r\n{")  # fmt: skip
            client.settimeout(20)
            assert client.recv(12) == b"HTTP/1.1 408"


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- What is seen


def test_metrics_count_what_was_answered(service: Service) -> None:
    post(service, "/embed", {"model": "wiki", "texts": ["a", "the"]})
    post(service, "/embed", {"model": "wiki"})
    text = ask(service, "GET", "/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['lmmodel_requests_total{route="/embed",status="200"}'] == "1"
    assert lines['lmmodel_requests_total{route="/embed",status="422"}'] == "1"
    assert lines['lmmodel_errors_total{kind="invalid"}'] == "1"
    assert lines['lmmodel_request_seconds_count{route="/embed"}'] == "2"
    assert lines['lmmodel_batch_tokens_sum{verb="embed"}'] == "6.000000"
    assert lines["lmmodel_queue_tokens"] == "0"
    assert lines["lmmodel_ready"] == "1"


def test_the_page_asks_nobody_else(service: Service) -> None:
    found = ask(service, "GET", "/")
    assert found.headers["content-security-policy"].startswith("default-src 'none'")
    for word in ("http://", "https://", "//cdn", "@import", "src=", "innerHTML"):
        assert word not in found.text
    for path in ("/similarity", "/v1/models"):
        assert path in found.text
