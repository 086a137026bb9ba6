"""What example shards must hold beyond whole files: ledger, statistics, and their documents' text.

Ledger and statistics are counted over every example. Where the token store is at hand, a sample
of rows is compared with its documents, and with the view computed afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.building.example_ledger import ExampleCounts, describe_flows, sum_examples
from lmdata.checking.checks import example_hashes
from lmdata.checking.example_checks import Counts, count_examples, judge
from lmdata.checking.verdicts import Row, Verdict, exact, none_of, row_of
from lmdata.dataset import ExampleSet, TokenStore, frame_ids, open_examples, open_stores
from lmdata.errors import LmdataError
from lmdata.masking import predictions
from lmdata.recipes import Recipe
from lmdata.schema import Flow, Manifest, read_settings
from lmdata.shards import read_batches
from lmdata.tokenizer import Tokenizer
from lmdata.views import view

NUM_SAMPLED = 4096
_BATCH_ROWS = 4096

Stores = dict[str, TokenStore]


def check_shards(
    folder: Path, manifest: Manifest, tokenizer: Tokenizer, store_path: Path | str | None
) -> Iterator[Row]:
    """Yield the checks on the contents of example shards.

    Args:
        folder: of the shards
        manifest: of the shards
        tokenizer: of the shards
        store_path: of the token store; None for where the manifest says it was
    """
    recipe = read_settings(manifest).recipe
    stores, row = _find_stores(folder, manifest, store_path)
    yield row
    yield from check_ledger(folder, manifest, recipe, tokenizer, stores)
    for split in manifest.splits:
        examples = open_examples(folder, split)
        if len(examples):
            yield from check_statistics(split, examples, recipe)
            if stores is not None:
                yield from check_against_store(split, examples, recipe, stores[split])


def _find_stores(
    folder: Path, manifest: Manifest, store_path: Path | str | None
) -> tuple[Stores | None, Row]:
    """Return the splits of the store that the examples were made from, if it is at hand."""
    name, promised = "token store, by hash", read_settings(manifest).store_manifest
    path = Path(store_path or folder / read_settings(manifest).store)
    try:
        stores = open_stores(path)
    except LmdataError as error:
        verdict: Verdict = "skip" if store_path is None else "fail"
        return None, Row(name, promised, f"not at hand: {error}", "", verdict)
    row = exact(name, promised, next(iter(stores.values())).manifest.hash)
    return (stores if row.verdict == "pass" else None), row


def check_ledger(
    folder: Path, manifest: Manifest, recipe: Recipe, tokenizer: Tokenizer, stores: Stores | None
) -> Iterator[Row]:
    """Yield whether the ledger is what the shards, and the store if at hand, add up to."""
    frame = frame_ids(tokenizer)
    try:
        counts = {
            split: sum_examples(
                read_batches(folder, manifest, split), recipe, frame,
                len(stores[split]) if stores else None,
            )
            for split in manifest.splits
        }  # fmt: skip
        ledger = describe_flows(stores, counts, recipe) if stores else None
    except LmdataError as error:
        yield Row("ledger, counted again from the files", "balanced", str(error), "", "fail")
        return
    for quantity, found in _written(counts, recipe).items():
        flow = manifest.ledger.flows.get(quantity)
        promised = flow.written if flow else "nothing"
        yield exact(f"ledger: {quantity} written, counted again", promised, found)
    for quantity, again in (ledger.flows if ledger else {}).items():
        yield _flow_row(quantity, manifest.ledger.flows.get(quantity), again)


def _flow_row(quantity: str, promised: Flow | None, found: Flow) -> Row:
    """Return whether the ledger accounts for the store's quantity as the files do."""
    name = f"ledger: {quantity} of the store = written + dropped"
    expected, observed = (
        f"{flow.read:,} = {flow.total_written:,} + {flow.total_dropped:,}" if flow else "nothing"
        for flow in (promised, found)
    )
    return Row(name, expected, observed, "", "pass" if promised == found else "fail")


def _written(counts: dict[str, ExampleCounts], recipe: Recipe) -> dict[str, dict[str, int]]:
    """Return what the shards alone say of the ledger's quantities."""
    written = {"examples": {split: count.examples for split, count in counts.items()}}
    if recipe.view != "packed":
        written["documents"] = {split: count.documents for split, count in counts.items()}
    if recipe.view != "sop":
        written["tokens"] = {split: count.tokens for split, count in counts.items()}
    return written


def check_statistics(split: str, examples: ExampleSet, recipe: Recipe) -> Iterator[Row]:
    """Yield the statistics of all examples, and whether one is there twice."""
    counts: Counts | None = None
    num_expected = 0
    hashes = []
    for start in range(0, len(examples), _BATCH_ROWS):
        batch = examples.rows(np.arange(start, min(start + _BATCH_ROWS, len(examples))))
        found = count_examples(batch, recipe, examples.tokenizer)
        counts = found if counts is None else counts + found
        num_expected += _num_expected(batch, recipe)
        hashes.append(example_hashes(batch))
    assert counts is not None
    is_special = np.asarray(examples.tokenizer.is_special, bool)
    num_pieces = len(is_special) - (0 if recipe.compat == "bert" else int(is_special.sum()))
    if recipe.corruption != "none" and recipe.count == "exact":
        yield _rate_row(split, counts, num_expected, recipe)
    positive_share = _noted_share(examples, split)
    for check in judge(
        counts, recipe, num_random_pieces=max(1, num_pieces), positive_share=positive_share
    ):
        yield row_of(check, f"{split}: ")
    values = np.concatenate(hashes)
    repeated = len(values) - len(np.unique(values))
    yield none_of(f"{split}: examples that are there twice", repeated, len(examples))


def _noted_share(examples: ExampleSet, split: str) -> float | None:
    """Return the share of positive pairs that the view expected, if the manifest notes it."""
    prefix = f"{split}: expected_positive_share = "
    found = [note for note in examples.manifest.notes if note.startswith(prefix)]
    return float(found[0].removeprefix(prefix)) if found else None


def _num_expected(batch: ExampleBatch, recipe: Recipe) -> int:
    rate = recipe.rate_at(0.0)
    return int(predictions(np.diff(batch.offsets), rate, recipe.most_predictions).sum())


def _rate_row(split: str, counts: Counts, num_expected: int, recipe: Recipe) -> Row:
    """Return the share of masked tokens against that of rule 16.

    An example with fewer candidates than k, or, of whole words, with none left that fits, has
    less: `wrong number of masks` looks at each.
    """
    expected = num_expected / max(1, counts.num_tokens)
    observed = counts.num_masked / max(1, counts.num_tokens)
    low = (0.98 if recipe.corruption == "token" else 0.85) * expected
    verdict: Verdict = "pass" if low <= observed <= expected else "fail"
    interval = f"{low:.4f} to {expected:.4f}"
    return Row(f"{split}: mask rate", f"{expected:.4f}", f"{observed:.4f}", interval, verdict)


def check_against_store(
    split: str, examples: ExampleSet, recipe: Recipe, store: TokenStore
) -> Iterator[Row]:
    """Yield whether a sample of rows has its text from its documents and is what the view gives."""
    settings = read_settings(examples.manifest)
    rows = np.unique(np.linspace(0, len(examples) - 1, NUM_SAMPLED).astype(np.int64))
    found = examples.rows(rows)
    strange = sum(not is_from_documents(found, index, recipe, store) for index in range(len(rows)))
    name = f"{split}: sampled examples whose text, labels put back, is not in their documents"
    yield none_of(name, strange, len(rows))
    fresh = view(store, recipe, seed=settings.seed, epoch=settings.epoch)
    if len(fresh) != len(examples):
        name = f"{split}: examples that the view of the store gives"
        yield exact(name, len(fresh), len(examples))
        return
    name = f"{split}: sampled examples that the view of the store gives otherwise"
    yield none_of(name, num_different(found, fresh.examples(rows)), len(rows))


def is_from_documents(batch: ExampleBatch, index: int, recipe: Recipe, store: TokenStore) -> bool:
    """Return whether the segments of an example are stretches of the documents that it names."""
    first, last = batch.offsets[index : index + 2]
    begin, end = batch.mask_offsets[index : index + 2]
    ids = batch.input_ids[first:last].copy()
    positions = batch.masked_positions[begin:end]
    if len(positions) and positions.max() >= len(ids):
        return False
    ids[positions] = batch.masked_labels[begin:end]
    documents = int(batch.document_a[index]), int(batch.document_b[index])
    if max(documents) >= len(store):
        return False
    segments = _segments(ids, batch.token_type_ids[first:last], recipe, store.tokenizer)
    return len(segments) > 0 and all(
        is_stretch(segment, store.document(document)[0])
        for segment, document in zip(segments, documents, strict=False)
    )


def _segments(
    ids: np.ndarray, types: np.ndarray, recipe: Recipe, tokenizer: Tokenizer
) -> list[np.ndarray]:
    """Return the first segment of an example and the last, without special tokens around."""
    if recipe.has_pairs:
        middle = int(np.count_nonzero(types == 0))
        return [ids[1 : middle - 1], ids[middle:-1]]
    frame = np.flatnonzero(np.isin(ids, list(frame_ids(tokenizer))))
    inner = [ids[a + 1 : b] for a, b in pairwise([-1, *frame.tolist()]) if b > a + 1]
    return [inner[0], inner[-1]] if inner else []


def is_stretch(segment: np.ndarray, document: np.ndarray) -> bool:
    """Return whether a segment is a run of consecutive ids of a document.

    Example:
        >>> document = np.array([1, 2, 3])
        >>> is_stretch(np.array([2, 3]), document), is_stretch(np.array([1, 3]), document)
        (True, False)
    """
    needle, hay = segment.astype(document.dtype).tobytes(), document.tobytes()
    at = hay.find(needle)
    while at > 0 and at % document.itemsize:
        at = hay.find(needle, at + 1)
    return at >= 0


def num_different(found: ExampleBatch, fresh: ExampleBatch) -> int:
    """Return how many examples of two batches of the same size differ in anything."""
    return sum(_facts(found, index) != _facts(fresh, index) for index in range(len(found)))


def _facts(batch: ExampleBatch, index: int) -> tuple[Any, ...]:
    """Return everything that a shard keeps of an example."""
    first, last = batch.offsets[index : index + 2]
    begin, end = batch.mask_offsets[index : index + 2]
    return (
        batch.input_ids[first:last].tobytes(), batch.token_type_ids[first:last].tobytes(),
        batch.masked_positions[begin:end].tobytes(), batch.masked_labels[begin:end].tobytes(),
        int(batch.next_sentence_label[index]), int(batch.document_a[index]),
        int(batch.document_b[index]), int(batch.duplicate[index]),
    )  # fmt: skip
