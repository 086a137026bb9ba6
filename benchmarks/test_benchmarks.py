"""The parts of the training benchmarks work, at toy size on a CPU; their figures mean nothing."""

from __future__ import annotations

import argparse
import doctest
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    domains,
    experts,
    finetune_study,
    gpu,
    gpu_checks,
    minutes,
    ngrams,
    objectives,
    recipe,
    stores,
    train,
    training_runs,
    translation,
)  # fmt: skip
from benchmarks.training_runs import Work, list_examples, run_ours, run_theirs, summarize
from lmdata.corpus import Documents
from lmdata.dataset import open_examples, open_store
from lmdata.recipes import Recipe
from lmdata.tokenizer import Tokenizer, wordpiece_backend
from lmdata.views import view
from references import made_up

ROOT = Path(__file__).parents[1]
VOCAB_SIZE = 211


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made-up") / "tokens"
    made_up.write_made_up_store(folder, num_tokens=9_001, vocab_size=VOCAB_SIZE)
    return folder


@pytest.fixture(scope="module")
def work(store) -> Work:
    return Work(
        store=str(store), model=("num_hidden_layers=1", "hidden_size=16", "num_attention_heads=2"),
        view="packed", max_seq_length=32, batch_size=4, precision="fp32", seconds=0.05,
        warmup_steps=2,
    )  # fmt: skip


@pytest.mark.parametrize("module", [domains, experts, gpu, gpu_checks, minutes, objectives,
                                    recipe, train, training_runs, translation])  # fmt: skip
def test_examples_in_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_a_made_up_store_holds_the_documents_drawn(store):
    opened = open_store(store, verify="hashes")
    ids, lengths = made_up.zipf_documents(9_001, VOCAB_SIZE, seed=0)
    assert len(opened) == len(lengths)
    start = lengths[:5].sum()
    document, sentences = opened.document(5)
    assert document.tolist() == ids[start : start + lengths[5]].tolist()
    assert sentences.sum() == lengths[5]
    assert sentences.max() <= made_up.SENTENCE_TOKENS


def make_tokenizer(*words: str) -> Tokenizer:
    pieces = [*made_up.SPECIALS, *words]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return Tokenizer(wordpiece_backend(vocabulary, lower_case=True))


def test_lines_become_documents():
    tokenizer = make_tokenizer("the", "cat", "sat", "on", "mat")
    text = b"the cat\nsat on the mat\n\ncat"
    batch = Documents(
        text=np.frombuffer(text, np.uint8), offsets=np.array([0, 23, len(text)]),
        positions=np.arange(2, dtype=np.uint64), dropped={}, dropped_bytes={}, num_records=2,
    )  # fmt: skip
    ids, lengths = stores.encode_lines(tokenizer, iter([batch]))
    assert [tokenizer.piece(i) for i in ids] == ["the", "cat", "sat", "on", "the", "mat", "cat"]
    assert [n for n in lengths.tolist() if n] == [2, 4, 1]


def test_an_example_of_the_single_view_is_a_document(tmp_path):
    tokenizer = make_tokenizer("a", "b")
    lengths = np.array([62, 17, 1, 62])
    ids = np.arange(lengths.sum()) % 2 + 5
    made_up.write_store(tmp_path / "s", tokenizer, ids, lengths, lengths)
    recipe = Recipe(view="single", max_seq_length=64, count="bernoulli", shuffle=False)
    rows = view(open_store(tmp_path / "s"), recipe, seed=0).examples(np.arange(4))
    assert sorted(np.diff(rows.offsets).tolist()) == sorted((lengths + 2).tolist())


def test_ours_trains_and_is_timed(work):
    figures = run_ours(work)
    assert figures["num_steps"] >= 1
    assert figures["tokens_per_s"] > 0
    assert 0 <= figures["data_wait_ratio"] <= 1
    assert 0 < figures["loss"] < 2 * math.log(VOCAB_SIZE)


# What a machine with nothing but the packages that training needs lacks.
ABSENT = ("polars", "gigatoken", "zstandard", "matplotlib", "datasets", "scipy", "transformers",
          "accelerate", "pandas", "blingfire", "pysbd", "hypothesis", "pytest", "sklearn",
          "tensorboard", "rich", "click", "onnx", "numba", "llvmlite", "xxhash")  # fmt: skip
RUN_WITHOUT = """
import importlib, importlib.util, sys
ABSENT = {absent}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ABSENT else found(name, *rest)
import benchmarks.gpu
"""
MAKE_AND_RUN = """
import json
from pathlib import Path
store, *runs = sys.argv[1:]
benchmarks.gpu.make_store(Path(store), is_toy=True)
for run in runs:
    module, *sys.argv[1:] = json.loads(run)
    importlib.import_module(module).main()
    print("done")
"""
CHECKS = ("packed = padded", "torch's random numbers = NumPy's", "exact resume")


@pytest.fixture(scope="module")
def gpu_script(work, tmp_path_factory) -> tuple[Path, list[dict]]:
    """What the GPU script makes up, and what it prints of a run and checks with few packages."""
    store = str(tmp_path_factory.mktemp("frozen") / "shards")
    runs = [
        ("benchmarks.training_runs", "ours", json.dumps(vars(replace(work, store=store)))),
        *(("benchmarks.gpu_checks", name, "cpu", store) for name in CHECKS),
    ]
    code = (RUN_WITHOUT + MAKE_AND_RUN).replace("{absent}", repr(ABSENT))
    done = subprocess.run(
        [sys.executable, "-c", code, store, *map(json.dumps, runs)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split("done\n")[:-1]
    return Path(store), [json.loads(text.splitlines()[-1]) for text in printed]


@pytest.fixture(scope="module")
def frozen(gpu_script) -> Path:
    return gpu_script[0]


def test_the_gpu_script_needs_few_packages(gpu_script):
    assert gpu_script[1][0]["tokens_per_s"] > 0


@pytest.mark.parametrize("name", CHECKS)
def test_checks_of_the_gpu_script_need_few_packages(gpu_script, name):
    assert gpu_script[1][1 + CHECKS.index(name)]["note"]


def test_made_up_examples_are_masked_by_the_recipe(frozen):
    examples = open_examples(frozen, verify="hashes")
    batch = examples.rows(np.arange(len(examples)))
    recipe = Recipe(**examples.manifest.configuration["recipe"])
    original = batch.original_ids()
    special = examples.tokenizer.is_special
    assert not special[batch.masked_labels].any()
    share = len(batch.masked_labels) / (~special[original]).sum()
    assert abs(share - recipe.mlm_probability) < 0.01
    put_in = batch.input_ids[batch.flat_masked_positions()]
    is_mask = put_in == examples.tokenizer.special_ids["mask"]
    assert abs(is_mask.mean() - recipe.mask_proportion) < 0.02
    assert abs((put_in == batch.masked_labels).mean() - recipe.keep_proportion) < 0.02
    assert set(np.diff(batch.offsets)) == {recipe.max_seq_length}
    starts = np.cumsum(batch.segment_lengths) - batch.segment_lengths
    assert (original[starts] == examples.tokenizer.special_ids["cls"]).all()
    assert batch.segment_lengths.min() >= made_up.SHORTEST_SEGMENT


def test_trainer_lists_the_sequences_of_frozen_examples(work, frozen):
    pytest.importorskip("transformers")
    _, examples = list_examples(replace(work, store=str(frozen)))
    opened = open_examples(frozen)
    assert len(examples) == len(opened)
    assert examples[3]["input_ids"] == opened.rows(np.array([3])).original_ids().tolist()


@pytest.mark.filterwarnings("ignore")  # of transformers and accelerate
def test_trainer_trains_the_same_sequences_and_is_timed(work):
    pytest.importorskip("accelerate")
    pytest.importorskip("transformers")
    tokenizer, examples = list_examples(work)
    assert all(e["input_ids"][0] == tokenizer.cls_token_id for e in examples)
    assert max(len(e["input_ids"]) for e in examples) <= 32
    assert sum(sum(e["special_tokens_mask"]) for e in examples) >= 2 * len(examples)
    figures = run_theirs(work)
    assert figures["num_steps"] >= 1
    assert figures["tokens_per_s"] > 0
    assert 0 < figures["loss"] < 2 * math.log(VOCAB_SIZE)


def test_every_tenth_item_is_held_out(tmp_path):
    train, validation = finetune_study.hold_out(tmp_path, list("abcdefghijklmn"), ".txt", "".join)
    assert (train.read_text(), validation.read_text()) == ("abcdefghiklmn", "j")


def test_training_files_of_a_task_become_one(tmp_path):
    (tmp_path / "a").write_text("one\ntwo")
    (tmp_path / "b").write_text("three\n\n")
    joined = finetune_study.join(tmp_path, [tmp_path / "a", tmp_path / "b"])
    assert joined.read_text() == "one\ntwo\nthree\n"


def test_steps_of_the_warm_up_do_not_count():
    lines = [
        {"step": step, "num_tokens": 10 * step, "tokens_per_s": rate, "mfu": 0.5,
         "data_wait_ratio": 0.1, "lm_loss": 1.0}
        for step, rate in ((5, 1.0), (10, 2.0), (15, 10.0), (20, 5.0))
    ]  # fmt: skip
    figures = summarize([*lines, {"step": 20, "message": "said once"}], 10)
    assert figures["num_steps"] == 10
    assert figures["tokens_per_s"] == pytest.approx(100 / (50 / 10 + 50 / 5), abs=0.05)


def test_what_fails_is_a_line_of_the_table_and_the_rest_goes_on():
    def fail() -> dict[str, object]:
        raise RuntimeError("first line\nthe last line")

    row = gpu.attempt("what", fail)
    assert (row["status"], row["note"]) == ("FAILED", "the last line")
    assert gpu.attempt("what", lambda: {"tokens_per_s": 1.0})["status"] == "ok"


def test_nothing_begins_after_the_deadline():
    with pytest.raises(TimeoutError, match="no time left: see --minutes"):
        gpu.Deadline(0.05).limit(100)
    assert gpu.Deadline(1).limit(10) == 10


def test_every_shape_has_both_optimizers_and_trainer_beside_it(store):
    options = argparse.Namespace(toy=False, seconds=1.0)
    planned = [(shape, system) for shape, system, _ in gpu.plan_runs(options, store)]
    for shape in gpu.SHAPES:
        assert {system for name, system in planned if name == shape} >= {"AdamW", "Muon"}
    assert planned[0] == ("base", "AdamW")
    assert len(set(planned)) == len(planned)


def test_trainer_gets_the_work_of_ours_but_half_of_a_gpus_batch(work):
    assert train.trainer_work(work) == work
    theirs = train.trainer_work(train.gpu_work(Path("x"), train.BASE))
    assert (theirs.batch_size, theirs.compile) == (64, False)


@pytest.mark.parametrize("name", [name for name in gpu_checks.CHECKS if "compiled" not in name])
def test_checks_pass_on_a_cpu(name, store):
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        assert gpu_checks.CHECKS[name]("cpu", str(store))
    finally:
        torch.use_deterministic_algorithms(was_deterministic)


def test_a_check_that_fails_says_by_how_much():
    with pytest.raises(
        gpu_checks.CheckError, match=r"x, torch.float32: differ by 2.00e-01 > 1e-04"
    ):
        gpu_checks._check(0.2, torch.float32, "x")
    with pytest.raises(gpu_checks.CheckError, match="differ by nan"):
        gpu_checks._check(math.nan, torch.float32, "x")


def test_a_work_survives_the_way_to_its_process(work, monkeypatch, capsys):
    monkeypatch.setitem(training_runs.SYSTEMS, "echo", vars)
    values = json.dumps(vars(replace(work, seconds=3.5)))
    monkeypatch.setattr(sys, "argv", ["training_runs", "echo", values])
    training_runs.main()
    back = json.loads(capsys.readouterr().out)
    assert Work(**{**back, "model": tuple(back["model"])}) == replace(work, seconds=3.5)


@pytest.mark.slow
def test_the_whole_gpu_script_runs_at_toy_size(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--toy", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("gpu-*.json")
    rows = json.loads(path.read_text())["rows"]
    assert {row["status"] for row in rows} == {"ok"}
    assert "modern toy, Muon" in [row["what"] for row in rows]


@pytest.mark.gpu
@pytest.mark.parametrize("name", gpu_checks.CHECKS)
def test_on_a_card(name, store):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    gpu_checks.CHECKS[name]("cuda", str(store))


def test_a_part_of_a_store_is_counted_and_compared_figure_by_figure(store, tmp_path):
    part = ngrams.write_part(store, tmp_path / "part", 2_000)
    row = ngrams.count(part, tmp_path / "model", 3)
    assert 2_000 <= row["tokens"] < 9_001
    assert row["MiB"] > 10
    ngrams.write_ours(part, tmp_path / "theirs.arpa", 3)
    found = ngrams.compare(part, tmp_path / "theirs.arpa", 3)
    assert found["largest_difference"] == 0
    path = tmp_path / "theirs.arpa"
    lines = path.read_text().splitlines()
    place = lines.index("\\3-grams:") + 1
    p, gram = lines[place].split("\t")
    path.write_text("\n".join([*lines[:place], f"{float(p) - 0.25}\t{gram}", *lines[place + 1 :]]))
    found = ngrams.compare(part, path, 3)
    assert found["largest_difference"] == pytest.approx(0.25)


def test_the_plain_loop_computes_what_ours_does(tmp_path, monkeypatch) -> None:
    """Same weights, no dropout: the same losses over three steps, and the weights come back."""
    from benchmarks.sequence_to_sequence import number_tokenizer
    from lmmodel.families import ModelConfig
    from lmmodel.finetuner import start_model
    from lmmodel.finetuning.fit import TaskLearner

    lines = ["en\tde", *(f"{n} {n + 1} 7\t7 {n + 1}" + f" {n}" * (n % 3) for n in range(12))]
    for name in ("train", "val"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(translation, "PAIRS", tmp_path)
    shape = ModelConfig(family="transformer", num_hidden_layers=1, num_decoder_layers=2,
                        hidden_size=16, num_attention_heads=2)  # fmt: skip
    monkeypatch.setattr(translation, "SHAPE", shape)
    settings = replace(
        translation.SETTINGS, model=shape, dropout=0.0, precision="fp32", num_epochs=1,
        columns=replace(translation.SETTINGS.columns, file_format="tsv"),
    )  # fmt: skip
    config, source, data = translation.prepared(settings, number_tokenizer(), tmp_path / "val")
    ours, other = (
        TaskLearner(start_model(source, config, data, seed=0), data.train, config, seed=0)
        for _ in range(2)
    )
    loop = translation.PlainLoop(other, is_bf16=False)
    rows = np.arange(len(data.train))
    for _ in range(3):
        assert loop.learn(rows) == pytest.approx(ours.learn(rows), abs=1e-4)
    loop.model.write_into(other.model)
    for name, weight in ours.model.backbone.named_parameters():
        written = dict(other.model.backbone.named_parameters())[name]
        assert (written - weight).abs().max() < 2e-3, name
