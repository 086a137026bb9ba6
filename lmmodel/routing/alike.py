"""Which runs can be experts together: branches of one parent that read and learned alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lmdata.tokenizer import load_tokenizer
from lmmodel.data import open_data
from lmmodel.errors import FitError
from lmmodel.merging import find_parent
from lmmodel.routing.domains import Labelled
from lmmodel.saving.branch import hash_weights
from lmmodel.saving.run import RunRecord, read_record
from lmmodel.trained import shape_differences, tokenizer_difference

PARENT = "parent"
DENSE = "dense"


def find_parent_of(runs: Mapping[str, Path], records: Mapping[str, RunRecord]) -> Path:
    """Return the run that all others began with; it may be one of them.

    Raises:
        FitError: they began with several, or one with none, or the parent has changed
    """
    origins = {name: record.origin for name, record in records.items() if _has_parent(record)}
    if not origins:
        raise FitError(
            f"none of {', '.join(runs)} began with another run: experts are branches of one "
            "parent, as `lmmodel train --init-from PARENT` makes them"
        )
    parent = find_parent([runs[name] for name in origins], [records[name] for name in origins])
    for name in runs.keys() - origins.keys():
        if hash_weights(runs[name]) != hash_weights(parent):
            raise FitError(
                f"{runs[name]} began with no other run, {runs[next(iter(origins))]} with {parent}: "
                "experts are branches of one parent, and the parent itself"
            )
    return parent


def _has_parent(record: RunRecord) -> bool:
    return record.origin is not None and "run" in record.origin


def check_alike(runs: Mapping[str, Path]) -> None:
    """Check that runs read the same ids, are built alike and learned the same.

    Raises:
        FitError: two differ; the message names what
    """
    (_, path), *others = runs.items()
    record, tokenizer = read_record(path), load_tokenizer(path)
    for name, other in others:
        found = read_record(other)
        if difference := tokenizer_difference(tokenizer, load_tokenizer(other)):
            raise FitError(f"{other} has another tokenizer than {path}: {difference}")
        differing = [
            f"model.family is {found.config.model.family}, there {record.config.model.family}"
        ] * (found.config.model.family != record.config.model.family)
        if name != DENSE:
            differing += shape_differences(record.config.model, found.config.model)
        own, theirs = record.config.objective.name, found.config.objective.name
        if own != theirs:
            differing.append(f"objective.name is {theirs}, there {own}")
        if differing:
            raise FitError(f"{other} is built otherwise than {path}: {'; '.join(differing)}")


def find_domains(
    stores: Sequence[Labelled], split: str, experts: Collection[str]
) -> tuple[str, ...]:
    """Return the domains of the validation text, in the order of the alphabet.

    Args:
        stores: that have it
        split: of them
        experts: names of domains that must be among them

    Raises:
        FitError: a store has no such text, an expert's domain has none, or there is one domain only
    """
    found: set[str] = set()
    for labelled in stores:
        open_data(labelled.path)
        if not labelled.has(split):
            name = f"domain {labelled.name}" if labelled.name else f"{labelled.path}"
            raise FitError(
                f"{name} has no {split} text in {labelled.path}: tokenize with a larger "
                "--set validation_ratio=0.1"
            )
        found |= set(labelled.domains(split).tolist())
    there = ", ".join(sorted(found))
    if lacking := [name for name in experts if name not in found]:
        raise FitError(
            f"domain {lacking[0]} has no {split} text; there is some of {there}: name the expert "
            "after its domain, as DOMAIN=RUN, or the store, as DOMAIN=STORE"
        )
    if len(found) < 2:
        raise FitError(
            f"there is one domain, {there}: a router needs two or more; name the stores of several "
            "as DOMAIN=STORE, or take --domains folder"
        )
    return tuple(sorted(found))
