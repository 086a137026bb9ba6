"""The page of `lmmodel serve` in a headless Chromium: every tab, by keyboard, on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdata.tokenizer import load_tokenizer
from tests.cli.browser import CHROMIUM, Browser
from tests.cli.commands import Road
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("orjson", reason="the extra [serve] is not installed")
from tests.cli.test_serving import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

ANSWER = "document.querySelector('#answer').innerText"
PROBLEM = "document.querySelector('#problem').textContent"


@pytest.fixture(scope="module")
def server(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    tokenizer = load_tokenizer(road.run)
    tagger = write_fine_tuned(folder / "tagger", "token-classification", tokenizer, ("N", "V"))
    films = write_fine_tuned(folder / "films", "sequence-classification", tokenizer, ("+", "-"))
    started = Server(folder / "log", road.run, tagger, films, LMMODEL_API_KEY="secret")
    yield started
    started.process.kill()
    started.process.wait(30)


def ask(page: Browser, model: str, verb: str) -> str:
    """Return what the page answers when a tab is used as it stands."""
    page.run(f"$('model').value = '{model}'; choose(); $('tab-{verb}').click(); ask(new Event(''))")
    page.wait_for(f"{ANSWER} || {PROBLEM}")
    assert page.run(PROBLEM) == ""
    return str(page.run(ANSWER))


def test_every_tab_answers_by_keyboard_and_on_a_phone(server: Server, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{server.port}/"
    with Browser(tmp_path / "profile", width=380, is_phone=True) as page:
        page.go(address)
        page.wait_for("!document.querySelector('#locked').hidden")
        assert "send the server's key" in page.run(PROBLEM)
        page.run("$('key').value = 'secret'; begin()")
        page.wait_for("$('model').options.length === 3 && $('tab-fill-mask')")
        page.run("document.querySelector('[role=tab][aria-selected=true]').focus()")
        page.press("ArrowRight", 39)
        page.press("ArrowLeft", 37)
        assert page.run("document.activeElement.id") == "tab-fill-mask"
        page.press("Tab", 9)
        assert page.run("document.activeElement.id") == "text"
        page.press("Enter", 13, ctrl=True)
        assert "probability" in page.wait_for(ANSWER)
        assert "1.000" in ask(page, "run", "embed")
        assert "nats" in ask(page, "run", "score")
        assert "king" in ask(page, "tagger", "tag")
        page.picture(tmp_path / "phone.png")
        assert "%" in ask(page, "films", "classify")
        assert page.run("document.documentElement.scrollWidth") <= 380
        assert {url for url in page.requested if not url.startswith((address, "data:"))} == set()
        assert [said for said in page.said if "401" not in said] == []
    assert (tmp_path / "phone.png").stat().st_size > 5000


def test_what_is_wrong_is_told_on_the_page(server: Server, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as page:
        page.go(f"http://127.0.0.1:{server.port}/")
        page.wait_for("!document.querySelector('#locked').hidden")
        page.run("$('key').value = 'secret'; begin()")
        page.wait_for("$('tab-fill-mask')")
        page.run("$('tab-fill-mask').click(); $('text').value = 'no mask'; ask(new Event(''))")
        assert "has no [MASK]: put it where" in page.wait_for(PROBLEM)
