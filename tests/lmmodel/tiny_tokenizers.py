"""One small tokenizer of each kind, for any text, made without training."""

from __future__ import annotations

import string

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from lmdata.tokenizer import Tokenizer, wordpiece_backend

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "don", "can", "##not", "##s", "gon", "##na", "old")


def tiny_wordpiece() -> Tokenizer:
    """BERT's kind: a few words, and letters."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation, *"äß猫在家"]
    pieces = dict.fromkeys([*SPECIALS, *WORDS, *letters, *(f"##{c}" for c in letters)])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return Tokenizer(wordpiece_backend(vocabulary, lower_case=True))


def tiny_gpt2() -> Tokenizer:
    """GPT-2's kind: bytes, a few merges, no special tokens around texts."""
    backend = _byte_level()
    backend.add_special_tokens(["<|endoftext|>"])
    return Tokenizer(backend)


def tiny_modern() -> Tokenizer:
    """ModernBERT's kind: bytes, and special tokens around texts."""
    backend = _byte_level()
    backend.add_special_tokens(list(SPECIALS))
    ids = {piece: backend.token_to_id(piece) for piece in SPECIALS}
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(piece, ids[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    return Tokenizer(backend)


def tiny_unigram() -> Tokenizer:
    """SentencePiece's kind: a space is part of the piece behind it, also before a text."""
    letters = [(f"{c}", -4.0) for c in string.printable.strip() + "\u2581"]
    words = [(word, -2.0) for word in ("\u2581the", "\u2581cat", "\u2581do", "n't", "cat")]
    special = [(piece, 0.0) for piece in SPECIALS]
    backend = tokenizers.Tokenizer(models.Unigram([*special, *letters, *words], unk_id=1))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(list(SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return Tokenizer(backend)


def _byte_level() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("c", "a"),
        ("ca", "t"),
        ("Ġ", "cat"),
        ("d", "o"),
        ("Ġ", "do"),
        ("'", "t"),
        (".", ")"),
    ]
    pieces = [*alphabet, *(left + right for left, right in merges), "<|endoftext|>"]
    backend = tokenizers.Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return backend


TINY = {
    "wordpiece": tiny_wordpiece(),
    "gpt2": tiny_gpt2(),
    "modern": tiny_modern(),
    "unigram": tiny_unigram(),
}
