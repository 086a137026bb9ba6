"""Pairs and masks against Hugging Face's collator and BERT's procedure, in the same run.

Ours reads a token store of Wikipedia from disk. The peers get the same tokens in memory: the
collator as ready lists of 128 ids, BERT's procedure (the oracle of our tests, written from the
rules) as lists of sentences. All of it runs on one core but for the disk-to-disk row. The rate
per processor second is what one free core does, whatever else the machine is busy with.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import DATA, environment, print_table, timed, write_result
from lmdata.corpus import CorpusConfig, find_sources
from lmdata.dataset import TokenStore, open_store
from lmdata.examples import write_examples
from lmdata.masking import mask_rules, mask_tokens
from lmdata.packing import pack
from lmdata.tokenizer import load_tokenizer
from lmdata.tokens import TokenizeConfig, tokenize_corpus
from lmdata.views import Recipe, view
from references import pretraining

LENGTH, BATCH_SIZE = 128, 256
NUM_CORES_ON_DISK = 2
MASKS = {
    "Bernoulli": Recipe(view="single", count="bernoulli"),
    "exact count": Recipe(view="single"),
    "whole-word": Recipe(view="single", corruption="whole-word"),
    "span": Recipe(view="single", corruption="span"),
}


def main(arguments: list[str]) -> None:
    """Measure what the options ask for, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks examples", description=__doc__)
    parser.add_argument("--num-runs", type=int, default=5)
    parser.add_argument("--files", type=int, default=8, help="Wikipedia files to use, of 8")
    parser.add_argument("--num-rows", type=int, default=32_768, help="examples to mask at a time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens"
        make_store(path, options.files)
        store = open_store(path)
        rows = measure_masks(store, options.num_rows, options.num_runs)
        rows += measure_views(store, options.num_runs)
        rows.append(measure_disk(path, Path(folder) / "shards", options.num_runs))
        rows += measure_collators(store, options.num_rows, options.num_runs)
        rows.append(measure_oracle(store))
        size = {"documents": store.num_documents, "tokens": store.num_tokens}
    packing = measure_packing()
    print_table(rows)
    print(packing)
    print(environment())
    content = {"input": size, "runs": options.num_runs, "rows": rows, "packing": packing}
    write_result("examples", content)


def make_store(path: Path, num_files: int) -> None:
    """Write the token store of some files of Wikipedia."""
    files = sorted((DATA / "wikipedia-en").glob("*.jsonl.zst"))[:num_files]
    config = TokenizeConfig(corpus=CorpusConfig())
    sources = find_sources([str(file) for file in files], config.corpus)
    tokenizer = load_tokenizer(DATA / "vocab" / "bert-base-uncased")
    tokenize_corpus(sources, config, tokenizer, path)


def measure(
    work: str, system: str, num_tokens: int, run: Callable[[], object], num_runs: int
) -> dict[str, Any]:
    """Return a line of the table: median rates, in million tokens/s, after one call to warm up."""
    run()
    before = time.process_time()
    rates = [num_tokens / seconds / 1e6 for seconds in timed(run, num_runs)]
    cpu_s = (time.process_time() - before) / num_runs
    return {
        "work": work,
        "system": system,
        "million_tokens_per_s": round(statistics.median(rates), 2),
        "slowest": round(min(rates), 2),
        "fastest": round(max(rates), 2),
        "per_processor_s": round(num_tokens / cpu_s / 1e6, 2),
    }


def measure_masks(store: TokenStore, num_rows: int, num_runs: int) -> list[dict[str, Any]]:
    """Measure masking alone: the copy of the ids, the choice, the replacement, the labels."""
    rows = []
    plain = view(store, MASKS["exact count"], seed=1)
    batch = plain.examples(np.arange(min(num_rows, len(plain))))
    ids, addresses = batch.original_ids(), np.arange(len(batch))
    for name, recipe in MASKS.items():
        rules = mask_rules(recipe, store.tokenizer, seed=1, id_dtype=ids.dtype)

        def mask(rules: Any = rules) -> None:
            mask_tokens(ids.copy(), batch.offsets, addresses, addresses, rules)

        rows.append(measure(f"masking alone, {name}", "lmdata", len(ids), mask, num_runs))
    return rows


def measure_views(store: TokenStore, num_runs: int) -> list[dict[str, Any]]:
    """Measure batches of shuffled examples, each drawn afresh from the memory map."""
    rows = []
    for name, recipe in {
        "NSP pairs and exact masks": Recipe(),
        "SOP pairs and n-gram masks": Recipe(view="sop", corruption="ngram"),
        "packed rows and Bernoulli masks": Recipe(view="packed", count="bernoulli"),
    }.items():
        examples = view(store, recipe, seed=1)
        num_batches = min(100, len(examples) // BATCH_SIZE)

        def run(examples: Any = examples, num_batches: int = num_batches) -> int:
            batches = np.arange(num_batches * BATCH_SIZE).reshape(num_batches, BATCH_SIZE)
            return sum(len(examples.examples(rows).input_ids) for rows in batches)

        work = f"batch(step), {name}, {BATCH_SIZE} x {LENGTH}"
        rows.append(measure(work, "lmdata", run(), run, num_runs))
    return rows


def measure_disk(store: Path, output: Path, num_runs: int) -> dict[str, Any]:
    """Measure NSP pairs with exact masks from the store on disk to shards on disk."""

    def run() -> Any:
        return write_examples(
            store, Recipe(), output, seed=1, num_workers=NUM_CORES_ON_DISK, overwrite=True
        )

    manifest = run()
    num_tokens = sum(shard.tokens for shards in manifest.splits.values() for shard in shards)
    work = f"NSP and exact masks, disk to disk, {NUM_CORES_ON_DISK} cores"
    return measure(work, "lmdata", num_tokens, run, num_runs)


def measure_packing(num_pieces: int = 10_000_000) -> dict[str, Any]:
    """Measure the plan for ten million lengths of a long-tailed corpus, cut at 512."""
    lengths = np.random.default_rng(1).lognormal(5, 1, num_pieces)
    sizes = np.clip(lengths, 3, 512).astype(np.uint16)
    plan = pack(sizes, 512)
    seconds = timed(lambda: pack(sizes, 512))
    fill = sizes.sum(dtype=np.int64) / (512 * plan.num_rows)
    return {
        "num_pieces": num_pieces,
        "plan_s": round(statistics.median(seconds), 2),
        "fill": round(float(fill), 4),
        "plan_bytes_per_piece": plan.pieces.itemsize,
    }


def measure_collators(store: TokenStore, num_rows: int, num_runs: int) -> list[dict[str, Any]]:
    """Measure `DataCollatorForLanguageModeling`: masks only, of ready examples."""
    import torch
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    names = ("unk", "sep", "pad", "cls", "mask")
    pieces = {f"{name}_token": store.tokenizer.special_tokens[name] for name in names}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=store.tokenizer.backend, **pieces)
    part = view(store, MASKS["exact count"], seed=1)
    batch = part.examples(np.arange(min(64 * 64, len(part))))
    examples = [
        {"input_ids": ids[:LENGTH].tolist()}
        for ids in np.split(batch.original_ids(), batch.offsets[1:-1])
    ]
    num_tokens = sum(len(example["input_ids"]) for example in examples)
    rows = []
    for tensors in ("pt", "np"):
        collate = DataCollatorForLanguageModeling(tokenizer, return_tensors=tensors)

        def run(collate: Any = collate) -> None:
            for first in range(0, len(examples), 64):
                collate(examples[first : first + 64])

        system = f"DataCollatorForLanguageModeling, {tensors}, 64 x {LENGTH}"
        rows.append(measure("masking alone, Bernoulli", system, num_tokens, run, num_runs))
    collate = DataCollatorForLanguageModeling(tokenizer, return_tensors="pt")
    tensor = torch.randint(1000, 30_000, (num_rows, LENGTH))
    special = torch.zeros_like(tensor, dtype=torch.bool)

    def one_tensor() -> None:
        collate.torch_mask_tokens(tensor.clone(), special_tokens_mask=special)

    system = "torch_mask_tokens, one tensor"
    work = "masking alone, Bernoulli"
    return [*rows, measure(work, system, tensor.numel(), one_tensor, num_runs)]


def measure_oracle(store: TokenStore, num_documents: int = 300) -> dict[str, Any]:
    """Measure BERT's procedure: NSP pairs and exact masks of some documents, in memory."""
    documents = []
    for index in range(min(num_documents, store.num_documents)):
        ids, lengths = store.document(index)
        bounds = np.cumsum(lengths)[:-1]
        documents.append([sentence.tolist() for sentence in np.split(ids, bounds)])
    special_ids = store.tokenizer.special_ids
    can_mask = set(range(store.tokenizer.vocab_size)) - {special_ids["cls"], special_ids["sep"]}
    pieces = sorted(can_mask)
    recipe = Recipe()

    def run() -> int:
        draws, num_tokens = pretraining.PlainDraws(random.Random(1)), 0
        for index in range(len(documents)):
            for pair in pretraining.create_pairs(documents, index, draws, max_seq_length=LENGTH):
                tokens = [
                    special_ids["cls"], *pair.tokens_a, special_ids["sep"], *pair.tokens_b,
                    special_ids["sep"],
                ]  # fmt: skip
                k = pretraining.num_to_mask(len(tokens), 0.15, recipe.most_predictions)
                spans = [[i] for i in pretraining.choose_tokens(tokens, can_mask, k, draws)]
                pretraining.replace_tokens(tokens, spans, pieces, draws)
                num_tokens += len(tokens)
        return num_tokens

    work = "NSP pairs and exact masks, in memory"
    return measure(work, "BERT's procedure (references/pretraining.py)", run(), run, 3)
