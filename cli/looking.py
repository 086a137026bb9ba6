"""The verbs of `lmdata` that look at a dataset, check it, and hand it to other trainers."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values

from .options import (
    FOLDER,
    NAME,
    PLACE,
    echo_page,
    echo_result,
    json_option,
    overwrite_option,
    page_options,
    result_options,
    split_option,
)
from .summaries import (
    ProgressLine,
    flow_line,
    recipe_lines,
    report_lines,
    size,
    tokenizer_check_lines,
)

if TYPE_CHECKING:
    from lmdata.exporting.export import Export
    from lmdata.page import Page


@click.command()
@click.argument("dataset", type=PLACE)
@click.option("--store", "store_path", type=FOLDER,
              help="Of example shards: the token store they were made from.")  # fmt: skip
@result_options
@click.pass_context
def verify(
    context: click.Context, dataset: Path | str, store_path: Path | None, as_json: bool, quiet: bool
) -> None:
    """Check that a dataset holds what it promises: files, ledger, statistics. Exit 1 if not.

    \b
    Example: lmdata verify shards/
    """
    from lmdata.verification import verify_dataset

    with ProgressLine("verifying", quiet=quiet):
        report = verify_dataset(dataset, store_path=store_path)
    facts = {**json_values(report), "passed": report.passed}
    echo_result(facts, as_json=as_json, quiet=quiet, lines=report_lines(report))
    context.exit(0 if report.passed else 1)


@click.command()
@json_option
def recipes(as_json: bool) -> None:
    """Print the named recipes, each a small piece of data to start from.

    \b
    Example: lmdata recipes
    """
    from lmdata.recipes import RECIPES

    facts = json_values(RECIPES)
    echo_result(facts, as_json=as_json, quiet=False, lines=recipe_lines(facts))


@click.command()
@click.argument("dataset", type=PLACE, default="shards")
@split_option
@click.option("--plot", type=FOLDER, help="Picture to write: a .png, or an .html page.")
@result_options
def stats(dataset: Path | str, split: str, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """Describe a token store or shards: lengths, fill, fertility, masks by position.

    \b
    Example: lmdata stats tokens/ --plot tokens.png
    """
    from lmdata.stats import dataset_statistics
    from lmdata.stats_report import statistics_lines, write_report

    with ProgressLine("counting", quiet=quiet):
        statistics = dataset_statistics(dataset, split=split)
        if plot is not None:
            write_report(statistics, plot)
    lines = [*statistics_lines(statistics), *([f"  picture: {plot}"] if plot else [])]
    echo_result(statistics, as_json=as_json, quiet=quiet, lines=lines)


@click.command()
@click.argument("dataset", type=PLACE)
@page_options
@result_options
def report(
    dataset: Path | str, output: Path | None, overwrite: bool, is_opened: bool, as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Write one page about a token store, shards or tags: flow, lengths, pieces, rows to read.

    Of tags: what each rule would drop and why, kept and dropped documents side by side. The page
    is a file of its own: nothing is fetched, nothing is sent. --json prints what it holds.

    \b
    Example: lmdata report tokens/ --open
    Example: lmdata report tags/
    """
    from lmdata.copies import at_hand
    from lmdata.page import check_writable, write_page

    path = output or Path(f"{Path(dataset).resolve().name}-report.html")
    check_writable(path, overwrite=overwrite)
    with ProgressLine("reporting", quiet=quiet):
        found, page = make_page(at_hand(dataset))
        write_page(page, path, overwrite=overwrite)
    echo_page(found, path, is_opened=is_opened, as_json=as_json, quiet=quiet)


def make_page(dataset: Path) -> tuple[Any, Page]:
    """Return the report on a dataset or on tags, and the page that shows it."""
    from lmdata.chosen import is_kind

    if is_kind(dataset, "tags"):
        from lmdata.tag_page import tag_page
        from lmdata.tag_report import tag_report

        tags = tag_report(dataset)
        return tags, tag_page(tags)
    from lmdata.report import data_report
    from lmdata.report_page import data_page

    found = data_report(dataset)
    return found, data_page(found)


@click.command()
@click.argument("dataset", type=PLACE, default="shards")
@split_option
@click.option(
    "--row", type=click.IntRange(min=0), default=0, show_default=True, help="First row to show."
)
@click.option(
    "--num-rows", type=click.IntRange(min=1), default=1, show_default=True, help="Rows to show."
)
@click.option("--find", metavar="TEXT", help="Show only rows that contain this text.")
@click.option("--source", is_flag=True, help="Say from which file and line each one comes.")
@json_option
def show(
    dataset: Path | str, split: str, row: int, num_rows: int, find: str | None, source: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Print rows readably: what is masked, replaced or kept, where sentences end.

    \b
    Example: lmdata show shards/ --find "of New York" --source
    """
    from lmdata.show import show_rows

    colour = not as_json and sys.stdout.isatty()
    shown = show_rows(
        dataset, row, num_rows, split=split, with_source=source, find=find, colour=colour
    )
    facts = [{"row": number, "text": text} for number, text in shown.items()]
    echo_result(facts, as_json=as_json, quiet=False, lines=["\n\n".join(shown.values())])


@click.group()
def tokenizers() -> None:
    """Look at tokenizers: how text is encoded, how fast, what is odd about the files.

    \b
    Example: lmdata tokenizers check vocab.txt
    """


@tokenizers.command()
@click.argument("tokenizer", type=FOLDER)
@click.argument("corpus", type=NAME, nargs=-1)
@result_options
def check(tokenizer: Path, corpus: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Say how a tokenizer's text is encoded, how fast, and what is odd about its files.

    With files of yours, the first megabytes of theirs are encoded.

    \b
    Example: lmdata tokenizers check vocab.txt
    Example: lmdata tokenizers check tokenizer.json corpus/
    """
    from lmdata.tokenizer_check import check_tokenizer

    with ProgressLine("encoding a sample", quiet=quiet):
        found = check_tokenizer(tokenizer, corpus)
    echo_result(found, as_json=as_json, quiet=quiet, lines=tokenizer_check_lines(found))


VERBS = (show, stats, report, verify, tokenizers, recipes)


# ---- Other trainers


FORMAT_NAMES = ("nanogpt", "megatron", "mds", "litdata", "parquet", "parquet-uncompressed",
                "datasets")  # fmt: skip


class Choice(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A choice whose absence is told in one line."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return what may be given."""
        return f"Choose from: {', '.join(self.choices)}"


@click.command()
@click.argument("tokens", type=PLACE)
@click.argument("output", type=PLACE)
@click.option("--format", "format_name", type=Choice(FORMAT_NAMES), required=True,
              help="Whose format; docs/other-trainers.md shows how each is read.")  # fmt: skip
@click.option("--end-token", metavar="PIECE", default="auto", show_default=True,
              help="Put behind each document; auto: the tokenizer's own, where the format keeps "
                   "no boundaries; none.")  # fmt: skip
@click.option("--row-length", type=click.IntRange(min=1), metavar="TOKENS",
              help="Cut into rows of equal length.  [default: a row is a document]")  # fmt: skip
@overwrite_option
@result_options
def export(
    tokens: Path | str, output: Path | str, format_name: str, end_token: str,
    row_length: int | None, overwrite: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a token store in the format of another trainer, byte for byte as it expects it.

    \b
    Example: lmdata export tokens/ nanoGPT/data/wiki --format nanogpt
    Example: lmdata export tokens/ wiki-mds/ --format mds --row-length 2048
    Example: lmdata export tokens/ hf://datasets/me/wiki --format parquet
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


def export_lines(export: Export, output: Path | str, elapsed_s: float) -> list[str]:
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
