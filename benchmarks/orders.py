"""A step of permutation language modelling against XLNetLMHeadModel in a plain loop, taking turns.

XLNet 4 x 256 with a vocabulary of 16,384, 32 rows of 128 tokens, 21 of them asked for, AdamW,
gradients clipped; the same weights and the same orders. The stock class is measured twice: with
queries for the targets alone, which is the least it can do, and with a query for each token, which
is what the collator of transformers asks for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import environment, print_table, write_result
from lmmodel.batch import QUERIES, TOKENS, Batch, Labels, make_batch
from lmmodel.cores import SharedWeights
from lmmodel.encoder_decoder import build_model
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import to_their_config
from lmmodel.loader import MicroBatch
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.optimizing import OptimizerConfig
from lmmodel.training.optimizer import Optimizer
from lmmodel.training.step import accumulate, clip_gradients, dropout_seeds
from lmmodel.two_stream import with_queries

NUM_ROWS, LENGTH, NUM_ASKED, VOCAB_SIZE = 32, 128, 21, 16_384
Step = Callable[[], object]


def main(arguments: list[str]) -> None:
    """Measure, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks orders", description=__doc__)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--dropout", type=float, default=0.1, help="of both systems")
    parser.add_argument("--num-steps", type=int, default=10, help="of each, after two")
    options = parser.parse_args(arguments)
    model = ModelConfig(
        family="xlnet", size="mini", vocab_size=VOCAB_SIZE, dropout=options.dropout,
        attention_dropout=options.dropout,
    )  # fmt: skip
    ids, ranks = make_orders(torch.Generator().manual_seed(0))
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    steps: dict[str, Step] = {
        "ours": our_step(model, dtype, ids, ranks),
        "stock, asked for targets": their_step(model, dtype, ids, ranks),
        "stock, asked for all": their_step(model, dtype, ids, ranks, asks_all=True),
    }
    runs = take_turns(steps, options.num_steps)
    rows = [summarise(name, own, runs["ours"]) for name, own in runs.items()]
    print_table(rows)
    print(environment())
    settings = {**vars(options), "num_threads": torch.get_num_threads()}
    write_result(f"orders-cpu-{options.precision}", {"settings": settings, "rows": rows})


def make_orders(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return made-up ids and orders of the targets and both ends: int64 (rows, length) each."""
    shape = (NUM_ROWS, LENGTH)
    ids, ranks = torch.randint(5, VOCAB_SIZE, shape, generator=generator), torch.zeros(shape).long()
    for row in ranks:
        inner = torch.randperm(LENGTH - 2, generator=generator)[:NUM_ASKED] + 1
        ordered = torch.cat([inner, torch.tensor([0, LENGTH - 1])])
        row[ordered] = torch.randperm(NUM_ASKED + 2, generator=generator) + 1
    return ids, ranks


def asked_places(ranks: Tensor) -> Tensor:
    """Return the places of the targets: int64 (rows, targets)."""
    inner = ranks[:, 1:-1] > 0
    return torch.stack([row.nonzero()[:, 0] + 1 for row in inner])


def pack(ids: Tensor, ranks: Tensor) -> Batch:
    """Return rows as one packed batch."""
    num = len(ids)
    rows = (asked_places(ranks) + LENGTH * torch.arange(num)[:, None]).flatten()
    batch = make_batch(ids.flatten().int(), torch.full((num,), LENGTH))
    batch = with_queries(batch, rows, ranks=ranks.flatten().int())
    labels = Labels(torch.arange(len(rows)), ids.flatten()[rows])
    queries = replace(batch.streams[QUERIES], max_seqlen=NUM_ASKED, labels={TOKENS: labels})
    return replace(batch, streams={**batch.streams, QUERIES: queries})


def our_step(config: ModelConfig, dtype: torch.dtype, ids: Tensor, ranks: Tensor) -> Step:
    """Return what does one step as a run does: a micro-batch a core, at least two."""
    model = build_model(config, seed=1).train()
    model.compute_dtype = dtype
    objective = make_objective(ObjectiveConfig(name="plm"))
    optimizer = Optimizer(model, OptimizerConfig(name="adamw"), dtype)
    shared, num = SharedWeights(model, dtype), max(2, torch.get_num_threads())
    parts = zip(ids.chunk(num), ranks.chunk(num), strict=True)
    micro_batches = [MicroBatch(pack(*part), 0) for part in parts]
    num_labels = torch.tensor([NUM_ROWS * NUM_ASKED])

    def step() -> None:
        optimizer.zero_grad()
        accumulate(
            model, objective, micro_batches, num_labels, seeds=dropout_seeds(0, 0, 0),
            shared=shared, num_at_once=torch.get_num_threads(),
        )  # fmt: skip
        clip_gradients(model, 1.0)
        optimizer.step(1.0)

    return step


def their_step(
    config: ModelConfig, dtype: torch.dtype, ids: Tensor, ranks: Tensor, *, asks_all: bool = False
) -> Step:
    """Return what does one step of the stock class on padded rows."""
    import transformers

    model = transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(**to_their_config(config, {"pad": 0}))
    ).train()
    own = to_their_weights(build_model(config, seed=1).state_dict(), config)
    model.load_state_dict(own, strict=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    hides = (ranks[:, None, :] >= ranks[:, :, None]) & (ranks[:, None, :] > 0)
    places = asked_places(ranks)
    labels = ids.gather(1, places)
    if asks_all:
        labels = torch.full_like(ids, -100).scatter(1, places, labels)
        places = torch.arange(LENGTH).expand(NUM_ROWS, -1)
    inputs = {
        "input_ids": ids, "perm_mask": hides.float(), "labels": labels,
        "target_mapping": torch.nn.functional.one_hot(places, LENGTH).float(),
    }  # fmt: skip

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(**inputs, use_mems=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def take_turns(steps: dict[str, Step], num_steps: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and processor seconds of each step of each system."""
    for step in steps.values():
        step()
        step()
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(num_steps):
        for name, step in steps.items():
            start = time.perf_counter(), time.process_time()
            step()
            runs[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return runs


def summarise(
    name: str, own: list[tuple[float, float]], ours: list[tuple[float, float]]
) -> dict[str, Any]:
    """Return a line of the table: medians, spread, and the median ratio of neighbouring steps.

    Example:
        >>> row = summarise("x", [(3.0, 6.0)], [(1.0, 2.0)])
        >>> row["ratio"], row["cpu_ratio"]
        (3.0, 3.0)
    """

    def ratio(index: int) -> float:
        pairs = zip(own, ours, strict=True)
        return round(statistics.median(a[index] / b[index] for a, b in pairs), 2)

    seconds = [step[0] for step in own]
    return {
        "system": name, "step_s": round(statistics.median(seconds), 3),
        "spread": f"{min(seconds):.3f} to {max(seconds):.3f}",
        "ratio": ratio(0), "cpu_ratio": ratio(1),
    }  # fmt: skip
