"""How surprised a language model is by each document, and in which third of its language it is.

The model is handed in: what makes the ids is here, what tells how likely they are is not. Documents
that it finds likely are like those that it was made of, those that it finds unlikely are lists,
forms, other languages, and also what is merely unlike.

Source: CCNet (Wenzek et al., 2020, section 4): thirds by language, head, middle and tail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_column, to_text_column
from lmdata.encoding import make_encoder
from lmdata.tagging.numbers import I64
from lmdata.tagging.words import Batch
from lmdata.tokenizer import Tokenizer

THIRDS = ("head", "middle", "tail")
FIELDS = (pa.field("perplexity_third", pa.dictionary(pa.int8(), pa.string())),)
_SAID = 5  # languages whose limits are said
_ALL = "all"  # the group where no language is told


class Scorer(Protocol):
    """A language model that tells how likely ids are; goes to the workers, as pickle has it."""

    @property
    def version(self) -> str:
        """What it is, its hash included."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of its ids."""

    def score(self, ids: npt.NDArray[np.integer], offsets: I64) -> npt.NDArray[np.float64]:
        """Return the log-likelihood of documents, nats, float64 (D,).

        Args:
            ids: integers (T,), of all documents
            offsets: int64 (D + 1,), where documents begin among them
        """


class PerplexityTagger:
    """Perplexity of a document per token, and nats per byte, which another tokenizer has too.

    A document of no token has none.
    """

    fields = (pa.field("perplexity", pa.float64()), pa.field("nats_per_byte", pa.float64()))

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._encoder = scorer, make_encoder(scorer.tokenizer)
        self.versions = {field.name: scorer.version for field in (*self.fields, *FIELDS)}

    def tag(self, batch: Batch) -> list[pa.Array]:
        """Return its columns of some documents."""
        encoded = self._encoder.encode(batch.text, batch.offsets, batch.offsets[:-1])
        nats = -self._scorer.score(encoded.ids, encoded.document_offsets)
        num_tokens = np.diff(encoded.document_offsets)
        is_there = num_tokens > 0
        perplexity = np.exp(nats / np.maximum(num_tokens, 1))
        of_bytes = nats / np.maximum(np.diff(batch.offsets), 1)
        return [to_column(values, is_there) for values in (perplexity, of_bytes)]


@dataclass(frozen=True)
class Thirds:
    """Which perplexities of each language are its lowest, middle and highest third.

    Attributes:
        limits: language -> the perplexity that ends the head, and that which begins the tail
        counts: language -> documents
    """

    limits: dict[str, tuple[float, float]]
    counts: Counter[str]

    def columns(self, part: pa.RecordBatch) -> list[pa.Array]:
        """Return the columns `FIELDS` of a part of a unit."""
        values, languages = _perplexities(part)
        low, high = np.array([self.limits[name] for name in languages]).reshape(-1, 2).T
        thirds = (values > low).astype(np.int8) + (values > high)
        return [
            pa.DictionaryArray.from_arrays(
                to_column(thirds, ~np.isnan(values)), to_text_column(THIRDS)
            )
        ]

    def notes(self) -> tuple[str, ...]:
        """Say where they part."""
        return tuple(
            f"perplexity{'' if name == _ALL else f' of {name}'}: head to {self.limits[name][0]:.6g}"
            f", tail above {self.limits[name][1]:.6g}, of {count:,} documents"
            for name, count in self.counts.most_common(_SAID)
        )


def find_thirds(parts: Iterable[pa.RecordBatch]) -> Thirds:
    """Return where the perplexities of a corpus part into thirds, by language where that is told.

    Example:
        >>> part = pa.record_batch({"perplexity": pa.array([4.0, 1.0, 2.0, 3.0])})
        >>> find_thirds([part]).limits, find_thirds([part]).columns(part)[0].to_pylist()
        ({'all': (2.0, 3.0)}, ['tail', 'head', 'head', 'middle'])
    """
    values, codes = [np.empty(0)], [np.empty(0, np.int32)]
    numbers: dict[str, int] = {}
    for part in parts:
        own, languages = _perplexities(part)
        values.append(own)
        found = [numbers.setdefault(name, len(numbers)) for name in languages]
        codes.append(np.array(found, np.int32))
    perplexity, language = np.concatenate(values), np.concatenate(codes)
    limits, counts = {}, Counter[str]()
    for name, number in sorted(numbers.items()):
        own = perplexity[(language == number) & ~np.isnan(perplexity)]
        low, high = np.quantile(own, (1 / 3, 2 / 3)).tolist() if len(own) else (0.0, 0.0)
        limits[name], counts[name] = (low, high), len(own)
    return Thirds(limits, counts)


def _perplexities(part: pa.RecordBatch) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Return the perplexity of each document, NaN where there is none, and its language."""
    values = part.column("perplexity").to_numpy(zero_copy_only=False)
    if "language" not in part.schema.names:
        return values, [_ALL] * part.num_rows
    return values, part.column("language").to_pylist()
