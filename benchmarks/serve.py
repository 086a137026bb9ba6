"""lmmodel serve on this machine's loopback: queries, latencies, overload; against a plain server.

A BERT of 4 x 256 with weights that nobody trained, queries of 32 tokens. The other server is what
one writes with sentence-transformers and FastAPI on the exported model; `embed` on a list is the
offline rate. Clients are in this process, on the same cores as the servers. A virtual machine may
stand still for a tenth of a second, so products of one size, alone on all cores, are timed too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import DATA, print_table, write_result

NUM_CLIENTS = 64
NUM_WORDS = 30  # and two special tokens
NUM_TOGETHER = 16  # texts of a request where several are sent
NUM_LOADS = 3  # whose median counts, at half load

PEER = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer

body = Transformer(sys.argv[1])
pooling = Pooling(body.get_word_embedding_dimension(), "mean")
model = SentenceTransformer(modules=[body, pooling], device="cpu")

class Asked(BaseModel):
    texts: list[str]

app = FastAPI()

@app.get("/ready")
def ready():
    return {}

@app.post("/embed")
def embed(asked: Asked):
    vectors = model.encode(asked.texts, normalize_embeddings=True, show_progress_bar=False)
    return {"vectors": vectors.tolist()}

uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


PRODUCTS = """
import sys, time, torch
torch.set_num_threads(1)
pack, product = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
weight, x = pack(torch.randn(1024, 256), 64), torch.randn(32, 256)
end, seconds = time.perf_counter() + float(sys.argv[1]), []
while (start := time.perf_counter()) < end:
    for _ in range(32):
        product(x, weight, None, "none", [], "")
    seconds.append(time.perf_counter() - start)
print(*seconds)
"""


def main(arguments: list[str]) -> None:
    """Measure both servers, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--no-peer", action="store_true", help="leave the plain server out")
    parser.add_argument("--num-starts", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = make_model(folder / "mini", folder / "exported")
        machine = measure_machine(options.seconds)
        offline = measure_offline(folder / "mini", texts)
        ours = measure_ours(folder / "mini", texts, options)
        peer = {} if options.no_peer else measure_peer(folder / "exported", texts, options)
    rows = table_of(machine, offline, ours, peer)
    print_table(rows)
    write_result("serve", {"rows": rows, "machine": machine, "offline": offline, "ours": ours,
                           "peer": peer})  # fmt: skip


def measure_machine(seconds: float) -> dict[str, float]:
    """Return how long one and the same work takes on all cores at once, in ms."""
    command = [sys.executable, "-c", PRODUCTS, str(seconds)]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(os.cpu_count() or 1)
    ]
    found = [float(own) for worker in workers for own in worker.communicate()[0].split()]
    p50, p99, most = (1000 * float(q) for q in np.quantile(found, [0.5, 0.99, 1.0]))
    return {"p50_ms": round(p50, 2), "p99_ms": round(p99, 2), "longest_ms": round(most, 2)}


def table_of(
    machine: dict[str, float], offline: dict[str, float], ours: dict[str, Any], peer: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row for each line of the issue's table."""
    half, twice = ours["half"], ours["twice"]
    share = ours["many"]["texts_per_s"] / offline["texts_per_s"]
    rows = [
        {"what": "embeddings/s, 64 clients", "found": ours["one"]["texts_per_s"],
         "must": "300", "goal": "600"},
        {"what": f"% of offline, {NUM_TOGETHER} texts a request", "found": 100 * share,
         "must": "70", "goal": "85"},
        # What a busy machine distorts least.
        {"what": "the same by processor time",
         "found": 100 * offline["cpu_ms_per_text"] / ours["many"]["cpu_ms_per_text"],
         "must": "70", "goal": "85"},
        {"what": "p50 ms at half load", "found": half["p50_ms"], "must": "15", "goal": "8"},
        {"what": "p99 ms at half load", "found": half["p99_ms"], "must": "60", "goal": "30"},
        {"what": "of the machine: longest of products that usually take 1",
         "found": machine["longest_ms"] / machine["p50_ms"], "must": "", "goal": ""},
        {"what": "statuses at twice the load", "found": str(twice["statuses"]),
         "must": "200, 429", "goal": ""},
        {"what": "p99 ms of the accepted", "found": twice["p99_ms"], "must": "", "goal": ""},
        {"what": "start to ready, s", "found": ours["start_s"], "must": "3", "goal": "1.5"},
    ]  # fmt: skip
    if peer:
        ratio = ours["one"]["texts_per_s"] / peer["one"]["texts_per_s"]
        rows.append({"what": "times sentence-transformers behind FastAPI", "found": ratio,
                     "must": "1.5", "goal": "3"})  # fmt: skip
        ratio = peer["one"]["cpu_ms_per_text"] / ours["one"]["cpu_ms_per_text"]
        rows.append({"what": "the same by processor time", "found": ratio, "must": "1.5",
                     "goal": "3"})  # fmt: skip
    return rows


# ---- The model, and what it does offline


def make_model(folder: Path, exported: Path) -> list[str]:
    """Write a run with fresh weights and its export; return queries of 32 tokens."""
    from lmdata.tokenizer import load_tokenizer
    from lmmodel.config import load_train_config
    from lmmodel.handover.stock import export_model
    from lmmodel.model import make_model as fresh
    from lmmodel.saving.checkpoint import save_tensors
    from lmmodel.saving.run import WEIGHTS_NAME, RunRecord, create_run
    from lmmodel.trained import load_run

    tokenizer = load_tokenizer(DATA / "vocab" / "bert-base-uncased")
    settings = ["model.size=mini", f"model.vocab_size={tokenizer.vocab_size}", "device=cpu"]
    config = load_train_config(None, settings)
    record = RunRecord(
        config=config, num_steps=0, data_path="", data_hash="", tokenizer_hash=tokenizer.hash,
        environment={},
    )  # fmt: skip
    create_run(folder, record, tokenizer, overwrite=False)
    weights = dict(fresh(config.model, seed=0).named_parameters())
    save_tensors(folder / WEIGHTS_NAME, weights)
    export_model(load_run(folder, "cpu").model, tokenizer, exported)
    pieces = sorted(piece for piece in tokenizer.backend.get_vocab() if piece.isascii())
    words = [piece for piece in pieces if piece.isalpha() and len(piece) > 2]
    draw = random.Random(0)
    return [" ".join(draw.choices(words, k=NUM_WORDS)) for _ in range(2048)]


def measure_offline(folder: Path, texts: list[str]) -> dict[str, float]:
    """Return how fast `embed` is on a list, the best of three."""
    from lmmodel.predicting.likelihood import embed
    from lmmodel.trained import load_run

    run = load_run(folder, "cpu")
    embed(run, texts[:64])
    seconds, cpu_s = [], time.process_time()
    for _ in range(3):
        start = time.perf_counter()
        embed(run, texts)
        seconds.append(time.perf_counter() - start)
    cpu_ms = 1000 * (time.process_time() - cpu_s) / (3 * len(texts))
    rate = len(texts) / min(seconds)
    return {"texts_per_s": round(rate, 1), "tokens_per_s": round(rate * (NUM_WORDS + 2)),
            "cpu_ms_per_text": round(cpu_ms, 3)}  # fmt: skip


# ---- Servers


@dataclass
class Started:
    """A server process at a port of this machine."""

    process: subprocess.Popen[bytes]
    port: int
    start_s: float

    def cpu_s(self) -> float:
        """Return the processor seconds that it has used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load(self, contents: list[bytes], seconds: float, num_texts: int = 1) -> dict[str, Any]:
        """Return what 64 clients get, and the processor time that a text costs."""
        before = self.cpu_s()
        load = asyncio.run(closed_loop(self.port, contents, seconds))
        texts = num_texts * max(1, len(load.latencies_s))
        cpu_ms = 1000 * (self.cpu_s() - before) / texts
        return {**load.summary(num_texts), "cpu_ms_per_text": round(cpu_ms, 3)}

    def end(self) -> int:
        """Return its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start_server(command: list[str], port: int) -> Started:
    """Start a process and return when its `/ready` says so."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while time.perf_counter() - start < 120:
        assert process.poll() is None, command
        try:
            if asyncio.run(ask_once(port, b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")) == 200:
                return Started(process, port, time.perf_counter() - start)
        except OSError:
            pass  # nobody listens yet
        time.sleep(0.01)
    process.kill()
    raise SystemExit(f"{command} did not get ready")


def measure_ours(folder: Path, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return what `lmmodel serve` bears."""
    code = "from lmcli.lmmodel import main; main(prog_name='lmmodel')"
    port = free_port()
    command = [sys.executable, "-c", code, "serve", str(folder), "--port", str(port)]
    starts = []
    for _ in range(options.num_starts):
        server = start_server(command, port)
        starts.append(server.start_s)
        if len(starts) < options.num_starts:
            assert server.end() == 0
    one = [request("/embed", {"texts": text}) for text in texts]
    many = [
        request("/v1/embeddings", {
            "model": "mini", "encoding_format": "base64", "input": texts[at : at + NUM_TOGETHER],
        })
        for at in range(0, len(texts), NUM_TOGETHER)
    ]  # fmt: skip
    seconds = options.seconds
    asyncio.run(closed_loop(port, one, 1.0))
    found: dict[str, Any] = {"one": server.load(one, seconds)}
    rate = found["one"]["texts_per_s"]
    found |= {
        "many": server.load(many, seconds, NUM_TOGETHER),
        "half": median_of(
            [
                asyncio.run(open_loop(port, one, seconds, rate / 2)).summary()
                for _ in range(NUM_LOADS)
            ]
        ),
        "twice": asyncio.run(open_loop(port, one, seconds, rate * 2)).summary(),
        "start_s": round(statistics.median(starts), 2),
        "starts_s": [round(own, 2) for own in starts],
    }
    assert server.end() == 0
    return found


def median_of(loads: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each quantile, and what they are the medians of.

    Example:
        >>> median_of([{"p50_ms": own, "p99_ms": 9.0} for own in (3.0, 1.0, 2.0)])["p50_ms"]
        2.0
    """
    medians = {name: statistics.median(own[name] for own in loads) for name in ("p50_ms", "p99_ms")}
    return {**medians, "loads": loads}


def measure_peer(folder: Path, texts: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return what the plain server bears."""
    port = free_port()
    server = start_server([sys.executable, "-c", PEER, str(folder), str(port)], port)
    try:
        contents = [request("/embed", {"texts": [text]}) for text in texts]
        asyncio.run(closed_loop(port, contents, 1.0))
        return {"one": server.load(contents, options.seconds), "start_s": round(server.start_s, 2)}
    finally:
        server.end()


def free_port() -> int:
    """Return a port that nobody has just now."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# ---- Clients


@dataclass
class Load:
    """What clients got."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)  # of answers with status 200
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, status: int, latency_s: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies_s.append(latency_s)

    def summary(self, texts_per_request: int = 1) -> dict[str, Any]:
        """Return rates and quantiles.

        Example:
            >>> load = Load(seconds=2.0)
            >>> load.note(200, 0.5)
            >>> load.summary()["texts_per_s"], load.summary()["p99_ms"]
            (0.5, 500.0)
        """
        p50, p99 = np.quantile(self.latencies_s, [0.5, 0.99]) * 1000
        return {
            "texts_per_s": round(len(self.latencies_s) * texts_per_request / self.seconds, 1),
            "p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
        }  # fmt: skip


def request(path: str, body: Any) -> bytes:
    """Return a request as it is sent.

    Example:
        >>> request("/embed", {}).splitlines()[0]
        b'POST /embed HTTP/1.1'
    """
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n" \
           f"content-length: {len(content)}\r\n\r\n"  # fmt: skip
    return head.encode() + content


class Connection:
    """One connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: bytes) -> int:
        """Return the status of the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**22)
        reader, writer = self._streams
        writer.write(content)
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(found[1]) if found else 0)
        return int(head[9:12])

    def close(self) -> None:
        """Close it."""
        if self._streams is not None:
            self._streams[1].close()


async def ask_once(port: int, content: bytes) -> int:
    """Return the status of one request."""
    connection = Connection(port)
    try:
        return await connection.ask(content)
    finally:
        connection.close()


async def closed_loop(port: int, contents: list[bytes], seconds: float) -> Load:
    """Return what 64 clients get who ask again as soon as they are answered."""
    load, start = Load(), time.perf_counter()

    async def client(number: int) -> None:
        connection = Connection(port)
        while (begin := time.perf_counter()) < start + seconds:
            number = (number + NUM_CLIENTS) % len(contents)
            load.note(await connection.ask(contents[number]), time.perf_counter() - begin)
        connection.close()

    await asyncio.gather(*map(client, range(NUM_CLIENTS)))
    load.seconds = time.perf_counter() - start
    return load


async def open_loop(port: int, contents: list[bytes], seconds: float, rate: float) -> Load:
    """Return what clients get who come at a rate, whether others were answered or not."""
    load, start, idle = Load(), time.perf_counter(), list[Connection]()

    async def once(number: int, due: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        status = await connection.ask(contents[number % len(contents)])
        load.note(status, time.perf_counter() - due)
        idle.append(connection)

    tasks = []
    for number in range(int(seconds * rate)):
        due = start + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(once(number, due)))
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - start
    for connection in idle:
        connection.close()
    return load
