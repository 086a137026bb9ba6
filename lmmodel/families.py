"""The architecture of one model, by its family's traits (`lmmodel.traits`); needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lmmodel.traits import FAMILIES, Family, Positions

__all__ = ["FAMILIES", "MODEL_SIZES", "NUM_BUCKETS", "Family", "ModelConfig", "Positions"]

MODEL_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4},
    "small": {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8},
    "medium": {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12},
}
"""The shapes published with BERT (Turc et al., "Well-read students learn better", 2019)."""

NUM_BUCKETS = 32
"""Of distances, which relative positions tell apart, as in every published T5."""

MAX_LAYERS = 1000
MAX_WEIGHTS = 10**11
"""Of a model that is worth building: more is a slip, and would end in memory that is not there."""

UNSET: Any = None
"""Default of a setting that `ModelConfig` takes from the size or the family."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture. A setting left out follows from `size` and `family`."""

    family: str = "bert"  # a key of FAMILIES
    size: Literal["tiny", "mini", "small", "medium", "base"] = "mini"
    vocab_size: int = UNSET  # ids; the trainer takes it from the tokenizer
    num_hidden_layers: int = UNSET
    num_hidden_groups: int = UNSET  # of layers that share their weights; albert: 1; else none do
    hidden_size: int = UNSET
    embedding_size: int = UNSET  # features of embeddings; albert: 128; else hidden_size
    num_attention_heads: int = UNSET
    num_decoder_layers: int | None = UNSET  # encoder-decoders only; as many as the encoder's
    attention_head_size: int | None = UNSET  # t5 only; hidden_size / num_attention_heads
    intermediate_size: int = UNSET  # 4 x hidden_size; of gated ones modern: 1.5 x, t5: 2.75 x
    max_position_embeddings: int = 512  # tokens of the longest sequence
    type_vocab_size: int = 2  # segments; bert and albert
    positions: Positions = UNSET
    global_every: int = 3  # modern: layers 0, n, 2n, ... see everything, the others a window
    local_window: int = 128  # modern: places a local layer sees, half of them to either side
    global_rope_theta: float = 160_000.0  # modern: base of the rotary angles, global layers
    local_rope_theta: float = 10_000.0  # modern: the same, local layers
    norm_eps: float = UNSET  # added to the variance
    initializer_range: float = UNSET  # standard deviation of fresh weights; t5, transformer: factor
    dropout: float = 0.0  # probability, after embeddings, attention and feed-forward
    attention_dropout: float = 0.0  # probability, on attention weights
    has_nsp_head: bool = False  # pooler and two-way classifier on each sequence's first token

    def __post_init__(self) -> None:
        """Fill what is unset and check what is set."""
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.size not in MODEL_SIZES:
            raise ValueError(f"size must be one of {', '.join(MODEL_SIZES)}, got {self.size!r}")
        for name, value in MODEL_SIZES[self.size].items():
            self._fill(name, value)
        self._fill("num_hidden_groups", 1 if self.traits.shares_layers else self.num_hidden_layers)
        self._fill("embedding_size", self.traits.embedding_size or self.hidden_size)
        self._fill("positions", self.traits.positions[0])
        if self.positions == "relative":
            self._fill("attention_head_size", self.hidden_size // max(1, self.num_attention_heads))
        self._fill("norm_eps", self.traits.norm_eps)
        self._fill("initializer_range", 0.02 if self.traits.initializer == "normal" else 1.0)
        if self.traits.is_encoder_decoder:
            self._fill("num_decoder_layers", self.num_hidden_layers)
        self._fill("intermediate_size", int(self.traits.mlp_ratio * self.hidden_size))
        _check_counts(self)
        _check_config(self)

    def _fill(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    @property
    def traits(self) -> Family:
        """What its family says."""
        return FAMILIES[self.family]

    @property
    def head_size(self) -> int:
        """K: features of one attention head."""
        return self.attention_head_size or self.hidden_size // self.num_attention_heads

    @property
    def attention_size(self) -> int:
        """Features of all heads together."""
        return self.head_size * self.num_attention_heads

    @property
    def is_causal(self) -> bool:
        """Whether a token sees no later ones unless `forward` is told otherwise."""
        return self.traits.is_causal

    @property
    def has_projection(self) -> bool:
        """Whether a product leads from the embeddings to the layers."""
        return self.traits.always_projects or self.embedding_size != self.hidden_size

    def group(self, layer: int) -> int:
        """Return whose weights a layer has: groups are of neighbours, of equal size if that goes.

        Example:
            >>> config = ModelConfig(family="albert", size="mini", num_hidden_groups=2)
            >>> [config.group(layer) for layer in range(4)]
            [0, 0, 1, 1]
        """
        return int(layer / (self.num_hidden_layers / self.num_hidden_groups))

    def window(self, layer: int) -> int | None:
        """Return how many places to either side a layer sees; None is all of them.

        Example:
            >>> config = ModelConfig(family="modern", size="mini", vocab_size=64)
            >>> [config.window(layer) for layer in range(4)]
            [None, 64, 64, None]
        """
        is_local = self.traits.has_windows and layer % self.global_every != 0
        return self.local_window // 2 if is_local else None

    @property
    def num_parameters(self) -> int:
        """How many weights such a model has.

        Example:
            >>> ModelConfig(size="base", vocab_size=30522, has_nsp_head=True).num_parameters
            110106428
        """
        traits, size, bias = self.traits, self.hidden_size, int(self.traits.has_bias)
        norm, wide, vocab = size * (1 + bias), self.attention_size, self.vocab_size or 0
        attention = 3 * wide * (size + bias) + size * (wide + bias)
        if traits.is_two_stream:  # a product for distances, and five vectors
            attention = 5 * wide * size + (3 + self.type_vocab_size) * wide
        inner = self.intermediate_size * (1 + traits.is_gated)
        layer = attention + inner * (size + bias) + size * (self.intermediate_size + bias)
        narrow = self.embedding_size
        stack = (not traits.is_post_norm) * norm + traits.has_embedding_norm * narrow * (1 + bias)
        stack += (self.positions == "learned") * self.max_position_embeddings * narrow
        stack += (self.positions == "relative") * NUM_BUCKETS * self.num_attention_heads
        layers = self.num_hidden_groups * (layer + 2 * norm) - (not traits.has_first_norm) * norm
        if traits.is_encoder_decoder:
            layers += (self.num_decoder_layers or 0) * (layer + attention + 3 * norm) + stack
        tables = vocab * narrow * (1 + traits.has_own_head) + stack
        tables += traits.embeds_segments * self.type_vocab_size * narrow
        tables += traits.is_two_stream * size
        tables += self.has_projection * size * (narrow + bias)
        head_weights = narrow * (size + bias) + narrow * (1 + bias) + vocab
        head = traits.has_head_transform * head_weights
        head += (traits.has_logits_bias or traits.has_head_bias) * vocab
        pairs = self.has_nsp_head * (size * (size + 1) + 2 * (size + 1))
        return layers + tables + head + pairs


def _check_counts(config: ModelConfig) -> None:
    """Refuse by arithmetic what no machine could build."""
    for name in ("num_hidden_layers", "num_hidden_groups", "hidden_size", "embedding_size",
                 "num_attention_heads", "intermediate_size", "max_position_embeddings",
                 "type_vocab_size", "global_every"):  # fmt: skip
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if config.vocab_size is not None and config.vocab_size < 1:
        raise ValueError(f"vocab_size must be at least 1, got {config.vocab_size}")
    if config.num_hidden_layers > MAX_LAYERS:
        raise ValueError(
            f"num_hidden_layers must be at most {MAX_LAYERS}, got {config.num_hidden_layers}"
        )
    if config.num_hidden_groups > config.num_hidden_layers:
        raise ValueError(
            f"num_hidden_groups must be at most num_hidden_layers={config.num_hidden_layers}, got "
            f"{config.num_hidden_groups}"
        )
    # Positions that are not learned have a table too.
    total = config.num_parameters + config.max_position_embeddings * config.hidden_size
    if total > MAX_WEIGHTS:
        raise ValueError(
            f"a model of {total:.2g} numbers is larger than any this tool builds "
            f"({MAX_WEIGHTS:.0g}), got {_sizes(config)}: lower the one that is a slip"
        )


def _sizes(config: ModelConfig) -> str:
    names = ("num_hidden_layers", "hidden_size", "embedding_size", "intermediate_size",
             "vocab_size", "max_position_embeddings", "type_vocab_size")  # fmt: skip
    return ", ".join(f"{name}={getattr(config, name)}" for name in names)


def _check_config(config: ModelConfig) -> None:
    traits = config.traits
    for name in ("dropout", "attention_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(config, name)}")
    for name in ("norm_eps", "initializer_range", "global_rope_theta", "local_rope_theta"):
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {getattr(config, name)}")
    _check_decoder(config)
    if config.attention_head_size is None and config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"hidden_size must be a multiple of num_attention_heads, got {config.hidden_size} "
            f"and {config.num_attention_heads}"
        )
    if config.positions not in traits.positions:
        raise ValueError(
            f"positions={config.positions!r} does not go with family={config.family!r}, "
            f"which takes {' or '.join(traits.positions)}"
        )
    if config.has_projection and not traits.has_head_transform:
        raise ValueError(
            f"embedding_size={config.embedding_size} does not go with family={config.family!r}, "
            f"whose head multiplies with the embeddings: leave it out"
        )
    if traits.is_two_stream and config.type_vocab_size != 2:
        raise ValueError(
            f"type_vocab_size must be 2 for family={config.family!r}, which is told only whether "
            f"two tokens are in one segment, got {config.type_vocab_size}"
        )
    if config.num_hidden_groups != config.num_hidden_layers and (
        traits.has_windows or traits.is_encoder_decoder
    ):
        raise ValueError(
            f"num_hidden_groups={config.num_hidden_groups} does not go with "
            f"family={config.family!r}, whose layers differ: leave it out"
        )
    if config.positions == "rotary" and config.head_size % 2:
        raise ValueError(f"rotary positions need an even head size, got {config.head_size}")
    if config.positions == "distance" and config.hidden_size % 2:
        raise ValueError(f"distances need an even hidden_size, got {config.hidden_size}")
    if traits.has_windows and (config.local_window < 2 or config.local_window % 2):
        raise ValueError(f"local_window must be even and at least 2, got {config.local_window}")
    if config.has_nsp_head and not traits.can_pair:
        encoders = " or ".join(name for name, family in FAMILIES.items() if family.can_pair)
        raise ValueError(f"has_nsp_head needs an encoder: family {encoders}, got {config.family}")


def _check_decoder(config: ModelConfig) -> None:
    """Refuse settings of decoders and of relative positions where there are none."""
    traits = config.traits
    if config.num_decoder_layers is not None and not traits.is_encoder_decoder:
        known = ", ".join(name for name, family in FAMILIES.items() if family.is_encoder_decoder)
        raise ValueError(
            f"num_decoder_layers has no effect: family={config.family!r} has no encoder beside a "
            f"decoder; leave it out, or take one of {known}"
        )
    if traits.is_encoder_decoder and not 1 <= (config.num_decoder_layers or 0) <= MAX_LAYERS:
        raise ValueError(
            f"num_decoder_layers must be in [1, {MAX_LAYERS}], got {config.num_decoder_layers}"
        )
    if config.attention_head_size is None:
        return
    if "relative" not in traits.positions:
        raise ValueError(
            f"attention_head_size does not go with family={config.family!r}, whose heads share "
            "hidden_size out: leave it out"
        )
    if config.attention_head_size < 1:
        raise ValueError(
            f"attention_head_size must be at least 1, got {config.attention_head_size}"
        )
