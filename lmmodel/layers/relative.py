"""What distance and segment add to attention's scores, given the query: Transformer-XL and XLNet.

Dai et al., "Transformer-XL" (2019), section 3.3; Yang et al., "XLNet" (2019), section 2.5: the
score of query i and key j is (q_i + a) k_j + (q_i + b) r_(i - j), and where their segments differ
(q_i + c) s besides. All products of queries and distances are one matrix product; the row of a
query at place i then begins i distances earlier than that of the first, which is a view of the
same memory, not a copy ("relative shift").

Shapes: Q queries, T keys, S sequences, L queries and L' keys of one sequence, H heads, K features
of a head, M the longest sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.cores import dropout

OfRows = Callable[[Tensor], Tensor]
"""What is known of rows, to the same of others."""


def pair_of_rows(
    pair: tuple[Tensor, Tensor], of_queries: OfRows, of_keys: OfRows
) -> tuple[Tensor, Tensor]:
    """Return what is known of other queries and keys; what was one tensor stays one."""
    own = of_queries(pair[0])
    return own, own if pair[0] is pair[1] and of_queries is of_keys else of_keys(pair[1])


@dataclass(frozen=True, kw_only=True)
class Relative:
    """What is added to the scores of queries, which come with what content alone adds to them."""

    distances: (
        Tensor  # floats (H, 2 M - 1, K), of a key M - 1 places before a query to as many after
    )
    offset: Tensor  # floats (H, K), added to queries before they meet distances
    places: Tensor | None = None
    """int64 (Q,), of the queries in the sequences of keys; None: queries and keys are the same."""
    change: Tensor | None = None  # floats (H, K), of a key in another segment; None: all are in one
    change_offset: Tensor | None = None  # floats (H, K), as `offset`
    segments: tuple[Tensor, Tensor] | None = None  # integers (Q,) of the queries, (T,) of the keys

    def of_rows(self, of_queries: OfRows, of_keys: OfRows) -> Relative:
        """Return the same of other rows, which two functions take from those of each side."""
        places = None if self.places is None else of_queries(self.places)
        segments = self.segments and pair_of_rows(self.segments, of_queries, of_keys)
        return replace(self, places=places, segments=segments)


def relative_scores(q: Tensor, relative: Relative, places: tuple[Tensor, Tensor]) -> Tensor:
    """Return what is added to each pair's score by its definition: floats (H, Q, T).

    Args:
        q: floats (Q, H, K)
        relative: of all rows
        places: int64 (Q,) and (T,), of the rows in their own sequences
    """
    place_q, place_k = places
    if relative.places is not None:
        place_q = relative.places
    middle = relative.distances.shape[1] // 2
    distance = (place_k[None, :] - place_q[:, None]).clamp(-middle, middle) + middle  # (Q, T)
    by_distance = torch.einsum("qhk,hdk->hqd", q + relative.offset, relative.distances)
    scores = by_distance.gather(2, distance.expand(len(by_distance), -1, -1))
    if relative.segments is not None:
        segment_q, segment_k = relative.segments
        scores = scores + _by_segment(q, relative).T[:, :, None] * (
            segment_q[:, None] != segment_k[None, :]
        )
    return scores


def _by_segment(q: Tensor, relative: Relative) -> Tensor:
    """Return the score of a change of segment for each query: floats (..., H)."""
    assert relative.change is not None
    assert relative.change_offset is not None
    return ((q + relative.change_offset) * relative.change).sum(-1)


def relative_products(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, relative: Relative, p: float
) -> Tensor:
    """Return attention with what is relative by plain products.

    Args:
        q: floats (S, H, L, K)
        k: floats (S, H, L', K)
        v: as k
        seen: bool (L, L') or (S, 1, 1 or L, L'), None where all see all
        relative: with the places and segments of these rows, those of padding any
        p: probability with which a weight is set to 0

    Returns:
        Floats (S, H, L, K).
    """
    num, num_heads, length, _ = q.shape
    num_keys, dtype = k.shape[2], q.dtype
    heads = [x.transpose(0, 1).flatten(0, 1) for x in (q * q.shape[-1] ** -0.5, k, v)]
    # (H x S, L, K) each
    room = num_keys - 1 - relative.distances.shape[1] // 2  # below 0: cut off; else of padding
    near = F.pad(relative.distances, (0, 0, room, room)).to(dtype)  # (H, 2 L' - 1, K)
    scaled = (relative.offset * q.shape[-1] ** -0.5).to(dtype)
    own = heads[0].view(num_heads, num * length, -1) + scaled[:, None]
    by_distance = torch.bmm(own, near.mT).view(num_heads * num, length, -1)  # (H x S, L, 2 L' - 1)
    if relative.places is None:
        shifted = _Shift.apply(by_distance)  # type: ignore[no-untyped-call]
    else:
        shifted = _shift_by(by_distance, relative.places.view(num, length), num_keys)
    added = shifted.view(num_heads, num, length, num_keys)
    if seen is not None:
        hidden = q.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))
        added = added + (hidden if hidden.dim() == 2 else hidden.transpose(0, 1))
    if relative.segments is not None:
        segment_q, segment_k = (own.view(num, -1) for own in relative.segments)
        differs = (segment_q[:, :, None] != segment_k[:, None, :]).to(dtype)  # (S, L, L')
        change = (_by_segment(q.transpose(1, 2), relative) * q.shape[-1] ** -0.5).to(dtype)
        added = added + change.permute(2, 0, 1)[..., None] * differs  # of change (S, L, H)
    added = added.flatten(0, 1)
    is_fresh = seen is not None or relative.segments is not None  # else a view of products
    add = added.baddbmm_ if is_fresh else added.baddbmm
    scores = add(heads[0], heads[1].mT)
    weights = dropout(scores.softmax(dim=-1), p)
    out = torch.bmm(weights, heads[2]).view(num_heads, num, length, -1)
    return out.transpose(0, 1)


class _Shift(torch.autograd.Function):
    """Rows by distance, floats (N, L, 2 L - 1), to rows by the place of the key, (N, L, L)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _shifted(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Tensor:
        (own,) = upstream
        out = own.new_zeros(*own.shape[:2], 2 * own.shape[2] - 1)
        _shifted(out).copy_(own)
        return out


def _shifted(x: Tensor) -> Tensor:
    """Return a view (N, L, L) of contiguous floats (N, L, 2 L - 1): row i begins i places earlier.

    Example:
        >>> _shifted(torch.arange(6).view(1, 2, 3)).tolist()  # distances -1, 0, 1 of two queries
        [[[1, 2], [3, 4]]]
    """
    num, length, width = x.shape
    return x.as_strided((num, length, length), (length * width, width - 1, 1), length - 1)


def _shift_by(x: Tensor, places: Tensor, num_keys: int) -> Tensor:
    """Return floats (N, L, L') of queries at places, int64 (S, L), from rows by distance.

    Args:
        x: floats (N, L, 2 L' - 1) of N = H x S
        places: int64 (S, L)
        num_keys: L'
    """
    # Where the row of each query begins; those of padding may lie behind all keys.
    first = (num_keys - 1 - places).clamp(min=0)
    at = first[:, :, None] + torch.arange(num_keys, device=x.device)  # (S, L, L')
    return x.gather(2, at.repeat(len(x) // len(places), 1, 1))
