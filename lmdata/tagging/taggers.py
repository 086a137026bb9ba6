"""What is told of a document beside the named rules: an object for each, columns with a version."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from lmdata.batch import to_column, to_list_column, to_text_column
from lmdata.errors import ConfigError
from lmdata.settings import OwnWords, TagConfig
from lmdata.tagging.language import (
    FastTextModel,
    LanguageModel,
    Py3langidModel,
    share_languages,
)
from lmdata.tagging.languages import LANGUAGES, OWN, quality_of, stop_words_of
from lmdata.tagging.perplexity import PerplexityTagger, Scorer
from lmdata.tagging.pii import KINDS, find_pii
from lmdata.tagging.pii import VERSION as PII_VERSION
from lmdata.tagging.rules import COUNTS, VERSIONS, figures_of
from lmdata.tagging.stop_words import StopWords
from lmdata.tagging.variants import measure_c4_as_dolma, measure_dclm, measure_dolma
from lmdata.tagging.words import Batch, Figures
from lmdata.xxh3 import xxh3_128


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
    """Language of a document, how sure that is, and which one comes second; also by lines.

    `languages` lists what its lines are written in, the most first, and `language_ratio` says how
    much of them is in the language of the document.
    """

    def __init__(self, model: LanguageModel, *, by_lines: bool = False) -> None:
        names = {"language": pa.string(), "language_score": pa.float64(),
                 "second_language": pa.string()}  # fmt: skip
        if by_lines:
            names |= {"language_ratio": pa.float64(), "languages": pa.string()}
        self.fields = tuple(pa.field(name, kind, nullable=False) for name, kind in names.items())
        self.versions = dict.fromkeys(names, model.version)
        self._model, self._by_lines = model, by_lines

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        first, scores, second = zip(*map(self._model.label, batch.documents), strict=True)
        columns = [to_text_column(first), to_column(np.array(scores)), to_text_column(second)]
        if self._by_lines:
            shares = [share_languages(document, self._model) for document in batch.documents]
            ratios = [
                own[label] / own.total() if own else 1.0
                for own, label in zip(shares, first, strict=True)
            ]
            names = [" ".join(label for label, _ in own.most_common()) for own in shares]
            columns += [to_column(np.array(ratios)), to_text_column(names)]
        return columns


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

    def __init__(
        self, rules: Sequence[str], measure: Callable[..., Figures], more: Sequence[str] = ()
    ) -> None:
        names = [*figures_of(rules), *more]
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


class StopWordTagger:
    """How many different stop words of some languages, or of the user's own, documents hold."""

    def __init__(self, names: Sequence[str], own: OwnWords | None) -> None:
        lists = [LANGUAGES[name].stop_words for name in names]
        self.versions = {quality_of(name): VERSIONS[quality_of(name)] for name in names}
        self._length = own.length if own else None
        if own:
            names, lists = [*names, OWN], [*lists, own.stop_words]
            words = xxh3_128(" ".join(own.stop_words).encode()).hexdigest()[:8]
            self.versions[quality_of(OWN)] = f"gopher@own-{words}-{own.length:g}"
        self.fields = tuple(pa.field(stop_words_of(name), pa.int64(), False) for name in names)
        if own:
            self.fields += (pa.field("own_word_length_ratio", pa.float64(), nullable=False),)
        self._stop_words = StopWords(lists)

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        counts = self._stop_words.count(batch.words)
        columns = [np.ascontiguousarray(own) for own in counts.T]
        if self._length is not None:
            columns.append(batch.figures["mean_word_length"] / self._length)
        return [to_column(column) for column in columns]


RULE_TAGGERS: dict[str, Callable[[], Tagger]] = {
    "gopher@dolma": lambda: RuleTagger(
        ("gopher_quality_dolma", "gopher_repetition_dolma"), measure_dolma
    ),
    "c4@dolma": lambda: RuleTagger(
        ("c4_dolma",),
        measure_c4_as_dolma,
        ("dolma_unended_line_ratio", "dolma_few_word_line_ratio"),
    ),
    "gopher@dclm": lambda: RuleTagger(
        ("gopher_quality_dclm", "gopher_repetition_dclm"), measure_dclm
    ),
}
"""Rules by the names by which they are asked for."""


def make_taggers(config: TagConfig, scorer: Scorer | None = None) -> list[Tagger]:
    """Return the taggers of a configuration; of one thread.

    Args:
        config: what they are made of
        scorer: of perplexities; None: there are none

    Raises:
        ConfigError: there are no such rules, or a package is not installed
    """
    names = [*dict.fromkeys(config.rules or ())]
    unknown = [name for name in names if name not in RULE_TAGGERS and name not in LANGUAGES]
    if unknown:
        raise ConfigError(
            f"rules: there are none by the name {unknown[0]!r}; there are "
            f"{', '.join([*RULE_TAGGERS, *LANGUAGES])}, beside those that are always measured"
        )
    rules: list[Tagger] = [RULE_TAGGERS[name]() for name in names if name in RULE_TAGGERS]
    languages = [name for name in names if name in LANGUAGES]
    if languages or config.own_words:
        rules.append(StopWordTagger(languages, config.own_words))
    scorers = [] if scorer is None else [PerplexityTagger(scorer)]
    return [*rules, *_language_taggers(config), PiiTagger(), *scorers]


def _language_taggers(config: TagConfig) -> list[Tagger]:
    if not config.tells_languages:
        return []
    path = config.language_model
    model: LanguageModel = FastTextModel(Path(path)) if path else Py3langidModel()
    return [LanguageTagger(model, by_lines=bool(config.paragraph_languages))]
