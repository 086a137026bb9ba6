"""What an encoder-decoder writes about texts: a fine-tuned one its task's targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmdata.ragged import offsets_of
from lmdata.tokenizer import twin
from lmmodel.encoder_decoder import EncoderDecoder
from lmmodel.errors import DivergedError, FitError
from lmmodel.families import FAMILIES
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.folder import (
    FineTuned,
    is_fine_tuned,
    load_fine_tuned,
    read_fine_tuned_record,
)
from lmmodel.inference import (
    batch_tokens,
    label_log_probabilities,
    map_batches,
    split_by_tokens,
)
from lmmodel.predicting.generation import Generation, GenerationConfig
from lmmodel.predicting.likelihood import Likelihoods
from lmmodel.record import is_run, read_values
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.known import TASKS, find_task
from lmmodel.tasks.model import pack, pack_labels
from lmmodel.tasks.sequence_to_sequence import SequenceTask, Writing
from lmmodel.tasks.text_rows import Usual
from lmmodel.trained import Run, load_run
from lmmodel.writing import Hypothesis, WritingConfig, write

TASK = "sequence-to-sequence"
PAIRS = Usual(
    texts=(("source", "target"), ("source", "summary"), ("document", "summary"),
           ("text", "summary"), ("input", "target")),
    labels=(), num_texts=(2,), called=("the source", "the target", "the label"),
)  # fmt: skip
"""What the columns of a source and its target are usually called."""


@dataclass(frozen=True)
class Restored:
    """One guess at what a text with marks stands for."""

    spans: tuple[str, ...]  # what each mark stands for; empty where a model writes the whole text
    probability: float  # of all that was written for it, in [0, 1]
    text: str


@dataclass(frozen=True)
class Writer:
    """A model that writes, and how its texts are framed."""

    model: EncoderDecoder  # in evaluation mode
    task: SequenceTask
    max_source: int  # tokens
    marks: np.ndarray  # int64 (N,), ids that stand for text it was trained to restore, if any

    def write(
        self, texts: Sequence[str], config: WritingConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Writing]:  # fmt: skip
        """Return what is written about each text; those that are too long are cut."""
        return self.task.ask(self.model, texts, config, self.max_source, progress)

    def continuations(
        self, texts: Sequence[str], sources: Sequence[np.ndarray], config: GenerationConfig
    ) -> list[Generation]:
        """Return what is written about texts whose ids were read, as continuations are told."""
        frame = self.task.frame
        wanted = WritingConfig(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature,
            top_k=config.top_k, top_p=config.top_p, seed=config.seed,
        )  # fmt: skip
        found = [own[0] for own in write(self.model, sources, frame.start, frame.end, wanted)]
        told = [self.task.text_of(one.ids) for one in found]
        return [
            Generation(prompt=text, text=own, continuation=own, ids=one.ids,
                       stopped_by="end of text" if one.has_ended else "max_new_tokens")
            for text, own, one in zip(texts, told, found, strict=True)
        ]  # fmt: skip

    def score(
        self, sources: Sequence[str], targets: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[Likelihoods, dict[str, int]]:  # fmt: skip
        """Return how likely each target is given its source, and counts by what was cut.

        The end of a target is scored as a token of it; its start is given.

        Raises:
            DivergedError: the model gives no numbers
        """
        kept = np.arange(len(sources))
        framed, target, counts = self.task.frame_pairs(sources, targets, kept, self.max_source)
        pairs = TaskExamples(
            num_rows=len(sources), input_ids=framed.input_ids,
            token_type_ids=framed.token_type_ids, offsets=framed.offsets, row=kept, labels=None,
            targets=target,
        )  # fmt: skip
        found = Likelihoods(
            total=sum_scores(self.model, pairs, progress), num_tokens=target.lengths - 1,
            num_bytes=np.array([len(text.encode()) for text in targets], np.int64), num_windowed=0,
        )  # fmt: skip
        if not np.isfinite(found.total).all():
            raise DivergedError("the model gives no probabilities: its weights are damaged")
        return found, {what: count for what, count in counts.items() if count}

    def restore(self, texts: Sequence[str], top_k: int = 5) -> list[list[Restored]]:
        """Return the likeliest guesses at texts with sentinels (T5) or masks (BART), best first.

        Args:
            texts: each with a mark at least, as the tokenizer spells it
            top_k: guesses of each text, found by as many beams

        Raises:
            FitError: a text has no mark, or is longer than the model takes
        """
        if not len(self.marks):
            raise FitError("the tokenizer has no token that stands for a mask: ask by generate")
        backend = twin(self.task.tokenizer.backend)  # in which sentinels are no text
        frame, found = self.task.frame, []
        for text in texts:
            ids = np.array(backend.encode(text, add_special_tokens=False).ids, np.int64)
            if not np.isin(ids, self.marks).any():
                piece = self.task.tokenizer.piece(int(self.marks[0]))
                raise FitError(f"{text!r} has no {piece}: put it where words are to be filled in")
            if len(ids) + 1 + len(frame.before) > self.max_source:
                raise FitError(f"a text of {len(ids)} tokens is longer than the model takes, "
                               f"{self.max_source}: {text[:60]!r}")  # fmt: skip
            found.append(np.concatenate([frame.before, ids, [frame.end]]).astype(np.int64))
        longest = min(self.task.max_target_length, 2 * max(map(len, found)))
        config = WritingConfig(
            num_beams=top_k, num_outputs=top_k, max_new_tokens=longest, length_penalty=0.0
        )
        written = write(self.model, found, frame.start, frame.end, config)
        return [
            [self._restored(ids, one) for one in own]
            for ids, own in zip(found, written, strict=True)
        ]

    def _restored(self, source: np.ndarray, one: Hypothesis) -> Restored:
        """Return a text whose sentinels are replaced by what was written behind each of them."""
        probability = math.exp(one.score)
        if len(self.marks) == 1:
            return Restored((), probability, self.task.text_of(one.ids))
        spans: dict[int, list[int]] = {int(mark): [] for mark in source if mark in self.marks}
        now: list[int] = []
        for token in one.ids:
            now = spans.get(token, []) if token in self.marks else now
            if token not in self.marks:
                now.append(token)
        whole = [own for token in source.tolist() for own in spans.get(token, [token])]
        told = tuple(self.task.text_of(span) for span in spans.values())
        return Restored(told, probability, self.task.text_of(whole))


def sum_scores(
    model: EncoderDecoder, pairs: TaskExamples, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """Return the log-probability of each pair's target: float64 (E,), nats."""
    device = model.embeddings.tokens.weight.device

    def compute(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        labels = pack_labels(pairs, rows).to(device)
        hidden = model(pack(pairs, rows).to(device))
        each = torch.arange(len(labels), device=device)
        values = label_log_probabilities(model, hidden, each, labels).double().cpu().numpy()
        assert pairs.targets is not None
        return rows, np.add.reduceat(values, offsets_of(pairs.targets.lengths[rows] - 1)[:-1])

    total = np.zeros(len(pairs))
    num_done = 0
    groups = list(split_by_tokens(pairs.sizes, batch_tokens(device)))
    for rows, values in map_batches(compute, groups, device):
        total[rows] = values
        num_done += len(rows)
        if progress is not None:
            progress(num_done, len(pairs))
    return total


def is_writer(path: Path) -> bool:
    """Whether a folder holds an encoder-decoder, pretrained or fine-tuned to write."""
    if is_fine_tuned(path):
        return find_task(read_fine_tuned_record(path).task).writes
    if not is_run(path):
        return False
    family: Any = read_values(path)["config"]["model"].get("family")
    return family in FAMILIES and FAMILIES[family].is_encoder_decoder


def restores(path: Path) -> bool:
    """Whether a folder holds an encoder-decoder that was trained to restore texts."""
    return is_writer(path) and not is_fine_tuned(path)


def load_writer(path: Path, device: str = "auto") -> Writer:
    """Return the model of a folder that `is_writer` knows.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run` and `load_fine_tuned`
    """
    return writer_of(
        load_fine_tuned(path, device) if is_fine_tuned(path) else load_run(path, device)
    )


def is_writing(model: Run | FineTuned) -> bool:
    """Whether a model is an encoder-decoder, pretrained or fine-tuned to write."""
    if isinstance(model, FineTuned):
        return model.task.writes
    return model.model.config.traits.is_encoder_decoder


def writer_of(model: Run | FineTuned) -> Writer:
    """Return an encoder-decoder with how its texts are framed."""
    if isinstance(model, FineTuned):
        assert isinstance(model.task, SequenceTask)
        assert isinstance(model.model.backbone, EncoderDecoder)
        none = np.zeros(0, np.int64)
        return Writer(model.model.backbone, model.task, model.record.max_seq_length, none)
    longest = model.model.config.max_position_embeddings
    settings = FinetuneConfig(task=TASK, max_seq_length=longest)
    task = TASKS[TASK].bound(model.tokenizer, model.model.config, settings)
    assert isinstance(task, SequenceTask)
    assert isinstance(model.model, EncoderDecoder)
    marks = model.tokenizer.sentinel_ids
    if model.objective.recipe.corruption != "sentinels":
        mask = model.tokenizer.special_ids["mask"]
        marks = np.array([] if mask is None else [mask], np.int64)
    return Writer(model.model, task, longest, marks)
