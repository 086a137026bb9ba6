"""Softmax attention over packed sequences: one function, a plain reference and fast kernels.

A token sees the tokens of its own sequence only; with `is_causal` no later ones, and with a
`window` only those at most `window` places away. Every kernel gives the numbers of `reference`.

    reference   the definition: one dense T x T mask
    dense       all sequences equally long: a reshape and scaled_dot_product_attention
    buckets     one such call for neighbours of nearly equal length (CPU)
    padded      gathered into (S, max_seqlen) with a mask; no step depends on values on the device
    varlen      torch's own variable-length FlashAttention (CUDA, bf16 or fp16, no dropout)

Shapes: T tokens, S sequences, L tokens of one sequence, H heads, K features of a head.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.layers.buckets import Bucket, equal_buckets, pad, padded_rows, rounded_buckets, unpad
from lmmodel.layers.dropout import dropout

Kernel = Literal["reference", "dense", "buckets", "padded", "varlen"]

# torch 2.10 brought `varlen_attn` with `is_causal`; 2.11 and later take `window_size` instead.
VARLEN_TAKES_WINDOW = torch.__version__ >= "2.11"

# What buckets are rounded for; float32 products take any shape at once.
ROUNDED = {torch.bfloat16}

# Scores of all heads that a bucket has at most: 1 MiB in bf16, which stays in a core's cache.
CACHED_SCORES = 2**19


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    is_causal: bool = False,
    window: int | None = None,
    dropout_p: float = 0.0,
    kernel: Kernel | None = None,
) -> Tensor:
    """Return softmax(q k' / sqrt(K)) v within each sequence.

    Args:
        q: floats (T, H, K)
        k: as q
        v: as q
        cu_seqlens: int32 (S + 1,), where sequences begin; ends with T; empty ones are allowed
        max_seqlen: no sequence is longer
        is_causal: whether a token sees no later ones
        window: how many places to either side a token sees; None: all
        dropout_p: probability with which a weight is set to 0 (the others are scaled up)
        kernel: None: `choose_kernel` chooses

    Returns:
        Floats (T, H, K).
    """
    if kernel is None:
        kernel = choose_kernel(
            q.device.type, q.dtype, q.shape[0], len(cu_seqlens) - 1, max_seqlen,
            window=window, dropout_p=dropout_p, is_compiled=torch.compiler.is_compiling(),
        )  # fmt: skip
    if window is not None and window >= max_seqlen - 1:
        window = None
    if kernel == "dense":
        return _dense(q, k, v, max_seqlen, is_causal, window, dropout_p)
    if kernel == "buckets":
        return _buckets(q, k, v, cu_seqlens, is_causal, window, dropout_p)
    if kernel == "padded":
        return _padded(q, k, v, cu_seqlens, max_seqlen, is_causal, window, dropout_p)
    if kernel == "varlen":
        return _varlen(q, k, v, cu_seqlens, max_seqlen, is_causal, window)
    return reference(q, k, v, cu_seqlens, is_causal, window, dropout_p)


def choose_kernel(
    device: str,
    dtype: torch.dtype,
    num_tokens: int,
    num_sequences: int,
    max_seqlen: int,
    *,
    window: int | None = None,
    dropout_p: float = 0.0,
    is_compiled: bool = False,
) -> Kernel:
    """Return the kernel for a shape: depends on shapes only, never on values on a device.

    What is compiled must not depend on the lengths either: `buckets` would be compiled again
    for each list of lengths.

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
    if num_sequences * max_seqlen == num_tokens:  # none is longer, so all are as long
        return "dense"
    if device != "cuda":
        return "padded" if is_compiled else "buckets"
    has_half = dtype in (torch.bfloat16, torch.float16)
    if has_half and not dropout_p and (VARLEN_TAKES_WINDOW or window is None):
        return "varlen"
    return "padded"


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    is_causal: bool = False,
    window: int | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Return attention by its definition, in time and memory of T x T."""
    place = torch.arange(len(q), device=q.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), place, right=True)
    is_seen = sequence[:, None] == sequence[None, :]  # (T, T)
    if is_causal:
        is_seen &= place[None, :] <= place[:, None]
    if window is not None:
        is_seen &= (place[None, :] - place[:, None]).abs() <= window
    scores = torch.einsum("qhk,shk->hqs", q, k) * q.shape[-1] ** -0.5  # (H, T, T)
    weights = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=-1)
    return torch.einsum("hqs,shk->qhk", dropout(weights, dropout_p), v)  # (T, H, K)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, length: int, is_causal: bool, window: int | None, p: float
) -> Tensor:
    """Return attention where every sequence has `length` tokens."""
    bucket = Bucket((length,) * (len(q) // length), length)
    return _bucket(q, k, v, bucket, is_causal, window, p)


def _buckets(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    is_causal: bool,
    window: int | None,
    p: float,
) -> Tensor:
    """Return attention by one dense call for each bucket of nearly equally long neighbours."""
    lengths = cu_seqlens.diff().tolist()
    if q.dtype in ROUNDED:
        buckets = rounded_buckets(lengths, CACHED_SCORES // q.shape[1])
    else:
        buckets = equal_buckets(lengths)
    rows, num_rows = padded_rows(buckets)
    is_full = num_rows == len(q)
    if not is_full:
        q, k, v = (pad(x, rows, num_rows) for x in (q, k, v))
    sizes = [bucket.num_rows for bucket in buckets]
    parts = zip(buckets, *(torch.split(x, sizes) for x in (q, k, v)), strict=True)
    out = torch.cat(
        [_bucket(qi, ki, vi, bucket, is_causal, window, p) for bucket, qi, ki, vi in parts]
    )
    return out if is_full else unpad(out, rows)


def _bucket(
    q: Tensor, k: Tensor, v: Tensor, bucket: Bucket, is_causal: bool, window: int | None, p: float
) -> Tensor:
    """Return attention within the S sequences of one bucket: (S x L, H, K), as q, k and v are."""
    length, num_heads, num_features = bucket.length, *q.shape[1:]
    shape = (len(bucket.lengths), length, num_heads, num_features)
    is_by_products = q.device.type == "cpu" and (q.dtype == torch.bfloat16 or p > 0)
    q, k, v = (x.reshape(shape).transpose(1, 2) for x in (q, k, v))  # (S, H, L, K)
    if window is not None and window >= length - 1:
        window = None
    if window is None and (bucket.is_full or is_causal):
        # No token sees padding, which comes last: torch's own causal mask is enough, or none.
        mask = _band(length, None, True, q.device) if is_causal and is_by_products else None
    else:
        mask = _seen(bucket, is_causal, window, q.device)
    if is_by_products:
        out = _products(q, k, v, mask, p)
    else:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=p, is_causal=is_causal and mask is None
        )
    return out.transpose(1, 2).reshape(-1, num_heads, num_features)


def _seen(bucket: Bucket, is_causal: bool, window: int | None, device: torch.device) -> Tensor:
    """Return which places see which, bool: (L, L), or (S, 1, 1 or L, L) where there is padding."""
    band = None
    if is_causal or window is not None:
        band = _band(bucket.length, window, is_causal, device)  # (L, L)
    if band is not None and (is_causal or bucket.is_full):
        return band
    is_real = bucket.is_real()[:, None, None, :].to(device)  # (S, 1, 1, L)
    if band is None:
        return is_real
    # Padding far from all tokens would see nothing and give NaN: let it see itself.
    return band & (is_real | torch.eye(bucket.length, dtype=torch.bool, device=device))


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, p: float) -> Tensor:
    """Return attention by two plain products: on a CPU in bf16 three times as fast as SDPA.

    Args:
        q: floats (S, H, L, K)
        k: as q
        v: as q
        mask: bool (L, L) or (S, 1, 1 or L, L), or None where all see all
        p: probability with which a weight is set to 0
    """
    shape = q.shape
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))  # (S x H, L, K)
    seen = q.new_zeros(())
    if mask is not None:
        seen = q.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        if mask.dim() == 4:
            seen = seen.expand(-1, shape[1], -1, -1).flatten(0, 1)  # (S x H, 1 or L, L)
    scores = torch.baddbmm(seen, q, k.mT, beta=float(mask is not None), alpha=shape[-1] ** -0.5)
    return torch.bmm(dropout(scores.softmax(dim=-1), p), v).view(shape)


def _padded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    is_causal: bool,
    window: int | None,
    p: float,
) -> Tensor:
    """Return attention over sequences gathered into a padded (S, H, max_seqlen, K)."""
    num_tokens = len(q)
    starts = cu_seqlens[:-1].long()
    place = torch.arange(max_seqlen, device=q.device)
    rows = (starts[:, None] + place).clamp(max=num_tokens - 1)  # (S, L)
    is_seen = (place < cu_seqlens.diff()[:, None])[:, None, None, :]  # (S, 1, 1, L)
    # Padding queries of an empty sequence would see nothing and give NaN: let all see place 0.
    is_seen = is_seen | (place == 0)
    if is_causal or window is not None:
        is_seen = is_seen & _band(max_seqlen, window, is_causal, q.device) | torch.diag(
            torch.ones(max_seqlen, dtype=torch.bool, device=q.device)
        )
    q, k, v = (x[rows].transpose(1, 2) for x in (q, k, v))  # (S, H, L, K)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=is_seen, dropout_p=p)
    token = torch.arange(num_tokens, device=q.device)
    sequence = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    return out.transpose(1, 2)[sequence, token - starts[sequence]]  # (T, H, K)


def _band(length: int, window: int | None, is_causal: bool, device: torch.device) -> Tensor:
    """Return which places see which: bool (L, L)."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    is_seen = torch.ones_like(distance, dtype=torch.bool)
    if window is not None:
        is_seen &= distance.abs() <= window
    return is_seen & (distance >= 0) if is_causal else is_seen


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    is_causal: bool,
    window: int | None,
) -> Tensor:
    """Return attention by torch's variable-length kernel, whose module takes 1.7 s to import."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"is_causal": is_causal}
    if VARLEN_TAKES_WINDOW:
        left = -1 if window is None else window
        options = {"window_size": (left, 0 if is_causal else left)}
    out: Any = varlen_attn(q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, **options)
    return out  # type: ignore[no-any-return]
