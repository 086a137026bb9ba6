"""What Hugging Face calls our settings: tables, and pure functions over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmmodel.errors import HuggingFaceError
from lmmodel.handover.names import stock_of
from lmmodel.model import ModelConfig
from lmmodel.tasks.task import AnyTask

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


# What their classes take where `config.json` is silent.
DEFAULT_SETTINGS: dict[str, dict[str, Any]] = {
    "bert": {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "initializer_range": 0.02,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
    },
    "modern": {
        "vocab_size": 50368, "hidden_size": 768, "num_hidden_layers": 22,
        "num_attention_heads": 12, "intermediate_size": 1152, "max_position_embeddings": 8192,
        "norm_eps": 1e-5, "initializer_range": 0.02, "embedding_dropout": 0.0,
        "attention_dropout": 0.0, "local_attention": 128,
    },
    "gpt2": {
        "vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
        "n_positions": 1024, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
        "resid_pdrop": 0.1, "attn_pdrop": 0.1,
    },
}  # fmt: skip

PRETRAINED_CLASSES = {"modern": "ModernBertForMaskedLM", "gpt2": "GPT2LMHeadModel"}
CLASS_PREFIXES = {"bert": "Bert", "modern": "ModernBert", "gpt2": "GPT2"}


def architecture(config: ModelConfig, task: AnyTask | None = None) -> str:
    """Return the transformers class that opens an export of such a model.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> architecture(ModelConfig(has_nsp_head=True))
        'BertForPreTraining'
        >>> architecture(ModelConfig(), TASKS["regression"])
        'BertForSequenceClassification'
    """
    if task is not None:
        return f"{CLASS_PREFIXES[config.family]}For{stock_of(task).suffix}"
    if config.family == "bert":
        return "BertForPreTraining" if config.has_nsp_head else "BertForMaskedLM"
    return PRETRAINED_CLASSES[config.family]


def to_their_config(
    config: ModelConfig,
    special_ids: Mapping[str, int | None],
    task: AnyTask | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the content of their `config.json`.

    Args:
        config: ours
        special_ids: ids of cls, sep, mask, pad, unk, bos, eos where the tokenizer has them
        task: of a fine-tuned model
        labels: its classes or tags by number
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
        "architectures": [architecture(config, task)],
        "model_type": model_type,
        **theirs,
        **token_ids(config, special_ids),
        **({} if task is None else task_settings(config, task, labels)),
        "dtype": "float32",
    }


def task_settings(config: ModelConfig, task: AnyTask, labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings of their head for a task.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> task_settings(ModelConfig(), TASKS["sentence-pair"], ["no", "yes"])["id2label"]
        {'0': 'no', '1': 'yes'}
    """
    stock, names = stock_of(task), task.output_names(labels)
    settings: dict[str, Any] = {
        "classifier_dropout": config.dropout if stock.has_dropout(config.family) else 0.0
    }
    if config.is_modern:
        settings["classifier_pooling"] = "mean"
    if not names:
        return settings
    settings["id2label"] = {str(index): name for index, name in enumerate(names)}
    settings["label2id"] = {name: index for index, name in enumerate(names)}
    if stock.problem_type is not None:
        settings["problem_type"] = stock.problem_type
    return settings


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


def from_their_config(theirs: Mapping[str, Any]) -> ModelConfig:
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
    given = {name: value for name, value in theirs.items() if value is not None}
    known = DEFAULT_SETTINGS[family] | given
    settings = {our: known[their] for our, their in FAMILY_SETTINGS[family].items()}
    if family == "modern":
        settings |= _our_layers(theirs)
    try:
        return ModelConfig(family=family, **settings)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise HuggingFaceError(f"config.json describes no model that works: {error}") from error


def _our_layers(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layer pattern and rotary bases of a ModernBERT configuration."""
    kinds = theirs.get("layer_types")
    every = theirs.get("global_attn_every_n_layers", 3)
    if kinds:
        is_global = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
        if is_global != list(range(0, len(kinds), every)):
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
