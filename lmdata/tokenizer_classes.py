"""Tokenizers of the classes that `vocab.txt`, or `vocab.json` with `merges.txt`, can stand for.

These files hold pieces only; the rules are those of the class that `tokenizer_config.json` names
beside them, and of BERT or GPT-2 where it names none. The rules of a class are built as
`transformers` builds them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from lmdata.config import read_json
from lmdata.errors import TokenizerError

BERT_SPECIALS = {
    "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
}  # fmt: skip
_ROBERTA_SPECIALS = {
    "pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>",
    "bos": "<s>", "eos": "</s>",
}  # fmt: skip
_END = "<|endoftext|>"
_MOST_BYTES = 1 << 28  # of a tokenizer.json or vocabulary; the largest in use have 35 MB
_ROOM = 1 << 16  # ids without a piece that are always allowed

BERT_CLASSES = {
    "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer",
    "ConvBertTokenizer", "SqueezeBertTokenizer", "RetriBertTokenizer", "LayoutLMTokenizer",
}  # fmt: skip
_ANY_CLASS = {"", "PreTrainedTokenizer", "TokenizersBackend"}  # these say nothing of the rules
_ROBERTA_CLASSES = {"RobertaTokenizer", "LongformerTokenizer", "BartTokenizer", "LEDTokenizer"}
GPT2_CLASSES = {"GPT2Tokenizer", *_ROBERTA_CLASSES}

QWEN2_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4_RULE = QWEN2_RULE.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""Of GPT-4 and Llama-3, too."""
CLIP_RULE = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        TokenizerError: it can't be read, is too large or nested too deeply, or holds something else
    """
    try:
        parsed = read_json(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} is not JSON that can be read: {error}") from error
    if not isinstance(parsed, dict):
        raise TokenizerError(f"{path} is not a JSON object")
    return parsed


def read_flag(
    source: Path, config: Mapping[str, Any], name: str, default: bool | None
) -> bool | None:
    """Return a setting of tokenizer_config.json that is true, false or not given."""
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(
            f"{source.with_name('tokenizer_config.json')}: {name} must be true or false, "
            f"got {value!r}"
        )
    return default if value is None else value


def steps_of(part: dict[str, Any] | None, name: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normalizer or pre-tokenizer, those of sequences one by one."""
    if part is not None and part["type"] == "Sequence":
        for step in part[name]:
            yield from steps_of(step, name)
    elif part is not None:
        yield part


def spelling_of(value: Any) -> str | None:
    """Return the spelling of a token that is described by a string or an object."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


@contextlib.contextmanager
def quiet_panics() -> Iterator[None]:
    """Keep what the block writes to standard error, and write it only if the block succeeds.

    A panic of `tokenizers` is caught, but Rust has then already printed its own lines.
    """
    try:
        terminal = os.dup(2)
    except OSError:  # it is closed: nothing is to be kept
        yield
        return
    with tempfile.TemporaryFile() as kept:
        _flush_errors()
        os.dup2(kept.fileno(), 2)
        try:
            yield
            _flush_errors()
            kept.seek(0)
            os.write(terminal, kept.read())
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _flush_errors() -> None:
    if sys.stderr is not None:  # as in a program without a console
        sys.stderr.flush()


def ask_tokenizers(message: str, make: Callable[[], Any]) -> Any:
    """Return what `tokenizers` makes, whose panics are no `Exception`.

    Args:
        message: what can't be done if it fails; the reason follows it
        make: asks `tokenizers`

    Raises:
        TokenizerError: it fails or panics; one of our own passes as it is
    """
    try:
        with quiet_panics():
            return make()
    except BaseException as error:
        if isinstance(
            error, KeyboardInterrupt | SystemExit | GeneratorExit | MemoryError | TokenizerError
        ):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TokenizerError(f"{message}: {reason}") from error


def check_ids(path: Path, vocabulary: Mapping[str, Any], num_others: int = 0) -> None:
    """Raise a TokenizerError where ids are no ids, or so large that they leave most unused."""
    for piece, index in vocabulary.items():
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise TokenizerError(f"{path}: the id of {piece[:40]!r} must be 0 or more: {index!r}")
    largest = max(vocabulary.values(), default=0)
    most = 16 * (len(vocabulary) + num_others) + _ROOM
    if largest > most:
        raise TokenizerError(
            f"{path}: the largest id is {largest:,}, with {len(vocabulary):,} pieces; it may be "
            f"{most:,} at most, as every id up to it takes memory"
        )


def _refuse_class(source: Path, class_name: str) -> TokenizerError:
    return TokenizerError(
        f"{source.with_name('tokenizer_config.json')} names {class_name}, which does more than "
        f"{source.name} says: open the folder with transformers.AutoTokenizer and save it from "
        "there, which writes a tokenizer.json where there can be one"
    )


def read_vocab_txt(
    path: Path, class_name: str, config: dict[str, Any], lower_case: bool | None
) -> tokenizers.Tokenizer:
    """Return the WordPiece tokenizer of a vocab.txt and the settings beside it.

    Args:
        path: the vocab.txt
        class_name: that the settings name, without "Fast"; "" for none
        config: the settings
        lower_case: overrules them; None for what they say

    Raises:
        TokenizerError: another class, a wrong setting, or no unknown piece
    """
    is_basic = class_name == "BertJapaneseTokenizer" and (
        config.get("word_tokenizer_type", "basic") == "basic"
        and config.get("subword_tokenizer_type", "wordpiece") == "wordpiece"
    )
    if class_name not in BERT_CLASSES | _ANY_CLASS and not is_basic:
        raise _refuse_class(path, class_name)
    vocabulary = _read_pieces(path)
    unknown = spelling_of(config.get("unk_token")) or BERT_SPECIALS["unk"]
    if unknown not in vocabulary:
        raise TokenizerError(f"{path} is not a WordPiece vocabulary: it has no piece {unknown}")
    if lower_case is None:
        lower_case = read_flag(path, config, "do_lower_case", not _has_capitals(vocabulary))
    return wordpiece_backend(
        vocabulary,
        lower_case=bool(lower_case),
        strip_accents=read_flag(path, config, "strip_accents", None),
        handle_chinese_chars=bool(read_flag(path, config, "tokenize_chinese_chars", True)),
        unknown=unknown,
    )


def _read_pieces(path: Path) -> dict[str, int]:
    """Return the pieces of a vocab.txt, one a line; only a line feed ends a line.

    A piece that is there twice has its last line's number for an id, as in every reader of BERT's.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise TokenizerError(f"{path} has {size:,} bytes, a vocabulary at most {_MOST_BYTES:,}")
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8: {error}") from error
    pieces = [line.removesuffix("\r") for line in lines]
    if pieces[-1] == "":
        pieces.pop()
    return {piece: line for line, piece in enumerate(pieces)}


def _has_capitals(vocabulary: Mapping[str, int]) -> bool:
    return any(piece.isalpha() and piece != piece.lower() for piece in vocabulary)


def wordpiece_backend(
    vocabulary: Mapping[str, int],
    *,
    lower_case: bool,
    strip_accents: bool | None = None,
    handle_chinese_chars: bool = True,
    unknown: str = BERT_SPECIALS["unk"],
) -> tokenizers.Tokenizer:
    """Return BERT's tokenizer for a vocabulary that has at least the unknown piece.

    Args:
        vocabulary: id of each piece
        lower_case: text is lower-cased first
        strip_accents: accents are removed first; None for what `lower_case` says
        handle_chinese_chars: every Chinese character is a word
        unknown: the piece for a word that has none
    """
    backend = tokenizers.Tokenizer(models.WordPiece(dict(vocabulary), unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=lower_case,
        strip_accents=strip_accents,
        handle_chinese_chars=handle_chinese_chars,
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = [*BERT_SPECIALS.values(), *({unknown} - set(BERT_SPECIALS.values()))]
    backend.add_special_tokens([piece for piece in special if piece in vocabulary])
    if "[CLS]" in vocabulary and "[SEP]" in vocabulary:
        ends = [(piece, vocabulary[piece]) for piece in ("[SEP]", "[CLS]")]
        backend.post_processor = processors.BertProcessing(*ends)
    return backend


def read_bpe(
    path: Path, class_name: str, config: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """Return the tokenizer of a class, and the special tokens that are the class's own.

    Args:
        path: the vocab.json
        class_name: that the settings name, without "Fast"; "" for none
        config: the settings

    Raises:
        TokenizerError: another class, a wrong setting, or files that do not fit
    """
    merges = path.with_name("merges.txt")
    if not merges.is_file():
        raise TokenizerError(f"{path} needs {merges.name} beside it, which is not there")
    check_ids(path, read_object(path))
    unknown = spelling_of(config.get("unk_token"))
    suffixed = {"CLIPTokenizer": _END, "OpenAIGPTTokenizer": "<unk>"}
    given = {}
    if class_name in suffixed:
        given = {"end_of_word_suffix": "</w>", "unk_token": unknown or suffixed[class_name]}
    model = ask_tokenizers(f"{path} is not a BPE with {merges.name}",
                 lambda: models.BPE.from_file(str(path), str(merges), **given))  # fmt: skip
    backend = tokenizers.Tokenizer(model)
    if given and backend.token_to_id(given["unk_token"]) is None:
        raise TokenizerError(f"{path}: its unknown token {given['unk_token']!r} is not a piece")
    has_prefix = bool(read_flag(path, config, "add_prefix_space", False))
    if class_name in GPT2_CLASSES | _ANY_CLASS:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix)
        backend.decoder = decoders.ByteLevel()
    elif class_name == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = split_bytes(QWEN2_RULE, add_prefix_space=has_prefix)
        backend.decoder = decoders.ByteLevel()
    elif class_name == "CLIPTokenizer":
        _make_clip(backend)
    elif class_name == "OpenAIGPTTokenizer":
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.BPEDecoder(suffix="</w>")
    else:
        raise _refuse_class(path, class_name)
    return backend, _bpe_specials(class_name)


def split_bytes(rule: str, *, add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that cuts by a regular expression and spells bytes."""
    split = pre_tokenizers.Split(tokenizers.Regex(rule), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([split, as_bytes])


def _make_clip(backend: tokenizers.Tokenizer) -> None:
    space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), space, normalizers.Lowercase()])
    split = pre_tokenizers.Split(tokenizers.Regex(CLIP_RULE), "removed", invert=True)
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    backend.decoder = decoders.ByteLevel()


def _bpe_specials(class_name: str) -> dict[str, str]:
    if class_name in _ROBERTA_CLASSES:
        return _ROBERTA_SPECIALS
    if class_name == "OpenAIGPTTokenizer":
        return {"unk": "<unk>"}
    if class_name == "CLIPTokenizer":
        return {"unk": _END, "pad": _END, "bos": "<|startoftext|>", "eos": _END}
    if class_name == "Qwen2Tokenizer":
        return {"pad": _END, "eos": _END}
    return {"bos": _END, "eos": _END}
