"""Which weights of a model are trained: all, those of one kind, or thin pairs beside the matrices.

A branch is what differs from its parent. What is frozen has neither gradient nor optimizer state,
and is equal to the bit afterwards. LoRA (Hu et al., 2021) learns B A of low rank beside each matrix
of the layers; a matrix that merges several, such as query, key and value, has a pair for each. What
is kept of it is the sum, W + B A, so that nothing downstream knows of pairs.

P maps of a matrix that have a pair, R rank, I inputs, O outputs of a map.
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
from lmmodel.optimizing import LoraConfig, Part, Target

PAIR = (".lora_a", ".lora_b")  # what parameters of a pair end with

# What of the maps of attention and of feed-forward networks our matrices are, by their last names.
_MAPS: Mapping[tuple[str, str], tuple[Target, ...]] = {
    ("attention", "qkv"): ("query", "key", "value"),
    ("cross_attention", "queries"): ("query",),
    ("cross_attention", "keys_values"): ("key", "value"),
    ("attention", "output"): ("output",),
    ("cross_attention", "output"): ("output",),
    ("mlp", "input"): ("mlp_input",),
    ("mlp", "output"): ("mlp_output",),
}


@dataclass(frozen=True)
class Parts:
    """How many maps a matrix merges along its rows, and which of them have a pair."""

    num: int
    chosen: tuple[int, ...]


def find_parts(name: str, lora: LoraConfig) -> Parts:
    """Return which maps of a matrix have a pair; a matrix of no known name is one map that has.

    Example:
        >>> find_parts("layers.0.attention.qkv", LoraConfig(targets=("query", "value")))
        Parts(num=3, chosen=(0, 2))
    """
    module, _, own = name.rpartition(".")
    maps = _MAPS.get((module.rpartition(".")[2], own))
    if maps is None:
        return Parts(1, (0,))
    return Parts(len(maps), tuple(i for i, part in enumerate(maps) if part in lora.targets))


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
    """x W' + b + scale (x A') B', of which A and B are trained; the weights are those of another.

    Of a matrix that merges several, each chosen one has a pair of its own.
    """

    def __init__(self, linear: Linear, config: LoraConfig, parts: Parts, seed: int | None) -> None:
        """`seed` of None leaves the pairs without numbers."""
        super().__init__(1, 1, bias=False, device="meta")  # no weights but those of `linear`
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        rows = self.out_features // parts.num
        if config.rank > min(rows, self.in_features):
            raise FitError(
                f"lora.rank={config.rank} is above the {min(rows, self.in_features)} features of a "
                "matrix of this model: choose a lower one"
            )
        self.scale, self.parts = config.scale, parts
        first = torch.empty(len(parts.chosen), config.rank, self.in_features)
        if seed is not None:
            bound = 1 / math.sqrt(self.in_features)
            first.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
        device = linear.weight.device
        self.lora_a = nn.Parameter(first.to(device))  # (P, R, I)
        second = torch.zeros(len(parts.chosen), rows, config.rank, device=device)
        self.lora_b = nn.Parameter(second)  # (P, O, R)

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (..., out_features)."""
        added = add_thin(
            x, cast(self.lora_a, x.dtype), cast(self.lora_b, x.dtype), self.scale, self.parts
        )
        return super().forward(x) + added


def add_thin(x: Tensor, first: Tensor, second: Tensor, scale: float, parts: Parts) -> Tensor:
    """Return what pairs add to the product of a matrix: floats (..., out_features).

    Args:
        x: floats (..., I)
        first: floats (P, R, I), the A of each pair
        second: floats (P, O, R), the B of each pair
        scale: of all of it
        parts: which stretches of the product they add to; the others get zeros
    """
    thin = scale * F.linear(x, first.flatten(0, 1))  # (..., P R)
    if parts.num == 1:
        return F.linear(thin, second[0])
    found = iter(zip(thin.chunk(len(first), dim=-1), second, strict=True))
    rows = second.shape[1]
    return torch.cat(
        [
            F.linear(*next(found)) if part in parts.chosen else x.new_zeros(*x.shape[:-1], rows)
            for part in range(parts.num)
        ],
        dim=-1,
    )


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
        add_pairs(model, lora, seed)
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


def add_pairs(model: nn.Module, config: LoraConfig, seed: int | None) -> None:
    """Put a `LoraLinear` in the place of each matrix of the layers that is chosen.

    Args:
        model: changed in place
        config: of the pairs
        seed: of their numbers; None: they have none yet

    Raises:
        FitError: the rank is above a matrix's width
    """
    places = [
        (name, module, find_parts(name, config))
        for name, module in model.named_modules()
        if isinstance(module, Linear) and "layers." in name and not name.startswith("extras.")
    ]
    for number, (name, module, parts) in enumerate(places):
        if parts.chosen:
            parent, _, own = name.rpartition(".")
            own_seed = None if seed is None else seed * 1_000_003 + number
            setattr(model.get_submodule(parent), own, LoraLinear(module, config, parts, own_seed))


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
            parts, thin = find_parts(own, lora), state[own + second] @ state[name]  # (P, O, I)
            added = thin.new_zeros(parts.num, *thin.shape[1:])
            added[list(parts.chosen)] = thin
            whole = weights[f"{own}.weight"]
            weights[f"{own}.weight"] = whole + lora.scale * added.flatten(0, 1)
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
