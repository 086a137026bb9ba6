"""`lmmodel count` over the ids of real Wikipedia: seconds and memory, beside KenLM's lmplz."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import DATA, print_table, write_result
from lmdata.dataset import open_store
from lmmodel.counting.folder import arpa_words, write_arpa
from lmmodel.counting.keys import lines_of_store
from lmmodel.counting.smoothing import smooth
from lmmodel.counting.sorting import find_levels
from lmmodel.counting.trie import join_levels
from references.made_up import write_store

TOLERANCE = 1e-5  # decimal logarithms


def main(arguments: list[str]) -> None:
    """Count a store, then a part of it by both programs, and compare every probability."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ngrams", description=__doc__)
    parser.add_argument("--store", type=Path, help="a token store; else Wikipedia is tokenized")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--lmplz", type=Path, help="KenLM's program, to compare with")
    parser.add_argument("--part-tokens", type=int, default=2_000_000, help="that both count")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = options.store or tokenize(folder / "tokens")
        rows = [count(store, folder / "model", options.order)]
        compared = None
        if options.lmplz is not None:
            part = write_part(store, folder / "part", options.part_tokens)
            rows.append(count(part, folder / "small", options.order))
            rows.append(count_by_lmplz(options.lmplz, part, folder, options.order))
            compared = compare(part, folder / "lmplz.arpa", options.order)
            print(f"largest difference of {compared['num_ngrams']:,} n-grams: "
                  f"{compared['largest_difference']:.2g}")  # fmt: skip
        print_table(rows)
    write_result("ngrams", {"order": options.order, "rows": rows, "compared": compared})
    if compared is not None and compared["largest_difference"] > TOLERANCE:
        sys.exit("the two programs differ")


def tokenize(folder: Path) -> Path:
    """Return the token store of the Wikipedia that lies beside the project."""
    run([program("lmdata"), "tokenize", str(DATA / "wikipedia-en"), "--output", str(folder),
         "--tokenizer", str(DATA / "vocab/bert-base-uncased"), "--quiet"])  # fmt: skip
    return folder


def program(name: str) -> str:
    """Return the path of a program that is installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def run(command: Sequence[str], **options: Any) -> tuple[float, float]:
    """Run a command; return its seconds and its peak of resident memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, **options)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - start, memory_mib(usage)


def memory_mib(usage: resource.struct_rusage) -> float:
    """Return the peak of resident memory."""
    return usage.ru_maxrss / 1024


def count(store: Path, output: Path, order: int) -> dict[str, Any]:
    """Count a store by the command that a user types."""
    command = [program("lmmodel"), "count", str(store), "--order", str(order), "--output",
               str(output), "--quiet"]  # fmt: skip
    seconds, memory = run(command)
    record = json.loads((output / "config.json").read_text(encoding="utf-8"))
    return {
        "program": "lmmodel count", "tokens": record["num_tokens"],
        "n-grams": sum(record["sizes"]), "seconds": round(seconds, 2), "MiB": round(memory),
    }  # fmt: skip


def write_part(store_path: Path, folder: Path, num_tokens: int) -> Path:
    """Write the first documents of a store as one of their own."""
    store = open_store(store_path)
    ids, lengths = [], []
    for row in range(len(store)):
        if sum(lengths) >= num_tokens:
            break
        document, _ = store.document(row)
        ids.append(document)
        lengths.append(len(document))
    sizes = np.array(lengths)
    write_store(folder, store.tokenizer, np.concatenate(ids), sizes, sizes)
    return folder


def count_by_lmplz(lmplz: Path, part: Path, folder: Path, order: int) -> dict[str, Any]:
    """Count the same ids by KenLM, each document a line of pieces."""
    store = open_store(part)
    pieces = np.array(store.tokenizer.pieces, object)
    text, arpa = folder / "part.txt", folder / "lmplz.arpa"
    with text.open("w", encoding="utf-8") as file:
        for row in range(len(store)):
            file.write(" ".join(pieces[store.document(row)[0]]) + "\n")
    command = [str(lmplz), "-o", str(order), "-S", "1G", "-T", str(folder), "--discount_fallback",
               "--vocab_pad", str(len(pieces) + 1)]  # fmt: skip
    with text.open("rb") as read, arpa.open("wb") as write:
        seconds, memory = run(command, stdin=read, stdout=write, stderr=subprocess.DEVNULL)
    return {
        "program": "lmplz", "tokens": store.num_tokens, "n-grams": None,
        "seconds": round(seconds, 2), "MiB": round(memory),
    }  # fmt: skip


def write_ours(part: Path, path: Path, order: int) -> None:
    """Write the model of a store as `lmmodel export --format arpa` does."""
    store = open_store(part)
    trie = join_levels(smooth(find_levels(lines_of_store(store), order, 2), 2)[0])
    words = arpa_words(store.tokenizer.pieces, store.tokenizer.special_ids["unk"])
    with path.open("w", encoding="utf-8") as file:
        write_arpa(trie, words, file)


def compare(part: Path, theirs: Path, order: int) -> dict[str, Any]:
    """Return how far apart the probabilities and back-offs of both programs are."""
    ours = theirs.with_name("ours.arpa")
    write_ours(part, ours, order)
    known, other = read(ours), read(theirs)
    del other["<s>"]  # its probability is never asked for
    differences = [
        abs(a - b) for gram, own in other.items() for a, b in zip(own, known[gram], strict=False)
    ]
    return {"num_ngrams": len(other), "largest_difference": max(differences)}


def read(path: Path) -> dict[str, tuple[float, ...]]:
    """Return the figures of each n-gram of an ARPA file."""
    known = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            fields = line.rstrip("\n").split("\t")
            if len(fields) >= 2:
                known[fields[1]] = tuple(float(field) for field in (fields[0], *fields[2:]))
    return known
