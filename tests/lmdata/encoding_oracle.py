"""What an encoding should be, by `tokenizers` and a loop; and small tokenizers of every kind."""

from __future__ import annotations

import functools

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lmdata.tokenizer import Tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SAMPLE = [
    "The quick brown fox jumps over the lazy dog; it's 1,234.56 km away (really!).",
    "Déjà vu: naïve façade, Ångström & Übergröße — “quoted” … 100 % sure?",
    "中文维基百科是维基百科协作计划的中文版本。日本語の文章、カタカナとひらがな。한국어",
    "Русский текст; हिन्दी में लिखा हुआ। ภาษาไทยไม่มีช่องว่าง العربية؟ emoji 😀👩‍👩‍👧 [MASK] end",
] * 4


@functools.cache
def trained(kind: str) -> Tokenizer:
    """Return a small tokenizer: wordpiece, wordpiece-cased, byte-level, bpe or unigram."""
    return Tokenizer(_train(kind))


def _train(kind: str) -> tokenizers.Tokenizer:
    if kind.startswith("wordpiece"):
        backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=kind == "wordpiece")
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=311, special_tokens=SPECIALS, show_progress=False
        )
    elif kind == "byte-level":
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=409,
            special_tokens=["<|endoftext|>", "[MASK]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    elif kind == "bpe":
        backend = tokenizers.Tokenizer(models.BPE(unk_token="[UNK]"))
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=409, special_tokens=SPECIALS, show_progress=False)
    else:
        backend = tokenizers.Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=401, special_tokens=SPECIALS, unk_token="[UNK]", show_progress=False
        )
    backend.train_from_iterator(SAMPLE, trainer)
    return backend


def packed(documents):
    """Return text and offsets, as `lmdata.corpus.Documents` has them."""
    raw = [document.encode() for document in documents]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in raw])]).astype(np.int64)
    return np.frombuffer(b"".join(raw), np.uint8), offsets


def starts_with(text, offsets, more):
    """Return sentence starts: those of documents, and the beginnings of characters near `more`."""
    begins = np.append(np.flatnonzero((text & 0xC0) != 0x80), len(text))
    chosen = begins[np.searchsorted(begins, np.asarray(more, np.int64))]
    documents = offsets[:-1][np.diff(offsets) > 0]
    return np.unique(np.concatenate([documents, chosen[chosen < len(text)]])).astype(np.int64)


def reference(backend, documents, offsets, sentence_starts):
    """Return ids and sentence lengths of each document, one document and token at a time."""
    ids, lengths = [], []
    for row, document in enumerate(documents):
        encoding = backend.encode(document, add_special_tokens=False)
        bounds = [s - offsets[row] for s in sentence_starts if s < offsets[row + 1]][1:]
        prefix = np.cumsum([0] + [len(character.encode()) for character in document])
        counts, latest = {}, 0
        for start, _ in encoding.offsets:
            latest = max(latest, prefix[start])
            sentence = sum(0 < bound <= latest for bound in bounds)
            counts[sentence] = counts.get(sentence, 0) + 1
        ids.append(encoding.ids)
        lengths.append([count for _, count in sorted(counts.items())])
    return ids, lengths


def assert_is_reference(tokenizer, encoder, documents, more_starts=()):
    """Encode documents and compare ids, dtype and sentences with `reference`."""
    text, offsets = packed(documents)
    starts = starts_with(text, offsets, more_starts)
    encoded = encoder.encode(text, offsets, starts)
    ids, lengths = reference(tokenizer.backend, documents, offsets, starts.tolist())
    assert encoded.ids.dtype == tokenizer.id_dtype
    assert encoded.sentence_lengths.dtype == np.uint32
    assert len(encoded.document_offsets) == len(encoded.sentence_offsets) == len(documents) + 1
    for row, document in enumerate(documents):
        start, stop = encoded.document_offsets[row : row + 2]
        assert encoded.ids[start:stop].tolist() == ids[row], document
        start, stop = encoded.sentence_offsets[row : row + 2]
        assert encoded.sentence_lengths[start:stop].tolist() == lengths[row], document
    assert len(encoded.ids) == encoded.document_offsets[-1]
