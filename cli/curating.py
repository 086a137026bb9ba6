"""The verbs of `lmdata` that say which documents are read: tag, select, clean."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    echo_part,
    echo_result,
    engine_options,
    json_option,
    num_cores,
    num_workers_option,
    output_option,
    overwrite_option,
    part_option,
    quiet_option,
    reading_options,
    resolve,
    say,
    start_engine,
)
from .summaries import ProgressLine, dataset_summary, flow_line, passed_over_lines

if TYPE_CHECKING:
    from lmdata.building.resumable import Part, PartDone
    from lmdata.building.workers import Workers
    from lmdata.tagging.manifests import TagManifest

FOLDER = click.Path(path_type=Path)
_MOST_NOTES = 5
words_option = click.option(
    "--words", type=click.Choice(["plain", "spacy"]),
    help="How text is cut into words; spacy gives datatrove's figures.  [default: plain]",
)  # fmt: skip
language_option = click.option(
    "--language", type=click.Choice(["none", "py3langid"]),
    help="What tells the language of each document.  [default: none]",
)  # fmt: skip
where_option = click.option(
    "--where", metavar="SQL", help="Condition over the tags, such as 'c4 and num_words > 100'."
)
recipe_option = click.option(
    "--recipe", type=click.Choice(["english", "distinct"]), help="Condition by its name."
)


@click.command()
@click.argument("corpus", nargs=-1, required=True)
@words_option
@language_option
@part_option
@engine_options
@reading_options
@output_option("tags", is_anywhere=True)
@num_workers_option
@overwrite_option
@json_option
@quiet_option
def tag(
    corpus: tuple[str, ...], part: Part | None, engine: str, address: str | None,
    output: Path | str, num_workers: int | None, overwrite: bool, as_json: bool, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Measure every document once: what the rules of Gopher, C4 and FineWeb ask, and repeats.

    Nothing is removed. `lmdata select` decides, from the tags alone, what is read.

    \b
    Example: lmdata tag corpus/
    """
    start = time.perf_counter()
    workers = start_engine("tags", engine, address, num_workers)
    manifest, skipped = _tag(corpus, output, num_workers, overwrite, quiet, options, part, workers)
    if part is not None:
        return echo_part(manifest, output, as_json=as_json, quiet=quiet)
    facts = dataset_summary(manifest, output, time.perf_counter() - start)
    lines = [*_tag_lines(manifest, facts), *passed_over_lines(skipped)]
    lines.append(f"next: lmdata select {output} --recipe english")
    return echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


@click.command()
@click.argument("tags", type=FOLDER, default="tags")
@where_option
@recipe_option
@output_option("selection")
@overwrite_option
@json_option
@quiet_option
def select(
    tags: Path, where: str | None, recipe: str | None, output: Path, overwrite: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Choose documents by a condition over their tags, in SQL; reads no text.

    Of conditions joined by AND, the first that does not hold is the reason that is counted.

    \b
    Example: lmdata select tags/ --recipe english
    Example: lmdata select tags/ --where "gopher_quality and not duplicate and num_words > 100"
    """
    _select(tags, _condition(where, recipe), output, overwrite, as_json, quiet)


@click.command()
@click.argument("corpus", nargs=-1, required=True)
@where_option
@recipe_option
@words_option
@language_option
@reading_options
@click.option("--tags", type=FOLDER, default="tags", show_default=True, help="Tags to write.")
@output_option("selection")
@num_workers_option
@overwrite_option
@json_option
@quiet_option
def clean(
    corpus: tuple[str, ...], where: str | None, recipe: str | None, tags: Path, output: Path,
    num_workers: int | None, overwrite: bool, as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Tag a corpus and select from it: `lmdata tag`, then `lmdata select`.

    \b
    Example: lmdata clean corpus/ --recipe english
    """
    condition = _condition(where, recipe)
    _tag(corpus, tags, num_workers, overwrite, quiet, options)
    _select(tags, condition, output, overwrite, as_json, quiet)


def _tag(
    corpus: tuple[str, ...], output: Path | str, num_workers: int | None, overwrite: bool,
    quiet: bool, options: dict[str, Any], part: Part | None = None,
    workers: Workers | None = None,
) -> tuple[TagManifest | PartDone, dict[str, list[str]]]:  # fmt: skip
    from lmdata.build import check_part
    from lmdata.reading.sources import survey_sources
    from lmdata.tagging.units import TagConfig
    from lmdata.tags import tag_corpus

    config = resolve(TagConfig, None, (), **options)
    survey = survey_sources(corpus, config.corpus)
    if part is not None:
        check_part(survey.sources, overwrite=overwrite)
    if not quiet:
        for note in survey.notes:
            say(note)
    with ProgressLine("tagging", unit="bytes", quiet=quiet) as line:
        manifest = tag_corpus(
            survey.sources, config, output, num_workers=num_workers or num_cores(),
            overwrite=overwrite, part=part, workers=workers,
            progress=lambda done, total, documents: line.update(done, total),
        )  # fmt: skip
    return manifest, survey.skipped


def _condition(where: str | None, recipe: str | None) -> str:
    from lmdata.selection import RECIPES

    if (where is None) == (recipe is None):
        raise click.UsageError(
            "say what to choose by: either --where with a condition, or --recipe with its name"
        )
    return where if where is not None else RECIPES[str(recipe)]


def _select(
    tags: Path, where: str, output: Path, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    from lmdata.selection import select_documents

    start = time.perf_counter()
    manifest = select_documents(tags, where, output, overwrite=overwrite)
    facts = dataset_summary(manifest, output, time.perf_counter() - start)
    lines = [
        f"{output}/  {where}",
        *(flow_line(name, flow) for name, flow in manifest.ledger.flows.items()),
        *(f"  note       {note}" for note in manifest.notes[:_MOST_NOTES]),
        *_more_notes(len(manifest.notes) - _MOST_NOTES),
        f"next: lmdata tokenize CORPUS --select {output}",
    ]
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


def _more_notes(count: int) -> list[str]:
    return [f"  note       and {count:,} more sources"] if count > 0 else []


def _tag_lines(manifest: TagManifest, facts: dict[str, Any]) -> list[str]:
    return [
        f"{facts['output']}/  tags by {', '.join(sorted(set(manifest.rules.values())))}; words by "
        f"{manifest.words}; {facts['seconds']:.1f} s",
        *(flow_line(name, flow) for name, flow in manifest.ledger.flows.items()),
        *(f"  note       {note}" for note in manifest.notes),
    ]
