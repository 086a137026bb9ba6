"""Time things, say on what they were timed, print a table and keep the result."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[1] / "../shared/data"
PACKAGES = (
    "tokenizers", "datasets", "transformers", "gigatoken", "blingfire", "pysbd",
    "torch", "accelerate", "polars", "pyarrow", "numba", "numpy", "starlette", "uvicorn",
    "sentence-transformers", "fastapi", "obstore", "moto", "ray",
)  # fmt: skip


def timed(function: Callable[[], object], num_runs: int = 3) -> list[float]:
    """Return the seconds that each of `num_runs` calls took."""
    seconds = []
    for _ in range(num_runs):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return seconds


def cpu_seconds(*, of_children: bool = False) -> float:
    """Return the processor time of this process and its children that have ended, or theirs."""
    used = os.times()
    children = used.children_user + used.children_system
    return children if of_children else used.user + used.system + children


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, minimum and maximum of some timings, in seconds."""
    return {
        "median_s": round(statistics.median(seconds), 4),
        "min_s": round(min(seconds), 4),
        "max_s": round(max(seconds), 4),
    }


def environment() -> dict[str, Any]:
    """Return the hardware, versions and commit that a figure belongs to."""
    return {
        "cpu": _cpu_model(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": has_uncommitted_changes(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "date": time.strftime("%Y-%m-%d"),
    }


def has_uncommitted_changes() -> bool:
    """Whether anything but results has changed since the commit."""
    code = (":/", ":(top,exclude)benchmarks/results")
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", *code))


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `result` and the environment to `results/NAME.json` and return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"environment": environment(), **result}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}"
    )
    return path


def merge_result(name: str, part: str, result: dict[str, Any]) -> Path:
    """Write a part of a result, and what it was measured on, beside the parts that are there."""
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    RESULTS.mkdir(exist_ok=True)
    content = {**before, part: {**result, "environment": environment()}}
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows that share their keys as aligned columns."""
    columns = list(rows[0])
    cells = [columns, *[[_cell(row.get(column)) for column in columns] for row in rows]]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
