"""One self-contained HTML page: sections of facts, tables, charts and passages of text (pure).

A page is data first: every block holds its numbers and texts as they are, `page_html` writes them
down. It asks for nothing from outside, which a policy in its head enforces, holds no script, and is
the same bytes for the same data. It is light or dark as the reader's system is, and light on paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmdata import __version__
from lmdata.charts import Cell, escaped, shown
from lmdata.config import json_text
from lmdata.errors import OutputError
from lmdata.files import write_atomically

MOST_BYTES = 2_000_000
_MOST_TEXT = 400  # letters of a text in a table

Row = tuple[Cell, ...]
Fact = tuple[str, Cell] | tuple[str, Cell, str]
"""A name, a value, and perhaps the format of the number that it is."""


class Block(Protocol):
    """Part of a section."""

    def html(self) -> str:
        """Return it as well-formed markup; nothing where there is nothing to show."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts and numbers; the first cell of each names it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    forms: tuple[str, ...] = ()
    """Formats of the numbers in each column; as `shown` has them where there is none."""

    def html(self) -> str:
        """Return the table as markup."""
        if not self.rows:
            return ""
        forms = (*self.forms, *[""] * (len(self.columns) - len(self.forms)))
        is_number = [any(_is_number(row[i]) for row in self.rows) for i in range(len(self.columns))]
        head = "".join(
            f'<th scope="col"{_NUM if number else ""}>{escaped(name)}</th>'
            for name, number in zip(self.columns, is_number, strict=True)
        )
        rows = "".join(f"<tr>{_cells(row, forms)}</tr>" for row in self.rows)
        return (
            f'<div class="wide"><table><caption>{escaped(self.title)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )


_NUM = ' class="num"'


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cells(row: Row, forms: Sequence[str]) -> str:
    first, *others = zip(row, forms, strict=True)
    cells = "".join(
        f'<td{_NUM if _is_number(cell) else _verdict(cell)} dir="auto">'
        f"{shown(cell, form, _MOST_TEXT)}</td>"
        for cell, form in others
    )
    return f'<th scope="row" dir="auto">{shown(*first, _MOST_TEXT)}</th>{cells}'


def _verdict(cell: Cell) -> str:
    return f' class="{cell}"' if cell in ("pass", "fail", "skip") else ""


def _whole(fact: Fact) -> tuple[str, Cell, str]:
    return fact if len(fact) == 3 else (*fact, "")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names with a value each."""

    facts: Sequence[Fact]

    def html(self) -> str:
        """Return the facts as markup; those that are None are left out."""
        items = "".join(
            f'<div><dt>{escaped(name)}</dt><dd dir="auto">{shown(value, form, _MOST_TEXT)}</dd>'
            "</div>"
            for name, value, form in map(_whole, self.facts)
            if value is not None
        )
        return f"<dl>{items}</dl>" if items else ""


# ---- Bars and cells


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar, perhaps with its interval and what else is known of it."""

    name: str
    value: float | int | None
    low: float | None = None
    high: float | None = None
    notes: tuple[Cell, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Bars in the rows of a table, with their numbers."""

    title: str
    columns: tuple[str, ...]  # names of the bars, of their values, then of the notes
    bars: Sequence[Bar]
    form: str = ""
    note_forms: tuple[str, ...] = ()
    largest: float | None = None  # that a whole bar stands for; None: the largest there is
    line: float | None = None  # that all are compared with

    def html(self) -> str:
        """Return the table as markup."""
        if not self.bars:
            return ""
        ends = [value for bar in self.bars for value in (bar.value, bar.high) if value is not None]
        most = self.largest or max(ends, default=0) or 1
        first, second, *others = self.columns
        head = f'<th scope="col">{escaped(first)}</th><th scope="col" class="num">'
        head += f'{escaped(second)}</th><th class="bar"><span class="unseen">bar</span></th>'
        head += "".join(f'<th scope="col">{escaped(name)}</th>' for name in others)
        rows = "".join(f"<tr>{self._cells(bar, float(most))}</tr>" for bar in self.bars)
        return (
            f'<div class="wide"><table class="bars"><caption>{escaped(self.title)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _cells(self, bar: Bar, most: float) -> str:
        def place(value: float) -> str:
            return f"{100 * min(max(value / most, 0), 1):.2f}"

        parts = (
            "" if bar.value is None else f'<path class="fill c0" d="M0 2H{place(bar.value)}V8H0z"/>'
        )
        if self.line is not None:
            parts += f'<path class="mark" d="M{place(self.line)} 0V10"/>'
        if bar.low is not None and bar.high is not None:
            parts += f'<path class="mark" d="M{place(bar.low)} 5H{place(bar.high)}"/>'
            tip = f"{shown(bar.low, self.form)} to {shown(bar.high, self.form)}"
            parts += f"<title>95 % interval {tip}</title>"
        svg = f'<svg viewBox="0 0 100 10" preserveAspectRatio="none">{parts}</svg>'
        value = shown(bar.value, self.form)
        forms = (*self.note_forms, *[""] * (len(bar.notes) - len(self.note_forms)))
        notes = "".join(
            f'<td{_NUM if _is_number(note) else ""} dir="auto">{shown(note, form, 160)}</td>'
            for note, form in zip(bar.notes, forms, strict=True)
        )
        return (
            f'<th scope="row" dir="auto">{escaped(bar.name, 80)}</th><td class="num">{value}</td>'
            f'<td class="bar">{svg}</td>{notes}'
        )


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A table of counts, each row coloured by its shares."""

    title: str
    corner: str  # what rows and columns are
    names: Sequence[str]  # C, of rows and columns
    counts: Sequence[Sequence[int]]  # (C, C)

    def html(self) -> str:
        """Return the table as markup."""
        head = "".join(
            f'<th scope="col" dir="auto">{escaped(name, 24)}</th>' for name in self.names
        )
        rows = ""
        for name, counts in zip(self.names, self.counts, strict=True):
            total = max(sum(counts), 1)
            cells = "".join(_heat_cell(count, count / total) for count in counts)
            rows += f'<tr><th scope="row" dir="auto">{escaped(name, 40)}</th>{cells}</tr>'
        return (
            f'<div class="wide"><table class="heat"><caption>{escaped(self.title)}</caption>'
            f"<thead><tr><td>{escaped(self.corner)}</td>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )


def _heat_cell(count: int, share: float) -> str:
    kind = ' class="num strong"' if share > 0.55 else ' class="num"'
    return f'<td{kind} style="--share:{100 * share:.0f}%">{count:,}</td>'


# ---- Texts


@dataclass(frozen=True)
class Span:
    """A stretch of text, perhaps marked."""

    text: str
    mark: str = ""  # "mask", "random", "keep", "special", "strong" ...


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A text with what is known of it."""

    title: str
    facts: tuple[Fact, ...] = ()
    lines: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Passages:
    """Texts, one below the other."""

    title: str
    passages: Sequence[Passage]

    def html(self) -> str:
        """Return the passages as markup."""
        if not self.passages:
            return ""
        return f"<h3>{escaped(self.title)}</h3>" + "".join(map(_passage, self.passages))


def _passage(passage: Passage) -> str:
    facts = "".join(
        f" · {escaped(name)} {shown(value, form, 120)}"
        for name, value, form in map(_whole, passage.facts)
    )
    lines = "".join(
        f'<p dir="auto">{"".join(map(_span, line))}</p>' for line in passage.lines if line
    )
    return f"<article><h4>{escaped(passage.title)}<small>{facts}</small></h4>{lines}</article>"


def _span(span: Span) -> str:
    text = escaped(span.text)
    return f'<mark class="{span.mark}">{text}</mark>' if span.mark else text


@dataclass(frozen=True)
class Note:
    """A sentence or two that say how to read what follows."""

    text: str

    def html(self) -> str:
        """Return the text as markup."""
        return f'<p class="note">{escaped(self.text)}</p>'


@dataclass(frozen=True)
class Group:
    """Blocks side by side where there is room."""

    blocks: Sequence[Block]

    def html(self) -> str:
        """Return the blocks as markup."""
        found = "".join(block.html() for block in self.blocks)
        return f'<div class="group">{found}</div>' if found else ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a title; left out where no block has anything to show."""

    title: str
    blocks: Sequence[Block]

    def html(self, name: str) -> str:
        """Return the section as markup; `name` is what links call it."""
        found = [(block, block.html()) for block in self.blocks]
        if not any(markup for block, markup in found if not isinstance(block, Note)):
            return ""
        body = "".join(markup for _, markup in found)
        return f'<section id="{name}"><h2>{escaped(self.title)}</h2>{body}</section>'


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Cell]:
    """Return the settings of nested tables by dotted key, lists as JSON.

    Example:
        >>> flat_settings({"a": {"b": 1, "c": (2, 3)}, "d": None})
        {'a.b': 1, 'a.c': '[2, 3]', 'd': None}
    """
    flat: dict[str, Cell] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json_text(value) if isinstance(value, list | tuple) else value
    return flat


def page_html(page: Page) -> str:
    """Return a page as one HTML text: nothing outside of it is needed.

    Example:
        >>> "<h1>a &amp; b</h1>" in page_html(Page(title="a & b", subtitle="", sections=()))
        True
    """
    names = [f"part-{number}" for number, _ in enumerate(page.sections, 1)]
    parts = [one.html(name) for one, name in zip(page.sections, names, strict=True)]
    links = "".join(
        f'<li><a href="#{name}">{escaped(section.title)}</a></li>'
        for section, name, markup in zip(page.sections, names, parts, strict=True)
        if markup
    )
    title = escaped(page.title, 200)
    return (
        f"<!DOCTYPE html>\n{_head(title)}<body>\n"
        f"<header><h1>{title}</h1><p>{escaped(page.subtitle, 400)}</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main>\n'
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body></html>\n"
    )


def write_page(page: Page, path: Path, *, overwrite: bool) -> None:
    """Write a page, whole or not at all.

    Raises:
        OutputError: what is there may not be replaced, or nothing can be written
    """
    check_writable(path, overwrite=overwrite)
    data = page_html(page).encode()
    assert len(data) <= MOST_BYTES, f"a page of {len(data)} bytes"
    write_atomically(path, data)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Check that a page may be written here; nothing but a page of ours is ever replaced.

    Raises:
        OutputError: it may not
    """
    if path.is_symlink() or path.is_dir():
        kind = "a link" if path.is_symlink() else "a folder"
        raise OutputError(f"{path} is {kind}: name another file for the page with --output")
    if not path.exists():
        return
    with path.open("rb") as file:
        is_ours = _GENERATOR.encode() in file.read(1000)
    if not is_ours:
        raise OutputError(f"{path} is no report: name another file for the page with --output")
    if not overwrite:
        raise OutputError(f"{path} exists: --overwrite replaces it, --output names another file")


_GENERATOR = '<meta name="generator" content="lmdata-lmmodel '


def _head(title: str) -> str:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        f'<html lang="en"><head>\n<meta charset="utf-8"/>\n{_GENERATOR}{__version__}"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        '<meta name="color-scheme" content="light dark"/>\n'
        '<meta http-equiv="Content-Security-Policy" '
        """content="default-src 'none'; style-src 'unsafe-inline'"/>\n"""
        f"<title>{title}</title>\n<style>\n{style}</style></head>\n"
    )
