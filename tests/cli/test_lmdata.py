"""`lmdata`: what each verb makes and says, and the real kinds of input on the way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.cli.commands import Road, as_json, invoke, make_text, succeed

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}  # fmt: skip


def as_bytes(kind: str, documents: list[str]) -> bytes:
    """Return documents as a file of a kind, told by its extension."""
    table = pa.table({"id": list(range(len(documents))), "text": documents})
    buffer = io.BytesIO()
    if kind == "jsonl":
        return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
    if kind == "csv":
        return ("id,text\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(documents))).encode()
    if kind == "parquet":
        pq.write_table(table, buffer)
    else:
        pyarrow.feather.write_feather(table, buffer, compression="uncompressed")
    return buffer.getvalue()


def tokenize(road: Road, tmp_path: Path, *arguments: str | Path, **options: object) -> dict:
    return as_json(
        "lmdata", "tokenize", *arguments, "--tokenizer", road.tokenizer,
        "--output", tmp_path / "tokens", **options,
    )  # fmt: skip


def test_a_mixed_folder_of_all_kinds_is_read_and_what_is_not_text_is_counted(
    road: Road, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "deep").mkdir(parents=True)
    documents = ["The bird sees a road.\nThe road follows a river.", "The house likes a stone."]
    compressions = iter([".zst", "", ".gz", ".xz"])
    for kind in ("jsonl", "parquet", "csv", "arrow"):
        extension = next(compressions)
        data = COMPRESS[extension](as_bytes(kind, documents))
        (corpus / "deep" / f"{kind}.{kind}{extension}").write_bytes(data)
    text = documents[0].encode("utf-8-sig")
    (corpus / "book.txt.bz2").write_bytes(COMPRESS[".bz2"](text))
    (corpus / "empty.txt").touch()
    (corpus / "picture.png").write_bytes(b"\x89PNG")
    (corpus / ".hidden").touch()
    found = tokenize(road, tmp_path, corpus)
    assert sum(found["rows"].values()) == 9
    assert found["passed_over"] == {"unknown extension": 1, "hidden": 1}
    assert found["ledger"]["documents"]["dropped"]["empty"] == 1
    shards = as_json(
        "lmdata", "mask", tmp_path / "tokens", "--output", tmp_path / "shards",
        "--max-seq-length", "16",
    )  # fmt: skip
    assert shards["rows"]["train"] > 0


def test_the_summary_says_how_many_files_were_passed_over(road: Road, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The bird sees a road.")
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    lines = succeed("lmdata", "tokenize", tmp_path, "--tokenizer", road.tokenizer,
                    "--output", tmp_path / "tokens").stdout  # fmt: skip
    assert "  passed over 2 files: unknown extension (such as a.png)" in lines


@pytest.mark.parametrize("encoding", ["cp932", "utf-8-sig", "utf-16"])
def test_encodings_and_byte_order_marks(road: Road, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "text.txt").write_bytes("The bird ｶﾅ sees 日本.\nA road.".encode(encoding))
    name = "auto" if encoding == "utf-16" else encoding
    tokenize(road, tmp_path, tmp_path / "text.txt", "--encoding", name)
    shown = succeed("lmdata", "show", tmp_path / "tokens", "--source").stdout
    assert "the bird" in shown
    assert shown.count("[UNK]") <= 6
    assert "﻿" not in shown
    assert "text.txt, line or record 1" in shown


def test_globs_and_standard_input(road: Road, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": f"The bird {name}."}) + "\n")
    found = tokenize(road, tmp_path, f"{tmp_path}/*.txt", "--overwrite")
    assert sum(found["rows"].values()) == 2
    data = COMPRESS[".zst"](as_bytes("jsonl", ["The bird sees.", "The road.", "A river."]))
    found = tokenize(
        road, tmp_path, "-", "--set", "corpus.stdin_format=jsonl.zst", "--overwrite", input=data
    )
    assert sum(found["rows"].values()) == 3


def test_standard_input_is_told_by_what_comes(road: Road, tmp_path: Path) -> None:
    data = as_bytes("jsonl", ["The bird sees.", "The road.", "A river."])
    options = ("--tokenizer", road.tokenizer, "--output", tmp_path / "tokens", "--overwrite")
    result = succeed("lmdata", "tokenize", "-", *options, input=data)
    assert "standard input is read as jsonl; --set corpus.stdin_format=txt" in result.stderr
    assert "3 in = 3 out" in result.stdout
    result = succeed("lmdata", "tokenize", "-", *options, input=b"The bird sees.\n")
    assert "standard input is read as plain text, one document; --set" in result.stderr
    options = ("--output", tmp_path / "tokenizer", "--vocab-size", "28")
    result = succeed("lmdata", "train-tokenizer", "-", *options, input=data)
    assert "standard input is read as jsonl; --set corpus.stdin_format=txt" in result.stderr


def test_an_empty_argument_is_not_the_folder_around(road: Road, inside: Path) -> None:
    (inside / "a.txt").write_text("The bird sees.")
    result = invoke("lmdata", "tokenize", "", "--tokenizer", road.tokenizer)
    assert result.exit_code == 2
    assert "'' names no file: is a variable of your command empty?" in result.stderr


def test_a_corpus_that_holds_its_own_tokenizer_and_tokens_is_read_again(inside: Path) -> None:
    for number in range(4):
        (inside / f"doc{number}.txt").write_text(make_text(20))
    succeed("lmdata", "train-tokenizer", ".", "--vocab-size", "100")
    for _ in range(2):
        result = succeed("lmdata", "tokenize", ".", "--overwrite")
        assert "4 in = 4 out" in result.stdout
        assert "part of a tokenizer or model (such as " in result.stdout
    assert "part of a dataset that lmdata wrote (such as manifest.json)" in result.stdout


def test_a_document_of_one_character(road: Road, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a")
    assert tokenize(road, tmp_path, tmp_path / "one.txt")["rows"]["train"] == 1


@pytest.mark.slow
def test_a_document_of_fifty_megabytes_on_one_line(road: Road, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("The bird sees a road. " * (50_000_000 // 22))
    found = tokenize(road, tmp_path, tmp_path / "long.txt", "--documents", "line")
    assert found["rows"]["train"] == 1
    assert succeed("lmdata", "verify", tmp_path / "tokens").exit_code == 0


def test_the_three_commands_work_in_a_folder_that_holds_only_a_corpus(inside: Path) -> None:
    (inside / "corpus").mkdir()
    (inside / "corpus" / "text.txt").write_text(make_text(30))
    for number in range(8):
        (inside / "corpus" / f"{number}.txt").write_text(make_text(3, seed=number))
    first = succeed("lmdata", "tokenize", "corpus/", "--set", "validation_ratio=0.3")
    assert "training a WordPiece tokenizer on the corpus first" in first.stderr
    assert first.stdout.startswith("tokens/")
    assert "documents" in first.stdout
    succeed("lmdata", "mask", "--rate", "0.15")
    assert "shards: passed" in succeed("lmdata", "verify", "shards").stdout
    assert sorted(path.name for path in inside.iterdir()) == [
        "corpus", "shards", "tokenizer", "tokens",
    ]  # fmt: skip


def test_the_defaults_of_one_command_are_what_the_one_before_wrote(road: Road) -> None:
    """A run of `lmmodel train` on the defaults is in test_lmmodel.py."""
    again = invoke("lmdata", "train-tokenizer", road.corpus, "--output", road.tokenizer)
    assert again.exit_code == 1
    assert "add --overwrite to replace it, or choose another place" in again.stderr


@pytest.mark.parametrize("model", ["wordpiece", "bpe", "unigram"])
def test_every_kind_of_tokenizer_is_opened_by_transformers(
    road: Road, tmp_path: Path, model: str
) -> None:
    transformers = pytest.importorskip("transformers")
    size = "300" if model == "bpe" else "60"
    found = as_json(
        "lmdata", "train-tokenizer", road.corpus, "--model", model, "--vocab-size", size,
        "--cased", "--output", tmp_path / "it", "--documents", "line",
        "--set", "allow_smaller=true",
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "it")
    assert len(tokenizer) == found["vocab_size"]
    assert tokenizer.decode(tokenizer("The bird sees")["input_ids"], skip_special_tokens=True)


def test_a_config_file_and_options_and_set_are_one_configuration(
    road: Road, tmp_path: Path
) -> None:
    (tmp_path / "it.toml").write_text('lowercase = true\n[corpus]\ndocuments = "line"\n')
    succeed(
        "lmdata", "train-tokenizer", road.corpus, "--config", tmp_path / "it.toml",
        "--vocab-size", "50", "--output", tmp_path / "it", "--set", "corpus.errors=skip",
    )  # fmt: skip
    assert json.loads((tmp_path / "it" / "tokenizer.json").read_text())["normalizer"]["lowercase"]


def test_stats_describes_store_and_shards_and_draws(road: Road, tmp_path: Path) -> None:
    stored = succeed("lmdata", "stats", road.tokens, "--plot", tmp_path / "it.png").stdout
    assert "bytes per token" in stored
    assert stored.endswith(f"picture: {tmp_path / 'it.png'}\n")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    found = as_json("lmdata", "stats", road.shards, "--split", "validation")
    assert found["max_seq_length"] == 32
    assert found["split"] == "validation"


def test_show_prints_rows_up_to_the_end_of_the_split(road: Road) -> None:
    shown = succeed("lmdata", "show", road.shards, "--num-rows", "2", "--source").stdout
    assert shown.count("[CLS]") == 2
    assert "\x1b[" not in shown
    assert "text.txt, line or record" in shown
    last = as_json("lmdata", "stats", road.tokens)["documents"] - 1
    rows = as_json("lmdata", "show", road.tokens, "--row", str(last), "--num-rows", "5")
    assert [row["row"] for row in rows] == [last]


def test_verify_fails_where_a_byte_is_flipped(road: Road, tmp_path: Path) -> None:
    (path,) = road.tokens.glob("train-*.arrow")
    folder = tmp_path / "tokens"
    succeed("lmdata", "tokenize", road.corpus, "--output", folder, "--tokenizer", road.tokenizer)
    shard = folder / path.name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = invoke("lmdata", "verify", folder)
    assert result.exit_code == 1
    assert "tokens: FAILED" in result.stdout


def test_overwrite_never_deletes_what_is_no_tokenizer(road: Road, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    result = invoke("lmdata", "train-tokenizer", road.corpus, "--output", tmp_path / "out",
                    "--overwrite")  # fmt: skip
    assert result.exit_code == 1
    assert "exists and is not a tokenizer, so nothing replaces it" in result.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_the_sample_corpus_may_be_written_twice_in_a_row(inside: Path) -> None:
    for _ in range(2):
        found = as_json(
            "lmdata", "sample-corpus", "corpus", "--max-megabytes", "0.01", "--overwrite"
        )
        assert found["num_bytes"] >= 10_000
    assert [path.name for path in inside.iterdir()] == ["corpus"]
