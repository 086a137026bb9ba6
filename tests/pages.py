"""What every page must be: strict markup that asks for nothing, with no number but its data's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lmdata.config import json_values
from lmdata.page import Page, page_html

FORBIDDEN = {"script", "link", "iframe", "img", "image", "object", "embed", "base", "form", "use"}
# Fields of blocks that say how to draw, not what was found.
HOW = {"colour", "largest", "line", "y_low", "forms", "form", "note_forms"}
# Tables whose keys are names of what was found, not of fields.
OPEN = {"settings", "environment", "origin"}  # whatever there is
MAPS = {
    "flows", "written", "dropped", "quantiles", "curves", "smoothed", "held_out",
    "gates", "facts", "mean", "spread", "guess", "scores",
}  # fmt: skip


def check_page(page: Page) -> str:
    """Return the text of a page that is whole, stands alone and is small."""
    text = page_html(page)
    assert text == page_html(page)
    assert len(text.encode()) < 2_000_000
    root = ElementTree.fromstring(text)  # well-formed XML is the strictest HTML there is
    names = [element.tag for element in root.iter()]
    assert not FORBIDDEN & set(names)
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            assert name not in ("href", "src", "srcset") or value.startswith("#")
            assert "url(" not in value
    style = root.find("head/style")
    assert style is not None
    assert style.text is not None
    assert not {"url(", "@import"} & set(style.text.split())
    assert "url(" not in style.text
    targets = {element.get("id") for element in root.iter() if element.get("id")}
    links = [element.attrib["href"] for element in root.iter("a")]
    assert {link.removeprefix("#") for link in links} == targets
    assert len(links) == len(targets)
    return text


def numbers_shown(page: Page) -> set[float]:
    """Return every number that the blocks of a page hold."""
    found: set[float] = set()

    def walk(value: Any) -> None:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            for field in dataclasses.fields(value):
                if field.name not in HOW:
                    walk(getattr(value, field.name))
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.add(float(value))

    walk(page.sections)
    return found


def numbers_told(value: Any) -> Iterator[float]:
    """Yield every number of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers_told(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def check_all_is_told(page: Page, report: Any) -> None:
    """Check that every number of a page is in the data that it was made of."""
    told = {*numbers_told(json_values(report)), 0.0, 1.0}  # 0 and 1: ends of axes
    shown = numbers_shown(page)
    assert len(shown) > 20
    assert not shown - told


def schema(value: Any, name: str = "") -> list[str]:
    """Return the fields of a JSON value, one a line."""
    if isinstance(value, dict):
        items = value.items()
        if name.rpartition(".")[2] in OPEN:
            return [f"{name}.*: any"]
        if name.rpartition(".")[2].removesuffix("[]") in MAPS:
            return sorted({line for item in value.values() for line in schema(item, f"{name}.*")})
        return [line for key, item in items for line in schema(item, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        lines = [line for item in value for line in schema(item, f"{name}[]")]
        return list(dict.fromkeys(lines)) or [f"{name}[]"]
    kind = "none" if value is None else type(value).__name__
    return [f"{name}: {kind}"]


def check_schema(path: Path, reports: list[Any]) -> None:
    """Compare the fields of reports with the kept ones; UPDATE_SNAPSHOTS=1 writes them anew."""
    kinds: dict[str, set[str]] = {}
    for report in reports:
        for line in schema(json_values(report)):
            name, _, kind = line.partition(": ")
            kinds.setdefault(name, set()).add(kind)
    text = "".join(f"{name}: {' | '.join(sorted(kinds[name]))}\n" for name in sorted(kinds))
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text
