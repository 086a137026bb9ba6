"""What is installed: the wheel and the sdist, and that `--help` answers at once."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED_AS = {"lmdata": "lmdata", "lmmodel": "lmmodel", "cli": "lmcli"}
MAX_HELP_S = 0.3


def modules_of_the_checkout() -> set[str]:
    """Return every module that has to be installed, as its path in site-packages."""
    return {
        (INSTALLED_AS[folder] / path.relative_to(ROOT / folder)).as_posix()
        for folder in INSTALLED_AS
        for path in (ROOT / folder).rglob("*.py")
    }


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of a clean copy of the project and the wheel built from that."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (
        *INSTALLED_AS,
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests",
        "benchmarks",
        "references",
    ):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return output


@pytest.fixture(scope="module")
def wheel(archives: Path) -> set[str]:
    """The names of the files in the wheel."""
    (path,) = archives.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_our_three_packages_and_nothing_generic(wheel: set[str]) -> None:
    top = {PurePosixPath(name).parts[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == set(INSTALLED_AS.values())
    assert {name for name in wheel if name.endswith("py.typed")} == {
        f"{name}/py.typed" for name in INSTALLED_AS.values()
    }


def test_the_wheel_holds_every_module_of_the_checkout(wheel: set[str]) -> None:
    assert {name for name in wheel if name.endswith(".py")} == modules_of_the_checkout()


def test_the_sdist_holds_every_module_and_the_licence(archives: Path) -> None:
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {"/".join(PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    sources = {f"{folder}/{path.relative_to(ROOT / folder).as_posix()}"
               for folder in INSTALLED_AS for path in (ROOT / folder).rglob("*.py")}  # fmt: skip
    assert found >= sources | {"LICENSE", "README.md", "pyproject.toml"}


def test_the_wheel_works_away_from_the_checkout(archives: Path, tmp_path: Path) -> None:
    """Installed beside its dependencies, it answers and makes a corpus."""
    (wheel,) = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    for command in ("lmdata", "lmmodel"):
        code = (
            "import sys; sys.path.insert(0, 'site'); "
            "sys.meta_path = [f for f in sys.meta_path if 'editable' not in str(f).lower()]; "
            f"import lmcli.{command} as c; assert 'site' in c.__file__, c.__file__; "
            "c.main(sys.argv[1:])"
        )
        subprocess.run([sys.executable, "-c", code, "--help"], check=True, cwd=tmp_path)
        verb = ["sample-corpus", "it", "--max-megabytes", "0.01", "--quiet"]
        if command == "lmdata":
            subprocess.run([sys.executable, "-c", code, *verb], check=True, cwd=tmp_path)
            assert any((tmp_path / "it").glob("*.txt"))


def test_the_wheel_holds_the_page_that_is_served(wheel: set[str]) -> None:
    assert "lmmodel/serving/page.html" in wheel


def test_every_package_of_the_checkout_is_listed_for_installation() -> None:
    """The quick form of the test of the wheel, for those who add a subpackage."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {PurePosixPath(name).parent for name in modules_of_the_checkout()}
    assert set(settings["tool"]["setuptools"]["packages"]) == {
        ".".join(folder.parts) for folder in folders
    }


@pytest.mark.parametrize("command", ["lmdata", "lmmodel"])
def test_help_answers_at_once(command: str) -> None:
    """The best of five, in CPU time: a busy machine does not make it slower."""
    path = Path(sys.executable).with_name(command)
    if not path.exists():
        pytest.skip(f"{command} is not installed beside this Python")
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([path, "--help"], check=True, stdout=subprocess.DEVNULL, env=os.environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < MAX_HELP_S, times
