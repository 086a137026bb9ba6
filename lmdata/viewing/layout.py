"""Spans of documents to the ids of examples: segments between special tokens (kernels)."""

from __future__ import annotations

import numba
import numpy as np

from lmdata.viewing.store_table import StoreTable, ids_until
from lmdata.viewing.walk import A_BLOCK, A_LENGTH, A_START, B_BLOCK, B_LENGTH, B_START


@numba.njit(cache=True, nogil=True)
def lay_pairs(
    table: StoreTable,
    spans: np.ndarray,
    cls_id: int,
    sep_id: int,
    offsets: np.ndarray,
    ids: np.ndarray,
    token_types: np.ndarray,
) -> None:
    """Write `[CLS] A [SEP] B [SEP]` for each pair, type 0 through the first [SEP] (rule 14).

    Args:
        table: of the store
        spans: int64 (B, NUM_COLUMNS), from `pairs.find_pairs`
        cls_id: of [CLS]
        sep_id: of [SEP]
        offsets: int64 (B + 1,), into the next two
        ids: uint16 or uint32 (T,), written
        token_types: uint8 (T,), written
    """
    for number in range(len(spans)):
        span = spans[number]
        at = offsets[number]
        ids[at] = cls_id
        at = _copy(table, span[A_BLOCK], span[A_START], span[A_LENGTH], ids, at + 1)
        ids[at] = sep_id
        token_types[offsets[number] : at + 1] = 0
        token_types[at + 1 : offsets[number + 1]] = 1
        at = _copy(table, span[B_BLOCK], span[B_START], span[B_LENGTH], ids, at + 1)
        ids[at] = sep_id


@numba.njit(cache=True, nogil=True)
def lay_segments(
    table: StoreTable, spans: np.ndarray, first_id: int, last_id: int, ids: np.ndarray
) -> None:
    """Write `first segment last` for each segment, one after the other.

    Args:
        table: of the store
        spans: int64 (S, NUM_COLUMNS), from `pairs.find_pieces`
        first_id: special token before each segment, negative for none
        last_id: special token after each segment
        ids: uint16 or uint32 (T,), written
    """
    at = 0
    for number in range(len(spans)):
        span = spans[number]
        if first_id >= 0:
            ids[at] = first_id
            at += 1
        at = _copy(table, span[A_BLOCK], span[A_START], span[A_LENGTH], ids, at)
        ids[at] = last_id
        at += 1


@numba.njit(cache=True)
def _copy(table: StoreTable, block: int, start: int, length: int, ids: np.ndarray, at: int) -> int:
    """Copy tokens of a block to `ids[at:]` and return where they end."""
    source = ids_until(table, block, start + length, ids)
    for index in range(length):
        ids[at + index] = source[start + index]
    return at + length
