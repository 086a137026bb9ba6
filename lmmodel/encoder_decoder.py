"""Encoder-decoders over packed streams: a Transformer that looks at what an encoder has read.

Sequence i of the target looks at sequence i of the source and at no other. Both stacks share the
embeddings of tokens; what else they are made of are the family's traits, as in `lmmodel.model`.

Shapes: T tokens of the target, U of the source, S sequences, R rows that are asked for, D
hidden_size, H heads, K features of a head, V vocab_size; for generation B hypotheses a source, C
places of each, N = S x B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmmodel.batch import SOURCE, TARGET, Batch, Stream
from lmmodel.cores import dropout, look_up
from lmmodel.errors import FitError
from lmmodel.families import NUM_BUCKETS, ModelConfig
from lmmodel.layers.attention import JOINED, Kernel, attention
from lmmodel.layers.masks import Mask, Side
from lmmodel.layers.memory import KeyValues
from lmmodel.model import (
    Embeddings,
    Layer,
    Linear,
    Sight,
    Transformer,
    Undrawn,
    check_memory,
    init_weights,
    make_model,
    make_norm,
    take,
    unscaled,
)
from lmmodel.two_stream import TwoStream

FARTHEST = 128
"""Distances from here on share a bucket."""


class RelativeBias(nn.Module):
    """What is added to the scores of a stack's layers, by the distance of query and key.

    Raffel et al., "Exploring the limits of transfer learning" (2020), section 2.1. A distance is
    the same in every sequence, so one table of places serves them all.
    """

    def __init__(self, config: ModelConfig, *, is_causal: bool) -> None:
        super().__init__()
        self.distances = nn.Embedding(NUM_BUCKETS, config.num_attention_heads)
        self.is_causal = is_causal

    def forward(self, length: int) -> Tensor:
        """Return float32 (H, L, L) of the query at place i and the key at place j."""
        weight = self.distances.weight
        if not length:
            return weight.new_zeros(weight.shape[1], 0, 0)
        distance = torch.arange(1 - length, length, device=weight.device)
        of_distance = look_up(weight, buckets_of(distance, is_causal=self.is_causal))  # (2L-1, H)
        return of_distance.T.unfold(1, length, 1).flip(1)  # row i begins at distance -i


def buckets_of(distance: Tensor, *, is_causal: bool) -> Tensor:
    """Return the bucket of each distance of a key from a query, int64 of the same shape.

    Half of them (of a causal decoder all) are for keys that come earlier; near distances have one
    each, farther ones share, by their logarithm.

    Example:
        >>> buckets_of(torch.tensor([-200, -20, -1, 0, 1, 20]), is_causal=False).tolist()
        [15, 10, 1, 0, 17, 26]
        >>> buckets_of(torch.tensor([-200, -20, -1, 0, 1]), is_causal=True).tolist()
        [31, 17, 1, 0, 0]
    """
    number = NUM_BUCKETS if is_causal else NUM_BUCKETS // 2
    first = torch.zeros_like(distance) if is_causal else (distance > 0) * number
    distance = (-distance).clamp(min=0) if is_causal else distance.abs()
    num_near = number // 2
    octaves = torch.log(distance.clamp(min=1).float() / num_near) / math.log(FARTHEST / num_near)
    far = num_near + (octaves * (number - num_near)).long()
    return first + torch.where(distance < num_near, distance, far.clamp(max=number - 1))


class Encoder(nn.Module):
    """The stack that reads the source, both ways."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config, has_tokens=False)
        if config.positions == "relative":
            self.bias = RelativeBias(config, is_causal=False)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = nn.Identity() if config.traits.is_post_norm else make_norm(config)

    def forward(
        self, source: Stream, tokens: Tensor, dtype: torch.dtype, kernel: Kernel | None
    ) -> Tensor:
        """Return hidden states, floats (U, D) of a dtype; `tokens` (V, D) are the embeddings."""
        p = self.config.dropout if self.training else 0.0
        x = dropout(self.embeddings(source, look_up(tokens, source.input_ids)).to(dtype), p)
        bias = self.bias(source.max_seqlen).to(dtype) if hasattr(self, "bias") else None
        side = Side(source.cu_seqlens, source.max_seqlen)
        sight = Sight(side, Mask(bias=bias), None, kernel)
        for layer in self.layers:
            x = layer(x, sight)
        hidden: Tensor = self.final_norm(x)
        return dropout(hidden, p) if self.config.positions == "relative" else hidden


@dataclass(frozen=True)
class Source:
    """What a decoder looks at."""

    hidden: Tensor  # floats (U, D)
    side: Side


class CrossAttention(nn.Module):
    """Multi-head attention of each target sequence to its source."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, inner, has_bias = config.hidden_size, config.attention_size, config.traits.has_bias
        self.queries = Linear(size, inner, bias=has_bias)
        self.keys_values = Linear(size, 2 * inner, bias=has_bias)
        self.output = Linear(inner, size, bias=has_bias)
        self.config = config

    def forward(self, x: Tensor, sight: Sight, source: Source | None) -> Tensor:
        """Return floats (T, D); where there is no source, `sight.past` remembers it."""
        q = self.queries(x).view(len(x), self.config.num_attention_heads, self.config.head_size)
        q = unscaled(q, self.config)
        if source is None:
            assert isinstance(sight.past, Written)
            heads = sight.past.look(sight.layer, q)
        else:
            k, v = self.project(source.hidden)
            heads = attention(
                q, k, v, sight.side, source.side, kernel=sight.kernel,
                dropout_p=self.config.attention_dropout if self.training else 0.0,
            )  # fmt: skip
        out: Tensor = self.output(heads.flatten(1))
        return out

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, floats (U, H, K) each, of hidden states (U, D)."""
        config = self.config
        both = self.keys_values(hidden)
        k, v = both.view(len(hidden), 2, config.num_attention_heads, config.head_size).unbind(1)
        return k, v


class DecoderLayer(Layer):
    """A layer with attention to the source between its two halves."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.cross_norm = make_norm(config)
        self.cross_attention = CrossAttention(config)

    def forward(  # type: ignore[override]
        self, x: Tensor, sight: Sight, source: Source | None, rows: Tensor | None = None
    ) -> Tensor:
        """Return floats (T, D), or those of some rows (R, D)."""
        if self.config.traits.is_post_norm:
            x = self.attention_norm(x + self._drop(self.attention(x, sight, None)))
            x = self.cross_norm(x + self._drop(self.cross_attention(x, sight, source)))
            x = take(x, rows)
            return self.mlp_norm(x + self._drop(self.mlp(x)))  # type: ignore[no-any-return]
        x = x + self._drop(self.attention(self.attention_norm(x), sight, None))
        x = x + self._drop(self.cross_attention(self.cross_norm(x), sight, source))
        x = take(x, rows)
        return x + self._drop(self.mlp(self.mlp_norm(x)))


class EncoderDecoder(Transformer):
    """A Transformer, the decoder, whose layers look at what `encoder` has read of the source."""

    def __init__(self, config: ModelConfig, extras: Mapping[str, nn.Module] | None = None) -> None:
        """Arguments as for `Transformer`."""
        super().__init__(config, extras)
        if config.positions == "relative":
            self.bias = RelativeBias(config, is_causal=True)
        self.encoder = Encoder(config)

    def make_layers(self, config: ModelConfig) -> nn.ModuleList:
        """Return the decoder's layers."""
        return nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_decoder_layers or 0))

    def forward(
        self, batch: Batch, *, is_causal: bool | None = None, rows: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the decoder's last hidden states, of all tokens of the target or of some.

        Args:
            batch: of a source and a target, on the model's device
            is_causal: nothing else is possible
            rows: int64 (R,) of the target's tokens; None: all
            past: `Written`, what the target's tokens are added to; then only these are read

        Returns:
            Floats of `compute_dtype` (T, D) or (R, D).

        Raises:
            FitError: the batch has one stream, as those of other models
        """
        if TARGET not in batch.streams:
            raise FitError(
                "an encoder-decoder reads a source and writes a target: ask it by generate, or "
                "fine-tune it by --task sequence-to-sequence"
            )
        source = None if past is not None else self.read(batch.streams[SOURCE])
        target, p = batch.streams[TARGET], self.config.dropout if self.training else 0.0
        x = dropout(self.embeddings(target).to(self.compute_dtype), p)
        side = Side(target.cu_seqlens, target.max_seqlen)
        bias = self.relative_bias(target.max_seqlen) if past is None else None
        sight = Sight(side, Mask(is_causal=True, bias=bias), None, self._kernel(x.device), past)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            own = sight if past is None else replace(sight, layer=i)
            x = layer(x, own, source, rows if i == last else None)
        x = self.final_norm(x)
        return dropout(x, p) if self.config.positions == "relative" else x

    def read(self, source: Stream) -> Source:
        """Return what the encoder makes of a stream."""
        hidden = self.encoder(
            source, self.embeddings.tokens.weight, self.compute_dtype,
            self._kernel(source.input_ids.device),
        )  # fmt: skip
        return Source(hidden, Side(source.cu_seqlens, source.max_seqlen))

    def _kernel(self, device: torch.device) -> Kernel | None:
        """Return the kernel of all attention; None: what suits a shape."""
        if self.kernel is None and device.type == "cpu" and not torch.compiler.is_compiling():
            return JOINED
        return self.kernel

    def relative_bias(self, length: int) -> Tensor | None:
        """Return what is added to the decoder's scores: (H, L, L), None where nothing is."""
        if self.config.positions != "relative":
            return None
        bias: Tensor = self.bias(length)
        return bias.to(self.compute_dtype)


class Written(KeyValues):
    """Keys and values of sources, once each, and of the hypotheses that are written about them.

    All hypotheses are equally long: each forward pass brings one token of each. Those of one source
    are neighbours, equally many for each source, and share its keys: they are B queries of it.
    """

    def __init__(self, model: EncoderDecoder, source: Stream, num_beams: int) -> None:
        """Read S sources, and be ready to write B hypotheses about each."""
        config = model.config
        num = source.num_sequences * num_beams
        shape = (num, config.num_attention_heads, 0, config.head_size)
        device = source.cu_seqlens.device
        super().__init__(config.num_decoder_layers or 0, shape, device, model.compute_dtype)
        self.length = 0  # tokens of each hypothesis that are remembered
        self._model = model
        self._bias = model.relative_bias(1)
        hidden = model.read(source).hidden
        place = torch.arange(source.max_seqlen, device=device)
        starts, lengths = source.cu_seqlens[:-1].long(), source.cu_seqlens.diff()
        rows = (starts[:, None] + place).clamp(max=max(source.num_tokens - 1, 0))  # (S, U')
        self.seen = (place < lengths[:, None])[:, None, None]  # (S, 1, 1, U')
        pairs = [layer.cross_attention.project(hidden) for layer in model.layers]  # type: ignore[operator, union-attr]
        self.source_keys = [k[rows].transpose(1, 2).contiguous() for k, _ in pairs]
        self.source_values = [v[rows].transpose(1, 2).contiguous() for _, v in pairs]

    def read(self, batch: Batch) -> None:
        """Nothing has to be noted: all places are equal."""

    def keep(self, sequences: Tensor) -> None:
        """Go on with some hypotheses, int64 (N',), perhaps several times, of the same sources."""
        self.keys = [keys[:, :, : self.length].index_select(0, sequences) for keys in self.keys]
        self.values = [own[:, :, : self.length].index_select(0, sequences) for own in self.values]

    def keep_sources(self, sources: Tensor) -> None:
        """Forget all sources but some, int64 (S',); their hypotheses are kept by `keep`."""
        self.seen = self.seen[sources]
        self.source_keys = [keys[sources] for keys in self.source_keys]
        self.source_values = [values[sources] for values in self.source_values]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """Return attention of the newest tokens to what was written, (N, H, K); remember them."""
        self.length = max(self.length, self.keys[layer].shape[2]) + (layer == 0)
        self.keys[layer] = torch.cat([self.keys[layer], k[:, :, None]], dim=2)
        self.values[layer] = torch.cat([self.values[layer], v[:, :, None]], dim=2)
        bias = None
        if self._bias is not None:
            if self._bias.shape[1] < self.length:
                self._bias = self._model.relative_bias(2 * self.length)
                assert self._bias is not None
            bias = self._bias[:, self.length - 1, : self.length][:, None]  # (H, 1, length)
        heads = F.scaled_dot_product_attention(
            q[:, :, None], self.keys[layer], self.values[layer], attn_mask=bias
        )
        return heads[:, :, 0]

    def look(self, layer: int, q: Tensor) -> Tensor:
        """Return attention to the sources, (N, H, K), by B queries of each."""
        keys, values = self.source_keys[layer], self.source_values[layer]
        own = q.view(len(keys), -1, *q.shape[1:]).transpose(1, 2)  # (S, H, B, K)
        heads = F.scaled_dot_product_attention(own, keys, values, attn_mask=self.seen)
        return heads.transpose(1, 2).reshape(q.shape)


def outline_of(config: ModelConfig, extras: Mapping[str, nn.Module] | None = None) -> Transformer:
    """Return a model of any family, its weights not yet filled."""
    if config.traits.is_two_stream:
        return TwoStream(config, extras)
    kind = EncoderDecoder if config.traits.is_encoder_decoder else Transformer
    return kind(config, extras)


def build_model(
    config: ModelConfig, *, seed: int | None, extras: Mapping[str, nn.Module] | None = None
) -> Transformer:
    """Return a model of any family with fresh weights; arguments and errors as `make_model`."""
    if not (config.traits.is_encoder_decoder or config.traits.is_two_stream):
        return make_model(config, seed=seed, extras=extras)
    check_memory(config)
    if seed is None:
        with Undrawn():
            return outline_of(config, extras)
    model = outline_of(config, extras)
    init_weights(model, config, seed=seed)
    return model
