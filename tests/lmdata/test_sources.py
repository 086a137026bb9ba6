"""lmdata/reading/sources.py: which files, in which order, and what is passed over."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from lmdata.config import load_config
from lmdata.corpus import (
    CorpusConfig,
    Source,
    Survey,
    find_sources,
    read_documents,
    split_source,
    survey_sources,
)
from lmdata.errors import ConfigError, CorpusError
from lmdata.reading.stdin import detect_kind
from tests.lmdata.corpus_files import (
    COMPRESS,
    encode,
    texts_of,
    write,
)

DEFAULT = CorpusConfig()


def test_a_folder_gives_its_files_by_name_and_says_what_it_passed_over(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl.zst", "a.txt", "B.TXT.GZ", "x.parquet", ".hidden.txt"):
        write(tmp_path / name)
    write(tmp_path / ".git" / "c.txt")
    write(tmp_path / "notes.pdf")
    survey = survey_sources([str(tmp_path)], DEFAULT)
    assert [source.name for source in survey.sources] == [
        "B.TXT.GZ", "a.txt", "a/z.jsonl.zst", "b.txt", "x.parquet",
    ]  # fmt: skip
    assert {reason: len(paths) for reason, paths in survey.skipped.items()} == {
        "hidden": 2, "unknown extension": 1,
    }  # fmt: skip
    assert survey.skipped["unknown extension"] == [str(tmp_path / "notes.pdf")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", ("txt", None)),
        ("a.text", ("txt", None)),
        ("a.jsonl", ("jsonl", None)),
        ("a.ndjson.bz2", ("jsonl", "bz2")),
        ("a.json.xz", ("jsonl", "xz")),
        ("a.parquet", ("parquet", None)),
        ("a.arrow", ("arrow", None)),
        ("a.feather.gz", ("arrow", "gz")),
        ("a.csv", ("csv", None)),
        ("a.b.tsv.zst", ("tsv", "zst")),
    ],
)
def test_the_extension_says_what_a_file_is(tmp_path: Path, name: str, kind: Any) -> None:
    (source,) = find_sources([str(write(tmp_path / name))], DEFAULT)
    assert (source.format, source.compression) == kind
    assert (source.name, source.size_bytes) == (name, 5)


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write(tmp_path / f"{number % 3}" / f"{number}.txt")
    before = find_sources([str(tmp_path)], DEFAULT)
    original = Path.iterdir

    def shuffled(path: Path) -> Any:
        entries = list(original(path))
        random.Random(7).shuffle(entries)
        return iter(entries)

    monkeypatch.setattr(Path, "iterdir", shuffled)
    assert find_sources([str(tmp_path)], DEFAULT) == before


def test_the_order_of_the_arguments_does_not_matter(tmp_path: Path) -> None:
    one, two = str(write(tmp_path / "one.txt")), str(write(tmp_path / "two.txt"))
    assert find_sources([one, two], DEFAULT) == find_sources([two, one], DEFAULT)


def test_a_glob_names_files_relative_to_its_fixed_part(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.txt")
    write(tmp_path / "d" / "e" / "b.txt")
    write(tmp_path / "d" / "c.pdf")
    names = [s.name for s in find_sources([f"{tmp_path}/d/**/*.txt"], DEFAULT)]
    assert names == ["a.txt", "e/b.txt"]
    survey = survey_sources([f"{tmp_path}/*"], DEFAULT)
    assert [source.name for source in survey.sources] == ["d/a.txt", "d/e/b.txt"]
    assert list(survey.skipped) == ["unknown extension"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].txt")
    assert [source.path for source in find_sources([str(path)], DEFAULT)] == [path]


def test_the_same_file_given_twice_is_taken_once(tmp_path: Path) -> None:
    path = write(tmp_path / "d" / "a.txt")
    arguments = [str(path), str(path), str(path.parent), f"{tmp_path}/d/../d/*.txt"]
    assert len(find_sources(arguments, DEFAULT)) == 1


def test_two_files_with_one_name_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.txt")
    write(tmp_path / "e" / "a.txt")
    with pytest.raises(CorpusError, match=r"d/a.txt and .*e/a.txt would both be named a.txt"):
        find_sources([f"{tmp_path}/d", f"{tmp_path}/e"], DEFAULT)


def test_links_are_followed_but_loops_are_cut(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.txt")
    (tmp_path / "d" / "up").symlink_to(tmp_path)
    (tmp_path / "twin").symlink_to(tmp_path / "d")
    (tmp_path / "b.txt").symlink_to(tmp_path / "d" / "a.txt")
    (tmp_path / "dead.txt").symlink_to(tmp_path / "nowhere")
    survey = survey_sources([str(tmp_path)], DEFAULT)
    assert [s.name for s in survey.sources] == ["b.txt", "d/a.txt", "twin/a.txt"]
    assert len(survey.skipped["link to a folder above"]) == 2
    assert survey.skipped["not a file"] == [str(tmp_path / "dead.txt")]


def test_a_folder_named_like_a_file_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "x.txt" / "a.txt")
    assert [s.name for s in find_sources([str(tmp_path)], DEFAULT)] == ["x.txt/a.txt"]
    assert [s.name for s in find_sources([f"{tmp_path}/x.txt"], DEFAULT)] == ["a.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no input: name a file, a folder, a glob pattern or -"),
        (["missing"], "no such file or folder: missing"),
        (["*.nothing"], r"no file matches \*.nothing"),
        (["empty"], "no text in empty: nothing there; reads .txt"),
        (["papers"], r"no text in papers: 1 passed over \(unknown extension, such as a.pdf\)"),
        (["papers/a.pdf"], "papers/a.pdf has no known extension: rename it to .txt"),
    ],
)
def test_what_cannot_be_found_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "papers" / "a.pdf")
    with pytest.raises(CorpusError, match=message):
        find_sources(arguments, DEFAULT)


def test_an_unreadable_folder_or_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = find_sources([str(write(tmp_path / "d" / "a.txt"))], DEFAULT)

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match=r"can't open .*a.txt: Permission denied"):
        list(read_documents(source, DEFAULT))
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CorpusError, match=r"can't read folder .*d: Permission denied"):
        find_sources([str(tmp_path / "d")], DEFAULT)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.xz", "a.parquet", "a.arrow"])
def test_a_file_that_vanished_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (source,) = find_sources([str(write(tmp_path / name))], DEFAULT)
    (tmp_path / name).unlink()
    with pytest.raises(CorpusError, match=rf"can't open .*{name}"):
        list(read_documents(source, DEFAULT))


JSON = b'{"text": "one two\\n"}\n'


class SlowPipe(io.RawIOBase):
    """A pipe whose writer takes its time: the first read gives little."""

    def __init__(self, data: bytes) -> None:
        self.parts = [data[:12], data[12:]]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.parts.pop(0) if self.parts else b""
        buffer[: len(part)] = part
        return len(part)


def text_file(data: bytes) -> Any:
    return io.TextIOWrapper(io.BytesIO(data))


def pipe(data: bytes) -> Any:
    return io.TextIOWrapper(io.BufferedReader(SlowPipe(data)))


@pytest.mark.parametrize("make_stdin", [text_file, pipe])
@pytest.mark.parametrize(("settings", "data", "kind", "texts"), [
    ({}, b"one two\n", "txt", ["one two\n"]),
    ({}, b"{curly} text, no JSON", "txt", ["{curly} text, no JSON"]),
    ({}, JSON, "jsonl", ["one two\n"]),
    ({}, b" \n" + JSON, "jsonl", ["one two\n"]),
    ({}, bz2.compress(b"one two\n"), "txt.bz2", ["one two\n"]),
    ({"stdin_format": "txt"}, JSON, "txt", [JSON.decode()]),
    ({"stdin_format": "jsonl.gz"}, gzip.compress(JSON), "jsonl.gz", ["one two\n"]),
])  # fmt: skip
def test_standard_input_is_what_its_first_bytes_say_or_the_user(
    monkeypatch: pytest.MonkeyPatch, make_stdin: Any, settings: dict[str, str], data: bytes,
    kind: str, texts: list[str],
) -> None:  # fmt: skip
    config = CorpusConfig(**settings)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", make_stdin(data))
    survey = survey_sources(["-"], config)
    (source,) = survey.sources
    assert source.name == "-"
    assert source.path is None
    assert ".".join(filter(None, (source.format, source.compression))) == kind
    assert len(survey.notes) == (not settings)
    ((start, stop),) = split_source(source, config, 1)
    batches = list(read_documents(source, config, start=start, stop=stop))
    assert texts_of(batches) == texts


TEXT = "standard input is read as plain text, "


@pytest.mark.parametrize(("data", "settings", "note"), [
    (b"one two\n", {}, f"{TEXT}one document; --set "
     "corpus.stdin_format=csv (or tsv, jsonl, ...) reads it as that"),
    (b"one\n\ntwo\n", {"documents": "blank-line"}, f"{TEXT}a document between blank lines; --set"),
    (b"one\ntwo\n", {"documents": "line"}, f"{TEXT}a document a line; --set corpus.stdin_format="),
    (b'text,label\n"Hello, there","a"\n', {}, f"{TEXT}one document; it begins as a table with a "
     "column 'text' does: --set corpus.stdin_format=csv reads that"),
    (b'\xef\xbb\xbfid\t"body"\r\n1\tx\n', {"text_field": "body"}, "=tsv reads that"),
    (gzip.compress(b"id,text\n1,x\n"), {}, "=csv.gz reads that"),
    (b"the text, and more\n", {}, "(or tsv, jsonl, ...)"),
    (JSON, {}, "read as jsonl; --set corpus.stdin_format=txt reads it as text"),
    (gzip.compress(JSON), {}, "as jsonl.gz; --set corpus.stdin_format=txt.gz reads it as text"),
])  # fmt: skip
def test_it_is_said_what_standard_input_is_taken_for(
    monkeypatch: pytest.MonkeyPatch, data: bytes, settings: dict[str, str], note: str
) -> None:
    monkeypatch.setattr(sys, "stdin", text_file(data))
    (found,) = survey_sources(["-"], CorpusConfig(**settings)).notes  # type: ignore[arg-type]
    assert note in found


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".stream", ".jsonl"])
@pytest.mark.parametrize("compression", ["", *COMPRESS])
def test_every_kind_is_told_by_its_first_bytes(suffix: str, compression: str) -> None:
    data = encode(["one", "two"], suffix)
    kind = suffix[1:].replace("stream", "arrow")
    packed = COMPRESS[compression](data) if compression else data
    assert detect_kind(packed) == (kind, compression[1:] or None)


def test_a_list_of_records_is_not_taken_for_text() -> None:
    assert detect_kind(b'[{"text": "a"}]') == ("jsonl", None)
    assert detect_kind(b"[1] A reference") == ("txt", None)


@pytest.mark.parametrize("argument", ["", " "])
def test_an_empty_argument_is_refused_and_not_the_folder_around(argument: str) -> None:
    with pytest.raises(CorpusError, match=rf"'{argument}' names no file: is a variable of your"):
        find_sources([argument], DEFAULT)


def names_of(survey: Survey) -> list[str]:
    return [source.name for source in survey.sources]


def test_our_own_outputs_inside_a_corpus_are_passed_over_and_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        write(tmp_path / "tokenizer" / name)
    manifest = {"kind": "tokens", "format_version": 1, "ledger": {}}
    write(tmp_path / "tokens" / "manifest.json", json.dumps(manifest))
    for name in ("train-00000.arrow", "tokenizer/tokenizer.json"):
        write(tmp_path / "tokens" / name)
    write(tmp_path / "begun" / ".build" / "plan.json")
    write(tmp_path / "begun" / "train-00000.arrow")
    for name in ("model.safetensors", "config.json", "metrics.jsonl"):
        write(tmp_path / "runs" / "base" / name)
    for argument in (str(tmp_path), str(tmp_path / "*"), str(tmp_path / "**")):
        survey = survey_sources([argument], DEFAULT)
        assert names_of(survey) == ["a.txt"]
        assert set(survey.skipped) >= {
            "part of a tokenizer or model", "part of a dataset that lmdata wrote",
        }  # fmt: skip
    with pytest.raises(CorpusError, match=r"no text in .*tokens: 3 passed over \(part of a datas"):
        find_sources([str(tmp_path / "tokens")], DEFAULT)


def test_files_of_like_names_are_read_where_no_model_or_dataset_is(tmp_path: Path) -> None:
    names = ["config.json", "manifest.json", "metrics.jsonl", "state.json", "vocab.txt"]
    for name in names:
        write(tmp_path / name)
    assert names_of(survey_sources([str(tmp_path)], DEFAULT)) == names
    (source,) = find_sources([str(write(tmp_path / "tokenizer.json"))], DEFAULT)
    assert source.name == "tokenizer.json"


def test_a_data_set_that_datasets_saved_is_read_as_such(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts = [f"document {number}" for number in range(15)]
    rows = datasets.Dataset.from_dict({"text": texts})
    both = datasets.DatasetDict({"train": rows, "test": rows.select(range(3))})
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 2, "test": 1})
    write(tmp_path / "saved" / "train" / "cache-0123456789abcdef.arrow")
    write(tmp_path / "saved" / "dataset_infos.json", "{}")
    survey = survey_sources([str(tmp_path)], DEFAULT)
    assert names_of(survey) == [
        "saved/test/data-00000-of-00001.arrow", "saved/train/data-00000-of-00002.arrow",
        "saved/train/data-00001-of-00002.arrow",
    ]  # fmt: skip
    found = [text for source in survey.sources for text in texts_of_source(source)]
    assert found == texts[:3] + texts
    assert {reason: len(paths) for reason, paths in survey.skipped.items()} == {
        "metadata of datasets": 6, "cache of datasets": 1,
    }  # fmt: skip


def texts_of_source(source: Source) -> list[str]:
    return texts_of(list(read_documents(source, DEFAULT)))


def test_a_name_that_is_not_utf8_matters_only_for_a_file_that_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    write(tmp_path / "caf\udce9.log")
    write(tmp_path / ".caf\udce9.txt")
    survey = survey_sources([str(tmp_path)], DEFAULT)
    assert names_of(survey) == ["a.txt"]
    assert survey.skipped["unknown extension"] == [f"{tmp_path}/caf\\xe9.log"]
    assert survey.skipped["hidden"] == [f"{tmp_path}/.caf\\xe9.txt"]


def test_a_file_name_that_is_not_utf8_is_refused_or_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "caf\udce9.txt")
    write(tmp_path / "b.txt")
    with pytest.raises(CorpusError, match=r"/caf\\xe9\.txt is not UTF-8: rename the file, or pass"):
        find_sources([str(tmp_path)], DEFAULT)
    survey = survey_sources([str(tmp_path)], CorpusConfig(errors="skip"))
    assert names_of(survey) == ["b.txt"]
    assert survey.skipped == {"name that is not UTF-8": [f"{tmp_path}/caf\\xe9.txt"]}
    with pytest.raises(CorpusError, match=r"no such file or folder: caf\\xe9$"):
        find_sources(["caf\udce9"], DEFAULT)


def test_a_copy_of_standard_input_is_called_so(tmp_path: Path) -> None:
    path = write(tmp_path / "stdin", b"\xff\xfeh\0")
    source = Source(name="-", path=path, format="txt", size_bytes=4)
    with pytest.raises(CorpusError, match=r"^standard input is not UTF-8 at byte 0 .*utf-16"):
        list(read_documents(source, DEFAULT))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("encoding=klingon", "encoding must be a Python codec .* got 'klingon'"),
        ("encoding=base64", "encoding must be a Python codec .* got 'base64'"),
        ("encoding=idna", "encoding must be a Python codec of text .* got 'idna'"),
        ("encoding=punycode", "encoding must be a Python codec of text .* got 'punycode'"),
        ("encoding=unicode_escape", "must be a Python codec of text .* got 'unicode_escape'"),
        ("encoding=Raw-Unicode-Escape", "must be a Python codec of text .* got 'Raw-Unicode"),
        ("encoding=undefined", "encoding must be a Python codec of text .* got 'undefined'"),
        ("stdin_format=docx", "stdin_format must be one of .txt .* got 'docx'"),
        ("max_document_bytes=0", "max_document_bytes must be at least 1, got 0"),
        ("text_field=", "text_field must not be empty"),
        ("errors=ignore", "errors must be one of strict, replace, skip"),
        ("documents=page", "documents must be one of file, blank-line, line"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(CorpusConfig, None, [setting])
