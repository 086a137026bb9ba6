"""`lmmodel count`: a token store to an n-gram model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import echo_result, json_option, overwrite_option, quiet_option
from .progress import ProgressLine
from .summaries import aligned, size

if TYPE_CHECKING:
    from lmmodel.ngrams import Count

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("tokens", type=FOLDER, default="tokens")
@click.option(
    "--order",
    type=click.IntRange(min=1, max=12),
    default=5,
    show_default=True,
    help="Tokens of the longest n-grams.",
)
@click.option("--output", type=FOLDER, help="Run folder.  [default: runs/ORDERgram]")
@overwrite_option
@json_option
@quiet_option
def count(
    tokens: Path, order: int, output: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Count an n-gram model of a token store: interpolated modified Kneser-Ney.

    It is what a language model has to beat, made in seconds: evaluate, score, generate and export
    take its folder as that of any other. The result does not depend on the number of cores.

    \b
    Example: lmmodel count tokens/
    Example: lmmodel count tokens/ --order 3 --output runs/3gram
    """
    from lmmodel.ngrams import count_store

    with ProgressLine("counting", quiet=quiet):
        result = count_store(
            tokens, output or Path("runs") / f"{order}gram", order=order, overwrite=overwrite
        )
    echo_result(result, as_json=as_json, quiet=quiet, lines=count_lines(result))


def count_lines(result: Count) -> list[str]:
    """Return what was counted, and the discounts of each order."""
    record = result.record
    rows: list[tuple[str, ...]] = [("order", "distinct", "discounts of counts 1, 2, 3+")]
    for own, num in zip(record.discounts, record.sizes, strict=True):
        amounts = ", ".join(f"{amount:.3f}" for amount in own.amounts)
        why = f" (fallback: {own.why_fallback})" if own.why_fallback else ""
        rows.append((str(own.order), f"{num:,}", amounts + why))
    return [
        f"{result.output}/  {record.num_tokens:,} tokens of {record.num_documents:,} documents, "
        f"{size(record.weights_bytes)}",
        *aligned(rows),
        f"next: lmmodel evaluate {result.output}",
    ]
