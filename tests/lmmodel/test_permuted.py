"""Permutation language modelling: what is seen, its numbers, and what opens it elsewhere."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lmdata.errors import ConfigError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES
from lmmodel.asking import load_pretrained
from lmmodel.batch import QUERIES, TOKENS, Batch, Labels, make_batch, pad_batch
from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.encoder_decoder import build_model
from lmmodel.errors import FitError
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import to_their_config
from lmmodel.importing import import_checkpoint
from lmmodel.layers.attention import attention
from lmmodel.layers.masks import Mask, Side
from lmmodel.layers.relative import Relative
from lmmodel.loader import Shape, to_batch
from lmmodel.minimal_pairs import Pairs, score_pairs
from lmmodel.model import forward_flops
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.terms import sum_losses
from lmmodel.optimizing import OptimizerConfig
from lmmodel.packing import pack_queries
from lmmodel.predicting.mask_filling import fill_mask
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.saving.metrics import read_metrics
from lmmodel.trained import load_run
from lmmodel.trainer import plan, train
from lmmodel.training.optimizer import Optimizer
from lmmodel.two_stream import TwoStream, with_queries
from tests.contracts import check_objective, check_resume
from tests.lmmodel.conftest import SHORT, TINY

VOCAB = 61
LENGTHS = [13, 7, 19]


def make_model(dtype=torch.float64) -> TwoStream:
    """Return a model whose biases count."""
    config = ModelConfig(
        family="xlnet", vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=20, max_position_embeddings=23,
        initializer_range=0.3,
    )  # fmt: skip
    model = build_model(config, seed=3)
    assert isinstance(model, TwoStream)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    model = model.to(dtype)
    model.compute_dtype = dtype
    return model


def make_rows(*, has_segments=False) -> Batch:
    """Return sequences in an order each, whose first tokens to be asked see something."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, VOCAB, (sum(LENGTHS),), generator=generator)
    types = torch.cat([(torch.arange(n) > n // 2).long() for n in LENGTHS])
    plain = make_batch(ids, torch.tensor(LENGTHS), token_type_ids=types if has_segments else None)
    rows = torch.arange(1, len(ids), 3)
    ranks = torch.zeros(len(ids), dtype=torch.int64)
    ranks[rows] = torch.randperm(len(rows), generator=generator) + 1
    return with_queries(plain, ranks=ranks)


def labels_of(batch: Batch) -> torch.Tensor:
    return batch.streams[TOKENS].input_ids[places_of(batch)]


def places_of(batch: Batch) -> torch.Tensor:
    """Return the row of each query among contents."""
    contents, queries = batch.streams[TOKENS], batch.streams[QUERIES]
    starts = contents.cu_seqlens[:-1].long().repeat_interleave(queries.cu_seqlens.diff().long())
    return starts + queries.position_ids.long()


def stock_inputs(batch: Batch):
    """Yield what the stock class takes of each sequence, and its labels."""
    contents, places = batch.streams[TOKENS], places_of(batch)
    bounds = contents.cu_seqlens.tolist()
    for start, end in pairwise(bounds):
        at = places[(places >= start) & (places < end)] - start
        ranks, ids = contents.ranks[start:end], contents.input_ids[None, start:end]
        hides = (ranks[None, :] >= ranks[:, None]) & (ranks[None, :] > 0)
        mapping = F.one_hot(at, end - start)[None]
        yield {
            "input_ids": ids, "perm_mask": hides[None].double(), "target_mapping": mapping.double(),
            "token_type_ids": contents.token_type_ids[None, start:end],
        }, ids[:, at]  # fmt: skip


def make_stock(model: TwoStream):
    """Return the stock class with the same weights, in their numbers."""
    transformers = pytest.importorskip("transformers")
    config = transformers.XLNetConfig(**to_their_config(model.config, {"pad": 0}))
    stock = transformers.XLNetLMHeadModel(config).to(model.compute_dtype).eval()
    keys = stock.load_state_dict(to_their_weights(model.state_dict(), model.config), strict=False)
    assert not keys.unexpected_keys
    stock.tie_weights()
    angles = stock.transformer.relative_positional_encoding  # always float32, which fp64 refuses
    stock.transformer.relative_positional_encoding = lambda *own, **named: angles(*own, **named).to(
        model.compute_dtype
    )
    return stock


def their_logits(stock, batch: Batch) -> torch.Tensor:
    dtype = stock.dtype
    outputs = [
        stock(**{name: own.to(dtype) if own.is_floating_point() else own
                 for name, own in inputs.items()}, use_mems=False).logits[0]
        for inputs, _ in stock_inputs(batch)
    ]  # fmt: skip
    return torch.cat(outputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_loss_every_gradient_and_ten_steps_are_those_of_the_stock_class(dtype) -> None:
    """With `perm_mask` and `target_mapping`: the same orders, the same weights."""
    model, batch = make_model(dtype), make_rows(has_segments=True)
    stock, bound = make_stock(model), 1e-10 if dtype == torch.float64 else 1e-6
    # A larger eps: where a gradient is rounding alone, AdamW would step by its sign.
    config = OptimizerConfig(name="adamw", lr=2**-8, weight_decay=0.0, eps=1e-3)
    optimizer = Optimizer(model, config)
    theirs = torch.optim.AdamW(
        stock.parameters(), lr=2**-8, betas=config.betas, eps=config.eps, weight_decay=0.0
    )  # fmt: skip
    scale = 1 if dtype == torch.float64 else 8  # logits up to 8
    for step in range(10):
        logits, expected = model.lm_logits(model(batch)), their_logits(stock, batch)
        loss, other = (F.cross_entropy(own, labels_of(batch)) for own in (logits, expected))
        torch.testing.assert_close(logits, expected, atol=scale * bound, rtol=20 * bound)
        torch.testing.assert_close(loss, other, atol=0, rtol=10 * bound)
        loss.backward()
        other.backward()
        if step == 0:
            found = to_their_weights({n: p.grad for n, p in model.named_parameters()}, model.config)
            for name, weight in stock.named_parameters():
                torch.testing.assert_close(found[name], weight.grad, atol=bound, rtol=20 * bound)
        optimizer.step(1.0)
        theirs.step()
        optimizer.zero_grad()
        theirs.zero_grad()
    found = to_their_weights(model.state_dict(), model.config)
    for name, weight in stock.named_parameters():
        torch.testing.assert_close(found[name], weight, atol=bound, rtol=bound, msg=name)


def test_contents_alone_are_read_both_ways_as_by_the_stock_class() -> None:
    model, batch = make_model(), make_rows(has_segments=True)
    stock = make_stock(model)
    plain = replace(batch, streams={TOKENS: replace(batch.streams[TOKENS], ranks=None)})
    logits = model.lm_logits(model(plain))
    outputs = [
        stock(input_ids=inputs["input_ids"], token_type_ids=inputs["token_type_ids"],
              use_mems=False).logits[0]
        for inputs, _ in stock_inputs(batch)
    ]  # fmt: skip
    torch.testing.assert_close(logits, torch.cat(outputs), atol=1e-12, rtol=1e-12)
    rows = torch.tensor([0, 20, 37])
    torch.testing.assert_close(model.lm_logits(model(plain, rows=rows)), logits[rows])


def changed_logits(logits_of, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which queries' logits change with the token of each, bool (P, P), and their ranks."""
    before, places = logits_of(batch), places_of(batch)
    changes = []
    for place in places.tolist():
        contents = batch.streams[TOKENS]
        ids = contents.input_ids.clone()
        ids[place] = 5 + (ids[place] - 4) % (VOCAB - 5)
        streams = {**batch.streams, TOKENS: replace(contents, input_ids=ids)}
        after = logits_of(replace(batch, streams=streams))
        changes.append((after != before).any(dim=1))
    return torch.stack(changes), batch.streams[QUERIES].ranks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_token_changes_no_logit_of_earlier_order_by_a_bit_and_each_of_later_order(dtype) -> None:
    model, batch = make_model(dtype), make_rows()
    changes, ranks = changed_logits(lambda own: model.lm_logits(model(own)), batch)
    starts = batch.streams[QUERIES].cu_seqlens
    sequence = torch.searchsorted(starts, torch.arange(len(ranks)), right=True)
    is_later = (ranks[None, :] > ranks[:, None]) & (sequence[None, :] == sequence[:, None])
    assert is_later.sum() > 20
    assert torch.equal(changes, is_later)


@torch.no_grad()
def test_the_collator_of_transformers_is_no_permutation_and_fails_the_same_test() -> None:
    """It writes masks into what is read, so that nothing earlier in the order is ever seen."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    pieces = {f"[{name}]": i for i, name in enumerate(("PAD", "UNK", "CLS", "SEP", "MASK"))}
    pieces |= {f"w{i}": i for i in range(5, VOCAB)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip
    collate = transformers.DataCollatorForPermutationLanguageModeling(tokenizer)
    stock = make_stock(make_model())
    ids = torch.randint(5, VOCAB, (60,), generator=torch.Generator().manual_seed(1))

    def logits_of(row: torch.Tensor) -> tuple[torch.Tensor, dict]:
        torch.manual_seed(8)
        found = collate([row])
        inputs = {name: own.double() if own.is_floating_point() else own
                  for name, own in found.items() if name != "labels"}  # fmt: skip
        return stock(**inputs, use_mems=False).logits[0], found

    before, found = logits_of(ids)
    asked = (found["labels"][0] != -100).nonzero()[:, 0].tolist()
    seen = [(a, b) for a in asked for b in asked if found["perm_mask"][0, a, b] == 0 and a != b]
    assert len(seen) > 3  # by its own order these are seen
    for query, earlier in seen:
        other = ids.clone()
        other[earlier] = 5 + (other[earlier] - 4) % (VOCAB - 5)
        after, _ = logits_of(other)
        assert torch.equal(after[query], before[query])  # and yet they never count


@torch.no_grad()
def test_the_first_of_an_order_sees_nothing_where_the_stock_class_shows_it_all() -> None:
    """A softmax of equal scores: the stock class subtracts 1e30 from each."""
    model = make_model()
    batch = make_batch(torch.tensor([7, 8, 9]), torch.tensor([3]))
    batch = with_queries(batch, ranks=torch.tensor([2, 1, 3]))
    changes, ranks = changed_logits(lambda own: model.lm_logits(model(own)), batch)
    assert torch.equal(changes, ranks[None, :] > ranks[:, None])
    stock = make_stock(model)
    changes, _ = changed_logits(lambda own: their_logits(stock, own), batch)
    assert changes[:, 1].all()


@pytest.mark.parametrize("kernel", ["buckets", "rounded", "padded", "dense"])
def test_every_kernel_gives_relative_scores_of_the_reference(kernel, monkeypatch) -> None:
    if kernel == "rounded":  # buckets that are longer than the longest sequence
        monkeypatch.setattr("lmmodel.layers.attention.ROUNDED", {torch.float64})
        kernel = "buckets"
    generator = torch.Generator().manual_seed(2)
    lengths, asked = ([5, 5, 5], [2, 2, 2]) if kernel == "dense" else ([5, 0, 11, 3], [2, 0, 4, 0])

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def side(own: list[int]) -> Side:
        bounds = torch.tensor([0, *np.cumsum(own).tolist()], dtype=torch.int32)
        return Side(bounds, max(own) + (kernel == "padded"))

    keys, queries = side(lengths), side(asked)
    longest = keys.max_seqlen
    q, k, v, own_q = draw(sum(asked), 3, 7), *(draw(sum(lengths), 3, 7) for _ in range(3))
    shared = [draw(3, 2 * longest - 1, 7), *(draw(3, 7) for _ in range(3))]
    places = torch.cat([torch.randperm(n, generator=generator)[:m].sort().values
                        for n, m in zip(lengths, asked, strict=True)])  # fmt: skip
    ranks = torch.randint(0, 4, (sum(lengths),), generator=generator)
    types = torch.randint(0, 2, (sum(lengths),), generator=generator)
    rank_q, type_q = ranks[: sum(asked)] + 1, types[: sum(asked)]

    def both(name: str) -> list[torch.Tensor]:
        distances, offset, change, change_offset = shared
        common = {"distances": distances, "offset": offset, "change": change,
                  "change_offset": change_offset}  # fmt: skip
        of_queries = Mask(ranks=(rank_q, ranks), is_strict=True, relative=Relative(
            **common, places=places, segments=(type_q, types)))  # fmt: skip
        of_contents = Mask(ranks=(ranks, ranks), relative=Relative(**common, segments=(types,) * 2))
        out = [
            attention(q, k, v, queries, keys, of_queries, kernel=name),
            attention(own_q, k, v, keys, keys, of_contents, kernel=name),
        ]
        total = sum((own * torch.arange(own.numel()).view_as(own).sin()).sum() for own in out)
        return [*out, *torch.autograd.grad(total, [q, k, v, own_q, *shared])]

    for found, expected in zip(both(kernel), both("reference"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_flops_are_those_that_torch_counts_but_for_distances_that_nothing_needs() -> None:
    config = ModelConfig(
        family="xlnet", vocab_size=53, hidden_size=14, num_hidden_layers=3, num_attention_heads=7,
        intermediate_size=29, max_position_embeddings=11,
    )  # fmt: skip
    model, part = build_model(config, seed=0), make_objective(ObjectiveConfig(name="plm")).parts[0]
    batch = with_queries(make_batch(torch.arange(11), torch.tensor([11])), torch.tensor([1, 4, 5]))
    labels = Labels(torch.arange(3), torch.tensor([2, 3, 5]))
    queries = replace(batch.streams[QUERIES], labels={TOKENS: labels})
    batch = replace(batch, streams={**batch.streams, QUERIES: queries})
    model.kernel = "reference"
    with FlopCounterMode(display=False) as counter:
        sum_losses(model, part, batch)
    products = 3 * part.terms[0].head_products(config)
    wanted = forward_flops(
        config, num_tokens=11, num_pairs=121, num_rows=3, head_products=products
    ) + part.other_flops(config, 11, 121, 3)
    table = 2 * 21 * 14 * 14 * 3  # 21 distances in each layer
    unneeded = 2 * (21 - 11) * 14 * (11 * 2 + 3 * 3)  # of each row 11 count
    assert counter.get_total_flops() == wanted + table + unneeded


def test_packed_sequences_are_those_one_at_a_time_and_padding_changes_nothing(store) -> None:
    recipe = dataclasses.replace(RECIPES["xlnet"], max_seq_length=32)
    rows = open_data(store).rows("train", recipe, seed=0)
    examples = rows.take(0, np.arange(7))
    (part,) = make_objective(ObjectiveConfig(name="plm")).parts
    config = ModelConfig(family="xlnet", size="tiny", vocab_size=120, initializer_range=0.2)
    model = build_model(config, seed=1).double()
    model.compute_dtype = torch.float64
    together = pack_queries(examples)
    with torch.no_grad():
        hidden = model(together)
        alone = [model(pack_queries(examples.slice(i, i + 1))) for i in range(7)]
        torch.testing.assert_close(hidden, torch.cat(alone), atol=1e-11, rtol=1e-9)
        num = len(hidden)
        shape = Shape(
            num_tokens=500, num_sequences=60, num_labels=100, max_seqlen=32, is_static=True,
            stream_tokens={TOKENS: 400, QUERIES: 100},
        )  # fmt: skip
        static = to_batch(examples, shape, part.pack)
        torch.testing.assert_close(model(static)[:num], hidden, atol=1e-11, rtol=1e-9)
        assert torch.isfinite(model(static)).all()
        sums = [sum_losses(model, part, own) for own in (static, together)]
        torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-6)
        in_bf16 = to_batch(examples, Shape(400, is_rounded=True), part.pack)
        torch.testing.assert_close(model(in_bf16)[:num], hidden, atol=1e-11, rtol=1e-9)


@torch.no_grad()
def test_padding_queries_may_stand_behind_all_keys_of_their_sequence() -> None:
    model, batch = make_model(), make_rows()
    num_tokens, num_queries = (batch.streams[name].num_tokens for name in (TOKENS, QUERIES))
    expected = model(batch)
    padded = pad_batch(
        batch, num_tokens={TOKENS: num_tokens + 2, QUERIES: num_queries + 11}, num_sequences=6,
        num_masked=num_queries,
    )  # fmt: skip
    for kernel in ("reference", "buckets", "padded"):
        model.kernel = kernel
        found = model(padded)
        torch.testing.assert_close(found[:num_queries], expected, atol=1e-11, rtol=1e-9)
        assert torch.isfinite(found).all()


def test_it_keeps_the_contract_of_objectives(store) -> None:
    check_objective(make_objective(ObjectiveConfig(name="plm")), store)


def make_config(*overrides):
    return load_train_config(None, [*SHORT, "objective.name=plm", *overrides])


# Every tenth of 30 steps, nats, as first recorded; other machines differ in the last digits.
GOLDEN = [4.2330, 3.7557, 3.6750]


def test_the_loss_curve_is_the_recorded_one(store, tmp_path) -> None:
    config = make_config(
        "optimizer.lr=5e-3", "budget.num_steps=30", "logging.every_steps=10",
        "checkpoint.every_steps=30", "evaluation.every_steps=30",
    )  # fmt: skip
    train(config, store, tmp_path / "run")
    losses = [e["loss"] for e in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in e]
    assert losses == pytest.approx(GOLDEN, abs=0.01)


def test_a_run_is_counted_resumed_evaluated_asked_exported_and_imported(store, tmp_path) -> None:
    config = make_config()
    assert config.model.family == "xlnet"
    planned = plan(config, store)
    check_resume(config, store, tmp_path, at=6)
    run, state = tmp_path / "run", load_tensors(tmp_path / "run/model.safetensors")
    assert planned.num_parameters == sum(tensor.numel() for tensor in state.values())
    found = evaluate_run(run, store)
    lines = read_metrics(run / "metrics.jsonl")
    logged = [line for line in lines if "validation_loss" in line][-1]
    assert found.loss == pytest.approx(logged["validation_loss"], abs=1e-6)
    assert any("guesses" in line for line in lines)
    opened = load_run(run)
    (guesses,) = fill_mask(opened, ["the [MASK] sees a stone."], top_k=3)[0]
    assert len(guesses) == 3
    pairs = Pairs((("the cat sees.", "cat the sees."),), np.zeros(1, np.int64), ("order",))
    scored = score_pairs(opened, pairs)
    assert scored.score == "pseudo-log-likelihood"
    assert load_pretrained(run).embed(["the cat."]).shape == (1, 32)
    pytest.importorskip("transformers")
    exported = export_run(run, tmp_path / "hf")
    assert exported.architecture == "XLNetLMHeadModel"
    assert exported.max_logit_difference < 1e-4
    back = import_checkpoint(tmp_path / "hf", tmp_path / "back")
    assert not back.fresh
    assert not back.unused
    assert back.max_logit_difference < 1e-4
    again = load_tensors(tmp_path / "back/model.safetensors")
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert load_run(tmp_path / "back").record.config.objective.name == "plm"


def test_a_masked_place_is_guessed_by_what_others_see_of_it() -> None:
    """Neither the mask there nor the right token counts, for it is hidden from all."""
    model = make_model()
    ids = torch.randint(5, VOCAB, (20,), generator=torch.Generator().manual_seed(4))
    rows = torch.tensor([3, 8, 15])
    found = []
    for token in (4, 50):
        changed = ids.index_fill(0, rows, token)
        batch = make_batch(changed, torch.tensor([12, 8]))
        found.append(model.guess(batch, rows=rows))
    assert torch.equal(*found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
def test_compiled_is_eager(store, tmp_path) -> None:
    losses = []
    for compiles in ("false", "true"):
        config = make_config(f"compile={compiles}", "budget.num_steps=2", "logging.every_steps=1",
                             "evaluation.num_examples=0")  # fmt: skip
        train(config, store, tmp_path / compiles)
        entries = read_metrics(tmp_path / compiles / "metrics.jsonl")
        losses.append([entry["loss"] for entry in entries if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_frozen_orders_train_and_other_shards_are_refused(store, tmp_path) -> None:
    recipe = dataclasses.replace(RECIPES["xlnet"], max_seq_length=32)
    write_examples(store, recipe, tmp_path / "orders", seed=1)
    settings = [own for own in TINY if not own.startswith("recipe.")]
    config = load_train_config(None, [*settings, "objective.name=plm", "logging.picture=false"])
    train(config, tmp_path / "orders", tmp_path / "run")
    masks = dataclasses.replace(RECIPES["roberta"], max_seq_length=32)
    write_examples(store, masks, tmp_path / "masks", seed=1)
    with pytest.raises(FitError, match=r"recipe.corruption=permutation, got token"):
        train(config, tmp_path / "masks", tmp_path / "other")


def test_what_can_not_be_is_refused_in_a_line(store) -> None:
    for overrides, message in (
        (["model.family=bert"], "has no queries of their own for hidden tokens"),
        (["model.family=xlnet", "objective.name=mlm"], "must be plm, got mlm"),
        (["model.type_vocab_size=3"], "type_vocab_size must be 2 for family='xlnet'"),
        (["recipe.corruption=token"], "learns from recipe.corruption=permutation, got token"),
        (["model.positions=learned"], "which takes distance"),
        (["model.has_nsp_head=true"], "has_nsp_head"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan(make_config(*overrides), store)


PUBLISHED = {
    "architectures": ["XLNetLMHeadModel"], "attn_type": "bi", "bi_data": False, "bos_token_id": 1,
    "clamp_len": -1, "d_head": 64, "d_inner": 3072, "d_model": 768, "dropout": 0.1,
    "end_n_top": 5, "eos_token_id": 2, "ff_activation": "gelu", "initializer_range": 0.02,
    "layer_norm_eps": 1e-12, "mem_len": None, "model_type": "xlnet", "n_head": 12, "n_layer": 12,
    "pad_token_id": 5, "reuse_len": None, "same_length": False, "start_n_top": 5,
    "summary_activation": "tanh", "summary_last_dropout": 0.1, "summary_type": "last",
    "summary_use_proj": True, "untie_r": True, "vocab_size": 32000,
}  # fmt: skip


def test_the_configuration_of_a_published_folder_is_read() -> None:
    from lmmodel.errors import HuggingFaceError
    from lmmodel.handover.settings import from_their_config

    config = from_their_config(json.loads(json.dumps(PUBLISHED)))
    assert (config.family, config.hidden_size, config.num_hidden_layers) == ("xlnet", 768, 12)
    assert (config.max_position_embeddings, config.dropout) == (512, 0.1)
    assert config.num_parameters == 116_750_336
    for name, value in (("attn_type", "uni"), ("clamp_len", 128), ("same_length", True),
                        ("ff_activation", "relu"), ("untie_r", False)):  # fmt: skip
        with pytest.raises(HuggingFaceError, match=f"{name}=.*is not supported for xlnet"):
            from_their_config({**PUBLISHED, name: value})
