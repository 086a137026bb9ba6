"""What a fine-tuned model takes for what: a confusion picture, or a scatter of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

# Labels beyond so many are too small to read in a picture: the rarest go into one.
MAX_LABELS = 30
OTHERS = "all others"
# A cell's share is written into it while it is still to be read.
MAX_WRITTEN = 18


def plot_confusion(
    counts: npt.NDArray[np.int64], labels: Sequence[str], path: Path, title: str
) -> None:
    """Write a picture of which labels are taken for which, each row as shares of its right label.

    Args:
        counts: int64 (C, C), rows are the right labels
        labels: C names
        path: a .png file
        title: of the picture
    """
    from matplotlib.figure import Figure

    counts, names = merge_rare(counts, labels, MAX_LABELS)
    names = [drawable(name) for name in names]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)  # (C, C)
    side = 2.5 + 0.42 * max(len(names), 4)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if len(names) > 4 else 0, parse_math=False)
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals[:, 0], strict=True)]
    axes.set_yticks(places, rows, parse_math=False)
    axes.set(xlabel="predicted", ylabel="right (how many)", title=title)
    if len(names) <= MAX_WRITTEN:
        for row, column in zip(*np.nonzero(counts), strict=True):
            share = shares[row, column]
            color = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=color, size=8)
    figure.colorbar(image, ax=axes, label="share of the right label", shrink=0.8)
    figure.savefig(path, dpi=120)


def drawable(text: str) -> str:
    """Return a text that the font of the picture can show: what it lacks, by its number."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)


def merge_rare(
    counts: npt.NDArray[np.int64], labels: Sequence[str], most: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a confusion of at most `most` labels, the rarest as one, in the order they had.

    Args:
        counts: int64 (C, C), rows are the right labels
        labels: C names
        most: at least 2

    Example:
        >>> counts = np.array([[5, 1, 0], [0, 1, 0], [1, 0, 2]])
        >>> merge_rare(counts, ["a", "b", "c"], 2)
        (array([[5, 1],
               [1, 3]]), ['a', 'all others'])
    """
    if len(labels) <= most:
        return counts, list(labels)
    common = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: most - 1])
    group = np.full(len(labels), most - 1)
    group[common] = np.arange(most - 1)
    merged = np.zeros((most, most), np.int64)
    np.add.at(merged, (group[:, None], group[None, :]), counts)
    return merged, [*(labels[index] for index in common), OTHERS]


def plot_scatter(
    values: npt.NDArray[np.float64], references: npt.NDArray[np.float64], path: Path, title: str
) -> None:
    """Write a picture of predicted against right numbers.

    Args:
        values: float64 (R,) predictions
        references: float64 (R,)
        path: a .png file
        title: of the picture
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(references, values, s=12, alpha=0.4, linewidths=0)
    ends = [min(values.min(), references.min()), max(values.max(), references.max())]
    axes.plot(ends, ends, color="gray", linestyle="--", label="right")
    axes.ticklabel_format(style="sci", scilimits=(-3, 5))
    axes.set(xlabel="right number", ylabel="predicted", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
