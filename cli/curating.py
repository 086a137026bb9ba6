"""The verbs of `lmdata` that say which documents are read: tag, select, clean; groups by tags."""

from __future__ import annotations

import functools
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.errors import counted

from .options import (
    FOLDER,
    NAME,
    F,
    config_option,
    echo_part,
    echo_result,
    engine_options,
    num_cores,
    num_workers_option,
    output_option,
    overwrite_option,
    part_option,
    reading_options,
    resolve,
    result_options,
    say,
    set_option,
    start_engine,
)
from .summaries import ProgressLine, dataset_summary, flow_line, passed_over_lines, size

if TYPE_CHECKING:
    from lmdata.building.resumable import Part, PartDone
    from lmdata.building.workers import Workers
    from lmdata.chosen import SelectionManifest
    from lmdata.comparison import Comparison
    from lmdata.mixing import MixtureConfig
    from lmdata.settings import TagConfig
    from lmdata.tagging.manifests import TagManifest
    from lmdata.tagging.perplexity import Scorer
    from lmmodel.evaluation import FindGroups

_MOST_NOTES, _MOST_GROUPS = 5, 12


def tagging_options(function: F) -> F:
    """What is measured of documents beside what always is."""
    options = [
        click.option("--against", type=FOLDER, multiple=True, metavar="EVAL",
                     help="Files or folders of evaluations to compare with; may be given again."),
        click.option("--perplexity", "ngrams_path", type=FOLDER, metavar="MODEL",
                     help="Also how surprised this n-gram model is by each document; `lmmodel "
                          "count` makes one."),
        click.option("--words", type=click.Choice(["plain", "spacy"]),
                     help="How text is cut into words; spacy gives datatrove's figures.  "
                          "[default: plain]"),
        click.option("--language", type=click.Choice(["none", "py3langid"]),
                     help="What tells the language of each document.  [default: none]"),
        click.option("--language-model", metavar="FILE",
                     help="A fastText model that tells the language instead."),
        click.option("--rules", multiple=True, metavar="NAME",
                     help="Rules to measure too, as gopher@dolma or german; may be given again."),
        click.option("--stop-words", metavar="FILE",
                     help="Words by white space that any text holds, for the recipe own; 'derive': "
                          "of the corpus."),
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


where_option = click.option(
    "--where", metavar="SQL", help="Condition over the tags, such as 'c4 and num_words > 100'."
)
select_option = click.option(
    "--select", "selection_path", type=FOLDER,
    help="Read only the documents of this selection, from `lmdata select`.",
)  # fmt: skip
recipe_option = click.option(
    "--recipe", metavar="NAME",
    help="Condition by its name: english, distinct, another language, or own.",
)  # fmt: skip


@click.command()
@click.argument("corpus", type=NAME, nargs=-1, required=True)
@tagging_options
@part_option
@engine_options
@reading_options
@output_option("tags", is_anywhere=True)
@num_workers_option
@overwrite_option
@config_option
@set_option
@result_options
def tag(
    corpus: tuple[str, ...], against: tuple[Path, ...], ngrams_path: Path | None,
    part: Part | None, engine: str, address: str | None, output: Path | str,
    num_workers: int | None, overwrite: bool, stop_words: str | None, config_path: Path | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure every document once: what the rules of Gopher, C4 and FineWeb ask, and repeats.

    Nothing is removed. `lmdata select` decides, from the tags alone, what is read.

    \b
    Example: lmdata tag corpus/
    Example: lmdata tag corpus/ --against eval/
    """
    from lmdata.building.resumable import PartDone
    from lmdata.settings import TagConfig
    from lmdata.tagging.conditions import NAMES

    start = time.perf_counter()
    for name, value in {"--against": against, "--perplexity": ngrams_path}.items():
        if part is not None and value:
            raise click.UsageError(f"{name} needs the whole corpus at once: leave --part out")
    workers = start_engine("tags", engine, address, num_workers)
    config = resolve(TagConfig, config_path, overrides, **options)
    manifest, skipped = _tag(
        corpus, against, ngrams_path, output, num_workers, overwrite, quiet, config, stop_words,
        part, workers,
    )  # fmt: skip
    if isinstance(manifest, PartDone):
        return echo_part(manifest, output, as_json=as_json, quiet=quiet)
    facts = dataset_summary(manifest, output, time.perf_counter() - start)
    lines = [*_tag_lines(manifest, facts), *passed_over_lines(skipped)]
    named = [name for name in config.rules or () if name in NAMES]
    recipe = named[0] if named else "own" if stop_words else "english"
    lines.append(f"next: lmdata select {output} --recipe {recipe}")
    return echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


@click.command()
@click.argument("tags", type=FOLDER, default="tags")
@where_option
@recipe_option
@click.option("--replace-pii", is_flag=True,
              help="Have personal data replaced by its kind when text is tokenized.")  # fmt: skip
@output_option("selection")
@overwrite_option
@config_option
@set_option
@result_options
def select(
    tags: Path, where: str | None, recipe: str | None, replace_pii: bool, output: Path,
    overwrite: bool, config_path: Path | None, overrides: tuple[str, ...], as_json: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Choose documents by a condition over their tags, in SQL, and how often each is read.

    No text is read. Of conditions joined by AND, the first that does not hold is the reason that
    is counted. Settings of the mixture (--set, --config) are in docs/curation.md.

    \b
    Example: lmdata select tags/ --recipe english
    Example: lmdata select tags/ --where "gopher_quality and not duplicate and num_words > 100"
    Example: lmdata select tags/ --recipe english --set by=language --set temperature=3
    """
    _check_choice(where, recipe)
    mixture = _mixture(config_path, overrides)
    _select(tags, where, recipe, output, overwrite, as_json, quiet, mixture, replace_pii)


@click.command()
@click.argument("corpus", type=NAME, nargs=-1, required=True)
@where_option
@recipe_option
@tagging_options
@reading_options
@click.option("--tags", type=FOLDER, default="tags", show_default=True, help="Tags to write.")
@output_option("selection")
@num_workers_option
@overwrite_option
@config_option
@set_option
@result_options
def clean(
    corpus: tuple[str, ...], where: str | None, recipe: str | None, against: tuple[Path, ...],
    stop_words: str | None, ngrams_path: Path | None, tags: Path, output: Path,
    num_workers: int | None, overwrite: bool, config_path: Path | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Tag a corpus, select from it and report on the tags, in one.

    \b
    Example: lmdata clean corpus/ --recipe english
    """
    _check_choice(where, recipe)
    from lmdata.settings import TagConfig
    from lmdata.tagging.conditions import rules_wanted

    rules, words = rules_wanted(recipe)
    options["rules"] = (*options["rules"], *rules)
    config = resolve(TagConfig, config_path, overrides, **options)
    from lmdata.page import check_writable, write_page
    from lmdata.tag_page import tag_page
    from lmdata.tag_report import tag_report

    page_path = tags.parent / f"{tags.resolve().name}-report.html"
    check_writable(page_path, overwrite=overwrite)
    _tag(corpus, against, ngrams_path, tags, num_workers, overwrite, quiet, config,
         stop_words or words)  # fmt: skip
    write_page(tag_page(tag_report(tags)), page_path, overwrite=overwrite)
    if not (quiet or as_json):
        say(f"{page_path} shows what the rules would drop, and why")
    _select(tags, where, recipe, output, overwrite, as_json, quiet)


@click.command()
@click.argument("one", type=FOLDER)
@click.argument("other", type=FOLDER)
@result_options
def compare(one: Path, other: Path, as_json: bool, quiet: bool) -> None:
    """Say which documents one selection reads and another does not, why, with some to read.

    \b
    Example: lmdata compare selection/ selection-strict/
    """
    from lmdata.comparison import compare_selections

    found = compare_selections(one, other)
    echo_result(found, as_json=as_json, quiet=quiet, lines=_comparison_lines(found))


_NUM_SHOWN = 5  # documents that have moved; --json lists all


def _comparison_lines(found: Comparison) -> list[str]:
    lines = [f"{path}/  {where}" for path, where in zip(found.paths, found.where, strict=True)]
    lines.append(
        f"  both       {found.both:,} documents; {found.other_repeats:,} of them another number of "
        f"times; {found.other_components:,} in another component"
    )
    places = (f"{source}:{place}" for source, own in found.moved.items() for place in own)
    lines += [f"    {place}  in another component" for place in islice(places, _NUM_SHOWN)]
    for only in found.only:
        lines.append(f"  only {only.path}/  {counted(only.documents, 'document')}")
        lines += [f"    {count:>10,}  {reason}" for reason, count in only.reasons.items()]
        lines += [
            f"    {sample.source}:{sample.position}  {sample.said}: {sample.beginning}"
            for sample in only.samples
        ]
    return lines


def _tag(
    corpus: tuple[str, ...], against: tuple[Path, ...], ngrams_path: Path | None,
    output: Path | str, num_workers: int | None, overwrite: bool, quiet: bool, config: TagConfig,
    stop_words: str | None = None, part: Part | None = None, workers: Workers | None = None,
) -> tuple[TagManifest | PartDone, dict[str, list[str]]]:  # fmt: skip
    from lmdata.build import check_part
    from lmdata.building.workers import WorkerPool
    from lmdata.reading.sources import survey_sources

    # The workers load their kernels while this process reads what the corpus is compared with.
    room = "lmdata.tagging.units:prepare_tags"
    with closing(workers or WorkerPool(num_workers or num_cores(), room)) as pool:
        from lmdata.tagging.evaluations import read_evaluations
        from lmdata.tagging.stop_words import own_words
        from lmdata.tags import tag_corpus

        evaluations, scorer = read_evaluations(against), _open_scorer(ngrams_path, quiet)
        survey = survey_sources(corpus, config.corpus)
        if part is not None:
            check_part(survey.sources, overwrite=overwrite)
        if stop_words is not None:
            config = replace(config, own_words=own_words(stop_words, survey.sources, config.corpus))
        for note in () if quiet else survey.notes:
            say(note)
        with ProgressLine("tagging", unit="bytes", quiet=quiet) as line:
            manifest = tag_corpus(
                survey.sources, config, output, overwrite=overwrite, evaluations=evaluations,
                part=part, workers=pool, scorer=scorer,
                progress=lambda done, total, documents: line.update(done, total),
            )  # fmt: skip
    return manifest, survey.skipped


def _open_scorer(path: Path | None, quiet: bool) -> Scorer | None:
    if path is None:
        return None
    from lmmodel.ngrams import NgramScorer

    scorer = NgramScorer(path.resolve())
    version = scorer.version  # opened before anything is read
    if not quiet:
        say(f"perplexities by {version}")
    return scorer


def _check_choice(where: str | None, recipe: str | None) -> None:
    if (where is None) == (recipe is None):
        raise click.UsageError(
            "say what to choose by: either --where with a condition, or --recipe with its name"
        )


def _select(
    tags: Path, where: str | None, recipe: str | None, output: Path, overwrite: bool,
    as_json: bool, quiet: bool, mixture: MixtureConfig | None = None, replaces_pii: bool = False,
) -> None:  # fmt: skip
    from lmdata.selection import select_documents
    from lmdata.tagging.conditions import recipe_condition
    from lmdata.tagging.manifests import read_tag_manifest

    start = time.perf_counter()
    if where is None:
        where = recipe_condition(str(recipe), read_tag_manifest(tags))
    manifest = select_documents(
        tags, where, output, mixture=mixture, replaces_pii=replaces_pii, overwrite=overwrite
    )
    facts = dataset_summary(manifest, output, time.perf_counter() - start)
    lines = [
        f"{output}/  {where}",
        *(flow_line(name, flow) for name, flow in manifest.ledger.flows.items()),
        *_group_lines(manifest),
        *(f"  note       {note}" for note in manifest.notes[:_MOST_NOTES]),
        *_more_notes(len(manifest.notes) - _MOST_NOTES),
        f"next: lmdata tokenize CORPUS --select {output}",
    ]
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


def _mixture(config_path: Path | None, overrides: tuple[str, ...]) -> MixtureConfig | None:
    from lmdata.mixing import MixtureConfig

    return resolve(MixtureConfig, config_path, overrides) if config_path or overrides else None


def _group_lines(manifest: SelectionManifest) -> list[str]:
    """Return what is read of each group, by phase."""
    groups = manifest.groups or ()
    lines = []
    for group in sorted(groups, key=lambda group: -sum(group.read_bytes))[:_MOST_GROUPS]:
        read = ", ".join(
            f"{documents:,} documents ({size(own)}, {own / max(group.bytes, 1):.2f} x)"
            for documents, own in zip(group.read_documents, group.read_bytes, strict=True)
        )
        lines.append(
            f"  read       {group.name}: {read} of {group.documents:,} ({size(group.bytes)})"
        )
    if len(groups) > _MOST_GROUPS:
        lines.append(f"  read       and of {len(groups) - _MOST_GROUPS:,} more groups")
    return lines


def _more_notes(count: int) -> list[str]:
    return [f"  note       and {count:,} more sources"] if count > 0 else []


def _tag_lines(manifest: TagManifest, facts: dict[str, Any]) -> list[str]:
    return [
        f"{facts['output']}/  tags by {', '.join(sorted(set(manifest.rules.values())))}; words by "
        f"{manifest.words}; {facts['seconds']:.1f} s",
        *(flow_line(name, flow) for name, flow in manifest.ledger.flows.items()),
        *(f"  note       {note}" for note in manifest.notes),
    ]


def group_options(function: F) -> F:
    """`--by-source`, `--by` and `--tags`, of which `grouping` makes one answer."""
    options = [
        click.option("--by-source", is_flag=True,
                     help="Also for each source file; token stores only."),
        click.option("--by", "by_tag", metavar="SQL",
                     help="Also for each group: by `source`, or by a tag or expression of --tags."),
        click.option("--tags", "tags_path", type=FOLDER, help="Of --by, from `lmdata tag`."),
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


def grouping(by_source: bool, by: str | None, tags_path: Path | None) -> str | None:
    """Return by what documents are grouped, None where they are not."""
    if by_source and by:
        raise click.UsageError("--by-source is --by source: give one of them")
    by = "source" if by_source else by
    if by is None and tags_path is not None:
        raise click.UsageError("--tags are for --by: say which tag makes the groups")
    if by not in (None, "source") and tags_path is None:
        raise click.UsageError(f"--by {by} needs the tags: give --tags with their folder")
    return by


def open_tag_groups(tags_path: Path | None, by: str) -> FindGroups | None:
    """Return what finds the groups of documents; None where each source is one."""
    if tags_path is None:
        return None
    from lmdata.tag_groups import open_groups

    return open_groups(tags_path, by).find
