"""The sentence splitter against pySBD and BlingFire: boundaries found, and speed on one core.

Boundaries: paragraphs of the English Web Treebank, rebuilt from its sentences. A boundary is the
character position right after a sentence, the paragraph's end apart; all systems are scored on
these positions alone. The rules were developed on the documents of even number, so the odd ones
are the test. Speed: English Wikipedia, document by document, after one warm-up call.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import blingfire
import numpy as np
import pysbd
import zstandard

from benchmarks.measure import DATA, print_table, summary, timed, write_result
from lmdata.sentences import SPLITTER_VERSION, find_sentence_starts

TREEBANK = DATA / "tasks/ud-en-ewt/train.conllu.zst"
WIKIPEDIA = DATA / "wikipedia-en/wikipedia-en-00000.jsonl.zst"
PYSBD_BYTES = 100_000  # it is thousands of times slower

Finder = Callable[[str], set[int]]


class Paragraph(NamedTuple):
    """A paragraph of the treebank."""

    document: int
    text: str
    boundaries: set[int]  # characters, without 0 and the end


def main(arguments: list[str]) -> None:
    """Print both comparisons and write them to results/sentences.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks sentences", description=__doc__)
    parser.add_argument("--num-runs", type=int, default=5, help="timed runs of each system")
    num_runs = parser.parse_args(arguments).num_runs
    paragraphs = list(read_paragraphs(TREEBANK))
    accuracy = [accuracy_row(name, find, paragraphs) for name, find in FINDERS.items()]
    print_table(
        [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in r.items()} for r in accuracy]
    )
    print()
    speed = speed_rows(list(read_lines(WIKIPEDIA)), num_runs)
    print_table(
        [{key: row[key] for key in ("system", "mb_per_s", "times_blingfire")} for row in speed]
    )
    write_result("sentences", {"splitter": SPLITTER_VERSION, "accuracy": accuracy, "speed": speed})


def find_ours(text: str) -> set[int]:
    """Return our boundaries in characters."""
    encoded = text.encode()
    array = np.frombuffer(encoded, np.uint8)
    starts = find_sentence_starts(array, np.array([0, array.size]))
    return {len(encoded[:start].decode()) for start in starts[1:]}


def find_blingfire(text: str) -> set[int]:
    """Return BlingFire's boundaries in characters."""
    return ends_of(text, blingfire.text_to_sentences(text).split("\n"))


_SEGMENTER = pysbd.Segmenter(language="en", clean=False)


def find_pysbd(text: str) -> set[int]:
    """Return pySBD's boundaries in characters."""
    return ends_of(text, _SEGMENTER.segment(text))


FINDERS: dict[str, Finder] = {"lmdata": find_ours, "BlingFire": find_blingfire, "pySBD": find_pysbd}


def ends_of(text: str, sentences: list[str]) -> set[int]:
    """Return where sentences, in the order of the text, end in it, its own end apart.

    Example:
        >>> ends_of("Go. Stop.", ["Go. ", "Stop."])
        {3}
    """
    position, ends = 0, set()
    for sentence in filter(None, map(str.strip, sentences)):
        position = text.index(sentence, position) + len(sentence)
        ends.add(position)
    return ends - {len(text.rstrip())}


def accuracy_row(name: str, find: Finder, paragraphs: list[Paragraph]) -> dict[str, object]:
    """Return precision, recall and F1 over all paragraphs, and F1 on both halves."""
    found = [(paragraph, find(paragraph.text)) for paragraph in paragraphs]
    precision, recall, f1 = score(found)
    halves = [[pair for pair in found if pair[0].document % 2 == half] for half in (0, 1)]
    return {
        "system": name,
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
        "f1_development": round(score(halves[0])[2], 4),
        "f1_test": round(score(halves[1])[2], 4),
    }


def score(found: list[tuple[Paragraph, set[int]]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of boundary positions."""
    correct = sum(len(paragraph.boundaries & ends) for paragraph, ends in found)
    precision = correct / sum(len(ends) for _, ends in found)
    recall = correct / sum(len(paragraph.boundaries) for paragraph, _ in found)
    return precision, recall, 2 * precision * recall / (precision + recall)


def speed_rows(documents: list[str], num_runs: int) -> list[dict[str, object]]:
    """Return the speed of each system; times_blingfire compares medians of this run."""
    encoded = [document.encode() for document in documents]
    text = np.frombuffer(b"".join(encoded), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(document) for document in encoded])])
    few = documents[: int(np.searchsorted(offsets, PYSBD_BYTES))]
    jobs: dict[str, tuple[Callable[[], object], int]] = {
        "lmdata": (lambda: find_sentence_starts(text, offsets), text.size),
        "BlingFire": (lambda: [blingfire.text_to_sentences(d) for d in documents], text.size),
        "pySBD": (lambda: [_SEGMENTER.segment(d) for d in few], sum(len(d.encode()) for d in few)),
    }
    find_sentence_starts(text, offsets)
    rows: list[dict[str, object]] = []
    for name, (job, num_bytes) in jobs.items():
        times = summary(timed(job, 1 if name == "pySBD" else num_runs))
        rate = num_bytes / 1e6 / times["median_s"]
        rows.append({"system": name, "mb": num_bytes / 1e6, "mb_per_s": round(rate, 2), **times})
    base = float(str(rows[1]["mb_per_s"]))
    for row in rows:
        row["times_blingfire"] = round(float(str(row["mb_per_s"])) / base, 3)
    return rows


def read_lines(path: Path) -> Iterator[str]:
    """Yield the text of every document of a `.jsonl.zst` file."""
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def read_paragraphs(path: Path) -> Iterator[Paragraph]:
    """Yield the treebank's paragraphs: `# newdoc` and `# newpar` begin one.

    Sentences are joined by a space, or by nothing where the last word says SpaceAfter=No.
    """
    document, text, ends, glue = -1, "", list[int](), ""
    with zstandard.open(path, "rt", encoding="utf-8") as stream:
        for block in stream.read().split("\n\n"):
            lines = block.split("\n")
            is_new = any(line.startswith(("# newdoc", "# newpar")) for line in lines)
            if is_new and text:
                yield Paragraph(document, text, set(ends[:-1]))
                text, ends, glue = "", [], ""
            document += any(line.startswith("# newdoc") for line in lines)
            sentence = next((x[9:] for x in lines if x.startswith("# text = ")), "")
            if sentence:
                text += glue + sentence
                ends.append(len(text))
                glue = "" if "SpaceAfter=No" in lines[-1] else " "
    yield Paragraph(document, text, set(ends[:-1]))
