"""A build done by several commands: the bytes of one, an end when all is there, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lmdata.build import check_part, finish_dataset
from lmdata.building.leftovers import clean_up
from lmdata.building.plan import UnitReceipt
from lmdata.building.receipts import in_build, keep_receipt, read_receipt
from lmdata.building.resumable import Part, PartDone
from lmdata.corpus import find_sources
from lmdata.errors import ConfigError, CorpusError, IntegrityError, OutputError
from lmdata.files import lease
from lmdata.places import LocalPlace
from lmdata.reading.sources import Source
from lmdata.tokens import tokenize_corpus
from tests.lmdata.builds import (
    LINES,
    InlineWorkers,
    TokenizeConfig,
    all_bytes,
    make_tokenizer,
    random_documents,
    write_corpus,
)

CONFIG = TokenizeConfig(corpus=LINES, validation_ratio=0.2, shard_bytes=3000)
UNIT_BYTES = 700


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    files = {f"{name}.txt": random_documents(30, seed) for seed, name in enumerate("abc")}
    return write_corpus(folder / "corpus", files)


def tokenize(corpus: Path, output: Path, part: Part | None = None, **options: Any) -> Any:
    return tokenize_corpus(
        find_sources([str(corpus)], LINES), CONFIG, make_tokenizer(), output, part=part,
        workers=InlineWorkers(), unit_bytes=UNIT_BYTES, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "tokens"
    tokenize(corpus, output)
    return output


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_parts_in_any_number_and_order_give_the_bytes_of_one_command(
    corpus: Path, whole: Path, tmp_path: Path, count: int
) -> None:
    done = [tokenize(corpus, tmp_path / "tokens", Part(n, count)) for n in range(count, 0, -1)]
    assert sum(each.num_units for each in done) == done[0].num_units_in_all > 3
    corpus_is_gone = corpus.rename(corpus.with_name("elsewhere"))
    try:
        finish_dataset(tmp_path / "tokens")
    finally:
        corpus_is_gone.rename(corpus)
    assert all_bytes(tmp_path / "tokens") == all_bytes(whole)
    with pytest.raises(OutputError, match="is finished already: `lmdata verify"):
        finish_dataset(tmp_path / "tokens")


def test_an_end_that_comes_too_early_names_what_is_missing(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens"
    with pytest.raises(IntegrityError, match="holds no unfinished build: `lmdata tokenize"):
        finish_dataset(output)
    first = tokenize(corpus, output, Part(1, 2))
    with pytest.raises(IntegrityError, match=r"units of .* are not done yet \(2, 4, 6"):
        finish_dataset(output)
    with lease(output, is_shared=True), pytest.raises(OutputError, match="being written by"):
        finish_dataset(output)  # by a part that is not done
    again = tokenize(corpus, output, Part(1, 2))
    assert again == PartDone(Part(1, 2), first.num_units, first.num_units, first.num_units_in_all)
    tokenize(corpus, output)  # all of it, by one command, goes on with what a part has done
    assert all_bytes(output) == all_bytes(whole)


@pytest.mark.parametrize("text", [(0, 2), (3, 2), (1, 0)])
def test_what_is_no_part_is_refused(text: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="part must be in"):
        Part(*text)


def test_what_does_not_go_with_parts_is_said() -> None:
    stdin = Source(name="-", path=None, format="txt")
    with pytest.raises(ConfigError, match="standard input can't be read by several commands"):
        check_part([stdin], overwrite=False)
    with pytest.raises(ConfigError, match="would remove what other parts have done"):
        check_part([], overwrite=True)


def test_a_source_that_changes_while_it_is_read_ends_the_build(
    corpus: Path, tmp_path: Path
) -> None:
    changed = write_corpus(tmp_path / "corpus", {"a.txt": random_documents(30, 5)})
    sources = find_sources([str(changed)], LINES)
    with (changed / "a.txt").open("a") as file:
        file.write("one more line\n")
    with pytest.raises(CorpusError, match=r"a\.txt has changed since this command began"):
        tokenize_corpus(
            sources, CONFIG, make_tokenizer(), tmp_path / "tokens", workers=InlineWorkers()
        )


# ---- A unit that is done twice


def unfinished(corpus: Path, output: Path) -> tuple[LocalPlace, UnitReceipt]:
    tokenize(corpus, output, Part(1, 1))
    place = LocalPlace(output)
    receipt = read_receipt(place, "unit-000000.json", UnitReceipt)
    assert receipt is not None
    return place, receipt


def as_attempt(place: LocalPlace, receipt: UnitReceipt, attempt: str, **other: Any) -> UnitReceipt:
    """Return what another worker would have made of the same unit, its part beside the first."""
    own = UnitReceipt(**{**vars(receipt), **other})
    own.parts = {}
    for split, part in receipt.parts.items():
        name = f"{part.file.rpartition('_')[0]}_{attempt}.part"
        shutil.copy(place.folder / in_build(part.file), place.folder / in_build(name))
        own.parts[split] = type(part)(**{**vars(part), "file": name})
    return own


def test_the_first_attempt_counts_and_an_equal_one_leaves_nothing(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    place, first = unfinished(corpus, tmp_path / "tokens")
    before = sorted(place.names())
    second = as_attempt(place, first, "0123abcd")
    assert keep_receipt(place, "unit-000000.json", second) == first
    assert sorted(place.names()) == before
    finish_dataset(tmp_path / "tokens")
    assert all_bytes(tmp_path / "tokens") == all_bytes(whole)


def test_two_attempts_that_differ_stop_the_build(corpus: Path, tmp_path: Path) -> None:
    place, first = unfinished(corpus, tmp_path / "tokens")
    other = as_attempt(place, first, "0123abcd", dropped={"empty": 1})
    with pytest.raises(IntegrityError, match=r"unit-000000\.json: a unit .* two different results"):
        keep_receipt(place, "unit-000000.json", other)


def test_a_receipt_of_a_part_that_is_lost_is_replaced(corpus: Path, tmp_path: Path) -> None:
    place, first = unfinished(corpus, tmp_path / "tokens")
    second = as_attempt(place, first, "0123abcd")
    for part in first.files:
        place.remove(in_build(part.file))
    assert keep_receipt(place, "unit-000000.json", second) == second
    assert read_receipt(place, "unit-000000.json", UnitReceipt) == second


# ---- What nobody needs


def test_what_nothing_names_is_removed_and_nothing_else(
    corpus: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tokens"
    place, first = unfinished(corpus, output)
    needed = set(place.names())
    as_attempt(place, first, "0123abcd")
    (output / ".build" / ".unit-000003.json.0123abcd.partial").write_bytes(b"half")
    (output / "notes.txt").write_text("mine")
    left = set(place.names()) - needed - {"notes.txt"}
    assert len(left) > 1
    assert set(clean_up(output, is_dry=True)) == left == set(clean_up(output))
    assert set(place.names()) == needed | {"notes.txt"}
    finish_dataset(output)
    late = output / ".build" / "unit-000001-train_0123abcd.part"  # of a worker that was lost
    late.parent.mkdir()
    late.write_bytes(b"late")
    shutil.copy(output / "train-00000.arrow", output / "train-00077.arrow")
    assert set(clean_up(output)) == {".build/unit-000001-train_0123abcd.part", "train-00077.arrow"}
    (output / "notes.txt").unlink()
    assert all_bytes(output) == all_bytes(whole)
    assert not (output / ".build").exists()
    with pytest.raises(IntegrityError, match="neither a dataset nor an unfinished build"):
        clean_up(corpus)
