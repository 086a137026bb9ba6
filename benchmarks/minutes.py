"""What ten minutes of `mini` on Wikipedia teach: levels, BLiMP, and Trainer's minutes beside ours.

Family `modern` as it is, masked and causal, three seeds. The first run of each objective gets
minutes; the others the same number of steps, which other work on the machine does not change.
`transformers.Trainer` gets stock BERT of that shape, BERT's masks and AdamW, and as many minutes;
its model is imported and its held-out loss measured as ours is. Rows are kept as they are finished.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import DATA, print_table, write_result
from benchmarks.training_runs import (
    BETAS,
    EPS,
    LR,
    WEIGHT_DECAY,
    Work,
    list_examples,
    run_module,
    stock_model,
)

VOCAB_SIZE = "16384"
OBJECTIVES: dict[str, list[str]] = {"masked": [], "causal": ["--objective", "clm"]}
CALIBRATION_STEPS = 8

Row = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Make or go on with all rows, print the tables and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks minutes", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--num-minutes", type=float, default=10.0)
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--num-causal-seeds", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=DATA / "wikipedia-en")
    parser.add_argument("--blimp", type=Path, default=DATA / "blimp")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    make_store(folder, options.corpus)
    rows = []
    for objective, num_seeds in (
        ("masked", options.num_seeds), ("causal", options.num_causal_seeds),
    ):  # fmt: skip
        for seed in range(num_seeds):
            rows.append(row_of(folder, objective, seed, options.num_minutes, options.blimp))
            print(json.dumps(rows[-1]), flush=True)
    others = beside_trainer(folder, options.num_minutes)
    print_table([shown(rows, objective) for objective in {row["objective"]: 0 for row in rows}])
    print_table(others)
    write_result("minutes", {"rows": rows, "beside_trainer": others})


def make_store(folder: Path, corpus: Path) -> None:
    """Make a tokenizer and a store of the corpus, once."""
    if (folder / "tokens").exists():
        return
    command = ["lmdata", "train-tokenizer", str(corpus.resolve()), "--vocab-size", VOCAB_SIZE]
    subprocess.run([*command, "--quiet", "--overwrite"], cwd=folder, check=True)
    command = ["lmdata", "tokenize", str(corpus.resolve()), "--overwrite", "--quiet"]
    subprocess.run(command, cwd=folder, check=True)


def told(folder: Path, *arguments: str) -> Row:
    """Return what a verb of lmmodel says as JSON."""
    done = subprocess.run(
        ["lmmodel", *arguments, "--json"], cwd=folder, check=True, capture_output=True, text=True
    )
    found: Row = json.loads(done.stdout)
    return found


def train(folder: Path, name: str, *arguments: str) -> float:
    """Train a run of family modern unless it is there; return the seconds the command took."""
    run, kept = f"runs/{name}", folder / f"runs/{name}.seconds"
    if not (folder / run).exists():
        started = time.perf_counter()
        told(folder, "train", "tokens", "--family", "modern", "--model", "mini", *arguments,
             "--output", f"{run}.new", "--overwrite")  # fmt: skip
        kept.write_text(str(time.perf_counter() - started), encoding="utf-8")
        (folder / f"{run}.new").rename(folder / run)
    return float(kept.read_text(encoding="utf-8"))


def held_out(folder: Path, run: str) -> Row:
    """Return the held-out figures of a run at the standard masks: 4,096 examples."""
    return told(folder, "evaluate", f"runs/{run}", "tokens", "--num-examples", "4096")


def num_steps(folder: Path, run: str) -> int:
    """Return how many steps a run took."""
    lines = (folder / f"runs/{run}/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"])


def row_of(folder: Path, objective: str, seed: int, num_minutes: float, blimp: Path) -> Row:
    """Return the figures of a seed, kept or made."""
    path = folder / f"rows/{objective}-{seed}.json"
    if not path.exists():
        name = f"{objective}-{seed}"
        budget = ["--num-minutes", f"{num_minutes:g}"]
        if seed:
            budget = ["--num-steps", str(num_steps(folder, f"{objective}-0"))]
        seconds = train(folder, name, *OBJECTIVES[objective], *budget, "--seed", str(seed))
        figures = held_out(folder, name)
        pairs = told(folder, "evaluate", f"runs/{name}", "--minimal-pairs", str(blimp.resolve()))
        row = {
            "objective": objective, "seed": seed, "steps": num_steps(folder, name),
            "seconds": round(seconds, 1), **figures,
            "blimp": pairs["total"]["accuracy"],
        }  # fmt: skip
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(row), encoding="utf-8")
    kept: Row = json.loads(path.read_text(encoding="utf-8"))
    return kept


def shown(rows: list[Row], objective: str) -> Row:
    """Return the line of an objective: means over seeds, and the spread.

    Example:
        >>> row = {"objective": "masked", "steps": 9, "loss": 4.0, "blimp": 0.5,
        ...        "unigram_loss": 7.0}
        >>> line = shown([row, row | {"loss": 5.0}], "masked")
        >>> line["seeds"], line["nats"], line["nats_spread"], line["unigram"]
        (2, 4.5, 1.0, 7.0)
    """
    own = [row for row in rows if row["objective"] == objective]
    losses, pairs = [row["loss"] for row in own], [100 * row["blimp"] for row in own]
    levels = {key.removesuffix("_loss"): value for key, value in own[0].items()
              if key.endswith("_loss") and isinstance(value, float)}  # fmt: skip
    return {
        "objective": objective, "seeds": len(own), "steps": own[0]["steps"],
        "nats": statistics.mean(losses), "nats_spread": max(losses) - min(losses),
        "blimp": statistics.mean(pairs), "blimp_spread": max(pairs) - min(pairs), **levels,
    }  # fmt: skip


def beside_trainer(folder: Path, num_minutes: float) -> list[Row]:
    """Return Trainer's loss after the minutes, and ours after a fifth and a tenth of them."""
    path = folder / "rows/trainer.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        run = run_module(
            "benchmarks.minutes", [str(folder.resolve()), str(num_minutes)],
            timeout_s=240 * num_minutes + 600,
        )  # fmt: skip
        path.write_text(json.dumps(run), encoding="utf-8")
    theirs = json.loads(path.read_text(encoding="utf-8"))
    if not (folder / "runs/trainer").exists():
        told(folder, "import", "trainer", "runs/trainer")
    theirs["nats"] = held_out(folder, "trainer")["loss"]
    rows = [{"system": "Trainer, stock BERT", **theirs}]
    for share in (5, 10):
        name = f"masked-{num_minutes / share:g}-minutes"
        seconds = train(folder, name, "--num-minutes", f"{num_minutes / share:g}")
        rows.append({
            "system": "lmmodel train --family modern", "minutes": num_minutes / share,
            "steps": num_steps(folder, name), "seconds": round(seconds, 1),
            "nats": held_out(folder, name)["loss"],
        })  # fmt: skip
    return rows


def train_theirs(folder: Path, num_minutes: float) -> Row:
    """Train stock BERT by Trainer for so long, its rate falling to 0; keep it in `trainer/`."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    work = Work(
        store=str(folder / "tokens"), max_seq_length=128, view="single", batch_size=32,
        model=("size=mini", "dropout=0.1", "attention_dropout=0.1"),
    )  # fmt: skip
    tokenizer, examples = list_examples(work)
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    def run(steps: int) -> tuple[Any, float]:
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / "trainer.out"), max_steps=steps, learning_rate=LR,
            per_device_train_batch_size=work.batch_size, adam_beta1=BETAS[0], adam_beta2=BETAS[1],
            adam_epsilon=EPS, weight_decay=WEIGHT_DECAY, lr_scheduler_type="linear",
            warmup_steps=steps // 10, optim="adamw_torch_fused", bf16=True, use_cpu=True,
            logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=stock_model(work), args=arguments, train_dataset=examples, data_collator=collator
        )
        started = time.perf_counter()
        trainer.train()
        return trainer.model, time.perf_counter() - started

    run(2)
    _, seconds = run(CALIBRATION_STEPS)
    steps = max(1, round(60 * num_minutes / seconds * CALIBRATION_STEPS))
    model, seconds = run(steps)
    model.save_pretrained(folder / "trainer")
    shutil.copytree(folder / "tokens/tokenizer", folder / "trainer", dirs_exist_ok=True)
    return {"minutes": num_minutes, "steps": steps, "seconds": round(seconds, 1)}


if __name__ == "__main__":
    import sys

    print(json.dumps(train_theirs(Path(sys.argv[1]), float(sys.argv[2]))))
