"""A token store becomes example shards: the examples of a view, frozen, split by split.

The rows of a shard are `view.examples` of consecutive rows, so that threads may compute them in
any number and the bytes stay the same. A receipt beside each finished shard lets the same command
go on after any death; the ledger is counted from the shards on disk; the manifest comes last.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata import __version__
from lmdata.batch import SEGMENT_LENGTHS, Column, to_record_batch
from lmdata.building.example_ledger import (
    ExampleCounts,
    counted_columns,
    describe_flows,
    sum_examples,
)
from lmdata.building.output import AnyFolder, check_apart
from lmdata.building.resumable import SplitShards, run_build
from lmdata.building.workers import Threads, Workers
from lmdata.chosen import choose_training, read_selection
from lmdata.config import Change, config_to_dict
from lmdata.copies import at_hand
from lmdata.dataset import TokenStore, open_stores, segment_end
from lmdata.errors import ConfigError, DatasetError, IntegrityError, TokenizerError
from lmdata.recipes import Recipe
from lmdata.schema import (
    FORMAT_VERSION,
    ExampleSettings,
    Ledger,
    Manifest,
    example_schema,
    read_manifest,
)
from lmdata.settings import DEFAULT_SHARD_BYTES, LATE
from lmdata.shards import map_shard
from lmdata.stores import is_uri
from lmdata.views import View, view

OnProgress = Callable[[int, int], None]

_TASK_TOKENS = 1 << 19  # what a thread computes at a time; bounds the memory of those in flight
_MAX_TASK_ROWS = 1 << 14


def write_examples(
    store_path: Path | str, recipe: Recipe, output: Path | str, *, seed: int, epoch: int = 0,
    num_workers: int = 2, shard_bytes: int = DEFAULT_SHARD_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None, workers: Workers | None = None,
    selection_path: Path | None = None,
) -> Manifest:  # fmt: skip
    """Write the example shards of a token store and return their manifest.

    The bytes depend on the store, the recipe, the seed, the epoch and the shard size alone. An
    unfinished build of the same is continued at the first shard that was not finished.

    Args:
        store_path: the folder that `lmdata tokenize` wrote
        recipe: what examples are; one mask rate, since shards are made before any training
        output: folder to write, or its URI in a store
        seed: of all draws, in [0, 2**63)
        epoch: part of the address of all draws, in [0, 2**32)
        num_workers: threads, at least 1
        shard_bytes: target size of a shard; only a single row may make one larger
        overwrite: replace what is in `output`
        progress: called with (examples done, examples in all)
        workers: of another engine, which run `prepare_examples`; ended here, sets `num_workers`
        selection_path: a folder that `lmdata select` wrote, of which documents are trained on and
            how often; None: every one once

    Raises:
        ConfigError: a mask rate that changes, no worker, no room in a shard, or a selection with
            phases
        DatasetError: the store has nothing to make such examples of, or is not whole
        MismatchError: `output` holds an unfinished build of another store, recipe or seed; the
            selection is of another corpus
        OutputError: `output` exists, can't be written or its disk is full
    """
    _check_settings(recipe, num_workers, shard_bytes)
    origin, store_path = store_path, at_hand(store_path)
    stores = choose_training(open_stores(store_path), selection_path)
    settings = ExampleSettings(
        recipe=recipe, seed=seed, epoch=epoch, shard_bytes=shard_bytes,
        columns=columns_to_add(stores, recipe),
        store=_name_store(origin, output),
        store_manifest=next(iter(stores.values())).manifest.hash,
        selection=None if selection_path is None else _name_store(selection_path, output),
        selection_manifest=(
            None if selection_path is None else read_selection(selection_path).manifest.hash
        ),
    )  # fmt: skip
    setup = ExampleSetup(store_path, selection_path, settings, stores)
    check_apart(store_path, output)
    if selection_path is not None:
        check_apart(selection_path, output)
    pool = workers or start_masking(num_workers)
    make = functools.partial(
        _ExamplesJob, setup=setup, num_ahead=pool.num_workers, progress=progress
    )
    return run_build(make, pool, output, overwrite=overwrite)


def _name_store(store: Path | str, output: Path | str) -> str:
    """Return where a store lies, seen from the output: what the manifest of the examples says."""
    if is_uri(store):
        return str(store)
    path = Path(store)
    return (path.resolve() if is_uri(output) else Path(os.path.relpath(path, output))).as_posix()


def start_masking(num_workers: int) -> Workers:
    """Return the threads that `write_examples` needs."""
    return Threads(num_workers, "lmdata.examples:prepare_examples")


def columns_to_add(stores: dict[str, TokenStore], recipe: Recipe) -> tuple[Column, ...]:
    """Return the columns that shards need beyond the usual ones: those of the corruption.

    The segments of packed rows are found again by the special token that ends each, unless a text
    spells it: then their lengths are stored.
    """
    first, added = next(iter(stores.values())), recipe.corruption_traits.columns
    end = segment_end(recipe, first.tokenizer)
    if (
        recipe.noise is not None
        or end is None
        or not any(
            bool((block.ids == end).any()) for store in stores.values() for block in store.blocks
        )
    ):
        return added
    return (*added, replace(SEGMENT_LENGTHS, is_stored=True))


def _check_settings(recipe: Recipe, num_workers: int, shard_bytes: int) -> None:
    if isinstance(recipe.mlm_probability, tuple):
        raise ConfigError(
            f"mlm_probability must be one number for frozen examples, got "
            f"{recipe.mlm_probability}: a rate that changes is for the trainer's own views"
        )
    if num_workers < 1:
        raise ConfigError(f"num_workers must be at least 1, got {num_workers}")
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes must be at least 1, got {shard_bytes}")


@dataclass(frozen=True)
class ExampleSetup:
    """What computes examples; another process opens the store and makes the views for itself."""

    store_path: Path
    selection_path: Path | None
    settings: ExampleSettings
    stores: dict[str, TokenStore]  # by split, what is read of them

    @classmethod
    def open(
        cls, store_path: Path, selection_path: Path | None, settings: ExampleSettings
    ) -> ExampleSetup:
        """Return the setup for a token store."""
        stores = choose_training(open_stores(store_path), selection_path)
        return cls(store_path, selection_path, settings, stores)

    def __reduce__(self) -> tuple[Any, ...]:
        return ExampleSetup.open, (self.store_path, self.selection_path, self.settings)

    @functools.cached_property
    def views(self) -> dict[str, View]:
        """The views of the splits that have examples; only the train split must."""
        return {split: rows for split, rows in self._views.items() if isinstance(rows, View)}

    @functools.cached_property
    def missing(self) -> dict[str, DatasetError]:
        """Why splits have no examples."""
        return {split: error for split, error in self._views.items() if not isinstance(error, View)}

    @functools.cached_property
    def _views(self) -> dict[str, View | DatasetError]:
        return {split: self._view(split, store) for split, store in self.stores.items()}

    def _view(self, split: str, store: TokenStore) -> View | DatasetError:
        settings = self.settings
        try:
            return view(store, settings.recipe, seed=settings.seed, epoch=settings.epoch)
        except DatasetError as error:
            if isinstance(error, IntegrityError):
                raise
            if split == "train":
                raise DatasetError(self._why_no_training(error)) from error
            return error

    def _why_no_training(self, error: DatasetError) -> str:
        """Return what is wrong with the train split, by name where others took its documents."""
        others = [f"{len(s)} in {name}" for name, s in self.stores.items() if name != "train"]
        held_out = sum(len(store) for store in self.stores.values())
        if len(self.stores["train"]) or not held_out:
            return str(error)
        return (
            f"{self.store_path} has no document to train on: the hashes of its few documents put "
            f"all of them elsewhere ({', '.join(others)}); tokenize again with --set "
            "validation_ratio=0, or from more text"
        )


@dataclass(frozen=True)
class Rows:
    """The unit of work: the rows [start, stop) of a split's view."""

    split: str
    start: int
    stop: int


def prepare_examples(
    receive_setup: Callable[[], ExampleSetup],
) -> Callable[[Rows, Callable[[Any], None]], pa.RecordBatch]:
    """Return the work function of a worker: rows in, their examples out."""
    setup = receive_setup()
    tokenizer = next(iter(setup.stores.values())).tokenizer
    schema = example_schema(np.dtype(tokenizer.id_dtype), setup.settings.all_columns)
    views = setup.views

    def work(unit: Rows, report: Callable[[Any], None]) -> pa.RecordBatch:
        batch = views[unit.split].examples(np.arange(unit.start, unit.stop))
        return to_record_batch(batch, schema)

    return work


class _ExamplesJob:
    """Example shards as `run_build` makes them: rows of views in, shards out."""

    bad_input = (ConfigError, DatasetError, TokenizerError)

    def __init__(
        self, folder: AnyFolder, setup: ExampleSetup, num_ahead: int,
        progress: OnProgress | None,
    ) -> None:  # fmt: skip
        self.num_ahead = num_ahead
        self.tokenizer = next(iter(setup.stores.values())).tokenizer
        self._folder, self._setup, self._progress = folder, setup, progress
        columns = setup.settings.all_columns
        self._schema = example_schema(np.dtype(self.tokenizer.id_dtype), columns)
        self._splits: dict[str, SplitShards] = {}
        self._num_done = 0  # examples

    def open(self) -> None:
        """Nothing can be read only once."""

    def plan(self) -> dict[str, Any]:
        """Return what the bytes depend on; it becomes the manifest's configuration."""
        values: dict[str, Any] = json.loads(json.dumps(config_to_dict(self._setup.settings)))
        if not values["columns"]:
            del values["columns"]
        late = {item.name for item in fields(Recipe) if item.metadata == LATE}
        given = values["recipe"].items()
        values["recipe"] = {k: v for k, v in given if v is not None or k not in late}
        return {k: v for k, v in values.items() if v is not None}

    def facts(self) -> dict[str, Any]:
        """Nothing: examples are not done by several commands."""
        return {}

    def obstacles(self, changed: list[Change]) -> list[str]:
        """Return what differs: everything counts."""
        return [f"{key} was {before!r}, is {now!r}" for key, before, now in changed]

    def prepare(self) -> tuple[ExampleSetup, list[Rows], dict[int, pa.RecordBatch]]:
        """Make the views, and units of the rows that are in no finished shard."""
        shard_bytes = self._setup.settings.shard_bytes
        step = self._setup.settings.recipe.max_seq_length
        step = min(_MAX_TASK_ROWS, max(1, _TASK_TOKENS // step))
        for split in self._setup.stores:
            self._splits[split] = SplitShards(self._folder, split, self._schema, shard_bytes)
        for split in self._setup.missing:
            del self._splits[split]
        units: list[Rows] = []
        for split, rows in self._setup.views.items():
            shards = self._splits[split]
            self._num_done += shards.num_rows
            starts = range(shards.num_rows, len(rows), step)
            units += [Rows(split, start, min(start + step, len(rows))) for start in starts]
        return self._setup, units, {}

    def reads(self, unit: Rows) -> str:
        """Name the rows of a unit."""
        return f"rows {unit.start} to {unit.stop} of {unit.split}"

    def note(self, unit: Rows, value: Any) -> None:
        """Nothing is reported within a unit."""

    def end(self, unit: Rows) -> None:
        """What counts is what was written."""

    def add(self, unit: Rows, result: pa.RecordBatch) -> None:
        """Write the next rows."""
        self._splits[unit.split].write(result)
        if unit.stop == len(self._setup.views[unit.split]):
            self._splits[unit.split].end_shard()
        self._num_done += result.num_rows

    def tell(self) -> None:
        """Tell how far it is."""
        if self._progress is not None:
            self._progress(self._num_done, sum(map(len, self._setup.views.values())))

    def finish(self) -> Manifest:
        """Count what lies on disk, balance the ledger and return the manifest."""
        recipe = self._setup.settings.recipe
        counts = {split: self._count(split) for split in self._splits}
        ledger = describe_flows(self._setup.stores, counts, recipe)
        store = read_manifest(self._setup.store_path)
        return Manifest(
            kind="examples",
            format_version=FORMAT_VERSION,
            created_with=f"lmdata {__version__}",
            configuration=self.plan(),
            tokenizer=store.tokenizer,
            sources=store.sources,
            splits={split: tuple(shards.shards) for split, shards in self._splits.items()},
            ledger=self._with_promise(ledger),
            notes=(*self._view_notes(), *_pair_notes(counts)),
            views={split: rows.facts for split, rows in self._setup.views.items()},
        )

    def _view_notes(self) -> Iterator[str]:
        for split in self._setup.stores:
            if split in self._setup.missing:
                yield f"{split}: no examples, {self._setup.missing[split]}"
            else:
                yield from (f"{split}: {note}" for note in self._setup.views[split].notes)

    def _count(self, split: str) -> ExampleCounts:
        recipe = self._setup.settings.recipe
        place, names = self._folder.place, counted_columns(recipe)
        batches = (
            batch
            for record in self._splits[split].shards
            for batch in map_shard(place.bring(record.file), record, self._schema, names)
        )
        num_documents = len(self._setup.stores[split])
        facts = self._setup.views[split].facts
        return sum_examples(batches, recipe, self.tokenizer, facts, num_documents)

    def _with_promise(self, ledger: Ledger) -> Ledger:
        """Check the examples on disk against those the views promised."""
        promised = {split: len(rows) for split, rows in self._setup.views.items()}
        if ledger.flows["examples"].written != promised:
            raise IntegrityError(
                f"{ledger.flows['examples'].written} examples are in the shards, {promised} were "
                f"promised; please report this"
            )
        return ledger

    @property
    def has_shards(self) -> bool:
        """Whether any shard is finished."""
        return any(shards.shards for shards in self._splits.values())

    def state(self) -> str:
        """Say how many examples are kept."""
        kept = sum(shards.num_rows for shards in self._splits.values())
        return f"{kept} examples are kept" if kept else "What was finished is kept"

    def close(self) -> None:
        """Remove the open shards."""
        for shards in self._splits.values():
            shards.close()


def _pair_notes(counts: dict[str, ExampleCounts]) -> list[str]:
    return [
        f"{split}: {count.random_tokens:,} tokens were drawn again as random second segments"
        for split, count in counts.items()
        if count.random_tokens
    ]
