"""What transformers calls XLNet."""

from __future__ import annotations

from lmmodel.handover.stock_family import StockFamily, with_biases

_LAYER = "transformer.layer.{i}"

XLNET = StockFamily(
    model_type="xlnet",
    class_prefix="XLNet",
    pretrained="XLNetLMHeadModel",
    settings={
        "vocab_size": ("vocab_size", 32000),
        "hidden_size": ("d_model", 1024),
        "num_hidden_layers": ("n_layer", 24),
        "num_attention_heads": ("n_head", 16),
        "intermediate_size": ("d_inner", 4096),
        # Distances have no end: theirs has no such setting, and keeps one that it does not know.
        "max_position_embeddings": ("max_seq_length", 512),
        "norm_eps": ("layer_norm_eps", 1e-12),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("dropout", 0.1),
    },
    fixed={
        "ff_activation": "gelu", "attn_type": "bi", "bi_data": False, "clamp_len": -1,
        "same_length": False, "tie_word_embeddings": True,
    },
    unwritten={"untie_r": True},
    classifier_dropout="summary_last_dropout",
    # Ours begin with the token that speaks for a text; published ones end with it.
    of_heads={"summary_type": "first", "summary_use_proj": True, "summary_activation": "tanh"},
    token_ids=("pad", "bos", "eos"),
    prefix="transformer.",
    names={
        "embeddings.tokens.weight": ("transformer.word_embedding.weight",),
        "mask": ("transformer.mask_emb",),
        "head.bias": ("lm_loss.bias",),
        "layers.{i}.attention.queries.weight": (f"{_LAYER}.rel_attn.q",),
        "layers.{i}.attention.keys_values.weight": (f"{_LAYER}.rel_attn.k", f"{_LAYER}.rel_attn.v"),
        "layers.{i}.attention.distances.weight": (f"{_LAYER}.rel_attn.r",),
        "layers.{i}.attention.output.weight": (f"{_LAYER}.rel_attn.o",),
        "layers.{i}.attention.content_bias": (f"{_LAYER}.rel_attn.r_w_bias",),
        "layers.{i}.attention.distance_bias": (f"{_LAYER}.rel_attn.r_r_bias",),
        "layers.{i}.attention.segment_bias": (f"{_LAYER}.rel_attn.r_s_bias",),
        "layers.{i}.attention.segments": (f"{_LAYER}.rel_attn.seg_embed",),
        **with_biases({
            "layers.{i}.attention_norm": (f"{_LAYER}.rel_attn.layer_norm",),
            "layers.{i}.mlp.input": (f"{_LAYER}.ff.layer_1",),
            "layers.{i}.mlp.output": (f"{_LAYER}.ff.layer_2",),
            "layers.{i}.mlp_norm": (f"{_LAYER}.ff.layer_norm",),
        }),
    },
    transform=with_biases({"head.pooler": ("sequence_summary.summary",)}),
    transforms_tokens=False,
    tied={"embeddings.tokens.weight": "lm_loss.weight"},
    by_heads={
        "attention.queries.weight": True, "attention.keys_values.weight": True,
        "attention.distances.weight": True, "attention.output.weight": False,
    },
)  # fmt: skip
