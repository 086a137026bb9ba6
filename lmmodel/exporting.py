"""A trained or fine-tuned model to a stock Hugging Face folder, with the proof that it agrees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lmdata.files import Kind, output_errors, writing_folder
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer
from lmmodel.errors import HuggingFaceError
from lmmodel.finetuning.folder import FineTuned, is_fine_tuned, load_fine_tuned
from lmmodel.handover.card import Card, is_our_card, render
from lmmodel.handover.description import describe_fine_tuned, describe_run
from lmmodel.handover.parity import check_parity
from lmmodel.handover.sentence_folder import SENTENCE_FILES, check_vectors, write_sentence_files
from lmmodel.handover.settings import CONFIG_NAME
from lmmodel.handover.stock import (
    CARD_NAME,
    export_model,
    with_frame,
    without_added_specials,
)
from lmmodel.handover.stock_families import stock_family
from lmmodel.saving.run import WEIGHTS_NAME
from lmmodel.tasks.sequence_to_sequence import find_writing_frame
from lmmodel.trained import Run, load_run

ONNX_NAME = "onnx/model.onnx"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written, and how far its logits are from ours."""

    output: Path
    architecture: str  # the transformers class that opens it
    max_logit_difference: float | None  # None where transformers is not installed
    max_vector_difference: float | None = None
    """Of vectors to sentence-transformers; None where it is not installed, or makes none."""
    onnx: Path | None = None  # None where it was not asked for
    max_onnx_difference: float | None = None
    notes: tuple[str, ...] = ()  # those of the model card


def export_run(
    run_path: Path | str, output: Path | str, *, overwrite: bool = False, onnx: bool = False
) -> Export:
    """Write a folder that a stock transformers class opens; it appears whole or not at all.

    Args:
        run_path: folder of a run or of a fine-tuned model
        output: folder to write
        overwrite: replace the export that is there
        onnx: write onnx/model.onnx as well: hidden states of a run, logits of a fine-tuned model

    Raises:
        RunError: no model there, `output` exists, or it is no export and thus not replaced
        HuggingFaceError: transformers or onnxruntime, where installed, computes other numbers, or
            ONNX is asked for and not installed
        OutputError: `output` can't be written
    """
    run_path, output = Path(run_path), Path(output)
    if onnx:
        from lmmodel.handover.onnx_file import check_installed

        check_installed()
    with writing_folder(output, EXPORT, overwrite=overwrite) as folder:
        source = load_source(run_path)
        traits = source.model.config.traits
        if onnx and (traits.is_encoder_decoder or traits.is_two_stream):
            kind = "an encoder-decoder" if traits.is_encoder_decoder else "a model of two streams"
            raise HuggingFaceError(
                f"{run_path} is {kind}, for which no ONNX file is written: leave --onnx out"
            )
        labels = source.record.labels if isinstance(source, FineTuned) else ()
        with output_errors(output):
            tokenizer = exported_tokenizer(source)
            objective = _objective_of(source)
            theirs = export_model(source.model, tokenizer, folder, labels, objective)
        class_name: str = theirs["architectures"][0]
        difference = check_parity(
            source.model, folder, class_name, theirs.get("pad_token_id"), objective=objective
        )
        _export_models_within(source, tokenizer, folder)
        vector_difference = _write_sentence_files(source, folder)
        with output_errors(output):
            onnx_difference = _write_onnx(source, folder) if onnx else None
            card = describe(source, output.resolve().name, difference)
            (folder / CARD_NAME).write_text(render(card), encoding="utf-8")
    return Export(
        output=output,
        architecture=class_name,
        max_logit_difference=difference,
        max_vector_difference=vector_difference,
        onnx=output / ONNX_NAME if onnx else None,
        max_onnx_difference=onnx_difference,
        notes=tuple(card.notes),
    )


def _objective_of(source: Run | FineTuned) -> str | None:
    return None if isinstance(source, FineTuned) else source.record.config.objective.name


def _export_models_within(source: Run | FineTuned, tokenizer: Tokenizer, folder: Path) -> None:
    """Write models that an objective trains beside, such as a generator, if a class opens them.

    Raises:
        HuggingFaceError: transformers, where installed, computes other numbers
        OutputError: the folder can't be written
    """
    if isinstance(source, FineTuned):
        return
    for name, model in source.objective.models_within(source.model).items():
        if "embedding_size" in stock_family(model.config.family).settings:
            with output_errors(folder):
                theirs = export_model(model, tokenizer, folder / name)
            (class_name,) = theirs["architectures"]
            check_parity(model, folder / name, class_name, theirs.get("pad_token_id"))


def _write_sentence_files(source: Run | FineTuned, folder: Path) -> float | None:
    """Make the folder of a run that learned vectors one of sentence-transformers, and compare.

    Raises:
        HuggingFaceError: sentence-transformers, where installed, computes other vectors
        OutputError: the folder can't be written
    """
    if isinstance(source, FineTuned) or not source.objective.makes_vectors:
        return None
    write_sentence_files(folder, source.model.config)
    return check_vectors(source, folder)


def load_source(path: Path) -> Run | FineTuned:
    """Return the model of a run folder, or of a fine-tuned one, on the CPU.

    Raises:
        RunError: neither is there
        CheckpointError: the weights are missing, damaged or of another model
    """
    if is_fine_tuned(path):
        return load_fine_tuned(path, device="cpu")
    return load_run(path, device="cpu")


def exported_tokenizer(source: Run | FineTuned) -> Tokenizer:
    """Return the tokenizer as its reader needs it.

    A causal model was trained on rows of bare text, so that a prompt has nothing around it; a
    fine-tuned one on whatever its tokenizer puts there, an encoder-decoder on texts with an end.
    """
    if source.model.config.traits.is_encoder_decoder:
        frame = find_writing_frame(source.tokenizer, source.model.config)
        return with_frame(source.tokenizer, frame.before, frame.end)
    if isinstance(source, Run) and source.model.config.is_causal:
        return without_added_specials(source.tokenizer)
    return source.tokenizer


def describe(source: Run | FineTuned, name: str, difference: float | None) -> Card:
    """Return the model card of a run or of a fine-tuned model."""
    if isinstance(source, FineTuned):
        return describe_fine_tuned(source, name, difference)
    return describe_run(source, name, difference)


def _write_onnx(source: Run | FineTuned, folder: Path) -> float:
    from lmmodel.handover.onnx_file import export_onnx

    path = folder / ONNX_NAME
    path.parent.mkdir()
    return export_onnx(source.model, path)


def is_export(folder: Path) -> bool:
    """Whether a folder is one that `export_run` wrote: its model card says so."""
    try:
        card = (folder / CARD_NAME).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return (folder / CONFIG_NAME).is_file() and is_our_card(card)


EXPORT = Kind(
    "an exported model",
    is_export,
    TOKENIZER_FILES
    | SENTENCE_FILES
    | {CONFIG_NAME, WEIGHTS_NAME, CARD_NAME, ONNX_NAME.partition("/")[0], "generator"},
)
