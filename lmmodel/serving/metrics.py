"""Counts and durations of a server, as Prometheus reads them (text format 0.0.4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (32, 128, 512, 2048, 4096, 8192, 16_384, 65_536)


@dataclass
class Histogram:
    """How often values were at most some bounds."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)  # the last is of all that exceed every bound
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        place = next((i for i, most in enumerate(self.bounds) if value <= most), len(self.bounds))
        self.counts[place] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> list[str]:
        """Return it in Prometheus' words; `labels` are as in `a="b"`."""
        comma = "," if labels else ""
        lines, below = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{{labels}{comma}le="{bound}"}} {below}')
        braces = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{braces} {self.total:.6f}", f"{name}_count{braces} {below}"]


class Metrics:
    """What `/metrics` shows. All methods may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[tuple[str, int], int] = {}  # by route and status
        self._errors: dict[str, int] = {}  # by kind
        self._durations: dict[str, Histogram] = {}  # by route
        self._batches: dict[str, tuple[Histogram, Histogram, Histogram]] = {}  # by verb

    def answered(self, route: str, status: int, seconds: float, error: str | None) -> None:
        """Count an answer to a client."""
        with self._lock:
            key = (route, status)
            self._answers[key] = self._answers.get(key, 0) + 1
            self._durations.setdefault(route, Histogram(SECONDS)).add(seconds)
            if error is not None:
                self._errors[error] = self._errors.get(error, 0) + 1

    def computed(self, verb: str, num_requests: int, num_tokens: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            if verb not in self._batches:
                self._batches[verb] = Histogram(SIZES), Histogram(TOKENS), Histogram(SECONDS)
            sizes, tokens, durations = self._batches[verb]
            sizes.add(num_requests)
            tokens.add(num_tokens)
            durations.add(seconds)

    def text(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> str:
        """Return everything, and what is read just now: help and value by name."""
        with self._lock:
            lines = [
                *_head("lmmodel_requests_total", "counter", "Answers by route and status."),
                *(f'lmmodel_requests_total{{route="{route}",status="{status}"}} {count}'
                  for (route, status), count in sorted(self._answers.items())),
                *_head("lmmodel_errors_total", "counter", "Errors by kind."),
                *(f'lmmodel_errors_total{{kind="{kind}"}} {count}'
                  for kind, count in sorted(self._errors.items())),
                *_head("lmmodel_request_seconds", "histogram", "From request to answer."),
                *(line for route, own in sorted(self._durations.items())
                  for line in own.lines("lmmodel_request_seconds", f'route="{route}"')),
            ]  # fmt: skip
            kinds = ("requests", "tokens", "seconds")
            for place, kind in enumerate(kinds):
                name = f"lmmodel_batch_{kind}"
                lines += _head(name, "histogram", f"{kind.capitalize()} of a batch.")
                for verb, own in sorted(self._batches.items()):
                    lines += own[place].lines(name, f'verb="{verb}"')
        for name, (about, read) in gauges.items():
            lines += [*_head(name, "gauge", about), f"{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
