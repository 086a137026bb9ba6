"""A token store for the trainer that you have: its ids in the formats of others, byte for byte.

TokenStore.blocks ─▶ rows: documents, or pieces of equal length ─▶ one writer a split ─▶ OUTPUT/

What each format is stands in `lmdata/exporting`. Beside the data lie the tokenizer and
`export.json`: what was written, its hashes, and a ledger that balances.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from lmdata import __version__
from lmdata.dataset import StoreBlock, TokenStore, open_stores
from lmdata.errors import ConfigError, OutputError
from lmdata.exporting.flat import LitData, Mds, Megatron, NanoGpt
from lmdata.exporting.format import ExportedFile, ExportFacts, ExportRows, Files, Format
from lmdata.exporting.tables import Datasets, Parquet, UncompressedParquet
from lmdata.files import Kind, make_folder, write_atomically, writing_folder
from lmdata.hub import HubFolder
from lmdata.ragged import Ragged, offsets_of
from lmdata.schema import Flow, Ledger, TokenizerIdentity, parse_json_object, to_json
from lmdata.stores import check_is_local, is_hub
from lmdata.tokenizer import TOKENIZER_FILES, TOKENIZER_FOLDER, Tokenizer, save_tokenizer
from lmdata.xxh3 import xxh3_128

FORMATS: dict[str, type[Format]] = {
    kind.name: kind
    for kind in (NanoGpt, Megatron, Mds, LitData, Parquet, UncompressedParquet, Datasets)
}
EXPORT_NAME = "export.json"
AUTO, NO_TOKEN = "auto", "none"  # values of `end_token` that are no pieces
_LONG = 100  # items of a row, on average
_KIND = Kind("an export", lambda path: (path / EXPORT_NAME).is_file(), None)

OnProgress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: the contents of `export.json`."""

    format: str
    created_with: str  # package and version
    store: str  # the hash of the token store's manifest
    tokenizer: TokenizerIdentity
    end_token: str | None  # behind each document
    row_length: int | None  # tokens of each row; None: a row is a document
    rows: dict[str, int]  # split -> rows
    files: tuple[ExportedFile, ...]
    ledger: Ledger


def export_store(
    path: Path | str, output: Path | str, format_name: str, *, end_token: str = AUTO,
    row_length: int | None = None, overwrite: bool = False, progress: OnProgress | None = None,
) -> Export:  # fmt: skip
    """Write all splits of a token store in the format of another trainer.

    Args:
        path: the folder that `lmdata tokenize` wrote
        output: folder to write, or one on the hub as `hf://datasets/OWNER/NAME`; it appears when
            all is written
        format_name: one of `FORMATS`
        end_token: a piece that is put behind each document, "none", or "auto": the tokenizer's eos
            or sep token where the format keeps no boundaries, none elsewhere
        row_length: cut the documents, one after the other, into rows of so many tokens; what is
            left of each split is dropped and counted. None: a row is a document
        overwrite: replace an export
        progress: called with (tokens written, tokens in all)

    Raises:
        ConfigError: no such format or piece, or the format can't hold the vocabulary or the rows
        IntegrityError: the store is unfinished or damaged
        MismatchError: the folder holds no token store
        OutputError: `output` exists, can't be written or its disk is full
    """
    if format_name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format_name!r}")
    if row_length is not None and row_length < 1:
        raise ConfigError(f"row_length must be at least 1, got {row_length}")
    stores = open_stores(path)
    store = next(iter(stores.values()))
    made = FORMATS[format_name]
    end_id = _find_end(store.tokenizer, end_token, made)
    print_of = f"{store.manifest.hash} {end_id} {row_length}".encode()
    facts = ExportFacts(
        np.dtype(store.tokenizer.id_dtype), store.tokenizer.vocab_size, row_length,
        xxh3_128(print_of).hexdigest()[:16],
    )  # fmt: skip
    made.check(facts)
    _check_rows(stores["train"], row_length, end_id)
    with _writing(output, overwrite=overwrite) as folder:
        counted = _Counted(stores, progress)
        with Files(folder) as files:
            for split, each in stores.items():
                _write_split(made, files, facts, each, split, end_id, counted)
            made.end(files, [split for split in stores if counted.rows[split]])
        make_folder(folder / TOKENIZER_FOLDER)
        save_tokenizer(store.tokenizer, folder / TOKENIZER_FOLDER)
        export = Export(
            format=made.name, created_with=f"lmdata {__version__}", store=store.manifest.hash,
            tokenizer=store.manifest.tokenizer, row_length=row_length,
            end_token=None if end_id is None else store.tokenizer.piece(end_id),
            rows=counted.rows, files=tuple(files.finished), ledger=counted.ledger(),
        )  # fmt: skip
        export.ledger.check()
        write_atomically(folder / EXPORT_NAME, to_json(export))
    return export


@contextmanager
def _writing(output: Path | str, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder that takes the place of the output, here or on the hub, if all goes well."""
    if not is_hub(output):
        check_is_local(output)
        with writing_folder(Path(output), _KIND, overwrite=overwrite) as folder:
            yield folder
        return
    hub = HubFolder(str(output).rstrip("/"), EXPORT_NAME, _owned)
    if hub.is_there and not overwrite:
        raise OutputError(f"{output} already holds an export: add --overwrite to replace it, or "
                          "choose another place")  # fmt: skip
    with writing_folder(hub.folder, _KIND, overwrite=True) as folder:
        yield folder
    here = [path for path in hub.folder.rglob("*") if path.is_file()]
    hub.publish(sorted(path.relative_to(hub.folder).as_posix() for path in here),
                overwrite=overwrite)  # fmt: skip
    shutil.rmtree(hub.folder)


def _owned(data: bytes) -> set[str]:
    """Return the files of an export, as its `export.json` says."""
    export = parse_json_object(data.decode("utf-8", "replace"), EXPORT_NAME)
    tokenizer = {f"{TOKENIZER_FOLDER}/{name}" for name in TOKENIZER_FILES}
    return {EXPORT_NAME, *tokenizer, *(str(file["file"]) for file in export.get("files", ()))}


def _check_rows(train: TokenStore, row_length: int | None, end_id: int | None) -> None:
    num_tokens = train.num_tokens + (0 if end_id is None else train.num_documents)
    if row_length is not None and num_tokens < row_length:
        raise ConfigError(
            f"row_length {row_length:,} is more than the {num_tokens:,} tokens of split train: "
            "give a smaller one"
        )


def _find_end(tokenizer: Tokenizer, end_token: str, made: type[Format]) -> int | None:
    """Return the id that is put behind each document, None for none."""
    if end_token == NO_TOKEN or (end_token == AUTO and made.keeps_rows):
        return None
    if end_token == AUTO:
        ids = [tokenizer.special_ids[name] for name in ("eos", "sep")]
        found = next((index for index in ids if index is not None), None)
        if found is None:
            raise ConfigError(
                f"format {made.name} keeps no boundaries of documents, and the tokenizer has "
                "neither an eos nor a sep token to mark them: name a piece with --end-token, or "
                "give --end-token none"
            )
        return found
    if end_token not in tokenizer.pieces:
        raise ConfigError(f"end_token must be a piece of the tokenizer, got {end_token!r}")
    return tokenizer.pieces.index(end_token)


class _Counted:
    """What has been written, and what the caller is told of it."""

    def __init__(self, stores: dict[str, TokenStore], progress: OnProgress | None) -> None:
        self._stores, self._progress, self._done = stores, progress, 0
        self._total = sum(store.num_tokens for store in stores.values())
        self.rows = dict.fromkeys(stores, 0)
        self._tokens, self._ends = dict.fromkeys(stores, 0), dict.fromkeys(stores, 0)
        self._left = dict.fromkeys(stores, 0)  # tokens that fill no row

    def count(self, split: str, rows: Ragged, num_ends: int) -> None:
        """Count rows that are written."""
        num_tokens = int(rows.offsets[-1])
        self.rows[split] += len(rows)
        self._tokens[split] += num_tokens
        self._ends[split] += num_ends
        self._done += num_tokens - num_ends
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)

    def drop(self, split: str, num_tokens: int) -> None:
        """Count the tokens at the end of a split that fill no row."""
        self._left[split] = num_tokens

    def ledger(self) -> Ledger:
        """Return where the documents and tokens of the store went, ends of documents added."""
        read = self._total + sum(self._ends.values())
        dropped = {"fills no row": left} if (left := sum(self._left.values())) else {}
        documents = {split: store.num_documents for split, store in self._stores.items()}
        return Ledger(
            flows={
                "tokens": Flow(read=read, written=dict(self._tokens), dropped=dropped),
                "documents": Flow(
                    read=sum(documents.values()), written=documents, dropped={}
                ),
            }
        )  # fmt: skip


def _write_split(
    made: type[Format], files: Files, facts: ExportFacts, store: TokenStore, split: str,
    end_id: int | None, counted: _Counted,
) -> None:  # fmt: skip
    with ExitStack() as stack:
        writer = made(files, facts, split, stack)
        cutter = None if facts.row_length is None else _Cutter(facts.row_length, facts.id_dtype)
        for rows, block in _ahead(_documents(store, end_id)):
            cut = rows if cutter is None else cutter.cut(rows.values)
            writer.write(ExportRows(cut, block if cutter is None and end_id is None else None))
            counted.count(split, cut, 0 if end_id is None else len(rows))
        if cutter is not None:
            counted.drop(split, len(cutter.left))
        if counted.rows[split]:
            writer.finish()  # a split without a row leaves no file


def _documents(store: TokenStore, end_id: int | None) -> Iterator[tuple[Ragged, StoreBlock]]:
    """Yield the documents of each block, with their end behind each, if there is one."""
    for block in store.blocks:
        first, last = int(block.id_offsets[0]), int(block.id_offsets[-1])
        rows = Ragged(block.ids[first:last], block.id_offsets - first)
        yield (rows if end_id is None else with_ends(rows, end_id)), block


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items; another thread makes the next one meanwhile."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def with_ends(rows: Ragged, end_id: int) -> Ragged:
    """Return rows with one more item behind each.

    Example:
        >>> ended = with_ends(Ragged(np.array([7, 8, 9]), np.array([0, 2, 3])), 0)
        >>> ended.values.tolist(), ended.offsets.tolist()
        ([7, 8, 0, 9, 0], [0, 3, 5])
    """
    offsets = offsets_of(rows.lengths + 1)
    values = np.full(int(offsets[-1]), end_id, rows.values.dtype)
    if len(values) >= _LONG * len(rows):  # a copy a row is several times faster
        edges = pairwise(rows.offsets.tolist())
        for (start, stop), place in zip(edges, offsets[:-1].tolist(), strict=True):
            values[place : place + stop - start] = rows.values[start:stop]
        return Ragged(values, offsets)
    is_own = np.ones(len(values), bool)
    is_own[offsets[1:] - 1] = False
    values[is_own] = rows.values
    return Ragged(values, offsets)


class _Cutter:
    """Cuts a stream of ids into rows of equal length."""

    def __init__(self, row_length: int, id_dtype: np.dtype) -> None:
        self._row_length = row_length
        self.left = np.empty(0, id_dtype)  # ids that fill no row yet

    def cut(self, ids: np.ndarray) -> Ragged:
        """Return the rows that these ids, behind those that were left, fill."""
        ids = np.concatenate([self.left, ids])
        num_rows = len(ids) // self._row_length
        self.left = ids[num_rows * self._row_length :]
        offsets = np.arange(num_rows + 1, dtype=np.int64) * self._row_length
        return Ragged(ids[: int(offsets[-1])], offsets)
