"""Pages and web archives: the text that a reader sees, every record counted, damage told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from lmdata.corpus import CorpusConfig, read_documents, survey_sources
from lmdata.errors import ConfigError, CorpusError

pytest.importorskip("fastwarc", reason="the extra [web] is not installed")
pytest.importorskip("resiliparse", reason="the extra [web] is not installed")

PAGE = (
    "<html><head><title>T</title><style>p {}</style></head><body><nav>Menu Home</nav>"
    "<p>Hello w\u00f6rld.</p><p>Second.</p><script>x()</script></body></html>"
)
TEXT = "Hello w\u00f6rld.\n\nSecond."


def record(kind: str, body: bytes, content: str) -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a/\r\n"
        "WARC-Record-ID: <urn:uuid:12345678-1234-1234-1234-123456789012>\r\n"
        f"WARC-Date: 2020-01-01T00:00:00Z\r\nContent-Type: {content}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def response(body: bytes, kind: str = "text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return record("response", head + body, "application/http; msgtype=response")


RECORDS = [
    record("warcinfo", b"a: b\r\n", "application/warc-fields"),
    response(PAGE.encode()),
    record("request", b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request"),
    response(b"\x89PNG", "image/png"),
    response(PAGE.encode("latin-1"), "text/html; charset=latin-1"),
    response(b"<p>Not here.</p>", status="404 Not Found"),
    record("conversion", "Already text, \u00e9.\n".encode(), "text/plain"),
    response(b"<html><body></body></html>"),
]


def read(path: Path, **settings: object) -> tuple[list[str], list[int], dict[str, int], int]:
    config = CorpusConfig(**settings)  # type: ignore[arg-type]
    (source,) = survey_sources([str(path)], config).sources
    texts, positions, dropped, num_bytes = [], [], dict[str, int](), 0
    for batch in read_documents(source, config):
        text = batch.text.tobytes()
        texts += [
            text[a:b].decode() for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)
        ]
        positions += batch.positions.tolist()
        num_bytes += batch.num_source_bytes
        for reason, count in batch.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return texts, positions, dropped, num_bytes


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.wet.gz"])
def test_pages_and_texts_of_an_archive_are_read_and_all_others_counted(
    tmp_path: Path, name: str
) -> None:
    parts = [gzip.compress(part) if name.endswith("gz") else part for part in RECORDS]
    (tmp_path / name).write_bytes(b"".join(parts))
    texts, positions, dropped, num_bytes = read(tmp_path / name)
    assert [text.strip() for text in texts] == [TEXT, TEXT, "Already text, \u00e9."]
    assert positions == [0, 2, 4]
    assert dropped == {"no-page": 2, "empty": 1}
    assert num_bytes == (tmp_path / name).stat().st_size


def test_a_page_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    texts, positions, dropped, _ = read(tmp_path / "a.html")
    assert ([text.strip() for text in texts], positions, dropped) == ([TEXT], [0], {})
    (tmp_path / "b.htm").write_bytes(b"")
    assert read(tmp_path / "b.htm")[2] == {"empty": 1}


def test_a_cut_archive_is_told_or_read_up_to_there(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(RECORDS * 30))
    (tmp_path / "a.warc.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=r"a\.warc\.gz is truncated"):
        read(tmp_path / "a.warc.gz")
    texts, _, dropped, _ = read(tmp_path / "a.warc.gz", errors="skip")
    assert len(texts) > 3
    assert dropped["damaged"] == 1


def test_what_is_too_large_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"".join([*RECORDS, response(b"<p>" + b"x" * 5000)]))
    with pytest.raises(CorpusError, match=r"a\.warc record 7 takes 5\d+ bytes or more"):
        read(tmp_path / "a.warc", max_document_bytes=1000)
    texts, _, dropped, _ = read(tmp_path / "a.warc", max_document_bytes=1000, errors="skip")
    assert (len(texts), dropped["too-large"]) == (3, 1)


def test_pages_in_a_folder_of_texts_are_read_where_a_pattern_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    (tmp_path / "b.html").write_text(PAGE)
    survey = survey_sources([str(tmp_path)], CorpusConfig())
    assert [source.name for source in survey.sources] == ["a.txt"]
    assert list(survey.skipped) == [
        "page of the web, which a pattern such as 'pages/*.html' must name"
    ]
    survey = survey_sources([str(tmp_path / "*.html")], CorpusConfig())
    assert [source.name for source in survey.sources] == ["b.html"]


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    monkeypatch.setitem(__import__("sys").modules, "resiliparse.extract.html2text", None)
    with pytest.raises(ConfigError, match=r"need resiliparse: pip install 'lmdata-lmmodel\[web\]'"):
        read(tmp_path / "a.html")
