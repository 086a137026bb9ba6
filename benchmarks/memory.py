"""Whether `lmdata tokenize --memory` is kept: the most that all its processes held together.

For tokenizers of every size and several budgets: anonymous memory, pages that processes share
counted once, twenty times a second; or that the command refused the budget and what it asked for.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import DATA, print_table, write_result
from benchmarks.tokenize import PeakMemory

MIB = 1 << 20


def main(arguments: list[str]) -> None:
    """Print a row for each tokenizer and budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("tokenizers", type=Path, nargs="+", help="tokenizers of any kind")
    parser.add_argument("--corpus", type=Path, default=DATA / "wikipedia-en")
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[1024, 800, 600, 400, 300, 200])
    options = parser.parse_args(arguments)
    rows = [
        measure(tokenizer, options.corpus, budget * MIB)
        for tokenizer in options.tokenizers
        for budget in options.mebibytes
    ]
    print_table(rows)
    write_result("memory", {"corpus": options.corpus.name, "rows": rows})
    if any(row["kept"] == "NO" for row in rows):
        sys.exit("a budget was not kept")


def measure(tokenizer: Path, corpus: Path, budget_bytes: int) -> dict[str, Any]:
    """Tokenize a corpus under a budget, with two workers."""
    folder = Path(tempfile.mkdtemp())
    command = [
        "lmdata", "tokenize", str(corpus), "--tokenizer", str(tokenizer), "--num-workers", "2",
        "--output", str(folder / "tokens"), "--memory", f"{budget_bytes // MIB}MiB",
    ]  # fmt: skip
    peak, code, errors = run_watched(command)
    shutil.rmtree(folder)
    least = re.search(r"give --memory at least (\d+)MiB", errors)
    if code and not least:
        sys.exit(f"{' '.join(command)} ended with exit code {code}: {errors}")
    kept = "refused" if least else "yes" if peak <= budget_bytes else "NO"
    return {"tokenizer": tokenizer.name, "budget MiB": budget_bytes // MIB, "kept": kept,
            "peak MiB": peak // MIB, "asked for MiB": int(least[1]) if least else None}  # fmt: skip


def run_watched(command: Sequence[str]) -> tuple[int, int, str]:
    """Run a command; return the most bytes that its processes held, its exit code and its errors.

    What they held while a budget was refused counts too.
    """
    with subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        peak = PeakMemory(process.pid, every_s=0.05)
        peak.start()
        _, errors = process.communicate()
        peak.join()
    return peak.bytes, process.returncode, errors
