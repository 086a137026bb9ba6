"""The report on a dataset: what it counts, what it shows, and the page made of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lmdata.config import json_text
from lmdata.dataset import open_examples, open_store
from lmdata.errors import IntegrityError
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.report import data_report, make_share
from lmdata.report_page import data_page
from lmdata.report_rows import find_samples, first_places
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from tests.lmdata.builds import build, random_documents, write_corpus
from tests.lmdata.text_batches import batch
from tests.pages import check_all_is_told, check_page, check_schema

EVIL = "<script>alert(1)</script> the cat sat on the mat . & </style> <img src=x onerror=y>"
SCHEMA = Path(__file__).with_name("report-schema.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    documents = [*random_documents(240), "☃ ☃ ☃ cat", "☃"]
    corpus = write_corpus(folder / "corpus", {"a.txt": documents, "<b>.txt": [EVIL] * 2 + [" "]})
    build(corpus, folder / "tokens", sentences="rules", validation_ratio=0.2)
    write_examples(
        folder / "tokens", Recipe(max_seq_length=32), folder / "nsp", seed=0, num_workers=1
    )
    causal = Recipe(view="packed", corruption="none", max_seq_length=32)
    write_examples(folder / "tokens", causal, folder / "causal", seed=0, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def reports(folder):
    return {name: data_report(folder / name) for name in ("tokens", "nsp", "causal")}


@pytest.mark.parametrize("name", ["tokens", "nsp", "causal"])
def test_a_page_stands_alone_and_shows_only_what_the_json_tells(reports, name):
    page = data_page(reports[name])
    assert "&lt;b&gt;.txt" in check_page(page)
    check_all_is_told(page, reports[name])


def test_a_corpus_of_scripts_is_shown_as_text(tmp_path):
    documents = [f"{EVIL} {number}" for number in range(20)]
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": documents})
    config = TokenizerConfig(model="bpe", vocab_size=400, allow_smaller=True)
    build(corpus, tmp_path / "tokens", train_tokenizer([batch(documents)], config))
    text = check_page(data_page(data_report(tmp_path / "tokens")))
    assert text.count("&lt;script&gt;") >= 10
    assert "onerror=y&gt;" in text
    assert text.count("</style>") == 1


def test_the_same_dataset_gives_the_same_report_and_page(folder, reports):
    again = data_report(folder / "nsp")
    assert json_text(again) == json_text(reports["nsp"])


def test_the_fields_of_the_json_are_those_that_were_promised(reports):
    check_schema(SCHEMA, list(reports.values()))


def test_every_stage_and_every_reason_of_loss_is_told(folder, reports):
    assert [stage.name for stage in reports["nsp"].stages] == [
        "from the sources to the store", "from the store to the examples",
    ]  # fmt: skip
    documents = reports["tokens"].stages[0].flows["documents"]
    assert documents.dropped["empty"] == 1
    text = check_page(data_page(reports["nsp"]))
    assert "dropped: empty" in text
    assert "written: validation" in text


def test_examples_without_their_store_say_what_they_know(folder, tmp_path, reports):
    alone = tmp_path / "alone"
    shutil.copytree(folder / "nsp", alone)
    found = data_report(alone)
    assert [stage.name for stage in found.stages] == ["from the store to the examples"]
    assert found.num_failed == 0
    assert found.splits[0].statistics.tokens == reports["nsp"].splits[0].statistics.tokens


def test_pieces_are_counted_and_shown_where_they_first_occur(folder, reports):
    store = open_store(folder / "tokens")
    split = next(one for one in reports["tokens"].splits if one.split == "train")
    ids = np.concatenate([block.ids for block in store.blocks])
    for piece in (*split.top, *split.rare, *split.unknown):
        assert piece.count == int((ids == piece.id).sum())
        assert piece.example is not None
        assert "»" in piece.example
    counts = [piece.count for piece in split.top]
    assert counts == sorted(counts, reverse=True)
    assert split.num_unknown == int((ids == store.tokenizer.special_ids["unk"]).sum()) > 0
    unseen = [p for p in split.unused if p in store.tokenizer.pieces]
    assert len(unseen) == min(split.num_unused, 60)


def test_first_places_are_the_first(folder):
    store = open_store(folder / "tokens")
    wanted = np.arange(store.tokenizer.vocab_size)
    for piece, (row, position) in first_places(store, wanted).items():
        assert store.document(row)[0][position] == piece
        earlier = [*(store.document(r)[0] for r in range(row)), store.document(row)[0][:position]]
        assert piece not in np.concatenate(earlier)


@pytest.mark.parametrize("name", ["tokens", "nsp"])
def test_rows_are_drawn_at_random_and_at_the_extremes(folder, name):
    rows = (open_store if name == "tokens" else open_examples)(folder / name)
    samples = list(find_samples(rows))
    assert len({sample.row for sample in samples}) == len(samples)
    drawn = [sample.row for sample in samples if sample.why == "random"]
    assert len(drawn) == 10
    assert drawn != list(range(10))
    lengths = {sample.row: sample.facts["tokens"] for sample in samples}
    for why, rest in (("longest", max), ("shortest", min)):
        own = [lengths[sample.row] for sample in samples if sample.why == why]
        assert not own or rest(lengths.values()) in (own[0], *(lengths[row] for row in drawn))


def test_masks_are_marked_in_the_rows_to_read(reports):
    marks = {span.mark for sample in reports["nsp"].splits[0].samples
             for line in sample.lines for span in line}  # fmt: skip
    assert {"mask", "random", "keep", "special", ""} == marks
    masked = sum(sample.facts["masked"] for sample in reports["nsp"].splits[0].samples)
    assert masked > 20


def test_padding_and_shares_add_up(reports):
    split = next(one for one in reports["nsp"].splits if one.split == "train")
    found, padding = split.statistics, split.padding
    assert padding.padded_tokens == found.examples * 32
    assert padding.avoided_tokens + found.tokens == padding.padded_tokens
    masked = [share for share in split.shares if "pairs" not in share.name]
    assert sum(share.ratio for share in masked) == pytest.approx(1)
    assert [share.expected for share in masked] == [0.8, 0.1, 0.1]
    assert all(share.low <= share.ratio <= share.high for share in split.shares)
    assert {one.split for one in reports["causal"].splits if one.shares} == set()


def test_intervals_hold_the_truth_as_often_as_they_say():
    draws = np.random.default_rng(0).binomial(500, 0.1, 2000)
    inside = [share.low <= 0.1 <= share.high
              for share in (make_share("x", int(n), 500, None) for n in draws)]  # fmt: skip
    assert 0.935 < np.mean(inside) < 0.965


def test_a_damaged_dataset_is_reported_or_refused_in_one_line(folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "tokens", damaged)
    shard = next(damaged.glob("train-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"train-00000\.arrow"):
        data_report(damaged)


def test_what_is_no_dataset_is_named(tmp_path):
    with pytest.raises(IntegrityError, match="no such dataset folder"):
        data_report(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(IntegrityError, match="is not a dataset but a model: `lmmodel report"):
        data_report(tmp_path)
