"""Lines, seconds and the picture."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lmmodel.device import resolve_precision
from lmmodel.families import ModelConfig
from lmmodel.model import make_model
from lmmodel.optimizing import AveragingConfig
from lmmodel.saving.metrics import (
    MetricsLog,
    Stopwatch,
    find_tensorboard,
    plot_losses,
    read_metrics,
    smooth,
)
from lmmodel.training.learner import WeightAverage, newest_weight


def test_a_log_that_goes_on_drops_what_came_after_its_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    log = MetricsLog(path, step=2)
    log.write({"step": 3, "loss": 0.5})
    log.close()
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 0.5}]


def test_lines_are_on_the_disk_when_written(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1}
    log.close()


def test_smoothing_has_no_bias_at_the_start_and_follows_a_step():
    assert smooth(np.full(5, 3.0), 4.0).tolist() == pytest.approx([3.0] * 5)
    values = np.concatenate([np.zeros(500), np.ones(2)])
    assert smooth(values, 2.0)[-1] == pytest.approx(0.5, abs=1e-3)


def test_the_stopwatch_adds_up_parts():
    watch = Stopwatch()
    for _ in range(3):
        with watch.measure("a"):
            sum(range(10_000))
    assert 0 < watch.share("a") <= 1
    assert watch.share("b") == 0
    watch.reset()
    assert watch.share("a") == 0


def test_the_picture_is_drawn_with_and_without_held_out_points(tmp_path):
    entries = [{"step": step, "lm_loss": 8 / (1 + step / 30)} for step in range(1, 100)]
    held_out = [{"step": 50, "validation_loss": 4.0}, {"step": 99, "validation_loss": 3.0}]
    for name, drawn in (("a", entries + held_out), ("b", entries), ("c", [])):
        plot_losses(drawn, tmp_path / f"{name}.png", {"unigram": 5.0} if name == "a" else None)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_step_without_a_loss_leaves_the_curve_whole(tmp_path):
    entries = [{"step": step, "lm_loss": 4.0} for step in range(1, 20)]
    broken = [*entries[:4], {"step": 5, "lm_loss": None}, *entries[5:]]
    broken += [{"step": 9, "validation_loss": None}]
    plot_losses(broken, tmp_path / "broken.png")
    plot_losses(entries[:4] + entries[5:], tmp_path / "whole.png")
    assert (tmp_path / "broken.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_tensorboard_hides_what_an_attempt_wrote_that_was_killed(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, values in ((0, [5.0, 4.0, 3.0]), (1, [8.0])):
        writer = find_tensorboard()(tmp_path, start)
        for step, value in enumerate(values, start=start + 1):
            writer.add_scalar("loss", value, step)
        writer.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 5.0), (2, 8.0)]


def test_an_average_is_the_mean_of_the_tail():
    config = AveragingConfig(kind="tail", tail_share=0.5)
    model = make_model(ModelConfig(vocab_size=7, hidden_size=4, num_hidden_layers=1,
                                   num_attention_heads=1), seed=0)  # fmt: skip
    weights = dict(model.named_parameters())
    average = WeightAverage(weights, config, num_steps=8)
    bias = model.head.bias
    for step in range(1, 9):
        bias.data.fill_(float(step))
        average.update(weights, step)
    assert average.tensors["head.bias"].tolist() == pytest.approx([6.5] * 7)


def test_an_exponential_average_forgets_the_random_start():
    config = AveragingConfig(kind="ema", ema_decay=0.99)
    weights = [newest_weight(step, 10_000, config) for step in range(1, 1000)]
    assert weights[0] == 0.5
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] == pytest.approx(0.01)
    kept = math.prod(1 - weight for weight in weights[:100])
    assert kept < 0.011


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_taken(name):
    import torch

    assert resolve_precision(name, torch.device("cpu")) == name
