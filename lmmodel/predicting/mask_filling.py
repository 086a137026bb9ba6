"""Words for masked places: of texts that are given, and of held-out sentences with one hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmdata.dataset import TokenStore, open_store
from lmdata.errors import TokenizerError
from lmdata.ragged import offsets_of
from lmdata.rng import draw, stream_key
from lmdata.tokenizer import Tokenizer
from lmmodel.batch import Batch, make_batch
from lmmodel.errors import FitError
from lmmodel.inference import batch_tokens, map_batches, split_by_tokens
from lmmodel.model import Transformer
from lmmodel.trained import Run, check_finite


@dataclass(frozen=True)
class Filling:
    """One guess for a masked place."""

    piece: str
    id: int
    probability: float  # in [0, 1]
    text: str  # the prompt with the guess in place


def fill_mask(run: Run, texts: Sequence[str], *, top_k: int = 5) -> list[list[list[Filling]]]:
    """Return the most likely pieces for each mask token of each text.

    Args:
        run: of a masked model
        texts: each with at least one mask token
        top_k: guesses of each place, at least 1

    Returns:
        For each text, for each masked place in order, `top_k` guesses, best first.

    Raises:
        TokenizerError: the tokenizer has no mask token
        FitError: the model is causal, a text has no mask token or is too long, or the tokenizer
            has fewer pieces than `top_k`
        ValueError: `top_k` is below 1
    """
    encoded, places = read_masks(run, texts, top_k=top_k)
    logits = masked_logits(run, encoded, places)  # one (P_i, V) each
    return [
        fillings(run, ids, at, rows, top_k)
        for ids, at, rows in zip(encoded, places, logits, strict=True)
    ]


def read_masks(
    run: Run, texts: Sequence[str], *, top_k: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the ids of each text, int64 (T_i,), and its masked places, int64 (P_i,).

    Raises:
        TokenizerError, FitError, ValueError: as `fill_mask`
    """
    if not run.objective.can_fill_masks:
        raise FitError(
            f"{run.path} learned by the objective {run.record.config.objective.name}, which fills "
            "in no masks: to fill them in, train one with --objective mlm; ask this by "
            f"{'generate, ' if run.can_generate else ''}"
            f"{'' if run.objective.makes_vectors else 'score or '}embed"
        )
    if top_k < 1:
        raise ValueError(f"top_k must be in [1, {run.tokenizer.vocab_size}], got {top_k}")
    if top_k > run.tokenizer.vocab_size:
        raise FitError(
            f"there are no {top_k} guesses, the tokenizer of {run.path} has only "
            f"{run.tokenizer.vocab_size} pieces: ask for fewer"
        )
    encoded = encode_prompts(run, texts)
    places = [np.flatnonzero(ids == _mask_id(run)) for ids in encoded]
    for text, found in zip(texts, places, strict=True):
        if not len(found):
            raise FitError(
                f"{text!r} has no {run.tokenizer.special_tokens['mask']}: put it where a word is "
                "to be filled in"
            )
    return encoded, places


def encode_prompts(run: Run, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of prompts, int64 (T_i,) each, special tokens read as such and added.

    Raises:
        FitError: a text is longer than the model takes
    """
    most = run.model.config.max_position_embeddings
    backend = run.prompt_backend
    encoded = [np.array(item.ids, np.int64) for item in backend.encode_batch(list(texts))]
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) > most:
            raise FitError(
                f"a text of {len(ids)} tokens is longer than the model takes, {most}: {text[:60]!r}"
            )
    return encoded


def masked_logits(
    run: Run, encoded: Sequence[np.ndarray], places: Sequence[np.ndarray]
) -> list[Tensor]:
    """Return the vocabulary logits at some places of each text, batched by length.

    Args:
        run: the model
        encoded: int64 (T_i,) ids of each text
        places: int64 (P_i,) positions in each text

    Returns:
        float32 (P_i, V) on the CPU for each text.
    """
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    groups = split_by_tokens(lengths, batch_tokens(run.device))
    model = run.prepared()

    def compute(group: np.ndarray) -> tuple[np.ndarray, Tensor]:
        batch = _pack([encoded[index] for index in group], [places[index] for index in group])
        return group, _logits(model, batch.to(run.device))

    results: list[Tensor] = [torch.empty(0)] * len(encoded)
    for group, logits in map_batches(compute, groups, run.device):
        check_finite(run, logits)
        pieces = torch.split(logits, [len(places[index]) for index in group])
        for index, piece in zip(group, pieces, strict=True):
            results[index] = piece
    return results


def _pack(encoded: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Batch:
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    starts = offsets_of(lengths)[:-1]
    flat = np.concatenate([start + at for start, at in zip(starts, places, strict=True)])
    return make_batch(
        torch.from_numpy(np.concatenate(encoded)),
        torch.from_numpy(lengths),
        masked_positions=torch.from_numpy(flat),
        masked_labels=torch.zeros(len(flat), dtype=torch.int64),
    )


def _logits(model: Transformer, batch: Batch) -> Tensor:
    hidden = model.guess(batch, rows=batch.masked_positions)
    return model.lm_logits(hidden).float().cpu()


def _mask_id(run: Run) -> int:
    index = run.tokenizer.special_ids["mask"]
    if index is None:
        raise TokenizerError(f"the tokenizer of {run.path} has no mask token: it can't fill one in")
    return index


def fillings(
    run: Run, ids: np.ndarray, places: np.ndarray, logits: Tensor, top_k: int
) -> list[list[Filling]]:
    """Return guesses for each masked place of a text, best first.

    Args:
        run: the model
        ids: int64 (T,) of the text
        places: int64 (P,) where it is masked
        logits: float32 (P, V)
        top_k: guesses of each place
    """
    return [
        _guesses(run, ids, int(place), row, top_k)
        for place, row in zip(places, logits, strict=True)
    ]


def _guesses(run: Run, ids: np.ndarray, place: int, logits: Tensor, top_k: int) -> list[Filling]:
    logits = logits[: run.tokenizer.vocab_size]  # a model may have rows that no piece uses
    probabilities, best = logits.softmax(0).topk(top_k)
    guesses = []
    for probability, index in zip(probabilities.tolist(), best.tolist(), strict=True):
        filled = ids.copy()
        filled[place] = index
        text = run.tokenizer.decode(filled, skip_special_tokens=True)
        guesses.append(Filling(run.tokenizer.piece(index), index, probability, text))
    return guesses


# ---- Held-out sentences: chosen by a rule, with the right word known


NUM_SENTENCES = 20  # of a document, the first ones that fit
SENTENCE_TOKENS = (8, 24)  # at least and at most
WORD_LETTERS = 4  # at least: what is shorter is mostly guessed by grammar alone

RULE = (
    f"held-out documents drawn by chance; of each its first {NUM_SENTENCES} sentences of "
    f"{SENTENCE_TOKENS[0]} to {SENTENCE_TOKENS[1]} tokens; of their words of {WORD_LETTERS} "
    "letters or more that are one piece, the one of which the model is surest, right or wrong; no "
    "word twice; guesses are such words too"
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


@dataclass(frozen=True)
class HeldOutFillings:
    """What a model fills in: the word of each document that `RULE` chooses, and all of them."""

    chosen: tuple[HeldOutFilling, ...]
    num_words: int  # that the rule chooses among
    num_right: int  # of those, words that are the first guess
    num_near: int  # of those, words among the first `top_k`


@dataclass(frozen=True)
class _Gap:
    """A word of a sentence."""

    ids: np.ndarray  # int64 (T,) of the sentence
    place: int

    @property
    def id(self) -> int:
        return int(self.ids[self.place])


def fill_held_out(
    run: Run, store_path: Path, *, num_texts: int = 10, top_k: int = 3
) -> HeldOutFillings:
    """Return words of held-out sentences with guesses; which ones says `RULE`.

    The rule asks the model how sure it is, never whether it is right.

    Args:
        run: of a masked model
        store_path: a token store made with the model's tokenizer
        num_texts: documents at most
        top_k: guesses for each word

    Raises:
        FitError: the model is causal, or no held-out sentence fits
        MismatchError: the store was made with another tokenizer, or has no held-out documents
    """
    if not run.objective.can_fill_masks:
        raise FitError(f"{run.path} was trained on next tokens: it can't fill in a mask")
    store = open_store(store_path, "validation", tokenizer=run.tokenizer)
    rows = np.arange(len(store))
    draws = draw(stream_key(0, "yardstick", 1), rows, np.zeros_like(rows))
    words = _Words(run.tokenizer)
    chosen: list[HeldOutFilling] = []
    asked: set[int] = set()
    totals = np.zeros(3, np.int64)
    for row in np.argsort(draws, kind="stable").tolist():
        gaps = _gaps(words, store, row)
        if any(gap.id not in asked for gap in gaps):
            filling, counts = _surest(run, words, gaps, asked, store.provenance(row)[0], top_k)
            chosen.append(filling)
            totals += counts
        if len(chosen) == num_texts:
            break
    if not chosen:
        raise FitError(f"no held-out sentence of {store_path} has a word to fill in")
    return HeldOutFillings(tuple(chosen), *totals.tolist())


class _Words:
    """The pieces of a vocabulary that are words of enough letters by themselves."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = np.arange(tokenizer.vocab_size)
        texts = [tokenizer.decode([index]).strip() for index in ids.tolist()]
        is_long = np.array([len(text) >= WORD_LETTERS and text.isalpha() for text in texts])
        self.continues = tokenizer.word_rule.continues
        self.is_word = is_long & ~self.continues(ids)  # bool (V,)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return where such words stand in a sentence of int64 (T,): int64 (P,)."""
        goes_on = np.append(self.continues(ids)[1:], False)
        return np.flatnonzero(self.is_word[ids] & ~goes_on)


def _gaps(words: _Words, store: TokenStore, row: int) -> list[_Gap]:
    """Return the words of a document that may be chosen."""
    ids, lengths = store.document(row)
    ends = np.cumsum(lengths, dtype=np.int64)
    is_fit = (lengths >= SENTENCE_TOKENS[0]) & (lengths <= SENTENCE_TOKENS[1])
    gaps = []
    for index in np.flatnonzero(is_fit)[:NUM_SENTENCES].tolist():
        sentence = ids[ends[index] - lengths[index] : ends[index]].astype(np.int64)
        gaps += [_Gap(sentence, place) for place in words.places(sentence).tolist()]
    return gaps


def _surest(
    run: Run, words: _Words, gaps: Sequence[_Gap], asked: set[int], source: str, top_k: int
) -> tuple[HeldOutFilling, tuple[int, int, int]]:
    """Return the word of which the model is surest, the first of equals, and counts of all.

    Args:
        run: the model
        words: of its vocabulary, among which it guesses
        gaps: of a document
        asked: ids that are passed over; that of the word is added
        source: the document's file
        top_k: guesses of each word

    Returns:
        Its guesses, and the words, those that are the first guess, those among the first `top_k`.
    """
    tokenizer = run.tokenizer
    mask, first, last = (tokenizer.require_special(name) for name in ("mask", "cls", "sep"))
    prompts, places = [], []
    for gap in gaps:
        prompt = np.concatenate([[first], gap.ids, [last]])
        prompt[gap.place + 1] = mask
        prompts.append(prompt)
        places.append(np.array([gap.place + 1]))
    logits = torch.cat(masked_logits(run, prompts, places))[:, : tokenizer.vocab_size]
    logits[:, torch.from_numpy(~words.is_word)] = -torch.inf
    best = logits.softmax(1).topk(top_k)  # (P, k) each
    is_right = best.indices == torch.tensor([gap.id for gap in gaps])[:, None]
    is_asked = torch.tensor([gap.id in asked for gap in gaps])
    index = int(best.values[:, 0].masked_fill(is_asked, -1.0).argmax())
    gap = gaps[index]
    asked.add(gap.id)
    guesses = zip(*(own[index].tolist() for own in (*best, is_right)), strict=True)
    filling = HeldOutFilling(
        before=tokenizer.decode(gap.ids[: gap.place]).strip(),
        word=tokenizer.decode([gap.id]).strip(),
        behind=tokenizer.decode(gap.ids[gap.place + 1 :]).strip(),
        source=source,
        guesses=tuple(
            Guess(tokenizer.decode([piece]).strip(), probability, is_it)
            for probability, piece, is_it in guesses
        ),
    )
    return filling, (len(gaps), int(is_right[:, 0].sum()), int(is_right.any(1).sum()))
