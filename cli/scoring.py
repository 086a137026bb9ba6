"""`lmmodel score`: how likely a run finds texts, or targets of their sources."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .experts import open_experts
from .inputs import (
    TEXT,
    WINDOWED,
    echo_answers,
    read_given,
    split_at_tab,
    text_options,
    write_answers,
    writing_answers,
)
from .options import device_option, json_option
from .summaries import ProgressLine, aligned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmmodel.predicting.likelihood import Likelihoods

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("run", type=FOLDER)
@text_options
@click.option(
    "--start-token",
    metavar="PIECE",
    type=TEXT,
    help="Of a causal model: begin with this piece, so that the first token is scored too.",
)
@click.option("--source", help="Of an encoder-decoder: column of a table with the source.")
@click.option("--target", help="Of an encoder-decoder: column with the target that is scored.")
@device_option
@json_option
def score(
    run: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    start_token: str | None, source: str | None, target: str | None, device: str | None,
    as_json: bool, **layout: Any,
) -> None:  # fmt: skip
    """How likely a model finds texts, in nats: in all, per token and per byte.

    A causal model gives the log-likelihood; its first token is given, not scored (an n-gram model
    knows what begins a text, and scores it). A masked model
    gives the pseudo-log-likelihood: each token masked in turn. Texts longer than the model takes
    are read in windows that overlap by half; how many is in the result. An encoder-decoder gives
    the log-likelihood of a target, its end included, given its source: a tab between them, or
    columns of a table.

    \b
    Example: lmmodel score runs/wiki "The cat sleeps." "The cat sleep."
    Example: lmmodel score runs/wiki --file reviews.csv --text-field body --output scored.csv
    Example: lmmodel score runs/t5-de --file pairs.tsv --source en --target de
    """
    from lmmodel.predicting.given import PLAIN
    from lmmodel.predicting.written import is_writer

    if is_writer(run):
        if start_token is not None:
            raise click.UsageError(f"{run} knows what begins a target: leave --start-token out")
        if layout.pop("text") is not None:
            raise click.UsageError("name the columns of pairs by --source and --target")
        named = {"text": source, "pair": target}
        return _score_pairs(run, texts, file, output, device or "auto", overwrite=overwrite,
                            as_json=as_json, **named, **layout)  # fmt: skip
    if source is not None or target is not None:
        raise click.UsageError("--source and --target are for encoder-decoders")
    with writing_answers(output, overwrite=overwrite) as partial:
        given = read_given(texts, file, PLAIN, **layout)
        kind, found = _score(run, given.texts, start_token, device or "auto", quiet=as_json)
        records = score_records(given.texts, found)
        columns = [{n: v for n, v in record.items() if n != "text"} for record in records]
        write_answers(partial, output, given, columns)
    counts = {WINDOWED: found.num_windowed} if found.num_windowed else {}
    echo_answers(
        given, records, score_lines(kind, records), counts, output=output, as_json=as_json,
        score=kind,
    )  # fmt: skip


def _score_pairs(
    run: Path, texts: Sequence[str], file: str | None, output: Path | None, device: str, *,
    overwrite: bool, as_json: bool, **layout: Any,
) -> None:  # fmt: skip
    """Tell how likely an encoder-decoder finds targets, given their sources."""
    from lmmodel.predicting.written import PAIRS, load_writer

    with writing_answers(output, overwrite=overwrite) as partial:
        given = read_given(texts, file, PAIRS, **layout)
        sources, targets = given.texts, given.seconds
        if targets is None:
            sources, targets = split_at_tab(given.texts)
        with ProgressLine("scoring", unit="pairs", quiet=as_json) as line:
            found, counts = load_writer(run, device).score(sources, targets, progress=line.update)
        records = score_records(targets, found)
        columns = [{n: v for n, v in record.items() if n != "text"} for record in records]
        write_answers(partial, output, given, columns)
    lines = score_lines("log-likelihood", records)
    records = [
        {"source": source, **record} for source, record in zip(sources, records, strict=True)
    ]
    echo_answers(
        given, records, lines, counts, output=output, as_json=as_json, score="log-likelihood"
    )


def _score(
    run: Path, texts: Sequence[str], start_token: str | None, device: str, *, quiet: bool
) -> tuple[str, Likelihoods]:
    """Return what the scores of texts are, and the scores."""
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.predicting.likelihood import log_likelihoods
    from lmmodel.routing.folder import is_experts
    from lmmodel.trained import load_run

    if is_experts(run):
        if start_token is not None:
            raise click.UsageError(f"{run} holds experts: leave --start-token out")
        team = open_experts(run, device)
        kind = "log-likelihood" if team.runs[-1].is_causal else "pseudo-log-likelihood"
        return kind, team.score(texts)
    if is_ngrams(run):
        from lmmodel.ngrams import load_ngrams

        if start_token is not None:
            raise click.UsageError(f"{run} holds an n-gram model: leave --start-token out")
        return "log-likelihood", load_ngrams(run).score(texts)
    model = load_run(run, device=device)
    with ProgressLine("scoring", unit="tokens", quiet=quiet) as line:
        found = log_likelihoods(model, texts, start_token=start_token, progress=line.update)
    return "log-likelihood" if model.is_causal else "pseudo-log-likelihood", found


# What it prints.


def score_records(texts: Sequence[str], found: Likelihoods) -> list[dict[str, Any]]:
    """Return the log-likelihood of each text, in nats; None a token where none was scored."""
    columns = zip(
        texts, found.total, found.num_tokens, found.per_token, found.per_byte, strict=True
    )
    return [
        {
            "text": text,
            "log_likelihood": float(total),
            "num_tokens": int(num_tokens),
            "per_token": None if math.isnan(per_token) else float(per_token),
            "per_byte": float(per_byte),
        }
        for text, total, num_tokens, per_token, per_byte in columns
    ]


def score_lines(kind: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table: nats, nats a token, nats a byte, text."""
    rows = [(kind, "a token", "a byte", "text")]
    rows += [
        (
            f"{record['log_likelihood']:.4f}",
            "" if record["per_token"] is None else f"{record['per_token']:.4f}",
            f"{record['per_byte']:.4f}",
            record["text"],
        )
        for record in records
    ]
    return aligned(rows)
