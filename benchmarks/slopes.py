"""How time grows with the length of text of every shape: an exponent of 1 is a line, 2 a square.

Each shape of `references.shapes` is made at one, two and four times a size; the least time of some
runs counts, on one core, after one warm-up call.
"""

from __future__ import annotations

import argparse
import functools
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.measure import print_table, write_result
from lmdata.building.workers import Threads
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.encoding import Encoder, make_encoder
from lmdata.sentences import find_sentence_starts
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import Tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from lmdata.tokens import tokenize_corpus
from references.shapes import JSON_LINES, PROSE, TABLES, Shape

Work = Callable[[bytes], None]
FACTORS = (1, 2, 4)


def split_sentences(data: bytes) -> None:
    """Find the sentences of one document."""
    find_sentence_starts(np.frombuffer(data, np.uint8), np.array([0, len(data)]))


def encode_as(model: str) -> Work:
    """Return what encodes one document by a small tokenizer of a kind."""

    def encode(data: bytes) -> None:
        offsets = np.array([0, len(data)])
        small_encoder(model).encode(np.frombuffer(data, np.uint8), offsets, offsets[:1])

    return encode


@functools.cache
def small_encoder(model: str) -> Encoder:
    """Return the encoder of a small tokenizer."""
    return make_encoder(small_tokenizer(model))


@functools.cache
def small_tokenizer(model: str) -> Tokenizer:
    """Return a tokenizer that was trained on a little of every shape."""
    text = b"\n".join(shape(1 << 10) for shape in PROSE.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.txt")
        path.write_bytes(text)
        batches: list[Documents] = []
        for source in find_sources([str(path)], CorpusConfig(errors="skip")):
            batches += read_documents(source, CorpusConfig(errors="skip"))
    config = TokenizerConfig(model=model, vocab_size=500, allow_smaller=True)  # type: ignore[arg-type]
    return train_tokenizer(batches, config)


def read_as(suffix: str, **settings: str) -> Work:
    """Return what reads a file of a kind, leaving out what is broken."""
    config = CorpusConfig(errors="skip", **settings)  # type: ignore[arg-type]

    def read(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"a{suffix}")
            path.write_bytes(data)
            (source,) = find_sources([str(path)], config)
            for _ in read_documents(source, config):
                pass

    return read


def tokenize_tiny_files(data: bytes) -> None:
    """Make a token store of files of 64 bytes, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for number, start in enumerate(range(0, len(data), 64)):
            Path(corpus, f"{number}.txt").write_bytes(data[start : start + 64])
        config = TokenizeConfig(corpus=CorpusConfig(errors="skip"))
        tokenize_corpus(
            find_sources([str(corpus)], config.corpus),
            config,
            small_tokenizer("wordpiece"),
            Path(folder, "tokens"),
            workers=Threads(1, "lmdata.building.units:prepare_nursery"),
        )


SUBJECTS: dict[str, tuple[Work, Mapping[str, Shape]]] = {
    "sentences": (split_sentences, PROSE),
    "encoding by a word cache": (encode_as("wordpiece"), PROSE),
    "encoding by gigatoken": (encode_as("bpe"), PROSE),
    "encoding by tokenizers": (encode_as("unigram"), PROSE),
    "text files": (read_as(".txt"), PROSE),
    "lines": (read_as(".txt", documents="line"), PROSE),
    "paragraphs": (read_as(".txt", documents="blank-line"), PROSE),
    "JSON lines": (read_as(".jsonl"), JSON_LINES),
    "CSV": (read_as(".csv"), TABLES),
    "files of 64 bytes, to a store": (tokenize_tiny_files, {"words": PROSE["words"]}),
}


def main(arguments: list[str]) -> None:
    """Print the times and exponents and write them to results/slopes.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks slopes", description=__doc__)
    parser.add_argument("--size-bytes", type=int, default=1 << 18, help="smallest size of a text")
    parser.add_argument("--num-runs", type=int, default=3, help="timed runs of each size")
    options = parser.parse_args(arguments)
    rows = [
        {"subject": subject, "shape": name, **measure(work, shape, options)}
        for subject, (work, shapes) in SUBJECTS.items()
        for name, shape in shapes.items()
    ]
    print_table(rows)
    write_result("slopes", {"size_bytes": options.size_bytes, "slopes": rows})


def measure(work: Work, shape: Shape, options: argparse.Namespace) -> dict[str, str]:
    """Return the least seconds at one, two and four times the size, and the exponent."""
    seconds = {}
    for factor in FACTORS:
        data = shape(options.size_bytes * factor)
        seconds[f"{factor}x_s"] = min(timed(work, data) for _ in range(options.num_runs + 1))
    exponent = math.log(seconds["4x_s"] / seconds["1x_s"], FACTORS[-1])
    return {name: f"{s:.4f}" for name, s in seconds.items()} | {"exponent": f"{exponent:.2f}"}


def timed(work: Work, data: bytes) -> float:
    """Return the seconds of processor time that some work takes."""
    start = time.process_time()
    work(data)
    return time.process_time() - start
