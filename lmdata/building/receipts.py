"""Receipts: what became of a unit or a shard, written once, when its files are there in full.

Two workers may be given one unit, as when a node is lost that goes on working. Each writes its part
under a name of its own; the first receipt counts, and the other worker compares what it made.
"""

from __future__ import annotations

import pickle
import re
import zlib
from collections.abc import Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lmdata.config import build_config
from lmdata.errors import ConfigError, IntegrityError
from lmdata.places import Place
from lmdata.schema import BUILD_FOLDER, ShardRecord, parse_json_object, to_json
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER

_NUM_READERS = 16  # of receipts: a store takes its time for each
_AT_ONCE = 1024  # units whose receipts are asked for together
_ATTEMPT = re.compile(r"_[0-9a-f]{8}\.part")


class Receipt(Protocol):
    """What became of a unit: a dataclass that knows its part files."""

    @property
    def files(self) -> tuple[ShardRecord, ...]:
        """The parts that were written."""


R = TypeVar("R")
U = TypeVar("U", bound=Receipt)


def in_build(name: str) -> str:
    """Return a file of a build by its name in the output.

    Example:
        >>> in_build("plan.json")
        '.build/plan.json'
    """
    return f"{BUILD_FOLDER}/{name}"


def part_name(number: int, split: str, attempt: str) -> str:
    """Return the file name of a unit's rows of one split, as one worker writes them.

    Example:
        >>> part_name(7, "train", "0a1b2c3d")
        'unit-000007-train_0a1b2c3d.part'
    """
    return f"unit-{number:06d}-{split}_{attempt}.part"


def receipt_name(number: int) -> str:
    """Return the file name of the receipt of a unit.

    Example:
        >>> receipt_name(7)
        'unit-000007.json'
    """
    return f"unit-{number:06d}.json"


def read_receipt(place: Place, name: str, kind: type[R]) -> R | None:
    """Return what a receipt in `.build` holds; None where there is none that was written out."""
    data = place.read(in_build(name))
    try:
        return None if data is None else build_config(kind, parse_json_object(data.decode(), name))
    except (UnicodeDecodeError, IntegrityError, ConfigError):
        return None  # a power cut can leave a receipt that was never written out


def keep_receipt(place: Place, name: str, receipt: U) -> U:
    """Write the receipt of a unit unless there is one, and return the one that counts.

    The parts of `receipt` are where the place's files are written, complete. Those of another
    attempt that came first are taken in their stead, and must have the same bytes.

    Raises:
        IntegrityError: two attempts of one unit gave different results
    """
    for part in receipt.files:
        place.keep(in_build(part.file))
    data = to_json(receipt).encode()
    while not place.create(in_build(name), data, is_durable=False):
        first = read_receipt(place, name, type(receipt))
        if first is not None and are_whole(place, first.files):
            _compare(name, first, receipt)
            for part in set(receipt.files) - set(first.files):
                place.remove(in_build(part.file))
            return first
        place.remove(in_build(name))  # of parts that were lost, or never written out
    return receipt


def find_receipts(
    place: Place, num_units: int, kind: type[U]
) -> Iterator[tuple[U | None, set[str]]]:
    """Yield of each unit, in order, its receipt, None without one, and which parts are whole."""

    def look(number: int) -> tuple[U | None, set[str]]:
        receipt = read_receipt(place, receipt_name(number), kind)
        files = () if receipt is None else receipt.files
        return receipt, {part.file for part in files if are_whole(place, [part])}

    with ThreadPoolExecutor(_NUM_READERS, "receipts") as pool:
        for first in range(0, num_units, _AT_ONCE):
            yield from pool.map(look, range(first, min(first + _AT_ONCE, num_units)))


class Packed(MutableMapping[int, U]):
    """Receipts by the places of their units, in 0.7 kB each instead of 3.7: 10 TB have 300,000."""

    def __init__(self) -> None:
        self._packed: dict[int, bytes] = {}

    def __getitem__(self, place: int) -> U:
        receipt: U = pickle.loads(zlib.decompress(self._packed[place]))
        return receipt

    def __setitem__(self, place: int, receipt: U) -> None:
        self._packed[place] = zlib.compress(pickle.dumps(receipt), 1)

    def __delitem__(self, place: int) -> None:
        del self._packed[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, place: object) -> bool:
        return place in self._packed


def bring_tokenizer(place: Place) -> Path:
    """Return a folder of this machine with the tokenizer of an output.

    On the machine of the command it is there: no client of a store is opened, which would not
    survive the fork of the workers.
    """
    if (place.folder / TOKENIZER_FOLDER / "tokenizer.json").is_file():
        return place.folder / TOKENIZER_FOLDER
    for file in sorted(TOKENIZER_FILES):
        name = f"{TOKENIZER_FOLDER}/{file}"
        if place.read(name) is not None:
            place.bring(name)
    return place.folder / TOKENIZER_FOLDER


def are_whole(place: Place, parts: tuple[ShardRecord, ...] | list[ShardRecord]) -> bool:
    """Return whether parts are still there, unaltered."""
    return all(place.holds(in_build(part.file), part.bytes, part.xxh3) for part in parts)


def _compare(name: str, first: Any, second: Any) -> None:
    one, other = (_ATTEMPT.sub(".part", to_json(receipt)) for receipt in (first, second))
    if one != other:
        raise IntegrityError(
            f"{name}: a unit that was done twice gave two different results, so that neither can "
            "be trusted: look for a source that changes while it is read, other versions of a "
            "package on one of the machines, or broken memory"
        )


def count_in(counts: dict[str, int], key: str, amount: Any) -> None:
    """Add to one of several counts."""
    counts[key] = counts.get(key, 0) + int(amount)
