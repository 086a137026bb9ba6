"""Passages as tokens that know their characters, so that answers are mapped both ways exactly.

A token's characters are those that the tokenizer names, without white space at their ends, with the
combining marks behind them that its normalisation removed. So the text from one token to another is
the passage's own, accents, spaces and capitals included. Tokens that share a character, such as the
bytes of one, stand for the same characters.
"""

from __future__ import annotations

import collections
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.ragged import offsets_of
from lmmodel.tasks.questions import Answer, QuestionRows
from lmmodel.texts import Integers, TextIds, Windows

_SLICE = 256  # passages encoded at once


@dataclass(frozen=True)
class Passages:
    """N tokens of some passages, with their characters."""

    tokens: TextIds
    starts: Integers  # (N,) first character in its passage
    ends: Integers  # (N,) one past the last
    has_text: npt.NDArray[np.bool_]  # (N,) more than white space

    def find(self, passage: int, answer: Answer) -> tuple[int, int] | None:
        """Return the first and last token of an answer, counted from the passage's first token.

        None where no token has a character of it.
        """
        begin = answer.start + len(answer.text) - len(answer.text.lstrip())
        end = answer.start + len(answer.text.rstrip())
        span = slice(self.tokens.offsets[passage], self.tokens.offsets[passage + 1])
        places = np.flatnonzero(self.has_text[span])
        first = int(np.searchsorted(self.ends[span][places], begin, side="right"))
        last = int(np.searchsorted(self.starts[span][places], end, side="left")) - 1
        return (int(places[first]), int(places[last])) if first <= last else None


def encode_passages(backend: tokenizers.Tokenizer, passages: Sequence[str]) -> Passages:
    """Return passages as tokens."""
    ids, spans, lengths = [np.zeros(0, np.int32)], [np.zeros((0, 2), np.int64)], []
    for begin in range(0, len(passages), _SLICE):
        texts = list(passages[begin : begin + _SLICE])
        for text, encoding in zip(
            texts, backend.encode_batch(texts, add_special_tokens=False), strict=True
        ):
            ids.append(np.array(encoding.ids, np.int32))
            named = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            spans.append(np.stack(settle_spans(text, named[:, 0], named[:, 1]), axis=1))
            lengths.append(len(encoding.ids))
    starts, ends = np.concatenate(spans).T
    tokens = TextIds(np.concatenate(ids), offsets_of(np.array(lengths, np.int64)))
    return Passages(tokens, starts, ends, starts < ends)


def settle_spans(text: str, starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    r"""Return what each token stands for: int64 (N,) and (N,), equal where it is white space only.

    Args:
        text: of N tokens
        starts: int64 (N,) as the tokenizer names them
        ends: int64 (N,)

    Example:
        >>> starts, ends = settle_spans("a e\u0301", np.array([0, 1]), np.array([1, 3]))
        >>> starts.tolist(), ends.tolist()  # the space goes, the accent comes
        ([0, 2], [1, 4])
    """
    starts, ends = _join_overlapping(starts, ends)
    is_space = np.array([character.isspace() for character in text], np.bool_)
    is_mark = np.array([unicodedata.category(character)[0] == "M" for character in text], np.bool_)
    starts = np.minimum(_next(~is_space)[starts], ends)
    ends = np.maximum(_end_before(~is_space)[ends], starts)
    has_text = starts < ends
    reach = np.minimum(_next(~is_mark)[ends], np.append(starts[1:], len(text))[: len(starts)])
    return starts, np.where(has_text, np.maximum(ends, reach), ends)


def _join_overlapping(starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
    """Return spans of which those that share a character are equal, as the bytes of one are.

    Example:
        >>> starts, ends = _join_overlapping(np.array([0, 0, 2]), np.array([1, 2, 3]))
        >>> starts.tolist(), ends.tolist()
        ([0, 0, 2], [2, 2, 3])
    """
    reach = np.append(0, np.maximum.accumulate(ends))[: len(ends)]
    is_new = starts >= reach
    is_new[:1] = True
    first = np.flatnonzero(is_new)
    group = np.cumsum(is_new) - 1
    return starts[first][group], np.maximum.reduceat(ends, first)[group]


def _next(wanted: npt.NDArray[np.bool_]) -> Integers:
    """Return the first wanted character from each place on: int64 (C + 1,), C where none is."""
    found = np.append(np.where(wanted, np.arange(len(wanted)), len(wanted)), len(wanted))
    return np.minimum.accumulate(found[::-1])[::-1]


def _end_before(wanted: npt.NDArray[np.bool_]) -> Integers:
    """Return one past the last wanted character before each place: int64 (C + 1,), 0 if none."""
    return np.maximum.accumulate(np.append(0, np.where(wanted, np.arange(len(wanted)) + 1, 0)))


# Right answers.


@dataclass(frozen=True)
class RightAnswers:
    """Where the answers of R questions are."""

    spans: Integers  # (R, 2) first and last token, counted from the passage's first; 0 if not found
    is_found: npt.NDArray[np.bool_]  # (R,)
    can_teach: npt.NDArray[np.bool_]  # (R,) found, or known not to be there
    reasons: Mapping[str, int]  # questions that can't be learned from, by why


def find_answers(rows: QuestionRows, passages: Passages) -> RightAnswers:
    """Return the tokens of each question's answer.

    The answer is the first of the alternatives that the passage has where they say.
    """
    spans = np.zeros((len(rows), 2), np.int64)
    is_found, can_teach = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    reasons: collections.Counter[str] = collections.Counter()
    for row, question in enumerate(rows.questions):
        span = _find_answer(rows, passages, row)
        has_none = rows.answers is not None and not rows.answers[row]
        if not question.strip():
            reasons["empty question"] += 1
        elif span is not None:
            spans[row], is_found[row], can_teach[row] = span, True, True
        elif has_none:
            can_teach[row] = True
        elif rows.answers is not None:
            reasons["answer not in its passage"] += 1
    return RightAnswers(spans, is_found, can_teach, reasons)


def _find_answer(rows: QuestionRows, passages: Passages, row: int) -> tuple[int, int] | None:
    for answer in () if rows.answers is None else rows.answers[row]:
        if answer.text.strip() and answer.is_in(rows.passage(row)):
            span = passages.find(int(rows.passage_of[row]), answer)
            if span is not None:
                return span
    return None


def place_answers(
    answers: RightAnswers, row: Integers, windows: Windows, begins: Integers
) -> Integers:
    """Return where in each example its answer is: int64 (E, 2), (0, 0) where it is not inside.

    Args:
        answers: of the questions
        row: int64 (E,) the question of each example
        windows: E of them, of the passages
        begins: int64 (E,) where in the example the window begins
    """
    spans = answers.spans[row]
    first, last = spans[:, 0] - windows.starts, spans[:, 1] - windows.starts
    is_inside = answers.is_found[row] & (first >= 0) & (last < windows.lengths)
    return np.where(is_inside[:, None], np.stack([first, last], axis=1) + begins[:, None], 0)
