import os
import time

import pytest

from lmdata.kernel_cache import find_dependents, forget_stale_kernels


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
