"""The main job on real text: Wikipedia to a trained model, with the commands a user types."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import DATA, RESULTS, print_table, write_result

PROMPTS = (
    "The capital of France is [MASK].",
    "He was born in [MASK] and studied at the university.",
    "The river flows into the [MASK] sea.",
)


def main(arguments: list[str]) -> None:
    """Run the road from `wikipedia-en` to a filled mask and keep what every command printed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks end-to-end", description=__doc__)
    parser.add_argument("--num-minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--model", default="mini")
    parser.add_argument(
        "--family",
        choices=["bert", "modern"],
        default="bert",
        help="bert: of frozen pairs; modern: of the store, then also the minimal pairs of BLiMP",
    )
    parser.add_argument("--folder", type=Path, help="keep what is made here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        lines = commands(options.model, options.family, options.num_minutes)
        steps = [run(command, folder) for command in lines]
        name = "end-to-end" if options.family == "bert" else f"end-to-end-{options.family}"
        picture = RESULTS / f"{name}-loss.png"
        shutil.copy(folder / "runs/wikipedia/loss.png", picture)
    rows = [{"command": step["command"], "seconds": step["seconds"]} for step in steps]
    print_table(rows)
    write_result(name, {"picture": picture.name, "steps": steps})


def commands(model: str, family: str, num_minutes: float) -> list[list[str]]:
    """Return the command lines, in order; `wikipedia-en` and `blimp` are links to real text."""
    run_folder = "runs/wikipedia"
    minutes = ["--num-minutes", f"{num_minutes:g}"]
    own, data, more = ["--set", "optimizer.lr=3e-3"], "shards", []
    if family == "modern":  # its own numbers
        own, data = ["--family", family], "tokens"
        more = [["lmmodel", "evaluate", run_folder, "--minimal-pairs", "blimp", "--json"]]
    return [
        ["lmdata", "train-tokenizer", "wikipedia-en", "--vocab-size", "16384", "--json"],
        ["lmdata", "tokenize", "wikipedia-en", "--json"],
        ["lmdata", "mask", "--rate", "0.15", "--duplicates", "1", "--json"],
        ["lmdata", "verify", "shards", "--json"],
        ["lmmodel", "train", data, "--model", model, *minutes, *own, "--output", run_folder,
         "--json"],
        ["lmmodel", "evaluate", run_folder, data, "--num-examples", "4096", "--json"],
        *more,
        ["lmmodel", "fill-mask", run_folder, *PROMPTS, "--json"],
        ["lmmodel", "export", run_folder, "exported", "--overwrite", "--json"],
    ]  # fmt: skip


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one command in the folder; return its line, seconds and result."""
    for name in ("wikipedia-en", "blimp"):
        link = folder / name
        if not link.exists():
            link.symlink_to((DATA / name).resolve())
    print("$", " ".join(command), flush=True)
    program = str(Path(sys.executable).parent / command[0])
    start = time.perf_counter()
    done = subprocess.run(
        [program, *command[1:]], cwd=folder, capture_output=True, text=True, check=False
    )
    elapsed_s = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {done.stderr}")
    return {
        "command": " ".join(command),
        "seconds": round(elapsed_s, 2),
        "result": json.loads(done.stdout),
    }
