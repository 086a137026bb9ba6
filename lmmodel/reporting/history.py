"""What metrics.jsonl says of a training: curves, where the time went, held-out figures, guesses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, TypeVar

import numpy as np

from lmdata.charts import thin
from lmmodel.gates import level_names
from lmmodel.saving.metrics import smooth

Entry = Mapping[str, Any]
Points = tuple[tuple[float, float], ...]

T = TypeVar("T")

MOST_EVALUATIONS, MOST_MOMENTS = 60, 12  # that are shown of a run

_PREFIX = "validation_"


@dataclass(frozen=True, kw_only=True)
class TimeShare:
    """What a part of the time went to."""

    name: str
    seconds: float
    ratio: float  # of all that is logged


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a model thought of a place at a step."""

    step: int
    probability: float  # of the right piece
    rank: int  # of the right piece, from 1
    pieces: tuple[str, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class GuessedPlace:
    """A place in a held-out text, and what was guessed there over time."""

    before: str
    right: str
    after: str
    moments: tuple[Moment, ...]  # evenly apart, at most `MOST_MOMENTS`


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that training said once."""

    step: int
    message: str


@dataclass(frozen=True, kw_only=True)
class History:
    """A training as its lines tell it; empty where nothing was logged yet."""

    last_step: int
    num_tokens: int
    logged_s: float  # of computing, as the lines add up; without what lay between attempts
    tokens_per_s: float | None  # over all of it
    memory_bytes: int | None  # the most that was held
    curves: Mapping[str, Points]  # by figure: loss, lr, grad_norm, tokens_per_s ...
    smoothed: Mapping[str, Points]  # of the losses
    held_out: Mapping[str, Points]  # by figure, each evaluation
    gates: Mapping[str, float]  # nats of guessing by counts alone, at the last evaluation
    time: tuple[TimeShare, ...]
    guesses: tuple[GuessedPlace, ...]
    notices: tuple[Notice, ...]


def read_history(entries: Sequence[Entry]) -> History:
    """Return what the lines of metrics.jsonl tell."""
    lines = [entry for entry in entries if _is_number(entry.get("lr"))]
    names = dict.fromkeys(name for line in lines for name in line)
    points = {name: _points(lines, name) for name in names if name not in ("step", "time_s")}
    points = {name: own for name, own in points.items() if own and not name.endswith("_ratio")}
    held_out, gates = _held_out(entries)
    time, logged_s = _time(lines)
    num_tokens = int(lines[-1]["num_tokens"]) if lines else 0
    memory = [int(line["memory_bytes"]) for line in lines if _is_number(line.get("memory_bytes"))]
    return History(
        last_step=max((entry["step"] for entry in entries), default=0),
        num_tokens=num_tokens,
        logged_s=logged_s,
        tokens_per_s=num_tokens / logged_s if logged_s else None,
        memory_bytes=max(memory, default=None),
        curves={name: thin(own) for name, own in points.items()},
        smoothed={name: thin(smooth_points(own)) for name, own in points.items() if "loss" in name},
        held_out=held_out,
        gates=gates,
        time=time,
        guesses=_guesses(entries),
        notices=tuple(
            Notice(step=entry["step"], message=str(entry["message"]))
            for entry in entries
            if "message" in entry
        ),
    )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _points(entries: Iterable[Entry], name: str) -> Points:
    return tuple((e["step"], e[name]) for e in entries if _is_number(e.get(name)))


def sampled(items: Sequence[T], most: int) -> tuple[T, ...]:
    """Return at most `most` items that lie evenly apart, the first and the last among them.

    Example:
        >>> sampled(range(100), 4), sampled([1, 2], 4)
        ((0, 33, 66, 99), (1, 2))
    """
    if len(items) <= most:
        return tuple(items)
    return tuple(items[index] for index in np.linspace(0, len(items) - 1, most).astype(int))


def smooth_points(points: Points) -> Points:
    """Return points smoothed over a fiftieth of them, as loss.png draws them.

    Example:
        >>> smooth_points(((1, 4.0), (2, 4.0)))
        ((1, 4.0), (2, 4.0))
    """
    if not points:
        return ()
    values = np.array([value for _, value in points], np.float64)
    smoothed = smooth(values, max(0.2, len(values) / 50)).tolist()
    return tuple((step, value) for (step, _), value in zip(points, smoothed, strict=True))


def _held_out(entries: Sequence[Entry]) -> tuple[dict[str, Points], dict[str, float]]:
    """Return the held-out figures over the steps, and the levels they are compared with."""
    names = dict.fromkeys(name for entry in entries for name in entry if name.startswith(_PREFIX))
    last = {name: value for entry in entries for name, value in entry.items() if name in names}
    figures: dict[str, Points] = {}
    for full in names:
        name, points = full.removeprefix(_PREFIX), _points(entries, full)
        if points and not name.startswith("num_") and not level_names({name: 0.0}):
            figures[name] = sampled(points, MOST_EVALUATIONS)
    return figures, level_names(last, _PREFIX)


def _time(lines: Sequence[Entry]) -> tuple[tuple[TimeShare, ...], float]:
    """Return seconds by what they were spent on, most first, and all seconds.

    A line has the shares of the interval since the line before it, whose length is its tokens
    over its tokens a second.
    """
    seconds: dict[str, float] = {}
    total, tokens_before = 0.0, 0.0
    for line in lines:
        num_tokens, speed = line.get("num_tokens"), line.get("tokens_per_s")
        if not (_is_number(num_tokens) and _is_number(speed)) or speed <= 0:
            continue
        elapsed = (num_tokens - tokens_before) / speed
        tokens_before, total = num_tokens, total + elapsed
        for name, value in line.items():
            if name.endswith("_ratio") and _is_number(value):
                part = name.removesuffix("_ratio").replace("_", " ")
                seconds[part] = seconds.get(part, 0.0) + value * elapsed
    if not total:
        return (), 0.0
    seconds["all else"] = max(0.0, total - sum(seconds.values()))
    parts = sorted(seconds.items(), key=lambda part: (-part[1], part[0]))
    shares = (TimeShare(name=name, seconds=own, ratio=own / total) for name, own in parts)
    return tuple(shares), total


def _guesses(entries: Sequence[Entry]) -> tuple[GuessedPlace, ...]:
    """Return each place with its moments in the order of the steps."""
    found: dict[tuple[str, str, str], list[Moment]] = {}
    for entry in entries:
        for one in entry.get("guesses") or ():
            key = (one["before"], one["right"], one["after"])
            moment = Moment(
                step=entry["step"], probability=one["probability"], rank=one["rank"] + 1,
                pieces=tuple(one["pieces"]), probabilities=tuple(one["probabilities"]),
            )  # fmt: skip
            found.setdefault(key, []).append(moment)
    return tuple(
        GuessedPlace(
            before=before, right=right, after=after, moments=sampled(moments, MOST_MOMENTS)
        )
        for (before, right, after), moments in found.items()
    )
