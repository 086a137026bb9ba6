"""The heads of the stock classes of transformers 5, from hidden states to logits.

    task       rows of the last layer      bert                       modern       gpt2
    sequence   one for each sequence       first: pooler, classifier  mean: ...    last: classifier
    tokens     all                         classifier                 ...          classifier
    answers    all: start and end          classifier                 ...          classifier

Modern has dense, GELU and norm before every classifier ("..."); the others have nothing. Dropout
lies where the stock classes put it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.cores import dropout
from lmmodel.families import ModelConfig
from lmmodel.model import LayerNorm, Linear


class TaskHead(nn.Module):
    """Hidden states to logits.

    Attributes:
        scale, offset: what logits are multiplied by and what is added, while the head is trained:
            standard deviation and mean of regression's labels, so that one learning rate suits any
            unit; 1 and 0 in what is saved
    """

    def __init__(
        self,
        config: ModelConfig,
        num_outputs: int,
        *,
        is_over_sequences: bool,
        has_bias: bool,
        has_dropout: bool,
    ) -> None:
        super().__init__()
        size = config.hidden_size
        if config.traits.pooling == "first" and is_over_sequences:
            self.pooler = Linear(size, size)
        if config.traits.pooling == "mean":
            self.dense = Linear(size, size, bias=False)
            self.norm = LayerNorm(size, config.norm_eps, bias=False)
        self.classifier = Linear(size, num_outputs, bias=has_bias)
        self.dropout = config.dropout if has_dropout else 0.0
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

    def plain_weights(self) -> dict[str, Tensor]:
        """Return the weights with scale and offset in the classifier's."""
        state = self.state_dict()
        state["classifier.weight"] = self.scale * state["classifier.weight"]
        if self.classifier.bias is not None:
            state["classifier.bias"] = self.scale * state["classifier.bias"] + self.offset
        return state
