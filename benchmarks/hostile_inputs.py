"""Files that want to hurt: valid ones damaged at random, and shapes that unfold or nest too far.

Every maker takes a generator of random numbers and a folder, writes its input there and returns the
command that reads it. The same seed makes the same bytes.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import zstandard

WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "while",
    "rain",
    "fell",
    "and",
    "nobody",
    "knew",
    "why",
)
DEEP = "\N{BLACK SQUARE}deep"  # stands for brackets nested too far to be parsed by recursion
DEPTH = 100_000
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 0.5, -0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**18,
    10**400, "", "x", "\0", "../../etc", [], {}, [None], {"x": {}}, DEEP, "a" * 100_000,
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Sound things that commands need beside the hostile input."""

    tokenizer: Path
    tokens: Path
    shards: Path
    run: Path
    classifier: Path
    exported: Path


@dataclass(frozen=True)
class Case:
    """A command and what it may use."""

    kind: str
    program: str
    arguments: tuple[str, ...]
    budget_bytes: int = 1 << 30


def sentences(rng: random.Random, number: int) -> list[str]:
    """Return short English-looking texts."""
    return [
        " ".join(rng.choices(WORDS, k=rng.randint(3, 30))).capitalize() + "." for _ in range(number)
    ]


def damage(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four places flipped, cut, doubled, zeroed or made up."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not result:
            return bytes(result)
        at, length = rng.randrange(len(result)), rng.randint(1, 64)
        match rng.randrange(6):
            case 0:
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                del result[at : at + length]
            case 2:
                result[at:at] = result[at : at + length]
            case 3:
                result[at : at + length] = bytes(len(result[at : at + length]))
            case 4:
                result[at:at] = rng.randbytes(length)
            case 5:
                del result[at:]
    return bytes(result)


def flip(rng: random.Random, path: Path) -> int:
    """Flip one bit of a file and return the byte it lies in."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return at


def twist(rng: random.Random, value: Any) -> Any:
    """Return a JSON value of which one part is replaced, left out or repeated."""
    value = json.loads(json.dumps(value))
    place, steps = value, rng.randint(1, 6)
    for step in range(steps):
        if not isinstance(place, dict | list) or not place:
            break
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        is_last = step == steps - 1 or not isinstance(place[key], dict | list) or not place[key]
        if is_last:
            if rng.random() < 0.15:
                del place[key]
            else:
                place[key] = rng.choice(HOSTILE_VALUES)
            break
        place = place[key]
    return value


def to_text(value: Any) -> str:
    """Return JSON with the stand-in for deep nesting replaced by the nesting itself."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * DEPTH + "]" * DEPTH)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def table_bytes(suffix: str, columns: dict[str, list[Any]]) -> bytes:
    """Return a table in the format that a suffix names."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    table, sink = pa.table(columns), io.BytesIO()
    if suffix == ".parquet":
        pq.write_table(table, sink)
    elif suffix == ".arrow":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        options = pyarrow.csv.WriteOptions(delimiter=delimiter)
        pyarrow.csv.write_csv(table, sink, options)
    return sink.getvalue()


def damaged_corpus(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """Text in some format, compressed or not, damaged before or after the compression."""
    suffix = rng.choice([".txt", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow"])
    texts = sentences(rng, 200)
    data = "\n\n".join(texts).encode() if suffix == ".txt" else table_bytes(suffix, {"text": texts})
    ending = rng.choice(list(COMPRESSORS)) if suffix not in {".parquet", ".arrow"} else ""
    compress = COMPRESSORS[ending]
    if rng.random() < 0.3:
        data = compress(damage(rng, data))
    elif ending and rng.random() < 0.4:
        data = compress(data[:2000]) + damage(rng, compress(data[2000:])) + compress(b"")
    else:
        data = damage(rng, compress(data))
    path = folder / f"a{suffix}{ending}"
    path.write_bytes(data)
    return _tokenize(rng, stage, path)


def odd_lines(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """JSON lines whose records are twisted, too deep, too large or of another type."""
    records = [
        {"text": text, "meta": {"id": index}} for index, text in enumerate(sentences(rng, 50))
    ]
    lines = [to_text(twist(rng, record) if rng.random() < 0.3 else record) for record in records]
    odd = [
        '{"text": "\\udc80"}',
        '{"text": "a", "text": 5}',
        "[" * DEPTH,
        "\ufeff{}",
        "\0",
        "1" * 5000,
    ]
    lines[rng.randrange(len(lines))] = rng.choice(odd)
    path = folder / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return _tokenize(rng, stage, path)


def bomb(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A small file that unfolds to more than the budget."""
    kind = rng.choice(["lines", "one-line", "header", "dictionary"])
    if kind == "dictionary":
        text = pa.array(["x" * 1_000_000])
        column = pa.DictionaryArray.from_arrays(pa.array([0] * 2_500, pa.int32()), text)
        path = folder / "a.parquet"
        pq.write_table(pa.table({"text": column}), path, compression="zstd")
        return _tokenize(rng, stage, path)
    suffix = rng.choice([".txt", ".jsonl", ".csv", ".tsv"])
    piece = {"lines": b"\n", "one-line": b"a", "header": b"c,"}[kind] * (1 << 20)
    path = folder / f"a{suffix}.zst"
    compressor = zstandard.ZstdCompressor(level=1)
    with path.open("wb") as file, compressor.stream_writer(file) as writer:
        for _ in range(1500):
            writer.write(piece)
    return _tokenize(rng, stage, path)


def twisted_tokenizer(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A tokenizer folder of which one file is twisted or damaged."""
    copy = folder / "tok"
    shutil.copytree(stage.tokenizer, copy)
    path = copy / rng.choice(["tokenizer.json", "tokenizer.json", "tokenizer_config.json"])
    if not path.exists():
        path = copy / "tokenizer.json"
    if rng.random() < 0.7:
        path.write_text(to_text(twist(rng, json.loads(path.read_text()))), encoding="utf-8")
    else:
        path.write_bytes(damage(rng, path.read_bytes()))
    text = folder / "a.txt"
    text.write_text("\n".join(sentences(rng, 40)), encoding="utf-8")
    arguments = ("tokenize", str(text), "--tokenizer", str(copy), "--num-workers", "1")
    return Case("tokenizer", "lmdata", arguments)


SETTINGS = {
    "tokenize": ("seed", "shard_bytes", "validation_ratio", "sentences", "corpus.encoding",
                 "corpus.errors", "corpus"),
    "mask": ("max_seq_length", "mlm_probability", "duplicates", "view", "corruption", "seed",
             "short_seq_prob"),
    "train": ("budget.num_steps", "budget.num_epochs", "budget.num_minutes", "batch_size",
              "model.num_hidden_layers", "model.hidden_size", "model.num_attention_heads",
              "model.max_position_embeddings", "model.dropout", "optimizer.lr", "schedule",
              "prefetch", "init_from", "checkpoint.keep", "objective.name", "seed", "device"),
}  # fmt: skip


def hostile_settings(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A TOML file with a setting that has the wrong type, or is far too large or too deep."""
    verb = rng.choice(list(SETTINGS))
    *tables, key = rng.choice(SETTINGS[verb]).split(".")
    value = rng.choice(
        ["-1", "0", "1e18", "1e-9", "9223372036854775808", "1" + "0" * 400, "nan", "inf", "true",
         '"x"', '""', "[]", "{}", "[[1]]", "1979-05-27", '"' + "a/" * 50_000 + '"', "100000",
         "10000000", "[" * 5_000 + "]" * 5_000, "{a=" * 2_000 + "1" + "}" * 2_000]
    )  # fmt: skip
    lines = [f"[{'.'.join(tables)}]"] if tables else []
    path = folder / "c.toml"
    path.write_text("\n".join([*lines, f"{key} = {value}"]), encoding="utf-8")
    text = folder / "a.txt"
    text.write_text("\n".join(sentences(rng, 40)), encoding="utf-8")
    program, arguments = {
        "tokenize": ("lmdata", ("tokenize", str(text), "--tokenizer", str(stage.tokenizer))),
        "mask": ("lmdata", ("mask", str(stage.tokens))),
        "train": ("lmmodel", ("train", str(stage.shards), "--set", "model.size=tiny")),
    }[verb]
    dry = ("--dry-run",) if verb == "train" else ("--num-workers", "1")
    return Case("settings", program, (*arguments, "--config", str(path), *dry))


def twisted_checkpoint(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A Hugging Face folder of which a file is twisted or damaged."""
    copy = folder / "hf"
    shutil.copytree(stage.exported, copy)
    path = rng.choice(sorted(path for path in copy.iterdir() if path.is_file()))
    if path.suffix == ".json" and rng.random() < 0.8:
        path.write_text(to_text(twist(rng, json.loads(path.read_text()))), encoding="utf-8")
    else:
        path.write_bytes(damage(rng, path.read_bytes()))
    return Case("import", "lmmodel", ("import", str(copy), str(folder / "imported")), 2 << 30)


def task_file(rng: random.Random, folder: Path) -> tuple[Path, str]:
    """Write a damaged task file and return it with the task it is for."""
    texts = sentences(rng, 24)
    suffix = rng.choice([".tsv", ".csv", ".jsonl", ".parquet", ".conllu", ".json"])
    task = "sequence-classification"
    if suffix == ".conllu":
        task = "token-classification"
        lines = [
            "\n".join(f"{n}\t{word}\t_\t{rng.choice(['NOUN', 'VERB'])}" + "\t_" * 6
                      for n, word in enumerate(text.split(), 1)) for text in texts
        ]  # fmt: skip
        data = "\n\n".join(lines).encode()
    elif suffix == ".json":
        task = "question-answering"
        questions = [
            {"id": str(n), "question": "why?", "answers": [{"text": text[:3], "answer_start": 0}]}
            for n, text in enumerate(texts)
        ]
        paragraphs = [
            {"context": text, "qas": [asked]} for text, asked in zip(texts, questions, strict=True)
        ]
        squad = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
        data = to_text(twist(rng, squad)).encode()
    else:
        labels = [rng.choice(["good", "bad"]) for _ in texts]
        data = table_bytes(suffix, {"text": texts, "label": labels})
    if suffix != ".json" or rng.random() < 0.3:
        data = damage(rng, data)
    ending = rng.choice(["", "", "", ".gz", ".bz2", ".xz", ".zst"]) if suffix != ".parquet" else ""
    path = folder / f"task{suffix}{ending}"
    path.write_bytes(COMPRESSORS[ending](data))
    return path, task


def damaged_task(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A task file, damaged, to fine-tune on."""
    path, task = task_file(rng, folder)
    arguments = (
        "finetune", str(stage.run), "--task", task, "--train", str(path), "--validation", str(path),
        "--output", str(folder / "tuned"), "--num-epochs", "1", "--seeds", "1", "--device", "cpu",
    )  # fmt: skip
    return Case("task", "lmmodel", arguments, 2 << 30)


def damaged_inputs(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A damaged table of texts for a verb that predicts."""
    path, _ = task_file(rng, folder)
    verb, model = rng.choice(
        [("embed", stage.run), ("score", stage.run), ("classify", stage.classifier)]
    )
    output = ("--output", str(folder / "out.npy")) if verb == "embed" else ()
    return Case("predict", "lmmodel", (verb, str(model), "--file", str(path), *output), 2 << 30)


def damaged_run(rng: random.Random, stage: Stage, folder: Path) -> Case:
    """A run folder of which a file is twisted or damaged, evaluated or resumed."""
    copy = folder / "run"
    shutil.copytree(stage.run, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix != ".png")
    path = rng.choice(files)
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(to_text(twist(rng, json.loads(path.read_text()))), encoding="utf-8")
    else:
        path.write_bytes(damage(rng, path.read_bytes()))
    verb = rng.choice(["evaluate", "resume", "export"])
    arguments = {
        "evaluate": ("evaluate", str(copy)),
        "resume": ("train", "--output", str(copy), "--resume"),
        "export": ("export", str(copy), str(folder / "out")),
    }[verb]
    return Case("run", "lmmodel", arguments, 2 << 30)


def _tokenize(rng: random.Random, stage: Stage, path: Path) -> Case:
    errors = rng.choice(["strict", "replace", "skip"])
    arguments = (
        "tokenize", str(path), "--tokenizer", str(stage.tokenizer), "--errors", errors,
        "--memory", "1GiB", "--num-workers", "1",
    )  # fmt: skip
    return Case("corpus", "lmdata", arguments)


Maker = Callable[[random.Random, Stage, Path], Case]

MAKERS: Sequence[tuple[Maker, int]] = (
    (damaged_corpus, 30), (odd_lines, 10), (bomb, 2), (twisted_tokenizer, 15),
    (hostile_settings, 13), (twisted_checkpoint, 12), (damaged_task, 10), (damaged_inputs, 4),
    (damaged_run, 6),
)  # fmt: skip
"""What makes the inputs, and how many of each in about a hundred."""


def make_case(seed: int, stage: Stage, folder: Path) -> Case:
    """Write the hostile input of a seed into a folder and return the command that reads it."""
    rng = random.Random(seed)
    (maker,) = rng.choices([maker for maker, _ in MAKERS], [weight for _, weight in MAKERS])
    return maker(rng, stage, folder)
