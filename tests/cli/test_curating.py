"""tag, select, clean and tokenize --select, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmdata.build import build_tokenizer
from lmdata.building.workers import Threads
from lmdata.settings import CorpusConfig, TokenizerConfig
from lmdata.tokenizer import save_tokenizer
from tests.cli.commands import TRAIN_FAST, invoke, make_text, succeed
from tests.lmdata.builds import make_tokenizer

GERMAN = """Der Hund lag vor dem alten Haus und schlief, als die Katze zu ihm kam.
Sie wollte in den Garten, aber das Tor war nicht offen, und niemand hatte den Schlüssel.
Am Abend brachte ein Nachbar frisches Brot, etwas Käse und zwei Flaschen von seinem Wein.
Über die Felder zog langsam der Nebel, während im Dorf schon alle Lichter brannten.
Morgen, sagte er, werden wir wieder früh aufstehen, denn die Arbeit wartet auf keinen.
"""


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    texts = [make_text(20, seed).replace("\n\n", "\n") for seed in range(4)]
    lines = [json.dumps({"text": text}) + "\n" for text in [*texts, texts[1], "", "Too short."]]
    (folder / "a.jsonl").write_text("".join(lines), encoding="utf-8")


def test_a_corpus_is_tagged_selected_and_tokenized(inside: Path) -> None:
    write_corpus(inside / "corpus")
    save_tokenizer(make_tokenizer(), inside / "tokenizer")
    said = succeed("lmdata", "tag", "corpus").stdout
    assert "7 in = 6 out + 1 dropped (1 empty)" in said
    assert "repeat an earlier one to the byte: 1" in said
    said = succeed("lmdata", "select", "--where", "num_words > 9 and not duplicate").stdout
    assert "6 in = 4 out + 2 dropped (1 num_words > 9, 1 not duplicate)" in said
    facts: dict[str, Any] = json.loads(
        succeed("lmdata", "tokenize", "corpus", "--select", "selection", "--json").stdout
    )
    assert facts["ledger"]["documents"]["dropped"] == {"empty": 1, "not-selected": 2}
    assert sum(facts["rows"].values()) == 4


def test_rules_beside_the_usual_ones_are_asked_for_by_name(inside: Path) -> None:
    write_corpus(inside / "corpus")
    said = succeed("lmdata", "tag", "corpus", "--rules", "gopher@dolma", "--rules", "gopher@dclm")
    assert "gopher@dclm, gopher@dolma-1.2" in said.stdout
    where = "gopher_quality_dclm and dolma_num_words > 9 and gopher_repetition_dolma"
    said = succeed("lmdata", "select", "--where", where)
    assert "(1 gopher_quality_dclm" in said.stdout
    succeed("lmdata", "report", "tags")
    assert "gopher@dclm" in (inside / "tags-report.html").read_text(encoding="utf-8")
    result = invoke("lmdata", "tag", "corpus", "--rules", "gopher@x", "--output", "other")
    assert result.exit_code == 1
    assert "by the name 'gopher@x'; there are gopher@dolma, c4@dolma, gopher@dclm" in result.stderr


def test_a_recipe_of_a_language_asks_for_its_rules(inside: Path) -> None:
    (inside / "a.txt").write_text(GERMAN)
    (inside / "b.txt").write_text("One more text of no words that are asked for at all. " * 9)
    corpus = (inside / "a.txt", inside / "b.txt")
    said = succeed("lmdata", "clean", *corpus, "--recipe", "german").stdout
    assert "gopher_quality_german and gopher_repetition and ended_line_ratio" in said
    said = succeed("lmdata", "tag", *corpus, "--stop-words", "derive", "--output", "own").stdout
    assert "next: lmdata select own --recipe own" in said
    result = invoke("lmdata", "select", "own", "--recipe", "german", "--output", "other")
    assert result.exit_code == 1
    assert "say nothing of the rules of german: `lmdata tag CORPUS --rules german`" in result.stderr
    succeed("lmdata", "select", "own", "--where", "gopher_quality_own", "--output", "other")
    result = invoke("lmdata", "clean", *corpus, "--recipe", "germann", "--overwrite")
    assert result.exit_code == 1
    assert "no recipe 'germann': did you mean 'german'? there are english," in result.stderr


def test_clean_tags_and_selects_in_one(inside: Path) -> None:
    write_corpus(inside / "corpus")
    said = succeed("lmdata", "clean", "corpus", "--recipe", "distinct").stdout
    assert "6 in = 5 out + 1 dropped (1 not duplicate)" in said
    assert (inside / "tags" / "manifest.json").is_file()
    assert (inside / "tags-report.html").is_file()


def test_a_model_is_trained_on_a_selection_of_tokens_that_are_there(inside: Path) -> None:
    write_corpus(inside / "corpus")
    save_tokenizer(make_tokenizer(), inside / "tokenizer")
    succeed("lmdata", "tokenize", "corpus", "--set", "validation_ratio=0")
    succeed("lmdata", "tag", "corpus")
    said = succeed(
        "lmdata", "select", "--where", "not duplicate", "--set", 'by=\'num_words > 20\'',
        "--set", "weights={true=3, false=1}", "--set", "budget=8", "--set", "unit=documents",
    ).stdout  # fmt: skip
    assert "true: 6 documents" in said
    assert "false: 2 documents" in said
    train = ("lmmodel", "train", "tokens", "--select", "selection", "--output", "run", *TRAIN_FAST)
    succeed(*train, "--num-steps", "2")
    succeed("lmmodel", "train", "--resume", "--output", "run", "--quiet")
    succeed("lmdata", "select", "--where", "c4 or not c4", "--overwrite")
    result = invoke("lmmodel", "train", "--resume", "--output", "run")
    assert result.exit_code == 1
    assert "resume with the same data" in result.stderr
    succeed("lmdata", "mask", "tokens")
    result = invoke("lmmodel", "train", "shards", "--select", "selection", "--output", "other")
    assert result.exit_code == 1
    assert "--select chooses documents of a token store" in result.stderr


def test_examples_are_made_of_a_selection_of_tokens_that_are_there(inside: Path) -> None:
    write_corpus(inside / "corpus")
    save_tokenizer(make_tokenizer(), inside / "tokenizer")
    succeed("lmdata", "tokenize", "corpus", "--set", "validation_ratio=0")
    succeed("lmdata", "tag", "corpus")
    succeed("lmdata", "select", "--where", "num_words > 9 and not duplicate")
    mask = ("lmdata", "mask", "--recipe", "roberta", "--max-seq-length", "32", "--json")
    whole = json.loads(succeed(*mask, "--output", "whole").stdout)
    facts = json.loads(succeed(*mask, "--select", "selection").stdout)
    part, every = (own["ledger"]["tokens"]["read"] for own in (facts, whole))
    assert 0 < part < every
    assert "shards: passed" in succeed("lmdata", "verify", "shards").stdout
    assert "a.jsonl, line or record" in succeed("lmdata", "show", "shards", "--source").stdout
    twice = ("--set", "budget=8", "--set", "unit=documents", "--overwrite")
    succeed("lmdata", "select", "--where", "num_words > 9 and not duplicate", *twice)
    facts = json.loads(succeed(*mask, "--select", "selection", "--overwrite").stdout)
    assert facts["ledger"]["tokens"]["read"] == 2 * part
    succeed("lmdata", "select", "--where", "not duplicate", "--overwrite")
    assert "no longer the selection" in invoke("lmdata", "show", "shards", "--source").stderr
    phases = "phases=[{share=1},{share=1}]"
    succeed("lmdata", "select", "--where", "not duplicate", "--set", phases, "--overwrite")
    result = invoke(*mask, "--select", "selection", "--overwrite")
    assert result.exit_code == 1
    assert "has 2 phases, which only a training goes through" in result.stderr


def test_a_tokenizer_learns_from_a_selection(inside: Path) -> None:
    (inside / "corpus").mkdir()
    texts = ["wombats walk with wombats", "zzz qqq zzz qqq zzz qqq"]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (inside / "corpus" / "a.jsonl").write_text("".join(lines))
    succeed("lmdata", "tag", "corpus")
    succeed("lmdata", "select", "--where", "position = 0")
    train = ("lmdata", "train-tokenizer", "corpus", "--model", "bpe")
    succeed(*train, "--select", "selection")
    config = TokenizerConfig(model="bpe", allow_smaller=True)
    build_tokenizer(
        ["corpus"], inside / "counted-in-units", config, CorpusConfig(),
        workers=Threads(2, "lmdata.tokenizer_training:prepare_counts"),
        selection_path=inside / "selection",
    )  # fmt: skip
    text, other = (
        (inside / name / "tokenizer.json").read_text() for name in ("tokenizer", "counted-in-units")
    )
    assert text == other
    assert "ombat" in text
    assert "zz" not in text
    (inside / "corpus" / "b.jsonl").write_text(lines[0])
    result = invoke(*train, "--select", "selection", "--output", "other")
    assert result.exit_code == 1
    assert "is of another corpus: b.jsonl" in result.stderr


def test_selections_are_compared_and_tags_reported_on(inside: Path) -> None:
    write_corpus(inside / "corpus")
    succeed("lmdata", "tag", "corpus", "--against", inside / "corpus")
    succeed("lmdata", "select", "--where", "not duplicate", "--output", "one")
    succeed("lmdata", "select", "--where", "num_words > 9", "--output", "two")
    said = succeed("lmdata", "compare", "one", "two").stdout
    assert "both       4 documents" in said
    assert "only one/  1 document" in said
    assert "num_words > 9: Too short." in said
    succeed("lmdata", "report", "tags")
    page = (inside / "tags-report.html").read_text(encoding="utf-8")
    assert "Shared with evaluations" in page
    assert invoke("lmdata", "compare", "one", "tags").exit_code == 1


def test_what_can_not_be_chosen_by_is_said_in_one_line(inside: Path) -> None:
    write_corpus(inside / "corpus")
    assert invoke("lmdata", "select").exit_code == 2
    result = invoke("lmdata", "select", "tags", "--recipe", "english")
    assert result.exit_code == 1
    assert "`lmdata tag CORPUS --output tags` makes it" in result.stderr
    succeed("lmdata", "tag", "corpus")
    result = invoke("lmdata", "select", "--where", "number_words > 3")
    assert result.exit_code == 1
    assert "there is no tag 'number_words'; did you mean 'num_words'?" in result.stderr
    (inside / "corpus" / "b.txt").write_text("another file\n")
    succeed("lmdata", "select", "--recipe", "distinct")
    save_tokenizer(make_tokenizer(), inside / "tokenizer")
    result = invoke("lmdata", "tokenize", "corpus", "--select", "selection")
    assert result.exit_code == 1
    assert "selection is of another corpus: b.txt had no bytes" in result.stderr
