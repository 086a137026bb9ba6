"""Muon against AdamW for masked tokens: two optimizers, five learning rates each, three seeds.

All else is the line that `lmmodel train` begins with, at equal tokens. Of Muon the matrices' rate
varies; what is no matrix of a layer (embeddings, norms, biases) stays with AdamW at 3e-3. Draws the
picture that docs/muon.md shows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import RESULTS
from benchmarks.recipe import TOGETHER, Change, Outcome, add_options, study

RATES = {
    "AdamW": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2),
    "Muon": (0.01, 0.02, 0.04, 0.08, 0.16),
}
_SETTINGS = {
    "AdamW": ("optimizer.name=adamw", "optimizer.lr={rate}"),
    "Muon": ("optimizer.name=muon", "optimizer.muon_lr={rate}"),
}


def main(arguments: list[str]) -> None:
    """Train what is missing, print the table, keep it and draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks muon", description=__doc__)
    add_options(parser, "muon")
    options = parser.parse_args(arguments)
    changes = {
        f"{optimizer} {rate:g}": Change(
            over=None,
            settings=(*TOGETHER, *(own.format(rate=rate) for own in _SETTINGS[optimizer])),
        )
        for optimizer, rates in RATES.items()
        for rate in rates
    }
    outcomes = study(options, changes)
    draw(outcomes, RESULTS / f"{options.name}.png")


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the held-out loss by learning rate, a panel for each optimizer, a dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, len(RATES), sharey=True)
    for panel, (optimizer, rates) in zip(panels, RATES.items(), strict=True):
        groups = [[one.loss for one in outcomes if one.change == f"{optimizer} {rate:g}"]
                  for rate in rates]  # fmt: skip
        means = [statistics.mean(group) for group in groups]
        panel.plot(rates, means, color="tab:blue", label="mean of the seeds")
        for rate, group in zip(rates, groups, strict=True):
            panel.plot([rate] * len(group), group, ".", color="tab:blue", alpha=0.6)
        best = min(zip(means, rates, strict=True))
        panel.annotate(f"{best[0]:.2f}", (best[1], best[0]), (10, -4),
                       textcoords="offset points")  # fmt: skip
        panel.set(title=optimizer, xscale="log", xlabel="learning rate")
        panel.set_xticks(rates, [f"{rate:g}" for rate in rates])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("held-out loss, nats a masked token")
    panels[0].margins(y=0.12)
    figure.savefig(path, dpi=120)
