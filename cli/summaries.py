"""What is told while a command works, and what it prints at its end.

Progress goes to stderr: a live line on a terminal, nothing in a log or if quiet. A summary is one
screen for people, the same facts for machines.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from lmdata.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, ProgressColumn

    from lmdata.chosen import SelectionManifest
    from lmdata.encoding import RoundTrip
    from lmdata.schema import Flow, Manifest
    from lmdata.tagging.manifests import TagManifest
    from lmdata.tokenizer import Tokenizer
    from lmdata.tokenizer_check import TokenizerCheck
    from lmdata.verification import Report
    from lmmodel.evaluation import Evaluation
    from lmmodel.saving.metrics import TrainProgress
    from lmmodel.trainer import Plan
    from lmmodel.training.loop import Summary

# ---- Progress


SHOW_AFTER_S = 2.0


class ProgressLine:
    """A progress bar that appears once a job has run for two seconds.

    Used as a context manager; `update(done, total, note)` is cheap and may be called often. A job
    that never calls it, or has not yet, is shown with the time it has taken.
    """

    def __init__(self, title: str, *, unit: str | None = None, quiet: bool = False) -> None:
        """Name the job; `unit` is "bytes" or what is counted ("steps", "examples"), or None."""
        self._title = title
        self._unit = unit
        self._is_quiet = quiet
        self._is_visible = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._timer = threading.Timer(SHOW_AFTER_S, self._show)
        self._timer.daemon = True
        self._lock = threading.Lock()  # of the two that follow
        self._bar: Progress | None = None
        self._has_ended = False

    def __enter__(self) -> ProgressLine:
        if self._is_visible:
            self._timer.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._has_ended = True
            if self._bar is not None:
                self._bar.stop()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Show `done` of `total` units, and a short note such as a loss."""
        if self._bar is not None:
            self._bar.update(self._bar.tasks[0].id, completed=done, total=total, note=note)

    def say(self, message: str) -> None:
        """Print a line above the bar, also where there is no bar, unless quiet."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        elif not self._is_quiet:
            click.echo(message, err=True)

    def _show(self) -> None:
        bar = _make_bar(self._unit)
        bar.add_task(self._title, total=None, note="")
        with self._lock:
            if not self._has_ended:
                bar.start()
                self._bar = bar


def _make_bar(unit: str | None) -> Progress:
    """Return a bar on stderr; Rich is imported only here, `--help` does without it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=24)]
    if unit is None:
        columns.append(TimeElapsedColumn())
    elif unit == "bytes":
        columns += [TaskProgressColumn(), DownloadColumn(), TransferSpeedColumn()]
    else:
        columns += [TaskProgressColumn(), MofNCompleteColumn(), TextColumn(unit)]
    if unit is not None:
        columns.append(TimeRemainingColumn())
    columns.append(TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=Console(stderr=True))


# ---- Summaries


def size(num_bytes: float) -> str:
    """Return a number of bytes in the unit that reads best.

    Example:
        >>> size(999), size(1_500_000)
        ('999 B', '1.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def tokenizer_summary(tokenizer: Tokenizer, output: Path, round_trip: RoundTrip) -> dict[str, Any]:
    """Return the facts about a trained tokenizer."""
    return {
        "output": str(output),
        "vocab_size": tokenizer.vocab_size,
        "hash": tokenizer.hash,
        "characters": round_trip.characters,
        "lost_characters": round_trip.lost,
    }


def tokenizer_lines(
    tokenizer: Tokenizer, output: Path, wanted_size: int, round_trip: RoundTrip
) -> list[str]:
    """Return the summary of a trained tokenizer, with what it can't give back of its text."""
    lines = [f"{output}/  {tokenizer.vocab_size:,} pieces, hash {tokenizer.hash}"]
    if tokenizer.vocab_size < wanted_size:
        lines.append(f"  note       this text gives no more pieces; {wanted_size:,} were wanted")
    if round_trip.sentence:
        lines.append(f"  note       {round_trip.sentence}")
    return [
        *lines,
        f"next: lmdata tokenize CORPUS --tokenizer {output}",
    ]


def tokenizer_check_lines(found: TokenizerCheck) -> list[str]:
    """Return what is known of a tokenizer, and what is odd about it."""
    speed = f"{found.mb_per_s:.1f} MB/s on one core, {found.plain_mb_per_s:.2f} by tokenizers"
    return [
        f"{found.path}  {found.vocab_size:,} ids, hash {found.hash}",
        f"  encoder    {found.encoder}: {found.reason}",
        *(f"  {name:<10} {value}" for name, value in found.rules.items()),
        f"  sample     {size(found.sample_bytes)} of {found.sample}: {speed}; the ids are the same",
        *(f"  odd        {oddity}" for oddity in found.oddities),
        *([] if found.oddities else ["  nothing is odd about its files"]),
    ]


def dataset_summary(
    manifest: Manifest | TagManifest | SelectionManifest, output: Path | str, elapsed_s: float
) -> dict[str, Any]:
    """Return the facts about a dataset of any kind that was just written."""
    return {
        "output": str(output),
        "seconds": round(elapsed_s, 3),
        "hash": manifest.hash,
        "rows": {name: sum(s.rows for s in shards) for name, shards in manifest.splits.items()},
        "shards": {split: len(shards) for split, shards in manifest.splits.items()},
        "bytes": sum(shard.bytes for shards in manifest.splits.values() for shard in shards),
        "ledger": {
            name: {"read": flow.read, "written": flow.written, "dropped": flow.dropped}
            for name, flow in manifest.ledger.flows.items()
        },
        "notes": list(manifest.notes),
    }


def manifest_lines(
    manifest: Manifest, output: Path | str, elapsed_s: float, rows: str
) -> list[str]:
    """Return the one-screen summary of a dataset; `rows` is what a row is called."""
    facts = dataset_summary(manifest, output, elapsed_s)
    lines = [f"{output}/  {size(facts['bytes'])} in {elapsed_s:.1f} s"]
    for split, count in facts["rows"].items():
        tokens = sum(shard.tokens for shard in manifest.splits[split])
        lines.append(
            f"  {split:<10} {count:>12,} {rows} {tokens:>15,} tokens "
            f"{facts['shards'][split]:>4} shard{'s' if facts['shards'][split] != 1 else ''}"
        )
    lines += [flow_line(name, flow) for name, flow in manifest.ledger.flows.items()]
    return lines + [f"  note       {note}" for note in manifest.notes]


def passed_over_lines(skipped: dict[str, list[str]]) -> list[str]:
    """Return which files of a corpus were not read, a line for each reason.

    Example:
        >>> passed_over_lines({"hidden": ["corpus/.git", "corpus/.cache"]})
        ['  passed over 2 files: hidden (such as .git)']
    """
    return [
        f"  passed over {counted(len(paths), 'file')}: {reason} (such as {Path(paths[0]).name})"
        for reason, paths in sorted(skipped.items())
    ]


def flow_line(name: str, flow: Flow) -> str:
    """Return where an amount went.

    Example:
        >>> from lmdata.schema import Flow
        >>> flow_line("characters", Flow(read=5, written={"come back": 3}, dropped={"lost": 2}))
        '  characters            5 in = 3 out + 2 dropped (2 lost), of a sample'
    """
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in flow.dropped.items() if count)
    return (
        f"  {name:<10} {flow.read:>12,} in = {flow.total_written:,} out + "
        f"{flow.total_dropped:,} dropped{f' ({dropped})' if dropped else ''}"
        f"{', of a sample' if name == 'characters' else ''}"
    )


def report_lines(report: Report) -> list[str]:
    """Return the table of a verification."""
    rows = [("check", "expected", "observed", "interval", "verdict")]
    rows += [
        (row.name, row.expected, row.observed, row.interval, row.verdict) for row in report.rows
    ]
    verdict = "passed" if report.passed else "FAILED"
    return [*aligned(rows), f"{report.path}: {verdict}"]


def recipe_lines(recipes: dict[str, Any]) -> list[str]:
    """Return recipes as TOML tables, without what is not set."""
    lines = []
    for name, settings in recipes.items():
        lines.append(f"[{name}]")
        given = {key: value for key, value in settings.items() if value is not None}
        lines += [f"{key} = {json.dumps(value)}" for key, value in given.items()]
        lines.append("")
    return lines[:-1]


def objective_lines(objectives: dict[str, Any]) -> list[str]:
    """Return a row an objective: its name, what it learns, from what view, what for."""
    rows: list[tuple[str, ...]] = [("objective", "learns", "of a store", "for", "families")]
    for name, facts in objectives.items():
        ways = {"none": "", "permutation": ", in an order"}
        masked = ", masked" if facts["is_masked"] else ""
        change = ways.get(facts["corruption"], masked)
        view = facts["view"] + (", source and target" if facts["has_targets"] else change)
        skills = {
            "fill-mask": facts["can_fill_masks"], "generate": facts["can_generate"],
            "embed": facts["makes_vectors"],
        }  # fmt: skip
        can = ", ".join(skill for skill, is_there in skills.items() if is_there)
        rows.append((name, facts["learns"], view, can, ", ".join(facts["families"])))
    return aligned(rows)


def figure(value: float) -> str:
    """Return a number with four digits behind the point, or four in all where it is tiny or huge.

    Example:
        >>> figure(0.5), figure(0.0), figure(-1.5e-05), figure(1234567.0)
        ('0.5000', '0.0000', '-1.500e-05', '1.235e+06')
    """
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def duration(seconds: float) -> str:
    """Return a time in the unit that reads best.

    Example:
        >>> duration(5.04), duration(125), duration(7260)
        ('5.0 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plan_lines(plan: Plan) -> list[str]:
    """Return what a training run would do."""
    config = plan.config
    num_cut, rows = config.batch.min_micro_batches, config.batch.size
    shape = f"{config.model.num_hidden_layers} x {config.model.hidden_size}"
    return [
        f"model       {config.model.family} {shape}, {plan.num_parameters:,} parameters",
        f"objective   {config.objective.name}; {config.optimizer.sentence}",
        f"data        {plan.tokens_per_step:,.0f} tokens a step, {plan.num_epochs:.2f} epochs",
        f"steps       {plan.num_steps:,}, {plan.num_tokens:,} tokens, {rows} examples a step",
        f"memory      {size(plan.memory_bytes)} of {size(plan.device_memory_bytes)}",
        f"compute     {plan.total_flops:.3g} FLOPs on {config.device} in {config.precision}",
        f"attention   {', '.join(plan.attention)}",
        f"padding     {plan.padding.sentence}",
        f"same bits   on any number of cores with --set batch.min_micro_batches={num_cut}",
        f"time        {duration(plan.expected_s)}",
    ]


def training_note(now: TrainProgress) -> str:
    """Return the short note beside the progress bar."""
    mfu = "" if now.mfu is None else f", {now.mfu:.0%} MFU"
    return (
        f"loss {now.loss:.3f}, lr {now.lr:.2g}, {now.tokens_per_s:,.0f} tokens/s{mfu}, "
        f"{now.data_wait_ratio:.1%} waiting"
    )


def training_lines(summary: Summary) -> list[str]:
    """Return what a training run came to."""
    lines = [
        f"{summary.output}/  {counted(summary.num_steps, 'step')}, {summary.num_tokens:,} tokens; "
        f"{duration(summary.elapsed_s)}, {summary.tokens_per_s:,.0f} tokens/s",
    ]
    if summary.loss is not None:
        lines.append(f"  training loss   {summary.loss:.4f}")
    if summary.evaluation is not None:
        lines += evaluation_lines(summary.evaluation)
    lines.append(f"  padding         {summary.padding.sentence}")
    lines += [f"  {one.sentence}" for one in (summary.forgotten,) if one is not None]
    return lines + [f"  note: {note}" for note in summary.notes]


def evaluation_lines(result: Evaluation) -> list[str]:
    """Return held-out figures, a line each."""
    from lmmodel.gates import level_names

    what = "label" if result.perplexity is None else "token"
    rows = [
        ("held-out loss", f"{result.loss:.4f} nats a {what}" + (
            "" if result.nats_per_byte is None else f", {result.nats_per_byte:.4f} a byte"
        )),
        ("unigram loss", None if result.unigram_loss is None else f"{result.unigram_loss:.4f} "
         "nats a token: guessing by frequency"),
        ("n-gram losses", ", ".join(
            f"{name} {level:.4f}" for name, level in level_names(result.gates).items()
        ) or None),
        ("perplexity", optional(result.perplexity, ",.1f")),
        ("accuracy", None if result.accuracy is None else f"{result.accuracy:.2%}, right one in "
         f"the top 5: {result.top5_accuracy:.2%}"),
        ("causal loss", optional(result.causal_loss, ".4f")),
        ("pair loss", optional(result.pair_loss, ".4f")),
        ("pair accuracy", optional(result.pair_accuracy, ".2%")),
        *((name.replace("_", " "), f"{value:.4f}") for name, value in result.others.items()),
        ("scored", counted(result.num_labels, what) + f" in {result.num_examples:,} examples"),
    ]  # fmt: skip
    lines = [f"  {name:<15} {text}" for name, text in rows if text is not None]
    if result.is_at_unigram:
        lines.append(
            "  warning: the model does no better than guessing by frequency; train longer, or "
            "check the learning rate and the data"
        )
    return lines


def optional(value: float | None, form: str) -> str | None:
    """Return a figure that may be absent.

    Example:
        >>> optional(0.5, ".1%"), optional(None, ".1%")
        ('50.0%', None)
    """
    return None if value is None else format(value, form)
