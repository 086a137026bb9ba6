"""Rows of a task file as examples: flat arrays, no padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lmdata.tokenizer import Tokenizer
from lmmodel.batch import IGNORED
from lmmodel.finetuning.encoded import encode_texts, encode_words
from lmmodel.finetuning.layout import LaidOut, find_layout, fit_pairs, lay_out
from lmmodel.finetuning.passages import encode_passages
from lmmodel.finetuning.right_answers import find_answers, place_answers
from lmmodel.finetuning.rows import QuestionRows, TaskRows, TextRows, WordRows, label_ids
from lmmodel.finetuning.spans import Integers
from lmmodel.finetuning.tasks import TaskName
from lmmodel.finetuning.windows import Windows, cut_windows

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TaskExamples:
    """E examples of T tokens in all; a long row is several examples (windows), neighbours here.

    What the labels are depends on the task:
        classes             int64 (E,)
        regression          float32 (E,)
        token-classification int64 (T,), IGNORED but on the first piece of each word
        question-answering  int64 (E, 2): position in the example of the answer's first and last
                            token; (0, 0) where this window does not hold it
    """

    task: TaskName
    num_rows: int  # R of the file, those left out included
    input_ids: npt.NDArray[np.int32]  # (T,)
    token_type_ids: npt.NDArray[np.uint8]  # (T,)
    offsets: npt.NDArray[np.int64]  # (E + 1,)
    row: npt.NDArray[np.int64]  # (E,) row of the file, ascending
    labels: Labels | None  # None: read without labels
    is_scored: npt.NDArray[np.bool_] | None
    """(T,): the token speaks for a word (token-classification), or may begin or end an answer
    (question-answering); None for the other tasks."""
    word: npt.NDArray[np.int64] | None
    """(T,) of token-classification: index among all W words of the file; 0 where not `is_scored`.
    Each word is scored once, in the window where it has most context."""
    token_starts: npt.NDArray[np.int64] | None
    """(T,) of question-answering: first character in the passage; 0 where not `is_scored`."""
    token_ends: npt.NDArray[np.int64] | None
    """(T,) of question-answering: one past the last character in the passage."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows, questions or words by what happened to them: truncated, windowed, left out and why."""

    def __len__(self) -> int:
        return len(self.row)

    @property
    def num_examples(self) -> int:
        """E."""
        return len(self.row)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example: int64 (E,), each at least 1."""
        return np.diff(self.offsets)


def encode_task(
    rows: TaskRows,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    max_seq_length: int,
    *,
    is_training: bool,
    window_overlap: int | None = None,
) -> TaskExamples:
    """Return the examples of a task file.

    Args:
        rows: of `read_task_file`
        tokenizer: of the model
        labels: in the order of their ids; empty for regression and question answering
        max_seq_length: tokens of an example at most, special tokens included
        is_training: leave out rows that can teach nothing (an empty text, an answer that is not
            in the passage); otherwise every row has an example
        window_overlap: tokens that neighbouring windows of a long row share; None: 64, or half a
            window where that is less

    Raises:
        TaskError: a label is not among `labels`, or `max_seq_length` leaves no room for text
        ValueError: `window_overlap` is negative
    """
    if window_overlap is not None and window_overlap < 0:
        raise ValueError(f"window_overlap must be at least 0, got {window_overlap}")
    options = _Options(tokenizer, labels, max_seq_length, is_training, window_overlap)
    if isinstance(rows, TextRows):
        return _encode_texts(rows, options)
    if isinstance(rows, WordRows):
        return _encode_words(rows, options)
    return _encode_questions(rows, options)


@dataclass(frozen=True)
class _Options:
    """How rows become examples; see `encode_task`."""

    tokenizer: Tokenizer
    labels: Sequence[str]
    max_seq_length: int
    is_training: bool
    overlap: int | None

    def choose(self, can_teach: npt.NDArray[np.bool_]) -> Integers:
        """Return the rows that become examples: int64."""
        return np.flatnonzero(can_teach) if self.is_training else np.arange(len(can_teach))

    def name(self, reason: str) -> str:
        """Return under what to count rows that can teach nothing."""
        return f"left out: {reason}" if self.is_training else reason


def _encode_texts(rows: TextRows, options: _Options) -> TaskExamples:
    """Return a text or two a row, cut where they are too long."""
    columns = [rows.texts] if rows.pairs is None else [rows.texts, rows.pairs]
    layout = find_layout(options.tokenizer, len(columns))
    room = layout.room(options.max_seq_length)
    has_text = np.array(
        [all(map(str.strip, texts)) for texts in zip(*columns, strict=True)], np.bool_
    )
    kept = options.choose(has_text)
    encoded = [encode_texts(options.tokenizer.backend, texts) for texts in columns]
    full = [texts.lengths[kept] for texts in encoded]
    lengths = fit_pairs(full[0], full[-1] if len(full) > 1 else full[0] * 0, room)
    parts = [texts.part(kept, 0, own) for texts, own in zip(encoded, lengths, strict=False)]
    labels = None if rows.labels is None else _row_labels(rows, options.labels)
    is_cut = np.sum(full, axis=0) > np.sum(lengths, axis=0)
    return _make_examples(
        rows,
        lay_out(layout, parts),
        kept,
        labels=None if labels is None else labels[kept],
        counts={
            options.name("empty text"): int((~has_text).sum()),
            "truncated": int(is_cut.sum()),
        },
    )


def _row_labels(rows: TextRows, labels: Sequence[str]) -> Labels:
    if isinstance(rows.labels, np.ndarray):
        return rows.labels.astype(np.float32)
    return label_ids(rows, labels)


def _encode_words(rows: WordRows, options: _Options) -> TaskExamples:
    """Return sentences; one that is too long is windows, each word scored in one of them."""
    layout = find_layout(options.tokenizer, 1)
    room = layout.room(options.max_seq_length)
    has_words = np.diff(rows.offsets) > 0
    kept = options.choose(has_words)
    encoded = encode_words(options.tokenizer, rows)
    windows = cut_windows(encoded.rows.lengths[kept], np.full(len(kept), room), options.overlap)
    row = kept[windows.sequence]
    part = encoded.rows.part(row, windows.starts, windows.lengths)
    laid = lay_out(layout, [part])
    scored = np.flatnonzero(encoded.is_first[part.source] & windows.is_core)
    is_scored = np.zeros(len(laid.input_ids), np.bool_)
    word = np.zeros(len(laid.input_ids), np.int64)
    is_scored[laid.places[0][scored]] = True
    word[laid.places[0][scored]] = encoded.word[part.source[scored]]
    labels = None
    if rows.tags is not None:
        labels = np.full(len(word), IGNORED, np.int64)
        labels[is_scored] = label_ids(rows, options.labels)[word[is_scored]]
    return _make_examples(
        rows,
        laid,
        row,
        labels=labels,
        is_scored=is_scored,
        word=word,
        counts={
            options.name("no words"): int((~has_words).sum()),
            "words without a piece": len(rows.words) - int(encoded.is_first.sum()),
            **_count_windows(windows),
        },
    )


def _encode_questions(rows: QuestionRows, options: _Options) -> TaskExamples:
    """Return questions, each with its passage or with windows of it."""
    layout = find_layout(options.tokenizer, 2)
    room = layout.room(options.max_seq_length)
    questions = encode_texts(options.tokenizer.backend, rows.questions)
    passages = encode_passages(options.tokenizer.backend, rows.passages)
    answers = find_answers(rows, passages)
    kept = options.choose(answers.is_found)
    asked = np.minimum(questions.lengths, room // 2)
    num_tokens = passages.tokens.lengths[rows.passage_of]
    windows = cut_windows(num_tokens[kept], room - asked[kept], options.overlap)
    row = kept[windows.sequence]
    passage = passages.tokens.part(rows.passage_of[row], windows.starts, windows.lengths)
    laid = lay_out(layout, [questions.part(row, 0, asked[row]), passage])
    begins = laid.offsets[1:] - len(layout.specials[2]) - windows.lengths - laid.offsets[:-1]
    columns = (passages.has_text, passages.starts, passages.ends)
    has_text, starts, ends = (_spread(laid, values[passage.source]) for values in columns)
    return _make_examples(
        rows,
        laid,
        row,
        labels=None if rows.answers is None else place_answers(answers, row, windows, begins),
        is_scored=has_text.astype(np.bool_),
        token_starts=starts,
        token_ends=ends,
        counts={
            **{options.name(reason): count for reason, count in answers.reasons.items()},
            "questions truncated": int((questions.lengths > asked)[kept].sum()),
            **_count_windows(windows),
        },
    )


def _spread(laid: LaidOut, values: npt.NDArray[np.generic]) -> Integers:
    """Return values of the second text's tokens at their places: int64 (T,), 0 elsewhere."""
    spread = np.zeros(len(laid.input_ids), np.int64)
    spread[laid.places[1]] = values
    return spread


def _count_windows(windows: Windows) -> dict[str, int]:
    is_cut = ~windows.is_whole
    return {
        "in windows": len(np.unique(windows.sequence[is_cut])),
        "windows": int(is_cut.sum()),
    }


def _make_examples(
    rows: TaskRows,
    laid: LaidOut,
    row: Integers,
    *,
    labels: Labels | None,
    counts: Mapping[str, int],
    is_scored: npt.NDArray[np.bool_] | None = None,
    word: Integers | None = None,
    token_starts: Integers | None = None,
    token_ends: Integers | None = None,
) -> TaskExamples:
    return TaskExamples(
        task=rows.task,
        num_rows=len(rows),
        input_ids=laid.input_ids,
        token_type_ids=laid.token_type_ids,
        offsets=laid.offsets,
        row=row,
        labels=labels,
        is_scored=is_scored,
        word=word,
        token_starts=token_starts,
        token_ends=token_ends,
        counts={what: count for what, count in {**rows.counts, **counts}.items() if count},
    )
