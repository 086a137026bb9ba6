"""lmdata/build.py: from paths to a tokenizer's folder and a token store, whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lmdata.build import build_store, build_tokenizer
from lmdata.building.plan import TokenizeConfig
from lmdata.corpus import CorpusConfig
from lmdata.errors import CorpusError, OutputError, TokenizerError
from lmdata.tokenizer import load_tokenizer, save_tokenizer
from lmdata.tokenizer_training import TokenizerConfig
from tests.lmdata.builds import InlineWorkers, make_tokenizer, write_corpus

SMALL = TokenizerConfig(vocab_size=40, allow_smaller=True)
PLAN = TokenizeConfig(validation_ratio=0)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with two texts and a picture, in the folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmdata.tokenize.start_tokenizing", InlineWorkers)
    monkeypatch.setattr("lmdata.building.workers.start_tokenizing", InlineWorkers)
    write_corpus(tmp_path / "corpus", {"a.txt": ["the cat sat"], "b.txt": ["a dog ran"]})
    (tmp_path / "corpus" / "c.png").touch()
    return "corpus"


def names(folder: str = ".") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_tokenizer_is_trained_and_its_folder_written(corpus: str) -> None:
    seen: list[tuple[int, int]] = []
    tokenizer = build_tokenizer(
        [corpus], Path("it"), SMALL, CorpusConfig(), progress=lambda *now: seen.append(now)
    )
    assert load_tokenizer(Path("it")).hash == tokenizer.hash
    assert seen == [(12, 22), (22, 22)]
    assert names() == ["corpus", "it"]


def test_an_existing_tokenizer_is_replaced_only_on_request(corpus: str) -> None:
    save_tokenizer(make_tokenizer(), Path("it"))
    with pytest.raises(OutputError, match="it already holds a tokenizer: add --overwrite"):
        build_tokenizer([corpus], Path("it"), SMALL, CorpusConfig())
    tokenizer = build_tokenizer([corpus], Path("it"), SMALL, CorpusConfig(), overwrite=True)
    assert load_tokenizer(Path("it")).hash == tokenizer.hash != make_tokenizer().hash


def test_a_failed_training_leaves_everything_as_it_was(corpus: str) -> None:
    save_tokenizer(make_tokenizer(), Path("it"))
    too_large = TokenizerConfig(vocab_size=30_000)
    for output, overwrite in [(Path("it"), True), (Path("new"), False)]:
        with pytest.raises(TokenizerError, match="vocab_size 30000 is more than this text can"):
            build_tokenizer([corpus], output, too_large, CorpusConfig(), overwrite=overwrite)
    assert names() == ["corpus", "it"]
    assert load_tokenizer(Path("it")).hash == make_tokenizer().hash


@pytest.mark.parametrize("stranger", ["thesis.txt", "model.safetensors"])
def test_a_folder_that_holds_more_than_a_tokenizer_is_never_replaced(
    corpus: str, stranger: str
) -> None:
    save_tokenizer(make_tokenizer(), Path("it"))
    Path("it", stranger).write_text("mine")
    with pytest.raises(OutputError, match=re.escape(f"more than a tokenizer (such as {stranger})")):
        build_tokenizer([corpus], Path("it"), SMALL, CorpusConfig(), overwrite=True)
    assert Path("it", stranger).read_text() == "mine"


def test_an_output_that_cannot_be_written_is_found_before_the_training(
    corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmdata.build.train_tokenizer", lambda *_, **__: pytest.fail("too late"))
    Path("file").touch()
    with pytest.raises(OutputError, match="can't write file/it: a file is in the way; choose"):
        build_tokenizer([corpus], Path("file/it"), SMALL, CorpusConfig())


def test_a_store_without_a_tokenizer_trains_one_first_and_says_so(corpus: str) -> None:
    said: list[str] = []
    built = build_store([corpus], Path("tokens"), PLAN, num_workers=1, say=said.append)
    assert said == ["no tokenizer/ here: training a WordPiece tokenizer on the corpus first"]
    assert built.manifest.num_rows("train") == 2
    assert built.skipped == {"unknown extension": ["corpus/c.png"]}
    assert built.manifest.tokenizer.hash == load_tokenizer(Path("tokenizer")).hash
    build_store([corpus], Path("again"), PLAN, num_workers=1, say=said.append, verbose=True)
    assert len(said) == 2
    assert said[1].startswith("encoding by word-cache: ")


def test_a_given_tokenizer_is_used_and_none_is_made(corpus: str) -> None:
    save_tokenizer(make_tokenizer(), Path("mine"))
    built = build_store([corpus], Path("tokens"), PLAN, tokenizer_path=Path("mine"), num_workers=1)
    assert built.manifest.tokenizer.hash == make_tokenizer().hash
    assert names() == ["corpus", "mine", "tokens"]


def test_standard_input_needs_a_tokenizer(corpus: str) -> None:
    with pytest.raises(CorpusError, match="can be read only once and there is no tokenizer yet"):
        build_store(["-"], Path("tokens"), PLAN, num_workers=1)
    assert names() == ["corpus"]
