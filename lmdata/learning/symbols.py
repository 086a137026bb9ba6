"""Words to symbols: which characters make the alphabet, and words as arrays of its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmdata.ragged import offsets_of

I64 = npt.NDArray[np.int64]

_MIN_ALPHABET = 1000  # the customary limit for WordPiece
_COVERAGE = 0.9995  # of all characters: SentencePiece's `character_coverage`
_RARE = 1e-6  # of all characters: letters of a script that little of the text is in are no rarer


@dataclass(frozen=True)
class Symbols:
    """Words as ids of symbols: first the alphabet, then its characters inside words.

    Attributes:
        names: what each symbol is called in the vocabulary
        ids: int32 (N,), the symbols of all words
        offsets: int64 (W + 1,), where each word begins in `ids`
        counts: int64 (W,), how often each word occurs
    """

    names: list[str]
    ids: npt.NDArray[np.int32]
    offsets: I64
    counts: I64


def choose_alphabet(words: dict[str, int], limit: int | None, vocab_size: int) -> list[str]:
    """Return the characters that the vocabulary has as pieces, sorted.

    Args:
        words: how often each word occurs
        limit: keep that many characters, the most frequent ones; None for all, where they take at
            most an eighth of the vocabulary; else as many as cover 99.95 % of the text, and, where
            they take at most a quarter, 1,000 and all that make up a millionth of the text
        vocab_size: size of the vocabulary

    Example:
        >>> choose_alphabet({"aab": 2, "c": 1}, 2, 100)
        ['a', 'b']
    """
    codes, _, counts = _characters(words)
    totals = np.bincount(codes, np.repeat(counts, [len(word) for word in words]))
    seen = np.flatnonzero(totals)
    by_count = seen[np.argsort(-totals[seen], kind="stable")]  # ties: the smaller code point
    if limit is None:
        covered = np.cumsum(totals[by_count]) / max(totals.sum(), 1)
        needed = int(np.searchsorted(covered, _COVERAGE)) + 1
        wanted = max(_MIN_ALPHABET, int((totals >= _RARE * totals.sum()).sum()))
        limit = max(needed, min(wanted, vocab_size // 4))
        limit = max(limit, len(seen)) if len(seen) <= vocab_size // 8 else limit
    return [chr(code) for code in np.sort(by_count[:limit])]


def split_into_symbols(
    words: dict[str, int], alphabet: Sequence[str], *, continuing_prefix: str
) -> Symbols:
    """Return words as symbols; a word with a character outside the alphabet is left out.

    With a prefix, a character inside a word is another symbol than at the beginning of one, and
    follows the alphabet if it occurs.

    Example:
        >>> symbols = split_into_symbols({"aba": 1, "x": 2}, ["a", "b"], continuing_prefix="##")
        >>> symbols.names, symbols.ids.tolist(), symbols.counts.tolist()
        (['a', 'b', '##a', '##b'], [0, 3, 2], [1])
    """
    codes, lengths, counts = _characters(words)
    number_of = np.full(0x110000, -1, np.int32)
    number_of[[ord(character) for character in alphabet]] = np.arange(len(alphabet))
    ids = number_of[codes]
    word_of = np.repeat(np.arange(len(words)), lengths)
    is_known = np.bincount(word_of, ids < 0, len(words)) == 0
    names = list(alphabet)
    if continuing_prefix:
        is_inside = np.ones(len(ids), np.bool_)
        is_inside[np.cumsum(lengths) - lengths] = False
        inside = np.unique(ids[is_inside & is_known[word_of]])
        renumbered = np.full(len(alphabet), -1, np.int32)
        renumbered[inside] = len(alphabet) + np.arange(len(inside))
        ids = np.where(is_inside, renumbered[ids], ids)
        names += [continuing_prefix + alphabet[number] for number in inside]
    offsets = offsets_of(lengths[is_known])
    return Symbols(names, ids[is_known[word_of]], offsets, counts[is_known])


def _characters(words: dict[str, int]) -> tuple[npt.NDArray[np.uint32], I64, I64]:
    """Return the code points of all words, the words' lengths and their counts."""
    codes = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    return codes, lengths, np.fromiter(words.values(), np.int64, len(words))
