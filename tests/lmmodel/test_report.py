"""The report on runs and fine-tuned models: what it tells, and the page made of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lmdata.config import json_text
from lmmodel import finetuner as face
from lmmodel.errors import LmmodelError, RunError
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.report import MOST_RUNS, model_report
from lmmodel.report_page import model_page
from lmmodel.reporting.history import read_history
from lmmodel.reporting.tuned import calibrate
from tests.lmmodel.test_finetune import FAST, write_classes, write_numbers
from tests.pages import check_all_is_told, check_page, check_schema

EVIL = "<script>alert(1)</script>"
SCHEMA = Path(__file__).with_name("report-schema.txt")


@pytest.fixture(autouse=True)
def no_confusion(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plot_confusion", "plot_scatter"):
        monkeypatch.setattr(face, name, lambda *arguments: arguments[-2].touch())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / f"{EVIL.replace('/', '')}.jsonl"
    rows = [("the cat sees a stone.", "sees cat the stone a."), ("a dog likes it.", "a dog it.")]
    path.write_text("".join(json.dumps({"sentence_good": g, "sentence_bad": b}) + "\n"
                            for g, b in rows))  # fmt: skip
    return path


@pytest.fixture(scope="module")
def tuned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    train = write_classes(folder / "train.tsv", 64, seed=1)
    with train.open("a") as file:
        file.write(f"{EVIL} the cat sees\tperson\n" * 6)
    config = FinetuneConfig(task="sequence-classification",
                            **{**FAST, "num_epochs": 2, "num_seeds": 2})  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face, "plot_confusion", lambda *arguments: arguments[-2].touch())
        finetune(trained, config, train, None, folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def report(trained, causal_run, pairs):
    return model_report([trained, causal_run], pairs_path=pairs, device="cpu")


def test_runs_side_by_side_make_a_page_that_stands_alone(report):
    page = model_page(report)
    text = check_page(page)
    check_all_is_told(page, report)
    assert "<script" not in text
    assert [run.diagnosis.num_steps for run in report.runs] == [300, 150]
    for title in ("Diagnosis", "Loss", "Held-out figures", "What it fills in over time",
                  "Minimal pairs", "What differs between the runs"):  # fmt: skip
        assert f"<h2>{title}</h2>" in text
    names = [difference.name for difference in report.differences]
    assert "settings: model.family" in names
    assert "settings: seed" not in names


def test_the_same_runs_give_the_same_report(trained, causal_run, pairs, report):
    again = model_report([trained, causal_run], pairs_path=pairs, device="cpu")
    assert json_text(again) == json_text(report)


def test_the_fields_of_the_json_are_those_that_were_promised(report, tuned):
    check_schema(SCHEMA, [report, model_report([tuned], device="cpu")])


def test_a_run_tells_its_steps_time_memory_and_guesses(trained):
    [run] = model_report([trained]).runs
    history = run.history
    assert (run.is_finished, history.last_step, run.num_steps) == (True, 300, 300)
    assert sum(part.ratio for part in history.time) == pytest.approx(1, abs=1e-6)
    assert sum(part.seconds for part in history.time) == pytest.approx(history.logged_s)
    assert history.tokens_per_s == pytest.approx(history.num_tokens / history.logged_s)
    assert history.memory_bytes > 10_000_000
    assert len(history.guesses) == 5
    assert [m.step for m in history.guesses[0].moments] == [100, 200, 300]
    assert history.gates["unigram"] > history.held_out["loss"][-1][1]
    first, last = history.held_out["loss"][0][1], history.held_out["loss"][-1][1]
    assert last < first
    page = model_page(model_report([trained]))
    check_all_is_told(page, model_report([trained]))
    assert "unigram" in check_page(page)


def test_a_fine_tuned_classifier_shows_how_sure_it_is_and_what_it_confuses(tuned):
    report = model_report([tuned], device="cpu")
    page = model_page(report)
    text = check_page(page)
    check_all_is_told(page, report)
    assert "<script" not in text
    own = report.runs[0].tuned
    answers = own.answers
    assert own.why_no_answers is None
    kept = next(seed for seed in own.seeds if seed.seed == own.kept_seed)
    assert answers.calibration.accuracy == pytest.approx(kept.scores["accuracy"])
    counts = np.array(answers.counts)
    assert counts.sum() == answers.num_rows
    assert sum(part.count for part in answers.calibration.bins) == answers.num_rows
    off = int(counts.sum() - np.trace(counts))
    assert sum(confusion.count for confusion in answers.confusions) == off


def test_a_file_that_is_gone_or_changed_is_said_in_words(tuned, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tuned, copy)
    record = json.loads((copy / "config.json").read_text())
    record["data"]["validation"]["path"] = str(tmp_path / "gone.tsv")
    (copy / "config.json").write_text(json.dumps(record))
    report = model_report([copy], device="cpu")
    assert report.runs[0].tuned.answers is None
    assert "gone.tsv, which it was validated on, is no longer there" in check_page(
        model_page(report)
    )
    (tmp_path / "gone.tsv").write_text("text\tlabel\nx\tanimal\n")
    found = model_report([copy], device="cpu").runs[0].tuned
    assert "has changed since" in found.why_no_answers


def test_regression_has_no_classes_to_confuse(trained, tmp_path):
    train = write_numbers(tmp_path / "train.jsonl", 32, seed=0)
    config = FinetuneConfig(task="regression", **{**FAST, "num_epochs": 1})
    finetune(trained, config, train, None, tmp_path / "model")
    report = model_report([tmp_path / "model"], device="cpu")
    assert report.runs[0].tuned.answers.calibration is None
    check_page(model_page(report))


def test_calibration_is_the_mean_gap():
    probabilities = np.array([[0.95, 0.05]] * 4 + [[0.35, 0.65]] * 2, np.float32)
    found = calibrate(probabilities, np.array([0, 0, 0, 1, 1, 0]))
    assert [(part.count, part.accuracy) for part in found.bins] == [(2, 0.5), (4, 0.75)]
    assert found.error == pytest.approx((2 * 0.15 + 4 * 0.2) / 6, abs=1e-6)
    assert calibrate(probabilities[:0], np.array([])) is None


def test_time_is_weighed_by_how_long_each_line_took():
    lines = [
        {"step": 1, "lr": 0.1, "num_tokens": 100, "tokens_per_s": 100.0, "evaluation_ratio": 0.5},
        {"step": 2, "lr": 0.1, "num_tokens": 400, "tokens_per_s": 100.0, "evaluation_ratio": 0.1},
    ]
    found = read_history(lines)
    assert found.logged_s == pytest.approx(4)
    shares = {part.name: part.seconds for part in found.time}
    assert shares == pytest.approx({"evaluation": 0.8, "all else": 3.2})


@pytest.mark.parametrize("lines", [[], [{"step": 1}], [{"step": 1, "lr": 1, "num_tokens": 0}]])
def test_a_run_that_has_just_begun_is_a_page_too(trained, tmp_path, lines):
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(trained / "config.json", begun)
    (begun / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = model_report([begun])
    assert report.runs[0].is_finished is False
    assert "Not finished yet" in check_page(model_page(report))


def test_eight_long_runs_side_by_side_stay_small(trained):
    [run] = model_report([trained]).runs
    long = [
        {"step": step, "lr": 1e-3 / step, "loss": 7.123456789 + step % 7, "lm_loss": 7.1 / step,
         "mlm_loss": 7.1 / step, "nsp_loss": 0.7 / step, "grad_norm": 1.0 + step % 5,
         "num_tokens": 1000 * step, "tokens_per_s": 1000.0 + step % 3, "memory_bytes": 10**9 + step,
         "evaluation_ratio": 0.1}
        for step in range(1, 20_000)
    ]  # fmt: skip
    held_out = [{"step": step, "validation_loss": 1 / step} for step in range(1, 20_000)]
    history = read_history([*long, *held_out])
    runs = tuple(dataclasses.replace(run, name=f"run {n}", history=history) for n in range(8))
    check_page(model_page(dataclasses.replace(model_report([trained]), runs=runs)))


def test_wrong_folders_are_named_in_one_line(trained, store, tmp_path):
    for paths, message in (
        ([tmp_path / "nowhere"], "holds no run: there is no such folder"),
        ([store], "is a dataset: `lmdata report"),
        ([trained, trained], "is named twice"),
        ([trained] * (MOST_RUNS + 1), "at most 8 runs"),
    ):
        with pytest.raises(RunError, match=message):
            model_report(paths)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text((trained / "config.json").read_text()[:200])
    with pytest.raises(LmmodelError, match=r"config\.json is not the record of a run"):
        model_report([half])
