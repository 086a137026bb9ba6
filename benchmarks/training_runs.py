"""One timed training, ours or `transformers.Trainer`'s, in a process of its own.

`python -m benchmarks.training_runs SYSTEM WORK` prints its figures as one line of JSON, last.
Figures count real tokens, [CLS] and [SEP] included, padding not, after the first steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.tokenizer import Tokenizer
from references.made_up import is_frozen

ROOT = Path(__file__).parents[1]
# What the two systems have in common; Trainer's names for it are in `_arguments`.
LR, BETAS, EPS, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-3, (0.9, 0.98), 1e-6, 0.01, 1.0
FOREVER = 1_000_000  # steps; the clock ends the run
MAX_LISTED_EXAMPLES = 20_000  # of Trainer's data set, which is made of Python lists


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained, on what, for how long."""

    store: str  # folder of a token store
    model: tuple[str, ...]  # KEY=VALUE of lmmodel's model settings, without "model."
    view: str  # "single": a document an example; "packed": full rows
    max_seq_length: int
    batch_size: int  # examples of a step
    precision: str = "bf16"
    device: str = "cpu"
    optimizer: str = "adamw"  # Trainer always has AdamW
    compile: bool = False
    deterministic: bool = True  # ours only
    seconds: float = 10.0  # of measuring
    warmup_steps: int = 3
    log_every: int = 1  # steps

    @property
    def settings(self) -> list[str]:
        """The run as lmmodel's KEY=VALUE pairs; frozen examples have their recipe in them."""
        recipe = [
            f"recipe.view={self.view}", "recipe.count=bernoulli",
            f"recipe.max_seq_length={self.max_seq_length}", "recipe.mlm_probability=0.15",
        ]  # fmt: skip
        return [
            *([] if is_frozen(Path(self.store)) else recipe),
            *[f"model.{setting}" for setting in self.model],
            f"model.max_position_embeddings={self.max_seq_length}",
            "objective.name=mlm", "vocabulary_bias=zeros", f"batch.size={self.batch_size}",
            f"batch.micro_batch_tokens={self.batch_size * self.max_seq_length}",
            f"precision={self.precision}", f"device={self.device}",
            f"compile={str(self.compile).lower()}",
            f"deterministic={str(self.deterministic).lower()}",
            f"optimizer.name={self.optimizer}", f"optimizer.lr={LR}", f"optimizer.eps={EPS}",
            f"optimizer.betas=[{BETAS[0]}, {BETAS[1]}]", f"optimizer.weight_decay={WEIGHT_DECAY}",
            "schedule.kind=constant", "schedule.warmup_ratio=0", f"budget.num_steps={FOREVER}",
            "evaluation.num_examples=0", f"evaluation.every_steps={FOREVER}",
            f"checkpoint.every_steps={FOREVER}", f"logging.every_steps={self.log_every}",
            "logging.picture=false", f"max_grad_norm={MAX_GRAD_NORM}",
        ]  # fmt: skip


class TimeIsUp(Exception):
    """Enough steps were timed."""


class Clock:
    """Ends a run once its steps after the warm-up have taken long enough."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._ends_at: float | None = None
        self._cpu_began_s = 0.0

    def is_up(self, step: int) -> bool:
        """Whether the run may end after this step."""
        now = time.perf_counter()
        if self._ends_at is None and step >= self._work.warmup_steps:
            self._ends_at = now + self._work.seconds
            self._cpu_began_s = time.process_time()
        return self._ends_at is not None and now >= self._ends_at

    @property
    def cpu_s(self) -> float:
        """Processor seconds since the warm-up, of all threads: other programs do not add to it."""
        return round(time.process_time() - self._cpu_began_s, 3)


def run_ours(work: Work) -> dict[str, Any]:
    """Train with `lmmodel.trainer.train`, as the command does; read the figures it logs."""
    from lmmodel.config import load_train_config
    from lmmodel.saving.metrics import METRICS_NAME, TrainProgress, read_metrics
    from lmmodel.trainer import train

    clock = Clock(work)

    def report(progress: TrainProgress) -> None:
        if clock.is_up(progress.step):
            raise TimeIsUp

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            train(load_train_config(None, work.settings), Path(work.store), run, progress=report)
        except TimeIsUp:
            cpu_s = clock.cpu_s
            entries = read_metrics(run / METRICS_NAME)
    return {**summarize(entries, work.warmup_steps), "cpu_s": cpu_s, **_memory(work.device)}


def summarize(entries: list[dict[str, Any]], warmup_steps: int) -> dict[str, Any]:
    """Return the figures of a run from the lines of its metrics.jsonl after the warm-up.

    Example:
        >>> lines = [{"step": step, "num_tokens": 100 * step, "tokens_per_s": rate, "mfu": None,
        ...           "data_wait_ratio": 0.5, "lm_loss": 7.0}
        ...          for step, rate in ((1, 1.0), (2, 100.0), (3, 50.0))]
        >>> summarize(lines, 1)["tokens_per_s"], summarize(lines, 1)["data_wait_ratio"]
        (66.7, 0.5)
    """
    lines = [entry for entry in entries if "tokens_per_s" in entry]
    before = [entry for entry in lines if entry["step"] <= warmup_steps]
    timed = lines[len(before) :]
    totals = np.array([entry["num_tokens"] for entry in [*before[-1:], *timed]])
    tokens = np.diff(totals)
    seconds = tokens / np.array([entry["tokens_per_s"] for entry in timed])
    mfu = [entry["mfu"] for entry in timed]
    waits = [entry["data_wait_ratio"] for entry in timed]
    return {
        "tokens_per_s": round(float(tokens.sum() / seconds.sum()), 1),
        "data_wait_ratio": round(float(np.average(waits, weights=seconds)), 5),
        "mfu": None if None in mfu else round(float(np.average(mfu, weights=seconds)), 4),
        "num_tokens": int(tokens.sum()),
        "num_steps": timed[-1]["step"] - before[-1]["step"],
        "loss": timed[-1]["lm_loss"],
    }


def run_theirs(work: Work) -> dict[str, Any]:
    """Train with `transformers.Trainer` and `DataCollatorForLanguageModeling`."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    tokenizer, examples = list_examples(work)
    clock = Clock(work)
    counted: list[Any] = []  # real tokens of each step, on the device
    marks: list[tuple[int, float, float]] = []  # step, time, processor time; at both ends

    class CountingTrainer(transformers.Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            counted.append(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, *rest, **named)

    class EndInTime(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            is_up = clock.is_up(state.global_step)
            if is_up or state.global_step == work.warmup_steps:
                _synchronize(work.device)
                marks.append((state.global_step, time.perf_counter(), clock.cpu_s))
            control.should_training_stop = is_up

    with tempfile.TemporaryDirectory() as folder:
        trainer = CountingTrainer(
            model=stock_model(work), args=_arguments(work, folder), train_dataset=examples,
            data_collator=transformers.DataCollatorForLanguageModeling(
                tokenizer, mlm_probability=0.15
            ),
            callbacks=[EndInTime()],
        )  # fmt: skip
        result = trainer.train()
    (first, started, _), (last, ended, cpu_s) = marks[0], marks[-1]
    num_tokens = sum(int(number) for number in counted[first:last])
    return {
        "tokens_per_s": round(num_tokens / (ended - started), 1),
        "num_tokens": num_tokens,
        "num_steps": last - first,
        "cpu_s": cpu_s,
        "loss": round(result.training_loss, 4),
        **_memory(work.device),
    }


def list_examples(work: Work) -> tuple[Any, list[dict[str, list[int]]]]:
    """Return a tokenizer of transformers and the sequences that ours trains on, unmasked."""
    from transformers import PreTrainedTokenizerFast

    batch, own = _first_examples(work)
    is_special = own.is_special
    names = ("unk", "sep", "pad", "cls", "mask")
    pieces = {f"{name}_token": own.special_tokens[name] for name in names}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own.backend, **pieces)
    return tokenizer, [
        {"input_ids": ids.tolist(), "special_tokens_mask": is_special[ids].astype(int).tolist()}
        for ids in np.split(batch.original_ids(), batch.offsets[1:-1])
    ]


def _first_examples(work: Work) -> tuple[ExampleBatch, Tokenizer]:
    """Return what ours trains on first, masked, and its tokenizer."""
    from lmdata.dataset import open_examples, open_store

    if is_frozen(Path(work.store)):
        examples = open_examples(work.store)
        count = min(len(examples), MAX_LISTED_EXAMPLES)
        return examples.rows(np.arange(count)), examples.tokenizer

    from lmdata.recipes import Recipe
    from lmdata.views import view

    store = open_store(work.store)
    recipe = Recipe(view=work.view, max_seq_length=work.max_seq_length, count="bernoulli")
    rows = view(store, recipe, seed=0)
    return rows.examples(np.arange(min(len(rows), MAX_LISTED_EXAMPLES))), store.tokenizer


def stock_model(work: Work) -> Any:
    """Return the stock model of the same shape, with fresh weights of its own."""
    import transformers

    from lmdata.tokenizer import TOKENIZER_FOLDER, load_tokenizer
    from lmmodel.config import load_train_config
    from lmmodel.handover.written import architecture, to_their_config

    tokenizer = load_tokenizer(Path(work.store) / TOKENIZER_FOLDER)
    wanted = load_train_config(None, work.settings).model
    if wanted.vocab_size is None:
        object.__setattr__(wanted, "vocab_size", tokenizer.vocab_size)
    config = to_their_config(wanted, tokenizer.special_ids)
    return getattr(transformers, architecture(wanted))(transformers.AutoConfig.for_model(**config))


def _arguments(work: Work, folder: str) -> Any:
    """Return Trainer's settings: its defaults but for what both systems must share."""
    from transformers import TrainingArguments

    on_gpu = work.device == "cuda"
    return TrainingArguments(
        output_dir=folder, per_device_train_batch_size=work.batch_size, max_steps=FOREVER,
        learning_rate=LR, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPS,
        weight_decay=WEIGHT_DECAY, max_grad_norm=MAX_GRAD_NORM, lr_scheduler_type="constant",
        optim="adamw_torch_fused", bf16=work.precision == "bf16", use_cpu=not on_gpu,
        torch_compile=work.compile, dataloader_num_workers=4 if on_gpu else 0,
        dataloader_pin_memory=on_gpu, logging_strategy="no", save_strategy="no", report_to=[],
        disable_tqdm=True,
    )  # fmt: skip


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _memory(device: str) -> dict[str, float]:
    """Return the peak memory, GiB: of the GPU, or of this process."""
    import resource

    import torch

    if device == "cuda":
        return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)}
    return {"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}


SYSTEMS = {"ours": run_ours, "theirs": run_theirs}


def run_apart(system: str, work: Work, *, timeout_s: float = 600.0) -> dict[str, Any]:
    """Return the figures of a training in a fresh process.

    Raises:
        RuntimeError: it failed; the text is the end of what it said
        subprocess.TimeoutExpired: it took too long and was stopped
    """
    arguments = [system, json.dumps(asdict(work))]
    return run_module("benchmarks.training_runs", arguments, timeout_s=timeout_s)


def run_module(module: str, arguments: list[str], *, timeout_s: float) -> dict[str, Any]:
    """Return what a module, run as a program of its own, printed last: one line of JSON.

    Raises:
        RuntimeError: it failed; the text is the end of what it said
        subprocess.TimeoutExpired: it took too long and was stopped
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError("\n".join(lines[-12:]) or f"exit code {done.returncode}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(result, dict)
    return result


def main() -> None:
    """Do the run that the two arguments describe."""
    values = json.loads(sys.argv[2])
    work = Work(**{**values, "model": tuple(values["model"])})
    print(json.dumps(SYSTEMS[sys.argv[1]](work)))


if __name__ == "__main__":
    main()
