"""A corpus becomes a store: the same rows and bytes however it is cut, and nothing disappears."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmdata import files
from lmdata.building.memory import MemoryBudget
from lmdata.building.output import claim_folder
from lmdata.building.plan import UnitSetup, assign_splits, make_units
from lmdata.building.units import prepare_nursery
from lmdata.corpus import CorpusConfig, find_sources
from lmdata.dataset import open_store
from lmdata.errors import (
    ConfigError,
    CorpusError,
    MismatchError,
    OutputError,
)
from lmdata.places import LocalPlace
from lmdata.schema import Manifest
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import save_tokenizer
from lmdata.tokens import tokenize_corpus
from tests.lmdata.builds import (
    LINES,
    InlineWorkers,
    all_bytes,
    build,
    make_tokenizer,
    random_documents,
    write_corpus,
)

ROOT = Path(__file__).parents[2]


def expected_ids(document: str) -> list[int]:
    return list(make_tokenizer().backend.encode(document, add_special_tokens=False).ids)


def stored_documents(folder: Path, manifest: Manifest) -> list[tuple[str, int, list[int]]]:
    rows = []
    for split in manifest.splits:
        store = open_store(folder, split, verify="hashes")
        for row in range(store.num_documents):
            ids, lengths = store.document(row)
            assert lengths.sum() == len(ids)
            rows.append((*store.provenance(row), ids.tolist()))
    return rows


def make_mixed_corpus(folder: Path) -> dict[str, list[str]]:
    files = {
        "a.txt": random_documents(60, 1),
        "b/c.jsonl": random_documents(40, 2),
        "b/d.txt": random_documents(3, 3),
        "e.txt": random_documents(80, 4),
    }
    write_corpus(folder, files)
    return files


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_mixed_corpus(folder)
    return folder


SMALL = {"unit_bytes": 1500, "shard_bytes": 4000, "validation_ratio": 0.2, "test_ratio": 0.1}


def test_every_document_is_stored_once_with_the_ids_of_tokenizers(tmp_path: Path) -> None:
    files = make_mixed_corpus(tmp_path / "corpus")
    manifest = build(tmp_path / "corpus", tmp_path / "tokens", **SMALL)
    found = stored_documents(tmp_path / "tokens", manifest)
    expected = [
        (name, position, expected_ids(document))
        for name, documents in files.items()
        for position, document in enumerate(documents)
    ]
    assert sorted(found) == sorted(expected)
    trained = [row[:2] for row in found[: manifest.num_rows("train")]]
    assert trained == sorted(trained)  # the order of sources and positions is kept
    assert len(manifest.splits["train"]) > 2


def test_the_ledger_counts_documents_bytes_and_tokens(tmp_path: Path) -> None:
    files = make_mixed_corpus(tmp_path / "corpus")
    manifest = build(tmp_path / "corpus", tmp_path / "tokens", **SMALL)
    documents = [document for group in files.values() for document in group]
    flows = manifest.ledger.flows
    assert flows["documents"].read == flows["documents"].total_written == len(documents)
    assert flows["bytes"].total_written == sum(len(d.encode()) for d in documents)
    assert flows["tokens"].total_written == sum(len(expected_ids(d)) for d in documents)
    assert [source.name for source in manifest.sources] == sorted(files)
    assert [source.documents for source in manifest.sources] == [
        len(files[name]) for name in sorted(files)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 2, "processes": True},
        {"num_workers": 3, "processes": True, "unit_bytes": 700},
        {"num_workers": 3, "seed_of_workers": 1},
        {"num_workers": 5, "seed_of_workers": 2, "unit_bytes": 700},
        {"unit_bytes": 10**9},
        {"memory_bytes": 1 << 29, "unit_bytes": 5000},
    ],
)
def test_workers_units_and_memory_do_not_change_a_byte(
    corpus: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    build(corpus, tmp_path / "one", **SMALL)
    build(corpus, tmp_path / "other", **{**SMALL, **options})
    assert all_bytes(tmp_path / "other") == all_bytes(tmp_path / "one")
    assert not (tmp_path / "one/.build").exists()


@settings(max_examples=25)
@given(
    documents=st.lists(st.text(st.characters(codec="utf-8"), max_size=30), min_size=1, max_size=12),
    unit_bytes=st.integers(1, 200),
    shard_bytes=st.integers(1, 500),
    workers=st.tuples(st.integers(1, 4), st.integers(0, 9)),
)
def test_any_text_in_any_cut_comes_back_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[str],
    unit_bytes: int,
    shard_bytes: int,
    workers: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_corpus(folder / "corpus", {"a.jsonl": documents, "z.txt": ["the cat sat"]})
    manifest = build(
        folder / "corpus", folder / "tokens", num_workers=workers[0], seed_of_workers=workers[1],
        unit_bytes=unit_bytes, shard_bytes=shard_bytes, validation_ratio=0.0,
    )  # fmt: skip
    expected = [
        ("a.jsonl", position, expected_ids(document)) for position, document in enumerate(documents)
    ]
    kept = [row for row in expected if row[2]] + [("z.txt", 0, expected_ids("the cat sat"))]
    assert stored_documents(folder / "tokens", manifest) == kept
    flow = manifest.ledger.flows["documents"]
    assert flow.read == len(documents) + 1
    assert flow.total_dropped == sum(1 for row in expected if not row[2])


def test_equal_documents_share_a_split_whatever_file_they_are_in(tmp_path: Path) -> None:
    documents = [f"{chr(97 + index % 26)} cat {chr(97 + index // 26)}" for index in range(60)]
    write_corpus(tmp_path / "corpus", {"a.txt": documents, "b.jsonl": documents[::-1]})
    build(tmp_path / "corpus", tmp_path / "tokens", validation_ratio=0.3)
    names = [open_store(tmp_path / "tokens", split) for split in ("train", "validation")]
    rows = [
        sorted(store.document(row)[0].tobytes() for row in range(store.num_documents))
        for store in names
    ]
    assert all(group[::2] == group[1::2] for group in rows)
    assert not set(rows[0]) & set(rows[1])


def test_split_shares_follow_the_ratios_and_the_seed() -> None:
    documents = [str(index).encode() for index in range(20_000)]
    offsets = np.concatenate(([0], np.cumsum([len(d) for d in documents])))
    text = np.frombuffer(b"".join(documents), np.uint8)
    config = TokenizeConfig(validation_ratio=0.1, test_ratio=0.05)
    splits = assign_splits(text, offsets, config)
    counts = np.bincount(splits, minlength=3) / len(documents)
    # five standard deviations of a binomial of 20,000
    assert np.allclose(counts, [0.85, 0.1, 0.05], atol=5 * np.sqrt(0.1275 / 20_000))
    other = assign_splits(
        text, offsets, TokenizeConfig(validation_ratio=0.1, test_ratio=0.05, seed=1)
    )
    agreement = np.mean(splits == other)
    independent = 0.85**2 + 0.1**2 + 0.05**2
    assert abs(agreement - independent) < 0.02


def test_a_split_with_ratio_zero_does_not_exist(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"a.txt": ["one"]})
    manifest = build(tmp_path / "corpus", tmp_path / "tokens", validation_ratio=0.0)
    assert set(manifest.splits) == {"train"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation_ratio": 1.0}, r"validation_ratio must be in \[0, 1\), got 1.0"),
        ({"test_ratio": -0.1}, "test_ratio must be in"),
        ({"validation_ratio": 0.6, "test_ratio": 0.4}, "must be below 1, .*nothing is left"),
        ({"seed": -1}, "seed must be in"),
        ({"shard_bytes": 0}, "shard_bytes must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizeConfig(**fields)  # type: ignore[arg-type]


def test_units_group_small_files_and_cut_large_ones(tmp_path: Path) -> None:
    lines = ["x" * 9] * 100
    write_corpus(tmp_path, {"a.txt": lines, "b.txt": lines[:5], "c.txt": lines[:5], "d.txt": lines})
    units = make_units(find_sources([str(tmp_path)], LINES), LINES, 250)
    assert [unit.number for unit in units] == list(range(len(units)))
    assert [unit.sources for unit in units] == [[0]] * 4 + [[1, 2]] + [[3]] * 4
    whole = make_units(find_sources([str(tmp_path)], LINES), LINES, 10_000)
    assert [unit.sources for unit in whole] == [[0, 1, 2, 3]]


def test_too_little_memory_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="100 MiB of memory is too little for 4 workers: give"):
        MemoryBudget(100 << 20, 4).divide()
    write_corpus(tmp_path / "corpus", {"a.txt": ["one"]})
    with pytest.raises(ConfigError, match="--memory at least 192MiB"):
        build(tmp_path / "corpus", tmp_path / "tokens", memory_bytes=1 << 20)
    assert not (tmp_path / "tokens").exists()


def test_what_the_tokenizer_holds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(tmp_path / "corpus", {"a.txt": ["one"]})
    held = iter(size << 20 for size in (90, 30, 10, 90))  # before and after; never less than 0
    monkeypatch.setattr("lmdata.building.units.held_memory", lambda: next(held))
    build(tmp_path / "corpus", tmp_path / "tokens", memory_bytes=192 << 20)
    with pytest.raises(ConfigError, match=r"1 worker and this tokenizer: give .* at least 392MiB"):
        build(tmp_path / "corpus", tmp_path / "more", memory_bytes=200 << 20)
    assert not (tmp_path / "more").exists()


def test_a_document_beyond_the_budget_names_the_option(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"a.txt": ["word " * 4_000_000]})
    with pytest.raises(CorpusError, match=r"a\.txt holds a document of 19 MiB.* raise --memory"):
        build(tmp_path / "corpus", tmp_path / "tokens", memory_bytes=280 << 20)
    assert not (tmp_path / "tokens").exists()


def test_progress_reaches_the_end_and_never_goes_back(corpus: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int, int]] = []
    build(corpus, tmp_path / "t", progress=lambda *state: calls.append(state), unit_bytes=3000)
    done = [call[0] for call in calls]
    assert done == sorted(done)
    total = sum(path.stat().st_size for path in corpus.rglob("*.*") if path.is_file())
    assert calls[-1] == (total, total, 183)


def test_an_existing_store_stays_unless_overwrite(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "t")
    before = all_bytes(tmp_path / "t")
    with pytest.raises(OutputError, match="exists and is complete: add --overwrite"):
        build(corpus, tmp_path / "t", seed=1)
    assert all_bytes(tmp_path / "t") == before
    build(corpus, tmp_path / "t", seed=1, overwrite=True)
    assert all_bytes(tmp_path / "t") != before


def test_files_of_others_are_never_touched(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "t"
    output.mkdir()
    (output / "thesis.doc").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds other files \(such as thesis\.doc\)"):
        build(corpus, output)
    build(corpus, output, overwrite=True)
    assert (output / "thesis.doc").read_text() == "years of work"


def test_an_output_that_is_a_file_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a file")
    with pytest.raises(OutputError, match="a file is in the way"):
        build(corpus, tmp_path / "t")


def test_two_builds_of_one_output_do_not_mix(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEASE_WAIT_S", 0.1)
    with (
        claim_folder(tmp_path / "t"),
        pytest.raises(OutputError, match="being written by another command"),
    ):
        build(corpus, tmp_path / "t")


BAD_FILES = {
    "not UTF-8": ("bad.txt", b"fine\n\xff\xfe\xfd bad\n", r"bad\.txt is not UTF-8 at byte 5"),
    "broken JSON": ("bad.jsonl", b'{"text": "one"}\n{"text": \n', r"bad\.jsonl"),
    "truncated gzip": ("bad.txt.gz", gzip.compress(os.urandom(5000))[:-900], r"bad\.txt\.gz"),
    "no such field": ("bad.jsonl", b'{"body": "one"}\n', r"bad\.jsonl"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_named_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    file, content, message = BAD_FILES[name]
    write_corpus(tmp_path / "corpus", {"a.txt": random_documents(20), "c.txt": ["two"]})
    (tmp_path / "corpus" / file).write_bytes(content)
    with pytest.raises(CorpusError, match=message) as caught:
        build(tmp_path / "corpus", tmp_path / "tokens", num_workers=2, unit_bytes=200)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokens").exists()


def test_a_bad_file_that_is_skipped_is_counted(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"a.txt": random_documents(20)})
    (tmp_path / "corpus/bad.jsonl").write_bytes(b'{"text": "one"}\n{"text": \n')
    config = CorpusConfig(documents="line", errors="skip")
    manifest = build(tmp_path / "corpus", tmp_path / "tokens", reading=config)
    flow = manifest.ledger.flows["documents"]
    assert (flow.read, flow.total_written, flow.total_dropped) == (22, 21, 1)


def test_a_corpus_without_text_says_what_was_dropped(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"a.txt": [], "b.txt": ["", " "]})
    with pytest.raises(CorpusError, match=r"no text was found: .*empty"):
        build(tmp_path / "corpus", tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize("document", ["the cat sat on a mat", "the cat é sat on a mat " * 500])
def test_where_an_encoder_gives_other_ids_tokenizers_encodes(
    tmp_path: Path, document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmdata.building import units

    corpus = write_corpus(tmp_path / "corpus", {"a.txt": [document]})
    build(corpus, tmp_path / "right")

    class Wrong:
        kind = reason = "wrong"

        def __init__(self, encoder: units.Encoder) -> None:
            self._encoder = encoder

        def encode(self, *arguments: np.ndarray) -> units.EncodedDocuments:
            encoded = self._encoder.encode(*arguments)
            encoded.ids[:] = 7
            return encoded

        def memory_for(self, document: np.ndarray) -> int:
            return len(document)

        def keep_within(self, num_bytes: int) -> None:
            self._encoder.keep_within(num_bytes)

    (tmp_path / "right/.build").mkdir()
    make_encoder = units.make_encoder
    monkeypatch.setattr(units, "make_encoder", lambda *a, **k: Wrong(make_encoder(*a, **k)))
    setup = units.UnitSetup(
        sources=find_sources([str(corpus)], LINES), config=TokenizeConfig(corpus=LINES),
        place=LocalPlace(tmp_path / "right"), memory=MemoryBudget(1 << 30, 1),
        tokenizer_hash=make_tokenizer().quick_hash,
    )  # fmt: skip
    work = units.prepare_units(lambda: setup)
    (unit,) = make_units(setup.sources, LINES, 1 << 20)
    receipt = work(unit, lambda report: None)
    assert receipt.encoder.startswith("plain: ")
    (part,) = (tmp_path / "right/.build").glob(f"unit-{unit.number:06d}-train_*.part")
    ids = pa.ipc.open_file(pa.memory_map(str(part))).read_all()["input_ids"].combine_chunks()
    assert ids[0].as_py() == open_store(tmp_path / "right").blocks[0].ids.tolist()


def test_a_tokenizer_that_was_read_ahead_is_taken_only_if_it_is_the_one(
    corpus: Path, tmp_path: Path
) -> None:
    config = TokenizeConfig(corpus=LINES)
    sources, right = find_sources([str(corpus)], LINES), make_tokenizer()
    tokenize_corpus(sources, config, right, tmp_path / "plain", workers=InlineWorkers(2))
    save_tokenizer(right, tmp_path / "right")
    save_tokenizer(make_tokenizer(["zz", "yy"]), tmp_path / "wrong")
    for name in ("right", "wrong", "absent"):

        def prepare(receive: Callable[[], UnitSetup], name: str = name) -> Any:
            return prepare_nursery(receive, str(tmp_path / name))

        workers = InlineWorkers(2, prepare=prepare)
        tokenize_corpus(sources, config, right, tmp_path / f"of-{name}", workers=workers)
        assert all_bytes(tmp_path / f"of-{name}") == all_bytes(tmp_path / "plain")


def test_standard_input_is_a_source(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.lmdata.builds import *\n"
        "config = TokenizeConfig(corpus=LINES)\n"
        "tokenize_corpus(find_sources(['-'], LINES), config, make_tokenizer(), Path(sys.argv[1]))\n"
    )
    text = b"the cat sat\na dog ran\n"
    command = [sys.executable, "-c", code, str(tmp_path / "t")]
    subprocess.run(command, input=text, check=True, cwd=ROOT)
    manifest = json.loads((tmp_path / "t/manifest.json").read_text())
    assert manifest["sources"][0]["name"] == "-"
    assert manifest["sources"][0]["bytes"] == len(text)
    assert open_store(tmp_path / "t").num_documents == 2


def interrupted(corpus: Path, output: Path, **options: object) -> None:
    """Leave an unfinished build behind."""

    def stop(done: int, total: int, documents: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"\d+ of \d+ units are kept in .*same command"):
        build(corpus, output, progress=stop, **{**SMALL, **options})


def test_an_interrupted_build_goes_on_to_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "whole", **SMALL)
    interrupted(corpus, tmp_path / "t")
    assert not (tmp_path / "t/manifest.json").exists()
    assert list((tmp_path / "t/.build").glob("unit-*.json"))
    build(corpus, tmp_path / "t", num_workers=2, **SMALL)
    assert all_bytes(tmp_path / "t") == all_bytes(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 5}, "configuration.seed: was 0, is 5"),
        ({"validation_ratio": 0.25}, "configuration.validation_ratio: was 0.2, is 0.25"),
        ({"reading": CorpusConfig(documents="line", encoding="ascii")}, "encoding: was 'utf-8'"),
        ({"tokenizer": make_tokenizer(["bird"])}, "tokenizer: was "),
        ({"unit_bytes": 1700}, "unit_bytes: was 1500, is 1700"),
    ],
)
def test_another_plan_does_not_mix_into_an_unfinished_build(
    corpus: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    interrupted(corpus, tmp_path / "t")
    before = all_bytes(tmp_path / "t")
    with pytest.raises(MismatchError, match=message):
        build(corpus, tmp_path / "t", **{**SMALL, **options})  # type: ignore[arg-type]
    after = all_bytes(tmp_path / "t")
    assert after == before
    build(corpus, tmp_path / "t", overwrite=True, **{**SMALL, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["edited", "added", "removed"])
def test_a_changed_source_is_noticed(tmp_path: Path, change: str) -> None:
    make_mixed_corpus(tmp_path / "corpus")
    interrupted(tmp_path / "corpus", tmp_path / "t")
    path = tmp_path / "corpus/a.txt"
    if change == "edited":  # same size
        path.write_bytes(path.read_bytes()[::-1])
    elif change == "added":
        (tmp_path / "corpus/f.txt").write_text("new\n")
    else:
        path.unlink()
    message = {"edited": "a.txt has changed", "added": "f.txt is new", "removed": "a.txt is gone"}
    with pytest.raises(MismatchError, match=f"source {message[change]}"):
        build(tmp_path / "corpus", tmp_path / "t", **SMALL)


def test_clearing_away_a_build_keeps_the_plan_until_no_receipt_is_left(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(corpus, tmp_path / "t")
    num_removed = 0
    unlink = Path.unlink

    def unlink_or_die(path: Path, missing_ok: bool = False) -> None:
        nonlocal num_removed
        num_removed += path.parent.name == ".build"
        if num_removed > 5:
            raise InterruptedError("killed")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_or_die)
    with pytest.raises(OutputError):
        build(corpus, tmp_path / "t", overwrite=True, **{**SMALL, "seed": 9})
    monkeypatch.undo()
    assert list((tmp_path / "t/.build").glob("unit-*.json"))
    with pytest.raises(MismatchError, match="seed"):
        build(corpus, tmp_path / "t", **{**SMALL, "seed": 9})


def test_skipping_errors_may_continue_a_strict_build(corpus: Path, tmp_path: Path) -> None:
    interrupted(corpus, tmp_path / "t")
    config = CorpusConfig(documents="line", errors="skip")
    manifest = build(corpus, tmp_path / "t", reading=config, **SMALL)
    assert manifest.num_rows("train") > 0


class CountingEncoder:
    """An encoder that counts its calls."""

    def __init__(self, encoder: Any) -> None:
        self.encoder, self.num_calls = encoder, 0

    def encode(self, *arguments: Any) -> Any:
        self.num_calls += 1
        return self.encoder.encode(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder, name)


def test_small_files_are_encoded_together_and_keep_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmdata.building import units

    made: list[CountingEncoder] = []
    make_encoder = units.make_encoder

    def make_counting(*arguments: Any, **options: Any) -> Any:
        made.append(CountingEncoder(make_encoder(*arguments, **options)))
        return made[-1]

    monkeypatch.setattr(units, "make_encoder", make_counting)
    documents = {f"{name:02}.txt": random_documents(3, name) for name in range(40)}
    write_corpus(tmp_path / "corpus", documents)
    build(tmp_path / "corpus", tmp_path / "t", validation_ratio=0)
    assert made[0].num_calls == 2  # the documents, and the sample of what is decoded again
    store = open_store(tmp_path / "t")
    found = [store.provenance(row) for row in range(len(store))]
    assert found == [(f"{name:02}.txt", place) for name in range(40) for place in range(3)]
