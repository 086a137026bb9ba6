"""All that a page says of tags, as data: what would go and why, kept and dropped side by side.

It is counted from the tags alone, and the beginnings of documents that are kept with them. The same
tags give the same report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_array
from lmdata.charts import thin
from lmdata.schema import Flow, SourceRecord
from lmdata.selection import balance
from lmdata.settings import TagConfig
from lmdata.tagging.conditions import RECIPES, recipe_condition
from lmdata.tagging.expressions import find_first_failed
from lmdata.tagging.manifests import EvaluationRecord, TagManifest, read_tag_manifest, read_tags
from lmdata.tagging.pii import KINDS
from lmdata.tagging.rules import RULES, Limit, rules_told

NUM_SAMPLES, NUM_LISTED, NUM_SOURCES = 5, 12, 20
_MOSTLY = 0.5  # of a document
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class DocumentSample:
    """A document to read, and what is said of it."""

    source: str
    position: int
    bytes: int
    beginning: str
    said: str


@dataclass(frozen=True, kw_only=True)
class LimitReport:
    """One limit of a rule: what it drops first, and what another value would."""

    reason: str
    documents: int
    bytes: int
    kept_curve: tuple[tuple[float, float], ...]  # limit -> share of documents that it would keep
    value: float


@dataclass(frozen=True, kw_only=True)
class RuleReport:
    """One rule: what it keeps and drops; samples as near to its limit as there are, and any."""

    name: str
    version: str
    documents: int  # that it drops
    bytes: int
    limits: tuple[LimitReport, ...]
    near_kept: tuple[DocumentSample, ...]
    near_dropped: tuple[DocumentSample, ...]
    any_kept: tuple[DocumentSample, ...]
    any_dropped: tuple[DocumentSample, ...]


@dataclass(frozen=True, kw_only=True)
class RecipeReport:
    """What one of the named recipes would leave."""

    name: str
    where: str
    flows: dict[str, Flow]


@dataclass(frozen=True, kw_only=True)
class PairSample:
    """A document that repeats another, or shares text with an evaluation."""

    document: DocumentSample
    other: str  # how the other begins, or what is shared
    where: str  # it stands
    said: str


@dataclass(frozen=True, kw_only=True)
class CommonReport:
    """How much of a source are lines that stand in several of its documents."""

    source: str
    documents: int
    bytes: int
    line_ratio: float  # of its bytes
    paragraph_ratio: float
    mostly: int  # documents that are so to more than half


@dataclass(frozen=True, kw_only=True)
class TagReport:
    """What there is to say of tags."""

    path: str
    hash: str
    created_with: str
    configuration: TagConfig
    words: str
    versions: dict[str, str]
    notes: tuple[str, ...]
    flows: dict[str, Flow]
    documents: int
    bytes: int
    recipes: tuple[RecipeReport, ...]
    rules: tuple[RuleReport, ...]
    languages: tuple[tuple[str, int, int], ...]  # label, documents, bytes
    clusters: tuple[tuple[int, int], ...]  # documents of a component, how many such components
    near: tuple[PairSample, ...]
    common: tuple[CommonReport, ...]  # sources with the largest share
    common_samples: tuple[DocumentSample, ...]
    against: dict[str, EvaluationRecord]
    overlaps: tuple[PairSample, ...]
    pii: tuple[tuple[str, int, int], ...]  # kind, how many, in how many documents
    num_sources: int
    sources: tuple[SourceRecord, ...]  # the largest


def tag_report(path: Path) -> TagReport:
    """Return the report on tags.

    Raises:
        IntegrityError: they are not whole
    """
    manifest = read_tag_manifest(path)
    table = read_tags(path, manifest)
    rows = _Rows(table)
    sources = sorted(manifest.sources, key=lambda source: (-source.bytes, source.name))
    return TagReport(
        path=str(path),
        hash=manifest.hash,
        created_with=manifest.created_with,
        configuration=manifest.configuration,
        words=manifest.words,
        versions=manifest.rules,
        notes=manifest.notes,
        flows=manifest.ledger.flows,
        documents=len(table),
        bytes=int(rows.num_bytes.sum()),
        recipes=tuple(_report_recipes(table, manifest)),
        rules=tuple(
            _report_rule(rows, name, manifest.rules[name])
            for name in rules_told(table.column_names)
        ),
        languages=tuple(_count_languages(rows)),
        clusters=_count_clusters(rows),
        near=tuple(_near_pairs(rows)),
        common=tuple(_report_common(rows)),
        common_samples=_sample_common(rows),
        against=manifest.against,
        overlaps=tuple(_overlaps(rows)),
        pii=tuple(
            (kind, int(found.sum()), int((found > 0).sum()))
            for kind in KINDS
            for found in [rows.numbers(f"num_{kind}s")]
        ),
        num_sources=len(sources),
        sources=tuple(sources[:NUM_SOURCES]),
    )


class _Rows:
    """Tags by column, and documents of them to read."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.num_bytes = self.numbers("num_bytes").astype(np.int64)
        self.keys = self.numbers("hash_low")  # an order that knows no files

    def has(self, name: str) -> bool:
        return name in self.table.column_names

    def numbers(self, name: str) -> np.ndarray:
        return to_array(self.table.column(name).combine_chunks())

    def truths(self, name: str) -> npt.NDArray[np.bool_]:
        return np.asarray(self.table.column(name).to_numpy(), bool)

    def sources(self) -> tuple[list[str], I64]:
        """Return names of sources, and which of them each row is of."""
        column = self.table.column("source").unify_dictionaries().combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        return column.dictionary.to_pylist(), to_array(column.indices).astype(np.int64)

    def texts(self, name: str, rows: I64) -> list[str]:
        return [str(text) for text in self.table.column(name).take(pa.array(rows)).to_pylist()]

    def samples(self, rows: I64, said: list[str]) -> tuple[DocumentSample, ...]:
        found = zip(
            self.texts("source", rows), self.numbers("position")[rows].tolist(),
            self.num_bytes[rows].tolist(), self.texts("beginning", rows), said, strict=True,
        )  # fmt: skip
        return tuple(
            DocumentSample(source=a, position=b, bytes=c, beginning=d, said=e)
            for a, b, c, d, e in found
        )


def _report_recipes(table: pa.Table, manifest: TagManifest) -> Iterator[RecipeReport]:
    for name in RECIPES:
        where = recipe_condition(name, manifest)
        first_failed, reasons = find_first_failed(table, where)
        flows = balance(table, first_failed, reasons).flows
        yield RecipeReport(name=name, where=where, flows=flows)


def _report_rule(rows: _Rows, name: str, version: str) -> RuleReport:
    is_kept, limits = rows.truths(name), RULES[name]
    is_against = ~is_kept & rows.table.column(name).is_valid().to_numpy()
    reasons = np.array(rows.table.column(f"{name}_reason").cast(pa.string()).to_pylist(), object)
    found = tuple(_report_limit(rows, limit, reasons == limit.reason) for limit in limits)
    most = limits[int(np.argmax([limit.documents for limit in found]))]
    values = rows.numbers(most.figure).astype(np.float64)
    distance = np.abs(np.nan_to_num(values, nan=np.inf) - most.value)
    is_dropped = reasons == most.reason

    def pick(among: npt.NDArray[np.bool_], by: np.ndarray) -> tuple[DocumentSample, ...]:
        places = np.flatnonzero(among)
        chosen = places[np.lexsort((rows.keys[places], by[places]))[:NUM_SAMPLES]]
        said = [f"{most.figure} {value:.4g}" for value in values[chosen].tolist()]
        said = [f"{a}; {reasons[row]}" if reasons[row] else a
                for a, row in zip(said, chosen.tolist(), strict=True)]  # fmt: skip
        return rows.samples(chosen, said)

    return RuleReport(
        name=name, version=version, documents=int(is_against.sum()),
        bytes=int(rows.num_bytes[is_against].sum()), limits=found,
        near_kept=pick(is_kept, distance), near_dropped=pick(is_dropped, distance),
        any_kept=pick(is_kept, rows.keys), any_dropped=pick(is_against, rows.keys),
    )  # fmt: skip


def _report_limit(rows: _Rows, limit: Limit, is_first: npt.NDArray[np.bool_]) -> LimitReport:
    values = np.sort(np.nan_to_num(rows.numbers(limit.figure).astype(np.float64)))
    points, firsts = np.unique(values, return_index=True)
    ends = np.append(firsts[1:], len(values))
    kept = (len(values) - firsts if limit.side == "below" else ends) / max(len(values), 1)
    return LimitReport(
        reason=limit.reason, documents=int(is_first.sum()),
        bytes=int(rows.num_bytes[is_first].sum()), value=limit.value,
        kept_curve=thin(list(zip(points.tolist(), kept.tolist(), strict=True))),
    )  # fmt: skip


def _count_languages(rows: _Rows) -> Iterator[tuple[str, int, int]]:
    if not rows.has("language"):
        return
    names, codes = np.unique(
        np.array(rows.table.column("language").to_pylist(), np.str_), return_inverse=True
    )
    counts, sizes = np.bincount(codes), np.bincount(codes, rows.num_bytes)
    for place in np.argsort(-counts, kind="stable")[:NUM_LISTED].tolist():
        yield str(names[place]), int(counts[place]), int(sizes[place])


def _count_clusters(rows: _Rows) -> tuple[tuple[int, int], ...]:
    _, sizes = np.unique(rows.numbers("component"), return_counts=True)
    found, counts = np.unique(sizes, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


def _near_pairs(rows: _Rows) -> Iterator[PairSample]:
    """Yield near duplicates that just go, with the document that stays."""
    places, jaccard = np.flatnonzero(rows.truths("near_duplicate")), rows.numbers("near_jaccard")
    places = places[np.lexsort((rows.keys[places], jaccard[places]))[:NUM_SAMPLES]]
    others = rows.table.column("near_of").take(pa.array(places)).to_numpy().astype(np.int64)
    said = [f"Jaccard {value:.3f}" for value in jaccard[places].tolist()]
    yield from _pairs(rows, places, rows.samples(others, said))


def _pairs(rows: _Rows, places: I64, others: tuple[DocumentSample, ...]) -> Iterator[PairSample]:
    documents = rows.samples(places, [other.said for other in others])
    for document, other in zip(documents, others, strict=True):
        yield PairSample(
            document=document, other=other.beginning, where=f"{other.source}:{other.position}",
            said=other.said,
        )  # fmt: skip


def _report_common(rows: _Rows) -> Iterator[CommonReport]:
    """Yield sources by the share of their bytes that are lines of several documents."""
    if not rows.has("common_line_byte_ratio"):  # of tags of an earlier version
        return
    names, numbers = rows.sources()
    lines, paragraphs = (
        rows.numbers(f"common_{kind}_byte_ratio") for kind in ("line", "paragraph")
    )
    counts, sizes = np.bincount(numbers), np.bincount(numbers, rows.num_bytes)
    by_lines, by_paragraphs = (
        np.bincount(numbers, ratios * rows.num_bytes) / np.maximum(sizes, 1)
        for ratios in (lines, paragraphs)
    )
    mostly = np.bincount(numbers, lines > _MOSTLY)
    for place in np.argsort(-by_lines, kind="stable")[:NUM_SOURCES].tolist():
        if by_lines[place]:
            yield CommonReport(
                source=names[place], documents=int(counts[place]), bytes=int(sizes[place]),
                line_ratio=float(by_lines[place]), paragraph_ratio=float(by_paragraphs[place]),
                mostly=int(mostly[place]),
            )  # fmt: skip


def _sample_common(rows: _Rows) -> tuple[DocumentSample, ...]:
    """Return documents of which the largest share are lines that others have too."""
    if not rows.has("common_line_byte_ratio"):
        return ()
    ratios = rows.numbers("common_line_byte_ratio")
    places = np.flatnonzero(ratios)
    places = places[np.lexsort((rows.keys[places], -ratios[places]))[:NUM_SAMPLES]]
    return rows.samples(places, [f"{ratio:.0%} of it" for ratio in ratios[places].tolist()])


def _overlaps(rows: _Rows) -> Iterator[PairSample]:
    """Yield documents that share most words in one run with an evaluation."""
    if not rows.has("eval_longest"):
        return
    longest = rows.numbers("eval_longest")
    places = np.flatnonzero(longest)
    places = places[np.lexsort((rows.keys[places], -longest[places]))[:NUM_LISTED]]
    said = [f"{words} words in one run" for words in longest[places].tolist()]
    documents = rows.samples(places, said)
    texts, items = rows.texts("eval_text", places), rows.texts("eval_item", places)
    for document, text, item in zip(documents, texts, items, strict=True):
        yield PairSample(document=document, other=text, where=item, said=document.said)
