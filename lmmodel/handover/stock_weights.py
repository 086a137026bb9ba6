"""Weights under our names and under those of transformers, by the records of the families.

PyTorch is loaded by what handles weights, not by what reads settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_families import stock_class, stock_family
from lmmodel.handover.stock_family import Names

if TYPE_CHECKING:
    from torch import Tensor

    from lmmodel.tasks.task import AnyTask

# Copies of other weights, and constants that old versions stored.
REDUNDANT = re.compile(
    r"(cls\.)?predictions\.decoder\.(weight|bias)|decoder\.weight|(generator_)?lm_head\.weight"
    r"|lm_loss\.weight|lm_head\.decoder\.(weight|bias)|((bert|roberta|albert|electra)\.)?embeddings\.position_ids"
    r"|(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
    r"|(model\.)?(encoder|decoder)\.embed_tokens\.weight"
    r"|decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
)


def name_pairs(config: ModelConfig, objective: str | None = None) -> Names:
    """Return their names of each of our weights that their architecture has.

    Args:
        config: of the model
        objective: what it was trained for, if that is of those with a class of their own
    """
    family = stock_family(config.family)
    names = dict(family.names)
    if objective is not None and objective in family.of_objectives:
        without = {ours: own for ours, own in names.items() if not ours.startswith("head.")}
        names = {**without, **family.of_objectives[objective][1]}
    pairs: dict[str, tuple[str, ...]] = {}
    for ours, theirs in names.items():
        is_left_out = (ours.startswith("nsp_head.") and not config.has_nsp_head) or (
            ours.startswith("projection.") and not config.has_projection
        )
        for i in range(_num_layers(config, ours) if "{i}" in ours else 1):
            has_no_norm = not config.traits.has_first_norm and i == 0 and ".attention_norm." in ours
            if not is_left_out and not has_no_norm:
                pairs[ours.format(i=i)] = tuple(name.format(i=i) for name in theirs)
    return pairs


def _num_layers(config: ModelConfig, ours: str) -> int:
    """Return how many layers with weights of their own the stack of a weight has."""
    if config.num_decoder_layers is None or ours.startswith("encoder."):
        return config.num_hidden_groups
    return config.num_decoder_layers


def task_name_pairs(config: ModelConfig, task: AnyTask) -> Names:
    """Return their names of each weight of a `TaskModel` that their class for the task has."""
    if task.writes:
        return {f"backbone.{ours}": theirs for ours, theirs in name_pairs(config).items()}
    trunk = {
        f"backbone.{ours}": theirs
        for ours, theirs in name_pairs(config).items()
        if not ours.startswith(("head.", "nsp_head."))
    }
    family, stock = stock_family(config.family), stock_class(task)
    is_transformed = task.is_over_sequences or family.transforms_tokens
    classifier = stock.classifier(config.family)
    kinds = ("weight", "bias") if stock.has_bias(config.family) else ("weight",)
    head = {f"head.classifier.{kind}": (f"{classifier}.{kind}",) for kind in kinds}
    return {**trunk, **(family.transform if is_transformed else {}), **head}


def is_transposed(config: ModelConfig, name: str) -> bool:
    """Whether their weight is the transpose of ours: GPT-2's matrices inside layers."""
    is_matrix = name.removeprefix("backbone.").startswith("layers.") and name.endswith((
        "qkv.weight", "output.weight", "input.weight"))  # fmt: skip
    return stock_family(config.family).is_transposed and is_matrix


def rows_before_positions(config: ModelConfig, pad_id: int | None) -> int:
    """Return how many rows of their position table come before that of the first position.

    Raises:
        HuggingFaceError: positions follow the padding id, and there is none

    Example:
        >>> [rows_before_positions(ModelConfig(family=name), 1) for name in ("bert", "roberta")]
        [0, 2]
    """
    family = stock_family(config.family)
    if not family.follows_padding:
        return 0
    if pad_id is None:
        raise HuggingFaceError(
            f"{family.pretrained} counts positions from the padding id, and there is none: "
            "take a tokenizer that has a padding token"
        )
    return pad_id + 1


def to_their_weights(
    state: Mapping[str, Tensor], config: ModelConfig, task: AnyTask | None = None,
    pad_id: int | None = None, objective: str | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Return the weights under their names; fixed sinusoids become their position table.

    Args:
        state: our weights by our names, of a `Transformer`, or of a `TaskModel` if there is a task
        config: of the model that they belong to
        task: of the head
        pad_id: what the padding token's is, for families whose positions follow it
        objective: as in `name_pairs`
    """
    import torch

    pairs = name_pairs(config, objective) if task is None else task_name_pairs(config, task)
    if config.positions == "sinusoidal":
        from lmmodel.model import sinusoids

        table = sinusoids(config.max_position_embeddings, config.hidden_size)
        prefix = "" if task is None else "backbone."
        state = {**state, f"{prefix}embeddings.positions.weight": table}
    weights: dict[str, Tensor] = {}
    for ours, theirs in pairs.items():
        weight = state[ours].T if is_transposed(config, ours) else state[ours]
        weight = _to_their_shape(weight, ours, config)
        parts = [_with_heads(part, ours, config) for part in weight.chunk(len(theirs))]
        weights |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    family = stock_family(config.family)
    weights |= {
        their: weights[family.names[our][0]].new_zeros(1, config.embedding_size)
        for our, their in family.summands.items()
    }
    if num_before := rows_before_positions(config, pad_id):
        (positions,) = family.names["embeddings.positions.weight"]
        before = weights[positions].new_zeros(num_before, config.embedding_size)
        weights[positions] = torch.cat([before, weights[positions]])
    return weights


def _to_their_shape(weight: Tensor, ours: str, config: ModelConfig) -> Tensor:
    """Return a weight with the rows and axes that an encoder-decoder's has beyond ours."""
    import torch.nn.functional as F

    num_unused = stock_family(config.family).num_unused_positions
    if ours.endswith("positions.weight") and num_unused:
        return F.pad(weight, (0, 0, num_unused, 0))
    is_bias = config.traits.has_logits_bias and ours.endswith("head.bias")
    return weight[None] if is_bias else weight


def _puts_heads_last(ours: str, config: ModelConfig) -> bool | None:
    """Return whether heads are the outputs of a matrix, None where theirs has no axis of them."""
    endings = stock_family(config.family).by_heads.items()
    return next((is_output for end, is_output in endings if ours.endswith(end)), None)


def _with_heads(weight: Tensor, ours: str, config: ModelConfig) -> Tensor:
    """Return a matrix with heads and their features as two axes, where theirs has them."""
    if (is_output := _puts_heads_last(ours, config)) is None:
        return weight
    rows = weight.T if is_output else weight  # (D, H x K)
    return rows.unflatten(1, (config.num_attention_heads, config.head_size))


def _without_heads(weight: Tensor, ours: str, config: ModelConfig) -> Tensor:
    """Return a matrix without an axis of heads."""
    if (is_output := _puts_heads_last(ours, config)) is None:
        return weight
    rows = weight.flatten(1)
    return rows.T if is_output else rows


def _to_our_shape(weight: Tensor, ours: str, config: ModelConfig) -> Tensor:
    """Return a weight without the rows and axes that only an encoder-decoder's has."""
    if ours.endswith("positions.weight"):
        return weight[stock_family(config.family).num_unused_positions :]
    return weight[0] if ours == "head.bias" and config.traits.has_logits_bias else weight


@dataclass(frozen=True)
class Translation:
    """Weights under our names, and what did not fit."""

    state: dict[str, Tensor]  # float32
    missing: list[str]  # ours that theirs do not have
    unused: list[str]  # theirs that have no place here


def from_their_weights(
    weights: Mapping[str, Tensor], config: ModelConfig, pad_id: int | None = None,
    objective: str | None = None,
) -> Translation:  # fmt: skip
    """Return our weights, in float32; `pad_id` and `objective` as for `to_their_weights`.

    Checkpoints of the base model, without its prefix, and the old `gamma` and `beta` are known; a
    weight that two names share may lie under either of them.

    Raises:
        HuggingFaceError: two names of one weight hold different numbers
    """
    import torch

    family = stock_family(config.family)
    known = {_new_name(name): tensor for name, tensor in weights.items()}
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    for ours, theirs in name_pairs(config, objective).items():
        names = [name if name in known else name.removeprefix(family.prefix) for name in theirs]
        if (copy := family.tied.get(ours)) in known:
            names = _either(known, names[0], copy)
        if names[0] not in known and family.stand_ins.get(ours) in known:
            names = [family.stand_ins[ours]]
        if not all(name in known for name in names):
            missing.append(ours)
            continue
        used |= set(names)
        parts = [_without_heads(known[name], ours, config) for name in names]
        weight = torch.cat(parts) if len(parts) > 1 else parts[0]
        weight = weight.T if is_transposed(config, ours) else weight
        weight = _to_our_shape(weight, ours, config)
        if ours == "embeddings.positions.weight":
            weight = weight[rows_before_positions(config, pad_id) :]
        if (summand := family.summands.get(ours)) is not None:
            name = summand if summand in known else summand.removeprefix(family.prefix)
            if name in known:
                used.add(name)
                weight = weight + known[name][:1]
        state[ours] = weight.float().contiguous()
    unused = [name for name in known if name not in used and not REDUNDANT.fullmatch(name)]
    return Translation(state, missing, unused)


def _either(weights: Mapping[str, Tensor], name: str, copy: str) -> list[str]:
    """Return the name under which a weight lies that has two.

    Raises:
        HuggingFaceError: both are there and differ: the model has a vocabulary head of its own
    """
    original = weights.get(name)
    if original is None:
        return [copy]
    if not original.is_meta and not original.equal(weights[copy]):
        raise HuggingFaceError(
            f"{copy} differs from {name}, of which it is a copy in the models that import takes: "
            "a head with a vocabulary of its own is not supported"
        )
    return [name]


def _new_name(name: str) -> str:
    """Return what transformers 4 and 5 call a weight of BERT's first checkpoints."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )
