"""lmdata/arrow_text.py and Arrow or Parquet files: nothing is read that was not checked."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmdata.arrow_text import (
    check_text,
    cut_rows,
    is_text,
    largest_buffer,
    largest_page,
    text_lengths,
    unfold_text,
)
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.errors import CorpusError
from lmdata.reading import streams
from tests.lmdata.corpus_files import read, read_with_losses, write

TEXTS = [f"row {i} " + "word " * (i % 7) for i in range(60)] + [None, "", "é日本"]
LAYOUTS: dict[str, pa.DataType] = {
    "string": pa.string(),
    "large": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "large-dictionary": pa.dictionary(pa.int64(), pa.large_string()),
}


def column_of(layout: str) -> Any:
    return pa.array(TEXTS).cast(LAYOUTS[layout])


def arrow_file(column: Any, *, stream: bool = False, compression: str | None = None) -> bytes:
    sink, table = io.BytesIO(), pa.table({"id": range(len(column)), "text": column})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    opener = pa.ipc.new_stream if stream else pa.ipc.new_file
    with opener(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=30)
    return sink.getvalue()


def parquet_file(column: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(column)), "text": column}), sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_of_every_layout_are_unfolded_alike(layout: str) -> None:
    column = check_text(column_of(layout))
    assert is_text(LAYOUTS[layout])
    for start, stop in ((0, len(TEXTS)), (7, 63), (5, 5)):
        lengths, is_null = text_lengths(column.slice(start, stop - start))
        texts = unfold_text(column.slice(start, stop - start))
        expected = [(text or "").encode() for text in TEXTS[start:stop]]
        assert is_null.tolist() == [text is None for text in TEXTS[start:stop]]
        assert lengths.tolist() == list(map(len, expected))
        assert [texts.row(i).tobytes() for i in range(len(texts))] == expected


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_bytes", [1, 50, 1 << 20])
def test_files_of_every_layout_are_read_alike(
    tmp_path: Path, layout: str, batch_bytes: int
) -> None:
    column = column_of(layout)
    files = [arrow_file(column), arrow_file(column, stream=True)]
    files += [arrow_file(column, compression="zstd")]
    expected = [text for text in TEXTS if text]
    for data in files:
        path = write(tmp_path / "a.arrow", data)
        texts, losses, positions = read_with_losses(path, batch_bytes, errors="skip")
        assert texts == expected
        assert positions == [row for row, text in enumerate(TEXTS) if text]
        assert losses == {"null": (1, 0), "empty": (1, 0)}


def test_cutting_rows_keeps_the_bound_where_one_row_does() -> None:
    lengths = np.random.default_rng(3).integers(0, 50, 200)
    for start, stop in (cuts := list(cut_rows(lengths, 60))):
        assert lengths[start:stop].sum() <= 60
    assert [start for start, _ in cuts] == [0, *[stop for _, stop in cuts[:-1]]]
    assert cuts[-1][1] == 200


def make_string(offsets: list[int]) -> Any:
    """Return texts at these offsets; PyArrow makes none that are wrong, so they become so later."""
    numbers = np.zeros(len(offsets), np.int32)
    buffers = [None, pa.py_buffer(numbers), pa.py_buffer(b"one two three")]
    column = pa.Array.from_buffers(pa.string(), len(offsets) - 1, buffers)
    numbers[:] = offsets
    return column


def make_view(length: int, buffer: int, offset: int) -> Any:
    views = np.array([20, 0x20656E6F, 0, 0], np.int32)
    data = pa.py_buffer(b"one text that is longer than a view")
    column = pa.Array.from_buffers(pa.string_view(), 1, [None, pa.py_buffer(views), data])
    views[:] = [length, 0x20656E6F, buffer, offset]
    return column


def make_dictionary(index: int) -> Any:
    indices = pa.array([0, index], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(["a", "b"]), safe=False)


BROKEN = {
    "offset behind the data": make_string([0, 3, 2**31 - 1]),
    "offset before the data": make_string([0, -4, 6]),
    "offsets that fall": make_string([0, 6, 3]),
    "view of another buffer": make_view(20, 7, 0),
    "view behind the data": make_view(20, 0, 30),
    "view of a negative length": make_view(-20, 0, 0),
    "index behind the dictionary": make_dictionary(2),
    "index before the dictionary": make_dictionary(-1),
    "dictionary of broken texts": pa.DictionaryArray.from_arrays(
        pa.array([0, 1], pa.int32()), make_string([0, 6, 3]), safe=False
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_wrong_place_is_found_before_it_is_looked_at(kind: str) -> None:
    with pytest.raises(pa.ArrowException):
        check_text(BROKEN[kind])


def test_rows_that_are_damaged_are_counted_and_the_others_read(tmp_path: Path) -> None:
    column = pa.array([f"text {number:04d}" for number in range(60)])
    data = arrow_file(column)
    offsets = np.arange(0, 9 * 31, 9, dtype=np.int32).tobytes()
    at = data.index(offsets) + 4 * 29
    path = write(tmp_path / "a.arrow", data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :])
    with pytest.raises(CorpusError, match=r"a.arrow records 1 to 30 are damaged: .*--errors skip"):
        read(path)
    texts, losses, positions = read_with_losses(path, errors="skip")
    assert texts == column[30:].to_pylist()
    assert losses == {"damaged": (30, 0)}
    assert positions == list(range(30, 60))


def test_a_row_group_with_other_rows_than_announced_is_damaged(tmp_path: Path) -> None:
    data = parquet_file(pa.array(["a"] * 50), row_group_size=10)
    ten, eleven = b"\x16\x14", b"\x16\x16"  # as a field of the footer
    places = [at for at in range(len(data)) if data.startswith(ten, at)]
    changed = [data[:at] + eleven + data[at + 2 :] for at in places]
    lying = [file for file in changed if num_rows(file) == 11]
    assert lying
    path = write(tmp_path / "a.parquet", lying[0])
    with pytest.raises(
        CorpusError, match=r"a.parquet is damaged after record \d+: 10 rows where 11 are an"
    ):
        read(path)


def num_rows(file: bytes) -> int:
    """Return the rows of the first group, as the footer says; 0 where it can't be read."""
    try:
        return int(pq.read_metadata(io.BytesIO(file)).row_group(0).num_rows)
    except (pa.ArrowException, OSError):
        return 0


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_text_that_is_named_often_is_unfolded_in_bounds(tmp_path: Path, suffix: str) -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 600, pa.int32()), ["x" * (1 << 20)])
    data = parquet_file(column) if suffix == ".parquet" else arrow_file(column)
    path = write(tmp_path / f"a{suffix}", data)
    code = (
        "import resource, sys; from lmdata.corpus import *; c = CorpusConfig();"
        "s, = find_sources([sys.argv[1]], c); n = 0\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for b in read_documents(s, c): n += len(b.positions); assert len(b.text) <= 8 << 20\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    num_documents, grown_kib = map(int, found.stdout.split())
    assert num_documents == 600
    assert grown_kib < 250 << 10


def test_rows_that_are_too_large_are_not_unfolded(tmp_path: Path) -> None:
    column = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 0, 0, 1], pa.int32()), ["x" * 5000, "short"]
    )
    path = write(tmp_path / "a.arrow", arrow_file(column))
    with pytest.raises(CorpusError, match=r"a.arrow record 1 takes 5000 bytes or more"):
        read(path, max_document_bytes=1000)
    texts, losses, _ = read_with_losses(path, 100, errors="skip", max_document_bytes=1000)
    assert (texts, losses) == (["short", "short"], {"too-large": (3, 15_000)})


def sample_files() -> list[tuple[str, bytes]]:
    """Return small files of every layout and way of writing."""
    files: list[tuple[str, bytes]] = []
    for layout in LAYOUTS:
        column = column_of(layout)
        files += [(".arrow", arrow_file(column)), (".arrow", arrow_file(column, stream=True))]
        files += [(".arrow", arrow_file(column, compression=name)) for name in ("lz4", "zstd")]
        files += [
            (".parquet", parquet_file(column)),
            (".parquet", parquet_file(column, use_dictionary=False, compression="none")),
            (".parquet", parquet_file(column, compression="zstd", row_group_size=20)),
            (".parquet", parquet_file(column, data_page_version="2.0", write_page_checksum=True)),
        ]
    return files


def mutate(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(changed))
        if rng.random() < 0.4:  # the footer, where the places are
            at = len(changed) - 1 - rng.randrange(min(len(changed), 700))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            value = rng.choice([b"\xff\xff\xff\x7f", b"\xff" * 4, b"\0" * 4, b"\0\0\0\x80"])
            changed[at : at + 4] = value
        elif kind == 3:
            changed[at : at + 8] = rng.choice([b"\xff" * 7 + b"\x7f", b"\xff" * 8, b"\0" * 8])
        else:
            del changed[at : at + rng.choice([1, 8, 100])]
    return bytes(changed) or b"x"


def judge_in_a_child(path: Path) -> str:
    """Return "read", "refused" or what went wrong, a crash of the process among it."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            read_with_losses(path, errors=random.Random(path.name).choice(["strict", "skip"]))
            verdict = "read"
        except CorpusError:
            verdict = "refused"
        except BaseException as error:  # told to the parent
            verdict = repr(error)
        os.write(sender, verdict.encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as answer:
        verdict = answer.read().decode()
    status = os.waitpid(child, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else verdict


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("num_files", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_changed_file_is_read_or_refused_and_never_ends_the_process(
    tmp_path: Path, num_files: int
) -> None:
    rng = random.Random(num_files)
    files = sample_files()
    read(write(tmp_path / "warm.arrow", files[0][1]), errors="skip")  # loads what children need
    verdicts = set()
    for number in range(num_files):
        suffix, data = rng.choice(files)
        path = write(tmp_path / f"{number}{suffix}", mutate(rng, data))
        verdicts.add(judge_in_a_child(path))
    assert verdicts == {"read", "refused"}


# ---- What is decompressed at once, and what is copied


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_largest_compressed_buffer_is_told_by_the_file(layout: str, stream: bool) -> None:
    texts = pa.array(["x" * 1009] * 31).cast(LAYOUTS[layout])
    # Of the one text that a dictionary has, of all rows behind views, of the 30 of a batch.
    num_bytes = 1009 * (1 if "dictionary" in layout else 31 if layout == "view" else 30)
    plain = arrow_file(texts, stream=stream)
    folded = arrow_file(texts, stream=stream, compression="zstd")
    assert len(folded) < len(plain)
    assert 0 <= largest_buffer(pa.py_buffer(folded)) - num_bytes < 64  # padded
    assert largest_buffer(pa.py_buffer(plain)) == 0


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zstd"}, {"data_page_version": "2.0"}, {"write_page_checksum": True}],
)
def test_the_largest_page_is_told_by_its_header(options: dict[str, Any]) -> None:
    texts = ["word " * (1 + i % 5) + str(i) for i in range(3001)]
    sink = pa.BufferOutputStream()
    table = pa.table({"id": range(3001), "text": texts})
    pq.write_table(table, sink, row_group_size=1201, use_dictionary=False, **options)
    file = pa.BufferReader(sink.getvalue())
    metadata = pq.read_metadata(file)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sizes = [sum(len(text) + 4 for text in texts[at : at + 1201]) for at in (0, 1201, 2402)]
    assert 0 <= largest_page(file, groups, "text") - max(sizes) < 64  # and the definition levels
    assert largest_page(file, groups[2:], "text") < max(sizes)


def test_headers_of_pages_and_messages_that_are_damaged_are_refused() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": TEXTS}), sink)
    whole = sink.getvalue().to_pybytes()
    metadata = pq.read_metadata(pa.BufferReader(whole))
    start = metadata.row_group(0).column(0).dictionary_page_offset
    for damage in (b"\x00", b"\x1c" * 40, b"\x15\x00\xff"):
        damaged = whole[:start] + damage + whole[start + len(damage) :]
        with pytest.raises(pa.ArrowInvalid, match="header of the page at byte 4 is damaged"):
            largest_page(pa.BufferReader(damaged), [metadata.row_group(0)], "text")
    folded = arrow_file(column_of("string"), compression="lz4")
    for place in range(8, len(folded) - 8, 3):  # whatever is damaged: a number or one error
        damaged = folded[:place] + b"\xfe\xff\xff\x7f" + folded[place + 4 :]
        with contextlib.suppress(pa.ArrowInvalid):
            largest_buffer(pa.py_buffer(damaged))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_bomb_in_one_page_or_buffer_is_refused_before_it_is_unfolded(
    tmp_path: Path, suffix: str
) -> None:
    column = pa.array(["x" * 500_000] * 11)
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": column}), path, use_dictionary=False, compression="zstd")
    else:
        write(path, arrow_file(column, compression="zstd"))
    assert path.stat().st_size < 100_000
    with pytest.raises(CorpusError, match=r"of 5 MiB, which is decompressed at once: raise what"):
        read(path, max_document_bytes=1_000_000)
    skipped = read_with_losses(path, max_document_bytes=1_000_000, errors="skip")
    assert skipped == ([], {"too-large": (1, 0)}, [])
    assert len(read(path, max_document_bytes=2_000_000)) == 11


def test_a_copy_on_disk_is_bounded_and_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = random.Random(7)
    texts = ["".join(letters.choices("abcdefgh ", k=300_000)) for _ in range(31)]
    data = gzip.compress(arrow_file(pa.array(texts)), 1)
    path = write(tmp_path / "copied.arrow.gz", data)
    batches = list(read_documents(find_sources([str(path)], CorpusConfig())[0], CorpusConfig()))
    before = [batch for batch in batches if not len(batch.positions)]
    assert sum(batch.num_source_bytes > 0 for batch in before) >= 2  # while it is copied
    assert sum(batch.num_source_bytes for batch in batches) == len(data)
    assert sum(len(batch.positions) for batch in batches) == 31
    monkeypatch.setattr(streams, "_MIN_COPY_BYTES", 5 << 20)
    monkeypatch.setattr(streams, "_MAX_EXPANSION", 1)
    with pytest.raises(CorpusError, match=r"holds more than 5 MiB where \d+ bytes are stored"):
        read(path)
    assert read_with_losses(path, errors="skip") == ([], {"too-large": (1, 0)}, [])
