"""Checks with verdicts: what was promised, what was found, what chance allows (pure).

A `Check` is a statistic with its interval, a `Row` what is printed of one check.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmdata.batch import ExampleBatch

Verdict = Literal["pass", "fail", "skip"]
# Standard errors that a share may be off: a sound dataset fails one check in 1.7 million.
LIMIT = 5.0
# Bins with less variance are left out: chi-square is an approximation that needs some counts.
MIN_VARIANCE = 5.0
# Examples shorter than this may be equal by chance.
MIN_LENGTH_TO_COMPARE = 32


@dataclass(frozen=True)
class Check:
    """One promise and what was found.

    Attributes:
        name: what is checked
        expected: the value promised
        observed: the value found
        low: smallest value that passes
        high: largest value that passes
    """

    name: str
    expected: float
    observed: float
    low: float
    high: float

    @property
    def passed(self) -> bool:
        """Whether the observed value lies in the interval."""
        return self.low <= self.observed <= self.high


def never(name: str, count: int) -> Check:
    """Return a check that something never happened."""
    return Check(name, 0.0, float(count), 0.0, 0.0)


def share(name: str, expected: float, count: int, total: int, width: float = 1.0) -> Check:
    """Return a check that `count` of `total` independent choices is the expected share.

    Args:
        name: of the check
        expected: probability of each choice
        count: how often it happened
        total: choices
        width: factor on the binomial standard error, where choices hang together

    Example:
        >>> share("heads", 0.5, 5100, 10_000).passed, share("heads", 0.5, 95, 100).passed
        (True, False)
    """
    observed = count / total if total else expected
    error = width * LIMIT * math.sqrt(expected * (1 - expected) / max(1, total))
    error += LIMIT / max(1, total)  # the binomial is skewed where little is expected
    return Check(name, expected, observed, max(0.0, expected - error), min(1.0, expected + error))


def uniformity(name: str, counts: np.ndarray) -> Check:
    """Return a check that counts over equal bins are uniform (multinomial, chi-square).

    Args:
        name: of the check
        counts: int64 (bins,)

    Example:
        >>> uniformity("dice", np.array([99, 102, 95, 104, 98, 102])).passed
        True
    """
    means = np.full(len(counts), counts.sum() / len(counts))
    return chi_square(name, counts, means, means)


def chi_square(name: str, counts: np.ndarray, means: np.ndarray, variances: np.ndarray) -> Check:
    """Return a check that counts deviate from their means as chance says.

    The observed value is chi-square as standard errors of a normal (Wilson and Hilferty, 1931).

    Args:
        name: of the check
        counts: int64 (bins,)
        means: float64 (bins,), expected counts, of the same total
        variances: float64 (bins,), of the counts, if the total were free
    """
    used = variances >= MIN_VARIANCE
    degrees = int(used.sum()) - 1
    name = f"{name}, deviation in standard errors"
    if degrees < 1:
        return Check(name, 0.0, 0.0, -math.inf, LIMIT)
    statistic = float(((counts - means)[used] ** 2 / variances[used]).sum())
    cube = 2 / (9 * degrees)
    sigmas = ((statistic / degrees) ** (1 / 3) - (1 - cube)) / math.sqrt(cube)
    return Check(name, 0.0, sigmas, -math.inf, LIMIT)


def example_hashes(batch: ExampleBatch) -> np.ndarray:
    """Return a 64-bit hash of each example that is long enough never to recur, uint64 (B',).

    The tokens, their masks, the documents and the pass all enter; equal hashes mean that an
    example was written twice.
    """
    is_long = np.diff(batch.offsets) >= MIN_LENGTH_TO_COMPARE
    if not len(batch):
        return np.empty(0, np.uint64)
    lengths = np.diff(batch.offsets)
    within = np.arange(len(batch.input_ids), dtype=np.uint64) - np.repeat(
        batch.offsets[:-1].astype(np.uint64), lengths
    )
    mixed = _mix(batch.input_ids.astype(np.uint64) + (within << np.uint64(32)))
    sums = np.add.reduceat(mixed, batch.offsets[:-1])
    for part in (batch.document_a, batch.document_b, batch.duplicate):
        sums = _mix(sums + part.astype(np.uint64))
    hashes: np.ndarray = sums[is_long]
    return hashes


def _mix(values: np.ndarray) -> np.ndarray:
    """Return uint64 values through the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent choices (Wilson, JASA 1927).

    Example:
        >>> [round(end, 3) for end in share_interval(480, 1000)], share_interval(0, 0)
        ([0.449, 0.511], (0.0, 1.0))
    """
    if not total:
        return 0.0, 1.0
    z, share = 1.959963984540054, count / total
    middle, scale = share + z * z / (2 * total), 1 + z * z / total
    width = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale)


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
