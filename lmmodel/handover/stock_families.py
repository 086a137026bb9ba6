"""What transformers calls our families: classes, settings and weights, one record for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmmodel.errors import HuggingFaceError
from lmmodel.handover.stock_family import StockFamily, with_biases
from lmmodel.handover.two_stacks import BART, T5, T5_V1_0
from lmmodel.handover.xlnet import XLNET

if TYPE_CHECKING:
    from lmmodel.tasks.task import AnyTask, StockClass


def _bert_names(prefix: str) -> dict[str, tuple[str, ...]]:
    """Return the names of BERT's embeddings and layers behind a prefix."""
    layer = f"{prefix}.encoder.layer.{{i}}"
    return {
        "embeddings.tokens.weight": (f"{prefix}.embeddings.word_embeddings.weight",),
        "embeddings.positions.weight": (f"{prefix}.embeddings.position_embeddings.weight",),
        **with_biases({
            "embeddings.norm": (f"{prefix}.embeddings.LayerNorm",),
            "layers.{i}.attention.qkv": tuple(
                f"{layer}.attention.self.{name}" for name in ("query", "key", "value")
            ),
            "layers.{i}.attention.output": (f"{layer}.attention.output.dense",),
            "layers.{i}.attention_norm": (f"{layer}.attention.output.LayerNorm",),
            "layers.{i}.mlp.input": (f"{layer}.intermediate.dense",),
            "layers.{i}.mlp.output": (f"{layer}.output.dense",),
            "layers.{i}.mlp_norm": (f"{layer}.output.LayerNorm",),
        }),
    }  # fmt: skip


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
        **_bert_names("bert"),
        "embeddings.segments.weight": ("bert.embeddings.token_type_embeddings.weight",),
        "head.bias": ("cls.predictions.bias",),
        **with_biases({
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

ROBERTA = StockFamily(
    model_type="roberta",
    class_prefix="Roberta",
    pretrained="RobertaForMaskedLM",
    settings={
        **{our: their for our, their in BERT.settings.items() if our != "type_vocab_size"},
        "vocab_size": ("vocab_size", 50265),
    },
    fixed=BERT.fixed,
    unwritten={"position_embedding_type": "absolute"},
    written={"type_vocab_size": 1},
    token_ids=("pad", "bos", "eos"),
    prefix="roberta.",
    names={
        **_bert_names("roberta"),
        "head.bias": ("lm_head.bias",),
        **with_biases({
            "head.dense": ("lm_head.dense",),
            "head.norm": ("lm_head.layer_norm",),
        }),
    },
    transform=with_biases({"head.pooler": ("classifier.dense",)}),
    transforms_tokens=False,
    tied={
        "embeddings.tokens.weight": "lm_head.decoder.weight",
        "head.bias": "lm_head.decoder.bias",
    },
    summands={"embeddings.positions.weight": "roberta.embeddings.token_type_embeddings.weight"},
    follows_padding=True,
    default_pad_id=1,
)  # fmt: skip

_GROUP = "albert.encoder.albert_layer_groups.{i}.albert_layers.0"

ALBERT = StockFamily(
    model_type="albert",
    class_prefix="Albert",
    pretrained="AlbertForMaskedLM",
    paired="AlbertForPreTraining",
    settings={
        **BERT.settings,
        "vocab_size": ("vocab_size", 30000),
        "embedding_size": ("embedding_size", 128),
        "hidden_size": ("hidden_size", 4096),
        "num_hidden_groups": ("num_hidden_groups", 1),
        "num_attention_heads": ("num_attention_heads", 64),
        "intermediate_size": ("intermediate_size", 16384),
        "dropout": ("hidden_dropout_prob", 0.0),
        "attention_dropout": ("attention_probs_dropout_prob", 0.0),
    },
    dropouts=("classifier_dropout_prob",),
    fixed={"hidden_act": "gelu_new", "inner_group_num": 1, "tie_word_embeddings": True},
    unwritten={"position_embedding_type": "absolute"},
    classifier_dropout="classifier_dropout_prob",
    token_ids=("pad", "bos", "eos"),
    prefix="albert.",
    names={
        "embeddings.tokens.weight": ("albert.embeddings.word_embeddings.weight",),
        "embeddings.segments.weight": ("albert.embeddings.token_type_embeddings.weight",),
        "embeddings.positions.weight": ("albert.embeddings.position_embeddings.weight",),
        "head.bias": ("predictions.bias",),
        **with_biases({
            "embeddings.norm": ("albert.embeddings.LayerNorm",),
            "projection": ("albert.encoder.embedding_hidden_mapping_in",),
            "layers.{i}.attention.qkv": tuple(
                f"{_GROUP}.attention.{name}" for name in ("query", "key", "value")
            ),
            "layers.{i}.attention.output": (f"{_GROUP}.attention.dense",),
            "layers.{i}.attention_norm": (f"{_GROUP}.attention.LayerNorm",),
            "layers.{i}.mlp.input": (f"{_GROUP}.ffn",),
            "layers.{i}.mlp.output": (f"{_GROUP}.ffn_output",),
            "layers.{i}.mlp_norm": (f"{_GROUP}.full_layer_layer_norm",),
            "head.dense": ("predictions.dense",),
            "head.norm": ("predictions.LayerNorm",),
            "nsp_head.pooler": ("albert.pooler",),
            "nsp_head.classifier": ("sop_classifier.classifier",),
        }),
    },
    transform=with_biases({"head.pooler": ("albert.pooler",)}),
    transforms_tokens=False,
    tied={
        "embeddings.tokens.weight": "predictions.decoder.weight",
        "head.bias": "predictions.decoder.bias",
    },
)  # fmt: skip

ELECTRA = StockFamily(
    model_type="electra",
    class_prefix="Electra",
    pretrained="ElectraForMaskedLM",
    of_objectives={
        "rtd": ("ElectraForPreTraining", with_biases({
            "extras.replaced.dense": ("discriminator_predictions.dense",),
            "extras.replaced.classifier": ("discriminator_predictions.dense_prediction",),
        })),
    },
    settings={
        **BERT.settings,
        "embedding_size": ("embedding_size", 128),
        "hidden_size": ("hidden_size", 256),
        "num_attention_heads": ("num_attention_heads", 4),
        "intermediate_size": ("intermediate_size", 1024),
    },
    fixed=BERT.fixed,
    unwritten={"position_embedding_type": "absolute"},
    token_ids=("pad",),
    prefix="electra.",
    names={
        **_bert_names("electra"),
        "embeddings.segments.weight": ("electra.embeddings.token_type_embeddings.weight",),
        "head.bias": ("generator_lm_head.bias",),
        **with_biases({
            "projection": ("electra.embeddings_project",),
            "head.dense": ("generator_predictions.dense",),
            "head.norm": ("generator_predictions.LayerNorm",),
        }),
    },
    transform=with_biases({"head.pooler": ("classifier.dense",)}),
    transforms_tokens=False,
    tied={"embeddings.tokens.weight": "generator_lm_head.weight"},
)  # fmt: skip

_DISTILBERT = "distilbert.transformer.layer.{i}"

DISTILBERT = StockFamily(
    model_type="distilbert",
    class_prefix="DistilBert",
    pretrained="DistilBertForMaskedLM",
    settings={
        "vocab_size": ("vocab_size", 30522),
        "hidden_size": ("dim", 768),
        "num_hidden_layers": ("n_layers", 6),
        "num_attention_heads": ("n_heads", 12),
        "intermediate_size": ("hidden_dim", 3072),
        "max_position_embeddings": ("max_position_embeddings", 512),
        "initializer_range": ("initializer_range", 0.02),
        "dropout": ("dropout", 0.1),
        "attention_dropout": ("attention_dropout", 0.1),
    },
    fixed={"activation": "gelu", "tie_word_embeddings": True},
    classifier_dropout="seq_classif_dropout",
    token_ids=("pad",),
    prefix="distilbert.",
    names={
        **{
            name: their
            for name, their in _bert_names("distilbert").items()
            if name.startswith("embeddings")
        },
        "head.bias": ("vocab_projector.bias",),
        **with_biases({
            "layers.{i}.attention.qkv": tuple(
                f"{_DISTILBERT}.attention.{name}_lin" for name in "qkv"
            ),
            "layers.{i}.attention.output": (f"{_DISTILBERT}.attention.out_lin",),
            "layers.{i}.attention_norm": (f"{_DISTILBERT}.sa_layer_norm",),
            "layers.{i}.mlp.input": (f"{_DISTILBERT}.ffn.lin1",),
            "layers.{i}.mlp.output": (f"{_DISTILBERT}.ffn.lin2",),
            "layers.{i}.mlp_norm": (f"{_DISTILBERT}.output_layer_norm",),
            "head.dense": ("vocab_transform",),
            "head.norm": ("vocab_layer_norm",),
        }),
    },
    transform=with_biases({"head.pooler": ("pre_classifier",)}),
    transforms_tokens=False,
    tied={"embeddings.tokens.weight": "vocab_projector.weight"},
)  # fmt: skip

STOCK_FAMILIES = {
    "bert": BERT, "modern": MODERN, "gpt2": GPT2, "roberta": ROBERTA, "albert": ALBERT,
    "electra": ELECTRA, "distilbert": DISTILBERT, "xlnet": XLNET,
    "t5": T5, "t5-v1.0": T5_V1_0, "bart": BART,
}  # fmt: skip
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
