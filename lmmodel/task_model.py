"""A Transformer with the head of a task, as the stock classes of transformers 5 have it.

    task       rows of the last layer      bert                       modern       gpt2
    sequence   one for each sequence       first: pooler, classifier  mean: ...    last: classifier
    tokens     all                         classifier                 ...          classifier
    answers    all: start and end          classifier                 ...          classifier

Modern has dense, GELU and norm before every classifier ("..."); the others have nothing. Dropout
lies where the stock classes put it. Shapes: B sequences, T tokens of all of them, D hidden_size,
C labels (1 where the task is regression, 2 where it is question answering).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.batch import Batch
from lmmodel.families import ModelConfig
from lmmodel.finetuning.tasks import TaskName
from lmmodel.layers.dropout import dropout
from lmmodel.model import LayerNorm, Linear, Transformer, init_weights

SEQUENCE_TASKS = ("sequence-classification", "sentence-pair", "regression")
"""Tasks with one answer a sequence; the others have one a token."""


class TaskHead(nn.Module):
    """Hidden states to logits.

    Attributes:
        scale, offset: what logits are multiplied by and what is added, while the head is trained:
            standard deviation and mean of regression's labels, so that one learning rate suits any
            unit; 1 and 0 in what is saved
    """

    def __init__(self, config: ModelConfig, task: TaskName, num_labels: int) -> None:
        super().__init__()
        size, is_sequence = config.hidden_size, task in SEQUENCE_TASKS
        if config.family == "bert" and is_sequence:
            self.pooler = Linear(size, size)
        if config.is_modern:
            self.dense = Linear(size, size, bias=False)
            self.norm = LayerNorm(size, config.norm_eps, bias=False)
        self.classifier = Linear(size, num_labels, bias=config.family != "gpt2" or not is_sequence)
        self.dropout = config.dropout if has_dropout(config, task) else 0.0
        self.scale, self.offset = 1.0, 0.0

    def forward(self, hidden: Tensor) -> Tensor:
        """Return floats (N, C) from hidden states (N, D)."""
        if hasattr(self, "pooler"):
            hidden = torch.tanh(self.pooler(hidden))
        if hasattr(self, "dense"):
            hidden = self.norm(F.gelu(self.dense(hidden)))
        hidden = dropout(hidden, self.dropout if self.training else 0.0)
        logits: Tensor = self.classifier(hidden)
        is_plain = (self.scale, self.offset) == (1.0, 0.0)
        return logits if is_plain else self.scale * logits + self.offset


def has_dropout(config: ModelConfig, task: TaskName) -> bool:
    """Whether the stock class drops features right before the classifier.

    Example:
        >>> has_dropout(ModelConfig(family="gpt2"), "sentence-pair")
        False
    """
    without = {
        "bert": ("question-answering",),
        "modern": (),
        "gpt2": (*SEQUENCE_TASKS, "question-answering"),
    }
    return task not in without[config.family]


class TaskModel(nn.Module):
    """A Transformer, whose own heads are unused, and the head of a task."""

    def __init__(self, config: ModelConfig, task: TaskName, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.num_labels = num_labels
        self.backbone = Transformer(config)
        self.backbone.head.requires_grad_(False)
        self.head = TaskHead(config, task, num_labels)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits: float32 (B, C) for tasks over sequences, (T, C) for those over tokens.

        Args:
            batch: on the model's device; no sequence is empty
        """
        is_mean = self.task in SEQUENCE_TASKS and self.config.is_modern
        rows = self._rows(batch) if self.task in SEQUENCE_TASKS and not is_mean else None
        hidden = self.backbone(batch, rows=rows).float()
        if is_mean:
            hidden = torch.segment_reduce(hidden, "mean", offsets=batch.cu_seqlens.long())
        logits: Tensor = self.head(hidden)
        return logits

    def saved_weights(self) -> dict[str, Tensor]:
        """Return copies of all weights on the CPU, with scale and offset in the classifier's."""
        state, head = self.state_dict(), self.head
        state["head.classifier.weight"] = head.scale * state["head.classifier.weight"]
        if head.classifier.bias is not None:
            bias = head.scale * state["head.classifier.bias"] + head.offset
            state["head.classifier.bias"] = bias
        return {name: weight.detach().cpu().clone() for name, weight in state.items()}

    def _rows(self, batch: Batch) -> Tensor:
        """Return the token that speaks for each sequence: int64 (B,)."""
        if self.config.is_causal:
            return batch.cu_seqlens[1:].long() - 1
        return batch.first_positions


def make_task_model(
    config: ModelConfig, task: TaskName, num_labels: int, *, seed: int
) -> TaskModel:
    """Return a model with fresh weights, the same on every machine for the same seed.

    Args:
        config: of the Transformer; its `has_nsp_head` must be False
        task: decides the head
        num_labels: C
        seed: of every number that is drawn

    Raises:
        ValueError: the configuration has a head for sentence pairs
    """
    if config.has_nsp_head:
        raise ValueError("has_nsp_head must be False: its pooler belongs to the head of the task")
    model = TaskModel(config, task, num_labels)
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
    own = {name: w for name, w in state.items() if not name.startswith("nsp_head.")}
    model.backbone.load_state_dict(own)
    prefix = "head." if model.config.is_modern else "nsp_head."
    for name, weight in model.head.named_parameters():
        if not name.startswith("classifier.") and prefix + name in state:
            weight.copy_(state[prefix + name])
