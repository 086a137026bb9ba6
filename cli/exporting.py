"""`lmdata export`: a token store for the trainer that you have."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import echo_result, json_option, overwrite_option, quiet_option
from .progress import ProgressLine
from .summaries import flow_line, size

if TYPE_CHECKING:
    from lmdata.exporting.export import Export

FOLDER = click.Path(path_type=Path)
FORMAT_NAMES = ("nanogpt", "megatron", "mds", "litdata", "parquet", "datasets")


class Choice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A choice whose absence is told in one line."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what may be given."""
        return f"Choose from: {', '.join(self.choices)}"


@click.command()
@click.argument("tokens", type=FOLDER)
@click.argument("output", type=FOLDER)
@click.option("--format", "format_name", type=Choice(FORMAT_NAMES), required=True,
              help="Whose format; docs/other-trainers.md shows how each is read.")  # fmt: skip
@click.option("--end-token", metavar="PIECE", default="auto", show_default=True,
              help="Put behind each document; auto: the tokenizer's own, where the format keeps "
                   "no boundaries; none.")  # fmt: skip
@click.option("--row-length", type=click.IntRange(min=1), metavar="TOKENS",
              help="Cut into rows of equal length.  [default: a row is a document]")  # fmt: skip
@overwrite_option
@json_option
@quiet_option
def export(
    tokens: Path, output: Path, format_name: str, end_token: str, row_length: int | None,
    overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a token store in the format of another trainer, byte for byte as it expects it.

    \b
    Example: lmdata export tokens/ nanoGPT/data/wiki --format nanogpt
    Example: lmdata export tokens/ wiki-mds/ --format mds --row-length 2048
    """
    from lmdata.exporting.export import export_store

    start = time.perf_counter()
    with ProgressLine("exporting", unit="tokens", quiet=quiet) as line:
        result = export_store(
            tokens, output, format_name, end_token=end_token, row_length=row_length,
            overwrite=overwrite, progress=line.update,
        )  # fmt: skip
    lines = export_lines(result, output, time.perf_counter() - start)
    echo_result({"output": str(output), **vars(result)}, as_json=as_json, quiet=quiet, lines=lines)


def export_lines(export: Export, output: Path, elapsed_s: float) -> list[str]:
    """Return what a person sees."""
    num_bytes = sum(file.bytes for file in export.files)
    what = f"rows of {export.row_length:,} tokens" if export.row_length else "documents"
    end = f", an end {export.end_token} behind each document" if export.end_token else ""
    return [
        f"{output}/  {export.format}, {len(export.files)} files, {size(num_bytes)} in "
        f"{elapsed_s:.1f} s: {what}{end}",
        *(f"  {split:<12} {rows:>12,} rows" for split, rows in export.rows.items()),
        *(flow_line(name, flow) for name, flow in export.ledger.flows.items()),
    ]
