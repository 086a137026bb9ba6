"""What Hugging Face calls our weights and settings: tables, and pure functions over them.

`{i}` is a layer. Where one of our weights merges several of theirs along the rows, theirs are
listed in that order. GPT-2 keeps its matrices transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, cat

from lmmodel.errors import HuggingFaceError
from lmmodel.model import ModelConfig, sinusoids

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
MODEL_TYPES = {"bert": "bert", "modernbert": "modern", "gpt2": "gpt2"}

# Our setting: theirs.
BERT_SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
MODERN_SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "norm_eps": "norm_eps",
    "initializer_range": "initializer_range",
    "dropout": "embedding_dropout",
    "attention_dropout": "attention_dropout",
    "local_window": "local_attention",
}
GPT2_SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "norm_eps": "layer_norm_epsilon",
    "initializer_range": "initializer_range",
    "dropout": "resid_pdrop",
    "attention_dropout": "attn_pdrop",
}
FAMILY_SETTINGS = {"bert": BERT_SETTINGS, "modern": MODERN_SETTINGS, "gpt2": GPT2_SETTINGS}

# Their settings that have one value here: a folder that says otherwise is refused.
FIXED_SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "modern": {
        "hidden_activation": "gelu",
        "classifier_activation": "gelu",
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
}


def architecture(config: ModelConfig) -> str:
    """Return the transformers class that opens an export of such a model.

    Example:
        >>> architecture(ModelConfig(has_nsp_head=True))
        'BertForPreTraining'
    """
    if config.family == "bert":
        return "BertForPreTraining" if config.has_nsp_head else "BertForMaskedLM"
    return {"modern": "ModernBertForMaskedLM", "gpt2": "GPT2LMHeadModel"}[config.family]


def name_pairs(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return their names of each of our weights that their architecture has."""
    pairs: Names = {}
    for ours, theirs in FAMILY_NAMES[config.family].items():
        is_left_out = ours.startswith("nsp_head.") and not config.has_nsp_head
        for i in range(config.num_hidden_layers if "{i}" in ours else 1):
            has_no_norm = config.is_modern and i == 0 and ".attention_norm." in ours
            if not is_left_out and not has_no_norm:
                pairs[ours.format(i=i)] = tuple(name.format(i=i) for name in theirs)
    return pairs


def is_transposed(config: ModelConfig, name: str) -> bool:
    """Whether their weight is the transpose of ours: GPT-2's matrices inside layers."""
    is_matrix = name.startswith("layers.") and name.endswith((
        "qkv.weight", "output.weight", "input.weight"))  # fmt: skip
    return config.family == "gpt2" and is_matrix


def to_their_weights(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights under their names; fixed sinusoids become their position table.

    Args:
        state: our weights by our names
        config: of the model that they belong to
    """
    weights: dict[str, Tensor] = {}
    if config.positions == "sinusoidal":
        table = sinusoids(config.max_position_embeddings, config.hidden_size)
        state = {**state, "embeddings.positions.weight": table}
    for ours, theirs in name_pairs(config).items():
        weight = state[ours].T if is_transposed(config, ours) else state[ours]
        parts = weight.chunk(len(theirs))
        weights |= {name: part.contiguous() for name, part in zip(theirs, parts, strict=True)}
    return weights


def from_their_weights(
    weights: Mapping[str, Tensor], config: ModelConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """Return our weights, in float32, and the names of ours that theirs do not have.

    Checkpoints of the base model, without its prefix, and the old `gamma` and `beta` are known.
    """
    prefix = PREFIXES[config.family]
    known = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        ): tensor
        for name, tensor in weights.items()
    }
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    for ours, theirs in name_pairs(config).items():
        parts = [known.get(name, known.get(name.removeprefix(prefix))) for name in theirs]
        present = [part for part in parts if part is not None]
        if len(present) < len(parts):
            missing.append(ours)
            continue
        weight = cat(present) if len(present) > 1 else present[0]
        weight = weight.T if is_transposed(config, ours) else weight
        state[ours] = weight.float().contiguous()
    return state, missing


def to_their_config(config: ModelConfig, special_ids: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the content of their `config.json`.

    Args:
        config: ours
        special_ids: ids of cls, sep, mask, pad, unk, bos, eos where the tokenizer has them
    """
    names = FAMILY_SETTINGS[config.family]
    theirs = {their: getattr(config, our) for our, their in names.items()}
    theirs |= FIXED_SETTINGS[config.family]
    if config.family == "bert":
        del theirs["position_embedding_type"]  # gone from transformers 5, which knows no other
    if config.family == "modern":
        theirs |= _modern_layers(config)
        theirs["mlp_dropout"] = config.dropout
    if config.family == "gpt2":
        theirs["embd_pdrop"] = config.dropout
    model_type = next(name for name, family in MODEL_TYPES.items() if family == config.family)
    return {
        "architectures": [architecture(config)],
        "model_type": model_type,
        **theirs,
        **token_ids(config, special_ids),
        "dtype": "float32",
    }


def _modern_layers(config: ModelConfig) -> dict[str, Any]:
    """Return which layers are local and their rotary bases, as transformers 4 and 5 spell it."""
    kinds = [
        "full_attention" if config.window(i) is None else "sliding_attention"
        for i in range(config.num_hidden_layers)
    ]
    thetas = {
        "full_attention": config.global_rope_theta,
        "sliding_attention": config.local_rope_theta,
    }
    return {
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "layer_types": kinds,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
    }


def token_ids(config: ModelConfig, special_ids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the `*_token_id` settings; sentence ends stand in for bos and eos of encoders."""
    ids = {f"{name}_token_id": special_ids.get(name) for name in ("pad", "cls", "sep")}
    if config.family == "bert":
        return {"pad_token_id": ids["pad_token_id"]}
    bos = special_ids.get("bos", special_ids.get("cls"))
    eos = special_ids.get("eos", special_ids.get("sep"))
    ids = ids if config.is_modern else {"pad_token_id": ids["pad_token_id"]}
    return {**ids, "bos_token_id": bos, "eos_token_id": eos}


def from_their_config(theirs: Mapping[str, Any], *, has_nsp_head: bool) -> ModelConfig:
    """Return our configuration of a model that their `config.json` describes.

    Raises:
        HuggingFaceError: an architecture or a setting that this model does not have
    """
    family = MODEL_TYPES.get(str(theirs.get("model_type")))
    if family is None:
        raise HuggingFaceError(
            f"model_type {theirs.get('model_type')!r} is not supported: "
            f"import takes {', '.join(MODEL_TYPES)}"
        )
    for name, value in FIXED_SETTINGS[family].items():
        if theirs.get(name, value) != value:
            raise HuggingFaceError(
                f"{name}={theirs[name]!r} is not supported for {family}, only {value!r}: "
                "this checkpoint can't be imported"
            )
    names = FAMILY_SETTINGS[family]
    settings = {our: theirs[their] for our, their in names.items() if theirs.get(their) is not None}
    if family == "modern":
        settings |= _our_layers(theirs)
    try:
        return ModelConfig(family=family, has_nsp_head=has_nsp_head, **settings)  # type: ignore[arg-type]
    except ValueError as error:
        raise HuggingFaceError(f"config.json describes no model that works: {error}") from error


def _our_layers(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layer pattern and rotary bases of a ModernBERT configuration."""
    kinds = theirs.get("layer_types")
    every = theirs.get("global_attn_every_n_layers", 3)
    if kinds:
        is_global = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
        every = is_global[1] if len(is_global) > 1 else len(kinds)
        if is_global != list(range(0, len(kinds), every)):
            raise HuggingFaceError(
                f"layer_types has full attention in layers {is_global}: "
                "only every n-th layer from the first is supported"
            )
    rope = theirs.get("rope_parameters") or {}
    settings: dict[str, Any] = {"global_every": every}
    for ours, kind in (("global", "full_attention"), ("local", "sliding_attention")):
        theta = (rope.get(kind) or {}).get("rope_theta", theirs.get(f"{ours}_rope_theta"))
        if (rope.get(kind) or {}).get("rope_type", "default") != "default":
            raise HuggingFaceError(f"rope_type {rope[kind]['rope_type']!r} is not supported")
        if theta is not None:
            settings[f"{ours}_rope_theta"] = float(theta)
    return settings
