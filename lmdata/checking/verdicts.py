"""One line of a verification report (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lmdata.checking.checks import Check

Verdict = Literal["pass", "fail", "skip"]


@dataclass(frozen=True)
class Row:
    """One check, as it is printed."""

    name: str
    expected: str
    observed: str
    interval: str
    verdict: Verdict


def exact(name: str, expected: Any, observed: Any) -> Row:
    """Return the verdict on a quantity that leaves no room.

    Example:
        >>> exact("rows", 5000, 6).verdict, exact("rows", 5000, 5000).observed
        ('fail', '5,000')
    """
    verdict: Verdict = "pass" if expected == observed else "fail"
    return Row(name, _show(expected), _show(observed), "", verdict)


def none_of(name: str, num_found: int, num_all: int) -> Row:
    """Return the verdict on violations, of which there may be none.

    Example:
        >>> none_of("lost documents", 2, 1000).observed
        '2 of 1,000'
    """
    verdict: Verdict = "pass" if num_found == 0 else "fail"
    return Row(name, "0", f"{num_found:,} of {num_all:,}", "", verdict)


def row_of(check: Check, prefix: str = "") -> Row:
    """Return a statistical check as a row.

    Example:
        >>> row_of(Check("rate", 0.15, 0.14, 0.149, 0.151), "train: ")
        Row(name='train: rate', expected='0.15', observed='0.14', interval='0.149 to 0.151', \
verdict='fail')
    """
    verdict: Verdict = "pass" if check.passed else "fail"
    interval = "" if check.low == check.high else f"{_show(check.low)} to {_show(check.high)}"
    if math.isinf(check.low):
        interval = f"up to {_show(check.high)}"
    return Row(prefix + check.name, _show(check.expected), _show(check.observed), interval, verdict)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_show(item)}" for key, item in sorted(value.items())) or "nothing"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
