"""lmdata/sample_corpus.py: one module, one document; the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lmdata.sample_corpus as sample_corpus
from lmdata.errors import OutputError
from lmdata.sample_corpus import find_docstrings, write_sample_corpus

PROSE = "Return whether all of the values in the list are positive numbers."
LONG = "This sentence is here because a document must have a certain length to be worth a file."
MODULE = f'''
"""One module is one document, and this is the first paragraph of it.

{LONG}
It goes on in the next line, {LONG.lower()}
"""

def add(first, second):
    """Return the sum of the first and the second number that are given.

    add(first, second) -> int

    Args:
        first (int): This is a description of the first of the two parameters here.

    The prose after a list of parameters is kept, as it is a paragraph of its own.

    >>> add(1, 2)
    3
    """
    query = """This is a text that is not a docstring, and it has to stay outside."""
'''


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A little installation of two packages in place of the real one."""
    stdlib, packages = tmp_path / "stdlib", tmp_path / "site-packages"
    for folder in (stdlib, packages / "shop", packages / "shop" / "tests"):
        folder.mkdir(parents=True)
    (stdlib / "numbers.py").write_text(MODULE)
    (packages / "shop" / "cart.py").write_text(MODULE.replace("One module", "This module"))
    (packages / "shop" / "tests" / "test_cart.py").write_text(MODULE)
    paths = {"stdlib": str(stdlib), "purelib": str(packages), "platlib": str(packages)}
    monkeypatch.setattr(sample_corpus.sysconfig, "get_paths", lambda: paths)
    return tmp_path


def read_all(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.glob("[!.]*"))}


def test_a_module_becomes_a_document_of_its_prose(installation: Path) -> None:
    (installation / "site-packages" / "shop" / "cart.py").unlink()
    summary = write_sample_corpus(installation / "corpus")
    documents = read_all(installation / "corpus")
    assert list(documents) == ["numbers.txt"]
    assert documents["numbers.txt"].split("\n\n") == [
        "One module is one document, and this is the first paragraph of it.",
        f"{LONG} It goes on in the next line, {LONG.lower()}",
        "Return the sum of the first and the second number that are given.",
        "The prose after a list of parameters is kept, as it is a paragraph of its own.\n",
    ]
    assert summary.num_documents == 1
    assert summary.num_paragraphs == 4
    assert summary.num_bytes == len(documents["numbers.txt"])


def test_repeated_paragraphs_are_written_once_and_tests_not_at_all(installation: Path) -> None:
    summary = write_sample_corpus(installation / "corpus")
    text = "".join(read_all(installation / "corpus").values())
    assert summary.num_modules_read == 2
    assert summary.num_repeated_paragraphs == 3
    assert text.count("Return the sum of the first") == 1


def test_the_same_installation_gives_the_same_bytes(installation: Path) -> None:
    write_sample_corpus(installation / "one")
    write_sample_corpus(installation / "two")
    assert read_all(installation / "one") == read_all(installation / "two")


def test_max_bytes_stops_early_and_progress_is_told(installation: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = write_sample_corpus(
        installation / "corpus", max_bytes=1, progress=lambda *counts: seen.append(counts)
    )
    assert summary.num_modules_read == 1
    assert len(seen) == 1
    assert 0 < seen[0][0] < seen[0][1]


def test_a_folder_with_something_in_it_is_refused(installation: Path) -> None:
    with pytest.raises(
        OutputError,
        match="stdlib exists and is not a sample corpus as it was written, so nothing replaces it",
    ):
        write_sample_corpus(installation / "stdlib")


def test_overwrite_replaces_only_what_it_wrote_and_nobody_changed(installation: Path) -> None:
    corpus = installation / "corpus"
    write_sample_corpus(corpus)
    before = read_all(corpus)
    (installation / "site-packages" / "shop" / "cart.py").write_text(MODULE)
    write_sample_corpus(corpus, overwrite=True)
    assert read_all(corpus) != before
    before = read_all(corpus)
    (corpus / "mine.txt").write_text("My own text.")
    with pytest.raises(OutputError, match="corpus exists and is not a sample corpus as it was"):
        write_sample_corpus(corpus, overwrite=True)
    assert read_all(corpus) == {**before, "mine.txt": "My own text."}
    with pytest.raises(OutputError, match="stdlib exists and is not a sample corpus"):
        write_sample_corpus(installation / "stdlib", overwrite=True)


def test_an_output_that_cannot_be_written_is_refused(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installation / "file").write_text("")
    with pytest.raises(OutputError, match="file exists and is not a sample corpus"):
        write_sample_corpus(installation / "file")
    with pytest.raises(OutputError, match=r"can't write .*file/corpus: a file is in the way"):
        write_sample_corpus(installation / "file" / "corpus")

    def fill_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_disk)
    with pytest.raises(OutputError, match=r"the disk is full: can't write .*corpus; free"):
        write_sample_corpus(installation / "corpus")
    assert sorted(path.name for path in installation.iterdir()) == [
        "file", "site-packages", "stdlib",
    ]  # fmt: skip


def test_an_interrupted_harvest_leaves_nothing(installation: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample_corpus(installation / "corpus", progress=interrupt)
    assert sorted(path.name for path in installation.iterdir()) == ["site-packages", "stdlib"]
    (installation / "corpus").mkdir()
    assert write_sample_corpus(installation / "corpus").num_documents == 1


def test_this_installation_has_english_text(tmp_path: Path) -> None:
    write_sample_corpus(tmp_path / "corpus", max_bytes=60_000)
    text = " ".join(read_all(tmp_path / "corpus").values())
    assert len(text) >= 60_000
    words = text.lower().split()
    assert words.count("the") > 0.04 * len(words)
    for mark in (">>>", "``", ":param", ":class:", "----", "\t"):
        assert mark not in text


def test_docstrings_are_found_with_their_escapes_resolved() -> None:
    quotes: Any = '"""'
    source = f"def f():\n    {quotes}One \\\nline, \\\\n and \\{quotes} inside.{quotes}\n"
    assert list(find_docstrings(source)) == ['One line, \\n and """ inside.']
    assert list(find_docstrings(f"x = {quotes}no{quotes}\n")) == []
    assert list(find_docstrings(f"add(f, r{quotes}raw \\n{quotes})\n")) == ["raw \\n"]
    assert list(find_docstrings(f"def f():\n    {quotes}never closed")) == ["never closed"]


def test_help_topics_are_read_from_their_dictionary(tmp_path: Path) -> None:
    folder = tmp_path / "pydoc_data"
    folder.mkdir()
    (folder / "topics.py").write_text(f"topics = {{'a': 'Title\\n*****\\n\\n{PROSE}\\n'}}\n")
    assert list(sample_corpus.read_prose(folder / "topics.py")) == [PROSE]
