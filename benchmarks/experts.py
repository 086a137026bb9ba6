"""Experts for domains on real text: branches of one parent against one dense run of equal compute.

Domains are languages (English Wikipedia, German, Russian, Chinese, Korean) or kinds of English
(Wikipedia, Gutenberg books, docstrings, reviews). A seed model reads the mix for half of the
tokens, each expert its own domain for its share of the other half; the dense run reads the mix for
all of them. Rows are kept as they are finished: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import gc
import gzip
import io
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.finetune_study import STUDIES
from benchmarks.measure import DATA, print_table, write_result
from lmmodel.adapters import add_pairs
from lmmodel.config import load_train_config
from lmmodel.encoder_decoder import build_model
from lmmodel.finetune import finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.inference import Packs, prepare
from lmmodel.optimizing import LoraConfig

LANGUAGES = ("wiki", "de", "ru", "zh", "ko")
ENGLISH = ("wiki", "books", "docstrings", "reviews")
MOST_DOCUMENT = 4000  # letters of a document
LEAST_DOCUMENT = 100

Row = dict[str, Any]


# ---- Domains


def documents_of(domain: str, folder: Path) -> Iterator[str]:
    """Yield the documents of a domain of the real data."""
    if domain == "docstrings":
        subprocess.run(
            ["lmdata", "sample-corpus", "all", "--overwrite", "--quiet"], cwd=folder, check=True
        )
        for path in sorted((folder / "all").rglob("*.txt")):
            yield from path.read_text(encoding="utf-8").split("\n\n\n")
    elif domain == "reviews":
        lines = opened(next((DATA / "tasks/sst2").glob("train*"))).split("\n")[1:]
        for start in range(0, len(lines), 8):
            yield " ".join(line.partition("\t")[0].strip() for line in lines[start : start + 8])
    elif domain in ("wiki", "zh", "ko"):
        where = DATA / ("wikipedia-en" if domain == "wiki" else f"multilingual/{domain}")
        for path in sorted(where.glob("*.jsonl.zst")):
            for line in opened(path).strip().split("\n"):
                yield json.loads(line)["text"]
    else:
        where = DATA / ("gutenberg" if domain == "books" else f"multilingual/{domain}")
        for path in sorted(where.glob("*.txt.*")):
            yield from passages(opened(path).replace("\r\n", "\n"), is_wrapped=domain == "books")


def opened(path: Path) -> str:
    """Return the text of a file that may be compressed."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        import zstandard

        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    elif path.suffix == ".gz":
        raw = gzip.decompress(raw)
    return raw.decode("utf-8", "replace")


def passages(text: str, *, is_wrapped: bool) -> Iterator[str]:
    """Yield stretches of about 2,000 letters that end with a paragraph.

    Example:
        >>> list(passages("one", is_wrapped=False))
        ['one']
    """
    kept: list[str] = []
    for paragraph in text.split("\n\n" if is_wrapped else "\n"):
        kept.append(" ".join(paragraph.split()))
        if sum(map(len, kept)) > 2000:
            yield "\n".join(kept)
            kept = []
    if kept:
        yield "\n".join(kept)


def write_domain(domain: str, corpus: Path, most_bytes: int) -> None:
    """Write documents of a domain, spread over four times as many, as a file of JSON lines."""
    texts, total = [], 0
    for text in documents_of(domain, corpus.parent):
        if len(text) >= LEAST_DOCUMENT:
            texts.append(text[:MOST_DOCUMENT])
            total += len(texts[-1].encode())
        if total > 4 * most_bytes:
            break
    step = max(1.0, total / most_bytes)
    rows = [texts[int(place * step)] for place in range(int(len(texts) / step))]
    (corpus / domain).mkdir(parents=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows]
    (corpus / domain / f"{domain}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_stores(folder: Path, domains: Sequence[str], options: argparse.Namespace) -> None:
    """Make a tokenizer, a store of each domain and one of all, once."""
    corpus = folder / "corpus"
    if not corpus.exists():
        made = folder / "corpus.partial"
        for domain in domains:
            if not (made / domain).exists():
                write_domain(domain, made, options.num_bytes)
        made.rename(corpus)
    lmdata(folder, "tokenizer", "train-tokenizer", "corpus", "--model", "bpe", "--vocab-size",
           str(options.vocab_size))  # fmt: skip
    shared = ["--tokenizer", "tokenizer", "--set", "validation_ratio=0.1"]
    lmdata(folder, "tokens", "tokenize", "corpus", *shared)
    for domain in domains:
        lmdata(folder, f"tokens-{domain}", "tokenize", f"corpus/{domain}", *shared)


def lmdata(folder: Path, output: str, *arguments: str) -> None:
    """Run a verb of lmdata that makes a folder, unless it is there."""
    if not (folder / output).exists():
        command = ["lmdata", *arguments, "--output", output, "--quiet"]
        subprocess.run(command, cwd=folder, check=True)


# ---- Runs


def train(folder: Path, output: str, *arguments: str) -> None:
    """Train a run unless it is there; one that was stopped goes on."""
    if (folder / output).exists():
        return
    made = f"{output}.new"
    is_begun = (folder / made / "config.json").exists()
    command = ["--resume"] if is_begun else [*arguments, "--overwrite"]
    subprocess.run(["lmmodel", "train", *command, "--output", made, "--quiet"], cwd=folder,
                   check=True)  # fmt: skip
    (folder / made).rename(folder / output)


def train_settings(options: argparse.Namespace, seed: int, num_tokens: int) -> list[str]:
    """Return the options that all runs of a seed share."""
    settings = [
        "recipe.max_seq_length=128", f"batch.size={options.batch_size}", "logging.picture=false",
        "evaluation.num_examples=0", "checkpoint.keep=1", "checkpoint.every_steps=20",
        "batch.min_micro_batches=2",
    ]  # fmt: skip
    return ["--seed", str(seed), "--num-tokens", str(num_tokens),
            *(part for setting in settings for part in ("--set", setting))]  # fmt: skip


def experts_of(
    folder: Path, domains: Sequence[str], options: argparse.Namespace, seed: int
) -> Mapping[str, Any]:
    """Return what experts of a seed came to, beside a dense run of as many tokens."""
    total, name = options.num_tokens, f"runs/{seed}"
    own = ["--model", options.size, "--family", options.family]
    begin = ["--init-from", f"{name}-seed"]
    train(folder, f"{name}-seed", "tokens", *own,
            *train_settings(options, seed, total // 2))  # fmt: skip
    train(folder, f"{name}-dense", "tokens", *own,
            *train_settings(options, seed, total))  # fmt: skip
    for domain in domains:
        share = train_settings(options, seed, total // 2 // len(domains))
        train(folder, f"{name}-{domain}", f"tokens-{domain}", *begin, *share)
    runs = [f"{domain}={name}-{domain}" for domain in domains]
    stores = [part for d in domains for part in ("--validation", f"{d}=tokens-{d}")]
    told = subprocess.run(
        ["lmmodel", "experts", *runs, *stores, "--dense", f"{name}-dense", "--output",
         f"experts-{seed}", "--router", options.router, "--overwrite", "--num-examples",
         str(options.num_examples), "--json"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: Mapping[str, Any] = json.loads(told.stdout)
    return found


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
        "oracle": oracle,
        "routed": mean(found["routed"].values()),
        "mixture": mean(found["mixture"].values()),
        "accuracy_32": found["accuracy"]["32"],
    }  # fmt: skip


# ---- A branch of pairs beside a whole one


def lora_of(folder: Path, domain: str, options: argparse.Namespace, seed: int) -> Row:
    """Return what pairs gain on a domain, and take for a step, beside full adaptation."""
    num = options.num_tokens // 4
    seconds, losses = {}, {}
    parts = {
        "full": [],
        "lora": ["--trainable", "lora", "--set", f"lora.rank={options.rank}",
                 "--set", "optimizer.lr=1e-2", "--set", "lora.alpha=16"],
    }  # fmt: skip
    for part, more in parts.items():
        run = f"runs/{seed}-{domain}-{part}"
        train(folder, run, f"tokens-{domain}", "--init-from", f"runs/{seed}-seed",
                *more, *train_settings(options, seed, num))  # fmt: skip
        losses[part] = evaluate(folder, run, domain)
        seconds[part] = seconds_a_token(folder / run)
    before = evaluate(folder, f"runs/{seed}-seed", domain)
    gains = {part: before - loss for part, loss in losses.items()}
    return {
        "domain": domain, "seed": seed, "before": before, **losses,
        "share_of_gain": gains["lora"] / gains["full"],
        "share_of_step_time": seconds["lora"] / seconds["full"],
    }  # fmt: skip


def evaluate(folder: Path, run: str, domain: str) -> float:
    """Return the held-out nats a byte of a run on a domain."""
    told = subprocess.run(
        ["lmmodel", "evaluate", run, f"tokens-{domain}", "--num-examples", "512", "--json"],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return float(json.loads(told.stdout)["nats_per_byte"])


def seconds_a_token(run: Path) -> float:
    """Return the median seconds that a token takes: forward, backward and optimizer."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(statistics.median(
        (one["forward_backward_ratio"] + one["optimizer_ratio"]) / one["tokens_per_s"]
        for one in lines if "optimizer_ratio" in one
    ))  # fmt: skip


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


def main(arguments: list[str]) -> None:
    """Make or go on with all rows, print the tables and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks experts", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--quick", action="store_true", help="tiny, one seed, little text")
    parser.add_argument("--size", default="mini")
    parser.add_argument("--family", default="gpt2")
    parser.add_argument("--router", default="ngram")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--num-tokens", type=int, default=8_000_000, help="of the dense run")
    parser.add_argument("--num-bytes", type=int, default=6_000_000, help="of each domain")
    parser.add_argument("--num-examples", type=int, default=256, help="held out, of each domain")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--only", choices=["languages", "english"], help="of the two sets")
    parser.add_argument("--name", default="experts", help="of the result's file")
    options = parser.parse_args(arguments)
    if options.quick:
        small = {"size": "tiny", "num_seeds": 1, "num_tokens": 200_000, "num_bytes": 400_000,
                 "num_examples": 64, "vocab_size": 2048, "batch_size": 16}  # fmt: skip
        vars(options).update(small)
    sets = {"languages": LANGUAGES, "english": ENGLISH}
    if options.only:
        sets = {options.only: sets[options.only]}
    rows, pairs, tasks = [], [], []
    for name, domains in sets.items():
        folder = options.folder / name
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        make_stores(folder, domains, options)
        for seed in range(options.num_seeds):
            rows.append(row_of(domains, seed, experts_of(folder, domains, options, seed)))
            print(rows[-1], flush=True)
            pairs.append(lora_of(folder, domains[1], options, seed))
            print(pairs[-1], flush=True)
        for task in () if options.quick else ("sst2", "ud-tags"):
            run = folder / "runs/0-seed"
            tasks.append(kept(folder / "rows", task, lambda task=task, run=run, folder=folder:
                              tuned_by_part(folder, run, task, options.num_seeds)))  # fmt: skip
    size = "mini" if options.quick else "base"
    memory = kept(
        options.folder, f"memory-{size}", lambda: memory_of_branches(options.folder, size)
    )
    tables = {"experts": rows, "lora": pairs, "tasks": tasks, "memory": [memory]}
    for table in tables.values():
        if table:
            print_table(table)
    settings = {key: str(value) for key, value in vars(options).items() if key != "folder"}
    write_result(options.name, {"settings": settings, **tables})
