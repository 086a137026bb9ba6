"""CoNLL-U: words with their tags and the spaces between them.

A word is what has a tag of its own. Empty nodes (1.1) stand for nothing in the text and are passed
over. A multiword token (1-2, such as "don't") has no tag: its words are taken ("do", "n't"), end to
end where they spell it, else apart, as "de le" for French "du"; those are counted.

Format: https://universaldependencies.org/format.html
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmmodel.errors import TaskError
from lmmodel.finetuning.rows import WordRows
from lmmodel.finetuning.tables import read_text
from lmmodel.finetuning.tasks import TaskFormat

_NUM_COLUMNS = 10
_FORM, _MISC = 1, 9
_TAG_COLUMNS = {"upos": 3, "xpos": 4}
_ABSENT = "_"


@dataclass(frozen=True)
class _Token:
    """One line of a sentence."""

    line: int
    fields: list[str]

    @property
    def form(self) -> str:
        return self.fields[_FORM]

    @property
    def has_space_after(self) -> bool:
        return "SpaceAfter=No" not in self.fields[_MISC].split("|")


@dataclass
class _Words:
    """What has been read so far."""

    words: list[str] = field(default_factory=list)
    has_space: list[bool] = field(default_factory=list)
    tags: list[str | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=lambda: [0])
    lines: list[int] = field(default_factory=list)
    counts: collections.Counter[str] = field(default_factory=collections.Counter)


def read_conllu(path: Path, columns: TaskFormat) -> WordRows:
    """Return the sentences of a file, one a row.

    Raises:
        TaskError: a line has not ten fields, words are not numbered in order, or no word has a tag
    """
    read = _Words()
    for sentence in _sentences(path, read_text(path)):
        _add_sentence(path, sentence, _TAG_COLUMNS[columns.tags], read)
    if not read.words:
        raise TaskError(f"{path} holds no words")
    if columns.has_labels and not any(read.tags):
        other = next(name for name in _TAG_COLUMNS if name != columns.tags)
        raise TaskError(f"{path} has no {columns.tags} tags: try --set columns.tags={other}")
    read.counts["words without a tag"] = sum(tag is None for tag in read.tags)
    return WordRows(
        path=str(path),
        task="token-classification",
        lines=np.array(read.lines, np.int64),
        words=read.words,
        has_space=np.array(read.has_space, np.bool_),
        offsets=np.array(read.offsets, np.int64),
        tags=read.tags if columns.has_labels else None,
        counts={reason: count for reason, count in read.counts.items() if count},
    )


def _sentences(path: Path, text: str) -> Iterator[list[_Token]]:
    """Yield the lines of each sentence, comments left out."""
    tokens: list[_Token] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            if tokens:
                yield tokens
            tokens = []
        elif not line.startswith("#"):
            fields = line.split("\t")
            if len(fields) != _NUM_COLUMNS:
                raise TaskError(
                    f"{path}, line {number} has {len(fields)} fields separated by tabs, CoNLL-U "
                    f"has {_NUM_COLUMNS}: tags that do not match their words"
                )
            tokens.append(_Token(number, fields))
    if tokens:
        yield tokens


def _add_sentence(path: Path, tokens: list[_Token], tag_column: int, read: _Words) -> None:
    """Add the words of a sentence."""
    nodes = [token for token in tokens if "." not in token.fields[0]]
    words = [token for token in nodes if "-" not in token.fields[0]]
    for number, word in enumerate(words, 1):
        if word.fields[0] != str(number):
            raise TaskError(
                f"{path}, line {word.line}: word {word.fields[0]!r} where word {number} is due: "
                "tags that do not match their words"
            )
    has_space_after = [word.has_space_after for word in words]
    for token in nodes:
        if "-" in token.fields[0]:
            _join_words(path, token, words, has_space_after, read)
    read.words += [word.form for word in words]
    read.has_space += [False, *has_space_after[:-1]][: len(words)]
    for word in words:
        tag = word.fields[tag_column]
        read.tags.append(None if tag == _ABSENT else tag)
    read.offsets.append(len(read.words))
    read.lines.append(tokens[0].line)


def _join_words(
    path: Path, token: _Token, words: list[_Token], has_space_after: list[bool], read: _Words
) -> None:
    """Set which words of a multiword token have a space after them, in place."""
    first, _, last = token.fields[0].partition("-")
    is_range = first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last) <= len(words)
    if not is_range:
        raise TaskError(
            f"{path}, line {token.line}: {token.fields[0]!r} is not a range of the "
            f"{len(words)} words of its sentence"
        )
    inside = range(int(first) - 1, int(last))
    is_spelled = "".join(words[index].form for index in inside) == token.form
    for index in inside:
        has_space_after[index] = not is_spelled
    has_space_after[inside[-1]] = token.has_space_after
    read.counts["multiword tokens"] += 1
    read.counts["multiword tokens whose words do not spell them"] += not is_spelled
