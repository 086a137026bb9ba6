"""Words of held-out sentences to fill in, chosen by a rule, with the right word known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.dataset import TokenStore, open_store
from lmdata.rng import draw, stream_key
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import FitError
from lmmodel.predicting.mask_filling import masked_logits
from lmmodel.trained import Run

SENTENCE_TOKENS = (8, 24)  # at least and at most
WORD_LETTERS = 4  # at least: what is shorter is mostly guessed by grammar alone

RULE = (
    "held-out documents drawn by chance; of each its first sentence of "
    f"{SENTENCE_TOKENS[0]} to {SENTENCE_TOKENS[1]} tokens; in it the word of {WORD_LETTERS} "
    "letters or more of which the model is surest"
)
"""How sentences and words are chosen."""


@dataclass(frozen=True)
class Guess:
    """What a model would write."""

    word: str
    probability: float  # in [0, 1]
    is_right: bool


@dataclass(frozen=True)
class HeldOutFilling:
    """A sentence with a word to fill in, and what the model guesses."""

    before: str
    word: str  # the right one
    behind: str
    source: str  # the file that the document comes from
    guesses: tuple[Guess, ...]  # best first

    @property
    def is_right(self) -> bool:
        """Whether the first guess is the word."""
        return self.guesses[0].is_right


def fill_held_out(
    run: Run, store_path: Path, *, num_texts: int = 10, top_k: int = 3
) -> list[HeldOutFilling]:
    """Return words of held-out sentences with guesses; which ones says `RULE`.

    The rule asks the model how sure it is, never whether it is right.

    Args:
        run: of a masked model
        store_path: a token store made with the model's tokenizer
        num_texts: sentences at most
        top_k: guesses for each word

    Raises:
        FitError: the model is causal, or no held-out sentence fits
        MismatchError: the store was made with another tokenizer, or has no held-out documents
    """
    if not run.objective.can_fill_masks:
        raise FitError(f"{run.path} was trained on next tokens: it can't fill in a mask")
    store = open_store(store_path, "validation", tokenizer=run.tokenizer)
    chosen: list[tuple[int, np.ndarray, np.ndarray]] = []
    for row, ids in _sentences(store):
        places = _words(run.tokenizer, ids)
        if len(places):
            chosen.append((row, ids, places))
        if len(chosen) == num_texts:
            break
    if not chosen:
        raise FitError(f"no held-out sentence of {store_path} has a word to fill in")
    return [_surest(run, store, row, ids, places, top_k) for row, ids, places in chosen]


def _sentences(store: TokenStore) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the document row and the ids of the first fitting sentence of each document."""
    rows = np.arange(len(store))
    order = np.argsort(
        draw(stream_key(0, "yardstick", 1), rows, np.zeros_like(rows)), kind="stable"
    )
    for row in rows[order].tolist():
        ids, lengths = store.document(row)
        ends = np.cumsum(lengths, dtype=np.int64)
        is_fit = (lengths >= SENTENCE_TOKENS[0]) & (lengths <= SENTENCE_TOKENS[1])
        for index in np.flatnonzero(is_fit)[:1].tolist():
            yield row, ids[ends[index] - lengths[index] : ends[index]].astype(np.int64)


def _words(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Return the places of the pieces that are whole words of enough letters: int64 (P,)."""
    is_first = ~tokenizer.word_rule.continues(ids)
    is_whole = is_first & np.append(is_first[1:], True)
    texts = [tokenizer.decode([index]).strip() for index in ids.tolist()]
    is_long = np.array([len(text) >= WORD_LETTERS and text.isalpha() for text in texts])
    return np.flatnonzero(is_whole & is_long)


def _surest(
    run: Run, store: TokenStore, row: int, ids: np.ndarray, places: np.ndarray, top_k: int
) -> HeldOutFilling:
    """Return the word of a sentence of which the model is surest, the first of equals."""
    tokenizer = run.tokenizer
    mask, first, last = (tokenizer.require_special(name) for name in ("mask", "cls", "sep"))
    copies = [np.concatenate([[first], ids, [last]]) for _ in places]
    for copy, place in zip(copies, places, strict=True):
        copy[place + 1] = mask
    logits = masked_logits(run, copies, [np.array([place + 1]) for place in places])
    p = [own[0, : tokenizer.vocab_size].softmax(0) for own in logits]
    index = max(range(len(p)), key=lambda n: float(p[n].max()))
    place, best = int(places[index]), p[index].topk(top_k)
    return HeldOutFilling(
        before=tokenizer.decode(ids[:place]).strip(),
        word=tokenizer.decode([ids[place]]).strip(),
        behind=tokenizer.decode(ids[place + 1 :]).strip(),
        source=store.provenance(row)[0],
        guesses=tuple(
            Guess(tokenizer.decode([piece]).strip(), probability, piece == int(ids[place]))
            for probability, piece in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ),
    )
