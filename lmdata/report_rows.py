"""Rows of a dataset to read: pieces where they first occur, rows at random and at the extremes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from lmdata.dataset import ExampleSet, TokenStore
from lmdata.order import permute
from lmdata.page import Span
from lmdata.ragged import Ragged
from lmdata.show import piece_texts, piece_ways, segment_bounds
from lmdata.tokenizer import Tokenizer

NUM_RANDOM, NUM_EXTREME = 10, 3
_MOST_SHOWN = 160  # pieces of a row
_MOST_LINES = 12
_MOST_LETTERS = 1200  # of a line
_AROUND = 8  # pieces on each side of a piece in its example
_BATCH_ROWS = 4096

Rows = TokenStore | ExampleSet


@dataclass(frozen=True, kw_only=True)
class PieceInText:
    """A piece, how often it occurs, and its first place."""

    piece: str
    id: int
    count: int
    ratio: float  # of all tokens
    example: str | None  # with the piece between » and «


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A row to read."""

    why: str  # "random", "longest" ...
    row: int
    facts: dict[str, int | float | str]
    lines: tuple[tuple[Span, ...], ...]


def id_rows(rows: Rows) -> Iterator[tuple[int, Ragged]]:
    """Yield the number of a first row, and the ids of rows from there on before any corruption."""
    if isinstance(rows, TokenStore):
        for block in rows.blocks:
            yield block.first_row, Ragged(block.ids, block.id_offsets)
        return
    for start in range(0, len(rows), _BATCH_ROWS):
        batch = rows.rows(np.arange(start, min(start + _BATCH_ROWS, len(rows))))
        yield start, rows.original(batch)


def first_places(rows: Rows, pieces: np.ndarray) -> dict[int, tuple[int, int]]:
    """Return the row and the position in it of the first occurrence of each piece that occurs."""
    found: dict[int, tuple[int, int]] = {}
    for first_row, ids in id_rows(rows):
        wanted = np.setdiff1d(pieces, list(found))
        if not len(wanted):
            break
        begin, end = int(ids.offsets[0]), int(ids.offsets[-1])
        at = begin + np.flatnonzero(np.isin(ids.values[begin:end], wanted))
        present, first = np.unique(ids.values[at], return_index=True)
        for piece, place in zip(present.tolist(), at[first].tolist(), strict=True):
            row = int(np.searchsorted(ids.offsets, place, side="right")) - 1
            found[piece] = (first_row + row, place - int(ids.offsets[row]))
    return found


def piece_in_text(
    rows: Rows, piece: int, counts: np.ndarray, place: tuple[int, int] | None
) -> PieceInText:
    """Return a piece with the text around its first place, if there is one."""
    example = None
    if place is not None:
        row, position = place
        ids = _original_ids(rows, row)
        begin = max(0, position - _AROUND)
        texts = piece_texts(rows.tokenizer, ids[begin : position + _AROUND + 1])
        own = texts[position - begin]
        bare = own.lstrip(" ")
        texts[position - begin] = f"{own[: len(own) - len(bare)]}»{bare}«"
        example = "".join(texts).strip()
    total = max(1, int(counts.sum()))
    count = int(counts[piece])
    name = rows.tokenizer.piece(piece)
    return PieceInText(piece=name, id=piece, count=count, ratio=count / total, example=example)


def _original_ids(rows: Rows, row: int) -> np.ndarray:
    if isinstance(rows, TokenStore):
        return rows.document(row)[0]
    return rows.original(rows.rows(np.array([row]))).values


# ---- Rows to read


def find_samples(rows: Rows) -> Iterator[Sample]:
    """Yield rows drawn at random, then those at the extremes; a row once."""
    if not len(rows):
        return
    count = min(NUM_RANDOM, len(rows))
    drawn = np.sort(permute(np.arange(count), len(rows), seed=0, epoch=0))
    seen: set[int] = set()
    for why, chosen in (("random", drawn.tolist()), *_extremes(rows).items()):
        for row in chosen:
            if row not in seen:
                seen.add(row)
                yield _sample(rows, row, why)


def _extremes(rows: Rows) -> dict[str, list[int]]:
    """Return the rows that are the longest, the shortest, and fullest of unknown pieces."""
    unknown = rows.tokenizer.special_ids.get("unk")
    kept: dict[str, list[tuple[float, int]]] = {}
    for first_row, ids in id_rows(rows):
        lengths = np.diff(ids.offsets)
        begin, end = int(ids.offsets[0]), int(ids.offsets[-1])
        is_unknown = ids.values[begin:end] == (-1 if unknown is None else unknown)
        sums = np.concatenate(([0], np.cumsum(is_unknown)))[ids.offsets - begin]
        figures = {
            "longest": lengths.astype(np.float64),
            "shortest": -lengths.astype(np.float64),
            "most unknown": np.diff(sums) / np.maximum(1, lengths),
        }
        for why, values in figures.items():
            best = np.argsort(-values, kind="stable")[:NUM_EXTREME]
            pairs = [(float(values[i]), first_row + int(i)) for i in best]
            joined = sorted([*kept.get(why, []), *pairs], key=lambda pair: (-pair[0], pair[1]))
            kept[why] = joined[:NUM_EXTREME]
    kept["most unknown"] = [pair for pair in kept["most unknown"] if pair[0] > 0]
    return {why: [row for _, row in pairs] for why, pairs in kept.items()}


def _sample(rows: Rows, row: int, why: str) -> Sample:
    if isinstance(rows, TokenStore):
        ids, lengths = rows.document(row)
        name, position = rows.provenance(row)
        facts: dict[str, int | float | str] = {
            "tokens": len(ids), "sentences": len(lengths), "source": name,
            "line or record": position + 1,
        }  # fmt: skip
        sentences = islice(_sentences(ids, lengths, rows.tokenizer), _MOST_LINES)
        return Sample(why=why, row=row, facts=facts, lines=tuple(sentences))
    batch = rows.rows(np.array([row]))
    original = piece_texts(rows.tokenizer, batch.original_ids())
    found = piece_texts(rows.tokenizer, batch.input_ids)
    ways = piece_ways(batch, rows.tokenizer)
    facts = {
        "tokens": len(batch.input_ids), "masked": len(batch.masked_positions),
        "document": int(batch.document_a[0]), "label": int(batch.next_sentence_label[0]),
    }  # fmt: skip
    if int(batch.next_sentence_label[0]) < 0:
        del facts["label"]
    lines = (
        _spans(original[first:last], found[first:last], first, ways)
        for _, first, last in segment_bounds(batch)
    )
    return Sample(why=why, row=row, facts=facts, lines=tuple(islice(lines, _MOST_LINES)))


def _sentences(
    ids: np.ndarray, lengths: np.ndarray, tokenizer: Tokenizer
) -> Iterator[tuple[Span, ...]]:
    """Yield a line a sentence, unknown pieces marked, until enough is shown."""
    unknown, begin = tokenizer.special_ids.get("unk"), 0
    for length in lengths.tolist():
        own = ids[begin : begin + min(length, _MOST_SHOWN)]
        ways = {int(place): "random" for place in np.flatnonzero(own == unknown)}
        texts = piece_texts(tokenizer, own)
        cut = (Span(f" … {length - len(own):,} more tokens"),) if length > len(own) else ()
        yield _spans(texts, texts, 0, ways) + cut
        begin += length


def _spans(
    original: list[str], found: list[str], first: int, ways: Mapping[int, str]
) -> tuple[Span, ...]:
    """Return pieces as stretches of one mark each, up to as many as are shown."""
    spans: list[Span] = []
    for index, text in enumerate(original[:_MOST_SHOWN]):
        way = ways.get(first + index, "")
        text = text.replace("\n", "⏎").replace("\t", "⇥")
        if way in ("mask", "random") and found[index] != original[index]:
            bare = text.lstrip(" ")
            text = f"{text[: len(text) - len(bare)]}{found[index].strip()}→{bare}"
        if spans and spans[-1].mark == way:
            spans[-1] = Span(spans[-1].text + text, way)
        else:
            spans.append(Span(text, way))
    return tuple(Span(span.text[:_MOST_LETTERS], span.mark) for span in spans)
