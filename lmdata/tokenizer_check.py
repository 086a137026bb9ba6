"""What is known of a tokenizer before an hour is spent on it: which path, how fast, what is odd."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoders.plain_encoding import I64, U8, PlainEncoder
from lmdata.encoding import check_encoding, make_encoder
from lmdata.ragged import offsets_of
from lmdata.sentences import find_sentence_starts
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmdata.tokenizer_classes import read_object, steps_of
from lmdata.tokenizer_files import find_tokenizer_file

SAMPLE_BYTES = 4 << 20
_PLAIN_BYTES = 64 << 10  # `tokenizers` takes a second for this where it is slowest
_OWN_SAMPLE = (
    "It was the first day of spring, and the children's garden (behind the old mill) was full of "
    "people: 1,234 of them! L'été dernier, à Zürich, naïve façades… Русский текст. हिन्दी में लिखा। "
    "中文维基百科。日本語の文章、カタカナ。ภาษาไทยไม่มีช่องว่าง\n\n\tdef f(x): return 'x'\n"
)
_PURPOSES = {"pad": "padding", "unk": "unknown", "cls": "begin", "sep": "separator", "mask": "mask"}


@dataclass(frozen=True, kw_only=True)
class TokenizerCheck:
    """What was found.

    Attributes:
        path: the file that says what the tokenizer is
        hash: its identity
        vocab_size: one more than the largest id
        encoder: the path that its text takes: word-cache, gigatoken or plain
        reason: why it takes it
        rules: model, normalizer and pre-tokenizer, by name
        sample: what was encoded
        sample_bytes: how much of it
        mb_per_s: on one core, once what is frequent is known
        plain_mb_per_s: of `tokenizers` on one core
        oddities: what is unusual in its files, a sentence each
    """

    path: str
    hash: str
    vocab_size: int
    encoder: str
    reason: str
    rules: dict[str, str]
    sample: str
    sample_bytes: int
    mb_per_s: float
    plain_mb_per_s: float
    oddities: tuple[str, ...]


def check_tokenizer(path: Path, corpus: Sequence[str] = ()) -> TokenizerCheck:
    """Return what is known of a tokenizer.

    Args:
        path: as `load_tokenizer` takes it
        corpus: files, folders or globs to take a sample of; without any, a few sentences of ours

    Raises:
        TokenizerError: it is no tokenizer that can be used, or fails on the sample
        CorpusError: there is no such file, or no text in it
    """
    source = find_tokenizer_file(path)
    tokenizer = load_tokenizer(path)
    text, offsets = _sample(corpus)
    encoder = make_encoder(tokenizer)
    mb_per_s, plain_mb_per_s = _measure(tokenizer, encoder, text, offsets)
    raw = read_object(source) if source.name == "tokenizer.json" else {}
    return TokenizerCheck(
        path=str(source), hash=tokenizer.hash, vocab_size=tokenizer.vocab_size,
        encoder=encoder.kind, reason=encoder.reason, rules=describe_rules(tokenizer.definition),
        sample=" ".join(corpus) or "sentences in nine scripts", sample_bytes=len(text),
        mb_per_s=mb_per_s, plain_mb_per_s=plain_mb_per_s,
        oddities=tuple(find_oddities(tokenizer, raw)),
    )  # fmt: skip


def _sample(corpus: Sequence[str]) -> tuple[U8, I64]:
    """Return text and offsets of the first documents, SAMPLE_BYTES at most."""
    texts: list[bytes] = []
    if not corpus:
        texts = [_OWN_SAMPLE.encode()] * 100
    for source in find_sources(corpus, CorpusConfig()) if corpus else ():
        for batch in read_documents(source, CorpusConfig(), batch_bytes=SAMPLE_BYTES):
            spans = itertools.pairwise(batch.offsets.tolist())
            texts += [batch.text[start:stop].tobytes() for start, stop in spans if stop > start]
            if sum(map(len, texts)) >= SAMPLE_BYTES:
                break
        if sum(map(len, texts)) >= SAMPLE_BYTES:
            break
    sizes = np.cumsum([len(text) for text in texts])
    kept = texts[: max(1, int(np.searchsorted(sizes, SAMPLE_BYTES)))]
    return np.frombuffer(b"".join(kept), np.uint8), offsets_of([len(text) for text in kept])


def _measure(tokenizer: Tokenizer, encoder: Any, text: U8, offsets: I64) -> tuple[float, float]:
    """Return the megabytes a second of an encoder and of `tokenizers`, after comparing their ids.

    Raises:
        TokenizerError: their ids differ
    """
    rows = max(1, int(np.searchsorted(offsets, _PLAIN_BYTES)) - 1)
    some = text[: offsets[rows]]
    starts = find_sentence_starts(some, offsets[: rows + 1])
    plain = PlainEncoder(tokenizer)
    begin = time.perf_counter()
    plain.encode(some, offsets[: rows + 1], starts)
    plain_s = time.perf_counter() - begin
    if encoder.kind == plain.kind:
        return len(some) / 1e6 / plain_s, len(some) / 1e6 / plain_s
    starts = find_sentence_starts(text, offsets)
    encoded = encoder.encode(text, offsets, starts)  # loads what is compiled
    check_encoding(tokenizer, text, offsets, encoded, np.arange(rows))
    begin = time.perf_counter()
    encoder.encode(text, offsets, starts)
    elapsed_s = time.perf_counter() - begin
    return len(text) / 1e6 / elapsed_s, len(some) / 1e6 / plain_s


def describe_rules(definition: dict[str, Any]) -> dict[str, str]:
    """Return model, normalizer and pre-tokenizer by name.

    Example:
        >>> describe_rules({"model": {"type": "BPE"}, "normalizer": {"type": "NFC"}})
        {'model': 'BPE', 'normalizer': 'NFC', 'pre-tok.': 'none'}
    """
    parts = {
        "normalizer": (definition.get("normalizer"), "normalizers"),
        "pre-tok.": (definition.get("pre_tokenizer"), "pretokenizers"),
    }
    names = {
        what: ", ".join(step["type"] for step in steps_of(part, name)) or "none"
        for what, (part, name) in parts.items()
    }
    return {"model": definition["model"]["type"], **names}


def find_oddities(tokenizer: Tokenizer, raw: dict[str, Any]) -> Iterator[str]:
    """Yield what is unusual about a tokenizer, a sentence each.

    Args:
        tokenizer: as it is used
        raw: the tokenizer.json as it lies on disk, empty where there is none
    """
    yield from tokenizer.notes
    if raw.get("truncation"):
        longest = raw["truncation"].get("max_length")
        yield f"truncation to {longest} tokens was left on; it is off here"
    if raw.get("padding"):
        yield "padding was left on; it is off here"
    missing = [what for name, what in _PURPOSES.items() if tokenizer.special_ids[name] is None]
    if missing:
        yield f"it has no special token for {', '.join(missing)}"
    gaps = int(np.count_nonzero(~tokenizer.is_piece))
    if gaps:
        yield f"{gaps:,} ids up to the largest have no piece"
    yield from _odd_pieces(tokenizer.definition)
    if tokenizer.find_word_rule() is None:
        yield "its pieces do not tell which begin a word: whole words can't be masked"


def _odd_pieces(definition: dict[str, Any]) -> Iterator[str]:
    model = definition["model"]
    vocabulary = model["vocab"]
    pieces = (
        list(vocabulary) if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
    )
    beyond = [
        token["content"] for token in definition["added_tokens"]
        if token["id"] >= len(pieces) + len(definition["added_tokens"])
    ]  # fmt: skip
    if beyond:
        yield f"the id of {beyond[0]!r} lies beyond vocabulary and added tokens"
    twice = [piece for piece, number in Counter(pieces).items() if number > 1]
    if twice:
        yield f"the piece {twice[0]!r} is there {pieces.count(twice[0])} times"
    if model["type"] == "BPE" and (unreached := _unreached(model)):
        yield f"{unreached:,} of its merges can't apply: no other makes their parts"


def _unreached(model: dict[str, Any]) -> int:
    """Return how many merges join pieces that no other merge makes, before or after them.

    Example:
        >>> merges = [["ab", "cd"], ["a", "b"], ["c", "d"], ["xy", "a"], ["xya", "b"]]
        >>> _unreached({"vocab": dict.fromkeys("abcdxy"), "merges": merges})
        2
    """
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    made = {
        piece for piece in model["vocab"]
        if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1
    }  # fmt: skip
    waiting: dict[str, list[tuple[str, str]]] = {}  # by a part that is not made yet
    ready = [(left, right) for left, right in model["merges"]]
    num_left = len(ready)
    while ready:
        left, right = ready.pop()
        missing = next((part for part in (left, right) if part not in made), None)
        if missing is not None:
            waiting.setdefault(missing, []).append((left, right))
            continue
        num_left -= 1
        whole = left + right.removeprefix(prefix)
        made.add(whole)
        ready += waiting.pop(whole, ())
    return num_left
