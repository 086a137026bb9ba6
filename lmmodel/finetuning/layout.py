"""Where a tokenizer puts its special tokens, and how texts are cut to fit between them.

The layout is that of the tokenizer's own post-processor, so ids are those of `AutoTokenizer` on the
exported folder: [CLS] A [SEP] and [CLS] A [SEP] B [SEP] for BERT. GPT-2's adds nothing: two texts
lie end to end, and the last token of the second speaks for both, which is what stock
`GPT2ForSequenceClassification` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmdata.tokenizer import Tokenizer
from lmmodel.errors import TaskError
from lmmodel.finetuning.spans import Integers, Part, interleave


@dataclass(frozen=True)
class Layout:
    """Special tokens before, between and after the texts of an example."""

    specials: tuple[tuple[int, ...], ...]  # N + 1 groups of ids around N texts
    special_types: tuple[tuple[int, ...], ...]  # their segments
    text_types: tuple[int, ...]  # N segments
    filler: int = 0  # the token of an example that would have none

    @property
    def num_specials(self) -> int:
        """Special tokens of an example."""
        return sum(map(len, self.specials))

    def room(self, max_seq_length: int) -> int:
        """Return how many tokens of text an example may have.

        Raises:
            TaskError: not even two to a text
        """
        room = max_seq_length - self.num_specials
        if room < 2 * len(self.text_types):
            raise TaskError(
                f"max_seq_length {max_seq_length} leaves no room for text beside "
                f"{self.num_specials} special tokens: set it to at least "
                f"{self.num_specials + 2 * len(self.text_types)}"
            )
        return room


def find_layout(tokenizer: Tokenizer, num_texts: int) -> Layout:
    """Return how a tokenizer lays out one text or two, by watching it do so.

    Args:
        tokenizer: its post-processor is used
        num_texts: 1 or 2
    """
    encoding = tokenizer.backend.encode("a", "b" if num_texts == 2 else None)
    specials: list[list[tuple[int, int]]] = [[] for _ in range(num_texts + 1)]
    text_types = [0] * num_texts
    group = 0  # how many texts have begun
    columns = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
    for index, segment, sequence in columns:
        if sequence is None:
            specials[group].append((index, segment))
        else:
            group, text_types[sequence] = sequence + 1, segment
    return Layout(
        specials=tuple(tuple(index for index, _ in ids) for ids in specials),
        special_types=tuple(tuple(segment for _, segment in ids) for ids in specials),
        text_types=tuple(text_types),
        filler=next((i for name in ("eos", "pad") if (i := tokenizer.special_ids[name])), 0),
    )


@dataclass(frozen=True)
class LaidOut:
    """E examples of T tokens, and where in them the texts are."""

    input_ids: npt.NDArray[np.int32]  # (T,)
    token_type_ids: npt.NDArray[np.uint8]  # (T,)
    offsets: Integers  # (E + 1,)
    places: tuple[Integers, ...]  # of each text: where in T the items of its `source` lie


def lay_out(layout: Layout, texts: Sequence[Part]) -> LaidOut:
    """Return examples with their special tokens; one that would be empty has one token.

    Args:
        layout: for as many texts as there are
        texts: each of E examples has a span of each

    Example:
        >>> layout = Layout(((101,), (102,)), ((0,), (0,)), (0,))
        >>> ids = np.array([7, 8, 9], np.int32)
        >>> laid = lay_out(layout, [Part(ids, np.array([0, 2]), np.array([2, 1]))])
        >>> laid.input_ids.tolist(), laid.places[0].tolist()
        ([101, 7, 8, 102, 101, 9, 102], [1, 2, 5])
    """
    num_examples = len(texts[0].starts)
    parts, segments = [], []
    for group, ids in enumerate(layout.specials):
        parts.append(_repeat(ids, num_examples))
        segments.append(np.tile(np.array(layout.special_types[group], np.uint8), num_examples))
        if group < len(texts):
            parts.append(texts[group])
            total = int(texts[group].lengths.sum())
            segments.append(np.full(total, layout.text_types[group], np.uint8))
    is_empty = sum((part.lengths for part in parts), np.zeros(num_examples, np.int64)) == 0
    parts.append(Part(np.array([layout.filler], np.int32), is_empty * 0, is_empty.astype(np.int64)))
    segments.append(np.zeros(int(is_empty.sum()), np.uint8))
    input_ids, offsets, places = interleave(parts)
    token_type_ids = np.empty(len(input_ids), np.uint8)
    for place, segment in zip(places, segments, strict=True):
        token_type_ids[place] = segment
    return LaidOut(input_ids, token_type_ids, offsets, tuple(places[1 : 2 * len(texts) : 2]))


def _repeat(ids: tuple[int, ...], count: int) -> Part:
    """Return the part that has the same ids in each of `count` examples."""
    zeros = np.zeros(count, np.int64)
    return Part(np.array(ids, np.int32), zeros, zeros + len(ids))


def fit_pairs(first: Integers, second: Integers, room: int) -> tuple[Integers, Integers]:
    """Return how many tokens of each of two texts stay: the longer gives way first.

    As in `tokenizers` ("longest_first"): where both are too long, half the room is each one's, and
    an odd token goes to the longer.

    Args:
        first: int64 (E,) lengths
        second: int64 (E,) lengths
        room: tokens that both may have

    Example:
        >>> kept = fit_pairs(np.array([3, 9, 9]), np.array([2, 2, 8]), 7)
        >>> [lengths.tolist() for lengths in kept]
        [[3, 5, 4], [2, 2, 3]]
    """
    short, long = np.minimum(first, second), np.maximum(first, second)
    kept_short = np.where(short + long <= room, short, np.minimum(short, room // 2))
    kept_long = np.minimum(long, room - kept_short)
    is_longer = first > second
    return np.where(is_longer, kept_long, kept_short), np.where(is_longer, kept_short, kept_long)
