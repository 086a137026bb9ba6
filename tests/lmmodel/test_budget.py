"""Steps of a budget; minutes by a clock that the test moves."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from lmmodel.config import TrainConfig
from lmmodel.data import open_data
from lmmodel.device import Processes
from lmmodel.saving.run import read_record
from lmmodel.trainer import plan, train
from lmmodel.training import budget, loop
from lmmodel.training.budget import Pace, budget_steps, interval, num_times, steps_within
from lmmodel.training.learner import Learner
from lmmodel.training.plan import make_loader, resolve_config


@pytest.mark.parametrize("seconds", [0.5, 7.0, 61.0, 600.0])
@pytest.mark.parametrize("every_steps", [None, 7])
def test_the_most_steps_that_end_in_time(tiny, seconds, every_steps):
    config = TrainConfig() if every_steps is None else tiny("evaluation.every_steps=7")
    pace = Pace(step_s=0.3, evaluation_s=2.0, checkpoint_s=1.0, spent_s=0.7)
    steps = steps_within(seconds, pace, config)
    assert steps == 1 or pace.expected_s(steps, config) <= seconds
    assert all(pace.expected_s(more, config) > seconds for more in range(steps + 1, 3000))


def test_eleven_steps_may_take_less_time_than_ten():
    """Where each is evaluated: `interval` rounds up, so that a run has ten evaluations at most."""
    assert max(num_times(None, num_steps) for num_steps in range(1, 2000)) == 10
    pace = Pace(step_s=1.0, evaluation_s=5.0)
    assert steps_within(45.0, pace, TrainConfig()) == 12
    assert pace.expected_s(10, TrainConfig()) > 45.0


@pytest.mark.parametrize("every_steps", [None, 10])
def test_long_budgets_of_short_steps_are_counted_at_once(tiny, every_steps):
    config = TrainConfig() if every_steps is None else tiny("evaluation.every_steps=10")
    pace = Pace(step_s=0.005, evaluation_s=0.5, checkpoint_s=0.5)
    started = time.process_time()
    steps = steps_within(86400.0 * 7, pace, config)
    assert time.process_time() - started < 0.5
    assert pace.expected_s(steps, config) <= 86400.0 * 7 < pace.expected_s(steps + 1, config)


@pytest.mark.parametrize(("batch_size", "epochs"), [(3, 3), (7, 2), (11, 10)])
def test_whole_epochs_take_whole_steps(tiny, store, batch_size, epochs):
    """Of 94 rows, three times in steps of 3: 94 steps, not the 95 of a rounded quotient."""
    config = tiny("budget.num_steps=none", f"budget.num_epochs={epochs}")
    resolved = resolve_config(config, open_data(store), torch.device("cpu"), Processes())
    for num_rows in range(1, 200):
        loader = SimpleNamespace(num_rows=num_rows, batch_size=batch_size)
        per_step = batch_size / num_rows
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lmmodel.training.budget.epochs_per_step", lambda _, n=per_step: n)
            steps = budget_steps(resolved, loader)
        assert steps == -(-epochs * num_rows // batch_size)


STAGES = ("stages=[{until=0.9, max_seq_length=16}, {until=1, batch_size=24}]",)


@pytest.mark.parametrize("budget", ["num_tokens=20000", "num_epochs=1.5"])
def test_a_budget_counts_every_stage(tiny, store, tmp_path, budget):
    config = tiny("budget.num_steps=none", f"budget.{budget}", *STAGES)
    made = plan(config, store)
    data, device = open_data(store), torch.device("cpu")
    resolved = resolve_config(config, data, device, Processes())
    loader = make_loader(resolved, data, made.num_steps, Processes())
    num_tokens, num_epochs = 0, 0.0
    for step in range(made.num_steps):
        batch, stage = loader.batch(step), loader.stages[step >= loader.first_steps[1]]
        num_tokens += batch.num_tokens
        num_epochs += sum(len(rows) for _, rows in batch.rows) / stage.rows.num_rows
    assert made.num_tokens == pytest.approx(num_tokens, rel=0.05)
    assert made.num_epochs == pytest.approx(num_epochs, rel=0.05)
    name, wanted = budget.split("=")
    assert getattr(made, name) == pytest.approx(float(wanted), rel=0.05)
    assert train(config, store, tmp_path / "run").num_steps == made.num_steps


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
    for module in (budget, loop):
        clock.charge(monkeypatch, module, "evaluate", 2.0)
        clock.charge(monkeypatch, module, "save_state", 1.0)
    minutes = ("budget.num_steps=none", "budget.num_minutes=1")
    train(tiny(*minutes, "evaluation.every_steps=none", "checkpoint.every_steps=none"),
          store, tmp_path / "run")  # fmt: skip
    assert clock.now_s == pytest.approx(60, rel=0.05)
    assert 30 < read_record(tmp_path / "run").num_steps < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
