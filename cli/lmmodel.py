"""`lmmodel`: training examples to a model and what it is good for, one function a verb."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import answering, predicting
from .evaluating import evaluate
from .finetuning import finetune
from .handing_over import export, import_
from .options import (
    FriendlyGroup,
    config_option,
    device_option,
    echo_result,
    json_option,
    overwrite_option,
    quiet_option,
    seed_option,
    set_option,
)
from .progress import ProgressLine
from .summaries import (
    plan_lines,
    to_json_values,
    training_lines,
    training_note,
)

if TYPE_CHECKING:
    from lmmodel.config import TrainConfig
    from lmmodel.saving.metrics import Progress

FOLDER = click.Path(path_type=Path)
DEFAULT_SIZE = "mini"
TRAIN_KEYS = {
    "model_size": "model.size",
    "num_steps": "budget.num_steps",
    "num_tokens": "budget.num_tokens",
    "num_epochs": "budget.num_epochs",
    "num_minutes": "budget.num_minutes",
    "keep": "checkpoint.keep",
    "parallel": "parallel",
    "init_from": "init_from",
    "skip_bad_steps": "skip_bad_steps",
    "device": "device",
    "seed": "seed",
}


class ModelGroup(FriendlyGroup):
    """The verbs of models, of which only training keeps what it has done (and says so)."""

    after_interruption = "Nothing was written; type the same command again."


@click.group(cls=ModelGroup, context_settings={"max_content_width": 100})
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
@click.option(
    "--init-from",
    type=FOLDER,
    help="Begin with the model of this run, trained or imported, instead of a fresh one.",
)
@click.option("--num-steps", type=click.IntRange(min=1), help="Optimizer steps.  [default: 1000]")
@click.option("--num-tokens", type=click.IntRange(min=1), help="Budget in tokens read.")
@click.option("--num-epochs", type=float, help="Budget in passes over the data.")
@click.option(
    "--num-minutes", type=float, help="Wall-clock budget, turned into steps at the start."
)
@click.option("--output", type=FOLDER, help="Run folder.  [default: runs/SIZE, or RUN-continued]")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint, bit for bit.")
@click.option(
    "--keep", type=click.IntRange(min=1), help="Newest checkpoints that stay.  [default: 2]"
)
@click.option(
    "--parallel",
    type=click.Choice(["ddp", "fsdp2"]),
    help="How the processes of torchrun share the work.  [default: ddp]",
)
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
    data: Path | None, size: str | None, init_from: Path | None, output: Path | None,
    resume: bool, dry_run: bool, overwrite: bool, config_path: Path | None,
    overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Train a model on a token store (fresh pairs and masks each epoch) or on frozen shards.

    \b
    Example: lmmodel train shards/
    Example: lmmodel train tokens/ --model mini --num-minutes 10 --output runs/wiki
    Example: lmmodel train --resume --output runs/wiki
    Example: lmmodel train tokens/ --init-from runs/bert --num-minutes 10 --output runs/mine
    """
    from lmmodel.trainer import plan
    from lmmodel.trainer import train as run_training

    options |= {"model_size": size, "init_from": None if init_from is None else str(init_from)}
    given = [f"{TRAIN_KEYS[k]}={json.dumps(v)}" for k, v in options.items() if v is not None]
    wanted = [*given, *overrides]
    name = f"{init_from.resolve().name}-continued" if init_from else size or DEFAULT_SIZE
    output = output or Path("runs") / name
    data = data or (None if resume else Path("shards"))
    config = wanted_config(config_path, wanted, output if resume else None)
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
            progress=lambda now: show_training(line, now),
        )  # fmt: skip
    if os.environ.get("RANK", "0") != "0":  # torchrun's other processes have nothing to add
        return None
    lines = training_lines(summary)
    return echo_result(to_json_values(summary), as_json=as_json, quiet=quiet, lines=lines)


def wanted_config(
    config_path: Path | None, settings: list[str], resumed: Path | None
) -> TrainConfig | None:
    """Return the configuration asked for; None: that of the run that is resumed, as it is.

    Settings given when a run is resumed are laid over its own.
    """
    from lmmodel.config import change_config, load_train_config
    from lmmodel.saving.run import read_record

    if resumed is None or config_path is not None:
        return load_train_config(config_path, settings)
    return change_config(read_record(resumed).config, settings) if settings else None


def show_training(line: ProgressLine, now: Progress) -> None:
    """Show a report of a running training; what is said once stays on a line of its own."""
    if now.message is not None:
        line.say(f"step {now.step}: {now.message}")
    else:
        line.update(now.step, now.num_steps, training_note(now))


@contextlib.contextmanager
def saying_what_is_kept(output: Path) -> Iterator[None]:
    """Have an interrupted training end with what is kept and how to go on."""
    from lmmodel.training.loop import Interrupted

    try:
        yield
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except KeyboardInterrupt as error:
        if not (output / "config.json").exists():
            raise KeyboardInterrupt("Nothing was begun; type the same command again.") from error
        text = f"The last checkpoint in {output} is kept: go on with --resume --output {output}"
        raise KeyboardInterrupt(text) from error


main.add_command(evaluate)
main.add_command(finetune)
main.add_command(export)
main.add_command(import_)
for verb in (*predicting.VERBS, *answering.VERBS):
    main.add_command(verb)
