"""`lmmodel count`, and the verbs that take an n-gram model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lmdata.tagging.manifests import read_tag_manifest, read_tags
from tests.cli.commands import Road, as_json, invoke, succeed


@pytest.fixture(scope="module")
def counted(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counted") / "3gram"
    succeed("lmmodel", "count", road.tokens, "--order", "3", "--output", folder)
    return folder


def test_it_is_evaluated_scored_continued_and_exported(counted: Path, tmp_path: Path) -> None:
    found = as_json("lmmodel", "evaluate", counted, "--num-examples", "4")
    assert found["loss"] < found["unigram_loss"] < found["uniform_loss"]
    good, bad = as_json("lmmodel", "score", counted, "The river sees a stone.", "stone a The.")[
        "texts"
    ]
    assert good["per_token"] > bad["per_token"]
    lines = succeed("lmmodel", "generate", counted, "The river", "--max-new-tokens", "4").stdout
    assert lines.lower().startswith("the river")
    path = tmp_path / "model.arpa"
    succeed("lmmodel", "export", counted, path, "--format", "arpa")
    assert path.read_text(encoding="utf-8").splitlines()[0] == "\\data\\"
    assert "ngram 3=" in path.read_text(encoding="utf-8")


def test_documents_are_tagged_by_perplexity(counted: Path, tmp_path: Path) -> None:
    texts = ["The river sees a stone.", "stone a The.", "The bird sees the river.", "A stone."]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    said = succeed("lmdata", "tag", corpus, "--perplexity", counted, "--output", tmp_path / "tags")
    assert "perplexities by kneser-ney-3-" in said.stderr
    assert "perplexity: head to" in said.stdout
    table = read_tags(tmp_path / "tags", read_tag_manifest(tmp_path / "tags"))
    scored = as_json("lmmodel", "score", counted, *texts)["texts"]
    perplexity = table.column("perplexity").to_pylist()
    assert perplexity == pytest.approx([math.exp(-text["per_token"]) for text in scored])
    nats = [-text["per_byte"] for text in scored]
    assert table.column("nats_per_byte").to_pylist() == pytest.approx(nats)
    thirds = table.column("perplexity_third").to_pylist()
    assert sorted(thirds) == ["head", "head", "middle", "tail"]
    assert perplexity[thirds.index("tail")] == max(perplexity)
    where = "perplexity < 1e6 and perplexity_third <> 'tail'"
    succeed("lmdata", "select", tmp_path / "tags", "--where", where, "--output", tmp_path / "kept")
    result = invoke("lmdata", "tag", corpus, "--perplexity", tmp_path, "--output", tmp_path / "no")
    assert result.exit_code == 1
    assert "holds no n-gram model: `lmmodel count`" in result.stderr
    result = invoke("lmdata", "tag", corpus, "--perplexity", counted, "--part", "1/2")
    assert "--perplexity needs the whole corpus" in result.stderr


def test_minimal_pairs_are_scored_by_n_grams(counted: Path, tmp_path: Path) -> None:
    row = {"sentence_good": "The river sees a stone.", "sentence_bad": "stone a sees The."}
    (tmp_path / "order.jsonl").write_text(json.dumps(row) + "\n")
    found = as_json("lmmodel", "evaluate", counted, "--minimal-pairs", tmp_path)
    assert found["score"] == "log-likelihood"
    assert found["total"]["num_right"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "MODEL", "--by-source"), "leave --by and --by-source out"),
        (("score", "MODEL", "a", "--start-token", "a"), "leave --start-token out"),
        (("export", "MODEL", "out", "--format", "hf"), "--format arpa is for n-gram models"),
        (("export", "MODEL", "out", "--onnx"), "--format arpa is for n-gram models"),
        (("export", "RUN", "out", "--format", "arpa"), "--format arpa is for n-gram models"),
    ],
)
def test_what_n_grams_can_not_do_is_a_wrong_usage(
    arguments: tuple[str, ...], words: str, counted: Path, road: Road
) -> None:
    places = {"MODEL": counted, "RUN": road.run}
    result = invoke("lmmodel", *(places.get(word, word) for word in arguments))
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("verb", ["fill-mask", "embed"])
def test_other_verbs_say_what_it_is(verb: str, counted: Path) -> None:
    result = invoke("lmmodel", verb, counted, "a [MASK]")
    assert result.exit_code == 1
    assert "holds an n-gram model" in result.stderr


def test_a_diagnosis_is_for_machines_too(road: Road) -> None:
    result = invoke("lmmodel", "diagnose", road.run, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (1 if found["findings"] else 0)
    assert found["num_steps"] > 0


def test_words_of_held_out_sentences_are_filled_in(road: Road) -> None:
    lines = succeed(
        "lmmodel", "fill-mask", road.run, "--held-out", road.tokens, "--num-texts", "3", "--top-k",
        "2",
    ).stdout.splitlines()  # fmt: skip
    sentences = [line for line in lines if "[" in line]
    assert 0 < len(sentences) <= 3
    assert lines[0].startswith("sentences by a rule: held-out documents drawn by chance")
    assert lines[-1].startswith("the first guess is right in ")
    found = as_json("lmmodel", "fill-mask", road.run, "--held-out", road.tokens)
    for one in found["sentences"]:
        assert len(one["word"]) >= 4
        assert [guess["is_right"] for guess in one["guesses"]].count(True) <= 1
    words = [one["word"] for one in found["sentences"]]
    assert len(set(words)) == len(words)
    every = found["all_words"]
    assert 0 <= every["num_right"] <= every["num_near"] <= every["num_words"]
    assert every["num_words"] >= len(words)
    for extra in (("a [MASK]", "--held-out", road.tokens), ("a [MASK]", "--num-texts", "2")):
        assert invoke("lmmodel", "fill-mask", road.run, *extra).exit_code == 2
