"""What every verb has in common: help, JSON, quiet, progress, and options of one name."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest.mock import Mock

import click
import pytest

import lmcli.lmdata
import lmcli.lmmodel
from lmcli.options import LABELLED, FriendlyGroup, PathName, Size, resolve
from lmcli.summaries import ProgressLine
from lmdata.errors import CorpusError
from lmdata.tokenizer import load_tokenizer
from lmmodel.config import TrainConfig
from tests.cli.commands import TRAIN_FAST, Road, invoke, succeed
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

ROOT = Path(__file__).parents[2]
GROUPS = {"lmdata": lmcli.lmdata.main, "lmmodel": lmcli.lmmodel.main}
VERBS = [(name, verb) for name, group in GROUPS.items() for verb in sorted(group.commands)]

ENDING = [(name, verb) for name, verb in VERBS if verb != "serve"]  # which ends when it is told to

# Names that mean the same thing wherever they occur.
SHARED = {
    "--output": "Folder to write.", "--overwrite": "Replace an existing output.",
    "--json": "Print the result as JSON.", "--set": "Override one setting; may be repeated.",
    "--config": "TOML file with settings.",
}  # fmt: skip

OTHER_OUTPUTS = {  # a run folder, or a page
    ("train", "--output"), ("count", "--output"), ("merge", "--output"), ("report", "--output"),
}  # fmt: skip
ANSWERING = {"fill-mask", "generate", "score", "embed", "classify", "tag", "answer"}
ANSWERS = "File to write: .csv, .jsonl or .parquet, with all columns of a table."
ONLY_PRINTING = {
    "recipes", "show", "fill-mask", "score", "generate", "classify", "tag", "answer", "objectives",
    "tokenizers",
}  # fmt: skip


def task_files(folder: Path) -> list[str | Path]:
    """Return the options of a task of two lines."""
    path = folder / "task.tsv"
    path.write_text("text\tlabel\nA stone.\tgood\nA road.\tbad\n")
    return ["--task", "sequence-classification", "--train", path, "--validation", path]


def exported(road: Road, folder: Path) -> Path:
    succeed("lmmodel", "export", road.run, folder / "hf", "--quiet")
    return folder / "hf"


def gpt_of(road: Road, folder: Path) -> Path:
    succeed("lmmodel", "train", road.tokens, "--output", folder / "gpt", "--num-steps", "1",
            "--family", "gpt2", *TRAIN_FAST, "--quiet")  # fmt: skip
    return folder / "gpt"


def branch_of(road: Road, folder: Path) -> Path:
    succeed("lmmodel", "train", road.shards, "--init-from", road.run, "--output", folder / "branch",
            "--num-steps", "1", "--device", "cpu", "--quiet")  # fmt: skip
    return folder / "branch"


def tags_of(road: Road, folder: Path) -> Path:
    succeed("lmdata", "tag", road.corpus, "--output", folder / "tags", "--quiet")
    return folder / "tags"


def parts_of(road: Road, folder: Path) -> Path:
    succeed("lmdata", "tokenize", road.corpus, "--output", folder / "parts", "--part", "1/1",
            "--tokenizer", road.tokenizer, "--quiet")  # fmt: skip
    return folder / "parts"


def selection_of(road: Road, folder: Path) -> Path:
    succeed("lmdata", "select", tags_of(road, folder), "--where", "num_words > 1",
            "--output", folder / "selection", "--quiet")  # fmt: skip
    return folder / "selection"


def tuned(road: Road, folder: Path, task: str) -> Path:
    labels = () if task == "question-answering" else ("bad", "good")
    return write_fine_tuned(folder / "tuned", task, load_tokenizer(road.tokenizer), labels)


def arguments_of(command: str, verb: str, road: Road, folder: Path) -> list[str | Path]:
    """Return a small job for a verb, its output in `folder`."""
    out = ["--output", folder / "out"]
    return {
        "sample-corpus": lambda: [folder / "out", "--max-megabytes", "0.01"],
        "train-tokenizer": lambda: [road.corpus, *out, "--vocab-size", "60"],
        "tokenize": lambda: [road.corpus, *out, "--tokenizer", road.tokenizer],
        "mask": lambda: [road.tokens, *out],
        "select": lambda: [tags_of(road, folder), "--where", "num_words > 1", *out],
        "clean": lambda: [
            road.corpus, "--where", "num_words > 1", "--tags", folder / "tags", *out,
        ],
        "compare": lambda: [selection_of(road, folder), folder / "selection"],
        "recipes": lambda: [],
        "finish": lambda: [parts_of(road, folder)],
        "clean-up": lambda: [road.tokens],
        "verify": lambda: [road.shards],
        "stats": lambda: [road.tokens],
        "show": lambda: [road.shards],
        "train": lambda: [road.shards, *out, "--num-steps", "1", *TRAIN_FAST],
        "evaluate": lambda: [road.run, "--num-examples", "4"],
        "fill-mask": lambda: [road.run, "A [MASK]."],
        "export": lambda: [
            *([road.tokens] if command == "lmdata" else [road.run]), folder / "out",
            *(["--format", "mds"] if command == "lmdata" else []),
        ],
        "report": lambda: [
            road.tokens if command == "lmdata" else road.run, "--output", folder / "page.html",
        ],
        "count": lambda: [road.tokens, *out, "--order", "2"],
        "merge": lambda: [*[branch_of(road, folder)] * 2, "--weights", "0.5,0.5", *out],
        "experts": lambda: [
            f"one={branch_of(road, folder)}", *(f"--validation={name}={road.tokens}"
                                                for name in ("one", "two")),
            "--num-examples", "8", *out,
        ],
        "diagnose": lambda: [road.run],
        "tokenizers": lambda: ["check", road.tokenizer],
        "objectives": lambda: [],
        "import": lambda: [exported(road, folder), folder / "out"],
        "finetune": lambda: [
            road.run, *out, *task_files(folder), "--seeds", "1", "--device", "cpu",
        ],
        "score": lambda: [road.run, "A stone."],
        "embed": lambda: [road.run, "A stone.", "--output", folder / "out.npy"],
        "generate": lambda: [gpt_of(road, folder), "The", "--max-new-tokens", "2"],
        "classify": lambda: [tuned(road, folder, "sequence-classification"), "A stone."],
        "tag": lambda: (
            [road.corpus, *out] if command == "lmdata"
            else [tuned(road, folder, "token-classification"), "A stone."]
        ),
        "answer": lambda: [
            tuned(road, folder, "question-answering"), "What?", "--passage", "A stone.",
        ],
    }[verb]()  # fmt: skip


@pytest.mark.parametrize(("command", "verb"), ENDING)
def test_json_is_all_there_is_on_standard_output(
    command: str, verb: str, road: Road, tmp_path: Path
) -> None:
    result = succeed(command, verb, *arguments_of(command, verb, road, tmp_path), "--json")
    assert json.loads(result.stdout)
    assert result.stderr == ""


@pytest.mark.parametrize(("command", "verb"), ENDING)
def test_quiet_prints_nothing(command: str, verb: str, road: Road, tmp_path: Path) -> None:
    if "--quiet" not in options_of(command, verb):
        assert verb in ONLY_PRINTING
        return
    result = succeed(command, verb, *arguments_of(command, verb, road, tmp_path), "--quiet")
    assert (result.stdout, result.stderr) == ("", "")


def options_of(command: str, verb: str) -> dict[str, click.Option]:
    parameters = GROUPS[command].commands[verb].params
    return {p.opts[0]: p for p in parameters if isinstance(p, click.Option)}


@pytest.mark.parametrize(("command", "verb"), VERBS)
def test_help_ends_its_text_with_an_example_that_names_the_verb(command: str, verb: str) -> None:
    text = succeed(command, verb, "--help").stdout
    assert f"Example: {command} {verb}" in text
    assert all(
        option.help and option.help.endswith((".", "]"))
        for option in options_of(command, verb).values()
    )


@pytest.mark.parametrize(("command", "verb"), VERBS)
def test_an_option_means_the_same_on_every_verb(command: str, verb: str) -> None:
    options = options_of(command, verb)
    for name, text in SHARED.items():
        if name in options and (verb, name) not in OTHER_OUTPUTS:
            is_file = name == "--output" and command == "lmmodel" and verb in ANSWERING
            assert options[name].help == (ANSWERS if is_file else text)


def commands_in(group: click.Group) -> list[click.Command]:
    """Return the verbs of a group, those of a group in it too."""
    found = group.commands.values()
    return [verb for c in found for verb in (commands_in(c) if isinstance(c, click.Group) else [c])]


def test_no_verb_takes_an_empty_name_for_the_folder_you_are_in() -> None:
    num_paths = 0
    for verb in (verb for group in GROUPS.values() for verb in commands_in(group)):
        for parameter in verb.params:
            if isinstance(parameter.type, click.Path | PathName):
                num_paths += 1
                for empty in ("", " "):
                    with pytest.raises(click.BadParameter, match=f"'{empty}' names no file: is a"):
                        parameter.type.convert(empty, parameter, click.Context(verb))
    assert num_paths > 60
    with pytest.raises(click.BadParameter, match="'law=' names no file"):
        LABELLED.convert("law=", None, None)
    assert LABELLED.convert("law=runs/a", None, None) == "law=runs/a"


@pytest.mark.parametrize(
    "arguments",
    [
        ("lmdata", "mask", ""),
        ("lmdata", "tokenize", "x.txt", "--output", ""),
        ("lmdata", "tokenize", "x.txt", "--tokenizer", ""),
        ("lmmodel", "import", "", "x"),
        ("lmmodel", "serve", "a="),
        ("lmmodel", "embed", "run", "--file", ""),
    ],
)
def test_an_empty_name_is_a_wrong_usage_in_one_line(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "names no file: is a variable of your command empty?" in result.stderr


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return what a type allows: a Literal, or one of several kinds of which one is a Literal."""
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    return get_args(kinds[0]) if kinds else ()


def test_an_option_of_train_is_a_setting_and_offers_what_its_type_allows() -> None:
    for name, option in options_of("lmmodel", "train").items():
        if option.name is None or not (option.name in KEYS or "__" in option.name):
            continue
        hint: Any = TrainConfig
        for key in option.name.split("__"):
            hint = get_type_hints(hint)[key]
        if choices_of(hint):
            assert isinstance(option.type, click.Choice), name
            assert tuple(option.type.choices) == choices_of(hint), name


KEYS = {"seed", "device", "parallel", "skip_bad_steps"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0
    corpus: dict[str, str]


def test_options_beat_the_file_and_set_beats_both(tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text("a = 1\nb = 1\nc = 1\n[corpus]\nerrors = 'skip'\n")
    options = {"b": 2, "c": 2, "d": None, "corpus__encoding": "cp932"}
    found = resolve(Settings, tmp_path / "it.toml", ["c=3"], base={"d": 4, "c": 0}, **options)
    assert found == Settings(a=1, b=2, c=3, d=4, corpus={"errors": "skip", "encoding": "cp932"})


def group_that_raises(error: BaseException) -> click.Group:
    @click.group(cls=FriendlyGroup)
    def group() -> None:
        pass

    @group.command()
    def fail() -> None:
        raise error

    return group


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        group_that_raises(ZeroDivisionError("a bug")).main(["fail"], standalone_mode=False)


def test_an_error_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        group_that_raises(CorpusError("a.txt is broken:\nline 3")).main(["fail"])
    assert capsys.readouterr().err == "Error: a.txt is broken: line 3\n"


def test_an_unforeseen_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found:
        group_that_raises(OSError(28, "No space left on device", "/x/y")).main(["fail"])
    assert found.value.code == 1
    assert capsys.readouterr().err == (
        "Error: No space left on device: /x/y: free some space there or choose another place\n"
    )


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as found:
        group_that_raises(KeyboardInterrupt()).main(["fail"])
    assert found.value.code == 130
    assert "type the same command again to go on" in capsys.readouterr().err


def on_a_terminal(*arguments: str | Path) -> str:
    """Return what a command writes on standard error where that is a terminal."""
    code = (
        "import sys; import lmcli.summaries as p; p.SHOW_AFTER_S = 0;"
        "from lmcli.lmdata import main; main(sys.argv[1:])"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stderr=theirs, cwd=ROOT,
        stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:  # fmt: skip
        os.close(theirs)
        seen = bytearray()
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # how a terminal says that the other side has gone
                break
            if not chunk:
                break
            seen += chunk
        os.close(ours)
    assert process.returncode == 0, seen.decode()
    return seen.decode()


def test_progress_is_seen_on_a_terminal(road: Road, tmp_path: Path) -> None:
    arguments = ("mask", road.tokens, "--duplicates", "40")
    seen = on_a_terminal(*arguments, "--output", tmp_path / "shards")
    assert "making examples" in seen
    assert "examples" in seen.split("making examples")[1]


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("unit", [None, "bytes", "steps"])
def test_progress_waits_for_two_seconds_and_is_silent_in_a_log_or_if_quiet(
    is_terminal: bool, quiet: bool, unit: str | None,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    timer = Mock()
    monkeypatch.setattr("lmcli.summaries.threading.Timer", timer)
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    with ProgressLine("counting", unit=unit, quiet=quiet) as line:
        line.update(1, 2, "loss 3")
        seconds, show = timer.call_args.args
        assert seconds == 2
        assert capsys.readouterr().err == ""
        if timer().start.called:
            show()
            line.update(1, 2, "loss 3")
    seen = capsys.readouterr().err
    assert ("counting" in seen and "loss 3" in seen) == (is_terminal and not quiet)
    assert not ("counting" in seen and quiet)


@pytest.mark.parametrize("command", GROUPS)
def test_no_verb_at_all_shows_the_road(command: str) -> None:
    result = invoke(command)
    assert result.exit_code == 2
    assert f"{command} " in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [("256", 256_000_000), ("1.5GiB", 3 << 29), ("4gb", 4_000_000_000), ("512 k", 512_000)],
)
def test_sizes_are_typed_as_people_write_them(text, expected):
    assert Size("MB").convert(text, None, None) == expected


@pytest.mark.parametrize("text", ["0", "-3", "many", "3 parsecs", "0.1B"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no size: give it as 512MB"):
        Size("MB").convert(text, None, None)
