"""`lmdata tokenize` against what people run today, from the same files, in the same run.

Ours is the whole command in a fresh process: start-up, reading, sentence boundaries, encoding,
splits, hashes, writing, the check by re-encoding. The peers' figures leave most of that out. On a
machine with other work, the processor time of all processes, once per byte of text, compares.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.measure import DATA, cpu_seconds, environment, print_table, summary, write_result

NUM_CORES = 2


def main(arguments: list[str]) -> None:
    """Run the comparison that the options ask for and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tokenize", description=__doc__)
    parser.add_argument("--model", choices=["wordpiece", "bpe"], default="wordpiece")
    parser.add_argument("--tokenizer", type=Path, help="any other, instead of that of --model")
    parser.add_argument("--num-runs", type=int, default=3, help="runs of our command")
    parser.add_argument("--peer-megabytes", type=float,
                        help="text for the peers, where they are slow")  # fmt: skip
    parser.add_argument("--scale", action="store_true", help="0.2, 0.4, 0.8 and 1.6 GB")
    parser.add_argument("--peers", nargs="*", help="of datasets_map, encode_batch_fast, seen_text, "
                        "blingfire and gigatoken; all that fit by default")  # fmt: skip
    parser.add_argument("--files", type=int, default=8, help="Wikipedia files to use, of 8")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Measure ours, the peers and, if asked, the scaling; print and write them."""
    files = sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))[: options.files]
    num_bytes = sum(text_bytes(file) for file in files)
    name = "bert-base-uncased" if options.model == "wordpiece" else "gpt2"
    vocabulary = options.tokenizer or DATA / "vocab" / name
    kind = options.tokenizer.name if options.tokenizer else options.model
    rows = [ours(files, vocabulary, folder, num_bytes, options.num_runs)]
    names = peers_of(kind) if options.peers is None else options.peers
    if names:
        some, share = files, ""
        if options.peer_megabytes:
            some = [beginning(files, int(options.peer_megabytes * 1e6), folder / "some.jsonl.zst")]
            share = f", the first {options.peer_megabytes:g} MB"
        rows += peers(names, some, vocabulary, folder, sum(map(text_bytes, some)), share)
        reference = next(row for row in rows if row["system"].startswith("datasets.map"))
        for each in rows:
            compare_with(reference, each)
    if options.scale:
        for copies in (2, 4, 8):
            rows.append(ours_repeated(files, copies, vocabulary, folder, num_bytes))
            if names:
                compare_with(reference, rows[-1])
    print_table(rows)
    scale = "-scale" if options.scale else ""
    write_result(f"tokenize-{kind}{scale}", {"input_bytes": num_bytes, "rows": rows})


def compare_with(reference: dict[str, Any], row: dict[str, Any]) -> None:
    """Add to a row how many times as fast as the reference it is, by the clock and by processor."""
    row["times_datasets_map"] = round(row["mb_per_s"] / reference["mb_per_s"], 1)
    if row["cpu_s_per_gb"]:
        cpu_times = reference["cpu_s_per_gb"] / row["cpu_s_per_gb"]
        row["cpu_times_datasets_map"] = round(cpu_times, 1)


def beginning(files: Sequence[Path], num_bytes: int, path: Path) -> Path:
    """Write the lines that the files begin with, about so many bytes, to a file and return it."""
    left = num_bytes
    with zstandard.open(path, "wt", encoding="utf-8") as copy:
        for file in files:
            with zstandard.open(file, "rt", encoding="utf-8") as stream:
                while left > 0 and (line := stream.readline()):
                    copy.write(line)
                    left -= len(line.encode())
    return path


def text_bytes(file: Path) -> int:
    """Return the size of a file once decompressed, in bytes."""
    with zstandard.open(file, "rb") as stream:
        return sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))


def ours(
    files: Sequence[Path], vocabulary: Path, folder: Path, num_bytes: int, num_runs: int
) -> dict[str, Any]:
    """Time the whole command `lmdata tokenize`, from a cold process; the first run warms up."""
    runs = [
        run_command(tokenize_command(files, vocabulary, folder / "tokens"))
        for _ in range(num_runs + 1)
    ][1:]  # the first may compile kernels and fill the page cache
    seconds, cpu_seconds, peaks = (list(each) for each in zip(*runs, strict=True))
    return row("lmdata tokenize, whole command", num_bytes, seconds, cpu_seconds, max(peaks))


def ours_repeated(
    files: Sequence[Path], copies: int, vocabulary: Path, folder: Path, num_bytes: int
) -> dict[str, Any]:
    """Time the command on the same files listed several times under other names."""
    corpus = folder / f"corpus-{copies}"
    for copy in range(copies):
        (corpus / str(copy)).mkdir(parents=True)
        for file in files:
            (corpus / str(copy) / file.name).symlink_to(file.resolve())
    elapsed_s, cpu_s, peak = run_command(tokenize_command([corpus], vocabulary, folder / "tokens"))
    name = f"lmdata tokenize, {copies * num_bytes / 1e9:.1f} GB"
    return row(name, copies * num_bytes, [elapsed_s], [cpu_s], peak)


def tokenize_command(inputs: Sequence[Path], vocabulary: Path, output: Path) -> list[str]:
    """Return the command line that a user would type."""
    shutil.rmtree(output, ignore_errors=True)
    return [
        str(Path(sys.executable).parent / "lmdata"), "tokenize", *map(str, inputs),
        "--tokenizer", str(vocabulary), "--output", str(output),
        "--num-workers", str(NUM_CORES), "--quiet",
    ]  # fmt: skip


def run_command(command: list[str]) -> tuple[float, float, int]:
    """Run a command; return its seconds, those of processors, and the peak memory in bytes.

    The latter are of all its processes. Bytecode is kept on disk, as where it is installed.
    """
    start, cpu_start = time.perf_counter(), cpu_seconds(of_children=True)
    installed = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with subprocess.Popen(command, start_new_session=True, env=installed) as process:
        peak = PeakMemory(process.pid)
        peak.start()
        code = process.wait()
        elapsed_s = time.perf_counter() - start
        peak.join()
    if code:
        sys.exit(f"{' '.join(command)} ended with exit code {code}")
    return elapsed_s, cpu_seconds(of_children=True) - cpu_start, peak.bytes


class PeakMemory(threading.Thread):
    """Samples the proportional memory (PSS) of all processes of a session.

    Args:
        session: the process that leads it
        every_s: seconds between two looks
    """

    def __init__(self, session: int, every_s: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.session, self.every_s = session, every_s
        self.bytes = 0

    def run(self) -> None:
        """Sample until no process of the session is left."""
        while members := session_members(self.session):
            self.bytes = max(self.bytes, sum(map(proportional_bytes, members)))
            time.sleep(self.every_s)


def session_members(session: int) -> list[int]:
    """Return the ids of the processes that belong to a session and are not zombies."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if int(fields[3]) == session and fields[0] != "Z":
                members.append(int(entry.name))
    return members


def proportional_bytes(pid: int) -> int:
    """Return the anonymous and shared memory of one process (PSS less mapped files), in bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it ended while we looked
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0)


def peers_of(kind: str) -> list[str]:
    """Return the names of the peers of a kind of tokenizer."""
    others = {"wordpiece": ["blingfire"], "bpe": ["gigatoken"]}.get(kind, [])
    return ["datasets_map", "encode_batch_fast", "seen_text", *others]


def peers(
    names: Sequence[str], files: Sequence[Path], vocabulary: Path, folder: Path, num_bytes: int,
    share: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Time each peer in a process of its own; `share` says of which files."""
    rows = []
    for name in names:
        script = [sys.executable, "-m", "benchmarks.tokenize_peers", name, str(vocabulary)]
        script += [str(folder / name), *map(str, files)]
        environment_ = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(script, check=True, capture_output=True, text=True, env=environment_)
        result = json.loads(done.stdout.splitlines()[-1])
        peer_bytes = result.get("bytes", num_bytes)
        system = result["system"] + ("" if "bytes" in result else share)
        rows.append(row(system, peer_bytes, result["seconds"], result.get("cpu_seconds"), None))
    return rows


def row(
    system: str, num_bytes: int, seconds: list[float], cpu_seconds: list[float] | None,
    peak: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Return one line of the table."""
    cpu_s_per_gb = 1e9 * statistics.median(cpu_seconds) / num_bytes if cpu_seconds else None
    return {
        "system": system,
        "mb_per_s": round(num_bytes / 1e6 / statistics.median(seconds), 2),
        **summary(seconds),
        "cpu_s_per_gb": cpu_s_per_gb and round(cpu_s_per_gb, 1),
        "peak_mib": peak // 2**20 if peak is not None else None,
        "times_datasets_map": None,
        "cpu_times_datasets_map": None,
    }


if __name__ == "__main__":
    print(json.dumps(environment(), indent=2))
