"""A folder is written whole or not at all, and in the place of its own kind only."""

from __future__ import annotations

import pytest

from lmdata.errors import OutputError
from lmmodel.errors import RunError
from lmmodel.saving.output_folder import check_can_write, check_replaceable, writing


def fill(output, text="new"):
    with writing(output) as folder:
        (folder / "what").write_text(text)


def stop_half_way(output):
    with writing(output) as folder:
        (folder / "what").write_text("half")
        raise KeyboardInterrupt


def test_a_folder_appears_with_its_parents_and_takes_the_place_of_another(tmp_path):
    output = tmp_path / "a" / "b" / "out"
    fill(output, "old")
    (output / "more").touch()
    fill(output)
    assert [path.name for path in output.iterdir()] == ["what"]
    assert (output / "what").read_text() == "new"
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_what_fails_leaves_the_old_one_and_nothing_beside_it(tmp_path):
    fill(tmp_path / "out", "old")
    with pytest.raises(KeyboardInterrupt):
        stop_half_way(tmp_path / "out")
    assert (tmp_path / "out" / "what").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_stays_and_leads_to_the_new_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    fill(tmp_path / "disk" / "model", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "model")
    check_can_write(tmp_path / "out")
    fill(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "model" / "what").read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"model"}


def test_where_the_user_is_can_not_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for output in (tmp_path / "here" / "below", tmp_path / "here", tmp_path):
        with pytest.raises(OutputError, match=r"is the folder you are in, .* such as .*model"):
            check_can_write(output)
    check_can_write(tmp_path / "here" / "beside")


def test_checking_finds_out_beforehand_and_leaves_nothing(tmp_path):
    check_can_write(tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for output in (tmp_path / "file" / "out", tmp_path / "circle", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError, match=r"can't write .*; choose another place"):
            check_can_write(output)
        with pytest.raises(OutputError, match=r"can't write .*; choose another place"):
            fill(output)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "circle"}


def test_nothing_but_the_same_kind_is_replaced(tmp_path):
    def check(*, is_kind, overwrite):
        check_replaceable(
            tmp_path, "a run", lambda _: is_kind, overwrite=overwrite, instead="keep it, "
        )

    check(is_kind=False, overwrite=False)  # an empty folder is nobody's
    (tmp_path / "thesis").touch()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="exists and is not a run, so nothing replaces it"):
            check(is_kind=False, overwrite=overwrite)
    with pytest.raises(RunError, match="already holds a run: keep it, --overwrite replaces it"):
        check(is_kind=True, overwrite=False)
    check(is_kind=True, overwrite=True)
