"""Everything that decides what a run computes, and nothing else.

`load_train_config` reads defaults < TOML < KEY=VALUE. What is None there is filled by
`resolve_config` once data and device are known; the resolved configuration lies beside the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lmdata.config import build_config, config_to_dict, gather, laid_over
from lmdata.errors import ConfigError
from lmdata.recipes import RECIPES, Recipe
from lmmodel.families import FAMILIES, MODEL_SIZES, ModelConfig
from lmmodel.objectives import OBJECTIVES, ObjectiveConfig, check_fits, made_for
from lmmodel.optimizing import (
    AveragingConfig,
    DistillationConfig,
    LoraConfig,
    OptimizerConfig,
    Part,
    ScheduleConfig,
    check_lora,
)
from lmmodel.record import read_values
from lmmodel.settings import (
    BatchConfig,
    BudgetConfig,
    CheckpointConfig,
    EvaluationConfig,
    LoggingConfig,
    StageConfig,
)
from lmmodel.traits import Numbers

MOST_PATH = 4096

# Settings of a model that its weights do not depend on: the new run's own count.
OWN_SETTINGS = ("size", "dropout", "attention_dropout", "initializer_range")

# What `size` decides: it is not taken over where a size is given.
SHAPE_SETTINGS = (
    *MODEL_SIZES["mini"], "intermediate_size", "embedding_size", "num_hidden_groups",
    "num_decoder_layers", "attention_head_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run."""

    seed: int = 0
    """Of weights, masks, pairs, order and dropout: in [0, 2**63)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numbers of the products; weights stay fp32. auto: bf16 where the hardware multiplies it."""
    compile: bool = False
    """Whether torch.compile is applied, with static shapes."""
    deterministic: bool = True
    """On a GPU, whether kernels give the same bits every time, as exact resuming needs."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """Of several processes: ddp, each holds the whole model; fsdp2, each a part of it."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm, above 0; None: never."""
    skip_bad_steps: bool = False
    """Whether a step whose loss is not finite or explodes is left out instead of stopping."""
    init_from: str | None = None
    """Run folder whose weights training begins with; its model is this one's. None: fresh ones."""
    selection: str | None = None
    """Folder that `lmdata select` wrote (--select): what of a token store is read, how often, and
    in which phases; None: every document once."""
    trainable: Part = "full"
    """What of the model of `init_from` is trained: full, ffn (the feed-forward networks), head,
    bias, or lora (thin pairs beside the matrices, added to them in what is kept)."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Of trainable=lora."""
    replay: float | None = None
    """Share of the examples that are of the data of `init_from`, in [0, 1), against forgetting; how
    much is forgotten is told. None: neither."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """Of a teacher (--teacher)."""
    vocabulary_bias: Literal["zeros", "frequencies"] = "zeros"
    """What is added to the logits of fresh weights: nothing, as in BERT, or the logarithms of how
    often the pieces are in the training split; families whose head has a bias only. Modern begins
    with frequencies, see `traits.Numbers`."""
    first_embeddings: Literal["random", "co-occurrences"] = "random"
    """What the embeddings of fresh weights are: drawn by chance, or which pieces stand near which
    others in the training split (`lmmodel.cooccurrences`), as modern begins."""
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    preset: str | None = None
    """Recipe that `recipe` starts from: bert, roberta ...; None: what the objective needs."""
    recipe: Recipe | None = None
    """How a token store becomes examples; frozen shards have theirs already."""
    stages: tuple[StageConfig, ...] = ()
    """Curriculum over length and batch, in order; token stores only."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be above 0 or none, got {self.max_grad_norm}")
        if self.compile and self.parallel == "fsdp2":
            raise ValueError("compile=true does not go with parallel=fsdp2: leave one of them out")
        _check_trainable(self)
        _check_stages(self.stages)
        _check_recipe(self)
        _check_bias(self)
        _check_embeddings(self)
        check_fits(self.objective, self.model, self.recipe)


def load_train_config(
    toml_path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the configuration of defaults < TOML file < options < KEY=VALUE pairs.

    `recipe` settings are laid over the preset, or over the recipe that the objective implies; model
    and objective over those of the run in `init_from`; a family learns what it is made for, unless
    an objective is named or a preset makes examples for another, and by its own numbers.

    Raises:
        RunError: `init_from` names no run
        ConfigError: an unknown key, a wrong type, a value out of range or that contradicts another
    """
    values = gather(toml_path, overrides, options=options)
    if isinstance(values.get("init_from"), str):
        values = _inherit(values)
    values = _with_dropout(_with_family(_with_objective(values)))
    family = FAMILIES.get(str(_table(values, "model").get("family")))
    if family is not None and "name" not in _table(values, "objective"):
        values["objective"] = {**_table(values, "objective"), "name": family.objective}
    values = _with_numbers(values)
    if "recipe" in values or "preset" in values:
        values["recipe"] = {**_preset_values(values), **_table(values, "recipe")}
    return build_config(TrainConfig, values)


def _with_objective(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the objective that learns from a preset, where none is named.

    Raises:
        ConfigError: the family can't learn from it
    """
    name, objective = values.get("preset"), _table(values, "objective")
    if not isinstance(name, str) or name not in RECIPES or "name" in objective:
        return values
    family = FAMILIES.get(str(_table(values, "model").get("family")))
    usual = (family or FAMILIES[ModelConfig.family]).objective
    known = sorted(made_for(RECIPES[name]), key=lambda own: own != usual)
    fitting = [own for own in known if family is None or OBJECTIVES[own].fits(family)]
    if not fitting:
        fits = (key for key, own in FAMILIES.items() if OBJECTIVES[known[0]].fits(own))
        raise ConfigError(
            f"preset={name} is for objective.name={known[0]}, which model.family="
            f"{_table(values, 'model')['family']} can't learn: take {' or '.join(fits)}"
        )
    return {**values, "objective": {**objective, "name": fitting[0]}}


def _with_family(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the family that an objective was made for, where the usual can't do."""
    model, name = _table(values, "model"), str(_table(values, "objective").get("name"))
    usual = FAMILIES[ModelConfig.family]
    if "family" in model or name not in OBJECTIVES or OBJECTIVES[name].fits(usual):
        return values
    family = next(own for own, traits in FAMILIES.items() if traits.objective == name)
    return {**values, "model": {**model, "family": family}}


def _with_dropout(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the dropout that an objective can't do without."""
    model, name = _table(values, "model"), str(_table(values, "objective").get("name"))
    if "dropout" in model or name not in OBJECTIVES or not OBJECTIVES[name].dropout:
        return values
    return {**values, "model": {**model, "dropout": OBJECTIVES[name].dropout}}


def _with_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings over the numbers by which a family learns with fresh weights."""
    if values.get("init_from") is not None:
        return values
    numbers = _numbers(values)
    own = {"vocabulary_bias": numbers.vocabulary_bias,
           "first_embeddings": numbers.first_embeddings,
           "optimizer": {"lr": numbers.lr, "muon_lr": numbers.muon_lr}}  # fmt: skip
    return laid_over(own, values)


def _numbers(values: dict[str, Any]) -> Numbers:
    """Return the numbers of the family and the objective that settings name, or that are usual."""
    name = _table(values, "model").get("family", ModelConfig.family)
    family = FAMILIES.get(str(name), FAMILIES[ModelConfig.family])
    return family.numbers_for(str(_table(values, "objective").get("name", ObjectiveConfig.name)))


def usual_recipe(objective: str, numbers: Numbers) -> Recipe:
    """Return how a token store becomes examples where settings say nothing.

    Example:
        >>> usual_recipe("mlm", FAMILIES["modern"].numbers).mlm_probability
        0.3
        >>> usual_recipe("clm", FAMILIES["gpt2"].numbers) == OBJECTIVES["clm"].recipe
        True
    """
    recipe, rate = OBJECTIVES[objective].recipe, numbers.mlm_probability
    return recipe if rate is None else replace(recipe, mlm_probability=rate)


def _inherit(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the model and the objective of the run in `init_from` laid under them.

    Args:
        values: nested tables with the key `init_from`

    Raises:
        RunError: no run there
    """
    if len(values["init_from"]) > MOST_PATH:
        raise ConfigError(f"init_from must be a path of at most {MOST_PATH:,} letters")
    earlier = read_values(Path(values["init_from"]))["config"]
    given, given_objective = values.get("model", {}), values.get("objective", {})
    if not (isinstance(given, Mapping) and isinstance(given_objective, Mapping)):
        return values  # which the strict reader refuses
    left_out = {*OWN_SETTINGS, *(SHAPE_SETTINGS if "size" in given else ())}
    model = {
        name: value
        for name, value in earlier["model"].items()
        if value is not None and name not in left_out
    }
    objective = {**earlier["objective"], **given_objective}
    return {**values, "model": {**model, **given}, "objective": objective}


def change_config(
    config: TrainConfig,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return a configuration with options and then KEY=VALUE pairs laid over it.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range or that contradicts another
    """
    own = gather(None, overrides, options=options)
    values = without_none(config_to_dict(config), config_to_dict(TrainConfig()))
    values = laid_over(values, own)
    if own.get("preset") is not None:
        values["recipe"] = {**_preset_values(values), **_table(own, "recipe")}
    if "budget" in own:  # one number: another takes its place
        values["budget"] = own["budget"]
    return build_config(TrainConfig, values)


def _preset_values(values: dict[str, Any]) -> dict[str, Any]:
    objective = str(_table(values, "objective").get("name", ObjectiveConfig().name))
    name = values.get("preset")
    if name is not None and (not isinstance(name, str) or name not in RECIPES):
        raise ConfigError(f"preset must be one of {', '.join(RECIPES)}, got {name!r}")
    if name is None and objective not in OBJECTIVES:
        return {}  # which ObjectiveConfig refuses
    recipe = usual_recipe(objective, _numbers(values)) if name is None else RECIPES[name]
    return without_none(config_to_dict(recipe), {})


def _table(values: dict[str, Any], name: str) -> dict[str, Any]:
    table = values.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table, got {table!r}")
    return table


def without_none(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Drop None at every level where it is the default too: it says that nothing was set."""
    return {
        name: without_none(value, defaults.get(name) or {}) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None or defaults.get(name) is not None
    }


def _check_stages(stages: tuple[StageConfig, ...]) -> None:
    ends = [stage.until for stage in stages]
    if ends and (ends != sorted(set(ends)) or ends[-1] != 1):
        raise ValueError(f"stages must end at growing shares of the run, the last at 1, got {ends}")


def _check_trainable(config: TrainConfig) -> None:
    check_lora(config.trainable, config.lora)
    if config.replay is not None and not 0 <= config.replay < 1:
        raise ValueError(f"replay must be in [0, 1), got {config.replay}")
    if config.replay is not None and config.init_from is None:
        raise ValueError(
            f"replay={config.replay} is of the data of the run that training begins with: name it "
            "by init_from (--init-from), or leave replay out"
        )
    if config.trainable == "full":
        return
    if config.init_from is None:
        raise ValueError(
            f"trainable={config.trainable} leaves the rest of a model as it is, and that would be "
            "random here: name the run to begin with by init_from (--init-from)"
        )
    if config.trainable == "lora" and config.parallel == "fsdp2":
        raise ValueError("trainable=lora does not go with parallel=fsdp2: leave one of them out")


def _check_bias(config: TrainConfig) -> None:
    if config.vocabulary_bias == "zeros":
        return
    if not (config.model.traits.has_head_transform or config.model.traits.has_head_bias):
        raise ValueError(
            f"vocabulary_bias=frequencies has no effect: the head of model.family="
            f"{config.model.family} has no bias; leave it out"
        )
    if config.init_from is not None:
        raise ValueError(
            "vocabulary_bias=frequencies has no effect: the weights are those of init_from; leave "
            "one of them out"
        )


def _check_embeddings(config: TrainConfig) -> None:
    if config.first_embeddings == "random":
        return
    if OBJECTIVES[config.objective.name].has_targets:
        raise ValueError(
            f"first_embeddings={config.first_embeddings} counts pieces of whole rows, and "
            f"objective.name={config.objective.name} cuts them into sources and targets: leave it "
            "out"
        )
    if config.init_from is not None:
        raise ValueError(
            f"first_embeddings={config.first_embeddings} has no effect: the weights are those of "
            "init_from; leave one of them out"
        )


def _check_recipe(config: TrainConfig) -> None:
    recipe = config.recipe
    if recipe is not None and recipe.max_seq_length > config.model.max_position_embeddings:
        raise ValueError(
            f"recipe.max_seq_length={recipe.max_seq_length} exceeds "
            f"model.max_position_embeddings={config.model.max_position_embeddings}"
        )
