"""Running the commands in this process, and a little text for them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner, Result

import lmcli.lmdata
import lmcli.lmmodel

WORDS = ("river", "stone", "apple", "road", "story", "water", "teacher", "bird", "winter", "house")
VERBS = ("sees", "likes", "finds", "follows", "paints", "forgets")

TRAIN_FAST = [
    "--model", "tiny", "--device", "cpu", "--set", "batch.size=4",
    "--set", "batch.micro_batch_tokens=128", "--set", "evaluation.num_examples=4",
]  # fmt: skip


@dataclass(frozen=True)
class Road:
    """Everything that the commands make of one little corpus."""

    corpus: Path
    tokenizer: Path
    tokens: Path
    shards: Path
    run: Path


def make_text(num_documents: int, seed: int = 0) -> str:
    """Documents of a few short sentences, one a line, a blank line between documents."""
    draw = random.Random(seed)
    documents = [
        "\n".join(
            f"The {draw.choice(WORDS)} {draw.choice(VERBS)} a {draw.choice(WORDS)}."
            for _ in range(draw.randint(3, 6))
        )
        for _ in range(num_documents)
    ]
    return "\n\n".join(documents) + "\n"


def invoke(*arguments: str | Path, input: bytes | str | None = None) -> Result:
    """Run `lmdata ...` or `lmmodel ...` in this process; a traceback fails the test."""
    command, *rest = map(str, arguments)
    group: click.Group = {"lmdata": lmcli.lmdata, "lmmodel": lmcli.lmmodel}[command].main
    result = CliRunner().invoke(group, rest, input=input, prog_name=command)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments: str | Path, **options: Any) -> Result:
    result = invoke(*arguments, **options)
    assert result.exit_code == 0, result.stderr
    return result


def as_json(*arguments: str | Path, **options: Any) -> Any:
    return json.loads(succeed(*arguments, "--json", **options).stdout)


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and time of change of whatever lies below a folder."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    } | {str(path.relative_to(folder)): (0, 0) for path in folder.rglob("*") if path.is_dir()}
