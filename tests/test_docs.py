"""docs/using-a-model.md and serving.md are true: their examples run on what they say is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.cli.commands import make_text, succeed
from tests.lmdata.builds import start_no_processes

PAGE = (Path(__file__).parents[1] / "docs" / "using-a-model.md").read_text(encoding="utf-8")
SERVING = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE + SERVING, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^(lm(?:data|model) .*)$", PAGE.split("## 5.")[1], re.MULTILINE)

FAST = "--device cpu --num-steps 3 --set batch.size=4 --set evaluation.num_examples=4"
TINY = (
    "--set model.num_hidden_layers=1 --set model.hidden_size=32 --set model.num_attention_heads=2"
)
# What makes a command a matter of seconds, for a corpus of a few kilobytes.
SHORTER = {
    "train-tokenizer": ("--vocab-size 16384", "--set allow_smaller=true"),
    "tokenize": ("", "--set validation_ratio=0.2"),
    "train": ("--model mini --num-minutes 60", f"{FAST} {TINY}"),
    "evaluate": ("", "--num-examples 4 --device cpu"),
    "finetune": ("", "--device cpu --set num_epochs=1 --set num_seeds=1"),
}


def type_in(command: str) -> str:
    words = command.split()
    left_out, added = SHORTER.get(words[1], ("", ""))
    if left_out:
        assert left_out in command
    return succeed(*shlex.split(f"{command.replace(left_out, '')} {added}")).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, task files, a store, a masked and a causal model."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "corpus").mkdir()
    for number in range(12):
        (folder / "corpus" / f"{number}.txt").write_text(make_text(4, seed=number))
    rows = [f"the king number {i} finds a stone\t{i % 2}" for i in range(24)]
    for name in ("reviews", "train", "validation"):
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        start_no_processes(patch)
        patch.chdir(folder)
        for command in (
            "lmdata train-tokenizer corpus --set allow_smaller=true --vocab-size 300",
            "lmdata tokenize corpus --set validation_ratio=0.2",
            f"lmmodel train tokens {FAST} {TINY} --set objective.name=mlm --output runs/wiki",
            f"lmmodel train tokens {FAST} {TINY} --set model.family=gpt2 "
            "--set objective.name=clm --output runs/gpt",
        ):
            succeed(*shlex.split(command))
    return folder


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_an_example_in_python_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(PYTHON[number], f"example {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_ten_commands_lead_from_text_to_a_classifier(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_no_processes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for name in ("corpus", "train.tsv", "validation.tsv"):
        (tmp_path / name).symlink_to(folder / name)
    assert len(COMMANDS) == 10
    printed = [type_in(command) for command in COMMANDS]
    assert all(text.strip() for text in printed)
    assert (tmp_path / "hugging-face" / "model.safetensors").is_file()


def test_there_are_five_examples() -> None:
    assert len(re.findall(r"^## \d\.", PAGE, re.MULTILINE)) == 5
    assert len(PYTHON) == 4 + 1
