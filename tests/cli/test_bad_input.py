"""Bad input: one line that says what to do, exit code 1 (wrong usage: 2), nothing left."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.cli.commands import TRAIN_FAST, Road, as_json, everything_in, invoke

Prepare = Callable[[Path, Road], list[str | Path]]
TEXT = b"The bird sees a road. " * 200


@dataclass(frozen=True)
class Case:
    """A command on bad input: what prepares it and returns its arguments, and what it says."""

    prepare: Prepare
    message: str
    exit_code: int = 1


def write(name: str, data: bytes | str, *options: str) -> Prepare:
    """Return what writes one corpus file and tokenizes it."""

    def prepare(folder: Path, road: Road) -> list[str | Path]:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return ["lmdata", "tokenize", folder / name, "--tokenizer", road.tokenizer, *options]

    return prepare


def tokenize(*arguments: str) -> Prepare:
    return lambda _, road: ["lmdata", "tokenize", *arguments, "--tokenizer", road.tokenizer]


def train_tokenizer(*options: str) -> Prepare:
    return lambda _, road: ["lmdata", "train-tokenizer", road.corpus, *options]


def mask(*options: str) -> Prepare:
    return lambda _, road: ["lmdata", "mask", road.tokens, *options]


def train(*options: str) -> Prepare:
    return lambda _, road: ["lmmodel", "train", road.shards, *TRAIN_FAST, *options]


def with_toml(text: str, command: Prepare) -> Prepare:
    def prepare(folder: Path, road: Road) -> list[str | Path]:
        (folder / "it.toml").write_text(text)
        return [*command(folder, road), "--config", folder / "it.toml"]

    return prepare


def parquet(column: pa.Array, *options: str) -> Prepare:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": column}), sink)
    return write("it.parquet", sink.getvalue().to_pybytes(), *options)


def empty_folder(folder: Path, road: Road) -> list[str | Path]:
    (folder / "nothing").mkdir()
    return ["lmdata", "tokenize", folder / "nothing", "--tokenizer", road.tokenizer]


def store_without_mask(folder: Path, road: Road) -> list[str | Path]:
    """A store whose tokenizer is BERT's in everything but a mask."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "bird", "."]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    as_json("lmdata", "tokenize", road.corpus, "--tokenizer", folder / "vocab.txt",
            "--output", folder / "tokens")  # fmt: skip
    return ["lmdata", "mask", folder / "tokens"]


def copy_of_shards(change: Callable[[Path], None], *command: str) -> Prepare:
    def prepare(folder: Path, road: Road) -> list[str | Path]:
        shutil.copytree(road.shards, folder / "shards")
        change(folder / "shards")
        extra = TRAIN_FAST if command == ("lmmodel", "train") else []
        return [*command, folder / "shards", *extra]

    return prepare


def swap_tokenizer(shards: Path) -> None:
    path = shards / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"the"', '"teh"'))


def from_the_future(shards: Path) -> None:
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format_version": 999}))


def truncate(shards: Path) -> None:
    (shard,) = shards.glob("train-*.arrow")
    os.truncate(shard, shard.stat().st_size // 2)


def evaluate_other_tokenizer(folder: Path, road: Road) -> list[str | Path]:
    other = ["lmdata", "train-tokenizer", road.corpus, "--vocab-size", "60", "--output",
             folder / "tokenizer", "--set", "allow_smaller=true"]  # fmt: skip
    assert invoke(*other).exit_code == 0
    as_json("lmdata", "tokenize", road.corpus, "--tokenizer", folder / "tokenizer",
            "--output", folder / "tokens", "--documents", "blank-line")  # fmt: skip
    return ["lmmodel", "evaluate", road.run, folder / "tokens", "--split", "train"]


def existing(*names: str) -> Callable[[Path, Road], list[str | Path]]:
    """Return what names an output that is there: the verb, its input and its output."""

    def prepare(folder: Path, road: Road) -> list[str | Path]:
        command, verb, source, output = names
        option = [] if verb == "export" else ["--output"]
        paths = [getattr(road, source), *option, getattr(road, output)]
        return [command, verb, *paths, *(TRAIN_FAST if verb == "train" else [])]

    return prepare


CASES = {
    "no such path": Case(tokenize("nowhere"), "no such file or folder: nowhere"),
    "no match": Case(tokenize("no*.txt"), r"no file matches no\*\.txt"),
    "an empty folder": Case(empty_folder, "no text in .*nothing: nothing there; reads .txt"),
    "only empty files": Case(write("it.txt", ""), "no text|nothing|no document"),
    "unknown extension": Case(write("it.pdf", "x"), r"it\.pdf has no known extension"),
    "not UTF-8": Case(
        write("it.txt", b"abc\xffdef"),
        r"it\.txt is not UTF-8 at byte 3 \(0xff\): name its --encoding .*--errors replace or skip",
    ),
    "unknown encoding": Case(write("it.txt", "x", "--encoding", "utf-99"), "utf-99"),
    "a truncated gz": Case(write("it.txt.gz", gzip.compress(TEXT)[:-20]), r"it\.txt\.gz"),
    "a truncated zst": Case(
        write("it.txt.zst", zstandard.ZstdCompressor().compress(TEXT)[:-9]), r"it\.txt\.zst"
    ),
    "a broken JSON line": Case(
        write("it.jsonl", '{"text": "a b"}\n{"text": \n'),
        r"it\.jsonl line 2 .*--errors skip",
    ),
    "a missing field": Case(
        write("it.jsonl", '{"body": "a", "title": "b"}\n'),
        "no field 'text', its fields are: body, title; name one with --text-field",
    ),
    "a missing column": Case(write("it.csv", "id,body\n1,a\n"), "its fields are: id, body"),
    "a null text": Case(write("it.jsonl", '{"text": null}\n'), r"it\.jsonl line 1.*null"),
    "a null cell": Case(parquet(pa.array(["a", None])), r"it\.parquet record 2: 'text' is null"),
    "a column of numbers": Case(parquet(pa.array([1, 2])), "'text' is of type int64, not string"),
    "not Parquet at all": Case(write("it.parquet", TEXT), r"it\.parquet is not valid \.parquet"),
    "a document over the limit": Case(
        write("it.txt", TEXT, "--set", "corpus.max_document_bytes=1000"),
        r"it\.txt.* bytes or more, .*--set corpus\.max_document_bytes=\d+",
    ),
    "a limit in train-tokenizer": Case(
        train_tokenizer("--set", "corpus.max_document_bytes=10"),
        r"--set corpus\.max_document_bytes=\d+",
    ),
    "a vocabulary too small": Case(train_tokenizer("--vocab-size", "3"), "vocab_size 3 is too sm"),
    "a vocabulary too large": Case(
        train_tokenizer("--vocab-size", "30000"),
        r"vocab_size 30000 is more than this text can fill: .* set vocab_size to at most \d+",
    ),
    "no such tokenizer": Case(
        lambda _, road: ["lmdata", "tokenize", road.corpus, "--tokenizer", "nowhere"], "nowhere"
    ),
    "a tokenizer without a mask": Case(store_without_mask, r"\[MASK\]|mask token"),
    "no such store": Case(lambda *_: ["lmdata", "mask", "nowhere"], "nowhere"),
    "shards given as a store": Case(lambda _, road: ["lmdata", "mask", road.shards], "shards"),
    "a store without such a split": Case(
        lambda _, road: ["lmdata", "stats", road.tokens, "--split", "test"], "split"
    ),
    "a row that is not there": Case(
        lambda _, road: ["lmdata", "show", road.shards, "--row", "99999"],
        r"split train of .* has no row 99999: its rows are 0 to \d+",
    ),
    "an unknown recipe": Case(
        mask("--recipe", "gpt-5"), "recipe must be one of bert, .*, got 'gpt-5'"
    ),
    "a rate above one": Case(mask("--rate", "1.5"), r"mlm_probability.*1\.5"),
    "TOML: an unknown key": Case(
        with_toml("max_seq_lenght = 64\n", mask()),
        "unknown key max_seq_lenght, did you mean max_seq_length",
    ),
    "TOML: a wrong type": Case(
        with_toml('max_seq_length = "long"\n', mask()), "max_seq_length must be of type int"
    ),
    "TOML: not TOML": Case(with_toml("a = = b\n", mask()), r"it\.toml is not valid TOML"),
    "TOML: an unknown key of a run": Case(
        with_toml("[optimizer]\nrate = 1\n", train()), r"unknown key optimizer\.rate"
    ),
    "TOML: a wrong type of a store": Case(
        with_toml("validation_ratio = true\n", tokenize("nowhere")), "validation_ratio must be"
    ),
    "no such TOML": Case(mask("--config", "nowhere.toml"), "no such configuration file: nowhere"),
    "--set without a value": Case(mask("--set", "duplicates"), "--set takes KEY=VALUE"),
    "existing tokenizer": Case(
        existing("lmdata", "train-tokenizer", "corpus", "tokenizer"),
        "already holds a tokenizer: add --overwrite",
    ),
    "existing store": Case(
        lambda _, road: [
            "lmdata",
            "tokenize",
            road.corpus,
            "--tokenizer",
            road.tokenizer,
            "--output",
            road.tokens,
        ],
        "exists and is complete: add --overwrite",
    ),
    "existing shards": Case(
        existing("lmdata", "mask", "tokens", "shards"), "exists and is complete: add --overwrite"
    ),
    "existing run": Case(
        existing("lmmodel", "train", "shards", "run"), "already holds a run: .*add --overwrite"
    ),
    "existing export": Case(
        existing("lmmodel", "export", "run", "tokens"), "exists and is not an exported model"
    ),
    "an export over something else": Case(
        lambda _, road: ["lmmodel", "export", road.run, road.corpus, "--overwrite"],
        "is not an exported model, so nothing replaces it",
    ),
    "a store over itself": Case(
        lambda _, road: ["lmdata", "mask", road.tokens, "--output", road.tokens, "--overwrite"],
        "is read and lies in the output .*, which would be replaced: choose another",
    ),
    "a store over its tokenizer": Case(
        lambda _, road: [
            "lmdata",
            "tokenize",
            road.corpus,
            "--tokenizer",
            road.tokens / "tokenizer",
            "--output",
            road.tokens,
            "--overwrite",
        ],
        "is read and lies in the output .*, which would be replaced: choose another",
    ),
    "a budget without end": Case(
        lambda _, road: [
            "lmmodel",
            "train",
            road.shards,
            "--set",
            "budget.num_minutes=inf",
            "--dry-run",
        ],
        "budget.num_minutes must be a finite number, got inf",
    ),
    "existing corpus": Case(
        lambda _, road: ["lmdata", "sample-corpus", road.corpus],
        "exists and is not a sample corpus",
    ),
    "a corpus of one's own": Case(
        lambda _, road: ["lmdata", "sample-corpus", road.corpus, "--overwrite"],
        "exists and is not a sample corpus as it was written",
    ),
    "shards of another tokenizer": Case(
        copy_of_shards(swap_tokenizer, "lmmodel", "train"), "tokenizer"
    ),
    "evaluation with another tokenizer": Case(evaluate_other_tokenizer, "tokenizer"),
    "shards of a newer version": Case(
        copy_of_shards(from_the_future, "lmmodel", "train"),
        "has format version 999, lmdata .* reads up to 2: upgrade lmdata",
    ),
    "a truncated shard": Case(copy_of_shards(truncate, "lmdata", "stats"), r"train-00000\.arrow"),
    "no such run": Case(lambda *_: ["lmmodel", "evaluate", "nowhere"], "nowhere holds no run"),
    "a run to resume that is not there": Case(
        lambda *_: ["lmmodel", "train", "--resume", "--output", "nowhere"], "nowhere holds no run"
    ),
    "a text without a mask": Case(
        lambda _, road: ["lmmodel", "fill-mask", road.run, "no mask here"], "mask"
    ),
    "usage: an unknown option": Case(mask("--rat", "0.1"), "No such option", 2),
    "usage: not a choice": Case(train_tokenizer("--model", "bert"), "is not one of", 2),
    "usage: no corpus": Case(lambda *_: ["lmdata", "tokenize"], "Missing argument", 2),
    "usage: no prompt": Case(lambda _, road: ["lmmodel", "fill-mask", road.run], "--file", 2),
    "usage: no verb": Case(lambda *_: ["lmdata", "bake"], "There is no verb .bake.", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, inside: Path, road: Road) -> None:
    case = CASES[name]
    arguments = case.prepare(inside, road)
    before = everything_in(inside), everything_in(road.corpus.parent)
    result = invoke(*arguments)
    assert result.exit_code == case.exit_code, result.output
    assert result.stdout == ""
    *usage, line = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert len(usage) == (0 if case.exit_code == 1 else 3)
    assert re.search(case.message, line), line
    assert (everything_in(inside), everything_in(road.corpus.parent)) == before


def test_an_empty_file_is_skipped_and_counted(road: Road, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "text.txt").write_bytes(TEXT)
    found = as_json("lmdata", "tokenize", tmp_path, "--tokenizer", road.tokenizer,
                    "--output", tmp_path / "tokens")  # fmt: skip
    documents = found["ledger"]["documents"]
    assert documents["dropped"] == {"empty": 1}
    assert sum(documents["written"].values()) == 1


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("it.jsonl", b'{"text": "a b"}\n{"text": \n{"text": null}\n', "broken"),
        ("it.txt", b"a road\nabc\xffdef\n", "not-utf-8"),
        ("it.csv", b"id,text\n1,a\n2\n", "broken"),
    ],
)
def test_what_is_skipped_is_counted_by_reason(
    road: Road, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)
    result = invoke("lmdata", "tokenize", tmp_path / name, "--tokenizer", road.tokenizer,
                    "--output", tmp_path / "tokens", "--errors", "skip",
                    "--documents", "line")  # fmt: skip
    assert result.exit_code == 0
    assert re.search(rf"documents .*1 {reason}", result.stdout)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 KiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


COMMANDS: dict[str, Prepare] = {
    "sample-corpus": lambda *_: ["lmdata", "sample-corpus"],
    "train-tokenizer": train_tokenizer("--vocab-size", "90", "--set", "allow_smaller=true"),
    "tokenize": lambda _, road: ["lmdata", "tokenize", road.corpus, "--tokenizer", road.tokenizer],
    "mask": mask("--duplicates", "20"),
    "train": train("--num-steps", "2"),
    "export": lambda _, road: ["lmmodel", "export", road.run],
    "stats": lambda _, road: ["lmdata", "stats", road.tokens],
}


def writing_to(output: Path, arguments: list[str | Path]) -> list[str | Path]:
    verb = arguments[1]
    if verb == "stats":
        return [*arguments, "--plot", output.with_suffix(".png")]
    return [*arguments, *([] if verb in ("sample-corpus", "export") else ["--output"]), output]


def check_one_line(arguments: list[str | Path], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1, result.output
    assert re.fullmatch(f"Error: .*({message}).*\n", result.stderr), result.stderr


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_full_disk(verb: str, small_disk: Path, tmp_path: Path, road: Road) -> None:
    (small_disk / "ballast").write_bytes(bytes((40 << 10) - (12 << 10)))
    arguments = writing_to(small_disk / "out", COMMANDS[verb](tmp_path, road))
    check_one_line(arguments, "the disk is full|No space left on device")
    left = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert not {name for name in left if name.endswith((".partial", ".lock", ".old"))}
    assert not left & {"manifest.json", "model.safetensors", "out.png"}


@pytest.fixture
def read_only_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that nobody may write to: root may in any but a read-only file system."""
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o555)
        return tmp_path / "closed"
    disk: Path = request.getfixturevalue("small_disk")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return disk


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_read_only_folder(verb: str, read_only_folder: Path, tmp_path: Path, road: Road) -> None:
    arguments = writing_to(read_only_folder / "out", COMMANDS[verb](tmp_path, road))
    check_one_line(arguments, "Read-only file system|Permission denied")
    assert not list(read_only_folder.iterdir())
