"""Tags of a corpus, what is selected by them, and what tokenizing makes of a selection."""

import html
import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lmdata.building.workers import Message, Threads
from lmdata.chosen import read_selection
from lmdata.comparison import compare_selections
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.dataset import open_store
from lmdata.errors import ConfigError, CorpusError, IntegrityError, MismatchError
from lmdata.mixing import MixtureConfig, Phase
from lmdata.page import page_html
from lmdata.ragged import offsets_of
from lmdata.recipes import RECIPES as RECIPES_OF_VIEWS
from lmdata.schema import manifest_json
from lmdata.selection import (
    find_first_failed,
    open_selection,
    select_documents,
    split_keys,
)
from lmdata.settings import TagConfig
from lmdata.tag_page import tag_page
from lmdata.tag_report import tag_report
from lmdata.tagging.audit import check_rows
from lmdata.tagging.conditions import RECIPES, recipe_condition
from lmdata.tagging.evaluations import EvaluationFile, read_evaluations
from lmdata.tagging.manifests import EvaluationRecord, read_tag_manifest, read_tags
from lmdata.tagging.rules import DEFAULT_RULES, RULES, judge, measure
from lmdata.tagging.words import PlainCutter
from lmdata.tags import tag_corpus, tag_schema
from lmdata.tokens import TokenizeConfig, tokenize_corpus
from lmdata.views import view
from lmdata.writer import ShardWriter
from tests.lmdata.builds import make_tokenizer

UNIT_BYTES = 4000


def make_texts(number: int) -> list[str]:
    """Return texts of all kinds: long and short, lists, repeats of each other and of lines."""
    choose = random.Random(number)
    words = [
        "the",
        "of",
        "and",
        "to",
        "be",
        "that",
        "have",
        "with",
        "house",
        "river",
        "stone",
        "winter",
        "walked",
        "small",
        "green",
    ]

    def sentence() -> str:
        return " ".join(choose.choices(words, k=choose.randint(4, 14))).capitalize() + "."

    texts = ["\n".join(sentence() for _ in range(choose.randint(1, 20))) for _ in range(30)]
    texts += ["- a\n- b\n" * 9, sentence() + "\n" + f"{sentence()}\n" * 9, "", texts[3], texts[5]]
    choose.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tags") / "corpus"
    folder.mkdir()
    for number in range(3):
        lines = [json.dumps({"text": text}) + "\n" for text in make_texts(number)]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "again.jsonl").write_bytes((folder / "1.jsonl").read_bytes())
    return folder


def tag(
    corpus: Path, output: Path, num_threads: int = 1,
    evaluations: Sequence[EvaluationFile] = (), **options: object,
) -> object:  # fmt: skip
    sources = find_sources([str(corpus)], CorpusConfig())
    workers = Threads(num_threads, "lmdata.tagging.units:prepare_tags")
    return tag_corpus(
        sources, TagConfig(**options), output, workers=workers, unit_bytes=UNIT_BYTES,
        evaluations=evaluations,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tags(corpus: Path) -> Path:
    tag(corpus, corpus.parent / "tags")
    return corpus.parent / "tags"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def read_texts(corpus: Path) -> list[tuple[str, int, str]]:
    """Return every document that is not blank: source, position and text."""
    return [
        (path.name, position, json.loads(line)["text"])
        for path in sorted(corpus.glob("*.jsonl"))
        for position, line in enumerate(path.read_text(encoding="utf-8").splitlines())
        if json.loads(line)["text"].strip()
    ]


def test_a_row_says_of_each_document_what_the_rules_say(corpus: Path, tags: Path) -> None:
    table, texts = read_tags(tags, read_tag_manifest(tags)), read_texts(corpus)
    assert table.column("source").to_pylist() == [source for source, _, _ in texts]
    assert table.column("position").to_pylist() == [position for _, position, _ in texts]
    parts = [text.encode() for _, _, text in texts]
    content, offsets = np.frombuffer(b"".join(parts), np.uint8), offsets_of([*map(len, parts)])
    figures = measure(content, offsets, PlainCutter())
    for name, values in figures.items():
        assert np.array_equal(table.column(name).to_numpy(), values), name
    for rule in DEFAULT_RULES:
        limits = RULES[rule]
        verdict = judge(figures, rule).tolist()
        assert table.column(rule).to_pylist() == [number < 0 for number in verdict]
        reasons = [limits[number].reason if number >= 0 else None for number in verdict]
        assert table.column(f"{rule}_reason").to_pylist() == reasons
        assert rule == "c4" or 0 < sum(number < 0 for number in verdict) < len(verdict), rule
    first: dict[str, int] = {}
    originals = [first.setdefault(text, row) for row, (_, _, text) in enumerate(texts)]
    again = [original if original != row else None for row, original in enumerate(originals)]
    assert table.column("duplicate_of").to_pylist() == again
    assert table.column("duplicate").to_pylist() == [row is not None for row in again]


def test_any_number_of_workers_gives_the_same_bytes(
    corpus: Path, tags: Path, tmp_path: Path
) -> None:
    tag(corpus, tmp_path / "tags", num_threads=3)
    assert files_of(tmp_path / "tags") == files_of(tags)


def test_tags_say_what_is_shared_with_evaluations(corpus: Path, tmp_path: Path) -> None:
    texts = read_texts(corpus)
    planted = max((line for _, _, text in texts for line in text.splitlines()), key=len)
    (tmp_path / "eval.txt").write_text(f"An item of its own\n{planted}\nshort\n")
    evaluations = read_evaluations([tmp_path / "eval.txt"])
    outputs = [tmp_path / "one", tmp_path / "three"]
    for output, num_threads in zip(outputs, (1, 3), strict=True):
        tag(corpus, output, num_threads, evaluations=evaluations)
    assert files_of(outputs[0]) == files_of(outputs[1])
    manifest = read_tag_manifest(outputs[0])
    rows = read_tags(outputs[0], manifest).to_pylist()
    shared = [row["eval_text"] is not None for row in rows]
    assert shared == [planted in text for _, _, text in texts]
    assert manifest.against[str(tmp_path / "eval.txt")] == EvaluationRecord(
        bytes=evaluations[0].bytes, xxh3=evaluations[0].xxh3, texts=1, short_texts=1, passed_over=1
    )
    assert "share text with evaluations" in manifest.notes[-1]
    where = recipe_condition("english", manifest)
    assert where == f"{RECIPES['english']} and not contaminated_gpt3"
    assert recipe_condition("distinct", manifest) == RECIPES["distinct"]


def test_a_build_that_was_stopped_goes_on_at_the_next_unit(
    corpus: Path, tags: Path, tmp_path: Path
) -> None:
    class Stopping(Threads):
        """Is interrupted when some units are done."""

        def receive(self, timeout_s: float) -> list[Message]:
            if len(list((tmp_path / "tags/.build").glob("unit-*.json"))) > 3:
                raise KeyboardInterrupt
            return super().receive(timeout_s)

    sources = find_sources([str(corpus)], CorpusConfig())
    workers = Stopping(1, "lmdata.tagging.units:prepare_tags")
    with pytest.raises(KeyboardInterrupt, match="units are kept"):
        tag_corpus(sources, TagConfig(), tmp_path / "tags", workers=workers, unit_bytes=UNIT_BYTES)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tags/.build").iterdir()}
    assert any(name.endswith(".part") for name in kept)
    assert not (tmp_path / "tags/manifest.json").exists()
    tag(corpus, tmp_path / "tags")
    assert files_of(tmp_path / "tags") == files_of(tags)


def test_tags_that_were_altered_are_refused(tags: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tags, tmp_path / "tags")
    path = copy / "documents-00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        read_tags(copy, read_tag_manifest(copy))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["words"] = "others"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="was altered"):
        read_tag_manifest(copy)
    with pytest.raises(IntegrityError, match="holds no finished tags"):
        read_tag_manifest(tmp_path)


def test_tags_of_before_places_were_right_are_refused(tags: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tags, tmp_path / "tags"))
    manifest = read_tag_manifest(copy)
    rules = {name: rule for name, rule in manifest.rules.items() if "common" not in name}
    (copy / "manifest.json").write_text(manifest_json(replace(manifest, rules=rules)))
    with pytest.raises(MismatchError, match=r"earlier lmdata.* make it again"):
        read_tag_manifest(copy)


def test_standard_input_and_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="save standard input to a file"):
        tag_corpus(find_sources(["-"], CorpusConfig()), TagConfig(), tmp_path / "tags")
    (tmp_path / "empty.txt").write_text("  \n")
    with pytest.raises(CorpusError, match="no text was found"):
        tag(tmp_path / "empty.txt", tmp_path / "tags")
    assert not (tmp_path / "tags").exists()


# ---- Selections


def test_the_first_condition_that_does_not_hold_is_the_reason(tags: Path) -> None:
    table = read_tags(tags, read_tag_manifest(tags))
    found, reasons = find_first_failed(
        table, "c4 AND (num_words > 90 or fineweb) and not duplicate"
    )
    assert reasons == ["c4", "(num_words > 90 or fineweb)", "not duplicate"]
    rows = table.select(["c4", "num_words", "fineweb", "duplicate"]).to_pylist()
    expected = [
        0 if not row["c4"] else 1 if not (row["num_words"] > 90 or row["fineweb"])
        else 2 if row["duplicate"] else -1
        for row in rows
    ]  # fmt: skip
    assert found.tolist() == expected
    assert {-1, 0, 2} <= set(expected)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("gofer_quality", "there is no tag 'gofer_quality'; did you mean 'gopher_quality'"),
        ("num_words", "is no condition but int64: compare it"),
        ("num_words >", "can't be read as SQL"),
        ("c4 and num_words < 0", "holds for none of"),
    ],
)
def test_expressions_that_select_nothing_are_refused(
    tags: Path, tmp_path: Path, where: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        select_documents(tags, where, tmp_path / "selection")
    assert not (tmp_path / "selection").exists()


def test_a_null_does_not_hold_and_between_is_one_condition() -> None:
    table = pa.table({"a": pa.array([1, None, 9]), "b": [True, True, True]})
    assert find_first_failed(table, "a > 0 and b")[0].tolist() == [-1, 0, -1]
    found, reasons = find_first_failed(table, "a between 5 and 10 and b")
    assert found.tolist() == [0, 0, -1]
    assert reasons == ["a between 5 and 10 and b"]


def test_the_ledger_of_a_selection_balances(tags: Path, tmp_path: Path) -> None:
    manifest = select_documents(tags, RECIPES["distinct"], tmp_path / "selection")
    documents = manifest.ledger.flows["documents"]
    again = sum(read_tags(tags, read_tag_manifest(tags)).column("duplicate").to_pylist())
    near = sum(read_tags(tags, read_tag_manifest(tags)).column("near_duplicate").to_pylist())
    assert documents.dropped == {"not duplicate": again, "not near_duplicate": near}
    assert documents.read == documents.total_written + again + near
    assert manifest.ledger.flows["bytes"].total_dropped > 0


def test_a_source_that_loses_more_than_half_is_named(tags: Path, tmp_path: Path) -> None:
    manifest = select_documents(tags, "not duplicate", tmp_path / "selection")
    assert manifest.notes == ("again.jsonl loses 100% of its bytes",)


def test_tokenizing_reads_what_is_selected(corpus: Path, tags: Path, tmp_path: Path) -> None:
    where = "gopher_quality and not duplicate"
    manifest = select_documents(tags, where, tmp_path / "selection")
    sources, config = (
        find_sources([str(corpus)], CorpusConfig()),
        TokenizeConfig(validation_ratio=0.0),
    )
    selection = open_selection(tmp_path / "selection", sources, config.corpus)
    workers = Threads(1, "lmdata.building.units:prepare_units")
    built = tokenize_corpus(
        sources, config, make_tokenizer(), tmp_path / "tokens", workers=workers,
        selection=selection, unit_bytes=UNIT_BYTES,
    )  # fmt: skip
    table = read_tags(tags, read_tag_manifest(tags))
    found = find_first_failed(table, where)[0]
    expected = [
        (row["source"], row["position"])
        for row, failed in zip(
            table.select(["source", "position"]).to_pylist(), found.tolist(), strict=True
        )
        if failed < 0
    ]
    store = open_store(tmp_path / "tokens")
    assert [store.provenance(row) for row in range(len(store))] == expected
    flow = built.ledger.flows["documents"]
    assert flow.dropped["not-selected"] == manifest.ledger.flows["documents"].total_dropped
    assert built.configuration["selection"] == {"where": where, "hash": manifest.hash}


def test_places_are_those_of_the_source_whatever_is_read_at_a_time(
    corpus: Path, tags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_little(*arguments: Any, **options: Any) -> Iterator[Documents]:
        return read_documents(*arguments, **{**options, "batch_bytes": 700})

    for room in ("lmdata.building.units", "lmdata.tagging.units"):
        monkeypatch.setattr(f"{room}.read_documents", read_little)
    tag(corpus, tmp_path / "tags")
    assert (
        files_of(tmp_path / "tags")["documents-00000.arrow"]
        == (files_of(tags)["documents-00000.arrow"])
    )
    select_documents(tags, "num_words > 40", tmp_path / "selection")
    sources = find_sources([str(corpus)], CorpusConfig())
    selection = open_selection(tmp_path / "selection", sources, CorpusConfig())
    kept = [(name, position) for name, position, text in read_texts(corpus)
            if len(text.split()) > 40]  # fmt: skip
    for unit_bytes in (UNIT_BYTES, 1 << 20):
        workers = Threads(1, "lmdata.building.units:prepare_units")
        tokenize_corpus(
            sources, TokenizeConfig(validation_ratio=0.0), make_tokenizer(),
            tmp_path / f"tokens-{unit_bytes}", workers=workers, unit_bytes=unit_bytes,
            selection=selection,
        )  # fmt: skip
        store = open_store(tmp_path / f"tokens-{unit_bytes}")
        places = [store.provenance(row) for row in range(len(store))]
        assert set(places) >= set(kept)
        assert places == sorted(places)


def test_a_store_of_everything_is_read_by_a_selection(
    corpus: Path, tags: Path, tmp_path: Path
) -> None:
    sources = find_sources([str(corpus)], CorpusConfig())
    workers = Threads(1, "lmdata.building.units:prepare_units")
    config = TokenizeConfig(validation_ratio=0.0)
    tokenize_corpus(
        sources, config, make_tokenizer(), tmp_path / "tokens", workers=workers,
        unit_bytes=UNIT_BYTES,
    )  # fmt: skip
    phases = (Phase(share=1, weights={"0.jsonl": 1}), Phase(share=2))
    mixture = MixtureConfig(phases=phases, budget=60, unit="documents")
    manifest = select_documents(tags, "num_words > 40", tmp_path / "selection", mixture=mixture)
    store, selection = open_store(tmp_path / "tokens"), read_selection(tmp_path / "selection")
    assert manifest.phase_shares == (1 / 3, 2 / 3)
    for phase, budget in enumerate((20, 40)):
        chosen = selection.choose(store, phase)
        read = Counter(chosen.provenance(row) for row in range(len(chosen)))
        assert read.total() == budget == len(chosen)
        assert phase or {name for name, _ in read} == {"0.jsonl"}
        whole = {
            store.provenance(row): store.document(row)[0].tolist() for row in range(len(store))
        }
        for row in range(len(chosen)):
            assert chosen.document(row)[0].tolist() == whole[chosen.provenance(row)]
        examples = view(chosen, RECIPES_OF_VIEWS["roberta"], seed=1)
        assert examples.facts.examples > 0
        assert chosen.num_tokens == sum(len(whole[place]) * n for place, n in read.items())
    assert sum(sum(group.read_documents) for group in manifest.groups or ()) == 60
    where = "num_words > 40 and source = '0.jsonl'"  # and of others nothing
    select_documents(tags, where, tmp_path / "one")
    chosen = read_selection(tmp_path / "one").choose(store)
    assert {chosen.provenance(row)[0] for row in range(len(chosen))} == {"0.jsonl"}


def test_documents_of_a_component_share_a_split_also_when_the_corpus_grows(
    corpus: Path, tags: Path, tmp_path: Path
) -> None:
    table = read_tags(tags, read_tag_manifest(tags))
    keys = split_keys(table)
    components = table.column("component").to_numpy()
    assert len({*zip(components.tolist(), keys.tolist(), strict=True)}) == len({*components})
    larger = shutil.copytree(corpus, tmp_path / "corpus")
    lines = [json.dumps({"text": text}) + "\n" for text in make_texts(9)]
    (larger / "more.jsonl").write_text("".join(lines))
    tag(larger, tmp_path / "tags")
    grown = read_tags(tmp_path / "tags", read_tag_manifest(tmp_path / "tags"))
    assert split_keys(grown)[: len(keys)].tolist() == keys.tolist()
    again = select_documents(tmp_path / "tags", "num_words > 0", tmp_path / "more")
    before = select_documents(tags, "num_words > 0", tmp_path / "before")
    found = compare_selections(tmp_path / "before", tmp_path / "more")
    assert (found.both, found.other_components, found.only[0].documents) == (len(table), 0, 0)
    assert found.only[1].by_source == {"more.jsonl": len(grown) - len(table)}
    assert again.hash != before.hash


def test_documents_that_a_new_one_joins_are_listed_as_moved(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(200)]
    head, tail = ([f"{name}{number}" for number in range(19)] for name in ("head", "tail"))
    one, bridge, other = words, [*words[:-19], *tail], [*head, *words[19:-19], *tail]
    for name, texts in (("few", [one, other]), ("more", [one, other, bridge])):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"text": " ".join(text)}) + "\n" for text in texts]
        for number, line in enumerate(lines):
            (tmp_path / name / f"{number}.jsonl").write_text(line)
        tag(tmp_path / name, tmp_path / f"{name}-tags")
        select_documents(tmp_path / f"{name}-tags", "num_words > 0", tmp_path / f"{name}-chosen")
    table = read_tags(tmp_path / "few-tags", read_tag_manifest(tmp_path / "few-tags"))
    grown = read_tags(tmp_path / "more-tags", read_tag_manifest(tmp_path / "more-tags"))
    moved = np.flatnonzero(split_keys(table) != split_keys(grown)[:2])
    assert len(moved)
    found = compare_selections(tmp_path / "few-chosen", tmp_path / "more-chosen")
    assert found.moved == {f"{number}.jsonl": [0] for number in moved.tolist()}
    assert found.other_components == len(moved)


def test_two_selections_are_compared_with_reasons_and_samples(tags: Path, tmp_path: Path) -> None:
    select_documents(tags, "num_words > 30", tmp_path / "one")
    select_documents(tags, "num_words > 60 and not duplicate", tmp_path / "two")
    found = compare_selections(tmp_path / "one", tmp_path / "two")
    table = read_tags(tags, read_tag_manifest(tags)).to_pylist()
    expected = Counter(
        "num_words > 60" if row["num_words"] <= 60 else "not duplicate"
        for row in table if row["num_words"] > 30 and (row["num_words"] <= 60 or row["duplicate"])
    )  # fmt: skip
    assert found.only[0].reasons == dict(expected)
    assert found.only[1].documents == 0
    sample = found.only[0].samples[0]
    texts = {
        (source, position): text for source, position, text in read_texts(tags.parent / "corpus")
    }
    assert " ".join(texts[sample.source, sample.position].split()).startswith(sample.beginning)


MUTATIONS: dict[str, Callable[[list[dict[str, Any]], int], object]] = {
    "dropped": lambda rows, row: rows.pop(row),
    "doubled": lambda rows, row: rows.insert(row, rows[row]),
    "of another source": lambda rows, row: rows[row].update(
        source="0.jsonl" if rows[row]["source"] != "0.jsonl" else "1.jsonl"
    ),
    "said to stay": lambda rows, row: rows[row].update(
        gopher_quality=not rows[row]["gopher_quality"]
    ),
    "for another reason": lambda rows, row: rows[row].update(
        fineweb_reason="line_word_ratio above 0.3" if rows[row]["fineweb_reason"] is None else None
    ),
    "a copy": lambda rows, row: rows[row].update(duplicate=not rows[row]["duplicate"]),
    "nearly one": lambda rows, row: rows[row].update(
        near_duplicate=not rows[row]["near_duplicate"]
    ),
    "of other bytes": lambda rows, row: rows[row].update(num_bytes=rows[row]["num_bytes"] + 1),
}


def test_200_planted_mistakes_stop_a_build(tags: Path) -> None:
    manifest = read_tag_manifest(tags)
    table = read_tags(tags, manifest)
    flows = manifest.ledger.flows
    check_rows(table.to_batches(), manifest.sources, flows, 0.8)
    choose = random.Random(0)
    for row in choose.sample(range(len(table)), 25):
        for mutate in MUTATIONS.values():
            rows = table.slice(0, len(table)).to_pylist()
            mutate(rows, row)
            mutated = pa.Table.from_pylist(rows, schema=table.schema)
            with pytest.raises(IntegrityError, match="the tags are not of what was read"):
                check_rows(mutated.to_batches(), manifest.sources, flows, 0.8)


def test_a_mistake_of_the_writer_leaves_no_tags(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ShardWriter.write
    monkeypatch.setattr(ShardWriter, "write", lambda own, rows: write(own, rows.slice(1)))
    with pytest.raises(IntegrityError, match="please report"):
        tag(corpus, tmp_path / "tags")
    assert not (tmp_path / "tags/manifest.json").exists()


def test_the_report_says_what_would_go_and_shows_it(tags: Path) -> None:
    found = tag_report(tags)
    table = read_tags(tags, read_tag_manifest(tags))
    for rule in found.rules:
        kept = table.column(rule.name).to_pylist()
        assert rule.documents == kept.count(False) == sum(own.documents for own in rule.limits)
        assert len(rule.any_kept) == min(5, kept.count(True))
        for limit in rule.limits:
            shares = [share for _, share in limit.kept_curve]
            assert shares in (sorted(shares), sorted(shares, reverse=True))
    assert dict(found.clusters)[1] > 0
    flow = found.recipes[0].flows["documents"]
    assert flow.read == flow.total_written + flow.total_dropped == len(table)
    page = page_html(tag_page(found))
    assert page == page_html(tag_page(tag_report(tags)))
    assert "Kept, nearest to the limit" in page
    assert found.rules[0].any_dropped[0].beginning[:20] in html.unescape(page)


def test_documents_of_the_same_words_are_told(tmp_path: Path) -> None:
    texts = [
        "The cat, sat!",
        "— !",
        "the  CAT sat",
        "the cat sat.",
        "...",
        "the cat sat 7",
        "the cat sat 8",
    ]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    tag(tmp_path / "a.jsonl", tmp_path / "tags")
    table = read_tags(tmp_path / "tags", read_tag_manifest(tmp_path / "tags"))
    assert table.column("same_words_of").to_pylist() == [None, None, 0, 0, None, None, None]
    assert table.column("same_words").to_pylist() == [False, False, True, True, *[False] * 3]
    assert not any(table.column("duplicate").to_pylist())


def test_lines_that_other_documents_of_a_source_have_are_counted(tmp_path: Path) -> None:
    own = ["First one stands here.", "Another thing was said.", "The third is of its own kind."]
    texts = [f"Menu\n\n{line}\n  Imprint of us \n" for line in own]
    texts += ["Only here.\nOnly here.", own[0], "Menu of others", "Only here.\nOnly here."]
    (tmp_path / "corpus").mkdir()
    for name, part in {"a.jsonl": texts, "b.jsonl": ["Menu", "Nothing else."]}.items():
        lines = [json.dumps({"text": text}) + "\n" for text in part]
        (tmp_path / "corpus" / name).write_text("".join(lines))
    tag(tmp_path / "corpus", tmp_path / "tags")
    table = read_tags(tmp_path / "tags", read_tag_manifest(tmp_path / "tags"))
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    # of three lines two, and the first document's own one, which the fifth has too
    assert found["common_line_ratio"] == [1, 2 / 3, 2 / 3, 0, 1, 0, 0, 0, 0]
    num_bytes = [len("MenuImprint of us") / len(f"MenuImprint of us{line}") for line in own[1:]]
    assert found["common_line_byte_ratio"] == [1, *num_bytes, 0, 1, 0, 0, 0, 0]
    assert found["common_paragraph_ratio"] == [1 / 2, 1 / 2, 1 / 2, 0, 0, 0, 0, 0, 0]
    paragraphs = [len("Menu") / len(f"MenuImprint of us{line}") for line in own]
    assert found["common_paragraph_byte_ratio"] == [*paragraphs, 0, 0, 0, 0, 0, 0]
    assert found["duplicate"] == [*[False] * 6, True, False, False]
    report = tag_report(tmp_path / "tags")
    assert [(own.source, own.documents, own.mostly) for own in report.common] == [("a.jsonl", 7, 2)]
    assert [sample.said for sample in report.common_samples[:2]] == ["100% of it"] * 2
    assert "documents mostly so" in page_html(tag_page(report))


def test_personal_data_is_replaced_where_text_is_tokenized(tmp_path: Path) -> None:
    texts = ["Write to ann@example.org today.", "Nothing here.", "Call +49 30 1234567 or bo@ex.org"]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    tag(tmp_path / "a.jsonl", tmp_path / "tags")
    select_documents(tmp_path / "tags", "num_words > 0", tmp_path / "selection", replaces_pii=True)
    sources = find_sources([str(tmp_path / "a.jsonl")], CorpusConfig())
    selection = open_selection(tmp_path / "selection", sources, CorpusConfig())
    documents = [*read_documents(sources[0], CorpusConfig())]
    kept = selection.keep(sources[0], 0, documents[0])
    found = [kept.text[a:b].tobytes() for a, b in itertools.pairwise(kept.offsets)]
    assert found == [b"Write to <email> today.", b"Nothing here.", b"Call <phone> or <email>"]
    workers = Threads(1, "lmdata.building.units:prepare_units")
    built = tokenize_corpus(
        sources, TokenizeConfig(), make_tokenizer(), tmp_path / "tokens", workers=workers,
        selection=selection,
    )  # fmt: skip
    flow = built.ledger.flows["personal data"]
    assert (flow.read, flow.dropped) == (3, {"email": 2, "phone": 1})


def test_a_selection_of_another_corpus_is_refused(corpus: Path, tags: Path, tmp_path: Path) -> None:
    select_documents(tags, RECIPES["distinct"], tmp_path / "selection")
    other = shutil.copytree(corpus, tmp_path / "corpus")
    (other / "new.jsonl").write_text('{"text": "one more"}\n')
    sources = find_sources([str(other)], CorpusConfig())
    with pytest.raises(MismatchError, match=r"new.jsonl had no bytes"):
        open_selection(tmp_path / "selection", sources, CorpusConfig())
    sources = find_sources([str(corpus)], CorpusConfig())
    with pytest.raises(MismatchError, match="read with other settings"):
        open_selection(tmp_path / "selection", sources, CorpusConfig(text_field="body"))
    with pytest.raises(IntegrityError, match="holds tags, not selection"):
        open_selection(tags, sources, CorpusConfig())


def test_the_schema_has_a_verdict_and_a_reason_for_each_rule() -> None:
    names = set(tag_schema([]).names)
    assert all({rule, f"{rule}_reason"} <= names for rule in DEFAULT_RULES)
    assert not names & (RULES.keys() - set(DEFAULT_RULES))
