"""Embeddings: mean pooling as others do it, and the files they go to."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lmdata.errors import OutputError
from lmmodel.asking import Pretrained, load_pretrained
from lmmodel.batch import make_batch
from lmmodel.errors import FitError
from lmmodel.handover.stock import export_model
from lmmodel.predicting.given import TABLE_SUFFIXES, answer_file, beside, write_rows
from lmmodel.predicting.likelihood import embed
from lmmodel.trained import load_run

TEXTS = ["the cat sees the river.", "a dog", "one bird paints green apples without a word."]


@pytest.mark.parametrize("which", ["trained", "causal_run"])
def test_vectors_are_the_mean_of_transformers_last_layer(which, request, tmp_path):
    transformers = pytest.importorskip("transformers")
    run = load_run(request.getfixturevalue(which))
    export_model(run.model, run.tokenizer, tmp_path / "hf")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    raw, unit = embed(run, TEXTS, normalize=False).vectors, Pretrained(run).embed(TEXTS)
    for text, ours, normal in zip(TEXTS, raw, unit, strict=True):
        ids = run.tokenizer.backend.encode(text, add_special_tokens=not run.is_causal).ids
        with torch.no_grad():
            mean = theirs(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(ours, mean, rtol=0, atol=1e-5)
        np.testing.assert_allclose(normal, mean / np.linalg.norm(mean), rtol=0, atol=1e-5)


def test_longer_texts_are_the_mean_over_windows_side_by_side(causal_run):
    run = load_run(causal_run)
    text = " ".join(TEXTS * 3)
    ids = run.tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert 64 < len(ids) <= 128
    whole = embed(run, [text, TEXTS[0]], normalize=False)
    batch = make_batch(torch.tensor(ids), torch.tensor([64, len(ids) - 64]))
    with torch.no_grad():
        expected = run.model(batch).mean(0)
    np.testing.assert_allclose(whole.vectors[0], expected, rtol=0, atol=1e-5)
    assert whole.num_windowed == 1


def test_the_texts_beside_change_nothing(trained):
    run = load_run(trained)
    alone = np.concatenate([Pretrained(run).embed(text) for text in TEXTS])
    np.testing.assert_allclose(Pretrained(run).embed(TEXTS), alone, rtol=0, atol=1e-6)
    assert Pretrained(run).embed([]).shape == (0, 32)


def test_vectors_are_written_with_their_texts(tmp_path):
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    rows = beside([{"text": "a"}, {"text": "b"}], [{"vector": vector} for vector in vectors])
    path = tmp_path / "new" / "v.parquet"
    with answer_file(path, TABLE_SUFFIXES, overwrite=False) as partial:
        write_rows(partial, path.suffix, rows)
    assert pq.read_table(path).to_pylist() == [
        {"text": "a", "vector": [0, 1, 2]}, {"text": "b", "vector": [3, 4, 5]},
    ]  # fmt: skip
    assert [path.name for path in path.parent.iterdir()] == ["v.parquet"]
    with (
        pytest.raises(OutputError, match="exists: add --overwrite to replace it"),
        answer_file(path, TABLE_SUFFIXES, overwrite=False),
    ):
        pytest.fail("nothing is computed where nothing can be written")
    with answer_file(path, TABLE_SUFFIXES, overwrite=True) as partial:
        write_rows(partial, path.suffix, rows[:1])
    assert pq.read_table(path).num_rows == 1


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_columns_of_several_kinds_and_numbers_that_are_none_are_written(suffix, tmp_path):
    cells = [7, "x", None, {"a": [1]}, [float("nan")], datetime.date(2020, 1, 2)]
    path = tmp_path / f"answers{suffix}"
    write_rows(path, suffix, [{"cell": cell, "score": float("inf")} for cell in cells])
    if suffix == ".parquet":
        found = pq.read_table(path).column("cell").to_pylist()
        assert found == ["7", "x", None, '{"a": [1]}', "[null]", '"2020-01-02"']
    elif suffix == ".jsonl":
        found = [json.loads(line)["cell"] for line in path.read_text().splitlines()]
        assert found == [7, "x", None, {"a": [1]}, [None], "2020-01-02"]
        assert "Infinity" not in path.read_text()
    else:
        lines = path.read_text().splitlines()
        assert lines[1:5] == ["7,inf", "x,inf", ",inf", '"{""a"": [1]}",inf']


def test_what_can_not_be_embedded_or_written_is_a_clear_error(trained, tmp_path):
    with pytest.raises(FitError, match=r"text 1 of 1 has no token in it: ''"):
        load_pretrained(trained).embed("")
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"can't write .*; choose another place"),
        answer_file(tmp_path / "file" / "v.csv", TABLE_SUFFIXES, overwrite=False),
    ):
        pytest.fail("nothing is computed where nothing can be written")
