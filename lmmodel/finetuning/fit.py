"""The loop of fine-tuning: one seed, and the weights of its best evaluation."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmdata.order import permute
from lmmodel.adapters import Trained, choose_trained
from lmmodel.batch import Batch
from lmmodel.cores import SharedWeights, add_gradients, num_cores, seeded
from lmmodel.device import is_out_of_memory
from lmmodel.errors import DivergedError, MemoryLimitError
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.loader import round_batch
from lmmodel.optimizing import lr_ratio
from lmmodel.packing import LEAST_TOKENS, Padding, deal_rows, padding_of
from lmmodel.tasks.examples import TaskExamples
from lmmodel.tasks.known import find_task
from lmmodel.tasks.model import TaskModel, pack, pack_labels, predict_logits
from lmmodel.tasks.task import Scores
from lmmodel.training.optimizer import Optimizer
from lmmodel.training.step import clip_gradients, dropout_seeds

# Batches whose examples are sorted by length together, and how many such pools an epoch has at
# least: fewer, and the same examples would meet in every epoch.
MAX_POOL = 16
MIN_POOLS = 8

# A step is cut into so many on a CPU, whatever its cores, as dropout belongs to a micro-batch.
CPU_MICRO_BATCHES = 2
LEAST_WRITTEN_TOKENS = 2048  # of a micro-batch that writes, whose many calls weigh more than tokens

NUM_PROBED = 20  # steps whose padding is told

Scorer = Callable[[Any], Scores]
"""Logits of the validation examples to scores."""


@dataclass(frozen=True, kw_only=True)
class FitProgress:
    """One report of a running fit, for a progress display."""

    seed: int
    step: int  # optimizer steps done
    num_steps: int  # where nothing stops it early
    loss: float | None  # mean since the last evaluation; None before the first step
    best: float | None  # best value so far of the score that decides
    trained: Trained | None = None  # what of the model moves: told before the first step


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A model as it is evaluated: its scores and its weights."""

    epoch: float
    scores: Scores
    logits: Any  # float32, of the validation examples; of tasks that write, ids
    weights: dict[str, Tensor]  # on the CPU
    num_averaged: int = 1  # evaluations whose weights these are the mean of


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What one seed came to."""

    seed: int
    best: Moment
    num_epochs: float  # trained until it was stopped
    trained: Trained  # what of the model moved
    padding: Padding  # of the first steps' micro-batches
    log: list[dict[str, Any]]  # a line an evaluation


def fit(
    model: TaskModel,
    train: TaskExamples,
    validation: TaskExamples,
    score: Scorer,
    best_score: str,
    config: FinetuneConfig,
    *,
    seed: int,
    report: Callable[[FitProgress], None] | None = None,
) -> Fit:
    """Train a model in place until the epochs are over or the score no longer rises.

    Args:
        model: on its device
        train: at least one example
        validation: at least one example
        score: of the logits of `validation`
        best_score: name of the score that decides, the higher the better
        config: of the fine-tuning; `trainable` says what of the model moves
        seed: of the order and dropout
        report: called after each step

    Raises:
        DivergedError: the loss is not finite
        MemoryLimitError: a micro-batch does not fit
    """
    learner = TaskLearner(model, train, config, seed=seed)
    ends = evaluation_steps(learner.steps_per_epoch, config)
    losses: list[float] = []
    log: list[dict[str, Any]] = []
    best: Moment | None = None
    num_since = 0  # evaluations since the best one
    recent: deque[dict[str, Tensor]] = deque(maxlen=config.num_averaged or 1)
    if report is not None:
        report(FitProgress(seed=seed, step=0, num_steps=learner.num_steps, loss=None, best=None,
                           trained=learner.trained))  # fmt: skip
    for rows in epoch_batches(train.sizes, config, seed):
        losses.append(learner.learn(rows))
        if report is not None:
            value = None if best is None else best.scores[best_score]
            report(FitProgress(seed=seed, step=learner.step, num_steps=learner.num_steps,
                               loss=float(np.mean(losses)), best=value))  # fmt: skip
        if learner.step not in ends:
            continue
        now = learner.evaluate(validation, score)
        log.append({"seed": seed, "step": learner.step, "epoch": now.epoch,
                    "loss": float(np.mean(losses)), "train_s": round(learner.train_s, 3),
                    **now.scores})  # fmt: skip
        losses.clear()
        if recent.maxlen != 1:
            recent.append(learner.copy_weights())
        is_better = best is None or now.scores[best_score] > best.scores[best_score]
        best, num_since = (now, 0) if is_better or best is None else (best, num_since + 1)
        if config.patience is not None and num_since >= config.patience:
            break
    assert best is not None  # the last step of all is evaluated
    if len(recent) > 1:
        now = learner.evaluate_mean(recent, validation, score)
        log.append({"seed": seed, "step": learner.step, "epoch": now.epoch,
                    "num_averaged": now.num_averaged, **now.scores})  # fmt: skip
        best = now if now.scores[best_score] > best.scores[best_score] else best
    return Fit(seed=seed, best=best, num_epochs=learner.epoch, trained=learner.trained,
               padding=learner.padding(), log=log)  # fmt: skip


def evaluation_steps(steps_per_epoch: int, config: FinetuneConfig) -> set[int]:
    """Return after which steps the validation examples are scored; the last is one of them.

    Example:
        >>> config = FinetuneConfig(task="regression", num_epochs=2, evaluations_per_epoch=2)
        >>> sorted(evaluation_steps(10, config))
        [5, 10, 15, 20]
    """
    count = config.num_epochs * config.evaluations_per_epoch
    every = steps_per_epoch / config.evaluations_per_epoch
    return {max(1, round(every * number)) for number in range(1, count + 1)}


def epoch_batches(lengths: np.ndarray, config: FinetuneConfig, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each step, int64 (B,): every epoch in another order.

    Within pools of the shuffled order, examples of like length share a batch, and the batches are
    shuffled again: attention on a CPU is fastest on equal lengths. What writes learns much less
    from such batches, and its attention takes any lengths together: there a pool is one batch.

    Args:
        lengths: int64 (E,) tokens of each example
        config: says how many batches of which size
        seed: of the order

    Example:
        >>> config = FinetuneConfig(task="regression", batch_size=2, num_epochs=1)
        >>> batches = epoch_batches(np.array([9, 2, 9, 2, 5]), config, seed=1)
        >>> [len(rows) for rows in batches]
        [1, 2, 2]
    """
    count, size = len(lengths), config.batch_size
    most = 1 if find_task(config.task).writes else MAX_POOL
    pool_size = size * max(1, min(most, count // (size * MIN_POOLS)))
    for epoch in range(config.num_epochs):
        order = permute(np.arange(count), count, seed=seed, epoch=epoch)
        batches = []
        for pool in np.split(order, range(pool_size, count, pool_size)):
            ordered = pool[np.argsort(lengths[pool], kind="stable")]
            batches += np.split(ordered, range(size, len(pool), size))
        for index in permute(np.arange(len(batches)), len(batches), seed=seed, epoch=epoch):
            yield batches[index]


class TaskLearner:
    """A model in training: its optimizer, and how far it is."""

    def __init__(
        self, model: TaskModel, train: TaskExamples, config: FinetuneConfig, *, seed: int
    ) -> None:
        self.model = model
        self.train = train
        self.config = config
        self.seed = seed
        self.device = next(model.parameters()).device
        self.task = model.task
        self.loss_unit = self.task.loss_unit(train.labels)
        self.steps_per_epoch = -(-len(train) // config.batch_size)
        self.num_steps = self.steps_per_epoch * config.num_epochs
        self.step = 0  # optimizer steps done
        self.train_s = 0.0  # seconds that they took
        self.trained = choose_trained(
            model, config.trainable, config.lora, new=("head.",), seed=seed
        )
        self.lr = config.peak_lr(model.config.hidden_size)
        self.optimizer = Optimizer(model, config.optimizer_config(self.lr))
        self.shared: SharedWeights | None = None
        if self.device.type == "cpu":
            self.shared = SharedWeights(model, model.backbone.compute_dtype)

    @property
    def epoch(self) -> float:
        """Passes over the training examples so far."""
        return self.step / self.steps_per_epoch

    def learn(self, rows: np.ndarray) -> float:
        """Do one step on int64 (B,) rows; return their mean loss before it.

        Raises:
            DivergedError: the loss is not finite
            MemoryLimitError: a micro-batch does not fit
        """
        began_s = time.perf_counter()
        self.model.train()
        if self.config.trainable == "head":
            self.model.backbone.eval()
        self.optimizer.zero_grad()
        loss = self._accumulate(rows)
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} in step {self.step + 1}: set lr lower than "
                f"{self.lr:g}, warmup_ratio higher or precision=fp32"
            )
        clip_gradients(self.model, self.config.max_grad_norm)
        self.optimizer.step(lr_ratio(self.step, self.num_steps, self.config.schedule_config))
        self.step += 1
        self.train_s += time.perf_counter() - began_s
        return loss

    def _accumulate(self, rows: np.ndarray) -> float:
        """Add the gradients of the rows' mean loss to the parameters; return that loss."""
        labels = pack_labels(self.train, rows)
        unit = self.loss_unit * max(1, self.task.count_labels(labels))
        seeds = dropout_seeds(self.seed, self.step, 0)
        at_once = num_cores(self.device)
        groups = self._micro_batches(rows)
        losses = [torch.zeros(())] * len(groups)

        def loss(index: int) -> Tensor:
            with seeded(seeds(index), self.device):
                own = self._loss(groups[index], unit)
            losses[index] = own.detach()
            return own

        try:
            add_gradients([partial(loss, i) for i in range(len(groups))], self.shared, at_once)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            most = max(int(self.train.sizes[group].sum()) for group in groups)
            raise MemoryLimitError(
                f"a micro-batch of {most} tokens does not fit into memory: "
                "set micro_batch_tokens or max_seq_length lower"
            ) from error
        return float(sum(losses))

    def _micro_batches(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the rows in the groups that are computed side by side, the same everywhere."""
        lengths = self.train.sizes[rows]
        wanted = CPU_MICRO_BATCHES if self.device.type == "cpu" else 1
        least = LEAST_WRITTEN_TOKENS if self.task.writes else LEAST_TOKENS
        num = min(wanted, int(lengths.sum()) // least)
        groups = deal_rows(lengths, self.config.micro_batch_tokens, num)
        return [rows[group] for group in groups]

    def padding(self) -> Padding:
        """Return what is padding in the micro-batches of the first steps."""
        steps = epoch_batches(self.train.sizes, self.config, self.seed)
        groups = [own for rows in islice(steps, NUM_PROBED) for own in self._micro_batches(rows)]
        num_tokens = sum(pack(self.train, rows).num_tokens for rows in groups)
        return padding_of([self._pack(rows) for rows in groups], num_tokens)

    def _pack(self, rows: np.ndarray) -> Batch:
        """Return rows as a batch, filled up a little where products of new shapes are slow."""
        batch = pack(self.train, rows)
        is_slow = self.device.type == "cpu" and self.config.precision == "bf16"
        return round_batch(batch) if is_slow and self.task.writes else batch

    def _loss(self, rows: np.ndarray, unit: float) -> Tensor:
        """Return the share of some rows in the mean loss of a step."""
        batch = self._pack(rows).to(self.device)
        labels = pack_labels(self.train, rows).to(self.device)
        logits = self.model(batch)
        if self.task.writes:  # those of padding come last
            logits = logits[: len(labels)]
        return self.task.sum_loss(logits, labels, batch) / unit

    def evaluate(self, examples: TaskExamples, score: Scorer) -> Moment:
        """Return scores and weights of this moment.

        The logits are taken in float32, as the saved weights give them, whatever training
        computes in.
        """
        backbone = self.model.backbone
        number, backbone.compute_dtype = backbone.compute_dtype, torch.float32
        logits = predict_logits(self.model, examples)
        backbone.compute_dtype = number
        return Moment(
            epoch=self.epoch,
            scores=score(logits),
            logits=logits,
            weights=self.model.saved_weights(self.config.lora),
        )

    def copy_weights(self) -> dict[str, Tensor]:
        """Return a copy of what is trained."""
        named = self.model.named_parameters()
        return {name: w.detach().clone() for name, w in named if w.requires_grad}

    @torch.no_grad()
    def evaluate_mean(
        self, recent: Sequence[dict[str, Tensor]], examples: TaskExamples, score: Scorer
    ) -> Moment:
        """Put the mean of some weights in the place of the last ones, and return its scores."""
        for name, weight in self.model.named_parameters():
            if weight.requires_grad:
                weight.copy_(torch.stack([own[name] for own in recent]).mean(dim=0))
        return replace(self.evaluate(examples, score), num_averaged=len(recent))
