"""What transformers calls our encoder-decoders."""

from __future__ import annotations

from typing import Any

from lmmodel.handover.stock_family import StockFamily, with_biases


def _t5_names(*, is_gated: bool) -> dict[str, tuple[str, ...]]:
    attentions = {"encoder.layers": ("encoder", 0, 1), "layers": ("decoder", 0, 2)}
    names: dict[str, tuple[str, ...]] = {
        "embeddings.tokens": ("shared",),
        "encoder.bias.distances": (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ),
        "bias.distances": ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias",),
        "encoder.final_norm": ("encoder.final_layer_norm",),
        "final_norm": ("decoder.final_layer_norm",),
    }
    for ours, (stack, first, last) in attentions.items():
        block = f"{stack}.block.{{i}}.layer"
        heads, mlp = f"{block}.{first}.SelfAttention", f"{block}.{last}.DenseReluDense"
        names |= {
            f"{ours}.{{i}}.attention_norm": (f"{block}.{first}.layer_norm",),
            f"{ours}.{{i}}.attention.qkv": (f"{heads}.q", f"{heads}.k", f"{heads}.v"),
            f"{ours}.{{i}}.attention.output": (f"{heads}.o",),
            f"{ours}.{{i}}.mlp_norm": (f"{block}.{last}.layer_norm",),
            f"{ours}.{{i}}.mlp.input": (f"{mlp}.wi_0", f"{mlp}.wi_1")
            if is_gated
            else (f"{mlp}.wi",),
            f"{ours}.{{i}}.mlp.output": (f"{mlp}.wo",),
        }
    cross = "decoder.block.{i}.layer.1.EncDecAttention"
    names |= {
        "layers.{i}.cross_norm": ("decoder.block.{i}.layer.1.layer_norm",),
        "layers.{i}.cross_attention.queries": (f"{cross}.q",),
        "layers.{i}.cross_attention.keys_values": (f"{cross}.k", f"{cross}.v"),
        "layers.{i}.cross_attention.output": (f"{cross}.o",),
    }
    if is_gated:
        names |= {"head": ("lm_head",)}
    return {
        f"{ours}.weight": tuple(f"{name}.weight" for name in theirs)
        for ours, theirs in names.items()
    }


def _t5(*, is_gated: bool) -> StockFamily:
    """Return T5 v1.1, which is gated and has a vocabulary head of its own, or v1.0."""
    version: dict[str, Any] = {
        "feed_forward_proj": "gated-gelu" if is_gated else "relu",
        "scale_decoder_outputs": not is_gated,
    }
    return StockFamily(
        model_type="t5",
        class_prefix="T5",
        pretrained="T5ForConditionalGeneration",
        settings={
            "vocab_size": ("vocab_size", 32128),
            "hidden_size": ("d_model", 512),
            "attention_head_size": ("d_kv", 64),
            "intermediate_size": ("d_ff", 2048),
            "num_hidden_layers": ("num_layers", 6),
            "num_decoder_layers": ("num_decoder_layers", None),
            "num_attention_heads": ("num_heads", 8),
            "max_position_embeddings": ("n_positions", 512),
            "norm_eps": ("layer_norm_epsilon", 1e-6),
            "initializer_range": ("initializer_factor", 1.0),
            "dropout": ("dropout_rate", 0.1),
        },
        fixed={
            **version,
            "is_encoder_decoder": True,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
        },
        implied={"scale_decoder_outputs": "tie_word_embeddings"},
        # transformers 5 ties in memory whatever this says, but reads from it whether to scale.
        written={"tie_word_embeddings": not is_gated},
        token_ids=("pad", "eos"),
        prefix="",
        names=_t5_names(is_gated=is_gated),
        tied={} if is_gated else {"embeddings.tokens.weight": "lm_head.weight"},
        stand_ins={"head.weight": "shared.weight"} if is_gated else {},
    )  # fmt: skip


T5, T5_V1_0 = _t5(is_gated=True), _t5(is_gated=False)


def _bart_stack(ours: str, theirs: str) -> dict[str, tuple[str, ...]]:
    attention = f"{theirs}.layers.{{i}}.self_attn"
    return {
        f"{ours}layers.{{i}}.attention.qkv": (
            f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
        f"{ours}layers.{{i}}.attention.output": (f"{attention}.out_proj",),
        f"{ours}layers.{{i}}.attention_norm": (f"{theirs}.layers.{{i}}.self_attn_layer_norm",),
        f"{ours}layers.{{i}}.mlp.input": (f"{theirs}.layers.{{i}}.fc1",),
        f"{ours}layers.{{i}}.mlp.output": (f"{theirs}.layers.{{i}}.fc2",),
        f"{ours}layers.{{i}}.mlp_norm": (f"{theirs}.layers.{{i}}.final_layer_norm",),
        f"{ours}embeddings.norm": (f"{theirs}.layernorm_embedding",),
    }  # fmt: skip


BART = StockFamily(
    model_type="bart",
    class_prefix="Bart",
    pretrained="BartForConditionalGeneration",
    settings={
        "vocab_size": ("vocab_size", 50265),
        "hidden_size": ("d_model", 1024),
        "num_hidden_layers": ("encoder_layers", 12),
        "num_decoder_layers": ("decoder_layers", 12),
        "num_attention_heads": ("encoder_attention_heads", 16),
        "intermediate_size": ("encoder_ffn_dim", 4096),
        "max_position_embeddings": ("max_position_embeddings", 1024),
        "initializer_range": ("init_std", 0.02),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.0),
    },
    fixed={
        "activation_function": "gelu",
        "scale_embedding": False,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    },
    unwritten={
        "normalize_before": False, "add_final_layer_norm": False, "normalize_embedding": True,
        "static_position_embeddings": False,
    },
    repeated={
        "decoder_attention_heads": "num_attention_heads", "decoder_ffn_dim": "intermediate_size",
    },
    token_ids=("pad", "bos", "eos"),
    prefix="model.",
    names={
        "embeddings.tokens.weight": ("model.shared.weight",),
        "embeddings.positions.weight": ("model.decoder.embed_positions.weight",),
        "encoder.embeddings.positions.weight": ("model.encoder.embed_positions.weight",),
        "head.bias": ("final_logits_bias",),
        **with_biases({
            **_bart_stack("encoder.", "model.encoder"),
            **_bart_stack("", "model.decoder"),
            "layers.{i}.cross_norm": ("model.decoder.layers.{i}.encoder_attn_layer_norm",),
            "layers.{i}.cross_attention.queries": ("model.decoder.layers.{i}.encoder_attn.q_proj",),
            "layers.{i}.cross_attention.keys_values": (
                "model.decoder.layers.{i}.encoder_attn.k_proj",
                "model.decoder.layers.{i}.encoder_attn.v_proj",
            ),
            "layers.{i}.cross_attention.output": (
                "model.decoder.layers.{i}.encoder_attn.out_proj",),
        }),
    },
    tied={"embeddings.tokens.weight": "lm_head.weight"},
    num_unused_positions=2,
)  # fmt: skip
