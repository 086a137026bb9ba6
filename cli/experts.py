"""`lmmodel experts`: branches of one parent, and a router that sends each text to its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    FOLDER,
    LABELLED,
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

    from lmmodel.adapters import Trained
    from lmmodel.experts import ExpertsConfig, ExpertsResult
    from lmmodel.routing.team import Experts


@click.command()
@click.argument("runs", type=LABELLED, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--validation",
    type=LABELLED,
    multiple=True,
    required=True,
    metavar="STORE",
    help="Token store with text of every domain; or DOMAIN=STORE, once for each.",
)
@click.option(
    "--domains",
    type=click.Choice(["source", "folder"]),
    default="source",
    show_default=True,
    help="What names the domain of a document in a STORE: its file, or the folder of its file.",
)
@click.option(
    "--router",
    type=click.Choice(["ngram", "likelihood", "embedding"]),
    help="What tells domains apart: n-grams of their training text, the experts' own likelihoods, "
    "or mean vectors of the parent.  [default: ngram]",
)
@click.option(
    "--prefix-tokens",
    type=click.IntRange(min=1),
    help="Tokens of a text that the router looks at.  [default: 32]",
)
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    help="Experts that score and fill a text together.  [default: 1]",
)
@click.option("--num-examples", type=click.IntRange(min=1), help="Of each STORE.  [default: 512]")
@click.option("--dense", type=FOLDER, help="A run to compare with: one for all domains.")
@click.option(
    "--parent", type=FOLDER, help="Of fine-tuned RUNs: who answers where none of them does."
)
@click.option("--output", type=FOLDER, required=True, help="Folder to write.")
@overwrite_option
@device_option
@set_option
@result_options
def experts(
    runs: tuple[str, ...], validation: tuple[str, ...], domains: Any, dense: Path | None,
    parent: Path | None, output: Path, overwrite: bool, overrides: tuple[str, ...],
    as_json: bool, quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """Learn which run knows which domain, and write experts that answer each text by its own.

    RUN is a branch of one parent, or the parent itself, called after its domain: by its folder, or
    as DOMAIN=RUN.
    Half of the validation text teaches the router, the other half judges: bits per byte of every
    run on every domain, how often a text is sent right by its first tokens, and what it gains.
    The folder is asked like a run: score, fill-mask, embed, generate, evaluate, serve. Fine-tuned
    models of one task are experts too: classify and serve ask the one of the text's domain.

    \b
    Example: lmmodel experts runs/law runs/medicine runs/wiki --validation tokens/ --output experts/
    Example: lmmodel experts law=runs/a code=runs/b --validation law=tokens-law/
             --validation code=tokens-code/ --router likelihood --output experts/
    """
    from lmmodel.experts import ExpertsConfig, make_experts
    from lmmodel.finetuning.folder import is_fine_tuned
    from lmmodel.routing.domains import Labelled

    config = resolve(ExpertsConfig, None, overrides, **options)
    if any(is_fine_tuned(path) for _, path in named(runs)):
        return _of_fine_tuned(
            runs, validation, domains, parent, output, config, overwrite=overwrite,
            as_json=as_json, quiet=quiet, dense=dense,
        )  # fmt: skip
    if parent is not None:
        raise click.UsageError("--parent is for fine-tuned experts: runs say what they began with")
    stores = [Labelled(path, name, domains) for name, path in named(validation)]
    chosen = {name or path.resolve().name: path for name, path in named(runs)}
    if len(chosen) < len(runs):
        raise click.UsageError("two runs are called the same: give one as NAME=RUN")
    with ProgressLine("judging", unit="tokens", quiet=quiet) as line:
        result = make_experts(
            chosen, stores, output, config, dense=dense, overwrite=overwrite, progress=line.update
        )
    return echo_result(result, as_json=as_json, quiet=quiet, lines=experts_lines(result))


def _of_fine_tuned(
    models: Sequence[str], validation: Sequence[str], domains: Any, parent: Path | None,
    output: Path, config: ExpertsConfig, *, overwrite: bool, as_json: bool, quiet: bool,
    dense: Path | None,
) -> None:  # fmt: skip
    """Make experts of fine-tuned models."""
    from lmmodel.routing.domains import Labelled
    from lmmodel.specialists import make_specialists

    if parent is None or dense is not None:
        raise click.UsageError(
            "fine-tuned experts need --parent, the fine-tuned model that answers where none of "
            "them does, and take no --dense"
        )
    stores = [Labelled(path, name, domains) for name, path in named(validation)]
    chosen = {name or path.resolve().name: path for name, path in named(models)}
    with ProgressLine("learning the router", quiet=quiet):
        result = make_specialists(chosen, parent, stores, output, config, overwrite=overwrite)
    echo_result(result, as_json=as_json, quiet=quiet, lines=experts_lines(result))


def open_experts(folder: Path, device: str | None) -> Experts:
    """Return the experts of a folder; who is gone is told."""
    from lmmodel.routing.team import load_experts

    team = load_experts(folder, device or "auto")
    for note in team.notes:
        say(f"note: {note}")
    return team


def named(arguments: Sequence[str]) -> list[tuple[str | None, Path]]:
    """Return folders with the names that were given to them.

    Example:
        >>> named(["law=runs/a", "runs/b"])
        [('law', PosixPath('runs/a')), (None, PosixPath('runs/b'))]
    """
    found: list[tuple[str | None, Path]] = []
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        is_named = bool(equals) and not Path(argument).exists()
        found.append((name, Path(folder)) if is_named else (None, Path(argument)))
    return found


def trained_lines(trained: Trained) -> list[str]:
    """Return a table of what of a model is trained and what stays as it is."""
    kinds = sorted(trained.rows.items(), key=lambda row: not row[1][2])
    rows = [("", "tensors", "numbers"), *((k, f"{n:,}", f"{c:,}") for k, (n, c, _) in kinds)]
    share = trained.num_trained / (trained.num_trained + trained.num_frozen)
    return [*aligned(rows), f"trained: {trained.num_trained:,} numbers, {share:.2%} of the model"]


def experts_lines(result: ExpertsResult) -> list[str]:
    """Return the table of domains and runs, how texts are routed, and what that gains."""
    router = result.router
    lengths = ", ".join(f"{share:.1%} by {n}" for n, share in result.accuracy.items())
    if not result.bits:
        return [
            f"{result.output}/  {len(result.experts)} experts beside {result.parent}",
            f"  texts sent right by their first tokens: {lengths}",
            f"  picture: {result.picture}",
        ]
    runs = list(next(iter(result.bits.values())))
    rows: list[tuple[str, ...]] = [("bits per byte on", "texts", *runs, "routed", "mixture")]
    for domain, own in result.bits.items():
        cells = [f"{own[run]:.4f}{'*' if run == result.owners[domain] else ' '}" for run in runs]
        rows.append((domain, f"{result.num_texts[domain]:,}", *cells,
                     f"{result.routed[domain]:.4f}", f"{result.mixture[domain]:.4f}"))  # fmt: skip
    means = [f"{result.mean_of(run):.4f} " for run in runs]
    routed, mixture = result.mean(result.routed), result.mean(result.mixture)
    rows.append(("mean", "", *means, f"{routed:.4f}", f"{mixture:.4f}"))
    against = {"their own expert": result.oracle, "the parent": result.mean_of("parent")}
    if result.dense is not None:
        against[result.dense] = result.mean_of("dense")
    told = ", ".join(f"{routed - value:+.4f} against {name}" for name, value in against.items())
    lines = [
        f"{result.output}/  {len(result.experts)} experts of {result.parent}",
        *aligned(rows),
        f"  * the domain's own expert; texts sent right by their first tokens: {lengths}",
        f"  routed by {router.prefix_tokens} tokens: {told}",
        f"  mixture of all: {mixture - result.oracle:+.4f} against their own expert",
        f"  picture: {result.picture}",
    ]
    return [*lines, *[f"  note: {note}" for note in result.notes]]
