"""What people see, word for word: a change of wording is a difference to review.

`UPDATE_SNAPSHOTS=1 pytest tests/cli/test_snapshots.py` writes what is printed now. Numbers that
differ from machine to machine stand as `#`, folders of the test as `...`.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

import click
import pytest

import lmcli.lmdata
import lmcli.lmmodel
from lmcli.options import SECTIONS, nearest_verb
from tests.cli.commands import Road, invoke

SNAPSHOTS = Path(__file__).parent / "snapshots"
PROGRAMS: dict[str, click.Group] = {"lmdata": lmcli.lmdata.main, "lmmodel": lmcli.lmmodel.main}
VERBS = [(program, verb) for program, group in PROGRAMS.items() for verb in sorted(group.commands)]


def check(name: str, text: str) -> None:
    """Compare with what lies in snapshots/, or write it there on demand."""
    path = SNAPSHOTS / f"{name}.txt"
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.is_file() else ""
    changes = difflib.unified_diff(kept.splitlines(), text.splitlines(), "kept", "now", lineterm="")
    assert kept == text, "\n".join(["what people see has changed:", *changes])


def plain(text: str, road: Road | None = None) -> str:
    """Return a text without what no wording is: places, hashes, times and measured numbers."""
    if road is not None:
        text = text.replace(str(road.corpus.parent), "...")
    text = re.sub(r"\b[0-9a-f]{32}\b", "HASH", text)
    text = re.sub(r"\d+(?:\.\d+)? (k?B|MB|GB)\b", r"# \1", text)
    text = re.sub(r"(\d+(?:\.\d+)? (h|min|s)\b ?)+", "# s", text)
    text = re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", text)
    return re.sub(r"(?<=\S) {3,}", "   ", text)  # the width of a column follows its numbers


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_verbs(program: str) -> None:
    check(program, invoke(program, "--help").stdout)


@pytest.mark.parametrize(("program", "verb"), VERBS)
def test_the_help_of_a_verb(program: str, verb: str) -> None:
    check(f"{program}-{verb}", invoke(program, verb, "--help").stdout)


def test_every_verb_stands_in_one_section_and_every_snapshot_is_of_a_verb() -> None:
    for program, group in PROGRAMS.items():
        listed = [verb for verbs in SECTIONS[program].values() for verb in verbs]
        assert sorted(listed) == sorted(group.commands)
    named = {f"{program}-{verb}" for program, verb in VERBS} | {*PROGRAMS, *SUMMARIES, "mistakes"}
    assert {path.stem for path in SNAPSHOTS.glob("*.txt")} == named


SUMMARIES: dict[str, tuple[str, ...]] = {
    "said-by-lmdata": (
        "lmdata tokenize CORPUS --output OUT/tokens --tokenizer TOKENIZER --documents blank-line",
        "lmdata mask TOKENS --output OUT/shards --max-seq-length 32",
        "lmdata verify TOKENS",
        "lmdata verify SHARDS",
        "lmdata show TOKENS --num-rows 1",
        "lmdata show SHARDS --num-rows 1",
        "lmdata recipes",
    ),
    "said-by-lmmodel": (
        "lmmodel train SHARDS --dry-run --device cpu --set precision=fp32",
        "lmmodel evaluate RUN --device cpu --num-examples 4",
        "lmmodel diagnose RUN",
        "lmmodel export RUN OUT/hf",
        "lmmodel import OUT/hf OUT/run",
        "lmmodel count TOKENS --order 3 --output OUT/3gram",
        "lmmodel evaluate OUT/3gram --num-examples 4",
        "lmmodel export OUT/3gram OUT/text.arpa --format arpa",
    ),
}

# What people get wrong most: verbs, names, places, values.
MISTAKES = (
    "lmmodel trian shards",
    "lmmodel tokenize corpus",
    "lmdata train shards",
    "lmdata frobnicate",
    "lmdata version",
    "lmmodel help",
    "lmmodel train --lerning-rate 3",
    "lmdata tokenize nowhere",
    "lmdata tokenize CORPUS --encoding klingon",
    "lmdata tokenize CORPUS --documents blank-line --tokenizer nowhere.json --output OUT/tokens",
    "lmdata mask nowhere",
    "lmdata mask TOKENS --output SHARDS",
    "lmdata mask TOKENS --set mlm_probabilty=0.2 --output OUT/shards",
    "lmdata mask TOKENS --rate 7 --output OUT/shards",
    "lmdata mask CORPUS --output OUT/shards",
    "lmdata verify CORPUS",
    "lmdata show TOKENS --split test",
    "lmmodel train TOKENS --set model.sise=mini --output OUT/run",
    "lmmodel train TOKENS --set model.hidden_size=77 --output OUT/run",
    "lmmodel train TOKENS --output RUN",
    "lmmodel train CORPUS --output OUT/run",
    "lmmodel evaluate TOKENS",
    "lmmodel evaluate nowhere",
    "lmmodel fill-mask RUN words",
    "lmmodel generate RUN words",
    "lmmodel classify RUN words",
    "lmmodel classify nowhere words",
    "lmmodel export RUN CORPUS --overwrite",
    "lmmodel import RUN OUT/run",
    "lmmodel import CORPUS OUT/run",
    "lmmodel count SHARDS --output OUT/5gram",
    "lmmodel count TOKENS --output RUN",
    "lmmodel diagnose TOKENS",
    "lmmodel import bert-base-uncased OUT/run",
)


def type_in(command: str, road: Road, out: Path) -> str:
    """Return what a person sees who types a command in a folder of the road's."""
    words = [
        word.replace("OUT", str(out)) if word.startswith("OUT")
        else str(getattr(road, word.lower())) if word.isupper()
        else word
        for word in command.split()
    ]  # fmt: skip
    result = invoke(*words)
    shown = plain(result.output.replace(str(out), "OUT"), road)
    lines = [line for line in shown.splitlines() if line.strip()]
    return "\n".join([f"$ {command}", *lines, f"exit {result.exit_code}" * (result.exit_code != 0)])


@pytest.mark.parametrize("name", SUMMARIES)
def test_what_a_command_says_at_its_end(name: str, road: Road, tmp_path: Path) -> None:
    check(name, "\n\n".join(type_in(command, road, tmp_path) for command in SUMMARIES[name]))


def test_what_is_said_to_mistakes(road: Road, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    check("mistakes", "\n\n".join(type_in(command, road, tmp_path) for command in MISTAKES))


def test_a_change_of_wording_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tests.cli.test_snapshots.SNAPSHOTS", tmp_path)
    monkeypatch.delenv("UPDATE_SNAPSHOTS", raising=False)
    (tmp_path / "hint.txt").write_text("as before\nnext: this\n")
    check("hint", "as before\nnext: this   \n")
    with pytest.raises(AssertionError, match=r"has changed:\n(.*\n)* *-next: this\n *\+next: that"):
        check("hint", "as before\nnext: that")
    monkeypatch.setenv("UPDATE_SNAPSHOTS", "1")
    check("hint", "as before\nnext: that")
    assert (tmp_path / "hint.txt").read_text() == "as before\nnext: that\n"


def test_numbers_that_differ_between_machines_are_no_wording() -> None:
    text = "12 rows in 1.5 s, 3.2 MB, loss 6.0271, hash " + "0a" * 16
    assert plain(text) == "12 rows in # s, # MB, loss #, hash HASH"


def test_what_is_near_no_verb_gets_no_suggestion() -> None:
    assert nearest_verb("frobnicate", "lmdata") == ": `lmdata --help` lists them"
