"""Reading and splitting cost what the length of a text says, whatever its shape."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.ragged import offsets_of
from lmdata.sentences import find_sentence_starts
from references.shapes import JSON_LINES, PROSE, TABLES, Shape
from tests.lmdata.corpus_files import write
from tests.lmdata.encoding_oracle import trained

SIZE_BYTES = 32 << 10


def assert_linear(work: Callable[[bytes], None], shape: Shape) -> None:
    """Four times the text takes four times as long, noise apart; a square would take sixteen."""
    short, long = shape(SIZE_BYTES), shape(4 * SIZE_BYTES)
    work(short)
    for _ in range(3):  # a busy machine is given another chance, a square has none
        seconds = {data: min(timed(work, data) for _ in range(3)) for data in (short, long)}
        if seconds[long] <= 8 * seconds[short] + 0.004:
            return
    raise AssertionError(f"{seconds[short]:.4f} s, four times the length {seconds[long]:.4f} s")


def timed(work: Callable[[bytes], None], data: bytes) -> float:
    start = time.process_time()
    work(data)
    return time.process_time() - start


@pytest.mark.parametrize("mode", ["rules", "lines"])
@pytest.mark.parametrize("shape", PROSE)
def test_splitting_is_linear(shape: str, mode: str) -> None:
    def split(data: bytes) -> None:
        find_sentence_starts(np.frombuffer(data, np.uint8), np.array([0, len(data)]), mode)

    assert_linear(split, PROSE[shape])


KINDS = [
    *((".txt", documents, name, shape) for documents in ("file", "line", "blank-line")
      for name, shape in PROSE.items()),
    *((".jsonl", "file", name, shape) for name, shape in JSON_LINES.items()),
    *((".csv", "file", name, shape) for name, shape in TABLES.items()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("suffix", "documents", "shape"),
    [pytest.param(*kind[:2], kind[3], id=" ".join(kind[:3])) for kind in KINDS],
)
def test_reading_is_linear(tmp_path: Path, suffix: str, documents: str, shape: Shape) -> None:
    config = CorpusConfig(errors="skip", documents=documents)  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        (source,) = find_sources([str(write(tmp_path / f"a{suffix}", data))], config)
        for _ in read_documents(source, config):
            pass

    assert_linear(read, shape)


def test_a_square_is_noticed() -> None:
    def spend_a_square(data: bytes) -> None:
        """Take 2 ms for the short text, whatever the machine (a search was too fast on some)."""
        ends_s = time.process_time() + 0.002 * (len(data) / SIZE_BYTES) ** 2
        while time.process_time() < ends_s:
            pass

    with pytest.raises(AssertionError, match="four times the length"):
        assert_linear(spend_a_square, PROSE["zero bytes"])


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "unigram"])
@pytest.mark.parametrize("shape", ["words", "distinct words", "distinct words with accents",
                                   "dots alone", "Thai", "line ends", "no spaces"])  # fmt: skip
def test_encoding_is_linear(shape: str, kind: str) -> None:
    tokenizer = trained(kind)

    def encode(data: bytes) -> None:
        offsets = np.array([0, len(data)])
        encoder = make_encoder(tokenizer)
        encoder.encode(np.frombuffer(data, np.uint8), offsets, offsets[:1])

    assert_linear(encode, PROSE[shape])


@pytest.mark.parametrize("is_document", [True, False])
def test_words_without_anything_between_them_are_no_run_to_follow(is_document: bool) -> None:
    """A word a line, and new words alone: to the end of the word, not of the text (once 20 s)."""
    encoder = make_encoder(trained("wordpiece"))
    words = [f"{number * 7919 % 1_000_003:x}abc" for number in range(100_000)]
    texts = words if is_document else [" ".join(words)]
    text = np.frombuffer("".join(texts).encode(), np.uint8)
    offsets = offsets_of(np.array([len(each) for each in texts]))
    start_s = time.process_time()
    encoded = encoder.encode(text, offsets, offsets[:-1])
    assert time.process_time() - start_s < 4
    assert encoded.document_offsets[-1] == len(encoded.ids) >= 100_000
