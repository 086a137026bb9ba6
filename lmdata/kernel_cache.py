"""Compiled kernels that no longer match their sources are forgotten before they can run.

Numba keeps a kernel on disk until the file that defines it changes. A kernel also contains what it
calls from other files, and a change there goes unnoticed: it would go on with the old code, and
its results would be wrong. So the checksums of all sources are kept beside the compiled kernels,
and those of every module that imports a changed one, directly or not, are deleted.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path

_IMPORT = re.compile(r"^from lmdata\.([\w.]+) import", re.MULTILINE)


def forget_stale_kernels(package: Path) -> None:
    """Delete the compiled kernels that depend on a changed source of a package.

    Args:
        package: folder of the sources, with Numba's files in `__pycache__`; where that can't
            be written, nothing is done: see `find_cache_folder`
    """
    cache = package / "__pycache__"
    if not os.access(cache, os.W_OK):
        return
    sources = {_module_name(path, package): path.read_bytes() for path in package.rglob("*.py")}
    checksums = {name: zlib.crc32(source) for name, source in sources.items()}
    record = cache / "kernel_sources.json"
    known = _read_checksums(record)
    if known == checksums:
        return
    changed = {name for name, checksum in checksums.items() if known.get(name) != checksum}
    for name in find_dependents(changed, sources):
        *folders, module = name.split(".")
        for compiled in package.joinpath(*folders, "__pycache__").glob(f"{module}.*.nb[ic]"):
            compiled.unlink(missing_ok=True)
    temporary = cache / f"kernel_sources.{os.getpid()}.tmp"
    try:
        temporary.write_text(json.dumps(checksums), encoding="utf-8")
        temporary.replace(record)
    except OSError:  # a full disk: the same kernels are found changed the next time
        temporary.unlink(missing_ok=True)


def find_cache_folder(package: Path) -> None:
    """Have Numba keep compiled kernels elsewhere where it can't beside the sources.

    Other sources have another folder, so no kernel is ever stale there. Without a cache folder of
    the user, who may have no home in a container, it is the temporary folder; Numba alone would
    refuse to compile.

    Args:
        package: folder of the sources
    """
    if "NUMBA_CACHE_DIR" in os.environ or _can_make(package / "__pycache__"):
        return
    name = f"lmdata-kernels-{_checksum(package):08x}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111
    if user.is_absolute() and _can_make(user):
        os.environ["NUMBA_CACHE_DIR"] = str(user / name)
        return
    folder = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}"
    with suppress(OSError):  # Numba says what it lacks
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        # Kernels are loaded and run: nobody else may have put them there.
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
            folder.chmod(0o700)
            os.environ["NUMBA_CACHE_DIR"] = str(folder)


def _checksum(package: Path) -> int:
    """Return a checksum of all sources and their names."""
    checksum = 0
    for path in sorted(package.rglob("*.py")):
        checksum = zlib.crc32(_module_name(path, package).encode() + path.read_bytes(), checksum)
    return checksum


def _can_make(folder: Path) -> bool:
    """Whether a folder can be written, or be made and written."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _module_name(path: Path, package: Path) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def find_dependents(changed: set[str], sources: dict[str, bytes]) -> set[str]:
    """Return the modules that import a changed one, directly or not, and the changed themselves.

    Example:
        >>> sources = {"a": b"", "b": b"from lmdata.a import x", "c": b"from lmdata.b import y"}
        >>> sorted(find_dependents({"a"}, sources)), sorted(find_dependents({"c"}, sources))
        (['a', 'b', 'c'], ['c'])
    """
    imports = {
        name: set(_IMPORT.findall(source.decode("utf-8"))) for name, source in sources.items()
    }
    found, before = set(changed), set[str]()
    while found != before:
        before = set(found)
        found |= {name for name, imported in imports.items() if imported & before}
    return found


def _read_checksums(record: Path) -> dict[str, int]:
    """Return the checksums that were kept, none where there are none or they can't be read."""
    with suppress(OSError, ValueError):
        kept = json.loads(record.read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return kept
    return {}
