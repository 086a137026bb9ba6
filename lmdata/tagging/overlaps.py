"""What documents share with evaluations: the evidence, and published rules over it.

A text of an evaluation is found by its n-grams of 8 words, one of 4 to 7 words by all of them. What
documents share is kept as found; the rules are limits over it, applied when the whole corpus is
known, as an n-gram that stands in more than `MOST_DOCUMENTS` of it is a phrase that everybody uses.
Near duplicates count as one.

Sources: GPT-3 (Brown et al., 2020, appendix C), PaLM (Chowdhery et al., 2022, section 8), phi-1 and
Cosmopedia (10 words that follow each other, and half of the text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lmdata.batch import to_column
from lmdata.ragged import ranges
from lmdata.tagging.evaluations import EvaluationFile
from lmdata.tagging.numbers import I64, number_words
from lmdata.tagging.overlap_index import GRAM, OverlapIndex
from lmdata.tagging.rules import Limit

VERSION = "overlaps-1"
LONG_GRAM = 13  # words
LONGEST_RUN = 10  # words that a share of a text is counted from
MOST_DOCUMENTS = 10
_SHOWN = 300  # characters of a text that was found
_MOST_PAIRS = 1 << 20  # kept until those that say nothing are left out

RULES = {
    "contaminated_gpt3": Limit("eval_13_grams", "above", 0),
    "contaminated_palm": Limit("eval_8_gram_ratio", "from", 0.7),
    "contaminated_phi": Limit("eval_run_ratio", "above", 0.5),
}
"""Published rules by name; a document that goes beyond the limit is contaminated."""

VERSIONS = {
    "contaminated_gpt3": "gpt3@13-grams",
    "contaminated_palm": "palm@8-grams-70%",
    "contaminated_phi": "phi@10-grams-half",
}

FIELDS = (
    pa.field("eval_13_grams", pa.int64(), nullable=False),
    pa.field("eval_8_gram_ratio", pa.float64(), nullable=False),
    pa.field("eval_run_ratio", pa.float64(), nullable=False),
    pa.field("eval_longest", pa.int64(), nullable=False),
    pa.field("eval_item", pa.string()),
    pa.field("eval_text", pa.string()),
    pa.field("eval_start", pa.int64()),
    pa.field("eval_stop", pa.int64()),
    pa.field("eval_num_short", pa.int64(), nullable=False),
    pa.field("eval_short_text", pa.string()),
    *(pa.field(rule, pa.bool_(), nullable=False) for rule in RULES),
)


def notes(counts: Mapping[str, int]) -> list[str]:
    """Say how many documents each rule finds contaminated, if any was asked.

    Example:
        >>> notes({"contaminated_phi": 3})
        ['documents that share text with evaluations: 3 contaminated_phi']
    """
    found = ", ".join(f"{count:,} {rule}" for rule, count in counts.items())
    return [f"documents that share text with evaluations: {found}"] if counts else []


@dataclass(frozen=True)
class Runs:
    """Words that stand alike in a document and in a text, as far as they go: R of them.

    Attributes:
        documents: int64 (R,)
        starts: int64 (R,), the word of the document
        places: int64 (R,), the word of the evaluation
        sizes: int64 (R,), n-grams that follow each other; words are GRAM - 1 more
        spans: int64 (R, 2), first byte in the document, and the byte behind
    """

    documents: I64
    starts: I64
    places: I64
    sizes: I64
    spans: I64


class Overlaps:
    """What a corpus shares with evaluations, and the columns that say so."""

    def __init__(self, files: Sequence[EvaluationFile], index: OverlapIndex) -> None:
        """Take texts and their index."""
        self._index = index
        self._texts = [text for file in files for text in file.texts]
        self._origins = [f"{file.name}:{row}" for file in files for row in file.rows]
        self._text_of = np.repeat(np.arange(len(self._texts)), np.diff(index.rows))
        starts = np.flatnonzero(index.grams >= 0)
        order = starts[np.argsort(index.grams[starts], kind="stable")]
        self._standing, num_grams = order, len(index.places)
        self._bounds = np.searchsorted(index.grams[order], np.arange(num_grams + 1))
        pairs = _distinct(self._text_of[starts], index.grams[starts])
        self._num_grams = np.bincount(pairs[0], minlength=len(self._texts))
        self._seen: list[list[I64]] = [[], [], []]  # of n-grams, of longer ones, of short texts

    def note(self, found: I64, ends: I64, components: I64) -> None:
        """Take in of which components the documents of a part are.

        Args:
            found: int64 (F, 4), from `OverlapIndex.find`
            ends: int64 (D + 1,), where documents begin in it
            components: int64 (D,)
        """
        rows = components[_rows_of(ends)]
        is_short = found[:, 0] < 0
        runs = self._find_runs(found, ends)
        keys, documents = self._long_grams(runs)
        for seen, own in zip(
            self._seen,
            (
                (found[~is_short, 0], rows[~is_short]), (keys, components[documents]),
                (found[is_short, 0], rows[is_short]),
            ), strict=True,
        ):  # fmt: skip
            seen.append(np.column_stack(_distinct(*own)))
            if sum(map(len, seen[1:])) > max(_MOST_PAIRS, len(seen[0])):
                seen[:] = [_first_of(np.concatenate(seen))]

    def close(self) -> None:
        """Settle which n-grams stand in more documents than say anything."""
        self._common = [_common(np.concatenate(parts)) for parts in self._seen]

    def _find_runs(self, found: I64, ends: I64) -> Runs:
        is_long = found[:, 0] >= 0
        documents, found = _rows_of(ends)[is_long], found[is_long]
        first, last = self._bounds[found[:, 0]], self._bounds[found[:, 0] + 1]
        own = np.repeat(np.arange(len(found)), last - first)
        places = self._standing[ranges(first, last - first)]
        diagonals = places - found[own, 1]
        order = np.lexsort((found[own, 1], diagonals, documents[own]))
        own, places, diagonals = own[order], places[order], diagonals[order]
        documents, words = documents[own], found[own, 1]
        is_new = np.ones(len(own), bool)
        is_new[1:] = (np.diff(documents) != 0) | (np.diff(diagonals) != 0) | (np.diff(words) != 1)
        begins = np.flatnonzero(is_new)
        sizes = np.diff(np.append(begins, len(own)))
        spans = np.column_stack([found[own[begins], 2], found[own[begins + sizes - 1], 3]])
        return Runs(documents[begins], words[begins], places[begins], sizes, spans)

    def _long_grams(self, runs: Runs) -> tuple[I64, I64]:
        """Return keys and documents of the n-grams of LONG_GRAM words."""
        more = LONG_GRAM - GRAM
        counts = np.maximum(runs.sizes - more, 0)
        places = ranges(runs.places, counts)
        grams = self._index.grams.astype(np.int64)
        keys = grams[places] * len(self._index.places) + grams[places + more]
        return keys, np.repeat(runs.documents, counts)

    def columns(self, found: I64, ends: I64) -> list[pa.Array]:
        """Return the columns `FIELDS` of the documents of a part; arguments as in `note`."""
        num_documents, runs = len(ends) - 1, self._find_runs(found, ends)
        keys, documents = self._long_grams(runs)
        is_meant = ~np.isin(keys, self._common[1])
        documents, _ = _distinct(documents[is_meant], keys[is_meant])
        longest, ratios = np.zeros(num_documents, np.int64), np.zeros(num_documents)
        words = runs.sizes + GRAM - 1
        texts = self._text_of[runs.places]
        np.maximum.at(longest, runs.documents, words)
        shares = np.where(words >= LONGEST_RUN, words / np.diff(self._index.rows)[texts], 0)
        np.maximum.at(ratios, runs.documents, shares)
        figures = {
            "eval_13_grams": np.bincount(documents, minlength=num_documents).astype(np.int64),
            "eval_8_gram_ratio": self._found_ratios(found, ends),
            "eval_run_ratio": ratios,
        }
        verdicts = [pa.array(limit.drops(figures[limit.figure])) for limit in RULES.values()]
        return [
            *map(to_column, figures.values()), to_column(longest),
            *self._evidence(runs, num_documents), *self._short(found, ends), *verdicts,
        ]  # fmt: skip

    def _found_ratios(self, found: I64, ends: I64) -> npt.NDArray[np.float64]:
        """Return the largest share of a text's n-grams that each document has, float64 (D,)."""
        is_meant = (found[:, 0] >= 0) & ~np.isin(found[:, 0], self._common[0])
        documents, grams = _distinct(_rows_of(ends)[is_meant], found[is_meant, 0])
        first, last = self._bounds[grams], self._bounds[grams + 1]
        texts = self._text_of[self._standing[ranges(first, last - first)]]
        own = np.repeat(documents, last - first)
        _, own, texts = _distinct(np.repeat(grams, last - first), own, texts)
        own, texts, counts = _counted(own, texts)
        ratios = np.zeros(len(ends) - 1)
        np.maximum.at(ratios, own, counts / self._num_grams[texts])
        return ratios

    def _evidence(self, runs: Runs, num_documents: int) -> list[pa.Array]:
        """Return where the longest run stands, what it is, and where in the document."""
        order = np.lexsort((-runs.sizes, runs.documents))
        documents, firsts = np.unique(runs.documents[order], return_index=True)
        best = np.full(num_documents, -1, np.int64)
        best[documents] = order[firsts]
        items: list[str | None] = [None] * num_documents
        shown: list[str | None] = [None] * num_documents
        for document in documents.tolist():
            run = best[document]
            place = int(runs.places[run])
            text = int(self._text_of[place])
            items[document] = self._origins[text]
            shown[document] = self._shown(text, place, int(runs.sizes[run]) + GRAM - 1)
        is_there = best >= 0
        spans = [np.where(is_there, runs.spans[best, side], 0) if len(runs.sizes) else best
                 for side in (0, 1)]  # fmt: skip
        return [pa.array(items, pa.string()), pa.array(shown, pa.string()),
                *(to_column(np.ascontiguousarray(span), is_there) for span in spans)]  # fmt: skip

    def _shown(self, text: int, place: int, num_words: int) -> str:
        """Return words of a text as they stand in the evaluation, cut where they are many."""
        content = np.frombuffer(self._texts[text].encode(), np.uint8)
        spans = number_words(content, np.array([0, len(content)])).spans
        first = place - int(self._index.rows[text])
        start, stop = int(spans[first, 0]), int(spans[first + num_words - 1, 1])
        shown = content[start:stop].tobytes().decode()
        return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"

    def _short(self, found: I64, ends: I64) -> list[pa.Array]:
        """Return how many short texts each document has, and the first of them."""
        is_meant = (found[:, 0] < 0) & ~np.isin(found[:, 0], self._common[2])
        documents, texts = _distinct(_rows_of(ends)[is_meant], -1 - found[is_meant, 0])
        shown: list[str | None] = [None] * (len(ends) - 1)
        for document, text in zip(documents[::-1].tolist(), texts[::-1].tolist(), strict=True):
            shown[document] = self._texts[text]
        counts = np.bincount(documents, minlength=len(ends) - 1).astype(np.int64)
        return [to_column(counts), pa.array(shown, pa.string())]


def _rows_of(ends: I64) -> I64:
    """Return which document each finding is of."""
    return np.repeat(np.arange(len(ends) - 1), np.diff(ends))


def _sorted(columns: Sequence[npt.ArrayLike]) -> tuple[list[I64], I64]:
    """Return columns in order of the first, then the next, and where each distinct row begins."""
    arrays = [np.asarray(column, np.int64) for column in columns]
    order = np.lexsort(arrays[::-1])
    arrays = [array[order] for array in arrays]
    is_new = np.ones(len(order), bool)
    is_new[1:] = np.any([np.diff(array) != 0 for array in arrays], axis=0)
    return arrays, np.flatnonzero(is_new)


def _distinct(*columns: npt.ArrayLike) -> list[I64]:
    """Return the distinct rows of columns, in order.

    Example:
        >>> [column.tolist() for column in _distinct([2, 1, 2], [5, 7, 5])]
        [[1, 2], [7, 5]]
    """
    arrays, firsts = _sorted(columns)
    return [array[firsts] for array in arrays]


def _counted(*columns: npt.ArrayLike) -> list[I64]:
    """Return the distinct rows of columns, in order, and how often each is there.

    Example:
        >>> [column.tolist() for column in _counted([2, 1, 2], [5, 7, 5])]
        [[1, 2], [7, 5], [1, 2]]
    """
    arrays, firsts = _sorted(columns)
    counts = np.diff(np.append(firsts, len(arrays[0])))
    return [*(array[firsts] for array in arrays), counts]


def _first_of(pairs: I64) -> I64:
    """Return distinct pairs, of each key no more than tell that it is common.

    Args:
        pairs: int64 (P, 2), what, and the component of a document in which it stands

    Example:
        >>> _first_of(np.array([[5, row] for row in range(20)] + [[7, 0], [7, 0]])).shape
        (12, 2)
    """
    keys, components = _distinct(*pairs.T)
    _, starts = _sorted([keys])
    ranks = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return np.column_stack([keys, components])[ranks <= MOST_DOCUMENTS]


def _common(pairs: I64) -> I64:
    """Return what stands in more documents than says anything, ascending.

    Args:
        pairs: int64 (P, 2), what, and the component of a document in which it stands
    """
    keys, _ = _distinct(*pairs.T)
    keys, counts = _counted(keys)
    return keys[counts > MOST_DOCUMENTS]
