from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lmmodel
from lmdata.dataset import open_store
from lmdata.errors import OutputError
from lmmodel.counting.folder import is_ngrams, open_trie, read_ngram_record
from lmmodel.errors import CheckpointError, FitError, RunError
from lmmodel.ngrams import count_store, evaluate_ngrams, export_arpa, load_ngrams
from lmmodel.predicting.generation import GenerationConfig
from lmmodel.trained import load_run
from references.kneser_ney import KneserNey


@pytest.fixture(scope="module")
def model(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ngrams") / "3gram"
    count_store(store, folder, order=3)
    return folder


@pytest.fixture(scope="module")
def oracle(store: Path) -> KneserNey:
    opened = open_store(store, "train")
    lines = [opened.document(row)[0].tolist() for row in range(len(opened))]
    return KneserNey(lines, 3, opened.tokenizer.vocab_size)


def test_a_text_costs_what_the_definition_says(model: Path, oracle: KneserNey) -> None:
    text = "the cat sees the river in spring."
    ids = load_ngrams(model).tokenizer.backend.encode(text, add_special_tokens=False).ids
    found = lmmodel.load(model).score(text)
    assert found.total[0] == pytest.approx(sum(oracle.score(ids)[:-1]), abs=1e-4)
    assert found.num_tokens.tolist() == [len(ids)]


def test_any_number_of_threads_writes_the_same_bytes(store: Path, tmp_path: Path) -> None:
    for num_threads in (1, 3):
        count_store(store, tmp_path / str(num_threads), order=4, num_threads=num_threads)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_it_goes_on_with_texts_of_the_little_language(model: Path) -> None:
    asked = load_ngrams(model)
    config = GenerationConfig(max_new_tokens=12, seed=3)
    one, other = asked.generate(["the cat", ""], config)
    assert one.text.startswith("the cat")
    assert one.continuation
    assert asked.generate(["the cat", ""], config) == [one, other]
    greedy = asked.generate("the cat sees", GenerationConfig(temperature=0, max_new_tokens=5))
    assert greedy[0].stopped_by in ("max_new_tokens", "end of text")


def test_its_held_out_figures_are_of_the_tokens_that_a_causal_run_gets(
    model: Path, causal_run: Path, store: Path
) -> None:
    from lmmodel.evaluation import evaluate_run

    ours = evaluate_ngrams(model, num_examples=16)
    theirs = evaluate_run(causal_run, num_examples=16)
    assert ours.unigram_loss is not None
    assert ours.loss < ours.unigram_loss - 1
    assert ours.accuracy is not None
    assert 0.3 < ours.accuracy < 1
    assert ours.loss == pytest.approx(ours.gates["trigram_loss"], abs=1e-9)
    assert theirs.gates["bigram_loss"] > theirs.gates["trigram_loss"]


def test_kenlm_reads_the_arpa_file_and_gives_the_same_scores(model: Path, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm")
    written = export_arpa(model, tmp_path / "model.arpa")
    reader, ours = kenlm.Model(str(tmp_path / "model.arpa")), load_ngrams(model)
    text = "a dog likes cold water at night."
    pieces = ours.tokenizer.backend.encode(text, add_special_tokens=False).tokens
    theirs = reader.score(" ".join(pieces), bos=True, eos=False)
    assert ours.score(text).total[0] / np.log(10) == pytest.approx(theirs, abs=1e-4)
    assert reader.order == written.order == 3


def test_an_arpa_file_is_not_overwritten_unasked(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        export_arpa(model, path)
    export_arpa(model, path, overwrite=True)
    assert path.read_text().startswith("\\data\\")


def test_what_is_not_counted_or_not_a_store_is_refused(
    store: Path, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(FitError, match="frozen examples"):
        count_store(shards, tmp_path / "a")
    with pytest.raises(FitError, match=r"order must be in \[1, 12\], got 13"):
        count_store(store, tmp_path / "a", order=13)
    assert not any(tmp_path.iterdir())


def test_damage_is_found_before_a_question_is_answered(model: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="count again"):
        load_ngrams(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_ngrams(copy)
    record = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**record, "format_version": 9}))
    with pytest.raises(RunError, match="has format 9"):
        load_ngrams(copy)
    (copy / "config.json").write_text(json.dumps({**record, "sizes": "x"}))
    with pytest.raises(RunError, match="not the record of an n-gram model"):
        load_ngrams(copy)


def test_verbs_of_transformers_say_what_it_is(model: Path, trained: Path) -> None:
    with pytest.raises(RunError, match="evaluate, score, generate and export"):
        load_run(model)
    assert is_ngrams(model)
    assert not is_ngrams(trained)
    assert not is_ngrams(model / "missing")
    record = read_ngram_record(model)
    assert open_trie(model, record).sizes == record.sizes


def test_a_kill_leaves_nothing_half_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmmodel.ngrams.write_record", stop)
    with pytest.raises(KeyboardInterrupt):
        count_store(store, tmp_path / "model")
    assert not any(tmp_path.iterdir())
