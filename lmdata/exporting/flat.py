"""Formats that are ids one after the other, or rows of ids under an index.

nanoGPT and Megatron have one array of ids a split, MosaicML's MDS and Lightning's LitData files of
rows.
"""

from __future__ import annotations

import json
import pickle
import struct
from abc import abstractmethod
from contextlib import ExitStack
from typing import Any

import numpy as np

from lmdata.errors import ConfigError
from lmdata.exporting.format import ExportFacts, ExportRows, Files, Format
from lmdata.files import AtomicFile, output_errors
from lmdata.ragged import Ragged, concatenate, offsets_of, ranges

# ---- One array of ids a split: nanoGPT's, and Megatron's with its index


_GPT2_VOCAB_SIZE = 50257  # what nanoGPT's train.py takes for granted without a meta.pkl


class NanoGpt(Format):
    """`train.bin` and `val.bin`, uint16 ids one after the other, as nanoGPT's `train.py` maps them.

    Source: github.com/karpathy/nanoGPT, `data/openwebtext/prepare.py` and `train.py`.
    """

    name = "nanogpt"
    summary = "train.bin, val.bin: uint16 ids, read by nanoGPT's train.py"
    keeps_rows = False

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._facts = files, facts
        self._is_first = split == "train"
        self._file = files.open(f"{'val' if split == 'validation' else split}.bin", stack)

    @staticmethod
    def check(facts: ExportFacts) -> None:
        """Refuse vocabularies beyond 16 bits."""
        if facts.vocab_size > 1 << 16:
            raise ConfigError(
                f"format nanogpt holds ids below 65,536, the vocabulary has {facts.vocab_size:,}: "
                "choose another format, such as megatron"
            )

    def write(self, rows: ExportRows) -> None:
        """Append the ids."""
        with output_errors(self._file.path):
            self._file.write(np.ascontiguousarray(rows.ids.values, "<u2"))

    def finish(self) -> None:
        """Say how large the vocabulary is, unless it is that of GPT-2."""
        self._files.finish(self._file)
        if self._is_first and self._facts.vocab_size != _GPT2_VOCAB_SIZE:
            meta = {"vocab_size": self._facts.vocab_size}
            self._files.write("meta.pkl", pickle.dumps(meta, protocol=4))


class Megatron(Format):
    """`train.bin` and `train.idx`, an indexed dataset: one sequence and one document a row.

    Source: `megatron/core/datasets/indexed_dataset.py` of Megatron-LM.
    """

    name = "megatron"
    summary = "train.bin, train.idx: indexed datasets of Megatron-LM and NeMo"
    keeps_rows = False  # GPTDataset joins documents as they lie

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._split = files, split
        # uint16 or int32, which are their numbers 8 and 4
        self._dtype, self._code = ("<u2", 8) if facts.id_dtype == np.uint16 else ("<i4", 4)
        self._file = files.open(f"{split}.bin", stack)
        self._lengths: list[np.ndarray] = []  # int32

    def write(self, rows: ExportRows) -> None:
        """Append the ids and keep the lengths."""
        with output_errors(self._file.path):
            self._file.write(np.ascontiguousarray(rows.ids.values, self._dtype))
        self._lengths.append(rows.ids.lengths.astype("<i4"))

    def finish(self) -> None:
        """Write the index: lengths, the byte where each begins, and documents by sequence."""
        self._files.finish(self._file)
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, "<i4")
        starts = offsets_of(lengths)[:-1] * np.dtype(self._dtype).itemsize
        documents = np.arange(len(lengths) + 1, dtype="<i8")
        head = struct.pack("<9sQBQQ", b"MMIDIDX", 1, self._code, len(lengths), len(documents))
        arrays = (lengths, starts.astype("<i8"), documents)
        self._files.write(f"{self._split}.idx", head + b"".join(a.tobytes() for a in arrays))


# ---- Files of rows under an index: MDS and LitData


CHUNK_BYTES = 1 << 26
_LARGEST_BYTES = 1 << 32  # both keep offsets in 32 bits


class _Chunked(Format):
    """Rows gathered into files, each filled as far as `CHUNK_BYTES`; what a file is, a format says.

    A row beyond that has a file of its own.
    """

    keeps_rows = True
    head_bytes: int  # of a file, whatever rows it holds

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._facts, self._split = files, facts, split
        self._parts: list[Ragged] = []
        self._num_bytes = 0  # that they take in a file
        self._index: list[dict[str, Any]] = []

    @abstractmethod
    def row_bytes(self, ids: Ragged) -> np.ndarray:
        """Return what each row takes in a file, its offset included: int64 (R,)."""

    @abstractmethod
    def write_file(self, number: int, ids: Ragged) -> dict[str, Any]:
        """Write a file and return its entry in the index."""

    @abstractmethod
    def write_index(self, files: list[dict[str, Any]]) -> None:
        """Write what comes last."""

    def write(self, rows: ExportRows) -> None:
        """Append rows, and write the files that they fill."""
        sizes = self.row_bytes(rows.ids)
        if self.head_bytes + int(sizes.max(initial=0)) >= _LARGEST_BYTES:
            raise ConfigError(
                f"format {self.name} holds rows below 4 GiB, one has {int(sizes.max()):,} bytes: "
                "cut the documents with --row-length, or choose another format"
            )
        self._parts.append(rows.ids)
        self._num_bytes += int(sizes.sum())
        if self.head_bytes + self._num_bytes > CHUNK_BYTES:
            self._write_full()

    def _write_full(self) -> None:
        ids, room = concatenate(self._parts), CHUNK_BYTES - self.head_bytes
        ends = np.cumsum(self.row_bytes(ids))
        first = done = 0
        while ends[-1] - done > room:
            stop = max(first + 1, int(np.searchsorted(ends, done + room, side="right")))
            self._index.append(self.write_file(len(self._index), ids.slice(first, stop)))
            first, done = stop, int(ends[stop - 1])
        self._parts, self._num_bytes = [ids.slice(first, len(ids))], int(ends[-1]) - done

    def finish(self) -> None:
        """Write the last file and the index."""
        if self._num_bytes:
            self._index.append(self.write_file(len(self._index), concatenate(self._parts)))
        self.write_index(self._index)


class Mds(_Chunked):
    """`train/shard.00000.mds` and `train/index.json`, with one column, `tokens`.

    Source: `streaming/base/format/mds` of mosaicml-streaming, version 2 of the format.
    """

    name = "mds"
    summary = "shards of mosaicml-streaming with a column tokens, for Composer and LLM Foundry"

    def __init__(self, files: Files, facts: ExportFacts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        super().__init__(files, facts, split, stack)
        self._config = {
            "column_encodings": [f"ndarray:{facts.id_dtype.name}"], "column_names": ["tokens"],
            "column_sizes": [None], "compression": None, "format": "mds", "hashes": [],
            "size_limit": CHUNK_BYTES, "version": 2,
        }  # fmt: skip
        self._config_json = json.dumps(self._config, sort_keys=True).encode()
        self.head_bytes = 8 + len(self._config_json)

    def row_bytes(self, ids: Ragged) -> np.ndarray:
        """Return the bytes of each row: offset, size, kind and length of the shape, ids."""
        return 9 + _width(ids.lengths) + ids.lengths * self._facts.id_dtype.itemsize

    def write_file(self, number: int, ids: Ragged) -> dict[str, Any]:
        """Write a shard: the number of rows, their offsets, the configuration, the rows."""
        sizes = self.row_bytes(ids) - 4
        offsets = offsets_of(sizes) + self.head_bytes + 4 * len(ids)
        head = np.uint32(len(ids)).tobytes() + offsets.astype("<u4").tobytes() + self._config_json

        def fill(file: AtomicFile) -> None:
            file.write(head)
            file.write(self._rows(ids, sizes))

        name = f"shard.{number:05d}.mds"
        self._files.begin(f"{self._split}/{name}", fill)
        raw = {"basename": name, "bytes": int(offsets[-1]), "hashes": {}}
        return {**self._config, "raw_data": raw, "samples": len(ids), "zip_data": None}

    def _rows(self, ids: Ragged, sizes: np.ndarray) -> np.ndarray:
        """Return the bytes of rows: uint8 (sum of the sizes,)."""
        starts, lengths = offsets_of(sizes), ids.lengths
        data, is_head = np.empty(starts[-1], np.uint8), np.zeros(starts[-1], bool)
        widths = _width(lengths)  # of the number that says how long the row is
        columns = ((sizes - 4).astype("<u4"), 0, 4), (4 + widths // 2, 4, 1), (lengths, 5, 4)
        for values, place, width in columns:
            chosen = widths if place == 5 else np.full(len(ids), width)
            places = ranges(starts[:-1] + place, chosen)
            parts = values.astype("<u4").view(np.uint8).reshape(-1, 4)
            data[places] = parts[np.arange(4) < chosen[:, None]]
            is_head[places] = True
        data[~is_head] = np.ascontiguousarray(ids.values).view(np.uint8)
        return data

    def write_index(self, files: list[dict[str, Any]]) -> None:
        """Write the index of the split."""
        index = json.dumps({"shards": files, "version": 2}, sort_keys=True)
        self._files.write(f"{self._split}/index.json", index)


def _width(lengths: np.ndarray) -> np.ndarray:
    """Return the bytes of the smallest unsigned integer that holds each length: 1, 2 or 4."""
    return np.where(lengths < 1 << 8, 1, np.where(lengths < 1 << 16, 2, 4))


class LitData(_Chunked):
    """`train/chunk-0-0.bin` and `train/index.json`, for `StreamingDataset` with `TokensLoader`.

    Source: `litdata/streaming/writer.py` of litdata.
    """

    name = "litdata"
    summary = "chunks of LitData for its TokensLoader, as LitGPT reads them"

    head_bytes = 8

    def row_bytes(self, ids: Ragged) -> np.ndarray:
        """Return the bytes of each row: its offset and its ids."""
        return 4 + ids.lengths * self._facts.id_dtype.itemsize

    def write_file(self, number: int, ids: Ragged) -> dict[str, Any]:
        """Write a chunk: the number of rows, their offsets, the ids."""
        offsets = offsets_of(self.row_bytes(ids) - 4) + 4 * (len(ids) + 2)
        head = np.uint32(len(ids)).tobytes() + offsets.astype("<u4").tobytes()

        def fill(file: AtomicFile) -> None:
            file.write(head)
            file.write(np.ascontiguousarray(ids.values))

        name = f"chunk-0-{number}.bin"
        self._files.begin(f"{self._split}/{name}", fill)
        return {
            "chunk_bytes": int(offsets[-1]), "chunk_size": len(ids), "dim": len(ids.values),
            "filename": name,
        }  # fmt: skip

    def write_index(self, files: list[dict[str, Any]]) -> None:
        """Write the index of the split; ids are torch.uint16 or torch.int32, 20 and 15 there."""
        code = 20 if self._facts.id_dtype == np.uint16 else 15
        config = {
            "chunk_bytes": CHUNK_BYTES, "chunk_size": None, "compression": None,
            "compression_batch_size": None, "compression_level": None,
            "data_format": [f"no_header_tensor:{code}"],
            "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
            "encryption": None, "ipc_compression": None, "item_loader": "TokensLoader",
            "types": "tensor",
        }  # fmt: skip
        index = json.dumps({"chunks": files, "config": config}, sort_keys=True)
        self._files.write(f"{self._split}/index.json", index)
