"""`lmmodel export`, `import`, `merge` and `serve`: models for others, as folders and over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    FOLDER,
    LABELLED,
    config_option,
    device_option,
    echo_result,
    overwrite_option,
    resolve,
    result_options,
    say,
    set_option,
)
from .summaries import ProgressLine, aligned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmmodel.exporting import Export
    from lmmodel.handover.adapter import AdapterExport
    from lmmodel.importing import Import

MAX_LISTED = 3


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("output", type=FOLDER)
@click.option("--onnx", is_flag=True, help="Write onnx/model.onnx as well, and check it.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["hf", "arpa"]),
    help="arpa: of an n-gram model, a text file that KenLM and others read.  [default: what fits]",
)
@click.option("--adapter", is_flag=True, help="Of a branch of LoRA: its pairs alone, for PEFT.")
@overwrite_option
@result_options
def export(
    run: Path, output: Path, onnx: bool, form: str | None, adapter: bool, overwrite: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a folder that stock Hugging Face classes open, and prove that the numbers agree.

    RUN is a run or a fine-tuned model. OUTPUT gets config.json, model.safetensors, the tokenizer
    and a model card, README.md; no code. Of an n-gram model it is one file in the ARPA format.

    \b
    Example: lmmodel export runs/wiki wiki-bert/
    Example: lmmodel export runs/wiki-token-classification tagger/ --onnx
    Example: lmmodel export runs/law law-adapter/ --adapter
    Example: lmmodel export runs/5gram wiki.arpa --format arpa
    """
    if adapter:
        if onnx or form:
            raise click.UsageError("--adapter writes pairs for PEFT: leave --onnx and --format out")
        pairs = export_pairs(run, output, overwrite=overwrite, quiet=quiet)
        return echo_result(pairs, as_json=as_json, quiet=quiet, lines=adapter_lines(pairs))
    from lmmodel.counting.folder import is_ngrams

    if is_ngrams(run) != (form == "arpa" if form else is_ngrams(run)) or (onnx and is_ngrams(run)):
        raise click.UsageError("--format arpa is for n-gram models, hf and --onnx for all others")
    if is_ngrams(run):
        from lmmodel.ngrams import export_arpa

        arpa = export_arpa(run, output, overwrite=overwrite)
        return echo_result(
            arpa, as_json=as_json, quiet=quiet,
            lines=[f"{output}  {arpa.num_ngrams:,} n-grams of orders 1 to {arpa.order}"],
        )  # fmt: skip
    from lmmodel.exporting import export_run

    with ProgressLine("exporting", quiet=quiet):
        result = export_run(run, output, overwrite=overwrite, onnx=onnx)
    lines = export_lines(result)
    return echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


@click.command("import")
@click.argument("folder", type=FOLDER)
@click.argument("output", type=FOLDER)
@click.option("--parent", type=FOLDER, help="Of an adapter of PEFT: the run of its base model.")
@overwrite_option
@result_options
def import_(
    folder: Path, output: Path, parent: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Make a run of a BERT, ModernBERT or GPT-2 folder: to evaluate, fine-tune or train on.

    FOLDER holds config.json, model.safetensors (or its parts with their index) and the tokenizer.

    \b
    Example: lmmodel import bert-base-uncased/ runs/bert
    Example: lmmodel import law-adapter/ runs/law --parent runs/bert
    \b
    Going on with text of your own:
      lmdata tokenize corpus/ --tokenizer runs/bert
      lmmodel train tokens/ --init-from runs/bert --output runs/mine
    """
    if parent is not None:
        from lmmodel.handover.adapter import import_adapter

        branch = import_adapter(folder, parent, output, overwrite=overwrite)
        line = (f"{branch.output}/  a branch of {branch.parent}: {branch.num_parameters:,} "
                f"parameters, rank {branch.rank}, on {', '.join(branch.targets)}")  # fmt: skip
        return echo_result(branch, as_json=as_json, quiet=quiet, lines=[line])
    if (folder / "adapter_config.json").is_file():
        raise click.UsageError(
            f"{folder} is an adapter of PEFT: name the run of its base model by --parent"
        )
    from lmmodel.handover.settings import check_described

    check_described(folder)
    from lmmodel.importing import import_checkpoint

    with ProgressLine("importing", quiet=quiet):
        result = import_checkpoint(folder, output, overwrite=overwrite)
    lines = import_lines(result)
    return echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


class Weights(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Numbers with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(float, value.split(",")))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 0.5,0.5.")


@click.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option("--weights", type=Weights(), help="One for each RUN.  [default: equal ones]")
@click.option("--output", type=FOLDER, required=True, help="Run folder to write.")
@overwrite_option
@result_options
def merge(
    runs: tuple[Path, ...], weights: tuple[float, ...] | None, output: Path, overwrite: bool,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Merge runs that began with the same one: the parent, and what each changed, by weight.

    Weights that add up to 1 average the runs; a negative one takes away what its run has learned.

    \b
    Example: lmmodel merge runs/law runs/medicine --weights 0.5,0.5 --output runs/both
    """
    from lmmodel.merging import merge_runs

    weights = weights or (1 / len(runs),) * len(runs)
    with ProgressLine("merging", quiet=quiet):
        result = merge_runs(runs, weights, output, overwrite=overwrite)
    lines = [
        f"{result.output}/  {result.num_parameters:,} parameters, of {result.parent} and what "
        "changed in"
    ]
    lines += aligned([
        (f"  {one.run}", f"weight {one.weight:g}", f"it moved by {one.change:.2%}")
        for one in result.branches
    ])  # fmt: skip
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


def export_pairs(run: Path, output: Path, *, overwrite: bool, quiet: bool) -> AdapterExport:
    """Write the pairs of a branch."""
    from lmmodel.handover.adapter import export_adapter

    with ProgressLine("exporting", quiet=quiet):
        return export_adapter(run, output, overwrite=overwrite)


def adapter_lines(result: AdapterExport) -> list[str]:
    """Return what was exported, and the proof."""
    difference = result.max_logit_difference
    return [
        f"{result.output}/  {result.num_modules} pairs, {result.num_parameters:,} parameters: "
        f"peft.PeftModel.from_pretrained opens it on the export of {result.parent}",
        "  peft is not installed: the logits were not compared" if difference is None else
        f"  largest difference of logits to peft: {difference:.2g}",
    ]  # fmt: skip


def export_lines(result: Export) -> list[str]:
    """Return what was exported, the proof, and the notes of the card."""
    lines = [
        f"{result.output}/  opens with transformers.{result.architecture}.from_pretrained",
        f"  {proof(result.max_logit_difference)}",
    ]
    if result.max_vector_difference is not None:
        lines.append(
            "  and with sentence_transformers.SentenceTransformer; largest difference of vectors: "
            f"{result.max_vector_difference:.2g}"
        )
    if result.onnx is not None:
        lines.append(
            f"  {result.onnx}: largest difference to onnxruntime: {result.max_onnx_difference:.2g}"
        )
    return lines + [f"  note: {note}" for note in result.notes]


def import_lines(result: Import) -> list[str]:
    """Return what was imported, the proof, and what was not there or had no place."""
    lines = [f"{result.output}/  {result.num_parameters:,} parameters, a {result.architecture}"]
    if result.fresh:
        lines.append(f"  not in the folder, so random: {listed(result.fresh)}")
    else:
        lines.append(f"  {proof(result.max_logit_difference)}")
    if result.unused:
        lines.append(f"  left out: {listed(result.unused)}")
    lines += [f"  note: {note}" for note in result.notes]
    return [
        *lines,
        f"next: lmdata tokenize CORPUS --tokenizer {result.output}, then "
        f"lmmodel train tokens/ --init-from {result.output}",
    ]


def proof(difference: float | None) -> str:
    """Return how far logits are from those of transformers."""
    if difference is None:
        return "transformers is not installed: the logits were not compared"
    return f"largest difference of logits to transformers: {difference:.2g}"


def listed(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


# ---- Serving


@click.command()
@click.argument("models", type=LABELLED, nargs=-1, required=True, metavar="MODEL...")
@click.option("--host", help="Address to listen at.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="0: any that is free.  [default: 8000]")
@click.option(
    "--max-batch-tokens",
    "engine__max_batch_tokens",
    type=click.IntRange(min=1),
    help="Tokens computed together at most.  [default: 16384]",
)
@device_option
@config_option
@set_option
def serve(
    models: tuple[str, ...], config_path: Path | None, overrides: tuple[str, ...],
    **options: Any,
) -> None:  # fmt: skip
    """Answer over HTTP what runs and fine-tuned models can be asked: OpenAI's routes, ours, a page.

    A model is called as its folder is, or NAME in NAME=FOLDER. If the variable LMMODEL_API_KEY is
    set, requests must have it. SIGTERM and Ctrl-C finish what was taken, a second one ends it.

    \b
    Example: lmmodel serve runs/wiki
    Example: lmmodel serve runs/sst2 films=runs/imdb --port 8000 --max-batch-tokens 16384
    """
    from lmmodel.errors import ServeError

    try:
        from lmmodel.serving.server import ServeConfig, name_folders
        from lmmodel.serving.server import serve as run_server
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "orjson"):
            raise
        raise ServeError(
            f"lmmodel serve needs {error.name}: pip install 'lmdata-lmmodel[serve]'"
        ) from error

    config = resolve(ServeConfig, config_path, overrides, **options)
    num_unfinished = run_server(name_folders(models), config, say)
    if num_unfinished:
        say(f"{num_unfinished} requests were not finished")
        sys.exit(1)
