"""What fine-tuning minimises: the losses of the stock classes, as sums over what has a label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.batch import IGNORED, Batch
from lmmodel.finetuning.tasks import TaskName


def sum_loss(task: TaskName, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
    """Return the summed loss of a batch of B sequences and T tokens, in nats; regression: squares.

    Args:
        task: what the labels are
        logits: float32 (B, C), or (T, C) for tasks over tokens
        labels: int64 (B,); float32 (B,) regression; int64 (T,) token classification, IGNORED where
            there is none; int64 (B, 2) first and last token of the answer within its sequence
        batch: what the logits are of

    Returns:
        float32 scalar; divided by `count_labels` it is the loss of the stock class.
    """
    if task == "regression":
        return F.mse_loss(logits[:, 0], labels, reduction="sum")
    if task == "question-answering":
        scores = spread(logits, batch)  # (B, L, 2)
        return F.cross_entropy(scores, labels, reduction="sum")
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED)


def count_labels(task: TaskName, labels: Tensor) -> int:
    """Return over how many labels `sum_loss` sums.

    Example:
        >>> count_labels("token-classification", torch.tensor([IGNORED, 3, 0]))
        2
    """
    return int((labels != IGNORED).sum()) if task == "token-classification" else labels.numel()


def spread(logits: Tensor, batch: Batch) -> Tensor:
    """Return logits (T, C) with a row a sequence: (B, max_seqlen, C), -inf beyond its end.

    Example:
        >>> from lmmodel.batch import make_batch
        >>> batch = make_batch(torch.tensor([5, 6, 7]), torch.tensor([1, 2]))
        >>> spread(torch.tensor([[1.0], [2.0], [3.0]]), batch)[:, :, 0].tolist()
        [[1.0, -inf], [2.0, 3.0]]
    """
    lengths = batch.cu_seqlens.diff().long()
    sequence = torch.arange(batch.num_sequences, device=logits.device).repeat_interleave(lengths)
    shape = (batch.num_sequences, batch.max_seqlen, logits.shape[-1])
    places = (sequence, batch.position_ids)
    return logits.new_full(shape, -torch.inf).index_put(places, logits)
