"""lmdata/build.py: from paths to a tokenizer's folder and a token store, whole or not at all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmdata.build import build_store, build_tokenizer
from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.encoding import CHANGED, WITHOUT_PIECE, measure_round_trip
from lmdata.errors import ConfigError, CorpusError, OutputError, TokenizerError
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import load_tokenizer, save_tokenizer
from lmdata.tokenizer_training import TokenizerConfig
from tests.lmdata.builds import make_tokenizer, start_no_processes, write_corpus

SMALL = TokenizerConfig(vocab_size=40, allow_smaller=True)
PLAN = TokenizeConfig(validation_ratio=0)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with two texts and a picture, in the folder to be in."""
    monkeypatch.chdir(tmp_path)
    start_no_processes(monkeypatch)
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
    monkeypatch.setattr(
        "lmdata.tokenizer_training.train_tokenizer", lambda *_, **__: pytest.fail("too late")
    )
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
    assert len(said) == 3
    assert re.fullmatch(
        r"taking the tokenizer that lies in tokenizer/: WordPiece, \d+ pieces", said[1]
    )
    assert said[2].startswith("encoding by word-cache: ")


@pytest.mark.parametrize(
    ("output", "memory_bytes", "message"),
    [
        ("full", 1 << 30, "full exists and is complete: add --overwrite to replace it"),
        ("strange", 1 << 30, "strange holds other files"),
        ("new", 10 << 20, "10 MiB of memory is too little for 1 worker:"),
    ],
)
def test_what_cannot_be_built_is_said_before_a_tokenizer_is_trained(
    corpus: str, output: str, memory_bytes: int, message: str
) -> None:
    save_tokenizer(make_tokenizer(), Path("mine"))
    build_store([corpus], Path("full"), PLAN, tokenizer_path=Path("mine"), num_workers=1)
    write_corpus(Path("strange"), {"a.txt": ["mine"]})
    with pytest.raises((ConfigError, OutputError), match=message):
        build_store([corpus], Path(output), PLAN, num_workers=1, memory_bytes=memory_bytes)
    assert not Path("tokenizer").exists()


def test_wrong_settings_and_paths_are_answered_without_what_reads_and_learns() -> None:
    code = """
import sys
from click.testing import CliRunner
from lmcli.lmdata import main
for line in sys.argv[1:]:
    done = CliRunner().invoke(main, line.split())
    print(done.exit_code, *sorted({"numba", "pyarrow"} & set(sys.modules)))
"""
    wrong = [
        "tokenize x --set sede=3", "train-tokenizer x --set foo=1", "tokenize x --config no.toml",
        "mask --set foo=1", "mask --rate 2", "tokenize no-such-folder",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, *wrong], capture_output=True, text=True)
    *light, last = done.stdout.splitlines()
    assert light == ["1"] * 5, done.stderr
    assert last == "1 pyarrow"  # the writer's; nothing compiled is loaded


def test_a_given_tokenizer_is_used_and_none_is_made(corpus: str) -> None:
    save_tokenizer(make_tokenizer(), Path("mine"))
    built = build_store([corpus], Path("tokens"), PLAN, tokenizer_path=Path("mine"), num_workers=1)
    assert built.manifest.tokenizer.hash == make_tokenizer().hash
    assert names() == ["corpus", "mine", "tokens"]


def test_standard_input_needs_a_tokenizer(corpus: str) -> None:
    with pytest.raises(CorpusError, match="can be read only once and there is no tokenizer yet"):
        build_store(["-"], Path("tokens"), PLAN, num_workers=1)
    assert names() == ["corpus"]


LANGUAGES: dict[str, dict[str, str]] = {
    "de": {}, "hi": {}, "ja-cp932": {"encoding": "cp932"}, "ko": {}, "ru": {},
    "th-bom": {}, "zh": {},
}  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_default_tokenizer_loses_no_letter_of_a_language(
    shared_data: Path, corpus: str, language: str
) -> None:
    reading = CorpusConfig(errors="replace", **LANGUAGES[language])  # type: ignore[arg-type]
    texts: list[str] = []
    for source in find_sources([str(shared_data / "multilingual" / language)], reading):
        batch = next(read_documents(source, reading))
        texts.append(batch.text[: 1 << 15].tobytes().decode("utf-8", "ignore"))
        if sum(map(len, texts)) > 60_000:
            break
    write_corpus(Path("texts"), {f"{number:03}.txt": [text] for number, text in enumerate(texts)})
    said: list[str] = []
    built = build_store(["texts"], Path("tokens"), PLAN, num_workers=1, say=said.append)
    characters = built.manifest.ledger.flows["characters"]
    assert characters.read > 1000  # of a sample; all is looked at below
    assert characters.dropped.get(CHANGED, 0) == 0, built.manifest.notes
    assert characters.dropped.get(WITHOUT_PIECE, 0) <= 0.02 * characters.read, built.manifest.notes
    tokenizer = load_tokenizer(Path("tokenizer"))
    lost = measure_round_trip(tokenizer, texts).lost
    assert lost.get(CHANGED, 0) == 0
