"""Which weights of a model are trained: all, those of one kind, or thin pairs beside the matrices.

A branch is what differs from its parent. What is frozen has neither gradient nor optimizer state,
and is equal to the bit afterwards. LoRA (Hu et al., 2021) learns B A of low rank beside each matrix
of the layers; a matrix that merges several, such as query, key and value, has a pair for each. What
is kept of it is the sum, W + B A, so that nothing downstream knows of pairs.

P parts of a matrix, R rank, I inputs, O outputs of a part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.cores import cast
from lmmodel.errors import FitError
from lmmodel.model import Linear
from lmmodel.optimizing import LoraConfig, Part, num_parts

PAIR = (".lora_a", ".lora_b")  # what parameters of a pair end with


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How much of a model is trained: tensors and their numbers, by what they are."""

    part: str
    rows: Mapping[str, tuple[int, int, bool]]  # what it is: tensors, numbers, whether trained

    @property
    def num_trained(self) -> int:
        """Numbers that are trained."""
        return sum(count for _, count, is_trained in self.rows.values() if is_trained)

    @property
    def num_frozen(self) -> int:
        """Numbers that stay as they are."""
        return sum(count for _, count, is_trained in self.rows.values() if not is_trained)

    @property
    def sentence(self) -> str:
        """What is trained and what is not, in numbers."""
        told: dict[bool, list[str]] = {True: [], False: []}
        for kind, (num_tensors, count, is_trained) in self.rows.items():
            told[is_trained].append(f"{kind.partition(',')[0]} {count:,} in {num_tensors} tensors")
        share = self.num_trained / (self.num_trained + self.num_frozen)
        frozen = ", ".join(told[False]) or "nothing"
        return f"trained: {', '.join(told[True])} ({share:.2%} of the model); frozen: {frozen}"


class LoraLinear(Linear):
    """x W' + b + scale (x A') B', of which A and B are trained."""

    def __init__(self, linear: Linear, num_parts: int, config: LoraConfig, seed: int) -> None:
        super().__init__(1, 1, bias=False, device="meta")  # no weights but those of `linear`
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        rows = self.out_features // num_parts
        if config.rank > min(rows, self.in_features):
            raise FitError(
                f"lora.rank={config.rank} is above the {min(rows, self.in_features)} features of a "
                "matrix of this model: choose a lower one"
            )
        self.scale = config.scale
        generator = torch.Generator().manual_seed(seed)
        first = torch.empty(num_parts, config.rank, self.in_features)
        bound = 1 / math.sqrt(self.in_features)
        first.uniform_(-bound, bound, generator=generator)
        device = linear.weight.device
        self.lora_a = nn.Parameter(first.to(device))  # (P, R, I)
        self.lora_b = nn.Parameter(torch.zeros(num_parts, rows, config.rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (..., P O)."""
        num_pairs, rank, _ = self.lora_a.shape
        thin = F.linear(x, cast(self.lora_a, x.dtype).flatten(0, 1))  # (..., P R)
        thin = thin.view(*thin.shape[:-1], num_pairs, 1, rank)
        added: Tensor = thin @ cast(self.lora_b, x.dtype).mT  # (..., P, 1, O)
        return super().forward(x) + self.scale * added.flatten(-3)


def choose_trained(
    model: nn.Module, part: Part, lora: LoraConfig, *, new: tuple[str, ...] = (), seed: int = 0
) -> Trained:
    """Freeze what is not trained, in place, and add the pairs of LoRA; return what is what.

    Args:
        model: a Transformer, or one with the head of a task; what is frozen already stays so
        part: full: all; ffn: the feed-forward networks; head: what lies behind the layers; bias:
            biases and the shifts of norms; lora: pairs beside each matrix of the layers
        lora: of the pairs
        new: beginnings of names that are trained whatever the part, as they begin afresh
        seed: of the pairs; the others are as they were

    Raises:
        FitError: the rank is above a matrix's width, or the model has no such weights
    """
    if part not in get_args(Part):
        raise ValueError(f"trainable must be one of {', '.join(get_args(Part))}, got {part!r}")
    if part == "lora":
        _add_pairs(model, lora, seed)
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in free if part == "full" or _belongs(name, part)}
    if not own - {name for name in free if part != "head" and name.startswith(new)}:
        raise FitError(f"trainable={part}: this model has no such weights, choose another part")
    for name, parameter in free.items():
        parameter.requires_grad_(name in own or name.startswith(new))
    return describe_trained(model, part)


def _belongs(name: str, part: Part) -> bool:
    """Whether a parameter is of the part of a model.

    Example:
        >>> _belongs("layers.0.mlp.input.weight", "ffn"), _belongs("head.norm.bias", "bias")
        (True, True)
    """
    return {
        "ffn": ".mlp." in name,
        "head": name.startswith(("head.", "nsp_head.", "extras.")),
        "bias": name.endswith(".bias"),
        "lora": name.endswith(PAIR),
    }.get(part, False)


def _add_pairs(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Put a `LoraLinear` in the place of each matrix of the layers."""
    places = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, Linear) and "layers." in name
    ]
    for number, (name, module) in enumerate(places):
        parent, _, own = name.rpartition(".")
        pair = LoraLinear(module, num_parts(f"{name}.weight"), config, seed * 1_000_003 + number)
        setattr(model.get_submodule(parent), own, pair)


def describe_trained(model: nn.Module, part: str) -> Trained:
    """Return how much of a model is trained, by what it is."""
    rows: dict[str, tuple[int, int, bool]] = {}
    for name, parameter in model.named_parameters():
        key = f"{_kind(name)}, {'trained' if parameter.requires_grad else 'frozen'}"
        num_tensors, count, _ = rows.get(key, (0, 0, False))
        rows[key] = (num_tensors + 1, count + parameter.numel(), parameter.requires_grad)
    return Trained(part=part, rows=rows)


def _kind(name: str) -> str:
    """Return what a parameter is, for people.

    Example:
        >>> _kind("backbone.layers.3.attention.qkv.lora_a"), _kind("layers.0.mlp.input.weight")
        ('LoRA pairs', 'feed-forward')
    """
    if name.endswith(PAIR):
        return "LoRA pairs"
    named = {".mlp.": "feed-forward", ".attention.": "attention", "norm.": "norms",
             "embeddings.": "embeddings", "head.": "heads"}  # fmt: skip
    return next((kind for part, kind in named.items() if part in name), "others")


def merged(state: Mapping[str, Tensor], lora: LoraConfig) -> dict[str, Tensor]:
    """Return weights with what the pairs add, under the names of a model without pairs.

    Args:
        state: weights by name, those of pairs among them or not; float32
        lora: of the pairs

    Example:
        >>> a, b = torch.ones(1, 1, 2), torch.full((1, 3, 1), 0.25)
        >>> state = {"x.weight": torch.zeros(3, 2), "x.lora_a": a, "x.lora_b": b}
        >>> merged(state, LoraConfig(rank=1, alpha=2))["x.weight"][0].tolist()
        [0.5, 0.5]
    """
    first, second = PAIR
    weights = {name: weight for name, weight in state.items() if not name.endswith(PAIR)}
    for name in state:
        if name.endswith(first):
            own = name.removesuffix(first)
            added = (state[own + second] @ state[name]).flatten(0, 1)  # (P O, I)
            weights[f"{own}.weight"] = weights[f"{own}.weight"] + lora.scale * added
    return weights


@torch.no_grad()
def add_pairs_to_weights(model: nn.Module, lora: LoraConfig) -> None:
    """Move what the pairs of a model add into its weights, in place; the pairs add nothing then."""
    named = dict(model.named_parameters())
    for name, weight in merged(named, lora).items():
        if weight is not named[name]:
            named[name].copy_(weight)
    for name, parameter in named.items():
        if name.endswith(PAIR[1]):
            parameter.zero_()
