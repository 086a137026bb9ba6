"""A folder's tokenizer is read as AutoTokenizer reads it, or refused in one line."""

from __future__ import annotations

import base64
import json
import time

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from lmdata.errors import TokenizerError
from lmdata.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from tests.lmdata.encoding_oracle import SAMPLE, trained

TEXT = "The Lamp on the pier, green 12345! Don't ask. éclair naïve  King\nเรา 中文 e\u0301"
SPECIAL = ["<|endoftext|>", "<|startoftext|>", "<unk>", "<s>", "</s>", "<pad>", "<mask>"]
CLASSES = {
    "GPT2Tokenizer": {},
    "GPT2TokenizerFast": {"add_prefix_space": True},
    "RobertaTokenizer": {"add_prefix_space": True},
    "Qwen2Tokenizer": {},
    "CLIPTokenizer": {},
    "OpenAIGPTTokenizer": {},
}
BERT = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "lamp",
    "##s",
    "king",
    "naive",
    "naïve",
]


def ids(tokenizer: Tokenizer, text: str = TEXT) -> list[int]:
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


def write_json(path, values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_bpe(folder, class_name: str, **config):
    folder.mkdir(parents=True, exist_ok=True)
    suffix = "</w>" if class_name in ("CLIPTokenizer", "OpenAIGPTTokenizer") else ""
    backend = Backend(models.BPE(end_of_word_suffix=suffix, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if class_name == "OpenAIGPTTokenizer":
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, end_of_word_suffix=suffix, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    backend.train_from_iterator([text.lower() for text in SAMPLE], trainer)
    backend.model.save(str(folder))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": class_name, **config})
    return folder


def write_vocab(folder, lines=BERT, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if config:
        write_json(folder / "tokenizer_config.json", config)
    return folder


def auto_ids(folder, text: str = TEXT):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    return theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("class_name", CLASSES)
def test_vocab_json_with_merges_has_the_ids_of_the_class_that_is_named(class_name, tmp_path):
    folder = write_bpe(tmp_path / "t", class_name, **CLASSES[class_name])
    assert ids(load_tokenizer(folder)) == auto_ids(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [
    {"do_lower_case": False}, {"do_lower_case": True}, {"strip_accents": False},
    {"do_lower_case": True, "strip_accents": True, "tokenize_chinese_chars": False},
])  # fmt: skip
@pytest.mark.parametrize("kind", ["wordpiece", "wordpiece-cased"])
def test_tokenizer_config_overrules_tokenizer_json(settings, kind, tmp_path):
    save_tokenizer(trained(kind), tmp_path)
    (tmp_path / "vocab.txt").unlink()
    settings = {"do_lower_case": kind == "wordpiece", **settings}
    write_json(tmp_path / "tokenizer_config.json",
               {"tokenizer_class": "BertTokenizer", "unk_token": "[UNK]", **settings})  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    assert ids(tokenizer) == auto_ids(tmp_path)
    changed = settings != {"do_lower_case": kind == "wordpiece"}
    assert any("overrules" in note for note in tokenizer.notes) == changed


@pytest.mark.parametrize("class_name", ["BertJapaneseTokenizer", "MPNetTokenizer", "XYZTokenizer"])
def test_a_class_that_does_more_than_its_files_say_is_refused_by_name(class_name, tmp_path):
    more = {"word_tokenizer_type": "mecab", "tokenizer_class": class_name}
    for folder in (write_vocab(tmp_path / "a", **more), write_bpe(tmp_path / "b", class_name)):
        with pytest.raises(TokenizerError, match=f"names {class_name}, which does more than"):
            load_tokenizer(folder)


def test_the_last_of_repeated_lines_counts_and_blank_lines_are_a_piece(tmp_path):
    tokenizer = load_tokenizer(write_vocab(tmp_path, [*BERT, "", "lamp", ""]))
    assert ids(tokenizer, "the lamp") == [5, len(BERT) + 1]
    assert tokenizer.pieces[6] is None
    assert tokenizer.vocab_size == len(BERT) + 3
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").hash == tokenizer.hash


def test_an_unknown_token_of_another_spelling_is_found_where_it_is_named(tmp_path):
    folder = write_vocab(tmp_path, ["<pad>", "<unk>", "<s>", "the", "lamp"])
    with pytest.raises(TokenizerError, match=r"it has no piece \[UNK\]"):
        load_tokenizer(folder)
    names = {"unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", names)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special_tokens == {"unk": "<unk>", "pad": "<pad>"}
    assert ids(tokenizer, "the pier") == [3, 1]
    assert tokenizer.is_special.tolist() == [True, True, False, False, False]


@pytest.mark.filterwarnings("ignore")
def test_added_tokens_keep_their_ids(tmp_path):
    names = {"additional_special_tokens": ["[USER]"], "unk_token": "[UNK]"}
    folder = write_vocab(tmp_path / "a", tokenizer_class="BertTokenizer", do_lower_case=False)
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "added_tokens.json", {"[USER]": 11, "soft": 12})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pieces[11:] == ("[USER]", "soft")
    assert tokenizer.is_special.tolist()[11:] == [True, False]
    assert ids(tokenizer, "the soft") == auto_ids(folder, "the soft") == [5, 12]
    decoder = {"11": {"content": "[USER]", "special": True}, "13": {"content": "late"}}
    other = write_vocab(tmp_path / "b", added_tokens_decoder=decoder)
    with pytest.raises(TokenizerError, match="'late' should have id 13"):
        load_tokenizer(other)
    del decoder["13"]
    write_json(other / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    assert load_tokenizer(other).pieces[11] == "[USER]"


def test_a_special_token_may_be_one_of_the_added_tokens(tmp_path):
    folder = write_vocab(tmp_path, tokenizer_class="BertTokenizer", do_lower_case=False)
    write_json(folder / "special_tokens_map.json", {"eos_token": "[END]", "bos_token": "[GONE]"})
    write_json(folder / "added_tokens.json", {"[END]": 11})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special_tokens["eos"] == "[END]"
    assert tokenizer.is_special[11]
    assert tokenizer.special_tokens["bos"] == "[GONE]"  # no piece: added, as AutoTokenizer does
    assert tokenizer.special_ids["bos"] == 12
    assert tokenizer.vocab_size == 13
    assert any("[GONE] is named and no piece: added" in note for note in tokenizer.notes)


def test_special_tokens_are_what_the_folder_names_not_what_is_spelled_like_one(tmp_path):
    folder = write_bpe(tmp_path, "Qwen2Tokenizer", eos_token="<|endoftext|>")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.backend.token_to_id("<s>") is not None
    assert set(tokenizer.special_tokens) == {"eos", "pad"}
    assert tokenizer.special_ids["cls"] is None
    assert not tokenizer.is_special[tokenizer.backend.token_to_id("<s>")]
    other = load_tokenizer(
        write_bpe(tmp_path, "Qwen2Tokenizer", eos_token="<|gone|>", pad_token="")
    )
    assert other.special_ids["eos"] == tokenizer.vocab_size
    assert other.is_special[other.special_ids["eos"]]
    assert set(load_tokenizer(write_bpe(tmp_path, "RobertaTokenizer")).special_tokens) == {
        "pad", "unk", "cls", "sep", "mask", "bos", "eos",
    }  # fmt: skip


def test_dropout_is_switched_off_and_said(tmp_path):
    definition = trained("byte-level").definition
    write_json(tmp_path / "tokenizer.json",
               {**definition, "model": {**definition["model"], "dropout": 0.5}})  # fmt: skip
    tokenizer = load_tokenizer(tmp_path)
    assert all(ids(tokenizer) == ids(trained("byte-level")) for _ in range(5))
    assert any("dropout" in note for note in tokenizer.notes)


def damage(kind: str, change):
    definition = json.loads(json.dumps(trained(kind).definition))
    change(definition)
    return definition


def set_model(**settings):
    return lambda definition: definition["model"].update(settings)


def set_normalizer(**settings):
    return lambda definition: definition.update(normalizer=settings)


def move_a_piece(index):
    return lambda definition: definition["model"]["vocab"].update({"the": index})


GARBAGE = base64.b64encode(b"\x10\0\0\0" + b"\xff" * 64).decode()
LONG = base64.b64encode(b"\x04\0\0\0" + bytes(4) + b"a" * 999).decode()
HOSTILE = {
    "id 10^8": ("wordpiece", move_a_piece(10**8), r"the largest id is 100,000,000"),
    "id 2^31": ("wordpiece", move_a_piece(2**31), r"the largest id is 2,147,483,648"),
    "id 2^32 - 1": ("bpe", move_a_piece(2**32 - 1), r"the largest id is"),
    "id -1": ("wordpiece", move_a_piece(-1), r"the id of 'the' must be 0 or more"),
    "words": ("wordpiece", set_model(max_input_chars_per_word=2**60), r"max_input_chars_per_word"),
    "no pieces": ("bpe", set_model(vocab={}, merges=[]), r"its vocabulary is empty"),
    "no unknown piece": ("wordpiece", set_model(unk_token="nope"), r"'nope' is not a piece"),
    "unigram": ("unigram", set_model(unk_id=None), r"it has no unknown piece"),
    "charsmap null": ("unigram", set_normalizer(type="Precompiled", precompiled_charsmap=None),
                      r"precompiled_charsmap of its normalizer is damaged"),
    "charsmap": ("bpe", set_normalizer(type="Precompiled", precompiled_charsmap=GARBAGE),
                 r"precompiled_charsmap of its normalizer is damaged"),
    "growth": ("bpe", set_normalizer(type="Replace", pattern={"String": "a"}, content="b" * 1000),
               r"can make a text 1,000 times as long"),
    "growth by a map": ("unigram", set_normalizer(type="Precompiled", precompiled_charsmap=LONG),
                        r"can make a text 999 times as long"),
    "growth before": ("bpe", set_normalizer(type="Prepend", prepend="_" * 99),
                      r"can make a text 100 times as long"),
    "no model": ("bpe", lambda definition: definition.pop("model"), r"is not a tokenizer\.json"),
    "types": ("bpe", lambda definition: definition.update(model=[]), r"is not a tokenizer\.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_would_hurt_are_refused_in_one_line_within_a_second(name, tmp_path):
    kind, change, message = HOSTILE[name]
    write_json(tmp_path / "tokenizer.json", damage(kind, change))
    start = time.process_time()
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 1


def test_settings_of_the_wrong_type_and_huge_ids_beside_a_vocabulary_are_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"strip_accents must be true or false, got 'x'"):
        load_tokenizer(write_vocab(tmp_path / "a", strip_accents="x"))
    folder = write_bpe(tmp_path / "b", "GPT2Tokenizer")
    write_json(folder / "vocab.json", {"a": 2**32 - 1})
    with pytest.raises(TokenizerError, match=r"the largest id is 4,294,967,295"):
        load_tokenizer(folder)
