"""README.md is true: the commands it shows run in order, and it names every verb there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lmcli.lmdata
import lmcli.lmmodel
from tests.cli.commands import everything_in, invoke, make_text, succeed
from tests.lmdata.builds import start_no_processes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERBS = {
    "lmdata": set(lmcli.lmdata.main.commands), "lmmodel": set(lmcli.lmmodel.main.commands),
}  # fmt: skip

# What makes a command of the README a matter of seconds, for a corpus of a few kilobytes.
SHORTER = {
    "sample-corpus": "--max-megabytes 0.1",
    "train-tokenizer": "--set allow_smaller=true",
    "tokenize": "--set validation_ratio=0.2",
    "train": "--num-steps 3 --device cpu --set batch.size=4 --set evaluation.num_examples=4",
    "evaluate": "--num-examples 4",
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in; workers stay in this process, which is much faster."""
    start_no_processes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks() -> Iterator[tuple[str, list[str]]]:
    """Yield each code block of the README: its language and its lines."""
    for language, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        yield language, re.sub(r"\\\n\s*", "", text).splitlines()


def commands(language: str, prompt: str) -> list[list[str]]:
    """Return the commands of ours in all blocks of a language, in order, comments left out."""
    lines = [line for found, lines in blocks() if found == language for line in lines]
    wanted = [line.removeprefix(prompt) for line in lines if line.startswith(prompt)]
    split = [shlex.split(line, comments=True) for line in wanted]
    return [words for words in split if words and words[0] in VERBS]


def run_all(found: list[list[str]], folder: Path) -> None:
    """Run commands in an empty folder, which gets a corpus unless they make one."""
    if not any(words[1] == "sample-corpus" for words in found):
        (folder / "corpus").mkdir()
        for number in range(12):
            (folder / "corpus" / f"{number}.txt").write_text(make_text(4, seed=number))
    for words in found:
        result = invoke(*words, *SHORTER.get(words[1], "").split())
        assert result.exit_code == 0, f"{shlex.join(words)}: {result.stderr}"


def test_the_session_that_is_shown_runs(inside: Path) -> None:
    found = commands("console", "$ ")
    if not found:
        pytest.skip("README.md shows no console session yet")
    run_all(found, inside)


def test_the_commands_for_ones_own_text_run(inside: Path) -> None:
    found = commands("", "")
    assert [words[:2] for words in found] == [
        ["lmdata", "tokenize"], ["lmdata", "mask"], ["lmmodel", "train"],
    ]  # fmt: skip
    run_all(found, inside)
    assert set(everything_in(inside)) >= {"tokens/manifest.json", "shards/manifest.json", "runs"}


def test_the_options_in_the_table_of_inputs_exist() -> None:
    text = succeed("lmdata", "tokenize", "--help").stdout
    section = README.split("## What it reads")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    for option in set(re.findall(r"`(--[a-z-]+)", "\n".join(table))):
        assert f"{option} " in text, option


@pytest.mark.parametrize("command", VERBS)
def test_the_tables_name_every_verb_and_no_other(command: str) -> None:
    table = README.split(f"| `{command}` | |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == VERBS[command]


@pytest.mark.parametrize("command", VERBS)
def test_the_options_in_the_tables_of_verbs_exist(command: str) -> None:
    table = README.split(f"| `{command}` | |\n| --- | --- |\n")[1].split("\n\n")[0]
    for verb, told in re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", table, re.MULTILINE):
        text = succeed(command, verb, "--help").stdout
        for option in re.findall(r"`(--[a-z-]+)", told):
            assert re.search(rf"{option}\b", text), f"{command} {verb} {option}"


def test_completion_is_what_the_readme_puts_into_a_shell() -> None:
    lines = re.findall(r"^eval \"\$\((_\w+)=(\w+) (\w+)\)\"$", README, re.MULTILINE)
    assert [program for _, _, program in lines] == list(VERBS)
    for variable, instruction, program in lines:
        path = Path(sys.executable).with_name(program)
        if not path.exists():
            pytest.skip(f"{program} is not installed beside this Python")
        environment = {**os.environ, variable: instruction}
        done = subprocess.run([path], env=environment, capture_output=True, text=True, check=True)
        assert f"complete -o nosort -F _{program}_completion {program}" in done.stdout


def test_the_version_is_told() -> None:
    assert re.search(r"\d+\.\d+", succeed("lmdata", "--version").stdout)


@pytest.mark.parametrize("command", VERBS)
def test_the_help_of_the_commands_names_every_verb(command: str) -> None:
    text = succeed(command, "--help").stdout
    assert {verb for verb in VERBS[command] if f"  {verb} " in text} == VERBS[command]


def test_the_quickstart_runs_twice_in_a_row(inside: Path) -> None:
    script = (ROOT / "quickstart.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(line)[1:] for line in script.splitlines() if line.startswith("say lm")]
    assert len(found) == 8
    run_all(found, inside)
    run_all(found, inside)


def test_every_link_of_the_readme_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("names", re.findall(r"^from ([\w.]+) import (\w+)", README, re.MULTILINE))
def test_the_python_of_the_readme_imports(names: tuple[str, str]) -> None:
    module, name = names
    assert hasattr(__import__(module, fromlist=[name]), name)
