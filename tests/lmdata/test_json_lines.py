"""lmdata/reading/json_lines.py: the scanner agrees with the standard parser, and never guesses."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.errors import CorpusError
from lmdata.reading.json_lines import (
    BROKEN,
    MISSING,
    NOT_OBJECT,
    NULL,
    SURROGATE,
    TEXT,
    WRONG_TYPE,
    extract_field,
)
from tests.lmdata.corpus_files import (
    read,
    read_with_losses,
    write,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "text", "b\\"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
spaces = st.sampled_from(["", " ", "\t", "\r", "  "])


@given(
    st.dictionaries(st.sampled_from(["id", "text", "tex", "url"]), json_values, max_size=4),
    st.booleans(),
    spaces,
)
@example({"text": "\U0001f600\ud7ff\ue000"}, True, "")
def test_the_scanner_agrees_with_the_standard_parser(
    record: dict[str, Any], is_ascii: bool, space: str
) -> None:
    separators = (f",{space}", f"{space}:{space}")
    line = json.dumps(record, ensure_ascii=is_ascii, separators=separators) + space
    text, offsets, lines, states = extract_field(np.frombuffer(line.encode(), np.uint8), b"text")
    assert lines.tolist() == [0, len(line.encode())]
    assert states.tolist() == [judge(line)[0]]
    expected = record["text"] if states[0] == TEXT else ""
    assert text.tobytes().decode() == expected
    assert offsets.tolist() == [0, len(expected.encode())]


def judge(line: str) -> tuple[int, str]:
    """Return what the standard parser says of a line, and its text."""
    if not line.strip(" \t\n\r\v\f"):
        return TEXT, ""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return BROKEN, ""
    if not isinstance(record, dict):
        return NOT_OBJECT, ""
    if "text" not in record:
        return MISSING, ""
    if record["text"] is None:
        return NULL, ""
    if not isinstance(record["text"], str):
        return WRONG_TYPE, ""
    is_whole = re.search("[\ud800-\udfff]", record["text"]) is None
    return (TEXT, record["text"]) if is_whole else (SURROGATE, "")


def scan(line: str | bytes, **options: Any) -> tuple[int, str]:
    block = line if isinstance(line, bytes) else line.encode()
    whole = np.frombuffer(block + b"\n", np.uint8)
    text, _, _, (state,) = extract_field(whole, b"text", **options)
    return int(state), text.tobytes().decode()


BASE = '{"id": [1.5e-3, {"k": [true, null]}], "text": "a\\\\\\"\u20ac\\n", "z": -0.0}'


@given(st.data())
def test_a_line_that_was_changed_is_judged_as_by_the_standard_parser(data: st.DataObject) -> None:
    line = list(BASE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        width = data.draw(st.sampled_from([0, 1, 1, 5]))
        token = data.draw(st.sampled_from([
            *'{}[]",:\\utn0123.eE+-x \x01\x0c', "", "NaN", "-Infinity", "null", '"text":',
            "\\u0074", "\\ud83d", "\\ude00", "\\udce9", '"te\\u0078t": 1,', "false", "1e5",
        ]))  # fmt: skip
        line[at : at + width] = [token]
        if not line:
            break
    assert scan("".join(line)) == judge("".join(line))


ESCAPED = '{"te\\u0078t": "a"}'


@pytest.mark.parametrize(("line", "state", "text"), [
    ("", TEXT, ""), (" \t\r", TEXT, ""), ("\f\v", TEXT, ""), ("x", BROKEN, ""),
    ("[]", NOT_OBJECT, ""), ("{}", MISSING, ""), ("{} x", BROKEN, ""),
    ('{"text": "a", "text": "b"}', TEXT, "b"),
    ('{"text": "a", "text": 1}', WRONG_TYPE, ""), ('{"text": null, "text": "b"}', TEXT, "b"),
    (ESCAPED, TEXT, "a"), ('{"x": NaN, "text": "a"}', TEXT, "a"),
    ('{"text": "caf\\udce9"}', SURROGATE, ""), ('{"text": "\\ud83d\\ude00"}', TEXT, "\U0001f600"),
    ('{"x": "\\ud800", "text": "a"}', TEXT, "a"), ('{"\\ud800": 1, "text": "a"}', TEXT, "a"),
    ('{"text": "a",}', BROKEN, ""), ("[" * 999 + "]" * 999, NOT_OBJECT, ""),
    ("[" * 5000 + "]" * 5000, BROKEN, ""), ("[" * 5000, BROKEN, ""),
])  # fmt: skip
def test_every_kind_of_line_has_its_state(line: str, state: int, text: str) -> None:
    assert scan(line) == (state, text)


def test_escapes_that_make_half_a_character_are_refused_or_replaced(tmp_path: Path) -> None:
    lines = '{"text": "caf\\udce9"}\n{"text": "b"}\n{"text": "\\udcc3\\udca9"}\n'
    path = write(tmp_path / "a.jsonl", lines)
    message = r"a.jsonl line 1: the text has a lone surrogate \(.udce9\); --errors replace mends"
    with pytest.raises(CorpusError, match=message):
        read(path)
    assert read(path, errors="replace") == ["caf\ufffd", "b", "\ufffd\ufffd"]
    assert read_with_losses(path, errors="skip") == (["b"], {"lone-surrogate": (2, 45)}, [1])


def test_half_a_character_is_told_from_a_byte_that_is_not_utf8(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", b'{"text": "\xe9\\udce9"}\n{"text": "\xe9"}\n{"text": "b"}\n'
    )
    texts, losses, _ = read_with_losses(path, errors="skip")
    assert texts == ["b"]
    assert losses == {"lone-surrogate": (1, 19), "not-utf-8": (1, 1)}


def test_a_list_of_records_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"text": "a"}]')
    message = r"line 1 is not a JSON object but a list: a JSON file must hold one object a line"
    with pytest.raises(CorpusError, match=message):
        read(path)


@pytest.mark.parametrize("line", [
    b"", b'{"text": "a", "text": 3}', b'{"t": "a"}', b'{"text": null}', b'{"text": x}', b"7",
    b'{"text": "\\ud800"}',
])  # fmt: skip
def test_lines_without_a_text_cost_no_more_than_those_with_one(tmp_path: Path, line: bytes) -> None:
    plain = write(tmp_path / "plain.jsonl", b'{"text": "some words of a line"}\n' * 100_000)
    odd = write(tmp_path / "odd.jsonl", (line + b"\n") * 100_000)
    seconds = {path: min(_time(path) for _ in range(3)) for path in (plain, odd)}
    assert seconds[odd] < 3 * seconds[plain] + 0.02


def _time(path: Path) -> float:
    config = CorpusConfig(errors="skip")
    (source,) = find_sources([str(path)], config)
    start = time.process_time()
    for _ in read_documents(source, config):
        pass
    return time.process_time() - start


@given(st.lists(st.text(max_size=20), max_size=20), st.integers(1, 64))
def test_texts_survive_the_way_through_json_lines(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], batch_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write(path, "".join(json.dumps({"text": text}) + "\n" for text in texts))
    found, losses, _ = read_with_losses(path, batch_bytes)
    assert found == [text for text in texts if text.strip()]
    num_empty = len(texts) - len(found)
    assert losses.get("empty", (0, 0))[0] == (num_empty if texts else 1)
