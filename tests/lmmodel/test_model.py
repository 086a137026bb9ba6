import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from lmmodel import families
from lmmodel.batch import Batch, make_batch, pad_batch
from lmmodel.cores import summed_cross_entropy
from lmmodel.errors import MemoryLimitError
from lmmodel.families import MODEL_SIZES, Family, ModelConfig
from lmmodel.model import (
    forward_flops,
    make_model,
    rotary_angles,
    rotate,
    sinusoids,
    vocabulary_products,
)
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.terms import sum_losses
from lmmodel.optimizing import OptimizerConfig
from lmmodel.training.optimizer import Optimizer

FAMILIES = ["bert", "modern", "gpt2", "roberta", "albert", "electra", "distilbert"]
VOCAB = 53


def tiny_config(family: str, **changes) -> ModelConfig:
    own = {
        "modern": {"local_window": 6, "global_every": 2},
        "electra": {"embedding_size": 11},
        "albert": {"embedding_size": 11, "num_hidden_groups": 2},
    }.get(family, {})
    settings = {
        "vocab_size": VOCAB, "hidden_size": 42, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 29, "max_position_embeddings": 37,
        "has_nsp_head": family != "gpt2", "initializer_range": 0.2,
    }  # fmt: skip
    return ModelConfig(family=family, **(settings | own | changes))


def random_batch(lengths: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    positions = torch.arange(1, num_tokens, 4)
    return make_batch(
        torch.randint(0, VOCAB, (num_tokens,), generator=generator),
        torch.tensor(lengths),
        token_type_ids=torch.randint(0, 2, (num_tokens,), generator=generator),
        masked_positions=positions,
        masked_labels=torch.randint(0, VOCAB, positions.shape, generator=generator),
        next_sentence_label=torch.randint(0, 2, (len(lengths),), generator=generator),
    )


def loss_of(model, batch: Batch) -> torch.Tensor:
    """Return the summed loss of every head."""
    hidden = model(batch)
    loss = summed_cross_entropy(
        model.mlm_logits(hidden[batch.masked_positions]), batch.masked_labels
    )
    if model.config.has_nsp_head:
        pairs = model.nsp_logits(hidden[batch.first_positions])
        loss = loss + F.cross_entropy(pairs, batch.next_sentence_label, reduction="sum")
    return loss


def gradients_of(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_sequence_at_a_time(family: str) -> None:
    model = make_model(tiny_config(family), seed=1).double()
    model.compute_dtype = torch.float64
    lengths = [11, 2, 37, 5, 5]
    batch = random_batch(lengths)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    parts = []
    for i, end in enumerate(ends):
        span = slice(end - lengths[i], end)
        is_inside = (batch.masked_positions >= span.start) & (batch.masked_positions < span.stop)
        parts.append(
            make_batch(
                batch.input_ids[span], torch.tensor([lengths[i]]),
                token_type_ids=batch.token_type_ids[span],
                masked_positions=batch.masked_positions[is_inside] - span.start,
                masked_labels=batch.masked_labels[is_inside],
                next_sentence_label=batch.next_sentence_label[i : i + 1],
            )
        )  # fmt: skip
    packed = loss_of(model, batch)
    alone = torch.stack([loss_of(model, part) for part in parts]).sum()
    torch.testing.assert_close(packed, alone)
    expected = gradients_of(model, alone)
    for name, gradient in gradients_of(model, packed).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_static_shapes_change_neither_loss_nor_gradients(family: str) -> None:
    model = make_model(tiny_config(family, has_nsp_head=False), seed=1).double()
    model.compute_dtype = torch.float64
    batch = random_batch([11, 2, 17])
    padded = pad_batch(batch, num_tokens=61, num_sequences=9, num_masked=13)
    plain, static = loss_of(model, batch), loss_of(model, padded)
    torch.testing.assert_close(static, plain)
    expected = gradients_of(model, plain)
    for name, gradient in gradients_of(model, static).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_rows_asked_for_are_those_of_all_rows(family: str, is_causal: bool) -> None:
    model = make_model(tiny_config(family), seed=1).double()
    model.compute_dtype = torch.float64
    batch, rows = random_batch([11, 2, 17]), torch.tensor([29, 0, 11, 7, 7])
    everything = model(batch, is_causal=is_causal)
    some = model(batch, is_causal=is_causal, rows=rows)
    torch.testing.assert_close(some, everything[rows])
    weights = torch.randn(some.shape, dtype=some.dtype)
    expected = torch.autograd.grad((everything[rows] * weights).sum(), model.layers.parameters())
    actual = torch.autograd.grad((some * weights).sum(), model.layers.parameters())
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["reference", "padded"])
def test_every_kernel_gives_the_same_hidden_states(family: str, kernel) -> None:
    model = make_model(tiny_config(family), seed=1)
    batch = random_batch([11, 2, 37])
    expected = model(batch)
    model.kernel = kernel
    torch.testing.assert_close(model(batch), expected, atol=1e-5, rtol=1e-5)


def test_a_causal_model_does_not_see_later_tokens() -> None:
    model = make_model(tiny_config("gpt2"), seed=1)
    batch = random_batch([17])
    changed = batch.input_ids.clone()
    changed[9:] = (changed[9:] + 1) % VOCAB
    other = make_batch(changed, torch.tensor([17]))
    torch.testing.assert_close(model(batch)[:9], model(other)[:9])
    assert not torch.allclose(model(batch)[9:], model(other)[9:])


def test_an_encoder_can_be_told_to_be_causal() -> None:
    model = make_model(tiny_config("modern"), seed=1)
    one, other = random_batch([17]), random_batch([17], seed=1)
    mixed = make_batch(torch.cat([one.input_ids[:9], other.input_ids[9:]]), torch.tensor([17]))
    torch.testing.assert_close(model(one, is_causal=True)[:9], model(mixed, is_causal=True)[:9])
    assert not torch.allclose(model(one)[:9], model(mixed)[:9])


@pytest.mark.parametrize("optimizer_name", ["adamw", "muon"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_overfits_one_batch(family: str, optimizer_name: str) -> None:
    model = make_model(tiny_config(family, initializer_range=0.02), seed=1)
    optimizer = Optimizer(model, OptimizerConfig(name=optimizer_name, lr=1e-2, weight_decay=0.0))
    # Pieces are told apart more slowly by 11 features, and by layers that are shared.
    num_steps = 240 if family in ("albert", "electra") else 60
    batch = random_batch([11, 2, 17])
    num_labels = len(batch.masked_labels) + (3 if model.config.has_nsp_head else 0)
    first = float(loss_of(model, batch).detach()) / num_labels
    assert first > 0.6 * math.log(VOCAB)
    for step in range(num_steps):
        loss_of(model, batch).backward()
        optimizer.step(1 - step / num_steps)
        optimizer.zero_grad()
    assert float(loss_of(model, batch).detach()) / num_labels < 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_stays_near_float32(family: str) -> None:
    model = make_model(tiny_config(family, initializer_range=0.02), seed=1)
    batch = random_batch([11, 2, 37])
    exact = model.mlm_logits(model(batch))
    model.compute_dtype = torch.bfloat16
    half = model.mlm_logits(model(batch))
    assert half.dtype == torch.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0.05)


def test_the_same_seed_gives_the_same_weights_whatever_else_the_model_has() -> None:
    one = dict(make_model(tiny_config("bert"), seed=7).named_parameters())
    torch.manual_seed(99)
    other = dict(make_model(tiny_config("bert", has_nsp_head=False), seed=7).named_parameters())
    assert all(torch.equal(one[name], weight) for name, weight in other.items())
    third = dict(make_model(tiny_config("bert"), seed=8).named_parameters())
    name = "layers.0.mlp.input.weight"
    assert not torch.equal(one[name], third[name])


@pytest.mark.parametrize("family", ["bert", "modern", "gpt2"])
def test_nothing_is_drawn_where_weights_are_read_next(family: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model, drawn = (make_model(tiny_config(family), seed=seed) for seed in (None, 3))
    assert torch.equal(before, torch.get_rng_state()) is False  # the second one was drawn
    torch.set_rng_state(before)
    make_model(tiny_config(family), seed=None)
    assert torch.equal(before, torch.get_rng_state())
    assert {n: w.shape for n, w in model.named_parameters()} == {
        name: weight.shape for name, weight in drawn.named_parameters()
    }
    for name, buffer in drawn.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name))


def test_fresh_weights_have_the_spread_they_should() -> None:
    config = ModelConfig(family="gpt2", size="tiny", vocab_size=997)
    named = make_model(config, seed=0).state_dict()
    assert abs(float(named["embeddings.tokens.weight"].std()) - 0.02) < 0.0005
    residual = float(named["layers.1.mlp.output.weight"].std())
    assert abs(residual - 0.02 / math.sqrt(4)) < 0.0005
    assert not named["layers.0.mlp.input.bias"].any()
    assert (named["final_norm.weight"] == 1).all()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_sinusoids_stand_in_for_learned_positions(family: str) -> None:
    model = make_model(tiny_config(family, positions="sinusoidal"), seed=1)
    assert "embeddings.positions.weight" not in dict(model.named_parameters())
    assert not any("sinusoids" in name for name in model.state_dict())
    hidden = model(make_batch(torch.full((5,), 3), torch.tensor([5])))
    assert not torch.allclose(hidden[0], hidden[1])


def test_sinusoids_by_hand() -> None:
    table = sinusoids(3, 5)
    assert table.shape == (3, 5)
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02), 0.0]
    torch.testing.assert_close(table[2], torch.tensor(expected))


@given(shift=st.integers(0, 19))
def test_rotated_products_depend_on_the_distance_only(shift: int) -> None:
    config = tiny_config("modern")
    angles = rotary_angles(config, 1e4).double()  # exact to float32 only
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, config.head_size, generator=generator, dtype=torch.float64)

    def product(at_q: int, at_k: int) -> torch.Tensor:
        turned = [
            rotate(x[None], (angles[at].cos(), angles[at].sin()))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return (turned[0] * turned[1]).sum()

    expected, actual = product(7, 3), product(7 + shift, 3 + shift)
    torch.testing.assert_close(actual, expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}), ("modern", {}), ("gpt2", {}),
        ("bert", {"has_nsp_head": True, "positions": "sinusoidal", "type_vocab_size": 3}),
        ("modern", {"has_nsp_head": True}), ("gpt2", {"positions": "sinusoidal"}),
        ("roberta", {}), ("albert", {}), ("albert", {"embedding_size": 42, "num_hidden_groups": 3}),
        ("bert", {"embedding_size": 7, "num_hidden_groups": 2}),
    ],
)  # fmt: skip
def test_parameters_are_counted_without_making_them(family: str, changes: dict) -> None:
    config = tiny_config(family, **changes)
    model = make_model(config, seed=0)
    assert config.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_post_norm", [False, True])
def test_a_family_is_one_entry_of_traits(monkeypatch, is_post_norm, has_bias, is_gated) -> None:
    traits = Family(
        is_post_norm=is_post_norm, has_bias=has_bias, is_gated=is_gated, has_windows=True,
        has_segments=not has_bias, has_embedding_norm=has_bias, has_head_transform=is_gated,
        is_causal=is_gated, positions=("rotary", "sinusoidal"), norm_eps=1e-6, mlp_ratio=2.0,
    )  # fmt: skip
    monkeypatch.setitem(families.FAMILIES, "own", traits)
    config = ModelConfig(
        family="own", vocab_size=VOCAB, hidden_size=12, num_hidden_layers=3, num_attention_heads=3,
        local_window=4, global_every=2, initializer_range=0.2,
    )  # fmt: skip
    assert (config.positions, config.intermediate_size, config.norm_eps) == ("rotary", 24, 1e-6)
    model, lengths = make_model(config, seed=0), [7, 2, 5]
    assert config.num_parameters == sum(p.numel() for p in model.parameters())
    batch = random_batch(lengths)
    together, start = model(batch), 0
    for ids in batch.input_ids.split(lengths):
        types = batch.token_type_ids[start : start + len(ids)]
        one = make_batch(ids, torch.tensor([len(ids)]), token_type_ids=types)
        torch.testing.assert_close(model(one), together[start : start + len(ids)])
        start += len(ids)
    model.lm_logits(together).square().mean().backward()
    is_learned = {name: p.grad is not None for name, p in model.named_parameters()}
    assert all(is_learned.values()), is_learned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hidden_layers": 10**5}, "num_hidden_layers must be at most 1000, got 100000"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings=1000000000000"),
        ({"hidden_size": 2**20}, "hidden_size=1048576"),
        ({"intermediate_size": 10**12}, "intermediate_size=1000000000000"),
        ({"vocab_size": 10**12}, "vocab_size=1000000000000"),
        ({"type_vocab_size": 10**18}, "larger than any this tool builds"),
        ({"family": "modern", "max_position_embeddings": 10**12}, "max_position_embeddings=10000"),
    ],
)
def test_a_slip_of_the_keyboard_is_refused_by_arithmetic(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_what_no_memory_holds_is_refused_before_it_is_made(monkeypatch) -> None:
    monkeypatch.setattr("lmmodel.model.memory_bytes", lambda device: 10**9)
    config = ModelConfig(size="base", vocab_size=10**6)
    with pytest.raises(MemoryLimitError, match=r"parameters takes 3 GiB, this machine has 1 GiB"):
        make_model(config, seed=0)


def test_flops_by_hand() -> None:
    config = ModelConfig(
        family="modern", vocab_size=11, hidden_size=6, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=5, local_window=2, global_every=2,
    )  # fmt: skip
    projections, rest = 3 * 36, 36 + 3 * 6 * 5  # of one token: before attention and after it
    head = 36 + 6 * 11  # of one label
    scores = 2 * 6 * 49 + 2 * 6 * 7 * 3  # the global layer, then the local one: 3 places seen
    flops = forward_flops(
        config,
        num_tokens=7,
        num_pairs=49,
        num_rows=3,
        head_products=3 * vocabulary_products(config),
    )
    assert flops == 2 * (14 * projections + (7 + 3) * rest + 3 * head + scores)


@pytest.mark.parametrize(
    ("family", "name"),
    [("bert", "mlm+nsp"), ("modern", "mlm"), ("gpt2", "clm"), ("albert", "mlm")],
)
def test_flops_are_those_that_torch_counts(family: str, name: str) -> None:
    config = ModelConfig(
        family=family, vocab_size=53, hidden_size=14, num_hidden_layers=3, num_attention_heads=7,
        intermediate_size=29, has_nsp_head=name == "mlm+nsp",
    )  # fmt: skip
    model, part = make_model(config, seed=0), make_objective(ObjectiveConfig(name=name)).parts[0]
    batch = make_batch(
        torch.arange(11), torch.tensor([11]), masked_positions=torch.tensor([1, 4, 5]),
        masked_labels=torch.tensor([2, 3, 5]), next_sentence_label=torch.tensor([1]),
    )  # fmt: skip
    model.kernel = "reference"  # which computes both halves of causal attention
    with FlopCounterMode(display=False) as counter:
        sums = sum_losses(model, part, batch)
        forward = counter.get_total_flops()
        sums.sum().backward()
    num_labels = [3, 1][: len(part.terms)]
    products = sum(num * term.head_products(config)
                   for num, term in zip(num_labels, part.terms, strict=True))  # fmt: skip
    assert forward == forward_flops(
        config, num_tokens=11, num_pairs=121, num_rows=sum(num_labels), head_products=products
    )
    assert counter.get_total_flops() == 3 * forward


def test_sizes_have_heads_of_64_features() -> None:
    for size in MODEL_SIZES:
        assert ModelConfig(size=size).head_size == 64


def test_a_setting_of_its_own_beats_the_size() -> None:
    config = ModelConfig(size="small", num_hidden_layers=7)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        7,
        512,
        2048,
    )
    assert ModelConfig(family="modern", size="base").intermediate_size == 1152


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "elmo"}, "family must be one of bert, modern, gpt2, "),
        ({"size": "huge"}, "size must be one of tiny, mini, small, medium, base, got 'huge'"),
        ({"num_attention_heads": 5}, "hidden_size must be a multiple of num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"norm_eps": -1.0}, "norm_eps must be above 0 and finite, got -1.0"),
        ({"initializer_range": float("nan")}, "initializer_range must be above 0 and finite"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"positions": "rotary"}, "positions='rotary' does not go with family='bert'"),
        ({"family": "modern", "positions": "learned"}, "does not go with family='modern'"),
        ({"family": "modern", "local_window": 7}, "local_window must be even"),
        (
            {"family": "modern", "hidden_size": 9, "num_attention_heads": 3},
            "rotary positions need an even head size, got 3",
        ),
        ({"family": "gpt2", "has_nsp_head": True}, "has_nsp_head needs an encoder"),
        ({"family": "albert", "num_hidden_groups": 5}, "at most num_hidden_layers=4, got 5"),
        (
            {"family": "gpt2", "embedding_size": 8},
            "embedding_size=8 does not go with family='gpt2'",
        ),
        ({"family": "modern", "num_hidden_groups": 2}, "whose layers differ: leave it out"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**options)


def test_a_model_needs_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="vocab_size is not set: take it from the tokenizer"):
        make_model(ModelConfig(size="tiny"), seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("lengths", [[17, 17, 17], [11, 2, 37]])
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_equals_eager(family: str, lengths: list[int]) -> None:
    torch._dynamo.reset()
    model = make_model(tiny_config(family), seed=1)
    batch = random_batch(lengths)
    plain = loss_of(model, batch)
    compiled = torch.compile(loss_of, dynamic=False)(model, batch)
    torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-5)
    expected = gradients_of(model, plain)
    for name, gradient in gradients_of(model, compiled).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-4, msg=name)
