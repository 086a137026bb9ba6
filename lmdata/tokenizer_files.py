"""The tokenizer that a file or folder describes, as `transformers.AutoTokenizer` reads it.

A folder says what its tokenizer is in up to seven files, and some of them overrule others. All of
it is read here, checked by arithmetic before `tokenizers` sees it, and refused by name where the
class that it names does more than the files say.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lmdata.errors import TokenizerError
from lmdata.tokenizer_classes import (
    BERT_CLASSES,
    BERT_SPECIALS,
    GPT2_CLASSES,
    ask_tokenizers,
    check_ids,
    read_bpe,
    read_flag,
    read_object,
    read_vocab_txt,
    spelling_of,
    steps_of,
)

TOKENIZER_FOLDER = "tokenizer"
"""Where a dataset keeps the tokenizer it was made with."""
TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt",
})  # fmt: skip

PURPOSES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")
_IN_ORDER_OF_IDS = (
    "bos",
    "eos",
    "unk",
    "sep",
    "pad",
    "cls",
    "mask",
)  # as `AutoTokenizer` adds them

_MOST_GROWTH = 64  # times that a normalizer may lengthen a text
_MOST_WORD_CHARACTERS = 1000  # `tokenizers` takes the cube of a word's length


@dataclass(frozen=True)
class TokenizerFiles:
    """What was read.

    Attributes:
        backend: the rules and pieces
        special_tokens: spelling of special tokens by purpose, as far as the files name them
        notes: what was changed, a sentence each
    """

    backend: tokenizers.Tokenizer
    special_tokens: dict[str, str]
    notes: tuple[str, ...] = ()


def read_tokenizer_files(
    path: Path, *, lower_case: bool | None = None, most_ids: int | None = None
) -> TokenizerFiles:
    """Return the tokenizer that a path means.

    Args:
        path: a folder, a dataset, a `tokenizer.json`, a `vocab.txt` (WordPiece), or `vocab.json` or
            `merges.txt`, with the other beside it (BPE)
        lower_case: for `vocab.txt` only, which does not say
        most_ids: special tokens that are named and no pieces are added up to so many; None: all

    Raises:
        TokenizerError: nothing is there, or it is not a tokenizer, or one that can't be built
    """
    source = find_tokenizer_file(path)
    if lower_case is not None and source.suffix != ".txt":
        raise TokenizerError(f"{source} says itself whether it lower-cases; leave lower_case out")
    config = _read_beside(source, "tokenizer_config.json")
    named = {**_read_beside(source, "special_tokens_map.json"), **config}
    class_name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    notes: tuple[str, ...] = ()
    if source.suffix == ".txt":
        backend, defaults = read_vocab_txt(source, class_name, named, lower_case), BERT_SPECIALS
    elif source.name == "vocab.json":
        backend, defaults = read_bpe(source, class_name, named)
    else:
        backend, notes = _read_tokenizer_json(source, class_name, config)
        defaults = {}
    missing = _find_missing(backend, named)
    named = {**{f"{purpose}_token": token for purpose, token in defaults.items()}, **named}
    _add_tokens(source, backend, named)  # first: those that are special may lie there
    missing = [token for token in missing if backend.token_to_id(token) is None]
    room = len(missing) if most_ids is None else max(most_ids - backend.get_vocab_size(), 0)
    added, beyond = missing[:room], missing[room:]
    backend.add_special_tokens(added)
    for tokens, fate in ((added, "added"), (beyond, "left out, as the model has no row for it")):
        if tokens:
            notes += (f"{source.parent}: {', '.join(tokens)} is named and no piece: {fate}",)
    named = {name: token for name, token in named.items() if spelling_of(token) not in beyond}
    special = _named_special_tokens(named, backend, defaults)
    plain = set(special.values()) - _added_tokens(backend)
    backend.add_special_tokens(sorted(plain, key=lambda token: backend.token_to_id(token) or 0))
    return TokenizerFiles(backend, special, notes)


def find_tokenizer_file(path: Path) -> Path:
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


def _read_beside(source: Path, name: str) -> dict[str, Any]:
    """Return the object in a neighbouring JSON file, empty where there is none."""
    path = source.with_name(name)
    return read_object(path) if path.is_file() else {}


def _named_special_tokens(
    config: Mapping[str, Any], backend: tokenizers.Tokenizer, defaults: Mapping[str, str]
) -> dict[str, str]:
    """Return the special tokens that are named, or are a class's own, and that are pieces."""
    named: dict[str, str] = {}
    for purpose in PURPOSES:
        key = f"{purpose}_token"
        spellings = [spelling_of(config.get(key)), defaults.get(purpose)]
        for spelling in spellings:
            if spelling is not None and backend.token_to_id(spelling) is not None:
                named.setdefault(purpose, spelling)
    return named


def _find_missing(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> list[str]:
    """Return special tokens that a folder names and are no pieces, which `AutoTokenizer` adds."""
    spellings = [spelling_of(config.get(f"{purpose}_token")) for purpose in _IN_ORDER_OF_IDS]
    return [s for s in dict.fromkeys(spellings) if s and backend.token_to_id(s) is None]


def _added_tokens(backend: tokenizers.Tokenizer) -> set[str]:
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def _add_tokens(source: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that are described beside the vocabulary, under the ids they have there.

    Raises:
        TokenizerError: one would get another id
    """
    there = _added_tokens(backend)
    for index, token in sorted(_described_tokens(source, config).items()):
        if token.content in there:
            continue
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != index:
            raise TokenizerError(
                f"{source.parent}: the added token {token.content!r} should have id {index}, but "
                f"the vocabulary gives it {found}; pieces between them are missing"
            )


def _described_tokens(source: Path, config: Mapping[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """Return the tokens of `added_tokens.json` and `added_tokens_decoder`, by id."""
    more = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    named = [config.get(f"{purpose}_token") for purpose in PURPOSES]
    special = {spelling_of(token) for token in (*named, *(more if isinstance(more, list) else ()))}
    found = {}
    for spelling, index in _read_beside(source, "added_tokens.json").items():
        found[index] = tokenizers.AddedToken(
            spelling, special=spelling in special, normalized=spelling not in special
        )
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    decoder = config.get("added_tokens_decoder") or {}
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(token, dict) and spelling_of(token) and str(index).isdecimal():
            given = {flag: bool(token[flag]) for flag in flags if flag in token}
            found[int(index)] = tokenizers.AddedToken(spelling_of(token), **given)
    if not all(isinstance(index, int) for index in found):
        raise TokenizerError(f"{source.with_name('added_tokens.json')}: ids must be whole numbers")
    return found


def _read_tokenizer_json(
    path: Path, class_name: str, config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, tuple[str, ...]]:
    definition = read_object(path)
    notes = []
    try:
        _check_definition(path, definition)
        if _follow_config(path, definition, class_name, config):
            notes.append(f"{path.parent}: tokenizer_config.json overrules tokenizer.json")
        if definition["model"].get("dropout"):
            definition["model"]["dropout"] = None
            notes.append(f"{path}: dropout, which gives other ids each time, is switched off")
        text = json.dumps(definition) if notes else path.read_text(encoding="utf-8")
    except KeyError as error:
        raise TokenizerError(f"{path} is not a tokenizer.json: it lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise TokenizerError(
            f"{path} is not a tokenizer.json: a part of it is of another kind than it should be "
            f"({error})"
        ) from error
    return ask_tokenizers(
        f"{path} is not a tokenizer.json", lambda: tokenizers.Tokenizer.from_str(text)
    ), tuple(notes)


def _check_definition(path: Path, definition: dict[str, Any]) -> None:
    """Raise a TokenizerError for what `tokenizers` could not hold or would stumble over later."""
    model = definition["model"]
    if not isinstance(model, dict):
        raise TokenizerError(f"{path} is not a tokenizer.json: its model is {model!r:.40}")
    vocabulary, unknown = model["vocab"], model.get("unk_token")
    kind = model.get("type")
    if not vocabulary:
        raise TokenizerError(f"{path}: its vocabulary is empty")
    if isinstance(vocabulary, dict):
        check_ids(path, vocabulary)
        required = kind in ("WordPiece", "WordLevel") or unknown is not None
        if required and unknown not in vocabulary:
            raise TokenizerError(
                f"{path}: its unknown token {unknown!r} is not a piece: add it to "
                "the vocabulary, or name another as unk_token"
            )
    elif kind == "Unigram":
        index = model.get("unk_id")
        if not model.get("byte_fallback") and not (
            isinstance(index, int) and 0 <= index < len(vocabulary)
        ):
            raise TokenizerError(f"{path}: it has no unknown piece (unk_id is {index})")
    longest = model.get("max_input_chars_per_word") or 0
    if longest > _MOST_WORD_CHARACTERS:
        raise TokenizerError(
            f"{path}: max_input_chars_per_word is {longest:,}; words of more than "
            f"{_MOST_WORD_CHARACTERS:,} characters take hours: set it to at most that"
        )
    check_ids(path, {str(token["content"]): token["id"] for token in definition["added_tokens"]},
              len(vocabulary))  # fmt: skip
    growth = 1.0
    for step in steps_of(definition.get("normalizer"), "normalizers"):
        growth *= max(1.0, _growth_of(path, step))
    if growth > _MOST_GROWTH:
        raise TokenizerError(
            f"{path}: its normalizer can make a text {growth:,.0f} times as long; at most "
            f"{_MOST_GROWTH} times is allowed"
        )


def _growth_of(path: Path, step: dict[str, Any]) -> float:
    """Return how many times as long a text may be behind a step of a normalizer."""
    if step["type"] == "Precompiled":
        return max(map(len, _read_charsmap(path, step.get("precompiled_charsmap"))))
    if step["type"] == "Prepend":
        return 1.0 + len(step["prepend"])
    if step["type"] == "Replace":
        return len(step["content"]) / len(step["pattern"].get("String") or " ")
    return 1.0


def _read_charsmap(path: Path, encoded: Any) -> list[str]:
    """Return what a charsmap replaces characters by.

    Raises:
        TokenizerError: it is not a length, a trie of it, and UTF-8
    """
    values: list[str] = []
    try:
        raw = base64.b64decode(encoded, validate=True)
        (size,) = struct.unpack_from("<I", raw)
        values = raw[4 + size :].decode("utf-8").split("\0")
        is_whole = size % 4 == 0 and 0 < size <= len(raw) - 4
    except (TypeError, ValueError, binascii.Error, struct.error):
        is_whole = False
    if not is_whole:
        raise TokenizerError(f"{path}: the precompiled_charsmap of its normalizer is damaged")
    return values


def _follow_config(
    path: Path, definition: dict[str, Any], class_name: str, config: Mapping[str, Any]
) -> bool:
    """Have tokenizer_config.json overrule tokenizer.json, in place; return whether it did."""
    before = json.dumps([definition.get("normalizer"), definition.get("pre_tokenizer")])
    normalizer, pre_tokenizer = definition.get("normalizer"), definition.get("pre_tokenizer")
    if class_name in BERT_CLASSES and normalizer and normalizer["type"] == "BertNormalizer":
        names = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
        for given, name in names.items():
            normalizer[name] = read_flag(path, config, given, normalizer[name])
        if "strip_accents" in config:
            normalizer["strip_accents"] = read_flag(path, config, "strip_accents", None)
    if class_name in GPT2_CLASSES and pre_tokenizer and pre_tokenizer["type"] == "ByteLevel":
        pre_tokenizer["add_prefix_space"] = read_flag(
            path, config, "add_prefix_space", pre_tokenizer["add_prefix_space"]
        )
    return before != json.dumps([normalizer, pre_tokenizer])
