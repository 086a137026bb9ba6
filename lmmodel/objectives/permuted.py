"""Permutation language modelling: tokens guessed one by one, in an order drawn for each text.

XLNet (Yang et al., 2019, sections 2.2 to 2.4): a sixth of the tokens, in spans of whole words, come
last in a random order; each is guessed from its place and from what comes before it in that order.
What is read is the text as it is: the order is in what rows may see (`lmmodel.two_stream`), so no
token is moved and no mask token is ever read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lmdata.batch import ExampleBatch
from lmdata.recipes import RECIPES
from lmmodel.families import ModelConfig
from lmmodel.objectives.objective import Definition, ObjectiveConfig, Part

if TYPE_CHECKING:
    from lmmodel.batch import Batch


def pack_orders(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return examples as a batch of contents and of queries for what comes last in their orders."""
    from lmmodel.packing import pack_queries

    return pack_queries(examples, max_seqlen)


def query_flops(model: ModelConfig, num_tokens: int, num_pairs: int, num_labels: int) -> int:
    """Return the operations of queries beyond those of a model that is asked at as many rows.

    Such a model computes the last layer's rows behind attention, which here are the queries. Before
    it those are contents, of which the last layer has keys and values only.

    Example:
        >>> model = ModelConfig(family="xlnet", size="mini", num_hidden_layers=1, vocab_size=64)
        >>> more = query_flops(model, 8, 64, 8) - query_flops(model, 8, 64, 4)
        >>> more == 2 * 4 * (256 * 256 + 3 * 8 * 256)
        True
    """
    size, layers = model.hidden_size, model.num_hidden_layers
    rows = (layers - 1) * (2 * size * size + 2 * size * model.intermediate_size) + size * size
    seen = round(num_labels * num_pairs / max(1, num_tokens))  # each sees its sequence
    unasked = num_tokens * size * size + 3 * num_pairs * size
    return 2 * (num_labels * rows + 3 * seen * size * layers - unasked)


def _parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    from lmmodel.objectives.terms import QueryTerm

    return (Part(
        terms=(QueryTerm(config.name),), is_of_masks=True, pack=pack_orders,
        other_flops=query_flops,
    ),)  # fmt: skip


PLM = Definition(
    summary="tokens in a random order, each from its place and those before (XLNet)",
    make_parts=_parts, recipe=dataclasses.replace(RECIPES["xlnet"], max_seq_length=128),
    can_fill_masks=True,
)  # fmt: skip
