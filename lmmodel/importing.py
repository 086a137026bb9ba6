"""A Hugging Face checkpoint to a run folder, to evaluate, fine-tune or go on training with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lmdata.files import output_errors, writing_folder
from lmdata.tokenizer import Tokenizer
from lmmodel.config import TrainConfig
from lmmodel.device import describe_environment
from lmmodel.errors import RunError
from lmmodel.families import ModelConfig
from lmmodel.finetuning.folder import is_fine_tuned
from lmmodel.handover.parity import check_parity
from lmmodel.handover.settings import padding_id, read_config, read_tokenizer, token_id
from lmmodel.handover.stock import (
    OBJECTIVE_KEY,
    Imported,
    check_vocabulary,
    hash_weights,
    import_model,
)
from lmmodel.handover.written import architecture
from lmmodel.objectives import OBJECTIVES, ObjectiveConfig
from lmmodel.record import RUN, is_run
from lmmodel.saving.checkpoint import save_tensors
from lmmodel.saving.run import WEIGHTS_NAME, RunRecord, create_run

DEFAULT_MAX_SEQ_LENGTH = 128
REMEDY = "config.json asks for something that this model is not, or the files are of several models"


@dataclass(frozen=True, kw_only=True)
class Import:
    """What became of a checkpoint."""

    output: Path
    architecture: str  # the transformers class that an export of it opens with
    num_parameters: int
    fresh: tuple[str, ...]  # our weights that the folder lacks: they are random
    unused: tuple[str, ...]  # its weights that have no place here
    max_logit_difference: float | None  # None: transformers is not installed, or a head is fresh
    notes: tuple[str, ...] = ()  # what of its tokenizer was changed, a sentence each


def import_checkpoint(folder: Path | str, output: Path | str, *, overwrite: bool = False) -> Import:
    """Write a run folder of a checkpoint; it appears whole or not at all.

    BERT, ModernBERT and GPT-2 in safetensors, with their tokenizer; one file or many.

    Args:
        folder: that `save_pretrained` wrote, or a copy from the Hub
        output: run folder to write
        overwrite: replace the run that is there

    Raises:
        HuggingFaceError: the architecture, a setting or the file format is not supported, the
            tokenizer is missing or has more ids than the model, or transformers, where installed,
            computes other logits
        RunError: `output` holds a run already, or something that is not a run; or `folder` is
            a run or a fine-tuned model of ours, or a file
        OutputError: `output` can't be written
    """
    folder, output = Path(folder), Path(output)
    with writing_folder(output, RUN, overwrite=overwrite) as temporary:
        _check_foreign(folder)
        imported = import_model(folder)
        config = imported.model.config
        tokenizer = with_named_tokens(read_tokenizer(folder), imported.theirs, config)
        check_vocabulary(tokenizer, config)
        difference = None
        if not imported.fresh:
            pad_id = padding_id(imported.theirs, config)
            class_name = architecture(config, objective=imported.objective)
            difference = check_parity(
                imported.model, folder, class_name, pad_id, remedy=REMEDY,
                objective=imported.objective,
            )  # fmt: skip
        record = make_record(folder, imported, tokenizer)
        with output_errors(output):
            create_run(temporary, record, tokenizer, overwrite=False)
            save_tensors(temporary / WEIGHTS_NAME, dict(imported.model.named_parameters()))
    return Import(
        output=output,
        architecture=architecture(config, objective=imported.objective),
        num_parameters=config.num_parameters,
        fresh=tuple(imported.fresh),
        unused=tuple(imported.unused),
        max_logit_difference=difference,
        notes=(*tokenizer.notes, *_notes(imported)),
    )


def _notes(imported: Imported) -> list[str]:
    """Return what a model that goes on learning its objective begins without."""
    if imported.objective is None:
        return []
    return [
        f"it goes on with objective {imported.objective}: what it was trained beside, and its "
        "vocabulary head, are not in the folder and begin afresh"
    ]


def _check_foreign(folder: Path) -> None:
    if folder.is_file():
        raise RunError(f"{folder} is a file: name the Hugging Face folder")
    read_config(folder)  # what is no JSON at all is told as such
    if is_fine_tuned(folder):
        raise RunError(
            f"{folder} is a fine-tuned model of ours: it needs no import, classify, tag, answer "
            "and export take it as it is"
        )
    if is_run(folder):
        raise RunError(
            f"{folder} is a run already: it needs no import; evaluate, finetune and "
            f"train --init-from {folder} take it as it is"
        )


def with_named_tokens(
    tokenizer: Tokenizer, theirs: Mapping[str, Any], config: ModelConfig
) -> Tokenizer:
    """Return the tokenizer, with the special tokens that only the model's configuration names.

    Where a text ends, `generate` asks the model's configuration, not the tokenizer.
    """
    named: dict[str, str] = {}
    for name in ("bos", "eos", "pad"):
        found = token_id(theirs, config, name)
        if tokenizer.special_ids[name] is None and found is not None:
            piece = tokenizer.pieces[found] if found < tokenizer.vocab_size else None
            named |= {name: piece} if piece is not None else {}
    if not named:
        return tokenizer
    special_tokens = {**tokenizer.special_tokens, **named}
    return Tokenizer(tokenizer.backend, special_tokens, notes=tokenizer.notes)


def make_record(folder: Path, imported: Imported, tokenizer: Tokenizer) -> RunRecord:
    """Return the record of a run without steps and without data of its own."""
    return RunRecord(
        config=make_config(imported),
        num_steps=0,
        data_path="",
        data_hash="",
        tokenizer_hash=tokenizer.hash,
        environment=describe_environment(torch.device("cpu")),
        origin=_origin(folder, imported),
    )


def make_config(imported: Imported) -> TrainConfig:
    """Return the settings by which a checkpoint is evaluated: what it can do decides."""
    model = imported.model.config
    kept = imported.objective or imported.theirs.get(OBJECTIVE_KEY)
    objective = objective_of(model, imported.fresh, kept)
    recipe = OBJECTIVES[objective].recipe
    length = min(DEFAULT_MAX_SEQ_LENGTH, model.max_position_embeddings)
    return TrainConfig(
        device="cpu",
        precision="fp32",
        model=model,
        objective=ObjectiveConfig(name=objective),
        recipe=dataclasses.replace(recipe, max_seq_length=length),
    )


def objective_of(model: ModelConfig, fresh: list[str], kept: str | None = None) -> str:
    """Return the objective whose heads a checkpoint has.

    Args:
        model: its shape
        fresh: weights that it lacks
        kept: what our own export says of its objective; others say nothing

    Example:
        >>> objective_of(ModelConfig(has_nsp_head=True), ["nsp_head.classifier.weight"])
        'mlm'
        >>> objective_of(ModelConfig(family="gpt2"), []), objective_of(ModelConfig(), [], "hybrid")
        ('clm', 'hybrid')
    """
    has_classifier = model.has_nsp_head and "nsp_head.classifier.weight" not in fresh
    for name in (kept, model.traits.objective, "mlm"):
        found = OBJECTIVES.get(name or "")
        if found is not None and (found.is_causal or not model.is_causal) and (
            found.pair_view is None or has_classifier
        ):  # fmt: skip
            return str(name)
    raise AssertionError(f"family {model.family} has an objective of its own")


def _origin(folder: Path, imported: Imported) -> dict[str, Any]:
    named = imported.theirs.get("architectures") or [imported.theirs["model_type"]]
    return {
        "folder": str(folder.resolve()),
        "architecture": named[0],
        "weights_xxh3": hash_weights(folder),
        "fresh": list(imported.fresh),
        "unused": list(imported.unused),
    }
