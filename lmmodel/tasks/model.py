"""A Transformer with the head of a task, its batches, and its logits of many examples.

B sequences of T tokens in all; D hidden_size; C outputs of the head.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmdata.ragged import offsets_of, ranges
from lmmodel.adapters import merged
from lmmodel.batch import SOURCE, TARGET, Batch, batch_of, make_batch, make_stream
from lmmodel.cores import num_cores
from lmmodel.encoder_decoder import outline_of
from lmmodel.errors import DivergedError
from lmmodel.families import ModelConfig
from lmmodel.inference import (
    TiledHead,
    TiledTransformer,
    batch_tokens,
    map_batches,
    prepare,
    split_by_tokens,
)
from lmmodel.model import Transformer, init_weights
from lmmodel.optimizing import LoraConfig
from lmmodel.packing import LEAST_TOKENS
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.task import AnyTask

# Tokens of one forward pass without gradients.


class TaskModel(nn.Module):
    """A Transformer, whose own heads are unused, and the head of a task."""

    def __init__(self, config: ModelConfig, task: AnyTask, num_outputs: int) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.num_outputs = num_outputs
        self.backbone = outline_of(config)
        if not task.writes:
            self.backbone.head.requires_grad_(False)
        self.head = task.make_head(config, num_outputs)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits: float32 (B, C) for tasks over sequences, (T, C) for those over tokens.

        Args:
            batch: on the model's device; no sequence is empty

        Where the task writes, logits of all tokens of the target: (T, V), as it computes.
        """
        if self.task.writes:
            return self.backbone.lm_logits(self.backbone(batch))
        pooling = self.config.traits.pooling if self.task.is_over_sequences else None
        rows = None
        if pooling in ("first", "last"):
            is_first = pooling == "first"
            rows = batch.first_positions if is_first else batch.cu_seqlens[1:].long() - 1
        hidden = self.backbone(batch, rows=rows).float()
        if pooling == "mean":
            hidden = torch.segment_reduce(hidden, "mean", offsets=batch.cu_seqlens.long())
        logits: Tensor = self.head(hidden)
        return logits

    def saved_weights(self, lora: LoraConfig | None = None) -> dict[str, Tensor]:
        """Return copies of all weights on the CPU: pairs added, the head as the task keeps it."""
        state = merged(self.state_dict(), lora or LoraConfig())
        state |= {f"head.{name}": w for name, w in self.task.saved_head(self.head).items()}
        return {name: weight.detach().cpu().clone() for name, weight in state.items()}


def make_task_model(
    config: ModelConfig, task: AnyTask, num_outputs: int, *, seed: int
) -> TaskModel:
    """Return a model with fresh weights, the same on every machine for the same seed.

    Args:
        config: of the Transformer; its `has_nsp_head` must be False
        task: makes the head
        num_outputs: C
        seed: of every number that is drawn

    Raises:
        ValueError: the configuration has a head for sentence pairs
    """
    if config.has_nsp_head:
        raise ValueError("has_nsp_head must be False: its pooler belongs to the head of the task")
    model = TaskModel(config, task, num_outputs)
    init_weights(model.backbone, config, seed=seed)
    init_weights(model.head, config, seed=seed)
    return model


@torch.no_grad()
def adopt_weights(model: TaskModel, pretrained: Transformer) -> None:
    """Put pretrained weights into a task's model, in place; its classifier stays as it is.

    What transforms hidden states before the pretrained heads goes on doing so: the pooler of
    sentence pairs (bert), the dense layer and norm before the vocabulary (modern).

    Args:
        model: of the shape of `pretrained`
        pretrained: a model with or without a head for sentence pairs
    """
    state = pretrained.state_dict()
    own = {n: w for n, w in state.items() if not n.startswith(("nsp_head.", "extras."))}
    model.backbone.load_state_dict(own)
    prefix = "head." if model.config.traits.pooling == "mean" else "nsp_head."
    for name, weight in model.head.named_parameters():
        theirs = state.get(prefix + name)
        is_classifier = name.startswith("classifier.")
        if not is_classifier and theirs is not None and theirs.shape == weight.shape:
            weight.copy_(theirs)


def prepare_task(model: TaskModel) -> TaskModel:
    """Return the model for many answers: itself, or a twin as `inference.prepare` makes it.

    Args:
        model: float32, in evaluation mode
    """
    backbone = prepare(model.backbone)
    if not isinstance(backbone, TiledTransformer):
        return model
    twin = copy.copy(model)
    twin._modules = {**model._modules, "backbone": backbone, "head": TiledHead(model.head)}
    return twin


# Examples as packed batches, and the logits of all of them.


def token_places(examples: TaskExamples, rows: np.ndarray) -> np.ndarray:
    """Return where the tokens of int64 (B,) rows lie among those of all examples: int64 (T,)."""
    return ranges(examples.offsets[rows], examples.lengths[rows])


def pack(examples: TaskExamples, rows: np.ndarray) -> Batch:
    """Return the examples at int64 (B,) rows, in this order, as one batch without padding."""
    tokens = token_places(examples, rows)
    if examples.targets is not None:
        return _pack_pairs(examples, rows, tokens)
    return make_batch(
        torch.from_numpy(examples.input_ids[tokens]),
        torch.from_numpy(examples.lengths[rows]),
        token_type_ids=torch.from_numpy(examples.token_type_ids[tokens].astype(np.int32)),
    )


def _pack_pairs(examples: TaskExamples, rows: np.ndarray, tokens: np.ndarray) -> Batch:
    """Return a source and a target of each row; of targets all tokens but the last are read."""
    assert examples.targets is not None
    targets = examples.targets.take(rows)
    read = np.ones(len(targets.values), np.bool_)
    read[targets.offsets[1:] - 1] = False
    streams = {SOURCE: (examples.input_ids[tokens], examples.lengths[rows]),
               TARGET: (targets.values[read], targets.lengths - 1)}  # fmt: skip
    return batch_of({
        name: make_stream(torch.from_numpy(ids), torch.from_numpy(lengths))
        for name, (ids, lengths) in streams.items()
    })  # fmt: skip


def pack_labels(examples: TaskExamples, rows: np.ndarray) -> Tensor:
    """Return the labels at int64 (B,) rows: (B, ...), or of their tokens (T,).

    Of targets, the tokens after each that is read.
    """
    if examples.targets is not None:
        targets = examples.targets.take(rows)
        wanted = np.ones(len(targets.values), np.bool_)
        wanted[targets.offsets[:-1]] = False
        return torch.from_numpy(targets.values[wanted].astype(np.int64))
    assert examples.labels is not None
    places = token_places(examples, rows) if examples.labels_are_by_token else rows
    return torch.from_numpy(examples.labels[places])


def join_examples(parts: Sequence[TaskExamples]) -> TaskExamples:
    """Return the examples of all parts for `predict_logits`: their tokens, and nothing else.

    Args:
        parts: at least one
    """
    lengths = np.concatenate([part.lengths for part in parts])
    return TaskExamples(
        num_rows=len(lengths),
        input_ids=np.concatenate([part.input_ids for part in parts]),
        token_type_ids=np.concatenate([part.token_type_ids for part in parts]),
        offsets=offsets_of(lengths),
        row=np.arange(len(lengths)),
        labels=None,
    )


def predict_logits(model: TaskModel, examples: TaskExamples, num_tokens: int | None = None) -> Any:
    """Return the logits of all examples: float32 (E, C) or, for tasks over tokens, (T, C).

    Of a task that writes, the ids that were written about each: a list of E arrays.

    Args:
        model: is put in evaluation mode
        examples: E of them, T tokens in all, in any order of lengths
        num_tokens: of one forward pass at most; None: as many as suit the device

    Raises:
        DivergedError: a logit is not finite, so that nothing may be said by it
    """
    model.eval()
    if model.task.writes:
        return model.task.write(model.backbone, examples)
    device = next(model.parameters()).device
    is_sequence = model.task.is_over_sequences
    count = len(examples) if is_sequence else len(examples.input_ids)
    logits = np.empty((count, model.num_outputs), np.float32)
    share = -(-int(examples.lengths.sum()) // num_cores(device))
    num_tokens = min(num_tokens or batch_tokens(device), max(LEAST_TOKENS, share))
    groups = list(split_by_tokens(examples.lengths, num_tokens))

    def compute(rows: np.ndarray) -> np.ndarray:
        own: np.ndarray = model(pack(examples, rows).to(device)).cpu().numpy()
        return own

    for rows, own in zip(groups, map_batches(compute, groups, device), strict=True):
        logits[rows if is_sequence else token_places(examples, rows)] = own
    if not np.isfinite(logits).all():
        raise DivergedError(
            "what the model computes is not finite: its weights are damaged, or training went "
            "astray; fine-tune again, with lr lower or precision=fp32"
        )
    return logits
