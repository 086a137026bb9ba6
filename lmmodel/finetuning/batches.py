"""Examples of a task as packed batches, and the logits of all of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lmmodel.batch import Batch, make_batch
from lmmodel.cores import num_cores
from lmmodel.finetuning.examples import TaskExamples
from lmmodel.finetuning.spans import span_index
from lmmodel.inference import map_batches
from lmmodel.packing import LEAST_TOKENS, cut_rows
from lmmodel.task_model import SEQUENCE_TASKS, TaskModel

# Tokens of one forward pass without gradients.
PREDICT_TOKENS = 8192


def split_rows(lengths: np.ndarray, rows: np.ndarray, num_tokens: int) -> list[np.ndarray]:
    """Return rows, shortest first, in groups of at most `num_tokens` tokens.

    A row that is longer is a group of its own.

    Args:
        lengths: int64 (E,) tokens of every example
        rows: int64 (B,) in [0, E), at least one
        num_tokens: at least 1

    Example:
        >>> groups = split_rows(np.array([5, 2, 9, 3]), np.array([0, 1, 3]), 6)
        >>> [group.tolist() for group in groups]
        [[1, 3], [0]]
    """
    ordered = rows[np.argsort(lengths[rows], kind="stable")]
    return np.split(ordered, cut_rows([(lengths[ordered], num_tokens)])[:-1])


def token_places(examples: TaskExamples, rows: np.ndarray) -> np.ndarray:
    """Return where the tokens of int64 (B,) rows lie among those of all examples: int64 (T,)."""
    return span_index(examples.offsets[rows], examples.lengths[rows])


def pack(examples: TaskExamples, rows: np.ndarray) -> Batch:
    """Return the examples at int64 (B,) rows, in this order, as one batch without padding."""
    tokens = token_places(examples, rows)
    return make_batch(
        torch.from_numpy(examples.input_ids[tokens]),
        torch.from_numpy(examples.lengths[rows]),
        token_type_ids=torch.from_numpy(examples.token_type_ids[tokens].astype(np.int32)),
    )


def pack_labels(examples: TaskExamples, rows: np.ndarray) -> Tensor:
    """Return the labels at int64 (B,) rows: (B,), (B, 2), or of their tokens (T,)."""
    assert examples.labels is not None
    if examples.task == "token-classification":
        return torch.from_numpy(examples.labels[token_places(examples, rows)])
    return torch.from_numpy(examples.labels[rows])


def predict_logits(
    model: TaskModel, examples: TaskExamples, num_tokens: int = PREDICT_TOKENS
) -> np.ndarray:
    """Return the logits of all examples: float32 (E, C) or, for tasks over tokens, (T, C).

    Args:
        model: is put in evaluation mode
        examples: E of them, T tokens in all, in any order of lengths
        num_tokens: of one forward pass at most
    """
    model.eval()
    device = next(model.parameters()).device
    is_sequence = model.task in SEQUENCE_TASKS
    count = len(examples) if is_sequence else len(examples.input_ids)
    logits = np.empty((count, model.num_labels), np.float32)
    share = -(-int(examples.lengths.sum()) // num_cores(device))
    num_tokens = min(num_tokens, max(LEAST_TOKENS, share))
    groups = split_rows(examples.lengths, np.arange(len(examples)), num_tokens)

    def compute(rows: np.ndarray) -> np.ndarray:
        own: np.ndarray = model(pack(examples, rows).to(device)).cpu().numpy()
        return own

    for rows, own in zip(groups, map_batches(compute, groups, device), strict=True):
        logits[rows if is_sequence else token_places(examples, rows)] = own
    return logits
