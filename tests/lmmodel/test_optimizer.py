import pytest
import torch

from lmmodel.errors import CheckpointError
from lmmodel.families import ModelConfig
from lmmodel.model import make_model
from lmmodel.optimizing import OptimizerConfig
from lmmodel.training.optimizer import (
    NEWTON_SCHULZ,
    Optimizer,
    orthogonal_update,
    orthogonal_updates,
    orthogonalize,
    takes_decay,
    takes_muon,
)


def plain_orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Return the polynomial applied to the singular values, by a decomposition."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ v


def plain_muon_step(weight, gradient, momentum, config: OptimizerConfig, lr: float):
    """Return weight and momentum after one step on one matrix, as the paper states it."""
    momentum = config.muon_momentum * momentum + (1 - config.muon_momentum) * gradient
    nesterov = (1 - config.muon_momentum) * gradient + config.muon_momentum * momentum
    update = plain_orthogonalize(nesterov) * max(1, len(weight) / weight.shape[1]) ** 0.5
    return weight * (1 - lr * config.muon_weight_decay) - lr * update, momentum


def make_tiny(seed: int = 0):
    config = ModelConfig(
        vocab_size=53, hidden_size=14, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=29, max_position_embeddings=11,
    )  # fmt: skip
    return make_model(config, seed=seed)


def fill_gradients(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(5, 13, 13), (3, 13, 29), (2, 29, 13), (1, 1, 7)])
def test_stacked_rounds_equal_the_polynomial_of_singular_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([plain_orthogonalize(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices).double(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounds_bring_singular_values_near_one(dtype: torch.dtype) -> None:
    matrices = torch.randn(7, 31, 53, generator=torch.Generator().manual_seed(2))
    values = torch.linalg.svdvals(orthogonalize(matrices, dtype))
    assert values.min() > 0.5
    assert values.max() < 1.25


def test_rounds_in_bf16_point_the_same_way() -> None:
    matrices = torch.randn(7, 64, 128, generator=torch.Generator().manual_seed(2))
    exact, rounded = orthogonalize(matrices), orthogonalize(matrices, torch.bfloat16)
    cosines = torch.cosine_similarity(exact.flatten(1), rounded.flatten(1))
    assert cosines.min() > 0.999
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_shared_out_among_cores_have_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, num_threads: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = (7, 64, 64), (1, 64, 96), (2, 128, 64)
    stacks = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = [orthogonal_update(stack, dtype) for stack in stacks]
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    found = orthogonal_updates(stacks, dtype)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert orthogonal_updates([], dtype) == []


def test_a_zero_matrix_stays_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


def test_muon_equals_one_plain_step_after_another_for_each_matrix() -> None:
    model, config = make_tiny(), OptimizerConfig(name="muon", muon_lr=0.03)
    optimizer = Optimizer(model, config)
    weights = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    momenta = {n: torch.zeros_like(w) for n, w in weights.items()}
    for step, ratio in enumerate((0.5, 1.0, 0.25)):
        fill_gradients(model, step)
        for name, parameter in model.named_parameters():
            if takes_muon(name, parameter):
                parts = 3 if "qkv" in name else 1
                pieces = [
                    plain_muon_step(w, g, m, config, 0.03 * ratio)
                    for w, g, m in zip(
                        weights[name].chunk(parts),
                        parameter.grad.double().chunk(parts),
                        momenta[name].chunk(parts),
                        strict=True,
                    )
                ]
                weights[name] = torch.cat([piece[0] for piece in pieces])
                momenta[name] = torch.cat([piece[1] for piece in pieces])
        optimizer.step(ratio)
    for name, parameter in model.named_parameters():
        if takes_muon(name, parameter):
            actual = parameter.detach().double()
            torch.testing.assert_close(actual, weights[name], atol=2e-5, rtol=1e-3, msg=name)


def test_adamw_equals_torchs_plain_one() -> None:
    model, twin = make_tiny(), make_tiny()
    config = OptimizerConfig(name="adamw", lr=2**-6, weight_decay=0.25)
    optimizer = Optimizer(model, config)
    decays = {n: takes_decay(n, p, decay_embeddings=False) for n, p in twin.named_parameters()}
    plain = torch.optim.AdamW(
        [
            {"params": [p for n, p in twin.named_parameters() if decays[n]], "weight_decay": 0.25},
            {"params": [p for n, p in twin.named_parameters() if not decays[n]],
             "weight_decay": 0.0},
        ],
        betas=config.betas, eps=config.eps, foreach=False, fused=False,
    )  # fmt: skip
    for step, ratio in enumerate((0.5, 1.0, 0.25)):
        fill_gradients(model, step)
        fill_gradients(twin, step)
        for group in plain.param_groups:
            group["lr"] = config.lr * ratio
        optimizer.step(ratio)
        plain.step()
    for (name, one), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, msg=name)


def test_biases_norms_and_embeddings_keep_their_size() -> None:
    named = dict(make_tiny().named_parameters())
    decayed = {n for n, p in named.items() if takes_decay(n, p, decay_embeddings=False)}
    assert decayed == {
        n for n in named if n.endswith(("qkv.weight", "output.weight", "input.weight"))
    } | {"head.dense.weight"}
    everything = {n for n, p in named.items() if takes_decay(n, p, decay_embeddings=True)}
    assert everything - decayed == {n for n in named if n.startswith("embeddings.")} - {
        "embeddings.norm.weight",
        "embeddings.norm.bias",
    }


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_saved_state_continues_bit_for_bit(name: str) -> None:
    config = OptimizerConfig(name=name)
    model, twin = make_tiny(), make_tiny()
    optimizer, other = Optimizer(model, config), Optimizer(twin, config)
    for step in range(2):
        fill_gradients(model, step)
        optimizer.step(1.0)
    other.load_state_tensors({n: t.clone() for n, t in optimizer.state_tensors().items()})
    twin.load_state_dict(model.state_dict())
    for m, o in ((model, optimizer), (twin, other)):
        fill_gradients(m, 7)
        o.step(0.5)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_of_another_optimizer_is_refused() -> None:
    muon = Optimizer(make_tiny(), OptimizerConfig(name="muon"))
    adamw = Optimizer(make_tiny(), OptimizerConfig(name="adamw"))
    with pytest.raises(CheckpointError, match="was it saved with another optimizer than adamw"):
        adamw.load_state_tensors(muon.state_tensors())


def test_a_state_of_another_shape_is_refused() -> None:
    optimizer = Optimizer(make_tiny(), OptimizerConfig(name="adamw"))
    state = optimizer.state_tensors() | {"head.bias/mean": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"head.bias/mean has shape \(3,\).* needs \(53,\)"):
        optimizer.load_state_tensors(state)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_convex_problem_is_solved(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.layers = torch.nn.Linear(5, 3)
    target = torch.nn.Linear(5, 3)
    optimizer = Optimizer(model, OptimizerConfig(name=name, lr=0.05, weight_decay=0.0,
                                                 muon_weight_decay=0.0))  # fmt: skip
    x = torch.randn(31, 5)
    for step in range(300):
        loss = (model.layers(x) - target(x).detach()).square().mean()
        loss.backward()
        optimizer.step(1 - step / 300)
        optimizer.zero_grad()
    assert loss < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0 and at most 1, got 0.0; 1e-4 to 2e-3 is usual"),
        ({"lr": 10.0}, "lr must be above 0 and at most 1, got 10.0"),
        ({"muon_lr": -1.0}, "muon_lr must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)
