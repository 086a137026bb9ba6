"""The path on a graphics card: here what a CPU can prove of it, and what only a card can.

`pytest -m gpu` needs a CUDA device; `python -m benchmarks gpu` runs the same checks and measures.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import varlen

from lmmodel.batch import Batch, make_batch, pad_batch
from lmmodel.config import TrainConfig
from lmmodel.data import open_data
from lmmodel.device import Processes, same_bits
from lmmodel.families import ModelConfig
from lmmodel.layers import attention as attention_module
from lmmodel.layers.attention import attention, choose_kernel
from lmmodel.layers.masks import Mask, Side
from lmmodel.model import make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.terms import sum_losses
from lmmodel.training.learner import Learner
from lmmodel.training.plan import make_loader, resolve_config
from references.made_up import write_made_up_store


def torch_2_10(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None
): ...


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None,
    window_size=(-1, -1),
): ...  # fmt: skip


def torch_2_12(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None,
    window_size=(-1, -1), enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
): ...  # fmt: skip


# torch's compiler warns of torch's own deprecated parts when it is first imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

# (left, right) of a token's own place, -1 for no limit; causal is no place to the right.
WINDOWS = {
    (False, None): (-1, -1),
    (True, None): (-1, 0),
    (False, 5): (5, 5),
    (True, 5): (5, 0),
}


def use_version(monkeypatch, version) -> list[dict[str, object]]:
    """Put the signature of `varlen_attn` in a version in its place; return the calls to come."""
    signature, calls = inspect.signature(version), []

    def varlen_attn(*args, **options):
        calls.append(signature.bind(*args, **options).arguments)
        return args[0]

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(
        attention_module, "VARLEN_TAKES_WINDOW", "window_size" in signature.parameters
    )
    return calls


def call(is_causal: bool, window: int | None) -> None:
    qkv = [torch.zeros(11, 2, 8) for _ in range(3)]
    cu_seqlens = torch.tensor([0, 4, 11], dtype=torch.int32)
    side, mask = Side(cu_seqlens, 7), Mask(is_causal=is_causal, window=window)
    attention(*qkv, side, side, mask, kernel="varlen")


@pytest.mark.parametrize("version", [torch_2_11, torch_2_12, varlen.varlen_attn])
@pytest.mark.parametrize(("mask", "expected"), WINDOWS.items())
def test_the_variable_length_kernel_gets_its_window(monkeypatch, version, mask, expected):
    calls = use_version(monkeypatch, version)
    call(*mask)
    assert calls[0]["window_size"] == expected
    assert (calls[0]["max_q"], calls[0]["max_k"]) == (7, 7)


def test_the_version_of_torch_says_whether_its_kernel_takes_a_window():
    has_window = "window_size" in inspect.signature(varlen.varlen_attn).parameters
    assert has_window == attention_module.VARLEN_TAKES_WINDOW


def test_torch_2_10_gets_its_flag_and_no_window(monkeypatch):
    calls = use_version(monkeypatch, torch_2_10)
    shape = ("cuda", torch.bfloat16, 511, 4, 128)
    assert choose_kernel(*shape) == "varlen"
    assert choose_kernel(*shape, mask=Mask(window=5)) == "padded"
    for is_causal in (False, True):
        call(is_causal, None)
        assert calls[-1]["is_causal"] is is_causal


@pytest.mark.parametrize(("is_causal", "window"), WINDOWS)
def test_the_kernel_of_this_torch_takes_what_a_layer_gives_it(is_causal, window):
    """Its own shape inference, forward and backward, on views of one qkv as `Attention` makes."""
    with FakeTensorMode():
        qkv = torch.empty(11, 3, 2, 64, dtype=torch.bfloat16, requires_grad=True)
        side = Side(torch.empty(4, dtype=torch.int32), 9)
        mask = Mask(is_causal=is_causal, window=window)
        out: Tensor = attention(*qkv.unbind(1), side, side, mask, kernel="varlen")
        out.sum().backward()
    assert out.shape == (11, 2, 64)
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


def static_batch() -> Batch:
    batch = make_batch(
        torch.arange(23), torch.tensor([11, 12]), max_seqlen=13,
        masked_positions=torch.tensor([2, 15]), masked_labels=torch.tensor([5, 7]),
    )  # fmt: skip
    return pad_batch(batch, num_tokens=29, num_sequences=5, num_masked=3)


class Seen(Exception):
    """Raised instead of running a graph that needs a card."""


@pytest.mark.parametrize("family", ["bert", "modern", "gpt2"])
def test_the_loss_is_one_graph_with_the_variable_length_kernel_in_it(family):
    names: list[str] = []

    def look(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        raise Seen

    model = make_model(
        ModelConfig(family=family, size="tiny", vocab_size=97, max_position_embeddings=32), seed=0
    )
    model.compute_dtype, model.kernel = torch.bfloat16, "varlen"
    part = make_objective(ObjectiveConfig(name="clm" if family == "gpt2" else "mlm")).parts[0]
    compiled = torch.compile(sum_losses, dynamic=False, fullgraph=True, backend=look)
    with pytest.raises(Exception, match="Seen"):
        compiled(model, part, static_batch())
    assert sum("varlen_attn" in name for name in names) == 2  # a layer each


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made-up") / "tokens"
    write_made_up_store(folder, num_tokens=20_000, vocab_size=300)
    return folder


def make_learner(config: TrainConfig, store: Path) -> Learner:
    data, device = open_data(store), torch.device("cpu")
    config = resolve_config(config, data, device, Processes())
    return Learner(config, make_loader(config, data, 10, Processes()), device)


def make_compiled_learner(tiny, store: Path, backend, *overrides: str) -> Learner:
    config = tiny("compile=true", "objective.name=mlm", "recipe.view=packed", *overrides)
    learner = make_learner(config, store)
    learner.losses = torch.compile(sum_losses, dynamic=False, fullgraph=True, backend=backend)
    return learner


def make_eager_learner(tiny, store: Path, family: str) -> Learner:
    config = tiny("objective.name=mlm", "recipe.view=packed", f"model.family={family}")
    return make_learner(config, store)


def learn(learner: Learner, num_steps: int) -> list[float]:
    losses = []
    for step in range(num_steps):
        batch = learner.loader.batch(step)
        losses.append(learner.learn(batch, learner.add_up(batch).num_labels).loss.total)
    return losses


@pytest.mark.parametrize("family", ["bert", "modern"])
def test_static_shapes_are_compiled_once_and_give_the_losses_of_eager_ones(tiny, made_up, family):
    counter = CompileCounter()  # the graph, run as it is
    learner = make_compiled_learner(tiny, made_up, counter, f"model.family={family}")
    compiled = learn(learner, 5)
    assert counter.frame_count == 1
    assert compiled == pytest.approx(learn(make_eager_learner(tiny, made_up, family), 5), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "modern"])
def test_a_compiled_training_gives_the_losses_of_an_eager_one(tiny, made_up, family):
    compiled = make_compiled_learner(tiny, made_up, "inductor", f"model.family={family}")
    eager = make_eager_learner(tiny, made_up, family)
    assert learn(compiled, 4) == pytest.approx(learn(eager, 4), rel=1e-4)


@pytest.mark.parametrize(
    ("device", "wanted", "expected"),
    [("auto", True, True), ("cuda", True, True), ("cuda", False, False), ("cpu", True, False)],
)
def test_a_card_gets_deterministic_kernels_while_training(monkeypatch, device, wanted, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with same_bits(device, wanted=wanted):
        assert torch.are_deterministic_algorithms_enabled() == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
