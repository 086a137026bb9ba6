"""What is changed in text while it is read: by name, in one place, counted in the ledger."""

import itertools
import json
import sys
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.building.workers import Threads
from lmdata.config import build_config
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.errors import ConfigError, MismatchError
from lmdata.reading.rewrites import (
    REWRITES,
    clean_c4_line,
    describe_rewrites,
    is_boilerplate,
    rewrite_documents,
)
from lmdata.schema import to_json
from lmdata.selection import open_selection, select_documents
from lmdata.settings import Rewrite, TagConfig
from lmdata.tags import tag_corpus
from lmdata.tokens import TokenizeConfig, tokenize_corpus
from references.curation import clean_lines
from tests.lmdata.builds import make_tokenizer

PHRASES = [
    "One sentence is here.", "javascript", " Terms of Use ", "[12]", "[edit]", "two words.",
    "\n", "\r\n", "\x85", "...", '"', "it is so!", "x" * 1001, " and more of it", "'",
]  # fmt: skip
TEXTS = ["A cafe\u0301 is here.\nLOG IN\n3 likes", "SIGN UP", "Nothing changes here."]


@given(st.lists(st.sampled_from(PHRASES), min_size=1, max_size=30).map("".join))
def test_lines_stay_that_c4_keeps(text: str) -> None:
    """A twin that was written for the rule says the same, up to what stops a whole document."""
    found = [line for line in map(clean_c4_line, text.splitlines()) if line is not None]
    assert found == clean_lines(text)
    parts, counts = rewrite_documents([text.encode()], ["c4-lines"])
    assert parts == ["\n".join(found).encode()]
    num_lines = sum(bool(line.strip()) for line in text.splitlines())
    assert counts["c4-lines"] == num_lines - len(found)


def test_boilerplate_is_capitals_numbers_counters_and_single_words() -> None:
    lines = {
        "LOG IN TO READ": True, "A line as it should be.": False, "": False, "  ": False,
        "12 345": True, "2,014": True, "1.2k likes": True, "15 Comments": True, "Home": True,
        "3 likes and more of it": False, "Number 5 is alive": False, "«7 replies»": True,
        "The UN and the WHO met.": False,
    }  # fmt: skip
    assert {line: is_boilerplate(line) for line in lines} == lines
    parts, counts = rewrite_documents(["\n".join(lines).encode()], ["boilerplate"])
    assert counts["boilerplate"] == sum(lines.values())
    assert parts[0].decode().split("\n") == [line for line, goes in lines.items() if not goes]


def test_characters_are_brought_to_one_form() -> None:
    parts, counts = rewrite_documents(["cafe\u0301".encode(), b"plain"], ["nfc"])
    assert (parts, counts) == (["café".encode(), b"plain"], {"nfc": 1})
    assert rewrite_documents(["ﬁ²".encode()], ["nfkc"])[0] == [b"fi2"]
    assert rewrite_documents(["ﬁ²".encode()], ["nfc"]) == (["ﬁ²".encode()], {})


def test_mojibake_is_mended_by_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ftfy", reason="mends it")
    parts, counts = rewrite_documents(["cafÃ© is open".encode(), "café".encode()], ["mojibake"])
    assert (parts, counts) == (["café is open".encode(), "café".encode()], {"mojibake": 1})
    assert describe_rewrites(["mojibake"])["rewrite mojibake"].startswith("ftfy ")
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ConfigError, match=r"pip install 'lmdata-lmmodel\[mojibake\]'"):
        describe_rewrites(["mojibake"])


def test_names_are_those_that_settings_take() -> None:
    assert tuple(REWRITES) == typing.get_args(Rewrite)
    with pytest.raises(ConfigError, match="rewrites"):
        build_config(CorpusConfig, {"rewrites": ["nfd"]})
    assert "rewrites" not in to_json(CorpusConfig())


def test_documents_are_read_rewritten_and_counted(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in [*TEXTS, ""]]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    config = CorpusConfig(rewrites=("boilerplate", "nfc"))
    sources = find_sources([str(tmp_path / "a.jsonl")], config)
    (found,) = read_documents(sources[0], config)
    texts = [found.text[a:b].tobytes().decode() for a, b in itertools.pairwise(found.offsets)]
    assert texts == ["A café is here.", "Nothing changes here."]
    assert found.positions.tolist() == [0, 2]
    assert found.replaced == {"boilerplate": 3, "nfc": 1}
    assert found.dropped == {"empty": 2}
    assert found.dropped_bytes == {"empty": len("SIGN UP")}


def test_tags_and_tokens_are_of_the_text_that_was_rewritten(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    config = CorpusConfig(rewrites=("boilerplate", "nfc"))
    sources = find_sources([str(tmp_path / "a.jsonl")], config)
    tags = tag_corpus(
        sources, TagConfig(corpus=config), tmp_path / "tags",
        workers=Threads(1, "lmdata.tagging.units:prepare_tags"),
    )  # fmt: skip
    assert tags.ledger.flows["rewrites"].dropped == {"boilerplate": 3, "nfc": 1}
    assert tags.ledger.flows["documents"].dropped == {"empty": 1}
    assert tags.notes[0] == "rewrite boilerplate: version 1"
    select_documents(tmp_path / "tags", "num_words > 0", tmp_path / "selection")
    with pytest.raises(MismatchError, match="--rewrite as to"):
        open_selection(tmp_path / "selection", sources, CorpusConfig())
    built = tokenize_corpus(
        sources, TokenizeConfig(corpus=config), make_tokenizer(), tmp_path / "tokens",
        workers=Threads(1, "lmdata.building.units:prepare_units"),
        selection=open_selection(tmp_path / "selection", sources, config),
    )  # fmt: skip
    assert built.ledger.flows["rewrites"].dropped == {"boilerplate": 3, "nfc": 1}
    assert any(note.startswith("rewrite nfc: unicode ") for note in built.notes)
