"""Charts of a page: inline SVG, pure functions of their numbers.

A chart holds its numbers as they are and gives its markup by `html`; colours, fonts and the dark
page are the style sheet's (`lmdata.page`). All markup is well-formed XML. Texts come from anywhere:
every one goes through `escaped`.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Cell = str | int | float | bool | None
"""What a table holds: texts and numbers as they are, None where there is none."""

NUM_COLOURS = 8
MOST_TIPS = 60  # points of a chart that say their numbers when pointed at
_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 408, 10, 204


def escaped(text: object, most: int | None = None) -> str:
    r"""Return a text as markup shows it: escaped, control characters visible, perhaps cut.

    Example:
        >>> escaped("<script>\x00"), escaped("a long text", most=6)
        ('&lt;script&gt;␀', 'a lon…')
    """
    plain = str(text)
    if most is not None and len(plain) > most:
        plain = plain[: most - 1] + "…"
    if not plain.isprintable():
        plain = "".join(c if c.isprintable() or c in " \n" else _visible(c) for c in plain)
    return html.escape(plain)


def _visible(character: str) -> str:
    """Return what stands for a character that markup can't hold or nobody would see.

    Marks that join or direct letters stay, as words of some scripts need them.
    """
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    is_text = code >= 0xA0 and not 0xD800 <= code < 0xE000 and code & 0xFFFE != 0xFFFE
    return character if is_text else "\ufffd"


def shown(value: Cell, form: str = "", most: int | None = None) -> str:
    """Return a cell as markup.

    Args:
        value: of the cell
        form: format of a number; by default whole ones with commas, others with four digits
        most: letters of a text

    Example:
        >>> shown(1234567), shown(0.15, ".1%"), shown(2 / 3), shown(None), shown("a<b")
        ('1,234,567', '15.0%', '0.6667', '–', 'a&lt;b')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escaped(value, most)
    return format(value, form or ("," if isinstance(value, int) else ".4g"))


# ---- Axes


@dataclass(frozen=True)
class Axis:
    """A range of values laid onto pixels."""

    low: float
    high: float
    is_log: bool
    begin: float  # pixel of `low`
    end: float  # pixel of `high`

    def place(self, value: float) -> float:
        """Return the pixel of a value; what lies outside is put on the edge.

        Example:
            >>> Axis(0, 10, False, 50, 150).place(5), Axis(1, 100, True, 0, 100).place(10)
            (100.0, 50.0)
        """
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)

    @property
    def ticks(self) -> list[float]:
        """Values to write beside the axis."""
        return log_ticks(self.low, self.high) if self.is_log else linear_ticks(self.low, self.high)


def make_axis(
    values: Iterable[float], begin: float, end: float, *, is_log: bool = False,
    low: float | None = None,
) -> Axis:  # fmt: skip
    """Return an axis that holds all values, and `low` if it is given."""
    inside = [value for value in values if not is_log or value > 0]
    inside += [] if low is None else [low]
    least, most = min(inside, default=1.0), max(inside, default=1.0)
    if least == most:
        margin = abs(most) / 10 or 1.0
        least, most = least - (0 if least == low else margin), most + margin
    return Axis(least, most, is_log, begin, end)


def linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round values in a range.

    Example:
        >>> linear_ticks(0, 97), linear_ticks(0.13, 0.16, most=3)
        ([0.0, 20.0, 40.0, 60.0, 80.0], [0.13, 0.14, 0.15, 0.16])
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(
        factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9)
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten in a range, with their doubles and fives where the range is short.

    Example:
        >>> log_ticks(1, 5000), log_ticks(3, 60)
        ([1.0, 10.0, 100.0, 1000.0], [5.0, 10.0, 20.0, 50.0])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 200 else (1,)
    found = [float(f"{factor}e{power}") for power in powers for factor in factors]
    found = [value for value in found if low <= value <= high]
    return found[:: -(-len(found) // 7)] if found else [low, high]


def tick_text(value: float) -> str:
    """Return a value in few letters.

    Example:
        >>> tick_text(20000.0), tick_text(2.5e6), tick_text(0.15), tick_text(3e-5)
        ('20k', '2.5M', '0.15', '3e-05')
    """
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:.3g}"


def _frame(x: Axis, y: Axis, x_label: str, y_label: str, *, has_y_ticks: bool = True) -> str:
    """Return the grid, the ticks and the names of both axes."""
    lines = []
    for value in y.ticks if has_y_ticks else ():
        at = y.place(value)
        lines.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{_RIGHT}"/>')
        lines.append(
            f'<text x="{_LEFT - 5}" y="{at + 4:.1f}" class="end">{tick_text(value)}</text>'
        )
    for value in x.ticks:
        at = x.place(value)
        lines.append(f'<path class="grid" d="M{at:.1f} {_BOTTOM}v4"/>')
        lines.append(
            f'<text x="{at:.1f}" y="{_BOTTOM + 16}" class="middle">{tick_text(value)}</text>'
        )
    lines.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>')
    middle = (_LEFT + _RIGHT) / 2
    lines.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" class="middle soft">{escaped(x_label)}</text>'
    )
    turned = f'transform="rotate(-90 11 {(_TOP + _BOTTOM) / 2:.0f})"'
    lines.append(
        f'<text x="11" y="{(_TOP + _BOTTOM) / 2:.0f}" {turned} class="middle soft">'
        f"{escaped(y_label)}</text>"
    )
    return "".join(lines)


def _figure(title: str, parts: str, legend: str = "") -> str:
    name = escaped(title)
    return (
        f'<figure><figcaption>{name}</figcaption><svg role="img" aria-label="{name}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}">{parts}</svg>{legend}</figure>'
    )


# ---- Curves


def thin(points: Sequence[tuple[float, float]], most: int = 240) -> tuple[tuple[float, float], ...]:
    """Return points as means of equally many neighbours, where there are more than `most`.

    Example:
        >>> thin([(0, 1.0), (1, 3.0), (2, 5.0), (3, 5.0)], most=2)
        ((0.5, 2.0), (2.5, 5.0))
    """
    size = -(-len(points) // most)
    if size <= 1:
        return tuple(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple(
        (math.fsum(x for x, _ in group) / len(group), math.fsum(y for _, y in group) / len(group))
        for group in groups
    )


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: points in the order of x; those that are no number are left out of the data."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: Literal["line", "dots", "faint", "level"] = "line"
    """dots: a line with its points; faint: behind its smoothed twin; level: all along the axis."""
    colour: int = 0

    def path(self, x: Axis, y: Axis) -> str:
        """Return the curve as markup."""
        style = f'class="{self.kind} c{self.colour % NUM_COLOURS}"'
        if self.kind == "level":
            at = y.place(self.points[0][1])
            return f'<path {style} d="M{_LEFT} {at:.1f}H{_RIGHT}"/>'
        places = [(x.place(a), y.place(b)) for a, b in self.points]
        d = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        found = f'<path {style} d="{d}"/>' if len(places) > 1 else ""
        if self.kind != "dots" and len(places) > 1:
            return found
        dots = (
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3">{self._tip(number)}</circle>'
            for number, (a, b) in enumerate(places)
        )
        return f"{found}<g {style}>{''.join(dots)}</g>"

    def _tip(self, number: int) -> str:
        if len(self.points) > MOST_TIPS:
            return ""
        a, b = self.points[number]
        return f"<title>{escaped(self.name)}: {shown(b)} at {shown(a)}</title>"


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Curves over one axis."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_is_log: bool = False
    y_is_log: bool = False
    y_low: float | None = None  # that the axis reaches down to

    def html(self) -> str:
        """Return the chart as markup; nothing where no curve has a point."""
        drawn = [one for one in self.series if one.points]
        if not drawn:
            return ""
        points = [point for one in drawn if one.kind != "level" for point in one.points]
        points = points or [point for one in drawn for point in one.points]
        x = make_axis((a for a, _ in points), _LEFT, _RIGHT, is_log=self.x_is_log)
        heights = [b for one in drawn for _, b in one.points]
        y = make_axis(heights, _BOTTOM, _TOP, is_log=self.y_is_log, low=self.y_low)
        parts = _frame(x, y, self.x_label, self.y_label)
        parts += "".join(one.path(x, y) for one in drawn)
        named = [one for one in drawn if one.kind != "faint"]
        items = "".join(_legend_item(one) for one in named) if len(named) > 1 else ""
        return _figure(self.title, parts, f'<ul class="legend">{items}</ul>' if items else "")


def _legend_item(series: Series) -> str:
    style = f"{series.kind} c{series.colour % NUM_COLOURS}"
    dot = '<circle cx="11" cy="5" r="3"/>' if series.kind == "dots" else ""
    return (
        f'<li><svg class="swatch" viewBox="0 0 22 10"><g class="{style}"><path d="M0 5H22"/>{dot}'
        f"</g></svg>{escaped(series.name, 60)}</li>"
    )


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many things lie between two edges; where the edges grow, on a logarithmic axis."""

    title: str
    x_label: str
    things: str
    edges: Sequence[int]  # E + 1
    counts: Sequence[int]  # E
    median: int | None = None

    def html(self) -> str:
        """Return the chart as markup; areas, so that wide and narrow bins compare."""
        if not any(self.counts):
            return ""
        is_log = self.edges[-1] > 300
        edges = [max(edge, 0.8) if is_log else edge for edge in self.edges]
        widths = [math.log(b / a) if is_log else b - a for a, b in itertools.pairwise(edges)]
        heights = [
            count / width if width else 0.0
            for count, width in zip(self.counts, widths, strict=True)
        ]
        x = make_axis(edges, _LEFT, _RIGHT, is_log=is_log)
        y = make_axis(heights, _BOTTOM, _TOP, low=0.0)
        parts = _frame(x, y, self.x_label, f"{self.things}, by area", has_y_ticks=False)
        for index, (count, height) in enumerate(zip(self.counts, heights, strict=True)):
            parts += self._bar(x, y, edges, index, count, height) if count else ""
        if self.median is not None:
            at = x.place(self.median)
            parts += f'<path class="level c1" d="M{at:.1f} {_TOP}V{_BOTTOM}"/>'
            parts += f'<text x="{at + 4:.1f}" y="{_TOP + 9}">median {self.median:,}</text>'
        return _figure(self.title, parts)

    def _bar(
        self, x: Axis, y: Axis, edges: Sequence[float], index: int, count: int, height: float
    ) -> str:
        left, right = x.place(edges[index]), x.place(edges[index + 1])
        top = y.place(height)
        first, last = self.edges[index], self.edges[index + 1] - 1
        tip = f"{first:,}" if first >= last else f"{first:,} to {last:,}"
        return (
            f'<rect class="fill c0" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{_BOTTOM - top:.1f}"><title>{tip}: {count:,} {escaped(self.things)}</title>'
            "</rect>"
        )


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Wholes and their parts, a bar each; the numbers stand in a table beside it."""

    title: str
    parts: tuple[str, ...]  # names, at most `NUM_COLOURS` with colours of their own
    rows: Sequence[tuple[str, Sequence[float]]]  # name of a whole, and its parts

    def html(self) -> str:
        """Return the bars as markup."""
        rows = [(name, values) for name, values in self.rows if sum(values) > 0]
        if not rows:
            return ""
        legend = "".join(
            f'<li><svg class="swatch" viewBox="0 0 22 10"><path class="fill c{i % NUM_COLOURS}" '
            f'd="M0 0H22V10H0z"/></svg>{escaped(name, 60)}</li>'
            for i, name in enumerate(self.parts)
        )
        bars = "".join(
            f'<div class="stack"><span>{escaped(name, 40)}</span>{self._bar(values)}</div>'
            for name, values in rows
        )
        return (
            f"<figure><figcaption>{escaped(self.title)}</figcaption>{bars}"
            f'<ul class="legend">{legend}</ul></figure>'
        )

    def _bar(self, values: Sequence[float]) -> str:
        total, start, pieces = sum(values), 0.0, ""
        for i, value in enumerate(values):
            width = 100 * value / total
            tip = f"{escaped(self.parts[i])}: {shown(value)} ({value / total:.2%})"
            pieces += (
                f'<rect class="fill c{i % NUM_COLOURS}" x="{start:.3f}" y="0" '
                f'width="{width:.3f}" height="10"><title>{tip}</title></rect>'
            )
            start += width
        return f'<svg viewBox="0 0 100 10" preserveAspectRatio="none">{pieces}</svg>'
