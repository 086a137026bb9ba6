"""lmmodel train against transformers.Trainer: the same data, shape and optimizer, taking turns.

On a CPU: BERT 4 x 256 with a vocabulary of 16,384 on Wikipedia, rows of 128 tokens and paragraphs
of mixed length up to 512, 32 a step. On a GPU: BERT base on packed rows of 512. Each run is a fresh
process; only steps after the first few count, and only real tokens, not padding.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import environment, print_table, write_result
from benchmarks.training_runs import Work, run_apart
from references.made_up import write_made_up_data

VOCAB_SIZE = 16_384
GPU_VOCAB_SIZE = 30_522
STORE_TOKENS = 16_000_000  # of the made-up store
MINI = ("size=mini",)
# A multiple of 64 for the tensor cores; both systems get it.
BASE = ("size=base", "vocab_size=30528")


def main(arguments: list[str]) -> None:
    """Measure what the options ask for, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument(
        "--dropout", type=float, help="of both systems; left out: 0.1 as in BERT, on a GPU 0"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="measured in each run")
    parser.add_argument("--num-runs", type=int, default=3, help="of each system and work")
    parser.add_argument("--files", type=int, default=1, help="Wikipedia files to use, of 8")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        works = make_works(options, Path(folder))
        runs = take_turns(works, options.num_runs)
    rows = [compare(name, runs[name]) for name in works]
    print_table(rows)
    device = next(iter(works.values())).device
    settings = {name: {**asdict(work), "store": None} for name, work in works.items()}
    content = {"device": describe(device), "works": settings, "rows": rows, "runs": runs}
    print(environment())
    write_result(f"train-{device}-{options.precision}", content)


def make_works(options: argparse.Namespace, folder: Path) -> dict[str, Work]:
    """Write the stores and return what is trained on them, by the name in the table."""
    import torch

    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    if on_gpu:
        store = folder / "packed"
        write_made_up_data(
            store, num_tokens=STORE_TOKENS, vocab_size=GPU_VOCAB_SIZE, max_seq_length=512
        )
        work = gpu_work(store, BASE + dropouts(options.dropout or 0.0), seconds=options.seconds)
        return {"BERT base, packed 512": replace(work, precision=options.precision)}
    from benchmarks.stores import wikipedia_is_there, write_wikipedia_stores  # they need Numba

    if not wikipedia_is_there():
        raise SystemExit("the Wikipedia files are not there: this benchmark needs ../shared/data")
    write_wikipedia_stores(folder, num_files=options.files, vocab_size=VOCAB_SIZE)
    common: dict[str, Any] = {
        "model": MINI + dropouts(0.1 if options.dropout is None else options.dropout),
        "view": "single", "batch_size": 32, "precision": options.precision,
        "seconds": options.seconds,
    }  # fmt: skip
    return {
        "4 x 256, rows of 128": Work(store=str(folder / "rows"), max_seq_length=128, **common),
        "4 x 256, paragraphs up to 512": Work(
            store=str(folder / "paragraphs"), max_seq_length=512, **common
        ),
    }


def dropouts(probability: float) -> tuple[str, ...]:
    """Return the settings of a model with dropout everywhere.

    Example:
        >>> dropouts(0.1)
        ('dropout=0.1', 'attention_dropout=0.1')
    """
    return f"dropout={probability}", f"attention_dropout={probability}"


def gpu_work(
    store: Path, model: tuple[str, ...], *, optimizer: str = "adamw", seconds: float = 8.0
) -> Work:
    """Return the training of a shape on packed rows of 512: 65,536 tokens a step, compiled.

    Without dropout, as long as no epoch is seen twice (cramming, ModernBERT): torch's
    variable-length kernel has none.
    """
    return Work(
        store=str(store), model=model, view="packed", max_seq_length=512, batch_size=128,
        device="cuda", optimizer=optimizer, compile=True, seconds=seconds, warmup_steps=10,
        log_every=5,
    )  # fmt: skip


def trainer_work(work: Work) -> Work:
    """Return what Trainer does for it: as `run_mlm.py` does, not compiled, and half the batch.

    Logits of all 65,536 tokens over the vocabulary would not fit beside the activations; a GPU is
    as busy with 32,768.
    """
    if work.device == "cpu":
        return work
    return replace(work, compile=False, batch_size=work.batch_size // 2)


def take_turns(works: dict[str, Work], num_runs: int) -> dict[str, list[dict[str, Any]]]:
    """Return the runs of each work, a pair of ours and theirs each."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in works}
    for number in range(num_runs):
        for name, work in works.items():
            sides = {"ours": work, "theirs": trainer_work(work)}
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            pair = {side: run_apart(side, sides[side]) for side in order}
            runs[name].append(pair)
            rates = [pair[side]["tokens_per_s"] for side in sides]
            print(f"{name}: ours {rates[0]:,.0f}, Trainer {rates[1]:,.0f} tokens/s", flush=True)
    return runs


def compare(name: str, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a line of the table: medians, spread, and the median ratio of neighbouring runs.

    Example:
        >>> run = {"tokens_per_s": 300.0, "data_wait_ratio": 0.001, "mfu": None,
        ...        "num_tokens": 600, "cpu_s": 2.0}
        >>> row = compare("x", [{"ours": run, "theirs": {**run, "tokens_per_s": 100.0}}])
        >>> row["ratio"], row["ratio_per_cpu_s"]
        (3.0, 1.0)
    """
    row: dict[str, Any] = {"work": name}
    for system in ("ours", "theirs"):
        rates = [pair[system]["tokens_per_s"] for pair in pairs]
        row[f"{system}_tokens_per_s"] = round(statistics.median(rates))
        row[f"{system}_spread"] = f"{min(rates):,.0f} to {max(rates):,.0f}"
    ratios = [pair["ours"]["tokens_per_s"] / pair["theirs"]["tokens_per_s"] for pair in pairs]
    row["ratio"] = round(statistics.median(ratios), 2)
    row["ratios"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    # What a busy machine distorts least: tokens per processor second.
    per_cpu = [_per_cpu_s(pair["ours"]) / _per_cpu_s(pair["theirs"]) for pair in pairs]
    row["ratio_per_cpu_s"] = round(statistics.median(per_cpu), 2)
    waits = [pair["ours"]["data_wait_ratio"] for pair in pairs]
    row["data_wait_percent"] = round(100 * statistics.median(waits), 3)
    utilisations = [pair["ours"]["mfu"] for pair in pairs]
    row["mfu"] = None if None in utilisations else statistics.median(utilisations)
    return row


def describe(device: str) -> str:
    """Return the device's name."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} cores"


def _per_cpu_s(run: dict[str, Any]) -> float:
    return float(run["num_tokens"] / run["cpu_s"])
