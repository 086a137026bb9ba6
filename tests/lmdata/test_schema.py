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
    BlockRecord,
    Flow,
    Ledger,
    Manifest,
    ShardRecord,
    SourceRecord,
    TokenizerIdentity,
    example_schema,
    manifest_json,
    parse_manifest,
    read_manifest,
    to_json,
    token_schema,
)
from lmdata.xxh3 import xxh3_128

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
        splits={"train": (ShardRecord(
            file="train-00000.arrow", rows=2, tokens=7, bytes=9, xxh3="cd",
            blocks=(BlockRecord(start=1, stop=5, xxh3=("ef",)),), frame="01",
        ),), "validation": ()},
        ledger=Ledger(flows={"documents": flow}),
        notes=("encoder: plain",),
    )  # fmt: skip
    return dataclasses.replace(manifest, **changes)  # type: ignore[arg-type]


def test_a_manifest_survives_json() -> None:
    manifest = make_manifest()
    assert parse_manifest(manifest_json(manifest), PATH) == manifest


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
    with pytest.raises(VersionError, match=r"format version 3, .* reads up to 2: upgrade lmdata"):
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
    text = manifest_json(make_manifest(ledger=Ledger(flows={"tokens": flow})))
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


def test_a_manifest_of_version_1_has_neither_blocks_nor_a_hash_and_keeps_its_own() -> None:
    (shard,) = make_manifest().splits["train"]
    old = make_manifest(
        format_version=1, splits={"train": (dataclasses.replace(shard, blocks=None, frame=None),)}
    )
    text = to_json(old)
    assert "blocks" not in text
    assert "frame" not in text
    assert parse_manifest(text, PATH) == old
    assert parse_manifest(text, PATH).hash == xxh3_128(text.encode()).hexdigest()
    for manifest in (make_manifest(format_version=1), dataclasses.replace(old, format_version=2)):
        with pytest.raises(IntegrityError, match=r"format version \d does not go with its blocks"):
            parse_manifest(to_json(manifest), PATH)


SHARD = {"file": "train-00000.arrow", "rows": 2, "tokens": 7, "bytes": 9, "xxh3": "", "frame": ""}
BLOCK = {"start": 1, "stop": 5, "xxh3": []}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": {"train": [{**SHARD, "blocks": [], "file": "../thesis.arrow"}]}}, "file must"),
        ({"splits": {"train": [{**SHARD, "blocks": [], "rows": -1}]}}, "contradict each other"),
        ({"splits": {"train": [{**SHARD, "blocks": [{**BLOCK, "stop": 99}]}]}}, "contradict"),
        ({"splits": {"train": [{**SHARD, "blocks": [BLOCK, BLOCK]}]}}, "contradict each other"),
        ({"splits": {"train": [{**SHARD, "blocks": [], "bytes": 1e999}]}}, "finite number"),
        ({"splits": {"trian": []}}, "splits are train, validation, test, got 'trian'"),
        ({"tokenizer": {"hash": "", "vocab_size": 1 << 62, "kind": ""}}, "vocab_size must be"),
        ({"tokenizer": {"hash": "", "vocab_size": True, "kind": ""}}, "vocab_size must be"),
        ({"notes": 3}, "notes must be a list"),
        ({"notes": ["changed"]}, "was altered, its hash is"),
    ],
)
def test_what_a_manifest_says_is_checked_before_it_is_believed(
    changes: dict[str, object], message: str
) -> None:
    values = json.loads(manifest_json(make_manifest())) | changes
    with pytest.raises(IntegrityError, match=message):
        parse_manifest(json.dumps(values), PATH)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"rows": ' + "9" * 10_000 + "}", "", "[]", "\0"]
)
def test_json_that_hurts_is_one_line(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"is not valid JSON|must hold a JSON object"):
        parse_manifest(text, PATH)
