"""Statistics of a dataset as lines of text and as a picture: one PNG, or one HTML page with it."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from lmdata.errors import OutputError
from lmdata.files import write_atomically
from lmdata.stats import ExampleStatistics, Lengths, PieceUse, Statistics, StoreStatistics

_INK, _SOFT, _ACCENT, _SECOND = "#22313f", "#8a97a3", "#2a6f97", "#c8553d"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #22313f; max-width: 66rem; margin: 2rem auto;
       padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} img {{ width: 100%; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ padding: .2rem 1.2rem .2rem 0; text-align: left; border-bottom: 1px solid #e3e8ec; }}
td + td {{ font-variant-numeric: tabular-nums; }}
</style></head><body><h1>{title}</h1>
<img alt="histograms" src="data:image/png;base64,{image}">
<table>{facts}</table><h2>Most frequent pieces</h2><table>{pieces}</table></body></html>
"""


def facts(statistics: Statistics) -> list[tuple[str, str]]:
    """Return the statistics as pairs of a name and a value for people."""
    if isinstance(statistics, StoreStatistics):
        return _store_facts(statistics)
    return _example_facts(statistics)


def _store_facts(store: StoreStatistics) -> list[tuple[str, str]]:
    bytes_per_token = store.bytes_per_token
    return [
        ("documents", f"{store.documents:,}"),
        ("sentences", f"{store.sentences:,}"),
        ("tokens", f"{store.tokens:,}"),
        ("bytes per token", "unknown" if bytes_per_token is None else f"{bytes_per_token:.2f}"),
        ("tokens of a document", describe_lengths(store.document_tokens)),
        ("sentences of a document", describe_lengths(store.document_sentences)),
        ("tokens of a sentence", describe_lengths(store.sentence_tokens)),
        *_piece_facts(store.pieces),
    ]


def _example_facts(examples: ExampleStatistics) -> list[tuple[str, str]]:
    found = [
        ("examples", f"{examples.examples:,}"),
        ("tokens", f"{examples.tokens:,}"),
        ("fill", f"{examples.fill:.1%} of {examples.max_seq_length}"),
        ("tokens of an example", describe_lengths(examples.example_tokens)),
    ]
    if examples.second_segment_tokens is not None:
        found.append(("tokens of segment B", describe_lengths(examples.second_segment_tokens)))
        found.append(("share labelled 1", f"{examples.positive_share:.2%}"))
    if examples.target_tokens is not None:
        found.append(("tokens of a target", describe_lengths(examples.target_tokens)))
        found.append(("noise", f"{examples.noise_share:.2%} of the text"))
    if examples.masked_share:
        ways = f"{examples.became_mask:.1%} / {examples.became_random:.1%} / {examples.kept:.1%}"
        found.append(("masked", f"{examples.masked_share:.2%} of all tokens"))
        found.append(("[MASK] / random / kept", ways))
    return found + _piece_facts(examples.pieces)


def _piece_facts(pieces: PieceUse) -> list[tuple[str, str]]:
    fertility = pieces.pieces_per_word
    return [
        *([] if fertility is None else [("pieces per word", f"{fertility:.3f}")]),
        ("unknown", f"{pieces.unknown_ratio:.4%}"),
        ("vocabulary used", f"{pieces.used:,} of {pieces.vocab_size:,} "
                            f"({pieces.used / pieces.vocab_size:.1%})"),
    ]  # fmt: skip


def describe_lengths(lengths: Lengths) -> str:
    """Return a distribution in one line: mean, quantiles from 5 % to 95 %, largest."""
    middle = " ".join(f"{value:,}" for value in lengths.quantiles.values())
    return f"mean {lengths.mean:,.1f}, 5-25-50-75-95 %: {middle}, largest {lengths.largest:,}"


def statistics_lines(statistics: Statistics) -> list[str]:
    """Return the statistics for a terminal."""
    pairs = facts(statistics)
    width = max(len(name) for name, _ in pairs)
    lines = [f"{statistics.path}, split {statistics.split}"]
    lines += [f"  {name:<{width}}  {value}" for name, value in pairs]
    top = "  ".join(f"{piece} {count:,}" for piece, count in statistics.pieces.top[:10])
    return [*lines, f"  {'top pieces':<{width}}  {top}"]


def write_report(statistics: Statistics, output: Path | str) -> None:
    """Write a picture of the statistics: `.png`, or `.html` with the tables and nothing external.

    Raises:
        OutputError: another ending, or the file can't be written
    """
    path = Path(output)
    if path.suffix not in {".png", ".html"}:
        raise OutputError(f"a report ends in .png or .html, got {path}: choose one of them")
    image = panels_as_png(statistics)
    if path.suffix == ".png":
        write_atomically(path, image)
        return
    page = _PAGE.format(
        title=html.escape(f"{statistics.path}, split {statistics.split}"),
        image=base64.b64encode(image).decode(),
        facts=_rows(facts(statistics)),
        pieces=_rows([(piece, f"{count:,}") for piece, count in statistics.pieces.top]),
    )
    write_atomically(path, page.encode())


def _rows(pairs: list[tuple[str, str]]) -> str:
    cells = ((html.escape(name), html.escape(value)) for name, value in pairs)
    return "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in cells)


def panels_as_png(statistics: Statistics) -> bytes:
    """Return the statistics as a PNG of four panels."""
    figure = Figure(figsize=(12, 7.5), layout="constrained", facecolor="white")
    panels = figure.subplots(2, 2).ravel()
    title = _drawable(f"{statistics.path}, split {statistics.split}")
    figure.suptitle(title, color=_INK, weight="bold")
    if isinstance(statistics, StoreStatistics):
        _draw_lengths(panels[0], statistics.document_tokens, "tokens of a document", "documents")
        _draw_lengths(panels[1], statistics.sentence_tokens, "tokens of a sentence", "sentences")
    else:
        _draw_lengths(panels[0], statistics.example_tokens, "tokens of an example", "examples")
        _draw_positions(panels[1], statistics)
    _draw_top(panels[2], statistics.pieces)
    _draw_ranks(panels[3], statistics.pieces)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _draw_lengths(axes: Any, lengths: Lengths, title: str, things: str) -> None:
    """A histogram; where its bins grow, on a logarithmic axis, as areas."""
    _style(axes, title, "", things)
    edges, heights = np.array(lengths.edges, float), np.array(lengths.histogram, float)
    if edges[-1] > 300:
        axes.set_xscale("log")
        axes.set_ylabel(f"{things}, per log length", color=_INK)
        edges[0] = max(edges[0], 0.8)
        heights /= np.log(edges[1:] / edges[:-1])
    axes.stairs(heights, edges, fill=True, color=_ACCENT, alpha=0.85)
    axes.axvline(lengths.quantiles["50%"], color=_SECOND, linewidth=1.4)
    axes.annotate(
        f"median {lengths.quantiles['50%']:,}\nmean {lengths.mean:,.0f}", (0.03, 0.95),
        xycoords="axes fraction", va="top", color=_SECOND, fontsize=9,
    )  # fmt: skip
    axes.set_ylim(bottom=0)


def _draw_positions(axes: Any, examples: ExampleStatistics) -> None:
    """The mask rate at each position, where at least 100 examples reach it."""
    reached = [(p, r) for p, (r, n) in enumerate(zip(
        examples.mask_rate_by_position, examples.tokens_by_position, strict=True)) if n >= 100
    ]  # fmt: skip
    if not examples.masked_share or not reached:
        _style(axes, "tokens at each position", "position", "examples that reach it")
        axes.plot(examples.tokens_by_position, color=_ACCENT)
        axes.set_ylim(bottom=0)
        return
    _style(axes, "mask rate at each position", "position", "share masked")
    axes.plot(*zip(*reached, strict=True), color=_ACCENT, linewidth=1.3)
    axes.axhline(examples.masked_share, color=_SECOND, linewidth=1, linestyle="--")
    axes.annotate(
        f"mean over all tokens {examples.masked_share:.2%}", (0.97, 0.08),
        xycoords="axes fraction", ha="right", color=_SECOND, fontsize=9,
    )  # fmt: skip
    axes.set_ylim(0, 1.35 * max(rate for _, rate in reached))


def _draw_top(axes: Any, pieces: PieceUse) -> None:
    """The most frequent pieces."""
    _style(axes, "most frequent pieces", "occurrences", "")
    names = [_drawable(piece) for piece, _ in reversed(pieces.top)]
    axes.barh(range(len(names)), [count for _, count in reversed(pieces.top)], color=_ACCENT)
    axes.set_yticks(range(len(names)), names, fontsize=7)


def _drawable(text: str) -> str:
    """Return a text that the font can show: what it lacks by number, no dollar begins a formula."""
    font = get_font(findfont("DejaVu Sans"))
    shown = (c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)
    return "".join(shown).replace("$", r"\$")


def _draw_ranks(axes: Any, pieces: PieceUse) -> None:
    """Frequency against rank: a straight line is Zipf's law, a cliff an oversized vocabulary."""
    used = f"{pieces.used:,} of {pieces.vocab_size:,} pieces occur"
    _style(axes, f"pieces by rank: {used}", "rank", "occurrences")
    if pieces.by_rank:
        ranks = [2**power for power in range(len(pieces.by_rank))]
        axes.loglog(ranks, pieces.by_rank, marker="o", markersize=4, color=_ACCENT)
        axes.axvline(pieces.vocab_size, color=_SOFT, linewidth=1, linestyle=":")


def _style(axes: Any, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=11)
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)
    axes.grid(axis="y", color="#e3e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
