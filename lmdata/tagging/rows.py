"""Rows of tags, when all documents are known: figures, verdicts, repeats, shared text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lmdata.batch import to_array, to_column, to_text_column
from lmdata.tagging import overlaps, perplexity, repeats
from lmdata.tagging.overlaps import Overlaps
from lmdata.tagging.perplexity import PerplexityTagger, Thirds
from lmdata.tagging.repeats import Repeats
from lmdata.tagging.rules import ABSTAINS, RULES, figures_of, judge, rules_told
from lmdata.tagging.taggers import Tagger
from lmdata.tagging.units import SCRATCH, part_fields


def is_scored(taggers: Sequence[Tagger]) -> bool:
    """Return whether some tagger tells perplexities."""
    return any(isinstance(tagger, PerplexityTagger) for tagger in taggers)


def tag_schema(taggers: Sequence[Tagger], *, is_compared: bool = False) -> pa.Schema:
    """Return the Arrow schema of tags, one row a document, in the order of the corpus.

    Args:
        taggers: whose columns there are
        is_compared: with evaluations

    Example:
        >>> tag_schema([]).field("gopher_quality").type
        DataType(bool)
    """
    text = pa.dictionary(pa.int32(), pa.string())
    reasons = pa.dictionary(pa.int8(), pa.string())
    rules = rules_told(field.name for field in part_fields(taggers))
    return pa.schema([
        pa.field("source", text, nullable=False),
        *(field for field in part_fields(taggers)[1:] if field.name not in SCRATCH),
        *(pa.field(rule, pa.bool_()) for rule in rules),
        *(pa.field(f"{rule}_reason", reasons) for rule in rules),
        *repeats.FIELDS,
        *(perplexity.FIELDS if is_scored(taggers) else ()),
        *(overlaps.FIELDS if is_compared else ()),
    ])  # fmt: skip


@dataclass(frozen=True)
class Whole:
    """What takes the whole corpus to know."""

    repeats: Repeats
    shared: Overlaps | None  # with evaluations
    thirds: Thirds | None  # by perplexity

    def notes(self) -> tuple[str, ...]:
        """Say what was found."""
        return self.repeats.notes() + (self.thirds.notes() if self.thirds else ())


def finish_rows(
    part: pa.RecordBatch, whole: Whole, row: int, names: pa.Array, records: Counter[str],
    schema: pa.Schema,
) -> pa.RecordBatch:  # fmt: skip
    """Return rows of a part as tags.

    Args:
        part: of a unit
        whole: what was found of all documents
        row: of the first
        names: of the sources
        records: lines or records of each source in the units before
        schema: of tags
    """
    sources = to_array(part.column("source"))
    before = np.array([records[str(source)] for source in sources.tolist()], np.uint64)
    rules = rules_told(part.schema.names)
    figures = {name: to_array(part.column(name)) for name in (*figures_of(rules), "unspaced_ratio")}
    verdicts = {rule: judge(figures, rule) for rule in rules}
    columns = [
        pa.DictionaryArray.from_arrays(part.column("source"), names),
        to_column(to_array(part.column("position")) + before),
        *part.columns[2 : part.num_columns - len(SCRATCH)],
        *(pa.array(verdict < 0, mask=verdict == ABSTAINS) for verdict in verdicts.values()),
        *(_reasons(rule, verdict) for rule, verdict in verdicts.items()),
        *whole.repeats.columns(part, row),
        *(whole.thirds.columns(part) if whole.thirds else ()),
        *(whole.shared.columns(*found_in(part)) if whole.shared else ()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def found_in(part: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return what documents of a part share with evaluations, as `OverlapIndex.find` does."""
    column = part.column("found")
    ends = to_array(column.offsets)
    return to_array(column.flatten().flatten()).reshape(-1, 4), ends - ends[0]


def _reasons(rule: str, verdict: np.ndarray) -> pa.DictionaryArray:
    texts = to_text_column([limit.reason for limit in RULES[rule]])
    return pa.DictionaryArray.from_arrays(to_column(verdict, verdict >= 0), texts)
