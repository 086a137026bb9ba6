"""What a run learns from the same tokens: one change at a time of a line of settings, with spreads.

The lines are BERT's numbers and those that `lmmodel train` begins with. On the corpus of
`lmdata sample-corpus` with 6,144 pieces, unless a store is named; held-out losses are at the same
standard masks. A change is worth keeping if it gains more than twice the spread (standard deviation
over the seeds). Every run is kept in a folder as soon as it has ended: the same command goes on
where it stopped, and several of them share the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import cpu_seconds, print_table, write_result
from lmdata.errors import OutputError
from lmdata.files import lease, write_atomically
from lmmodel.config import TrainConfig, load_train_config
from lmmodel.evaluation import Evaluation, evaluate, make_held_out
from lmmodel.objectives import OBJECTIVES
from lmmodel.pair_files import open_training_data
from lmmodel.trained import load_run
from lmmodel.trainer import train

VOCAB_SIZE = 6144


@dataclass(frozen=True, kw_only=True)
class Change:
    """Settings laid over those of another line."""

    over: str | None  # name of that line; None: of nothing but what all runs have in common
    settings: tuple[str, ...] = ()
    vocab_size: int = VOCAB_SIZE  # pieces of the sample corpus's tokenizer
    causal_share: float = 0.0  # of the tokens: they are learned first, causally, by a run before


BERT, BEST, CAUSAL = "BERT's numbers", "modern, all together", "modern, causal"
BIAS = "vocabulary_bias=frequencies"
FROM_TEXT = "first_embeddings=co-occurrences"
RATE = "recipe.mlm_probability=0.3"
PLAIN = (
    "model.family=bert", "vocabulary_bias=zeros", "recipe.mlm_probability=0.15", "batch.size=32",
    "optimizer.lr=1e-3", "optimizer.muon_lr=0.02", "first_embeddings=random",
)  # fmt: skip
TOGETHER = (
    "model.family=modern", BIAS, RATE, "batch.size=16", "optimizer.lr=3e-3",
    "optimizer.muon_lr=0.04", "first_embeddings=random",
)  # fmt: skip
ALL_MASKED = (
    "recipe.mask_proportion=1.0", "recipe.random_proportion=0.0", "recipe.keep_proportion=0.0",
)  # fmt: skip


def _laid_over(line: str, changes: Mapping[str, tuple[str, ...]]) -> dict[str, Change]:
    return {name: Change(over=line, settings=own) for name, own in changes.items()}


CHANGES: dict[str, Change] = {
    BERT: Change(over=None, settings=PLAIN),
    BEST: Change(over=None, settings=TOGETHER),
    **_laid_over(BEST, {
        "bias zeros": ("vocabulary_bias=zeros",),
        "rate 0.15": ("recipe.mlm_probability=0.15",),
        "rate 0.20": ("recipe.mlm_probability=0.2",),
        "rate 0.40": ("recipe.mlm_probability=0.4",),
        "rate 0.30 falling to 0.15": ("recipe.mlm_probability=[0.3, 0.15]",),
        "all [MASK]": ALL_MASKED,
        "8 rows": ("batch.size=8",),
        "32 rows": ("batch.size=32",),
        "Muon 0.02": ("optimizer.muon_lr=0.02",),
        "Muon 0.08": ("optimizer.muon_lr=0.08",),
        "AdamW 1.5e-3": ("optimizer.lr=1.5e-3",),
        "AdamW 6e-3": ("optimizer.lr=6e-3",),
        "AdamW 1.2e-2": ("optimizer.lr=1.2e-2",),
        "stable, then half the steps falling": ("schedule.kind=wsd",),
        "stable, then a fifth falling": ("schedule.kind=wsd", "schedule.cooldown_ratio=0.2"),
        "cosine": ("schedule.kind=cosine",),
        "warm-up 2 %": ("schedule.warmup_ratio=0.02",),
        "dropout 0.1": ("model.dropout=0.1",),
        "hybrid, half causal": ("objective.name=hybrid",),
        "hybrid, three quarters causal": ("objective.name=hybrid", "objective.causal_share=0.75"),
        "embeddings from co-occurrences": (FROM_TEXT,),
        "hybrid, half causal, embeddings from co-occurrences": ("objective.name=hybrid", FROM_TEXT),
        "hybrid, a fifth causal": ("objective.name=hybrid", "objective.causal_share=0.2"),
        "rows of 64 first, half the steps": (
            'stages=[{until = 0.5, max_seq_length = 64, batch_size = 32}, {until = 1.0}]',
        ),
        "rows of whole sentences": ("recipe.view=single",),
        "average of the last fifth": ("averaging.kind=tail",),
        "weights' standard deviation 0.05": ("model.initializer_range=0.05",),
        "6 layers of 96": (
            "model.num_hidden_layers=6", "model.hidden_size=96", "model.num_attention_heads=2",
        ),
        "1 layer of 144": (
            "model.num_hidden_layers=1", "model.hidden_size=144", "model.num_attention_heads=2",
        ),
        "all layers see everything": ("model.global_every=1",),
        "betas 0.9, 0.95": ("optimizer.betas=[0.9, 0.95]",),
        "Muon's momentum 0.9": ("optimizer.muon_momentum=0.9",),
        "weight decay 0.1 of embeddings too": (
            "optimizer.weight_decay=0.1", "optimizer.decay_embeddings=true",
        ),
        "family bert": ("model.family=bert",),
    }),
    "a third causal first": Change(over=BEST, causal_share=1 / 3),
    "two thirds causal first": Change(over=BEST, causal_share=2 / 3),
    "2,048 pieces": Change(over=BEST, vocab_size=2048),
    "4,096 pieces": Change(over=BEST, vocab_size=4096),
    "8,192 pieces or what the text gives": Change(over=BEST, vocab_size=8192),
    **_laid_over(BERT, {
        "bert: bias from frequencies": (BIAS,),
        "bert: rate 0.30": (RATE,),
        "bert: bias, rate 0.30": (BIAS, RATE),
        "bert: 16 rows": ("batch.size=16",),
        "bert: AdamW 3e-3": ("optimizer.lr=3e-3",),
        "bert: Muon 0.04": ("optimizer.muon_lr=0.04",),
    }),
    "modern, BERT's numbers": Change(over=BERT, settings=("model.family=modern",)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Held-out figures of one run."""

    change: str
    seed: int
    loss: float  # nats a masked token, of the standard masks: 80 % [MASK], 10 % random, 10 % left
    filled_loss: float  # where all of them are [MASK]
    nats_per_byte: float  # of the masked tokens, whatever the pieces
    top5_accuracy: float
    unigram_loss: float
    num_tokens: int
    tokens_per_s: float  # beside whatever else the machine did
    cpu_s: float | None = None  # processor time of the training


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What all runs of a study have in common."""

    folder: Path  # of rows, stores and runs
    store: Path | None  # None: of the sample corpus
    size: str  # of the models
    num_tokens: int


def main(arguments: list[str]) -> None:
    """Train what the options ask for, print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks recipe", description=__doc__)
    add_options(parser, "recipe")
    parser.add_argument("--only", choices=CHANGES, action="append", help="repeatable")
    options = parser.parse_args(arguments)
    fitting = [name for name, own in CHANGES.items()
               if options.store is None or own.vocab_size == VOCAB_SIZE]  # fmt: skip
    wanted = list(dict.fromkeys(options.only or fitting))
    lines = [own for name in wanted if (own := CHANGES[name].over) and own not in wanted]
    study(options, {name: CHANGES[name] for name in dict.fromkeys([*lines, *wanted])})


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Declare the options of a study."""
    parser.add_argument("--folder", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--store", type=Path, help="token store; left out: the sample corpus")
    parser.add_argument("--size", default="tiny", help="of the model")
    parser.add_argument("--num-tokens", type=int, default=800_000, help="of each run")
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--name", default=name, help="of the result's file")
    parser.add_argument("--table", action="store_true", help="of the rows there are; train none")


def study(options: argparse.Namespace, changes: Mapping[str, Change]) -> list[Outcome]:
    """Run the rows that are missing, all of one seed before the next; print and keep the table."""
    scale = Scale(
        folder=options.folder, store=options.store, size=options.size,
        num_tokens=options.num_tokens,
    )  # fmt: skip
    rows = [(name, seed) for seed in range(options.num_seeds) for name in changes]
    for name, seed in rows if not options.table else ():
        run_row(scale, name, changes, seed)
    paths = [row_path(scale, name, seed) for name, seed in rows]
    outcomes = [Outcome(**json.loads(path.read_text())) for path in paths if path.exists()]
    table = compare(outcomes, {name: change.over for name, change in changes.items()})
    print_table(table)
    content = {
        "size": scale.size, "num_tokens": scale.num_tokens,
        "changes": {name: asdict(change) for name, change in changes.items()},
        "rows": table, "runs": [asdict(one) for one in outcomes],
    }  # fmt: skip
    write_result(options.name, content)
    return outcomes


def row_path(scale: Scale, name: str, seed: int) -> Path:
    """Return the file of a row.

    Example:
        >>> scale = Scale(folder=Path("study"), store=None, size="tiny", num_tokens=800_000)
        >>> row_path(scale, "bert: rate 0.30", 1).name
        'tiny-800000-bert-rate-0.30-1.json'
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
    return scale.folder / f"{scale.size}-{scale.num_tokens}-{plain}-{seed}.json"


def run_row(scale: Scale, name: str, changes: Mapping[str, Change], seed: int) -> None:
    """Train a row and keep it, unless it is there or another process is at it."""
    path = row_path(scale, name, seed)
    if path.exists():
        return
    try:
        with lease(path):
            if not path.exists():
                found = outcome(scale, path.with_suffix(""), name, changes, seed)
                write_atomically(path, json.dumps(asdict(found), indent=1) + "\n")
                print(found, flush=True)
    except OutputError as error:
        print(error, file=sys.stderr)


def store_of(scale: Scale, vocab_size: int) -> Path:
    """Return the store of a study, made where it is of the sample corpus and not there."""
    if scale.store is not None:
        return scale.store
    folder = scale.folder / f"store-{vocab_size}"
    with lease(folder):
        if not (folder / "tokens").exists():
            folder.mkdir(exist_ok=True)
            make_store(folder, vocab_size)
    return folder / "tokens"


def make_store(folder: Path, vocab_size: int = VOCAB_SIZE) -> Path:
    """Return a token store of the sample corpus, as the quickstart makes it."""
    program = f"{Path(sys.executable).with_name('lmdata')}"  # of this environment
    for command in (
        ["sample-corpus", "corpus"],
        ["train-tokenizer", "corpus", "--vocab-size", f"{vocab_size}", "--set",
         "allow_smaller=true"],
        ["tokenize", "corpus", "--set", "validation_ratio=0.05"],
    ):  # fmt: skip
        subprocess.run([program, *command, "--quiet"], cwd=folder, check=True)
    return folder / "tokens"


def outcome(
    scale: Scale, run: Path, name: str, changes: Mapping[str, Change], seed: int
) -> Outcome:
    """Train a model in a folder, which is removed, and return its held-out figures."""
    change = changes[name]
    store = store_of(scale, change.vocab_size)
    line = changes[change.over].settings if change.over else ()
    own = [*line, *change.settings]
    num_causal = round(change.causal_share * scale.num_tokens)
    before = run.with_name(f"{run.name}-before")
    if num_causal:
        masks = [setting for setting in own if "mlm_probability" not in setting]
        first = [*masks, "objective.name=clm", "schedule.kind=constant"]
        train(_config(scale, first, seed, num_causal), store, before, overwrite=before.exists())
        own = [
            *(
                setting
                for setting in own
                if not setting.startswith(("vocabulary_bias", "first_embeddings"))
            ),
            f"init_from={before}",
        ]
    config = _config(scale, own, seed, scale.num_tokens - num_causal)
    started_s = cpu_seconds()
    summary = train(config, store, run, overwrite=run.exists())
    used_s = cpu_seconds() - started_s
    standard, filled = (held_out_figures(run, store, share) for share in (0.8, 1.0))
    assert standard.top5_accuracy is not None
    assert standard.nats_per_byte is not None
    assert standard.unigram_loss is not None
    for folder in (run, before):
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        change=name, seed=seed, loss=standard.loss, filled_loss=filled.loss,
        nats_per_byte=standard.nats_per_byte, top5_accuracy=standard.top5_accuracy,
        unigram_loss=standard.unigram_loss, num_tokens=summary.num_tokens + num_causal,
        tokens_per_s=round(summary.tokens_per_s), cpu_s=round(used_s, 1),
    )  # fmt: skip


def held_out_figures(run: Path, store: Path, mask_proportion: float) -> Evaluation:
    """Return what a run makes of rows of 128 where this share of the chosen tokens is [MASK]."""
    trained = load_run(run, device="cpu")
    rest = (1 - mask_proportion) / 2
    recipe = dataclasses.replace(
        OBJECTIVES["mlm"].recipe, mask_proportion=mask_proportion, random_proportion=rest,
        keep_proportion=rest,
    )  # fmt: skip
    config = dataclasses.replace(trained.record.config, recipe=recipe)
    data = open_training_data(store, None, config.model)
    held_out = make_held_out(config, data, num_examples=512)
    return evaluate(trained.model, held_out, trained.device)


def _config(scale: Scale, settings: Sequence[str], seed: int, num_tokens: int) -> TrainConfig:
    common = [
        f"seed={seed}", f"model.size={scale.size}", "objective.name=mlm", "device=cpu",
        "precision=auto", "recipe.max_seq_length=128", f"budget.num_tokens={num_tokens}",
        "evaluation.num_examples=0", "checkpoint.every_steps=1000000000", "checkpoint.keep=1",
        "logging.picture=false", "batch.min_micro_batches=2",
    ]  # fmt: skip
    return load_train_config(None, [*common, *settings])


def compare(
    outcomes: Sequence[Outcome], lines: Mapping[str, str | None]
) -> list[dict[str, object]]:
    """Return a line for each change: means, spread, and whether it gains twice the larger spread.

    One seed alone has none.

    Args:
        outcomes: of all seeds
        lines: what each change is compared with; None: it is such a line itself

    Example:
        >>> runs = [Outcome(change=name, seed=seed, loss=loss, filled_loss=loss,
        ...                 nats_per_byte=loss / 4, top5_accuracy=0.25, unigram_loss=6.5,
        ...                 num_tokens=10, tokens_per_s=5.0)
        ...         for name, losses in (("line", (6.0, 6.2)), ("other", (5.0, 5.2)))
        ...         for seed, loss in enumerate(losses)]
        >>> rows = compare(runs, {"line": None, "other": "line"})
        >>> [(row["change"], row["gain"], row["is_beyond"]) for row in rows]
        [('line', 0.0, False), ('other', 1.0, True)]
    """
    groups: dict[str, list[Outcome]] = {}
    for one in outcomes:
        groups.setdefault(one.change, []).append(one)
    losses = {name: [one.loss for one in own] for name, own in groups.items()}
    spreads = {name: statistics.stdev(own) if own[1:] else 0.0 for name, own in losses.items()}
    rows: list[dict[str, object]] = []
    for name, own in groups.items():
        line = lines[name] or name
        gain = statistics.mean(losses[line]) - statistics.mean(losses[name])
        rows.append({
            "change": name,
            "seeds": len(own),
            "loss": round(statistics.mean(losses[name]), 4),
            "spread": round(spreads[name], 4),
            "filled_loss": round(statistics.mean(one.filled_loss for one in own), 4),
            "nats_per_byte": round(statistics.mean(one.nats_per_byte for one in own), 4),
            "top5_percent": round(100 * statistics.mean(one.top5_accuracy for one in own), 2),
            "gain": round(gain, 4),
            "is_beyond": gain > 2 * max(spreads[name], spreads[line]) if own[1:] else None,
        })  # fmt: skip
    return rows
