"""What transformers calls our families: classes, settings and weights, one record for each.

`{i}` is a layer. Where one of our weights merges several of theirs along the rows, theirs are
listed in that order. PyTorch is loaded by what handles weights, not by what reads settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from lmmodel.tasks.task import AnyTask, StockClass

Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class StockFamily:
    """How a family is handed over, beside its traits in `lmmodel.families`."""

    model_type: str
    """What config.json calls it."""
    class_prefix: str
    """What the classes of tasks begin with."""
    pretrained: str
    """The class of a pretrained model."""
    paired: str | None = None
    """The same with a head for sentence pairs, None where there is no such class."""
    settings: Mapping[str, tuple[str, Any]]
    """Our setting: theirs, and what their class takes where config.json is silent."""
    dropouts: tuple[str, ...] = ()
    """Other settings of theirs that our one dropout is written to."""
    fixed: Mapping[str, Any]
    """Their settings that have one value here: a folder that says otherwise is refused."""
    unwritten: Mapping[str, Any] = field(default_factory=dict)
    """The same, of old versions only."""
    of_heads: Mapping[str, Any] = field(default_factory=dict)
    """Their settings of every task's head."""
    token_ids: tuple[str, ...]
    """Purposes of the special ids that config.json tells."""
    prefix: str
    """Of the base model's weights; checkpoints saved from it leave it out."""
    names: Names
    """Our weight: theirs."""
    transform: Names = field(default_factory=dict)
    """What transforms hidden states before a task's classifier."""
    transforms_tokens: bool = True
    """Whether that is so for tasks over tokens too."""
    tied: Mapping[str, str]
    """Our weight: the other name under which it may lie, alone or as a copy."""
    is_transposed: bool = False
    """Whether the matrices inside layers lie the other way round."""


def with_biases(names: Names) -> dict[str, tuple[str, ...]]:
    """Return the table with a `.bias` row after each `.weight` row."""
    return {
        f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs)
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }


BERT = StockFamily(
    model_type="bert",
    class_prefix="Bert",
    pretrained="BertForMaskedLM",
    paired="BertForPreTraining",
    settings={
        "vocab_size": ("vocab_size", 30522),
        "hidden_size": ("hidden_size", 768),
        "num_hidden_layers": ("num_hidden_layers", 12),
        "num_attention_heads": ("num_attention_heads", 12),
        "intermediate_size": ("intermediate_size", 3072),
        "max_position_embeddings": ("max_position_embeddings", 512),
        "type_vocab_size": ("type_vocab_size", 2),
        "norm_eps": ("layer_norm_eps", 1e-12),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("hidden_dropout_prob", 0.1),
        "attention_dropout": ("attention_probs_dropout_prob", 0.1),
    },
    fixed={
        "hidden_act": "gelu",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    unwritten={"position_embedding_type": "absolute"},
    token_ids=("pad",),
    prefix="bert.",
    names={
        "embeddings.tokens.weight": ("bert.embeddings.word_embeddings.weight",),
        "embeddings.segments.weight": ("bert.embeddings.token_type_embeddings.weight",),
        "embeddings.positions.weight": ("bert.embeddings.position_embeddings.weight",),
        "head.bias": ("cls.predictions.bias",),
        **with_biases({
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
        }),
    },
    transform=with_biases({"head.pooler": ("bert.pooler.dense",)}),
    transforms_tokens=False,
    tied={
        "embeddings.tokens.weight": "cls.predictions.decoder.weight",
        "head.bias": "cls.predictions.decoder.bias",
    },
)  # fmt: skip

MODERN = StockFamily(
    model_type="modernbert",
    class_prefix="ModernBert",
    pretrained="ModernBertForMaskedLM",
    settings={
        "vocab_size": ("vocab_size", 50368),
        "hidden_size": ("hidden_size", 768),
        "num_hidden_layers": ("num_hidden_layers", 22),
        "num_attention_heads": ("num_attention_heads", 12),
        "intermediate_size": ("intermediate_size", 1152),
        "max_position_embeddings": ("max_position_embeddings", 8192),
        "norm_eps": ("norm_eps", 1e-5),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("embedding_dropout", 0.0),
        "attention_dropout": ("attention_dropout", 0.0),
        "local_window": ("local_attention", 128),
    },
    dropouts=("mlp_dropout",),
    fixed={
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "tie_word_embeddings": True,
    },
    of_heads={"classifier_pooling": "mean"},
    token_ids=("pad", "cls", "sep", "bos", "eos"),
    prefix="model.",
    names={
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
    },
    transform={
        "head.dense.weight": ("head.dense.weight",),
        "head.norm.weight": ("head.norm.weight",),
    },
    tied={"embeddings.tokens.weight": "decoder.weight"},
)

GPT2 = StockFamily(
    model_type="gpt2",
    class_prefix="GPT2",
    pretrained="GPT2LMHeadModel",
    settings={
        "vocab_size": ("vocab_size", 50257),
        "hidden_size": ("n_embd", 768),
        "num_hidden_layers": ("n_layer", 12),
        "num_attention_heads": ("n_head", 12),
        "intermediate_size": ("n_inner", None),
        "max_position_embeddings": ("n_positions", 1024),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("resid_pdrop", 0.1),
        "attention_dropout": ("attn_pdrop", 0.1),
    },
    dropouts=("embd_pdrop",),
    fixed={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    token_ids=("pad", "bos", "eos"),
    prefix="transformer.",
    names={
        "embeddings.tokens.weight": ("transformer.wte.weight",),
        "embeddings.positions.weight": ("transformer.wpe.weight",),
        **with_biases({
            "layers.{i}.attention_norm": ("transformer.h.{i}.ln_1",),
            "layers.{i}.attention.qkv": ("transformer.h.{i}.attn.c_attn",),
            "layers.{i}.attention.output": ("transformer.h.{i}.attn.c_proj",),
            "layers.{i}.mlp_norm": ("transformer.h.{i}.ln_2",),
            "layers.{i}.mlp.input": ("transformer.h.{i}.mlp.c_fc",),
            "layers.{i}.mlp.output": ("transformer.h.{i}.mlp.c_proj",),
            "final_norm": ("transformer.ln_f",),
        }),
    },
    tied={"embeddings.tokens.weight": "lm_head.weight"},
    is_transposed=True,
)  # fmt: skip

STOCK_FAMILIES = {"bert": BERT, "modern": MODERN, "gpt2": GPT2}
"""By our name of the family."""


def stock_family(family: str) -> StockFamily:
    """Return how a family is handed over.

    Raises:
        HuggingFaceError: transformers has no class for it

    Example:
        >>> stock_family("modern").model_type
        'modernbert'
    """
    if family not in STOCK_FAMILIES:
        raise HuggingFaceError(
            f"family {family!r} has no class in transformers that is known here: "
            f"export takes {', '.join(STOCK_FAMILIES)}"
        )
    return STOCK_FAMILIES[family]


def stock_class(task: AnyTask) -> StockClass:
    """Return the class of transformers that opens models of a task.

    Raises:
        HuggingFaceError: there is none
    """
    if task.stock is None:
        raise HuggingFaceError(f"transformers has no class for {task.name}: it can't be exported")
    return task.stock


# Weights.


# Copies of other weights, and constants that old versions stored.
REDUNDANT = re.compile(
    r"cls\.predictions\.decoder\.(weight|bias)|decoder\.weight|lm_head\.weight"
    r"|(bert\.)?embeddings\.position_ids|(transformer\.)?h\.\d+\.attn\.(masked_)?bias"
)


def name_pairs(config: ModelConfig) -> Names:
    """Return their names of each of our weights that their architecture has."""
    pairs: dict[str, tuple[str, ...]] = {}
    for ours, theirs in stock_family(config.family).names.items():
        is_left_out = ours.startswith("nsp_head.") and not config.has_nsp_head
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            has_no_norm = not config.traits.has_first_norm and i == 0 and ".attention_norm." in ours
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
        from lmmodel.model import sinusoids

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
    import torch

    family = stock_family(config.family)
    known = {_new_name(name): tensor for name, tensor in weights.items()}
    used: set[str] = set()
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    for ours, theirs in name_pairs(config).items():
        names = [name if name in known else name.removeprefix(family.prefix) for name in theirs]
        if (copy := family.tied.get(ours)) in known:
            names = _either(known, names[0], copy)
        if not all(name in known for name in names):
            missing.append(ours)
            continue
        used |= set(names)
        parts = [known[name] for name in names]
        weight = torch.cat(parts) if len(parts) > 1 else parts[0]
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
