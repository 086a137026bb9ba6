"""`lmmodel`: training examples to a model and what it is good for, one function a verb."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmmodel.families import FAMILIES, MODEL_SIZES

from . import answering, predicting
from .evaluating import count, diagnose, evaluate
from .experts import experts, trained_lines
from .finetuning import finetune
from .handing_over import export, import_, merge, serve
from .options import (
    FOLDER,
    PLACE,
    FriendlyGroup,
    by_key,
    config_option,
    device_option,
    echo_page,
    echo_result,
    json_option,
    overwrite_option,
    page_options,
    result_options,
    seed_option,
    set_option,
)
from .scoring import score
from .summaries import (
    ProgressLine,
    objective_lines,
    plan_lines,
    training_lines,
    training_note,
)

if TYPE_CHECKING:
    from lmmodel.config import TrainConfig
    from lmmodel.objectives import Definition
    from lmmodel.saving.metrics import TrainProgress

DEFAULT_SIZE = "mini"


class ModelSize(click.Choice):  # type: ignore[type-arg]  # generic since click 8.2
    """A published size; a family, which others call a model, is answered with its option."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the size."""
        if value in FAMILIES:
            self.fail(f"{value!r} is a family, not a size: give --family {value} --model mini.")
        return super().convert(value, param, ctx)


class ModelGroup(FriendlyGroup):
    """The verbs of models, of which only training keeps what it has done (and says so)."""

    after_interruption = "Nothing was written; type the same command again."


@click.group("lmmodel", cls=ModelGroup, context_settings={"max_content_width": 100})
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
@click.argument("data", type=PLACE, required=False)
@click.option(
    "--model",
    "model__size",
    type=ModelSize(list(MODEL_SIZES)),
    help="Size of the model.  [default: mini]",
)
@click.option(
    "--family",
    "model__family",
    type=click.Choice(list(FAMILIES)),
    help="How it is built; modern learns most from a token store.  [default: bert]",
)
@click.option(
    "--objective",
    "objective__name",
    metavar="NAME",
    help="What it learns; `lmmodel objectives` lists them.  [default: what the family is for]",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Examples as a published model had them, and the objective that learns from them; `lmdata "
    "recipes` prints each.  [default: what family and objective learn from]",
)
@click.option(
    "--init-from",
    type=FOLDER,
    help="Begin with the model of this run, trained or imported, instead of a fresh one.",
)
@click.option(
    "--teacher",
    "teachers",
    type=FOLDER,
    multiple=True,
    help="Learn from the guesses of this run too, trained or imported (distillation); repeated, "
    "from the mean of several.",
)
@click.option(
    "--trainable",
    type=click.Choice(["full", "ffn", "head", "bias", "lora"]),
    help="With --init-from: what of its model is trained, the rest stays to the bit; lora: thin "
    "pairs beside the matrices (--set lora.rank=8).  [default: full]",
)
@click.option(
    "--replay",
    type=click.FloatRange(0, 1, max_open=True),
    help="With --init-from: share of the examples that are of its data, against forgetting; 0 only "
    "tells how much is forgotten.",
)
@click.option(
    "--num-steps",
    "budget__num_steps",
    type=click.IntRange(min=1),
    help="Optimizer steps.  [default: 1000]",
)
@click.option(
    "--num-tokens", "budget__num_tokens", type=click.IntRange(min=1), help="Budget in tokens read."
)
@click.option(
    "--num-epochs", "budget__num_epochs", type=float, help="Budget in passes over the data."
)
@click.option(
    "--num-minutes",
    "budget__num_minutes",
    type=float,
    help="Wall-clock budget, turned into steps at the start.",
)
@click.option("--select", "selection", type=FOLDER,
              help="Read only the documents of this selection, from `lmdata select`.")  # fmt: skip
@click.option("--output", type=PLACE, help="Run folder.  [default: runs/SIZE, or RUN-continued]")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint, bit for bit.")
@click.option(
    "--keep",
    "checkpoint__keep",
    type=click.IntRange(min=1),
    help="Newest checkpoints that stay.  [default: 2]",
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
@click.option("--report", "has_report", is_flag=True, help="Write report.html into the run folder.")
@device_option
@seed_option
@overwrite_option
@config_option
@set_option
@result_options
def train(
    data: Path | str | None, init_from: Path | None, teachers: tuple[Path, ...],
    output: Path | str | None, resume: bool, dry_run: bool, has_report: bool, overwrite: bool,
    config_path: Path | None, overrides: tuple[str, ...], as_json: bool, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Train a model on a token store (fresh pairs and masks each epoch) or on frozen shards.

    Vectors are learned from a file of pairs too: columns anchor, positive and perhaps negative.

    \b
    Example: lmmodel train shards/
    Example: lmmodel train tokens/ --model mini --num-minutes 10 --output runs/wiki
    Example: lmmodel train --resume --output runs/wiki
    Example: lmmodel train pairs.tsv --objective simcse --init-from runs/wiki
    Example: lmmodel train tokens/ --init-from runs/bert --num-minutes 10 --output runs/mine
    """
    size = options["model__size"] or DEFAULT_SIZE
    name = size if init_from is None else f"{init_from.resolve().name}-continued"
    output = output or Path("runs") / name
    data = data or (None if resume else Path("shards"))
    learned_from = [str(path) for path in teachers]
    settings = by_key({
        **options, "init_from": init_from and str(init_from),
        "selection": options["selection"] and str(options["selection"]),
        "distillation__teacher": learned_from[0] if learned_from else None,
        "distillation__more_teachers": learned_from[1:] or None,
    })  # fmt: skip
    config = wanted_config(config_path, overrides, settings, output if resume else None)
    if isinstance(data, Path) and not data.is_file():
        from lmdata.schema import read_manifest

        read_manifest(data)  # what is wrong with settings and data is said before torch is loaded
    if isinstance(output, str) and has_report:
        raise click.UsageError("--report writes into the run folder: leave it out for a URI")
    if isinstance(output, Path) and not (resume or dry_run or is_helper()):
        from lmmodel.record import check_output

        check_output(output, overwrite=overwrite)
    from lmmodel.trainer import plan
    from lmmodel.trainer import train as run_training

    if dry_run:
        if config is None or data is None:
            raise click.UsageError("--dry-run plans a new run: leave --resume out")
        if has_report:
            raise click.UsageError("--dry-run trains nothing to report on: leave --report out")
        with ProgressLine("planning", quiet=quiet):
            result = plan(config, data)
        return echo_result(result, as_json=as_json, quiet=quiet, lines=plan_lines(result))
    with ProgressLine("training", unit="steps", quiet=quiet) as line, saying_what_is_kept(output):
        summary = run_training(
            config, data, output, resume=resume, overwrite=overwrite,
            progress=lambda now: show_training(line, now),
        )  # fmt: skip
    if is_helper():
        return None
    lines = training_lines(summary)
    if has_report and isinstance(output, Path):
        from lmdata.page import write_page
        from lmmodel.record import REPORT_NAME
        from lmmodel.report import model_report
        from lmmodel.report_page import model_page

        write_page(model_page(model_report([output])), output / REPORT_NAME, overwrite=True)
        lines.append(f"  report          {output / REPORT_NAME}")
    return echo_result(summary, as_json=as_json, quiet=quiet, lines=lines)


@main.command()
@json_option
def objectives(as_json: bool) -> None:
    """Print what `--objective` may name: what is learned, and what such a model can do.

    \b
    Example: lmmodel objectives
    """
    from lmmodel.objectives import OBJECTIVES

    facts = {
        name: {
            "learns": known.summary, "view": known.recipe.view,
            "corruption": known.recipe.corruption, "is_masked": known.recipe.is_masking,
            "can_fill_masks": known.can_fill_masks,
            "can_generate": known.can_generate, "makes_vectors": known.makes_vectors,
            "has_targets": known.has_targets,
            "families": families_of(known),
        }
        for name, known in OBJECTIVES.items()
    }  # fmt: skip
    echo_result(facts, as_json=as_json, quiet=False, lines=objective_lines(facts))


def families_of(objective: Definition) -> list[str]:
    """Return the families that can learn an objective."""
    return [name for name, family in FAMILIES.items() if objective.fits(family)]


@main.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option(
    "--minimal-pairs",
    "pairs_path",
    type=FOLDER,
    help="Score the runs on these too: a file in BLiMP's form, or a folder of them.",
)
@page_options
@device_option
@result_options
def report(
    runs: tuple[Path, ...], pairs_path: Path | None, output: Path | None, overwrite: bool,
    is_opened: bool, device: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write one page about runs or fine-tuned models, several side by side.

    Loss and held-out figures, speed and memory, what is filled in over time, settings and what
    differs; of classifiers, calibration and confusions. The page is a file of its own: nothing is
    fetched, nothing is sent. --json prints what it holds.

    \b
    Example: lmmodel report runs/wiki --open
    Example: lmmodel report runs/adamw runs/muon --output compared.html
    """
    from lmdata.page import check_writable, write_page
    from lmmodel.report import model_report
    from lmmodel.report_page import model_page

    name = runs[0].resolve().name if len(runs) == 1 else "runs"
    path = output or Path(f"{name}-report.html")
    check_writable(path, overwrite=overwrite)
    with ProgressLine("reporting", unit="tokens", quiet=quiet) as line:
        found = model_report(
            runs, pairs_path=pairs_path, device=device or "auto", progress=line.update
        )
        write_page(model_page(found), path, overwrite=overwrite)
    echo_page(found, path, is_opened=is_opened, as_json=as_json, quiet=quiet)


def is_helper() -> bool:
    """Whether this is one of torchrun's processes but the first, which alone checks and tells."""
    return os.environ.get("RANK", "0") != "0"


def wanted_config(
    config_path: Path | None,
    overrides: Sequence[str],
    options: dict[str, Any],
    resumed: Path | str | None,
) -> TrainConfig | None:
    """Return the configuration asked for; None: that of the run that is resumed, as it is.

    Settings given when a run is resumed are laid over its own.
    """
    from lmmodel.config import change_config, load_train_config

    if resumed is None or config_path is not None:
        return load_train_config(config_path, overrides, options=options)
    if not overrides and all(value is None for value in options.values()):
        return None
    from lmmodel.saving.run import read_record

    if isinstance(resumed, str):
        from lmmodel.saving.remote_run import RemoteRun

        run = RemoteRun(resumed)
        run.bring()
        resumed = run.folder
    return change_config(read_record(resumed).config, overrides, options=options)


def show_training(line: ProgressLine, now: TrainProgress) -> None:
    """Show a report of a running training; what is said once stays on a line of its own."""
    if now.trained is not None:
        line.say("\n".join(trained_lines(now.trained)))
    elif now.message is not None:
        line.say(f"step {now.step}: {now.message}")
    else:
        line.update(now.step, now.num_steps, training_note(now))


@contextlib.contextmanager
def saying_what_is_kept(output: Path | str) -> Iterator[None]:
    """Have an interrupted training end with what is kept and how to go on."""
    from lmmodel.training.loop import Interrupted

    try:
        yield
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except KeyboardInterrupt as error:
        if isinstance(output, Path) and not (output / "config.json").exists():
            raise KeyboardInterrupt("Nothing was begun; type the same command again.") from error
        text = f"The last checkpoint in {output} is kept: go on with --resume --output {output}"
        raise KeyboardInterrupt(text) from error


main.add_command(count)
main.add_command(evaluate)
main.add_command(diagnose)
main.add_command(finetune)
main.add_command(export)
main.add_command(import_)
main.add_command(serve)
main.add_command(merge)
main.add_command(score)
main.add_command(experts)
for verb in (*predicting.VERBS, *answering.VERBS):
    main.add_command(verb)
