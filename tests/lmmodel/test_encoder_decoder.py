"""Packed encoder-decoders compute what padded ones do, and what stock transformers does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmodel.batch import SOURCE, TARGET, TOKENS, Batch, Labels, batch_of, make_batch, make_stream
from lmmodel.cores import summed_cross_entropy
from lmmodel.encoder_decoder import RelativeBias, Written, build_model
from lmmodel.errors import FitError
from lmmodel.families import FAMILIES, ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import to_their_config

OURS = [name for name, family in FAMILIES.items() if family.is_encoder_decoder]
STOCK = [name for name in OURS if name != "transformer"]
VOCAB = 59
LENGTHS = [[7, 1, 13, 3], [2, 9, 5, 11]]  # of sources, of targets


def tiny_config(family: str, **changes) -> ModelConfig:
    shape = {
        "vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2, "num_decoder_layers": 3,
        "num_attention_heads": 3, "intermediate_size": 29, "max_position_embeddings": 37,
    }  # fmt: skip
    own = {"attention_head_size": 5} if family.startswith("t5") else {}
    return ModelConfig(family=family, **(shape | own | changes))


def random_model(family: str, **changes):
    model = build_model(tiny_config(family, **changes), seed=1).double().eval()
    model.compute_dtype = torch.float64
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # nothing is 0 or 1, so that nothing can be left out unseen
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return model


def random_batch(sources: list[int], targets: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    streams = {}
    for name, lengths in ((SOURCE, sources), (TARGET, targets)):
        ids = torch.randint(1, VOCAB, (sum(lengths),), generator=generator)  # 0 pads
        answers = torch.randint(0, VOCAB, (sum(lengths),), generator=generator)
        labels = {TOKENS: Labels(torch.arange(len(ids)), answers)} if name == TARGET else None
        streams[name] = make_stream(ids, torch.tensor(lengths), labels=labels)
    return batch_of(streams)


def alone(batch: Batch, index: int) -> Batch:
    """Return one pair of a batch."""
    streams = {}
    for name, stream in batch.streams.items():
        start, stop = stream.cu_seqlens[index : index + 2].tolist()
        labels = {
            kind: Labels(torch.arange(stop - start), own.values[start:stop])
            for kind, own in stream.labels.items()
        }
        streams[name] = make_stream(
            stream.input_ids[start:stop], torch.tensor([stop - start]), labels=labels
        )
    return batch_of(streams)


def loss_of(model, batch: Batch) -> torch.Tensor:
    labels = batch.streams[TARGET].labels[TOKENS]
    return summed_cross_entropy(model.lm_logits(model(batch, rows=labels.rows)), labels.values)


def gradients_of(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    found = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if grad is None else grad
        for (name, weight), grad in zip(learned.items(), found, strict=True)
    }


@pytest.mark.parametrize("family", OURS)
@settings(max_examples=8)
@given(lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_packed_equals_one_pair_at_a_time(family: str, lengths: list[tuple[int, int]]) -> None:
    lengths = [*lengths, (4, 3)]
    model = random_model(family)
    batch = random_batch(*map(list, zip(*lengths, strict=True)))
    parts = [alone(batch, i) for i in range(len(lengths))]
    logits = model.lm_logits(model(batch))
    apart = torch.cat([model.lm_logits(model(part)) for part in parts])
    assert torch.allclose(logits, apart, rtol=0, atol=1e-10)
    together = gradients_of(model, loss_of(model, batch))
    summed = [gradients_of(model, loss_of(model, part)) for part in parts]
    for name, gradient in together.items():
        expected = sum(part[name] for part in summed)
        assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-10), name


@pytest.mark.parametrize("family", OURS)
@pytest.mark.parametrize("kernel", ["reference", "buckets", "joined", "padded"])
def test_a_pair_does_not_feel_its_neighbours(family: str, kernel: str) -> None:
    model = random_model(family)
    model.kernel = kernel
    batch = random_batch(*LENGTHS)
    felt = {}
    tokens = model.embeddings.tokens.weight
    for name, stream in batch.streams.items():  # every token gets a row of embeddings of its own
        felt[name] = tokens[stream.input_ids].detach().requires_grad_(True)
    table = torch.cat([felt[SOURCE], felt[TARGET]])
    model.embeddings.tokens = torch.nn.Embedding(*table.shape)
    del model.embeddings.tokens.weight
    model.embeddings.tokens.weight = table
    num = len(felt[SOURCE])
    rows = {SOURCE: torch.arange(num), TARGET: num + torch.arange(len(felt[TARGET]))}
    own = {
        name: make_stream(rows[name], stream.cu_seqlens.diff())
        for name, stream in batch.streams.items()
    }
    hidden = model(batch_of(own))
    ends = batch.streams[TARGET].cu_seqlens.tolist()
    for index in range(len(ends) - 1):
        found = torch.autograd.grad(
            hidden[ends[index] : ends[index + 1]].square().sum(), list(felt.values()),
            retain_graph=True,
        )  # fmt: skip
        for name, gradient in zip(felt, found, strict=True):
            start, stop = batch.streams[name].cu_seqlens[index : index + 2].tolist()
            assert gradient[start:stop].abs().sum() > 0
            gradient[start:stop] = 0
            assert not gradient.any(), (name, index)


@pytest.mark.parametrize("family", OURS)
def test_a_target_never_sees_its_own_future(family: str) -> None:
    model, batch = random_model(family), random_batch([5], [7])
    target = batch.streams[TARGET]
    changed = target.input_ids.clone()
    changed[4] = (changed[4] + 1) % VOCAB
    other = batch_of({**batch.streams, TARGET: make_stream(changed, torch.tensor([7]))})
    before, after = model(batch), model(other)
    assert torch.equal(before[:4], after[:4])
    assert (before[4:] - after[4:]).abs().min() > 0


def test_the_number_of_parameters_is_told_without_making_them() -> None:
    for family in OURS:
        config = tiny_config(family)
        built = sum(weight.numel() for weight in build_model(config, seed=0).parameters())
        assert config.num_parameters == built, family


def test_relative_distances_are_those_of_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    for is_causal in (False, True):
        bias = RelativeBias(tiny_config("t5"), is_causal=is_causal)
        torch.nn.init.normal_(bias.distances.weight)
        place = torch.arange(300)
        buckets = modeling.T5Attention._relative_position_bucket(
            place[None, :] - place[:, None], bidirectional=not is_causal, num_buckets=32,
            max_distance=128,
        )  # fmt: skip
        expected = bias.distances.weight[buckets].permute(2, 0, 1)
        seen = torch.ones(300, 300, dtype=torch.bool).tril() if is_causal else slice(None)
        assert torch.equal(bias(300)[:, seen], expected[:, seen])


def stock_of(model, family: str, tmp_path, **changes):
    """Return the stock class of our weights, after a round trip through files."""
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    ids = {"pad": 0, "eos": 1, "bos": 2}
    theirs = to_their_config(model.config, ids)
    cls = getattr(transformers, theirs["architectures"][0])
    settings = {**theirs, "dtype": "float32", **changes}
    (tmp_path / "config.json").write_text(__import__("json").dumps(settings))
    weights = to_their_weights(dict(model.state_dict()), model.config)
    save_file({name: w.float() for name, w in weights.items()}, tmp_path / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    return cls.from_pretrained(tmp_path, attn_implementation="eager").eval()


def padded(batch: Batch) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    cut = {
        name: torch.split(stream.input_ids, stream.cu_seqlens.diff().tolist())
        for name, stream in batch.streams.items()
    }
    labels = torch.split(
        batch.streams[TARGET].labels[TOKENS].values,
        batch.streams[TARGET].cu_seqlens.diff().tolist(),
    )
    return {
        "input_ids": pad(cut[SOURCE], batch_first=True, padding_value=0),
        "attention_mask": pad([torch.ones_like(row) for row in cut[SOURCE]], batch_first=True),
        "decoder_input_ids": pad(cut[TARGET], batch_first=True, padding_value=0),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


@pytest.mark.parametrize("family", STOCK)
def test_logits_gradients_and_ten_steps_are_those_of_transformers(family: str, tmp_path) -> None:
    model = random_model(family).float()
    model.compute_dtype = torch.float32
    theirs = stock_of(model, family, tmp_path)
    batch = random_batch(*LENGTHS)
    inputs, target = padded(batch), batch.streams[TARGET]
    ours = model.lm_logits(model(batch))
    real = inputs["labels"] >= 0
    with torch.no_grad():
        assert torch.allclose(ours, theirs(**inputs).logits[real], rtol=0, atol=1e-5)
    model, theirs = model.double(), theirs.double()
    model.compute_dtype = torch.float64
    assert torch.allclose(
        model.lm_logits(model(batch)), theirs(**inputs).logits[real], rtol=0, atol=1e-6
    )
    optimizers = [
        torch.optim.AdamW([w for w in own.parameters() if w.requires_grad], lr=1e-2)
        for own in (model, theirs)
    ]
    for step in range(10):
        losses = (loss_of(model, batch) / target.num_tokens, theirs(**inputs).loss)
        assert abs(float((losses[0] - losses[1]).detach())) < 1e-6, step
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
        gradients = {
            n: torch.zeros_like(w) if w.grad is None else w.grad
            for n, w in model.named_parameters()
        }
        expected = {name: weight.grad for name, weight in theirs.named_parameters()}
        for name, gradient in to_their_weights(gradients, model.config).items():
            if expected.get(name) is None:
                assert name == "final_logits_bias"
            else:
                unused = len(gradient) - len(expected[name])
                assert torch.allclose(
                    gradient[unused:], expected[name], rtol=1e-4, atol=1e-6
                ), (step, name)  # fmt: skip
        for optimizer in optimizers:
            optimizer.step()


def test_the_head_of_its_own_stays_its_own_in_transformers(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    model = random_model("t5").float()
    model.compute_dtype = torch.float32
    theirs = stock_of(model, "t5", tmp_path)
    assert torch.equal(theirs.lm_head.weight, model.head.weight)
    assert torch.equal(theirs.shared.weight, model.embeddings.tokens.weight)
    # What transformers 5 makes fresh of the same settings is another model: its head is tied.
    fresh = transformers.T5ForConditionalGeneration(theirs.config)
    assert fresh.lm_head.weight is fresh.shared.weight


@pytest.mark.parametrize("family", OURS)
def test_what_is_remembered_changes_nothing(family: str) -> None:
    model = random_model(family).float()
    model.compute_dtype = torch.float32
    lengths, num_beams, length = [7, 1, 5], 2, 6
    source = random_batch(lengths, [1, 1, 1]).streams[SOURCE]
    written = torch.randint(0, VOCAB, (len(lengths) * num_beams, length))
    past = Written(model, source, num_beams)
    steps = []
    with torch.inference_mode():
        for place in range(length):
            batch = make_batch(written[:, place], torch.ones(len(written), dtype=torch.int64))
            batch = batch.with_positions(torch.full((len(written),), place))
            steps.append(model(batch_of({TARGET: batch.stream}), past=past))
        order = [i for i in range(len(lengths)) for _ in range(num_beams)]
        cut = torch.split(source.input_ids, lengths)
        whole = batch_of({
            SOURCE: make_stream(torch.cat([cut[i] for i in order]),
                                torch.tensor([lengths[i] for i in order])),
            TARGET: make_stream(written.flatten(), torch.full((len(written),), length)),
        })  # fmt: skip
        expected = model(whole).view(len(written), length, -1)
    assert torch.allclose(torch.stack(steps, dim=1), expected, atol=2e-6)


def test_a_batch_of_one_stream_is_refused() -> None:
    batch = make_batch(torch.arange(3), torch.tensor([3]))
    with pytest.raises(FitError, match="reads a source and writes a target: ask it by generate"):
        random_model("bart")(batch)


def test_settings_that_have_no_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="num_decoder_layers has no effect: family='bert'"):
        ModelConfig(num_decoder_layers=2)
    with pytest.raises(ValueError, match="attention_head_size does not go with family='bart'"):
        ModelConfig(family="bart", attention_head_size=8)
    with pytest.raises(ValueError, match=r"num_decoder_layers must be in \[1, 1000\], got 0"):
        ModelConfig(family="t5", num_decoder_layers=0)
