"""What a run learns from the same tokens: one change of BERT's numbers at a time, then together.

On the corpus of `lmdata sample-corpus` with 6,144 pieces, unless a store is named; every run sees
as many tokens, and its held-out loss is at the same standard masks. A change is worth keeping if it
gains more than twice the spread (standard deviation over the seeds).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import print_table, write_result
from lmmodel.config import load_train_config
from lmmodel.trainer import train

AS_BERT = "BERT's numbers"
PLAIN = ("vocabulary_bias=zeros", "recipe.mlm_probability=0.15")
BIAS = "vocabulary_bias=frequencies"
MODERN = "model.family=modern"
TOGETHER = (
    BIAS, "recipe.mlm_probability=0.3", "optimizer.lr=3e-3", "optimizer.muon_lr=0.04",
    "batch.size=16", "budget.num_steps={twice}",
)  # fmt: skip

CHANGES: dict[str, tuple[str, ...]] = {
    AS_BERT: (),
    "vocabulary bias from frequencies": (BIAS,),
    "mask rate 0.30": ("recipe.mlm_probability=0.3",),
    "mask rate 0.40": ("recipe.mlm_probability=0.4",),
    "mask rate 0.30 falling to 0.15": ("recipe.mlm_probability=[0.3, 0.15]",),
    "all [MASK]": (
        "recipe.mask_proportion=1.0", "recipe.random_proportion=0.0", "recipe.keep_proportion=0.0",
    ),
    "half the batch, twice the steps": ("batch.size=16", "budget.num_steps={twice}"),
    "Muon's learning rate 0.01": ("optimizer.muon_lr=0.01",),
    "Muon's learning rate 0.04": ("optimizer.muon_lr=0.04",),
    "AdamW's learning rate 3e-3": ("optimizer.lr=3e-3",),
    "warm-up, stable, decay": ("schedule.kind=wsd",),
    "bias, rate 0.30": (BIAS, "recipe.mlm_probability=0.3"),
    "bias, rate 0.30, AdamW 3e-3": (
        BIAS, "recipe.mlm_probability=0.3", "optimizer.lr=3e-3",
    ),
    "modern": (MODERN,),
    "all together": TOGETHER,
    "modern, all together": (MODERN, *TOGETHER),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Held-out figures of one run."""

    change: str
    seed: int
    loss: float  # nats a masked token
    top5_accuracy: float
    unigram_loss: float
    num_tokens: int


def main(arguments: list[str]) -> None:
    """Train what the options ask for, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks recipe", description=__doc__)
    parser.add_argument("--store", type=Path, help="token store; left out: the sample corpus")
    parser.add_argument("--size", default="tiny", help="of the model")
    parser.add_argument("--num-steps", type=int, default=300, help="of 32 rows of 128 tokens")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--only", choices=CHANGES, action="append", help="repeatable")
    parser.add_argument("--name", default="recipe", help="of the result's file")
    options = parser.parse_args(arguments)
    changes = list(dict.fromkeys([AS_BERT, *(options.only or CHANGES)]))
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or make_store(Path(folder))
        outcomes = []
        for seed in range(options.num_seeds):
            for change in changes:
                run = Path(folder) / f"run-{seed}-{changes.index(change)}"
                outcomes.append(outcome(store, run, change, seed, options.size, options.num_steps))
                print(outcomes[-1], flush=True)
    rows = compare(outcomes)
    print_table(rows)
    settings = {change: list(CHANGES[change]) for change in changes}
    content = {
        "size": options.size, "num_steps": options.num_steps, "settings": settings, "rows": rows,
        "runs": [asdict(one) for one in outcomes],
    }  # fmt: skip
    write_result(options.name, content)


def make_store(folder: Path) -> Path:
    """Return a token store of the sample corpus, as the quickstart makes it."""
    for command in (
        ["sample-corpus", "corpus"], ["train-tokenizer", "corpus", "--vocab-size", "6144"],
        ["tokenize", "corpus", "--set", "validation_ratio=0.05"],
    ):  # fmt: skip
        subprocess.run(["lmdata", *command, "--quiet"], cwd=folder, check=True)
    return folder / "tokens"


def outcome(store: Path, run: Path, change: str, seed: int, size: str, num_steps: int) -> Outcome:
    """Train a model in a folder and return its held-out figures."""
    settings = [
        f"seed={seed}", f"model.size={size}", "objective.name=mlm", "recipe.max_seq_length=128",
        "batch.size=32", f"budget.num_steps={num_steps}", "evaluation.num_examples=512",
        "logging.picture=false", "checkpoint.keep=1", "batch.min_micro_batches=2",
        *PLAIN, *[setting.format(twice=2 * num_steps) for setting in CHANGES[change]],
    ]  # fmt: skip
    config = load_train_config(None, [*settings, *(f"{name}.every_steps={2 * num_steps}" for name in
                                                   ("evaluation", "checkpoint"))])  # fmt: skip
    summary = train(config, store, run)
    found = summary.evaluation
    assert found is not None
    assert found.top5_accuracy is not None
    assert found.unigram_loss is not None
    return Outcome(
        change=change, seed=seed, loss=found.loss, top5_accuracy=found.top5_accuracy,
        unigram_loss=found.unigram_loss, num_tokens=summary.num_tokens,
    )  # fmt: skip


def compare(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Return a line for each change: means, spread, and the gain by the larger of two spreads.

    Example:
        >>> runs = [Outcome(change=name, seed=seed, loss=loss, top5_accuracy=0.25,
        ...                 unigram_loss=6.5, num_tokens=10)
        ...         for name, losses in ((AS_BERT, (6.0, 6.2)), ("other", (5.0, 5.2)))
        ...         for seed, loss in enumerate(losses)]
        >>> [(row["change"], row["gain"], row["is_beyond"]) for row in compare(runs)]
        [("BERT's numbers", 0.0, False), ('other', 1.0, True)]
    """
    losses: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    for one in outcomes:
        losses.setdefault(one.change, []).append(one.loss)
        shares.setdefault(one.change, []).append(one.top5_accuracy)
    spreads = {name: statistics.stdev(own) if own[1:] else 0.0 for name, own in losses.items()}
    before = statistics.mean(losses[AS_BERT])
    rows: list[dict[str, object]] = []
    for name, own in losses.items():
        gain = before - statistics.mean(own)
        rows.append({
            "change": name,
            "loss": round(statistics.mean(own), 4),
            "spread": round(spreads[name], 4),
            "top5_percent": round(100 * statistics.mean(shares[name]), 2),
            "gain": round(gain, 4),
            "is_beyond": gain > 2 * max(spreads[name], spreads[AS_BERT]),
        })  # fmt: skip
    return rows
