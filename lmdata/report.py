"""All that a page says of a token store or of example shards, as data.

Flows from the source to each split, statistics, pieces with examples, masks with intervals, some
rows to read, and what `verify` finds. `REPORTERS` names what can be reported, by the kind that its
manifest says it is. The same dataset gives the same report; texts and lists are cut, so that it
stays small whatever the size of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.charts import thin
from lmdata.checking.checks import share_interval
from lmdata.copies import at_hand, beside
from lmdata.dataset import TokenStore, open_examples, open_stores
from lmdata.errors import IntegrityError, LmdataError
from lmdata.recipes import Recipe
from lmdata.report_rows import (
    PieceInText,
    Rows,
    Sample,
    find_samples,
    first_places,
    id_rows,
    piece_in_text,
)
from lmdata.schema import (
    MANIFEST_NAME,
    Flow,
    Manifest,
    SourceRecord,
    TokenizerIdentity,
    read_manifest,
    read_settings,
)
from lmdata.stats import ExampleStatistics, StoreStatistics, example_statistics, store_statistics
from lmdata.verification import Report as Verification
from lmdata.verification import verify_dataset

NUM_PIECES, NUM_UNUSED, NUM_SOURCES = 25, 60, 20
_MIN_REACHED = 100  # examples that a position must be reached by for its mask rate to be drawn


@dataclass(frozen=True, kw_only=True)
class CommandFlows:
    """What went in and came out of one command."""

    name: str
    flows: dict[str, Flow]  # by quantity: documents, bytes, tokens ...


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of independent choices, with its 95 % interval (Wilson)."""

    name: str
    count: int
    ratio: float
    low: float
    high: float
    expected: float | None


@dataclass(frozen=True, kw_only=True)
class Padding:
    """What rows of one length would cost."""

    padded_tokens: int  # of rows filled up to the longest that there may be
    avoided_tokens: int
    avoided_ratio: float


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split; what only examples have is None for a store."""

    split: str
    statistics: StoreStatistics | ExampleStatistics
    num_unknown: int
    num_unused: int  # pieces that never occur
    top: tuple[PieceInText, ...]
    rare: tuple[PieceInText, ...]  # the rarest that do occur
    unknown: tuple[PieceInText, ...]  # the unknown piece, where it occurs
    unused: tuple[str, ...]  # some of those that never occur
    rank_curve: tuple[tuple[float, float], ...]  # rank of a piece, how often it occurs
    samples: tuple[Sample, ...]
    shares: tuple[Share, ...] = ()  # of masked tokens and of pairs
    mask_curve: tuple[tuple[float, float], ...] = ()  # position, share masked
    reach_curve: tuple[tuple[float, float], ...] = ()  # position, examples that have it
    padding: Padding | None = None


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What there is to say of a dataset."""

    path: str
    kind: str
    format_version: int
    created_with: str
    hash: str
    tokenizer: TokenizerIdentity
    settings: dict[str, Any]
    notes: tuple[str, ...]
    stages: tuple[CommandFlows, ...]
    num_sources: int
    sources: tuple[SourceRecord, ...]  # the largest
    splits: tuple[SplitReport, ...]
    verification: Verification
    num_failed: int  # of its checks


def data_report(path: Path | str) -> DataReport:
    """Return the report on a dataset; reads every byte.

    Raises:
        IntegrityError: not a dataset, or damaged so that it can't be counted
        LmdataError: as `verify_dataset` and `dataset_statistics`
    """
    folder = at_hand(path)
    if not (folder / MANIFEST_NAME).is_file() and (folder / "config.json").is_file():
        raise IntegrityError(
            f"{folder} is not a dataset but a model: `lmmodel report {folder}` describes runs"
        )
    manifest = read_manifest(folder)
    verification = verify_dataset(folder)
    open_rows, stages = REPORTERS[manifest.kind]
    sources = sorted(manifest.sources, key=lambda source: (-source.bytes, source.name))
    return DataReport(
        path=str(path),
        kind=manifest.kind,
        format_version=manifest.format_version,
        created_with=manifest.created_with,
        hash=manifest.hash,
        tokenizer=manifest.tokenizer,
        settings=manifest.configuration,
        notes=manifest.notes,
        stages=tuple(stages(folder, manifest)),
        num_sources=len(sources),
        sources=tuple(sources[:NUM_SOURCES]),
        splits=tuple(_report_split(rows, str(path)) for rows in open_rows(folder, manifest)),
        verification=verification,
        num_failed=sum(row.verdict == "fail" for row in verification.rows),
    )


# ---- What kinds there are


def _stores(folder: Path, manifest: Manifest) -> Iterator[Rows]:
    yield from open_stores(folder).values()


def _examples(folder: Path, manifest: Manifest) -> Iterator[Rows]:
    for split in manifest.splits:
        yield open_examples(folder, split)


def _store_stages(folder: Path, manifest: Manifest) -> Iterator[CommandFlows]:
    yield CommandFlows(name="from the sources to the store", flows=manifest.ledger.flows)


def _example_stages(folder: Path, manifest: Manifest) -> Iterator[CommandFlows]:
    """Yield the flow into the store too, where it is still the one the examples were made from."""
    settings = read_settings(manifest)
    try:
        store = beside(folder, settings.store)
        own = read_manifest(store)
    except LmdataError:  # examples are whole without their store
        own = None
    if own is not None and own.hash == settings.store_manifest:
        yield from _store_stages(store, own)
    yield CommandFlows(name="from the store to the examples", flows=manifest.ledger.flows)


Opener = Callable[[Path, Manifest], Iterator[Rows]]
Stages = Callable[[Path, Manifest], Iterator[CommandFlows]]
REPORTERS: Mapping[str, tuple[Opener, Stages]] = {
    "tokens": (_stores, _store_stages),
    "examples": (_examples, _example_stages),
}
"""How the splits of each kind of dataset are opened, and what led to them."""


# ---- A split


def _report_split(rows: Rows, path: str) -> SplitReport:
    statistics = (
        store_statistics(rows, path, NUM_PIECES)
        if isinstance(rows, TokenStore)
        else example_statistics(rows, path, NUM_PIECES)
    )
    tokenizer = rows.tokenizer
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for _, ids in id_rows(rows):
        counts += np.bincount(ids.values, minlength=len(counts))
    of_text = np.where(tokenizer.is_special, 0, counts)
    unknown = tokenizer.special_ids.get("unk")
    order = np.argsort(-of_text, kind="stable")
    used = order[: int((of_text > 0).sum())]
    never = np.flatnonzero((counts == 0) & tokenizer.is_piece & ~tokenizer.is_special)
    lists = (used[:NUM_PIECES], used[::-1][:NUM_PIECES], _once(unknown, counts))
    places = first_places(rows, np.concatenate(lists))
    top, rare, unknowns = (
        tuple(piece_in_text(rows, int(piece), counts, places.get(int(piece))) for piece in pieces)
        for pieces in lists
    )
    return SplitReport(
        split=rows.split,
        statistics=statistics,
        num_unknown=0 if unknown is None else int(counts[unknown]),
        num_unused=len(never),
        top=top,
        rare=rare,
        unknown=unknowns,
        unused=tuple(tokenizer.piece(int(piece)) for piece in never[:NUM_UNUSED]),
        rank_curve=tuple((2**i, count) for i, count in enumerate(statistics.pieces.by_rank)),
        samples=tuple(find_samples(rows)),
        **_of_examples(rows, statistics),
    )


def _once(piece: int | None, counts: np.ndarray) -> np.ndarray:
    """Return a piece as an array, empty where it does not occur."""
    return np.array([] if piece is None or not counts[piece] else [piece], np.int64)


# ---- What only examples have


def _of_examples(rows: Rows, found: StoreStatistics | ExampleStatistics) -> dict[str, Any]:
    """Return the fields that only examples have."""
    if isinstance(rows, TokenStore) or isinstance(found, StoreStatistics):
        return {}
    recipe = read_settings(rows.manifest).recipe
    padded = found.examples * found.max_seq_length
    facts = rows.manifest.views.get(rows.split)
    expected = None if facts is None else facts.expected_positive_share
    rates, reached = found.mask_rate_by_position, found.tokens_by_position
    enough = [(p, rate) for p, rate in enumerate(rates) if reached[p] >= _MIN_REACHED]
    return {
        "shares": tuple(_shares(found, recipe, expected)),
        "mask_curve": thin(enough) if found.masked_share else (),
        "reach_curve": thin(list(enumerate(reached))),
        "padding": Padding(
            padded_tokens=padded,
            avoided_tokens=padded - found.tokens,
            avoided_ratio=1 - found.tokens / max(1, padded),
        ),
    }


def _shares(
    found: ExampleStatistics, recipe: Recipe, expected_pairs: float | None
) -> Iterator[Share]:
    """Yield what masked tokens became, and how many pairs are labelled 1."""
    num_masked = round(found.masked_share * found.tokens)
    if num_masked:
        to_mask, at_random, to_keep = recipe.proportions
        ways = (
            ("became [MASK]", found.became_mask, to_mask),
            ("became a random piece", found.became_random, at_random),
            ("stayed as they were", found.kept, to_keep),
        )
        for name, ratio, expected in ways:
            yield make_share(name, round(ratio * num_masked), num_masked, expected)
    if found.positive_share is not None:
        name = "pairs with label 1 (a random or swapped second segment)"
        yield make_share(
            name, round(found.positive_share * found.examples), found.examples, expected_pairs
        )


def make_share(name: str, count: int, total: int, expected: float | None) -> Share:
    """Return a share with its interval.

    Example:
        >>> found = make_share("heads", 480, 1000, 0.5)
        >>> found.ratio, round(found.low, 3), round(found.high, 3)
        (0.48, 0.449, 0.511)
    """
    low, high = share_interval(count, total)
    ratio = count / max(1, total)
    return Share(name=name, count=count, ratio=ratio, low=low, high=high, expected=expected)
