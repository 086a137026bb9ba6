"""ONNX files: onnxruntime computes the model's numbers for any rows and lengths."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.onnx_file import check_onnx, export_onnx, make_padded
from lmmodel.handover.parity import make_sample
from lmmodel.model import make_model
from lmmodel.tasks.known import TASKS as KNOWN
from lmmodel.tasks.model import make_task_model

FAMILIES = ["bert", "modern", "gpt2"]
TASKS = ["sequence-classification", "token-classification", "question-answering"]


def tiny_config(family: str, **changes) -> ModelConfig:
    own = {"local_window": 10, "global_every": 2} if family == "modern" else {}
    settings = {
        "vocab_size": 17, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 19, "max_position_embeddings": 37, "initializer_range": 0.3,
    }  # fmt: skip
    return ModelConfig(family=family, **(settings | own | changes))


def tiny_model(family: str, task: str | None = None, **changes):
    config = tiny_config(family, **changes)
    if task is None:
        return make_model(config, seed=1).eval()
    return make_task_model(config, KNOWN[task], 2, seed=1).eval()


def without_padding(rows: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("family", FAMILIES)
def test_padded_rows_give_the_numbers_of_packed_ones(family, task) -> None:
    model = tiny_model(family, task)
    sample = make_sample(model.config, None)
    rows = sample.padded(0)
    with torch.no_grad():
        found = make_padded(model)(*rows.values())
        expected = model(sample.packed())
    assert torch.isfinite(found).all()
    found = without_padding(found, sample.lengths) if found.dim() == 3 else found
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_sinusoidal_positions_and_absent_segments_are_known() -> None:
    model = tiny_model("bert", positions="sinusoidal")
    sample = make_sample(model.config, None)
    rows = sample.padded(0)
    rows["token_type_ids"].zero_()
    with torch.no_grad():
        given = make_padded(model)(*rows.values())
        absent = make_padded(model)(rows["input_ids"], rows["attention_mask"])
    assert torch.equal(given, absent)


def test_the_model_itself_stays_as_it_is() -> None:
    model = tiny_model("modern")
    before = type(model.layers[0].attention)
    make_padded(model)
    assert type(model.layers[0].attention) is before


def test_a_missing_package_is_named_with_what_to_install(monkeypatch, tmp_path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    with pytest.raises(HuggingFaceError, match=r"needs onnxscript, .* 'lmdata-lmmodel\[onnx"):
        export_onnx(tiny_model("bert"), tmp_path / "model.onnx")


def test_a_small_file_has_the_numbers_for_other_shapes(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny_model("gpt2", "sequence-classification", num_hidden_layers=1)
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
    with torch.no_grad():
        model.head.classifier.weight[0, 0] += 1
    with pytest.raises(HuggingFaceError, match="onnxruntime computes other numbers"):
        check_onnx(model, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("task", [None, *TASKS])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_task_has_a_file(family, task, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny_model(family, task)
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    segments = ["token_type_ids"] if family == "bert" else []
    names = [item.name for item in session.get_inputs()]
    assert names == ["input_ids", "attention_mask", *segments]
    (output,) = session.get_outputs()
    assert output.name == ("last_hidden_state" if task is None else "logits")
