"""XXH3-128, the hash of files, manifests and tokenizers (Collet, xxHash fast digest algorithm).

It is the `xxhash` package's where that is installed. Elsewhere NumPy gives the same hash, some
hundred times slower: enough for a machine that only trains.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

_MASK32, _MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_P32_1, _P32_2, _P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MIX_1, _MIX_2 = 0x165667919E3779F9, 0x9FB21C651E98DF25
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_STRIPE, _BLOCK = 64, 1024  # bytes: 8 words, and 16 stripes, each with a key of its own
_STARTS = np.array([_P32_3, _P1, _P2, _P3, _P4, _P32_2, _P5, _P32_1], np.uint64)
_CHUNK_BLOCKS = 1 << 12  # how many are added up at once
_SHIFT, _FACTOR, _LOW = np.uint64(47), np.uint64(_P32_1), np.uint64(_MASK32)


class NumpyXxh3:
    """What `xxhash.xxh3_128` makes: bytes are added with `update`, `hexdigest` has 32 digits."""

    def __init__(self, data: Any = b"") -> None:
        self._sums = _STARTS.copy()  # uint64 (8,)
        self._tail = b""  # what no full block was made of yet; 1 .. 1024 bytes after the first
        self._before = b""  # the 64 bytes before it
        self._length = 0
        self.update(data)

    def update(self, data: Any) -> None:
        """Add bytes, of any object with a buffer."""
        added = memoryview(data).cast("B")
        self._length += len(added)
        content = self._tail + bytes(added)
        # The last block, full or not, is for the end: its last stripe is keyed in another way.
        end = max(0, len(content) - 1) // _BLOCK * _BLOCK
        if end:
            _add_blocks(self._sums, np.frombuffer(content[:end], "<u8"))
            self._before = content[end - _STRIPE : end]
        self._tail = content[end:]

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far as 32 hexadecimal digits."""
        low, high = self._long() if self._length > 240 else _short(self._tail)
        return f"{high:016x}{low:016x}"

    def _long(self) -> tuple[int, int]:
        content = self._before + self._tail
        num_stripes = (len(self._tail) - 1) // _STRIPE
        sums = self._sums.copy()
        if num_stripes:
            words = np.frombuffer(self._tail[: num_stripes * _STRIPE], "<u8").reshape(-1, 8)
            sums += _products(words, _keys(num_stripes)).sum(axis=0, dtype=np.uint64)
        last = np.frombuffer(content[-_STRIPE:], "<u8").reshape(1, 8)
        sums += _products(last, _words_at(121, 8)[None])[0]
        totals = [int(total) for total in sums]
        low = _merge(totals, 11, self._length * _P1)
        return low, _merge(totals, 117, ~(self._length * _P2))


def _words_at(start: int, count: int) -> np.ndarray:
    """Return words of the secret from a byte on: uint64 (count,)."""
    return np.frombuffer(_SECRET, "<u8", count, start)


def _keys(count: int) -> np.ndarray:
    """Return the keys of the first stripes of a block, each 8 bytes on: uint64 (count, 8)."""
    return np.stack([_words_at(8 * number, 8) for number in range(count)])


def _products(words: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return what stripes (..., 8) add to the sums: uint64 (..., 8)."""
    keyed = words ^ keys
    products = (keyed & _LOW) * (keyed >> np.uint64(32))
    products += words[..., [1, 0, 3, 2, 5, 4, 7, 6]]
    return np.asarray(products)


def _add_blocks(sums: np.ndarray, words: np.ndarray) -> None:
    """Add full blocks, uint64 (128 n,), to the sums in place, scrambled after each."""
    keys, scramble = _keys(16), _words_at(128, 8)
    blocks = words.reshape(-1, 16, 8)
    for start in range(0, len(blocks), _CHUNK_BLOCKS):
        chunk = blocks[start : start + _CHUNK_BLOCKS]
        for added in _products(chunk, keys).sum(axis=1, dtype=np.uint64):
            sums += added
            sums ^= sums >> _SHIFT
            sums ^= scramble
            sums *= _FACTOR


def _merge(totals: list[int], start: int, first: int) -> int:
    """Return the 8 sums as one word."""
    keys = [int(word) for word in _words_at(start, 8)]
    keyed = [total ^ key for total, key in zip(totals, keys, strict=True)]
    folded = [_fold(keyed[i], keyed[i + 1]) for i in range(0, 8, 2)]
    return _avalanche(first + sum(folded))


def _short(data: bytes) -> tuple[int, int]:
    """Return the low and the high word of the hash of at most 240 bytes."""
    length = len(data)
    if length > 16:
        return _middle(data)
    if length > 8:
        return _nine_to_sixteen(data)
    if length > 3:
        return _four_to_eight(data)
    if length:
        low = data[0] << 16 | data[length >> 1] << 24 | data[-1] | length << 8
        swapped = int.from_bytes(low.to_bytes(4, "little"), "big")
        high = (swapped << 13 | swapped >> 19) & _MASK32
        return _finish(low ^ _key32(0) ^ _key32(4)), _finish(high ^ _key32(8) ^ _key32(12))
    return _finish(_key(64) ^ _key(72)), _finish(_key(80) ^ _key(88))


def _four_to_eight(data: bytes) -> tuple[int, int]:
    keyed = (_word32(data, 0) + (_word32(data, len(data) - 4) << 32)) ^ _key(16) ^ _key(24)
    product = keyed * (_P1 + (len(data) << 2))
    low, high = product & _MASK64, product >> 64
    high = (high + (low << 1)) & _MASK64
    low ^= high >> 3
    low = ((low ^ low >> 35) * _MIX_2) & _MASK64
    return low ^ low >> 28, _avalanche(high)


def _nine_to_sixteen(data: bytes) -> tuple[int, int]:
    first, last = _word(data, 0), _word(data, len(data) - 8)
    product = (first ^ last ^ _key(32) ^ _key(40)) * _P1
    low = ((product & _MASK64) + ((len(data) - 1) << 54)) & _MASK64
    last ^= _key(48) ^ _key(56)
    high = ((product >> 64) + last + (last & _MASK32) * (_P32_2 - 1)) & _MASK64
    low ^= int.from_bytes(high.to_bytes(8, "little"), "big")
    product = low * _P2
    return _avalanche(product), _avalanche((product >> 64) + high * _P2)


def _middle(data: bytes) -> tuple[int, int]:
    """Of 17 to 240 bytes."""
    length = len(data)
    low, high = length * _P1 & _MASK64, 0

    def mix(one: int, other: int, key: int) -> None:
        nonlocal low, high
        low = (low + _mix(data, one, key)) & _MASK64
        low ^= (_word(data, other) + _word(data, other + 8)) & _MASK64
        high = (high + _mix(data, other, key + 16)) & _MASK64
        high ^= (_word(data, one) + _word(data, one + 8)) & _MASK64

    if length <= 128:
        for i in reversed(range((length - 1) // 32 + 1)):
            mix(16 * i, length - 16 * (i + 1), 32 * i)
    else:
        for start in range(0, 128, 32):
            mix(start, start + 16, start)
        low, high = _avalanche(low), _avalanche(high)
        for start in range(128, length - 31, 32):
            mix(start, start + 16, 3 + start - 128)
        mix(length - 16, length - 32, 103)
    mixed = low * _P1 + high * _P4 + length * _P2
    return _avalanche(low + high), -_avalanche(mixed) & _MASK64


def _mix(data: bytes, start: int, key: int) -> int:
    return _fold(_word(data, start) ^ _key(key), _word(data, start + 8) ^ _key(key + 8))


def _word(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 8], "little")


def _word32(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "little")


def _key(start: int) -> int:
    return _word(_SECRET, start)


def _key32(start: int) -> int:
    return _word32(_SECRET, start)


def _fold(one: int, other: int) -> int:
    """Return the two halves of a product, combined."""
    product = one * other
    return (product & _MASK64) ^ (product >> 64)


def _avalanche(word: int) -> int:
    word &= _MASK64
    word = ((word ^ word >> 37) * _MIX_1) & _MASK64
    return word ^ word >> 32


def _finish(word: int) -> int:
    """Return the last mixing of XXH64, which the shortest inputs have."""
    word = ((word ^ word >> 33) * _P2) & _MASK64
    word = ((word ^ word >> 29) * _P3) & _MASK64
    return word ^ word >> 32


try:
    from xxhash import xxh3_128 as xxh3_128
except ImportError:
    xxh3_128 = NumpyXxh3  # type: ignore[assignment,misc]


def hash_file(path: Any) -> str:
    """Return the xxh3_128 of a file's bytes, in hex; of a path, or whatever opens like one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()
