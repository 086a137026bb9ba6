import os
import time
from pathlib import Path

import pytest

from lmdata.kernel_cache import find_cache_folder, find_dependents, forget_stale_kernels


@pytest.fixture
def package(tmp_path):
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "callee.py").write_text("x = 1\n")
    (tmp_path / "caller.py").write_text("from lmdata.callee import x\n")
    (tmp_path / "other.py").write_text("y = 1\n")
    forget_stale_kernels(tmp_path)
    for name in ("callee", "caller", "other"):
        for ending in ("nbi", "1.nbc"):
            (tmp_path / "__pycache__" / f"{name}.kernel-7.py311.{ending}").touch()
    return tmp_path


def kept(package):
    return {path.name.split(".")[0] for path in (package / "__pycache__").glob("*.nb*")}


def test_kernels_of_unchanged_sources_stay(package):
    forget_stale_kernels(package)
    assert kept(package) == {"callee", "caller", "other"}


def test_a_changed_callee_takes_its_callers_with_it_even_with_the_same_size_and_time(package):
    source = package / "callee.py"
    stamp = source.stat().st_mtime_ns
    source.write_text("x = 2\n")
    os.utime(source, ns=(time.time_ns(), stamp))
    forget_stale_kernels(package)
    assert kept(package) == {"other"}


def test_a_broken_record_forgets_everything(package):
    (package / "__pycache__" / "kernel_sources.json").write_text("[")
    forget_stale_kernels(package)
    assert kept(package) == set()


def test_a_package_without_cache_is_left_alone(tmp_path):
    forget_stale_kernels(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dependents_are_found_through_others():
    sources = {"a": b"", "b": b"from lmdata.a import (\n x,\n)", "c": b"from lmdata.b import y"}
    assert find_dependents({"a"}, sources) == {"a", "b", "c"}


@pytest.fixture
def folders(package, tmp_path_factory, monkeypatch):
    """The user's and the temporary folder; the sources' own can't be written."""
    home, temporary = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("os.environ", {"HOME": str(home)})
    real = os.access
    monkeypatch.setattr(
        "os.access",
        lambda path, mode: not Path(path).is_relative_to(package) and real(path, mode),
    )
    return home, temporary


def cache_folder(package):
    find_cache_folder(package)
    return Path(os.environ.pop("NUMBA_CACHE_DIR", "none"))


def test_kernels_lie_beside_their_sources_where_they_can(package, monkeypatch):
    monkeypatch.setattr("os.environ", {})
    assert cache_folder(package) == Path("none")


def test_kernels_of_other_sources_lie_elsewhere_in_the_users_folder(package, folders):
    home, _ = folders
    before = cache_folder(package)
    assert before.parent == home / ".cache"
    assert cache_folder(package) == before
    (package / "callee.py").write_text("x = 3\n")
    assert cache_folder(package) not in (before, Path("none"))


@pytest.mark.parametrize("has_home", [True, False])
def test_kernels_go_to_the_temporary_folder_without_one_of_the_user(
    package, folders, monkeypatch, has_home
):
    home, temporary = folders
    real = os.access
    monkeypatch.setattr(
        "os.access", lambda path, mode: not Path(path).is_relative_to(home) and real(path, mode)
    )
    if not has_home:
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
    folder = cache_folder(package)
    assert folder.parent == temporary
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(package)  # of another's making
    assert cache_folder(package) == Path("none")


def test_a_record_that_can_not_be_kept_leaves_nothing_behind(package):
    record = package / "__pycache__" / "kernel_sources.json"
    record.unlink()
    record.mkdir()
    forget_stale_kernels(package)
    assert kept(package) == set()
    assert not list(record.parent.glob("*.tmp"))
