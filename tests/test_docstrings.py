"""Every worked example in a docstring runs, and the modules of pure functions have some.

Those of the benchmarks run beside them, in benchmarks/test_benchmarks.py.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"lmdata": "lmdata", "lmmodel": "lmmodel", "cli": "lmcli", "references": "references"}
PARSER = doctest.DocTestParser()

# Rooms of pure functions: the one-line example is what says what they do.
WITH_EXAMPLES = {
    "lmdata.batch", "lmdata.config", "lmdata.masking", "lmdata.order",
    "lmdata.packing", "lmdata.pairs", "lmdata.recipes", "lmdata.rng", "lmdata.schema",
    "lmdata.sentences", "lmdata.learning.merges", "lmdata.learning.symbols",
    "lmdata.splitting.tables", "lmmodel.batch", "lmmodel.model",
    "lmmodel.objectives.objective", "lmmodel.objectives.terms", "lmmodel.objectives.replaced",
    "lmmodel.objectives.distilled", "lmmodel.objectives.contrastive", "lmmodel.pair_files",
    "lmmodel.teachers",
    "lmmodel.texts", "lmmodel.tasks.examples", "lmmodel.tasks.tables", "lmmodel.tasks.scores",
    "lmmodel.layers.attention", "lmmodel.handover.stock_families", "lmmodel.handover.stock_weights",
    "lmmodel.handover.their_values", "lmmodel.handover.settings", "lmmodel.handover.written",
    "lmmodel.encoder_decoder", "lmmodel.writing", "lmmodel.adapters", "lmmodel.routing.router",
    "lmmodel.optimizing", "lmmodel.minimal_pairs", "lmcli.summaries", "references.made_up",
}  # fmt: skip


def module_name(path: Path) -> str:
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([FOLDERS[folder], *rest]).removesuffix(".__init__")


def examples_in_source(path: Path) -> int:
    """How many examples the docstrings of a file hold, whatever decorates their functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    texts = [ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)]
    return sum(len(PARSER.get_examples(text)) for text in texts)


def run_examples(module: ModuleType) -> tuple[int, list[str]]:
    """Return how many examples ran, and what the failed ones print."""
    printed: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=printed.append, clear_globs=False)
    return runner.tries, printed


PATHS = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
EXAMPLES = {module_name(path): examples_in_source(path) for path in PATHS}


@pytest.mark.parametrize("name", [name for name, number in EXAMPLES.items() if number])
def test_the_examples_of_a_module_run(name: str) -> None:
    number, failures = run_examples(importlib.import_module(name))
    assert not failures, "".join(failures)
    assert number == EXAMPLES[name], f"{name}: {EXAMPLES[name]} examples are written, {number} ran"


@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES))
def test_a_module_of_pure_functions_has_an_example(name: str) -> None:
    assert name in EXAMPLES, f"{name} is gone: take it off the list, or write its new name there"
    assert EXAMPLES[name], f"{name} has no example"


def test_a_wrong_example_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wrong_example.py"
    path.write_text('def two():\n    """Return 2.\n\n    >>> two()\n    3\n    """\n    return 2\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    number, failures = run_examples(importlib.import_module("wrong_example"))
    sys.modules.pop("wrong_example")
    assert number == examples_in_source(path) == 1
    assert "Expected:\n    3\nGot:\n    2" in "".join(failures)
