"""Softmax attention over packed sequences: one function, a plain reference and fast kernels.

Queries and keys are two sides, packed alike, and which of its keys a query sees is a `Mask`
(`lmmodel.layers.masks`). A query that sees none gets zeros. Every kernel gives the numbers of
`reference`.

    reference   the definition: one dense mask of all queries and all keys
    dense       all sequences equally long: a reshape and scaled_dot_product_attention
    buckets     one such call for neighbours of nearly equal lengths (CPU)
    joined      the same, but with padding where that is less work than another call (CPU)
    padded      gathered into (S, max_seqlen) with a mask; no step depends on values on the device
    varlen      torch's own variable-length FlashAttention (CUDA, bf16 or fp16; no dropout, no ranks
                but those of causal attention to itself, no bias)

Shapes: Q queries, T keys, S sequences, L rows of one sequence, H heads, K features of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.cores import dropout
from lmmodel.layers.buckets import (
    Bucket,
    Filled,
    equal_buckets,
    joined_buckets,
    pad,
    padded_rows,
    rounded_buckets,
    unpad,
)
from lmmodel.layers.masks import (
    Mask,
    Side,
    band,
    bucket_seen,
    padded_rows_of,
    padded_seen,
    places,
    split_mask,
)
from lmmodel.layers.relative import relative_products, relative_scores

Kernel = Literal["reference", "dense", "buckets", "joined", "padded", "varlen"]

JOINED: Kernel = "joined"
"""What an encoder-decoder takes on a CPU: its lengths come in pairs, seldom two of them equal."""

# torch 2.10 brought `varlen_attn` with `is_causal`; 2.11 and later take `window_size` instead.
VARLEN_TAKES_WINDOW = torch.__version__ >= "2.11"

ROUNDED = {torch.bfloat16}  # buckets are rounded for it; float32 products take any shape at once
CALL_SCORES = 2**13  # scores of all heads whose computation takes as long as another bucket
CACHED_SCORES = 2**19  # in a bucket at most, of all heads: 1 MiB of bf16 stays in a core's cache


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    queries: Side,
    keys: Side,
    mask: Mask = Mask(),  # noqa: B008 - frozen
    *,
    dropout_p: float = 0.0,
    kernel: Kernel | None = None,
) -> Tensor:
    """Return softmax((q k' + relative) / sqrt(K) + bias) v over the keys that each query sees.

    Args:
        q: floats (Q, H, K)
        k: floats (T, H, K)
        v: as k
        queries: how q is packed into S sequences
        keys: how k and v are; the same object where the sequences attend to themselves
        mask: what is seen
        dropout_p: probability with which a weight is set to 0 (the others are scaled up)
        kernel: None: `choose_kernel` chooses

    Returns:
        Floats (Q, H, K), 0 of a query that sees nothing.

    Raises:
        ValueError: a kernel is asked for that can't do this

    Example:
        >>> side = Side(torch.tensor([0, 2, 3]), 2)
        >>> q, v = torch.zeros(3, 1, 1), torch.tensor([1.0, 2.0, 5.0]).view(3, 1, 1)
        >>> attention(q, q, v, side, side).flatten().tolist()
        [1.5, 1.5, 5.0]
        >>> attention(q, q, v, side, side, Mask(is_causal=True, is_strict=True)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    mask = mask.within(max(queries.max_seqlen, keys.max_seqlen))
    if kernel is None:
        own = None if keys is queries else (k.shape[0], keys.max_seqlen)
        kernel = choose_kernel(
            q.device.type, q.dtype, q.shape[0], len(queries.cu_seqlens) - 1, queries.max_seqlen,
            keys=own, mask=mask, dropout_p=dropout_p, is_compiled=torch.compiler.is_compiling(),
        )  # fmt: skip
    elif kernel == "varlen" and (dropout_p or not _varlen_can(mask, is_self=keys is queries)):
        raise ValueError("varlen has no dropout, bias, strict or given ranks: leave kernel out")
    if not (q.shape[0] and k.shape[0]):
        return _nothing(q)
    return KERNELS[kernel](q, k, v, queries, keys, mask, dropout_p)


def _nothing(q: Tensor) -> Tensor:
    """Return zeros where there is no key at all, with a gradient of zeros."""
    return q.masked_fill(torch.ones((), dtype=torch.bool, device=q.device), 0.0)


def choose_kernel(
    device: str,
    dtype: torch.dtype,
    num_tokens: int,
    num_sequences: int,
    max_seqlen: int,
    *,
    keys: tuple[int, int] | None = None,
    mask: Mask = Mask(),  # noqa: B008 - frozen
    dropout_p: float = 0.0,
    is_compiled: bool = False,
) -> Kernel:
    """Return the kernel for a shape: depends on shapes only, never on values on a device.

    What is compiled must not depend on the lengths either: `buckets` would be compiled again
    for each list of lengths.

    Args:
        device: "cpu" or "cuda"
        dtype: of queries and keys
        num_tokens: of the queries
        num_sequences: S
        max_seqlen: of the queries
        keys: their number and `max_seqlen`; None: the queries attend to themselves
        mask: what is seen
        dropout_p: of the weights
        is_compiled: whether torch.compile is at work

    Example:
        >>> choose_kernel("cpu", torch.float32, 4096, 32, 128)
        'dense'
        >>> choose_kernel("cpu", torch.float32, 4096, 40, 128)
        'buckets'
        >>> choose_kernel("cuda", torch.float32, 4096, 40, 128)
        'padded'
        >>> choose_kernel("cpu", torch.float32, 4096, 40, 128, is_compiled=True)
        'padded'
    """
    sides = [(num_tokens, max_seqlen), keys or (num_tokens, max_seqlen)]
    # None is longer, so all are as long.
    if all(num_sequences * longest == number for number, longest in sides):
        return "dense"
    if device != "cuda":
        return "padded" if is_compiled else "buckets"
    mask = mask.within(max(longest for _, longest in sides))
    has_half = dtype in (torch.bfloat16, torch.float16)
    if has_half and not dropout_p and _varlen_can(mask, is_self=keys is None):
        return "varlen"
    return "padded"


def reference(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float = 0.0
) -> Tensor:
    """Return attention by its definition, in time and memory of all queries x all keys.

    Args as for `attention`; p is the probability of dropout.
    """
    sequence_q, place_q = places(queries, len(q))
    sequence_k, place_k = places(keys, len(k))
    is_seen = sequence_q[:, None] == sequence_k[None, :]  # (Q, T)
    rank_q, rank_k = (place_q, place_k) if mask.ranks is None else mask.ranks
    if mask.is_strict:
        is_seen &= rank_k[None, :] < rank_q[:, None]
    elif mask.is_causal or mask.ranks is not None:
        is_seen &= rank_k[None, :] <= rank_q[:, None]
    if mask.window is not None:
        is_seen &= (place_k[None, :] - place_q[:, None]).abs() <= mask.window
    scores = torch.einsum("qhk,thk->hqt", q, k) * q.shape[-1] ** -0.5  # (H, Q, T)
    if mask.relative is not None:
        scores = (
            scores + relative_scores(q, mask.relative, (place_q, place_k)) * q.shape[-1] ** -0.5
        )
    if mask.bias is not None:
        scores = scores + mask.bias[:, place_q][:, :, place_k]
    is_blind = ~is_seen.any(dim=1, keepdim=True)  # (Q, 1)
    weights = scores.masked_fill(~(is_seen | is_blind), float("-inf")).softmax(dim=-1)
    weights = weights.masked_fill(is_blind, 0.0)
    return torch.einsum("hqt,thk->qhk", dropout(weights, p), v)  # (Q, H, K)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float
) -> Tensor:
    """Return attention where all sequences of a side are equally long."""
    num = len(queries.cu_seqlens) - 1
    own = Filled((queries.max_seqlen,) * num, queries.max_seqlen)
    other = own if keys is queries else Filled((keys.max_seqlen,) * num, keys.max_seqlen)
    return _within_bucket(q, k, v, Bucket(own, other), mask, p=p)


def _buckets(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float
) -> Tensor:
    """Return attention by one dense call for each bucket of nearly equally long neighbours."""
    lengths = queries.cu_seqlens.diff().tolist()
    others = None if keys is queries else keys.cu_seqlens.diff().tolist()
    if q.dtype in ROUNDED:
        most = CACHED_SCORES // q.shape[1]
        buckets = rounded_buckets(lengths, others, most_pairs=most)
    else:
        buckets = equal_buckets(lengths, others)
    return _by_buckets(q, k, v, buckets, mask, p, is_self=others is None)


def _joined(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float
) -> Tensor:
    """Return attention by few dense calls, where sequences are short and lengths in pairs."""
    others = None if keys is queries else keys.cu_seqlens.diff().tolist()
    buckets = joined_buckets(
        queries.cu_seqlens.diff().tolist(), others, spare=CALL_SCORES // q.shape[1],
        most_pairs=CACHED_SCORES // q.shape[1], is_rounded=q.dtype in ROUNDED,
    )  # fmt: skip
    return _by_buckets(q, k, v, buckets, mask, p, is_self=others is None)


def _by_buckets(
    q: Tensor, k: Tensor, v: Tensor, buckets: list[Bucket], mask: Mask, p: float, *, is_self: bool
) -> Tensor:
    """Return attention within each bucket: floats (Q, H, K)."""
    own = [bucket.queries for bucket in buckets]
    rows, num_rows = padded_rows(own)
    key_sides = own if is_self else [bucket.keys for bucket in buckets]
    key_rows, num_key_rows = (rows, num_rows) if is_self else padded_rows(key_sides)
    q, k, v = (
        x if size == len(x) else pad(x, at, size)
        for x, at, size in ((q, rows, num_rows), (k, key_rows, num_key_rows),
                            (v, key_rows, num_key_rows))
    )  # fmt: skip
    sizes, key_sizes = ([side.num_rows for side in sides] for sides in (own, key_sides))
    filling, others_filling = (rows, num_rows, sizes), (key_rows, num_key_rows, key_sizes)
    masks = split_mask(mask, filling, filling if is_self else others_filling)
    qs, ks, vs = torch.split(q, sizes), torch.split(k, key_sizes), torch.split(v, key_sizes)
    parts = zip(qs, ks, vs, buckets, masks, strict=True)
    out = torch.cat([_within_bucket(*part, p=p) for part in parts])
    return out if num_rows == len(rows) else unpad(out, rows)


def _within_bucket(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, mask: Mask, p: float) -> Tensor:
    """Return attention within the S sequences of one bucket: floats (S x L, H, K), as q.

    Args:
        q: floats (S x L, H, K)
        k: floats (S x L', H, K)
        v: as k
        bucket: S sequences of L queries and L' keys, padding included
        mask: with the ranks of these rows, if it has any
        p: of dropout
    """
    num, length, num_keys = len(bucket.queries.lengths), bucket.queries.length, bucket.keys.length
    if not (length and num_keys):
        return _nothing(q)
    num_heads, is_self = q.shape[1], bucket.keys is bucket.queries
    q, k, v = (x.reshape(num, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))  # (S, H, L, K)
    mask = mask.within(max(length, num_keys))
    is_by_products = mask.has_own_scores or (
        q.device.type == "cpu" and (q.dtype == torch.bfloat16 or p > 0)
    )
    seen = is_blind = None
    if is_self and mask.is_plain and mask.window is None and (
        mask.is_causal or bucket.queries.is_full
    ):  # fmt: skip
        # No token sees padding, which comes last: torch's own causal mask is enough, or none.
        if mask.is_causal and is_by_products:
            seen = band(length, length, mask, q.device)
    else:
        seen, is_blind = bucket_seen(bucket, mask, q.device)
    if is_by_products:
        out = _products(q, k, v, seen, mask, p)
    else:
        is_causal = mask.is_causal and seen is None
        size, is_odd = q.shape[-1], q.device.type == "cpu" and q.shape[-1] % 2
        if is_odd:  # some processors' products of odd rows have bits that depend on their place
            q, k, v = (F.pad(x, (0, 1)) for x in (q, k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=p, is_causal=is_causal, scale=size**-0.5
        )[..., :size]
    if is_blind is not None:
        out = out.masked_fill(is_blind, 0.0)
    return out.transpose(1, 2).reshape(num * length, num_heads, -1)


def _products(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, mask: Mask, p: float) -> Tensor:
    """Return attention by two plain products: on a CPU in bf16 three times as fast as SDPA.

    Args:
        q: floats (S, H, L, K)
        k: floats (S, H, L', K)
        v: as k
        seen: bool (L, L') or (S, 1, 1 or L, L'), or None where all see all
        mask: its bias may be that of longer sequences, or of ones without their padding
        p: probability with which a weight is set to 0
    """
    if mask.relative is not None:
        return relative_products(q, k, v, seen, mask.relative, p)
    shape, num_keys, bias = q.shape, k.shape[2], mask.bias
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (S x H, L, K)
    added = q.new_zeros(())
    if seen is not None:
        added = q.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))
    if bias is not None:
        room = (0, num_keys - bias.shape[2], 0, shape[2] - bias.shape[1])  # below 0: cut off
        added = added + F.pad(bias, room).to(q.dtype)  # (H, L, L') or (S, H, L, L')
        added = added.expand(shape[0], -1, -1, -1).flatten(0, 1)
    elif added.dim() == 4:
        added = added.expand(-1, shape[1], -1, -1).flatten(0, 1)  # (S x H, 1 or L, L')
    beta = float(seen is not None or bias is not None)
    scores = torch.baddbmm(added, q, k.mT, beta=beta, alpha=shape[-1] ** -0.5)
    return torch.bmm(dropout(scores.softmax(dim=-1), p), v).view(shape)


def _padded(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float
) -> Tensor:
    """Return attention over sequences gathered into a padded (S, H, max_seqlen, K)."""
    rows = padded_rows_of(queries, len(q))  # (S, L)
    key_rows = rows if keys is queries else padded_rows_of(keys, len(k))  # (S, L')
    seen, is_blind = padded_seen(queries, keys, mask, (rows, key_rows))
    sequence, place = places(queries, len(q))
    q, k, v = (x[at].transpose(1, 2) for x, at in ((q, rows), (k, key_rows), (v, key_rows)))
    if mask.has_own_scores:
        out = _products(q, k, v, seen, mask.of_rows(lambda x: x[rows], lambda x: x[key_rows]), p)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
    if is_blind is not None:
        out = out.masked_fill(is_blind, 0.0)
    return out.transpose(1, 2)[sequence, place]  # (Q, H, K)


def _varlen_can(mask: Mask, *, is_self: bool) -> bool:
    """Whether torch's variable-length kernel knows a mask.

    Its places are counted from the ends of the two sides: between sides of different lengths they
    are not ours.
    """
    if mask.has_own_scores or not (VARLEN_TAKES_WINDOW or mask.window is None):
        return False
    return mask.is_plain and (is_self or not (mask.is_causal or mask.window is not None))


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, queries: Side, keys: Side, mask: Mask, p: float
) -> Tensor:
    """Return attention by torch's variable-length kernel, whose module takes 1.7 s to import."""
    from torch.nn.attention.varlen import varlen_attn

    assert p == 0
    options: dict[str, Any] = {"is_causal": mask.is_causal}
    if VARLEN_TAKES_WINDOW:
        left = -1 if mask.window is None else mask.window
        options = {"window_size": (left, 0 if mask.is_causal else left)}
    sides = (queries.cu_seqlens, keys.cu_seqlens, queries.max_seqlen, keys.max_seqlen)
    out: Any = varlen_attn(q, k, v, *sides, **options)
    return out  # type: ignore[no-any-return]


KERNELS: dict[Kernel, Callable[[Tensor, Tensor, Tensor, Side, Side, Mask, float], Tensor]] = {
    "reference": reference, "dense": _dense, "buckets": _buckets, "joined": _joined,
    "padded": _padded, "varlen": _varlen,
}  # fmt: skip
