"""`lmdata train-tokenizer` against the trainers of `tokenizers` and gigatoken, on text in memory.

All systems count words and learn 30,522 pieces from the same documents. Runs are interleaved, so
that a busy machine is busy for everyone. Pieces per word are those of a tenth of the documents.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gigatoken
import numpy as np
import tokenizers
from tokenizers import pre_tokenizers, trainers

from benchmarks.measure import DATA, print_table, summary, write_result
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.tokenizer_training import METHODS, TokenizerConfig, train_tokenizer

NUM_THREADS = 2
Trained = tokenizers.Tokenizer | None


def main(arguments: list[str]) -> None:
    """Run the comparison that the options ask for and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train-tokenizer")
    parser.add_argument("--model", choices=list(METHODS), default="wordpiece")
    parser.add_argument("--vocab-size", type=int, default=30_522)
    parser.add_argument("--files", type=int, default=4, help="Wikipedia files to use, of 8")
    parser.add_argument("--num-runs", type=int, default=3)
    options = parser.parse_args(arguments)
    config = TokenizerConfig(model=options.model, vocab_size=options.vocab_size)
    batches = list(read(sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))[: options.files]))
    compare(config, batches, options.num_runs)


def read(files: list[Path]) -> Iterator[Documents]:
    """Yield the documents of some files."""
    corpus = CorpusConfig()
    for source in find_sources([str(file) for file in files], corpus):
        yield from read_documents(source, corpus)


def compare(config: TokenizerConfig, batches: list[Documents], num_runs: int) -> None:
    """Measure ours and the peers in turns; print and write the figures."""
    texts = [text for batch in batches for text in decode(batch)]
    systems = peers(config, texts)
    train_tokenizer(batches[:1], config)  # compiles what is not in the cache
    rows = measure(systems | {"lmdata": lambda: ours(config, batches)}, texts, num_runs)
    reference = next(row for row in rows if row["system"].startswith("tokenizers"))
    for row in rows:
        row["times_tokenizers"] = round(reference["median_s"] / row["median_s"], 2)
    print_table(rows)
    num_bytes = sum(len(batch.text) for batch in batches)
    content = {"input_bytes": num_bytes, "vocab_size": config.vocab_size, "rows": rows}
    write_result(f"train-tokenizer-{config.model}", content)


def measure(
    systems: dict[str, Callable[[], Trained]], texts: list[str], num_runs: int
) -> list[dict[str, Any]]:
    """Return one row a system; runs of all systems take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in systems}
    results: dict[str, list[Trained]] = {name: [] for name in systems}
    for _ in range(num_runs):
        for name, train in systems.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            results[name].append(train())
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    return [
        {
            "system": name,
            **summary(seconds[name]),
            "cpu_s": round(statistics.median(cpu_seconds[name]), 2),
            "tokens_per_word": tokens_per_word(results[name][0], texts),
            "different_results": num_different(results[name]),
            "times_tokenizers": None,
        }
        for name in systems
    ]


def ours(config: TokenizerConfig, batches: list[Documents]) -> Trained:
    """Train with lmdata."""
    return train_tokenizer(batches, config, num_threads=NUM_THREADS).backend


def peers(config: TokenizerConfig, texts: list[str]) -> dict[str, Callable[[], Trained]]:
    """Return the trainers that others have for this model."""
    systems: dict[str, Callable[[], Trained]] = {
        f"tokenizers, {NUM_THREADS} threads": lambda: by_tokenizers(config, texts)
    }
    if config.model == "bpe":
        data = "\0".join(texts).encode()
        systems["gigatoken train_bpe"] = lambda: by_gigatoken(config, data)
    return systems


def by_tokenizers(config: TokenizerConfig, texts: list[str]) -> Trained:
    """Train with `tokenizers`, with the same rules for cutting text into words."""
    backend = METHODS[config.model].make_backend(config)
    settings: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "special_tokens": list(config.special_tokens),
        "show_progress": False,
    }
    trainer: trainers.Trainer
    if config.model == "wordpiece":
        trainer = trainers.WordPieceTrainer(**settings, min_frequency=2, limit_alphabet=1000)
    elif config.model == "bpe":
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(**settings, min_frequency=2, initial_alphabet=alphabet)
    else:
        trainer = trainers.UnigramTrainer(**settings, unk_token=config.special_tokens[1])
    backend.train_from_iterator(texts, trainer)
    return backend


def by_gigatoken(config: TokenizerConfig, data: bytes) -> Trained:
    """Train with gigatoken; its result has another form, so only its time is taken."""
    gigatoken.train_bpe(data, config.vocab_size, list(config.special_tokens), separator=b"\0")
    return None


def decode(batch: Documents) -> Iterator[str]:
    """Yield the documents of a batch as strings."""
    data = batch.text.tobytes()
    for start, stop in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        yield data[start:stop].decode()


def tokens_per_word(backend: Trained, texts: list[str]) -> float | None:
    """Return pieces per word, where a word is what white space separates."""
    if backend is None:
        return None
    sample = texts[::10]
    num_words = sum(len(text.split()) for text in sample)
    encodings = backend.encode_batch_fast(sample, add_special_tokens=False)
    return round(int(np.sum([len(encoding) for encoding in encodings])) / num_words, 5)


def num_different(results: list[Trained]) -> int | None:
    """Return how many different tokenizers the runs gave."""
    if results[0] is None:
        return None
    digests = {hashlib.sha256(result.to_str().encode()).digest() for result in results if result}
    return len(digests)
