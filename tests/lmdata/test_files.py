"""What is written is there whole or not at all, by one process at a time, and replaces its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lmdata import files
from lmdata.building.output import claim_folder
from lmdata.errors import OutputError
from lmdata.files import (
    AtomicFile,
    Kind,
    lease,
    make_folder,
    output_errors,
    remove,
    remove_contents,
    write_atomically,
    writing_file,
    writing_folder,
)
from tests.lmdata.builds import make_tokenizer

NOTE = Kind("a note", lambda folder: (folder / "what").is_file(), frozenset({"what", "more"}))


def fill(output: Path, text: str = "new", *, overwrite: bool = True) -> None:
    with writing_folder(output, NOTE, overwrite=overwrite) as folder:
        (folder / "what").write_text(text)


def stop_half_way(output: Path) -> None:
    with writing_folder(output, NOTE, overwrite=True) as folder:
        (folder / "what").write_text("half")
        raise KeyboardInterrupt


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with AtomicFile(tmp_path / "x") as file:
            file.write(b"half")
            assert (tmp_path / ".x.partial").read_bytes() == b"half"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"old")
    with AtomicFile(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_folder_in_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="a file is in the way; choose another place"):
        write_atomically(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk is full: can't write .*; free some space and run again"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "can't write .*Read-only file system; choose another place"),
        (errno.EACCES, "can't write .*Permission denied; choose another place"),
        (errno.EIO, "can't write .*Input/output error"),
    ],
)
def test_each_failure_of_the_disk_says_what_to_do(
    tmp_path: Path, number: int, message: str
) -> None:
    with pytest.raises(OutputError, match=message), output_errors(tmp_path / "x"):
        raise OSError(number, os.strerror(number))


def test_a_program_that_writes_to_a_path_gets_one_and_the_file_may_be_read_by_all(
    tmp_path: Path,
) -> None:
    path = tmp_path / "weights"
    for text in ("old", "new"):
        with writing_file(path) as partial:
            partial.write_text(text)
            partial.chmod(0o600)
        assert path.read_text() == text
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    assert names_in(tmp_path) == {"weights", "plain"}


def fail_to_write(path: Path) -> None:
    with writing_file(path) as partial:
        partial.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_program_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    write_atomically(path, "old")
    with pytest.raises(OutputError, match=r"the disk is full: can't write .*weights; free some"):
        fail_to_write(path)
    assert path.read_text() == "old"
    assert names_in(tmp_path) == {"weights"}


def test_links_are_replaced_or_removed_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis").write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "what").symlink_to(victim / "thesis")
    (out / ".what.partial").symlink_to(victim / "thesis")
    write_atomically(out / "what", "new")
    assert not (out / "what").is_symlink()
    (out / "more").symlink_to(victim)
    with pytest.raises(OutputError, match=r"out/more is a link to .*victim, where nothing is"):
        make_folder(out / "more")
    remove_contents(out, NOTE)
    assert names_in(out) == set()
    out.rmdir()
    (out.parent / ".out.partial").symlink_to(victim)
    (out.parent / ".out.old").symlink_to(victim)
    fill(out)
    fill(out)
    out.joinpath("more").symlink_to(victim)
    remove(out)
    assert names_in(tmp_path) == {"victim"}
    assert (victim / "thesis").read_text() == "precious"


def test_a_folder_appears_with_its_parents_and_takes_the_place_of_another(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "out"
    fill(output, "old", overwrite=False)
    (output / "more").touch()
    (output / ".what.partial").touch()  # of a kill
    fill(output)
    assert names_in(output) == {"what"}
    assert (output / "what").read_text() == "new"
    assert names_in(output.parent) == {"out"}


def test_what_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    for output in (tmp_path / "out", tmp_path / "a" / "b" / "out"):
        with pytest.raises(KeyboardInterrupt):
            stop_half_way(output)
    assert (tmp_path / "out" / "what").read_text() == "old"
    assert names_in(tmp_path) == {"out"}


def test_one_killed_between_two_names_is_put_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with pytest.raises(OutputError, match="already holds a note"):
        fill(tmp_path / "out", overwrite=False)
    assert (tmp_path / "out" / "what").read_text() == "old"


def test_a_link_stays_and_leads_to_the_new_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "model", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model" / "what").read_text() == "new"
    assert names_in(tmp_path) == {"disk", "out"}
    assert names_in(tmp_path / "disk") == {"model"}


def test_where_the_user_is_can_not_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    with pytest.raises(OutputError, match=r"is the folder you are in, .* such as .*model"):
        fill(tmp_path / "here" / "below")
    fill(tmp_path / "here" / "beside")


def test_what_can_not_be_written_is_found_out_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for output in (tmp_path / "file" / "out", tmp_path / "circle", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match=r"can't write .*; choose another place"):
            fill(output, overwrite=False)
    assert names_in(tmp_path) == {"file", "circle"}


def test_nothing_but_the_same_kind_is_replaced(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    fill(output, overwrite=False)  # an empty folder is nobody's
    with pytest.raises(OutputError, match="already holds a note: add --overwrite to replace it"):
        fill(output, overwrite=False)
    (output / "thesis").touch()
    with pytest.raises(OutputError, match=r"holds more than a note \(such as thesis\), which"):
        fill(output)
    remove_contents(output, NOTE)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="exists and is not a note, so nothing replaces it"):
            fill(output, overwrite=overwrite)
    assert names_in(output) == {"thesis"}
    assert names_in(tmp_path) == {"out"}


WRITER = """
import sys
from pathlib import Path
from tests.lmdata.test_files import NOTE
from lmdata.files import writing_folder
with writing_folder(Path(sys.argv[1]), NOTE, overwrite=True) as folder:
    (folder / "what").write_text("theirs")
    print("began", flush=True)
    sys.stdin.read()
"""


def start_writer(output: Path) -> subprocess.Popen[str]:
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(output)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "began\n"
    return other


def test_two_at_once_are_refused_and_a_killed_one_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LEASE_WAIT_S", 0.1)
    output = tmp_path / "out"
    with start_writer(output) as other:
        with pytest.raises(OutputError, match="out is being written by another command: wait"):
            fill(output)
        (tmp_path / "link").symlink_to(output)
        with pytest.raises(OutputError, match="link is being written by another command: wait"):
            fill(tmp_path / "link")
        other.kill()
    assert names_in(tmp_path) == {".out.partial", ".out.lock", "link"}
    fill(output, "ours")
    assert (output / "what").read_text() == "ours"
    assert names_in(tmp_path) == {"out", "link"}


def test_what_another_finished_while_this_one_waited_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with start_writer(output) as other:
        assert other.stdin is not None
        end_it = other.stdin.close
        waited = _waiting(end_it)
        with pytest.raises(OutputError, match="was being written by another command until now"):
            fill(output, "ours")
        waited.join()
    assert (output / "what").read_text() == "theirs"
    fill(output, "ours")
    assert (output / "what").read_text() == "ours"


def _waiting(end_it: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(0.2, end_it)
    timer.start()
    return timer


def test_where_nothing_can_be_made_beside_an_output_its_lock_lies_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    really_open = os.open

    def refuse_beside(path: Path, *arguments: int) -> int:
        if Path(path).name == ".out.lock":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return really_open(path, *arguments)

    monkeypatch.setattr(os, "open", refuse_beside)
    with lease(output) as held:
        assert names_in(output) == {".lock"}
        assert os.get_inheritable(held.descriptor) is False
    assert names_in(output) == set()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_build_folder_that_is_a_link_is_refused_and_its_target_stays(
    tmp_path: Path, overwrite: bool
) -> None:
    victim, output = tmp_path / "victim", tmp_path / "tokens"
    (victim / "thesis").mkdir(parents=True)
    (victim / "plan.json").write_text('{"created_with": "lmdata 1"}')
    output.mkdir()
    (output / ".build").symlink_to(victim)
    with (
        pytest.raises(OutputError, match=r"\.build is a link to .*victim, where nothing is"),
        claim_folder(output, overwrite=overwrite),
    ):
        pytest.fail("claimed")
    assert names_in(victim) == {"thesis", "plan.json"}


MANIFEST = '{"created_with": "lmdata 1", "splits": {"train": [{"file": "train-00000.arrow"}]}}'


@pytest.mark.parametrize(
    ("own", "strangers", "refused"),
    [
        ({"manifest.json": MANIFEST, "train-00000.arrow": ""}, ["thesis"], None),
        ({"manifest.json": MANIFEST}, ["train-00001.arrow"], "train-00001.arrow"),
        ({}, ["train-00000.arrow"], "train-00000.arrow"),
        ({}, ["manifest.json"], "manifest.json"),  # of a browser's extension
        ({}, ["tokenizer"], "tokenizer"),
        ({".build/plan.json": MANIFEST, "train-00004.arrow": ""}, ["thesis"], None),
        ({".build/replaced.json": MANIFEST, "train-00004.arrow": ""}, ["thesis"], None),
        ({".build/plan.json": MANIFEST}, [".build/thesis"], None),
    ],
)
def test_only_what_a_manifest_or_a_plan_of_ours_names_is_overwritten(
    tmp_path: Path, own: dict[str, str], strangers: list[str], refused: str | None
) -> None:
    output = tmp_path / "tokens"
    (output / ".build").mkdir(parents=True)
    for name, text in {**own, **dict.fromkeys(strangers, "precious")}.items():
        (output / name).write_text(text)
    if refused:
        with pytest.raises(OutputError, match=rf"{refused} is not of a dataset or a build that"):
            claim_folder(output, overwrite=True).__enter__()
    else:
        with claim_folder(output, overwrite=True):
            left = {path.relative_to(output).as_posix() for path in output.rglob("*")}
            assert left == {".build", *strangers}
    assert all((output / name).read_text() == "precious" for name in strangers)


def test_a_tokenizer_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    victim, output = tmp_path / "victim", tmp_path / "tokens"
    for name in (victim / "tokenizer.json", output / ".build" / "plan.json"):
        name.parent.mkdir(parents=True)
        name.write_text(MANIFEST)
    (output / "tokenizer").symlink_to(victim)
    with (
        claim_folder(output) as folder,
        pytest.raises(OutputError, match=r"tokenizer is a link to .*victim, where nothing is"),
    ):
        folder.save_tokenizer(make_tokenizer())
    with claim_folder(output, overwrite=True) as folder:
        folder.save_tokenizer(make_tokenizer())
    assert not (output / "tokenizer").is_symlink()
    assert (victim / "tokenizer.json").read_text() == MANIFEST
    assert names_in(victim) == {"tokenizer.json"}


def test_a_parent_that_another_command_made_and_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, opened = tmp_path / "runs" / "b", os.open
    removed: list[Path] = []

    def open_later(path: Path, *arguments: int) -> int:
        if not removed:
            output.parent.rmdir()
            removed.append(output.parent)
        return opened(path, *arguments)

    monkeypatch.setattr("lmdata.files.os.open", open_later)
    with lease(output) as held:
        assert held.path == output
    assert removed == [output.parent]
