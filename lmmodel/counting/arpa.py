"""An n-gram model as a text file in the ARPA format, which other toolkits read.

Log-probabilities and back-offs are decimal logarithms. Pieces are written as they are spelled, but
for what the format reads otherwise. `<unk>` has the probability of each piece that no line had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np

from lmmodel.counting.trie import Trie

_ROWS = 65_536  # of a table that are written at a time
_MEANT_OTHERWISE = ("<s>", "</s>", "<unk>")
_NO_PROBABILITY = -99.0  # of the begin of a line, which nothing predicts


def arpa_words(pieces: Sequence[str | None], unk_id: int | None) -> list[str]:
    """Return how each piece is spelled, then the end and the begin of a line.

    Args:
        pieces: of the vocabulary
        unk_id: of the piece for what is unknown, which keeps its spelling

    Example:
        >>> arpa_words(["a", "<s>", "b c", "<unk>"], unk_id=3)
        ['a', '<piece:1>', '<piece:2>', '<unk>', '</s>', '<s>']
    """
    words = []
    for index, piece in enumerate(pieces):
        is_plain = piece and not re.search(r"\s", piece)
        is_free = piece not in _MEANT_OTHERWISE or (index == unk_id and piece == "<unk>")
        words.append(piece if piece and is_plain and is_free else f"<piece:{index}>")
    return [*words, "</s>", "<s>"]


def write_arpa(trie: Trie, words: Sequence[str], file: TextIO) -> int:
    """Write a model, return its n-grams; pieces that no line had are left out for `<unk>`.

    Args:
        trie: the model
        words: from `arpa_words`
        file: text, opened for writing
    """
    unigrams = trie.log_p[: trie.sizes[0]]
    is_listed = seen_unigrams(trie)
    spelled = np.array([*words, "<unk>"], object)
    has_unk = "<unk>" in spelled[:-1][is_listed]
    sizes = [int(is_listed.sum()) + (not has_unk), *trie.sizes[1:]]
    file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
    file.write("\n\\1-grams:\n")
    if not has_unk:
        file.write(f"{_decimal(float(unigrams[~is_listed].max(initial=unigrams.min())))}\t<unk>"
                   f"{_backoff(0.0) if trie.order > 1 else ''}\n")  # fmt: skip
    for line in _lines_of_unigrams(trie, spelled, np.flatnonzero(is_listed)):
        file.write(line)
    for n in range(2, trie.order + 1):
        file.write(f"\n\\{n}-grams:\n")
        end = sum(trie.sizes[:n])
        for start in range(end - trie.sizes[n - 1], end, _ROWS):
            file.write("".join(_lines(trie, n, np.arange(start, min(start + _ROWS, end)), spelled)))
    file.write("\n\\end\\\n")
    return sum(sizes)


def seen_unigrams(trie: Trie) -> np.ndarray:
    """Return which ids some line had, or stand at its ends: bool (num_ids,).

    What no line had shares one probability, the lowest there is, and nothing follows it.
    """
    unigrams = trie.log_p[: trie.sizes[0]]
    is_seen: np.ndarray = unigrams > unigrams.min()
    if trie.order > 1:
        is_seen |= np.diff(trie.first_child[: trie.sizes[0] + 1].astype(np.int64)) > 0
    is_seen[-2:] = True
    return is_seen


def _lines_of_unigrams(trie: Trie, spelled: np.ndarray, ids: np.ndarray) -> Iterator[str]:
    for index in ids.tolist():
        is_begin = index == trie.num_pieces + 1
        p = _NO_PROBABILITY if is_begin else _decimal(float(trie.log_p[index]))
        backoff = _backoff(float(trie.log_backoff[index])) if trie.order > 1 else ""
        yield f"{p}\t{spelled[index]}{backoff}\n"


def _lines(trie: Trie, order: int, nodes: np.ndarray, spelled: np.ndarray) -> list[str]:
    """Return the lines of some nodes of an order, int64 (n,) ascending."""
    grams, above = spelled[trie.words[nodes]], nodes
    for _ in range(order - 1):
        above = np.searchsorted(trie.first_child, above, side="right") - 1
        grams = spelled[trie.words[above]] + " " + grams
    p = (trie.log_p[nodes] / math.log(10)).tolist()
    if order == trie.order:
        return [f"{own:.7g}\t{gram}\n" for own, gram in zip(p, grams, strict=True)]
    backoffs = (trie.log_backoff[nodes] / math.log(10)).tolist()
    rows = zip(p, grams, backoffs, strict=True)
    return [f"{own:.7g}\t{gram}\t{backoff:.7g}\n" for own, gram, backoff in rows]


def _decimal(log_p: float) -> str:
    return f"{log_p / math.log(10):.7g}"


def _backoff(log_backoff: float) -> str:
    return f"\t{log_backoff / math.log(10):.7g}"
