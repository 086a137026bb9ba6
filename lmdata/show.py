"""Rows of a dataset for the eye: what was masked and how, where sentences end, where it came from.

Everything is returned as text; with `colour`, marks are ANSI styles instead of brackets.

    [MASK→dog]   a piece that became [MASK], after the arrow what it was
    {cat→dog}    a piece that was replaced at random
    <dog>        a piece that was kept and is to be predicted all the same
    <dog:3>      a piece that is to be predicted as the third of its segment
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lmdata.batch import NO_LABEL, ORDERS, ExampleBatch, targets_of
from lmdata.chosen import choose_training
from lmdata.copies import at_hand, beside
from lmdata.dataset import ExampleSet, TokenStore, open_examples, open_store
from lmdata.errors import MismatchError
from lmdata.schema import read_manifest, read_settings
from lmdata.tokenizer import Tokenizer

_RESET, _DIM = "\x1b[0m", "\x1b[2m"
_STYLES = {"mask": "\x1b[1;33m", "random": "\x1b[1;31m", "keep": "\x1b[4;32m", "special": _DIM}
_STRUCK, _PLAIN = "\x1b[9m", "\x1b[29m"


def show_rows(
    path: Path | str, first: int, num_rows: int, *, split: str = "train",
    with_source: bool = False, find: str | None = None, colour: bool = False,
) -> dict[int, str]:  # fmt: skip
    """Return up to `num_rows` rows of a dataset as texts by row, fewer where the split ends.

    Args:
        path: a dataset folder
        first: the row to begin with
        num_rows: how many to show at most
        split: "train", "validation" or "test"
        with_source: say from which files and lines each row comes
        find: only rows whose text, before any corruption, contains this; as the tokenizer sees
            it (lower case where it lower-cases), white space and the case of letters apart
        colour: ANSI styles for a terminal

    Raises:
        MismatchError: there is no such first row, or no row with such a text; `with_source`, and
            the store that the shards were made from is another now
        IntegrityError: the dataset, or that store, is not whole
    """
    opened = _open(at_hand(path), split, with_source)
    num_present = len(opened.rows)
    if not num_present:
        raise MismatchError(f"split {split} of {path} is empty: it has no row to show")
    if not 0 <= first < num_present:
        raise MismatchError(
            f"split {split} of {path} has no row {first}: its rows are 0 to {num_present - 1:,}"
        )
    rows: Iterable[int] = range(first, num_present)
    if find is not None:
        rows = opened.find(find, first)
    shown = {row: opened.show(row, colour=colour) for row in islice(rows, num_rows)}
    if not shown:
        raise MismatchError(
            f"no row of {path} from {first} on, in split {split}, contains {find!r}: look for a "
            "shorter text, or in another split"
        )
    return shown


@dataclass(frozen=True)
class _Opened:
    """A dataset that rows are shown of, opened once."""

    rows: TokenStore | ExampleSet
    store: TokenStore | None  # that the rows come from, where the source is asked for

    def show(self, row: int, *, colour: bool = False) -> str:
        """Return a row as text."""
        if isinstance(self.rows, TokenStore):
            lines = [show_document(self.rows, row, colour=colour)]
            documents = [row]
        else:
            lines = [show_example(self.rows, row, colour=colour)]
            batch = self.rows.rows(np.array([row]))
            documents = [int(batch.document_a[0]), int(batch.document_b[0])]
        if self.store is not None:
            lines += [describe_source(self.store, number) for number in dict.fromkeys(documents)]
        return "\n".join(lines)

    def find(self, text: str, first: int) -> Iterator[int]:
        """Yield the rows from `first` on whose text contains another."""
        tokenizer = self.rows.tokenizer
        normalizer = tokenizer.backend.normalizer
        wanted = {_squeeze(text), _squeeze(normalizer.normalize_str(text) if normalizer else text)}
        for row in range(first, len(self.rows)):
            found = _squeeze(_whole_text(tokenizer, self.original_ids(row)))
            if any(needle in found for needle in wanted):
                yield row

    def original_ids(self, row: int) -> np.ndarray:
        """Return the ids of a row before any corruption, (t,)."""
        if isinstance(self.rows, TokenStore):
            return self.rows.document(row)[0]
        return self.rows.original(self.rows.rows(np.array([row]))).values


def _whole_text(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """Return the text of ids, characters of several pieces whole.

    WordPiece's own decoder also writes "do not" as "don't".
    """
    if (tokenizer.definition.get("decoder") or {}).get("type", "WordPiece") == "WordPiece":
        return "".join(piece_texts(tokenizer, ids))
    return tokenizer.decode(ids)


def _squeeze(text: str) -> str:
    """Return a text without white space and differences of case.

    Example:
        >>> _squeeze("New York ▁Streets")
        'newyorkstreets'
    """
    return "".join(text.replace("▁", " ").split()).casefold()


def _open(folder: Path, split: str, with_source: bool) -> _Opened:
    if read_manifest(folder).kind == "tokens":
        store = open_store(folder, split)
        return _Opened(store, store if with_source else None)
    examples = open_examples(folder, split)
    return _Opened(examples, open_own_store(folder, examples) if with_source else None)


def open_own_store(folder: Path, examples: ExampleSet) -> TokenStore:
    """Return the split of the token store that examples were made from.

    Raises:
        MismatchError: the store, or the selection, was built anew since
        IntegrityError: it is no longer where it was
    """
    settings = read_settings(examples.manifest)
    path = beside(folder, settings.store)
    store = open_store(path, examples.split)
    if store.manifest.hash != settings.store_manifest:
        raise MismatchError(
            f"{path} is no longer the store that {folder} was made from: its manifest has hash "
            f"{store.manifest.hash} instead of {settings.store_manifest}; build "
            f"{folder} again"
        )
    selection = settings.selection and beside(folder, settings.selection)
    return choose_training({examples.split: store}, selection or None, settings.selection_manifest)[
        examples.split
    ]


def describe_source(store: TokenStore, row: int) -> str:
    """Return the file of a document and the line or record, counted from 1, where it begins."""
    name, position = store.provenance(row)
    return f"document {row} of {store.split}: {name}, line or record {position + 1}"


def show_document(
    store: TokenStore, row: int, *, max_tokens: int = 512, colour: bool = False
) -> str:
    """Return a document of a store, one line a sentence.

    Raises:
        IndexError: no such row
    """
    ids, lengths = store.document(row)
    header = f"document {row} of {store.split}: {len(ids):,} tokens, {len(lengths):,} sentences"
    lines = [_paint(header, _DIM, colour)]
    begin = 0
    for number, length in enumerate(lengths.tolist()):
        if begin >= max_tokens:
            lines.append(f"... {len(ids) - begin:,} more tokens")
            break
        text = "".join(piece_texts(store.tokenizer, ids[begin : begin + length])).strip()
        lines.append(f"{_paint(f'{number:>5}', _DIM, colour)}  {_visible(text)}")
        begin += length
    return "\n".join(lines)


def show_example(examples: ExampleSet, row: int, *, colour: bool = False) -> str:
    """Return an example: its facts, its segments with the masks marked, and what the marks mean.

    Raises:
        IndexError: no such row
    """
    batch = examples.rows(np.array([row]))
    tokenizer = examples.tokenizer
    texts = mark_pieces(batch, tokenizer, colour=colour)
    lines = [_paint(f"example {row} of {examples.split}: {_facts(batch)}", _DIM, colour)]
    lines += [
        f"{name:>3}  {''.join(texts[first:last]).strip()}"
        for name, first, last in segment_bounds(batch)
    ]
    targets = targets_of(batch)
    for number, ids in enumerate([] if targets is None else targets.rows()):
        text = _visible("".join(piece_texts(tokenizer, ids))).strip()
        lines.insert(2 + 2 * number, f"  →  {text}")
    if len(batch.masked_positions):
        legend = _legend(colour, has_order=ORDERS.name in batch.arrays())
        lines.append(f"     {_paint(mask_summary(batch, tokenizer), _DIM, colour)}   {legend}")
    return "\n".join(lines)


def _legend(colour: bool, *, has_order: bool) -> str:
    """Return what the marks mean, in the marks themselves."""
    if has_order:
        return _mark("asked:when", "", "keep", colour) + "  special:when"
    samples = (
        ("original", "[MASK]", "mask"),
        ("original", "random", "random"),
        ("kept", "", "keep"),
    )
    return "  ".join(_mark(text, found, way, colour) for text, found, way in samples)


def mark_pieces(batch: ExampleBatch, tokenizer: Tokenizer, *, colour: bool = False) -> list[str]:
    """Return the text of each piece of one example, what was done to it marked."""
    texts = [_visible(text) for text in piece_texts(tokenizer, batch.original_ids())]
    found = [_visible(text).strip() for text in piece_texts(tokenizer, batch.input_ids)]
    orders = batch.arrays().get(ORDERS.name)
    for position, way in piece_ways(batch, tokenizer).items():
        text = texts[position]
        if orders is not None and orders[position]:
            text = f"{text}:{orders[position]}"
        is_special = way == "special"
        texts[position] = (
            _paint(text, _STYLES[way], colour)
            if is_special
            else _mark(text, found[position], way, colour)
        )
    return texts


def piece_ways(batch: ExampleBatch, tokenizer: Tokenizer) -> dict[int, str]:
    """Return what was done to the pieces of one example, by position: a name of `_STYLES`."""
    original, mask_id = batch.original_ids(), tokenizer.special_ids.get("mask")
    ways = {}
    for position in batch.masked_positions.tolist():
        if batch.input_ids[position] == original[position]:
            ways[position] = "keep"
        else:
            ways[position] = "mask" if batch.input_ids[position] == mask_id else "random"
    special = np.flatnonzero(tokenizer.is_special[original]).tolist()
    return {**dict.fromkeys(special, "special"), **ways}


def _mark(text: str, found: str, way: str, colour: bool) -> str:
    """Mark one piece.

    Example:
        >>> _mark(" dog", "cat", "random", False), _mark("##s", "s", "keep", False)
        (' {cat→dog}', '<##s>')
    """
    bare = text.lstrip(" ")
    space = text[: len(text) - len(bare)]
    if way == "keep":
        return space + (_paint(bare, _STYLES[way], True) if colour else f"<{bare}>")
    if colour:
        struck = found if way == "mask" else f"{_STRUCK}{found}{_PLAIN}"
        return space + _paint(f"{struck}→{bare}", _STYLES[way], True)
    if way == "mask":
        return f"{space}[MASK→{bare}]"
    return f"{space}{{{found}→{bare}}}"


def piece_texts(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    """Return the text of each piece; one that begins a word has the space before it.

    Bytes of a byte-level vocabulary that are not whole characters show as U+FFFD.
    """
    if (tokenizer.definition.get("decoder") or {}).get("type") == "ByteLevel":
        return tokenizer.backend.decode_batch(
            [[index] for index in ids.tolist()], skip_special_tokens=False
        )
    model = tokenizer.definition["model"]
    prefix, suffix = (
        model.get(name) or "" for name in ("continuing_subword_prefix", "end_of_word_suffix")
    )
    rule = tokenizer.find_word_rule()
    if rule is None and any("▁" in (piece or "") for piece in tokenizer.pieces):
        return [tokenizer.piece(index).replace("▁", " ") for index in ids.tolist()]
    starts = np.ones(len(ids), np.bool_) if rule is None else ~rule.continues(ids)
    return [
        (" " if starts_word else "")
        + tokenizer.piece(index).removeprefix(prefix).removesuffix(suffix).lstrip("▁")
        for index, starts_word in zip(ids.tolist(), starts.tolist(), strict=True)
    ]


def mask_summary(batch: ExampleBatch, tokenizer: Tokenizer) -> str:
    """Return how many pieces were masked, and what they became."""
    ids = batch.input_ids[batch.flat_masked_positions()]
    if ORDERS.name in batch.arrays():
        return (
            f"{len(ids)} asked ({len(ids) / len(batch.input_ids):.1%}), each by what comes before "
            "it in the order of its segment and by all that have no number"
        )
    is_kept = ids == batch.masked_labels
    is_mask = ~is_kept & (ids == tokenizer.special_ids.get("mask"))
    num_random = int((~is_kept & ~is_mask).sum())
    share = len(ids) / len(batch.input_ids)
    return (
        f"{len(ids)} masked ({share:.1%}): {int(is_mask.sum())} [MASK], {num_random} random, "
        f"{int(is_kept.sum())} kept"
    )


def _facts(batch: ExampleBatch) -> str:
    first, last = int(batch.document_a[0]), int(batch.document_b[0])
    documents = f"document {first}" if first == last else f"documents {first} and {last}"
    label = int(batch.next_sentence_label[0])
    relation = "" if label == NO_LABEL else f", next_sentence_label {label}"
    return f"{len(batch.input_ids)} tokens, {documents}, pass {int(batch.duplicate[0])}{relation}"


def segment_bounds(batch: ExampleBatch) -> list[tuple[str, int, int]]:
    """Return name and bounds of each segment: A and B of a pair, else one each up to its end."""
    num_tokens = len(batch.input_ids)
    if int(batch.next_sentence_label[0]) != NO_LABEL:
        middle = int(np.count_nonzero(batch.token_type_ids == 0))
        return [("A", 0, middle), ("B", middle, num_tokens)]
    bounds = [0, *np.cumsum(batch.segment_lengths).tolist()]
    return [(str(i + 1), bounds[i], bounds[i + 1]) for i in range(len(bounds) - 1)]


def _visible(text: str) -> str:
    """Return a text on one line: line ends and tabs as symbols."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "")


def _paint(text: str, style: str, colour: bool) -> str:
    return f"{style}{text}{_RESET}" if colour else text
