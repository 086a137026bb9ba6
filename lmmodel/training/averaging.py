"""Averages of the weights over training steps, evaluated and exported instead of the last."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from lmmodel.config import AveragingConfig
from lmmodel.parallel import put


class WeightAverage:
    """A running average of a model's parameters, by name.

    Its weight of the newest weights follows from the step alone, so it resumes like all else.
    """

    def __init__(self, model: nn.Module, config: AveragingConfig, num_steps: int) -> None:
        self.config = config
        self.num_steps = num_steps
        self.tensors = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters()
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        weight = newest_weight(step, self.num_steps, self.config)
        parameters = [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), parameters, weight)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over saved averages."""
        for name, tensor in self.tensors.items():
            put(tensor, tensors[name])


def newest_weight(step: int, num_steps: int, config: AveragingConfig) -> float:
    """Return how much the weights after `step` (from 1) count in the average after it, in (0, 1].

    ema: 1 - decay, more at first, so that the random start is forgotten. tail: 1 until the tail
    begins, then 1/n, a plain mean.

    Example:
        >>> tail = AveragingConfig(kind="tail", tail_share=0.3)
        >>> [round(newest_weight(step, 10, tail), 2) for step in range(6, 11)]
        [1.0, 1.0, 1.0, 0.5, 0.33]
    """
    if config.kind == "ema":
        return max(1 - config.ema_decay, 1 / (step + 1))
    first = num_steps - max(1, round(config.tail_share * num_steps)) + 1
    return 1.0 if step <= first else 1 / (step - first + 1)
