"""Formats that are one array of ids a split: nanoGPT's, and Megatron's with its index."""

from __future__ import annotations

import pickle
import struct
from contextlib import ExitStack

import numpy as np

from lmdata.errors import ConfigError
from lmdata.exporting.format import Facts, Files, Format, Rows
from lmdata.files import output_errors
from lmdata.ragged import offsets_of

_GPT2_VOCAB_SIZE = 50257  # what nanoGPT's train.py takes for granted without a meta.pkl


class NanoGpt(Format):
    """`train.bin` and `val.bin`, uint16 ids one after the other, as nanoGPT's `train.py` maps them.

    Source: github.com/karpathy/nanoGPT, `data/openwebtext/prepare.py` and `train.py`.
    """

    name = "nanogpt"
    summary = "train.bin, val.bin: uint16 ids, read by nanoGPT's train.py"
    keeps_rows = False

    def __init__(self, files: Files, facts: Facts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._facts = files, facts
        self._is_first = split == "train"
        self._file = files.open(f"{'val' if split == 'validation' else split}.bin", stack)

    @staticmethod
    def check(facts: Facts) -> None:
        """Refuse vocabularies beyond 16 bits."""
        if facts.vocab_size > 1 << 16:
            raise ConfigError(
                f"format nanogpt holds ids below 65,536, the vocabulary has {facts.vocab_size:,}: "
                "choose another format, such as megatron"
            )

    def write(self, rows: Rows) -> None:
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

    def __init__(self, files: Files, facts: Facts, split: str, stack: ExitStack) -> None:
        """Begin a split."""
        self._files, self._split = files, split
        # uint16 or int32, which are their numbers 8 and 4
        self._dtype, self._code = ("<u2", 8) if facts.id_dtype == np.uint16 else ("<i4", 4)
        self._file = files.open(f"{split}.bin", stack)
        self._lengths: list[np.ndarray] = []  # int32

    def write(self, rows: Rows) -> None:
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
