"""What became of the documents and tokens of a store: counted from the shards as they lie on disk.

Tokens are conserved: every token is laid into exactly one segment of a pass, unused sentences go
back to be used later. What is laid on top is counted apart: the random second segments of NSP
pairs, and the sentence that a lone last one takes again where only neighbours make a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lmdata.batch import SEGMENT_LENGTHS, TARGET_IDS, TARGET_LENGTHS, to_array
from lmdata.dataset import TokenStore, segment_end
from lmdata.errors import IntegrityError
from lmdata.recipes import Recipe
from lmdata.schema import Flow, Ledger, ViewFacts
from lmdata.tokenizer import Tokenizer

CUT = "cut to max_seq_length"
NO_PAIR = "one sentence, no pair"
EMPTY = "empty"
NO_EXAMPLES = "in a split of which no example can be made"


@dataclass
class ExampleCounts:
    """Sums over the examples of one split."""

    examples: int = 0
    ids: int = 0
    special_ids: int = 0  # [CLS], [SEP] and their like around the segments
    random_tokens: int = 0  # of second segments labelled random
    repeated_tokens: int = 0  # of sentences before a lone last one, as the view says
    random_pairs: int = 0
    documents: int = 0  # that have an example beginning with them

    @property
    def tokens(self) -> int:
        """Tokens of documents, without what is there on top."""
        return self.ids - self.special_ids - self.random_tokens - self.repeated_tokens


def counted_columns(recipe: Recipe) -> tuple[str, ...]:
    """Return the columns whose values `sum_examples` looks at."""
    if recipe.has_pairs:
        return "document_a", "next_sentence_label", "token_type_ids"
    if recipe.noise is not None:
        return "document_a", "input_ids", SEGMENT_LENGTHS.name, TARGET_IDS.name, TARGET_LENGTHS.name
    return "document_a", "input_ids"


def sum_examples(
    batches: Iterable[pa.RecordBatch],
    recipe: Recipe,
    tokenizer: Tokenizer,
    facts: ViewFacts | None = None,
    num_documents: int | None = None,
) -> ExampleCounts:
    """Return the sums over the record batches of a split.

    Args:
        batches: of the split's shards, with the `counted_columns` verified
        recipe: what the examples are
        tokenizer: of the ids
        facts: of the view that made them, None where the manifest is too old to say
        num_documents: of the store's split, None where it is not at hand

    Raises:
        IntegrityError: an example names a document that the store does not have
    """
    counts = ExampleCounts(repeated_tokens=facts.repeated_tokens if facts else 0)
    is_used = np.zeros(num_documents or 0, np.bool_)
    for batch in batches:
        ids = batch.column("input_ids")
        counts.examples += batch.num_rows
        counts.ids += len(ids.values)
        if recipe.noise is not None:
            counts.ids += len(batch.column(TARGET_IDS.name).values)
        documents = to_array(batch.column("document_a"))
        largest = int(documents.max(initial=0))
        if num_documents is None and largest >= len(is_used):
            is_used = np.concatenate([is_used, np.zeros(largest + 1, np.bool_)])
        _mark_used(documents, is_used)
        counts.special_ids += _num_special(batch, recipe, tokenizer)
        if recipe.has_pairs:
            _count_random(batch, recipe, counts)
    counts.documents = int(is_used.sum())
    return counts


def _num_special(batch: pa.RecordBatch, recipe: Recipe, tokenizer: Tokenizer) -> int:
    """Return how many ids of some examples are no text: special tokens, and what noise repeats."""
    num_segments = int(batch.num_rows)
    if recipe.has_pairs:
        return recipe.num_special * num_segments
    if recipe.noise is not None:
        source, target = (
            to_array(batch.column(column.name).values).astype(np.int64)
            for column in (SEGMENT_LENGTHS, TARGET_LENGTHS)
        )
        texts = recipe.noise.text_lengths(recipe, source, target)
        return int((source + target - texts).sum())
    if SEGMENT_LENGTHS.name in batch.schema.names:
        num_segments = len(batch.column(SEGMENT_LENGTHS.name).values)
    elif (end_id := segment_end(recipe, tokenizer)) is not None:
        num_segments = int((to_array(batch.column("input_ids").values) == end_id).sum())
    return num_segments * recipe.num_special


def _mark_used(documents: np.ndarray, is_used: np.ndarray) -> None:
    if len(documents) and int(documents.max()) >= len(is_used):
        raise IntegrityError(
            f"an example names document {documents.max()}, the store has {len(is_used)}: the "
            "shards belong to another store, or are damaged; build them again"
        )
    is_used[documents] = True


def _count_random(batch: pa.RecordBatch, recipe: Recipe, counts: ExampleCounts) -> None:
    is_random = to_array(batch.column("next_sentence_label")) == 1
    counts.random_pairs += int(is_random.sum())
    if recipe.view_traits.draws_documents and batch.num_rows:
        types = batch.column("token_type_ids")
        starts = to_array(types.offsets)[:-1]
        # In their own bytes, where no sum can pass 255, they are added up five times as fast.
        dtype = np.uint8 if recipe.max_seq_length < 256 else np.int64
        sizes = np.add.reduceat(to_array(types.values), starts, dtype=dtype)
        counts.random_tokens += int(sizes[is_random].sum(dtype=np.int64) - is_random.sum())


def describe_flows(
    stores: dict[str, TokenStore], counts: dict[str, ExampleCounts], recipe: Recipe, *,
    knows_repeats: bool = True,
) -> Ledger:  # fmt: skip
    """Return the ledger of example shards: the stores' documents and tokens, and where they went.

    Args:
        stores: by split
        counts: from `sum_examples`, by split; a split without examples is absent
        recipe: what the examples are
        knows_repeats: whether `counts` have the tokens that are laid twice; shards of version 1
            do not tell, and those of swapped pairs then have no flow of tokens

    Raises:
        IntegrityError: documents or tokens are there twice, or are gone without a reason
    """
    flows = {"examples": _flow({s: c.examples for s, c in counts.items()}, Counter())}
    documents, tokens = Counter[str](), Counter[str]()
    for split, store in stores.items():
        lost_documents, lost_tokens = unused_documents(store, recipe, split in counts)
        documents.update(lost_documents)
        tokens.update(lost_tokens)
    if not recipe.view_traits.is_packed:
        used = {split: count.documents for split, count in counts.items()}
        num_documents = sum(len(store) for store in stores.values())
        flows["documents"] = _check(Flow(read=num_documents, written=used, dropped=documents))
    if knows_repeats or recipe.view != "sop":
        flows["tokens"] = _token_flow(stores, counts, recipe, tokens)
    return Ledger(flows=flows)


def unused_documents(
    store: TokenStore, recipe: Recipe, has_examples: bool
) -> tuple[Counter[str], Counter[str]]:
    """Return how many documents of a split no example can be made of, and their tokens, by reason.

    Documents of one sentence have no neighbours, which sentence order needs, and so does the next
    sentence where there is no other document to draw from.
    """
    if not has_examples:
        return Counter({NO_EXAMPLES: store.num_documents}), Counter(
            {NO_EXAMPLES: store.num_tokens * recipe.duplicates}
        )
    sentences, sizes = [], []
    for block in store.blocks:
        sentences.append(np.diff(block.sentence_offsets))
        sizes.append(np.diff(block.id_offsets))
    num_sentences = np.concatenate([*sentences, np.zeros(0, np.int32)])
    num_tokens = np.concatenate([*sizes, np.zeros(0, np.int64)])
    only_neighbours = recipe.needs_neighbours(int(np.count_nonzero(num_sentences)))
    documents, tokens = Counter[str](), Counter[str]()
    if np.any(num_sentences == 0):
        documents[EMPTY] = int(np.sum(num_sentences == 0))
    if only_neighbours and np.any(num_sentences == 1):
        documents[NO_PAIR] = int(np.sum(num_sentences == 1))
        tokens[NO_PAIR] = int(num_tokens[num_sentences == 1].sum()) * recipe.duplicates
    return documents, tokens


def _token_flow(
    stores: dict[str, TokenStore], counts: dict[str, ExampleCounts], recipe: Recipe,
    dropped: Counter[str],
) -> Flow:  # fmt: skip
    """Tokens of all passes; in pairs, what is left of a chunk beyond the capacity is cut."""
    read = sum(store.num_tokens for store in stores.values()) * recipe.duplicates
    written = {split: count.tokens for split, count in counts.items()}
    if recipe.has_pairs:
        dropped[CUT] = read - sum(written.values()) - dropped.total()
    return _check(Flow(read=read, written=written, dropped=dropped))


def _flow(written: dict[str, int], dropped: Counter[str]) -> Flow:
    return Flow(read=sum(written.values()), written=written, dropped=dict(dropped))


def _check(flow: Flow) -> Flow:
    """Plain dictionaries, and nothing less than nothing."""
    if min(flow.dropped.values(), default=0) < 0:
        raise IntegrityError(
            f"more was written ({flow.written}) than there is ({flow.read} less {flow.dropped}): "
            "something was counted twice; please report this"
        )
    return Flow(read=flow.read, written=dict(flow.written), dropped=dict(flow.dropped))
