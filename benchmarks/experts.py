"""Experts for domains on real text: branches of one parent against one dense run of equal compute.

Domains are languages (English Wikipedia, German, Russian, Chinese, Korean) or kinds of English
(Wikipedia, Gutenberg books, docstrings, reviews). A seed model reads the mix for a share of the
tokens, each expert its own domain for its part of the rest; the dense run reads the mix for all of
them. The seed's learning rate stays at its peak and the branches' begins there and falls: a branch
is the rest of the dense run, on one domain. Rows are kept as they are finished: the same command
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmmodel
from benchmarks.domains import make_stores
from benchmarks.finetune_study import STUDIES
from benchmarks.measure import print_table, write_result
from lmdata.dataset import open_store
from lmmodel.adapters import add_pairs
from lmmodel.config import load_train_config
from lmmodel.encoder_decoder import build_model
from lmmodel.finetune import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.inference import Packs, prepare
from lmmodel.optimizing import LoraConfig

SETS = {
    "languages": ("wiki", "de", "ru", "zh", "ko"),
    "english": ("wiki", "books", "docstrings", "reviews"),
}
NEW = {"languages": "captions-fr", "english": "captions"}  # what no other run has read

Row = dict[str, Any]
Settings = dict[str, Any]


# ---- Runs


def train(folder: Path, name: str, store: str, seed: int, settings: Settings) -> str:
    """Train a run unless it is there, go on with one that was stopped, and return its name."""
    output, made = folder / "runs" / name, folder / "runs" / f"{name}.new"
    if not output.exists():
        if (made / "config.json").exists():
            lmmodel.train(None, made, resume=True)
        else:
            lmmodel.train(folder / store, made, seed=seed, settings=settings, overwrite=True)
        made.rename(output)
    return name


def settings_of(num_tokens: int, num_rows: int) -> Settings:
    """Return what all runs share, and how much and how many rows a step one of them reads."""
    return {
        "budget.num_tokens": num_tokens, "batch.size": num_rows, "recipe.max_seq_length": 128,
        "logging.picture": False, "evaluation.num_examples": 0, "checkpoint.keep": 1,
        "checkpoint.every_steps": 200,
    }  # fmt: skip


def experts_of(
    folder: Path, domains: Sequence[str], options: argparse.Namespace, seed: int
) -> Mapping[str, Any]:
    """Return what experts of a seed came to, beside a dense run of as many tokens.

    A branch reads as much of its domain as the dense run does meanwhile, with as many rows a step:
    all branches together take its steps. With fewer rows each takes more of them, at more time of
    the optimizer. `time_ratio` is what that takes, seed and branches, of
    the dense run's time.
    """
    total, rows = options.num_tokens, options.batch_size
    in_seed = round(total * options.seed_ratio)
    own = {"model.size": options.size, "model.family": options.family}
    parent = train(folder, f"{seed}-seed", "tokens", seed,
                   {**own, **settings_of(in_seed, rows), "schedule.kind": "constant"})  # fmt: skip
    dense = best_dense(folder, domains, seed, {**own, **settings_of(total, rows)},
                       1 - options.seed_ratio)  # fmt: skip
    rest = {"init_from": str(folder / "runs" / parent), "schedule.warmup_ratio": 0.0}
    sizes = {name: open_store(folder / f"tokens-{name}", "train").num_tokens for name in domains}
    for domain, size in sizes.items():
        share = round((total - in_seed) * size / sum(sizes.values()))
        train(folder, f"{seed}-{domain}", f"tokens-{domain}", seed,
              {**settings_of(share, options.branch_batch_size or rows), **rest})  # fmt: skip
    runs = [f"{domain}=runs/{seed}-{domain}" for domain in domains]
    stores = [part for d in domains for part in ("--validation", f"{d}=tokens-{d}")]
    told = subprocess.run(
        ["lmmodel", "experts", *runs, *stores, "--dense", f"runs/{dense}", "--output",
         f"experts-{seed}", "--router", options.router, "--overwrite", "--num-examples",
         str(options.num_examples), "--json"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    parts = [parent, *(f"{seed}-{domain}" for domain in domains)]
    took = {name: seconds_of(folder / "runs" / name) for name in (dense, *parts)}
    time_ratio = sum(took[name] for name in parts) / took[dense]
    return {**json.loads(told.stdout), "dense_run": dense, "time_ratio": time_ratio}


def best_dense(
    folder: Path, domains: Sequence[str], seed: int, settings: Settings, fall_ratio: float
) -> str:
    """Return the better of two dense runs.

    The learning rate of one falls throughout, of the other when the branches' does: beside the
    first alone a gain might be the schedule's.
    """
    schedules: dict[str, Settings] = {
        "dense": {},
        "dense-wsd": {"schedule.kind": "wsd", "schedule.cooldown_ratio": fall_ratio,
                      "schedule.warmup_ratio": min(0.06, 1 - fall_ratio)},
    }  # fmt: skip
    found = {}
    for name, more in schedules.items():
        run = train(folder, f"{seed}-{name}", "tokens", seed, {**settings, **more})
        found[run] = statistics.mean(bits_of(folder, run, domain) for domain in domains)
    return min(found, key=lambda run: found[run])


def row_of(domains: Sequence[str], seed: int, found: Mapping[str, Any]) -> Row:
    """Return the figures of one seed."""
    mean = statistics.mean
    bits, owners = found["bits"], found["owners"]
    oracle = mean(bits[d][owners[d]] for d in domains)
    others = {
        d: min(value for run, value in bits[d].items() if run not in (owners[d], "dense"))
        for d in domains
    }
    return {
        "domains": " ".join(domains), "seed": seed,
        "own_is_best": sum(bits[d][owners[d]] < others[d] for d in domains),
        "of": len(domains),
        "least_margin": min(others[d] - bits[d][owners[d]] for d in domains),
        "parent": mean(bits[d]["parent"] for d in domains),
        "dense": mean(bits[d]["dense"] for d in domains),
        "dense_run": found["dense_run"].removeprefix(f"{seed}-"),
        "oracle": oracle,
        "routed": mean(found["routed"].values()),
        "mixture": mean(found["mixture"].values()),
        "accuracy_32": found["accuracy"]["32"],
        "routed_to_dense": mean(found["routed"].values()) - mean(bits[d]["dense"] for d in domains),
        "mixture_to_oracle": mean(found["mixture"].values()) - oracle,
        "time_ratio": found["time_ratio"],
    }  # fmt: skip


# ---- A branch of pairs beside a whole one


def lora_of(folder: Path, domain: str, options: argparse.Namespace, seed: int) -> Row:
    """Return what pairs gain on a new domain, and take for a step, beside full adaptation.

    The parent is the dense run: of one whose learning rate has not fallen, a fall alone gains.
    """
    own = {
        **settings_of(options.num_tokens // 4, options.batch_size),
        "init_from": str(folder / f"runs/{seed}-dense"),
    }  # fmt: skip
    pairs = {"trainable": "lora", "lora.rank": options.rank, "lora.alpha": 2.0 * options.rank,
             "optimizer.lr": 1e-2}  # fmt: skip
    seconds, bits = {}, {}
    for part, more in {"full": {}, "lora": pairs}.items():
        run = train(folder, f"{seed}-{domain}-{part}", f"tokens-{domain}", seed, {**own, **more})
        bits[part] = bits_of(folder, run, domain)
        seconds[part] = seconds_a_token(folder / "runs" / run)
    before = bits_of(folder, f"{seed}-dense", domain)
    return {
        "domain": domain, "seed": seed, "before": before, **bits,
        "share_of_gain": (before - bits["lora"]) / (before - bits["full"]),
        "share_of_step_time": seconds["lora"] / seconds["full"],
    }  # fmt: skip


def bits_of(folder: Path, run: str, domain: str) -> float:
    """Return the held-out bits a byte of a run on a domain."""
    found = lmmodel.evaluate(folder / "runs" / run, folder / f"tokens-{domain}", num_examples=256)
    return float(found.nats_per_byte / math.log(2))


def seconds_a_token(run: Path) -> float:
    """Return the median seconds that a token takes: forward, backward and optimizer."""
    return float(statistics.median(
        (one["forward_backward_ratio"] + one["optimizer_ratio"]) / one["tokens_per_s"]
        for one in reports_of(run)
    ))  # fmt: skip


def seconds_of(run: Path) -> float:
    """Return the seconds that a run has computed, by its median token."""
    return seconds_a_token(run) * float(reports_of(run)[-1]["num_tokens"])


def reports_of(run: Path) -> list[Row]:
    """Return what a run reported of its training."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "optimizer_ratio" in line]


# ---- A hundredth of the weights on tasks, and many branches in one memory


def tuned_by_part(folder: Path, run: Path, task: str, num_seeds: int) -> Row:
    """Return the scores of fine-tuning all of a model and pairs of about a hundredth of it."""
    study = STUDIES[task]
    row: Row = {"task": task}
    for part, more in {
        "full": {},
        "lora": {"trainable": "lora", "lora": LoraConfig(rank=2)},
    }.items():
        config = FinetuneConfig(
            task=study.task, num_seeds=num_seeds, patience=None, **study.settings, **more
        )
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            train, validation = study.make_files(Path(temporary))
            found = finetune(run, config, train, validation, Path(temporary) / "result")
        row |= {
            "score": found.best_score, part: 100 * found.mean[found.best_score],
            f"{part}_spread": 100 * found.spread[found.best_score],
        }  # fmt: skip
        moved = found.trained
        row[f"{part}_percent"] = 100 * moved.num_trained / (moved.num_trained + moved.num_frozen)
    return row


def memory_of_branches(size: str, num: int = 10) -> Row:
    """Return the bytes of a parent laid out to answer, and of so many branches beside it.

    Pairs of rank 8 beside queries and values, with random numbers.
    """
    config = load_train_config(None, [f"model.size={size}", "model.vocab_size=30522"])
    parent = build_model(config.model, seed=0).eval()
    lora = LoraConfig(rank=8, targets=("query", "value"))
    packs: Packs = {}
    models = [parent]
    for seed in range(num):
        branch = copy.deepcopy(parent, {id(p): p for p in parent.parameters()})
        add_pairs(branch, lora, seed)
        models.append(branch)
    grown = [resident_bytes()]
    kept = []
    for model in models:
        kept.append(prepare(model, packs=packs))
        grown.append(resident_bytes())
    own = [sum({p.data_ptr(): p.nbytes for p in m.parameters()}.values()) for m in models]
    together = {p.data_ptr(): p.nbytes for m in models for p in m.parameters()}
    return {
        "size": size, "branches": num, "parent_bytes": own[0],
        "weights_more_percent": 100 * (sum(together.values()) / own[0] - 1),
        "resident_of_parent_bytes": own[0] + grown[1] - grown[0],
        "resident_of_branches_bytes": grown[-1] - grown[1],
        "resident_more_percent": 100 * (grown[-1] - grown[1]) / (own[0] + grown[1] - grown[0]),
    }  # fmt: skip


def resident_bytes() -> int:
    """Return the memory of this process that is in use."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def kept(folder: Path, name: str, make: Callable[[], Row]) -> Row:
    """Return a row that was kept before, or make and keep it."""
    path = folder / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make()), encoding="utf-8")
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    return row


# ---- The command


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks experts", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="tiny, one seed, little text")
    parser.add_argument("--size", default="mini")
    parser.add_argument("--family", default="gpt2")
    parser.add_argument("--router", default="ngram")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--num-tokens", type=int, default=8_000_000, help="of the dense run")
    parser.add_argument("--seed-ratio", type=float, default=0.5, help="of these, of the seed run")
    parser.add_argument("--num-bytes", type=int, default=6_000_000, help="of each domain")
    parser.add_argument("--num-examples", type=int, default=256, help="held out, of each domain")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=8, help="rows of a step")
    parser.add_argument("--branch-batch-size", type=int, help="rows of a branch's step, or as many")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--only", choices=SETS, help="of the two sets")
    parser.add_argument("--name", default="experts", help="of the result's file")
    options = parser.parse_args(arguments)
    if options.quick:
        small = {"size": "tiny", "num_seeds": 1, "num_tokens": 200_000, "num_bytes": 400_000,
                 "num_examples": 64, "vocab_size": 2048}  # fmt: skip
        vars(options).update(small)
    return options


def add_rows(name: str, options: argparse.Namespace, tables: dict[str, list[Row]]) -> None:
    """Make or go on with the rows of a set of domains, and put them to the others."""
    folder, domains, new = (options.folder / name).resolve(), SETS[name], NEW[name]
    make_stores(folder, domains, new, num_bytes=options.num_bytes, vocab_size=options.vocab_size)

    def add(table: str, key: object, make: Callable[[], Row]) -> None:
        row = kept(folder / "rows", f"{table}-{key}", make)
        tables[table].append(row)
        print(row, flush=True)

    seeds = range(options.num_seeds)
    for seed in seeds:
        add("experts", seed, lambda seed=seed:
            row_of(domains, seed, experts_of(folder, domains, options, seed)))  # fmt: skip
    for seed in seeds:
        add("lora", seed, lambda seed=seed: lora_of(folder, new, options, seed))
    if not options.quick and name == "english":
        for task in ("sst2", "ud-tags"):
            add("tasks", task, lambda task=task:
                tuned_by_part(folder, folder / "runs/0-dense", task, len(seeds)))  # fmt: skip


def spread_of(rows: Sequence[Row], by: str) -> list[Row]:
    """Return mean and standard deviation over seeds of the numbers of rows with the same name.

    Example:
        >>> spread_of([{"of": "de", "seed": seed, "x": 2.0 * seed} for seed in (0, 1, 2)], "of")
        [{'of': 'de', 'seeds': 3, 'x': 2.0, 'x_spread': 2.0}]
    """
    found = []
    for name in dict.fromkeys(row[by] for row in rows):
        own = [row for row in rows if row[by] == name]
        mean: Row = {by: name, "seeds": len(own)}
        for key in [key for key in own[0] if key != "seed" and not isinstance(own[0][key], str)]:
            values = [row[key] for row in own]
            mean[key] = statistics.mean(values)
            mean[f"{key}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        found.append(mean)
    return found


def main(arguments: list[str]) -> None:
    """Make or go on with all rows, print the tables and keep them."""
    options = parse(arguments)
    tables: dict[str, list[Row]] = {"experts": [], "lora": [], "tasks": []}
    for name in [options.only] if options.only else SETS:
        add_rows(name, options, tables)
    size = "mini" if options.quick else "base"
    memory = kept(options.folder, f"memory-{size}", lambda: memory_of_branches(size))
    tables |= {
        "memory": [memory],
        "experts_mean": spread_of(tables["experts"], "domains"),
        "lora_mean": spread_of(tables["lora"], "domain"),
    }
    for table in tables.values():
        if table:
            print_table(table)
    settings = {key: str(value) for key, value in vars(options).items() if key != "folder"}
    write_result(options.name, {"settings": settings, **tables})
