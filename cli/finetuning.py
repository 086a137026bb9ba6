"""`lmmodel finetune`: a pretrained model and two task files to a fine-tuned model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from lmdata.errors import counted

from .experts import trained_lines
from .inputs import layout_options
from .options import (
    FILE,
    FOLDER,
    config_option,
    device_option,
    echo_result,
    overwrite_option,
    resolve,
    result_options,
    seed_option,
    set_option,
)
from .summaries import ProgressLine, aligned, duration, figure

if TYPE_CHECKING:
    from lmdata.tokenizer import Tokenizer
    from lmmodel.finetuner import FinetuneResult
    from lmmodel.finetuning.data import FinetuneConfig
    from lmmodel.finetuning.fit import FitProgress

TASK_NAMES = (
    "sequence-classification, sentence-pair, multi-label-classification, token-classification, "
    "question-answering, regression or sequence-to-sequence"
)


class TaskName(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """The name of a task; the list of them is looked at when one is given, not for `--help`."""

    name = "task"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """Return the name."""
        from lmmodel.tasks.known import find_task

        try:
            return find_task(value).name
        except ValueError as error:
            self.fail(f"{error}.")


@click.command()
@click.argument("run", type=FOLDER, required=False)
@click.option("--task", type=TaskName(), required=True, help=f"What to learn: {TASK_NAMES}.")
@click.option(
    "--train",
    type=FILE,
    required=True,
    help="TSV, CSV, JSON lines, Parquet, CoNLL-U or SQuAD JSON; .gz .zst .xz too.",
)
@click.option(
    "--validation",
    type=FILE,
    help="As --train: stops training and gives the scores.  [default: a tenth of --train]",
)
@click.option("--output", type=FOLDER, help="Folder to write.")
@click.option(
    "--text-field",
    "--text",
    "--source",
    "columns__text",
    help="Column of the text, words, question or source: its name, or its number from 0.",
)
@click.option(
    "--pair-field", "--pair", "columns__pair", help="Column of the second text or of the passage."
)
@click.option(
    "--label-field",
    "--label",
    "--target",
    "columns__label",
    help="Column of the class, number, tags, answers or target.",
)
@click.option(
    "--header/--no-header",
    "columns__has_header",
    default=None,
    help="Whether the first line names the columns.  [default: header]",
)
@layout_options("columns__")
@click.option(
    "--num-epochs", type=click.IntRange(min=1), help="Passes over --train at most.  [default: 4]"
)
@click.option(
    "--seeds",
    "num_seeds",
    type=click.IntRange(min=1),
    help="How many trainings, for mean and spread.  [default: 3]",
)
@click.option(
    "--trainable",
    type=click.Choice(["full", "ffn", "head", "bias", "lora"]),
    help="What is trained beside the head: all, the feed-forward networks, nothing, biases, or "
    "thin pairs beside the matrices (--set lora.rank=8).  [default: full]",
)
@click.option("--freeze", "trainable", flag_value="head", help="The same as --trainable head.")
@click.option(
    "--from-scratch", is_flag=True, default=None, help="Begin with random weights, to compare."
)
@click.option("--family", "model__family", help="Without RUN: kind of model, random at first.")
@click.option("--model", "model__size", help="Without RUN: its size, tiny to base.")
@click.option(
    "--tokenizer",
    "tokenizer_path",
    type=FOLDER,
    help="Without RUN: folder of its tokenizer.  [default: one learned from --train]",
)
@device_option
@seed_option
@overwrite_option
@config_option
@set_option
@result_options
def finetune(
    run: Path | None, tokenizer_path: Path | None, train: Path, validation: Path | None,
    output: Path | None, overwrite: bool,
    config_path: Path | None, overrides: tuple[str, ...], as_json: bool, quiet: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Fine-tune a pretrained model on a task of yours; without --output into runs/RUN-TASK.

    Columns are taken by their usual names, or by what plainly is in them, and are named. Texts
    longer than --set max_seq_length=128 tokens are cut or, for tags and answers, read in
    windows that overlap; how many is in the result. Of two files whose lines belong together,
    --train pairs --source en --target de reads pairs.en and pairs.de.

    \b
    Example: lmmodel finetune runs/wiki --task sequence-classification
               --train reviews.tsv --text-field sentence --label-field label
    Example: lmmodel finetune runs/wiki --task token-classification
               --train train.conllu --validation dev.conllu --output tagger/
    Example: lmmodel finetune --family transformer --model tiny --task sequence-to-sequence
               --train pairs.tsv --source en --target de
    """
    from lmmodel.finetuner import finetune as run_finetuning
    from lmmodel.finetuning.data import FinetuneConfig

    config = resolve(FinetuneConfig, config_path, overrides, **options)
    beginning = "new" if run is None else run.resolve().name
    output = output or Path("runs") / f"{beginning}-{config.task}"
    tokenizer = None if run is not None and tokenizer_path is None else fresh_tokenizer(
        config, train, tokenizer_path
    )  # fmt: skip
    with ProgressLine("fine-tuning", unit="steps", quiet=quiet) as line, saying_what_is_lost():

        def tell(now: FitProgress) -> None:
            trained = now.trained if now.seed == config.seed else None
            if trained is not None and trained.part != "full":
                line.say("\n".join(trained_lines(trained)))
            line.update(*finetuning_progress(now))

        result = run_finetuning(
            run, config, train, validation, output, tokenizer=tokenizer, overwrite=overwrite,
            report=tell,
        )  # fmt: skip
    lines = finetuning_lines(result)
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


def fresh_tokenizer(config: FinetuneConfig, train: Path, folder: Path | None) -> Tokenizer:
    """Return the tokenizer in a folder, or one learned from the texts of a training file.

    Raises:
        LmdataError: there is none there, or the texts are too few
    """
    from lmdata.settings import TokenizerConfig
    from lmdata.tokenizer import load_tokenizer
    from lmdata.tokenizer_training import train_tokenizer
    from lmmodel.tasks.known import read_task_file

    if folder is not None:
        return load_tokenizer(folder)
    rows = read_task_file(train, config.task, config.columns)
    targets = [text for own in rows.labels for text in own]
    settings = TokenizerConfig(model="bpe", vocab_size=config.vocab_size, allow_smaller=True)
    return train_tokenizer([GivenDocuments.of([*rows.texts, *targets])], settings)


@dataclass(frozen=True)
class GivenDocuments:
    """Texts end to end."""

    text: Any  # uint8 (N,)
    offsets: Any  # int64 (D + 1,)

    @staticmethod
    def of(texts: Sequence[str]) -> GivenDocuments:
        """Return texts as documents."""
        import numpy as np

        encoded = [text.encode() for text in texts]
        lengths = np.array([0, *map(len, encoded)], np.int64)
        return GivenDocuments(np.frombuffer(b"".join(encoded), np.uint8), lengths.cumsum())


@contextlib.contextmanager
def saying_what_is_lost() -> Iterator[None]:
    """Have an interrupted fine-tuning end with what there is: nothing."""
    try:
        yield
    except KeyboardInterrupt as error:
        text = "Nothing was written; type the same command again, with fewer --seeds to be faster."
        raise KeyboardInterrupt(text) from error


def finetuning_progress(now: FitProgress) -> tuple[int, int, str]:
    """Return the steps done, all of them, and the note beside the progress bar."""
    best = "" if now.best is None else f", best {now.best:.4f}"
    loss = "" if now.loss is None else f": loss {now.loss:.4f}"
    return now.step, now.num_steps, f"seed {now.seed}{loss}{best}"


def finetuning_lines(result: FinetuneResult) -> list[str]:
    """Return what a fine-tuning came to: a line a seed, their mean, and where the rest is."""
    names = list(result.mean)
    rows = [("", *names, "epoch")]
    for one in result.seeds:
        mark = " *" if one.seed == result.kept_seed and len(result.seeds) > 1 else ""
        best = f"{one.best_epoch:g} of {one.num_epochs:g}"
        best += f", mean of {one.num_averaged}" * (one.num_averaged > 1)
        rows.append((f"seed {one.seed}{mark}", *[figure(one.scores[n]) for n in names], best))
    if len(result.seeds) > 1:
        rows.append(("mean", *[figure(result.mean[name]) for name in names], ""))
        rows.append(("spread", *[figure(result.spread[name]) for name in names], ""))
    if result.guess:
        rows.append(("guess", *[figure(result.guess[name]) for name in names], ""))
    return [
        f"{result.output}/  {result.task}, {counted(result.num_train, 'example')}, "
        f"{result.num_validation:,} to validate, in {duration(result.elapsed_s)}",
        *[f"  {line}" for line in aligned(rows)],
        *_counting_lines(result),
        f"  padding: {result.padding.sentence}",
        *[f"  note: {note}" for note in result.notes],
        *_explanations(result),
    ]


def _counting_lines(result: FinetuneResult) -> list[str]:
    return [
        f"  {name}: {count:,} {reason}"
        for name, counts in result.counts.items()
        for reason, count in counts.items()
        if count
    ]


def _explanations(result: FinetuneResult) -> list[str]:
    notes = [f"  best by {result.best_score}; the weights of seed {result.kept_seed} are kept"]
    kept = next(one.scores for one in result.seeds if one.seed == result.kept_seed)
    low, high = kept.get("accuracy_low"), kept.get("accuracy_high")
    if low is not None and high is not None:
        notes.append(f"  their accuracy lies in [{low:.4f}, {high:.4f}] with 95 % confidence")
    if result.guess:
        notes.append("  guess: always the label most frequent in training")
    if result.signatures:
        notes += [f"  {name}: {told}" for name, told in result.signatures.items()]
    for sample in result.samples:
        source, target, wanted = (shorten(text, 200, placeholder=" ...") for text in sample)
        notes += [f"  source: {source}", f"    wrote: {target}", f"    right: {wanted}"]
    if result.picture is not None:
        notes.append(f"  picture: {result.picture}")
    return notes
