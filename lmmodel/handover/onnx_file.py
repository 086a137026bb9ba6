"""A model to an ONNX file, checked by onnxruntime. Needs the extra `onnx`."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim

from lmmodel.errors import HuggingFaceError
from lmmodel.handover.padded import make_padded
from lmmodel.handover.parity import Sample, largest_difference, make_sample
from lmmodel.model import Transformer
from lmmodel.tasks.model import TaskModel

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
MAX_FILE_BYTES = 1_900_000_000  # an ONNX file ends at 2 GiB: weights of larger ones lie beside it
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def check_installed() -> None:
    """Check that the packages are there that ONNX needs.

    Raises:
        HuggingFaceError: one is missing
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HuggingFaceError(
            f"--onnx needs {', '.join(missing)}, which is not installed: "
            "pip install 'lmdata-lmmodel[onnx]'"
        )


def export_onnx(model: Transformer | TaskModel, path: Path) -> float:
    """Write an ONNX file with any number of rows and tokens, and compare onnxruntime with us.

    Inputs are input_ids, attention_mask and, for bert, token_type_ids: int64 (B, L). The output is
    last_hidden_state (B, L, D) of a Transformer, logits of a fine-tuned model.

    Args:
        model: on the CPU
        path: file to write; its folder exists

    Returns:
        The largest absolute difference of the outputs, over batches of several shapes.

    Raises:
        HuggingFaceError: onnxruntime computes other numbers, or a package is missing
    """
    check_installed()
    names = input_names(model)
    inputs = make_sample(model.config, pad_id=None).padded(0)
    shape = {0: Dim("batch"), 1: Dim("length", max=model.config.max_position_embeddings)}
    num_bytes = sum(weight.numel() * 4 for weight in model.parameters())
    with _silent():
        torch.onnx.export(
            make_padded(model),
            tuple(inputs[name] for name in names),
            path,
            dynamo=True,
            external_data=num_bytes > MAX_FILE_BYTES,
            opset_version=OPSET,
            input_names=list(names),
            output_names=[output_name(model)],
            dynamic_shapes=[shape] * len(names),
            verbose=False,
        )
    return check_onnx(model, path)


def input_names(model: Transformer | TaskModel) -> tuple[str, ...]:
    """Return the inputs that the model's numbers depend on."""
    return INPUT_NAMES if model.config.traits.has_segments else INPUT_NAMES[:2]


def output_name(model: Transformer | TaskModel) -> str:
    """Return what the output is called, as Optimum calls it."""
    return "logits" if isinstance(model, TaskModel) else "last_hidden_state"


def check_onnx(model: Transformer | TaskModel, path: Path) -> float:
    """Return the largest difference of a file's output to the model's, over several shapes.

    Raises:
        HuggingFaceError: it is more than rounding
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sample = make_sample(model.config, pad_id=None, seed=1)
    alone = Sample(sample.ids[1:], sample.segments[1:])  # shorter than the one it was traced with
    differences = []
    for rows in (sample, alone):
        inputs = {name: rows.padded(0)[name].numpy() for name in input_names(model)}
        (theirs,) = session.run(None, inputs)
        ours = _our_output(model, rows)
        found = _without_padding(torch.from_numpy(np.asarray(theirs)), rows.lengths, ours)
        complaint = f"onnxruntime computes other numbers from {path.name}"
        differences.append(largest_difference([ours], [found], complaint))
    return max(differences)


@torch.no_grad()
def _our_output(model: Transformer | TaskModel, rows: Sample) -> Tensor:
    """Return what the packed model makes of the rows: float32 (T, D or C), or (B, C)."""
    output: Tensor = model(rows.packed())
    return output.float()


def _without_padding(output: Tensor, lengths: list[int], like: Tensor) -> Tensor:
    if output.dim() == like.dim():  # one row a sequence
        return output
    return torch.cat([row[:length] for row, length in zip(output, lengths, strict=True)])


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter from telling users about its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
