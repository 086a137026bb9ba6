"""What a model thinks of a few held-out places, the same at every evaluation and in every run.

A place is one token of a held-out text. A masked model sees the text with that token masked, a
causal one what comes before it. Five places cost a forward pass of five short rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmdata.batch import ExampleBatch
from lmdata.recipes import Recipe
from lmdata.tokenizer import Tokenizer
from lmmodel.batch import Batch
from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData
from lmmodel.device import is_sharded
from lmmodel.inference import Precision, prepare
from lmmodel.model import Transformer
from lmmodel.objectives import make_objective
from lmmodel.objectives.objective import pack_as_they_are, read_once
from lmmodel.objectives.terms import TokenTerm

NUM_PLACES = 5
NUM_GUESSES = 5
_NUM_LOOKED_AT = 64  # held-out examples that the places are chosen from
_AROUND = 12  # tokens of context that are shown on each side
_LEAST_CONTEXT = 4  # tokens before a place


@dataclass(frozen=True)
class Place:
    """One token of a text, and what is shown around it."""

    before: str
    right: str  # the piece that is there
    after: str


@dataclass(frozen=True, kw_only=True)
class PlaceGuess:
    """What a model thinks stands at a place; all that metrics.jsonl keeps of it."""

    before: str
    right: str
    after: str
    probability: float  # of the right piece, in [0, 1]
    rank: int  # of the right piece, from 0
    pieces: tuple[str, ...]  # the likeliest, best first
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prompts:
    """Places in held-out texts, packed once."""

    places: tuple[Place, ...]
    batch: Batch
    labels: np.ndarray  # int64 (P,), the right piece of each
    is_causal: bool
    tokenizer: Tokenizer


def make_prompts(config: TrainConfig, data: TrainingData) -> Prompts | None:
    """Return the places of a run, None where its objective predicts no single tokens.

    Raises:
        FitError: nothing is held out
    """
    objective = make_objective(config.objective)
    part = objective.parts[0]
    is_of_tokens = isinstance(part.terms[0], TokenTerm) and part.read is read_once
    if objective.definition.has_targets or not is_of_tokens:
        return None
    recipe = objective.definition.hold_out(config.recipe or Recipe())
    examples = data.held_out(recipe, _NUM_LOOKED_AT)
    chosen = choose_places(examples, data.tokenizer)
    if not chosen:
        return None
    mask = None if part.is_causal else data.tokenizer.special_ids.get("mask")
    asked = ask_at(examples, chosen, mask)
    labelled = asked if not part.is_causal else _before(asked)
    return Prompts(
        places=tuple(_describe(examples, row, at, data.tokenizer) for row, at in chosen),
        batch=pack_as_they_are(labelled, None),
        labels=labelled.masked_labels.astype(np.int64),
        is_causal=part.is_causal,
        tokenizer=data.tokenizer,
    )


def choose_places(examples: ExampleBatch, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Return rows and positions: one whole word each, of rows that lie apart.

    Of the tokens that the masks of the held-out examples take, where there are any; of all, else.
    """
    chosen = []
    for row in range(len(examples)):
        at = _word_in(examples.take(np.array([row])), tokenizer)
        if at is not None:
            chosen.append((row, at))
    apart = np.unique(np.linspace(0, len(chosen) - 1, min(NUM_PLACES, len(chosen))).astype(int))
    return [chosen[index] for index in apart] if chosen else []


def _word_in(example: ExampleBatch, tokenizer: Tokenizer) -> int | None:
    """Return the first position of an example that holds a word of letters, None without one."""
    ids = example.original_ids()
    starts = _segment_starts(example)
    for at in example.masked_positions.tolist() or range(len(ids) - 1):
        has_context = at - starts[at] >= _LEAST_CONTEXT and at + 1 < len(ids)
        if has_context and is_word(*(tokenizer.piece(int(i)) for i in ids[at : at + 2])):
            return int(at)
    return None


def _segment_starts(example: ExampleBatch) -> np.ndarray:
    """Return where the segment of each token of one example begins, int64 (t,)."""
    lengths = example.segment_lengths.astype(np.int64)
    return np.repeat(np.cumsum(lengths) - lengths, lengths)


def is_word(piece: str, after: str) -> bool:
    """Whether a piece is a word of letters by itself, as the piece after it shows.

    Example:
        >>> is_word("river", "flows"), is_word("##er", "."), is_word("riv", "##er")
        (True, False, False)
        >>> is_word("▁river", "▁flows"), is_word("▁riv", "er")
        (True, False)
    """
    bare = piece.lstrip("▁Ġ")
    has_marks = bare != piece
    goes_on = after.startswith("##") or (has_marks and after[:1].isalpha() and after[0] != "Ġ")
    return len(bare) > 2 and bare.isalpha() and not goes_on


def ask_at(
    examples: ExampleBatch, chosen: Sequence[tuple[int, int]], mask: int | None
) -> ExampleBatch:
    """Return the rows of some places uncorrupted but for a mask there, labelled there only.

    Args:
        examples: with or without masks
        chosen: row and position of each place
        mask: id to put there; None leaves the token
    """
    rows, positions = (np.array(values, np.int64) for values in zip(*chosen, strict=True))
    own = examples.take(rows)
    ids = own.original_ids()
    flat = own.offsets[:-1] + positions
    labels = ids[flat].copy()
    if mask is not None:
        ids[flat] = mask
    return own.replace(
        input_ids=ids,
        masked_positions=positions.astype(own.masked_positions.dtype),
        mask_offsets=np.arange(len(rows) + 1, dtype=own.mask_offsets.dtype),
        masked_labels=labels.astype(own.masked_labels.dtype),
    )


def _before(examples: ExampleBatch) -> ExampleBatch:
    """Return the same with labels at the tokens before, from which a causal model predicts."""
    return examples.replace(masked_positions=examples.masked_positions - 1)


def _describe(examples: ExampleBatch, row: int, at: int, tokenizer: Tokenizer) -> Place:
    example = examples.take(np.array([row]))
    ids, starts = example.original_ids(), _segment_starts(example)
    own = np.flatnonzero(starts == starts[at])
    before = ids[max(int(own[0]), at - _AROUND) : at]
    after = ids[at + 1 : min(int(own[-1]), at + _AROUND) + 1]
    return Place(
        before=tokenizer.decode(before, skip_special_tokens=True),
        right=tokenizer.piece(int(ids[at])),
        after=tokenizer.decode(after, skip_special_tokens=True),
    )


def guess(model: Transformer, prompts: Prompts, device: torch.device) -> list[PlaceGuess]:
    """Return what a model thinks stands at each place; leaves its mode as it was."""
    was_training = model.training
    model.eval()
    ready = model
    if not is_sharded(model):
        precision: Precision = "bf16" if model.compute_dtype == torch.bfloat16 else "fp32"
        ready = prepare(model, precision)
    batch = prompts.batch.to(device)
    with torch.no_grad():
        hidden = ready.guess(batch, is_causal=prompts.is_causal, rows=batch.masked_positions)
        logits = ready.lm_logits(hidden).float().cpu()
    model.train(was_training)
    found = logits[:, : prompts.tokenizer.vocab_size].softmax(1)
    return [
        _guess(place, int(label), row, prompts.tokenizer)
        for place, label, row in zip(prompts.places, prompts.labels, found, strict=True)
    ]


def _guess(place: Place, label: int, probabilities: Any, tokenizer: Tokenizer) -> PlaceGuess:
    best, pieces = probabilities.topk(min(NUM_GUESSES, len(probabilities)))
    right = float(probabilities[label])
    return PlaceGuess(
        before=place.before,
        right=place.right,
        after=place.after,
        probability=right,
        rank=int((probabilities > right).sum()),
        pieces=tuple(tokenizer.piece(index) for index in pieces.tolist()),
        probabilities=tuple(best.tolist()),
    )
