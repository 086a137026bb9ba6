"""What the files of a build are called, and whose they are."""

from __future__ import annotations

import re
from typing import Any, Protocol

from lmdata.places import Place
from lmdata.schema import BUILD_FOLDER, MANIFEST_NAME, SPLITS, Ledger, ShardRecord, to_json

ALL_DOCUMENTS = "documents"  # in the place of a split, where there are none
PLAN_NAME = "plan.json"  # in `.build`
REPLACED_NAME = "replaced.json"  # in `.build`: the manifest of what is being removed
_SPLIT = "|".join((*SPLITS, ALL_DOCUMENTS))
SHARD = re.compile(rf"({_SPLIT})-\d{{5,}}\.arrow")
TRACE = re.compile(
    rf"({PLAN_NAME}|stdin|lock|unit-\d{{6,}}(-({_SPLIT})(_[0-9a-f]{{8}})?\.part|\.json)|"
    rf"{SHARD.pattern}\.json)(\.[0-9a-f]{{8}})?"
)


class HasLedger(Protocol):
    """A manifest of any kind: a dataclass with a ledger."""

    @property
    def ledger(self) -> Ledger:
        """What was read, written and dropped."""


def is_own_name(name: str) -> bool:
    """Whether a file, by its path in an output, is one that a build writes beside its manifest.

    Example:
        >>> is_own_name("train-00001.arrow"), is_own_name(".build/unit-000003.json")
        (True, True)
        >>> is_own_name("manifest.json"), is_own_name("notes.txt")
        (False, False)
    """
    folder, _, file = name.rpartition("/")
    if is_partial := file.startswith(".") and file.endswith(".partial"):
        file = file[1:].removesuffix(".partial")
    if folder == BUILD_FOLDER:
        return TRACE.fullmatch(file) is not None
    return not folder and (
        SHARD.fullmatch(file) is not None or (is_partial and file == MANIFEST_NAME)
    )


def keep_shard(place: Place, shard: ShardRecord, receipt: str) -> None:
    """Make a finished shard last, and write its receipt, in the place of one that was lost.

    Raises:
        OutputError: the disk is full or the place can't be written
    """
    place.keep(shard.file)
    name, data = f"{BUILD_FOLDER}/{receipt}", to_json(shard).encode()
    while not place.create(name, data) and place.read(name) != data:
        place.remove(name)


def files_of(manifest: dict[str, Any]) -> set[str]:
    """Return the shards that a manifest of any version names, however damaged it may be."""
    splits = manifest.get("splits")
    shards = splits.values() if isinstance(splits, dict) else []
    return {
        str(shard.get("file"))
        for listed in shards
        if isinstance(listed, list)
        for shard in listed
        if isinstance(shard, dict)
    }
