"""What is told of a document beside the named rules: an object for each, columns with a version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from lmdata.batch import to_column, to_list_column, to_text_column
from lmdata.tagging.language import LanguageModel
from lmdata.tagging.perplexity import PerplexityTagger, Scorer
from lmdata.tagging.pii import KINDS, find_pii
from lmdata.tagging.pii import VERSION as PII_VERSION


class Tagger(Protocol):
    """Tells something of each document, whatever stands beside it."""

    @property
    def versions(self) -> dict[str, str]:
        """Column -> name and version of what made it."""

    @property
    def fields(self) -> Sequence[pa.Field]:
        """Its columns."""

    def tag(self, documents: Sequence[bytes]) -> list[pa.Array]:
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

    def tag(self, documents: Sequence[bytes]) -> list[pa.Array]:
        """Return its columns of some documents."""
        first, scores, second = zip(*map(self._model.label, documents), strict=True)
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

    def tag(self, documents: Sequence[bytes]) -> list[pa.Array]:
        """Return its columns of some documents."""
        found = [find_pii(document) for document in documents]
        counts = np.array([[[f.kind for f in own].count(kind) for kind in KINDS] for own in found])
        values = [number for own in found for f in own for number in (KINDS.index(f.kind), *f[1:])]
        offsets = np.cumsum([0, *(3 * len(own) for own in found)])
        spans = to_list_column(np.array(values, np.int64), offsets, pa.large_list(pa.int64()))
        return [*(to_column(np.ascontiguousarray(column)) for column in counts.T), spans]


def make_taggers(language: str, scorer: Scorer | None = None) -> list[Tagger]:
    """Return the taggers of a configuration; of one thread.

    Args:
        language: "py3langid" or "none"
        scorer: of perplexities; None: there are none

    Raises:
        ConfigError: a package is not installed
    """
    taggers: list[Tagger] = [LanguageTagger()] if language != "none" else []
    taggers.append(PiiTagger())
    return taggers if scorer is None else [*taggers, PerplexityTagger(scorer)]
