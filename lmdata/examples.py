"""A token store becomes example shards: the examples of a view, frozen, split by split.

The rows of a shard are `view.examples` of consecutive rows, so that threads may compute them in
any number and the bytes stay the same. A receipt beside each finished shard lets the same command
go on after any death; the ledger is counted from the shards on disk; the manifest comes last.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmdata import __version__
from lmdata.building.output import OutputFolder, check_apart, claim_folder
from lmdata.building.shards import check_shard, map_shard
from lmdata.checking.example_ledger import ExampleCounts, describe_flows, sum_examples
from lmdata.columns import to_record_batch
from lmdata.config import build_config, config_to_dict
from lmdata.dataset import TokenStore, open_store
from lmdata.errors import (
    ConfigError,
    DatasetError,
    IntegrityError,
    LmdataError,
    MismatchError,
)
from lmdata.files import write_atomically
from lmdata.recipes import Recipe
from lmdata.schema import (
    FORMAT_VERSION,
    SPLITS,
    Ledger,
    Manifest,
    ShardRecord,
    example_schema,
    parse_json_object,
    read_manifest,
    to_json,
)
from lmdata.tokenizer import Tokenizer
from lmdata.views import View, view
from lmdata.writer import DEFAULT_SHARD_BYTES, ShardWriter, shard_name

OnProgress = Callable[[int, int], None]

_TASK_TOKENS = 1 << 19  # what a thread computes at a time; bounds the memory of those in flight
_MAX_TASK_ROWS = 1 << 14


def write_examples(
    store_path: Path | str, recipe: Recipe, output: Path | str, *, seed: int, epoch: int = 0,
    num_workers: int = 2, shard_bytes: int = DEFAULT_SHARD_BYTES, overwrite: bool = False,
    progress: OnProgress | None = None,
) -> Manifest:  # fmt: skip
    """Write the example shards of a token store and return their manifest.

    The bytes depend on the store, the recipe, the seed, the epoch and the shard size alone. An
    unfinished build of the same is continued at the first shard that was not finished.

    Args:
        store_path: the folder that `lmdata tokenize` wrote
        recipe: what examples are; one mask rate, since shards are made before any training
        output: folder to write
        seed: of all draws, in [0, 2**63)
        epoch: part of the address of all draws, in [0, 2**32)
        num_workers: threads, at least 1
        shard_bytes: target size of a shard; only a single row may make one larger
        overwrite: replace what is in `output`
        progress: called with (examples done, examples in all)

    Raises:
        ConfigError: a mask rate that changes, no worker, or no room in a shard
        DatasetError: the store has nothing to make such examples of, or is not whole
        MismatchError: `output` holds an unfinished build of another store, recipe or seed
        OutputError: `output` exists, can't be written or its disk is full
    """
    _check_settings(recipe, num_workers, shard_bytes)
    store_path = Path(store_path)
    stores = open_stores(store_path)
    check_apart(store_path, Path(output))
    with claim_folder(Path(output), overwrite=overwrite) as folder:
        plan = _describe_plan(store_path, folder.path, recipe, seed, epoch, shard_bytes)
        build = _Build(stores, recipe, folder, plan)
        build.begin()
        build.run(num_workers, progress)
        return build.finish(store_path)


def open_stores(path: Path) -> dict[str, TokenStore]:
    """Return the splits of a token store by name, train first."""
    manifest = read_manifest(path)
    names = [split for split in SPLITS if split in manifest.splits]
    return {split: open_store(path, split) for split in names}


def read_recipe(manifest: Manifest) -> Recipe:
    """Return the recipe of example shards.

    Raises:
        IntegrityError: the manifest has none
    """
    try:
        return build_config(Recipe, dict(manifest.configuration["recipe"]))
    except (KeyError, TypeError, ConfigError) as error:
        raise IntegrityError(
            f"the manifest's recipe can't be read ({error}): build the shards again"
        ) from error


def frame_ids(tokenizer: Tokenizer) -> set[int]:
    """Return the ids of the special tokens that may stand around a segment."""
    found = (tokenizer.special_ids.get(name) for name in ("cls", "sep", "eos"))
    return {index for index in found if index is not None}


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


def _describe_plan(
    store_path: Path, output: Path, recipe: Recipe, seed: int, epoch: int, shard_bytes: int
) -> dict[str, Any]:
    """Return what the bytes depend on, as JSON values; it becomes the manifest's configuration."""
    return {
        "recipe": json.loads(json.dumps(config_to_dict(recipe))),
        "seed": seed,
        "epoch": epoch,
        "shard_bytes": shard_bytes,
        "store": Path(os.path.relpath(store_path, output)).as_posix(),
        "store_manifest": read_manifest(store_path).hash,
    }


class _Build:
    """The state of one run of `write_examples`."""

    def __init__(
        self, stores: dict[str, TokenStore], recipe: Recipe, folder: OutputFolder,
        plan: dict[str, Any],
    ) -> None:  # fmt: skip
        self._stores, self._recipe, self._folder, self._plan = stores, recipe, folder, plan
        self._tokenizer = next(iter(stores.values())).tokenizer
        self._schema = example_schema(np.dtype(self._tokenizer.id_dtype))
        self._views: dict[str, View] = {}
        self._splits: dict[str, tuple[ShardRecord, ...]] = {}
        self._notes: list[str] = []

    def begin(self) -> None:
        """Agree on the plan with an earlier run and find what examples there are."""
        self._folder.remove_partial_files()
        self._agree_on_plan()
        self._folder.save_tokenizer(self._tokenizer)
        try:
            for split, store in self._stores.items():
                self._add_view(split, store)
        except LmdataError:
            if not any(self._folder.build.glob("*.arrow.json")):
                self._folder.discard()
            raise

    def _agree_on_plan(self) -> None:
        path = self._folder.build / "plan.json"
        plan = {**self._plan, "created_with": f"lmdata {__version__}"}
        try:
            begun = parse_json_object(path.read_text(encoding="utf-8"), path)
        except FileNotFoundError:
            write_atomically(path, json.dumps(plan, indent=1).encode())
            return
        differences = list(differing_settings(begun, plan))
        if differences:
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise MismatchError(
                f"{self._folder.path} holds an unfinished build of other examples: "
                f"{differences[0]}{more}; put it back to continue, or add --overwrite to start "
                f"afresh"
            )

    def _add_view(self, split: str, store: TokenStore) -> None:
        """Make the view of a split; only the train split must have examples."""
        seed, epoch = self._plan["seed"], self._plan["epoch"]
        try:
            self._views[split] = view(store, self._recipe, seed=seed, epoch=epoch)
        except DatasetError as error:
            if split == "train" or isinstance(error, IntegrityError):
                raise
            self._notes.append(f"{split}: no examples, {error}")
        else:
            notes = self._views[split].notes
            self._notes += [f"{split}: {name} = {value}" for name, value in notes.items()]

    def run(self, num_workers: int, progress: OnProgress | None) -> None:
        """Write the shards of every split that are not there yet."""
        total = sum(map(len, self._views.values()))
        done = 0
        with ThreadPoolExecutor(num_workers, "examples") as threads:
            for split, rows in self._views.items():
                records = self._finished(split)
                first = sum(record.rows for record in records)
                writer = ShardWriter(
                    self._folder.path, split, self._schema,
                    shard_bytes=self._plan["shard_bytes"], first_shard=len(records),
                )  # fmt: skip
                try:
                    for batch in self._compute(threads, 2 * num_workers, rows, first):
                        writer.write(batch)
                        self._keep_receipts(split, len(records), writer)
                        first += batch.num_rows
                        if progress is not None:
                            progress(done + first, total)
                    writer.finish()
                finally:
                    writer.close()
                self._keep_receipts(split, len(records), writer)
                self._splits[split] = (*records, *writer.finished)
                done += len(rows)

    def _compute(
        self, threads: ThreadPoolExecutor, num_ahead: int, rows: View, first: int
    ) -> Iterator[pa.RecordBatch]:
        """Yield the examples from row `first` on, in order, a bounded number of tasks ahead."""
        step = min(_MAX_TASK_ROWS, max(1, _TASK_TOKENS // self._recipe.max_seq_length))
        pending: deque[Future[pa.RecordBatch]] = deque()
        try:
            for start in range(first, len(rows), step):
                stop = min(start + step, len(rows))
                pending.append(threads.submit(self._make, rows, start, stop))
                if len(pending) > num_ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _make(self, rows: View, start: int, stop: int) -> pa.RecordBatch:
        return to_record_batch(rows.examples(np.arange(start, stop)), self._schema)

    def _receipt_path(self, split: str, number: int) -> Path:
        return self._folder.build / f"{shard_name(split, number)}.json"

    def _keep_receipts(self, split: str, num_earlier: int, writer: ShardWriter) -> None:
        """Write a receipt for each shard that was finished since the last call."""
        for index, record in reversed(list(enumerate(writer.finished, num_earlier))):
            path = self._receipt_path(split, index)
            if path.exists():
                break
            write_atomically(path, to_json(record).encode())

    def _finished(self, split: str) -> list[ShardRecord]:
        """Return the shards of an earlier run that are there in full, from the first on.

        Receipts of shards after the first that is damaged or absent are removed.
        """
        records: list[ShardRecord] = []
        is_whole = True
        for path in sorted(self._folder.build.glob(f"{split}-*.arrow.json")):
            record = self._read_receipt(path) if is_whole else None
            is_whole = record is not None and path == self._receipt_path(split, len(records))
            if record is None or not is_whole:
                path.unlink()
            else:
                records.append(record)
        return records

    def _read_receipt(self, path: Path) -> ShardRecord | None:
        try:
            values = parse_json_object(path.read_text(encoding="utf-8"), path)
            record = build_config(ShardRecord, values)
            check_shard(self._folder.path, record)
        except (IntegrityError, ConfigError):
            return None  # killed while it was written, or damaged after: the shard is made again
        return record

    def finish(self, store_path: Path) -> Manifest:
        """Count what lies on disk, balance the ledger, write the manifest."""
        counts = {split: self._count(split) for split in self._splits}
        ledger = describe_flows(self._stores, counts, self._recipe)
        store = read_manifest(store_path)
        manifest = Manifest(
            kind="examples",
            format_version=FORMAT_VERSION,
            created_with=f"lmdata {__version__}",
            configuration=self._plan,
            tokenizer=store.tokenizer,
            sources=store.sources,
            splits=self._splits,
            ledger=self._with_promise(ledger),
            notes=(*self._notes, *_pair_notes(counts)),
        )
        self._folder.finish(manifest)
        return manifest

    def _count(self, split: str) -> ExampleCounts:
        folder = self._folder.path
        batches = (
            (0, batch)
            for record in self._splits[split]
            for batch in map_shard(folder / record.file, record, self._schema)
        )
        num_documents = len(self._stores[split])
        return sum_examples(batches, self._recipe, frame_ids(self._tokenizer), num_documents)

    def _with_promise(self, ledger: Ledger) -> Ledger:
        """Check the examples on disk against those the views promised."""
        promised = {split: len(rows) for split, rows in self._views.items()}
        if ledger.flows["examples"].written != promised:
            raise IntegrityError(
                f"{ledger.flows['examples'].written} examples are in the shards, {promised} were "
                f"promised; please report this"
            )
        return ledger


def _pair_notes(counts: dict[str, ExampleCounts]) -> list[str]:
    return [
        f"{split}: {count.random_tokens} tokens were drawn again as random second segments"
        for split, count in counts.items()
        if count.random_tokens
    ]


def differing_settings(
    begun: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> Iterator[str]:
    """Yield what differs between two nested settings, in words.

    Example:
        >>> list(differing_settings({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}))
        ['a.b was 1, is 3']
    """
    for key in sorted(begun.keys() | now.keys()):
        before, after = begun.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differing_settings(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {before!r}, is {after!r}"
