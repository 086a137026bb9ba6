"""What `lmdata tag` finds of what was planted: evaluation texts, common phrases, personal data."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measure import DATA
from lmdata.tagging.evaluations import read_evaluations
from lmdata.tagging.manifests import read_tag_manifest, read_tags
from lmdata.tagging.pii import find_pii
from references.personal_data import judge, make_cases

SIZES, NUM_ITEMS = (4, 7, 8, 10, 13), 60  # words of an item; items of each size
NUM_TRAPS, NUM_COMMON = 20, 12  # items of 13 words that so many documents use
LONG = 13  # words: GPT-3's n-grams
Row = dict[str, Any]
Tag = Callable[..., object]  # corpus, output, options


def plant_evaluations(folder: Path, tag: Tag) -> list[Row]:
    """Return how many texts of the task files are found in other case and marks, by their words.

    Each stands in a document of made-up words; those that many documents use are phrases.
    """
    choose, items = random.Random(5), items_by_size()
    planted = [(size, item) for size in SIZES for item in items[size][:NUM_ITEMS]]
    traps = items[LONG][NUM_ITEMS : NUM_ITEMS + NUM_TRAPS] * NUM_COMMON
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    texts = [in_a_document(item, choose) for item in [*(item for _, item in planted), *traps]]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (corpus / "planted.jsonl").write_text("".join(lines), encoding="utf-8")
    tag(corpus, folder / "tags", "--against", str(DATA / "tasks"))
    table = read_tags(folder / "tags", read_tag_manifest(folder / "tags"))
    rows = []
    for size in SIZES:
        own = [row for row, (words, _) in enumerate(planted) if words == size]
        found = sum(is_found(table, row, size) for row in own)
        rows.append({"work": f"evaluation texts of {size} words", "planted": len(own),
                     "found": found, "recall": round(found / len(own), 4)})  # fmt: skip
    wrong = sum(is_found(table, len(planted) + row, LONG) for row in range(len(traps)))
    what = f"texts of {LONG} words that {NUM_COMMON} documents use: none should be"
    return [*rows, {"work": what, "planted": len(traps), "found": wrong, "recall": None}]


def items_by_size() -> dict[int, list[str]]:
    """Return texts of the task files that are words alone, by how many, in any order.

    Each once, whatever its case: a text that is planted as a phrase must not be an item as well.
    """
    texts = {
        text.lower() for file in read_evaluations([DATA / "tasks"]) for text in file.texts
        if re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)*", text)
    }  # fmt: skip
    found = defaultdict(list)
    for text in random.Random(2).sample(sorted(texts), len(texts)):
        found[len(text.split())].append(text)
    return found


def in_a_document(item: str, choose: random.Random) -> str:
    """Return a document of made-up words with an item in capitals and with commas in its middle."""
    words = ["".join(choose.choices("bcdfgklmnprstvz", k=7)) for _ in range(60)]
    return " ".join([*words[:30], ", ".join(item.upper().split()) + "!", *words[30:]])


def is_found(table: pa.Table, row: int, size: int) -> bool:
    """Return whether a document is said to hold an item of so many words."""
    name = "contaminated_gpt3" if size >= LONG else "contaminated_palm" if size >= 8 else None
    if name is None:
        return bool(table.column("eval_num_short")[row].as_py())
    return bool(table.column(name)[row].as_py())


def judge_personal_data() -> list[Row]:
    """Return recall and precision of each kind on 600 cases, half of which are traps."""

    def find(text: str) -> list[tuple[str, str]]:
        content = text.encode()
        return [(kind, content[start:stop].decode()) for kind, start, stop in find_pii(content)]

    cases = make_cases()
    return [
        {"work": f"personal data: {kind}", "cases": len(cases), "right": right, "missed": missed,
         "wrong": wrong, "recall": round(right / (right + missed), 4),
         "precision": round(right / (right + wrong), 4)}
        for kind, (right, missed, wrong) in judge(cases, find).items()
    ]  # fmt: skip
