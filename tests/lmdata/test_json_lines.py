"""lmdata/reading/json_lines.py: the scanner agrees with the standard parser, and never guesses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmdata.reading.json_lines import extract_field
from tests.lmdata.corpus_files import (
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
    text, offsets, lines, odd = extract_field(np.frombuffer(line.encode(), np.uint8), b"text")
    assert lines.tolist() == [0, len(line.encode())]
    if isinstance(record.get("text"), str):
        assert not odd[0]
        assert text.tobytes().decode() == record["text"]
    else:
        assert odd[0]
        assert offsets.tolist() == [0, 0]


@given(st.data())
def test_the_scanner_never_takes_a_line_that_is_not_json(data: st.DataObject) -> None:
    record = {"id": [1.5e-3, {"k": [True, None]}], "text": 'a\\"\u20ac\n', "z": -0.0}
    line = bytearray(json.dumps(record).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line) - 1))
        action = data.draw(st.sampled_from(["delete", "insert", "change"]))
        byte = data.draw(st.sampled_from(b'{}[]",:\\utn0123.eE+-x \x01'))
        line[at : at + (action != "insert")] = b"" if action == "delete" else bytes([byte])
    text, _, _, odd = extract_field(np.frombuffer(bytes(line), np.uint8), b"text")
    if odd[0]:
        return
    parsed = json.loads(line)
    assert parsed["text"].encode() == text.tobytes()


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
