"""The same numbers as transformers, from the same weights, for each family."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lmmodel.batch import IGNORED, Batch, make_batch
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import architecture, to_their_config
from lmmodel.model import Transformer, make_model
from lmmodel.optimizing import OptimizerConfig
from lmmodel.training.optimizer import Optimizer

transformers = pytest.importorskip("transformers")

FAMILIES = ["bert", "modern", "gpt2", "roberta", "albert", "electra", "distilbert"]
PAIRED = {"bert": "next_sentence_label", "albert": "sentence_order_label"}
LENGTHS = [23, 17, 5, 29]  # the longest: 29
VOCAB = 97


def tiny_config(family: str) -> ModelConfig:
    own = {
        "modern": {"local_window": 10, "global_every": 2},
        "electra": {"embedding_size": 11},
        "albert": {"embedding_size": 11, "num_hidden_groups": 2},  # layers 0 and 1, and layer 2
    }.get(family, {})
    return ModelConfig(
        family=family, vocab_size=VOCAB, hidden_size=42, num_hidden_layers=3,
        num_attention_heads=3, intermediate_size=53, max_position_embeddings=31,
        has_nsp_head=family in PAIRED, initializer_range=0.2, **own,
    )  # fmt: skip


def make_twins(family: str, dtype: torch.dtype):
    """Return our model and theirs with the same weights, none of them 0 or 1."""
    config = tiny_config(family)
    ours = make_model(config, seed=3).to(dtype)
    ours.compute_dtype = dtype
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in ours.parameters():
            noise = torch.empty(parameter.shape, dtype=dtype).normal_(generator=generator)
            parameter.add_(noise, alpha=0.1)
    their_config = transformers.AutoConfig.for_model(**to_their_config(config, {"pad": 0}))
    theirs = getattr(transformers, architecture(config))(their_config).to(dtype)
    weights = to_their_weights(ours.state_dict(), config, pad_id=0)
    keys = theirs.load_state_dict(weights, strict=False)
    assert not keys.unexpected_keys
    theirs.tie_weights()
    return ours, theirs.eval()


def make_inputs(family: str) -> tuple[Batch, dict[str, torch.Tensor]]:
    """Return a packed batch and the padded inputs of transformers that hold the same."""
    generator = torch.Generator().manual_seed(7)
    shape = (len(LENGTHS), max(LENGTHS))
    input_ids = torch.randint(1, VOCAB, shape, generator=generator)
    segments = torch.randint(0, 2, shape, generator=generator)
    is_real = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    if family == "gpt2":
        labels = torch.where(is_real, input_ids, IGNORED)
        next_ids = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    else:
        is_masked = (torch.rand(shape, generator=generator) < 0.3) & is_real
        drawn = torch.randint(1, VOCAB, shape, generator=generator)
        labels = next_ids = torch.where(is_masked, drawn, IGNORED)
    packed_labels = next_ids[is_real]
    positions = (packed_labels != IGNORED).nonzero().flatten()
    pair_labels = torch.tensor([0, 1, 1, 0])
    batch = make_batch(
        input_ids[is_real], torch.tensor(LENGTHS), token_type_ids=segments[is_real],
        masked_positions=positions, masked_labels=packed_labels[positions],
        next_sentence_label=pair_labels,
    )  # fmt: skip
    padded = {
        "input_ids": input_ids.where(is_real, 0),
        "attention_mask": is_real.long(),
        "labels": labels,
    }
    if family in PAIRED:
        padded[PAIRED[family]] = pair_labels
    if family in (*PAIRED, "electra"):
        padded["token_type_ids"] = segments
    return batch, padded


def our_loss(model: Transformer, batch: Batch) -> torch.Tensor:
    hidden = model(batch)
    loss = F.cross_entropy(model.lm_logits(hidden[batch.masked_positions]), batch.masked_labels)
    if model.config.has_nsp_head:
        pairs = model.nsp_logits(hidden[batch.first_positions])
        loss = loss + F.cross_entropy(pairs, batch.next_sentence_label)
    return loss


def their_loss(model, padded: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss; GPT-2's is taken here, because transformers takes it in float32."""
    output = model(**padded)
    if "past_key_values" not in output:
        return output.loss
    logits = output.logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(logits, padded["labels"][:, 1:].flatten())


def their_vocabulary_logits(output) -> torch.Tensor:
    return output.prediction_logits if "prediction_logits" in output else output.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_loss_equal_those_of_transformers_in_float32(family: str) -> None:
    ours, theirs = make_twins(family, torch.float32)
    batch, padded = make_inputs(family)
    output = theirs(**padded)
    is_real = padded["attention_mask"].bool()
    logits = ours.lm_logits(ours(batch))
    expected = their_vocabulary_logits(output)[is_real]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_loss(ours, batch), output.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", PAIRED)
def test_pair_logits_equal_those_of_transformers(family: str) -> None:
    ours, theirs = make_twins(family, torch.float32)
    batch, padded = make_inputs(family)
    pairs = ours.nsp_logits(ours(batch)[batch.first_positions])
    output = theirs(**padded)
    expected = output.seq_relationship_logits if family == "bert" else output.sop_logits
    torch.testing.assert_close(pairs, expected, atol=1e-5, rtol=1e-5)


# ModernBERT of transformers rotates in float32 whatever the model is in.
TOLERANCE = dict.fromkeys(FAMILIES, 1e-10) | {"modern": 5e-6}
LR = 2**-7  # exact in float32, in which our optimizer keeps it


@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_equals_that_of_transformers(family: str) -> None:
    ours, theirs = make_twins(family, torch.float64)
    batch, padded = make_inputs(family)
    our_loss(ours, batch).backward()
    their_loss(theirs, padded).backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    mapped = to_their_weights(gradients, ours.config, pad_id=0)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    if family == "roberta":  # what all positions would learn together, which is not kept apart
        mapped.pop("roberta.embeddings.token_type_embeddings.weight")
        segments = expected.pop("roberta.embeddings.token_type_embeddings.weight")
        positions = expected["roberta.embeddings.position_embeddings.weight"]
        torch.testing.assert_close(positions.sum(0), segments[0])
    assert mapped.keys() == expected.keys()
    for name, gradient in mapped.items():
        torch.testing.assert_close(
            gradient, expected[name], atol=TOLERANCE[family], rtol=TOLERANCE[family], msg=name
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_optimizer_steps_end_at_the_weights_of_transformers(family: str) -> None:
    ours, theirs = make_twins(family, torch.float64)
    batch, padded = make_inputs(family)
    for name, parameter in theirs.named_parameters():  # which our RoBERTa has not
        parameter.requires_grad_(family != "roberta" or "token_type" not in name)
    config = OptimizerConfig(name="adamw", lr=LR, weight_decay=0.1, decay_embeddings=True)
    optimizer = Optimizer(ours, config)
    their_optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LR, betas=config.betas, eps=config.eps,
    )  # fmt: skip
    for _ in range(10):
        our_loss(ours, batch).backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
        their_loss(theirs, padded).backward()
        their_optimizer.step()
        their_optimizer.zero_grad()
    mapped = to_their_weights(ours.state_dict(), ours.config, pad_id=0)
    for name, expected in theirs.named_parameters():
        tolerance = 10 * TOLERANCE[family]
        torch.testing.assert_close(mapped[name], expected, atol=tolerance, rtol=0, msg=name)


def test_gradients_of_shared_layers_are_sums_over_the_layers() -> None:
    """Of a twin with layers of its own, by the same weights, what belongs together adds up."""
    shared, _ = make_twins("albert", torch.float64)
    batch, _ = make_inputs("albert")
    config = dataclasses.replace(shared.config, num_hidden_groups=3)
    apart = make_model(config, seed=0).double()
    apart.compute_dtype = torch.float64
    state = shared.state_dict()
    for name in apart.state_dict():
        if name.startswith("layers."):
            layer, rest = name.removeprefix("layers.").split(".", 1)
            state[name] = shared.state_dict()[f"layers.{config_group(shared, layer)}.{rest}"]
    apart.load_state_dict(state)
    our_loss(shared, batch).backward()
    our_loss(apart, batch).backward()
    own = {name: parameter.grad for name, parameter in apart.named_parameters()}
    for name, parameter in shared.named_parameters():
        expected = own[name]
        if name.startswith("layers.0."):
            expected = own[name] + own[name.replace("layers.0.", "layers.1.")]
        elif name.startswith("layers.1."):
            expected = own[name.replace("layers.1.", "layers.2.")]
        torch.testing.assert_close(parameter.grad, expected, atol=1e-12, rtol=1e-9, msg=name)


def config_group(model: Transformer, layer: str) -> int:
    return model.config.group(int(layer))
