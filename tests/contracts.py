"""What holds for every one of a kind, built in or added: each is sent through its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def check_same_bytes_by_any_engine(
    build: Callable[[Path, Any], object], engines: Mapping[str, Any], folder: Path
) -> None:
    """Check that workers of any engine give the same bytes, and leave nothing else behind.

    Args:
        build: writes a dataset to a folder by workers
        engines: workers by name, each of them fresh
        folder: to build in, one subfolder an engine
    """
    found = {}
    for name, workers in engines.items():
        build(folder / name, workers)
        paths = sorted(path for path in (folder / name).rglob("*") if path.is_file())
        found[name] = {path.relative_to(folder / name): path.read_bytes() for path in paths}
    first, *others = found
    for other in others:
        assert found[first] == found[other], f"{other} writes other bytes than {first}"
    assert {path.name for path in folder.iterdir()} == set(engines)
