"""What changes while training: weights, optimizer, average; and how one step changes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lmmodel.averaging import WeightAverage
from lmmodel.checkpoint import TensorGroups
from lmmodel.config import TrainConfig
from lmmodel.device import sum_over_processes
from lmmodel.errors import CheckpointError, DivergedError, MemoryLimitError
from lmmodel.loader import Loader, StepBatch
from lmmodel.metrics import Stopwatch
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import sum_losses
from lmmodel.optimizer import Optimizer
from lmmodel.schedule import lr_ratio
from lmmodel.step import (
    StepLoss,
    SumLosses,
    accumulate,
    clip_gradients,
    dropout_seeds,
    find_fault,
    step_loss,
    sum_gradients,
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

    def __init__(self, config: TrainConfig, loader: Loader, device: torch.device) -> None:
        self.config = config
        self.loader = loader
        self.device = device
        self.model = _make_model(config, device)
        self.optimizer = Optimizer(self.model, config.optimizer)
        self.average: WeightAverage | None = None
        if config.averaging.kind != "none":
            self.average = WeightAverage(self.model, config.averaging, loader.num_steps)
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

    def exported_tensors(self) -> dict[str, Tensor]:
        """Return the weights that are evaluated and exported: the average where there is one."""
        if self.average is not None:
            return self.average.tensors
        return {name: tensor.detach() for name, tensor in self.model.named_parameters()}

    @contextlib.contextmanager
    def exported(self) -> Iterator[None]:
        """Put the exported weights into the model for a while."""
        if self.average is None:
            yield
            return
        own = {name: tensor.detach().clone() for name, tensor in self.model.named_parameters()}
        load_weights(self.model, self.average.tensors)
        try:
            yield
        finally:
            load_weights(self.model, own)

    def groups(self) -> TensorGroups:
        """Return everything that a checkpoint holds, not copied."""
        weights = {name: tensor.detach() for name, tensor in self.model.named_parameters()}
        groups = {"model": weights, "optimizer": self.optimizer.state_tensors()}
        return groups if self.average is None else {**groups, "average": self.average.tensors}

    @torch.no_grad()
    def load(self, groups: TensorGroups) -> None:
        """Take over what a checkpoint held.

        Raises:
            CheckpointError: of another model or optimizer
        """
        load_weights(self.model, groups["model"])
        self.optimizer.load_state_tensors(groups["optimizer"])
        if self.average is not None:
            self.average.load(groups["average"])

    def _accumulate(self, batch: StepBatch, num_labels: Tensor) -> Tensor:
        """Return the summed losses of the step; out of memory halves the micro-batches for good."""
        while True:
            try:
                return self._forward_backward(batch, num_labels)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve_micro_batches()
            batch = self.loader.batch(batch.step)

    def _forward_backward(self, batch: StepBatch, num_labels: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        return accumulate(
            self.model,
            self.loader.objective,
            batch.micro_batches,
            num_labels,
            seeds=dropout_seeds(self.config.seed, batch.step, self.loader.rank),
            losses=self.losses,
        )

    def _halve_micro_batches(self) -> None:
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        tokens = self.loader.shape.num_tokens
        smallest = max(1, self.loader.shape.max_seqlen or 1)
        if tokens // 2 < smallest:
            raise MemoryLimitError(
                f"not even a micro-batch of {tokens} tokens fits into memory: take a smaller "
                "model, shorter examples or precision=bf16"
            )
        self.loader = self.loader.with_tokens(tokens // 2)

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
            self.average.update(self.model, batch.step + 1)
        return result


def _make_model(config: TrainConfig, device: torch.device) -> Transformer:
    model = make_model(config.model, seed=config.seed).to(device)
    model.compute_dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return model.train()


@torch.no_grad()
def load_weights(model: Transformer, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights into a model.

    Raises:
        CheckpointError: they belong to another model
    """
    mine = dict(model.named_parameters())
    if differing := sorted(mine.keys() ^ tensors.keys()):
        raise CheckpointError(
            f"the weights are of another model: {len(differing)} names differ, first {differing[0]}"
        )
    for name, parameter in mine.items():
        if parameter.shape != tensors[name].shape:
            raise CheckpointError(
                f"the weights are of another model: {name} has shape "
                f"{tuple(tensors[name].shape)}, this one needs {tuple(parameter.shape)}"
            )
        parameter.copy_(tensors[name])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
