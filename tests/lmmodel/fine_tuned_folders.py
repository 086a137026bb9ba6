"""Folders of fine-tuned models that know nothing, made without training."""

from __future__ import annotations

from pathlib import Path

from lmdata.tokenizer import Tokenizer
from lmmodel.families import ModelConfig
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.folder import FineTunedRecord, save_model
from lmmodel.tasks.known import TASKS
from lmmodel.tasks.model import make_task_model


def write_fine_tuned(
    folder: Path,
    task: str,
    tokenizer: Tokenizer,
    labels: tuple[str, ...] = (),
    *,
    has_pairs: bool = False,
    **model: object,
) -> Path:
    """Write a model of 2 x 32 with random weights large enough to differ between texts."""
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
             "max_position_embeddings": 64, "initializer_range": 0.3, **model}  # fmt: skip
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **shape)  # type: ignore[arg-type]
    record = FineTunedRecord(
        task=task, labels=labels, max_seq_length=40, model=config,
        config=FinetuneConfig(task=task, max_seq_length=40), tokenizer_hash=tokenizer.hash,
        origin={}, data={}, figures={}, environment={},
        has_pairs=has_pairs or task == "sentence-pair",
    )  # fmt: skip
    head = make_task_model(config, TASKS[task], TASKS[task].num_outputs(labels), seed=3)
    folder.mkdir(parents=True)
    save_model(folder, record, head.state_dict(), tokenizer)
    return folder
