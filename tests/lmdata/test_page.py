"""A page: strict, alone, small, and whatever its texts hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.charts import Curves, Histogram, Series, Stacks
from lmdata.errors import OutputError
from lmdata.page import (
    Bar,
    Bars,
    Facts,
    Group,
    Heat,
    Note,
    Page,
    Passage,
    Passages,
    Section,
    Span,
    Table,
    page_html,
    write_page,
)
from tests.pages import check_page

EVIL = "</style><script>alert('x')</script><img src=http://a.b/c onerror=x> & \x00 \u202e"


def page_of(text: str) -> Page:
    blocks = [
        Note(text),
        Facts(facts=[(text, text), ("number", 0.5, ".1%"), ("absent", None)]),
        Table(title=text, columns=(text, "n"), rows=[(text, 1), (text, 2.5), ("x", None)]),
        Group([
            Curves(title=text, x_label=text, y_label=text,
                   series=[Series(name=text, points=[(1, 2), (2, 3)]),
                           Series(name="l", points=[(0, 2.5)], kind="level")]),
            Histogram(title=text, x_label=text, things=text, edges=[0, 1, 2], counts=[1, 0]),
        ]),
        Bars(title=text, columns=(text, "v", text), form=".1%",
             bars=[Bar(name=text, value=0.2, low=0.1, high=0.3, notes=(text,))]),
        Stacks(title=text, parts=(text,), rows=[(text, [3])]),
        Heat(title=text, corner=text, names=[text], counts=[[3]]),
        Passages(title=text, passages=[
            Passage(title=text, facts=((text, text),), lines=((Span(text, "mask"), Span(text)),))
        ]),
    ]  # fmt: skip
    sections = [Section(title="A section", blocks=blocks)]
    return Page(title=text, subtitle=text, sections=sections)


def test_a_page_of_hostile_texts_is_text():
    text = check_page(page_of(EVIL))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert text.count("</style>") == 1


@given(st.text(max_size=40))
def test_a_page_of_any_text_is_whole(text):
    check_page(page_of(text))


def test_a_policy_forbids_what_markup_could_not():
    text = page_html(page_of("x"))
    assert "default-src 'none'" in text
    assert 'content="light dark"' in text


def test_sections_with_nothing_to_show_are_left_out():
    empty = Section(title="Empty", blocks=[
        Note("how to read it"), Facts(facts=[("a", None)]), Group([]),
        Table(title="t", columns=("a",), rows=[]), Passages(title="p", passages=[]),
        Bars(title="b", columns=("a", "b"), bars=[]),
        Curves(title="c", x_label="x", y_label="y", series=[]),
    ])  # fmt: skip
    text = check_page(Page(title="t", subtitle="", sections=[empty]))
    assert "how to read it" not in text
    assert "<h2" not in text


def test_only_a_page_of_ours_is_replaced_and_only_when_asked(tmp_path):
    page, path = page_of("x"), tmp_path / "report.html"
    write_page(page, path, overwrite=False)
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"report\.html exists: --overwrite replaces it"):
        write_page(page, path, overwrite=False)
    write_page(page, path, overwrite=True)
    assert path.read_bytes() == before
    path.write_text("<html>mine</html>")
    with pytest.raises(OutputError, match="is no report"):
        write_page(page, path, overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        write_page(page, tmp_path, overwrite=True)
    link = tmp_path / "link.html"
    link.symlink_to(path)
    with pytest.raises(OutputError, match="is a link"):
        write_page(page, link, overwrite=True)
    with pytest.raises(OutputError, match="no/where"):
        write_page(page, tmp_path / "no" / "where" / "x.html", overwrite=False)
