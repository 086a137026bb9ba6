"""What is told of a tokenizer before it is used."""

from __future__ import annotations

import json

import pytest

from lmdata.errors import TokenizerError
from lmdata.tokenizer import save_tokenizer
from lmdata.tokenizer_check import check_tokenizer
from tests.lmdata.encoding_oracle import published, trained


def saved(tmp_path, tokenizer, **changes):
    save_tokenizer(tokenizer, tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_path_rules_and_speed_are_told(tmp_path):
    found = check_tokenizer(saved(tmp_path, published("t5")))
    assert (found.encoder, found.reason) == ("word-cache", "Unigram, cut before white space")
    assert found.rules == {
        "model": "Unigram", "normalizer": "Precompiled", "pre-tok.": "WhitespaceSplit, Metaspace",
    }  # fmt: skip
    assert found.mb_per_s > found.plain_mb_per_s > 0
    assert found.oddities == ()


def test_a_sample_of_ones_own_text_is_taken(tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("A line of text.\n\n" * 500)
    found = check_tokenizer(saved(tmp_path, trained("wordpiece")), [str(corpus)])
    assert found.sample == str(corpus)
    assert 7000 < found.sample_bytes < 9000


def test_what_is_odd_is_named(tmp_path):
    tokenizer = trained("byte-level")
    merges = [*tokenizer.definition["model"]["merges"], ["zz", "z"]]
    model = {**tokenizer.definition["model"], "merges": merges}
    model["vocab"] = {**model["vocab"], "zz": 500, "zzz": 501}
    truncation = {"max_length": 32, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    path = saved(tmp_path, tokenizer, model=model, truncation=truncation, padding=padding)
    oddities = check_tokenizer(path).oddities
    assert "truncation to 32 tokens was left on; it is off here" in oddities
    assert "padding was left on; it is off here" in oddities
    assert "1 of its merges can't apply: no other makes their parts" in oddities
    assert any("ids up to the largest have no piece" in oddity for oddity in oddities)
    assert any("no special token for padding" in oddity for oddity in oddities)


def test_what_is_no_tokenizer_is_one_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"is not a tokenizer\.json"):
        check_tokenizer(tmp_path)
