"""What datasets must hold beyond whole files: ledger, documents, statistics, text.

All is counted over every document and example. Where the token store of examples is at hand, a
sample of rows is compared with its documents, and with the view computed afresh.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.building.example_ledger import ExampleCounts, describe_flows, sum_examples
from lmdata.checking.checks import (
    LIMIT,
    Check,
    Row,
    Verdict,
    exact,
    example_hashes,
    none_of,
    row_of,
)
from lmdata.checking.example_checks import Counts, count_examples, drawn_bounds, judge
from lmdata.checking.text_checks import NoiseCounts, count_noise, is_from_documents, judge_noise
from lmdata.chosen import choose_training
from lmdata.copies import beside
from lmdata.dataset import ExampleSet, StoreBlock, TokenStore, open_examples, open_stores
from lmdata.errors import LmdataError
from lmdata.masking import candidate_pieces, drawn_pieces, predictions
from lmdata.recipes import Recipe
from lmdata.schema import Flow, Manifest, ViewFacts, read_settings
from lmdata.shards import read_blocks
from lmdata.tokenizer import Tokenizer
from lmdata.views import view

NUM_SAMPLED = 4096
_BATCH_ROWS = 4096

Stores = dict[str, TokenStore]


def check_store(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> Iterator[Row]:
    """Yield the checks on the contents of a token store."""
    stores = open_stores(folder)
    for split, store in stores.items():
        yield from _check_split(split, store, tokenizer)
    yield from _check_ledger(manifest, stores)
    yield from _check_sources(manifest, stores)


def _check_split(split: str, store: TokenStore, tokenizer: Tokenizer) -> Iterator[Row]:
    unknown_ids, special, unequal, empty_sentences = 0, 0, 0, 0
    is_special = _special_pieces(tokenizer)
    for block in store.blocks:
        outside = block.unchecked_ids >= len(is_special)
        unknown_ids += int(outside.sum())
        special += int(is_special[block.unchecked_ids[~outside]].sum())
        unequal += _num_unequal(block)
        empty_sentences += int((block.unchecked_lengths == 0).sum())
    yield none_of(f"{split}: ids outside the vocabulary", unknown_ids, store.num_tokens)
    yield none_of(f"{split}: special tokens that no text spells", special, store.num_tokens)
    yield none_of(
        f"{split}: documents whose sentence lengths don't sum to their tokens",
        unequal, store.num_documents,
    )  # fmt: skip
    yield none_of(f"{split}: sentences without a token", empty_sentences, store.num_sentences)


def spelled_specials(tokenizer: Tokenizer) -> np.ndarray:
    """Return the special pieces that a text may yield by spelling them, bool (V,).

    `</s>` is HTML, and a Unigram model that has it as a piece reads it as one.
    """
    is_spelled = np.zeros(tokenizer.vocab_size, bool)
    for index in np.flatnonzero(tokenizer.is_special & tokenizer.is_piece).tolist():
        spelling = tokenizer.piece(index)
        for text in (spelling, f"a{spelling}a"):
            found = tokenizer.backend.encode(text, add_special_tokens=False).ids
            is_spelled[index] |= index in found
    return is_spelled


def _special_pieces(tokenizer: Tokenizer) -> np.ndarray:
    """Return the special pieces that no text yields, bool (V,); the unknown one any may."""
    is_special: np.ndarray = tokenizer.is_special & ~spelled_specials(tokenizer)
    unknown = tokenizer.special_ids.get("unk")
    if unknown is not None:
        is_special[unknown] = False
    return is_special


def _num_unequal(block: StoreBlock) -> int:
    totals = np.concatenate(([0], np.cumsum(block.unchecked_lengths, dtype=np.int64)))
    by_sentences = np.diff(totals[block.sentence_offsets - block.sentence_offsets[0]])
    return int((by_sentences != np.diff(block.id_offsets)).sum())


def _check_ledger(manifest: Manifest, stores: dict[str, TokenStore]) -> Iterator[Row]:
    """Yield whether what the ledger says was written is what lies in the files."""
    found = {
        "documents": {split: store.num_documents for split, store in stores.items()},
        "tokens": {split: store.num_tokens for split, store in stores.items()},
    }
    for quantity, counts in found.items():
        flow = manifest.ledger.flows.get(quantity)
        promised = flow.written if flow is not None else None
        yield exact(f"ledger: {quantity} written, counted again", promised, counts)


def _check_sources(manifest: Manifest, stores: dict[str, TokenStore]) -> Iterator[Row]:
    """Yield whether each source gave what the manifest says, and each document is there once."""
    documents, tokens = Counter[str](), Counter[str]()
    places: dict[str, list[np.ndarray]] = {}
    for store in stores.values():
        for block in store.blocks:
            names = block.source_names.to_pylist()
            sizes = np.diff(block.id_offsets)
            for code in np.unique(block.source_codes).tolist():
                is_own = block.source_codes == code
                documents[names[code]] += int(is_own.sum())
                tokens[names[code]] += int(sizes[is_own].sum())
                places.setdefault(names[code], []).append(block.positions[is_own])
    repeated = sum(_num_repeated(np.concatenate(arrays)) for arrays in places.values())
    yield none_of("documents that are there twice, by source and position",
                  repeated, documents.total())  # fmt: skip
    wrong = [
        record.name
        for record in manifest.sources
        if (record.documents, record.tokens) != (documents[record.name], tokens[record.name])
        and record.documents is not None
    ]
    row = none_of(
        "sources whose documents and tokens are not those of the manifest",
        len(wrong), len(manifest.sources),
    )  # fmt: skip
    yield row


def _num_repeated(values: np.ndarray) -> int:
    return len(values) - len(np.unique(values))


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
    settings = read_settings(manifest)
    name, promised = "token store, by hash", settings.store_manifest
    try:
        stores = open_stores(store_path or beside(folder, settings.store))
        if settings.selection is not None:
            own = beside(folder, settings.selection)
            stores = choose_training(stores, own, settings.selection_manifest)
    except LmdataError as error:
        verdict: Verdict = "skip" if store_path is None else "fail"
        return None, Row(name, promised, f"not at hand: {error}", "", verdict)
    row = exact(name, promised, next(iter(stores.values())).manifest.hash)
    return (stores if row.verdict == "pass" else None), row


def check_ledger(
    folder: Path, manifest: Manifest, recipe: Recipe, tokenizer: Tokenizer, stores: Stores | None
) -> Iterator[Row]:
    """Yield whether the ledger is what the shards, and the store if at hand, add up to."""
    try:
        facts = manifest.views or _facts_anew(manifest, stores)
        counts = {
            split: sum_examples(
                (block.read() for block in read_blocks(folder, manifest, split)), recipe, tokenizer,
                facts.get(split), len(stores[split]) if stores else None,
            )
            for split in manifest.splits
        }  # fmt: skip
        knows_repeats = bool(manifest.views)
        ledger = (
            describe_flows(stores, counts, recipe, knows_repeats=knows_repeats) if stores else None
        )
    except LmdataError as error:
        yield Row("ledger, counted again from the files", "balanced", str(error), "", "fail")
        return
    for quantity, found in _written(counts, recipe).items():
        flow = manifest.ledger.flows.get(quantity)
        if flow is None and not manifest.views:
            continue  # older manifests do not account for the tokens of swapped pairs
        promised = flow.written if flow else "nothing"
        yield exact(f"ledger: {quantity} written, counted again", promised, found)
    for quantity, again in (ledger.flows if ledger else {}).items():
        if quantity in manifest.ledger.flows or manifest.views:
            yield _flow_row(quantity, manifest.ledger.flows.get(quantity), again)


def _facts_anew(manifest: Manifest, stores: Stores | None) -> dict[str, ViewFacts]:
    """Return what the views say of their examples where an older manifest does not."""
    settings = read_settings(manifest)
    return {
        split: view(store, settings.recipe, seed=settings.seed, epoch=settings.epoch).facts
        for split, store in (stores or {}).items()
        if split in manifest.splits
    }


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
    if not recipe.view_traits.is_packed:
        written["documents"] = {split: count.documents for split, count in counts.items()}
    written["tokens"] = {split: count.tokens for split, count in counts.items()}
    return written


def check_statistics(split: str, examples: ExampleSet, recipe: Recipe) -> Iterator[Row]:
    """Yield the statistics of all examples, and whether one is there twice."""
    tokenizer = examples.tokenizer
    counts: Counts | None = None
    noise = NoiseCounts()
    num_expected = 0
    hashes = []
    for start in range(0, len(examples), _BATCH_ROWS):
        batch = examples.rows(np.arange(start, min(start + _BATCH_ROWS, len(examples))))
        if num_empty := int((np.diff(batch.offsets) == 0).sum()):
            yield none_of(f"{split}: examples without a token", num_empty, len(batch))
            return
        found = count_examples(batch, recipe, tokenizer)
        counts = found if counts is None else counts + found
        if recipe.has_exact_count:
            num_expected += _num_expected(batch, recipe, tokenizer)
        if recipe.noise is not None:
            noise += count_noise(batch, examples.original(batch), recipe, tokenizer)
        hashes.append(example_hashes(batch))
    assert counts is not None
    is_drawn = drawn_pieces(tokenizer, bert=recipe.is_bert)
    num_special = int((is_drawn & tokenizer.is_special).sum())
    mask_id = tokenizer.special_ids.get("mask")
    if recipe.has_exact_count:
        yield _rate_row(split, counts, num_expected, recipe)
    positive_share = _noted_share(examples, split)
    for check in judge(
        counts,
        recipe,
        num_random_pieces=max(1, int(is_drawn.sum())),
        num_random_specials=max(0, num_special - 1),
        positive_share=positive_share,
        spells_mask=mask_id is not None and bool(spelled_specials(tokenizer)[mask_id]),
    ) + _judge_noise(noise, recipe, tokenizer):
        yield row_of(check, f"{split}: ")
    values = np.concatenate(hashes)
    repeated = len(values) - len(np.unique(values))
    if not recipe.view_traits.may_repeat:
        yield none_of(f"{split}: examples that are there twice", repeated, len(examples))


def _judge_noise(counts: NoiseCounts, recipe: Recipe, tokenizer: Tokenizer) -> list[Check]:
    if recipe.noise is None:
        return []
    is_spelled = spelled_specials(tokenizer)[recipe.noise.marks(tokenizer)]
    return judge_noise(counts, recipe, spells_marks=bool(is_spelled.any()))


def _noted_share(examples: ExampleSet, split: str) -> float | None:
    """Return the share of positive pairs that the view expected, if the manifest says.

    Manifests of before there were typed facts say it in a note.
    """
    facts = examples.manifest.views.get(split)
    if facts is not None:
        return facts.expected_positive_share
    prefix = f"{split}: expected_positive_share = "
    found = [note for note in examples.manifest.notes if note.startswith(prefix)]
    return float(found[0].removeprefix(prefix)) if found else None


def _num_expected(batch: ExampleBatch, recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Return how many tokens rule 16 masks: k of each example, or all that may be masked."""
    is_candidate = candidate_pieces(tokenizer, bert=recipe.is_bert)[batch.original_ids()]
    bounds = drawn_bounds(batch, recipe)
    num_candidates = np.add.reduceat(is_candidate, bounds[:-1], dtype=np.int64)
    k = predictions(np.diff(bounds), recipe.rate_at(0.0), recipe.most_predictions)
    return int(np.minimum(k, num_candidates).sum())


def _rate_row(split: str, counts: Counts, num_expected: int, recipe: Recipe) -> Row:
    """Return the share of masked tokens against that of rule 16.

    Whole words that do not fit leave room, up to 15 % over many examples; `wrong number of masks`
    looks at each.
    """
    low = float(num_expected)
    if recipe.corruption_traits.by_words:
        low = max(0.0, 0.85 * num_expected - LIMIT * math.sqrt(num_expected))
    num_tokens = max(1, counts.num_tokens)
    verdict: Verdict = "pass" if low <= counts.num_masked <= num_expected else "fail"
    interval = f"{low / num_tokens:.4f} to {num_expected / num_tokens:.4f}"
    expected, observed = num_expected / num_tokens, counts.num_masked / num_tokens
    return Row(f"{split}: mask rate", f"{expected:.4f}", f"{observed:.4f}", interval, verdict)


def check_against_store(
    split: str, examples: ExampleSet, recipe: Recipe, store: TokenStore
) -> Iterator[Row]:
    """Yield whether a sample of rows has its text from its documents and is what the view gives."""
    settings = read_settings(examples.manifest)
    rows = np.unique(np.linspace(0, len(examples) - 1, NUM_SAMPLED).astype(np.int64))
    found = examples.rows(rows)
    if recipe.corruption_traits.is_undone_by_labels:
        texts = examples.original(found)
        is_strange = [
            not is_from_documents(found, texts, i, recipe, store) for i in range(len(rows))
        ]
        name = f"{split}: sampled examples whose text, labels put back, is not in their documents"
        yield none_of(name, sum(is_strange), len(rows))
    fresh = view(store, recipe, seed=settings.seed, epoch=settings.epoch)
    if len(fresh) != len(examples):
        name = f"{split}: examples that the view of the store gives"
        yield exact(name, len(fresh), len(examples))
        return
    facts = examples.manifest.views.get(split)
    for name, promised in [] if facts is None else vars(facts).items():
        if promised is not None or vars(fresh.facts)[name] is not None:
            words = name.replace("_", " ")
            yield exact(f"{split}: {words} of the view", promised, vars(fresh.facts)[name])
    name = f"{split}: sampled examples that the view of the store gives otherwise"
    yield none_of(name, num_different(found, fresh.examples(rows)), len(rows))


def num_different(found: ExampleBatch, fresh: ExampleBatch) -> int:
    """Return how many examples of two batches of the same size differ in anything."""
    return sum(_facts(found, index) != _facts(fresh, index) for index in range(len(found)))


def _facts(batch: ExampleBatch, index: int) -> list[bytes]:
    """Return everything that is known of an example, by the names of the columns."""
    columns = sorted(batch.columns, key=lambda column: column.name)
    ragged = [batch.ragged(column).row(index) for column in columns if column.is_ragged]
    flat = [batch.arrays()[c.name][index] for c in columns if not c.is_ragged]
    return [values.tobytes() for values in (*ragged, *flat)]
