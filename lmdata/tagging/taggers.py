"""What is told of a document beside the named rules: an object for each, columns with a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from lmdata.batch import to_column, to_list_column, to_text_column
from lmdata.errors import ConfigError
from lmdata.settings import TagConfig
from lmdata.tagging.language import LanguageModel
from lmdata.tagging.pii import KINDS, find_pii
from lmdata.tagging.pii import VERSION as PII_VERSION
from lmdata.tagging.rules import COUNTS, VERSIONS, figures_of
from lmdata.tagging.variants import measure_dclm, measure_dolma
from lmdata.tagging.words import Figures, Offsets, Text, Words


@dataclass(frozen=True)
class Batch:
    """Some documents, D of them, cut into words once for all taggers.

    Attributes:
        documents: UTF-8 of each
        text: uint8 (N,), all of them
        offsets: int64 (D + 1,), where they begin
        words: of the documents
    """

    documents: Sequence[bytes]
    text: Text
    offsets: Offsets
    words: Words


class Tagger(Protocol):
    """Tells something of each document, whatever stands beside it."""

    @property
    def versions(self) -> dict[str, str]:
        """Column -> name and version of what made it."""

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Its columns."""

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""


class LanguageTagger:
    """Language of a document, how sure that is, and which one comes second."""

    fields = (
        pa.field("language", pa.string(), nullable=False),
        pa.field("language_score", pa.float64(), nullable=False),
        pa.field("second_language", pa.string(), nullable=False),
    )

    def __init__(self) -> None:
        self._model = LanguageModel()
        self.versions = {field.name: self._model.version for field in self.fields}

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        first, scores, second = zip(*map(self._model.label, batch.documents), strict=True)
        return [to_text_column(first), to_column(np.array(scores)), to_text_column(second)]


class PiiTagger:
    """How much personal data of each kind a document holds, and where.

    `pii` lists, for each finding, its number in `KINDS`, its first byte, and the byte behind it.
    """

    fields = (
        *(pa.field(f"num_{kind}s", pa.int64(), nullable=False) for kind in KINDS),
        pa.field("pii", pa.large_list(pa.int64()), nullable=False),
    )
    versions = {field.name: PII_VERSION for field in fields}  # noqa: RUF012

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        found = [find_pii(document) for document in batch.documents]
        counts = np.array([[[f.kind for f in own].count(kind) for kind in KINDS] for own in found])
        values = [number for own in found for f in own for number in (KINDS.index(f.kind), *f[1:])]
        offsets = np.cumsum([0, *(3 * len(own) for own in found)])
        spans = to_list_column(np.array(values, np.int64), offsets, pa.large_list(pa.int64()))
        return [*(to_column(np.ascontiguousarray(column)) for column in counts.T), spans]


class RuleTagger:
    """Figures of rules that are measured where they are asked for."""

    def __init__(self, rules: Sequence[str], measure: Callable[..., Figures]) -> None:
        names = figures_of(rules)
        self.versions = {rule: VERSIONS[rule] for rule in rules}
        self.fields = tuple(
            pa.field(name, pa.int64() if name in COUNTS else pa.float64(), nullable=False)
            for name in names
        )
        self._measure = measure

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        figures = self._measure(batch.text, batch.offsets, batch.words)
        return [to_column(np.ascontiguousarray(figures[field.name])) for field in self.fields]


RULE_TAGGERS: dict[str, Callable[[], Tagger]] = {
    "gopher@dolma": lambda: RuleTagger(
        ("gopher_quality_dolma", "gopher_repetition_dolma"), measure_dolma
    ),
    "gopher@dclm": lambda: RuleTagger(
        ("gopher_quality_dclm", "gopher_repetition_dclm"), measure_dclm
    ),
}
"""Rules by the names by which they are asked for."""


def make_taggers(config: TagConfig) -> list[Tagger]:
    """Return the taggers of a configuration.

    Raises:
        ConfigError: there are no such rules, or a package is not installed
    """
    unknown = [name for name in config.rules or () if name not in RULE_TAGGERS]
    if unknown:
        raise ConfigError(
            f"rules: there are none by the name {unknown[0]!r}; there are "
            f"{', '.join(RULE_TAGGERS)}, beside those that are always measured"
        )
    rules = [RULE_TAGGERS[name]() for name in dict.fromkeys(config.rules or ())]
    return [*rules, *([LanguageTagger()] if config.language != "none" else []), PiiTagger()]
