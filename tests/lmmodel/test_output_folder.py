"""A folder is written whole or not at all, and in the place of its own kind only."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lmdata.errors import OutputError
from lmmodel.errors import RunError
from lmmodel.saving.output_folder import Kind, check_can_write, writing

NOTE = Kind("a note", lambda folder: (folder / "what").is_file(), frozenset({"what", "more"}))


def fill(output, text="new", *, overwrite=True):
    with writing(output, NOTE, overwrite=overwrite) as folder:
        (folder / "what").write_text(text)


def stop_half_way(output):
    with writing(output, NOTE, overwrite=True) as folder:
        (folder / "what").write_text("half")
        raise KeyboardInterrupt


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_a_folder_appears_with_its_parents_and_takes_the_place_of_another(tmp_path):
    output = tmp_path / "a" / "b" / "out"
    fill(output, "old", overwrite=False)
    (output / "more").touch()
    (output / ".what.partial").touch()  # of a kill
    fill(output)
    assert names_in(output) == {"what"}
    assert (output / "what").read_text() == "new"
    assert names_in(output.parent) == {"out"}


def test_what_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    fill(tmp_path / "out", "old")
    for output in (tmp_path / "out", tmp_path / "a" / "b" / "out"):
        with pytest.raises(KeyboardInterrupt):
            stop_half_way(output)
    assert (tmp_path / "out" / "what").read_text() == "old"
    assert names_in(tmp_path) == {"out"}


def test_a_link_stays_and_leads_to_the_new_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "model", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model" / "what").read_text() == "new"
    assert names_in(tmp_path) == {"disk", "out"}
    assert names_in(tmp_path / "disk") == {"model"}


def test_where_the_user_is_can_not_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for output in (tmp_path / "here" / "below", tmp_path / "here", tmp_path):
        with pytest.raises(OutputError, match=r"is the folder you are in, .* such as .*model"):
            fill(output)
    fill(tmp_path / "here" / "beside")


def test_what_can_not_be_written_is_found_out_beforehand(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for output in (tmp_path / "file" / "out", tmp_path / "circle", tmp_path / ("x" * 300)):
        block = writing(output, NOTE, overwrite=False)
        with pytest.raises(OutputError, match=r"can't write .*; choose another place"):
            block.__enter__()
    assert names_in(tmp_path) == {"file", "circle"}


def test_a_file_is_tried_beforehand_and_nothing_stays(tmp_path):
    check_can_write(tmp_path / "a" / "b" / "v.npy")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"can't write .*file/v.npy"):
        check_can_write(tmp_path / "file" / "v.npy")
    assert names_in(tmp_path) == {"file"}


def test_nothing_but_the_same_kind_is_replaced(tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    fill(output, overwrite=False)  # an empty folder is nobody's
    with pytest.raises(RunError, match="already holds a note: --overwrite replaces it"):
        fill(output, overwrite=False)
    (output / "thesis").touch()
    with pytest.raises(RunError, match=r"holds more than a note \(such as thesis\), which --over"):
        fill(output)
    (output / "what").unlink()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="exists and is not a note, so nothing replaces it"):
            fill(output, overwrite=overwrite)
    assert names_in(output) == {"thesis"}
    assert names_in(tmp_path) == {"out"}


WRITER = """
import sys, time
from pathlib import Path
from tests.lmmodel.test_output_folder import NOTE
from lmmodel.saving.output_folder import writing
with writing(Path(sys.argv[1]), NOTE, overwrite=True) as folder:
    (folder / "what").write_text("theirs")
    print("began", flush=True)
    time.sleep(60)
"""


def test_two_at_once_are_refused_and_a_killed_one_is_in_nobodys_way(tmp_path):
    output = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(output)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "began\n"
        with pytest.raises(OutputError, match=r"another command is writing .*out: wait"):
            fill(output)
        other.kill()
    assert names_in(tmp_path) == {".out.partial", ".out.lock"}
    fill(output, "ours")
    assert (output / "what").read_text() == "ours"
    assert names_in(tmp_path) == {"out"}
