"""How a run reads, ends, changes on its way, and what it does beside learning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lmdata.recipes import Recipe

DEFAULT_NUM_STEPS = 1000
MOST_STEPS = 10**9  # more is a slip: they would take years
MOST_BUDGET = {
    "num_steps": MOST_STEPS,
    "num_tokens": 10**15,
    "num_epochs": 10**6,
    "num_minutes": 10**6,
}
MOST_PREFETCHED = 1000


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How many examples a step sees, and how they are cut."""

    size: int | None = None
    """Examples of a step over all processes, at least 1; None: 256 on a GPU, on a CPU what the
    family learns by (32, modern 16)."""
    micro_batch_tokens: int | None = None
    """Tokens of one forward pass; without dropout the result does not depend on it, but for
    rounding. None: 4096, GPU 65,536."""
    min_micro_batches: int | None = None
    """A step is cut into at least so many, where each keeps 256 tokens: on a CPU every core takes
    one. The result: as of `micro_batch_tokens`. None: a core each, one on a GPU or compiled; so set
    it for the same bits on machines with other numbers of cores."""
    prefetch: int = 2
    """Steps made ahead by the background thread, in [0, 1000]; no effect on the result."""

    def __post_init__(self) -> None:
        for name in ("size", "micro_batch_tokens", "min_micro_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.prefetch <= MOST_PREFETCHED:
            raise ValueError(f"prefetch must be in [0, {MOST_PREFETCHED}], got {self.prefetch}")


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """When training ends: one of the four; none of them means 1000 steps."""

    num_steps: int | None = None
    """Optimizer steps, at least 1."""
    num_tokens: int | None = None
    """Tokens read, rounded up to whole steps."""
    num_epochs: float | None = None
    """Passes over the data, above 0, rounded up to whole steps."""
    num_minutes: float | None = None
    """Wall-clock minutes, turned into steps by a short calibration and then frozen."""

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"the budget is one number, got {', '.join(sorted(given))}: keep one")
        for name, value in given.items():
            if not 0 < value <= MOST_BUDGET[name]:
                raise ValueError(
                    f"{name} must be above 0 and at most {MOST_BUDGET[name]:,}, got {value}"
                )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stretch of training that overrides the data for a while: a curriculum is a list of them."""

    until: float
    """Share of the run at which the stage ends, in (0, 1]; the last one ends at 1."""
    max_seq_length: int | None = None
    """Tokens of the longest example."""
    batch_size: int | None = None
    """Examples of a step."""

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ValueError(f"until must be in (0, 1], got {self.until}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        stage_recipe(Recipe(), self)  # which refuses a length that is none


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The held-out loss, at the same masks at every step and in every run."""

    every_steps: int | None = None
    """Steps between evaluations, at least 1; None: at most ten in all."""
    num_examples: int = 256
    """Examples of the validation split, at least 0; 0 switches evaluation off."""

    def __post_init__(self) -> None:
        if self.num_examples < 0:
            raise ValueError(f"num_examples must be at least 0, got {self.num_examples}")
        _check_every_steps(self.every_steps)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to go on from. No effect on the result."""

    every_steps: int | None = None
    """Steps between checkpoints, at least 1; None: at most ten in all. The last step always is
    one."""
    keep: int = 2
    """Newest checkpoints that stay, at least 1."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")
        _check_every_steps(self.every_steps)


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is reported. No effect on the result."""

    every_steps: int = 10
    """Steps between lines of metrics.jsonl and progress reports, at least 1."""
    tensorboard: bool = False
    """Whether TensorBoard events are written as well."""
    picture: bool = True
    """Whether loss.png is drawn, at evaluations and at the end."""

    def __post_init__(self) -> None:
        _check_every_steps(self.every_steps)


def _check_every_steps(every_steps: int | None) -> None:
    if every_steps is not None and every_steps < 1:
        raise ValueError(f"every_steps must be at least 1, got {every_steps}")


def stage_recipe(recipe: Recipe, stage: StageConfig) -> Recipe:
    """Return the recipe with what the stage overrides."""
    length = stage.max_seq_length
    return recipe if length is None else replace(recipe, max_seq_length=length)
