"""Small tokenizers, corpora and finished datasets for the tests of building and opening."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmdata.building.units import prepare_units
from lmdata.building.workers import Failed, Finished, Message, Prepare, Reported, Threads, Workers
from lmdata.corpus import CorpusConfig, find_sources
from lmdata.errors import LmdataError
from lmdata.schema import MANIFEST_NAME, Manifest
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import Tokenizer, wordpiece_backend
from lmdata.tokens import tokenize_corpus
from lmdata.xxh3 import xxh3_128

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    ".",
    ",",
    "?",
    "##s",
    "##ing",
]
LINES = CorpusConfig(documents="line")


def make_tokenizer(extra: Sequence[str] = ()) -> Tokenizer:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *WORDS, *extra]
    pieces += [f"##{letter}" for letter in letters]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return Tokenizer(wordpiece_backend(vocabulary, lower_case=True))


def make_sentinel_tokenizer(num_sentinels: int = 40) -> Tokenizer:
    """The same with `<extra_id_0>` and so on behind the other pieces."""
    sentinels = [f"<extra_id_{number}>" for number in range(num_sentinels)]
    backend = make_tokenizer(sentinels).backend
    backend.add_special_tokens(sentinels)
    return Tokenizer(backend)


def write_corpus(folder: Path, files: dict[str, Sequence[str]]) -> Path:
    """One document a line, or one a JSON line for names that end in .jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": d}) if name.endswith("l") else d for d in documents]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def random_documents(num_documents: int, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    words = [word for word in WORDS if not word.startswith("##")]
    return [
        f"{index} " + " ".join(generator.choice(words, generator.integers(1, 40)))
        for index in range(num_documents)
    ]


class InlineWorkers:
    """Workers in this process, one unit at a time; `seed` decides which worker is done first."""

    def __init__(
        self, num_workers: int = 1, seed: int = 0, prepare: Prepare = prepare_units,
        tokenizer_path: Path | None = None,
    ) -> None:  # fmt: skip
        self.num_workers = num_workers
        self._prepare = prepare
        self._tasks: list[tuple[int, Any]] = []
        self._generator = np.random.default_rng(seed)

    def prepare(self, setup: Any, lock: int) -> None:
        self._work = self._prepare(lambda: setup)

    def submit(self, worker: int, task: Any) -> None:
        self._tasks.append((worker, task))

    def receive(self, timeout_s: float) -> list[Message]:
        worker, task = self._tasks.pop(self._generator.integers(len(self._tasks)))
        reports: list[Message] = []
        try:
            result = self._work(task, lambda value: reports.append(Reported(worker, value)))
        except LmdataError as error:
            return [*reports, Failed(worker, error)]
        return [*reports, Finished(worker, result)]

    def close(self) -> None:
        self._tasks.clear()


def start_no_processes(patch: pytest.MonkeyPatch) -> None:
    """Have commands work in this process: others take seconds to start."""
    patch.setattr("lmdata.tokens.start_tokenizing", InlineWorkers)
    patch.setattr("lmdata.building.workers.start_tokenizing", InlineWorkers)
    tagging = partial(Threads, prepare="lmdata.tagging.units:prepare_tags")
    patch.setattr("lmdata.tags.start_tagging", tagging)


def write_three_files(folder: Path, num_documents: int) -> Path:
    files = {f"{name}.txt": random_documents(num_documents, i) for i, name in enumerate("abc")}
    return write_corpus(folder, files)


def tokenize_in_small_units(corpus: Path, output: Path, workers: Workers) -> None:
    """Tokenize documents of one line each: many units, several shards, two splits."""
    config = TokenizeConfig(corpus=LINES, validation_ratio=0.1, shard_bytes=4000)
    sources = find_sources([str(corpus)], config.corpus)
    tokenize_corpus(sources, config, make_tokenizer(), output, workers=workers, unit_bytes=700)


def build(
    corpus: Path, output: Path, tokenizer: Tokenizer | None = None, *,
    num_workers: int = 1, seed_of_workers: int = 0, processes: bool = False,
    reading: CorpusConfig = LINES, **options: Any,
) -> Manifest:  # fmt: skip
    """Tokenize a folder, in this process unless `processes`.

    Fields of `TokenizeConfig` and arguments of `tokenize_corpus` are told apart by name.
    """
    names = {"memory_bytes", "overwrite", "progress", "unit_bytes"}
    arguments = {name: options.pop(name) for name in names & options.keys()}
    config = TokenizeConfig(corpus=reading, **options)
    sources = find_sources([str(corpus)], config.corpus)
    workers = None if processes else InlineWorkers(num_workers, seed_of_workers)
    return tokenize_corpus(
        sources, config, tokenizer or make_tokenizer(), output, num_workers=num_workers,
        workers=workers, **arguments,  # type: ignore[arg-type]
    )  # fmt: skip


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit_manifest(folder: Path, **changes: Any) -> None:
    """Change keys of a manifest and make its hash right again."""
    path = folder / MANIFEST_NAME
    values = json.loads(path.read_text()) | changes
    values.pop("hash", None)
    text = json.dumps(values, sort_keys=True, indent=1) + "\n"
    path.write_text(json.dumps({**values, "hash": xxh3_128(text.encode()).hexdigest()}))


def make_version_1(folder: Path) -> None:
    """Make a dataset what version 1 of the format was."""
    path = folder / MANIFEST_NAME
    values = json.loads(path.read_text())
    for shards in values["splits"].values():
        for shard in shards:
            del shard["blocks"], shard["frame"]
    del values["hash"]
    values.pop("views", None)
    if values["configuration"].get("recipe", {}).get("view") == "sop":
        del values["ledger"]["flows"]["tokens"]
    text = json.dumps({**values, "format_version": 1}, sort_keys=True, indent=1)
    path.write_text(text + "\n")
