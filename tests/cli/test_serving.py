"""`lmmodel serve` as a real process: signals, many clients, hostile ones, memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Road, invoke

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("orjson", reason="the extra [serve] is not installed")

ROOT = Path(__file__).parents[2]
COMMAND = "from lmcli.lmmodel import main; main(prog_name='lmmodel')"
Start = Callable[..., "Server"]


class Server:
    """A process that serves at a free port of this machine."""

    def __init__(self, log: Path, *arguments: str | Path, **environment: str) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "serve", *map(str, arguments), "--port", "0",
                 "--device", "cpu"], cwd=ROOT, stdout=file, stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )  # fmt: skip
        found = self.wait_for(r"ready at http://127\.0\.0\.1:(\d+) ")
        self.port = int(found[1])

    def wait_for(self, pattern: str) -> re.Match[str]:
        end = time.monotonic() + 120
        while not (found := re.search(pattern, self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return found

    def num_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start(*arguments: str | Path, **environment: str) -> Server:
        started.append(Server(tmp_path / f"log-{len(started)}", *arguments, **environment))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(30)


def request(path: str, body: Any, *, close: bool = True) -> bytes:
    content = json.dumps(body).encode()
    end = "connection: close\r\n" if close else ""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{end}content-type: application/json\r\n" \
           f"content-length: {len(content)}\r\n\r\n"  # fmt: skip
    return head.encode() + content


async def ask(port: int, content: bytes) -> tuple[int, bytes]:
    """Return the status and body of the answer to one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), body


def ask_all(port: int, contents: list[bytes]) -> list[tuple[int, bytes]]:
    async def gather() -> list[tuple[int, bytes]]:
        return list(await asyncio.gather(*(ask(port, content) for content in contents)))

    return asyncio.run(gather())


EMBED = request("/embed", {"texts": "The river finds a stone."})


def test_a_signal_finishes_what_was_taken_and_a_thousand_clients_are_answered(
    road: Road, start: Start
) -> None:
    server = start(road.run)

    async def load() -> list[tuple[int, bytes]]:
        answers = [asyncio.ensure_future(ask(server.port, EMBED)) for _ in range(1000)]
        while sum(answer.done() for answer in answers) < 100:
            await asyncio.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        found = await asyncio.gather(*answers, return_exceptions=True)
        return [one for one in found if not isinstance(one, BaseException)]

    found = asyncio.run(load())
    assert server.process.wait(60) == 0
    statuses = [status for status, _ in found]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 100
    assert len({body for status, body in found if status == 200}) == 1
    assert "finishing " in server.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_signal_is_heard_however_many_answers_wait_for_the_loop() -> None:
    from lmmodel.serving.app import Service
    from lmmodel.serving.server import ServeConfig, _Server

    service, said = Service(("m",)), list[str]()
    server = _Server(service, {}, ServeConfig(drain_s=0), said.append, "")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def be_busy() -> None:
        loop, told = asyncio.get_running_loop(), list[int]()
        for number in range(5000):  # more than the pipe that wakes the loop holds
            loop.call_soon_threadsafe(told.append, number)
        with server.capture_signals():
            signal.raise_signal(signal.SIGTERM)
            while not server.should_exit:
                await asyncio.sleep(0.01)
        assert len(told) == 5000

    asyncio.run(asyncio.wait_for(be_busy(), 60))
    assert service.is_draining
    assert said[0].startswith("finishing 0 requests")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_thousand_clients_at_once_with_the_key_all_get_the_same_answer(
    road: Road, start: Start
) -> None:
    server = start(road.run, LMMODEL_API_KEY="secret")
    with_key = EMBED.replace(b"host: x\r\n", b"host: x\r\nauthorization: Bearer secret\r\n")
    without, *found = ask_all(server.port, [EMBED, *[with_key] * 1000])
    assert without[0] == 401
    assert {status for status, _ in found} == {200}
    assert len({body for _, body in found}) == 1


def test_a_second_signal_ends_it_at_once(road: Road, start: Start) -> None:
    server = start(road.run, "--set", "limits.read_timeout_s=60", "--set", "limits.timeout_s=60")
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(EMBED[:-5])  # a request whose body never comes
        end = time.monotonic() + 20
        while b"lmmodel_active_requests 2" not in ask_all(
            server.port, [b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"]
        )[0][1]:  # fmt: skip
            assert time.monotonic() < end
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("finishing 1 requests")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == -signal.SIGTERM


def test_hostile_clients_disturb_nobody(road: Road, start: Start) -> None:
    server = start(
        road.run, "--set", "limits.read_timeout_s=1", "--set", "limits.max_body_bytes=10000"
    )
    before = server.num_descriptors()
    connect = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    for number, client in enumerate(connect):
        kind = number % 6
        if kind == 0:  # says nothing
            continue
        if kind == 1:  # dribbles its headers
            client.sendall(b"POST /embed HT")
        elif kind == 2:  # dribbles its body
            client.sendall(EMBED[:-5])
        elif kind == 3:  # goes away before the answer
            client.sendall(EMBED)
            client.close()
        elif kind == 4:  # no HTTP at all
            client.sendall(b"\x16\x03\x01\x02\x00" * 50)
        else:  # broken, deep, and too large
            client.sendall(request("/embed", "x" * 20_000))
    deep = b'{"texts": ' * 900
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" \
           b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"  # fmt: skip
    found = ask_all(server.port, [head % len(deep) + deep, EMBED, EMBED])
    assert [status for status, _ in found] == [422, 200, 200]
    end = time.monotonic() + 30
    while server.num_descriptors() > before and time.monotonic() < end:
        time.sleep(0.1)
    assert server.num_descriptors() <= before
    for client in connect:
        client.close()
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_memory_and_descriptors_stay_over_100_000_requests(road: Road, start: Start) -> None:
    server = start(road.run)
    texts = ["The river finds a stone.", "A bird.", "The teacher follows a road. " * 4]
    contents = [request("/embed", {"texts": text}, close=False) for text in texts]

    async def client(num: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for number in range(num):
            writer.write(contents[number % len(contents)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
            await reader.readexactly(length)
        writer.close()

    async def load(num: int) -> None:
        await asyncio.gather(*(client(num // 50) for _ in range(50)))

    asyncio.run(load(10_000))
    memory, descriptors = server.memory_bytes(), server.num_descriptors()
    asyncio.run(load(100_000))
    time.sleep(1)
    print(f"memory {memory:,} -> {server.memory_bytes():,}, descriptors {descriptors}")  # noqa: T201
    assert abs(server.memory_bytes() / memory - 1) < 0.05
    assert server.num_descriptors() <= descriptors


# ---- What is wrong is one line


def test_what_can_not_be_served_is_one_line(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = str(listener.getsockname()[1])
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_bytes((road.run / "config.json").read_bytes())
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((tmp_path / "none",), "none"),
        ((road.tokens,), "tokens"),
        ((half, "--port", "0"), "has no model.safetensors yet: train it to its first checkpoint"),
        ((road.run, road.run), "are both called 'run': give one as NAME="),
        ((road.run, "--port", port), f"can't listen at 127.0.0.1:{port}: Address already in use; "
         "another program listens there: choose another --port (0: any that is free)"),
        ((road.run, "--port", "99999"), "port must be in [0, 65535], got 99999"),
        ((road.run, "--host", "192.0.2.1"), "can't listen at 192.0.2.1:8000"),
        ((road.run, "--set", "limits.timeout_s=0"), "timeout_s must be above 0, got 0"),
        ((road.run, "--set", "engine.max_queue_tokens=5"), "max_queue_tokens must be at least"),
    ]  # fmt: skip
    with listener:
        for arguments, message in cases:
            result = invoke("lmmodel", "serve", *arguments)
            assert result.exit_code == 1, result.output
            lines = result.stderr.strip().splitlines()
            assert len(lines) == 1, lines
            assert message in lines[0], lines
    monkeypatch.setenv("LMMODEL_API_KEY", "")
    result = invoke("lmmodel", "serve", road.run)
    assert "LMMODEL_API_KEY is empty: set it to a key, or unset it" in result.stderr


def test_a_missing_extra_is_one_line(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("lmmodel.serving")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = invoke("lmmodel", "serve", road.run)
    assert result.exit_code == 1
    message = "lmmodel serve needs uvicorn: pip install 'lmdata-lmmodel[serve]'"
    assert message in result.stderr
