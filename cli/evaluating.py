"""`lmmodel evaluate`: how good a model is on what it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values

from .inputs import TEXT
from .options import device_option, echo_result, json_option, quiet_option
from .progress import ProgressLine
from .summaries import aligned, evaluation_lines, optional
from .summaries_predicting import RESCORED, WINDOWED, count_lines

if TYPE_CHECKING:
    from lmmodel.minimal_pairs import MinimalPairScores, PairPrecision, ParadigmScore
    from lmmodel.sources import SourceEvaluation

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FOLDER)
@click.argument("data", type=FOLDER, required=False)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Split of the data.  [default: validation]",
)
@click.option("--num-examples", type=click.IntRange(min=1), help="Examples to score.")
@click.option("--by-source", is_flag=True, help="Also for each source file; token stores only.")
@click.option(
    "--minimal-pairs",
    "pairs_path",
    type=FOLDER,
    help="Score pairs of sentences instead: a file in BLiMP's form, or a folder of them.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="Of --minimal-pairs: bf16 is faster where the hardware has it, and scores are off by some "
    "0.01 nats; auto scores close pairs again in float32.  [default: auto]",
)
@click.option(
    "--start-token",
    metavar="PIECE",
    type=TEXT,
    help="Of --minimal-pairs and a causal model: begin each sentence with this piece.",
)
@device_option
@json_option
@quiet_option
def evaluate(
    run: Path, data: Path | None, pairs_path: Path | None, by_source: bool,
    precision: PairPrecision | None, start_token: str | None, device: str | None, as_json: bool,
    quiet: bool, **which: Any,
) -> None:  # fmt: skip
    """Held-out loss at fixed masks, against the loss of guessing by frequency.

    With --minimal-pairs: how often the acceptable sentence is likelier than the unacceptable one,
    by pseudo-log-likelihood (masked models) or log-likelihood (causal ones).

    \b
    Example: lmmodel evaluate runs/wiki shards/
    Example: lmmodel evaluate runs/wiki tokens/ --by-source --num-examples 4096
    Example: lmmodel evaluate runs/wiki --minimal-pairs blimp/
    """
    given = {name: value for name, value in which.items() if value is not None}
    if pairs_path is None:
        if precision is not None or start_token is not None:
            raise click.UsageError("--precision and --start-token are for --minimal-pairs")
        result, lines = evaluate_data(
            run, data, by_source=by_source, device=device or "auto", quiet=quiet, **given
        )
    else:
        if given or data is not None or by_source:
            raise click.UsageError("--minimal-pairs brings its own sentences: it takes no data")
        result, lines = evaluate_pairs(
            run, pairs_path, device=device or "auto", quiet=quiet, start_token=start_token,
            precision=precision or "auto",
        )  # fmt: skip
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


def evaluate_data(
    run: Path, data: Path | None, *, by_source: bool, quiet: bool, **options: Any
) -> tuple[Any, list[str]]:
    """Return the held-out figures of a run, for machines and for people."""
    from lmmodel.evaluation import evaluate_run
    from lmmodel.sources import evaluate_sources

    with ProgressLine("evaluating", unit="tokens", quiet=quiet) as line:
        if by_source:
            figures = evaluate_sources(run, data, progress=line.update, **options)
            return json_values(figures), source_lines(figures)
        result = evaluate_run(run, data, progress=line.update, **options)
        return json_values(result), evaluation_lines(result)


def evaluate_pairs(
    run: Path, path: Path, *, device: str, quiet: bool, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return how often a run finds acceptable sentences likelier, for machines and for people."""
    from lmmodel.minimal_pairs import read_pairs, score_pairs, table_of
    from lmmodel.trained import load_run

    pairs, model = read_pairs(path), load_run(run, device=device)
    with ProgressLine("scoring", unit="tokens", quiet=quiet) as line:
        result = score_pairs(model, pairs, progress=line.update, **options)
    return table_of(result), minimal_pair_lines(result)


def source_lines(result: SourceEvaluation) -> list[str]:
    """Return the figures of all documents, then a row a source file, the hardest first."""
    rows = [("source", "documents", "tokens", "nats a token", "nats a byte", "accuracy")]
    rows += [
        (
            found.source,
            f"{found.num_documents:,}",
            f"{found.num_labels:,}",
            f"{found.loss:.4f}",
            optional(found.nats_per_byte, ".4f") or "-",
            optional(found.accuracy, ".2%") or "-",
        )
        for found in result.sources
    ]
    return [*evaluation_lines(result.total), "", *aligned(rows)]


def minimal_pair_lines(scores: MinimalPairScores) -> list[str]:
    """Return a row a paradigm, with 95 % intervals, and one for all."""
    rows: list[tuple[str, ...]] = [("paradigm", "pairs", "right", "95 % interval", "ties")]
    rows += [_paradigm_row(paradigm) for paradigm in (*scores.paradigms, scores.total)]
    return [
        *aligned(rows),
        f"right: the acceptable sentence has the higher {scores.score}; a tie is not right",
        *count_lines({WINDOWED: scores.num_windowed, RESCORED: scores.num_rescored}),
    ]


def _paradigm_row(score: ParadigmScore) -> tuple[str, ...]:
    interval = f"{score.accuracy_low:.2%} to {score.accuracy_high:.2%}"
    ties = f"{score.num_ties:,}"
    return score.name, f"{score.num_pairs:,}", f"{score.accuracy:.2%}", interval, ties
