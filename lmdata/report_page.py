"""The report on a dataset as a page: what `DataReport` holds, laid out; nothing is counted here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmdata.charts import Cell, Curves, Histogram, Series, Stacks
from lmdata.page import (
    Bar,
    Bars,
    Block,
    Fact,
    Facts,
    Group,
    Note,
    Page,
    Passage,
    Passages,
    Row,
    Section,
    Table,
    flat_settings,
)
from lmdata.report import DataReport, SplitReport
from lmdata.report_rows import PieceInText, Sample
from lmdata.schema import Flow
from lmdata.stats import ExampleStatistics, Lengths, Statistics, StoreStatistics

_KINDS = {"tokens": "token store", "examples": "example shards"}
_SETTINGS_SHOWN = 200


def data_page(report: DataReport) -> Page:
    """Return the page that shows a report."""
    kind = _KINDS.get(report.kind, report.kind)
    sections = [_overview(report), _flow(report), _verified(report)]
    for split in report.splits:
        sections += _split_sections(split)
    sections.append(_made_with(report))
    return Page(title=f"{report.path}: {kind}", subtitle=f"hash {report.hash}", sections=sections)


# ---- Of the whole dataset


def _overview(report: DataReport) -> Section:
    rows: list[Row] = []
    for split in report.splits:
        found = split.statistics
        num_rows = found.documents if isinstance(found, StoreStatistics) else found.examples
        pieces = found.pieces
        rows.append((
            split.split, num_rows, found.tokens, pieces.pieces_per_word, pieces.unknown_ratio,
            pieces.used,
        ))  # fmt: skip
    things = "documents" if report.kind == "tokens" else "examples"
    columns = ("split", things, "tokens", "pieces per word", "unknown", "pieces used")
    facts: list[Fact] = [
        ("verify", "fail" if report.num_failed else "pass"),
        ("checks that failed", report.num_failed),
        ("tokenizer", report.tokenizer.kind),
        ("vocabulary", report.tokenizer.vocab_size),
        ("source files", report.num_sources),
    ]
    table = Table(title="Splits", columns=columns, rows=rows, forms=("", "", "", ".3f", ".4%"))
    return Section(title="Overview", blocks=[Facts(facts=facts), table])


def _flow(report: DataReport) -> Section:
    blocks: list[Block] = [
        Note(
            "What was read is what was written plus what was dropped, by named reason. Hover over "
            "a bar for its numbers; the table holds all of them."
        )
    ]
    for stage in report.stages:
        blocks += flow_blocks(stage.name, stage.flows)
    columns = ("source", "bytes", "documents", "tokens")
    files: list[Row] = [(s.name, s.bytes, s.documents, s.tokens) for s in report.sources]
    blocks.append(Table(title="Largest source files", columns=columns, rows=files))
    return Section(title="From the source to each split", blocks=blocks)


def flow_blocks(name: str, flows: Mapping[str, Flow]) -> Iterator[Block]:
    """Yield what was read, written and dropped, as bars and as a table.

    Args:
        name: of what was done
        flows: by quantity
    """
    splits = list(dict.fromkeys(split for flow in flows.values() for split in flow.written))
    reasons = list(dict.fromkeys(reason for flow in flows.values() for reason in flow.dropped))
    lost = [own for own in reasons if any(flow.dropped.get(own) for flow in flows.values())]
    parts = (*splits, *lost)
    bars = [
        (
            quantity,
            [*(flow.written.get(s, 0) for s in splits), *(flow.dropped.get(r, 0) for r in lost)],
        )
        for quantity, flow in flows.items()
    ]
    yield Stacks(title=name.capitalize(), parts=parts, rows=bars)
    rows: list[Row] = []
    for quantity, flow in flows.items():
        rows.append((quantity, "read", flow.read))
        rows += [(quantity, f"written: {split}", count) for split, count in flow.written.items()]
        rows += [(quantity, f"dropped: {reason}", count) for reason, count in flow.dropped.items()]
    columns = ("quantity", "what became of it", "amount")
    yield Table(title=f"Ledger, {name}", columns=columns, rows=rows)


def _verified(report: DataReport) -> Section:
    rows: list[Row] = [
        (row.name, row.expected, row.observed, row.interval, row.verdict)
        for row in report.verification.rows
    ]
    columns = ("check", "expected", "observed", "interval", "verdict")
    note = Note(
        "Counts are exact. Intervals are five standard deviations wide, which a sound dataset "
        "leaves once in 1.7 million checks."
    )
    return Section(
        title="What verify found", blocks=[note, Table(title="Checks", columns=columns, rows=rows)]
    )


def _made_with(report: DataReport) -> Section:
    facts: list[Fact] = [
        ("made by", report.created_with),
        ("format version", report.format_version),
        ("tokenizer hash", report.tokenizer.hash),
    ]
    settings = list(flat_settings(report.settings).items())[:_SETTINGS_SHOWN]
    rows: list[Row] = [(name, value) for name, value in settings]
    notes: list[Block] = [Note(note) for note in report.notes]
    table = Table(title="Settings", columns=("setting", "value"), rows=rows)
    return Section(title="How it was made", blocks=[Facts(facts=facts), *notes, table])


# ---- Of a split


def _split_sections(report: SplitReport) -> Iterator[Section]:
    found, split = report.statistics, report.split
    yield Section(title=f"{split}: lengths", blocks=list(_lengths(found)))
    if isinstance(found, ExampleStatistics):
        yield Section(title=f"{split}: rows and padding", blocks=list(_rows(report, found)))
        yield Section(title=f"{split}: masks and pairs", blocks=list(_masks(report, found)))
    yield Section(title=f"{split}: pieces", blocks=list(_pieces(report)))
    yield Section(title=f"{split}: rows to read", blocks=list(_samples(report)))


def _lengths(found: Statistics) -> Iterator[Block]:
    if isinstance(found, StoreStatistics):
        lengths = {
            ("tokens of a document", "documents"): found.document_tokens,
            ("sentences of a document", "documents"): found.document_sentences,
            ("tokens of a sentence", "sentences"): found.sentence_tokens,
        }
        yield Facts(facts=[
            ("documents", found.documents), ("sentences", found.sentences),
            ("tokens", found.tokens), ("bytes of text a token", found.bytes_per_token, ".2f"),
        ])  # fmt: skip
    else:
        lengths = {("tokens of an example", "examples"): found.example_tokens}
        if found.second_segment_tokens is not None:
            lengths["tokens of segment B", "examples"] = found.second_segment_tokens
    yield Group([
        Histogram(
            title=name.capitalize(), x_label=name, things=things, edges=own.edges,
            counts=own.histogram, median=own.quantiles["50%"],
        )
        for (name, things), own in lengths.items()
    ])  # fmt: skip
    marks = next(iter(lengths.values())).quantiles
    columns = ("lengths", "count", "mean", "smallest", *marks, "largest")
    rows = [(name, *_summary(own)) for (name, _), own in lengths.items()]
    yield Table(title="Quantiles", columns=columns, rows=rows, forms=("", "", ".1f"))


def _summary(lengths: Lengths) -> Row:
    marks = lengths.quantiles.values()
    return (lengths.count, lengths.mean, lengths.smallest, *marks, lengths.largest)


def _rows(report: SplitReport, found: ExampleStatistics) -> Iterator[Block]:
    padding = report.padding
    assert padding is not None
    yield Facts(facts=[
        ("longest row that there may be", found.max_seq_length),
        ("rows are full to", found.fill, ".1%"),
        ("tokens", found.tokens),
        ("tokens if all rows were padded", padding.padded_tokens),
        ("padding avoided, tokens", padding.avoided_tokens),
        ("padding avoided, of all", padding.avoided_ratio, ".1%"),
    ])  # fmt: skip
    curve = Series(name="examples", points=report.reach_curve)
    yield Group([Curves(title="How many examples have each position", x_label="position",
                        y_label="examples", series=[curve], y_low=0)])  # fmt: skip


def _masks(report: SplitReport, found: ExampleStatistics) -> Iterator[Block]:
    names = {"expected": "promised", "low": "from", "high": "to"}
    rows: list[Row] = [
        (share.name, share.count, share.ratio, share.low, share.high, share.expected)
        for share in report.shares
    ]
    if found.masked_share:
        yield Facts(facts=[("masked, of all tokens", found.masked_share, ".2%")])
        curve = Series(name="share masked", points=report.mask_curve)
        level = Series(
            name="mean over all tokens", points=[(0, found.masked_share)], kind="level", colour=1
        )
        yield Group([Curves(title="Masks by position", x_label="position", y_label="share masked",
                            series=[curve, level], y_low=0)])  # fmt: skip
    columns = ("share", "how many", "observed", names["low"], names["high"], names["expected"])
    forms = ("", "", ".2%", ".2%", ".2%", ".2%")
    yield Table(title="Shares with 95 % intervals", columns=columns, rows=rows, forms=forms)


def _pieces(report: SplitReport) -> Iterator[Block]:
    use = report.statistics.pieces
    yield Facts(facts=[
        ("pieces per word", use.pieces_per_word, ".3f"),
        ("unknown tokens", report.num_unknown),
        ("unknown, of all tokens", use.unknown_ratio, ".4%"),
        ("pieces used", use.used),
        ("of a vocabulary of", use.vocab_size),
        ("pieces that never occur", report.num_unused),
    ])  # fmt: skip
    yield Group([
        Curves(title="Occurrences by rank", x_label="rank", y_label="occurrences",
               series=[Series(name="pieces", points=report.rank_curve, kind="dots")],
               x_is_log=True, y_is_log=True),
    ])  # fmt: skip
    yield Note(
        "Occurrences by rank are a straight line in natural text; a cliff at the end says that the "
        "vocabulary is larger than the text can fill."
    )
    yield _piece_bars("Unknown tokens, where they first occur", report.unknown)
    yield _piece_bars("Most frequent pieces", report.top)
    yield _piece_bars("Rarest pieces that occur", report.rare)
    if report.unused:
        title, columns = "Some pieces that never occur", ("piece",)
        rows: list[Row] = [(" · ".join(report.unused),)]
        yield Table(title=title, columns=columns, rows=rows)


def _piece_bars(title: str, pieces: tuple[PieceInText, ...]) -> Bars:
    columns = ("piece", "occurrences", "of all tokens", "example")
    bars = [Bar(name=one.piece, value=one.count, notes=(one.ratio, one.example)) for one in pieces]
    return Bars(title=title, columns=columns, bars=bars, note_forms=(".4%",))


def _samples(report: SplitReport) -> Iterator[Block]:
    if any(span.mark == "mask" for one in report.samples for line in one.lines for span in line):
        yield Note(
            "Blue: became [MASK]; red: became another piece, before the arrow; green: stayed as it "
            "is and is to be predicted. After each arrow stands what it was."
        )
    for why in dict.fromkeys(sample.why for sample in report.samples):
        own = [_passage(sample) for sample in report.samples if sample.why == why]
        yield Passages(title=_TITLES[why], passages=own)


_TITLES = {
    "random": "Drawn at random",
    "longest": "The longest",
    "shortest": "The shortest",
    "most unknown": "Fullest of unknown pieces",
}


def _passage(sample: Sample) -> Passage:
    facts: tuple[tuple[str, Cell], ...] = tuple(sample.facts.items())
    return Passage(title=f"Row {sample.row:,}", facts=facts, lines=sample.lines)
