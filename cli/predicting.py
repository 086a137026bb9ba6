"""What a model answers.

Of a run: `fill-mask`, `score`, `embed`, `generate`. Of a fine-tuned model: `classify`, `tag`,
`answer`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values

from .inputs import TEXT, check_is_text, read_texts, split_at_tab, text_options
from .options import (
    device_option,
    echo_result,
    json_option,
    overwrite_option,
    quiet_option,
    resolve,
    seed_option,
)
from .progress import ProgressLine
from .summaries_predicting import (
    WINDOWED,
    answer_lines,
    classification_lines,
    count_lines,
    filling_lines,
    generation_lines,
    score_lines,
    score_records,
    tagging_lines,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lmmodel.predicting.answering import Answered
    from lmmodel.predicting.embedding import Embeddings

FOLDER = click.Path(path_type=Path)


@click.command("fill-mask")
@click.argument("run", type=FOLDER)
@text_options
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Guesses for each mask.",
)
@device_option
@json_option
def fill_mask(
    run: Path, texts: tuple[str, ...], file: str | None, top_k: int, device: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Fill in the masked places of texts; one longer than the model takes is an error.

    \b
    Example: lmmodel fill-mask runs/wiki "The capital of France is [MASK]."
    Example: lmmodel fill-mask runs/wiki --file prompts.txt --top-k 3 --json
    """
    from lmmodel.predicting.mask_filling import fill_mask as fill
    from lmmodel.trained import load_run

    given = read_texts(texts, file)
    filled = fill(load_run(run, device=device or "auto"), given.texts, top_k=top_k)
    records = [
        {"text": text, "masks": json_values(places)}
        for text, places in zip(given.texts, filled, strict=True)
    ]
    lines = [*filling_lines(given.texts, filled), *count_lines(given.counts)]
    result = {"texts": records, "counts": given.counts}
    echo_result(result, as_json=as_json, quiet=False, lines=lines)


@click.command()
@click.argument("run", type=FOLDER)
@text_options
@click.option(
    "--start-token",
    metavar="PIECE",
    type=TEXT,
    help="Of a causal model: begin with this piece, so that the first token is scored too.",
)
@device_option
@json_option
def score(
    run: Path, texts: tuple[str, ...], file: str | None, start_token: str | None,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """How likely a model finds texts, in nats: in all, per token and per byte.

    A causal model gives the log-likelihood; its first token is given, not scored. A masked model
    gives the pseudo-log-likelihood: each token masked in turn. Texts longer than the model takes
    are read in windows that overlap by half; how many is in the result.

    \b
    Example: lmmodel score runs/wiki "The cat sleeps." "The cat sleep."
    Example: lmmodel score runs/wiki --file sentences.txt --json
    """
    from lmmodel.predicting.likelihood import log_likelihoods
    from lmmodel.trained import load_run

    given, model = read_texts(texts, file), load_run(run, device=device or "auto")
    with ProgressLine("scoring", unit="tokens", quiet=as_json) as line:
        found = log_likelihoods(model, given.texts, start_token=start_token, progress=line.update)
    kind = "log-likelihood" if model.is_causal else "pseudo-log-likelihood"
    counts = {**given.counts, **({WINDOWED: found.num_windowed} if found.num_windowed else {})}
    records = score_records(given.texts, found)
    lines = [*score_lines(kind, records), *count_lines(counts)]
    result = {"score": kind, "texts": records, "counts": counts}
    echo_result(result, as_json=as_json, quiet=False, lines=lines)


@click.command()
@click.argument("run", type=FOLDER)
@text_options
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .npy (vectors alone) or .parquet (text and vector).",
)  # fmt: skip
@overwrite_option
@click.option("--no-normalize", is_flag=True, help="Leave vectors as long as they are.")
@device_option
@json_option
@quiet_option
def embed(
    run: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    no_normalize: bool, device: str | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """One vector a text: the mean of the last layer over its tokens, of length 1.

    The special tokens around a text count too. Texts longer than the model takes are read in
    windows side by side and the mean is over all of them; how many is in the result. Without
    --output the vectors are printed, one a line.

    \b
    Example: lmmodel embed runs/wiki --file sentences.txt --output sentences.npy
    Example: lmmodel embed runs/wiki "A cat sleeps." "A dog barks." --json
    """
    from lmmodel.predicting.embedding import check_vector_file, write_vectors
    from lmmodel.predicting.embedding import embed as embed_texts
    from lmmodel.trained import load_run

    if output is not None:
        check_vector_file(output, overwrite=overwrite)
    elif overwrite:
        raise click.UsageError("--overwrite has no effect without --output")
    given, model = read_texts(texts, file), load_run(run, device=device or "auto")
    with ProgressLine("embedding", unit="texts", quiet=quiet or as_json) as line:
        found = embed_texts(model, given.texts, normalize=not no_normalize, progress=line.update)
    if output is not None:
        write_vectors(output, given.texts, found.vectors, overwrite=overwrite)
    counts = {**given.counts, **({WINDOWED: found.num_windowed} if found.num_windowed else {})}
    result = _embedding_result(given.texts, found, output)
    lines = [*_embedding_lines(found, output), *count_lines(counts)]
    echo_result({**result, "counts": counts}, as_json=as_json, quiet=quiet, lines=lines)


def _embedding_result(texts: list[str], found: Embeddings, output: Path | None) -> dict[str, Any]:
    num_texts, size = found.vectors.shape
    if output is not None:
        return {"output": str(output), "num_texts": num_texts, "size": size}
    vectors = found.vectors.tolist()
    return {
        "texts": [{"text": text, "vector": own} for text, own in zip(texts, vectors, strict=True)]
    }


def _embedding_lines(found: Embeddings, output: Path | None) -> list[str]:
    num_texts, size = found.vectors.shape
    if output is not None:
        return [f"{output}  {num_texts:,} vectors of {size}"]
    return [" ".join(f"{number:.4g}" for number in vector) for vector in found.vectors.tolist()]


@click.command()
@click.argument("run", type=FOLDER)
@text_options
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), help="Tokens to add at most.  [default: 64]"
)
@click.option(
    "--temperature",
    type=float,
    help="Above 1 more surprising, below less, 0 always the likeliest token.  [default: 1]",
)
@click.option("--top-k", type=int, help="Draw from so many of the likeliest tokens.")
@click.option("--top-p", type=float, help="Draw from the likeliest that have this probability.")
@seed_option
@device_option
@json_option
def generate(
    run: Path, texts: tuple[str, ...], file: str | None, device: str | None, as_json: bool,
    **settings: Any,
) -> None:  # fmt: skip
    """Go on with texts, up to the token that ends one; causal models only.

    A text must be shorter than the model takes; where it is full, the text stops and says so.

    \b
    Example: lmmodel generate runs/gpt "The river flows into"
    Example: lmmodel generate runs/gpt "Once" --temperature 0.8 --top-p 0.95 --seed 7
    """
    from lmmodel.predicting.generation import GenerationConfig
    from lmmodel.predicting.generation import generate as go_on
    from lmmodel.trained import load_run

    config = resolve(GenerationConfig, None, (), **settings)
    given, model = read_texts(texts, file), load_run(run, device=device or "auto")
    with ProgressLine("generating", unit="texts", quiet=as_json) as line:
        found = go_on(model, given.texts, config, progress=line.update)
    lines = [*generation_lines(found), *count_lines(given.counts)]
    result = {"texts": json_values(found), "counts": given.counts}
    echo_result(result, as_json=as_json, quiet=False, lines=lines)


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--pair", type=TEXT, help="The second text, for a model of pairs.")
@device_option
@json_option
def classify(
    model: Path, texts: tuple[str, ...], file: str | None, pair: str | None, device: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """The class of texts, or the number, by a model that was fine-tuned to tell.

    For a model of pairs each line of --file has both texts, a tab between them. Texts longer than
    the model was fine-tuned with are cut; how many is in the result.

    \b
    Example: lmmodel classify runs/wiki-sequence-classification "What a film!"
    Example: lmmodel classify entailment/ "A cat sleeps." --pair "An animal rests."
    """
    from lmmodel.finetuning.folder import load_fine_tuned
    from lmmodel.predicting.answering import classify as classify_texts

    if pair is not None and (len(texts) != 1 or file is not None):
        raise click.UsageError("--pair goes with one text; a --file has both, a tab between them")
    if pair is not None:
        check_is_text(pair, "--pair takes a text; --file reads pairs, a tab between them")
    given, tuned = read_texts(texts, file), load_fine_tuned(model, device or "auto")
    first, second = given.texts, None if pair is None else [pair]
    if pair is None and tuned.record.has_pairs:
        first, second = split_at_tab(given.texts)
    found = classify_texts(tuned, first, second)
    lines = classification_lines(found.answers)
    echo_answers(found, given.counts, lines, as_json=as_json)


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--split-at-spaces", is_flag=True, help="Leave punctuation with the word before it.")
@device_option
@json_option
def tag(
    model: Path, texts: tuple[str, ...], file: str | None, split_at_spaces: bool,
    device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Tag the words of texts, by a model that was fine-tuned to.

    Texts are split at white space and around punctuation; a number such as 3.50 stays one word.
    Long ones are read in windows that overlap; how many is in the result.

    \b
    Example: lmmodel tag tagger/ "The old king finds a stone."
    Example: lmmodel tag tagger/ --file sentences.txt --split-at-spaces --json
    """
    from lmmodel.finetuning.folder import load_fine_tuned
    from lmmodel.predicting.answering import tag as tag_texts

    given, tuned = read_texts(texts, file), load_fine_tuned(model, device or "auto")
    wanted = [text.split() for text in given.texts] if split_at_spaces else given.texts
    found = tag_texts(tuned, wanted)
    echo_answers(found, given.counts, tagging_lines(found.answers), as_json=as_json)


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--passage", type=TEXT, help="The text that all questions are about.")
@click.option("--passage-file", metavar="FILE", help="The same, in a file.")
@device_option
@json_option
def answer(
    model: Path, texts: tuple[str, ...], file: str | None, passage: str | None,
    passage_file: str | None, device: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the answers to questions in a passage, by a model that was fine-tuned to.

    Without a passage each line of --file has a question and its passage, a tab between them. Long
    passages are read in windows that overlap; how many is in the result.

    \b
    Example: lmmodel answer runs/wiki-question-answering "Who wrote it?" --passage-file page.txt
    Example: lmmodel answer runs/wiki-question-answering --file questions-and-passages.tsv --json
    """
    from lmmodel.finetuning.folder import load_fine_tuned
    from lmmodel.predicting.answering import answer as answer_questions
    from lmmodel.tasks.files import read_text

    if passage is not None and passage_file is not None:
        raise click.UsageError("give --passage or --passage-file, not both")
    if passage is not None:
        check_is_text(passage, f"--passage-file {passage} reads it")
    given = read_texts(texts, file)
    if passage_file is not None:
        passage = read_text(Path(passage_file), keeps_line_ends=True)  # for the places of answers
    tuned = load_fine_tuned(model, device or "auto")
    questions, passages = split_at_tab(given.texts) if passage is None else (given.texts, [passage])
    found = answer_questions(tuned, questions, passages)
    echo_answers(found, given.counts, answer_lines(found.answers), as_json=as_json)


def echo_answers(
    found: Answered[Any], left_out: Mapping[str, int], lines: list[str], *, as_json: bool
) -> None:
    """Print answers, and what was left out or cut."""
    counts = {**left_out, **found.counts}
    result = {"texts": json_values(found.answers), "counts": counts}
    echo_result(result, as_json=as_json, quiet=False, lines=[*lines, *count_lines(counts)])


VERBS = (fill_mask, score, embed, generate, classify, tag, answer)
