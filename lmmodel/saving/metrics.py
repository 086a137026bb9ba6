"""What a run reports: where the time went, how fast it was, and the picture of its losses."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmdata.config import json_text
from lmdata.files import write_atomically
from lmmodel.errors import RunError

if TYPE_CHECKING:
    from lmmodel.adapters import Trained

MAIN_LOSS = "lm_loss"  # in metrics.jsonl the loss of the first term, whatever that is called
METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainProgress:
    """One report of a running training, for a progress display."""

    step: int  # optimizer steps done
    num_steps: int  # of the whole run
    loss: float  # mean of the steps since the last report, nats
    lr: float  # learning rate of the last step
    tokens_per_s: float  # since the last report
    mfu: float | None  # model FLOPs utilisation in [0, 1]; None on unknown hardware
    data_wait_ratio: float  # share of the time spent waiting for data, in [0, 1]
    eta_s: float  # seconds left
    message: str | None = None  # something said once: a smaller micro-batch, a skipped step
    trained: Trained | None = None  # what of the model moves, before the first step


@dataclass
class Stopwatch:
    """Seconds by what they were spent on, and tokens, since the last `reset`."""

    seconds: dict[str, float] = field(default_factory=dict)
    num_tokens: int = 0
    num_steps: int = 0
    started_s: float = field(default_factory=time.perf_counter)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time inside the block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def share(self, part: str) -> float:
        """Return the part's share of all time since the last reset, in [0, 1]."""
        return self.seconds.get(part, 0.0) / max(self.elapsed_s, 1e-9)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the last reset."""
        return time.perf_counter() - self.started_s

    def reset(self) -> None:
        """Begin a new interval."""
        self.seconds.clear()
        self.num_tokens = self.num_steps = 0
        self.started_s = time.perf_counter()


class MetricsLog:
    """metrics.jsonl: one JSON object a line, in the order of the steps.

    Opening it for a run that goes on from `step` drops every later line and a half-written one, so
    that a killed and resumed run has no line twice.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        lines = [json_text(entry) for entry in read_metrics(path) if entry["step"] <= step]
        write_atomically(path, "".join(line + "\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line; it is on its way to the disk when this returns."""
        self._file.write(json_text(entry) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a metrics file up to the first line that is not whole; [] if absent."""
    entries: list[dict[str, Any]] = []
    if not path.exists():
        return entries
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(entry, dict) or type(entry.get("step")) is not int:
                break
            entries.append(entry)
    return entries


def smooth(values: np.ndarray, half_life: float) -> np.ndarray:
    """Return the exponential moving average of float64 (N,), free of the bias of its start.

    Args:
        values: float64 (N,)
        half_life: after so many values a value's weight has halved; above 0

    Example:
        >>> smooth(np.array([4.0, 4.0, 1.0]), half_life=1.0).round(3).tolist()
        [4.0, 4.0, 2.286]
    """
    decay = 0.5 ** (1 / half_life)
    total, weight, result = 0.0, 0.0, np.empty(len(values))
    for index, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1.0
        result[index] = total / weight
    return result


def plot_losses(
    entries: Sequence[Mapping[str, Any]], path: Path, levels: Mapping[str, float] | None = None
) -> None:
    """Write a picture of training, smoothed and held-out loss against the step.

    Args:
        entries: of metrics.jsonl; losses that are no number are left out
        path: a .png file
        levels: nats that other ways to guess the held-out labels cost, by name: see `gates`
    """
    from matplotlib.figure import Figure

    train, held_out = (
        [(entry["step"], entry[name]) for entry in entries if entry.get(name) is not None]
        for name in (MAIN_LOSS, "validation_loss")
    )
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    if train:
        steps, losses = np.array(train, np.float64).T
        axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="training")
        smoothed = smooth(losses, max(0.2, len(losses) / 50))
        axes.plot(steps, smoothed, color="tab:blue", label="training, smoothed")
    if held_out:
        steps, losses = np.array(held_out, np.float64).T
        axes.plot(steps, losses, "o-", color="tab:orange", label="held out, fixed masks")
    for name, level in (levels or {}).items():
        axes.axhline(level, color="gray", linestyle="--", linewidth=0.8)
        axes.annotate(
            f"{name} {level:.2f}", (1, level), xycoords=("axes fraction", "data"), fontsize=7,
            ha="right", va="bottom", color="dimgray",
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="loss (nats per predicted token)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, dpi=120)


def check_can_draw() -> None:
    """Check that the picture can be drawn.

    Raises:
        RunError: Matplotlib is not installed
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise RunError(
            "loss.png is drawn by the package matplotlib: pip install matplotlib, or set "
            "logging.picture=false (metrics.jsonl holds the same)"
        )


def find_tensorboard() -> Callable[[Path, int], Any]:
    """Return what opens an event writer of TensorBoard in a folder, to go on after a step.

    What an earlier attempt wrote of later steps is not shown. Nothing is written yet.

    Raises:
        RunError: TensorBoard is not installed
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise RunError(
            "logging.tensorboard=true needs the package tensorboard: "
            "pip install 'lmdata-lmmodel[tensorboard]', or set it to false "
            "(metrics.jsonl holds the same)"
        ) from error
    return lambda folder, step: SummaryWriter(str(folder), purge_step=step + 1)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None for what JSON can't hold.

    Example:
        >>> finite_or_none(1.5), finite_or_none(math.nan)
        (1.5, None)
    """
    return value if math.isfinite(value) else None
