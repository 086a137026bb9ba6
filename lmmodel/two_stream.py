"""XLNet: tokens are read in an order that is given, and asked for by queries of their own.

Yang et al., "XLNet: generalized autoregressive pretraining for language understanding" (2019).
Tokens stay where they are; an order of factorisation says what is seen. The row of a token (its
content) sees what comes no later in the order than it does, itself too. The row of a query stands
at the place of a token that is asked for, begins with one learned vector instead of the token, and
sees what comes earlier. Both go through the same layers; keys and values are those of contents
alone, so queries cost their own rows and no more. In the last layer nothing reads the contents.

Shapes: T tokens, P queries, S sequences, D hidden_size, H heads, K features of a head, M the
longest sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lmmodel.batch import QUERIES, TOKENS, Batch, Stream
from lmmodel.cores import cast, dropout
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import Kernel, attention
from lmmodel.layers.masks import Mask, Side
from lmmodel.layers.memory import KeyValues
from lmmodel.layers.relative import Relative
from lmmodel.model import Layer, Linear, Transformer, take


@dataclass(frozen=True)
class Gaze:
    """What rows of one kind see of contents."""

    side: Side  # how these rows are packed
    mask: Mask
    places: Tensor | None = None  # int64 of queries, in the sequences of contents
    segments: tuple[Tensor, Tensor] | None = None
    """Of these rows and of contents; None: all are in one."""

    def by(self, relative: Relative) -> Mask:
        """Return the mask with what a layer adds to scores."""
        own = replace(relative, places=self.places, segments=self.segments)
        return replace(self.mask, relative=own)


@dataclass(frozen=True)
class TwoSights:
    """What contents and queries see, and how it is computed."""

    num_contents: int
    contents: Gaze
    queries: Gaze | None
    distances: Tensor  # floats (2 M - 1, D)
    kernel: Kernel | None


class RelativeAttention(nn.Module):
    """Multi-head attention to contents, by what they are, how far off, and in which segment."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, self.shape = config.hidden_size, (config.num_attention_heads, config.head_size)
        self.queries = Linear(size, size, bias=False)
        self.keys_values = Linear(size, 2 * size, bias=False)
        self.distances = Linear(size, size, bias=False)
        self.output = Linear(size, size, bias=False)
        self.content_bias = nn.Parameter(torch.empty(self.shape))  # (H, K), so the next two
        self.distance_bias = nn.Parameter(torch.empty(self.shape))
        self.segment_bias = nn.Parameter(torch.empty(self.shape))
        self.segments = nn.Parameter(torch.empty(2, *self.shape))  # of a key in the same, another
        self.dropout = config.attention_dropout

    def forward(
        self, x: Tensor, contents: Tensor, gazes: list[Gaze], sight: TwoSights,
        rows: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Return floats (R, D), or those of some rows.

        Args:
            x: floats (R, D), rows of one kind or of contents, then queries
            contents: floats (T, D)
            gazes: of each kind
            sight: what else there is to know
            rows: int64, of x; None: all
        """
        q = self.queries(x).unflatten(1, self.shape)  # (R, H, K)
        k, v = self.keys_values(contents).unflatten(1, (2, *self.shape)).unbind(1)
        q = q + cast(self.content_bias, q.dtype)
        relative = self._relative(sight.distances)
        sizes = [len(q)] if len(gazes) == 1 else [len(k), len(q) - len(k)]
        heads = [
            attention(
                own, k, v, gaze.side, sight.contents.side, gaze.by(relative), kernel=sight.kernel,
                dropout_p=self.dropout if self.training else 0.0,
            )
            for own, gaze in zip(torch.split(q, sizes), gazes, strict=True)
        ]  # fmt: skip
        out: Tensor = self.output(take(torch.cat(heads).flatten(1), rows))
        return out

    def _relative(self, distances: Tensor) -> Relative:
        """Return what is added to scores; queries come with the bias of contents."""
        biases = (self.content_bias, self.distance_bias, self.segment_bias)
        of_content, of_distance, of_segment = (cast(bias, distances.dtype) for bias in biases)
        same, other = cast(self.segments, distances.dtype).unbind(0)
        return Relative(
            distances=self.distances(distances).unflatten(1, self.shape).transpose(0, 1),
            offset=of_distance - of_content,
            change=other - same,
            change_offset=of_segment - of_content,
        )


class TwoStreamLayer(Layer):
    """A layer of contents, then queries."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.attention = RelativeAttention(config)  # type: ignore[assignment]

    def forward(  # type: ignore[override]
        self, x: Tensor, sight: TwoSights, *, is_last: bool, rows: Tensor | None = None
    ) -> Tensor:
        """Return floats (T + P, D); of the last layer (P, D), or of contents some rows (R, D)."""
        contents, gazes = x[: sight.num_contents], [sight.contents]
        if sight.queries is not None:
            x = x[sight.num_contents :] if is_last else x
            gazes = [*([] if is_last else gazes), sight.queries]
        branch = self._drop(self.attention(x, contents, gazes, sight, rows))
        x = self.attention_norm(take(x, rows) + branch)
        out: Tensor = self.mlp_norm(x + self._drop(self.mlp(x)))
        return out


class TwoStream(Transformer):
    """A Transformer that is told distances, with queries of their own for what an order hides."""

    distances: Tensor  # float32 (2 x max_position_embeddings - 1, D)

    def __init__(self, config: ModelConfig, extras: Mapping[str, nn.Module] | None = None) -> None:
        """Arguments as for `Transformer`."""
        super().__init__(config, extras)
        self.mask = nn.Parameter(torch.empty(1, 1, config.hidden_size))  # what queries begin with
        table = distance_sinusoids(config.max_position_embeddings, config.hidden_size)
        self.register_buffer("distances", table, persistent=False)

    def make_layers(self, config: ModelConfig) -> nn.ModuleList:
        """Return layers of both streams."""
        return nn.ModuleList(TwoStreamLayer(config, i) for i in range(config.num_hidden_groups))

    def forward(
        self, batch: Batch, *, is_causal: bool | None = None, rows: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the last layer's hidden states, of queries if there are any, else of tokens.

        Args:
            batch: on the model's device, of contents alone or of contents and queries
            is_causal: whether contents without an order see no later ones
            rows: int64 (R,) of those rows; None: all
            past: nothing is remembered

        Returns:
            Floats of `compute_dtype` (P, D), (T, D) or (R, D).

        Raises:
            FitError: there is a past
        """
        if past is not None:
            raise FitError("a model of two streams writes no texts: ask it by fill-mask or score")
        config, queries = self.config, batch.streams.get(QUERIES)
        p = config.dropout if self.training else 0.0
        x = self.embeddings(batch.streams[TOKENS])
        if queries is not None:
            x = torch.cat([x, self.mask[0].expand(queries.num_tokens, -1)])
        x = dropout(x.to(self.compute_dtype), p)
        sight = self._two_sights(batch, is_causal=bool(is_causal))
        last = config.num_hidden_layers - 1
        for i in range(config.num_hidden_layers):
            asked = rows if i == last else None
            x = self.layers[config.group(i)](x, sight, is_last=i == last, rows=asked)
        return dropout(x, p)

    def guess(self, batch: Batch, *, rows: Tensor, is_causal: bool | None = None) -> Tensor:
        """As in `Transformer`: by queries at those rows, which contents may not see either."""
        hidden: Tensor = self(with_queries(batch, rows))
        return hidden

    def _two_sights(self, batch: Batch, *, is_causal: bool) -> TwoSights:
        contents, queries = batch.streams[TOKENS], batch.streams.get(QUERIES)
        length = contents.max_seqlen
        middle = len(self.distances) // 2
        table = self.distances[middle - max(length - 1, 0) : middle + length]
        table = dropout(table.to(self.compute_dtype), self.config.dropout if self.training else 0.0)
        own = contents.ranks
        mask = Mask(is_causal=is_causal) if own is None else Mask(ranks=(own, own))
        tells = _tells_segments(contents)
        gazes = [Gaze(
            Side(contents.cu_seqlens, length), mask,
            segments=(contents.token_type_ids,) * 2 if tells else None,
        )]  # fmt: skip
        if queries is not None:
            assert own is not None
            assert queries.ranks is not None
            types = (queries.token_type_ids, contents.token_type_ids)
            gazes.append(Gaze(
                Side(queries.cu_seqlens, queries.max_seqlen),
                Mask(ranks=(queries.ranks, own), is_strict=True),
                queries.position_ids.long(), types if tells else None,
            ))  # fmt: skip
        return TwoSights(
            contents.num_tokens, gazes[0], gazes[1] if len(gazes) > 1 else None, table, self.kernel
        )


def _tells_segments(contents: Stream) -> bool:
    """Whether any token is in a second segment; on a GPU, where asking would wait, that may be."""
    types = contents.token_type_ids
    is_asked = types.device.type == "cpu" and not torch.compiler.is_compiling()
    return bool(types.any()) if is_asked else True


def with_queries(batch: Batch, rows: Tensor | None = None, *, ranks: Tensor | None = None) -> Batch:
    """Return the batch with queries for some of its tokens.

    Args:
        batch: of contents alone
        rows: int64 (P,) ascending, of those tokens; None: those that have a rank
        ranks: integers (T,), from 1 the order in which tokens are read, 0 of what all see; None:
            those that are asked for are hidden from all

    Example:
        >>> from lmmodel.batch import make_batch
        >>> batch = make_batch(torch.tensor([5, 6, 7, 8, 9]), torch.tensor([2, 3]))
        >>> asked = with_queries(batch, torch.tensor([1, 3, 4]))
        >>> asked.streams[QUERIES].cu_seqlens.tolist(), asked.streams[TOKENS].ranks.tolist()
        ([0, 1, 3], [0, 1, 0, 1, 1])
    """
    contents = batch.stream
    if rows is None:
        assert ranks is not None
        rows = ranks.nonzero()[:, 0]
    if ranks is None:
        ranks = torch.zeros_like(contents.position_ids).index_fill(0, rows, 1)
    queries = Stream(
        input_ids=torch.zeros_like(contents.input_ids[rows]),
        token_type_ids=contents.token_type_ids[rows], position_ids=contents.position_ids[rows],
        cu_seqlens=torch.searchsorted(rows, contents.cu_seqlens.long()).to(torch.int32),
        max_seqlen=contents.max_seqlen, labels={}, ranks=ranks[rows],
    )  # fmt: skip
    streams = {TOKENS: replace(contents, ranks=ranks), QUERIES: queries}
    return replace(batch, streams=streams)


def distance_sinusoids(length: int, size: int) -> Tensor:
    """Return what distances look like, of keys that come length - 1 places before, ..., after.

    Dai et al., "Transformer-XL" (2019), appendix B. In float32 throughout: what is published with
    XLNet was trained with these numbers, and at a distance of 500 exact ones differ by 1e-5.

    Returns:
        float32 (2 length - 1, size), sines, then cosines.

    Example:
        >>> (100 * distance_sinusoids(2, 2)).round().tolist()
        [[84.0, 54.0], [0.0, 100.0], [-84.0, 54.0]]
    """
    rates = 1 / torch.pow(10_000, torch.arange(0, size, 2, dtype=torch.int64).float() / size)
    angles = torch.arange(length - 1, -length, -1).float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
