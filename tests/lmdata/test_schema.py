"""Manifest and ledger: written canonically, read strictly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import IntegrityError, VersionError
from lmdata.schema import (
    FORMAT_VERSION,
    Flow,
    Ledger,
    Manifest,
    ShardRecord,
    SourceRecord,
    TokenizerIdentity,
    example_schema,
    parse_manifest,
    read_manifest,
    to_json,
    token_schema,
)

PATH = Path("tokens/manifest.json")


def make_manifest(**changes: object) -> Manifest:
    flow = Flow(read=5, written={"train": 2, "validation": 1}, dropped={"empty": 2})
    manifest = Manifest(
        kind="tokens",
        format_version=FORMAT_VERSION,
        created_with="lmdata 0.1.0",
        configuration={"seed": 0, "corpus": {"encoding": "utf-8"}},
        tokenizer=TokenizerIdentity(hash="ab12", vocab_size=30522, kind="WordPiece"),
        sources=(SourceRecord(name="a/ü.txt", bytes=7, xxh3="00", documents=3, tokens=11),),
        splits={"train": (ShardRecord(file="train-00000.arrow", rows=2, tokens=7, bytes=9,
                                      xxh3="cd"),), "validation": ()},
        ledger=Ledger(flows={"documents": flow}),
        notes=("encoder: plain",),
    )  # fmt: skip
    return dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]


def test_a_manifest_survives_json() -> None:
    manifest = make_manifest()
    assert parse_manifest(to_json(manifest), PATH) == manifest


def test_the_json_is_canonical_ascii_and_holds_no_time_or_place() -> None:
    text = to_json(make_manifest())
    values = json.loads(text)
    assert text == json.dumps(values, sort_keys=True, indent=1) + "\n"
    assert text.isascii()
    assert set(values) == {
        "configuration", "created_with", "format_version", "kind", "ledger", "notes", "sources",
        "splits", "tokenizer",
    }  # fmt: skip


def test_the_hash_changes_with_any_field() -> None:
    hashes = {
        make_manifest().hash,
        make_manifest(notes=()).hash,
        make_manifest(configuration={"seed": 1}).hash,
        make_manifest(sources=()).hash,
    }
    assert len(hashes) == 4


def test_a_newer_format_version_is_refused_even_with_unknown_keys() -> None:
    values = json.loads(to_json(make_manifest()))
    values |= {"format_version": FORMAT_VERSION + 1, "novelty": True}
    with pytest.raises(VersionError, match=r"format version 2, .* reads up to 1: upgrade lmdata"):
        parse_manifest(json.dumps(values), PATH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"novelty": 1}, "unknown key novelty"),
        ({"kind": "pictures"}, "kind must be one of tokens, examples, got 'pictures'"),
        ({"format_version": "1"}, "format_version must be of type int, got '1'"),
        ({"sources": [{"name": "a"}]}, "is not a manifest"),
        ({"splits": {"train": [{"rows": 1}]}}, "is not a manifest"),
    ],
)
def test_what_is_not_a_manifest_is_refused_by_name(change: dict[str, object], message: str) -> None:
    values = json.loads(to_json(make_manifest())) | change
    with pytest.raises(IntegrityError, match=message):
        parse_manifest(json.dumps(values), PATH)


def test_a_missing_key_is_refused() -> None:
    values = json.loads(to_json(make_manifest()))
    del values["tokenizer"]
    with pytest.raises(IntegrityError, match="tokenizer"):
        parse_manifest(json.dumps(values), PATH)


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"manifest\.json (is not valid JSON|must hold)"):
        parse_manifest(text, PATH)


def test_a_ledger_that_does_not_balance_is_refused() -> None:
    flow = Flow(read=6, written={"train": 3}, dropped={"empty": 2})
    with pytest.raises(IntegrityError, match=r"6 tokens read, but 3 written .* and 2 dropped"):
        Ledger(flows={"tokens": flow}).check()
    text = to_json(make_manifest(ledger=Ledger(flows={"tokens": flow})))
    with pytest.raises(IntegrityError, match="does not balance"):
        parse_manifest(text, PATH)


@given(
    written=st.dictionaries(st.sampled_from(["train", "test"]), st.integers(0, 10**12)),
    dropped=st.dictionaries(st.text(max_size=5), st.integers(0, 10**12)),
    error=st.integers(-2, 2),
)
def test_a_ledger_balances_exactly_when_read_is_written_plus_dropped(
    written: dict[str, int], dropped: dict[str, int], error: int
) -> None:
    read = sum(written.values()) + sum(dropped.values()) + error
    ledger = Ledger(flows={"bytes": Flow(read=read, written=written, dropped=dropped)})
    if error:
        with pytest.raises(IntegrityError):
            ledger.check()
    else:
        ledger.check()


def test_a_folder_without_manifest_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no such dataset folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(IntegrityError, match="not a dataset"):
        read_manifest(tmp_path)
    (tmp_path / ".build").mkdir()
    with pytest.raises(IntegrityError, match=r"unfinished build .* type the command .* again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_schemas_carry_the_width_of_ids(dtype: type) -> None:
    width = np.dtype(dtype).itemsize * 8
    for schema, name in [
        (token_schema(np.dtype(dtype)), "input_ids"),
        (example_schema(np.dtype(dtype)), "input_ids"),
        (example_schema(np.dtype(dtype)), "masked_labels"),
    ]:
        assert schema.field(name).type.value_type.bit_width == width
