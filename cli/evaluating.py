"""`lmmodel evaluate` and its yardstick `count`: how good a model is on what it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values
from lmdata.errors import counted

from .curating import group_options, grouping, open_tag_groups
from .inputs import TEXT, WINDOWED, count_lines, layout_options
from .options import (
    FOLDER,
    PLACE,
    device_option,
    echo_result,
    overwrite_option,
    result_options,
)
from .summaries import ProgressLine, aligned, evaluation_lines, figure, optional, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lmmodel.evaluation import SourceEvaluation
    from lmmodel.minimal_pairs import MinimalPairScores, PairPrecision, ParadigmScore
    from lmmodel.ngrams import Count
    from lmmodel.predicting.answering import FileScores
    from lmmodel.reading_times import ReadingScores

RESCORED = "pairs close in bf16, scored again in float32"
MAX_SHOWN = 12  # labels whose confusion is printed


@click.command()
@click.argument("model", type=FOLDER)
@click.argument("data", type=PLACE, required=False)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Split of the data.  [default: validation]",
)
@click.option("--num-examples", type=click.IntRange(min=1), help="Examples to score.")
@group_options
@click.option(
    "--minimal-pairs",
    "pairs_path",
    type=FOLDER,
    help="Score pairs of sentences instead: a file in BLiMP's form, or a folder of them; or the "
    "reading times of BabyLM.",
)
@click.option(
    "--similarity",
    "rated_path",
    type=FOLDER,
    help="Compare vectors of two texts with how similar people find them: STS-B, or a table.",
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
@click.option("--text-field", "columns__text", help="Of a task file: column of the text.")
@click.option("--pair-field", "columns__pair", help="Column of the second text or passage.")
@click.option("--label-field", "columns__label", help="Column of the right answers.")
@click.option(
    "--no-header", "columns__has_header", is_flag=True, flag_value=False, default=None,
    help="The first line of TSV and CSV is data: columns are numbers from 0.",
)  # fmt: skip
@layout_options("columns__")
@device_option
@result_options
def evaluate(
    model: Path, data: Path | str | None, pairs_path: Path | None, rated_path: Path | None,
    by_source: bool, by_tag: str | None, tags_path: Path | None,
    precision: PairPrecision | None, start_token: str | None, device: str | None, as_json: bool,
    quiet: bool, **options: Any,
) -> None:  # fmt: skip
    """How good a model is: a run on held-out data, a fine-tuned model on a task file.

    A run: the loss at fixed masks, against the loss of guessing by frequency. A fine-tuned model:
    its scores with 95 % intervals, for each label, and which is taken for which.

    With --minimal-pairs: how often the acceptable sentence is likelier than the unacceptable one,
    by pseudo-log-likelihood (masked models) or log-likelihood (causal ones). With --similarity: the
    rank correlation of cosines of vectors with ratings, and how the vectors lie.

    \b
    Example: lmmodel evaluate runs/wiki shards/
    Example: lmmodel evaluate runs/wiki tokens/ --by-source --num-examples 4096
    Example: lmmodel evaluate runs/wiki tokens/ --by language --tags tags/
    Example: lmmodel evaluate runs/wiki --minimal-pairs blimp/
    Example: lmmodel evaluate runs/vectors --similarity sts-dev.tsv
    Example: lmmodel evaluate runs/wiki-sequence-classification test.csv
    """
    from lmmodel.finetuning.folder import is_fine_tuned

    wanted = {name: value for name, value in options.items() if value is not None}
    layout = {n.partition("__")[2]: v for n, v in wanted.items() if n.startswith("columns__")}
    given = {n: v for n, v in wanted.items() if not n.startswith("columns__")}
    run, by = model, grouping(by_source, by_tag, tags_path)
    if is_fine_tuned(model):
        if given or by or pairs_path or rated_path or precision or start_token:
            raise click.UsageError(f"{model} is fine-tuned: it is scored on a task file, as it is")
        scored, lines = evaluate_file(model, data, device=device or "auto", layout=layout)
        return echo_result(scored, as_json=as_json, quiet=quiet, lines=lines)
    if rated_path is not None:
        if given or by or pairs_path or precision or start_token or data is not None:
            raise click.UsageError("--similarity brings its own texts: it goes with columns alone")
        rated, lines = evaluate_similarity(
            run, rated_path, device=device or "auto", layout=layout, quiet=quiet
        )
        return echo_result(rated, as_json=as_json, quiet=quiet, lines=lines)
    if layout:
        raise click.UsageError("columns are described for a task file, or for --similarity")
    if pairs_path is None:
        if precision is not None or start_token is not None:
            raise click.UsageError("--precision and --start-token are for --minimal-pairs")
        result, lines = evaluate_data(
            run, data, by=by, tags_path=tags_path, device=device or "auto", quiet=quiet, **given
        )
    else:
        if given or data is not None or by:
            raise click.UsageError("--minimal-pairs brings its own sentences: it takes no data")
        result, lines = evaluate_pairs(
            run, pairs_path, device=device or "auto", quiet=quiet, start_token=start_token,
            precision=precision or "auto",
        )  # fmt: skip
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


def evaluate_file(
    model: Path, data: Path | str | None, *, device: str, layout: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return how good a fine-tuned model is on a task file, for machines and for people.

    Raises:
        click.UsageError: there is no file
    """
    from lmmodel.finetuning.folder import load_fine_tuned
    from lmmodel.predicting.answering import score_file
    from lmmodel.predicting.given import open_table, usual_of

    if data is None:
        raise click.UsageError(f"{model} is fine-tuned: name the task file to score it on")
    tuned = load_fine_tuned(model, device)
    file = open_table(Path(data), usual_of(tuned.record), tuned.record, layout, has_labels=True)
    result = score_file(tuned, file)
    cells = None if result.confusion is None else result.confusion.tolist()
    scored = {**json_values(result), "confusion": cells}
    return scored, [f"{model} on {data}", *task_score_lines(result)]


def evaluate_data(
    run: Path, data: Path | str | None, *, by: str | None, tags_path: Path | None, quiet: bool,
    **options: Any,
) -> tuple[Any, list[str]]:  # fmt: skip
    """Return the held-out figures of a run, for machines and for people."""
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.evaluation import evaluate_run, evaluate_sources
    from lmmodel.routing.folder import is_experts

    if is_experts(run):
        from lmmodel.experts import evaluate_experts

        if by or data is None:
            raise click.UsageError(
                f"{run} holds experts: name a token store to judge them on, without --by[-source]"
            )
        with ProgressLine("evaluating", unit="tokens", quiet=quiet) as line:
            of_experts = evaluate_experts(run, Path(data), progress=line.update, **options)
        return of_experts.figures(), evaluation_lines(of_experts)
    if is_ngrams(run):
        from lmmodel.ngrams import evaluate_ngrams

        if by:
            raise click.UsageError(f"{run} holds an n-gram model: leave --by and --by-source out")
        del options["device"]  # it has no choice
        found = evaluate_ngrams(run, Path(data) if data else None, **options)
        return found.figures(), evaluation_lines(found)

    with ProgressLine("evaluating", unit="tokens", quiet=quiet) as line:
        if by:
            groups = open_tag_groups(tags_path, by)
            figures = evaluate_sources(run, data, progress=line.update, groups=groups, **options)
            lines, found = source_lines(figures, by), json_values(figures.sources)
            rows = {"sources": found}
            if by != "source":
                rows = {"by": by, "groups": [{"group": own.pop("source"), **own} for own in found]}
            return {"total": figures.total.figures(), **rows}, lines
        result = evaluate_run(run, data, progress=line.update, **options)
        return result.figures(), evaluation_lines(result)


def evaluate_pairs(
    run: Path, path: Path, *, device: str, quiet: bool, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return how often a run finds acceptable sentences likelier, for machines and for people."""
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.minimal_pairs import read_pairs, score_pairs, score_pairs_by, table_of
    from lmmodel.reading_times import reads_times, score_reading
    from lmmodel.trained import load_run

    if reads_times(path):
        if set(options.values()) - {None, "auto"}:
            raise click.UsageError("--precision and --start-token are for pairs, not reading times")
        scores = score_reading(load_run(run, device=device), path)
        return json_values(scores), reading_lines(scores)
    if is_ngrams(run):
        from lmmodel.ngrams import load_ngrams

        found = score_pairs_by(load_ngrams(run).score, read_pairs(path))
        return table_of(found), minimal_pair_lines(found)
    pairs, model = read_pairs(path), load_run(run, device=device)
    with ProgressLine("scoring", unit="tokens", quiet=quiet) as line:
        result = score_pairs(model, pairs, progress=line.update, **options)
    return table_of(result), minimal_pair_lines(result)


def evaluate_similarity(
    run: Path, path: Path, *, device: str, layout: Mapping[str, Any], quiet: bool
) -> tuple[dict[str, Any], list[str]]:
    """Return how well a run's vectors agree with ratings, for machines and for people."""
    from lmdata.config import build_config
    from lmmodel.similarity import read_rated_pairs, score_similarity
    from lmmodel.tasks.task_files import TaskFormat
    from lmmodel.trained import load_run

    pairs, model = read_rated_pairs(path, build_config(TaskFormat, layout)), load_run(run, device)
    with ProgressLine("embedding", unit="texts", quiet=quiet) as line:
        found = score_similarity(model, pairs, progress=line.update)
    rows = [
        ("pairs", f"{found.num_pairs:,}"),
        ("Spearman", f"{found.spearman:.4f}"),
        ("Pearson", f"{found.pearson:.4f}"),
        ("alignment", optional(found.alignment, ".4f") or "-"),
        ("uniformity", f"{found.uniformity:.4f}"),
    ]
    counts = {WINDOWED: found.num_cut} if found.num_cut else {}
    return json_values(found), [*aligned(rows), *count_lines(counts)]


def source_lines(result: SourceEvaluation, by: str) -> list[str]:
    """Return the figures of all documents, then a row a source file or group, hardest first."""
    rows = [(by, "documents", "tokens", "nats a token", "nats a byte", "accuracy")]
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


def reading_lines(scores: ReadingScores) -> list[str]:
    """Return a row a measure, then what BabyLM reports of them."""
    rows: list[tuple[str, ...]] = [("measure", "words", "R2 without", "R2 with", "score")]
    rows += [
        (one.measure, f"{one.num_words:,}", f"{one.r2_without:.4f}", f"{one.r2:.4f}",
         f"{one.score:.2%}")
        for one in scores.measures
    ]  # fmt: skip
    means = {"eye tracking": scores.eye_tracking, "self-paced reading": scores.self_paced}
    return [
        *aligned(rows),
        *[f"{name}: {value:.2%}" for name, value in means.items() if value is not None],
        "score: of the variance left by frequency, length and place, the share that surprisal "
        "explains",
    ]


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


def task_score_lines(result: FileScores) -> list[str]:
    """Return scores with their intervals, a row a label, and the confusion of a few labels."""
    rows: list[tuple[str, ...]] = [("score", "value", "95 % interval")]
    for name, value in result.scores.items():
        low, high = result.intervals.get(name, (value, value))
        rows.append((name, figure(value), f"{figure(low)} to {figure(high)}"))
    lines = [f"{result.task}, {counted(result.num_rows, 'row')}", *aligned(rows)]
    if result.by_label:
        table: list[tuple[str, ...]] = [("label", "has it", "precision", "recall", "F1")]
        table += [
            (one.label, f"{one.num_right:,}", f"{one.precision:.2%}", f"{one.recall:.2%}",
             f"{one.f1:.2%}")
            for one in result.by_label
        ]  # fmt: skip
        lines += ["", *aligned(table)]
    if result.confusion is not None and len(result.labels) <= MAX_SHOWN:
        head: list[tuple[str, ...]] = [("right, taken for", *result.labels)]
        counts = result.confusion.tolist()
        head += [(n, *map(str, row)) for n, row in zip(result.labels, counts, strict=True)]
        lines += ["", *aligned(head)]
    lines += [f"{name}: {told}" for name, told in result.signatures.items()]
    return [*lines, *count_lines(result.counts), *[f"note: {note}" for note in result.notes]]


@click.command()
@click.argument("run", type=FOLDER)
@result_options
def diagnose(run: Path, as_json: bool, quiet: bool) -> None:
    """What is wrong with a run, told from its curves, its data and its model; nothing is changed.

    The exit status is 1 where something is found.

    \b
    Example: lmmodel diagnose runs/wiki
    """
    from lmmodel.doctor import diagnose as examine

    with ProgressLine("examining", quiet=quiet):
        found = examine(run)
    lines = [f"{run}  {found.summary}"]
    for finding in found.findings:
        lines += [f"  {finding.name}: {finding.message}", f"    {finding.advice}"]
    echo_result(found, as_json=as_json, quiet=quiet, lines=lines)
    if found.findings:
        raise SystemExit(1)


# ---- Counting: a token store to an n-gram model


@click.command()
@click.argument("tokens", type=FOLDER, default="tokens")
@click.option(
    "--order",
    type=click.IntRange(min=1, max=12),
    default=5,
    show_default=True,
    help="Tokens of the longest n-grams.",
)
@click.option("--output", type=FOLDER, help="Run folder.  [default: runs/ORDERgram]")
@overwrite_option
@result_options
def count(
    tokens: Path, order: int, output: Path | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Count an n-gram model of a token store: interpolated modified Kneser-Ney.

    It is what a language model has to beat, made in seconds: evaluate, score, generate and export
    take its folder as that of any other. The result does not depend on the number of cores.

    \b
    Example: lmmodel count tokens/
    Example: lmmodel count tokens/ --order 3 --output runs/3gram
    """
    from lmmodel.ngrams import count_store

    with ProgressLine("counting", quiet=quiet):
        result = count_store(
            tokens, output or Path("runs") / f"{order}gram", order=order, overwrite=overwrite
        )
    echo_result(result, as_json=as_json, quiet=quiet, lines=ngram_lines(result))


def ngram_lines(result: Count) -> list[str]:
    """Return what was counted, and the discounts of each order."""
    record = result.record
    rows: list[tuple[str, ...]] = [("order", "distinct", "discounts of counts 1, 2, 3+")]
    for own, num in zip(record.discounts, record.sizes, strict=True):
        amounts = ", ".join(f"{amount:.3f}" for amount in own.amounts)
        why = f" (fallback: {own.why_fallback})" if own.why_fallback else ""
        rows.append((str(own.order), f"{num:,}", amounts + why))
    return [
        f"{result.output}/  {record.num_tokens:,} tokens of {record.num_documents:,} documents, "
        f"{size(record.weights_bytes)}",
        *aligned(rows),
        f"next: lmmodel evaluate {result.output}",
    ]
