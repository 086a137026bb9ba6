"""The shape of the project: who may import whom, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"lmdata": ROOT / "lmdata", "lmmodel": ROOT / "lmmodel", "lmcli": ROOT / "cli"}
FORBIDDEN = {
    "lmdata": {"lmmodel", "lmcli", "torch", "click", "transformers", "datasets", "tests"},
    "lmmodel": {"lmcli", "polars", "click", "tests", "benchmarks"},
    "lmcli": {"tests", "benchmarks"},
}
# What a machine that only trains needs of lmdata: no Polars comes with any of these.
READING_SIDE = {
    "config", "dataset", "errors", "masking", "order", "packing", "pairs", "recipes", "rng",
    "schema", "stored", "tokenizer", "views", "xxh3",
}  # fmt: skip
PURE = {"rng", "pairs", "masking", "packing", "order", "sentences"}
MAX_LINES = 400
LONGER_FOR_A_REASON = {"lmmodel/model.py"}  # the whole Transformer, read top to bottom


def sources(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    for path in sources(package):
        found = {name.split(".")[0] for name in imports(path)} & FORBIDDEN[package]
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_lmmodel_sees_only_the_reading_side_of_lmdata() -> None:
    modules = {path.stem for path in sources("lmdata")}
    for path in sources("lmmodel"):
        parts = [name.split(".") for name in imports(path) if name.startswith("lmdata.")]
        used = {part[1] for part in parts} & modules
        assert used <= READING_SIDE, f"{path.relative_to(ROOT)} imports {used - READING_SIDE}"


def test_pure_modules_do_no_input_or_output() -> None:
    for module in PURE:
        found = {name.split(".")[0] for name in imports(ROOT / "lmdata" / f"{module}.py")}
        assert not found & {"os", "io", "pathlib", "time", "pyarrow", "polars", "random"}, module


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package: str) -> None:
    for path in sources(package):
        name = str(path.relative_to(ROOT))
        length = len(path.read_text(encoding="utf-8").splitlines())
        assert length <= MAX_LINES or name in LONGER_FOR_A_REASON, f"{name}: {length} lines"


def test_training_needs_neither_polars_nor_click() -> None:
    code = (
        "import sys; import lmmodel.trainer, lmmodel.predicting.mask_filling, lmmodel.evaluation;"
        "found = {'polars', 'click', 'transformers', 'datasets'} & set(sys.modules);"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_finished_run_loads_neither_numba_nor_the_compiler_of_torch() -> None:
    code = (
        "import sys; import lmmodel.trained, lmmodel.predicting.mask_filling;"
        "slow = {'numba', 'lmdata.views', 'torch._dynamo', 'torch.distributed.tensor'};"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("command", ["lmdata", "lmmodel"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; import lmcli.{command};"
        "heavy = {'torch', 'numba', 'polars', 'pyarrow', 'numpy', 'tokenizers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
