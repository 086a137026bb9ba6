"""Does curation help: runs of equal tokens on books and Wikipedia with planted junk, or without it.

Half of the corpus is junk: near copies of pages, menus, words in no order, notices from a form,
dumps of numbers. One tokenizer, trained on all of it, serves both; what the models know is measured
on clean text that neither has read, in bits per byte.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import run
from benchmarks.experts import MOST_DOCUMENT, documents_of
from benchmarks.measure import print_table, write_result

VOCAB_SIZE, LETTERS = "8192", 2000  # of a junk document, about
Row = dict[str, Any]


# ---- The corpus


def write_corpus(folder: Path, num_bytes: int) -> dict[str, int]:
    """Write `corpus/`, clean text and as many bytes of junk, and `clean/`, which no model reads.

    Returns:
        the bytes of each part of the corpus
    """
    draw, sizes = random.Random(0), {}
    clean: list[str] = []
    for domain in ("books", "wiki"):
        texts = (text[:MOST_DOCUMENT] for text in documents_of(domain, folder))
        held_out = list(up_to(texts, num_bytes // 10))
        rows = list(up_to(texts, num_bytes // 4))
        sizes[domain] = write(folder / "corpus" / f"{domain}.jsonl", rows)
        write(folder / "clean" / f"{domain}.jsonl", held_out)
        clean += rows
    for name, make in JUNK.items():
        texts = (make(clean, draw) for _ in itertools.count())
        rows = list(up_to(texts, num_bytes // 2 // len(JUNK)))
        sizes[name] = write(folder / "corpus" / f"{name}.jsonl", rows)
    return sizes


def up_to(texts: Iterator[str], num_bytes: int) -> Iterator[str]:
    """Yield texts until they have so many bytes.

    Example:
        >>> list(up_to(iter("abc"), 2))
        ['a', 'b']
    """
    total = 0
    for text in texts:
        yield text
        total += len(text.encode())
        if total >= num_bytes:
            return


def write(path: Path, texts: list[str]) -> int:
    """Write documents as JSON lines, and return the bytes of their text."""
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return sum(len(text.encode()) for text in texts)


def copy_of(clean: list[str], draw: random.Random) -> str:
    """Return one of fifty pages with a number put somewhere."""
    words = clean[draw.randrange(50)].split(" ")
    words.insert(draw.randrange(len(words)), str(draw.randrange(10**6)))
    return " ".join(words)


def menu(clean: list[str], draw: random.Random) -> str:
    """Return what stands around pages."""
    items = ["Home", "Log in", "Sign up", "Contact us", "Add to cart", "Next page", "Share", "Top",
             "Accept cookies", "Read more...", "Terms of use", "Search", "Subscribe"]  # fmt: skip
    return "\n".join(" | ".join(draw.sample(items, 3)) for _ in range(LETTERS // 30))


def salad(clean: list[str], draw: random.Random) -> str:
    """Return the words of ten documents in no order."""
    words = " ".join(draw.sample(clean, 10)).split()
    return " ".join(draw.choices(words, k=LETTERS // 6))


def notice(clean: list[str], draw: random.Random) -> str:
    """Return a form that names another owner each time."""
    name = f"{draw.choice(['Acme', 'Orion', 'Delta', 'Nova'])} {draw.randrange(10**4)}"
    lines = (
        f"{name} values your privacy and stores data as the law of your country allows.",
        f"By using the pages of {name} you agree that all content is given without warranty.",
        f"Copyright {draw.randrange(1995, 2025)} {name}. All rights reserved.",
    )
    return "\n".join(lines * (LETTERS // 220))


def dump(clean: list[str], draw: random.Random) -> str:
    """Return numbers and marks."""
    return "\n".join(
        " ".join(f"{draw.getrandbits(32):08x}" for _ in range(6)) + " {};" for _ in range(35)
    )


JUNK: dict[str, Callable[[list[str], random.Random], str]] = {
    "copies": copy_of, "menus": menu, "salad": salad, "notices": notice, "dumps": dump,
}  # fmt: skip


# ---- The runs


def make_stores(folder: Path, num_bytes: int) -> Row:
    """Make the corpus, its tags and selection, and the three token stores; say what was kept."""
    sizes = write_corpus(folder, num_bytes)
    run(["lmdata", "train-tokenizer", "corpus", "--model", "bpe", "--vocab-size", VOCAB_SIZE,
         "--json"], folder)  # fmt: skip
    run(["lmdata", "clean", "corpus", "--recipe", "english", "--json"], folder)
    stores = {
        "raw": ["corpus"],
        "curated": ["corpus", "--select", "selection"],
        "held-out": ["clean", "--set", "validation_ratio=0.9"],
    }
    kept: dict[str, int] = {}
    for name, arguments in stores.items():
        told = run(["lmdata", "tokenize", *arguments, "--tokenizer", "tokenizer", "--output", name,
                    "--json"], folder)["result"]  # fmt: skip
        kept[name] = told["ledger"]["tokens"]["read"]
    return {"bytes": sizes, "tokens": kept}


def bits_of(folder: Path, store: str, seed: int, options: argparse.Namespace) -> tuple[float, Row]:
    """Train on a store, and return the bits per byte of clean text, in all and by kind."""
    output, began = f"runs/{store}-{seed}", time.perf_counter()
    run(["lmmodel", "train", store, "--model", options.size, "--family", "gpt2", "--objective",
         "clm", "--num-tokens", str(options.num_tokens), "--seed", str(seed), "--output", output,
         "--set", "batch.size=16", "--set", "evaluation.num_examples=0", "--overwrite",
         "--json"], folder)  # fmt: skip
    seconds = time.perf_counter() - began
    told = run(["lmmodel", "evaluate", output, "held-out", "--by-source", "--num-examples", "2000",
                "--json"], folder)["result"]  # fmt: skip
    bits = told["total"]["nats_per_byte"] / math.log(2)
    by_source = {
        one["source"].removesuffix(".jsonl"): one["nats_per_byte"] / math.log(2)
        for one in told["sources"]
    }
    row = {"store": store, "seed": seed, "bits_per_byte": bits, **by_source}
    return bits, {**row, "train_s": round(seconds)}


def main(arguments: list[str]) -> None:
    """Make the stores, train on both with each seed, print the table and keep it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks raw-or-curated", description=__doc__
    )
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--size", default="mini")
    parser.add_argument("--num-tokens", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--num-bytes", type=int, default=16_000_000, help="of the raw corpus")
    parser.add_argument("--num-seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    made = make_stores(options.folder, options.num_bytes)
    print(json.dumps(made), flush=True)
    bits: dict[str, list[float]] = {"raw": [], "curated": []}
    rows: list[Row] = []
    for seed in range(options.num_seeds):
        for store, values in bits.items():
            value, row = bits_of(options.folder, store, seed, options)
            values.append(value)
            rows.append(row)
            print(row, flush=True)
    gains = [raw - curated for raw, curated in zip(*bits.values(), strict=True)]
    spread = statistics.stdev(gains) if len(gains) > 1 else 0.0
    print_table(rows)
    print(f"curated is {statistics.mean(gains):.3f} bits per byte better, spread {spread:.3f}")
    settings = {"size": options.size, "num_tokens": options.num_tokens, **made}
    write_result("raw-or-curated", {"settings": settings, "gains": gains, "rows": rows})
