"""A text written about another: translation, summaries; learned from pairs, scored as written.

R rows of a file; E examples of a source and a target.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from lmdata.ragged import Ragged, offsets_of
from lmdata.tokenizer import Tokenizer
from lmmodel.batch import Batch
from lmmodel.cores import summed_cross_entropy
from lmmodel.errors import FitError, TaskError
from lmmodel.families import ModelConfig
from lmmodel.tasks.examples import (
    Encoding,
    Predictions,
    TaskExamples,
    make_examples,
    unlabelled,
)
from lmmodel.tasks.tables import parse_text
from lmmodel.tasks.task import GivenTexts, Scores, StockClass, Task
from lmmodel.tasks.task_files import TaskFile
from lmmodel.tasks.text_rows import TextRows, Usual, read_text_rows
from lmmodel.tasks.text_scores import RowScores, score_texts, signatures
from lmmodel.texts import Framed, Integers, encode_texts
from lmmodel.writing import Hypothesis, WritingConfig, write

NUM_SAMPLES = 3  # of what was written, in the summary
SOURCES_CUT, TARGETS_CUT = "sources truncated", "targets truncated"


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What was written about a source."""

    source: str
    target: str
    score: float | None  # what the search thinks of it; None of draws
    others: tuple[str, ...] = ()  # the next best, where several are asked for


class SequenceTask(Task[TextRows]):
    """A target for each source."""

    name = "sequence-to-sequence"
    verb = "generate"
    stopping_scores = ("bleu", "chrf", "rougeL", "exact_match")
    is_over_sequences = True
    writes = True
    stock = StockClass(suffix="ConditionalGeneration", pipeline_tag="text2text-generation")
    usual = Usual(
        texts=(("source",), ("text",), ("document",), ("input",)), labels=("target", "summary"),
        num_texts=(1,), guesses_by_value=False,
        called=("the source", "the second text", "the target"),
    )  # fmt: skip

    tokenizer: Tokenizer
    frame: WritingFrame
    label_smoothing = 0.0
    prefix = ""
    max_target_length: int
    num_beams = 1

    def bound(
        self, tokenizer: Tokenizer, model: ModelConfig, settings: Any
    ) -> Task[TextRows]:  # fmt: skip
        """Return the task with what frames its texts, and how it is scored."""
        if not model.traits.is_encoder_decoder:
            raise FitError(
                f"{self.name} is learned by an encoder beside a decoder, and family "
                f"{model.family} has none: begin with a run of t5 or bart, or with none by "
                "--family transformer"
            )
        task = copy.copy(self)
        task.tokenizer, task.frame = tokenizer, find_writing_frame(tokenizer, model)
        task.label_smoothing, task.prefix = settings.label_smoothing, settings.prefix
        task.num_beams = settings.num_beams
        longest = settings.max_target_length or settings.max_seq_length
        assert longest is not None
        task.max_target_length = min(longest, model.max_position_embeddings)
        return task

    def read(self, file: TaskFile) -> TextRows:
        """Return sources with their targets: a text, or a list of several that are right."""
        if file.columns.pair is not None:
            raise TaskError(f"{self.name} reads one source: {file.columns.pair!r} has no effect")
        return read_text_rows(file, self.usual, parse_targets)

    def take_rows(self, rows: TextRows, which: Integers) -> TextRows:
        """Return some rows."""
        return rows.take(which)

    def encode(self, rows: TextRows, how: Encoding) -> TaskExamples:
        """Return a source and its first target a row, both cut where they are too long."""
        labels: Any = rows.labels
        firsts = [""] * len(rows) if labels is None else [own[0] for own in labels]
        has_both = np.array([bool(t.strip()) for t in rows.texts], np.bool_)
        has_both &= np.array([bool(t.strip()) for t in firsts], np.bool_) | (not how.is_training)
        kept = how.choose(has_both)
        framed, target, counts = self.frame_pairs(rows.texts, firsts, kept, how.max_seq_length)
        counts = {how.name("empty source or target"): int((~has_both).sum()), **counts}
        examples = make_examples(rows, framed, kept, labels=None, counts=counts)
        return dataclasses.replace(examples, targets=target)

    def frame_pairs(
        self, sources: Sequence[str], targets: Sequence[str], kept: Integers, max_source: int
    ) -> tuple[Framed, Ragged, dict[str, int]]:
        """Return the ids of some pairs as they are learned, and how many of them were cut.

        Args:
            sources: R texts
            targets: R texts
            kept: int64 (E,) which of them
            max_source: tokens of a source at most

        Returns:
            The sources, the targets (int32 (E,)), and counts by what was cut.
        """
        backend, frame = self.tokenizer.backend, self.frame
        source, num_cut = frame_ids(
            encode_texts(backend, [self.prefix + text for text in sources]), kept, frame.before,
            [frame.end], max_source,
        )  # fmt: skip
        target, num_cut_targets = frame_ids(
            encode_texts(backend, targets), kept, [frame.start, *frame.before], [frame.end],
            self.max_target_length + 1,
        )  # fmt: skip
        framed = Framed(
            input_ids=source.values.astype(np.int32, copy=False),
            token_type_ids=np.zeros(len(source.values), np.uint8),
            offsets=source.offsets.astype(np.int64), places=(),
        )  # fmt: skip
        return framed, target, {SOURCES_CUT: num_cut, TARGETS_CUT: num_cut_targets}

    def make_head(self, config: ModelConfig, num_outputs: int) -> nn.Module:
        """Return nothing: the decoder has a head of its own."""
        return nn.Identity()

    def output_names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return no names."""
        return ()

    def sum_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Return the summed cross-entropy of the targets' tokens; labels int64 (T,)."""
        return summed_cross_entropy(logits, labels, self.label_smoothing)

    def write(self, model: Any, examples: TaskExamples) -> list[Any]:
        """Return the ids that are written about each example, int64."""
        longest = self.max_target_length
        if examples.targets is not None and len(examples):  # far beyond the right ones all is wrong
            longest = min(longest, 2 * int(examples.targets.lengths.max()))
        config = WritingConfig(num_beams=self.num_beams, max_new_tokens=longest)
        sources = np.split(examples.input_ids.astype(np.int64), examples.offsets[1:-1])
        found = write(model, sources[: len(examples)], self.frame.start, self.frame.end, config)
        return [np.array(own[0].ids, np.int64) for own in found]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return what ids stand for, without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def predict(
        self, examples: TaskExamples, logits: Any, rows: TextRows, labels: Sequence[str]
    ) -> Predictions:
        """Return the text that was written about each row."""
        return Predictions(values=[self.text_of(ids) for ids in logits])

    def references(self, rows: TextRows, labels: Sequence[str]) -> list[Sequence[str]]:
        """Return the right targets of each row, one or more."""
        if rows.labels is None:
            raise unlabelled(rows.path)
        return [tuple(map(str, own)) for own in rows.labels]

    def score(self, found: Predictions, references: Any, labels: Sequence[str]) -> Scores:
        """Return BLEU, chrF and TER where sacrebleu is, ROUGE where rouge-score is, exact match."""
        return score_texts(found.values, references)

    def scorer(
        self, found: Predictions, references: Any, labels: Sequence[str]
    ) -> Callable[[Integers], Scores]:
        """Return what adds up what each row brings, which is found out once."""
        return RowScores(found.values, references).of

    def signatures(self, references: Any) -> dict[str, str]:
        """Return those of sacrebleu, and the settings of ROUGE."""
        return signatures(references)

    def samples(
        self, rows: TextRows, found: Predictions, references: Any
    ) -> tuple[tuple[str, str, str], ...]:
        """Return the first rows."""
        columns = zip(rows.texts, found.values, references, strict=True)
        return tuple((text, own, right[0]) for text, own, right in list(columns)[:NUM_SAMPLES])

    def given(self, rows: TextRows) -> GivenTexts:
        """Return the sources of a file."""
        return GivenTexts(texts=list(rows.texts), rows=[{} for _ in rows.texts])

    def answers(
        self, rows: TextRows, found: Predictions, labels: Sequence[str]
    ) -> list[Writing]:  # fmt: skip
        """Return what was written about each row."""
        return [
            Writing(source=source, target=target, score=None)
            for source, target in zip(rows.texts, found.values, strict=True)
        ]

    def ask(self, model: Any, texts: Sequence[str], config: WritingConfig, max_source: int,
            progress: Any = None) -> list[Writing]:  # fmt: skip
        """Return what is written about texts; those that are too long are cut."""
        sources = self.sources(texts, max_source)
        frame = self.frame
        found = write(model, sources, frame.start, frame.end, config, progress=progress)
        return [self._told(*pair) for pair in zip(texts, found, strict=True)]

    def sources(self, texts: Sequence[str], max_source: int) -> list[Integers]:
        """Return the ids of texts as they are read, int64 (U_i,); those too long are cut."""
        encoded = encode_texts(self.tokenizer.backend, [self.prefix + text for text in texts])
        frame = self.frame
        source, _ = frame_ids(encoded, np.arange(len(texts)), frame.before, [frame.end], max_source)
        return [source.row(index).astype(np.int64) for index in range(len(texts))]

    def _told(self, source: str, found: Sequence[Hypothesis]) -> Writing:
        best, *others = found
        return Writing(
            source=source, target=self.text_of(best.ids), score=best.score,
            others=tuple(self.text_of(one.ids) for one in others),
        )  # fmt: skip


def parse_targets(where: str, name: str, value: Any) -> tuple[str, ...]:
    """Return the right targets of a row: a text, or several in a list.

    Raises:
        TaskError: they are something else
    """
    if isinstance(value, list) and value:
        return tuple(parse_text(where, name, one) for one in value)
    return ("" if value is None else parse_text(where, name, value),)


# Ids.


@dataclass(frozen=True)
class WritingFrame:
    """What stands around sources and targets."""

    start: int  # that a target begins with, which is read and never written
    before: list[int]  # the first tokens of sources and targets: BART's <s>
    end: int  # of sources and targets


def find_writing_frame(tokenizer: Tokenizer, model: ModelConfig) -> WritingFrame:
    """Return what stands around texts: an end behind them, and what a family begins with.

    Raises:
        TokenizerError: the tokenizer has no padding, or no token that ends a text
    """
    special = tokenizer.special_ids
    end = special.get("eos")
    end = tokenizer.require_special("sep") if end is None else end
    start = end
    if model.traits.decoder_start == "pad":
        start = tokenizer.require_special("pad")
    usual = tokenizer.backend.encode("a").ids if tokenizer.backend.num_special_tokens_to_add(
        False
    ) else []  # fmt: skip
    begin = special.get("bos")
    before = [begin] if begin is not None and begin != end and usual[:1] == [begin] else []
    return WritingFrame(start, before, end)


def frame_ids(
    texts: Any, kept: Integers, before: Sequence[int], after: Sequence[int], longest: int
) -> tuple[Ragged, int]:
    """Return the ids of some texts between others, int32 (E,), and how many texts were cut.

    Args:
        texts: `TextIds`
        kept: int64 (E,) which of them
        before: ids
        after: ids
        longest: tokens of the longest in all

    Raises:
        TaskError: there is no room for text
    """
    room = longest - len(before) - len(after)
    if room < 1:
        raise TaskError(f"{longest} tokens leave no room for text: set max_seq_length higher")
    full = texts.lengths[kept]
    parts = []
    for row in kept:
        start = int(texts.offsets[row])
        own = texts.ids[start : min(start + room, int(texts.offsets[row + 1]))]
        parts.append(np.concatenate([before, own, after]).astype(np.int32))
    values = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    offsets = offsets_of(np.array([len(part) for part in parts], np.int64))
    return Ragged(values, offsets), int((full > room).sum())
