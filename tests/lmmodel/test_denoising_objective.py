"""A source to read and a target to write: from a store to a step, exactly, resumed as any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lmdata.batch import targets_of
from lmdata.errors import ConfigError, TokenizerError
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmmodel.batch import SOURCE, TARGET, TOKENS
from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.device import Processes
from lmmodel.doctor import diagnose
from lmmodel.errors import FitError
from lmmodel.evaluation import evaluate_run
from lmmodel.loader import Shape, split_micro_batches, to_batch
from lmmodel.objectives import OBJECTIVES
from lmmodel.packing import labels_of, num_pairs, pack_streams, tokens_of
from lmmodel.predicting.written import load_writer
from lmmodel.saving.metrics import read_metrics
from lmmodel.trainer import train
from lmmodel.training.plan import make_loader, resolve_config
from lmmodel.writing import Hypothesis
from tests.contracts import check_resume
from tests.lmmodel.conftest import TINY

T5 = ("objective.name=t5", "recipe.max_seq_length=32")
BART = ("objective.name=bart", "recipe.max_seq_length=32")
CPU = torch.device("cpu")


def examples_of(store, name, num_rows=9):
    recipe = OBJECTIVES[name].recipe
    return open_data(store).rows("train", recipe, seed=1).take(0, np.arange(num_rows))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_the_decoder_reads_the_target_and_is_asked_for_the_next_token_of_each(sentinel_store, name):
    examples = examples_of(sentinel_store, name)
    batch = pack_streams(examples)
    source, target = batch.streams[SOURCE], batch.streams[TARGET]
    labels = target.labels[TOKENS]
    assert source.num_sequences == target.num_sequences == batch.num_sequences
    assert source.cu_seqlens.diff().tolist() == examples.segment_lengths.tolist()
    np.testing.assert_array_equal(source.input_ids.numpy(), examples.input_ids)
    for number, row in enumerate(targets_of(examples).rows()):
        begin, end = target.cu_seqlens[number : number + 2].tolist()
        assert target.input_ids[begin:end].tolist() == row[:-1].tolist()
        assert labels.values[begin:end].tolist() == row[1:].tolist()
        assert target.position_ids[begin:end].tolist() == list(range(end - begin))
    assert labels.rows.tolist() == list(range(target.num_tokens))
    assert tokens_of(examples).sum() == source.num_tokens + target.num_tokens == batch.num_tokens
    assert labels_of(examples).sum() == len(labels.values)
    lengths = source.cu_seqlens.diff().long(), target.cu_seqlens.diff().long()
    seen = lengths[0] ** 2 + lengths[1] ** 2 // 2 + lengths[0] * lengths[1]
    assert num_pairs(examples) == int(seen.sum())


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_micro_batches_count_both_streams(sentinel_store, name):
    examples = examples_of(sentinel_store, name, 40)
    pack = OBJECTIVES[name].make_parts(load_train_config(None, [*T5]).objective)[0].pack
    batches = split_micro_batches(examples, Shape(400), pack)
    assert len(batches) > 2
    assert max(batch.num_tokens for batch in batches) <= 400
    assert sum(batch.num_labels for batch in batches) == labels_of(examples).sum()


@pytest.mark.parametrize("options", [T5, BART, ("model.family=transformer", *BART)])
def test_a_crash_leaves_no_trace(tiny, sentinel_store, tmp_path, options):
    config = tiny(*options, "model.dropout=0.1", "averaging.kind=ema", "evaluation.num_examples=8")
    check_resume(config, sentinel_store, tmp_path, at=5)
    entries = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert any("validation_loss" in entry for entry in entries)
    found = evaluate_run(tmp_path / "whole", num_examples=8)
    assert 0 < found.loss < 10
    assert found.num_labels > 8
    assert diagnose(tmp_path / "whole") is not None


def test_sentinels_and_masks_are_filled_in(tiny, sentinel_store, tmp_path):
    train(tiny(*T5), sentinel_store, tmp_path / "t5")
    writer = load_writer(tmp_path / "t5", "cpu")
    text = "the cat <extra_id_0> the river <extra_id_1>."
    (guesses,) = writer.restore([text], top_k=3)
    assert len(guesses) == 3
    assert [one.probability for one in guesses] == sorted(
        (one.probability for one in guesses), reverse=True
    )
    source = np.array([40, *writer.marks[:2], 41])
    written = [int(writer.marks[0]), 42, 43, int(writer.marks[1]), 44]
    restored = writer._restored(source, Hypothesis(written, -0.5, has_ended=True))
    whole = writer.task.text_of([40, 42, 43, 44, 41])
    assert (restored.spans, restored.text) == (
        (writer.task.text_of([42, 43]), writer.task.text_of([44])), whole
    )  # fmt: skip
    with pytest.raises(FitError, match="'a bird' has no <extra_id_0>: put it where words are"):
        writer.restore(["a bird"])
    train(tiny(*BART), sentinel_store, tmp_path / "bart")
    ((guess,),) = load_writer(tmp_path / "bart", "cpu").restore(["the cat [MASK]."], top_k=1)
    assert guess.spans == ()


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_frozen_examples_are_learned_like_the_view_of_a_store(sentinel_store, tmp_path, name):
    recipe = OBJECTIVES[name].recipe
    write_examples(sentinel_store, recipe, tmp_path / "shards", seed=0)
    config = load_train_config(None, [
        *(own for own in TINY if not own.startswith("recipe.")), f"objective.name={name}",
        "model.max_position_embeddings=128",
    ])  # fmt: skip
    train(config, tmp_path / "shards", tmp_path / "run")
    data, stored = open_data(tmp_path / "shards"), open_data(sentinel_store)
    wanted = stored.token_counts * ~stored.tokenizer.is_special
    np.testing.assert_array_equal(data.token_counts * ~stored.tokenizer.is_special, wanted)


def test_steps_do_not_depend_on_micro_batches_nor_on_processes(tiny, sentinel_store):
    found = []
    for tokens, processes in (("96", 1), ("4096", 1), ("96", 2)):
        own = []
        for rank in range(processes):
            shared = Processes(rank=rank, size=processes, local_rank=rank)
            config = tiny(*T5, f"batch.micro_batch_tokens={tokens}")
            data = open_data(sentinel_store)
            config = resolve_config(config, data, CPU, shared)
            step = make_loader(config, data, 6, shared).batch(3)
            own += [
                (tuple(ids.tolist()), tuple(labels.tolist()))
                for micro in step.micro_batches
                for ids, labels in zip(
                    micro.batch.streams[SOURCE].input_ids.tensor_split(
                        micro.batch.streams[SOURCE].cu_seqlens[1:-1].long()
                    ),
                    micro.batch.streams[TARGET]
                    .labels[TOKENS]
                    .values.tensor_split(micro.batch.streams[TARGET].cu_seqlens[1:-1].long()),
                    strict=True,
                )
            ]
        found.append(sorted(own))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_static_shapes_fit_both_streams_with_little_padding(tiny, sentinel_store, name):
    config = tiny(
        f"objective.name={name}", "recipe.max_seq_length=32", "compile=true",
        "batch.micro_batch_tokens=600", "batch.size=60", "batch.min_micro_batches=1",
    )  # fmt: skip
    alone = Processes(rank=0, size=1, local_rank=0)
    data = open_data(sentinel_store)
    step = make_loader(resolve_config(config, data, CPU, alone), data, 6, alone).batch(0)
    shapes = {
        tuple((s.num_tokens, s.num_sequences) for s in micro.batch.streams.values())
        for micro in step.micro_batches
    }
    assert len(shapes) == 1
    full = [micro.batch for micro in step.micro_batches[:-1]]
    padded = sum(batch.num_tokens for batch in full)
    real = sum(int((batch.streams[TARGET].labels[TOKENS].values >= 0).sum()) for batch in full)
    assert len(full) >= 2
    assert real > 0
    assert padded < 1.3 * 600 * len(full)


def test_rounded_shapes_fill_up_each_stream(sentinel_store):
    examples = examples_of(sentinel_store, "t5")
    plain = pack_streams(examples)
    batch = to_batch(examples, Shape(10**6, is_rounded=True), pack_streams)
    for name, stream in batch.streams.items():
        assert plain.streams[name].num_tokens <= stream.num_tokens
        assert stream.num_tokens <= 1.07 * plain.streams[name].num_tokens + 1
        assert stream.num_sequences == batch.num_sequences
    assert int((batch.streams[TARGET].labels[TOKENS].values >= 0).sum()) == plain.num_labels


def test_an_objective_brings_the_family_that_was_made_for_it():
    assert load_train_config(None, ["objective.name=t5"]).model.family == "t5"
    assert load_train_config(None, ["objective.name=bart"]).model.family == "bart"
    assert load_train_config(None, ["model.family=transformer"]).objective.name == "bart"


@pytest.mark.parametrize(("options", "match"), [
    (("model.family=t5", "objective.name=mlm"),
     "model.family=t5 reads a source and writes a target .*: objective.name must be t5, got mlm"),
    (("model.family=bert", "objective.name=t5"), "model.family=bert has no decoder"),
    (("model.family=gpt2", "objective.name=bart"), "only sees what came before"),
    (("model.family=bart", "objective.name=t5"),
     "writes a target that begins with its eos token: objective.name must be bart, got t5"),
    (("objective.name=t5", "recipe.corruption=infilling"), "learns from recipe.corruption=sent"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        load_train_config(None, list(options))


def test_a_tokenizer_without_sentinels_is_refused_before_training(tiny, store, tmp_path):
    with pytest.raises(TokenizerError, match=r"has no sentinels .* --num-sentinels 100"):
        train(tiny(*T5), store, tmp_path / "run")


def test_frozen_masks_are_no_sources_and_targets(tiny, shards, tmp_path):
    options = [own for own in TINY if not own.startswith("recipe.")]
    config = load_train_config(None, [*options, "objective.name=t5"])
    with pytest.raises(
        FitError, match=r"holds other examples: .*corruption=sentinels, got token.* mask"
    ):
        train(config, shards, tmp_path / "run")


def test_noise_has_no_masks_to_learn(tiny, sentinel_store, tmp_path):
    config = tiny("objective.name=mlm", "preset=t5")
    with pytest.raises(FitError, match=r"objective.name=mlm needs masked tokens"):
        train(config, sentinel_store, tmp_path / "run")
    assert Recipe().noise is None
