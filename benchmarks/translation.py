"""Multi30k, English to German, from nothing: BLEU over time, and a plain PyTorch loop beside it.

The plain loop is what one writes by hand: `torch.nn` layers of the same shape, shuffled batches
padded to their longest text, AdamW with the same rates. Both are scored by the same greedy search,
whose time does not count, as the peer has none worth comparing.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import DATA
from cli.finetuning import fresh_tokenizer
from lmdata.tokenizer import Tokenizer
from lmmodel.families import ModelConfig
from lmmodel.finetuner import Source, finetune, resolve_config, start_model
from lmmodel.finetuning.data import FinetuneConfig, TaskData, read_data
from lmmodel.finetuning.fit import TaskLearner, epoch_batches
from lmmodel.optimizing import lr_ratio
from lmmodel.predicting.written import load_writer
from lmmodel.tasks.model import TaskModel, predict_logits
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.tasks.text_scores import score_texts, signatures
from lmmodel.writing import WritingConfig

PAIRS = DATA / "tasks" / "multi30k"
VALIDATION_LINES = 500  # scored after each epoch
SHAPE = ModelConfig(
    family="transformer", num_hidden_layers=3, hidden_size=256, num_attention_heads=4,
    intermediate_size=512, max_position_embeddings=128,
)  # fmt: skip
SETTINGS = FinetuneConfig(
    task="sequence-to-sequence", columns=TaskFormat(text="en", label="de"), model=SHAPE,
    num_seeds=1, batch_size=128, lr=1e-3, warmup_ratio=0.1, dropout=0.3, label_smoothing=0.1,
    max_seq_length=64, score="bleu", patience=None, vocab_size=6000, device="cpu",
)  # fmt: skip
ENOUGH_BLEU = 25.0


def read_lines(name: str, language: str) -> list[str]:
    """Return the lines of a part of the data."""
    with gzip.open(PAIRS / f"{name}.{language}.gz", "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def write_validation(folder: Path) -> Path:
    """Return the first lines of the validation pairs, which are scored after each epoch."""
    for language in ("en", "de"):
        lines = read_lines("val", language)[:VALIDATION_LINES]
        (folder / f"val.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "val"


def translate(folder: Path, minutes: float, num_epochs: int | None) -> dict[str, Any]:
    """Return BLEU on test 2016 after so many minutes from nothing, tokenizer included."""
    began = time.perf_counter()
    tokenizer = fresh_tokenizer(SETTINGS, PAIRS / "train", None)
    validation = write_validation(folder)
    if num_epochs is None:
        num_epochs = epochs_that_fit(tokenizer, validation, 60 * minutes)
    config = dataclasses.replace(SETTINGS, num_epochs=num_epochs)

    def tell(now: Any) -> None:
        if now.step % 200 == 0 and now.step:
            print(f"  step {now.step} of {now.num_steps}, {time.perf_counter() - began:.0f} s, "
                  f"loss {now.loss:.3f}, best BLEU {now.best or 0:.2f}", flush=True)  # fmt: skip

    result = finetune(None, config, PAIRS / "train", validation, folder / "translator",
                      tokenizer=tokenizer, report=tell, overwrite=True)  # fmt: skip
    elapsed_s = time.perf_counter() - began
    writer = load_writer(folder / "translator", "cpu")
    sources = read_lines("test_2016_flickr", "en")
    references = [(line,) for line in read_lines("test_2016_flickr", "de")]
    rows = {}
    for num_beams in (1, 5):
        found = writer.write(sources, WritingConfig(num_beams=num_beams, max_new_tokens=64))
        scores = score_texts([one.target for one in found], references)
        rows[f"{num_beams} beams"] = {name: round(value, 2) for name, value in scores.items()}
    return {
        "minutes": round(elapsed_s / 60, 2), "epochs": num_epochs,
        "num_averaged": result.seeds[0].num_averaged, "test_2016": rows,
        "padding": dataclasses.asdict(result.padding), "signatures": signatures(references),
        "validation BLEU over minutes of training": [
            [round(line["train_s"] / 60, 2), round(line["bleu"], 2)]
            for line in read_log(folder / "translator") if "train_s" in line
        ],
        "examples": [
            {"source": source, "wrote": one.target, "right": right[0]}
            for source, one, right in list(zip(sources, found, references, strict=True))[:5]
        ],
    }  # fmt: skip


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the evaluations of a fine-tuned folder."""
    from lmmodel.saving.metrics import METRICS_NAME, read_metrics

    return read_metrics(folder / METRICS_NAME)


def epochs_that_fit(tokenizer: Tokenizer, validation: Path, seconds: float) -> int:
    """Return how many epochs are done in a time, with a tenth to spare, by timing 60 steps."""
    config, source, data = prepared(SETTINGS, tokenizer, validation)
    learner = TaskLearner(start_model(source, config, data, seed=0), data.train, config, seed=0)
    batches = epoch_batches(data.train.sizes, config, 0)
    for _ in range(60):  # the first products of each shape are slow
        learner.learn(next(batches))
    before = learner.train_s
    for _ in range(60):
        learner.learn(next(batches))
    step_s = (learner.train_s - before) / 60
    began = time.perf_counter()
    predict_logits(learner.model, data.validation)
    scoring_s = time.perf_counter() - began
    epoch_s = step_s * learner.steps_per_epoch + scoring_s
    num_epochs = max(1, int(0.9 * seconds / epoch_s))
    print(f"  {step_s * 1000:.0f} ms a step, {scoring_s:.0f} s to score: {num_epochs} epochs")
    return num_epochs


def prepared(
    settings: FinetuneConfig, tokenizer: Tokenizer, validation: Path
) -> tuple[FinetuneConfig, Source, TaskData]:
    """Return the settings with what depends on the machine, what a model is made of, the pairs."""
    shape = dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size)
    source = Source(shape, tokenizer, None, {}, "random weights")
    config = resolve_config(settings, source)
    return config, source, read_data(config, tokenizer, PAIRS / "train", validation, shape)


# The same time to the same BLEU.


def race(
    folder: Path, num_epochs: int, most_ratio: float, *, is_bf16: bool
) -> list[dict[str, Any]]:
    """Return seconds of training until the validation pairs reach `ENOUGH_BLEU`, of both.

    Args:
        folder: for files
        num_epochs: of the schedule of both
        most_ratio: the plain loop ends unfinished after so many times our seconds
        is_bf16: whether the plain loop computes in bfloat16 by autocast; ours chooses by itself
    """
    tokenizer = fresh_tokenizer(SETTINGS, PAIRS / "train", None)
    settings = dataclasses.replace(SETTINGS, num_epochs=num_epochs)
    config, source, data = prepared(settings, tokenizer, write_validation(folder))
    rows: list[dict[str, Any]] = []
    for what in ("lmmodel", "plain PyTorch"):
        learner = TaskLearner(start_model(source, config, data, seed=0), data.train, config, seed=0)
        loop: Any = learner
        batches = epoch_batches(data.train.sizes, config, 0)
        if what != "lmmodel":
            loop = PlainLoop(learner, is_bf16=is_bf16)
            batches = shuffled(len(data.train), config.batch_size, num_epochs)
        most_s = most_ratio * rows[0]["seconds"] if rows else math.inf
        curve = learn_until(loop, batches, learner, data, most_s)
        is_there = curve[-1][1] >= ENOUGH_BLEU
        rows.append({
            "what": what, "seconds": round(curve[-1][0], 1), "reached BLEU 25": is_there,
            "epochs": len(curve), "seconds an epoch": round(curve[-1][0] / len(curve), 1),
            "curve": [[round(seconds, 1), round(value, 2)] for seconds, value in curve],
        })  # fmt: skip
        print({name: value for name, value in rows[-1].items() if name != "curve"}, flush=True)
    return rows


def take_turns(folder: Path, num_steps: int, *, is_bf16: bool) -> dict[str, Any]:
    """Return the milliseconds of a step of both, medians of steps that take turns.

    Args:
        folder: for files
        num_steps: of each, after as many that are not counted
        is_bf16: as of `race`
    """
    tokenizer = fresh_tokenizer(SETTINGS, PAIRS / "train", None)
    config, source, data = prepared(SETTINGS, tokenizer, write_validation(folder))
    learner = TaskLearner(start_model(source, config, data, seed=0), data.train, config, seed=0)
    plain = PlainLoop(learner, is_bf16=is_bf16)
    ours = epoch_batches(data.train.sizes, config, 0)
    theirs = shuffled(len(data.train), config.batch_size, config.num_epochs)
    seconds = []
    for _ in range(2 * num_steps):
        before = learner.train_s, plain.train_s
        learner.learn(next(ours))
        plain.learn(next(theirs))
        seconds.append((learner.train_s - before[0], plain.train_s - before[1]))
    timed = np.array(seconds[num_steps:])
    medians = 1000 * np.median(timed, axis=0)
    return {
        "steps": num_steps, "lmmodel ms": round(medians[0]), "plain PyTorch ms": round(medians[1]),
        "plain in bf16": is_bf16,
        "median ratio of neighbours": round(float(np.median(timed[:, 1] / timed[:, 0])), 2),
    }  # fmt: skip


def learn_until(
    loop: Any, batches: Iterator[np.ndarray], learner: TaskLearner, data: TaskData, most_s: float
) -> list[tuple[float, float]]:
    """Return seconds of training and BLEU after each epoch, until it is enough or too late."""
    curve = []
    for step, rows in enumerate(batches, 1):
        loop.learn(rows)
        if step % learner.steps_per_epoch == 0:
            if loop is not learner:
                loop.model.write_into(learner.model)
            curve.append((loop.train_s, bleu(learner, data)))
            print(f"  {curve[-1][0]:.0f} s: BLEU {curve[-1][1]:.2f}", flush=True)
            if curve[-1][1] >= ENOUGH_BLEU or loop.train_s >= most_s:
                break
    return curve


def bleu(learner: TaskLearner, data: TaskData) -> float:
    """Return BLEU of the validation pairs, written greedily by the learner's model."""
    backbone = learner.model.backbone
    number, backbone.compute_dtype = backbone.compute_dtype, torch.float32
    found = predict_logits(learner.model, data.validation)
    backbone.compute_dtype = number
    return float(data.score(found)["bleu"])


def shuffled(count: int, size: int, num_epochs: int) -> Iterator[np.ndarray]:
    """Yield batches of shuffled rows, as a plain loader does."""
    draws = np.random.default_rng(0)
    for _ in range(num_epochs):
        order = draws.permutation(count)
        yield from np.split(order, range(size, count, size))


class PlainLoop:
    """Training by hand, from the weights that a learner begins with."""

    def __init__(self, learner: TaskLearner, *, is_bf16: bool) -> None:
        self.learner, self.is_bf16 = learner, is_bf16
        self.model = PlainTransformer(learner.model)
        config = learner.config
        ours = config.optimizer_config(learner.lr)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=ours.lr, betas=ours.betas, eps=ours.eps,
            weight_decay=ours.weight_decay,
        )  # fmt: skip
        self.step, self.train_s = 0, 0.0

    def learn(self, rows: np.ndarray) -> float:
        """Do one step on int64 (B,) rows; return their mean loss before it."""
        began_s = time.perf_counter()
        config, examples = self.learner.config, self.learner.train
        assert examples.targets is not None
        source = filled([examples.input_ids[a:b] for a, b in self._places(rows)])
        target = filled([examples.targets.row(int(row)) for row in rows])
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
            logits = self.model(source, target[:, :-1])
        labels = target[:, 1:]
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=-1,
            label_smoothing=config.label_smoothing,
        )  # fmt: skip
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm or 1e9)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learner.lr * lr_ratio(
                self.step, self.learner.num_steps, config.schedule_config
            )
        self.optimizer.step()
        self.step += 1
        self.train_s += time.perf_counter() - began_s
        return float(loss.detach())

    def _places(self, rows: np.ndarray) -> list[tuple[int, int]]:
        offsets = self.learner.train.offsets
        return [(int(offsets[row]), int(offsets[row + 1])) for row in rows]


def filled(texts: list[np.ndarray]) -> Tensor:
    """Return ids filled up to the longest with -1: int64 (B, L)."""
    tensors = [torch.from_numpy(ids.astype(np.int64)) for ids in texts]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-1)


class PlainTransformer(nn.Module):
    """The Transformer of 2017 of `torch.nn` layers, its embeddings tied, with another's weights."""

    def __init__(self, ours: TaskModel) -> None:
        super().__init__()
        config = ours.config
        options = {
            "d_model": config.hidden_size, "nhead": config.num_attention_heads,
            "dim_feedforward": config.intermediate_size, "dropout": config.dropout,
            "batch_first": True,
        }  # fmt: skip
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = nn.ModuleList(
            nn.TransformerEncoderLayer(**options) for _ in range(config.num_hidden_layers)
        )
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(**options) for _ in range(config.num_decoder_layers or 0)
        )
        backbone = ours.backbone
        self.register_buffer("sinusoids", backbone.embeddings.sinusoids, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.load_state_dict(self.named_as_here(dict(backbone.named_parameters())))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return logits (B, L, V) of ids (B, U) and (B, L), -1 where there are none."""
        length = target.shape[1]
        ahead = torch.ones(length, length, dtype=torch.bool).triu(1)
        hidden, x = self.embed(source), self.embed(target)
        for layer in self.encoder:
            hidden = layer(hidden, src_key_padding_mask=source < 0)
        for layer in self.decoder:
            x = layer(
                x, hidden, tgt_mask=ahead, tgt_key_padding_mask=target < 0,
                memory_key_padding_mask=source < 0,
            )  # fmt: skip
        return F.linear(x, self.tokens.weight)

    def embed(self, ids: Tensor) -> Tensor:
        """Return what the layers read of ids (B, L)."""
        x = self.tokens(ids.clamp(min=0)) * self.tokens.embedding_dim**0.5
        return self.dropout(x + self.sinusoids[: ids.shape[1]])

    @torch.no_grad()
    def write_into(self, ours: TaskModel) -> None:
        """Put the weights into our model, which writes faster."""
        theirs = dict(self.named_parameters())
        for name, weight in ours.backbone.named_parameters():
            own, rows = place_here(name, ours.config.hidden_size)
            weight.copy_(theirs[own][rows])

    def named_as_here(self, ours: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return our weights under the names of `torch.nn`."""
        found = {name: weight.detach().clone() for name, weight in self.named_parameters()}
        for name, weight in ours.items():
            own, rows = place_here(name, self.tokens.embedding_dim)
            found[own][rows] = weight.detach()
        return found


HERE = {
    "attention.qkv": "self_attn.in_proj_", "attention.output": "self_attn.out_proj.",
    "attention_norm": "norm1.", "cross_attention.queries": "multihead_attn.in_proj_",
    "cross_attention.keys_values": "multihead_attn.in_proj_",
    "cross_attention.output": "multihead_attn.out_proj.", "cross_norm": "norm2.",
    "mlp.input": "linear1.", "mlp.output": "linear2.", "mlp_norm": "norm3.",
}  # fmt: skip


def place_here(name: str, size: int) -> tuple[str, slice]:
    """Return where `torch.nn` keeps a weight of ours: its name, and which rows of it.

    Example:
        >>> place_here("layers.0.cross_attention.keys_values.bias", 8)
        ('decoder.0.multihead_attn.in_proj_bias', slice(8, None, None))
        >>> place_here("encoder.layers.1.mlp_norm.weight", 8)
        ('encoder.1.norm2.weight', slice(None, None, None))
    """
    if name == "embeddings.tokens.weight":
        return "tokens.weight", slice(None)
    stack = "encoder" if name.startswith("encoder.") else "decoder"
    layer, rest = name.removeprefix("encoder.").removeprefix("layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    here = "norm2." if (stack, part) == ("encoder", "mlp_norm") else HERE[part]
    rows = {
        "cross_attention.queries": slice(size),
        "cross_attention.keys_values": slice(size, None),
    }
    return f"{stack}.{layer}.{here}{kind}", rows.get(part, slice(None))
