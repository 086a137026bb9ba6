"""Encoding of real text: every folder of the shared data, every tokenizer, against `tokenizers`."""

from __future__ import annotations

import functools
import gzip

import numpy as np
import pytest
import zstandard

from lmdata.encoders.plain_encoding import PlainEncoder
from lmdata.encoding import make_encoder
from lmdata.tokenizer import load_tokenizer
from tests.lmdata.encoding_oracle import packed, starts_with, trained

PUBLISHED = ["bert-base-uncased", "bert-base-cased", "bert-base-chinese", "gpt2"]
TRAINED = ["wordpiece", "byte-level", "unigram"]
FOLDERS = [
    "wikipedia-en",
    "gutenberg",
    "multilingual",
    "bert-format",
    "wikitext2",
    "adversarial",
    "blimp",
    "tasks",
    "vocab",
]
SLICE_BYTES = 300
PART_CHARACTERS = 20_000
MAX_FILE_BYTES = 2 << 20


def read(path, max_bytes):
    """Return the first bytes of a file, decompressed."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            return stream.read(max_bytes)
    if path.suffix == ".zst":
        with path.open("rb") as stream:
            return zstandard.ZstdDecompressor().stream_reader(stream).read(max_bytes)
    return path.read_bytes()[:max_bytes]


@functools.cache
def slices_of(folder):
    """Return the beginning and a middle of every file."""
    documents = []
    for path in files_of(folder):
        raw = read(path, 1 << 17)
        middle = len(raw) // 2
        raw = raw[:SLICE_BYTES] + raw[middle : middle + SLICE_BYTES]
        documents.append(raw.decode("utf-8", "replace"))
    return documents


def documents_of(folder):
    """Yield the text of every file, as UTF-8 and, where it is not, as Latin-1 too."""
    for path in files_of(folder):
        raw = read(path, MAX_FILE_BYTES)
        text = raw.decode("utf-8", "replace")
        yield from (text[i : i + PART_CHARACTERS] for i in range(0, len(text), PART_CHARACTERS))
        if "\N{REPLACEMENT CHARACTER}" in text:
            yield raw.decode("latin-1")


def files_of(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def assert_same_as_plain(tokenizer, documents):
    """Compare with the plain path; every seventh character or so begins a sentence."""
    text, offsets = packed(documents)
    starts = starts_with(text, offsets, np.arange(0, len(text), 41))
    found = make_encoder(tokenizer).encode(text, offsets, starts)
    expected = PlainEncoder(tokenizer, num_threads=2).encode(text, offsets, starts)
    for name in ("ids", "document_offsets", "sentence_lengths", "sentence_offsets"):
        left, right = getattr(found, name), getattr(expected, name)
        if not np.array_equal(left, right):
            different = left[: len(right)] != right[: len(left)]
            row = np.searchsorted(expected.document_offsets, np.argmax(different), side="right") - 1
            raise AssertionError(f"{name} differ, perhaps first in {documents[row][:300]!r}")


def tokenizer_named(name, shared_data):
    return load_tokenizer(shared_data / "vocab" / name) if name in PUBLISHED else trained(name)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("folder", FOLDERS)
def test_slices_of_every_file_have_the_ids_of_tokenizers(folder, name, shared_data):
    documents = slices_of(shared_data / folder)
    assert documents
    assert_same_as_plain(tokenizer_named(name, shared_data), documents)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED + TRAINED)
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_has_the_ids_of_tokenizers(folder, name, shared_data):
    tokenizer = tokenizer_named(name, shared_data)
    batch, size = [], 0
    for document in documents_of(shared_data / folder):
        batch.append(document)
        size += len(document)
        if size > 1 << 20:
            assert_same_as_plain(tokenizer, batch)
            batch, size = [], 0
    assert_same_as_plain(tokenizer, batch)
