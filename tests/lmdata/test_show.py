"""What is shown is what is there, marked; and a row leads back to its file and line."""

import re
import shutil

import numpy as np
import pytest
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from lmdata import show
from lmdata.dataset import open_examples, open_store
from lmdata.errors import DatasetError, MismatchError
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.show import mark_pieces, piece_texts, show_document, show_rows
from lmdata.tokenizer import Tokenizer
from tests.lmdata.builds import build, make_tokenizer, write_corpus
from tests.lmdata.test_examples import make_sentences

MARKED = re.compile(r"\[MASK→[^]]*\]|\{[^}]*→[^}]*\}|<[^>]*>")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("datasets")
    files = {
        "a.txt": make_sentences(60),
        "sub/b.txt": ["The cat sats. A dog rans on.", "one. Two."],
    }
    corpus = write_corpus(path / "corpus", files)
    build(corpus, path / "tokens", validation_ratio=0)
    write_examples(path / "tokens", Recipe(max_seq_length=64), path / "nsp", seed=1)
    packed = Recipe(view="packed", max_seq_length=64)
    write_examples(path / "tokens", packed, path / "packed", seed=1)
    return path


def shown(path, row, **options):
    return show_rows(path, row, 1, **options)[row]


def test_a_document_is_shown_sentence_by_sentence_with_its_source(folder):
    row = len(open_store(folder / "tokens")) - 2
    *lines, source = shown(folder / "tokens", row, with_source=True).split("\n")
    assert lines == [
        f"document {row} of train: 11 tokens, 2 sentences",
        "    0  the cat sats .",
        "    1  a dog rans on .",
    ]
    assert re.fullmatch(rf"document {row} of train: \S*sub/b.txt, line or record 1", source)


def test_a_long_document_is_cut_and_says_so(folder):
    lines = show_document(open_store(folder / "tokens"), 1, max_tokens=1).split("\n")
    assert re.fullmatch(r"\.\.\. \d+ more tokens", lines[-1])
    assert len(lines) == 3


def test_every_masked_piece_is_marked_once_and_nothing_else(folder):
    examples = open_examples(folder / "nsp")
    for row in range(len(examples)):
        batch = examples.rows(np.array([row]))
        marked = [
            i
            for i, text in enumerate(mark_pieces(batch, examples.tokenizer))
            if MARKED.search(text)
        ]
        assert marked == batch.masked_positions.tolist()


def test_the_marks_say_what_became_of_a_piece(folder):
    examples = open_examples(folder / "nsp")
    rows = np.arange(len(examples))
    texts = {row: mark_pieces(examples.rows(np.array([row])), examples.tokenizer) for row in rows}
    seen = set()
    for row in rows:
        batch = examples.rows(np.array([row]))
        for position, label in zip(batch.masked_positions, batch.masked_labels, strict=True):
            text, found = (
                texts[row][position].strip(),
                examples.tokenizer.piece(int(batch.input_ids[position])),
            )
            original = examples.tokenizer.piece(int(label)).removeprefix("##")
            if found == "[MASK]":
                assert text == f"[MASK→{original}]"
            elif found.removeprefix("##") == original:
                assert original in text
            else:
                assert text == f"{{{found.removeprefix('##')}→{original}}}"
            seen.add(text[0])
    assert seen == {"[", "{", "<"}


def test_a_pair_shows_segments_label_documents_and_sources(folder):
    batch = open_examples(folder / "nsp").rows(np.array([3]))
    text = shown(folder / "nsp", 3, with_source=True)
    header, first, second, *rest = text.split("\n")
    assert f"next_sentence_label {batch.next_sentence_label[0]}" in header
    assert first.startswith("  A  [CLS]")
    assert first.endswith("[SEP]")
    assert second.startswith("  B  ")
    assert second.endswith("[SEP]")
    assert f"{len(batch.masked_positions)} masked" in rest[0]
    name, position = open_store(folder / "tokens").provenance(int(batch.document_a[0]))
    assert rest[1].endswith(f"{name}, line or record {position + 1}")


def test_a_packed_row_shows_a_line_for_each_segment(folder):
    text = shown(folder / "packed", 0)
    segments = [
        line for line in text.split("\n") if re.match(r" *\d+  ", line) and "masked" not in line
    ]
    assert len(segments) > 1
    assert all("[CLS]" in line and line.endswith("[SEP]") for line in segments)


def test_colour_adds_styles_and_takes_the_brackets(folder):
    coloured = shown(folder / "nsp", 3, colour=True)
    assert "\x1b[" in coloured
    assert "\x1b[" not in shown(folder / "nsp", 3)
    assert "{" not in ANSI.sub("", coloured).split("\n")[1]


def test_byte_level_pieces_show_their_spaces():
    tokenizers = pytest.importorskip("tokenizers")
    from lmdata.tokenizer import Tokenizer

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, "Ġd", "Ġdog"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    ids = np.array([vocabulary["a"], vocabulary["Ġdog"]])
    assert piece_texts(Tokenizer(backend), ids) == ["a", " dog"]


def test_continuing_pieces_join_the_word():
    tokenizer = make_tokenizer()
    ids = np.array([tokenizer.backend.token_to_id(piece) for piece in ("cat", "##s", "on")])
    assert "".join(piece_texts(tokenizer, ids)) == " cats on"


def test_a_store_that_changed_or_went_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    build(copy / "corpus", copy / "tokens", validation_ratio=0, sentences="lines", overwrite=True)
    with pytest.raises(MismatchError, match="no longer the store that"):
        shown(copy / "nsp", 0, with_source=True)
    shutil.rmtree(copy / "tokens")
    with pytest.raises(DatasetError, match="no such dataset folder"):
        shown(copy / "nsp", 0, with_source=True)


def test_several_rows_end_where_the_split_ends(folder):
    num_rows = len(open_examples(folder / "nsp"))
    texts = show_rows(folder / "nsp", num_rows - 2, 5)
    assert texts == {row: shown(folder / "nsp", row) for row in (num_rows - 2, num_rows - 1)}
    with pytest.raises(MismatchError, match=f"has no row {num_rows}: its rows are 0 to"):
        show_rows(folder / "nsp", num_rows, 1)


def test_rows_are_found_by_their_text_before_any_corruption(folder):
    store = open_store(folder / "tokens")
    last = len(store) - 2
    found = show_rows(folder / "tokens", 0, 5, find="The CAT sats.  A dog")
    assert found == {last: shown(folder / "tokens", last)}
    examples = open_examples(folder / "packed")
    rows = show_rows(folder / "packed", 0, 3, find="a dog rans on", with_source=True)
    assert len(rows) == 1
    ids = examples.rows(np.array(list(rows))).original_ids()
    assert "a dog rans on" in "".join(piece_texts(examples.tokenizer, ids))
    everything = show_rows(folder / "tokens", 3, 4, find="t")
    assert len(everything) == 4
    assert min(everything) >= 3
    with pytest.raises(MismatchError, match=r"no row of .* contains 'zebra': look for a shorter"):
        show_rows(folder / "nsp", 0, 1, find="zebra")


def test_text_of_many_bytes_a_character_is_found(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={
        character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))
    }, merges=[]))  # fmt: skip
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    corpus = write_corpus(tmp_path / "corpus", {"a.txt": ["a plain line", "ร้านอาหารไทย เปิดแล้ว"]})
    build(corpus, tmp_path / "tokens", Tokenizer(backend), validation_ratio=0)
    assert list(show_rows(tmp_path / "tokens", 0, 9, find="อาหารไทย")) == [1]


def test_the_dataset_is_opened_once_however_many_rows_are_shown(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(show, "open_examples", lambda *a: calls.append(a) or open_examples(*a))
    assert len(show_rows(folder / "nsp", 0, 7)) == 7
    assert len(calls) == 1
