"""A checkpoint is whole or it is not there."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from lmmodel.errors import CheckpointError
from lmmodel.saving.checkpoint import (
    INDEX_NAME,
    list_checkpoints,
    load_checkpoint,
    load_latest,
    load_tensors,
    save_checkpoint,
    save_tensors,
)


def groups(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    stack = torch.arange(14.0).view(2, 7) * value
    return {
        "model": {"a": torch.full((3, 5), value), "scalar": torch.tensor(value)},
        "optimizer": {"one": stack[0], "other": stack[1], "turned": stack.T},
    }


def test_what_is_saved_comes_back(tmp_path):
    path = save_checkpoint(tmp_path, 7, groups(0.1), {"tokens": 5}, keep=2)
    assert path.name == "step-00000007"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state) == (7, {"tokens": 5})
    for name, tensors in groups(0.1).items():
        for key, tensor in tensors.items():
            assert torch.equal(loaded.groups[name][key], tensor)


def test_the_newest_few_stay(tmp_path):
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, step, groups(), {}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000003"]


def test_what_was_just_saved_stays_where_a_later_one_is_damaged(tmp_path):
    """A resume passed over step 200: it must not count as the newest, nor come back."""
    for step in (100, 200):
        save_checkpoint(tmp_path, step, groups(), {}, keep=2)
    (tmp_path / "step-00000200/model.safetensors").write_bytes(b"damaged")
    saved = save_checkpoint(tmp_path, 120, groups(), {}, keep=1)
    assert list_checkpoints(tmp_path) == [saved]
    assert load_latest(tmp_path)[0].step == 120


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, 1, groups(1), {}, keep=2)
    save_checkpoint(tmp_path, 1, groups(2), {}, keep=2)
    assert load_checkpoint(tmp_path / "step-00000001").groups["model"]["scalar"] == 2


def test_an_unfinished_folder_is_no_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, groups(), {}, keep=2)
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / "model.safetensors").write_bytes(b"half")
    checkpoint, problems = load_latest(tmp_path)
    assert checkpoint is not None
    assert (checkpoint.step, problems) == (1, [])


def test_no_checkpoint_is_none_but_none_valid_is_an_error(tmp_path):
    assert load_latest(tmp_path / "absent") == (None, [])
    path = save_checkpoint(tmp_path, 1, groups(), {}, keep=2)
    (path / INDEX_NAME).unlink()
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints in .* is valid"):
        load_latest(tmp_path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "model.safetensors is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes instead of .*: truncated"),
        (flip_a_bit, r"is not what was saved \(xxh3 differs\)"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "truncated or replaced"),
    ],
)
def test_a_spoilt_file_is_named(tmp_path, spoil, words):
    path = save_checkpoint(tmp_path, 1, groups(), {}, keep=2)
    spoil(path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_another_version_is_named(tmp_path):
    path = save_checkpoint(tmp_path, 1, groups(), {}, keep=2)
    index = json.loads((path / INDEX_NAME).read_text())
    (path / INDEX_NAME).write_text(json.dumps({**index, "format_version": 2}))
    with pytest.raises(CheckpointError, match="has checkpoint format 2, this version reads 1"):
        load_checkpoint(path)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="only safetensors is read, a pickle is never opened"):
        load_tensors(path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_tensors(tmp_path / "absent.safetensors")


def test_a_file_is_replaced_at_once_and_nothing_is_left_beside_it(tmp_path):
    for value in (1.0, 2.0):
        save_tensors(tmp_path / "m.safetensors", {"a": torch.tensor([value])})
    assert load_tensors(tmp_path / "m.safetensors")["a"].tolist() == [2.0]
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
