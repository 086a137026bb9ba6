"""What changes while training: weights, optimizer, average; and how one step changes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmmodel.adapters import add_pairs_to_weights, choose_trained
from lmmodel.config import TrainConfig
from lmmodel.cores import SharedWeights
from lmmodel.device import (
    is_out_of_memory,
    put,
    release_weights,
    shard_model,
    sum_gradients,
    sum_over_processes,
    whole_groups,
)
from lmmodel.encoder_decoder import build_model
from lmmodel.errors import DivergedError, MemoryLimitError
from lmmodel.loader import Loader, StepBatch
from lmmodel.model import Transformer
from lmmodel.objectives import OBJECTIVES, modules_of
from lmmodel.objectives.terms import sum_losses
from lmmodel.optimizing import AveragingConfig, lr_ratio
from lmmodel.saving.branch import is_branch
from lmmodel.saving.checkpoint import TensorGroups, load_named, load_weights
from lmmodel.saving.metrics import Stopwatch
from lmmodel.training.first_weights import FirstWeights
from lmmodel.training.optimizer import Optimizer
from lmmodel.training.step import (
    StepLoss,
    SumLosses,
    accumulate,
    clip_gradients,
    dropout_seeds,
    even_out,
    find_fault,
    num_at_once,
    shares_weights,
    step_loss,
)


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    loss: StepLoss
    grad_norm: float
    lr: float
    skipped: str | None  # why the weights were left as they were


@dataclass(frozen=True)
class Totals:
    """Sums of a step over all processes."""

    num_labels: Tensor  # int64 (K,) of each term, on the device
    num_tokens: int
    wants_stop: bool  # whether any process was asked to stop


class Learner:
    """Weights, optimizer and average of a run, and the loader cut to what memory allows."""

    def __init__(
        self,
        config: TrainConfig,
        loader: Loader,
        device: torch.device,
        weights: Mapping[str, Tensor] | None = None,
        first: FirstWeights | None = None,
    ) -> None:
        """`weights` are what it begins with; None: fresh ones, some of which are `first`."""
        self.config = config
        self.loader = loader
        self.device = device
        self.model = _make_model(config, device, weights or {}, first)
        self.trained = choose_trained(
            self.model, config.trainable, config.lora, new=_fresh(self.model, weights),
            seed=config.seed,
        )  # fmt: skip
        self.is_sharded = config.parallel == "fsdp2" and loader.num_processes > 1
        if self.is_sharded:
            shard_model(self.model)
        self.optimizer = Optimizer(self.model, config.optimizer, self.model.compute_dtype)
        self.average: WeightAverage | None = None
        if config.averaging.kind != "none":
            self.average = WeightAverage(self._weights, config.averaging, loader.num_steps)
        self.num_at_once = num_at_once(config, loader.num_processes)
        self.shared: SharedWeights | None = None
        if shares_weights(config, loader.num_processes):
            self.shared = SharedWeights(self.model, self.model.compute_dtype)
        self.losses: SumLosses = sum_losses
        if config.compile:
            self.losses = torch.compile(sum_losses, dynamic=False)
        self.watch = Stopwatch()

    def add_up(self, batch: StepBatch, *, wants_stop: bool = False) -> Totals:
        """Return what all processes must agree on before a step."""
        own = torch.tensor([*batch.num_labels, batch.num_tokens, wants_stop], dtype=torch.int64)
        if self.loader.num_processes > 1:  # alone, nothing need wait for the device
            own = sum_over_processes(own.to(self.device))
        *labels, num_tokens, num_stopping = own.tolist()
        num_labels = torch.tensor(labels, device=self.device)
        return Totals(num_labels, num_tokens, wants_stop=num_stopping > 0)

    def learn(self, batch: StepBatch, num_labels: Tensor) -> StepResult:
        """Do one step.

        Args:
            batch: what this process does
            num_labels: int64 (K,) labels of the whole step over all processes

        Raises:
            DivergedError: the loss or gradient is not finite or exploded, and none may be skipped
            MemoryLimitError: even the smallest micro-batch does not fit
        """
        with self.watch.measure("forward_backward"):
            sums = self._accumulate(batch, num_labels)
            sum_gradients(self.model)
            norm = clip_gradients(self.model, self.config.max_grad_norm)
            loss = step_loss(sum_over_processes(sums), num_labels, self.loader.objective)
            grad_norm = float(norm)
        with self.watch.measure("optimizer"):
            return self._move(batch, loss, grad_norm)

    @contextlib.contextmanager
    def exported(self) -> Iterator[None]:
        """Put what is evaluated into the model: the average if there is one, and what pairs add."""
        own, has_pairs = {}, self.config.trainable == "lora"
        finish = OBJECTIVES[self.config.objective.name].finish
        if has_pairs or finish is not None:
            own = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        elif self.average is not None:
            own = {name: tensor.clone() for name, tensor in self._weights.items()}
        if self.average is not None:
            load_named(self._weights, self.average.tensors)
        if has_pairs:
            add_pairs_to_weights(self.model, self.config.lora)
        if finish is not None:
            now = {name: tensor.detach() for name, tensor in self.model.named_parameters()}
            load_weights(self.model, finish(now))
        try:
            yield
        finally:
            release_weights(self.model)
            if own:
                parameters = dict(self.model.named_parameters())
                load_named({name: parameters[name] for name in own}, own)

    def groups(self, *, is_kept: bool = True) -> TensorGroups:
        """Return everything that a checkpoint holds, whole; not copied where nothing is sharded.

        What is frozen is not among it: that is its parent's.

        Every process must ask for it; only those with `is_kept` get it.
        """
        groups = {"model": self._weights, "optimizer": self.optimizer.state_tensors()}
        if self.average is not None:
            groups["average"] = self.average.tensors
        return whole_groups(groups, is_kept=is_kept)

    @torch.no_grad()
    def load(self, groups: TensorGroups) -> None:
        """Take over what a checkpoint held.

        Raises:
            CheckpointError: of another model or optimizer
        """
        own = self._weights
        frozen = {n for n, p in self.model.named_parameters() if n not in own}
        load_named(own, {n: w for n, w in groups["model"].items() if n not in frozen})
        self.optimizer.load_state_tensors(groups["optimizer"])
        if self.average is not None:
            self.average.load(groups["average"])

    @property
    def _weights(self) -> dict[str, Tensor]:
        """The weights that are kept: those that are trained; all, where an objective ends them."""
        keeps_all = not is_branch(self.config)
        named = self.model.named_parameters()
        return {n: tensor.detach() for n, tensor in named if keeps_all or tensor.requires_grad}

    def _accumulate(self, batch: StepBatch, num_labels: Tensor) -> Tensor:
        """Return the summed losses of the step; out of memory halves the micro-batches for good."""
        while True:
            try:
                return self._forward_backward(batch, num_labels)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.is_sharded:  # the others wait for this process in the middle of a layer
                    raise MemoryLimitError(
                        f"micro-batches of {self.loader.shape.num_tokens} tokens do not fit into "
                        "memory: lower batch.micro_batch_tokens"
                    ) from error
            if self.num_at_once > 1:
                self.num_at_once //= 2
                continue
            batch = self._halve_micro_batches(batch)

    def _forward_backward(self, batch: StepBatch, num_labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        objective, micro_batches = self.loader.objective, batch.micro_batches
        if self.is_sharded:
            micro_batches = even_out(micro_batches, len(objective.parts), self.device)
        return accumulate(
            self.model,
            objective,
            micro_batches,
            num_labels,
            seeds=dropout_seeds(self.config.seed, batch.step, self.loader.rank),
            losses=self.losses,
            shared=self.shared,
            num_at_once=self.num_at_once,
        )

    def _halve_micro_batches(self, batch: StepBatch) -> StepBatch:
        """Allow half the tokens of a step's largest micro-batch; return the step cut that way."""
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        shape, largest = self.loader.shape, _largest(batch)
        tokens = min(shape.num_tokens, largest) // 2
        if tokens >= (shape.max_seqlen or 1):
            smaller = self.loader.with_tokens(tokens)
            batch = smaller.batch(batch.step)
            if _largest(batch) < largest:  # else one long example is all that it holds
                self.loader = smaller
                return batch
        raise MemoryLimitError(
            f"not even a micro-batch of {largest} tokens fits into memory: take a smaller "
            "model, shorter examples or precision=bf16"
        )

    def _move(self, batch: StepBatch, loss: StepLoss, grad_norm: float) -> StepResult:
        config, num_steps = self.config, self.loader.num_steps
        ratio = lr_ratio(batch.step, num_steps, config.schedule)
        result = StepResult(loss, grad_norm, config.optimizer.lr * ratio, None)
        fault = find_fault(loss, grad_norm, config.model.vocab_size, self.loader.objective)
        if fault is not None:
            if not config.skip_bad_steps:
                raise DivergedError(_explain(fault, batch, result.lr))
            return replace(result, skipped=fault)
        self.optimizer.step(ratio)
        if self.average is not None:
            self.average.update(self._weights, batch.step + 1)
        return result


class WeightAverage:
    """A running average of the weights that are kept, by name.

    Its weight of the newest weights follows from the step alone, so it resumes like all else.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], config: AveragingConfig, num_steps: int
    ) -> None:
        self.config = config
        self.num_steps = num_steps
        self.tensors = {name: weight.clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        weight = newest_weight(step, self.num_steps, self.config)
        torch._foreach_lerp_(list(self.tensors.values()), list(weights.values()), weight)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved averages."""
        for name, tensor in self.tensors.items():
            put(tensor, tensors[name])


def newest_weight(step: int, num_steps: int, config: AveragingConfig) -> float:
    """Return how much the weights after `step` (from 1) count in the average after it, in (0, 1].

    ema: 1 - decay, more at first, so that the random start is forgotten. tail: 1 until the tail
    begins, then 1/n, a plain mean.

    Example:
        >>> tail = AveragingConfig(kind="tail", tail_share=0.3)
        >>> [round(newest_weight(step, 10, tail), 2) for step in range(6, 11)]
        [1.0, 1.0, 1.0, 0.5, 0.33]
    """
    if config.kind == "ema":
        return max(1 - config.ema_decay, 1 / (step + 1))
    first = num_steps - max(1, round(config.tail_share * num_steps)) + 1
    return 1.0 if step <= first else 1 / (step - first + 1)


def _fresh(model: Transformer, weights: Mapping[str, Tensor] | None) -> tuple[str, ...]:
    """Return the names of a model's weights that those it begins with, if any, lack."""
    if weights is None:
        return ()
    return tuple(name for name, _ in model.named_parameters() if name not in weights)


def _make_model(
    config: TrainConfig, device: torch.device, weights: Mapping[str, Tensor],
    first: FirstWeights | None,
) -> Transformer:  # fmt: skip
    """Return a model with these weights.

    A head for sentence pairs and modules of the objective that they lack are fresh; those of
    another objective are left out.
    """
    extras, fresh = modules_of(config.objective, config.model), {}
    model = build_model(config.model, seed=config.seed, extras=extras).to(device)
    if weights:
        own = dict(model.named_parameters())
        fresh = {
            n: weight
            for n, weight in own.items()
            if n.startswith(("nsp_head.", "extras.")) and n not in weights
        }
        taken = {n: w for n, w in weights.items() if n in own or not n.startswith("extras.")}
        load_weights(model, {**fresh, **taken})
    elif first is not None:
        first.put(model)
    new = fresh if weights else dict(model.named_parameters())
    OBJECTIVES[config.objective.name].begin(model, new)
    model.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return model.train()


def _largest(batch: StepBatch) -> int:
    return max(micro.batch.num_tokens for micro in batch.micro_batches)


def _explain(fault: str, batch: StepBatch, lr: float) -> str:
    rows = "; ".join(f"epoch {epoch}: {_list(rows)}" for epoch, rows in batch.rows)
    return (
        f"step {batch.step + 1}: {fault}. Learning rate {lr:.3g}, rows of {rows} "
        f"(documents {_list(batch.documents)}). The last checkpoint is untouched. Try a lower "
        "optimizer.lr, a longer schedule.warmup_ratio, a lower max_grad_norm, precision=fp32, "
        "or skip_bad_steps=true with --resume"
    )


def _list(values: np.ndarray, most: int = 8) -> str:
    shown = ", ".join(str(value) for value in values[:most].tolist())
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} in all)"
