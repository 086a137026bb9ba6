"""The notebook leads from raw text to a served classifier; run with less text, fewer steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "from-text-to-a-classifier.ipynb"
SMALLER = {
    "megabytes, steps = 4.0, 400": "megabytes, steps = 0.6, 8",
    "vocab_size=4000": "vocab_size=500",
    '"batch.size": 64': '"batch.size": 8, "evaluation.num_examples": 8',
    "range(300)": "range(30)",
}


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_every_cell_is_python_and_nothing_is_kept_of_a_run() -> None:
    text = "\n".join(cells())
    assert all(old in text for old in SMALLER)
    for cell in cells():
        compile(cell, NOTEBOOK.name, "exec")
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.slow
def test_the_notebook_leads_from_text_to_a_served_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    pytest.importorskip("orjson", reason="the extra [serve] is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells()):
        for old, new in SMALLER.items():
            cell = cell.replace(old, new)
        exec(compile(cell, f"cell {number}", "exec"), names)
        assert capsys.readouterr().out.strip() or "server" not in cell
    assert {text["label"] for text in names["answer"]["texts"]} <= {"ask", "tell"}
    assert names["server"].returncode is not None
