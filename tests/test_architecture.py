"""The shape of the project: who may import whom, and how large a file may grow.

A *room* is what lies directly in `lmdata`, `lmmodel` or `cli`: a file there (`lmdata.views`), or a
package with all its files (`lmdata.viewing`). Every import counts, also one inside a function or
for types alone: whoever reads a file must read what it names. A package's own `__init__` is its
door to the street and no room: nobody inside takes anything from it but the version.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"lmdata": "lmdata", "lmmodel": "lmmodel", "lmcli": "cli"}  # installed name -> folder
FORBIDDEN = {
    "lmdata": {"lmmodel", "lmcli", "torch", "click", "transformers", "datasets", "tests"},
    "lmmodel": {"lmcli", "polars", "click", "tests", "benchmarks"},
    "lmcli": {"tests", "benchmarks"},
    "tests": {"benchmarks"},
    "benchmarks": {"tests"},
    "references": {"tests", "benchmarks"},
}
MAY_USE_TORCH = {"lmdata.torch_data"}  # hands views to PyTorch; imported where it is asked for
# What a machine that only trains needs of lmdata: no Polars comes with any of these.
READING_SIDE = {
    "arrow_text", "batch", "charts", "chosen", "config", "copies", "dataset", "errors", "files",
    "masking", "mixing", "order", "packing", "page", "pairs", "places", "ragged", "recipes",
    "remote", "rng", "schema", "settings", "stored", "stores", "text_marks", "tokenizer", "views",
    "xxh3",
}  # fmt: skip
PURE = {"rng", "pairs", "masking", "packing", "order", "sentences"}
IMPURE_MODULES = {"os", "io", "pathlib", "time", "pyarrow", "polars", "random"}
MAX_LINES = 400
LONGER_FOR_A_REASON = {"lmmodel/model.py"}  # the whole Transformer, read top to bottom


# ---- Reading the source


def modules_under(folder: Path, name: str) -> dict[str, Path]:
    """Return every module of a package by its dotted name."""
    dotted = {
        ".".join([name, *path.relative_to(folder).with_suffix("").parts]): path
        for path in sorted(folder.rglob("*.py"))
    }
    return {key.removesuffix(".__init__"): path for key, path in dotted.items()}


def imported_names(path: Path, module: str) -> list[str]:
    """Return `a.b.c` for each `from a.b import c` and `import a.b.c`, wherever it stands."""
    inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = inside.split(".")[: len(inside.split(".")) + 1 - node.level]
            base = [*(parts if node.level else []), *([node.module] if node.module else [])]
            names += [".".join([*base, alias.name]) for alias in node.names]
    return names


def import_graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return, for each module, those of `modules` that it imports."""

    def owner(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {
            owner(name)
            for name in imported_names(path, module)
            if not name.endswith(".__version__")
        }
        - {module, ""}
        for module, path in modules.items()
    }


# ---- The rules: each returns what breaks it


def files_in_circles(graph: Mapping[str, Collection[str]]) -> set[str]:
    """Return the modules from which imports lead back to themselves."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            fresh = set(graph[waiting.pop()]) - found
            found |= fresh
            waiting += fresh
        return found

    return {module for module in graph if module in reached(module)}


def pairs_of_rooms(graph: Mapping[str, Collection[str]]) -> set[str]:
    """Return "a <-> b" for rooms that import each other."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    doors = {
        (room(a), room(b))
        for a, imports in graph.items()
        for b in imports
        if room(a) != room(b) and "." in room(a)  # what `__init__` imports, the street sees
    }
    return {f"{a} <-> {b}" for a, b in doors if a < b and (b, a) in doors}


def forbidden_imports(modules: Mapping[str, Path], forbidden: Collection[str]) -> set[str]:
    """Return "module imports x" for each import of a package that is out of bounds."""
    return {
        f"{module} imports {name}"
        for module, path in modules.items()
        for name in imported_names(path, module)
        if name.split(".")[0] in forbidden
    }


def outside_the_reading_side(modules: Mapping[str, Path], known: Collection[str]) -> set[str]:
    """Return "module imports x" for each module of lmdata that training must do without."""
    rooms = {name.split(".")[1] for name in known if "." in name}
    return {
        f"{module} imports {name}"
        for module, path in modules.items()
        for name in imported_names(path, module)
        if name.startswith("lmdata.") and name.split(".")[1] in rooms - READING_SIDE
    }


def too_long(modules: Mapping[str, Path], root: Path) -> set[str]:
    """Return the files of more lines than a file may have."""
    lengths = {
        path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in modules.values()
    }
    return {name for name, lines in lengths.items() if lines > MAX_LINES} - LONGER_FOR_A_REASON


def rooms_of(modules: Collection[str]) -> set[str]:
    """Return the rooms of a package; of lmmodel's packages the files too, as "room.file"."""
    inside = {module.split(".", 1)[1] for module in modules if "." in module}
    if any(module.startswith("lmmodel.") for module in modules):
        return inside
    return {name.split(".")[0] for name in inside}


def rooms_of_the_page(page: str, folder: str) -> set[str]:
    """Return what the table headed by a package names in its first and third column."""
    table = page.split(f"\n| `{folder}` |")[1].split("\n\n")[0]
    named: set[str] = set()
    for line in table.splitlines()[2:]:
        first, *rest = [cell.strip() for cell in line.strip("|").split("|")]
        room, colon, files = first.partition(":")
        for cell in [files] if colon else [first, *rest[1:]]:
            names = [name.strip() for quoted in re.findall("`(.*?)`", cell)
                     for name in quoted.split(",")]  # fmt: skip
            named |= {f"{room.strip('`')}.{name}" if colon else name for name in names}
        named |= {room.strip("`")} if colon else set()
    return named


# ---- This project keeps them

OURS = {name: modules_under(ROOT / folder, name) for name, folder in PACKAGES.items()}
GRAPH = {name: import_graph(modules) for name, modules in OURS.items()}


def test_no_imports_go_in_a_circle() -> None:
    found = set().union(*map(files_in_circles, GRAPH.values()))
    assert not found


def test_no_two_rooms_import_each_other() -> None:
    found = set().union(*map(pairs_of_rooms, GRAPH.values()))
    assert not found


@pytest.mark.parametrize("name", FORBIDDEN)
def test_imports_go_one_way(name: str) -> None:
    modules = modules_under(ROOT / PACKAGES.get(name, name), name)
    assert modules
    doors = {module: path for module, path in modules.items() if module in MAY_USE_TORCH}
    others = {module: path for module, path in modules.items() if module not in MAY_USE_TORCH}
    assert not forbidden_imports(others, FORBIDDEN[name])
    assert not forbidden_imports(doors, FORBIDDEN[name] - {"torch"})


def test_lmmodel_sees_only_the_reading_side_of_lmdata() -> None:
    assert not outside_the_reading_side(OURS["lmmodel"], OURS["lmdata"])


def test_pure_modules_do_no_input_or_output() -> None:
    pure = {name: OURS["lmdata"][name] for name in (f"lmdata.{module}" for module in PURE)}
    assert not forbidden_imports(pure, IMPURE_MODULES)


@pytest.mark.parametrize("name", PACKAGES)
def test_files_stay_short(name: str) -> None:
    assert not too_long(OURS[name], ROOT)


def test_the_page_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name, modules in OURS.items():
        named, present = rooms_of_the_page(page, PACKAGES[name]), rooms_of(modules)
        assert named == present, f"{name}: {sorted(named ^ present)}"


# ---- A house that breaks each of them


def build(folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    """Write a package named `house` and return its modules."""
    for name, text in {"__init__.py": "", **files}.items():
        path = folder / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return modules_under(folder / "house", "house")


@pytest.mark.parametrize(
    ("way_there", "way_back"),
    [
        ("from house.b import x", "from house.a import y"),
        ("import house.b", "from house import a"),
        ("from . import b", "def f():\n    from .a import y"),
        ("from .b import x", "if TYPE_CHECKING:\n    from house.a import Y"),
    ],
)
def test_a_circle_is_found_however_it_is_written(
    way_there: str, way_back: str, tmp_path: Path
) -> None:
    files = {"a.py": way_there, "b.py": "from house.c import z", "c.py": way_back, "d.py": way_back}
    graph = import_graph(build(tmp_path, files))
    assert files_in_circles(graph) == {"house.a", "house.b", "house.c"}


def test_a_package_that_imports_the_file_beside_it_is_found(tmp_path: Path) -> None:
    files = {
        "order.py": "from house.ordering.cells import walk",
        "ordering/__init__.py": "",
        "ordering/cells.py": "",
        "ordering/kernels.py": "from house.order import walk_slowly",
    }
    graph = import_graph(build(tmp_path, files))
    assert not files_in_circles(graph)  # no file leads back to itself, yet the rooms do
    assert pairs_of_rooms(graph) == {"house.order <-> house.ordering"}


def test_one_way_doors_are_no_pair(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from house.order import walk\n__version__ = '1'",
        "order.py": "from house import __version__\nfrom house.ordering.cells import walk",
        "ordering/__init__.py": "",
        "ordering/cells.py": "from house.ordering import kernels",
        "ordering/kernels.py": "import os",
    }
    graph = import_graph(build(tmp_path, files))
    assert graph["house.order"] == {"house.ordering.cells"}
    assert not files_in_circles(graph)
    assert not pairs_of_rooms(graph)


def test_a_test_that_imports_a_benchmark_is_found(tmp_path: Path) -> None:
    modules = build(tmp_path, {"test_a.py": "def test():\n    from benchmarks.b import x"})
    assert forbidden_imports(modules, FORBIDDEN["tests"]) == {"house.test_a imports benchmarks.b.x"}


def test_a_writer_in_the_training_side_is_found(tmp_path: Path) -> None:
    modules = build(tmp_path, {"a.py": "from lmdata.writer import x\nfrom lmdata import corpus"})
    assert outside_the_reading_side(modules, ["lmdata", "lmdata.writer", "lmdata.corpus"]) == {
        "house.a imports lmdata.writer.x",
        "house.a imports lmdata.corpus",
    }


def test_input_in_a_pure_module_is_found(tmp_path: Path) -> None:
    modules = build(tmp_path, {"a.py": "from pathlib import Path"})
    assert forbidden_imports(modules, IMPURE_MODULES) == {"house.a imports pathlib.Path"}


def test_a_long_file_is_found(tmp_path: Path) -> None:
    modules = build(tmp_path, {"a.py": "\n" * MAX_LINES, "b.py": "\n" * (MAX_LINES + 1)})
    assert too_long(modules, tmp_path) == {"house/b.py"}


def test_a_room_that_the_page_does_not_name_is_found() -> None:
    lines = ["", "| `lmmodel` | what |", "| - | - |", "| `model, batch` | it |",
             "| `layers`: `masks` | it |", "", ""]  # fmt: skip
    page = "\n".join(lines)
    modules = ["lmmodel", "lmmodel.model", "lmmodel.layers", "lmmodel.layers.masks"]
    assert rooms_of_the_page(page, "lmmodel") - rooms_of(modules) == {"batch"}
    assert rooms_of([*modules, "lmmodel.layers.new"]) - rooms_of_the_page(page, "lmmodel") == {
        "layers.new"
    }


# ---- What is loaded when


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_finished_run_loads_neither_numba_nor_a_compiler_and_training_no_polars() -> None:
    run_python(
        "import sys; import lmmodel.trained, lmmodel.predicting.mask_filling;"
        "slow = {'numba', 'lmdata.views', 'torch._dynamo', 'torch.distributed.tensor'};"
        "assert not slow & set(sys.modules), slow & set(sys.modules);"
        "import lmmodel.trainer, lmmodel.evaluation;"
        "found = {'polars', 'click', 'transformers', 'datasets'} & set(sys.modules);"
        "assert not found, found"
    )


@pytest.mark.parametrize("command", ["lmdata", "lmmodel"])
def test_help_loads_nothing_heavy(command: str) -> None:
    run_python(
        f"import sys; import lmcli.{command};"
        "heavy = {'torch', 'numba', 'polars', 'pyarrow', 'numpy', 'tokenizers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )


def test_a_folder_that_can_not_be_imported_is_refused_before_torch_is_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mt5"}', encoding="utf-8")
    code = (
        "import sys; from lmcli.lmmodel import main;"
        f"main(['import', {str(tmp_path)!r}, {str(tmp_path / 'run')!r}], standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True,
        check=False, cwd=ROOT,
    )  # fmt: skip
    assert "model_type 'mt5' is not supported" in done.stderr
    assert not re.search(r"\| +(torch|numpy|pyarrow)$", done.stderr, re.MULTILINE)
