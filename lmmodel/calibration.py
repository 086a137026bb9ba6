"""How long a step takes, measured on a model that is thrown away."""

from __future__ import annotations

import time

import numpy as np
import torch

from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData
from lmmodel.device import Processes, sum_over_processes
from lmmodel.learner import Learner
from lmmodel.plan import check_memory, make_loader

# Calibration ends after so many seconds, or this share of the budget if that is less.
LIMIT_S = 15.0
LIMIT_RATIO = 0.03

# Steps are addressed as parts of a run; a probe belongs to none, so any length will do.
_NUM_STEPS = 1_000_000


def calibrate(
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    processes: Processes,
    *,
    minutes: float,
) -> float:
    """Return the seconds of a step, measured for a small share of a budget of minutes."""
    limit_s = min(LIMIT_S, LIMIT_RATIO * minutes * 60)
    return measure_step(config, data, device, processes, limit_s=limit_s)


def measure_step(
    config: TrainConfig,
    data: TrainingData,
    device: torch.device,
    processes: Processes,
    *,
    limit_s: float,
) -> float:
    """Return the seconds of a step, the mean over all processes, from a model that is thrown away.

    The first step, which compiles and warms up, does not count.
    """
    loader = make_loader(config, data, _NUM_STEPS, processes)
    check_memory(config, loader.batch(0), device)
    learner = Learner(config, loader, device)
    seconds: list[float] = []
    started = time.perf_counter()
    while len(seconds) < 4 or time.perf_counter() - started < limit_s:
        began = time.perf_counter()
        batch = loader.batch(len(seconds))
        learner.learn(batch, learner.add_up(batch).num_labels)
        seconds.append(time.perf_counter() - began)
    own = torch.tensor([float(np.median(seconds[1:]))], dtype=torch.float64, device=device)
    return float(sum_over_processes(own)) / processes.size
