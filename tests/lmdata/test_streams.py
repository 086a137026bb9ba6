"""lmdata/reading/streams.py: decompressing and decoding, whole or broken, wherever a chunk ends."""

from __future__ import annotations

import encodings.aliases
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmdata.corpus import CorpusConfig
from lmdata.errors import CorpusError
from tests.lmdata.corpus_files import (
    COMPRESS,
    encode,
    read,
    read_with_losses,
    write,
)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 1 << 20])
@pytest.mark.parametrize(
    ("encoding", "given_as"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-8-sig", "auto"),
        ("utf-8", "auto"),
        ("utf-16", "auto"),
        ("utf-32", "auto"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("cp932", "cp932"),
        ("gb18030", "gb18030"),
        ("iso2022_jp", "iso2022_jp"),
    ],
)
def test_encodings_are_decoded_wherever_a_chunk_ends(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    given_as: str,
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", max(chunk_bytes, 4))
    text = "日本語 abc\r\nと\rEnglish\n"
    path = write(tmp_path / "a.txt", text.encode(encoding))
    assert read(path, encoding=given_as) == ["日本語 abc\nと\nEnglish\n"]
    assert read(path, encoding=given_as, documents="line") == ["日本語 abc", "と", "English"]


def test_a_byte_order_mark_is_removed_only_at_the_beginning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf\xef\xbb\xbfa\xef\xbb\xbf")
    assert read(path) == ["\ufeffa\ufeff"]
    assert read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}')) == ["a"]
    assert read(write(tmp_path / "a.csv", b"\xef\xbb\xbftext\na\n")) == ["a"]


def test_json_lines_may_be_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "日本"}\n{"text": "語"}\n'.encode("utf-16"))
    assert read(path, encoding="utf-16") == ["日本", "語"]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".jsonl.gz"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_text_of_utf16_without_a_mark_is_named(tmp_path: Path, suffix: str, encoding: str) -> None:
    text = {".txt": "café au lait\n", ".csv": "text\ncafé\n"}.get(suffix, '{"text": "café"}\n')
    data = text.encode(encoding)
    path = write(tmp_path / f"a{suffix}", gzip.compress(data) if suffix[-1] == "z" else data)
    with pytest.raises(CorpusError, match=rf"looks like UTF-16 .* name its --encoding {encoding}"):
        read(path)
    assert read(path, encoding=encoding) == ["café au lait\n" if suffix == ".txt" else "café"]


def text_encodings() -> list[str]:
    """Return every encoding of Python that a corpus may be in."""
    found = []
    for name in sorted(set(encodings.aliases.aliases.values())):
        try:
            found += [CorpusConfig(encoding=name).encoding]
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("encoding", text_encodings())
def test_every_encoding_is_read_as_python_decodes_it_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", 5)
    text = "".join(c for c in "Aé語と~한ж{}+-\u20ac words " * 3 if is_encodable(c, encoding))
    path = write(tmp_path / "a.txt", text.encode(encoding))
    expected = text.encode(encoding).decode(encoding).removeprefix("\ufeff")
    assert read(path, encoding=encoding) == [expected]


def is_encodable(character: str, encoding: str) -> bool:
    try:
        return character.encode(encoding).decode(encoding) == character
    except UnicodeError:
        return False


def test_half_a_character_that_an_encoding_gives_is_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"good\nhalf +2AA- one\n")
    message = r"a.txt is utf-7 of half a character, U\+D800: name another --encoding"
    with pytest.raises(CorpusError, match=message):
        read(path, encoding="utf-7")
    settings: dict[str, Any] = {"encoding": "utf-7", "documents": "line"}
    assert read(path, errors="replace", **settings) == ["good", "half \ufffd one"]
    texts, losses, _ = read_with_losses(path, errors="skip", **settings)
    assert (texts, list(losses)) == (["good"], ["not-utf-8"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_utf16_without_a_mark_is_refused_or_left_out(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", "text".encode(f"{encoding}-le"))
    message = rf"a.txt is not {encoding}: it begins with no byte-order mark; .* {encoding}-le"
    with pytest.raises(CorpusError, match=message):
        read(path, encoding=encoding)
    assert list(read_with_losses(path, encoding=encoding, errors="skip")[1]) == ["not-utf-8"]
    assert read(path, encoding=f"{encoding}-le") == ["text"]


BAD = b"good one\nbad \xff one\ngood two\n"


@pytest.mark.parametrize("chunk_bytes", [4, 7, 1 << 20])
def test_what_is_not_utf8_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", chunk_bytes)
    path = write(tmp_path / "a.txt", BAD)
    message = r"a.txt is not UTF-8 at byte 13 \(0xff\): name its --encoding .* --errors replace"
    with pytest.raises(CorpusError, match=message):
        read(path)
    with pytest.raises(CorpusError, match=r"a.txt is not UTF-8 at byte 2"):
        read(write(tmp_path / "a.txt", b"ab\xe3\x81"))


def test_a_utf16_file_is_recognised_by_its_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "abc".encode("utf-16"))
    with pytest.raises(CorpusError, match=r"byte 0 .*: its byte-order mark says --encoding utf-16"):
        read(path)


@pytest.mark.parametrize("chunk_bytes", [4, 5, 1 << 20])
def test_another_encoding_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr("lmdata.reading.streams.CHUNK_BYTES", chunk_bytes)
    path = write(tmp_path / "a.txt", "日本".encode("cp932") + b"\x81 \n")
    with pytest.raises(CorpusError, match=r"a.txt is not cp932 at byte 4 .*: name another"):
        read(path, encoding="cp932")


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "ascii"])
def test_undecodable_bytes_can_be_replaced_or_skipped(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.txt", BAD)
    settings: dict[str, Any] = {"encoding": encoding, "documents": "line"}
    replaced = read(path, errors="replace", **settings)
    assert replaced[0::2] == ["good one", "good two"]
    assert "\ufffd" in replaced[1] or encoding == "cp932"
    texts, losses, positions = read_with_losses(path, errors="skip", **settings)
    if encoding != "cp932":
        assert texts == ["good one", "good two"]
        assert positions == [0, 2]
        assert list(losses) == ["not-utf-8"]
        assert losses["not-utf-8"][0] == 1
    assert read(path, errors="skip", encoding=encoding) == [] or encoding == "cp932"


def test_skipping_drops_the_file_the_paragraph_or_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n\ntwo\n\xff\n\nthree\n")
    assert read_with_losses(path, errors="skip") == ([], {"not-utf-8": (1, 18)}, [])
    texts, losses, _ = read_with_losses(path, errors="skip", documents="blank-line")
    assert texts == ["one", "three"]
    assert losses == {"not-utf-8": (1, 5)}
    records = b'{"text": "a"}\n{"text": "\xff"}\n{"text": "b", "x": "\xff"}\n'
    texts, losses, _ = read_with_losses(write(tmp_path / "a.jsonl", records), errors="skip")
    assert texts == ["a", "b"]
    assert losses == {"not-utf-8": (1, 1)}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_table_with_invalid_utf8_names_its_row(tmp_path: Path, suffix: str) -> None:
    column = pa.StringArray.from_buffers(
        3, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"ab\xffc")
    )
    table = pa.table({"text": column})
    if suffix == ".parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    path = tmp_path / f"a{suffix}"
    with pytest.raises(CorpusError, match=rf"a{suffix} record 2 is not UTF-8"):
        read(path)
    assert read(path, errors="replace") == ["a", "b\ufffd", "c"]
    assert read_with_losses(path, errors="skip") == (["a", "c"], {"not-utf-8": (1, 2)}, [0, 2])


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_truncated_file_is_refused_or_kept_up_to_the_damage(
    tmp_path: Path, compression: str
) -> None:
    rng = np.random.default_rng(3)
    lines = [json.dumps({"text": f"{n} {rng.bytes(60).hex()}"}) for n in range(4_000)]
    data = COMPRESS[compression]("\n".join(lines).encode())
    path = write(tmp_path / f"a.jsonl{compression}", data[: len(data) * 2 // 3])
    with pytest.raises(CorpusError, match=rf"a.jsonl{compression} is truncated or not valid"):
        read(path)
    texts, losses, _ = read_with_losses(path, errors="skip")
    assert 500 < len(texts) < 4_000
    assert texts == [json.loads(line)["text"] for line in lines[: len(texts)]]
    assert losses["damaged"][0] == 1


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".parquet", ".arrow"])
def test_a_damaged_file_of_every_format_is_named(tmp_path: Path, suffix: str) -> None:
    data = b"text\n" * 50 if suffix == ".txt" else encode(["text"] * 50, suffix)
    path = write(tmp_path / f"a{suffix}.gz", gzip.compress(data)[:-6])
    with pytest.raises(CorpusError, match=rf"a{suffix}.gz is truncated"):
        read(path)
    texts, losses, _ = read_with_losses(path, errors="skip")
    assert losses["damaged"][0] == 1
    assert len(texts) <= 50


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_file_that_is_not_compressed_is_refused(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / f"a.txt{compression}", "plain text\n")
    with pytest.raises(CorpusError, match=rf"not valid {compression}: .*get it again"):
        read(path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".parquet", "a.parquet is not valid .parquet"), (".arrow", "a.arrow is not valid .arrow")],
)
@pytest.mark.parametrize("data", [b"", b"text\n", b"PAR1" * 20, b"ARROW1\0\0" * 20])
def test_what_is_no_table_is_refused_or_counted(
    tmp_path: Path, suffix: str, message: str, data: bytes
) -> None:
    path = write(tmp_path / f"a{suffix}", data)
    if data:
        with pytest.raises(CorpusError, match=message):
            read(path)
        assert list(read_with_losses(path, errors="skip")[1]) == ["damaged"]
    else:
        assert read_with_losses(path) == ([], {"empty": (1, 0)}, [])


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".stream", ".csv", ".jsonl"])
def test_a_table_without_rows_is_one_empty_document(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix.replace('stream', 'arrow')}", encode([], suffix))
    assert read_with_losses(path) == ([], {"empty": (1, 0)}, [])
