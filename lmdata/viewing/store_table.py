"""A token store as a table of addresses that Numba kernels read without a copy.

A store is many memory-mapped record batches. A kernel that serves any row of any batch needs all
of them at once, so `StoreTable` holds where each batch's buffers lie, as plain integers. The
`StoreArrays` that made the table keeps the buffers alive.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from lmdata.errors import IntegrityError, OutputError
from lmdata.intrinsics import int64

# One running token count is kept for each group of this many sentences: 8 bytes for 64.
SENTENCE_GROUP = 64
_GROUP_SHIFT = 6
KEPT_BYTES = 16 << 20
"""Arrays up to this size are ordinary ones."""


class Block(Protocol):
    """What the table needs of one record batch of a store."""

    first_row: int
    unchecked_ids: Any  # for their address and type; `ids` may be read
    ids: Any
    id_offsets: Any
    sentence_lengths: Any
    sentence_offsets: Any


class StoreTable(NamedTuple):
    """Addresses of a store's buffers, one entry for each of its K blocks.

    Attributes:
        first_rows: int64 (K + 1,), the first document row of each block, then the number of rows
        ids: int64 (K,), address of the ids, uint16 or uint32 (tokens,)
        id_offsets: int64 (K,), address of int64 (rows + 1,)
        sentence_lengths: int64 (K,), address of uint32 (sentences,)
        sentence_offsets: int64 (K,), address of int32 or int64 (rows + 1,)
        offset_bytes: int64 (K,), 4 or 8, the width of `sentence_offsets`
        group_starts: int64 (K,), address of int64 (groups,): tokens before each group of sentences
        first_tokens: int64 (K,), index in `ids` of the block's first token
        first_sentences: int64 (K,), index in `sentence_lengths` of the block's first sentence
    """

    first_rows: np.ndarray
    ids: np.ndarray
    id_offsets: np.ndarray
    sentence_lengths: np.ndarray
    sentence_offsets: np.ndarray
    offset_bytes: np.ndarray
    group_starts: np.ndarray
    first_tokens: np.ndarray
    first_sentences: np.ndarray


@dataclass(frozen=True)
class StoreArrays:
    """A `StoreTable` with the arrays it points into, and the totals of the store."""

    table: StoreTable
    num_documents: int
    num_tokens: int
    num_sentences: int
    id_dtype: np.dtype[Any]
    blocks: tuple[Block, ...]
    owners: tuple[Any, ...]
    unchecked: set[int]  # blocks whose ids no kernel has read yet

    def check_ids(self, rows: np.ndarray) -> None:
        """Have the ids of documents checked, before a kernel reads them.

        Args:
            rows: of documents, int64 (R,)

        Raises:
            IntegrityError: the block of one is damaged
        """
        if not self.unchecked:
            return
        places = np.searchsorted(self.table.first_rows[:-1], rows, side="right") - 1
        for place in self.unchecked.intersection(places.tolist()):
            self.blocks[place].ids  # noqa: B018  # looking is checking
            self.unchecked.discard(place)


def scratch_array(length: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array (length,) with no particular content, on disk if it is large.

    A large one is a map of a temporary file (in TMPDIR) that has no name any more: the system
    writes pages out and drops them as it needs, and the file goes with the last array that looks
    at it.

    Raises:
        OutputError: the disk that holds temporary files is full
    """
    dtype = np.dtype(dtype)
    num_bytes = length * dtype.itemsize
    if num_bytes <= KEPT_BYTES:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile(prefix="lmdata-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            raise OutputError(
                f"no room for {num_bytes >> 20} MiB of working data in {tempfile.gettempdir()}: "
                f"{error.strerror}; make room, or set TMPDIR to a folder on a larger disk"
            ) from error
        return np.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype)


def build_store_table(blocks: tuple[Block, ...]) -> StoreArrays:
    """Return the table of a store's blocks.

    Raises:
        IntegrityError: the sentence lengths of a block do not sum to its number of tokens
    """
    groups = _group_starts(blocks)
    first_rows = [block.first_row for block in blocks]
    num_rows = first_rows[-1] + len(blocks[-1].id_offsets) - 1 if blocks else 0
    table = StoreTable(
        first_rows=np.array([*first_rows, num_rows], np.int64),
        ids=_addresses([block.unchecked_ids for block in blocks]),
        id_offsets=_addresses([block.id_offsets for block in blocks]),
        sentence_lengths=_addresses([block.sentence_lengths for block in blocks]),
        sentence_offsets=_addresses([block.sentence_offsets for block in blocks]),
        offset_bytes=np.array([block.sentence_offsets.itemsize for block in blocks], np.int64),
        group_starts=_addresses(groups),
        first_tokens=np.array([block.id_offsets[0] for block in blocks], np.int64),
        first_sentences=np.array([block.sentence_offsets[0] for block in blocks], np.int64),
    )
    return StoreArrays(
        table=table,
        num_documents=num_rows,
        num_tokens=sum(int(block.id_offsets[-1] - block.id_offsets[0]) for block in blocks),
        num_sentences=sum(
            int(block.sentence_offsets[-1] - block.sentence_offsets[0]) for block in blocks
        ),
        id_dtype=blocks[0].unchecked_ids.dtype if blocks else np.dtype(np.uint16),
        blocks=blocks,
        owners=(groups,),
        unchecked=set(range(len(blocks))),
    )


def _addresses(arrays: list[np.ndarray]) -> np.ndarray:
    return np.array([array.ctypes.data for array in arrays], np.int64)


def _group_starts(blocks: tuple[Block, ...]) -> list[np.ndarray]:
    """Return the tokens before each group of sentences, int64 (groups,), by block."""
    sentences = [int(b.sentence_offsets[-1] - b.sentence_offsets[0]) for b in blocks]
    ends = np.cumsum([(count >> _GROUP_SHIFT) + 1 for count in sentences], dtype=np.int64)
    starts = np.split(scratch_array(int(ends.max(initial=0)), np.int64), ends[:-1])[: len(blocks)]
    for block, own in zip(blocks, starts, strict=True):
        _fill_group_starts(block, own)
    return starts


def _fill_group_starts(block: Block, starts: np.ndarray) -> None:
    first, last = int(block.sentence_offsets[0]), int(block.sentence_offsets[-1])
    lengths = block.sentence_lengths[first:last]
    num_tokens = int(block.id_offsets[-1] - block.id_offsets[0])
    total = _sum_groups(lengths, starts)
    if total != num_tokens:
        raise IntegrityError(
            f"the block of documents from row {block.first_row} has {num_tokens} tokens, but its "
            f"sentence lengths sum to {total}: the store is damaged, tokenize again"
        )


@numba.njit(cache=True, nogil=True)
def _sum_groups(lengths: np.ndarray, starts: np.ndarray) -> int:
    """Fill the tokens before each group, int64 (groups,); return the number of all tokens."""
    total = 0
    for index in range(len(lengths)):
        if index & (SENTENCE_GROUP - 1) == 0:
            starts[index >> _GROUP_SHIFT] = total
        total += lengths[index]
    if len(lengths) & (SENTENCE_GROUP - 1) == 0:
        starts[len(lengths) >> _GROUP_SHIFT] = total
    return total


def _pointer_type(typing_context: Any, address: Any, number_class: Any) -> tuple[Any, Any]:
    return _cast_to_pointer(_c_pointer(number_class.dtype), address, number_class)


def _pointer_type_like(typing_context: Any, address: Any, array: Any) -> tuple[Any, Any]:
    return _cast_to_pointer(_c_pointer(array.dtype), address, array)


def _cast_to_pointer(pointer: Any, *arguments: Any) -> tuple[Any, Any]:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(pointer))

    return pointer(*arguments), codegen


_c_pointer: Any = types.CPointer
# In a kernel: an address as a pointer to numbers of a class, as `np.uint32`, or of an array's type.
_pointer: Any = intrinsic(_pointer_type)
_pointer_like: Any = intrinsic(_pointer_type_like)


@numba.njit(cache=True)
def find_block(first_rows: np.ndarray, row: int) -> int:
    """Return the block that holds a document row: `first_rows[block] <= row`, the last such.

    Args:
        first_rows: int64 (K + 1,), the first row of each block, then the number of rows
        row: in [0, first_rows[-1])

    Example:
        >>> find_block(np.array([0, 3, 9]), 3)
        1
    """
    low, high = 0, len(first_rows) - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if first_rows[middle] <= row:
            low = middle
        else:
            high = middle
    return low


@numba.njit(cache=True)
def sentence_range(table: StoreTable, block: int, row: int) -> tuple[int, int]:
    """Return the first sentence of a document and the one after its last, within its block."""
    local = row - table.first_rows[block]
    size = local + 2
    if table.offset_bytes[block] == 4:
        narrow = carray(_pointer(table.sentence_offsets[block], np.int32), size)
        return int64(narrow[local]), int64(narrow[local + 1])
    wide = carray(_pointer(table.sentence_offsets[block], np.int64), size)
    return wide[local], wide[local + 1]


@numba.njit(cache=True)
def lengths_until(table: StoreTable, block: int, stop: int) -> np.ndarray:
    """Return the block's sentence lengths up to `stop`, uint32 (stop,), without a copy."""
    return carray(_pointer(table.sentence_lengths[block], np.uint32), stop)


@numba.njit(cache=True)
def ids_until(table: StoreTable, block: int, stop: int, like: np.ndarray) -> np.ndarray:
    """Return the block's ids up to `stop`, (stop,) of the dtype of `like`, without a copy."""
    return carray(_pointer_like(table.ids[block], like), stop)


@numba.njit(cache=True)
def token_start(table: StoreTable, block: int, sentence: int) -> int:
    """Return where in the block's ids a sentence begins, in at most 63 additions."""
    first = table.first_sentences[block]
    group = (sentence - first) >> _GROUP_SHIFT
    starts = carray(_pointer(table.group_starts[block], np.int64), group + 1)
    lengths = lengths_until(table, block, sentence)
    total = int64(table.first_tokens[block] + starts[group])
    for index in range(first + (group << _GROUP_SHIFT), sentence):
        total += lengths[index]
    return total
