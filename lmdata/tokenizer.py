"""A tokenizer: where it comes from, what it is, what its pieces mean.

A tokenizer is one `tokenizers.Tokenizer` plus the facts that the rest of this project asks for. It
is read from any of the forms in use and always saved as a folder that `transformers.AutoTokenizer`
opens. Its identity is a hash of its rules and pieces, not of the file that held them.

The reference ids of a text are `backend.encode(text, add_special_tokens=False).ids`: special tokens
that are spelled out in a text stay text, nothing is truncated, padded or added.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models

from lmdata.errors import TokenizerError
from lmdata.files import write_atomically
from lmdata.tokenizer_classes import ask_tokenizers
from lmdata.tokenizer_classes import wordpiece_backend as wordpiece_backend
from lmdata.tokenizer_files import TOKENIZER_FILES as TOKENIZER_FILES
from lmdata.tokenizer_files import TOKENIZER_FOLDER as TOKENIZER_FOLDER
from lmdata.tokenizer_files import read_tokenizer_files
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
"""The special tokens by purpose, each with the spellings to look for among the pieces that are
declared special, where nothing else names them; the first found counts."""


class Tokenizer:
    """A `tokenizers.Tokenizer` with its identity and what its pieces mean.

    Args:
        backend: taken over: it will neither truncate nor pad, and read `[MASK]` in text as text
        special_tokens: spelling of special tokens by purpose (a key of SPECIAL_NAMES); where a
            purpose is left out, the usual spellings, if `backend` declares them special
        notes: what was changed when it was read, a sentence each

    Raises:
        TokenizerError: a named special token is not a piece
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
        *,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
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
    def quick_hash(self) -> str:
        """What one version of `tokenizers` tells it from all others by, in a tenth of the time."""
        written = self.backend.to_str() + repr(sorted(self.special_tokens.items()))
        return xxh3_128(written.encode("utf-8", "surrogatepass")).hexdigest()

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
        number, spellings = self.backend.token_to_id, self.special_tokens
        return {n: number(spellings[n]) if n in spellings else None for n in SPECIAL_NAMES}

    @functools.cached_property
    def sentinel_ids(self) -> npt.NDArray[np.int64]:
        """Ids of `<extra_id_0>`, `<extra_id_1>` and so on as far as there are any: int64 (N,)."""
        spellings = (f"<extra_id_{number}>" for number in itertools.count())
        found = map(self.backend.token_to_id, spellings)
        return np.array(list(itertools.takewhile(lambda i: i is not None, found)), np.int64)

    @functools.cached_property
    def is_special(self) -> npt.NDArray[np.bool_]:
        """Bool (V,): never drawn as a random piece, never masked but for the unknown piece."""
        special = np.zeros(self.vocab_size, np.bool_)
        added = self.backend.get_added_tokens_decoder()
        special[[index for index, token in added.items() if token.special]] = True
        special[[index for index in self.special_ids.values() if index is not None]] = True
        return special

    @functools.cached_property
    def is_piece(self) -> npt.NDArray[np.bool_]:
        """Bool (V,): whether an id has a piece; vocabularies of others leave some out."""
        return np.array([piece is not None for piece in self.pieces], np.bool_)

    @functools.cached_property
    def word_rule(self) -> WordRule:
        """Which pieces of a sequence go on with the word before: words are its pre-tokens.

        Raises:
            TokenizerError: the pieces of this kind of tokenizer do not tell
        """
        rule: WordRule = ask_tokenizers(
            "can't tell which pieces begin a word",
            lambda: find_word_rule(self.definition, self.pieces, self.is_special),
        )
        return rule

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


def twin(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Return a backend that makes the same ids of the same texts, without a post-processor.

    It shares the model, which may hold 150 MiB and take seconds to read.
    """
    own = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        own.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        own.pre_tokenizer = backend.pre_tokenizer
    added = backend.get_added_tokens_decoder()
    own.add_tokens([added[index] for index in sorted(added)])
    return own


def _restore(definition: str, special_tokens: dict[str, str]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(definition), special_tokens)


def _find_special_tokens(backend: tokenizers.Tokenizer, named: Mapping[str, str]) -> dict[str, str]:
    added = backend.get_added_tokens_decoder().values()
    declared = {token.content for token in added if token.special} - set(named.values())
    found = {}
    for name, spellings in SPECIAL_NAMES.items():
        if name in named and backend.token_to_id(named[name]) is None:
            raise TokenizerError(f"the {name} token {named[name]!r} is not a piece")
        present = [piece for piece in spellings if piece in declared]
        if name in named or present:
            found[name] = named.get(name) or present[0]
    return found


def load_tokenizer(
    path: str | Path, *, lower_case: bool | None = None, most_ids: int | None = None
) -> Tokenizer:
    """Return the tokenizer at a path, as `transformers.AutoTokenizer` would read it.

    Args:
        path: a folder, a dataset, a `tokenizer.json`, a `vocab.txt` (WordPiece), or `vocab.json` or
            `merges.txt`, with the other beside it (BPE)
        lower_case: for `vocab.txt` only, which does not say; by default what
            `tokenizer_config.json` beside it says, else whether no word has a capital letter
        most_ids: of the model that it is for: a special token that the folder names and that is no
            piece is left out where its id would be beyond; None: each is added

    Raises:
        TokenizerError: nothing is there, or it is not a tokenizer, or one of a class that can't be
            built from these files, or `lower_case` has no effect
    """
    files = read_tokenizer_files(Path(path), lower_case=lower_case, most_ids=most_ids)
    return Tokenizer(files.backend, files.special_tokens, notes=files.notes)


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
    write_atomically(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
    write_atomically(folder / "tokenizer_config.json", _dump(config))
    write_atomically(folder / "special_tokens_map.json", _dump(special))
    if tokenizer.definition["model"]["type"] == "WordPiece" and None not in tokenizer.pieces:
        write_atomically(folder / "vocab.txt", "".join(f"{piece}\n" for piece in tokenizer.pieces))


def _dump(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
