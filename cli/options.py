"""Options that mean the same thing on every command, and how errors leave the program."""

from __future__ import annotations

import difflib
import errno
import functools
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lmdata.config import json_text

if TYPE_CHECKING:
    from lmdata.building.resumable import Part, PartDone
    from lmdata.building.workers import Workers

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

INTERRUPTED_EXIT_CODE = 130  # 128 + SIGINT, what a shell expects
_USER_CAN_MEND = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


SECTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "lmdata": {
        "Text to training examples": ("sample-corpus", "train-tokenizer", "tokenize", "mask"),
        "Choose what is read": ("tag", "select", "clean", "compare"),
        "Work in parts": ("finish", "clean-up"),
        "Look and check": ("show", "stats", "report", "verify", "tokenizers", "recipes"),
        "Hand it over": ("export",),
    },
    "lmmodel": {
        "Make a model": ("train", "objectives", "import", "finetune", "merge", "experts", "count"),
        "Judge it": ("evaluate", "diagnose", "report"),
        "Ask it": ("fill-mask", "score", "embed", "generate"),
        "Ask a fine-tuned one": ("classify", "tag", "answer"),
        "Hand it over": ("export", "serve"),
    },
}
"""What `--help` lists of each program, in this order."""


class FriendlyGroup(click.Group):
    """A group whose commands end with one line, not a traceback, when the user can mend it.

    Its help lists the verbs by what they are for; a verb that does not exist is answered with the
    nearest one, of either program.
    """

    after_interruption = "What was finished is kept; type the same command again to go on."

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs, a section for each purpose."""
        for title, verbs in SECTIONS[self.name or ""].items():
            commands = {verb: self.get_command(ctx, verb) for verb in verbs}
            with formatter.section(title):
                formatter.write_dl([
                    (verb, command.get_short_help_str(limit=200))
                    for verb, command in commands.items() if command is not None
                ])  # fmt: skip

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; what is no verb is a wrong usage that names the nearest."""
        if self.get_command(ctx, args[0]) is None and args[0][:1].isalnum():
            ctx.fail(f"There is no verb {args[0]!r}{nearest_verb(args[0], self.name or '')}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of ours and Ctrl-C become one line and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            click.echo(f"\nInterrupted. {str(interruption) or self.after_interruption}", err=True)
            ctx.exit(INTERRUPTED_EXIT_CODE)
        except BrokenPipeError:
            sys.stderr.close()  # a closed pipe on stdout, as with `| head`, is the reader's choice
            ctx.exit(0)
        except Exception as error:
            line = _describe(error)
            if line is None:
                raise
            raise click.ClickException(line) from error


def nearest_verb(word: str, program: str) -> str:
    """Return how to go on from a verb that a program does not have.

    Example:
        >>> nearest_verb("trian", "lmmodel"), nearest_verb("tokenize", "lmmodel")
        (': did you mean `lmmodel train`?', ': did you mean `lmdata tokenize`?')
        >>> nearest_verb("version", "lmdata")
        ': did you mean `lmdata --version`?'
    """
    known = {option: f"{program} --{option}" for option in ("help", "version")}
    for name in sorted(SECTIONS, key=lambda name: name == program):  # its own verbs come last: win
        known |= {verb: f"{name} {verb}" for verbs in SECTIONS[name].values() for verb in verbs}
    near = difflib.get_close_matches(word, known, n=1)
    if not near:
        return f": `{program} --help` lists them"
    return f": did you mean `{known[near[0]]}`?"


def _describe(error: Exception) -> str | None:
    """Return the one line for an error that the user can mend, None for a bug."""
    from lmdata.errors import LmdataError
    from lmmodel.errors import LmmodelError

    if isinstance(error, LmdataError | LmmodelError):
        return " ".join(str(error).split("\n"))  # what a library under ours says may have more
    if isinstance(error, OSError) and error.errno in _USER_CAN_MEND:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}: free some space there or choose another place"
    return None


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """An amount of bytes: `512MB`, `4GiB`, `1.5G`, or a number of the option's own unit."""

    name = "size"

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Return bytes, at least 1."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value.strip())
        num_bytes = 0
        if match:
            unit = (match[2] or self._unit).lower().removesuffix("b")
            num_bytes = int(float(match[1]) * _UNIT_BYTES[unit])
        if num_bytes < 1:
            self.fail(f"{value!r} is no size: give it as 512MB, 4GiB or a number of {self._unit}.")
        return num_bytes


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*((?:[kmgt]i?)?b|[kmgt]i?)?", re.IGNORECASE)
_UNIT_BYTES = {"": 1} | {
    f"{letter}{i}": base**power
    for power, letter in enumerate("kmgt", 1)
    for i, base in (("", 1000), ("i", 1024))
}


class PathName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The name of a file or folder, not an empty one, which stays a text.

    Args:
        takes_label: whether it may be LABEL=NAME
    """

    name = "path"

    def __init__(self, *, takes_label: bool = False) -> None:
        self._takes_label = takes_label

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the name; nothing is what a shell makes of a variable that is not set."""
        text = str(value)
        name = text.rpartition("=")[2] if self._takes_label else text
        if not name.strip():
            self.fail(
                f"{text!r} names no file: is a variable of your command empty? The folder you are "
                "in is ."
            )
        return text


class PlaceParam(PathName):
    """A folder of this machine, or a URI of one in a store, which stays a text."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Path | str:
        """Return a path, or the URI as it is."""
        name: str = super().convert(value, param, ctx)
        return name if "://" in name else Path(name)


class LocalPath(click.Path):
    """A file or folder of this machine, not an empty name."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the path; a URI would be taken for one."""
        name = NAME.convert(value, param, ctx)
        if "://" in str(name):
            self.fail(f"{name!r} is in a store: give a file or folder of this machine.")
        return super().convert(name, param, ctx)


NAME, LABELLED = PathName(), PathName(takes_label=True)
PLACE = PlaceParam()
FOLDER = LocalPath(path_type=Path)
FILE = LocalPath(path_type=Path, dir_okay=False)


class PartParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """One of several commands that do a build together, as `2/8`."""

    name = "part"

    def convert(self, value: Any, param: Any, ctx: Any) -> Part:
        """Return the part."""
        from lmdata.building.resumable import Part

        number, slash, count = str(value).partition("/")
        try:
            if slash and number.isascii() and count.isascii():
                return Part(int(number), int(count))
        except ValueError:
            pass
        self.fail(f"{value!r} is no part: give it as 1/8, 2/8, ... 8/8.")


part_option = click.option(
    "--part", type=PartParam(), metavar="I/N",
    help="Do only this share of the work, beside commands that do the others; `lmdata finish` "
    "ends it.",
)  # fmt: skip


def output_option(default: str, *, is_anywhere: bool = False) -> Callable[[F], F]:
    """`--output`, with the folder that the next command looks for as its default.

    Args:
        default: folder
        is_anywhere: whether it may be a URI
    """
    return click.option(
        "--output", type=PLACE if is_anywhere else FOLDER, default=default,
        show_default=True, help="Folder to write.",
    )  # fmt: skip


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), help="Seed of every random draw.  [default: 0]"
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute.  [default: auto]",
)  # fmt: skip
num_workers_option = click.option(
    "--num-workers", type=click.IntRange(min=1), default=None,
    help="Workers; the result does not depend on it.  [default: one a core]",
)  # fmt: skip
config_option = click.option(
    "--config", "config_path", type=FILE, help="TOML file with settings.",
)  # fmt: skip
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Override one setting; may be repeated.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")


def result_options(function: F) -> F:
    """Whether a result is printed for machines, for people, or not at all."""
    return json_option(quiet_option(function))


def engine_options(function: F) -> F:
    """Who does the units of a build."""
    options = [
        click.option("--engine", type=click.Choice(["local", "ray"]), default="local",
                     show_default=True, help="Who does the work: processes here, or Ray's."),
        click.option("--address", metavar="HOST:PORT",
                     help="Of the Ray cluster, or auto.  [default: one of this machine's own]"),
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


def start_engine(
    kind: str, engine: str, address: str | None, num_workers: int | None
) -> Workers | None:
    """Return the workers of another engine, None where those of this machine are wanted.

    Raises:
        click.UsageError: an address without an engine that has one
        LmdataError: the engine is not installed, or does not answer
    """
    if engine == "ray":
        from lmdata.building.ray_workers import start_ray

        return start_ray(kind, num_workers, address)
    if address is not None:
        raise click.UsageError("--address is for --engine ray: give both, or neither")
    return None


def reading_options(function: F) -> F:
    """How a corpus is read: the five options that every command which reads text takes."""
    options = [
        click.option("--text-field", "corpus__text_field",
                     help="Field with the text: JSON lines, Parquet, Arrow, CSV.  [default: text]"),
        click.option("--documents", "corpus__documents",
                     type=click.Choice(["file", "blank-line", "line"]),
                     help="What one document is in a .txt file.  [default: file]"),
        click.option("--encoding", "corpus__encoding",
                     help="Encoding of text files.  [default: utf-8]"),
        click.option("--errors", "corpus__errors",
                     type=click.Choice(["strict", "replace", "skip"]),
                     help="What to do with text that can't be read.  [default: strict]"),
        click.option("--rewrite", "corpus__rewrites", multiple=True, metavar="NAME",
                     help="Change text: mojibake, nfc, nfkc, c4-lines, boilerplate; in order."),
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


def resolve(
    cls: type[T], config_path: Path | None, overrides: Sequence[str],
    base: dict[str, Any] | None = None, **options: Any,
) -> T:  # fmt: skip
    """Return a configuration: `base`, then the TOML file, then options given, then --set.

    An option that was not given is None. A name with a double underscore sets a nested key:
    `corpus__encoding` is `corpus.encoding`.
    """
    from lmdata.config import load_config

    return load_config(cls, config_path, overrides, options=by_key(options), base=base)


def by_key(options: dict[str, Any]) -> dict[str, Any]:
    """Return options by the dotted key of their setting; no values of one that takes several, None.

    Example:
        >>> by_key({"seed": 1, "budget__num_steps": 9, "rules": ()})
        {'seed': 1, 'budget.num_steps': 9, 'rules': None}
    """
    return {k.replace("__", "."): None if v == () else v for k, v in options.items()}


def echo_result(result: Any, *, as_json: bool, quiet: bool, lines: list[str]) -> None:
    """Print a command's result on stdout: JSON for machines, lines for people, or nothing."""
    if as_json:
        click.echo(json_text(result, indent=2, ensure_ascii=False))
    elif not quiet:
        click.echo("\n".join(lines))


def echo_part(done: PartDone, output: Path | str, *, as_json: bool, quiet: bool) -> None:
    """Print what one part of a build has done, and how the build ends."""
    before = f", {done.num_before:,} of them before" if done.num_before else ""
    lines = [
        f"{output}/  part {done.part}: {done.num_units:,} of {done.num_units_in_all:,} units are "
        f"done{before}",
        f"next, when all {done.part.count} parts are done: lmdata finish {output}",
    ]
    facts = {"output": str(output), **vars(done), "part": str(done.part)}
    echo_result(facts, as_json=as_json, quiet=quiet, lines=lines)


def page_options(function: F) -> F:
    """Where a page is written, and whether it is opened."""
    options = [
        click.option("--output", type=FOLDER, help="File to write.  [default: NAME-report.html]"),
        overwrite_option,
        click.option("--open", "is_opened", is_flag=True, help="Open the page in a browser."),
    ]  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), function)


def echo_page(report: Any, path: Path, *, is_opened: bool, as_json: bool, quiet: bool) -> None:
    """Print where a page is, or as JSON what it holds, and open it where that is wanted."""
    echo_result(report, as_json=as_json, quiet=quiet, lines=[f"{path}"])
    if is_opened:
        import webbrowser

        if not webbrowser.open(path.resolve().as_uri()):
            say(f"found no browser to open it with: open {path} yourself")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def say(text: str) -> None:
    """Tell the user what was decided, beside the results."""
    click.echo(text, err=True)


split_option = click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="train",
    show_default=True,
    help="Split of the dataset.",
)
