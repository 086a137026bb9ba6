"""Correctness, then speed, on the graphics card at hand: one command, under nine minutes.

Checks and measurements each run in a process of their own: one that fails is a line of the table,
and the others go on. Needs no data: without --store it makes up documents by Zipf's law. Needs
numpy, pyarrow, safetensors, tokenizers and torch, nothing else. With Numba, as in any installation,
examples are views of a token store, fresh in each epoch; without it, they are frozen. With
transformers and accelerate, Trainer is measured as well.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_checks import CHECKS
from benchmarks.measure import RESULTS, environment, print_table
from benchmarks.train import BASE, GPU_VOCAB_SIZE, STORE_TOKENS, gpu_work, trainer_work
from benchmarks.training_runs import Work, run_apart, run_module
from references.made_up import write_made_up_data

VOCAB = "vocab_size=30528"
SHAPES: dict[str, tuple[str, ...]] = {
    "base": BASE,
    "8 x 768 modern": (
        "family=modern", "num_hidden_layers=8", "hidden_size=768", "num_attention_heads=12", VOCAB,
    ),
    "mini": ("size=mini", VOCAB),
    "small": ("size=small", VOCAB),
}  # fmt: skip
TOY_SHAPES: dict[str, tuple[str, ...]] = {
    "bert toy": ("size=tiny",),
    "modern toy": ("size=tiny", "family=modern"),
}
TOY_STORE_TOKENS = 50_000
TOY_VOCAB_SIZE = 500
LONGEST_CHECK_S, LONGEST_RUN_S = 150.0, 150.0
NUM_CHECKS_AT_ONCE = 4
COLUMNS = (
    "what", "status", "tokens_per_s", "mfu_percent", "peak_gib", "data_wait_percent",
    "times_trainer", "took_s", "note",
)  # fmt: skip

Row = dict[str, Any]


class Deadline:
    """How long what is begun now may take."""

    def __init__(self, minutes: float) -> None:
        self._ends_at = time.monotonic() + 60 * minutes

    def limit(self, longest_s: float) -> float:
        """Return `longest_s`, or what is left if that is less.

        Raises:
            TimeoutError: too little is left to begin anything
        """
        left = self._ends_at - time.monotonic()
        if left < 5:
            raise TimeoutError("no time left: see --minutes")
        return min(longest_s, left)


def main(arguments: list[str]) -> None:
    """Check, measure, print the table, keep it; exit with 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.5, help="for everything together")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured in each run")
    parser.add_argument("--store", type=Path, help="a token store, instead of made-up documents")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    parser.add_argument("--toy", action="store_true", help="all of it, small, also on a CPU")
    options = parser.parse_args(arguments)
    if not options.toy and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no CUDA device; --toy runs all of it on the CPU")
    deadline = Deadline(options.minutes)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or make_store(Path(folder) / "tokens", is_toy=options.toy)
        rows = [*check_all(store, deadline), *measure_all(options, store, deadline)]
    _write(options.output, rows, {"toy": options.toy, "seconds": options.seconds})
    print_table([{column: row.get(column) for column in COLUMNS} for row in rows])
    sys.exit(1 if any(row["status"] != "ok" for row in rows) else 0)


def make_store(folder: Path, *, is_toy: bool) -> Path:
    """Write made-up documents and return their folder."""
    num_tokens = TOY_STORE_TOKENS if is_toy else STORE_TOKENS
    vocab_size = TOY_VOCAB_SIZE if is_toy else GPU_VOCAB_SIZE
    write_made_up_data(
        folder, num_tokens=num_tokens, vocab_size=vocab_size, max_seq_length=32 if is_toy else 512
    )
    return folder


def check_all(store: Path, deadline: Deadline) -> list[Row]:
    """Return a line for each check; on a GPU, some run side by side."""
    device = device_type()

    def check(name: str) -> Row:
        return attempt(
            name, lambda: run_module(
                "benchmarks.gpu_checks", [name, device, str(store)],
                timeout_s=deadline.limit(LONGEST_CHECK_S),
            ),
        )  # fmt: skip

    names = [name for name in CHECKS if device == "cuda" or "compiled" not in name]
    with ThreadPoolExecutor(NUM_CHECKS_AT_ONCE if device == "cuda" else 1) as pool:
        return list(pool.map(check, names))


def measure_all(options: argparse.Namespace, store: Path, deadline: Deadline) -> list[Row]:
    """Return a line for each shape, optimizer and system, the most important first."""
    rows: dict[tuple[str, str], Row] = {}
    for shape, system, work in plan_runs(options, store):
        side = "ours" if system != "Trainer" else "theirs"
        row = attempt(
            f"{shape}, {system}",
            lambda side=side, work=work: run_apart(
                side, work, timeout_s=deadline.limit(LONGEST_RUN_S)
            ),
        )
        rows[shape, system] = tidy(row)
        print(row["what"], row["status"], row.get("tokens_per_s"), flush=True)
    for (shape, _), row in rows.items():
        peer = rows.get((shape, "Trainer"), {}).get("tokens_per_s")
        if peer and row.get("tokens_per_s"):
            row["times_trainer"] = round(row["tokens_per_s"] / peer, 2)
    return list(rows.values())


def plan_runs(options: argparse.Namespace, store: Path) -> Iterator[tuple[str, str, Work]]:
    """Yield shape, system and work: AdamW against Trainer, then Muon, then Trainer's others."""
    has_trainer = all(importlib.util.find_spec(name) for name in ("transformers", "accelerate"))
    works = {
        shape: _toy_work(store, model) if options.toy
        else gpu_work(store, model, seconds=options.seconds)
        for shape, model in (TOY_SHAPES if options.toy else SHAPES).items()
    }  # fmt: skip
    first = next(iter(works))
    for shape, work in works.items():
        yield shape, "AdamW", work
        if shape == first:
            yield shape, "AdamW, not deterministic", replace(work, deterministic=False)
        if shape == first and has_trainer:
            yield shape, "Trainer", trainer_work(work)
    for shape, work in works.items():
        yield shape, "Muon", replace(work, optimizer="muon")
    for shape, work in works.items():
        if shape != first and has_trainer and not options.toy:
            yield shape, "Trainer", trainer_work(work)


def attempt(what: str, function: Callable[[], dict[str, Any]]) -> Row:
    """Return a line of the table, whatever happens."""
    started = time.monotonic()
    try:
        row = {"what": what, "status": "ok", **function()}
    except Exception as error:  # reported in the table and by the exit code; the rest goes on
        text = str(error).strip() or type(error).__name__
        row = {"what": what, "status": "FAILED", "note": text.splitlines()[-1][:160], "error": text}
    row["took_s"] = round(time.monotonic() - started, 1)
    return row


def tidy(row: Row) -> Row:
    """Return a line with shares in percent.

    Example:
        >>> tidy({"mfu": 0.4567, "data_wait_ratio": 0.001})
        {'mfu_percent': 45.67, 'data_wait_percent': 0.1}
    """
    named = {"mfu": "mfu_percent", "data_wait_ratio": "data_wait_percent"}
    return {
        named.get(key, key): round(100 * value, 3) if key in named and value is not None else value
        for key, value in row.items()
    }


def device_type() -> str:
    """Return "cuda" where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """Return the device's name as part of a file's name."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _toy_work(store: Path, model: tuple[str, ...]) -> Work:
    return Work(
        store=str(store), model=model, view="packed", max_seq_length=32, batch_size=8,
        precision="fp32", device=device_type(), seconds=0.2, warmup_steps=2,
    )  # fmt: skip


def _write(folder: Path, rows: list[Row], settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu-{device_name()}.json"
    content = {"environment": environment(), "device": device_name(), **settings, "rows": rows}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}\n")
