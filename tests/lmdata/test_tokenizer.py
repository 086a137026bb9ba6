"""Tokenizers: every form is read, saved for transformers, and known by what it is."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import TokenizerError
from lmdata.tokenizer import (
    TOKENIZER_FOLDER,
    Tokenizer,
    load_tokenizer,
    save_tokenizer,
    wordpiece_backend,
)
from tests.lmdata.encoding_oracle import trained

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", ",", "\u2028", "é"]
KINDS = ["wordpiece", "wordpiece-cased", "byte-level", "bpe", "unigram"]
TEXT = "The quick brown fox, naïve [MASK] 中文 \u2028 don't 1,234 ##s"


def write_vocab(folder, pieces=PIECES, name="vocab.txt", end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes("".join(piece + end for piece in pieces).encode())
    return folder / name


def ids(tokenizer, text=TEXT):
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_the_same_when_loaded(kind, tmp_path):
    tokenizer = trained(kind)
    save_tokenizer(tokenizer, tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert loaded.hash == tokenizer.hash
        assert loaded.special_ids == tokenizer.special_ids
        assert loaded.pieces == tokenizer.pieces
        assert ids(loaded) == ids(tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_saving_twice_writes_the_same_bytes(kind, tmp_path):
    for folder in ("a", "b"):
        save_tokenizer(trained(kind), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_opens_a_saved_folder_with_the_same_ids_and_special_tokens(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = trained(kind)
    save_tokenizer(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT.replace("[MASK]", "")
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids(tokenizer, text)
    assert len(theirs) == tokenizer.vocab_size
    for name in ("mask", "cls", "sep", "pad", "unk"):
        assert getattr(theirs, f"{name}_token_id") == tokenizer.special_ids[name]


def test_a_line_feed_alone_ends_a_piece(tmp_path):
    tokenizer = load_tokenizer(write_vocab(tmp_path))
    assert tokenizer.vocab_size == len(PIECES)
    assert tokenizer.piece(9) == "\u2028"
    assert load_tokenizer(write_vocab(tmp_path / "crlf", end="\r\n")).hash == tokenizer.hash


def test_published_vocabularies_have_their_sizes(shared_data):
    sizes = {"bert-base-uncased": 30522, "bert-base-cased": 28996, "bert-base-chinese": 21128}
    for name, size in {**sizes, "gpt2": 50257}.items():
        assert load_tokenizer(shared_data / "vocab" / name).vocab_size == size


def test_case_is_kept_where_the_vocabulary_has_capitals(tmp_path, shared_data):
    lower = {}
    for name in ("bert-base-uncased", "bert-base-cased", "bert-base-chinese"):
        definition = load_tokenizer(shared_data / "vocab" / name).definition
        lower[name] = definition["normalizer"]["lowercase"]
    assert lower == {
        "bert-base-uncased": True,
        "bert-base-cased": False,
        "bert-base-chinese": True,
    }


def test_lower_case_is_decided_by_the_argument_then_the_configuration(tmp_path):
    path = write_vocab(tmp_path)
    assert load_tokenizer(path).definition["normalizer"]["lowercase"]
    config = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    normalizer = load_tokenizer(path).definition["normalizer"]
    assert not normalizer["lowercase"]
    assert normalizer["strip_accents"]
    assert not normalizer["handle_chinese_chars"]
    assert load_tokenizer(path, lower_case=True).definition["normalizer"]["lowercase"]


def test_lower_case_for_a_file_that_says_it_itself_is_refused(tmp_path):
    save_tokenizer(trained("wordpiece"), tmp_path)
    with pytest.raises(TokenizerError, match=r"leave lower_case out"):
        load_tokenizer(tmp_path, lower_case=True)


def test_byte_level_bpe_is_read_from_either_of_its_two_files(tmp_path):
    tokenizer = trained("byte-level")
    tokenizer.backend.model.save(str(tmp_path))
    loaded = [load_tokenizer(tmp_path / name) for name in ("vocab.json", "merges.txt", ".")]
    assert len({one.hash for one in loaded}) == 1
    assert ids(loaded[0]) == ids(tokenizer)
    assert loaded[0].special_ids["eos"] == 0
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"needs merges\.txt beside it"):
        load_tokenizer(tmp_path)


def test_a_dataset_stands_for_the_tokenizer_it_keeps(tmp_path):
    tokenizer = trained("byte-level")
    save_tokenizer(tokenizer, tmp_path / "tokens" / TOKENIZER_FOLDER)
    assert load_tokenizer(tmp_path / "tokens").hash == tokenizer.hash


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "no such file or folder"),
        ("folder/", None, "holds no tokenizer"),
        ("notes.md", b"hello", "is not a tokenizer: expected"),
        ("tokenizer.json", b"{}", r"is not a tokenizer\.json"),
        ("tokenizer.json", b'{"model": 5}', r"is not a tokenizer\.json: its model is 5"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": {"a": 0}}, "added_tokens": 5}',
            r"a part of it is of another kind",
        ),
        ("tokenizer.json", b"{", "is not JSON that can be read"),
        ("tokenizer.json", b"[" * 100_000, "nested too deeply"),
        ("vocab.txt", b"one\ntwo\n", "has no piece \\[UNK\\]"),
        ("vocab.txt", b"[UNK]\n\xff\n", "is not UTF-8"),
    ],
)
def test_what_is_not_a_tokenizer_is_refused_and_named(name, content, message, tmp_path):
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


def test_a_broken_configuration_beside_a_vocabulary_is_named(tmp_path):
    path = write_vocab(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not a JSON object"):
        load_tokenizer(path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is not JSON"):
        load_tokenizer(path)


def test_a_missing_special_token_is_an_error_that_says_what_to_do():
    with pytest.raises(TokenizerError, match=r"has no mask token.*\[MASK\] or <mask>"):
        trained_without_mask().require_special("mask")
    assert trained("wordpiece").require_special("mask") == 4


def trained_without_mask():
    return Tokenizer(wordpiece_backend({"[UNK]": 0, "a": 1}, lower_case=True))


def test_special_tokens_named_in_a_configuration_count(tmp_path):
    write_vocab(tmp_path, [*PIECES, "<hole>"])
    config = {"mask_token": {"content": "<hole>"}, "cls_token": "nowhere"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.special_ids["mask"] == len(PIECES)
    assert tokenizer.special_ids["cls"] == len(PIECES) + 1
    assert tokenizer.is_special[len(PIECES)]


def test_naming_a_special_token_that_is_not_a_piece_is_refused():
    backend = wordpiece_backend({"[UNK]": 0, "a": 1}, lower_case=True)
    with pytest.raises(TokenizerError, match=r"the mask token '\[M\]' is not a piece"):
        Tokenizer(backend, {"mask": "[M]"})


def test_special_tokens_in_text_stay_text(tmp_path):
    tokenizer = load_tokenizer(write_vocab(tmp_path))
    assert ids(tokenizer, "the [MASK] fox") == [5, 1, 1, 1, 6]


def test_identity_is_that_of_rules_and_pieces_and_survives_use(tmp_path):
    first, again = (load_tokenizer(write_vocab(tmp_path)) for _ in range(2))
    other = load_tokenizer(write_vocab(tmp_path / "other", [*PIECES, "more"]))
    cased = load_tokenizer(tmp_path, lower_case=False)
    before = first.hash
    first.backend.enable_truncation(5)
    first.backend.enable_padding(length=7)
    used = Tokenizer(first.backend)
    ids(used)
    assert before == again.hash == used.hash
    assert len({before, other.hash, cased.hash}) == 3
    assert len(before) == 32


def test_identity_is_the_same_in_another_process(tmp_path):
    path = write_vocab(tmp_path)
    code = f"from lmdata.tokenizer import load_tokenizer as l; print(l({str(path)!r}).hash)"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == load_tokenizer(path).hash


def test_a_tokenizer_can_be_sent_to_another_process():
    tokenizer = trained("unigram")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.hash == tokenizer.hash
    assert copy.backend.encode_special_tokens


def test_ids_are_of_the_smallest_type():
    assert trained("wordpiece").id_dtype is np.uint16
    pieces = {"[UNK]": 0} | {f"p{number}": number for number in range(1, 1 << 16)}
    assert Tokenizer(wordpiece_backend(pieces, lower_case=True)).id_dtype is np.uint16
    pieces["one more"] = 1 << 16
    assert Tokenizer(wordpiece_backend(pieces, lower_case=True)).id_dtype is np.uint32


def test_an_id_without_a_piece_is_refused():
    tokenizer = Tokenizer(wordpiece_backend({"[UNK]": 0, "a": 2}, lower_case=True))
    assert tokenizer.vocab_size == 3
    for index in (1, 3, -1):
        with pytest.raises(TokenizerError, match=f"no piece has id {index}; ids go from 0 to 2"):
            tokenizer.piece(index)


def test_wordpiece_pieces_with_the_prefix_go_on_with_a_word(tmp_path):
    tokenizer = load_tokenizer(write_vocab(tmp_path))
    goes_on = tokenizer.word_rule.continues(np.arange(len(PIECES)))
    assert [tokenizer.piece(i) for i in np.flatnonzero(goes_on)] == ["##es"]
    assert [tokenizer.piece(i) for i in np.flatnonzero(tokenizer.is_special)] == PIECES[:5]


@given(st.lists(st.sampled_from(["the", "fox", "##es", ","]), max_size=7))
def test_decoding_ids_joins_pieces_to_words(pieces):
    pieces = ["the", *pieces]
    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(wordpiece_backend(vocabulary, lower_case=True))
    text = tokenizer.decode(np.array([vocabulary[piece] for piece in pieces], np.uint16))
    assert text.replace(" ", "") == "".join(pieces).replace("##", "").replace(" ", "")


def test_loading_the_module_loads_nothing_heavy():
    code = (
        "import sys; import lmdata.tokenizer;"
        "print({'numba', 'polars', 'torch', 'transformers', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
