"""A tag for each word of a text.

Words are encoded each by itself, together with the white space that stands before it. So every word
has pieces of its own, also "do" and "n't" of "don't", and a piece never belongs to two. For
WordPiece the ids are those of `AutoTokenizer(words, is_split_into_words=True)`; for byte-level BPE
and Metaspace, which write a space into the piece, they are those of the running text, which the
model was pretrained on, wherever the tokenizer itself ends a word there; the stock call would put a
space before every word, also before a comma. In UD English EWT 0.5 % (bert-base-cased) and 0.8 %
(GPT-2) of the pieces differ from those of the running text: "don", which spans two words, and the
like.

W words of the file; T tokens of the examples.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch.nn.functional as F
from torch import Tensor

from lmdata.ragged import offsets_of, ranges
from lmdata.tokenizer import Tokenizer
from lmmodel.batch import IGNORED, Batch
from lmmodel.tasks.examples import (
    Encoding,
    Floats,
    Labels,
    Predictions,
    TaskExamples,
    count_windows,
    enough_labels,
    make_examples,
    most_frequent,
    softmax,
    unlabelled,
)
from lmmodel.tasks.scores import are_entity_tags, confusion, score_classes, score_entities
from lmmodel.tasks.task import GivenTexts, Scores, StockClass, Task
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.words import USUAL, WordRows, read_conll, read_words, tag_ids
from lmmodel.texts import Integers, TextIds, cut_windows, encode_texts, find_frame, put_into_frame


@dataclass(frozen=True, kw_only=True)
class Tagging:
    """The words of a text and a tag for each."""

    text: str
    words: list[str]
    tags: list[str | None]  # None: nothing in the word is a token
    probabilities: list[float]  # of each tag, in [0, 1]


@dataclass(frozen=True)
class WordTags:
    """The right tags of R sentences of W words."""

    ids: Integers  # (W,) IGNORED where a word has none
    offsets: Integers  # (R + 1,)

    def __len__(self) -> int:
        return len(self.ids)

    def sentences(self, values: Integers, labels: Sequence[str]) -> list[list[str]]:
        """Return int64 (W,) ids as tags of each sentence; words without a right tag have O."""
        has_tag = (self.ids != IGNORED) & (values != IGNORED)
        names = [labels[v] if has else "O" for v, has in zip(values.tolist(), has_tag, strict=True)]
        return [names[start:stop] for start, stop in itertools.pairwise(self.offsets.tolist())]


@dataclass(frozen=True)
class EncodedWords:
    """Ids of rows of words, and which word each is a piece of."""

    rows: TextIds
    word: Integers  # (N,) among all W words
    is_first: npt.NDArray[np.bool_]  # (N,) first piece of its word


def encode_words(tokenizer: Tokenizer, rows: WordRows) -> EncodedWords:
    """Return the ids of words; each distinct word is encoded once."""
    backend, marks_start = word_backend(tokenizer)
    spaces = rows.has_space.copy()
    if marks_start:
        spaces[rows.offsets[:-1][np.diff(rows.offsets) > 0]] = True
    spelled = [" " * space + word for space, word in zip(spaces.tolist(), rows.words, strict=True)]
    number = {word: index for index, word in enumerate(dict.fromkeys(spelled))}
    distinct = encode_texts(backend, list(number))
    which = np.fromiter((number[word] for word in spelled), np.int64, len(spelled))
    lengths = distinct.lengths[which]
    starts = offsets_of(lengths)
    is_first = np.zeros(int(starts[-1]), np.bool_)
    is_first[starts[:-1][lengths > 0]] = True
    ids = distinct.ids[ranges(distinct.offsets[:-1][which], lengths)]
    word = np.repeat(np.arange(len(lengths)), lengths)
    return EncodedWords(TextIds(ids, starts[rows.offsets]), word, is_first)


def word_backend(tokenizer: Tokenizer) -> tuple[tokenizers.Tokenizer, bool]:
    """Return a tokenizer that adds no space before a text, and whether the original adds one."""
    definition = json.loads(tokenizer.backend.to_str())
    adding = [part for part in _parts(definition["pre_tokenizer"]) if _adds_space(part)]
    if not adding:
        return tokenizer.backend, False
    for part in adding:
        part.update({"prepend_scheme": "never"} if "prepend_scheme" in part else {})
        part.update({"add_prefix_space": False} if "add_prefix_space" in part else {})
    changed = tokenizers.Tokenizer.from_str(json.dumps(definition))
    changed.encode_special_tokens = True
    return changed, True


def _adds_space(part: dict[str, Any]) -> bool:
    if part.get("type") == "Metaspace":
        return bool(part["prepend_scheme"] != "never")
    return part.get("type") == "ByteLevel" and bool(part["add_prefix_space"])


def _parts(definition: Any) -> Iterator[dict[str, Any]]:
    """Yield a pre-tokenizer's definition and those inside it."""
    if isinstance(definition, dict):
        yield definition
        definition = list(definition.values())
    if isinstance(definition, list):
        for part in definition:
            yield from _parts(part)


class TaggingTask(Task[WordRows]):
    """A tag for each word; long sentences are read in windows, each word scored in one of them."""

    name = "token-classification"
    verb = "tag"
    stopping_scores = ("accuracy", "f1_macro", "entity_f1")
    is_over_sequences = False
    usual = USUAL
    stock = StockClass(
        suffix="TokenClassification",
        pipeline_tag="token-classification",
        without_dropout=frozenset({"xlnet"}),
        note="A word's label is that of its first piece; the others were not trained.",
    )

    def owns(self, file: TaskFile) -> bool:
        """Whether a file has a word a line."""
        return file.format == "conllu"

    def read(self, file: TaskFile) -> WordRows:
        """Return words with their tags."""
        return read_conll(file) if self.owns(file) else read_words(file)

    def find_labels(self, rows: WordRows) -> tuple[str, ...]:
        """Return the tags of a training file."""
        return enough_labels(rows.path, [tag for tag in rows.tags or () if tag is not None])

    def encode(self, rows: WordRows, how: Encoding) -> TaskExamples:
        """Return sentences, or windows of them.

        Labels are tag ids, int64 (T,), IGNORED but on the first piece of each word. `of_tokens`:
        `is_scored`, bool: the token speaks for a word; `word`, int64: among all W words of the
        file, 0 where it does not speak. Each word is scored once, where it has most context.
        """
        frame = find_frame(how.tokenizer, 1)
        room = frame.room(how.max_seq_length)
        has_words = np.diff(rows.offsets) > 0
        kept = how.choose(has_words)
        encoded = encode_words(how.tokenizer, rows)
        windows = cut_windows(encoded.rows.lengths[kept], np.full(len(kept), room), how.overlap)
        row = kept[windows.sequence]
        span = encoded.rows.span(row, windows.starts, windows.lengths)
        framed = put_into_frame(frame, [span])
        scored = np.flatnonzero(encoded.is_first[span.source] & windows.is_core)
        is_scored = np.zeros(len(framed.input_ids), np.bool_)
        word = np.zeros(len(framed.input_ids), np.int64)
        is_scored[framed.places[0][scored]] = True
        word[framed.places[0][scored]] = encoded.word[span.source[scored]]
        labels = None
        if rows.tags is not None:
            labels = np.full(len(word), IGNORED, np.int64)
            labels[is_scored] = tag_ids(rows, how.labels)[word[is_scored]]
        return make_examples(
            rows,
            framed,
            row,
            labels=labels,
            labels_are_by_token=True,
            of_tokens={"is_scored": is_scored, "word": word},
            counts={
                how.name("no words"): int((~has_words).sum()),
                "words without a piece": len(rows.words) - int(encoded.is_first.sum()),
                **count_windows(windows),
            },
        )

    def given(self, rows: WordRows) -> GivenTexts:
        """Return the words of each sentence."""
        bounds = itertools.pairwise(rows.offsets.tolist())
        words = [list(rows.words[start:stop]) for start, stop in bounds]
        return GivenTexts(texts=words, rows=[{"line": line} for line in rows.lines.tolist()])

    def take_rows(self, rows: WordRows, which: Integers) -> WordRows:
        """Return some rows."""
        return rows.take(which)

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed cross-entropy; labels int64 (T,), IGNORED where there is none."""
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)

    def count_labels(self, labels: Tensor) -> int:
        """Return how many tokens have a label."""
        return int((labels != IGNORED).sum())

    def predict(
        self, examples: TaskExamples, logits: Floats, rows: WordRows, labels: Sequence[str]
    ) -> Predictions:
        """Return the likeliest tag of each word, int64 (W,), IGNORED without a piece."""
        is_scored, word = examples.of_tokens["is_scored"], examples.of_tokens["word"]
        words, scored = word[is_scored], logits[is_scored]
        values = np.full(len(rows.words), IGNORED, np.int64)
        values[words] = scored.argmax(1)
        probabilities = np.zeros((len(rows.words), logits.shape[1]), np.float32)
        probabilities[words] = softmax(scored)
        return Predictions(values=values, probabilities=probabilities)

    def references(self, rows: WordRows, labels: Sequence[str]) -> WordTags:
        """Return the right tags."""
        if rows.tags is None:
            raise unlabelled(rows.path)
        return WordTags(tag_ids(rows, labels), rows.offsets)

    def score(self, found: Predictions, references: WordTags, labels: Sequence[str]) -> Scores:
        """Return accuracy over words with its interval, macro F1, and entities' F1 if any are.

        A word without a prediction is wrong.
        """
        scores = score_classes(found.values, references.ids, has_matthews=False)
        if are_entity_tags(labels):
            sentences = (
                references.sentences(ids, labels) for ids in (found.values, references.ids)
            )
            scores |= score_entities(*sentences)
        return scores

    def resample(
        self, found: Predictions, references: WordTags, rows: Integers
    ) -> tuple[Predictions, WordTags]:
        """Return the words of some sentences."""
        lengths = np.diff(references.offsets)[rows]
        words = ranges(references.offsets[rows], lengths)
        return (
            Predictions(values=found.values[words]),
            WordTags(references.ids[words], offsets_of(lengths)),
        )

    def guess(self, learned: Labels | None, num_outputs: int, references: Any) -> Any | None:
        """Return always the tag most frequent in training."""
        return most_frequent(learned, references)

    def confusion(self, found: Predictions, references: WordTags, num_labels: int) -> Any | None:
        """Return which tag is taken for which."""
        return confusion(found.values, references.ids, num_labels)

    def answers(self, rows: WordRows, found: Predictions, labels: Sequence[str]) -> list[Tagging]:
        """Return the words of each text with their tags."""
        assert found.probabilities is not None
        tags = [None if value == IGNORED else labels[value] for value in found.values.tolist()]
        best = found.probabilities.max(axis=1).tolist()
        bounds = enumerate(itertools.pairwise(rows.offsets.tolist()))
        return [
            Tagging(
                text=rows.text(row), words=list(rows.words[start:stop]), tags=tags[start:stop],
                probabilities=best[start:stop],
            )
            for row, (start, stop) in bounds
        ]  # fmt: skip
