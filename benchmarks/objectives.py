"""One store, one table: every objective at equal tokens and at equal minutes, and what it is worth.

Each row is a run of one objective, kind of budget and seed in a process of its own: trained, scored
on what is held out and on BLiMP, and fine-tuned for tags (UD), feelings (SST-2) and similarity
(STS-B). A row that is there already is not run again, so the table can be made in pieces; the same
row twice gives the same bits. Then steps are timed against the stock class in a plain loop.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.finetune_study import TASKS, sst2_files, ud_files
from benchmarks.measure import DATA, print_table, write_result
from benchmarks.minimal_pairs import every_nth
from lmmodel.config import load_train_config
from lmmodel.families import FAMILIES
from lmmodel.finetuner import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.minimal_pairs import read_pairs, score_pairs
from lmmodel.objectives import OBJECTIVES
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.trained import load_run
from lmmodel.trainer import train

COMPARED = ("mlm", "mlm+nsp", "mlm+sop", "clm", "hybrid", "rtd", "plm", "t5", "bart")
PAIRS_EACH = 100  # of each paradigm of BLiMP


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a table is."""

    size: str  # of the models
    num_tokens: int  # a run at equal tokens
    num_minutes: float  # a run at equal minutes; 0: none
    num_rows: int  # of each task that is fine-tuned on
    num_epochs: int  # of fine-tuning
    num_pairs: int  # of BLiMP
    vocab_size: int
    num_documents: int  # of Wikipedia


SCALES = {
    "full": Scale(
        size="mini", num_tokens=4_000_000, num_minutes=10, num_rows=4000, num_epochs=2,
        num_pairs=2000, vocab_size=8192, num_documents=6000,
    ),
    "quick": Scale(
        size="tiny", num_tokens=30_000, num_minutes=0, num_rows=600, num_epochs=1, num_pairs=100,
        vocab_size=2000, num_documents=300,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of the table."""

    objective: str
    budget: str  # "tokens" or "minutes"
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and of its file."""
        return f"{self.objective.replace('+', '-')}-{self.budget}-{self.seed}"


def main(arguments: list[str]) -> None:
    """Run the rows that are missing, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks objectives", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--quick", action="store_true", help="toy size: a few minutes")
    parser.add_argument("--num-seeds", type=int, default=None, help="3; quick: 1")
    parser.add_argument("--only", choices=COMPARED, action="append", help="repeatable")
    parser.add_argument("--no-steps", action="store_true", help="leave out the times of steps")
    parser.add_argument("--row", nargs=3, metavar=("OBJECTIVE", "BUDGET", "SEED"), help="one alone")
    options = parser.parse_args(arguments)
    scale = SCALES["quick" if options.quick else "full"]
    store = options.folder / "tokens"
    if options.row:
        objective, budget, seed = options.row
        return write_row(Row(objective=objective, budget=budget, seed=int(seed)), scale, store)
    if not store.exists():
        make_store(options.folder, scale)
    num_seeds = options.num_seeds or (1 if options.quick else 3)
    rows = list_rows(options.only or COMPARED, num_seeds, has_minutes=scale.num_minutes > 0)
    for row in rows:
        if not (options.folder / f"{row.name}.json").exists():
            own = [row.objective, row.budget, f"{row.seed}"]
            quick = ["--quick"] if options.quick else []
            command = ["objectives", "--folder", f"{options.folder}", *quick, "--row", *own]
            subprocess.run([sys.executable, "-m", "benchmarks", *command], check=True)
    found = [json.loads((options.folder / f"{row.name}.json").read_text()) for row in rows]
    table, steps = summarize(found), [] if options.no_steps else time_steps(options.quick)
    for rows_of in filter(None, (table, steps)):
        print_table(rows_of)
    name = "objectives-quick" if options.quick else "objectives"
    write_result(name, {"scale": vars(scale), "table": table, "steps": steps, "rows": found})
    return None


def list_rows(objectives: Sequence[str], num_seeds: int, *, has_minutes: bool) -> list[Row]:
    """Return the rows of a table, those of the first seed first.

    Example:
        >>> [row.name for row in list_rows(["mlm+nsp", "not-there"], 2, has_minutes=False)]
        ['mlm-nsp-tokens-0', 'mlm-nsp-tokens-1']
    """
    budgets = ("tokens", "minutes") if has_minutes else ("tokens",)
    return [
        Row(objective=name, budget=budget, seed=seed)
        for seed in range(num_seeds)
        for budget in budgets
        for name in objectives
        if name in OBJECTIVES
    ]


def make_store(folder: Path, scale: Scale) -> None:
    """Make one store for all: Wikipedia, by a tokenizer with sentinels."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    packed = sorted((DATA / "wikipedia-en").glob("*.zst"))[0]
    unpacked = subprocess.run(["zstd", "-dcq", packed], check=True, capture_output=True).stdout
    lines = unpacked.splitlines(keepends=True)[: scale.num_documents]
    (corpus / "wikipedia.jsonl").write_bytes(b"".join(lines))
    program = f"{Path(sys.executable).with_name('lmdata')}"  # of this environment
    vocab = ["--vocab-size", f"{scale.vocab_size}", "--set", "num_sentinels=100"]
    for command in (
        ["train-tokenizer", "corpus", *vocab], ["tokenize", "corpus", "--set",
                                                "validation_ratio=0.05"],
    ):  # fmt: skip
        subprocess.run([program, *command, "--quiet"], cwd=folder, check=True)


def write_row(row: Row, scale: Scale, store: Path) -> None:
    """Train one run, find out what it is worth, and write its line."""
    run = store.parent / row.name
    summary = train(config_of(row, scale), store, run, overwrite=run.exists())
    assert summary.evaluation is not None
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found = {
        **vars(row), "num_steps": summary.num_steps, "num_tokens": summary.num_tokens,
        "tokens_per_s": round(summary.tokens_per_s), "memory_mib": round(memory),
        "held_out": {
            name: value for name, value in summary.evaluation.figures().items() if value is not None
        },
        "blimp": blimp(run, scale.num_pairs),
        **{task: fine_tuned(run, task, scale, row.seed) for task in WORTH},
    }  # fmt: skip
    (store.parent / f"{row.name}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "held_out"}))


def config_of(row: Row, scale: Scale) -> Any:
    """Return the settings of a run: those of the objective, and what all have in common."""
    definition = OBJECTIVES[row.objective]
    fitting = [name for name, family in FAMILIES.items() if definition.fits(family)]
    own = [name for name in fitting if FAMILIES[name].objective == row.objective]
    family = "bert" if "bert" in fitting else (own or fitting)[0]
    budget = (
        f"budget.num_tokens={scale.num_tokens}" if row.budget == "tokens"
        else f"budget.num_minutes={scale.num_minutes}"
    )  # fmt: skip
    length = [] if definition.has_targets else ["recipe.max_seq_length=128"]
    return load_train_config(None, [
        f"seed={row.seed}", f"model.size={scale.size}", f"model.family={family}",
        f"objective.name={row.objective}", *length, "batch.size=16", budget,
        "optimizer.lr=2e-3", "evaluation.num_examples=256", "evaluation.every_steps=1000000",
        "checkpoint.every_steps=1000000", "checkpoint.keep=1", "logging.picture=false",
        "batch.min_micro_batches=2", "device=cpu",
    ])  # fmt: skip


def blimp(run: Path, num_pairs: int) -> float | None:
    """Return the share of minimal pairs that a run gets right; None of what reads and writes."""
    model = load_run(run, device="cpu")
    if model.objective.has_targets:
        return None
    pairs = read_pairs(DATA / "blimp")
    some = every_nth(pairs, max(1, len(pairs) // num_pairs))
    return round(score_pairs(model, some).total.accuracy_with_ties, 4)


WORTH: dict[str, tuple[str, str, TaskFormat]] = {
    "ud": ("token-classification", "accuracy", TaskFormat()),
    "sst2": ("sequence-classification", "accuracy", TaskFormat()),
    "sts-b": ("regression", "spearman",
              TaskFormat(text="5", pair="6", label="4", has_header=False)),
}  # fmt: skip
"""Task, score and columns of what runs are fine-tuned for."""


def fine_tuned(run: Path, name: str, scale: Scale, seed: int) -> float | None:
    """Return the score of a run after fine-tuning; None of what reads and writes."""
    if load_run(run, device="cpu").objective.has_targets:
        return None
    task, score, columns = WORTH[name]
    folder = run.parent / f"{run.name}-{name}"
    folder.mkdir(exist_ok=True)
    learned, held_out = files_of(name, folder, scale.num_rows)
    config = FinetuneConfig(
        task=task, num_epochs=scale.num_epochs, num_seeds=1, seed=seed, patience=None, device="cpu",
        columns=columns,
    )  # fmt: skip
    result = finetune(run, config, learned, held_out, folder / "model", overwrite=True)
    return round(result.mean[score], 4)


def files_of(name: str, folder: Path, num_rows: int) -> tuple[Path, Path]:
    """Return the files to learn from and to be scored on, the first of so many rows."""
    if name == "sts-b":
        return cut(TASKS / "sts-b/sts-train.tsv", folder, num_rows), TASKS / "sts-b/sts-dev.tsv"
    learned, held_out = {"ud": ud_files, "sst2": sst2_files}[name](folder)
    if name == "ud":
        return cut(learned, folder, num_rows, "\n\n"), held_out
    return cut(learned, folder, num_rows + 1), held_out


def cut(path: Path, folder: Path, num: int, mark: str = "\n") -> Path:
    """Return a file with the first parts of another."""
    parts = path.read_text(encoding="utf-8").split(mark)[:num]
    short = folder / f"some-{path.name}"
    short.write_text(mark.join(parts) + mark, encoding="utf-8")
    return short


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each objective and budget: means over the seeds, with spreads.

    Example:
        >>> own = {"objective": "mlm", "budget": "tokens", "tokens_per_s": 5, "memory_mib": 7,
        ...        "num_tokens": 9, "blimp": None, "ud": 0.5, "sts-b": 0.25}
        >>> row, = summarize([{**own, "held_out": {"loss": loss}, "sst2": loss / 10}
        ...                   for loss in (6.0, 8.0)])
        >>> row["held-out"], row["sst2"], row["sst2 spread"], row["blimp"]
        (7.0, 70.0, 14.14, None)
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["budget"], row["objective"]), []).append(row)
    table = []
    for (budget, objective), own in groups.items():
        line: dict[str, Any] = {"equal": budget, "objective": objective, "seeds": len(own)}
        line["held-out"] = round(statistics.mean(row["held_out"]["loss"] for row in own), 4)
        for name in ("blimp", *WORTH):
            values = [100 * row[name] for row in own if row[name] is not None]
            line[name] = round(statistics.mean(values), 2) if values else None
            line[f"{name} spread"] = round(statistics.stdev(values), 2) if values[1:] else None
        for name in ("num_tokens", "tokens_per_s", "memory_mib"):
            line[name] = round(statistics.median(row[name] for row in own))
        table.append(line)
    return table


# Steps against the stock class in a plain loop, rows of 128 full tokens, bf16.


def time_steps(is_quick: bool) -> list[dict[str, Any]]:
    """Return median seconds of a step of ours and of the stock class, taken by turns."""
    from benchmarks.objective_steps import STEPS

    num_rows, num_runs = (4, 2) if is_quick else (32, 7)
    table = []
    for name, make in STEPS.items():
        ours, theirs = make(num_rows)
        for step in (ours, theirs):  # warm up
            step()
        times: dict[str, list[float]] = {"ours": [], "stock": []}
        for _ in range(num_runs):
            for who, step in (("ours", ours), ("stock", theirs)):
                start = time.perf_counter()
                step()
                times[who].append(time.perf_counter() - start)
        medians = {who: statistics.median(own) for who, own in times.items()}
        table.append({
            "step of": name, "rows": num_rows, "ours s": round(medians["ours"], 4),
            "stock s": round(medians["stock"], 4),
            "times": round(medians["stock"] / medians["ours"], 2),
            "threads": torch.get_num_threads(),
        })  # fmt: skip
    return table
