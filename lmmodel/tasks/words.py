"""Words in sentences, with a tag each: from columns, from CoNLL-U and from CoNLL-2003's files.

In CoNLL-U a word is what has a tag of its own. Empty nodes (1.1) stand for nothing in the text and
are passed over. A multiword token (1-2, such as "don't") has no tag: its words are taken ("do",
"n't"), end to end where they spell it, else apart, as "de le" for French "du"; those are counted.
Files of CoNLL-2003's kind have a word a line, its tag in the last column, white space between.

Format: https://universaldependencies.org/format.html; Tjong Kim Sang and De Meulder, 2003.

R rows of the file; W words of all of them.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmdata.errors import counted
from lmdata.ragged import offsets_of, ranges
from lmmodel.batch import IGNORED
from lmmodel.errors import TaskError
from lmmodel.tasks.examples import unknown_label
from lmmodel.tasks.tables import MAX_TEXT, describe
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import Usual, find_columns
from lmmodel.texts import Integers

_NUM_COLUMNS = 10
_FORM, _MISC = 1, 9
_TAG_COLUMNS = {"upos": 3, "xpos": 4}
_ABSENT = "_"
_DOCUMENT_START = "-DOCSTART-"
USUAL = Usual(
    texts=(("tokens",), ("words",)),
    labels=("tags", "upos", "xpos", "pos_tags", "ner_tags", "labels"),
    num_texts=(1,),
    guesses_by_value=False,
    reads_words=True,
    called=("the words", "", "their tags"),
)


@dataclass(frozen=True, kw_only=True)
class WordRows:
    """Words in sentences, with a tag each."""

    path: str
    lines: Integers  # (R,)
    words: Sequence[str]  # (W,)
    has_space: npt.NDArray[np.bool_]  # (W,) white space stands before the word; False at the first
    offsets: Integers  # (R + 1,) where the words of each row begin
    tags: Sequence[str | None] | None  # (W,) None: a word without a tag
    counts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> str:
        """Return the running text of a row."""
        span = range(self.offsets[row], self.offsets[row + 1])
        return "".join(" " * bool(self.has_space[w]) + self.words[w] for w in span)

    def take(self, which: Integers) -> WordRows:
        """Return some rows, int64 (N,), in their order."""
        lengths = np.diff(self.offsets)[which]
        kept = ranges(self.offsets[:-1][which], lengths)
        return WordRows(
            path=self.path, lines=self.lines[which], words=[self.words[w] for w in kept],
            has_space=self.has_space[kept], offsets=offsets_of(lengths),
            tags=None if self.tags is None else [self.tags[w] for w in kept], counts=self.counts,
        )  # fmt: skip


def make_word_rows(
    sentences: Sequence[Sequence[str]], has_space: Sequence[Sequence[bool]] | None = None
) -> WordRows:
    """Return sentences to be tagged.

    Args:
        sentences: the words of each
        has_space: of each word, whether white space stands before it; None: always
    """
    lines = np.arange(1, len(sentences) + 1)
    rows = _word_rows("the input", lines, sentences, None, {})
    if has_space is not None:
        rows.has_space[:] = [space for sentence in has_space for space in sentence]
        rows.has_space[rows.offsets[:-1][np.diff(rows.offsets) > 0]] = False
    return rows


def _word_rows(
    path: str,
    lines: Integers,
    sentences: Sequence[Sequence[str]],
    tags: Sequence[str | None] | None,
    counts: Mapping[str, int],
) -> WordRows:
    """Return sentences whose words have white space between them."""
    offsets = offsets_of(np.array([len(words) for words in sentences], np.int64))
    has_space = np.ones(int(offsets[-1]), np.bool_)
    has_space[offsets[:-1][np.diff(offsets) > 0]] = False
    return WordRows(
        path=path, lines=lines, words=[word for words in sentences for word in words],
        has_space=has_space, offsets=offsets, tags=tags,
        counts={reason: count for reason, count in counts.items() if count},
    )  # fmt: skip


def tag_ids(rows: WordRows, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the id of every tag: int64 (W,), IGNORED where a word has none.

    Args:
        rows: with tags
        labels: in the order of their ids

    Raises:
        TaskError: a tag is not among `labels`
    """
    assert rows.tags is not None
    ids: dict[str | None, int] = {name: number for number, name in enumerate(labels)}
    ids[None] = IGNORED
    try:
        return np.fromiter((ids[name] for name in rows.tags), np.int64, len(rows.tags))
    except KeyError as error:
        place = next(place for place, name in enumerate(rows.tags) if name not in ids)
        row = int(np.searchsorted(rows.offsets, place, side="right")) - 1
        word = place - int(rows.offsets[row]) + 1
        where = f"{rows.path}, line {rows.lines[row]}, word {word} ({rows.words[place]!r})"
        raise unknown_label(where, str(rows.tags[place]), labels) from error


# Columns.


def read_words(file: TaskFile) -> WordRows:
    """Return the words of each row; where a cell is one text, white space separates them.

    Raises:
        TaskError: a column is missing or ambiguous, or tags do not match their words
    """
    (name,), label = find_columns(file, USUAL)

    def parse(where: str, words: Any, tags: Any = None) -> tuple[list[str], list[str]]:
        own = parse_words(where, name, words)
        if label is None:
            return own, []
        found = parse_words(where, label, tags)
        if len(own) != len(found):
            raise TaskError(
                f"{where}: tags that do not match their words: {len(own)} words, {len(found)} tags"
            )
        return own, found

    lines, parsed = file.table.parse([name, *([] if label is None else [label])], parse)
    tags = None if label is None else [tag for _, own in parsed for tag in own]
    words = [own for own, _ in parsed]
    return _word_rows(str(file.path), lines, words, tags, file.table.counts)


def parse_words(where: str, name: str, value: Any) -> list[str]:
    """Return the words or tags of one row: a list of them, or one text with white space."""
    if value is None:
        return []
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value.split()
    is_list = isinstance(value, list) and all(
        isinstance(item, str) or (type(item) is int and abs(item) < 10**15) for item in value
    )
    if not is_list:
        raise TaskError(
            f"{where}: {name!r} is {describe(value)}, a list of words or a text with white space "
            "between them is wanted"
        )
    return [str(item) for item in value]


# CoNLL's files.


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

    def finish(self, path: Path, *, has_labels: bool) -> WordRows:
        """Return them as rows."""
        if not self.words:
            raise TaskError(f"{path} holds no words")
        self.counts["words without a tag"] = sum(tag is None for tag in self.tags)
        return WordRows(
            path=str(path),
            lines=np.array(self.lines, np.int64),
            words=self.words,
            has_space=np.array(self.has_space, np.bool_),
            offsets=np.array(self.offsets, np.int64),
            tags=self.tags if has_labels else None,
            counts={reason: count for reason, count in self.counts.items() if count},
        )


def read_conll(file: TaskFile) -> WordRows:
    """Return the sentences of a file, one a row.

    Raises:
        TaskError: columns are described, which are fixed here; a line has another number of fields,
            words are not numbered in order, or no word has a tag
    """
    path, columns = file.path, file.columns
    file.check_no_columns()
    read = _Words()
    is_numbered = _is_numbered(file.text)
    tag_column = _TAG_COLUMNS[columns.tags] if is_numbered else -1
    for sentence in _sentences(path, file.text, is_numbered=is_numbered):
        if is_numbered:
            _add_sentence(path, sentence, tag_column, read)
        else:
            _add_words(sentence, read)
    if is_numbered and read.words and columns.has_labels and not any(read.tags):
        other = next(name for name in _TAG_COLUMNS if name != columns.tags)
        raise TaskError(f"{path} has no {columns.tags} tags: try --set columns.tags={other}")
    return read.finish(path, has_labels=columns.has_labels)


def _is_numbered(text: str) -> bool:
    """Whether a file is CoNLL-U: its first word has a number, and tabs."""
    for line in text.split("\n"):
        if line.strip() and not line.startswith("#"):
            first = line.split("\t")[0]
            return "\t" in line and first.replace("-", "").replace(".", "").isdigit()
    return True


def _sentences(path: Path, text: str, *, is_numbered: bool) -> Iterator[list[_Token]]:
    """Yield the lines of each sentence; comments and marks of documents left out."""
    tokens: list[_Token] = []
    width = _NUM_COLUMNS if is_numbered else 0
    for number, line in enumerate(text.split("\n"), 1):
        is_mark = not is_numbered and line.startswith(_DOCUMENT_START)
        if not line.strip() or is_mark:
            if tokens:
                yield tokens
            tokens = []
        elif not (is_numbered and line.startswith("#")):
            fields = line.split("\t") if is_numbered else line.split()
            width = width or len(fields)
            if len(fields) != width or width < 2:
                _refuse(path, number, len(fields), width, is_numbered=is_numbered)
            tokens.append(_Token(number, fields))
    if tokens:
        yield tokens


def _refuse(path: Path, number: int, found: int, wanted: int, *, is_numbered: bool) -> None:
    kind = f"CoNLL-U has {wanted}" if is_numbered else f"the first line has {wanted}"
    separator = "tabs" if is_numbered else "white space"
    if wanted < 2:
        kind = "a word and its tag are wanted in each line"
    raise TaskError(
        f"{path}, line {number} has {counted(found, 'field')} separated by {separator}, {kind}: "
        "tags that do not match their words"
    )


def _add_words(tokens: list[_Token], read: _Words) -> None:
    """Add the words of a sentence of CoNLL-2003's kind."""
    read.words += [token.fields[0] for token in tokens]
    read.tags += [token.fields[-1] for token in tokens]
    read.has_space += [place > 0 for place in range(len(tokens))]
    read.offsets.append(len(read.words))
    read.lines.append(tokens[0].line)


def _add_sentence(path: Path, tokens: list[_Token], tag_column: int, read: _Words) -> None:
    """Add the words of a sentence of CoNLL-U."""
    nodes = [token for token in tokens if "." not in token.fields[0]]
    words = [token for token in nodes if "-" not in token.fields[0]]
    for number, word in enumerate(words, 1):
        if word.fields[0] != str(number):
            raise TaskError(
                f"{path}, line {word.line}: word {word.fields[0][:40]!r} where word {number} is "
                "due: tags that do not match their words"
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
    is_short = max(len(first), len(last)) <= len(str(len(words)))
    are_numbers = is_short and first.isascii() and last.isascii() and (first + last).isdigit()
    if not (are_numbers and first and last and 1 <= int(first) <= int(last) <= len(words)):
        raise TaskError(
            f"{path}, line {token.line}: {token.fields[0][:40]!r} is not a range of the "
            f"{len(words)} words of its sentence"
        )
    inside = range(int(first) - 1, int(last))
    is_spelled = "".join(words[index].form for index in inside) == token.form
    for index in inside:
        has_space_after[index] = not is_spelled
    has_space_after[inside[-1]] = token.has_space_after
    read.counts["multiword tokens"] += 1
    read.counts["multiword tokens whose words do not spell them"] += not is_spelled


# Words of running text.

# Words and signs of a text whose combining marks are all the same one, and whose joiners too.
_MARK, _JOINER = "\u0301", "\u200d"
_JOINERS = "\u200c\u200d"  # they stand inside words, as in Persian, and between parts of an emoji
_SKIN_TONES = "\U0001f3fb-\U0001f3ff"
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_LETTER = rf"[^\W\d_]{_MARK}*"
_PART = rf"(?:\w[{_MARK}{_JOINER}]*)+"
_SIGN = rf"[^\w\s]{_MARK}*"
_WORD = re.compile(
    rf"(?:{_LETTER}\.){{2,}}|{_LETTER}(?:\.{_LETTER})+(?!\w)|{_FLAG}"
    rf"|{_PART}(?:(?:['’]|(?<=\d)[.,](?=\d)){_PART})*"
    rf"|{_SIGN}(?:{_JOINER}{_SIGN})*{_JOINER}*"
)
_BELONGS = re.compile(f"[{_SKIN_TONES}\U000e0020-\U000e007f]")  # tags spell flags of regions


def split_words(text: str) -> tuple[list[str], list[bool]]:
    """Return words and punctuation marks, and whether white space stands before each.

    A word is letters and digits, with apostrophes between them. A combining mark or joiner (of
    Hindi, Arabic, Persian, "é" written as two) belongs to what it follows, a point or comma between
    two digits to the number, points between single letters to the abbreviation ("U.S.A.", "e.g."),
    and what makes one emoji stays one. Every other sign stands alone.

    Example:
        >>> split_words("Don't pay 3.50, now.")
        (["Don't", 'pay', '3.50', ',', 'now', '.'], [False, True, True, False, True, False])
    """
    found = [match.span() for match in _WORD.finditer(_with_one_mark(text))]
    words = [text[start:stop] for start, stop in found]
    return words, [text[start - 1 : start].isspace() for start, _ in found]


def _with_one_mark(text: str) -> str:
    """Return a text of the same length, its combining marks and its joiners replaced by one each.

    The colour of an emoji's skin is a mark like others.
    """
    if text.isascii():
        return text
    return "".join(
        _JOINER
        if sign in _JOINERS
        else _MARK
        if unicodedata.category(sign)[0] == "M" or _BELONGS.match(sign)
        else sign
        for sign in text
    )
