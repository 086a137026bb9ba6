"""What an encoder-decoder writes about texts: a fine-tuned one its task's targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmmodel.encoder_decoder import EncoderDecoder
from lmmodel.families import FAMILIES
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.folder import is_fine_tuned, load_fine_tuned, read_fine_tuned_record
from lmmodel.record import is_run, read_values
from lmmodel.tasks.known import TASKS, find_task
from lmmodel.tasks.sequence_to_sequence import SequenceTask, Writing
from lmmodel.trained import load_run
from lmmodel.writing import WritingConfig

TASK = "sequence-to-sequence"


@dataclass(frozen=True)
class Writer:
    """A model that writes, and how its texts are framed."""

    model: EncoderDecoder  # in evaluation mode
    task: SequenceTask
    max_source: int  # tokens

    def write(
        self, texts: Sequence[str], config: WritingConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Writing]:  # fmt: skip
        """Return what is written about each text; those that are too long are cut."""
        return self.task.ask(self.model, texts, config, self.max_source, progress)


def is_writer(path: Path) -> bool:
    """Whether a folder holds an encoder-decoder, pretrained or fine-tuned to write."""
    if is_fine_tuned(path):
        return find_task(read_fine_tuned_record(path).task).writes
    if not is_run(path):
        return False
    family: Any = read_values(path)["config"]["model"].get("family")
    return family in FAMILIES and FAMILIES[family].is_encoder_decoder


def load_writer(path: Path, device: str = "auto") -> Writer:
    """Return the model of a folder that `is_writer` knows.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run` and `load_fine_tuned`
    """
    if is_fine_tuned(path):
        tuned = load_fine_tuned(path, device)
        assert isinstance(tuned.task, SequenceTask)
        assert isinstance(tuned.model.backbone, EncoderDecoder)
        return Writer(tuned.model.backbone, tuned.task, tuned.record.max_seq_length)
    run = load_run(path, device)
    longest = run.model.config.max_position_embeddings
    settings = FinetuneConfig(task=TASK, max_seq_length=longest)
    task = TASKS[TASK].bound(run.tokenizer, run.model.config, settings)
    assert isinstance(task, SequenceTask)
    assert isinstance(run.model, EncoderDecoder)
    return Writer(run.model, task, longest)
