"""Reading times, told from what a model finds surprising."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lmmodel.errors import FitError, TaskError
from lmmodel.predicting.likelihood import log_likelihoods
from lmmodel.reading_times import explain, r_squared, reads_times, score_reading, surprisals
from lmmodel.trained import load_run

SENTENCES = ("the old king finds cold water at night", "a dog follows my friend in spring")


def write_times(path: Path, run, *, noise: float, changes: dict[str, str] | None = None) -> Path:
    """Write words whose times rise with their surprisal, and with the length of the word before."""
    generator, rows = np.random.default_rng(3), []
    for sentence in SENTENCES * 6:
        words = sentence.split()
        for place, word in enumerate(words):
            before = [" ".join(words[: max(place + shift, 0)]) for shift in (0, -1)]
            rows.append({
                "item": before[0], "word": word, "Subtlex_log10": generator.normal(),
                "length": len(word), "context_length": place,
                "prev_item": before[1] if place else "", "prev_word": words[place - 1] if place
                else "", "prev_length": len(words[place - 1]) if place else "",
            })  # fmt: skip
    own = surprisals(run, [row["item"] for row in rows], [row["word"] for row in rows])
    for row, surprisal in zip(rows, own, strict=True):
        row["RTfirstpass"] = 100 + 20 * row["length"] + 30 * surprisal + noise * generator.normal()
        row["RTgopast"] = 50 + 5 * row["context_length"] + 20 * generator.normal()
        row["self_paced_reading_time"] = 200 + 9 * surprisal + 4 * float(row["prev_length"] or 0)
        row.update(changes or {})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_surprisal_is_what_the_word_adds_to_the_text(causal_run):
    run = load_run(causal_run)
    found = surprisals(run, ["the cat", None, "a"], ["sees", "dog", ""])
    total = log_likelihoods(run, ["the cat", "the cat sees", "None", "None dog"]).total
    assert found[:2] == pytest.approx([total[0] - total[1], total[2] - total[3]])
    assert np.isnan(found[2])


def test_times_that_follow_surprisal_are_explained_by_it(causal_run, tmp_path):
    run = load_run(causal_run)
    path = write_times(tmp_path / "reading_data.csv", run, noise=1.0)
    assert reads_times(path)
    found = score_reading(run, path)
    scores = {one.measure: one for one in found.measures}
    assert scores["RTfirstpass"].score > 0.9
    assert scores["RTgopast"].score < 0.1
    assert scores["self_paced_reading_time"].r2 == pytest.approx(1, abs=1e-6)
    assert found.self_paced == scores["self_paced_reading_time"].score
    assert found.eye_tracking == pytest.approx(
        (scores["RTfirstpass"].score + scores["RTgopast"].score) / 2
    )
    first_words = 2 * 6  # nothing spills over to them
    assert scores["RTgopast"].num_words - scores["self_paced_reading_time"].num_words == first_words


def test_regressions_are_those_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    columns = generator.normal(size=(97, 3)) * [1.0, 10.0, 0.1] + [0.0, 50.0, 1.0]
    values = columns @ [2.0, 0.1, 3.0] + generator.normal(size=97)
    expected = linear.LinearRegression().fit(columns, values).score(columns, values)
    assert r_squared(columns, values) == pytest.approx(expected, abs=1e-9)
    whole = explain("RT", values, [columns[:, 0], columns[:, 1]], columns[:, 2])
    values[3] = np.nan
    assert explain("RT", values, [columns[:, 0], columns[:, 1]], columns[:, 2]).num_words == 96
    assert whole.r2 >= whole.r2_without


def test_what_can_not_be_told_is_said(causal_run, trained, tmp_path):
    run = load_run(causal_run)
    path = write_times(tmp_path / "times.csv", run, noise=1.0, changes={"length": "many"})
    with pytest.raises(TaskError, match="length holds something else than numbers"):
        score_reading(run, path)
    with pytest.raises(FitError, match="told from what comes next; take a model of --objective"):
        score_reading(load_run(trained), path)
    with pytest.raises(TaskError, match="RT is known of 3 words: too few"):
        explain("RT", np.arange(3.0), [np.arange(3.0)], np.ones(3))
    (tmp_path / "few.csv").write_text("item,word\nthe,cat\n")
    with pytest.raises(TaskError, match="has no column 'Subtlex_log10' and no column 'length'"):
        score_reading(run, tmp_path / "few.csv")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"sentence_good": "a", "sentence_bad": "b"}))
    assert not reads_times(tmp_path / "pairs.jsonl")
    assert not reads_times(tmp_path)
