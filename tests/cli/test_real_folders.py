"""Each folder of real text goes through `tokenize` and `mask` with the options the README names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import succeed

# Folder -> vocabulary, options of tokenize.
FOLDERS = {
    "gutenberg": ("bert-base-cased", []),
    "multilingual/ja-cp932": ("bert-base-chinese", ["--encoding", "cp932"]),
    "multilingual/th-bom": ("bert-base-uncased", []),
    "multilingual/zh": ("bert-base-chinese", []),
    "multilingual/ko": ("bert-base-chinese", []),
    "multilingual/ru": ("bert-base-uncased", []),
    "multilingual/de": ("bert-base-cased", []),
    "multilingual/hi": ("bert-base-uncased", ["--documents", "blank-line"]),
    "bert-format": (
        "bert-base-uncased", ["--documents", "blank-line", "--sentences", "lines"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_real_folder_becomes_shards_that_verify(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    vocabulary, options = FOLDERS[name]
    tokens, shards = tmp_path / "tokens", tmp_path / "shards"
    succeed(
        "lmdata", "tokenize", shared_data / name, *options, "--output", tokens,
        "--tokenizer", shared_data / "vocab" / vocabulary,
    )  # fmt: skip
    succeed("lmdata", "mask", tokens, "--output", shards)
    assert "shards: passed" in succeed("lmdata", "verify", shards).stdout
