"""`lmmodel`: training examples to a model and what it is good for, one function a verb."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .options import (
    FriendlyGroup,
    config_option,
    echo_result,
    json_option,
    overwrite_option,
    quiet_option,
    seed_option,
    set_option,
)
from .progress import ProgressLine
from .summaries import (
    evaluation_lines,
    export_lines,
    filling_lines,
    plan_lines,
    to_json_values,
    training_lines,
    training_note,
)

FOLDER = click.Path(path_type=Path)
DEFAULT_SIZE = "mini"
TRAIN_KEYS = {
    "model_size": "model.size",
    "num_steps": "budget.num_steps",
    "num_minutes": "budget.num_minutes",
    "skip_bad_steps": "skip_bad_steps",
    "device": "device",
    "seed": "seed",
}
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where to compute.  [default: auto]",
)


@click.group(cls=FriendlyGroup, context_settings={"max_content_width": 100})
@click.version_option(package_name="lmdata-lmmodel")
def main() -> None:
    """Training examples to a model: compact, exactly resumable, at home on a CPU or a GPU.

    \b
    In a folder where lmdata has written shards/:
      lmmodel train shards/ --model mini --output runs/first
      lmmodel evaluate runs/first
      lmmodel fill-mask runs/first "The capital of France is [MASK]."
    """


@main.command()
@click.argument("data", type=FOLDER, required=False)
@click.option(
    "--model",
    "size",
    type=click.Choice(["tiny", "mini", "small", "medium", "base"]),
    help="Size of the model.  [default: mini]",
)
@click.option("--num-steps", type=click.IntRange(min=1), help="Optimizer steps.  [default: 1000]")
@click.option(
    "--num-minutes", type=float, help="Wall-clock budget, turned into steps at the start."
)
@click.option("--output", type=FOLDER, help="Run folder.  [default: runs/SIZE]")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint, bit for bit.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--skip-bad-steps",
    is_flag=True,
    default=None,
    help="Leave out steps whose loss is not finite or explodes.",
)
@device_option
@seed_option
@overwrite_option
@config_option
@set_option
@json_option
@quiet_option
def train(
    data: Path | None, size: str | None, output: Path | None, resume: bool, dry_run: bool,
    overwrite: bool, config_path: Path | None, overrides: tuple[str, ...], as_json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a model on a token store (fresh pairs and masks each epoch) or on frozen shards.

    \b
    Example: lmmodel train shards/
    Example: lmmodel train tokens/ --model mini --num-minutes 10 --output runs/wiki
    Example: lmmodel train --resume --output runs/wiki
    """
    from lmmodel.config import load_train_config
    from lmmodel.trainer import plan
    from lmmodel.trainer import train as run_training

    options["model_size"] = size
    given = [f"{TRAIN_KEYS[k]}={json.dumps(v)}" for k, v in options.items() if v is not None]
    wanted = [*given, *overrides]
    config = load_train_config(config_path, wanted) if wanted or config_path or not resume else None
    output = output or Path("runs") / (size or DEFAULT_SIZE)
    data = data or (None if resume else Path("shards"))
    if dry_run:
        if config is None or data is None:
            raise click.UsageError("--dry-run plans a new run: leave --resume out")
        with ProgressLine("planning", quiet=quiet):
            result = plan(config, data)
        return echo_result(
            to_json_values(result), as_json=as_json, quiet=quiet, lines=plan_lines(result)
        )
    with ProgressLine("training", unit="steps", quiet=quiet) as line, saying_what_is_kept(output):
        summary = run_training(
            config, data, output, resume=resume, overwrite=overwrite,
            progress=lambda now: line.update(now.step, now.num_steps, training_note(now)),
        )  # fmt: skip
    lines = training_lines(summary)
    return echo_result(to_json_values(summary), as_json=as_json, quiet=quiet, lines=lines)


@contextlib.contextmanager
def saying_what_is_kept(output: Path) -> Iterator[None]:
    """Have an interrupted training end with what is kept and how to go on."""
    from lmmodel.trainer import Interrupted

    try:
        yield
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except KeyboardInterrupt as error:
        if not (output / "config.json").exists():
            raise KeyboardInterrupt("Nothing was begun; type the same command again.") from error
        text = f"The last checkpoint in {output} is kept: go on with --resume --output {output}"
        raise KeyboardInterrupt(text) from error


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("data", type=FOLDER, required=False)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="validation",
    show_default=True,
    help="Split of the data.",
)
@click.option("--num-examples", type=click.IntRange(min=1), help="Examples to score.")
@device_option
@json_option
@quiet_option
def evaluate(
    run: Path, data: Path | None, split: str, num_examples: int | None, device: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Held-out loss at fixed masks, against the loss of guessing by frequency.

    \b
    Example: lmmodel evaluate runs/wiki shards/
    """
    from lmmodel.evaluation import evaluate_run

    with ProgressLine("evaluating", quiet=quiet):
        result = evaluate_run(
            run, data, split=split, num_examples=num_examples, device=device or "auto"
        )
    lines = evaluation_lines(result)
    echo_result(to_json_values(result), as_json=as_json, quiet=quiet, lines=lines)


@main.command("fill-mask")
@click.argument("run", type=FOLDER)
@click.argument("texts", nargs=-1)
@click.option(
    "--file",
    "file",
    type=click.File(encoding="utf-8"),
    help="One text a line; - is standard input.",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Guesses for each mask.",
)
@device_option
@json_option
def fill_mask(
    run: Path, texts: tuple[str, ...], file: Any, top_k: int, device: str | None, as_json: bool
) -> None:
    """Fill in the masked places of a text.

    \b
    Example: lmmodel fill-mask runs/wiki "The capital of France is [MASK]."
    """
    from lmmodel.predict import load_run

    prompts = [*texts, *([line.rstrip("\n") for line in file] if file else [])]
    if not prompts:
        raise click.UsageError("give a text with a mask in it, or --file")
    filled = load_run(run, device=device or "auto").fill_mask(prompts, top_k=top_k)
    lines = filling_lines(prompts, filled)
    echo_result(to_json_values(filled), as_json=as_json, quiet=False, lines=lines)


@main.command()
@click.argument("run", type=FOLDER)
@click.argument("output", type=FOLDER)
@overwrite_option
@json_option
@quiet_option
def export(run: Path, output: Path, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write a folder that stock Hugging Face classes open, and prove that the numbers agree.

    \b
    Example: lmmodel export runs/wiki wiki-bert/
    """
    from lmmodel.exporting import export_run

    with ProgressLine("exporting", quiet=quiet):
        result = export_run(run, output, overwrite=overwrite)
    lines = export_lines(result)
    echo_result(to_json_values(result), as_json=as_json, quiet=quiet, lines=lines)
