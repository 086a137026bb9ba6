"""What the families of models are, as traits; needs no torch.

    bert     post-norm, learned positions, segments      transformers' BertForPreTraining
    modern   pre-norm, rotary, gated, no biases          transformers' ModernBertForMaskedLM
    gpt2     pre-norm, learned positions, causal         transformers' GPT2LMHeadModel
    roberta  as bert, without segments                   transformers' RobertaForMaskedLM
    albert   as bert, one layer many times, and          transformers' AlbertForPreTraining
             embeddings smaller than the layers
    electra  as bert, learns what was replaced           transformers' ElectraForPreTraining
    distilbert   as bert, without segments               transformers' DistilBertForMaskedLM
    xlnet    as bert, by distances; queries of their     transformers' XLNetLMHeadModel
             own for what an order hides

and, of an encoder and a decoder that looks at what it has read:

    t5       pre-norm, relative bias, gated, own head    transformers' T5ForConditionalGeneration
    t5-v1.0  the same with ReLU and one vocabulary       the same
    bart     post-norm, learned positions                transformers' BartForConditionalGeneration
    transformer   post-norm, sinusoidal positions        that of Vaswani et al. (2017)

A family is a set of traits; `lmmodel.model`, `lmmodel.encoder_decoder` and the hand-over to other
tools read them and name no family. One more family is one more entry of `FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Positions = Literal["learned", "sinusoidal", "rotary", "relative", "distance"]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a run begins with where its settings say nothing. The defaults are BERT's line."""

    objectives: tuple[str, ...] = ()
    """What they are for; what else is learned begins with the defaults."""
    lr: float = 1e-3
    """AdamW's peak learning rate, of fresh weights."""
    muon_lr: float = 0.02
    """Muon's peak learning rate, of fresh weights."""
    vocabulary_bias: Literal["zeros", "frequencies"] = "zeros"
    """What the logits of fresh weights begin with."""
    first_embeddings: Literal["random", "co-occurrences"] = "random"
    """What the embeddings of fresh weights begin with."""
    mlm_probability: float | None = None
    """Share of the tokens to predict, of a token store without a preset; None: the objective's."""
    batch_size: int = 32
    """Examples of a step on a CPU."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the models of a family have in common."""

    is_encoder_decoder: bool = False
    """Whether a decoder writes the target while it looks at what an encoder read of the source."""
    decoder_start: Literal["pad", "eos"] = "eos"
    """Purpose of the special token that a target begins with, of encoder-decoders."""
    is_causal: bool = False
    """Whether a token sees no later ones unless it is told otherwise."""
    is_post_norm: bool = False
    """Whether a norm follows each residual sum; else it leads the branch, and the heads."""
    has_first_norm: bool = True
    """Whether the first layer's attention has a norm of its own."""
    has_bias: bool = True
    """Whether products and norms add something; a head for sentence pairs always does."""
    has_segments: bool = False
    """Whether tokens are told the segment they are in, 0 or 1."""
    is_two_stream: bool = False
    """Whether tokens that an order hides are asked for by queries of their own (XLNet); attention
    then has no biases, and is told distances and whether segments differ, not places."""
    has_embedding_norm: bool = True
    """Whether the sum of the embeddings is normalised."""
    has_head_transform: bool = True
    """Whether product, GELU and norm come before the vocabulary, and a bias after it."""
    has_head_bias: bool = False
    """Whether a bias comes after the vocabulary without that."""
    has_windows: bool = False
    """Whether some layers see a window only."""
    is_gated: bool = False
    """Whether the feed-forward's activation is multiplied with a third product."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """Of the feed-forward: GELU, its approximation by tanh, or ReLU."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or division by the root mean square without a mean and a shift."""
    scales_attention: bool = True
    """Whether scores are divided by the root of a head's size."""
    scales_embeddings: bool = False
    """Whether tokens' embeddings are multiplied by the root of hidden_size."""
    has_own_head: bool = False
    """Whether the vocabulary's product has weights of its own; else those of the embeddings."""
    scales_head: bool = False
    """Whether what it multiplies is divided by the root of hidden_size first."""
    has_logits_bias: bool = False
    """Whether constants that are not trained are added to the logits."""
    initializer: Literal["normal", "fan_in"] = "normal"
    """Standard deviation of fresh matrices: initializer_range, or that by the root of the inputs
    (T5: embeddings 1)."""
    positions: tuple[Positions, ...]
    """How places may be told; the first is the default."""
    norm_eps: float
    """Added to the variance, by default."""
    mlp_ratio: float
    """Feed-forward size by hidden size, by default."""
    embedding_size: int | None = None
    """Features of the embeddings by default; None: as many as of the layers."""
    always_projects: bool = False
    """Whether a product leads from the embeddings to the layers even where sizes are equal."""
    shares_layers: bool = False
    """Whether one layer's weights serve all layers by default."""
    pooler_activation: Literal["tanh", "gelu", "relu"] = "tanh"
    """What follows the pooler of a task's head."""
    pooling: Literal["first", "mean", "last"] = "first"
    """Which rows speak for a whole sequence."""
    objective: str = "mlm+nsp"
    """What is learned where nothing else is said."""
    numbers: Numbers = field(default=Numbers(), compare=False)
    """What that and others are learned by."""
    better: str | None = field(default=None, compare=False)
    """Family of the same use that learns more from the same tokens, as was measured."""

    def numbers_for(self, objective: str) -> Numbers:
        """Return what an objective is learned by.

        Example:
            >>> [FAMILIES["modern"].numbers_for(name).lr for name in ("mlm", "clm")]
            [0.003, 0.001]
        """
        return self.numbers if objective in self.numbers.objectives else Numbers()

    @property
    def can_pair(self) -> bool:
        """Whether a head for sentence pairs may be there."""
        return not (self.is_causal or self.is_encoder_decoder or self.is_two_stream)

    @property
    def embeds_segments(self) -> bool:
        """Whether each segment has an embedding; else attention alone is told."""
        return self.has_segments and not self.is_two_stream


_T5: dict[str, Any] = {
    "has_bias": False, "has_embedding_norm": False, "has_head_transform": False, "norm": "rms",
    "activation": "gelu_tanh", "scales_attention": False, "initializer": "fan_in",
    "positions": ("relative",), "norm_eps": 1e-6, "objective": "t5",
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "bert": Family(
        is_post_norm=True, has_segments=True, positions=("learned", "sinusoidal"),
        norm_eps=1e-12, mlp_ratio=4.0, better="modern",
    ),
    "modern": Family(
        has_bias=False, has_first_norm=False, is_gated=True, has_windows=True,
        positions=("rotary",), norm_eps=1e-5, mlp_ratio=1.5, pooling="mean",
        objective="mlm",
        numbers=Numbers(
            objectives=("mlm", "hybrid"), lr=3e-3, muon_lr=0.04, mlm_probability=0.3,
            vocabulary_bias="frequencies", first_embeddings="co-occurrences", batch_size=16,
        ),
    ),
    "gpt2": Family(
        is_causal=True, has_embedding_norm=False, has_head_transform=False,
        activation="gelu_tanh", positions=("learned", "sinusoidal"), norm_eps=1e-5, mlp_ratio=4.0,
        pooling="last", objective="clm",
    ),
    "roberta": Family(
        is_post_norm=True, positions=("learned",), norm_eps=1e-5, mlp_ratio=4.0, objective="mlm",
    ),
    "albert": Family(
        is_post_norm=True, has_segments=True, activation="gelu_tanh", embedding_size=128,
        always_projects=True, shares_layers=True, positions=("learned",), norm_eps=1e-12,
        mlp_ratio=4.0, objective="mlm+sop",
    ),
    "electra": Family(
        is_post_norm=True, has_segments=True, pooler_activation="gelu", positions=("learned",),
        norm_eps=1e-12, mlp_ratio=4.0, objective="rtd",
    ),
    "distilbert": Family(
        is_post_norm=True, pooler_activation="relu", positions=("learned",), norm_eps=1e-12,
        mlp_ratio=4.0, objective="mlm",
    ),
    "xlnet": Family(
        is_post_norm=True, is_two_stream=True, has_segments=True, has_embedding_norm=False,
        has_head_transform=False, has_head_bias=True, positions=("distance",), norm_eps=1e-12,
        mlp_ratio=4.0, objective="plm",
    ),
    "t5": Family(
        is_encoder_decoder=True, decoder_start="pad", is_gated=True, has_own_head=True, **_T5,
        mlp_ratio=2.75,
    ),
    "t5-v1.0": Family(
        is_encoder_decoder=True, decoder_start="pad", scales_head=True,
        **{**_T5, "activation": "relu"}, mlp_ratio=4.0,
    ),
    "bart": Family(
        is_encoder_decoder=True, is_post_norm=True, has_head_transform=False,
        has_logits_bias=True, positions=("learned",), norm_eps=1e-5, mlp_ratio=4.0,
        objective="bart",
    ),
    "transformer": Family(
        is_encoder_decoder=True, is_post_norm=True, has_embedding_norm=False,
        has_head_transform=False, activation="relu", scales_embeddings=True, initializer="fan_in",
        positions=("sinusoidal",), norm_eps=1e-5, mlp_ratio=4.0, objective="bart",
    ),
}  # fmt: skip
