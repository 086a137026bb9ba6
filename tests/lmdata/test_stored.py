"""lmdata/stored.py: compressed files are read as their own programs read them, to the end."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import re
import shutil
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard

from lmdata.stored import (
    CompressionError,
    Decompressed,
    WindowError,
    is_lfs_pointer,
    read_decompressed,
)
from tests.lmdata.corpus_files import COMPRESS, read, read_with_losses, write

PROGRAMS = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "zstd"}
ONE, TWO = b"one line\n" * 400, b"another\n" * 300


def compress(compression: str, data: bytes) -> bytes:
    return COMPRESS[f".{compression}"](data)


def decompress(compression: str, data: bytes, num_bytes: int = 1 << 16) -> bytes | None:
    """Return what is read of a compressed file, None where it is called damaged."""
    reader = Decompressed(io.BytesIO(data), compression)
    parts = []
    try:
        while part := reader.read(num_bytes):
            assert len(part) <= num_bytes
            parts.append(part)
    except CompressionError:
        return None
    return b"".join(parts)


SKIPPABLE = struct.pack("<II", 0x184D2A5F, 100_000) + bytes(100_000)

# What lies between and behind two streams, and what the programs say (gzip 1.12, bzip2 1.0.8,
# xz 5.4.1, zstd 1.5.4): how many of the two streams they read with exit status 0, or that they
# refuse. Of gzip, members behind zero bytes are read here too, and lost by the program; those
# behind other bytes, which it loses with a warning, are an error.
VERDICTS = [
    ("gz", b"", b"", 2),
    ("gz", b"", bytes(512), 2),
    ("gz", bytes(7), b"", 2),
    ("gz", b"", b"garbage", 2),
    ("gz", b"", bytes(7) + b"garbage", 2),
    ("gz", b"garbage", b"", None),
    ("gz", b"g" * 70_000, b"", None),
    ("gz", b"", b"g", None),
    ("gz", b"", b"\x1f\x8b", None),
    ("gz", b"", b"\x1f\x8a\x08 a damaged member", None),
    ("bz2", b"", b"", 2),
    ("bz2", b"", bytes(512), 2),
    ("bz2", b"", b"garbage", 2),
    ("bz2", b"garbage", b"", 1),
    ("bz2", b"", b"B", None),
    ("bz2", b"", b"BZh", None),
    ("bz2", b"", b"BZh9", None),
    ("bz2", b"", b"BZh0", 2),
    ("bz2", b"", b"BZhx", 2),
    ("xz", b"", b"", 2),
    ("xz", bytes(4), bytes(8), 2),
    ("xz", bytes(3), b"", None),
    ("xz", b"", bytes(2), None),
    ("xz", b"", b"garbage", None),
    ("xz", b"", b"\xfd7zXZ", None),
    ("zst", b"", b"", 2),
    ("zst", SKIPPABLE, SKIPPABLE, 2),
    ("zst", b"", SKIPPABLE[:500], None),
    ("zst", b"", bytes(4), None),
    ("zst", b"", b"garbage", None),
    ("zst", b"", b"\x28", None),
]


@pytest.mark.parametrize("num_bytes", [1, 1000, 1 << 20])
@pytest.mark.parametrize(("compression", "between", "behind", "num_streams"), VERDICTS)
def test_what_lies_between_streams_and_behind_them_is_judged_as_the_program_does(
    compression: str, between: bytes, behind: bytes, num_streams: int | None, num_bytes: int
) -> None:
    empty = compress(compression, b"")
    parts = [compress(compression, ONE), empty, between, compress(compression, TWO), empty, behind]
    expected = None if num_streams is None else (ONE + TWO if num_streams == 2 else ONE)
    assert decompress(compression, b"".join(parts), num_bytes) == expected


@pytest.mark.parametrize("compression", PROGRAMS)
def test_a_file_without_a_stream_is_damaged(compression: str) -> None:
    assert decompress(compression, bytes(4) + compress(compression, ONE)) is None
    assert decompress(compression, ONE) is None


def _damage(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    if rng.random() < 0.3:
        at = min(at, rng.choice([3, 20, 60]))  # headers
    kind = rng.choice(["bit", "byte", "cut", "delete", "insert", "zeros"])
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "byte":
        return data[:at] + rng.randbytes(1) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "delete":
        return data[:at] + data[at + rng.choice([1, 4, 50]) :]
    added = (
        rng.randbytes(rng.choice([1, 4, 100])) if kind == "insert" else bytes(rng.choice([1, 4]))
    )
    return data[:at] + added + data[at:]


@pytest.mark.parametrize("compression", PROGRAMS)
def test_a_random_damage_is_judged_as_the_program_does(compression: str) -> None:
    program = shutil.which(PROGRAMS[compression])
    if program is None:
        pytest.skip(f"{PROGRAMS[compression]} is not installed")
    rng = random.Random(7)
    texts = [bytes(rng.choices(b"abcdef \n", k=size)) for size in (300, 0, 30_000)]
    whole = b"".join(compress(compression, text) for text in texts)
    assert decompress(compression, whole) == b"".join(texts)
    for _ in range(60):
        data = _damage(rng, whole)
        verdict = subprocess.run([program, "-dc"], input=data, capture_output=True, check=False)
        found = decompress(compression, data)
        if verdict.returncode == 0:
            assert found == verdict.stdout
        elif found is not None:  # zero bytes between members of gzip
            assert verdict.returncode == 2, verdict.stderr
            assert verdict.stdout == found[: len(verdict.stdout)]
            assert set(found) <= set(b"".join(texts))


def test_a_stream_that_was_lost_is_not_lost_any_more(tmp_path: Path) -> None:
    lines = [b'{"text": "%d"}\n' % number for number in range(3)]
    for suffix, pack in COMPRESS.items():
        data = b"".join([pack(lines[0]), pack(b""), pack(lines[1]), pack(lines[2])])
        assert read(write(tmp_path / f"a.jsonl{suffix}", data)) == ["0", "1", "2"]
    padded = COMPRESS[".xz"](lines[0]) + bytes(8) + COMPRESS[".xz"](lines[1])
    assert read(write(tmp_path / "padded.jsonl.xz", padded)) == ["0", "1"]


@pytest.mark.parametrize("suffix", [".bz2", ".gz"])
def test_what_the_program_ignores_is_counted_with_its_bytes(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.txt{suffix}", COMPRESS[suffix](b"text") + b"junk behind")
    assert read_with_losses(path) == (["text"], {"trailing-garbage": (1, 11)}, [0])


@pytest.mark.parametrize("compression", PROGRAMS)
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv"])
def test_a_compressed_file_of_no_bytes_is_damaged(
    tmp_path: Path, compression: str, suffix: str
) -> None:
    path = write(tmp_path / f"a{suffix}.{compression}", b"")
    with pytest.raises(Exception, match=rf"it is empty, it has no \.{compression} header; get it"):
        read(path)
    assert read_with_losses(path, errors="skip")[:2] == ([], {"damaged": (1, 0)})


@pytest.mark.parametrize("compression", PROGRAMS)
def test_a_bomb_is_unfolded_a_little_at_a_time(compression: str) -> None:
    data = compress(compression, bytes(64 << 20))
    tracemalloc.start()
    reader = Decompressed(io.BytesIO(data), compression)
    assert len(reader.read(1 << 16)) <= 1 << 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20  # with the 8 MiB that xz refers back to


def follow_advice(path: Path, message: str) -> list[str]:
    """Return what a refused file holds when what its error says is done."""
    with pytest.raises(Exception, match=message) as found:
        read(path)
    advice = re.search(r"--set corpus.max_document_bytes=(\d+)", str(found.value))
    assert advice is not None
    return read(path, max_document_bytes=int(advice[1]))


def test_the_largest_windows_are_read_when_the_advice_is_followed(tmp_path: Path) -> None:
    head = b"\x28\xb5\x2f\xfd\x00"  # no checksum, no size; then the window, one last raw block
    for name, mib in ((b"\xa0", 1024), (b"\xa8", 2048)):
        path = write(tmp_path / "a.txt.zst", head + name + b"\x29\0\0text\n")
        assert follow_advice(path, f"{mib} MiB to decompress, 192 MiB are allowed") == ["text\n"]
    path = write(tmp_path / "a.txt.zst", head + b"\xa9\x29\0\0text\n")
    with pytest.raises(Exception, match="a window of 2304 MiB, which nothing decompresses"):
        read(path)
    packed = bytearray(lzma.compress(b"text\n"))
    packed[16] = 33  # the dictionary: 384 MiB
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    path = write(tmp_path / "a.txt.xz", bytes(packed))
    assert follow_advice(path, r"384 MiB to decompress, 192 MiB are allowed") == ["text\n"]


def test_a_window_over_the_budget_is_refused_and_says_what_to_raise(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packer.compress(b"text\n") + packer.flush()
    with pytest.raises(WindowError, match=r"a window of 256 MiB to decompress, 128 MiB are"):
        Decompressed(io.BytesIO(data), "zst").read(1)
    assert Decompressed(io.BytesIO(data), "zst", 256 << 20).read(9) == b"text\n"
    path = write(tmp_path / "a.txt.zst", data)
    assert follow_advice(path, r"256 MiB to decompress, 192 MiB are allowed") == ["text\n"]
    assert read_with_losses(path, errors="skip")[1] == {"too-large": (1, 0)}


def test_a_whole_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    packed = write(tmp_path / "a.TSV.GZ", gzip.compress(ONE) + gzip.compress(TWO))
    assert read_decompressed(packed, 10_000) == ONE + TWO
    assert read_decompressed(write(tmp_path / "b.tsv", ONE), len(ONE)) == ONE
    with pytest.raises(CompressionError, match="more than the 5000 bytes that are allowed"):
        read_decompressed(packed, 5000)


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n"
    pointer = write(tmp_path / "a.jsonl", text)
    write(tmp_path / "b.jsonl", '{"text": "here"}\n')
    assert is_lfs_pointer(pointer)
    assert not is_lfs_pointer(tmp_path / "b.jsonl")
    with pytest.raises(
        Exception, match=r"a.jsonl is not here, only its Git LFS pointer: git lfs p"
    ):
        read(pointer)
    losses = read_with_losses(pointer, errors="skip")[1]
    assert losses == {"git-lfs-pointer": (1, len(text))}
