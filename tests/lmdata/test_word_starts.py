"""Words are the pre-tokens of the tokenizer itself, found again from the ids alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

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


def count_differences(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[int, int]:
    """Return pieces whose word is not the pre-token that they came from, and all pieces."""
    wrong = total = 0
    for text in texts:
        encoding = tokenizer.backend.encode(text, add_special_tokens=False)
        words = np.array(encoding.word_ids)
        found = tokenizer.word_rule.continues(np.array(encoding.ids, np.int64))[1:]
        wrong += int((found != (words[1:] == words[:-1])).sum())
        total += len(words)
    return wrong, total


def texts_of_languages(shared_data: Path) -> Iterator[str]:
    """Yield some text of each language that there is."""
    for path in sorted((shared_data / "adversarial/udhr2_utf8").iterdir()):
        yield path.read_text("utf-8", "replace")[:1500]
    for folder in sorted((shared_data / "multilingual").iterdir()):
        encoding = "cp932" if "cp932" in folder.name else "utf-8-sig"
        path = min(folder.iterdir())
        openers = {".zst": zstandard.open, ".gz": gzip.open}
        with openers.get(path.suffix, open)(path, "rt", encoding=encoding) as lines:
            yield lines.read(20_000)
    path = shared_data / "wikipedia-en/wikipedia-en-00000.jsonl.zst"
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        yield from (json.loads(line)["text"] for line in islice(lines, 20))


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


REAL = ["bert-base-uncased", "bert-base-cased", "bert-base-chinese", "gpt2"]
CASES = [
    "slow-files-class-ignored/clip", "slow-files-class-ignored/qwen2",
    "slow-files-class-ignored/roberta-prefix", "added-tokens-lost/gpt2-added",
    "added-tokens-lost/bert-added", "packed-ledger-special-in-text/unigram",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    return list(texts_of_languages(shared_data))


@pytest.mark.parametrize("name", [*REAL, *CASES])
def test_words_of_real_tokenizers_are_their_pre_tokens_in_every_language(name, shared_data, texts):
    path = shared_data / "vocab" / name if name in REAL else shared_data.parent / "cases" / name
    if not path.exists():
        pytest.skip("the cases are not in this checkout")
    wrong, total = count_differences(load_tokenizer(path), texts)
    assert wrong == 0
    assert total > 100_000


def test_what_follows_decides_for_characters_in_two_pieces_and_for_white_space():
    tokenizer = byte_level("gpt2", 256)
    assert count_differences(tokenizer, ["कि की\n\nक  किताब\n \n x", "รัฐบาล 𝔘𝔫 👍🏽"])[0] == 0
    letter, sign = (tokenizer.backend.encode(text, add_special_tokens=False).ids for text in "कि")
    assert letter[:2] == sign[:2][:1] + letter[1:2]  # the first bytes are the same piece
    ends = [tokenizer.backend.encode(f"\n\n{text}").ids for text in ("", "x")]
    goes_on = [bool(tokenizer.word_rule.continues(np.array(ids))[1]) for ids in ends]
    assert goes_on == [True, False]


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
        is_text = not tokenizer.is_special[index] or index == tokenizer.special_ids["unk"]
        expected = not piece.startswith("\u2581") and is_text
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


def test_marks_of_a_space_tell_only_where_no_piece_has_one_inside():
    def made(*pieces: str) -> Tokenizer:
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.normalizer = normalizers.Replace(" ", "\u2581")
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        return Tokenizer(backend)

    assert made("\u2581", "\u2581\u2581", "\u2581a", "b").find_word_rule() is not None
    assert made("\u2581a", "b\u2581").find_word_rule() is None
    assert made("\u2581a\u2581b", "b").find_word_rule() is None


def test_an_unknown_piece_goes_on_with_a_word_unless_it_may_hold_its_beginning():
    unigram = models.Unigram([("<unk>", 0.0), ("\u2581", -1.0), ("a", -1.0)], unk_id=0)
    backend = tokenizers.Tokenizer(unigram)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<unk>"])
    assert count_differences(Tokenizer(backend), ["aXa X aXX", "X"])[0] == 0
    word_piece = trained("wordpiece")
    unknown = np.array([word_piece.special_ids["unk"]] * 2)
    assert word_piece.word_rule.continues(unknown).tolist() == [False, False]
    suffixed = models.BPE(
        {"a": 0, "a</w>": 1, "?": 2}, [], unk_token="?", end_of_word_suffix="</w>"
    )
    rule = Tokenizer(tokenizers.Tokenizer(suffixed)).word_rule
    assert rule.continues(np.array([0, 2, 2, 1, 2])).tolist() == [True, True, True, False, False]


def test_pieces_that_do_not_tell_are_an_error_for_whole_words_alone():
    backend = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend)
    with pytest.raises(TokenizerError, match="can't tell which pieces begin a word"):
        _ = tokenizer.word_rule
    assert tokenizer.find_word_rule() is None
