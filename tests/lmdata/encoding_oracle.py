"""What an encoding should be, by `tokenizers` and a loop; and small tokenizers of every kind."""

from __future__ import annotations

import bisect
import functools

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lmdata.tokenizer import Tokenizer
from lmdata.tokenizer_classes import QWEN2_RULE

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
        inside = slice(
            bisect.bisect_right(sentence_starts, offsets[row]),
            bisect.bisect_left(sentence_starts, offsets[row + 1]),
        )
        bounds = [start - offsets[row] for start in sentence_starts[inside]]
        prefix = np.cumsum([0] + [len(character.encode()) for character in document])
        counts, latest = {}, 0
        for start, _ in encoding.offsets:
            latest = max(latest, prefix[start])
            sentence = bisect.bisect_right(bounds, latest)
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


LLAMA3_RULE = QWEN2_RULE.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT4O_RULE = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split_bytes(rule):
    """Return a pre-tokenizer that cuts by a regular expression and spells bytes."""
    split = pre_tokenizers.Split(tokenizers.Regex(rule), "isolated")
    return pre_tokenizers.Sequence([split, as_bytes(use_regex=False)])


def as_bytes(*, use_regex=True, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


@functools.cache
def charsmap():
    """Return a map as SentencePiece has it: white space, ligatures, accents that are put together.

    It is a darts-clone double array (Yata 2008) of a few keys, made here.
    """
    mapped = {
        "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": " ",
        "\ufb01": "fi",
        "\u2460": "1", "e\u0301": "\u00e9", "\uff21": "A", "\u00a8": " \u0308", "\u00ad": "",
        "\u0e33": "\u0e4d\u0e32", "\u304b\u3099": "\u304c",
    }  # fmt: skip
    return double_array({key.encode(): value.encode() for key, value in mapped.items()})


def double_array(mapped):
    """Return a precompiled_charsmap of a few keys: size of the trie, its units, the values."""
    values = b"".join(value + b"\0" for value in mapped.values())
    places = dict(
        zip(mapped, np.cumsum([0, *(len(v) + 1 for v in mapped.values())])[:-1].tolist(),
            strict=True)
    )  # fmt: skip
    units, used, bases = {0: 0}, {0}, set()

    def place(unit, prefix):
        children = sorted({key[len(prefix)] for key in mapped if key != prefix
                           and key.startswith(prefix)})  # fmt: skip
        is_key = prefix in mapped
        labels = ([0] if is_key else []) + children
        offset = next(
            base for base in range(1, 1 << 20)
            if base not in bases and all((base ^ label) not in used for label in labels)
        ) if labels else 0  # fmt: skip
        # darts: children of `unit` lie at unit ^ offset ^ label
        base = offset
        bases.add(base)
        used.update(base ^ label for label in labels)
        units[unit] = units.get(unit, 0) | ((unit ^ base) << 10) | (is_key << 8)
        if is_key:
            units[base] = places[prefix] | 1 << 31
        for label in children:
            units[base ^ label] = label
        for label in children:
            place(base ^ label, prefix + bytes([label]))

    place(0, b"")
    size = 256 * (max(units) // 256 + 1)
    array = np.zeros(size, np.uint32)
    for unit, value in units.items():
        array[unit] = value
    return array.nbytes.to_bytes(4, "little") + array.tobytes() + values


SPACES = normalizers.Replace(tokenizers.Regex(" {2,}"), " ")
METASPACE = pre_tokenizers.Metaspace(prepend_scheme="always")
WORDS = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE])
IN_SEQUENCE = normalizers.Sequence


def published_rules():
    """Return normalizer, pre-tokenizer and model of each kind, by name."""
    precompiled = normalizers.Precompiled(charsmap())
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    albert = [*quotes, normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), as_bytes()])
    first = pre_tokenizers.Metaspace(prepend_scheme="first")
    return {
        "t5": (precompiled, WORDS, "unigram"),
        "xlm-r": (IN_SEQUENCE([precompiled, SPACES]), METASPACE, "unigram"),
        "albert": (IN_SEQUENCE([*albert, SPACES]), WORDS, "unigram"),
        "camembert": (IN_SEQUENCE([precompiled, SPACES]), WORDS, "unigram"),
        "deberta-v3": (
            IN_SEQUENCE([normalizers.Strip(), precompiled, SPACES]), METASPACE, "unigram"),
        "our-unigram": (normalizers.NFC(), METASPACE, "unigram"),
        "first": (None, first, "unigram"),
        "nfkc-unigram": (normalizers.NFKC(), METASPACE, "unigram"),
        "metaspace-bpe": (normalizers.NFKC(), METASPACE, "bpe"),
        "byte-fallback": (None, first, "byte-fallback"),
        "roberta-prefix": (None, as_bytes(add_prefix_space=True), "byte-level"),
        "modernbert": (normalizers.NFC(), as_bytes(), "byte-level"),
        "nfkc": (normalizers.NFKC(), as_bytes(), "byte-level"),
        "lower": (IN_SEQUENCE([normalizers.NFD(), normalizers.Lowercase(),
                               normalizers.StripAccents()]), as_bytes(), "byte-level"),
        "llama3": (None, split_bytes(LLAMA3_RULE), "byte-level"),
        "gpt4o": (None, split_bytes(GPT4O_RULE), "byte-level"),
        "qwen2": (normalizers.NFC(), split_bytes(QWEN2_RULE), "byte-level"),
        "starcoder": (None, digits, "byte-level"),
        "bert-bpe": (normalizers.BertNormalizer(lowercase=True),
                     pre_tokenizers.BertPreTokenizer(), "bpe"),
        "bert-nfkc": (normalizers.NFKC(), pre_tokenizers.BertPreTokenizer(), "wordpiece"),
        "words": (None, pre_tokenizers.Whitespace(), "wordpiece"),
    }  # fmt: skip


@functools.cache
def published(name):
    """Return a small tokenizer with the rules of a published one."""
    normalizer, pre_tokenizer, model = published_rules()[name]
    kinds = {"bpe": models.BPE(unk_token="[UNK]"), "byte-level": models.BPE(),
             "byte-fallback": models.BPE(unk_token="[UNK]", byte_fallback=True, fuse_unk=True),
             "wordpiece": models.WordPiece(unk_token="[UNK]"),
             "unigram": models.Unigram()}  # fmt: skip
    backend = tokenizers.Tokenizer(kinds[model])
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    given = {"vocab_size": 503, "special_tokens": SPECIALS, "show_progress": False}
    if model == "unigram":
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **given)
    elif model == "wordpiece":
        trainer = trainers.WordPieceTrainer(**given)
    else:
        spelled = [f"<0x{byte:02X}>" for byte in range(256)] if model == "byte-fallback" else []
        alphabet = pre_tokenizers.ByteLevel.alphabet() if model == "byte-level" else []
        given["special_tokens"] = SPECIALS + spelled
        given["vocab_size"] += len(spelled)
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **given)
    backend.train_from_iterator(SAMPLE, trainer)
    return Tokenizer(backend)
