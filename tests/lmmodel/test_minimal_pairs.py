"""Minimal pairs: files read, pairs judged, and the verdicts of a plain loop over transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmmodel import minimal_pairs
from lmmodel.errors import TaskError
from lmmodel.handover.stock import export_model
from lmmodel.minimal_pairs import judge, read_pairs, score_pairs, table_of
from lmmodel.trained import load_run
from tests.lmmodel.test_likelihood import plain_pseudo_log_likelihood

BLIMP = Path(__file__).parents[2] / "../shared/data/blimp"


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    agreement = [
        ("the cat sees the river.", "the cat sees river the."),
        ("a dog likes a stone at night.", "a dog likes a stone night at."),
    ]
    same = [("my friend", "my friend"), ("the cat sees the river.", "the cat the sees river.")]
    for name, rows in (("order", agreement), ("same", same)):
        write_rows(
            tmp_path / f"{name}.jsonl",
            [{"sentence_good": good, "sentence_bad": bad} for good, bad in rows],
        )
    (tmp_path / "README.md").write_text("not pairs")
    return tmp_path


def noisy_pairs(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return exact scores of 2,000 pairs and the same with noise in their margins."""
    draw = np.random.default_rng(seed)
    exact = draw.normal(-30, 2, (2000, 2))
    return exact, exact + draw.uniform(-noise / 2, noise / 2, exact.shape)


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.7])
def test_settled_verdicts_are_those_of_exact_scores(noise):
    exact, scores = noisy_pairs(noise)
    asked: list[np.ndarray] = []

    def score_exactly(which):
        asked.append(which)
        return exact[which]

    rounded = np.sign(scores[:, 0] - scores[:, 1])
    num = minimal_pairs._settle_close_ones(scores, score_exactly)
    once = np.concatenate(asked)
    assert len(once) == len(np.unique(once)) == num < 1000
    assert np.array_equal(np.sign(scores[:, 0] - scores[:, 1]), np.sign(exact[:, 0] - exact[:, 1]))
    assert noise < 0.1 or not np.array_equal(rounded, np.sign(exact[:, 0] - exact[:, 1]))


def test_what_rounding_does_is_seen_even_where_no_pair_is_close():
    """Every margin is above what counts as close, and rounding is larger still."""
    draw = np.random.default_rng(0)
    margins = draw.choice([-1, 1], 2000) * draw.uniform(0.2, 3, 2000)
    exact = np.stack([margins, np.zeros(2000)], axis=1)
    scores = exact + draw.uniform(-0.5, 0.5, (2000, 2))
    scores[np.abs(scores[:, 0] - scores[:, 1]) < 0.2] += [0.5, 0]
    num = minimal_pairs._settle_close_ones(scores, lambda which: exact[which])
    assert np.array_equal(np.sign(scores[:, 0] - scores[:, 1]), np.sign(margins))
    assert 50 < num < 2000


def test_a_folder_is_read_file_by_file_and_others_are_left_alone(folder):
    pairs = read_pairs(folder)
    assert pairs.names == ("order", "same")
    assert pairs.paradigm.tolist() == [0, 0, 1, 1]
    assert pairs.choices[0][0] == "the cat sees the river."
    assert pairs.choices[2][1] == "my friend"


def test_paradigms_are_told_apart_by_their_name_within_one_file(tmp_path):
    rows = [{"sentence_good": "a", "sentence_bad": "b", "UID": name} for name in "xyx"]
    pairs = read_pairs(write_rows(tmp_path / "all.jsonl", rows))
    assert pairs.names == ("x", "y")
    assert pairs.paradigm.tolist() == [0, 1, 0]


def test_the_verdicts_of_auto_are_those_of_float32(trained, folder, monkeypatch):
    monkeypatch.setattr(minimal_pairs, "resolve_precision", lambda *_: "bf16")
    run, pairs = load_run(trained), read_pairs(folder)
    mixed, exact = (score_pairs(run, pairs, precision=name) for name in ("auto", "fp32"))
    assert mixed.paradigms == exact.paradigms
    assert mixed.num_rescored >= 1 > exact.num_rescored  # the pair of equal sentences at least


def test_a_trained_model_tells_sentences_from_scrambled_ones(trained, folder):
    found = score_pairs(load_run(trained), read_pairs(folder))
    order, same = found.paradigms
    assert (order.num_right, order.num_ties, order.num_pairs) == (2, 0, 2)
    assert (same.num_right, same.num_ties, same.num_pairs) == (1, 1, 2)
    assert (found.total.num_right, found.total.accuracy) == (3, 0.75)
    assert found.score == "pseudo-log-likelihood"
    assert table_of(found)["paradigms"][0]["accuracy_high"] == 1.0


def test_causal_models_are_judged_by_log_likelihood(causal_run, folder):
    found = score_pairs(load_run(causal_run), read_pairs(folder))
    assert found.score == "log-likelihood"
    assert found.paradigms[0].num_right == 2


@pytest.mark.parametrize("size", [1, pytest.param(40, marks=pytest.mark.slow)])
def test_blimp_is_scored_pair_by_pair_as_by_a_plain_loop(make_untrained_run, tmp_path, size):
    if not BLIMP.is_dir():
        pytest.skip(f"no BLiMP at {BLIMP}")
    transformers = pytest.importorskip("transformers")
    run = make_untrained_run("objective.name=mlm", "model.max_position_embeddings=512")
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    pairs = read_pairs(BLIMP)
    assert len(pairs) == 10_000
    rows = np.concatenate(
        [np.flatnonzero(pairs.paradigm == index)[:size] for index in range(len(pairs.names))]
    )
    chosen = type(pairs)(
        tuple(pairs.choices[row] for row in rows), pairs.paradigm[rows], pairs.names,
    )  # fmt: skip
    found = score_pairs(run, chosen, precision="fp32")
    for place, ours in enumerate((found.good, found.bad)):
        sentences = [choice[place] for choice in chosen.choices]
        expected = [plain_pseudo_log_likelihood(theirs, run, text) for text in sentences]
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_verdict_needs_more_than_rounding():
    score = judge("x", np.array([1e-3, 1e-5, 0.0, -1e-5, -1e-3]))
    assert (score.num_right, score.num_ties, score.accuracy) == (1, 3, 0.2)
    assert score.accuracy_with_ties == 0.8
    assert 0 < score.accuracy_low < 0.2 < score.accuracy_high < 1


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"sentence_good": "a"}], r"has no column 'sentence_bad': it has 'sentence_good'"),
        ([{"sentence_good": "a", "sentence_bad": " "}], r"line 1: sentence_bad is ' ', a sentence"),
        ([{"sentence_good": "a", "sentence_bad": "b"}, {"sentence_good": 3, "sentence_bad": "b"}],
         "line 2: sentence_good is '3', a sentence is wanted"),
        ([], "holds no rows"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_with_its_line(tmp_path, rows, words):
    with pytest.raises(TaskError, match=words):
        read_pairs(write_rows(tmp_path / "pairs.jsonl", rows))


def test_a_place_without_pairs_is_a_clear_error(tmp_path):
    with pytest.raises(TaskError, match="holds no file of minimal pairs"):
        read_pairs(tmp_path)
    with pytest.raises(TaskError, match="does not exist: give a file of minimal pairs"):
        read_pairs(tmp_path / "nowhere")
    with pytest.raises(TaskError, match="has no known extension"):
        read_pairs((tmp_path / "x.bin").write_text("a") and tmp_path / "x.bin")


@pytest.mark.parametrize(
    "row",
    [
        {"sentences": ["no", "yes"], "label": 1},
        {"input_prefix": "y", "options": ["es", "o"]},
        {"input_prefix": "", "options": ["no", "yes", "nay"], "label": 1},
        {"sentence_good": "yes", "sentence_bad": "no", "field": "supplement"},
    ],
)
def test_other_forms_of_the_evaluation_have_the_right_sentence_first(tmp_path, row):
    (choice,) = read_pairs(write_rows(tmp_path / "a.jsonl", [row])).choices
    assert choice[0] == "yes"
    assert len(choice) == len(row.get("options", [0, 1]))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"sentences": ["a"], "label": 0}, "a list of two is wanted"),
        ({"sentences": ["a", "b"], "label": 2}, "number of the right sentence is wanted: 0 to 1"),
        ({"sentences": ["a", "b"]}, "no column 'label'"),
        ({"input_prefix": 3, "options": ["a", "b"]}, "a text input_prefix and a list options"),
    ],
)
def test_a_choice_that_is_none_is_named(tmp_path, row, words):
    with pytest.raises(TaskError, match=words):
        read_pairs(write_rows(tmp_path / "a.jsonl", [row]))


def test_the_best_of_several_wrong_sentences_is_the_one_to_beat(trained, tmp_path):
    right, wrong = "the cat sees the river.", ["the cat sees river the.", "cat the river the sees."]

    def score(*others):
        row = {"sentences": [right, *others], "label": 0}
        return score_pairs(load_run(trained), read_pairs(write_rows(tmp_path / "a.jsonl", [row])))

    found = score(*wrong)
    assert found.bad[0] == pytest.approx(max(score(one).bad[0] for one in wrong), rel=1e-5)
    assert found.total.num_right == 1
