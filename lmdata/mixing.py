"""How often each document is read: shares of groups, resolved to whole numbers (pure).

Groups have sizes and wanted shares; shares become whole amounts by the largest remainder, amounts
become repeats of documents: all of a group so often, and once more a part of it that is chosen by
keyed hash. So the counts are exact, and nothing is drawn while training.

Sources: temperature (Devlin et al., multilingual BERT; Conneau et al., 2020), UniMax (Chung et al.,
2023), repeats by size of cluster (FineWeb-2, Penedo et al., 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lmdata.errors import ConfigError
from lmdata.rng import draw, stream_key

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
MOST_REPEATS = 2**16 - 1


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training that has shares of its own."""

    share: float = 1.0
    """Of the budget, beside the shares of the other phases."""

    weights: dict[str, float] = field(default_factory=dict)
    """Of groups in this phase; empty: those of the mixture."""

    temperature: float | None = None
    """In this phase; None: that of the mixture."""


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How much is read of what."""

    by: str = "source"
    """What makes groups: a tag, or an expression in SQL over tags."""

    weights: dict[str, float] = field(default_factory=dict)
    """Group -> its weight; "*" stands for those that are not named. Empty: by size."""

    temperature: float = 1.0
    """Shares are sizes to the power 1 / temperature; 1: in proportion, more: more evenly."""

    unimax: bool = False
    """Share alike; where `max_repeats` holds a group back, the rest goes to larger ones."""

    max_repeats: float | None = None
    """How often a group may be read at most; what it would get beyond that goes to the others."""

    budget: int | None = None
    """What is read in all, in `unit`; None: as much as is selected."""

    unit: Literal["bytes", "documents"] = "bytes"
    """What sizes and the budget are counted in."""

    cluster_repeats: dict[str, int] = field(default_factory=dict)
    """Size of a document's cluster of duplicates, from which on -> how often it is read at least;
    instead of shares."""

    phases: tuple[Phase, ...] = ()
    """Parts of the training, one after the other; empty: one."""

    seed: int = 0
    """Which documents of a group are read once more, in [0, 2**63)."""

    def __post_init__(self) -> None:
        amounts = [self.temperature, *self.weights.values(), *(p.share for p in self.phases)]
        amounts += [weight for phase in self.phases for weight in phase.weights.values()]
        amounts += [p.temperature for p in self.phases if p.temperature is not None]
        if min(amounts) < 0 or self.temperature == 0:
            raise ValueError("weights and shares can't be below 0, and a temperature is above it")
        if self.unimax and (self.weights or self.temperature != 1 or self.max_repeats is None):
            raise ValueError("unimax needs max_repeats, and neither weights nor a temperature")
        if self.cluster_repeats and (self.weights or self.unimax or self.phases or self.budget):
            raise ValueError("cluster_repeats go without weights, unimax, phases and a budget")
        if not all(
            size.isdecimal() and repeats >= 0 for size, repeats in self.cluster_repeats.items()
        ):
            raise ValueError("cluster_repeats: sizes and repeats are whole numbers, as {100 = 8}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")


def allocate(shares: npt.ArrayLike, total: int) -> I64:
    """Return whole amounts in proportion to shares, by the largest remainder: their sum is exact.

    Args:
        shares: (G,), not negative, some above 0
        total: to give out

    Example:
        >>> allocate([1, 1, 1], 10**9).tolist()
        [333333334, 333333333, 333333333]
    """
    weights = np.asarray(shares, np.float64)
    exact = weights / weights.sum() * total
    amounts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    rest = total - int(amounts.sum())
    order = np.argsort(-(exact - amounts), kind="stable")
    amounts[order[: max(rest, 0)]] += 1
    return amounts


def share_below(shares: npt.ArrayLike, total: float, most: npt.ArrayLike) -> F64:
    """Return amounts in proportion to shares, none above what it may be; the others get the rest.

    With equal shares this is UniMax. What is left where all are at their most is not given out.

    Args:
        shares: (G,), not negative, some above 0
        total: to give out
        most: (G,)

    Example:
        >>> share_below([1, 1, 1], 600, [40, 400, 4000]).tolist()
        [40.0, 280.0, 280.0]
    """
    weights, limits = np.asarray(shares, np.float64), np.asarray(most, np.float64)
    amounts, is_open = np.zeros(len(weights)), weights > 0
    while is_open.any():
        exact = weights / weights[is_open].sum() * (total - amounts.sum())
        is_over = is_open & (exact > limits)
        if not is_over.any():
            amounts[is_open] = exact[is_open]
            break
        amounts[is_over] = limits[is_over]
        is_open &= ~is_over
    return amounts


def resolve_shares(
    sizes: Mapping[str, int], mixture: MixtureConfig, phase: Phase, budget: int,
    read: Mapping[str, int] | None = None,
) -> dict[str, int]:  # fmt: skip
    """Return how much is read of each group.

    Args:
        sizes: of groups, in the unit of the mixture
        mixture: says how
        phase: of it
        budget: of the phase
        read: of each group in the phases before

    Raises:
        ConfigError: a weight names no group, nothing has a weight, or the caps leave too little

    Example:
        >>> mixture = MixtureConfig(weights={"a": 1, "*": 3})
        >>> resolve_shares({"a": 50, "b": 10, "c": 90}, mixture, Phase(), 100)
        {'a': 25, 'b': 8, 'c': 67}
    """
    names, amounts = list(sizes), np.array(list(sizes.values()), np.int64)
    weights = phase.weights or mixture.weights
    power = 0.0 if mixture.unimax else 1 / (phase.temperature or mixture.temperature)
    shares = amounts.astype(np.float64) ** power
    if weights:
        shares = _weigh(names, shares, weights)
    if not shares.any():
        raise ConfigError("mixture: no group that is selected has a weight above 0")
    if mixture.max_repeats is not None:
        done = np.array([(read or {}).get(name, 0) for name in names], np.int64)
        most = np.floor(mixture.max_repeats * amounts) - done
        shares = share_below(shares, budget, most)
        if shares.sum() < budget - 0.5:
            raise ConfigError(
                f"mixture: {budget:,} {mixture.unit} are asked for, and groups with a weight give "
                f"{int(shares.sum()):,} with max_repeats={mixture.max_repeats:g}: lower "
                "the budget, or select more"
            )
    return dict(zip(names, allocate(shares, budget).tolist(), strict=True))


def _weigh(names: list[str], shares: F64, weights: Mapping[str, float]) -> F64:
    """Return the shares by weight; those that are not named divide that of "*" by theirs."""
    if strange := sorted(weights.keys() - {*names, "*"}):
        raise ConfigError(
            f"mixture: there is no group {strange[0]!r}; there are {', '.join(names[:12])}"
        )
    others = [place for place, name in enumerate(names) if name not in weights]
    found = np.array([weights.get(name, 0.0) for name in names])
    if others:
        found[others] = weights.get("*", 0.0) * shares[others] / shares[others].sum()
    return found


def repeat_documents(sizes: I64, amount: int, keys: npt.NDArray[np.uint64], seed: int) -> I64:
    """Return how often each document of a group is read: all so often, and some once more.

    Args:
        sizes: int64 (D,), of documents
        amount: to read, in the same unit; what comes out is at most one document less
        keys: uint64 (D,), hashes of the documents, which say who is read once more
        seed: of that

    Example:
        >>> keys = np.arange(4, dtype=np.uint64)
        >>> repeat_documents(np.array([10, 10, 10, 10]), 90, keys, 0).tolist()
        [2, 2, 3, 2]
    """
    total = int(sizes.sum())
    whole, rest = divmod(amount, total) if total else (0, 0)
    if whole >= MOST_REPEATS:
        raise ConfigError(
            f"mixture: a group of {total:,} would be read {whole:,} times: lower its weight or the "
            "budget"
        )
    example = (keys >> np.uint64(1)).astype(np.int64)
    order = np.argsort(
        draw(stream_key(seed, "mixture"), example, np.zeros(1, np.int64)), kind="stable"
    )
    repeats = np.full(len(sizes), whole, np.int64)
    repeats[order[np.cumsum(sizes[order]) <= rest]] += 1
    return repeats


def repeats_by_cluster(sizes: I64, table: Mapping[str, int]) -> I64:
    """Return how often documents are read that stand for clusters of some sizes.

    Example:
        >>> repeats_by_cluster(np.array([1, 2, 7, 500]), {"1": 1, "2": 2, "100": 8}).tolist()
        [1, 2, 2, 8]
    """
    bounds = np.array(sorted(map(int, table)), np.int64)
    values = np.array([table[str(bound)] for bound in bounds], np.int64)
    places = np.searchsorted(bounds, sizes, side="right") - 1
    return np.where(places < 0, 1, values[np.maximum(places, 0)])
