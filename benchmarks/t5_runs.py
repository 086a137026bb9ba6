"""T5 beside a loop over transformers for twenty steps, and titles of Wikipedia after BART."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.end_to_end import run
from benchmarks.measure import DATA
from lmdata.stored import read_decompressed
from lmmodel.batch import SOURCE, TARGET, TOKENS, Batch, Stream
from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.device import Processes
from lmmodel.handover.stock import export_model
from lmmodel.loader import StepBatch
from lmmodel.packing import Padding, padding_of
from lmmodel.training.learner import Learner
from lmmodel.training.plan import make_loader, resolve_config

VOCAB_SIZE, NUM_SENTINELS = 8192, 100
NUM_STEPS, NUM_WARMUP_STEPS, LR = 20, 3, 1e-3
STEPS = (
    "objective.name=t5", "model.size=mini", "recipe.max_seq_length=256", "batch.size=4",
    "precision=fp32", "device=cpu", "optimizer.name=adamw", f"optimizer.lr={LR}",
    "optimizer.weight_decay=0", "schedule.kind=constant", "schedule.warmup_ratio=0",
    "budget.num_steps=100", "evaluation.num_examples=0",
)  # fmt: skip
"""Of both: AdamW without decay, gradients clipped to 1, no dropout."""


def make_store(folder: Path) -> Path:
    """Return a token store with sentinels, of all files but the last, made where there is none."""
    files = [f"wikipedia-en/{path.name}" for path in wikipedia()[:-1]]
    if not (folder / "tokens" / "manifest.json").is_file():
        run(["lmdata", "train-tokenizer", *files, "--model", "bpe", "--vocab-size",
             str(VOCAB_SIZE), "--num-sentinels", str(NUM_SENTINELS), "--overwrite", "--json"],
            folder)  # fmt: skip
        run(["lmdata", "tokenize", *files, "--overwrite", "--json"], folder)
    return folder / "tokens"


def wikipedia() -> list[Path]:
    """Return the files."""
    return sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))


def compare_steps(folder: Path) -> dict[str, Any]:
    """Return the losses of the same steps in both, and the tokens a second, taking turns."""
    import transformers

    data = open_data(make_store(folder))
    alone, cpu = Processes(), torch.device("cpu")
    config = resolve_config(load_train_config(None, list(STEPS)), data, cpu, alone)
    loader = make_loader(config, data, NUM_STEPS, alone)
    learner = Learner(config, loader, cpu, None, None)
    export_model(learner.model, data.tokenizer, folder / "stock")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder / "stock").train()
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=LR, betas=config.optimizer.betas, eps=config.optimizer.eps,
        weight_decay=0.0,
    )  # fmt: skip
    losses: list[tuple[float, float]] = []
    seconds: list[tuple[float, float]] = []
    batches: list[StepBatch] = []
    for step in range(NUM_STEPS):
        began = time.perf_counter()
        batch = loader.batch(step)
        result = learner.learn(batch, learner.add_up(batch).num_labels)
        ours_s = time.perf_counter() - began
        padded = as_padded(batch)
        began = time.perf_counter()
        optimizer.zero_grad()
        loss = theirs(**padded).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.max_grad_norm or 1e9)
        optimizer.step()
        theirs_s = time.perf_counter() - began
        losses.append((result.loss.total, float(loss.detach())))
        seconds.append((ours_s, theirs_s))
        batches.append(batch)
        print(f"  step {step + 1}: loss {losses[-1][0]:.6f}, theirs {losses[-1][1]:.6f}; "
              f"{ours_s:.2f} s, theirs {theirs_s:.2f} s", flush=True)  # fmt: skip
    timed = np.array(seconds[NUM_WARMUP_STEPS:])
    tokens = sum(batch.num_tokens for batch in batches[NUM_WARMUP_STEPS:])
    rates = tokens / timed.sum(axis=0)
    return {
        "steps": NUM_STEPS, "tokens a step": tokens // len(timed),
        "largest difference of losses": max(abs(ours - stock) for ours, stock in losses),
        "ours tokens/s": round(float(rates[0])), "transformers tokens/s": round(float(rates[1])),
        "ratio": round(float(rates[0] / rates[1]), 2),
        "median ratio of neighbouring steps": round(float(np.median(timed[:, 1] / timed[:, 0])), 2),
        "padding": padding(batches).sentence, "losses": losses,
    }  # fmt: skip


def padding(batches: list[StepBatch]) -> Padding:
    """Return what is padding in whole steps, as both have them."""
    micro = [own.batch for batch in batches for own in batch.micro_batches]
    return padding_of(micro, sum(batch.num_tokens for batch in batches))


def as_padded(step: StepBatch) -> dict[str, Tensor]:
    """Return a step as a batch of transformers, filled up to its longest source and target."""
    micro: list[Batch] = [own.batch for own in step.micro_batches]
    sources = [ids for batch in micro for ids in texts(batch.streams[SOURCE])]
    targets = [ids for batch in micro for ids in texts(batch.streams[TARGET])]
    labels = [
        own
        for batch in micro
        for own in torch.split(
            batch.streams[TARGET].labels[TOKENS].values,
            batch.streams[TARGET].cu_seqlens.diff().tolist(),
        )
    ]
    fill = torch.nn.utils.rnn.pad_sequence
    read = fill(sources, batch_first=True, padding_value=-1)
    return {
        "input_ids": read.clamp(min=0), "attention_mask": (read >= 0).long(),
        "decoder_input_ids": fill(targets, batch_first=True),
        "labels": fill(labels, batch_first=True, padding_value=-100),
    }  # fmt: skip


def texts(stream: Stream) -> list[Tensor]:
    """Return the ids of each sequence, int64."""
    return list(torch.split(stream.input_ids.long(), stream.cu_seqlens.diff().tolist()))


# Titles from first paragraphs.

NUM_VALIDATION = 300
LETTERS = 150, 1500  # of a first paragraph


def write_pairs(folder: Path) -> int:
    """Write first paragraphs and titles: of the files that were pretrained on, and of the last."""
    folder.mkdir(exist_ok=True)
    *train, last = wikipedia()
    parts = {
        "validation": list(pairs_of(last))[:NUM_VALIDATION],
        "train": [pair for path in train for pair in pairs_of(path)],
    }
    for name, rows in parts.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(parts["train"])


def pairs_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield first paragraphs that are neither short nor long, and titles."""
    for line in read_decompressed(path, 2**30).splitlines():
        article = json.loads(line)
        paragraphs = [text for text in article["text"].split("\n")[1:] if text.strip()]
        if paragraphs and LETTERS[0] <= len(paragraphs[0]) <= LETTERS[1]:
            yield {"paragraph": paragraphs[0], "title": article["title"]}


def write_titles(folder: Path, num_tokens: int) -> list[dict[str, Any]]:
    """Return rougeL of titles, three seeds each: after pretraining, and from random weights.

    BART, since who puts a whole text together again learns to copy; in so few tokens T5's spans
    teach none of it.
    """
    store = make_store(folder)
    num_pairs = write_pairs(folder / "titles")
    if not (folder / "runs" / "bart" / "model.safetensors").is_file():
        run(["lmmodel", "train", str(store), "--objective", "bart", "--model", "tiny",
             "--num-tokens", str(num_tokens), "--set", "batch.size=16", "--output", "runs/bart",
             "--overwrite", "--json"], folder)  # fmt: skip
    rows = []
    for what, options in (("pretrained", []), ("random weights", ["--from-scratch"])):
        done = run([
            "lmmodel", "finetune", "runs/bart", "--task", "sequence-to-sequence", "--train",
            "titles/train.jsonl", "--validation", "titles/validation.jsonl", "--source",
            "paragraph", "--target", "title", "--seeds", "3", "--num-epochs", "3", "--set",
            "score=rougeL", "--set", "batch_size=32", "--set", "lr=1e-3", "--set",
            "max_seq_length=96", "--set", "max_target_length=24", "--output",
            f"runs/{what.split()[0]}", "--overwrite", "--json", *options,
        ], folder)  # fmt: skip
        result = done["result"]
        rows.append({
            "what": what, "pairs": num_pairs,
            "pretraining tokens": num_tokens if what == "pretrained" else 0,
            "rougeL": round(100 * result["mean"]["rougeL"], 2),
            "spread": round(100 * result["spread"]["rougeL"], 2),
            "exact": round(100 * result["mean"]["exact_match"], 2),
            "minutes": round(done["seconds"] / 60, 1),
            "seeds": [round(100 * one["scores"]["rougeL"], 2) for one in result["seeds"]],
            "examples": result["samples"],
        })  # fmt: skip
    return rows
