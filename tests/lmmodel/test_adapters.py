from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lmmodel.adapters import LoraLinear, choose_trained, merged
from lmmodel.batch import make_batch
from lmmodel.config import OptimizerConfig
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.model import Linear, Transformer, make_model
from lmmodel.optimizing import LoraConfig
from lmmodel.training.optimizer import Optimizer

SHAPE = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
         "intermediate_size": 20, "max_position_embeddings": 17, "dropout": 0.0}  # fmt: skip
BATCH = make_batch(torch.tensor([5, 7, 11, 13, 2, 3, 19]), torch.tensor([4, 3]))


def small(family: str = "bert") -> Transformer:
    return make_model(ModelConfig(family=family, **SHAPE), seed=3)


@pytest.mark.parametrize("family", ["bert", "modern", "gpt2"])
def test_pairs_begin_with_nothing_and_merged_weights_compute_the_same(family) -> None:
    plain, model = small(family), small(family)
    choose_trained(model, "lora", LoraConfig(rank=5))
    with torch.no_grad():
        assert torch.equal(model(BATCH), plain(BATCH))
        for name, parameter in model.named_parameters():
            if name.endswith(".lora_b"):
                parameter.copy_(0.3 * torch.randn(parameter.shape))
        moved = model(BATCH)
        assert (moved - plain(BATCH)).abs().max() > 1e-2
        plain.load_state_dict(merged(model.state_dict(), LoraConfig(rank=5)))
        torch.testing.assert_close(plain(BATCH), moved, rtol=0, atol=1e-5)


def test_a_merged_query_key_value_has_a_pair_for_each() -> None:
    model = small()
    choose_trained(model, "lora", LoraConfig(rank=5))
    qkv, mlp = model.layers[0].attention.qkv, model.layers[0].mlp.input
    assert [tuple(p.shape) for p in (qkv.lora_a, qkv.lora_b)] == [(3, 5, 24), (3, 24, 5)]
    assert [tuple(p.shape) for p in (mlp.lora_a, mlp.lora_b)] == [(1, 5, 24), (1, 20, 5)]


@pytest.mark.parametrize("part", ["full", "ffn", "head", "bias", "lora"])
def test_what_is_frozen_has_neither_gradient_nor_state(part) -> None:
    model = small()
    found = choose_trained(model, part, LoraConfig())
    model.lm_logits(model(BATCH)).square().sum().backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert (part == "full") == (not frozen)
    assert all(p.grad is None for name, p in model.named_parameters() if name in frozen)
    states = Optimizer(model, OptimizerConfig(name="adamw")).state_tensors()
    assert not {key.rpartition("/")[0] for key in states} & frozen
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.num_trained == numbers
    assert found.num_frozen == sum(p.numel() for p in model.parameters()) - numbers


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.ModuleList([Linear(7, 11), Linear(11, 5)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[1](torch.tanh(self.layers[0](x)))


@pytest.mark.filterwarnings("ignore")
def test_gradients_and_ten_steps_equal_those_of_peft() -> None:
    peft = pytest.importorskip("peft")
    ours = Two()
    theirs = peft.get_peft_model(
        copy.deepcopy(ours), peft.LoraConfig(r=3, lora_alpha=6, target_modules=["0", "1"])
    )
    choose_trained(ours, "lora", LoraConfig(rank=3, alpha=6))
    base = theirs.base_model.model
    for own, other in zip(ours.layers, base.layers, strict=True):
        with torch.no_grad():
            other.lora_A["default"].weight.copy_(own.lora_a[0])
            other.lora_B["default"].weight.copy_(own.lora_b[0])
    x, y = torch.randn(13, 7), torch.randn(13, 5)
    steps = [
        torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.05)
        for m in (ours, theirs)
    ]
    for _ in range(10):
        for model, optimizer in zip((ours, theirs), steps, strict=True):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
        for own, other in zip(ours.layers, base.layers, strict=True):
            theirs_a, theirs_b = other.lora_A["default"].weight, other.lora_B["default"].weight
            torch.testing.assert_close(own.lora_a.grad[0], theirs_a.grad, rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(own.lora_b.grad[0], theirs_b.grad, rtol=1e-5, atol=1e-7)
        for optimizer in steps:
            optimizer.step()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)
    merged_theirs = theirs.merge_and_unload().state_dict()
    for name, weight in merged(ours.state_dict(), LoraConfig(rank=3, alpha=6)).items():
        torch.testing.assert_close(weight, merged_theirs[name], rtol=0, atol=1e-5)


def test_what_can_not_be_trained_is_told() -> None:
    with pytest.raises(FitError, match=r"lora.rank=21 is above the 20 features"):
        choose_trained(small(), "lora", LoraConfig(rank=21))
    without_biases = small("modern")
    without_biases.head.requires_grad_(False)
    with pytest.raises(FitError, match="trainable=bias: this model has no such weights"):
        choose_trained(without_biases, "bias", LoraConfig())
    with pytest.raises(ValueError, match="trainable must be one of full, ffn, head, bias, lora"):
        choose_trained(small(), "some", LoraConfig())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match="alpha must be a number above 0"):
        LoraConfig(alpha=float("nan"))
    assert not any(isinstance(module, LoraLinear) for module in small().modules())
