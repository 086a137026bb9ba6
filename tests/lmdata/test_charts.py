"""Charts: numbers to SVG, whatever the numbers and the texts."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.charts import (
    Axis,
    Curves,
    Histogram,
    Series,
    Stacks,
    escaped,
    linear_ticks,
    log_ticks,
    make_axis,
    shown,
    thin,
)

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False, allow_subnormal=False)


def drawn(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup)


@given(st.text(), st.integers(2, 20))
def test_any_text_is_markup_that_gives_it_back(text, most):
    shown_text = drawn(f"<p>{escaped(text)}</p>").text or ""
    assert len(shown_text) == len(text)
    assert all(a == b for a, b in zip(shown_text, text, strict=True) if b.isprintable())
    assert len(drawn(f"<p>{escaped(text, most)}</p>").text or "") <= most


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\"'&", "&quot;&#x27;&amp;"),
        ("a\x00b\x1bc", "a␀b␛c"),
        ("\ud800", "�"),
        ("\ufffe\uffff", "��"),
        ("क्‍ष", "क्‍ष"),  # a joiner that belongs to the word
    ],
)
def test_what_is_no_character_of_a_page_is_shown_as_one(text, expected):
    assert escaped(text) == expected


@given(NUMBERS, st.floats(1e-6, 1e12))
def test_ticks_lie_in_their_range_and_are_few(low, span):
    high = low + span
    if high <= low or span < abs(low) * 1e-9:
        return
    ticks = linear_ticks(low, high)
    assert 1 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= high + span * 1e-6 for tick in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.1, 1e9))
def test_ticks_of_a_logarithmic_axis_too(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 7
    assert all(low <= tick <= low * ratio for tick in ticks)


@given(st.lists(NUMBERS, max_size=9), st.booleans())
def test_an_axis_holds_all_values(values, is_log):
    axis = make_axis(values, 50, 150, is_log=is_log)
    assert axis.low < axis.high
    for value in values:
        assert 50 <= (axis.place(value) if value > 0 or not is_log else 50) <= 150


def test_what_lies_outside_an_axis_is_put_on_its_edge():
    assert Axis(0, 10, False, 0, 100).place(math.inf) == 100


@given(st.lists(st.tuples(st.integers(0, 10**9), NUMBERS), max_size=30), st.booleans())
def test_curves_of_any_points_are_drawn(points, is_log):
    points.sort()
    series = [Series(name="<a>", points=points, kind="dots"), Series(name="b", points=[])]
    markup = Curves(title="t", x_label="x", y_label="y", series=series, y_is_log=is_log).html()
    assert bool(markup) == bool(points)
    if points:
        figure = drawn(markup)
        assert "nan" not in markup
        assert "inf" not in markup
        assert len(figure.findall(".//circle")) == len(points)
        assert figure.find("figcaption").text == "t"


def test_a_lone_point_and_a_level_are_seen():
    lone = [Series(name="a", points=[(3, 5.0)]), Series(name="l", points=[(0, 7)], kind="level")]
    figure = drawn(Curves(title="t", x_label="x", y_label="y", series=lone).html())
    assert len(figure.findall("svg//circle")) == 1
    assert [item.find("svg").tail for item in figure.findall("ul/li")] == ["a", "l"]


def test_curves_are_told_apart_by_more_than_colour():
    kinds = [Series(name=k, points=[(0, 1), (1, 2)], kind=k) for k in ("line", "dots", "level")]
    markup = Curves(title="t", x_label="x", y_label="y", series=kinds).html()
    assert all(f'class="{kind} c0"' in markup for kind in ("line", "dots", "level"))


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_bars_of_a_histogram_have_the_area_of_their_counts(counts):
    edges = [4 * i for i in range(len(counts) + 1)]
    markup = Histogram(title="t", x_label="x", things="docs", edges=edges, counts=counts).html()
    assert bool(markup) == any(counts)
    if any(counts):
        bars = drawn(markup).findall(".//rect")
        assert len(bars) == sum(count > 0 for count in counts)
        tallest = max(float(bar.get("height")) for bar in bars)
        assert tallest == pytest.approx(194, abs=0.2)


def test_stacks_fill_their_width():
    markup = Stacks(title="t", parts=("a", "b"), rows=[("x", [1, 3]), ("nothing", [0, 0])]).html()
    bars = drawn(markup).findall("div")
    assert len(bars) == 1
    widths = [float(rect.get("width")) for rect in bars[0].findall("svg/rect")]
    assert widths == [25, 75]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=50), st.integers(1, 60))
def test_thinning_keeps_the_mean_of_each_stretch(points, most):
    found = thin(points, most)
    assert len(found) <= most
    if len(points) <= most:
        assert list(found) == points


def test_numbers_are_shown_in_their_form():
    cells = [(True, ""), (0.12345, ".1%"), (-1, ""), (1e-7, ""), ("x", ""), (None, "")]
    assert [shown(value, form) for value, form in cells] == [
        "yes", "12.3%", "-1", "1e-07", "x", "–",
    ]  # fmt: skip
