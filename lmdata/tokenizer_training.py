"""Train a tokenizer: WordPiece, byte-level BPE or Unigram, the same bytes every time."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from lmdata.building.plan import Choice, Extent, Unit
from lmdata.corpus import Documents, read_documents
from lmdata.encoders.cut_kernels import NUM_CLASSES, SPACE, WORD
from lmdata.encoders.cuts import CutRule
from lmdata.encoders.words import ascii_classes
from lmdata.encoding import RoundTrip, measure_round_trip
from lmdata.errors import TokenizerError
from lmdata.learning.counting import (
    CountingRule,
    DocumentBatch,
    Tally,
    WordCounts,
    count_words,
    split_text,
    sum_up,
    tally_words,
)
from lmdata.learning.merges import learn_merges
from lmdata.learning.safe_cuts import cut_chunks
from lmdata.learning.symbols import Symbols, choose_alphabet, split_into_symbols
from lmdata.learning.unigram import learn_unigram
from lmdata.reading.sources import Source
from lmdata.settings import CorpusConfig
from lmdata.settings import TokenizerConfig as TokenizerConfig
from lmdata.tokenizer import Tokenizer
from lmdata.tokenizer_classes import GPT4_RULE, split_bytes

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_MAX_WORDPIECE_CHARACTERS = 100  # BERT's: longer words are unknown whatever the vocabulary


class UnspacedTextError(TokenizerError):
    """No word of the text is short enough for WordPiece."""


@dataclass(frozen=True)
class Method:
    """What a kind of tokenizer needs to be trained.

    Attributes:
        rule: how raw words are counted
        make_backend: an untrained tokenizer: normalizer, pre-tokenizer, decoder, no pieces
        learn: counted pre-tokens -> the trained model and the number of its pieces
    """

    rule: CountingRule
    make_backend: Callable[[TokenizerConfig], tokenizers.Tokenizer]
    learn: Callable[[dict[str, int], TokenizerConfig], models.Model]


def train_tokenizer(
    batches: Iterable[DocumentBatch],
    config: TokenizerConfig,
    *,
    num_threads: int = 1,
    progress: Callable[[int], None] | None = None,
    report: Callable[[RoundTrip], None] | None = None,
) -> Tokenizer:
    """Return a tokenizer trained on documents, in whatever order and batches they come.

    Args:
        batches: the documents
        config: what to train
        num_threads: threads that count while this one reads; does not change the result
        progress: called with the number of bytes read so far
        report: called, at the end, with what comes back of the text that it was trained on

    Raises:
        TokenizerError: there is no text, or the vocabulary is too small for its alphabet, or
            larger than the text can fill, or text could spell a special token
    """
    backend = _new_backend(config)
    counts = count_words(
        batches, backend, _counting_rule(config, backend), max_bytes=config.max_training_bytes,
        num_threads=num_threads, progress=progress,
    )  # fmt: skip
    return _learn(backend, counts, config, report)


def learn_tokenizer(
    tallies: Iterable[Tally], config: TokenizerConfig,
    report: Callable[[RoundTrip], None] | None = None,
) -> Tokenizer:  # fmt: skip
    """Return the tokenizer of documents that were counted elsewhere, by `prepare_counts`.

    Raises:
        TokenizerError: as `train_tokenizer`
    """
    backend = _new_backend(config)
    rule = _counting_rule(config, backend)
    counts = sum_up(tallies, backend, rule, max_bytes=config.max_training_bytes)
    return _learn(backend, counts, config, report)


@dataclass(frozen=True)
class CountSetup:
    """What workers count by."""

    sources: list[Source]
    reading: CorpusConfig
    config: TokenizerConfig
    selection: Choice | None = None  # of the documents; None: every one is read


def prepare_counts(
    receive_setup: Callable[[], CountSetup],
) -> Callable[[Unit, Callable[[Any], None]], Tally]:
    """Return the work function of a worker: units in, their words out."""
    setup = receive_setup()

    def work(unit: Unit, report: Callable[[Any], None]) -> Tally:
        rule = _counting_rule(setup.config, METHODS[setup.config.model].make_backend(setup.config))
        batches = (batch for extent in unit.extents for batch in _read(setup, extent))
        return tally_words(batches, rule, setup.config.max_training_bytes)

    return work


def _read(setup: CountSetup, extent: Extent) -> Iterator[Documents]:
    source = setup.sources[extent.source]
    for batch in read_documents(source, setup.reading, start=extent.start, stop=extent.stop):
        if setup.selection is not None:
            batch = setup.selection.keep(source, extent.start, batch)
        yield batch


def _new_backend(config: TokenizerConfig) -> tokenizers.Tokenizer:
    backend = METHODS[config.model].make_backend(config)
    _check_no_text_spells(config.all_special_tokens, backend)
    return backend


def _learn(
    backend: tokenizers.Tokenizer, counts: WordCounts, config: TokenizerConfig,
    report: Callable[[RoundTrip], None] | None,
) -> Tokenizer:  # fmt: skip
    backend.model = METHODS[config.model].learn(counts.pre_tokens, config)
    _add_special_tokens(backend, config.all_special_tokens)
    tokenizer = Tokenizer(backend, config.purposes)
    if report is not None:
        words = counts.raw_words
        report(measure_round_trip(tokenizer, list(words), list(words.values())))
    return tokenizer


def _check_no_text_spells(special_tokens: Sequence[str], backend: tokenizers.Tokenizer) -> None:
    """Raise a TokenizerError if a special token is a word, and so could be a piece of text."""
    for token in special_tokens:
        if any(word.endswith(token) for word in split_text(backend, token)):
            raise TokenizerError(
                f"the special token {token!r} could be a word of the text; begin it with "
                "punctuation and put letters into it, as in [PAD] or <pad>"
            )


def _add_special_tokens(backend: tokenizers.Tokenizer, special_tokens: Sequence[str]) -> None:
    """Declare the special tokens and put them around texts and pairs, as BERT does."""
    backend.add_special_tokens(
        [tokenizers.AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    begin, separator = special_tokens[2:4]
    backend.post_processor = processors.TemplateProcessing(
        single=[begin, "$A", separator],
        pair=[begin, "$A", separator, "$B:1", f"{separator}:1"],
        special_tokens=[(begin, 2), (separator, 3)],
    )


def _make_wordpiece(config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Return an untrained WordPiece tokenizer that keeps every letter of every script.

    BERT's own takes away combining marks when it lower-cases, and always invisible characters,
    which spell words in Persian, Sinhala, Malayalam and others.
    """
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=config.special_tokens[1]))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=False, lowercase=config.is_lowercase, strip_accents=config.strip_accents
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _make_bpe(config: TokenizerConfig) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    if config.is_lowercase:
        backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if config.splits == "gpt4":
        backend.pre_tokenizer = split_bytes(GPT4_RULE)
    backend.decoder = decoders.ByteLevel()
    return backend


def _counting_rule(config: TokenizerConfig, backend: tokenizers.Tokenizer) -> CountingRule:
    """Return how raw words are counted; for other rules than GPT-2's, the tokenizer is asked."""
    rule = METHODS[config.model].rule
    if config.splits == "gpt2":
        return rule
    asked = CutRule(backend, {"added_tokens": []})
    assert asked.obstacle is None, asked.obstacle

    def learn_characters(text: U8, offsets: I64) -> I64:
        asked.learn(text)
        return offsets

    return dataclasses.replace(rule, classes=asked.classes, cut=learn_characters)


def _make_unigram(config: TokenizerConfig) -> tokenizers.Tokenizer:
    """Return an untrained Unigram tokenizer in which no text can spell a special token.

    A Unigram model finds any of its pieces in text, the special ones too. So what special tokens
    begin with is a word of its own. Text is brought to NFC, not to SentencePiece's NFKC, which
    takes letters of Thai and Lao apart.
    """
    backend = tokenizers.Tokenizer(models.Unigram())
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    if config.is_lowercase:
        steps.append(normalizers.Lowercase())
    steps.append(normalizers.Replace(tokenizers.Regex(r"\s+"), " "))
    backend.normalizer = normalizers.Sequence(steps)
    openings = sorted({token[0] for token in config.all_special_tokens} & set(string.punctuation))
    splits = [pre_tokenizers.Split(opening, "isolated") for opening in openings]
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), *splits])
    backend.decoder = decoders.Metaspace()
    return backend


def _learn_wordpiece(words: dict[str, int], config: TokenizerConfig) -> models.Model:
    short = {word: n for word, n in words.items() if len(word) <= _MAX_WORDPIECE_CHARACTERS}
    if words and not short:
        raise UnspacedTextError(
            f"every word of this text has more than {_MAX_WORDPIECE_CHARACTERS} characters, and "
            "WordPiece takes such words for unknown: text without spaces needs --model unigram "
            "or --model bpe"
        )
    alphabet = choose_alphabet(short, config.limit_alphabet, config.vocab_size)
    symbols = split_into_symbols(short, alphabet, continuing_prefix="##")
    names, _ = _learn_pieces(symbols, config, continuing_prefix="##")
    vocabulary = {name: number for number, name in enumerate(names)}
    return models.WordPiece(
        vocabulary,
        unk_token=config.special_tokens[1],
        max_input_chars_per_word=_MAX_WORDPIECE_CHARACTERS,
    )


def _learn_bpe(words: dict[str, int], config: TokenizerConfig) -> models.Model:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = split_into_symbols(words, alphabet, continuing_prefix="")
    names, merges = _learn_pieces(symbols, config, continuing_prefix="")
    return models.BPE({name: number for number, name in enumerate(names)}, merges)


def _learn_pieces(
    symbols: Symbols, config: TokenizerConfig, *, continuing_prefix: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the names of all pieces, special tokens first, and the merges.

    Raises:
        TokenizerError: the vocabulary is too small for its alphabet, or too large for the text
    """
    names = [*config.all_special_tokens, *symbols.names]
    _check_has_room(len(symbols.names), config)
    num_special = len(config.all_special_tokens)
    pairs, pieces = learn_merges(
        symbols.ids,
        symbols.offsets,
        symbols.counts,
        num_symbols=len(symbols.names),
        max_new_pieces=config.vocab_size - len(names),
        min_frequency=config.min_frequency,
    )
    merges = []
    for (left, right), piece in zip(pairs.tolist(), pieces.tolist(), strict=True):
        parts = names[num_special + left], names[num_special + right]
        merges.append(parts)
        if num_special + piece == len(names):
            names.append(parts[0] + parts[1].removeprefix(continuing_prefix))
    _check_is_filled(len(names), config, f"where pairs occur {config.min_frequency} times or more")
    return names, merges


def _check_has_room(num_symbols: int, config: TokenizerConfig) -> None:
    num_special = len(config.all_special_tokens)
    if config.vocab_size < num_special + num_symbols:
        remedy = "" if config.model == "bpe" else " or limit_alphabet to fewer characters"
        raise TokenizerError(
            f"vocab_size {config.vocab_size} is too small: {num_special} special tokens and an "
            f"alphabet of {num_symbols} symbols need {num_special + num_symbols}; "
            f"set vocab_size to at least that{remedy}"
        )


def _check_is_filled(num_pieces: int, config: TokenizerConfig, condition: str) -> None:
    if num_pieces < config.vocab_size and not config.allow_smaller:
        raise TokenizerError(
            f"vocab_size {config.vocab_size} is more than this text can fill: it gives "
            f"{num_pieces} pieces {condition}; set vocab_size to at most {num_pieces}, "
            "or train on more text"
        )


def _learn_unigram(words: dict[str, int], config: TokenizerConfig) -> models.Model:
    alphabet = choose_alphabet(words, config.limit_alphabet, config.vocab_size)
    _check_has_room(len(alphabet), config)
    num_special = len(config.all_special_tokens)
    pieces = learn_unigram(words, alphabet, config.vocab_size - num_special)
    _check_is_filled(num_special + len(pieces), config, "that occur in it twice or more")
    vocabulary: list[tuple[str, float]] = [(token, 0.0) for token in config.all_special_tokens]
    return models.Unigram([*vocabulary, *pieces], unk_id=1, byte_fallback=False)


def _white_space_classes() -> U8:
    classes = np.full(NUM_CLASSES, WORD, np.uint8)
    classes[[ord(character) for character in "\t\n\r "]] = SPACE
    return classes


def whole_documents(_text: U8, offsets: I64) -> I64:
    """Return the offsets of documents: their words can be told apart as they are."""
    return offsets


METHODS: dict[str, Method] = {
    "wordpiece": Method(
        CountingRule(
            classes=ascii_classes(),
            cut=whole_documents,
            plain=bytes.isalnum,  # ASCII letters and digits
            joiner=b" ",
            first="",
            whole=str.isalnum,  # neither white space nor punctuation
        ),
        _make_wordpiece,
        _learn_wordpiece,
    ),
    "bpe": Method(
        CountingRule(
            classes=np.full(NUM_CLASSES, WORD, np.uint8),
            cut=cut_chunks,
            plain=re.compile(rb" [!-~]+").fullmatch,
            joiner=b"",
            first="Ġ",
        ),
        _make_bpe,
        _learn_bpe,
    ),
    "unigram": Method(
        CountingRule(
            classes=_white_space_classes(),
            cut=whole_documents,
            plain=re.compile(rb"[!-~]+").fullmatch,
            joiner=b" ",
            first="▁",
        ),
        _make_unigram,
        _learn_unigram,
    ),
}
