"""What can be set about corpora, tokenizers and token stores, as data that is checked.

Nothing heavy is imported here, so that a wrong setting is answered at once.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

Format = Literal["txt", "jsonl", "parquet", "arrow", "csv", "tsv", "warc", "html"]
WEB_FORMATS: frozenset[Format] = frozenset({"warc", "html"})  # read only where they are named
Compression = Literal["gz", "zst", "xz", "bz2"]

FORMATS: dict[str, Format] = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".warc": "warc",
    ".wet": "warc",
    ".html": "html",
    ".htm": "html",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}
Model = Literal["wordpiece", "bpe", "unigram"]
Splits = Literal["gpt2", "gpt4"]
Rewrite = Literal["mojibake", "nfc", "nfkc", "c4-lines", "boilerplate"]
LATE = {"is_late": True}  # of settings that manifests leave out where they are None
DEFAULT_SHARD_BYTES = 256_000_000
DEFAULT_TOKENIZER = Path("tokenizer")  # taken where it is there, else made
WIDE_JACCARD = 0.5  # from which on documents are of one component

# Codecs of Python that are no encoding of a file: escapes of source code, parts of host names.
_NOT_OF_FILES = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """How files become documents."""

    text_field: str = "text"
    """Name of the JSON field or table column that holds the text."""

    documents: Literal["file", "blank-line", "line"] = "file"
    """What one document is in a .txt file: the file, the lines between blank lines, or a line."""

    encoding: str = "utf-8"
    """A Python codec name, or "auto": what the byte-order mark says, else UTF-8."""

    errors: Literal["strict", "replace", "skip"] = "strict"
    """Undecodable bytes stop the run, become U+FFFD, or (like every broken record) drop the
    document, which the ledger then counts by reason."""

    stdin_format: str = "auto"
    """What `-` reads: a file name extension such as "jsonl" or "jsonl.zst", or "auto": what the
    first bytes say (JSON lines, a table, compressed or not), else text."""

    max_document_bytes: int = 64 << 20
    """Longest document (or JSON or table record) to accept, in bytes. A reader takes about three
    times the larger of `batch_bytes` and the longest document, in each worker: the default fits
    two workers into 1 GiB. Raise it together with the memory budget."""

    rewrites: tuple[Rewrite, ...] | None = field(default=None, metadata=LATE)
    """What is changed in the text, in this order; `lmdata.reading.rewrites` defines it."""

    def __post_init__(self) -> None:
        if self.max_document_bytes < 1:
            raise ValueError(
                f"max_document_bytes must be at least 1, got {self.max_document_bytes}"
            )
        if not self.text_field:
            raise ValueError("text_field must not be empty")
        if self.encoding != "auto" and not _is_text_encoding(self.encoding):
            raise ValueError(
                "encoding must be a Python codec of text such as utf-8, cp932 or latin-1, or auto, "
                f"got {self.encoding!r}"
            )
        if self.stdin_format != "auto":
            stdin_kind(self.stdin_format)


def _is_text_encoding(name: str) -> bool:
    try:
        "".encode(name)
        return codecs.lookup(name).name not in _NOT_OF_FILES
    except (LookupError, ValueError):
        return False


def parse_extensions(name: str) -> tuple[Format, Compression | None] | None:
    """Return the format and compression that a file name tells, or None.

    Example:
        >>> parse_extensions("wiki.JSONL.zst"), parse_extensions("notes.txt")
        (('jsonl', 'zst'), ('txt', None))
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(name).suffixes]
    compression = (
        COMPRESSIONS.get(suffixes.pop())
        if suffixes[-1:] and (suffixes[-1] in COMPRESSIONS)
        else None
    )
    format_ = FORMATS.get(suffixes[-1]) if suffixes else None
    return (format_, compression) if format_ else None


def stdin_kind(ending: str) -> tuple[Format, Compression | None]:
    """Return what `stdin_format` says of standard input, or raise a ValueError."""
    kind = parse_extensions(f"stdin.{ending}")
    if kind is None:
        raise ValueError(f"stdin_format must be one of {known_extensions()}, got {ending!r}")
    return kind


def known_extensions() -> str:
    """Return the endings of names that tell a format, for messages."""
    return f"{' '.join(FORMATS)}, each also with {' '.join(COMPRESSIONS)}"


@dataclass(frozen=True, kw_only=True)
class OwnWords:
    """What tells text of a corpus from noise: derived from it, or given."""

    stop_words: tuple[str, ...]
    """Words of which a document holds two different ones at least, 63 at most."""

    length: float = 5.0
    """Characters of a word, on average over the corpus."""

    def __post_init__(self) -> None:
        if not 2 <= len(set(self.stop_words)) == len(self.stop_words) < 64:
            raise ValueError(
                f"stop_words must be from 2 to 63 different words, got {len(self.stop_words)}, "
                f"{len(set(self.stop_words))} of them different"
            )
        if not self.length > 0:
            raise ValueError(f"length must be above 0, got {self.length}")


@dataclass(frozen=True, kw_only=True)
class TagConfig:
    """What tags are made of; every field changes the result."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """How files become documents."""

    words: Literal["plain", "spacy"] = "plain"
    """How text is cut into words; spacy, which must be installed, gives datatrove's figures."""

    language: Literal["none", "py3langid"] = "none"
    """What tells the language of a document; py3langid must be installed."""

    language_model: str | None = field(default=None, metadata=LATE)
    """File of a fastText model that tells the language instead."""

    paragraph_languages: bool | None = field(default=None, metadata=LATE)
    """Whether the language of each line is told too."""

    rules: tuple[str, ...] | None = field(default=None, metadata=LATE)
    """Names of rules that are measured beside those that always are: variants, languages."""

    own_words: OwnWords | None = field(default=None, metadata=LATE)
    """Words that the rule `gopher_quality_own` looks for."""

    near_jaccard: float = 0.8
    """Share of 5-word shingles from which on two documents are near duplicates, in (0.5, 1]."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Target size of a shard in bytes."""

    def __post_init__(self) -> None:
        if not WIDE_JACCARD < self.near_jaccard <= 1:
            raise ValueError(
                f"near_jaccard must be above {WIDE_JACCARD} and at most 1, got {self.near_jaccard}"
            )
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, got {self.shard_bytes}")
        if self.language_model and self.language != "none":
            raise ValueError(
                f"language={self.language} and language_model both tell languages: leave one out"
            )
        if self.paragraph_languages and not self.tells_languages:
            raise ValueError(
                "paragraph_languages needs what tells languages: --language py3langid, or "
                "--language-model with a file"
            )

    @property
    def tells_languages(self) -> bool:
        """Whether documents are told the language of."""
        return self.language != "none" or self.language_model is not None


@dataclass(frozen=True, kw_only=True)
class TokenizeConfig:
    """How a corpus becomes a token store; every field changes the result."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    """How files become documents."""

    sentences: Literal["rules", "lines", "none"] = "rules"
    """Where sentences end: by rules, at line ends, or nowhere (a document is one sentence)."""

    validation_ratio: float = 0.01
    """Share of documents in the validation split, in [0, 1)."""

    test_ratio: float = 0.0
    """Share of documents in the test split, in [0, 1)."""

    seed: int = 0
    """Which documents are held out, in [0, 2**63)."""

    shard_bytes: int = DEFAULT_SHARD_BYTES
    """Target size of a shard in bytes; only a single document may make one larger."""

    def __post_init__(self) -> None:
        for name in ("validation_ratio", "test_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.validation_ratio + self.test_ratio >= 1:
            raise ValueError(
                f"validation_ratio + test_ratio must be below 1, got "
                f"{self.validation_ratio} + {self.test_ratio}: nothing is left to train on"
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if self.shard_bytes < 1:
            raise ValueError(f"shard_bytes must be at least 1, got {self.shard_bytes}")

    @property
    def split_ratios(self) -> dict[str, float]:
        """The share of documents of each split that exists, train first."""
        held_out = {"validation": self.validation_ratio, "test": self.test_ratio}
        present = {split: ratio for split, ratio in held_out.items() if ratio > 0}
        return {"train": 1 - sum(present.values()), **present}


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What tokenizer to train.

    Attributes:
        model: "wordpiece" (BERT), "bpe" (byte level, GPT-2) or "unigram" (SentencePiece, ALBERT)
        vocab_size: number of pieces, special tokens and alphabet included
        lowercase: make all text lower case; None: only WordPiece
        strip_accents: take all combining marks away, as BERT's uncased models do; accents of Latin
            letters, but also vowels of Thai and Hindi and the parts of Korean; WordPiece only
        min_frequency: a pair of pieces that occurs less often is not joined, >= 1; not for unigram
        special_tokens: padding, unknown, begin, separator and mask, in this order, then any others;
            they get the first ids
        num_sentinels: special tokens `<extra_id_0>`, `<extra_id_1>` and so on behind those, which
            stand for left out spans in T5
        splits: rules that cut text before pieces are learned: "gpt2", or "gpt4", which joins
            punctuation to letters, line ends to punctuation and cuts numbers in threes; bpe only
        limit_alphabet: keep that many characters, the most frequent ones; None: as
            `choose_alphabet` says; byte-level BPE has the 256 bytes and ignores nothing
        allow_smaller: where the text can't fill the vocabulary, make a smaller one, not an error
        max_training_bytes: train on a sample of whole documents of at most this size
    """

    model: Model = "wordpiece"
    vocab_size: int = 30522
    lowercase: bool | None = None
    strip_accents: bool = False
    min_frequency: int = 2
    special_tokens: tuple[str, ...] = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    num_sentinels: int = 0
    splits: Splits = "gpt2"
    limit_alphabet: int | None = None
    allow_smaller: bool = False
    max_training_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.model not in get_args(Model):
            models = ", ".join(get_args(Model))
            raise ValueError(f"model must be one of {models}, got {self.model!r}")
        for name in ("vocab_size", "min_frequency", "limit_alphabet", "max_training_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.model == "bpe" and self.limit_alphabet is not None:
            raise ValueError("limit_alphabet has no effect on bpe, whose alphabet is the 256 bytes")
        if self.splits not in get_args(Splits):
            choices = ", ".join(get_args(Splits))
            raise ValueError(f"splits must be one of {choices}, got {self.splits!r}")
        if self.model != "bpe" and self.splits != "gpt2":
            raise ValueError(f"splits has no effect on {self.model}: leave it out")
        if not 0 <= self.num_sentinels < 10_000:
            raise ValueError(f"num_sentinels must be from 0 to 9,999, got {self.num_sentinels}")
        if self.model == "unigram" and self.min_frequency != 2:
            raise ValueError("min_frequency has no effect on unigram: leave it out")
        if self.model != "wordpiece" and self.strip_accents:
            raise ValueError(f"strip_accents has no effect on {self.model}: leave it out")
        self._check_special_tokens()

    def _check_special_tokens(self) -> None:
        tokens = self.all_special_tokens
        if len(self.special_tokens) < 5 or "" in tokens:
            raise ValueError(
                "special_tokens must name padding, unknown, begin, separator and mask, in this "
                f"order, got {list(self.special_tokens)}"
            )
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        if twice:
            raise ValueError(f"special_tokens must all differ, got {twice[0]!r} more than once")

    @property
    def all_special_tokens(self) -> tuple[str, ...]:
        """The special tokens with the sentinels."""
        sentinels = (f"<extra_id_{number}>" for number in range(self.num_sentinels))
        return (*self.special_tokens, *sentinels)

    @property
    def purposes(self) -> dict[str, str]:
        """The special tokens by purpose; in a causal model, begin and separator end documents."""
        names = ("pad", "unk", "cls", "sep", "mask")
        purposes = dict(zip(names, self.special_tokens, strict=False))
        return {**purposes, "bos": purposes["cls"], "eos": purposes["sep"]}

    @property
    def is_lowercase(self) -> bool:
        """Whether text becomes lower case."""
        return self.model == "wordpiece" if self.lowercase is None else self.lowercase
