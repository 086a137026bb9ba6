"""The report on tags as a page: what `TagReport` holds, laid out; nothing is counted here."""

from __future__ import annotations

from collections.abc import Iterator

from lmdata.charts import Curves, Series
from lmdata.config import config_to_dict
from lmdata.page import (
    Bar,
    Bars,
    Block,
    Facts,
    Group,
    Note,
    Page,
    Passage,
    Passages,
    Row,
    Section,
    Span,
    Table,
    flat_settings,
)
from lmdata.report_page import flow_blocks
from lmdata.tag_report import DocumentSample, PairSample, RuleReport, TagReport

_CURVES_SHOWN = 3


def tag_page(report: TagReport) -> Page:
    """Return the page that shows a report on tags."""
    sections = [
        _overview(report),
        *map(_rule, report.rules),
        _repeats(report),
        _evaluations(report),
        _languages(report),
        _made_with(report),
    ]
    return Page(title=f"{report.path}: tags", subtitle=f"hash {report.hash}", sections=sections)


def _overview(report: TagReport) -> Section:
    rules: list[Row] = [
        (rule.name, rule.version, rule.documents, rule.documents / max(report.documents, 1),
         rule.bytes, rule.bytes / max(report.bytes, 1))
        for rule in report.rules
    ]  # fmt: skip
    columns = ("rule", "version", "documents it drops", "share", "bytes", "share of bytes")
    blocks: list[Block] = [
        Facts(facts=[("documents", report.documents), ("bytes", report.bytes)]),
        Note(
            "Nothing is removed from the corpus. Of a recipe, a document is counted by the first "
            "condition that does not hold."
        ),
        Table(
            title="Rules, each alone",
            columns=columns,
            rows=rules,
            forms=("", "", "", ".2%", "", ".2%"),
        ),
    ]
    for recipe in report.recipes:
        blocks += flow_blocks(f"recipe {recipe.name}", recipe.flows)
    return Section(title="What would go", blocks=blocks)


def _rule(rule: RuleReport) -> Section:
    bars = [
        Bar(name=limit.reason, value=limit.documents, notes=(limit.bytes,)) for limit in rule.limits
    ]
    curves: list[Block] = [
        Curves(
            title=f"Documents that another limit would keep: {limit.reason}",
            x_label=limit.reason.split()[0], y_label="share kept", y_low=0.0,
            series=[
                Series(name="kept", points=limit.kept_curve),
                Series(name="the limit", points=((limit.value, 0.0), (limit.value, 1.0)),
                       kind="faint"),
            ],
        )
        for limit in sorted(rule.limits, key=lambda limit: -limit.documents)[:_CURVES_SHOWN]
        if limit.documents
    ]  # fmt: skip
    return Section(
        title=f"{rule.name} ({rule.version})",
        blocks=[
            Bars(title="Documents by the first limit that drops them",
                 columns=("limit", "documents", "bytes"), bars=bars),
            Group(curves),
            Group([_samples("Kept, nearest to the limit", rule.near_kept),
                   _samples("Dropped, nearest to the limit", rule.near_dropped)]),
            Group([_samples("Kept, any", rule.any_kept),
                   _samples("Dropped, any", rule.any_dropped)]),
        ],
    )  # fmt: skip


def _samples(title: str, samples: tuple[DocumentSample, ...]) -> Passages:
    return Passages(
        title=title,
        passages=[
            Passage(
                title=f"{sample.source}:{sample.position}",
                facts=((sample.said, ""), ("bytes", sample.bytes)),
                lines=((Span(sample.beginning),),),
            )
            for sample in samples
        ],
    )


def _repeats(report: TagReport) -> Section:
    rows: list[Row] = [
        (f"{size:,} documents", count, (size - 1) * count)
        for size, count in report.clusters if size > 1
    ]  # fmt: skip
    columns = ("overlapping by half", "components", "documents beside the first")
    common: list[Row] = [
        (own.source, own.documents, own.bytes, own.line_ratio, own.paragraph_ratio, own.mostly)
        for own in report.common
    ]
    return Section(
        title="Repeats",
        blocks=[
            Table(title="Components", columns=columns, rows=rows[:40]),
            Passages(title="Near duplicates that just go", passages=[*_pairs(report.near)]),
            Table(title="Lines and paragraphs of several documents of a source",
                  columns=("source", "documents", "bytes", "lines, of its bytes",
                           "paragraphs, of its bytes", "documents mostly so"),
                  rows=common, forms=("", "", "", ".2%", ".2%", "")),
            _samples("Documents whose lines others have too", report.common_samples),
            Table(title="Personal data", columns=("kind", "found", "documents with it"),
                  rows=list(report.pii)),
        ],
    )  # fmt: skip


def _pairs(pairs: tuple[PairSample, ...]) -> Iterator[Passage]:
    for pair in pairs:
        yield Passage(
            title=f"{pair.document.source}:{pair.document.position}",
            facts=((pair.said, ""), ("like", pair.where)),
            lines=((Span(pair.document.beginning),), (Span(pair.other, "strong"),)),
        )


def _evaluations(report: TagReport) -> Section:
    rows: list[Row] = [
        (name, own.texts, own.short_texts, own.passed_over) for name, own in report.against.items()
    ]
    columns = ("file", "texts", "of 4 to 7 words", "shorter, not looked for")
    return Section(
        title="Shared with evaluations",
        blocks=[
            Table(title="What was looked for", columns=columns, rows=rows),
            Passages(title="The longest runs", passages=[*_pairs(report.overlaps)]),
        ],
    )


def _languages(report: TagReport) -> Section:
    rows: list[Row] = [*report.languages]
    return Section(
        title="Languages",
        blocks=[Table(title="Languages", columns=("language", "documents", "bytes"), rows=rows)],
    )


def _made_with(report: TagReport) -> Section:
    settings = flat_settings(config_to_dict(report.configuration))
    sources: list[Row] = [(s.name, s.bytes, s.documents, s.xxh3) for s in report.sources]
    return Section(
        title="Made with",
        blocks=[
            Facts(facts=[("package", report.created_with), ("words", report.words),
                         ("source files", report.num_sources)]),
            Table(title="Rules", columns=("column", "version"), rows=list(report.versions.items())),
            Table(title="Settings", columns=("setting", "value"), rows=list(settings.items())),
            Table(title="Largest source files", columns=("source", "bytes", "documents", "xxh3"),
                  rows=sources),
            *flow_blocks("the corpus", report.flows),
        ],
    )  # fmt: skip
