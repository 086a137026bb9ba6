"""How the weights move: which of them, the optimizer, its rate by the step, their average."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

Part = Literal["full", "ffn", "head", "bias", "lora"]
"""What of a model is trained."""

Target = Literal["query", "key", "value", "output", "mlp_input", "mlp_output"]
"""A linear map of attention or of a feed-forward network."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """The pairs beside the matrices."""

    rank: int = 8
    """R of each pair, at least 1."""
    alpha: float = 16.0
    """What a pair adds is multiplied by alpha / rank, above 0."""
    targets: tuple[Target, ...] = get_args(Target)
    """Maps that have a pair: those of attention, and of the feed-forward networks."""

    @property
    def scale(self) -> float:
        """What a pair adds is multiplied by this."""
        return self.alpha / self.rank

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.alpha > 0 or not math.isfinite(self.alpha):
            raise ValueError(f"alpha must be a number above 0, got {self.alpha}")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(
                f"targets must be some of {', '.join(get_args(Target))}, each once, got "
                f"{', '.join(self.targets) or 'none'}"
            )


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What is learned from another model, as in DistilBERT (Sanh et al., 2019)."""

    teacher: str | None = None
    """Run folder of the model to learn from, trained or imported. None: from nobody."""
    more_teachers: tuple[str, ...] = ()
    """Run folders of others beside it: what is learned is the mean of their probabilities."""
    teacher_xxh3: str | None = None
    """Hashes of their weights, which the run keeps: a teacher that changed is refused."""
    temperature: float = 2.0
    """Logits of both are divided by it; above 0."""
    soft_weight: float = 5.0
    """Of the divergence from the teacher's guesses; above 0."""
    label_weight: float = 2.0
    """Of the loss of the labels; above 0."""
    hidden_weight: float = 1.0
    """Of the angle to hidden states of the first teacher, of models as wide as each other; at
    least 0."""
    takes_layers: bool = True
    """Whether layers begin with those of the first teacher, spread over its depth."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """All run folders to learn from."""
        return () if self.teacher is None else (self.teacher, *self.more_teachers)

    def __post_init__(self) -> None:
        for name in ("temperature", "soft_weight", "label_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.hidden_weight < math.inf:
            raise ValueError(f"hidden_weight must be at least 0, got {self.hidden_weight}")
        settings = {item.name: item.default for item in fields(self)}
        if self.teacher is None and vars(self) != settings:
            raise ValueError("distillation has no effect without a teacher: name one, or leave it")


def num_parts(name: str) -> int:
    """Return how many matrices a parameter merges along its rows.

    Example:
        >>> num_parts("layers.0.attention.qkv.weight"), num_parts("layers.0.mlp.input.weight")
        (3, 1)
    """
    return 3 if ".qkv." in name else 1


def check_lora(trainable: Part, lora: LoraConfig) -> None:
    """Check that settings of pairs have an effect.

    Raises:
        ValueError: there are no pairs
    """
    if trainable != "lora" and lora != LoraConfig():
        raise ValueError(f"lora has no effect with trainable={trainable}: leave it out")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What moves the weights. A family may have learning rates of its own: `traits.Numbers`."""

    name: Literal["adamw", "muon"] = "muon"  # muon: on the layers' matrices; adamw on the rest
    lr: float = 1e-3  # AdamW's peak learning rate, in (0, 1]
    betas: tuple[float, float] = (0.9, 0.98)  # decay of the mean and the mean square, in [0, 1)
    eps: float = 1e-6  # added to the root of the mean square
    weight_decay: float = 0.01  # share of a weight lost per step at learning rate 1, AdamW
    decay_embeddings: bool = False  # whether embeddings decay too (BERT: yes); bias, norm never
    muon_lr: float = 0.02  # Muon's peak learning rate, in (0, 1]
    muon_momentum: float = 0.95  # decay of Muon's mean, in [0, 1)
    muon_weight_decay: float = 0.05  # as weight_decay, Muon

    @property
    def sentence(self) -> str:
        """The optimizer and its rates, in words.

        Example:
            >>> OptimizerConfig(lr=3e-3, muon_lr=0.04).sentence
            'muon, peak rate 0.003, on matrices 0.04'
        """
        matrices = f", on matrices {self.muon_lr:g}" if self.name == "muon" else ""
        return f"{self.name}, peak rate {self.lr:g}{matrices}"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("lr", "muon_lr"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} must be above 0 and at most 1, got {getattr(self, name)}; "
                    "1e-4 to 2e-3 is usual for lr, 0.005 to 0.05 for muon_lr"
                )
        for name, value in (*zip(("betas[0]", "betas[1]"), self.betas, strict=True),
                            ("muon_momentum", self.muon_momentum)):  # fmt: skip
            if not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        for name in ("eps", "weight_decay", "muon_weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AveragingConfig:
    """Averaging of the weights over steps; what is evaluated and exported is the average."""

    kind: Literal["none", "ema", "tail"] = "none"
    """ema: exponential moving average; tail: plain mean of the last part of the run."""
    ema_decay: float = 0.999
    """Of ema: weight of the past at each step, in (0, 1)."""
    tail_share: float = 0.2
    """Of tail: the share of the run that is averaged, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1), got {self.ema_decay}")
        if not 0 < self.tail_share <= 1:
            raise ValueError(f"tail_share must be in (0, 1], got {self.tail_share}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate rises and falls; every value is a share, of the steps or the peak."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    warmup_ratio: float = 0.06  # of all steps, in [0, 1): the rate rises to its peak in a line
    cooldown_ratio: float | None = None  # of all steps, wsd only: the final fall; None: 0.5
    final_ratio: float = 0.0  # of the peak, in [0, 1]: the rate right after the last step

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio must be in [0, 1), got {self.warmup_ratio}")
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"final_ratio must be in [0, 1], got {self.final_ratio}")
        if self.kind == "constant" and self.final_ratio:
            raise ValueError("final_ratio has no effect with kind=constant: leave it out")
        if self.cooldown_ratio is not None and self.kind != "wsd":
            raise ValueError(f"cooldown_ratio needs kind=wsd, got kind={self.kind}")
        if self.kind == "wsd" and not 0 < self.fall_ratio <= 1 - self.warmup_ratio:
            raise ValueError(
                f"cooldown_ratio must be in (0, 1 - warmup_ratio={1 - self.warmup_ratio:g}], "
                f"got {self.fall_ratio}"
            )

    @property
    def fall_ratio(self) -> float:
        """Share of the steps in which the rate falls."""
        if self.kind == "wsd":
            return 0.5 if self.cooldown_ratio is None else self.cooldown_ratio
        return 0.0 if self.kind == "constant" else 1 - self.warmup_ratio


def lr_ratio(step: int, num_steps: int, config: ScheduleConfig) -> float:
    """Return the learning rate of a step as a share of the peak.

    The first step of a warm-up of n steps has 1 / n; the fall ends at `final_ratio` one step
    after the last, so that no step is lost. Linear is BERT's, cosine that of Loshchilov and
    Hutter (2017), wsd (warm-up, stable, decay: a linear fall) that of Hu et al., "MiniCPM" (2024).

    Args:
        step: from 0; steps beyond the last have the final rate
        num_steps: steps of the whole run
        config: the shape

    Example:
        >>> def table(**options):
        ...     config = ScheduleConfig(warmup_ratio=0.2, **options)
        ...     return [round(lr_ratio(step, 10, config), 2) for step in range(11)]
        >>> table(kind="constant")
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        >>> table(kind="linear")
        [0.5, 1.0, 1.0, 0.88, 0.75, 0.62, 0.5, 0.38, 0.25, 0.12, 0.0]
        >>> table(kind="cosine", final_ratio=0.1)
        [0.5, 1.0, 1.0, 0.97, 0.87, 0.72, 0.55, 0.38, 0.23, 0.13, 0.1]
        >>> table(kind="wsd", cooldown_ratio=0.4)
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    num_warmup = round(config.warmup_ratio * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    num_fall = min(round(config.fall_ratio * num_steps), num_steps - num_warmup)
    left = min(num_steps - step, num_fall)
    if num_fall == 0:
        return 1.0
    remaining = max(left, 0) / num_fall  # 1 before the fall, 0 after the last step
    if config.kind == "cosine":
        remaining = (1 - math.cos(math.pi * remaining)) / 2
    return config.final_ratio + (1 - config.final_ratio) * remaining
