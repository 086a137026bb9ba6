"""Text without spaces between words: ours against `encode_batch_fast`, in memory, one core.

Chinese, Japanese, Korean and Thai with bert-base-chinese (the word cache) and GPT-2 (gigatoken).
"cold" is the first pass of a fresh encoder over the text, "seen" a later one; the two systems take
turns.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import DATA, print_table, write_result
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoding import make_encoder
from lmdata.tokenizer import load_tokenizer

TEXTS = {"zh": "utf-8", "ja-cp932": "cp932", "ko": "utf-8", "th-bom": "auto"}
VOCABULARIES = ("bert-base-chinese", "gpt2")


def main(arguments: list[str]) -> None:
    """Measure every language with every vocabulary; print and keep the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tokenize-unspaced",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--num-runs", type=int, default=3)
    parser.add_argument("--tokenizers", nargs="*", default=VOCABULARIES, help="or paths")
    parser.add_argument("--megabytes", type=float, default=4.0, help="of text of each language")
    options = parser.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = [
        measure(language, vocabulary, options.megabytes, options.num_runs)
        for vocabulary in options.tokenizers
        for language in TEXTS
    ]
    print_table(rows)
    others = [Path(name).name for name in options.tokenizers if name not in VOCABULARIES]
    write_result("-".join(["tokenize-unspaced", *others]), {"rows": rows})


def measure(language: str, vocabulary: str, megabytes: float, num_runs: int) -> dict[str, Any]:
    """Return the median rates of one language and vocabulary, and their ratios."""
    known = DATA / "vocab" / vocabulary
    tokenizer = load_tokenizer(known if vocabulary in VOCABULARIES else vocabulary)
    text, offsets = read_text(language, megabytes)
    documents = [text[a:b].tobytes().decode() for a, b in itertools.pairwise(offsets)]
    starts = offsets[:-1][np.diff(offsets) > 0]
    cold, seen, theirs = [], [], []
    for _ in range(num_runs):
        encoder = make_encoder(tokenizer)
        cold.append(seconds(encoder.encode, text, offsets, starts))
        seen.append(seconds(encoder.encode, text, offsets, starts))
        theirs.append(seconds(encode_batch_fast, tokenizer.backend, documents))
    rates = [len(text) / 1e6 / statistics.median(times) for times in (cold, seen, theirs)]
    return {
        "vocabulary": Path(vocabulary).name, "encoder": encoder.kind, "text": language,
        "mb": round(len(text) / 1e6, 1), "cold_mb_per_s": round(rates[0], 1),
        "seen_mb_per_s": round(rates[1], 1), "tokenizers_mb_per_s": round(rates[2], 1),
        "cold_times": round(rates[0] / rates[2], 1), "seen_times": round(rates[1] / rates[2], 1),
    }  # fmt: skip


def read_text(language: str, megabytes: float) -> tuple[np.ndarray, np.ndarray]:
    """Return documents of a language, about so many megabytes, as an encoder takes them."""
    config = CorpusConfig(encoding=TEXTS[language], errors="replace")
    parts, lengths = [], []
    for source in find_sources([str(DATA / "multilingual" / language)], config):
        for documents in read_documents(source, config):
            parts.append(documents.text)
            lengths.append(np.diff(documents.offsets))
        if sum(map(len, parts)) > megabytes * 1e6:
            break
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(np.concatenate(lengths))])


def encode_batch_fast(backend: Any, documents: list[str]) -> list[Any]:
    """Encode by `tokenizers` as one does, the ids read out."""
    encodings = backend.encode_batch_fast(documents, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def seconds(function: Any, *arguments: Any) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
