"""Tokenizers with the rules of published ones, made of files that are at hand.

T5's `tokenizer.json` gives SentencePiece's map of characters, GPT-NeoX's a vocabulary of byte-level
BPE; pieces of many scripts are trained here. Normalizer, pre-tokenizer and added tokens are those
of the published file of that name, so where texts may be cut is the same question.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import DATA
from lmdata.corpus import CorpusConfig, Documents, find_sources, read_documents
from lmdata.tokenizer import Tokenizer, load_tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer

SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": True}  # fmt: skip
DIGITS = {"type": "Digits", "individual_digits": True}
SCRIPTS = {"zh": "utf-8", "ko": "utf-8", "ja-cp932": "cp932", "th-bom": "auto", "ru": "auto",
           "hi": "auto", "de": "auto"}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Write a folder for each tokenizer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stand-ins", description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--t5", type=Path, required=True, help="its tokenizer.json")
    parser.add_argument("--neox", type=Path, required=True, help="its tokenizer.json")
    parser.add_argument("--megabytes", type=float, default=1.0, help="of each script, to train on")
    options = parser.parse_args(arguments)
    t5, neox = (json.loads(path.read_text("utf-8")) for path in (options.t5, options.neox))
    most = options.megabytes
    definitions = {**byte_level(neox), **sentence_pieces(t5, most), **word_pieces(most)}
    for name, definition in definitions.items():
        folder = options.output / name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(definition, ensure_ascii=False)
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
        print(folder)


def byte_level(neox: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return RoBERTa's, ModernBERT's and StarCoder's rules."""
    gpt2 = definition_of(load_tokenizer(DATA / "vocab" / "gpt2"))
    split = {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}
    return {
        "roberta": with_special(gpt2, ["<s>", "<pad>", "</s>", "<unk>"], "<mask>"),
        "modernbert": with_special(neox, ["[UNK]", "[CLS]", "[SEP]", "[PAD]"], "[MASK]"),
        "starcoder": {**neox, "normalizer": None, "pre_tokenizer": split, "added_tokens": []},
    }


def sentence_pieces(t5: dict[str, Any], megabytes: float) -> dict[str, dict[str, Any]]:
    """Return XLM-R's, CamemBERT's and DeBERTa-v3's rules; the first with pieces of many scripts."""
    characters = t5["normalizer"]
    config = TokenizerConfig(model="unigram", vocab_size=16384, allow_smaller=True)
    many = definition_of(train_tokenizer(read(SCRIPTS, megabytes), config, num_threads=2))
    plain = {**t5, "truncation": None, "padding": None}
    return {
        "xlm-r": {**many, "normalizer": sequence(characters, SPACES), "pre_tokenizer": METASPACE},
        "camembert": {**plain, "normalizer": sequence(characters, SPACES), "pre_tokenizer": WORDS},
        "deberta-v3": {
            **plain, "pre_tokenizer": METASPACE,
            "normalizer": sequence({"type": "Strip", "strip_left": True, "strip_right": True},
                                   characters, SPACES)},
    }  # fmt: skip


def word_pieces(megabytes: float) -> dict[str, dict[str, Any]]:
    """Return multilingual and Japanese BERT's rules."""
    config = TokenizerConfig(vocab_size=16384, lowercase=False, allow_smaller=True)
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": None, "lowercase": False}  # fmt: skip
    texts = {"bert-multilingual": SCRIPTS, "bert-japanese": {"ja-cp932": "cp932"}}
    trained = {name: train_tokenizer(read(text, megabytes), config) for name, text in texts.items()}
    return {name: {**definition_of(each), "normalizer": bert} for name, each in trained.items()}


def read(scripts: dict[str, str], megabytes: float) -> Iterator[Documents]:
    """Yield documents of some scripts, about so many megabytes of each."""
    for name, encoding in scripts.items():
        config, left = CorpusConfig(encoding=encoding, errors="replace"), megabytes * 1e6
        for source in find_sources([str(DATA / "multilingual" / name)], config):
            for documents in read_documents(source, config, batch_bytes=1 << 20):
                yield documents
                left -= len(documents.text)
                if left < 0:
                    break
            if left < 0:
                break


def sequence(*normalizers: dict[str, Any]) -> dict[str, Any]:
    """Return normalizers, one after the other, as one."""
    return {"type": "Sequence", "normalizers": list(normalizers)}


def definition_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parsed `tokenizer.json` of a tokenizer, to be changed."""
    return copy.deepcopy(tokenizer.definition)


def with_special(definition: dict[str, Any], names: list[str], mask: str) -> dict[str, Any]:
    """Return a definition with more special tokens; the mask takes the space before it."""
    added = list(definition["added_tokens"])
    first = 1 + max(*definition["model"]["vocab"].values(), *(t["id"] for t in added), 0)
    for index, name in enumerate([*names, mask]):
        added.append({
            "id": first + index, "content": name, "single_word": False, "lstrip": name == mask,
            "rstrip": False, "normalized": False, "special": True,
        })  # fmt: skip
    return {**definition, "added_tokens": added}
