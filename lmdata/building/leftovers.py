"""What lies in an output and belongs to nothing: files of attempts that did not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lmdata.building.names import PLAN_NAME, is_own_name
from lmdata.building.output import claim_leftovers
from lmdata.building.receipts import in_build
from lmdata.errors import IntegrityError
from lmdata.places import Place
from lmdata.schema import BUILD_FOLDER, MANIFEST_NAME, parse_json_object


def clean_up(output: Path | str, *, is_dry: bool = False) -> dict[str, int]:
    """Remove what no manifest and no receipt names, and return its files with their sizes.

    Only files that a build writes are looked at; those of others stay. Nobody may write the output
    meanwhile.

    Args:
        output: a dataset, or an unfinished build
        is_dry: remove nothing

    Raises:
        IntegrityError: neither is there
        OutputError: another command writes there
    """
    with claim_leftovers(output) as place:
        found = {name: place.size(name) for name in find_leftovers(place)}
        for name in () if is_dry else found:
            place.remove(name)
        if not is_dry and not any(name.startswith(BUILD_FOLDER) for name in place.names()):
            place.remove(BUILD_FOLDER)
    return found


def find_leftovers(place: Place) -> list[str]:
    """Return the names of files that a build has written and nothing names, in order.

    Raises:
        IntegrityError: there is neither a dataset nor an unfinished build
    """
    names = sorted(name for name in place.names() if is_own_name(name))
    manifest = _read(place, MANIFEST_NAME)
    if manifest is not None:
        named = {shard["file"] for shards in manifest["splits"].values() for shard in shards}
        return [name for name in names if name not in named]
    if _read(place, in_build(PLAN_NAME)) is None:
        raise IntegrityError(f"{place} holds neither a dataset nor an unfinished build of one")
    named = set()
    for name in names:
        if name.endswith(".json") and (receipt := _read(place, name)) is not None:
            parts = [*receipt.get("parts", {}).values(), receipt.get("part") or {}]
            named |= {name, *(in_build(part["file"]) for part in parts if "file" in part)}
            named |= {receipt["file"]} if "file" in receipt else set()
    return [name for name in names if name not in named]


def _read(place: Place, name: str) -> dict[str, Any] | None:
    """Return the object in a file of JSON, None where there is none."""
    data = place.read(name)
    try:
        return None if data is None else parse_json_object(data.decode(), name)
    except (UnicodeDecodeError, json.JSONDecodeError, IntegrityError):
        return None
