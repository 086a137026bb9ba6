"""A tokenizer: where it comes from, what it is, what its pieces mean.

A tokenizer is one `tokenizers.Tokenizer` plus the facts that the rest of this project asks for. It
is read from any of the forms in use and always saved as a folder that `transformers.AutoTokenizer`
opens. Its identity is a hash of its rules and pieces, not of the file that held them.

The reference ids of a text are `backend.encode(text, add_special_tokens=False).ids`: special tokens
that are spelled out in a text stay text, nothing is truncated, padded or added.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from lmdata.errors import TokenizerError
from lmdata.word_starts import WordRule, find_word_rule
from lmdata.xxh3 import xxh3_128

SPECIAL_NAMES: dict[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("[BOS]", "<s>", "<|endoftext|>"),
    "eos": ("[EOS]", "</s>", "<|endoftext|>"),
}
"""The special tokens by purpose, each with the spellings to look for, the first found counts."""

TOKENIZER_FOLDER = "tokenizer"
TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt",
})  # fmt: skip
"""Where a dataset keeps the tokenizer it was made with."""

BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class Tokenizer:
    """A `tokenizers.Tokenizer` with its identity and what its pieces mean.

    Args:
        backend: taken over: it will neither truncate nor pad, and read `[MASK]` in text as text
        special_tokens: spelling of special tokens by purpose (a key of SPECIAL_NAMES), where the
            usual spellings are not the right ones

    Raises:
        TokenizerError: a named special token is not a piece
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        self.backend = _settled(backend)
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        self.special_tokens = _find_special_tokens(self.backend, special_tokens or {})

    @functools.cached_property
    def definition(self) -> dict[str, Any]:
        """The parsed `tokenizer.json`."""
        parsed: dict[str, Any] = json.loads(self.backend.to_str())
        return parsed

    @functools.cached_property
    def hash(self) -> str:
        """Identity: xxh3_128, in hex, of rules, pieces and the purposes of special tokens."""
        facts = {"tokenizer": self.definition, "special_tokens": self.special_tokens}
        canonical = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return xxh3_128(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @functools.cached_property
    def pieces(self) -> tuple[str | None, ...]:
        """The spelling of every id, None where an id has no piece."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        spellings: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        for piece, index in vocabulary.items():
            spellings[index] = piece
        return tuple(spellings)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return len(self.pieces)

    @property
    def id_dtype(self) -> type[np.uint16] | type[np.uint32]:
        """The smallest type that the data format has for ids."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @property
    def special_ids(self) -> dict[str, int | None]:
        """Id of each special token by purpose (a key of SPECIAL_NAMES), None if absent."""
        found = {name: self.special_tokens.get(name) for name in SPECIAL_NAMES}
        return {
            name: None if piece is None else self.backend.token_to_id(piece)
            for name, piece in found.items()
        }

    @functools.cached_property
    def is_special(self) -> npt.NDArray[np.bool_]:
        """Bool (V,): never drawn as a random piece, never masked but for the unknown piece."""
        special = np.zeros(self.vocab_size, np.bool_)
        added = self.backend.get_added_tokens_decoder()
        special[[index for index, token in added.items() if token.special]] = True
        special[[index for index in self.special_ids.values() if index is not None]] = True
        return special

    @functools.cached_property
    def word_rule(self) -> WordRule:
        """Which pieces of a sequence go on with the word before: words are its pre-tokens.

        Raises:
            TokenizerError: the pieces of this kind of tokenizer do not tell
        """
        return find_word_rule(self.backend, self.definition, self.pieces, self.is_special)

    def find_word_rule(self) -> WordRule | None:
        """Return `word_rule`, None where the pieces of this kind of tokenizer do not tell."""
        try:
            return self.word_rule
        except TokenizerError:
            return None

    def require_special(self, name: str) -> int:
        """Return the id of a special token.

        Raises:
            TokenizerError: the tokenizer has none
        """
        index = self.special_ids[name]
        if index is None:
            spellings = " or ".join(SPECIAL_NAMES[name])
            raise TokenizerError(
                f"this tokenizer has no {name} token: it has no piece {spellings}; "
                f'add one, or name it as "{name}_token" in tokenizer_config.json'
            )
        return index

    def piece(self, index: int) -> str:
        """Return the spelling of one id.

        Raises:
            TokenizerError: there is no such id
        """
        spelling = self.pieces[index] if 0 <= index < self.vocab_size else None
        if spelling is None:
            raise TokenizerError(f"no piece has id {index}; ids go from 0 to {self.vocab_size - 1}")
        return spelling

    def decode(self, ids: npt.ArrayLike, *, skip_special_tokens: bool = False) -> str:
        """Return the text of some ids."""
        listed = np.asarray(ids).tolist()
        return str(self.backend.decode(listed, skip_special_tokens=skip_special_tokens))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.backend.to_str(), self.special_tokens)


def _settled(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a backend that comes out of its own tokenizer.json unchanged.

    `tokenizers` reads the scores of Unigram with an error of the last binary digit; written and
    read a few times, they stay.
    """
    if not isinstance(backend.model, models.Unigram):
        return backend
    written = backend.to_str()
    for _ in range(16):
        backend = tokenizers.Tokenizer.from_str(written)
        if backend.to_str() == written:
            return backend
        written = backend.to_str()
    raise TokenizerError("the scores of this Unigram tokenizer change whenever they are written")


def _restore(definition: str, special_tokens: dict[str, str]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(definition), special_tokens)


def _find_special_tokens(backend: tokenizers.Tokenizer, named: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, spellings in SPECIAL_NAMES.items():
        if name in named and backend.token_to_id(named[name]) is None:
            raise TokenizerError(f"the {name} token {named[name]!r} is not a piece")
        known = (named[name],) if name in named else spellings
        present = [piece for piece in known if backend.token_to_id(piece) is not None]
        if present:
            found[name] = present[0]
    return found


def load_tokenizer(path: str | Path, *, lower_case: bool | None = None) -> Tokenizer:
    """Return the tokenizer at a path.

    Args:
        path: a folder, a dataset, a `tokenizer.json`, a `vocab.txt` (WordPiece), or `vocab.json` or
            `merges.txt`, with the other beside it (byte-level BPE)
        lower_case: for `vocab.txt` only, which does not say; by default what
            `tokenizer_config.json` beside it says, else whether no word has a capital letter

    Raises:
        TokenizerError: nothing is there, or it is not a tokenizer, or `lower_case` has no effect
    """
    path = Path(path)
    source = _find_tokenizer_file(path)
    if lower_case is not None and source.suffix != ".txt":
        raise TokenizerError(f"{source} says itself whether it lower-cases; leave lower_case out")
    config = _read_json_beside(source, "tokenizer_config.json")
    if source.suffix == ".txt":
        backend = _read_vocab_txt(source, config, lower_case)
    elif source.name == "vocab.json":
        backend = _read_byte_level_bpe(source, source.with_name("merges.txt"))
    else:
        backend = _read_tokenizer_json(source)
    named = {**_read_json_beside(source, "special_tokens_map.json"), **config}
    return Tokenizer(backend, _named_special_tokens(named, backend))


def _find_tokenizer_file(path: Path) -> Path:
    """Return the tokenizer.json, vocab.txt or vocab.json that a path means."""
    if path.name == "merges.txt":
        path = path.with_name("vocab.json")
    if path.is_dir():
        names = ("tokenizer.json", "vocab.json", "vocab.txt")
        choices = [folder / name for folder in (path, path / TOKENIZER_FOLDER) for name in names]
        found = next((choice for choice in choices if choice.is_file()), None)
        if found is None:
            raise TokenizerError(f"{path} holds no tokenizer: none of {', '.join(names)} is there")
        return found
    if not path.is_file():
        raise TokenizerError(f"no tokenizer at {path}: no such file or folder")
    if path.suffix not in (".json", ".txt"):
        raise TokenizerError(
            f"{path} is not a tokenizer: expected tokenizer.json, vocab.txt, or vocab.json "
            "with merges.txt"
        )
    return path


def _read_json_beside(source: Path, name: str) -> dict[str, Any]:
    """Return the object in a neighbouring JSON file, empty where there is none."""
    path = source.with_name(name)
    if not path.is_file():
        return {}
    parsed = _read_json(path)
    if not isinstance(parsed, dict):
        raise TokenizerError(f"{path} is not a JSON object")
    return parsed


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from error


def _named_special_tokens(config: dict[str, Any], backend: tokenizers.Tokenizer) -> dict[str, str]:
    """Return what a Hugging Face configuration names as special tokens and the tokenizer has."""
    named = {}
    for name in SPECIAL_NAMES:
        value = config.get(f"{name}_token")
        spelling = value.get("content") if isinstance(value, dict) else value
        if isinstance(spelling, str) and backend.token_to_id(spelling) is not None:
            named[name] = spelling
    return named


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception for whatever is wrong
        raise TokenizerError(f"{path} is not a tokenizer.json: {error}") from error


def _read_byte_level_bpe(vocab_path: Path, merges_path: Path) -> tokenizers.Tokenizer:
    if not merges_path.is_file():
        raise TokenizerError(f"{vocab_path} needs {merges_path.name} beside it, which is not there")
    try:
        model = models.BPE.from_file(str(vocab_path), str(merges_path))
    except Exception as error:  # tokenizers raises plain Exception for whatever is wrong
        raise TokenizerError(f"{vocab_path} with {merges_path.name} is not BPE: {error}") from error
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if backend.token_to_id("<|endoftext|>") is not None:
        backend.add_special_tokens(["<|endoftext|>"])
    return backend


def _read_vocab_txt(
    path: Path, config: dict[str, Any], lower_case: bool | None
) -> tokenizers.Tokenizer:
    vocabulary = _read_pieces(path)
    if lower_case is None:
        lower_case = config.get("do_lower_case", not _has_capitals(vocabulary))
    return wordpiece_backend(
        vocabulary,
        lower_case=bool(lower_case),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )


def _read_pieces(path: Path) -> dict[str, int]:
    """Return the pieces of a vocab.txt, one a line; only a line feed ends a line."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from error
    pieces = [line.removesuffix("\r") for line in lines]
    if pieces[-1] == "":
        pieces.pop()
    vocabulary: dict[str, int] = {}
    for line, piece in enumerate(pieces):
        if vocabulary.setdefault(piece, line) != line:
            raise TokenizerError(f"{path}: line {line + 1} repeats the piece {piece!r}")
    if "[UNK]" not in vocabulary:
        raise TokenizerError(f"{path} is not a WordPiece vocabulary: it has no piece [UNK]")
    return vocabulary


def _has_capitals(vocabulary: Mapping[str, int]) -> bool:
    return any(piece.isalpha() and piece != piece.lower() for piece in vocabulary)


def wordpiece_backend(
    vocabulary: Mapping[str, int],
    *,
    lower_case: bool,
    strip_accents: bool | None = None,
    handle_chinese_chars: bool = True,
) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer for a vocabulary that has at least the piece `[UNK]`.

    Args:
        vocabulary: id of each piece
        lower_case: text is lower-cased first
        strip_accents: accents are removed first; None for what `lower_case` says
        handle_chinese_chars: every Chinese character is a word
    """
    backend = tokenizers.Tokenizer(models.WordPiece(dict(vocabulary), unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lower_case,
        strip_accents=strip_accents,
        handle_chinese_chars=handle_chinese_chars,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([piece for piece in BERT_SPECIALS if piece in vocabulary])
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        ends = [(piece, vocabulary[piece]) for piece in ("[SEP]", "[CLS]")]
        backend.post_processor = processors.BertProcessing(*ends)
    return backend


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write a tokenizer to a folder that `transformers.AutoTokenizer` opens.

    The files are tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for WordPiece,
    vocab.txt. The same tokenizer gives the same bytes.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    special = {f"{name}_token": piece for name, piece in sorted(tokenizer.special_tokens.items())}
    config = {
        **special,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": int(1e30),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
    _write(folder / "tokenizer_config.json", _dump(config))
    _write(folder / "special_tokens_map.json", _dump(special))
    if tokenizer.definition["model"]["type"] == "WordPiece":
        _write(folder / "vocab.txt", "".join(f"{piece}\n" for piece in tokenizer.pieces))


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8"))
