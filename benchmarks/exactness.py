"""Every document of every folder of the real data, encoded by us and by `tokenizers`.

Published tokenizers and ones that `lmdata train-tokenizer` trains here. Files of no known kind are
read as text; what is not UTF-8 is read with replacement characters, and again as Latin-1.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from benchmarks.measure import DATA, print_table, write_result
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoding import Encoder, first_difference, make_encoder
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer

PUBLISHED = ("bert-base-uncased", "bert-base-cased", "bert-base-chinese", "gpt2")
TRAINED = ("wordpiece", "bpe", "unigram")
PART_CHARACTERS = 100_000  # a document; longer files are cut
BATCH_BYTES = 4 << 20


def main(arguments: list[str]) -> None:
    """Compare all ids; print and keep a table of what was compared, one for each tokenizer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks exactness", description=__doc__)
    parser.add_argument("--tokenizers", nargs="*", default=[*PUBLISHED, *TRAINED],
                        help="of the real data, or trained here, or paths")  # fmt: skip
    parser.add_argument("--folders", nargs="*", help="of the real data; all by default")
    parser.add_argument("--plain-files", type=int, default=1,
                        help="files of a folder for a tokenizer without a fast path")  # fmt: skip
    parser.add_argument("--megabytes", type=float, default=float("inf"), help="of each file")
    options = parser.parse_args(arguments)
    folders = options.folders or sorted(path.name for path in DATA.iterdir() if path.is_dir())
    for name in options.tokenizers:
        tokenizer, rows = make_tokenizer(name), []
        name, most = Path(name).name, options.megabytes
        for folder in folders:
            rows.append(compare(name, tokenizer, DATA / folder, options.plain_files, most))
            print(json.dumps(rows[-1]), flush=True)
        print_table(rows)
        write_result(f"exactness-{name}", {"rows": rows})


def make_tokenizer(name: str) -> Tokenizer:
    """Return a published tokenizer, one trained on a file of Wikipedia, or one at a path."""
    if name in PUBLISHED:
        return load_tokenizer(DATA / "vocab" / name)
    if name not in TRAINED:
        return load_tokenizer(name)
    sources = find_sources([str(DATA / "wikipedia-en")], CorpusConfig())[:1]
    documents = (batch for source in sources for batch in read_documents(source, CorpusConfig()))
    return train_tokenizer(documents, TokenizerConfig(model=name, vocab_size=16384), num_threads=2)


def compare(
    name: str, tokenizer: Tokenizer, folder: Path, plain_files: int, megabytes: float
) -> dict[str, Any]:
    """Return what was compared in a folder, and the first difference, if there is one."""
    encoder = make_encoder(tokenizer)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = files[:plain_files] if encoder.kind == "plain" else files
    row: dict[str, Any] = {
        "tokenizer": name, "encoder": encoder.kind, "folder": folder.name, "files": len(files),
        "documents": 0, "mb": 0.0, "tokens": 0, "different_documents": 0, "first_difference": None,
    }  # fmt: skip
    start = time.perf_counter()
    batch: list[str] = []
    for document in documents_of(files, megabytes):
        batch.append(document)
        if sum(map(len, batch)) > BATCH_BYTES:
            compare_batch(tokenizer, encoder, batch, row)
            batch = []
    compare_batch(tokenizer, encoder, batch, row)
    row["mb"] = round(row["mb"], 1)
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def compare_batch(
    tokenizer: Tokenizer, encoder: Encoder, documents: list[str], row: dict[str, Any]
) -> None:
    """Encode documents both ways and count those whose ids differ."""
    raw = [document.encode("utf-8") for document in documents]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in raw]))).astype(np.int64)
    text = np.frombuffer(b"".join(raw), np.uint8)
    found = encoder.encode(text, offsets, offsets[:-1][np.diff(offsets) > 0])
    theirs = tokenizer.backend.encode_batch_fast(documents, add_special_tokens=False)
    for index, (document, encoding) in enumerate(zip(documents, theirs, strict=True)):
        first, last = found.document_offsets[index : index + 2]
        place = first_difference(found.ids[first:last], np.array(encoding.ids, np.int64))
        if place is not None:
            row["different_documents"] += 1
            row["first_difference"] = row["first_difference"] or f"{place} of {document[:80]!r}"
    row["documents"] += len(documents)
    row["mb"] += len(text) / 1e6
    row["tokens"] += len(found.ids)


def documents_of(files: list[Path], megabytes: float) -> Iterator[str]:
    """Yield the documents of files: JSON lines by their text, all else cut into parts."""
    for path in files:
        raw = read_whole(path)
        if len(raw) > megabytes * 1e6:
            end = raw.find(b"\n", int(megabytes * 1e6))
            raw = raw if end < 0 else raw[: end + 1]
        if ".jsonl" in path.suffixes:
            rows = map(json.loads, raw.splitlines())
            yield from (row.get("text") or json.dumps(row, ensure_ascii=False) for row in rows)
            continue
        text = raw.decode("utf-8", "replace")
        texts = [text, raw.decode("latin-1")] if "\N{REPLACEMENT CHARACTER}" in text else [text]
        for whole in texts:
            yield from (
                whole[i : i + PART_CHARACTERS] for i in range(0, len(whole), PART_CHARACTERS)
            )


def read_whole(path: Path) -> bytes:
    """Return the decompressed bytes of a file."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        with path.open("rb") as stream:
            return zstandard.ZstdDecompressor().stream_reader(stream).read()
    return path.read_bytes()
