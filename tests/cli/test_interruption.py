"""Ctrl-C at a real process: exit code 130, what is kept, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import TRAIN_FAST, Road, as_json, make_text

ROOT = Path(__file__).parents[2]

# A shell that starts a job in the background has it ignore Ctrl-C: undo that.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from importlib import import_module
import_module(f"lmcli.{sys.argv[1]}").main(sys.argv[2:], prog_name=sys.argv[1])
"""


def interrupt_when(is_time: Callable[[], bool], *arguments: str | Path) -> tuple[int, str]:
    """Return exit code and standard error of a command that gets Ctrl-C at a moment."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not is_time():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it never came to that: {process.communicate()[1]}")
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert output == ""
    return process.returncode, errors


def test_tokenize(road: Road, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(make_text(20_000))
    output = tmp_path / "tokens"
    arguments = ("lmdata", "tokenize", tmp_path / "text.txt", "--output", output, "--tokenizer",
                 road.tokenizer, "--documents", "blank-line", "--num-workers", "1")  # fmt: skip
    code, errors = interrupt_when((output / ".build" / "plan.json").exists, *arguments)
    assert code == 130
    kept = errors.removeprefix("\nInterrupted. ").partition(" kept in ")
    assert kept[0] in (
        "0 of 1 units are",
        "What was finished is",
    )  # before or after they are listed
    assert kept[2] == f"{output}; type the same command again to go on.\n"
    assert as_json(*arguments)["rows"]["train"] > 19_000


def test_mask(road: Road, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    arguments = ("lmdata", "mask", road.tokens, "--output", output, "--duplicates", "400")
    code, errors = interrupt_when((output / ".build" / "plan.json").exists, *arguments)
    assert code == 130
    assert errors == (
        f"\nInterrupted. What was finished is kept in {output}; type the same command again to go "
        "on.\n"
    )
    assert not list(output.glob(".*.partial"))
    assert as_json(*arguments)["rows"]["train"] > 0


def test_train_tokenizer_keeps_nothing(road: Road, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(make_text(60_000))
    output = tmp_path / "tokenizer"
    code, errors = interrupt_when(
        (tmp_path / ".tokenizer.partial").exists,
        "lmdata", "train-tokenizer", tmp_path / "text.txt", "--output", output,
    )  # fmt: skip
    assert code == 130
    assert errors.startswith("\nInterrupted. ")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_train(road: Road, tmp_path: Path) -> None:
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    code, errors = interrupt_when(
        lambda: metrics.exists() and metrics.stat().st_size > 0,
        "lmmodel", "train", road.shards, "--output", run, "--num-steps", "100000",
        "--set", "logging.every_steps=1", *TRAIN_FAST,
    )  # fmt: skip
    assert code == 130
    assert errors.startswith("\nInterrupted. stopped after step ")
    assert errors.endswith(f"of 100000; everything is saved in {run}: go on with --resume\n")
    assert list((run / "checkpoints").iterdir())
