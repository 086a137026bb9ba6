"""Texts to what a model reads: ids end to end, windows of what is too long, special tokens around.

One room for pretraining's texts and those of tasks. Where the layout of special tokens is that of
the tokenizer's own post-processor, ids are those of `AutoTokenizer` on the exported folder:
[CLS] A [SEP] and [CLS] A [SEP] B [SEP] for BERT. GPT-2's adds nothing: two texts lie end to end.

Index arithmetic: S sequences that lie end to end; E examples made of them; T tokens in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from lmdata.ragged import offsets_of, ranges
from lmdata.tokenizer import Tokenizer
from lmmodel.errors import TaskError

Integers = npt.NDArray[np.int64]

_SLICE = 1024  # texts encoded at once
DEFAULT_OVERLAP = 64


@dataclass(frozen=True)
class Span:
    """What each of E sequences has at one place: a stretch of `values`."""

    values: npt.NDArray[np.int32]  # (N,)
    starts: Integers  # (E,)
    lengths: Integers  # (E,)

    @property
    def source(self) -> Integers:
        """Places in `values`, sequence after sequence: int64 (sum of lengths,)."""
        return ranges(self.starts, self.lengths)


@dataclass(frozen=True)
class TextIds:
    """Ids of texts that lie end to end, without special tokens."""

    ids: npt.NDArray[np.int32]  # (N,)
    offsets: Integers  # (texts + 1,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Integers:
        """Tokens of each text: int64 (texts,)."""
        return np.diff(self.offsets)

    def span(self, texts: Integers, starts: Integers | int, lengths: Integers) -> Span:
        """Return a stretch of each of some texts.

        Args:
            texts: int64 (E,) which text
            starts: int64 (E,) first token, counted from the text's first
            lengths: int64 (E,) tokens
        """
        return Span(self.ids, self.offsets[:-1][texts] + starts, lengths)


def join_texts(parts: Sequence[TextIds]) -> TextIds:
    """Return the texts of all parts, in their order.

    Example:
        >>> one = TextIds(np.array([7, 8], np.int32), np.array([0, 2]))
        >>> join_texts([one, one]).offsets.tolist()
        [0, 2, 4]
    """
    ids = np.concatenate([np.zeros(0, np.int32), *(part.ids for part in parts)])
    return TextIds(ids, offsets_of(np.concatenate([part.lengths for part in parts])))


def encode_texts(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> TextIds:
    """Return the ids of texts; special tokens that are spelled out in them are read as text.

    Args:
        backend: its `encode_special_tokens` is set, as `lmdata.tokenizer.Tokenizer` has it
        texts: any number, some perhaps empty
    """
    slices, lengths = [np.zeros(0, np.int32)], []
    for begin in range(0, len(texts), _SLICE):
        part = backend.encode_batch_fast(
            list(texts[begin : begin + _SLICE]), add_special_tokens=False
        )
        ids = [encoding.ids for encoding in part]
        lengths += list(map(len, ids))
        slices.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
    return TextIds(np.concatenate(slices), offsets_of(np.array(lengths, np.int64)))


# Windows.


@dataclass(frozen=True)
class Windows:
    """W windows of S sequences, in their order; a sequence that fits is one window."""

    sequence: Integers  # (W,) in [0, S), ascending
    starts: Integers  # (W,) first token, counted from the beginning of its sequence
    lengths: Integers  # (W,)
    shared: Integers  # (W,) tokens that it repeats of the window before; 0 of each first one
    is_last: npt.NDArray[np.bool_]  # (W,) of its sequence

    @property
    def is_whole(self) -> npt.NDArray[np.bool_]:
        """(W,): the window is all of its sequence."""
        is_whole: npt.NDArray[np.bool_] = (np.bincount(self.sequence) == 1)[self.sequence]
        return is_whole

    @property
    def new_starts(self) -> Integers:
        """(W,): the first token that no window before has, counted as `starts` is."""
        return self.starts + self.shared

    @property
    def core_starts(self) -> Integers:
        """(W,): the first token that this window has with most context.

        The cores of a sequence's windows are its tokens, each once: an overlap belongs half to the
        window before, half to the one after.
        """
        return self.starts + self.shared // 2

    @property
    def core_ends(self) -> Integers:
        """(W,): one past the last token that this window has with most context."""
        ends = self.starts + self.lengths
        following = np.append(self.core_starts[1:], 0)[: len(ends)]
        return np.where(self.is_last, ends, following)

    @property
    def is_core(self) -> npt.NDArray[np.bool_]:
        """Of each token of the windows, end to end: this is the window that has it in its core."""
        place = ranges(self.starts, self.lengths)
        starts, ends = (np.repeat(at, self.lengths) for at in (self.core_starts, self.core_ends))
        return (place >= starts) & (place < ends)

    @property
    def num_cut(self) -> int:
        """How many sequences have more than one window."""
        return len(np.unique(self.sequence[~self.is_whole]))


def cut_windows(lengths: Integers, room: Integers, overlap: int | None = None) -> Windows:
    """Return windows that hold every token of every sequence.

    Windows begin `room - overlap` tokens apart, and the last ends with its sequence (as
    `return_overflowing_tokens` of `tokenizers` cuts).

    Args:
        lengths: int64 (S,) tokens of each sequence
        room: int64 (S,) tokens that a window of it may have, at least 1
        overlap: tokens that neighbouring windows share, at most half of the room; None: 64, or
            half of the room where that is less

    Example:
        >>> windows = cut_windows(np.array([3, 10]), np.array([4, 4]), 2)
        >>> windows.sequence.tolist(), windows.starts.tolist(), windows.lengths.tolist()
        ([0, 1, 1, 1, 1], [0, 0, 2, 4, 6], [3, 4, 4, 4, 4])
        >>> windows.core_starts.tolist(), windows.core_ends.tolist(), windows.new_starts.tolist()
        ([0, 0, 3, 5, 7], [3, 3, 5, 7, 10], [0, 0, 4, 6, 8])
    """
    shared = np.minimum(DEFAULT_OVERLAP if overlap is None else overlap, room // 2)
    step = room - shared
    counts = 1 + np.maximum(0, -(-(lengths - room) // step))
    sequence = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(sequence)) - np.repeat(offsets_of(counts)[:-1], counts)
    starts = number * step[sequence]
    return Windows(
        sequence=sequence,
        starts=starts,
        lengths=np.minimum(room[sequence], lengths[sequence] - starts),
        shared=np.where(number > 0, shared[sequence], 0),
        is_last=number == counts[sequence] - 1,
    )


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


# Special tokens around texts.


@dataclass(frozen=True)
class Frame:
    """Special tokens before, between and after the texts of an example."""

    specials: tuple[tuple[int, ...], ...]  # N + 1 groups of ids around N texts
    special_types: tuple[tuple[int, ...], ...]  # their segments
    text_types: tuple[int, ...]  # N segments
    filler: int = 0  # the token of an example that would have none

    @property
    def before(self) -> tuple[int, ...]:
        """Ids before the first text."""
        return self.specials[0]

    @property
    def after(self) -> tuple[int, ...]:
        """Ids behind the last text."""
        return self.specials[-1]

    @property
    def num_tokens(self) -> int:
        """Special tokens of an example: places that its texts can't have."""
        return sum(map(len, self.specials))

    def room(self, max_seq_length: int) -> int:
        """Return how many tokens of text an example may have.

        Raises:
            TaskError: not even two to a text
        """
        room = max_seq_length - self.num_tokens
        if room < 2 * len(self.text_types):
            raise TaskError(
                f"max_seq_length {max_seq_length} leaves no room for text beside "
                f"{self.num_tokens} special tokens: set it to at least "
                f"{self.num_tokens + 2 * len(self.text_types)}"
            )
        return room


def frame_around(before: Sequence[int], after: Sequence[int]) -> Frame:
    """Return the frame of one text between these ids, all of the first segment.

    Example:
        >>> frame_around([101], [102]).num_tokens
        2
    """
    return Frame(
        (tuple(before), tuple(after)), ((0,) * len(before), (0,) * len(after)), (0,)
    )  # fmt: skip


def find_frame(tokenizer: Tokenizer, num_texts: int) -> Frame:
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
    return Frame(
        specials=tuple(tuple(index for index, _ in ids) for ids in specials),
        special_types=tuple(tuple(segment for _, segment in ids) for ids in specials),
        text_types=tuple(text_types),
        filler=next((i for name in ("eos", "pad") if (i := tokenizer.special_ids[name])), 0),
    )


@dataclass(frozen=True)
class Framed:
    """E examples of T tokens, and where in them the texts are."""

    input_ids: npt.NDArray[np.int32]  # (T,)
    token_type_ids: npt.NDArray[np.uint8]  # (T,)
    offsets: Integers  # (E + 1,)
    places: tuple[Integers, ...]  # of each text: where in T the items of its `source` lie


def put_into_frame(frame: Frame, texts: Sequence[Span]) -> Framed:
    """Return examples with their special tokens; one that would be empty has one token.

    Args:
        frame: for as many texts as there are
        texts: each of E examples has a span of each

    Example:
        >>> ids = np.array([7, 8, 9], np.int32)
        >>> spans = [Span(ids, np.array([0, 2]), np.array([2, 1]))]
        >>> framed = put_into_frame(frame_around([101], [102]), spans)
        >>> framed.input_ids.tolist(), framed.places[0].tolist()
        ([101, 7, 8, 102, 101, 9, 102], [1, 2, 5])
    """
    num_examples = len(texts[0].starts)
    parts, segments = [], []
    for group, ids in enumerate(frame.specials):
        parts.append(_repeat(ids, num_examples))
        segments.append(np.tile(np.array(frame.special_types[group], np.uint8), num_examples))
        if group < len(texts):
            parts.append(texts[group])
            total = int(texts[group].lengths.sum())
            segments.append(np.full(total, frame.text_types[group], np.uint8))
    is_empty = sum((part.lengths for part in parts), np.zeros(num_examples, np.int64)) == 0
    parts.append(Span(np.array([frame.filler], np.int32), is_empty * 0, is_empty.astype(np.int64)))
    segments.append(np.zeros(int(is_empty.sum()), np.uint8))
    input_ids, offsets, places = interleave(parts)
    token_type_ids = np.empty(len(input_ids), np.uint8)
    for place, segment in zip(places, segments, strict=True):
        token_type_ids[place] = segment
    return Framed(input_ids, token_type_ids, offsets, tuple(places[1 : 2 * len(texts) : 2]))


def _repeat(ids: tuple[int, ...], count: int) -> Span:
    """Return the span that has the same ids in each of `count` examples."""
    zeros = np.zeros(count, np.int64)
    return Span(np.array(ids, np.int32), zeros, zeros + len(ids))


def interleave(parts: Sequence[Span]) -> tuple[npt.NDArray[np.int32], Integers, list[Integers]]:
    """Return sequences that are made of one span of each part, in their order.

    Args:
        parts: P of them, each with E spans

    Returns:
        values int32 (T,), offsets int64 (E + 1,), and for each part the places in `values` of what
        its `source` names, int64.

    Example:
        >>> ones, twos = np.array([1], np.int32), np.array([21, 22, 23], np.int32)
        >>> first = Span(ones, np.array([0, 0]), np.array([1, 1]))
        >>> second = Span(twos, np.array([0, 1]), np.array([1, 2]))
        >>> values, offsets, places = interleave([first, second])
        >>> values.tolist(), offsets.tolist(), places[1].tolist()
        ([1, 21, 1, 22, 23], [0, 2, 5], [1, 3, 4])
    """
    lengths = np.stack([part.lengths for part in parts], axis=1)  # (E, P)
    flat = offsets_of(lengths.reshape(-1))
    begins = flat[:-1].reshape(lengths.shape)
    values = np.empty(int(flat[-1]), np.int32)
    places = [ranges(begins[:, p], part.lengths) for p, part in enumerate(parts)]
    for part, place in zip(parts, places, strict=True):
        values[place] = part.values[part.source]
    return values, flat[:: len(parts)], places
