"""A run folder: what replaces it, and that a damaged one is told in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lmdata.errors import LmdataError, OutputError
from lmmodel.config import load_train_config
from lmmodel.diagnosing import on_line_since
from lmmodel.errors import CheckpointError, LmmodelError, RunError
from lmmodel.record import is_run
from lmmodel.saving.checkpoint import INDEX_NAME, list_checkpoints, load_tensors, save_tensors
from lmmodel.saving.metrics import MetricsLog, read_metrics
from lmmodel.saving.run import read_record
from lmmodel.trained import load_run
from lmmodel.trainer import train


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory) -> Path:
    from tests.lmmodel.conftest import TINY

    run = tmp_path_factory.mktemp("finished") / "run"
    settings = [*TINY, "budget.num_steps=4", "checkpoint.every_steps=2", "logging.picture=false"]
    train(load_train_config(None, settings), store, run)
    return run


def content(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "record",
    [
        {"port": 80},
        {"architectures": ["BertForMaskedLM"], "hidden_size": 32, "num_hidden_layers": 1},
        {"format_version": 1, "kind": "other"},
        [1, 2],
    ],
)
def test_a_config_json_of_others_makes_no_run(tiny, store, tmp_path, record):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(record))
    (tmp_path / "theirs" / "model.safetensors").write_text("precious")
    before = content(tmp_path / "theirs")
    with pytest.raises(OutputError, match="exists and is not a run, so nothing replaces it"):
        train(tiny(), store, tmp_path / "theirs", overwrite=True)
    assert content(tmp_path / "theirs") == before


def test_overwriting_takes_what_is_the_runs_own_and_follows_no_link(
    tiny, store, finished, tmp_path
):
    (tmp_path / "elsewhere" / "step-00000001").mkdir(parents=True)
    (tmp_path / "elsewhere" / "step-00000001" / "thesis.txt").write_text("precious")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"more than a run \(such as checkpoints/notes.txt\)"):
        train(tiny(), store, run, overwrite=True)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    train(tiny("budget.num_steps=2"), store, run, overwrite=True)
    assert not (run / "checkpoints").is_symlink()
    assert content(tmp_path / "elsewhere") == {"step-00000001/thesis.txt": b"precious"}


def test_checkpoints_are_not_written_through_a_link(tiny, store, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(list_checkpoints(tmp_path / "elsewhere")[0])  # so that there is a step to do
    before = content(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"is a link to .*, where nothing is written"):
        train(None, None, run, resume=True)
    assert content(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_answer_nothing(finished, tmp_path, value):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    tensors = load_tensors(run / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = value
    save_tensors(run / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"holds values that are no numbers \(NaN or inf"):
        load_run(run)


def test_metrics_are_json_whatever_the_numbers(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write({"step": 1, "validation_loss": float("nan"), "validation_unigram_loss": 2.0})
    log.close()

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse)["validation_loss"] is None
    assert on_line_since(read_metrics(tmp_path / "metrics.jsonl"), 0.1) is None


def test_lines_that_are_no_entries_end_the_metrics(tmp_path):
    for line in ("[1]", '{"loss": 1}', '{"step": "1"}', "[" * 100_000, "\xff"):
        (tmp_path / "m.jsonl").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
        assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1}]


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with a slip: some changed, left out, put in twice, or all cut off."""
    place, length = draw.randrange(len(data)), draw.randrange(1, 9)
    return draw.choice(
        (
            data[:place] + draw.randbytes(length) + data[place + length :],
            data[:place] + data[place + length :],
            data[: place + length] + data[place:],
            data[:place],
            data[:place] + draw.choice((b"0", b"9", b'"', b"{", b"-", b"null")) + data[place + 1 :],
        )
    )


def damaged(json_file: Path, draw: random.Random) -> bytes:
    """Return JSON with one value replaced by one of another type or size."""
    values = json.loads(json_file.read_text())
    inner = values
    while True:
        key = draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not (isinstance(inner[key], dict | list) and inner[key] and draw.random() < 0.7):
            break
        inner = inner[key]
    odd = (None, -1, 0, 2**70, 1e308, "x", [], {}, [[1]], True, "../../x", float("nan"))
    inner[key] = draw.choice(odd)
    return json.dumps(values).encode()


Damage = Callable[[Path, random.Random], bytes]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_run_opens_as_it_was_or_says_so(finished, tmp_path, name):
    draw, run = random.Random(f"open {name}"), tmp_path / "run"
    shutil.copytree(finished, run)
    data, refusals = (run / name).read_bytes(), []
    for number in range(40):
        is_json = name.endswith("json") and number % 2
        (run / name).write_bytes(damaged(finished / name, draw) if is_json else mutated(data, draw))
        try:
            load_run(run, "cpu")
        except (LmmodelError, LmdataError) as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert not [text for text in refusals if "\n" in text or len(text) > 2000]


@pytest.mark.parametrize("name", ["config.json", INDEX_NAME, "metrics.jsonl"])
def test_a_damaged_run_goes_on_to_the_same_weights_or_says_so(store, finished, tmp_path, name):
    draw, right = random.Random(f"resume {name}"), (finished / "model.safetensors").read_bytes()
    refusals: list[str] = []
    torch.set_num_threads(1)
    for number in range(12):
        run = tmp_path / f"run{number}"
        shutil.copytree(finished, run)
        newest, older = list_checkpoints(run / "checkpoints")
        shutil.rmtree(newest)
        path = older / name if name == INDEX_NAME else run / name
        is_json = name.endswith("json") and number % 2
        path.write_bytes(damaged(path, draw) if is_json else mutated(path.read_bytes(), draw))
        try:
            train(None, None, run, resume=True)
        except (LmmodelError, LmdataError) as error:
            refusals.append(str(error))
        else:
            assert (run / "model.safetensors").read_bytes() == right
    assert not [text for text in refusals if "\n" in text]


def test_a_record_of_the_wrong_shape_is_named(finished, tmp_path):
    values = json.loads((finished / "config.json").read_text())
    for change, words in (
        ({"num_steps": "many"}, "num_steps must be of type int, got 'many'"),
        ({"num_steps": -1}, r"num_steps must be in \[0, 1,000,000,000\], got -1"),
        ({"config": []}, "it has no settings"),
        ({"tokenizer_hash": 7}, "tokenizer_hash must be of type str, got 7"),
        ({"colour": "red"}, "unknown key colour"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(RunError, match=words):
            read_record(tmp_path)
    (tmp_path / "config.json").write_text("[" * 200_000)
    with pytest.raises(RunError, match="it is nested too deeply"):
        read_record(tmp_path)
    assert not is_run(tmp_path)
    with pytest.raises(RunError, match="is not the record of a run of this version"):
        read_record(Path("/".join(["a"] * 5000)))
