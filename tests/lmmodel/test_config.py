"""Settings: what they default to, what they refuse."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lmdata.config import build_config, config_to_dict
from lmdata.errors import ConfigError
from lmmodel.config import TrainConfig, load_train_config, without_none
from lmmodel.objectives import OBJECTIVES
from lmmodel.optimizing import OptimizerConfig


def come_back(config: TrainConfig) -> TrainConfig:
    """Return what a run's record gives back: without what is None there and by default."""
    values = json.loads(json.dumps(config_to_dict(config)))
    return build_config(TrainConfig, without_none(values, config_to_dict(TrainConfig())))


def test_defaults_load_and_survive_json():
    config = load_train_config()
    assert config.objective.name == "mlm+nsp"
    assert come_back(config) == config


@pytest.mark.parametrize(
    ("size", "shape"),
    [("tiny", (2, 128)), ("mini", (4, 256)), ("small", (4, 512)), ("medium", (8, 512)),
     ("base", (12, 768))],
)  # fmt: skip
def test_sizes_carry_the_published_names(size, shape):
    model = load_train_config(None, [f"model.size={size}"]).model
    assert (model.num_hidden_layers, model.hidden_size) == shape


def test_any_size_can_be_configured():
    overrides = ["model.num_hidden_layers=3", "model.hidden_size=35", "model.vocab_size=101",
                 "model.num_attention_heads=5", "model.intermediate_size=53"]  # fmt: skip
    assert load_train_config(None, overrides).model.num_parameters > 0


def test_a_toml_file_lies_under_the_overrides(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('seed = 3\n[optimizer]\nlr = 5e-4\nname = "muon"\n')
    config = load_train_config(path, ["optimizer.lr=6e-4"])
    assert (config.seed, config.optimizer.lr, config.optimizer.name) == (3, 6e-4, "muon")


def test_a_family_learns_what_it_is_made_for_unless_it_is_said():
    assert load_train_config(None, ["model.family=gpt2"]).objective.name == "clm"
    chosen = load_train_config(None, ["objective.name=mlm"], options={"model.family": "modern"})
    assert (chosen.model.family, chosen.objective.name) == ("modern", "mlm")
    short = load_train_config(None, ["model.family=gpt2", "recipe.max_seq_length=64"])
    assert short.recipe == dataclasses.replace(OBJECTIVES["clm"].recipe, max_seq_length=64)


def test_a_family_learns_its_own_objective_by_its_own_numbers():
    config = load_train_config(None, ["model.family=modern"])
    assert config.objective.name == "mlm"
    assert (config.vocabulary_bias, config.first_embeddings) == ("frequencies", "co-occurrences")
    assert (config.optimizer.lr, config.optimizer.muon_lr) == (3e-3, 0.04)
    assert config.recipe is None  # until the data are known: frozen ones have their own
    short = load_train_config(None, ["model.family=modern", "recipe.max_seq_length=64"]).recipe
    assert short is not None
    assert (short.max_seq_length, short.mlm_probability) == (64, 0.3)
    own = load_train_config(None, ["model.family=modern", "optimizer.lr=1e-4",
                                   "vocabulary_bias=zeros"])  # fmt: skip
    assert (own.optimizer.lr, own.optimizer.muon_lr, own.vocabulary_bias) == (1e-4, 0.04, "zeros")


@pytest.mark.parametrize(
    "settings",
    [[], ["preset=bert"], ["model.family=modern", "objective.name=clm"],
     ["model.family=modern", "preset=bert"]],
)  # fmt: skip
def test_all_else_begins_with_the_plain_numbers(settings):
    config = load_train_config(None, settings)
    assert (config.optimizer, config.vocabulary_bias) == (OptimizerConfig(), "zeros")
    assert config.first_embeddings == "random"


@pytest.mark.parametrize(
    ("preset", "family", "taken"),
    [("bert", None, ("bert", "mlm+nsp")), ("roberta", None, ("bert", "mlm")),
     ("roberta", "modern", ("modern", "mlm")), ("roberta", "electra", ("electra", "rtd")),
     ("albert", None, ("bert", "mlm+sop")), ("spanbert", None, ("bert", "mlm")),
     ("xlnet", None, ("xlnet", "plm")), ("t5", None, ("t5", "t5")),
     ("bart", None, ("bart", "bart")),
     ("t5", "t5-v1.0", ("t5-v1.0", "t5")), ("simcse", None, ("bert", "simcse"))],
)  # fmt: skip
def test_a_preset_brings_the_objective_that_learns_from_it(preset, family, taken):
    options = {"preset": preset, **({"model.family": family} if family else {})}
    config = load_train_config(options=options)
    assert (config.model.family, config.objective.name) == taken


def test_a_preset_leaves_an_objective_that_is_named():
    options = {"preset": "bert", "objective.name": "mlm"}
    assert load_train_config(options=options).objective.name == "mlm"


def test_recipe_settings_lie_over_the_preset_or_what_the_objective_implies():
    overrides = ["objective.name=mlm+sop", "recipe.max_seq_length=64"]
    recipe = load_train_config(None, overrides).recipe
    assert (recipe.view, recipe.max_seq_length) == ("sop", 64)
    recipe = load_train_config(None, [*overrides, "preset=albert"]).recipe
    assert (recipe.view, recipe.corruption, recipe.max_seq_length) == ("sop", "ngram", 64)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["vocabulary_bias=frequencies", "model.family=gpt2"], "gpt2 has no bias; leave it out"),
        (
            ["first_embeddings=co-occurrences", "model.family=t5"],
            "objective.name=t5 cuts them into",
        ),
        (["optimizer.lr=0"], "optimizer: lr must be above 0 and at most 1, got 0.0"),
        (["optimizer.lr=10"], "optimizer: lr must be above 0 and at most 1, got 10.0"),
        (["optimiser.lr=1"], "unknown key optimiser, did you mean optimizer"),
        (["batch.size=0"], "batch: size must be at least 1, got 0"),
        (["batch.size=many"], "batch.size must be of type int, got 'many'"),
        (["budget.num_steps=5", "budget.num_minutes=1"], "one number, got num_minutes, num_steps"),
        (["budget.num_minutes=-1"], "num_minutes must be above 0"),
        (["budget.num_steps=9223372036854775808"], "num_steps must be above 0 and at most 1,000,"),
        (["budget.num_epochs=1e18"], "num_epochs must be above 0 and at most 1,000,000, got 1e"),
        (["stages=[{until=1, batch_size=0}]"], r"stages\[0\]: batch_size must be at least 1"),
        (["stages=[{until=1, max_seq_length=3}]"], r"stages\[0\]: max_seq_length must be in"),
        (["batch.prefetch=1000000000"], r"prefetch must be in \[0, 1000\]"),
        (["init_from=" + "a/" * 5000], "init_from must be a path of at most 4,096 letters"),
        (["model.family=[[1]]"], r"model.family must be of type str, got \[\[1\]\]"),
        (["stages=[{until=0.5}]"], "the last at 1"),
        (["stages=[{until=1.5}]"], r"stages\[0\]: until must be in \(0, 1\]"),
        (["stages=[{until=0.5}, {batch_size=8}]"], r"stages\[1\]\.until is missing"),
        (["stages=[{until=1, share=3}]"], r"unknown key stages\[0\]\.share"),
        (
            ["model.family=gpt2", "objective.name=mlm+nsp"],
            "objective.name must be clm, got mlm\\+nsp",
        ),
        (["recipe.view=packed"], "learns from recipe.view=nsp, got packed"),
        (["recipe.max_seq_length=1024"], "exceeds model.max_position_embeddings=512"),
        (["preset=bertt"], "preset must be one of bert, .* got 'bertt'"),
        (["recipe=3"], "recipe must be a table"),
        (["objective.name=[[1]]"], "objective.name must be"),
        (["model.family=[1]"], "model.family must be"),
        (["preset=[1]"], "preset must be"),
        (["preset=t5", "model.family=bert"], "preset=t5 is for .* take t5 or t5-v1.0"),
        (["preset=bert", "model.family=gpt2"], "which model.family=gpt2 can't learn"),
        (["objective.name=[1]", "recipe.seed=1"], "objective.name must be"),
        (["objective.pair_weight=0"], "pair_weight must be above 0"),
        (["objective.causal_share=1"], r"causal_share must be in \(0, 1\)"),
        (["averaging.ema_decay=1"], "ema_decay must be in"),
        (["averaging.tail_share=0"], "tail_share must be in"),
        (["checkpoint.keep=0"], "keep must be at least 1"),
        (["logging.every_steps=0"], "every_steps must be at least 1"),
        (["evaluation.num_examples=-1"], "num_examples must be at least 0"),
        (["batch.prefetch=-1"], r"prefetch must be in \[0, 1000\]"),
        (["seed=-1"], r"seed must be in \[0, 2\*\*63\)"),
        (["max_grad_norm=0"], "max_grad_norm must be above 0 or none"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(overrides, words):
    with pytest.raises(ConfigError, match=words):
        load_train_config(None, overrides)


@pytest.mark.parametrize("setting", ["max_grad_norm=none", "budget.num_steps=7", "seed=3"])
def test_a_configuration_comes_back_from_its_record(setting):
    config = load_train_config(None, [setting])
    assert come_back(config) == config
