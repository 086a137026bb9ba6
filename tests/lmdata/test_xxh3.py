import hashlib

import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from lmdata.xxh3 import NumpyXxh3, hash_file

LENGTHS = [*range(260), 1023, 1024, 1025, 1087, 1088, 1089, 2047, 2048, 2049, 1 << 18]


def some_bytes(length: int) -> bytes:
    return hashlib.shake_128(length.to_bytes(4, "little")).digest(length)


@pytest.mark.parametrize("length", LENGTHS)
def test_numpy_gives_the_hash_of_the_xxhash_package(length):
    data = some_bytes(length)
    assert NumpyXxh3(data).hexdigest() == xxhash.xxh3_128_hexdigest(data)


@given(parts=st.lists(st.binary(max_size=3000), max_size=6))
@example(parts=[b"a" * 1024, b"", b"b"])
@example(parts=[b"a" * 1024, b"b" * 63])
@example(parts=[b"", b"a" * 240, b"b"])
def test_bytes_may_come_in_parts(parts):
    digest = NumpyXxh3()
    for number, part in enumerate(parts):
        digest.update(memoryview(part))
        whole = b"".join(parts[: number + 1])
        assert digest.hexdigest() == xxhash.xxh3_128_hexdigest(whole)


def test_a_flipped_bit_is_seen(tmp_path):
    data = bytearray(some_bytes(5000))
    before = NumpyXxh3(data).hexdigest()
    for place in (0, 1023, 1024, 4095, 4936, 4999):
        data[place] ^= 1
        assert NumpyXxh3(data).hexdigest() != before
        data[place] ^= 1


def test_a_file_has_the_hash_of_its_bytes(tmp_path):
    data = some_bytes(300_000)
    (tmp_path / "file").write_bytes(data)
    assert hash_file(tmp_path / "file") == xxhash.xxh3_128_hexdigest(data)
