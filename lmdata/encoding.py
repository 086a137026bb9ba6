"""Documents to ids, exactly as `tokenizers` gives them and much faster where its rules allow.

Three encoders stand behind one interface: a cache of words for WordPiece, gigatoken for byte-level
BPE, and `tokenizers` itself for everything else. Whoever builds a dataset asks two things of a
sample: `check_encoding` encodes documents again with `tokenizers` and compares, and
`measure_round_trip` decodes their ids and says what does not come back.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from lmdata.encoders.plain_encoding import I64, U8, DifferentIdsError, EncodedDocuments, Ids
from lmdata.tokenizer import Tokenizer


class Encoder(Protocol):
    """What `make_encoder` returns: one for each worker, it may keep what it has seen."""

    kind: str
    """`word-cache`, `gigatoken` or `plain`."""
    reason: str
    """Why it is of this kind."""

    def encode(self, text: U8, offsets: I64, sentence_starts: I64) -> EncodedDocuments:
        """Return the ids of documents.

        Args:
            text: uint8 (N,), valid UTF-8 of all documents, without separators
            offsets: int64 (D + 1,), where documents begin in `text`
            sentence_starts: int64 (S,), sorted, with the start of every document that has text
        """
        ...

    def memory_for(self, document: U8) -> int:
        """Return about how many bytes encoding one document takes: copies of it, words, ids."""
        ...

    def keep_within(self, num_bytes: int) -> None:
        """Forget what was learned from earlier text whenever it takes more memory than this."""
        ...


def make_encoder(tokenizer: Tokenizer, *, num_threads: int = 1) -> Encoder:
    """Return the fastest encoder whose ids are known to be those of a tokenizer.

    Args:
        tokenizer: its rules decide
        num_threads: 1 in a worker process, so that workers do not compete; more lets gigatoken and
            `tokenizers` use the threads that they choose themselves
    """
    from lmdata.encoders.bpe_encoding import GigatokenEncoder, find_bpe_obstacle
    from lmdata.encoders.cuts import make_rule
    from lmdata.encoders.plain_encoding import PlainEncoder
    from lmdata.encoders.word_encoding import WordEncoder
    from lmdata.encoders.wordpiece_matching import find_wordpiece_obstacle

    definition = tokenizer.definition
    if find_wordpiece_obstacle(definition) is None:
        return WordEncoder(tokenizer, num_threads=num_threads)
    rule, obstacle = make_rule(tokenizer.backend, definition)
    encoder: Encoder = PlainEncoder(tokenizer, num_threads=num_threads)
    if rule is not None:
        encoder = WordEncoder(tokenizer, rule, num_threads=num_threads)
    bpe_obstacle = find_bpe_obstacle(definition)
    if bpe_obstacle is None:
        gigatoken = GigatokenEncoder(tokenizer, encoder)
        if gigatoken.agrees():
            return gigatoken
        bpe_obstacle = "it gives other ids for the pieces of this vocabulary"
    if rule is None:
        encoder.reason = f"no word cache: {obstacle}; no gigatoken: {bpe_obstacle}"
    return encoder


def check_encoding(
    tokenizer: Tokenizer,
    text: U8,
    offsets: I64,
    encoded: EncodedDocuments,
    rows: Sequence[int] | I64,
) -> None:
    """Encode some documents again with `tokenizers` and compare.

    Args:
        tokenizer: the reference
        text: uint8 (N,), as it was encoded
        offsets: int64 (D + 1,)
        encoded: what an encoder made of it
        rows: the documents to compare

    Raises:
        DifferentIdsError: ids differ; names the row and the first difference
    """
    for row in map(int, rows):
        start, stop = encoded.document_offsets[row : row + 2]
        document = text[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8")
        expected = tokenizer.backend.encode(document, add_special_tokens=False).ids
        difference = first_difference(encoded.ids[start:stop], np.array(expected, np.int64))
        if difference is not None:
            raise DifferentIdsError(
                row,
                f"row {row}: token {difference} differs from what `tokenizers` gives: "
                f"{_show(tokenizer, encoded.ids[start:stop], difference)}, expected "
                f"{_show(tokenizer, np.array(expected, np.int64), difference)}",
            )


def first_difference(left: Ids, right: Ids) -> int | None:
    """Return the first index at which two arrays differ, None if they are the same.

    Example:
        >>> first_difference(np.array([1, 2, 3]), np.array([1, 5])), first_difference(
        ...     np.array([1]), np.array([1, 5])
        ... )
        (1, 1)
    """
    shared = min(len(left), len(right))
    different = np.flatnonzero(left[:shared] != right[:shared])
    if len(different):
        return int(different[0])
    return None if len(left) == len(right) else shared


def _show(tokenizer: Tokenizer, ids: Ids, index: int) -> str:
    around = ids[max(index - 2, 0) : index + 3].tolist()
    return " ".join(repr(tokenizer.piece(item)) for item in around) or "the end"


CHANGED, WITHOUT_PIECE = "changed by the normalizer", "without a piece"
"""Why a character does not come back from ids."""

_SHOWN = 40  # characters of an example
_SEARCHED = 1 << 15  # characters that examples are looked for in


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """How many characters come back when text is encoded and decoded again.

    White space is not counted, as hardly a kind of tokenizer keeps it; where text is made lower
    case, small letters are what must come back; characters that Unicode says are the same
    (canonically equivalent) are the same. All else that is not the same was lost.

    Attributes:
        characters: how many there were
        lost: reason (CHANGED or WITHOUT_PIECE) -> characters that did not come back
        examples: a word for each reason -> what comes back of it

    Example:
        >>> RoundTrip(characters=200, lost={CHANGED: 6}, examples={"né": "ne"}).sentence
        '3.0 % of the characters do not come back: 3.0 % changed by the normalizer (né becomes ne)'
    """

    characters: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def unknown_ratio(self) -> float:
        """The share of the characters that no piece stands for."""
        return self.lost.get(WITHOUT_PIECE, 0) / max(1, self.characters)

    @property
    def sentence(self) -> str | None:
        """One line for people, None where everything comes back."""
        total = sum(self.lost.values())
        if not total:
            return None
        reasons = ", ".join(
            f"{self._percent(n)} {reason}" for reason, n in sorted(self.lost.items()) if n
        )
        shown = ", ".join(
            f"{_shorten(word)} becomes {_shorten(back) or 'nothing'}"
            for word, back in self.examples.items()
        )
        remedy = ""
        if self.unknown_ratio > _WORTH_A_REMEDY:
            remedy = (
                "; `lmdata train-tokenizer --model bpe` loses nothing, `--model unigram` little of "
                "such text as it was trained on"
            )
        total_share = self._percent(total)
        return f"{total_share} of the characters do not come back: {reasons} ({shown}){remedy}"

    def _percent(self, number: int) -> str:
        share = 100 * number / max(1, self.characters)
        return f"{share:.1f} %" if share >= 0.1 else f"{share:.1g} %"

    def __add__(self, other: RoundTrip) -> RoundTrip:
        lost = {
            reason: self.lost.get(reason, 0) + other.lost.get(reason, 0)
            for reason in sorted({*self.lost, *other.lost})
        }
        examples = self.examples if len(self.examples) >= len(other.examples) else other.examples
        return RoundTrip(
            characters=self.characters + other.characters, lost=lost, examples=examples
        )


_FEW = 16  # words that are tried at a time
_WORTH_A_REMEDY = 0.005  # of the characters


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def measure_round_trip(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    counts: Sequence[int] | None = None,
    ids: Sequence[Ids] | None = None,
) -> RoundTrip:
    """Return how many characters of texts come back from their ids.

    Args:
        tokenizer: encodes and decodes
        texts: documents or words
        counts: how often each occurs; None for once
        ids: of each text, one array (T,) each, where they are at hand
    """
    lower = does_lower_case(tokenizer.definition.get("normalizer"))
    backs = _decode(tokenizer, _encode(tokenizer, texts) if ids is None else ids)
    characters, lost = 0, {CHANGED: 0, WITHOUT_PIECE: 0}
    searched: list[str] = []
    sought: Counter[str] = Counter()
    for text, back, count in zip(texts, backs, counts or [1] * len(texts), strict=True):
        wanted, found = _visible(text, lower), _visible(back, lower)
        characters += count * len(wanted)
        if wanted != found and (missing := _missing(wanted, found)):
            normalized = _visible(_normalized(tokenizer, text), lower)
            changed = min(missing.total(), _missing(wanted, normalized).total())
            lost[CHANGED] += count * changed
            lost[WITHOUT_PIECE] += count * (missing.total() - changed)
            searched.append(text)
            sought |= missing
    lost = {reason: number for reason, number in lost.items() if number}
    examples = _find_examples(tokenizer, searched, sought.keys(), lower, lost.keys())
    return RoundTrip(characters=characters, lost=lost, examples=examples)


def does_lower_case(normalizer: dict[str, Any] | None) -> bool:
    """Return whether a normalizer of a `tokenizer.json` makes text lower case.

    Example:
        >>> does_lower_case({"type": "Sequence", "normalizers": [{"type": "Lowercase"}]})
        True
    """
    if normalizer is None:
        return False
    parts = normalizer.get("normalizers", [])
    return (
        normalizer["type"] == "Lowercase"
        or bool(normalizer.get("lowercase"))
        or any(does_lower_case(part) for part in parts)
    )


def _visible(text: str, lower: bool) -> str:
    r"""Return the characters that should come back; a final sigma is a sigma.

    Characters that Unicode says are the same (canonically equivalent) are the same.

    Example:
        >>> _visible("Ας μη", lower=True), _visible("e\u0301", lower=False)
        ('ασμη', 'é')
    """
    kept = unicodedata.normalize("NFC", "".join(text.split()))
    return kept.lower().replace("ς", "σ") if lower else kept


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    normalizer = tokenizer.backend.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))


def _missing(wanted: str, found: str) -> Counter[str]:
    """Return the characters of one text that the other lacks, in whatever order, and how many.

    Example:
        >>> dict(_missing("déjà vu", "deja vu"))
        {'é': 1, 'à': 1}
    """
    return Counter(wanted) - Counter(found)


def _find_examples(
    tokenizer: Tokenizer, texts: Sequence[str], sought: Set[str], lower: bool,
    reasons: Set[str],
) -> dict[str, str]:  # fmt: skip
    """Return the shortest word for each reason, with what comes back of it.

    Only words that hold a character that is `sought` are looked at, the shortest first, until
    there is one for each of `reasons`.
    """
    shortest: dict[str, tuple[str, str]] = {}
    words = iter(sorted(dict.fromkeys(" ".join(texts)[:_SEARCHED].split()), key=len))
    plain = not any(character.isascii() for character in sought)  # so are words of ASCII alone
    odd = (
        word for word in words
        if not (plain and word.isascii()) and not sought.isdisjoint(_visible(word, lower))
    )  # fmt: skip
    while not shortest.keys() >= reasons and (few := list(islice(odd, _FEW))):
        for word, back in zip(few, _decode(tokenizer, _encode(tokenizer, few)), strict=True):
            wanted = _visible(word, lower)
            missing = _missing(wanted, _visible(back, lower)).total()
            changed = _missing(wanted, _visible(_normalized(tokenizer, word), lower)).total()
            if missing:
                reason = CHANGED if changed >= missing else WITHOUT_PIECE
                shortest.setdefault(reason, (word, back.strip()))
    return dict(shortest[reason] for reason in (CHANGED, WITHOUT_PIECE) if reason in shortest)


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    encodings = tokenizer.backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, np.int64) for encoding in encodings]


def _decode(tokenizer: Tokenizer, ids: Sequence[Ids]) -> list[str]:
    """Return what the ids of each text are decoded to, unknown pieces left out."""
    special = tokenizer.is_special
    kept = [each[~special[each]].tolist() for each in ids]
    return [str(back) for back in tokenizer.backend.decode_batch(kept, skip_special_tokens=False)]
