"""The Transformer of one stream: encoder or decoder, over packed sequences, for every family.

What distinguishes a family are its traits (`lmmodel.families`), which the modules here read.

Shapes: B sequences, T tokens of all of them, P tokens that have a label, D hidden_size, H heads,
K = D / H features of a head, E embedding_size (most often D), F intermediate_size, V vocab_size.

Weights are float32 and are cast to the numbers the activations have, so bf16 training needs no
autocast: set `compute_dtype`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmmodel.batch import Batch, Stream
from lmmodel.cores import cast, dropout, look_up
from lmmodel.device import memory_bytes
from lmmodel.errors import MemoryLimitError
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import Kernel, attention
from lmmodel.layers.masks import Mask, Side
from lmmodel.layers.memory import KeyValues


class Linear(nn.Linear):
    """x W' + b in the numbers that x has."""

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (..., out_features)."""
        bias = None if self.bias is None else cast(self.bias, x.dtype)
        return F.linear(x, cast(self.weight, x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """Zero mean and unit variance over the last axis, then scale and shift, in x's numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """Return floats of the shape of x."""
        bias = None if self.bias is None else cast(self.bias, x.dtype)
        return F.layer_norm(x, self.normalized_shape, cast(self.weight, x.dtype), bias, self.eps)


class RmsNorm(nn.Module):
    """Unit mean square over the last axis, then scale, in x's numbers.

    Zhang and Sennrich, "Root mean square layer normalization" (2019).
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return floats of the shape of x."""
        return F.rms_norm(x, self.weight.shape, cast(self.weight, x.dtype), self.eps)


def make_norm(config: ModelConfig, size: int | None = None) -> LayerNorm | RmsNorm:
    """Return the norm of the family, over so many features; None: those of a layer."""
    size = size or config.hidden_size
    if config.traits.norm == "rms":
        return RmsNorm(size, config.norm_eps)
    return LayerNorm(size, config.norm_eps, bias=config.traits.has_bias)


class Embeddings(nn.Module):
    """Token + segment + position, then norm; without tokens of its own, those of another."""

    sinusoids: Tensor  # float32 (max_position_embeddings, E), only where positions are sinusoidal

    def __init__(self, config: ModelConfig, *, has_tokens: bool = True) -> None:
        super().__init__()
        size, length = config.embedding_size, config.max_position_embeddings
        if has_tokens:
            self.tokens = nn.Embedding(config.vocab_size, size)
        if config.traits.embeds_segments:
            self.segments = nn.Embedding(config.type_vocab_size, size)
        if config.positions == "learned":
            self.positions = nn.Embedding(length, size)
        elif config.positions == "sinusoidal":
            self.register_buffer("sinusoids", sinusoids(length, size), persistent=False)
        if config.traits.has_embedding_norm:
            self.norm = make_norm(config, size)
        self.config = config

    def forward(self, batch: Batch | Stream, tokens: Tensor | None = None) -> Tensor:
        """Return float32 (T, E); `tokens` are floats (T, E) in the place of the table's."""
        x = look_up(self.tokens.weight, batch.input_ids) if tokens is None else tokens
        if self.config.traits.scales_embeddings:
            x = x * self.config.hidden_size**0.5
        if self.config.traits.embeds_segments:
            x = x + self.segments(batch.token_type_ids)
        if self.config.positions == "learned":
            x = x + self.positions(batch.position_ids)
        elif self.config.positions == "sinusoidal":
            x = x + self.sinusoids[batch.position_ids]
        return self.norm(x) if self.config.traits.has_embedding_norm else x


class Attention(nn.Module):
    """Multi-head self-attention within each sequence."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        has_bias = config.traits.has_bias
        self.qkv = Linear(config.hidden_size, 3 * config.attention_size, bias=has_bias)
        self.output = Linear(config.attention_size, config.hidden_size, bias=has_bias)
        self.window = config.window(layer)
        self.config = config

    def forward(self, x: Tensor, sight: Sight, rows: Tensor | None) -> Tensor:
        """Return floats (T, D), or those of some rows (R, D)."""
        qkv = self.qkv(x).view(len(x), 3, self.config.num_attention_heads, self.config.head_size)
        q, k, v = qkv.unbind(dim=1)  # (T, H, K) each
        q = unscaled(q, self.config)
        if sight.rotary is not None:
            q, k = rotate(q, sight.rotary), rotate(k, sight.rotary)
        if sight.past is not None:
            heads = sight.past.attend(sight.layer, q, k, v, self.window)
        else:
            heads = attention(
                q, k, v, sight.side, sight.side, sight.mask, kernel=sight.kernel,
                dropout_p=self.config.attention_dropout if self.training else 0.0,
            )  # fmt: skip
        out: Tensor = self.output(take(heads.flatten(1), rows))
        return out


def unscaled(q: Tensor, config: ModelConfig) -> Tensor:
    """Return queries (T, H, K), times what attention divides scores by where the family doesn't."""
    return q if config.traits.scales_attention else q * config.head_size**0.5


def activate(x: Tensor, config: ModelConfig) -> Tensor:
    """Return the family's activation of x."""
    if config.traits.activation == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if config.traits.activation == "gelu_tanh" else "none")


class FeedForward(nn.Module):
    """Two layers with an activation between them, which a third may gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, traits, has_bias = config.intermediate_size, config.traits, config.traits.has_bias
        self.input = Linear(config.hidden_size, size * (1 + traits.is_gated), bias=has_bias)
        self.output = Linear(size, config.hidden_size, bias=has_bias)
        self.config = config
        self.is_gated = traits.is_gated

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (T, D)."""
        x = self.input(x)  # (T, F) or (T, 2 F)
        if self.is_gated:
            x, gate = x.chunk(2, dim=-1)
            x = activate(x, self.config) * gate
        else:
            x = activate(x, self.config)
        out: Tensor = self.output(x)
        return out


@dataclass(frozen=True)
class Sight:
    """What a layer's attention may see and how it is computed."""

    side: Side  # queries and keys are the same rows
    mask: Mask
    rotary: tuple[Tensor, Tensor] | None  # cos and sin (T, 1, K / 2)
    kernel: Kernel | None
    past: KeyValues | None = None  # of what was read before
    layer: int = 0  # whose keys and values those are


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        # Where it has none, the embeddings' norm is right before it.
        has_norm = config.traits.has_first_norm or layer > 0
        self.attention_norm = make_norm(config) if has_norm else nn.Identity()
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = FeedForward(config)
        self.config = config

    def forward(self, x: Tensor, sight: Sight, rows: Tensor | None = None) -> Tensor:
        """Return floats (T, D), or those of some rows (R, D)."""
        if self.config.traits.is_post_norm:
            branch = self._drop(self.attention(x, sight, rows))
            x = self.attention_norm(take(x, rows) + branch)
            x = self.mlp_norm(x + self._drop(self.mlp(x)))
        else:
            branch = self._drop(self.attention(self.attention_norm(x), sight, rows))
            x = take(x, rows) + branch
            x = x + self._drop(self.mlp(self.mlp_norm(x)))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout if self.training else 0.0)


def take(x: Tensor, rows: Tensor | None) -> Tensor:
    """Return some rows of x, or all."""
    return x if rows is None else x.index_select(0, rows)


class VocabularyHead(nn.Module):
    """Hidden states to vocabulary logits: a transform, if there is one, then tied embeddings.

    Or weights of its own, `weight` (V, D).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, has_bias = config.embedding_size, config.traits.has_bias
        if config.traits.has_head_transform:
            self.dense = Linear(config.hidden_size, size, bias=has_bias)
            self.norm = LayerNorm(size, config.norm_eps, bias=has_bias)
            self.bias = nn.Parameter(torch.empty(config.vocab_size))
        if config.traits.has_head_bias:
            self.bias = nn.Parameter(torch.empty(config.vocab_size))
        if config.traits.has_logits_bias:
            self.bias = nn.Parameter(torch.empty(config.vocab_size), requires_grad=False)
        if config.traits.has_own_head:
            self.weight = nn.Parameter(torch.empty(config.vocab_size, size))
        self.scale = size**-0.5 if config.traits.scales_head else 1.0
        self.config = config

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return floats (P, V) from hidden (P, D) and embeddings (V, E)."""
        bias = cast(self.bias, hidden.dtype) if hasattr(self, "bias") else None
        weight = self.weight if hasattr(self, "weight") else embeddings
        return F.linear(self.transform(hidden), cast(weight, hidden.dtype), bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """Return floats (P, E), what the embeddings are multiplied with."""
        if not hasattr(self, "dense"):
            return hidden if self.scale == 1.0 else hidden * self.scale
        transformed: Tensor = self.norm(activate(self.dense(hidden), self.config))
        return transformed


class SentenceHead(nn.Module):
    """First token of a sequence to two logits: 0 the second segment follows, 1 it does not."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = Linear(config.hidden_size, config.hidden_size)
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, first: Tensor) -> Tensor:
        """Return floats (B, 2) from the hidden states of first tokens (B, D)."""
        logits: Tensor = self.classifier(torch.tanh(self.pooler(first)))
        return logits


class Transformer(nn.Module):
    """Embeddings, layers, heads.

    `compute_dtype` (float32 or bfloat16) is what activations and products are in; `kernel` forces
    one of attention's kernels. Neither is part of the state.
    """

    global_angles: Tensor  # float32 (max_position_embeddings, K / 2), rotary positions only
    local_angles: Tensor

    def __init__(self, config: ModelConfig, extras: Mapping[str, nn.Module] | None = None) -> None:
        """`extras` are what an objective adds: see `objectives.Definition.make_modules`."""
        super().__init__()
        if config.vocab_size is None:
            raise ValueError("vocab_size is not set: take it from the tokenizer")
        self.config = config
        self.compute_dtype = torch.float32
        self.kernel: Kernel | None = None
        self.embeddings = Embeddings(config)
        if config.has_projection:
            has_bias = config.traits.has_bias
            self.projection = Linear(config.embedding_size, config.hidden_size, bias=has_bias)
        self.layers = self.make_layers(config)
        self.final_norm = nn.Identity() if config.traits.is_post_norm else make_norm(config)
        self.head = VocabularyHead(config)
        if config.has_nsp_head:
            self.nsp_head = SentenceHead(config)
        self.extras = nn.ModuleDict(extras)
        if config.positions == "rotary":
            for name in ("global", "local"):
                angles = rotary_angles(config, getattr(config, f"{name}_rope_theta"))
                self.register_buffer(f"{name}_angles", angles, persistent=False)

    def make_layers(self, config: ModelConfig) -> nn.ModuleList:
        """Return layers with weights of their own; `config.group` says which serves as each."""
        return nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_groups))

    def forward(
        self, batch: Batch, *, is_causal: bool | None = None, rows: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the last layer's hidden states, of all tokens or of the rows asked for.

        Nothing reads the last layer's other rows, so with `rows` it is computed for those only:
        the same numbers, for two thirds of a layer less work.

        Args:
            batch: on the model's device; no sequence longer than `max_position_embeddings`
            is_causal: whether a token sees no later ones; None: as the family does
            rows: int64 (R,) in [0, T), like `masked_positions`; None: all
            past: what a causal model has read before, and where it remembers this batch

        Returns:
            Floats of `compute_dtype` (T, D) or (R, D).
        """
        embedded: Tensor = self.embeddings(batch)
        return self.encode(embedded, batch, is_causal=is_causal, rows=rows, past=past)

    def encode(
        self, embedded: Tensor, batch: Batch, *, is_causal: bool | None = None,
        rows: Tensor | None = None, past: KeyValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Return what `forward` does, from embeddings (T, E) of the batch, whoever made them."""
        config = self.config
        x = embedded.to(self.compute_dtype)  # (T, E)
        x = dropout(x, config.dropout if self.training else 0.0)
        if config.has_projection:
            x = self.projection(x)  # (T, D)
        far, near = self._sights(batch, config.is_causal if is_causal is None else is_causal, past)
        last = config.num_hidden_layers - 1
        for i in range(config.num_hidden_layers):
            sight = far if config.window(i) is None else near
            if past is not None:
                sight = replace(sight, layer=i)
            x = self.layers[config.group(i)](x, sight, rows if i == last else None)
        out: Tensor = self.final_norm(x)
        return out

    def guess(self, batch: Batch, *, rows: Tensor, is_causal: bool | None = None) -> Tensor:
        """Return hidden states, floats (R, D), that say which tokens are hidden at ascending rows.

        Or, of causal models, which tokens follow them. The batch shows masks there.
        """
        hidden: Tensor = self(batch, is_causal=is_causal, rows=rows)
        return hidden

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Return vocabulary logits of `compute_dtype` (P, V) for hidden states (P, D)."""
        logits: Tensor = self.head(hidden, self.embeddings.tokens.weight)
        return logits

    lm_logits = mlm_logits  # one head serves masked and next tokens, as in GPT-BERT

    def nsp_logits(self, first: Tensor) -> Tensor:
        """Return logits (B, 2) for the hidden states of the sequences' first tokens (B, D)."""
        logits: Tensor = self.nsp_head(first)
        return logits

    def _sights(self, batch: Batch, is_causal: bool, past: KeyValues | None) -> tuple[Sight, Sight]:
        """Return what global and local layers see."""
        rotary: list[Any] = [None, None]
        if self.config.positions == "rotary":
            angles = (self.global_angles, self.local_angles)  # (length, K / 2) each
            rotary = [self._cos_sin(table[batch.position_ids]) for table in angles]
        if past is not None:
            past.read(batch)
        side = Side(batch.cu_seqlens, batch.max_seqlen)
        windows = (None, self.config.local_window // 2)
        far, near = (
            Sight(side, Mask(is_causal=is_causal, window=window), angles, self.kernel, past)
            for window, angles in zip(windows, rotary, strict=True)
        )
        return far, near

    def _cos_sin(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        angles = angles[:, None, :]  # (T, 1, K / 2)
        return angles.cos().to(self.compute_dtype), angles.sin().to(self.compute_dtype)


def sinusoids(length: int, size: int) -> Tensor:
    """Return fixed position embeddings: float32 (length, size), sines then cosines.

    Vaswani et al., "Attention is all you need" (2017), section 3.5, with the two kinds side by
    side instead of interleaved.

    Example:
        >>> sinusoids(2, 4)[0].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    half = size // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, size % 2)).float()


def rotary_angles(config: ModelConfig, theta: float) -> Tensor:
    """Return the angle of each position and feature pair: float32 (length, K / 2).

    Su et al., "RoFormer" (2021), section 3.2.2.
    """
    size = config.head_size
    rates = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return torch.arange(config.max_position_embeddings, dtype=torch.float32)[:, None] * rates


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Return x with features i and i + K/2 turned as one plane by the angle of its place.

    Args:
        x: floats (T, H, K)
        cos_sin: floats (T, 1, K / 2) each
    """
    cos, sin = cos_sin
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Undrawn(TorchFunctionMode):
    """While it lasts, modules are made without drawing weights, for those whose are read next."""

    _DRAWS = (
        nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_, Tensor.normal_,
        Tensor.uniform_,
    )  # fmt: skip

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Return the first argument of what would fill it with random numbers, as it is."""
        if function in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def make_model(
    config: ModelConfig, *, seed: int | None, extras: Mapping[str, nn.Module] | None = None
) -> Transformer:
    """Return a model with fresh weights, the same on every machine for the same seed.

    Args:
        config: the architecture
        seed: of every number that is drawn; None where weights are read next, so nothing is
        extras: modules that an objective adds, by name; their weights are filled too

    Raises:
        MemoryLimitError: this machine's memory does not hold the weights, told before they are made
    """
    check_memory(config)
    if seed is None:
        with Undrawn():
            return Transformer(config, extras)
    model = Transformer(config, extras)
    init_weights(model, config, seed=seed)
    return model


def check_memory(config: ModelConfig) -> None:
    """Check that this machine's memory holds the weights of a model, before they are made.

    Raises:
        MemoryLimitError: it does not
    """
    needed, there = 4 * config.num_parameters, memory_bytes(torch.device("cpu"))
    if needed > there:
        raise MemoryLimitError(
            f"a model of {config.num_parameters:,} parameters takes {needed / 2**30:.0f} GiB, this "
            f"machine has {there / 2**30:.0f} GiB: make it smaller"
        )


@torch.no_grad()
def init_weights(module: nn.Module, config: ModelConfig, *, seed: int) -> None:
    """Fill a module's weights in place: norms 1, biases 0, the rest from a normal distribution.

    Each parameter's numbers depend on the seed and its own name only, and are drawn on the CPU.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1.0)
        else:
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            fresh = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.copy_(fresh * initial_scale(name, parameter, config))


def initial_scale(name: str, parameter: Tensor, config: ModelConfig) -> float | Tensor:
    """Return the standard deviation of fresh numbers of a matrix, or that of each of its rows.

    Matrices that write to the residual stream of a pre-norm model get a smaller one by
    sqrt(2 x layers) (GPT-2, ModernBERT). By fan-in: 1 / sqrt(inputs) (T5), of queries whose scores
    are not scaled by sqrt(K) less, of embeddings 1, or 1 / sqrt(D) where they are scaled. T5's own
    head begins as other matrices do: from 1 its logits would have a variance of D.
    """
    factor, size = config.initializer_range, config.hidden_size
    if config.traits.initializer == "normal":
        is_residual = name.endswith("output.weight") and not config.traits.is_post_norm
        return factor / (math.sqrt(2 * config.num_hidden_layers) if is_residual else 1.0)
    if name.endswith("tokens.weight"):
        return factor * size**-0.5 if config.traits.scales_embeddings else factor
    if name.endswith("distances.weight"):
        deviation: float = factor * size**-0.5
        return deviation
    scale = torch.full((len(parameter), 1), factor * parameter.shape[1] ** -0.5)
    if not config.traits.scales_attention and name.endswith(("qkv.weight", "queries.weight")):
        scale[: config.attention_size] *= config.head_size**-0.5
    return scale


def vocabulary_products(config: ModelConfig) -> int:
    """Return the multiplications of the vocabulary head for one row."""
    size = config.embedding_size
    return config.vocab_size * size + config.traits.has_head_transform * size * config.hidden_size


def sentence_products(config: ModelConfig) -> int:
    """Return the multiplications of the head for sentence pairs for one row."""
    return config.hidden_size * config.hidden_size + 2 * config.hidden_size


def forward_flops(
    config: ModelConfig, *, num_tokens: int, num_pairs: int, num_rows: int, head_products: int
) -> int:
    """Return the floating-point operations of products in one forward pass of training.

    Backward costs twice as much: a training step is three times this. A multiplication and an
    addition count as two; norms, activations and softmax are left out, as is usual for MFU. What
    follows the last layer's attention runs for the rows that a head reads only.

    Args:
        config: the architecture
        num_tokens: T
        num_pairs: sum over sequences of length x length (half of it where causal)
        num_rows: P, rows that heads run on
        head_products: multiplications of the heads for all of them

    Example:
        >>> config = ModelConfig(size="mini", vocab_size=16384)
        >>> products = 614 * vocabulary_products(config)
        >>> shape = {"num_tokens": 4096, "num_pairs": 32 * 128 * 128, "num_rows": 614}
        >>> forward_flops(config, **shape, head_products=products)
        29040836608
    """
    size, layers = config.hidden_size, config.num_hidden_layers
    mlp = (2 + config.traits.is_gated) * size * config.intermediate_size
    num_after = (layers - 1) * num_tokens + num_rows  # rows after attention
    if config.traits.is_encoder_decoder:  # both stacks have as many layers, or nearly
        num_after = layers * num_tokens
    matrices = layers * num_tokens * 3 * size * size + num_after * (size * size + mlp)
    matrices += config.has_projection * num_tokens * size * config.embedding_size
    if config.traits.is_encoder_decoder:  # queries and outputs of the target, keys of the source
        matrices += layers * num_tokens * 2 * size * size
    scores = 0
    for layer in range(layers):
        window = config.window(layer)
        seen = num_pairs if window is None else min(num_pairs, num_tokens * (2 * window + 1))
        scores += (2 + config.traits.is_two_stream) * seen * size  # of distances too
    return 2 * (matrices + head_products + scores)
