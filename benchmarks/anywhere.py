"""What remote data, an engine and other people's formats cost, against the same work here.

`s3`: tokenize from and to a real S3 server on loopback (moto) against the local disk. `ray`: the
engine against the built-in one on the same cores. `export`: ids a second to each format. `final`:
the final step over as many units as 10 TB have.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import DATA, print_table, timed, write_result
from benchmarks.tokenize import NUM_CORES, run_command, text_bytes, tokenize_command
from lmdata.building.assembly import Totals
from lmdata.building.plan import DEFAULT_UNIT_BYTES, Unit, UnitReceipt, make_units
from lmdata.building.receipts import Packed, find_receipts
from lmdata.dataset import open_stores
from lmdata.encoding import RoundTrip
from lmdata.exporting.export import FORMATS, export_store
from lmdata.reading.sources import Source
from lmdata.schema import (
    FORMAT_VERSION,
    BlockRecord,
    Manifest,
    ShardRecord,
    TokenizerIdentity,
    manifest_json,
    to_json,
)
from lmdata.settings import DEFAULT_SHARD_BYTES, CorpusConfig

PARTS = ("s3", "ray", "export", "final")
KEY = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
       "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}  # fmt: skip
TEN_TB = 10**13
BLOCKS_OF_SHARD, BUFFERS_OF_BLOCK = 32, 6  # of a token store


def main(arguments: list[str]) -> None:
    """Measure what is asked for, print the table and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks anywhere", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--files", type=int, default=8, help="Wikipedia files to use, of 8")
    parser.add_argument("--copies", type=int, default=1, help="of the files, for ray and export")
    parser.add_argument("--num-runs", type=int, default=3)
    parser.add_argument("--num-sources", type=int, default=20_000, help="files of the 10 TB")
    options = parser.parse_args(arguments)
    files = sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))[: options.files]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for part in options.only or PARTS:
            rows += MEASURES[part](files, Path(name), options)
    print_table(rows)
    write_result("-".join(["anywhere", *(options.only or [])]), {"rows": rows})


def interleaved(commands: dict[str, Any], num_bytes: int, num_runs: int) -> list[dict[str, Any]]:
    """Time commands in turn; the first of them is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for run in range(num_runs + 1):
        for name, make in commands.items():
            elapsed_s, *_ = run_command(make())
            if run:  # the first run may compile kernels and fill the page cache
                seconds[name].append(elapsed_s)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    return [
        {"what": name, "mb_per_s": num_bytes / 1e6 / median, "of_local": first / median,
         "seconds": [round(value, 2) for value in seconds[name]]}
        for name, median in medians.items()
    ]  # fmt: skip


# ---- S3 against the local disk


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 on loopback in a process of its own, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def measure_s3(
    files: Sequence[Path], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokenize the same files from S3 and from the disk, in turn."""
    import obstore
    from obstore.store import S3Store

    num_bytes = sum(map(text_bytes, files))
    vocabulary = DATA / "vocab" / "bert-base-uncased"
    with s3_server() as address:
        os.environ |= {**KEY, "AWS_ENDPOINT_URL": address}
        subprocess.run(["curl", "-s", "-X", "PUT", f"{address}/corpus"], check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        store = S3Store("corpus")
        for file in files:
            obstore.put(store, f"wiki/{file.name}", file)
        remote, number = "s3://corpus/wiki", iter(range(10**6))
        return interleaved(
            {
                "tokenize, disk to disk": lambda: tokenize_command(
                    files, vocabulary, folder / "tokens"
                ),
                "tokenize, S3 to disk": lambda: with_inputs(
                    tokenize_command(files, vocabulary, folder / "tokens"), files, [remote]
                ),
                "tokenize, S3 to S3": lambda: with_output(
                    with_inputs(tokenize_command(files, vocabulary, folder / "t"), files, [remote]),
                    f"s3://corpus/tokens-{next(number)}",
                ),
            },
            num_bytes, options.num_runs,
        )  # fmt: skip


def with_inputs(command: list[str], files: Sequence[Path], inputs: Sequence[str]) -> list[str]:
    """Return the command with other inputs."""
    return [*command[:2], *inputs, *command[2 + len(files) :]]


def with_output(command: list[str], output: str) -> list[str]:
    """Return the command with another output."""
    place = command.index("--output") + 1
    return [*command[:place], output, *command[place + 1 :]]


# ---- Ray against the engine of this machine


def measure_ray(
    files: Sequence[Path], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Tokenize several copies of the files by both engines, in turn, on the same cores."""
    corpus = copied(files, folder / "corpus", options.copies)
    num_bytes = options.copies * sum(map(text_bytes, files))
    vocabulary = DATA / "vocab" / "bert-base-uncased"

    def command(*more: str) -> list[str]:
        return [*tokenize_command([corpus], vocabulary, folder / "tokens"), *more]

    with ray_cluster() as address:
        return interleaved(
            {f"tokenize, local, {NUM_CORES} workers": command,
             "tokenize, a Ray cluster that runs":
                 lambda: command("--engine", "ray", "--address", address),
             "tokenize, a Ray cluster begun and ended": lambda: command("--engine", "ray")},
            num_bytes, options.num_runs,
        )  # fmt: skip


@contextmanager
def ray_cluster() -> Iterator[str]:
    """Begin a Ray cluster of this machine's cores, and yield its address."""
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_worker_niceness": "0"}  # else 15
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": NUM_CORES})
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def copied(files: Sequence[Path], folder: Path, num_copies: int) -> Path:
    """Return a folder in which the files stand so many times."""
    for copy in range(num_copies):
        (folder / str(copy)).mkdir(parents=True)
        for file in files:
            (folder / str(copy) / file.name).symlink_to(file.resolve())
    return folder


# ---- Exports


def measure_export(
    files: Sequence[Path], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Write a store of the files in each format; megabytes of ids a second."""
    tokens = folder / "store"
    corpus = copied(files, folder / "exported-corpus", options.copies)
    run_command(tokenize_command([corpus], DATA / "vocab" / "bert-base-uncased", tokens))
    stores = open_stores(tokens)
    id_bytes = sum(
        store.num_tokens * store.blocks[0].unchecked_ids.itemsize for store in stores.values()
    )
    rows = []
    for name in FORMATS:
        output = folder / "export"
        seconds = timed(
            lambda name=name, output=output: export_store(tokens, output, name, overwrite=True),
            options.num_runs,
        )
        shutil.rmtree(output)
        rate = id_bytes / 1e6 / statistics.median(seconds)
        times = [round(value, 2) for value in seconds]
        rows.append({"what": f"export, {name}", "mb_per_s": rate, "of_local": None,
                     "seconds": times})  # fmt: skip
    return rows


# ---- The final step of 10 TB


class Receipts:
    """As much of a place as `find_receipts` asks: receipts of many units, all parts there."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = units
        self._texts = [to_json(_receipt(0, "SOURCE", is_first=first)) for first in (False, True)]

    def read(self, name: str) -> bytes | None:
        """Return the receipt of a unit."""
        unit = self._units[int(name.removeprefix(".build/unit-").removesuffix(".json"))]
        text = self._texts[unit.extents[0].start == 0].replace(
            "SOURCE", str(unit.extents[0].source)
        )
        return text.replace("000000", f"{unit.number:06d}", 2).encode()

    def holds(self, name: str, size_bytes: int, xxh3: str) -> bool:
        """Whether a part is there: its bytes are what `finish` is measured with."""
        return True


def measure_final(
    files: Sequence[Path], folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """End a real build that is done, then all of the end of 10 TB but the rows themselves."""
    return [*_end_a_build(files, folder), *_end_ten_tb(options.num_sources)]


def _end_a_build(files: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Do a build in one part, and time what puts it together: every byte of the ids passes here."""
    output = folder / "parts"
    command = tokenize_command(files, DATA / "vocab" / "bert-base-uncased", output)
    run_command([*[word for word in command if word != "--overwrite"], "--part", "1/1"])
    num_bytes = sum(path.stat().st_size for path in output.glob(".build/*.part"))
    elapsed_s, *_ = run_command([command[0], "finish", str(output)])
    return [{"what": "finish, parts of the files", "mb_per_s": num_bytes / 1e6 / elapsed_s,
             "of_local": None, "seconds": [round(elapsed_s, 2)]}]  # fmt: skip


def _end_ten_tb(num_sources: int) -> list[dict[str, Any]]:
    size = TEN_TB // num_sources
    sources = [
        Source(name=f"{n:06d}.jsonl", path=Path(f"/c/{n:06d}.jsonl"), format="jsonl",
               size_bytes=size, version=n)
        for n in range(num_sources)
    ]  # fmt: skip
    steps: list[
        tuple[str, float, int]
    ] = []  # what, seconds of a processor, MiB in use at most so far
    before, start = _peak_bytes(), time.process_time()

    def note(what: str) -> None:
        elapsed_s = time.process_time() - start - sum(step[1] for step in steps)
        steps.append((what, elapsed_s, (_peak_bytes() - before) >> 20))

    units = make_units(sources, CorpusConfig(), DEFAULT_UNIT_BYTES)
    note(f"plan of {len(units):,} units")
    place: Any = Receipts(units)
    done = Packed[UnitReceipt]()
    for number, (receipt, _) in enumerate(find_receipts(place, len(units), UnitReceipt)):
        done[number] = receipt
    note("receipts read")
    totals = Totals(num_sources)
    for number in range(len(units)):
        totals.add(done.pop(number))
    note("receipts summed")
    shards = [_shard(n) for n in range(TEN_TB * 42 // 100 // DEFAULT_SHARD_BYTES)]
    text = manifest_json(Manifest(
        kind="tokens", format_version=FORMAT_VERSION, created_with="lmdata", configuration={},
        tokenizer=TokenizerIdentity(hash="0" * 32, vocab_size=30522, kind="WordPiece"),
        sources=totals.sources(sources), splits={"train": tuple(shards)},
        ledger=totals.ledger({"train": shards}),
    ))  # fmt: skip
    note(f"manifest of {len(shards):,} shards, {len(text) / 1e6:.0f} MB")
    return [
        {"what": f"end of 10 TB: {what}; memory at most {peak:,} MiB more", "mb_per_s": None,
         "of_local": None, "seconds": [round(elapsed_s, 2)]}
        for what, elapsed_s, peak in steps
    ]  # fmt: skip


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _hashes(seed: int) -> tuple[str, ...]:
    return tuple(f"{seed + n:032x}" for n in range(BUFFERS_OF_BLOCK))


def _shard(number: int) -> ShardRecord:
    """Return a shard of 256 MB as writers describe it."""
    edges = np.linspace(1000, DEFAULT_SHARD_BYTES - 1000, BLOCKS_OF_SHARD + 1).astype(int).tolist()
    blocks = tuple(
        BlockRecord(start=start, stop=stop, xxh3=_hashes(start)) for start, stop in pairwise(edges)
    )
    return ShardRecord(
        file=f"train-{number:05d}.arrow", rows=150_000, tokens=120_000_000,
        bytes=DEFAULT_SHARD_BYTES, xxh3=f"{number:032x}", blocks=blocks, frame=f"{number:032x}",
    )  # fmt: skip


def _receipt(number: int, source: str, *, is_first: bool) -> UnitReceipt:
    """Return a receipt as units of plain English leave them."""
    part = ShardRecord(file=f"unit-{number:06d}-train_0123abcd.part", rows=9000, tokens=7_000_000,
                       bytes=15_000_000, xxh3=f"{number:032x}")  # fmt: skip
    held_out = dataclasses.replace(part, file=f"unit-{number:06d}-validation_0123abcd.part")
    return UnitReceipt(
        number=number, encoder="words: cut at white space", parts={"train": part,
        "validation": held_out}, written_bytes={"train": 33_000_000, "validation": 300_000},
        read={"documents": 9100, "bytes": 33_500_000, "tokens": 7_100_000},
        dropped={"empty": 10}, dropped_bytes={"empty": 0}, records={source: 9100},
        documents={source: 9090}, tokens={source: 7_100_000},
        hashes={source: f"{number:032x}"} if is_first else {}, checked_documents=4,
        sampled_bytes=65_000, round_trip=RoundTrip(),
    )  # fmt: skip


MEASURES = {"s3": measure_s3, "ray": measure_ray, "export": measure_export, "final": measure_final}
