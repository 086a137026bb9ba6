"""What Hugging Face calls our weights: tables, and pure functions over them.

`{i}` is a layer. Where one of our weights merges several of theirs along the rows, theirs are
listed in that order. GPT-2 keeps its matrices transposed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, cat

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.model import sinusoids
from lmmodel.tasks.task import AnyTask, StockClass

Names = dict[str, tuple[str, ...]]


def _with_biases(names: Names) -> Names:
    """Return the table with a `.bias` row after each `.weight` row."""
    table: Names = {}
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            table[f"{ours}.{kind}"] = tuple(f"{name}.{kind}" for name in theirs)
    return table


BERT_NAMES: Names = {
    "embeddings.tokens.weight": ("bert.embeddings.word_embeddings.weight",),
    "embeddings.segments.weight": ("bert.embeddings.token_type_embeddings.weight",),
    "embeddings.positions.weight": ("bert.embeddings.position_embeddings.weight",),
    "head.bias": ("cls.predictions.bias",),
} | _with_biases(
    {
        "embeddings.norm": ("bert.embeddings.LayerNorm",),
        "layers.{i}.attention.qkv": (
            "bert.encoder.layer.{i}.attention.self.query",
            "bert.encoder.layer.{i}.attention.self.key",
            "bert.encoder.layer.{i}.attention.self.value",
        ),
        "layers.{i}.attention.output": ("bert.encoder.layer.{i}.attention.output.dense",),
        "layers.{i}.attention_norm": ("bert.encoder.layer.{i}.attention.output.LayerNorm",),
        "layers.{i}.mlp.input": ("bert.encoder.layer.{i}.intermediate.dense",),
        "layers.{i}.mlp.output": ("bert.encoder.layer.{i}.output.dense",),
        "layers.{i}.mlp_norm": ("bert.encoder.layer.{i}.output.LayerNorm",),
        "head.dense": ("cls.predictions.transform.dense",),
        "head.norm": ("cls.predictions.transform.LayerNorm",),
        "nsp_head.pooler": ("bert.pooler.dense",),
        "nsp_head.classifier": ("cls.seq_relationship",),
    }
)

MODERN_NAMES: Names = {
    "embeddings.tokens.weight": ("model.embeddings.tok_embeddings.weight",),
    "embeddings.norm.weight": ("model.embeddings.norm.weight",),
    "layers.{i}.attention_norm.weight": ("model.layers.{i}.attn_norm.weight",),
    "layers.{i}.attention.qkv.weight": ("model.layers.{i}.attn.Wqkv.weight",),
    "layers.{i}.attention.output.weight": ("model.layers.{i}.attn.Wo.weight",),
    "layers.{i}.mlp_norm.weight": ("model.layers.{i}.mlp_norm.weight",),
    "layers.{i}.mlp.input.weight": ("model.layers.{i}.mlp.Wi.weight",),
    "layers.{i}.mlp.output.weight": ("model.layers.{i}.mlp.Wo.weight",),
    "final_norm.weight": ("model.final_norm.weight",),
    "head.dense.weight": ("head.dense.weight",),
    "head.norm.weight": ("head.norm.weight",),
    "head.bias": ("decoder.bias",),
}

GPT2_NAMES: Names = {
    "embeddings.tokens.weight": ("transformer.wte.weight",),
    "embeddings.positions.weight": ("transformer.wpe.weight",),
} | _with_biases(
    {
        "layers.{i}.attention_norm": ("transformer.h.{i}.ln_1",),
        "layers.{i}.attention.qkv": ("transformer.h.{i}.attn.c_attn",),
        "layers.{i}.attention.output": ("transformer.h.{i}.attn.c_proj",),
        "layers.{i}.mlp_norm": ("transformer.h.{i}.ln_2",),
        "layers.{i}.mlp.input": ("transformer.h.{i}.mlp.c_fc",),
        "layers.{i}.mlp.output": ("transformer.h.{i}.mlp.c_proj",),
        "final_norm": ("transformer.ln_f",),
    }
)

FAMILY_NAMES = {"bert": BERT_NAMES, "modern": MODERN_NAMES, "gpt2": GPT2_NAMES}
# The base model's prefix, which checkpoints saved from it leave out.
PREFIXES = {"bert": "bert.", "modern": "model.", "gpt2": "transformer."}

# What transforms hidden states before a task's classifier.
TASK_TRANSFORMS: dict[str, Names] = {
    "bert": _with_biases({"head.pooler": ("bert.pooler.dense",)}),
    "modern": {
        "head.dense.weight": ("head.dense.weight",),
        "head.norm.weight": ("head.norm.weight",),
    },
    "gpt2": {},
}

# Under which other name a weight may lie, alone or as a copy: the head's, where they are tied.
TIED_NAMES = {
    "bert": {
        "embeddings.tokens.weight": "cls.predictions.decoder.weight",
        "head.bias": "cls.predictions.decoder.bias",
    },
    "modern": {"embeddings.tokens.weight": "decoder.weight"},
    "gpt2": {"embeddings.tokens.weight": "lm_head.weight"},
}

# Copies of other weights, and constants that old versions stored.
REDUNDANT = re.compile(
    r"cls\.predictions\.decoder\.(weight|bias)|decoder\.weight|lm_head\.weight"
    r"|(bert\.)?embeddings\.position_ids|(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
)


def name_pairs(config: ModelConfig) -> Names:
    """Return their names of each of our weights that their architecture has."""
    pairs: Names = {}
    for ours, theirs in FAMILY_NAMES[config.family].items():
        is_left_out = ours.startswith("nsp_head.") and not config.has_nsp_head
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            has_no_norm = config.is_modern and i == 0 and ".attention_norm." in ours
            if not is_left_out and not has_no_norm:
                pairs[ours.format(i=i)] = tuple(name.format(i=i) for name in theirs)
    return pairs


def task_name_pairs(config: ModelConfig, task: AnyTask) -> Names:
    """Return their names of each weight of a `TaskModel` that their class for the task has."""
    trunk = {
        f"backbone.{ours}": theirs
        for ours, theirs in name_pairs(config).items()
        if not ours.startswith(("head.", "nsp_head."))
    }
    transform = TASK_TRANSFORMS[config.family]
    if config.family == "bert" and not task.is_over_sequences:
        transform = {}
    stock = stock_of(task)
    classifier = stock.classifier(config.family)
    kinds = ("weight", "bias") if stock.has_bias(config.family) else ("weight",)
    head = {f"head.classifier.{kind}": (f"{classifier}.{kind}",) for kind in kinds}
    return trunk | transform | head


def stock_of(task: AnyTask) -> StockClass:
    """Return the class of transformers that opens models of a task.

    Raises:
        HuggingFaceError: there is none
    """
    if task.stock is None:
        raise HuggingFaceError(f"transformers has no class for {task.name}: it can't be exported")
    return task.stock


def is_transposed(config: ModelConfig, name: str) -> bool:
    """Whether their weight is the transpose of ours: GPT-2's matrices inside layers."""
    is_matrix = name.removeprefix("backbone.").startswith("layers.") and name.endswith((
        "qkv.weight", "output.weight", "input.weight"))  # fmt: skip
    return config.family == "gpt2" and is_matrix


def to_their_weights(
    state: Mapping[str, Tensor], config: ModelConfig, task: AnyTask | None = None
) -> dict[str, Tensor]:
    """Return the weights under their names; fixed sinusoids become their position table.

    Args:
        state: our weights by our names, of a `Transformer`, or of a `TaskModel` if there is a task
        config: of the model that they belong to
        task: of the head
    """
    pairs = name_pairs(config) if task is None else task_name_pairs(config, task)
    if config.positions == "sinusoidal":
        table = sinusoids(config.max_position_embeddings, config.hidden_size)
        prefix = "" if task is None else "backbone."
        state = {**state, f"{prefix}embeddings.positions.weight": table}
    weights: dict[str, Tensor] = {}
    for ours, theirs in pairs.items():
        weight = state[ours].T if is_transposed(config, ours) else state[ours]
        parts = weight.chunk(len(theirs))
        weights |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return weights


@dataclass(frozen=True)
class Translation:
    """Weights under our names, and what did not fit."""

    state: dict[str, Tensor]  # float32
    missing: list[str]  # ours that theirs do not have
    unused: list[str]  # theirs that have no place here


def from_their_weights(weights: Mapping[str, Tensor], config: ModelConfig) -> Translation:
    """Return our weights, in float32.

    Checkpoints of the base model, without its prefix, and the old `gamma` and `beta` are known; a
    weight that two names share may lie under either of them.

    Raises:
        HuggingFaceError: two names of one weight hold different numbers
    """
    prefix, copies = PREFIXES[config.family], TIED_NAMES[config.family]
    known = {_new_name(name): tensor for name, tensor in weights.items()}
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    for ours, theirs in name_pairs(config).items():
        names = [name if name in known else name.removeprefix(prefix) for name in theirs]
        if (copy := copies.get(ours)) in known:
            names = _either(known, names[0], copy)
        if not all(name in known for name in names):
            missing.append(ours)
            continue
        used |= set(names)
        parts = [known[name] for name in names]
        weight = cat(parts) if len(parts) > 1 else parts[0]
        weight = weight.T if is_transposed(config, ours) else weight
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
    if not original.is_meta and not torch.equal(original, weights[copy]):
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
