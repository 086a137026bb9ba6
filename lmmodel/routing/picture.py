"""The table of experts as a picture: bits per byte by domain, and how texts are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Table(Protocol):
    """What is drawn; see `experts.ExpertsResult`."""

    @property
    def bits(self) -> Mapping[str, Mapping[str, float]]:
        """Of each domain, bits per byte by run."""

    @property
    def owners(self) -> Mapping[str, str]:
        """The expert of each domain."""

    @property
    def accuracy(self) -> Mapping[int, float]:
        """Share of the texts whose domain is told right, by tokens looked at."""

    @property
    def experts(self) -> Sequence[str]:
        """Names of the experts."""


def draw_table(result: Table, path: Path) -> None:
    """Write a picture: how far each run is from the parent on each domain, its own ones framed."""
    from matplotlib.figure import Figure

    if not result.bits:
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        _draw_routing(figure.subplots(), result)
        return figure.savefig(path, dpi=120)
    from matplotlib.patches import Rectangle

    domains, runs = list(result.bits), list(next(iter(result.bits.values())))
    bits = np.array([[result.bits[d][run] for run in runs] for d in domains])  # (D, E)
    gains = bits - bits[:, runs.index("parent")][:, None]
    most = max(float(np.nanmax(np.abs(gains))), 1e-6)
    width, height = 4.5 + 0.9 * len(runs), 2.0 + 0.5 * len(domains)
    figure = Figure(figsize=(width + 4, max(height, 3.6)), layout="constrained")
    table, curve = figure.subplots(1, 2, width_ratios=(width, 4))
    image = table.imshow(gains, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    table.set_xticks(range(len(runs)), runs, rotation=45, ha="right", parse_math=False)
    table.set_yticks(range(len(domains)), domains, parse_math=False)
    for (row, column), value in np.ndenumerate(bits):
        is_own = result.owners[domains[row]] == runs[column]
        color = "white" if abs(gains[row, column]) > 0.6 * most else "black"
        table.text(column, row, f"{value:.3f}", ha="center", va="center", size=8, color=color,
                   weight="bold" if is_own else "normal")  # fmt: skip
        if is_own:
            table.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, lw=1.5))
    table.set(xlabel="run", ylabel="domain", title="bits per byte (own expert framed)")
    figure.colorbar(image, ax=table, label="against the parent", shrink=0.8)
    _draw_routing(curve, result)
    return figure.savefig(path, dpi=120)


def _draw_routing(curve: Any, result: Table) -> None:
    lengths = list(result.accuracy)
    curve.plot(lengths, [100 * result.accuracy[n] for n in lengths], marker="o")
    curve.set_xscale("log", base=2)
    curve.set_xticks(lengths, [str(n) for n in lengths])
    curve.set(xlabel="tokens looked at", ylabel="texts sent right, %", ylim=(0, 102),
              title="routing")  # fmt: skip
    curve.grid(alpha=0.3)
