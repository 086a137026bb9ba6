from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import tokenizers
import zstandard
from tokenizers import models, trainers

from lmdata import tokenizer_training
from lmdata.encoding import make_encoder
from lmdata.errors import TokenizerError
from lmdata.learning.counting import count_words, split_text
from lmdata.learning.symbols import choose_alphabet, split_into_symbols
from lmdata.tokenizer import load_tokenizer, save_tokenizer
from lmdata.tokenizer_training import METHODS, TokenizerConfig, train_tokenizer
from tests.lmdata.text_batches import batch

MODELS = ("wordpiece", "bpe", "unigram")
SIZES = {"wordpiece": 1009, "bpe": 1009, "unigram": 499}
ROOT = Path(__file__).parents[2]


def prose() -> list[str]:
    """Some real English that every Python has."""
    found = (inspect.getdoc(thing) for module in (json, os, subprocess, inspect)
             for _, thing in sorted(vars(module).items(), key=lambda item: item[0])
             if callable(thing))  # fmt: skip
    return sorted({text for text in found if text})


def train(model: str, documents: Iterable[str] | None = None, num_threads: int = 1, **settings):
    settings.setdefault("vocab_size", SIZES[model])
    batches = [batch(prose() if documents is None else documents)]
    config = TokenizerConfig(model=model, **settings)
    return train_tokenizer(batches, config, num_threads=num_threads)


def wikipedia(folder: Path, num_documents: int) -> list[str]:
    path = folder / "wikipedia-en/wikipedia-en-00000.jsonl.zst"
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in islice(lines, num_documents)]


def test_a_wordpiece_vocabulary_is_specials_alphabet_and_merges_in_order() -> None:
    tokenizer = train("wordpiece", ["low lower lowest low"] * 2, vocab_size=23)
    assert tokenizer.pieces == (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
        "e", "l", "o", "r", "s", "t", "w", "##e", "##o", "##r", "##s", "##t", "##w",
        "lo", "low", "lowe", "##st", "lower",
    )  # fmt: skip
    assert tokenizer.backend.encode("Lowest", add_special_tokens=False).tokens == ["lowe", "##st"]


def test_a_byte_level_vocabulary_has_every_byte() -> None:
    tokenizer = train("bpe")
    assert set(tokenizer.pieces) >= set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    text = "Nothing is 未知, not even \x00 \U0001f600\n"
    assert tokenizer.decode(tokenizer.backend.encode(text, add_special_tokens=False).ids) == text


def test_unigram_pieces_mark_where_words_start() -> None:
    tokenizer = train("unigram")
    encoding = tokenizer.backend.encode("the  function\nreturns", add_special_tokens=False)
    assert tokenizer.decode(encoding.ids) == "the function returns"
    assert encoding.tokens[0].startswith("▁")


@pytest.mark.parametrize("model", MODELS)
def test_special_tokens_come_first_and_frame_a_pair(model: str) -> None:
    tokenizer = train(model)
    assert tokenizer.vocab_size == SIZES[model]
    encoding = tokenizer.backend.encode("a call", "the file")
    assert tokenizer.pieces[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert [i for i, id_ in enumerate(encoding.ids) if id_ == 3][-1] == len(encoding.ids) - 1
    assert encoding.ids[0] == 2
    first = encoding.ids.index(3) + 1
    assert encoding.type_ids == [0] * first + [1] * (len(encoding.ids) - first)
    assert tokenizer.special_ids | {"bos": None, "eos": None} == {
        "pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": None, "eos": None,
    }  # fmt: skip
    assert (tokenizer.special_ids["bos"], tokenizer.special_ids["eos"]) == (2, 3)
    assert 4 not in tokenizer.backend.encode("[MASK]", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("model", "lowercase", "is_lower"),
    [("wordpiece", None, True), ("wordpiece", False, False), ("bpe", None, False),
     ("bpe", True, True), ("unigram", None, False), ("unigram", True, True)],
)  # fmt: skip
def test_only_wordpiece_is_lower_case_unless_asked(model, lowercase, is_lower) -> None:
    tokenizer = train(model, lowercase=lowercase)
    has_capitals = any(piece != piece.lower() for piece in tokenizer.pieces[5:] if "Ġ" not in piece
                       and (model != "bpe" or len(piece) > 1))  # fmt: skip
    assert has_capitals != is_lower
    tokens = [tokenizer.backend.encode(text).tokens for text in ("RETURN", "return")]
    assert (tokens[0] == tokens[1]) == is_lower


@pytest.mark.parametrize("model", MODELS)
def test_own_special_tokens_take_their_purposes_in_order(model: str) -> None:
    names = ("<p>", "<u>", "<b>", "<e>", "<m>", "<extra>")
    tokenizer = train(model, special_tokens=names)
    assert tokenizer.pieces[:6] == names
    assert tokenizer.special_tokens == {
        "pad": "<p>", "unk": "<u>", "cls": "<b>", "sep": "<e>", "mask": "<m>",
        "bos": "<b>", "eos": "<e>",
    }  # fmt: skip
    assert tokenizer.is_special[:6].all()
    assert not tokenizer.is_special[6:].any()
    tokens = tokenizer.backend.encode("a").tokens
    assert (tokens[0], tokens[-1]) == ("<b>", "<e>")


@pytest.mark.parametrize("model", MODELS)
def test_text_never_spells_a_special_token(model: str) -> None:
    tokenizer = train(model, [*prose(), "[MASK] [SEP]x[SEP] [MASK]" * 500])
    for text in ("[MASK]", "x[SEP]y", " [PAD]", "[CLS] a", "[UNK][UNK]", "[MASK"):
        ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert not tokenizer.is_special[ids].any()


@pytest.mark.parametrize(
    ("model", "name"),
    [*itertools.product(MODELS, ["mask", "[", "7"]), ("bpe", "??"), ("unigram", "M]")],
)
def test_a_special_token_that_text_could_spell_is_refused(model: str, name: str) -> None:
    with pytest.raises(TokenizerError, match="could be a word of the text; begin it with punct"):
        train(model, special_tokens=("[PAD]", "[UNK]", "[CLS]", "[SEP]", name))


@pytest.mark.parametrize("model", MODELS)
def test_transformers_opens_what_is_saved(model: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train(model)
    save_tokenizer(tokenizer, tmp_path)
    hub = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("Return the value, or raise an Error!", "naïve 42"):
        assert hub(text)["input_ids"] == tokenizer.backend.encode(text).ids
    pair = hub("one", "two")
    assert pair["token_type_ids"] == tokenizer.backend.encode("one", "two").type_ids
    assert (hub.pad_token_id, hub.unk_token_id, hub.cls_token_id) == (0, 1, 2)
    assert (hub.sep_token_id, hub.mask_token_id, len(hub)) == (3, 4, SIZES[model])
    assert load_tokenizer(tmp_path).hash == tokenizer.hash


REPRODUCE = """
import sys, xxhash
from tests.lmdata.test_tokenizer_training import MODELS, SIZES, batch, prose
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
order, size, num_threads = map(int, sys.argv[1:])
documents = prose()[::order]
batches = [batch(documents[start:start + size]) for start in range(0, len(documents), size)]
for model in MODELS:
    config = TokenizerConfig(model=model, vocab_size=SIZES[model])
    tokenizer = train_tokenizer(batches, config, num_threads=num_threads)
    print(model, tokenizer.hash, xxhash.xxh3_128_hexdigest(tokenizer.backend.to_str().encode()))
"""


def test_any_run_order_batching_and_threads_give_the_same_bytes() -> None:
    outputs = set()
    for seed, order, size, num_threads in ((0, 1, 1000, 1), (1, -1, 7, 2), (77, 1, 31, 2)):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, "-c", REPRODUCE, str(order), str(size), str(num_threads)]
        done = subprocess.run(
            command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert [line.split()[0] for line in outputs.pop().splitlines()] == list(MODELS)


def by_tokenizers(documents: list[str], config: TokenizerConfig) -> tokenizers.Tokenizer:
    """The oracle: trained by `tokenizers` itself."""
    backend = METHODS[config.model].make_backend(config)
    settings = {"vocab_size": config.vocab_size, "special_tokens": list(config.special_tokens),
                "show_progress": False}  # fmt: skip
    trainer = {
        "wordpiece": lambda: trainers.WordPieceTrainer(**settings, min_frequency=2),
        "bpe": lambda: trainers.BpeTrainer(
            **settings, min_frequency=2,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    }[config.model]()  # fmt: skip
    backend.train_from_iterator(documents, trainer)
    return backend


def num_tokens(backend: tokenizers.Tokenizer, texts: list[str]) -> int:
    return sum(len(encoding) for encoding in backend.encode_batch(texts, add_special_tokens=False))


@pytest.mark.parametrize("model", ["wordpiece", "bpe"])
def test_pieces_per_word_equal_those_of_tokenizers(model: str, shared_data: Path) -> None:
    documents = wikipedia(shared_data, 60)
    config = TokenizerConfig(model=model, vocab_size=4001)
    ours = train_tokenizer([batch(documents)], replace(config, limit_alphabet=None)).backend
    theirs = by_tokenizers(documents, config)
    assert num_tokens(ours, documents) == pytest.approx(num_tokens(theirs, documents), rel=1e-3)
    assert len(ours.get_vocab().keys() & theirs.get_vocab().keys()) > 0.9 * config.vocab_size


@pytest.mark.slow
def test_pieces_per_word_of_a_full_vocabulary_equal_those_of_tokenizers(shared_data: Path) -> None:
    documents = wikipedia(shared_data, 1500)
    ours = train_tokenizer([batch(documents)], TokenizerConfig()).backend
    theirs = by_tokenizers(documents, TokenizerConfig())
    assert num_tokens(ours, documents) == pytest.approx(num_tokens(theirs, documents), rel=1e-3)


@pytest.mark.slow
def test_five_runs_on_real_text_give_the_same_bytes(shared_data: Path) -> None:
    documents = wikipedia(shared_data, 400)
    for model in MODELS:
        config = TokenizerConfig(model=model, vocab_size=4001)
        hashes = {
            train_tokenizer([batch(documents[::order])], config, num_threads=1 + run % 2).hash
            for run, order in enumerate((1, -1, 1, -1, 1))
        }
        assert len(hashes) == 1


def test_a_vocabulary_smaller_than_its_alphabet_names_what_is_needed() -> None:
    with pytest.raises(TokenizerError, match="vocab_size 9 is too small: 5 special tokens and an "
                       "alphabet of 5 symbols need 10; set vocab_size to at least that or "
                       "limit_alphabet to fewer"):  # fmt: skip
        train("wordpiece", ["abc ab"], vocab_size=9)
    with pytest.raises(
        TokenizerError, match=r"alphabet of 256 symbols need 261; .* at least that$"
    ):
        train("bpe", ["abc ab"], vocab_size=260)
    with pytest.raises(TokenizerError, match="alphabet of 4 symbols need 9"):
        train("unigram", ["abc ab"], vocab_size=8)


@pytest.mark.parametrize(("model", "largest"), [("wordpiece", 11), ("bpe", 262), ("unigram", 10)])
def test_a_vocabulary_larger_than_the_text_can_fill_names_the_largest(model, largest) -> None:
    message = f"vocab_size 300 is more than this text can fill: it gives {largest} pieces"
    with pytest.raises(TokenizerError, match=message):
        train(model, ["abc ab"], vocab_size=300)
    assert train(model, ["abc ab"], vocab_size=300, allow_smaller=True).vocab_size == largest
    assert train(model, ["abc ab"], vocab_size=largest).vocab_size == largest


@pytest.mark.parametrize("model", MODELS)
def test_no_text_is_an_error(model: str) -> None:
    with pytest.raises(TokenizerError, match="there is no text to train on"):
        train(model, [])


@pytest.mark.parametrize("model", MODELS)
def test_text_without_words_leaves_the_vocabulary_unfilled(model: str) -> None:
    with pytest.raises(TokenizerError, match="more than this text can fill"):
        train(model, [" \n\t "])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "word"}, "model must be one of wordpiece, bpe, unigram, got 'word'"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"max_training_bytes": -5}, "max_training_bytes must be at least 1, got -5"),
        ({"special_tokens": ("a", "b")}, r"mask, in this order, got \['a', 'b'\]"),
        ({"special_tokens": ("a", "b", "c", "d", "")}, "must name padding"),
        ({"special_tokens": ("a", "b", "c", "b", "d")}, "must all differ, got 'b' more than once"),
        ({"model": "bpe", "limit_alphabet": 9}, "limit_alphabet has no effect on bpe"),
        ({"model": "unigram", "min_frequency": 3}, "min_frequency has no effect on unigram"),
    ],
)
def test_wrong_settings_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)


def test_the_alphabet_is_the_most_frequent_characters() -> None:
    words = {"aab": 2, "cb": 3, "d": 1}  # a 4, b 5, c 3, d 1
    assert choose_alphabet(words, 2, 100) == ["a", "b"]
    assert choose_alphabet({"ba": 1}, 1, 100) == ["a"]  # ties go to the smaller code point
    assert choose_alphabet(words, None, 100) == ["a", "b", "c", "d"]
    many = {chr(0x4E00 + number): 10_000 // (1 + number) for number in range(2000)}
    assert len(choose_alphabet(many, None, 100)) > 1000  # 99.95 % of the text


def test_words_with_characters_outside_the_alphabet_are_left_out() -> None:
    symbols = split_into_symbols({"axb": 4, "ba": 3, "b": 1}, ["a", "b"], continuing_prefix="##")
    assert (symbols.names, symbols.ids.tolist()) == (["a", "b", "##a"], [1, 2, 1])
    assert (symbols.offsets.tolist(), symbols.counts.tolist()) == ([0, 2, 3], [3, 1])


def test_words_too_long_for_wordpiece_are_left_out() -> None:
    with pytest.raises(TokenizerError, match="it gives 6 pieces"):
        train("wordpiece", ["y" * 101 + " z z"], vocab_size=99)


def test_progress_is_told_in_bytes() -> None:
    seen: list[int] = []
    batches = [batch(["one two"]), batch(["three"])]
    config = TokenizerConfig(vocab_size=99, allow_smaller=True)
    train_tokenizer(batches, config, progress=seen.append)
    assert seen == [7, 12]
    assert isinstance(train("bpe").backend.model, models.BPE)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_pre_tokens_at_gpt4s_splits_are_those_of_whole_documents(num_threads: int) -> None:
    documents = [*prose(), "12345 (abc)\n\n don't!\r\n\u00a0x \u0e19\u0e33 e\u0301.", "中文\n 中文"]
    config = TokenizerConfig(model="bpe", splits="gpt4")
    backend = METHODS["bpe"].make_backend(config)
    rule = tokenizer_training._counting_rule(config, backend)
    found = count_words([batch(documents)], backend, rule, max_bytes=1 << 30).pre_tokens
    expected = Counter(token for text in documents for token in split_text(backend, text))
    assert found == expected
    tokenizer = train("bpe", documents, num_threads, splits="gpt4")
    assert make_encoder(tokenizer).kind == "gigatoken"


@pytest.mark.parametrize("model", MODELS)
def test_sentinels_are_special_tokens_behind_the_others(model: str) -> None:
    tokenizer = train(model, num_sentinels=3)
    assert tokenizer.pieces[5:8] == ("<extra_id_0>", "<extra_id_1>", "<extra_id_2>")
    assert tokenizer.is_special[:8].all()
    assert tokenizer.vocab_size == SIZES[model]
    ids = tokenizer.backend.encode("a <extra_id_0> b", add_special_tokens=False).ids
    assert not tokenizer.is_special[[index for index in ids if index != 1]].any()
    assert make_encoder(tokenizer).kind != "plain"


def test_splits_and_sentinels_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="splits has no effect on unigram"):
        TokenizerConfig(model="unigram", splits="gpt4")
    with pytest.raises(ValueError, match="splits must be one of gpt2, gpt4, got 'gpt9'"):
        TokenizerConfig(model="bpe", splits="gpt9")
    with pytest.raises(ValueError, match="num_sentinels must be from 0 to 9,999, got -1"):
        TokenizerConfig(num_sentinels=-1)
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<extra_id_0>")
    with pytest.raises(ValueError, match="'<extra_id_0>' more than once"):
        TokenizerConfig(num_sentinels=1, special_tokens=specials)
