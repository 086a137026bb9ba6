"""Formats that are tables: Parquet, and the folder that `datasets.load_from_disk` opens."""

from __future__ import annotations

import json
from abc import abstractmethod
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmdata.exporting.format import ExportFacts, ExportRows, Files, Format
from lmdata.files import AtomicFile

FILE_BYTES = 1 << 27  # of ids in a file


def _to_table(rows: ExportRows, id_dtype: np.dtype[Any]) -> pa.RecordBatch:
    """Return rows as columns: ids, and of whole documents what the store knows of them."""
    items = pa.array(np.ascontiguousarray(rows.ids.values))
    kind = pa.large_list(pa.from_numpy_dtype(id_dtype))
    ids = pa.LargeListArray.from_arrays(pa.array(rows.ids.offsets), items).cast(kind)
    if rows.block is None:
        return pa.RecordBatch.from_arrays([ids], ["input_ids"])
    block = rows.block
    sentences = pa.ListArray.from_arrays(
        pa.array(block.sentence_offsets - block.sentence_offsets[0]),
        pa.array(block.sentence_lengths[block.sentence_offsets[0] : block.sentence_offsets[-1]]),
    )
    sources = block.source_names.take(pa.array(block.source_codes))
    columns = {
        "source": sources, "position": pa.array(block.positions), "input_ids": ids,
        "sentence_lengths": sentences,
    }  # fmt: skip
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


class _Tables(Format):
    """Rows as record batches in files of about `FILE_BYTES`."""

    keeps_rows = True
    suffix: str

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._facts, self._split = files, facts, split
        self._names: list[str] = []
        self._batches: list[pa.RecordBatch] = []  # of the next file
        self._num_bytes = 0

    @abstractmethod
    def path(self, number: int) -> str:
        """Return where a file lies."""

    @abstractmethod
    def open_writer(self, file: AtomicFile, schema: pa.Schema) -> Any:
        """Return what writes record batches to a file."""

    def write(self, rows: ExportRows) -> None:
        """Append rows; a new file begins where one is full."""
        if not len(rows.ids):
            return
        if self._num_bytes >= FILE_BYTES:
            self._begin_file()
        self._batches.append(_to_table(rows, self._facts.id_dtype))
        self._num_bytes += rows.ids.values.nbytes

    def _begin_file(self) -> None:
        batches = self._batches
        self._names.append(self.path(len(self._names)))
        self._files.begin(self._names[-1], lambda file: self._fill(file, batches))
        self._batches, self._num_bytes = [], 0

    def _fill(self, file: AtomicFile, batches: list[pa.RecordBatch]) -> None:
        with self.open_writer(file, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def finish(self) -> None:
        """Write the last file."""
        self._begin_file()
        self._files.settle()


class Parquet(_Tables):
    """`data/train-00000.parquet`: a row a document, as the store has them, for every reader."""

    name = "parquet"
    summary = "data/train-00000.parquet: for datasets.load_dataset, Polars, Spark, DuckDB"

    def path(self, number: int) -> str:
        """Return where a file lies; `load_dataset` tells splits by these names."""
        return f"data/{self._split}-{number:05d}.parquet"

    def open_writer(self, file: AtomicFile, schema: pa.Schema) -> Any:
        """Write Zstandard pages; ids repeat too little for dictionaries."""
        dictionary = ["source"] if "source" in schema.names else False
        return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=dictionary)


class UncompressedParquet(Parquet):
    """The same rows in plain pages: three times the bytes, at the speed of the disk."""

    name = "parquet-uncompressed"
    summary = "the same uncompressed: three times the bytes, at the speed of the disk"

    def _fill(self, file: AtomicFile, batches: list[pa.RecordBatch]) -> None:
        import polars  # whose writer of lists takes half the time of PyArrow's

        table = pa.Table.from_batches(batches)
        polars.DataFrame(table).write_parquet(file, compression="uncompressed", statistics=False)  # type: ignore[arg-type]


class Datasets(_Tables):
    """`train/data-00000.arrow` with what `datasets.load_from_disk` looks for; maps, copies nothing.

    Source: `Dataset.save_to_disk` and `DatasetDict.save_to_disk` of datasets.
    """

    name = "datasets"
    summary = "the folder that datasets.load_from_disk opens, for Trainer"

    def path(self, number: int) -> str:
        """Return where a file lies."""
        return f"{self._split}/data-{number:05d}.arrow"

    @staticmethod
    def end(files: Files, splits: list[str]) -> None:
        """Name the splits."""
        files.write("dataset_dict.json", json.dumps({"splits": splits}))

    def open_writer(self, file: AtomicFile, schema: pa.Schema) -> Any:
        """Write an Arrow stream."""
        return pa.ipc.new_stream(file, schema)

    def finish(self) -> None:
        """Write the descriptions of the split and of all splits."""
        schema = self._batches[0].schema
        super().finish()
        features = {field.name: _feature(field.type) for field in schema}
        info = {"citation": "", "description": "", "features": features, "homepage": "",
                "license": ""}  # fmt: skip
        names = [{"filename": name.rpartition("/")[2]} for name in self._names]
        state: dict[str, Any] = {
            "_data_files": names, "_fingerprint": self._facts.fingerprint, "_format_columns": None,
            "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
            "_split": self._split,
        }  # fmt: skip
        self._files.write(f"{self._split}/dataset_info.json", json.dumps(info, indent=1))
        self._files.write(f"{self._split}/state.json", json.dumps(state, indent=1))


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """Return a type as `datasets` writes it.

    Example:
        >>> _feature(pa.list_(pa.uint32()))
        {'feature': {'dtype': 'uint32', '_type': 'Value'}, '_type': 'List'}
    """
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        name = "LargeList" if pa.types.is_large_list(kind) else "List"
        return {"feature": _feature(kind.value_type), "_type": name}
    return {"dtype": str(kind), "_type": "Value"}
