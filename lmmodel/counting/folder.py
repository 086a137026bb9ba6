"""The folder of an n-gram model: its record, its arrays, memory-mapped, and the tokenizer.

model.safetensors   the arrays of the trie
config.json         order, discounts, what it was counted from, size and hash of the arrays
tokenizer.json ...  the tokenizer's files

The same text gives the same bytes, whatever the machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lmdata.config import build_config, json_text, read_json
from lmdata.errors import ConfigError
from lmdata.files import AtomicFile, Kind, output_errors, write_atomically
from lmdata.tokenizer import TOKENIZER_FILES, Tokenizer, save_tokenizer
from lmdata.xxh3 import hash_file
from lmmodel.counting.smoothing import Discounts, Smoothed
from lmmodel.counting.trie import Trie, first_children
from lmmodel.errors import CheckpointError, RunError
from lmmodel.record import NGRAM_KIND, RECORD_NAME, WEIGHTS_NAME

FORMAT_VERSION = 1
_DTYPES: dict[str, np.dtype[Any]] = {
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MOST_HEADER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class NgramRecord:
    """What config.json holds."""

    sizes: tuple[int, ...]  # n-grams of each order; of order 1 every piece, the end and the begin
    discounts: tuple[Discounts, ...]  # of each order
    num_documents: int  # lines that were counted
    num_tokens: int  # without begins and ends
    data_path: str
    data_hash: str  # of the store's manifest
    tokenizer_hash: str
    weights_bytes: int
    weights_xxh3: str

    @property
    def order(self) -> int:
        """Tokens of the longest n-grams."""
        return len(self.sizes)


def is_ngrams(path: Path | str) -> bool:
    """Whether a folder says that it holds an n-gram model."""
    try:
        values = read_json(Path(path) / RECORD_NAME)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("kind") == NGRAM_KIND


NGRAMS = Kind("an n-gram model", is_ngrams, TOKENIZER_FILES | {RECORD_NAME, WEIGHTS_NAME})


def write_arrays(path: Path, levels: Sequence[Smoothed]) -> AtomicFile:
    """Write the trie of some levels as safetensors, level by level, in no more memory than one.

    Returns:
        The closed file, which knows its size and hash.
    """
    num_nodes = sum(len(level.words) for level in levels)
    num_inner = num_nodes - len(levels[-1].words)
    parts: dict[str, tuple[int, Iterable[np.ndarray]]] = {
        "words": (num_nodes, (level.words for level in levels)),
        "first_child": (num_inner + 1, first_children(levels)),
        "log_p": (num_nodes, (level.log_p for level in levels)),
        "log_backoff": (num_inner, (level.log_backoff for level in levels[:-1])),
    }
    dtypes = {"words": levels[0].words.dtype, "first_child": np.dtype("<u4")}
    header, place = {}, 0
    for name, (length, _) in parts.items():
        dtype = dtypes.get(name, np.dtype("<f4"))
        stop = place + length * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": [length], "data_offsets": [place, stop]}
        place = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with output_errors(path), AtomicFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, arrays in parts.values():
            for array in arrays:
                file.write(np.ascontiguousarray(array))
    return file


def write_record(folder: Path, record: NgramRecord, tokenizer: Tokenizer) -> None:
    """Write the tokenizer and, last, the record."""
    with output_errors(folder):
        save_tokenizer(tokenizer, folder)
        values = {"format_version": FORMAT_VERSION, "kind": NGRAM_KIND, **vars(record)}
        write_atomically(folder / RECORD_NAME, json_text(values, indent=1) + "\n")


def read_ngram_record(folder: Path) -> NgramRecord:
    """Return what the folder of an n-gram model says of itself.

    Raises:
        RunError: no n-gram model there, or written by another version
    """
    path = folder / RECORD_NAME
    if not is_ngrams(folder):
        raise RunError(f"{folder} holds no n-gram model: `lmmodel count` makes one of a store")
    values = read_json(path)
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise RunError(f"{path} has format {version}, this version reads {FORMAT_VERSION}")
    del values["kind"]
    try:
        return build_config(NgramRecord, values)
    except ConfigError as error:
        raise RunError(f"{path} is not the record of an n-gram model: {error}") from error


def open_trie(folder: Path, record: NgramRecord) -> Trie:
    """Return the trie of a folder, memory-mapped, after a look at its hash.

    Raises:
        CheckpointError: the file is missing or damaged
    """
    path = folder / WEIGHTS_NAME
    try:
        if path.stat().st_size != record.weights_bytes or hash_file(path) != record.weights_xxh3:
            raise ValueError(f"it is not the file that {RECORD_NAME} describes")
        arrays = _map_arrays(path)
        trie = Trie(**arrays, sizes=record.sizes)
        trie.check()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} has no {WEIGHTS_NAME}: count again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; count again") from error
    return trie


def _map_arrays(path: Path) -> Mapping[str, Any]:
    """Return the arrays of a safetensors file by name, as views on its memory map.

    Raises:
        ValueError, KeyError, TypeError: it is none
    """
    content = np.memmap(path, np.uint8, mode="r")
    size = int.from_bytes(content[:8].tobytes(), "little")
    if size > min(_MOST_HEADER_BYTES, len(content)):
        raise ValueError("its header is too long")
    header = json.loads(content[8 : 8 + size].tobytes())
    arrays = {}
    for name, entry in header.items():
        begin, end = (8 + size + place for place in entry["data_offsets"])
        arrays[name] = content[begin:end].view(_DTYPES[entry["dtype"]])
    return arrays


# ---- The same as a text file in the ARPA format, which other toolkits read


_ROWS = 65_536  # of a table that are written at a time
_MEANT_OTHERWISE = ("<s>", "</s>", "<unk>")
_NO_PROBABILITY = -99.0  # of the begin of a line, which nothing predicts


def arpa_words(pieces: Sequence[str | None], unk_id: int | None) -> list[str]:
    """Return how each piece is spelled, then the end and the begin of a line.

    Args:
        pieces: of the vocabulary
        unk_id: of the piece for what is unknown, which keeps its spelling

    Example:
        >>> arpa_words(["a", "<s>", "b c", "<unk>"], unk_id=3)
        ['a', '<piece:1>', '<piece:2>', '<unk>', '</s>', '<s>']
    """
    words = []
    for index, piece in enumerate(pieces):
        is_plain = piece and not re.search(r"\s", piece)
        is_free = piece not in _MEANT_OTHERWISE or (index == unk_id and piece == "<unk>")
        words.append(piece if piece and is_plain and is_free else f"<piece:{index}>")
    return [*words, "</s>", "<s>"]


def write_arpa(trie: Trie, words: Sequence[str], file: TextIO) -> int:
    """Write a model, return its n-grams; pieces that no line had are left out for `<unk>`.

    Args:
        trie: the model
        words: from `arpa_words`
        file: text, opened for writing
    """
    unigrams = trie.log_p[: trie.sizes[0]]
    is_listed = seen_unigrams(trie)
    spelled = np.array([*words, "<unk>"], object)
    has_unk = "<unk>" in spelled[:-1][is_listed]
    sizes = [int(is_listed.sum()) + (not has_unk), *trie.sizes[1:]]
    file.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
    file.write("\n\\1-grams:\n")
    if not has_unk:
        file.write(f"{_decimal(float(unigrams[~is_listed].max(initial=unigrams.min())))}\t<unk>"
                   f"{_backoff(0.0) if trie.order > 1 else ''}\n")  # fmt: skip
    for line in _lines_of_unigrams(trie, spelled, np.flatnonzero(is_listed)):
        file.write(line)
    for n in range(2, trie.order + 1):
        file.write(f"\n\\{n}-grams:\n")
        end = sum(trie.sizes[:n])
        for start in range(end - trie.sizes[n - 1], end, _ROWS):
            file.write("".join(_lines(trie, n, np.arange(start, min(start + _ROWS, end)), spelled)))
    file.write("\n\\end\\\n")
    return sum(sizes)


def seen_unigrams(trie: Trie) -> np.ndarray:
    """Return which ids some line had, or stand at its ends: bool (num_ids,).

    What no line had shares one probability, the lowest there is, and nothing follows it.
    """
    unigrams = trie.log_p[: trie.sizes[0]]
    is_seen: np.ndarray = unigrams > unigrams.min()
    if trie.order > 1:
        is_seen |= np.diff(trie.first_child[: trie.sizes[0] + 1].astype(np.int64)) > 0
    is_seen[-2:] = True
    return is_seen


def _lines_of_unigrams(trie: Trie, spelled: np.ndarray, ids: np.ndarray) -> Iterator[str]:
    for index in ids.tolist():
        is_begin = index == trie.num_pieces + 1
        p = _NO_PROBABILITY if is_begin else _decimal(float(trie.log_p[index]))
        backoff = _backoff(float(trie.log_backoff[index])) if trie.order > 1 else ""
        yield f"{p}\t{spelled[index]}{backoff}\n"


def _lines(trie: Trie, order: int, nodes: np.ndarray, spelled: np.ndarray) -> list[str]:
    """Return the lines of some nodes of an order, int64 (n,) ascending."""
    grams, above = spelled[trie.words[nodes]], nodes
    for _ in range(order - 1):
        above = np.searchsorted(trie.first_child, above, side="right") - 1
        grams = spelled[trie.words[above]] + " " + grams
    p = (trie.log_p[nodes] / math.log(10)).tolist()
    if order == trie.order:
        return [f"{own:.7g}\t{gram}\n" for own, gram in zip(p, grams, strict=True)]
    backoffs = (trie.log_backoff[nodes] / math.log(10)).tolist()
    rows = zip(p, grams, backoffs, strict=True)
    return [f"{own:.7g}\t{gram}\t{backoff:.7g}\n" for own, gram, backoff in rows]


def _decimal(log_p: float) -> str:
    return f"{log_p / math.log(10):.7g}"


def _backoff(log_backoff: float) -> str:
    return f"\t{log_backoff / math.log(10):.7g}"
