"""`lmdata report`, `lmmodel report` and `lmmodel train --report`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import TRAIN_FAST, Road, as_json, invoke, succeed


def test_a_page_lies_where_the_command_was_typed(road: Road, inside: Path) -> None:
    assert succeed("lmdata", "report", road.tokens).stdout == "tokens-report.html\n"
    assert succeed("lmmodel", "report", road.run, "--device", "cpu").stdout == "run-report.html\n"
    pages = {path.name: path.read_bytes() for path in inside.glob("*.html")}
    assert set(pages) == {"tokens-report.html", "run-report.html"}
    result = invoke("lmdata", "report", road.tokens)
    assert result.exit_code == 1
    assert "tokens-report.html exists: --overwrite replaces it" in result.stderr
    succeed("lmdata", "report", road.tokens, "--overwrite")
    assert (inside / "tokens-report.html").read_bytes() == pages["tokens-report.html"]


def test_json_is_what_the_page_holds(road: Road, inside: Path) -> None:
    found = as_json("lmdata", "report", road.shards, "--output", inside / "data.html")
    assert found["splits"][0]["statistics"]["examples"] > 0
    assert found["num_failed"] == 0
    runs = as_json("lmmodel", "report", road.run, "--output", inside / "run.html")["runs"]
    assert runs[0]["history"]["last_step"] == 2
    assert {path.name for path in inside.iterdir()} == {"data.html", "run.html"}


def test_a_page_is_opened_in_the_browser(
    road: Road, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    result = succeed("lmmodel", "report", road.run, "--open")
    assert opened == [(inside / "run-report.html").resolve().as_uri()]
    assert "found no browser to open it with" in result.stderr


def test_training_writes_its_page_into_the_run(road: Road, inside: Path) -> None:
    arguments = ("lmmodel", "train", road.shards, "--output", "run", "--num-steps", "2")
    shown = succeed(*arguments, *TRAIN_FAST, "--report").stdout
    assert "report          run/report.html" in shown
    assert "What it fills in" in (inside / "run" / "report.html").read_text()
    succeed(*arguments, *TRAIN_FAST, "--overwrite")
    assert not (inside / "run" / "report.html").exists()


def test_what_is_neither_is_refused_in_one_line(road: Road, inside: Path) -> None:
    for arguments, message in (
        (("lmdata", "report", road.run), "is not a dataset but a model: `lmmodel report"),
        (("lmmodel", "report", road.tokens), "is a dataset: `lmdata report"),
        (("lmdata", "report", road.corpus), "is not a dataset"),
        (("lmmodel", "report", road.corpus), "holds no run"),
        (("lmmodel", "report", "nowhere"), "there is no such folder"),
        (("lmmodel", "report", road.run, "--minimal-pairs", "nowhere"), "does not exist"),
        (("lmdata", "report", road.tokens, "--output", road.corpus), "is a folder"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(inside.iterdir())


def test_a_hostile_name_is_text(road: Road, inside: Path) -> None:
    folder = inside / "<script>alert(1)<"
    folder.symlink_to(road.tokens)
    succeed("lmdata", "report", folder, "--output", "page.html", "-q")
    page = (inside / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
