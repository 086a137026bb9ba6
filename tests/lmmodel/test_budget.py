"""Steps of a budget; minutes by a clock that the test moves."""

from __future__ import annotations

import time

import pytest

from lmmodel.config import TrainConfig
from lmmodel.saving.run import read_record
from lmmodel.trainer import train
from lmmodel.training import calibration, loop
from lmmodel.training.budget import Pace, interval, num_times, steps_within
from lmmodel.training.learner import Learner


@pytest.mark.parametrize("seconds", [0.5, 7.0, 61.0, 600.0])
@pytest.mark.parametrize("every_steps", [None, 7])
def test_the_most_steps_that_end_in_time(tiny, seconds, every_steps):
    config = TrainConfig() if every_steps is None else tiny("evaluation.every_steps=7")
    pace = Pace(step_s=0.3, evaluation_s=2.0, checkpoint_s=1.0, spent_s=0.7)
    steps = steps_within(seconds, pace, config)
    assert steps == 1 or pace.expected_s(steps, config) <= seconds
    assert pace.expected_s(steps + 1, config) > seconds


def test_the_last_step_is_always_evaluated_and_saved():
    for num_steps in range(1, 60):
        for every_steps in (None, 1, 7, 100):
            every = interval(every_steps, num_steps)
            times = [n for n in range(1, num_steps + 1) if n % every == 0 or n == num_steps]
            assert num_times(every_steps, num_steps) == len(times)


class Clock:
    """Stands still but for what is charged."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def charge(self, monkeypatch, place, name: str, seconds: float) -> None:
        function = getattr(place, name)

        def charged(*args, **options):
            self.now_s += seconds
            return function(*args, **options)

        monkeypatch.setattr(place, name, charged)


def test_minutes_hold_evaluations_checkpoints_and_the_calibration_itself(
    tiny, store, tmp_path, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now_s)
    clock.charge(monkeypatch, Learner, "learn", 0.5)
    for module in (calibration, loop):
        clock.charge(monkeypatch, module, "evaluate", 2.0)
        clock.charge(monkeypatch, module, "save_state", 1.0)
    budget = ("budget.num_steps=none", "budget.num_minutes=1")
    train(tiny(*budget, "evaluation.every_steps=none", "checkpoint.every_steps=none"),
          store, tmp_path / "run")  # fmt: skip
    assert clock.now_s == pytest.approx(60, rel=0.05)
    assert 30 < read_record(tmp_path / "run").num_steps < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
