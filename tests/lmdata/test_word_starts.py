"""Words are the pre-tokens of the tokenizer itself, found again from the ids alone."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
import tokenizers
import zstandard
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from lmdata.errors import TokenizerError
from lmdata.tokenizer import Tokenizer, load_tokenizer
from tests.lmdata.encoding_oracle import trained

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
LATER = r"[^\r\n\p{L}\p{N}]?\p{L}+|NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    "gpt2": CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": f"(?i:{CONTRACTIONS})|" + LATER.replace("NUMBER", r"\p{N}{1,3}"),
    "llama3": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + LATER.replace("NUMBER", r"\p{N}{1,3}"),
    "qwen2": f"(?i:{CONTRACTIONS})|" + LATER.replace("NUMBER", r"\p{N}"),
}
PROSE = [
    "He said (loudly): \"don't!\" -- 20,000 lamps; he'd 12345 of them.\n\nThe pier's lamp, 3.14 km",
    "I'LL see WE'RE x2 a1b22 (15) [the] {fox} <s> #tag @you e.g. U.S.A. 100% $5 C++ foo_bar\n\tTab",
    "Words in a line\nand the next (of two); naïve façade 'quoted' well-known 1st 2nd.\n",
] * 3


def byte_level(rule: str, vocab_size: int = 420) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    steps = [pre_tokenizers.Split(Regex(RULES[rule]), "isolated")]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(PROSE, trainer)
    return Tokenizer(backend)


def count_differences(tokenizer: Tokenizer, texts: list[str]) -> tuple[int, int]:
    """Return pieces, but for white space, whose word is not the pre-token; and all pieces."""
    wrong = total = 0
    for text in texts:
        encoding = tokenizer.backend.encode(text, add_special_tokens=False)
        words = np.array(encoding.word_ids)
        found = tokenizer.word_rule.continues(np.array(encoding.ids))[1:]
        is_space = np.array([not token.strip("ĠĊĉč") for token in encoding.tokens[1:]], bool)
        wrong += int(((found != (words[1:] == words[:-1])) & ~is_space).sum())
        total += len(words)
    return wrong, total


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("vocab_size", [260, 420])
def test_words_of_byte_level_bpe_are_the_pre_tokens_of_its_own_rule(rule, vocab_size):
    wrong, total = count_differences(byte_level(rule, vocab_size), PROSE)
    assert wrong == 0
    assert total > 300


def test_the_rules_differ_where_their_expressions_do():
    starts = {}
    for rule in ("gpt2", "gpt4", "qwen2"):
        tokenizer = byte_level(rule, 260)
        ids = tokenizer.backend.encode("a 12345", add_special_tokens=False).ids
        starts[rule] = (~tokenizer.word_rule.continues(np.array(ids))[1:]).astype(int).tolist()
    assert starts["gpt2"] == [1, 0, 0, 0, 0, 0]
    assert starts["gpt4"] == [1, 1, 0, 0, 1, 0]
    assert starts["qwen2"] == [1, 1, 1, 1, 1, 1]


def test_words_of_real_tokenizers_are_their_pre_tokens(shared_data):
    path = shared_data / "wikipedia-en/wikipedia-en-00000.jsonl.zst"
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in islice(lines, 40)]
    for name in ("bert-base-uncased", "bert-base-cased", "bert-base-chinese"):
        assert count_differences(load_tokenizer(shared_data / "vocab" / name), texts)[0] == 0
    wrong, total = count_differences(load_tokenizer(shared_data / "vocab/gpt2"), texts)
    # What is left are characters in two pieces whose first does not tell a letter from a mark.
    assert wrong / total < 0.0005


def test_a_character_in_two_pieces_is_one_word_with_its_neighbours():
    tokenizer = byte_level("gpt2", 256)
    text = "été"
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert len(ids) == 5
    assert tokenizer.word_rule.continues(np.array(ids))[1:].all()


def test_special_pieces_begin_anew_and_rows_too():
    tokenizer = trained("wordpiece")
    pieces = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    inside = next(index for piece, index in pieces.items() if piece.startswith("##"))
    ids = np.array([pieces["[CLS]"], inside, pieces["[SEP]"], inside])
    assert tokenizer.word_rule.continues(ids).tolist() == [False, True, False, True]
    byte = byte_level("gpt2")
    ids = np.array(byte.backend.encode("(15", add_special_tokens=False).ids)
    assert not byte.word_rule.continues(ids)[1]
    assert byte.word_rule.continues(ids, np.array([0, 1, len(ids)]))[1]  # nothing before is known


def test_metaspace_pieces_without_the_mark_go_on_with_a_word():
    tokenizer = trained("unigram")
    goes_on = tokenizer.word_rule.continues(np.arange(tokenizer.vocab_size))
    for index, piece in enumerate(tokenizer.pieces):
        expected = not piece.startswith("\u2581") and not tokenizer.is_special[index]
        assert goes_on[index] == expected


def test_other_kinds_tell_words_by_their_own_marks():
    suffixed = models.BPE({"a": 0, "b</w>": 1, "b": 2}, [], end_of_word_suffix="</w>")
    rule = Tokenizer(tokenizers.Tokenizer(suffixed)).word_rule
    assert rule.continues(np.array([0, 1, 2, 1, 0])).tolist() == [True, True, False, True, False]
    llama = tokenizers.Tokenizer(models.BPE({"\u2581a": 0, "b": 1}, []))
    llama.normalizer = normalizers.Replace(" ", "\u2581")
    assert Tokenizer(llama).word_rule.continues(np.array([0, 1, 0])).tolist() == [
        False, True, False,
    ]  # fmt: skip
    level = Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert not level.word_rule.tells


def test_pieces_that_do_not_tell_are_an_error_for_whole_words_alone():
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend)
    with pytest.raises(TokenizerError, match="can't tell which pieces begin a word"):
        _ = tokenizer.word_rule
    assert tokenizer.find_word_rule() is None
