"""Datasets of a store, kept on this machine: every byte compared, all of them within a bound.

A copy is called by the hash of its manifest, so that it is never stale; its manifest comes last.
The copies that were used longest ago make room. What has been copied is compared again, block by
block, where it is used, as all datasets are.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from lmdata.errors import ConfigError, IntegrityError
from lmdata.files import lease, make_folder, output_errors, write_atomically
from lmdata.remote import RemotePlace
from lmdata.schema import MANIFEST_NAME, Manifest, parse_manifest
from lmdata.stores import is_uri
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER
from lmdata.xxh3 import hash_file

FOLDER_VARIABLE, SIZE_VARIABLE = "LMDATA_CACHE", "LMDATA_CACHE_GB"
_DEFAULT_GB = 100.0


def at_hand(path: Path | str) -> Path:
    """Return a folder of this machine with a dataset: itself, or a copy of one in a store.

    Raises:
        ConfigError: it is larger than all copies may be together
        IntegrityError: it is not whole, or can't be read
    """
    return _copy(path.rstrip("/")) if isinstance(path, str) and is_uri(path) else Path(path)


def beside(folder: Path, name: str) -> Path:
    """Return a dataset of this machine that another one names: by a URI, or as seen from it.

    Raises:
        ConfigError, IntegrityError: as `at_hand`
    """
    return at_hand(name) if is_uri(name) else folder / name


def _copy(uri: str) -> Path:
    place = RemotePlace(uri)
    data = place.read(MANIFEST_NAME)
    if data is None:
        raise IntegrityError(
            f"{uri} is not a finished dataset: it has no {MANIFEST_NAME}; `lmdata tokenize CORPUS "
            f"--output {uri}` makes one"
        )
    manifest = parse_manifest(data.decode("utf-8", "replace"), Path(uri))
    folder = copies_folder() / manifest.hash
    with lease(folder):
        with output_errors(folder):
            make_folder(folder)
            if not (folder / MANIFEST_NAME).is_file():
                _make_room(uri, folder, _num_bytes(manifest))
        _bring(place, manifest, folder, data)
    os.utime(folder)
    return folder


def copies_folder() -> Path:
    """Return where copies lie: in LMDATA_CACHE, or with the user's other caches."""
    given = os.environ.get(FOLDER_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else cache / "lmdata"


def _max_bytes() -> int:
    given = os.environ.get(SIZE_VARIABLE, "")
    try:
        size = float(given) if given else _DEFAULT_GB
    except ValueError:
        size = 0.0
    if not size > 0:
        raise ConfigError(f"{SIZE_VARIABLE} must be a number of gigabytes, got {given!r}")
    return int(size * 1e9)


def _num_bytes(manifest: Manifest) -> int:
    return sum(shard.bytes for shards in manifest.splits.values() for shard in shards)


def _make_room(uri: str, folder: Path, num_bytes: int) -> None:
    """Remove the copies that were used longest ago until there is room for another.

    Raises:
        ConfigError: there never is
    """
    max_bytes = _max_bytes()
    if num_bytes > max_bytes:
        raise ConfigError(
            f"{uri} takes {num_bytes / 1e9:.1f} GB and copies of datasets may take "
            f"{max_bytes / 1e9:g} GB in {folder.parent}: raise {SIZE_VARIABLE}, or set "
            f"{FOLDER_VARIABLE} to a larger disk"
        )
    others = [path for path in folder.parent.iterdir() if _is_copy(path) and path != folder]
    sizes = {path: _size_of(path) for path in others}
    for path in sorted(others, key=lambda path: path.stat().st_mtime):
        if sum(sizes.values()) + num_bytes <= max_bytes:
            return
        shutil.rmtree(path)  # who reads it has it mapped and goes on
        del sizes[path]


def _is_copy(folder: Path) -> bool:
    """Whether a folder is a copy of a dataset: runs and unfinished outputs lie beside them."""
    return re.fullmatch(r"[0-9a-f]{32}", folder.name) is not None and folder.is_dir()


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bring(place: RemotePlace, manifest: Manifest, folder: Path, data: bytes) -> None:
    """Copy what is not there yet, the manifest last.

    Raises:
        IntegrityError: a file is missing or has other bytes than the manifest promises
    """
    for name in sorted(TOKENIZER_FILES):
        content = place.read(f"{TOKENIZER_FOLDER}/{name}")
        if content is not None:
            make_folder(folder / TOKENIZER_FOLDER)
            write_atomically(folder / TOKENIZER_FOLDER / name, content)
    for shards in manifest.splits.values():
        for shard in shards:
            path = folder / shard.file
            if path.is_file() and path.stat().st_size == shard.bytes:
                continue  # compared when it came, and again where it is used
            place.fetch(shard.file, path)
            if hash_file(path) != shard.xxh3:
                path.unlink()
                raise IntegrityError(
                    f"{place}/{shard.file} was altered, its xxh3 is not the manifest's: restore "
                    f"it, or build {place} again"
                )
    write_atomically(folder / MANIFEST_NAME, data)
