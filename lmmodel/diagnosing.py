"""What the lines of metrics.jsonl say is wrong with a training: pure rules, one function each.

A rule returns a finding, or None. It looks at what every run writes: losses, held-out losses with
the levels of n-grams, gradient norms, and where the time went. The bounds are such that twenty
sound runs of many kinds pass them all (`tests/lmmodel/test_doctor.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lmmodel.evaluation import UNIGRAM_MARGIN
from lmmodel.gates import level_names
from lmmodel.saving.metrics import MAIN_LOSS

Entries = Sequence[Mapping[str, Any]]

LEAST_STEPS = 20  # of a run that can have learned: fewer are a trial of the commands
SKIPPED_STEP = "skipped-step"
"""The notice of a step that was left out."""

# Steps before which a loss may still be above guessing by frequency.
SETTLED_STEPS = 60
MANY_SKIPPED = 8  # steps left out, whose loss or gradient was beyond use
EARLY_STEPS = 150  # in which no sound model halves the loss of n-grams that know the same text


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    name: str  # for programs
    message: str  # what is seen, with figures
    advice: str  # what to do


@dataclass(frozen=True)
class Curve:
    """One figure over the steps."""

    steps: np.ndarray  # int64 (N,)
    values: np.ndarray  # float64 (N,)

    def __len__(self) -> int:
        return len(self.steps)

    def median(self, first: float, last: float) -> float:
        """Return the median between two shares of the entries, in [0, 1].

        Example:
            >>> Curve(np.arange(4), np.array([9.0, 1.0, 2.0, 3.0])).median(0.25, 1)
            2.0
        """
        num = len(self.values)
        return float(np.median(self.values[int(first * num) : max(1, round(last * num))]))


def curve(entries: Entries, name: str) -> Curve:
    """Return a figure over the steps, where it is there and a number."""
    found = [(e["step"], e[name]) for e in entries if isinstance(e.get(name), int | float)]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return Curve(np.array(steps, np.int64), np.array(values, np.float64))


def on_line_since(entries: Entries, margin: float) -> int | None:
    """Return the step since which each held-out loss was on the unigram line; None: it is not.

    Args:
        entries: of metrics.jsonl
        margin: nats to either side of the line

    Example:
        >>> losses = (9.1, 7.2, 7.0, 7.0)
        >>> entries = [{"step": n, "validation_loss": x, "validation_unigram_loss": 7.0}
        ...            for n, x in enumerate(losses)]
        >>> on_line_since(entries, 0.05)
        2
    """
    since = None
    for entry in entries:
        line = entry.get("validation_unigram_loss")
        if line is not None:
            loss = entry.get("validation_loss")  # None: it was no number
            is_on_line = loss is not None and abs(loss - line) <= margin
            since = (entry["step"] if since is None else since) if is_on_line else None
    return since


def sits_on_unigram_line(entries: Entries, num_steps: int) -> Finding | None:
    """For a tenth of the run the held-out loss has been that of guessing by frequency."""
    since = on_line_since(entries, UNIGRAM_MARGIN)
    if since is None or entries[-1]["step"] - since < num_steps / 10:
        return None
    levels = _levels(entries)
    best = min(levels, key=lambda name: levels[name], default="unigram")
    reach = (
        f" (the {best} level is {levels[best]:.2f})" if best not in ("unigram", "uniform") else ""
    )
    return Finding(
        name="unigram-line",
        message=f"held-out loss has been on the unigram line since step {since}: the model guesses "
        f"by frequency alone{reach}",
        advice="Train longer, or try optimizer.name=muon, another optimizer.lr or a longer "
        "schedule.warmup_ratio",
    )


def rate_too_high(entries: Entries, num_steps: int) -> Finding | None:
    """Steps exploded, the loss went up and stayed there, or never came below a uniform guess."""
    losses, levels = curve(entries, MAIN_LOSS), _levels(entries)
    exploded = [entry["step"] for entry in entries if entry.get("notice") == SKIPPED_STEP]
    if len(exploded) >= MANY_SKIPPED:
        return _too_high(f"{len(exploded)} steps are left out since step {exploded[0]}")
    if len(losses) < 8:
        return None
    smoothed = np.array(
        [np.median(losses.values[max(0, n - 2) : n + 3]) for n in range(len(losses))]
    )
    low, last = int(np.argmin(smoothed)), float(smoothed[-1])
    uniform = levels.get("uniform", np.inf)
    is_up = last > smoothed[low] + max(0.5, 0.1 * smoothed[low]) and low < 0.8 * len(losses)
    is_wild = losses.steps[-1] >= SETTLED_STEPS and last > uniform + 0.1
    is_worse = last > levels.get("unigram", np.inf) + 0.15 and _jumps(losses.values) > 0.35
    if not (is_up or is_wild or is_worse):
        return None
    return _too_high(
        f"the loss was {smoothed[low]:.2f} at step {losses.steps[low]} and is {last:.2f} now, a "
        f"uniform guess costs {uniform:.2f}"
    )


def _too_high(seen: str) -> Finding:
    return Finding(
        name="rate-too-high",
        message=f"{seen}: the learning rate is too high",
        advice="Lower optimizer.lr three- to tenfold, or lengthen schedule.warmup_ratio",
    )


def rate_too_low(entries: Entries, num_steps: int) -> Finding | None:
    """After many steps the loss is above guessing by frequency, and still falls without noise."""
    losses, levels = curve(entries, MAIN_LOSS), _levels(entries)
    held_out = curve(entries, "validation_loss")
    if not len(held_out) or len(losses) < 8 or held_out.steps[-1] < SETTLED_STEPS:
        return None
    line, last = levels.get("unigram", np.inf), float(held_out.values[-1])
    parts = [losses.median(n / 4, (n + 1) / 4) for n in range(4)]
    falls = all(after <= before + 0.02 for before, after in pairwise(parts))
    if last < line + 0.3 or not falls or _jumps(losses.values) > 0.35:
        return None
    return Finding(
        name="rate-too-low",
        message=f"after {held_out.steps[-1]} steps the held-out loss is {last:.2f} and falls "
        f"slowly; guessing by frequency costs {line:.2f}: the learning rate is too low, or the run "
        "too short",
        advice="Raise optimizer.lr three- to tenfold; then give the run more steps",
    )


def below_ngrams_at_once(entries: Entries, num_steps: int) -> Finding | None:
    """In its first steps the held-out loss is half that of n-grams which know the same text."""
    levels = _levels(entries)
    best = min(levels.values(), default=0.0)
    if len(levels) < 3:  # n-grams were not counted
        return None
    for entry in entries:
        loss = entry.get("validation_loss")
        if loss is not None and entry["step"] <= EARLY_STEPS and loss < 0.5 * best:
            return Finding(
                name="leak",
                message=f"the held-out loss is {loss:.2f} at step {entry['step']}, where the best "
                f"n-grams need {best:.2f}: the model sees what it is to predict",
                advice="Look at rows with `lmdata show`: labels must not stand in the input, nor a "
                "causal model see later tokens",
            )
    return None


def is_repeated(entries: Entries, num_steps: int) -> Finding | None:
    """The training loss falls while the held-out loss rises: the text is known by heart."""
    losses, held_out = curve(entries, MAIN_LOSS), curve(entries, "validation_loss")
    if len(held_out) < 3 or len(losses) < 8:
        return None
    best, last = int(np.argmin(held_out.values)), float(held_out.values[-1])
    training = losses.median(0.85, 1)
    has_risen = last > held_out.values[best] + 0.15 and best < len(held_out) - 1
    if not has_risen or training > last - 0.5 or rate_too_high(entries, num_steps) is not None:
        return None
    return Finding(
        name="repeated",
        message=f"the held-out loss was {held_out.values[best]:.2f} at step {held_out.steps[best]} "
        f"and is {last:.2f} now, the training loss {training:.2f}: the same text has been read "
        "too often",
        advice="Train on more text or fewer epochs, raise model.dropout or optimizer.weight_decay",
    )


def gradient_grows(entries: Entries, num_steps: int) -> Finding | None:
    """The norm of the gradient is many times that of the run's first half, and still rises."""
    norms = curve(entries, "grad_norm")
    if len(norms) < 10:
        return None
    early, late, last = norms.median(0.1, 0.4), norms.median(0.7, 0.9), norms.median(0.9, 1)
    if not (last > 6 * early and last > late):
        return None
    return Finding(
        name="gradient-grows",
        message=f"the norm of the gradient has grown from {early:.2g} to {last:.2g}",
        advice="Lower optimizer.lr or max_grad_norm, or lengthen schedule.warmup_ratio, before the "
        "loss explodes",
    )


def waits_for_data(entries: Entries, num_steps: int) -> Finding | None:
    """Most of the time of a step is spent waiting for the next batch."""
    waits = curve(entries, "data_wait_ratio")
    if len(waits) < 4 or waits.median(0.25, 1) <= 0.5:
        return None
    return Finding(
        name="waiting",
        message=f"{waits.median(0.25, 1):.0%} of the time is spent waiting for data",
        advice="Freeze the view with `lmdata mask`, put the data on a local disk, or raise "
        "batch.prefetch",
    )


def no_better_than_frequency(entries: Entries) -> Finding | None:
    """The newest held-out loss is not below guessing by frequency: not asked while a run trains.

    Example:
        >>> entry = {"step": 40, "validation_loss": 8.09, "validation_unigram_loss": 7.14}
        >>> no_better_than_frequency([entry]).message
        'after 40 steps the held-out loss is 8.09; guessing by frequency costs 7.14'
    """
    losses, lines = curve(entries, "validation_loss"), curve(entries, "validation_unigram_loss")
    if not len(losses) or not len(lines) or losses.steps[-1] < LEAST_STEPS:
        return None
    if losses.values[-1] <= lines.values[-1] - UNIGRAM_MARGIN:
        return None
    return Finding(
        name="no-better-than-frequency",
        message=f"after {losses.steps[-1]} steps the held-out loss is {losses.values[-1]:.2f}; "
        f"guessing by frequency costs {lines.values[-1]:.2f}",
        advice="Train longer; if that does not help, try another optimizer.lr",
    )


Rule = Callable[[Entries, int], Finding | None]
RULES: tuple[Rule, ...] = (
    sits_on_unigram_line, rate_too_high, rate_too_low, below_ngrams_at_once, is_repeated,
    gradient_grows, waits_for_data,
)  # fmt: skip


def examine(entries: Entries, num_steps: int) -> tuple[Finding, ...]:
    """Return what the lines of a run say is wrong; nothing of a run that has hardly begun."""
    found = [rule(entries, num_steps) for rule in RULES]
    return tuple(finding for finding in found if finding is not None)


def _levels(entries: Entries) -> dict[str, float]:
    """Return the levels of the newest evaluation, by name."""
    for entry in reversed(entries):
        if levels := level_names(entry, "validation_"):
            return levels
    return {}


def _jumps(values: np.ndarray) -> float:
    """Return how much a curve moves from entry to entry, as a share of all that it has moved.

    Example:
        >>> _jumps(np.array([4.0, 3.0, 2.0])), _jumps(np.array([4.0, 2.0, 4.0, 2.0]))
        (0.5, 1.0)
    """
    span = float(values.max() - values.min())
    return float(np.median(np.abs(np.diff(values)))) / span if span > 0 else 0.0
