"""What a run answers: `fill-mask`, `embed`, `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values
from lmdata.errors import counted

from .experts import open_experts
from .generating import go_on, restore, write
from .inputs import (
    WINDOWED,
    Given,
    count_lines,
    echo_answers,
    read_given,
    text_options,
    write_answers,
    writing_answers,
)
from .options import (
    FOLDER,
    device_option,
    echo_result,
    json_option,
    resolve,
    result_options,
    seed_option,
    set_option,
)
from .summaries import ProgressLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmmodel.predicting.likelihood import TextVectors
    from lmmodel.predicting.mask_filling import Filling


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
@click.option(
    "--held-out",
    type=FOLDER,
    help="Instead of texts: words of held-out sentences of this token store, chosen by a rule, "
    "with the right one marked.",
)
@click.option(
    "--num-texts", type=click.IntRange(min=1), help="Of --held-out: sentences.  [default: 10]"
)
@device_option
@json_option
def fill_mask(
    run: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    top_k: int, held_out: Path | None, num_texts: int | None, device: str | None, as_json: bool,
    **layout: Any,
) -> None:  # fmt: skip
    """Fill in the masked places of texts; one longer than the model takes is an error.

    Of a T5 sentinels stand for any number of words each (<extra_id_0>, <extra_id_1>, ...), which
    are guessed together; a BART writes the whole text anew.

    \b
    Example: lmmodel fill-mask runs/wiki "The capital of France is [MASK]."
    Example: lmmodel fill-mask runs/t5 "The <extra_id_0> of France is <extra_id_1>."
    Example: lmmodel fill-mask runs/wiki --held-out tokens/ --num-texts 8
    Example: lmmodel fill-mask runs/wiki --file prompts.txt --top-k 3 --json
    """
    from lmmodel.predicting.given import PLAIN
    from lmmodel.predicting.mask_filling import fill_mask as fill
    from lmmodel.predicting.written import restores
    from lmmodel.routing.folder import is_experts
    from lmmodel.trained import load_run

    if held_out is not None:
        if texts or file or output:
            raise click.UsageError("--held-out brings its own sentences: it takes no texts")
        return _fill_held_out(run, held_out, num_texts or 10, top_k, device or "auto", as_json)
    if num_texts is not None:
        raise click.UsageError("--num-texts is for --held-out")
    with writing_answers(output, overwrite=overwrite) as partial:
        given = read_given(texts, file, PLAIN, **layout)
        if restores(run):
            restored = restore(run, given.texts, device or "auto", top_k)
            write_answers(partial, output, given, restored.columns)
            return echo_answers(
                given, restored.values, restored.lines, output=output, as_json=as_json
            )
        if is_experts(run):
            filled = open_experts(run, device).fill_mask(given.texts, top_k=top_k)
        else:
            filled = fill(load_run(run, device=device or "auto"), given.texts, top_k=top_k)
        write_answers(partial, output, given, filling_columns(filled))
    records = [
        {"text": text, "masks": json_values(places)}
        for text, places in zip(given.texts, filled, strict=True)
    ]
    lines = filling_lines(given.texts, filled)
    return echo_answers(given, records, lines, output=output, as_json=as_json)


def _fill_held_out(
    run: Path, store: Path, num_texts: int, top_k: int, device: str, as_json: bool
) -> None:
    from lmmodel.predicting.mask_filling import RULE, fill_held_out
    from lmmodel.trained import load_run

    found = fill_held_out(load_run(run, device=device), store, num_texts=num_texts, top_k=top_k)
    lines = [f"sentences by a rule: {RULE}", ""]
    for one in found.chosen:
        lines.append(" ".join(part for part in (one.before, f"[{one.word}]", one.behind) if part))
        lines += [f"  {guess.probability:7.2%}  {guess.word}{'  <- right' * guess.is_right}"
                  for guess in one.guesses]  # fmt: skip
    num_right = sum(one.is_right for one in found.chosen)
    num_near = sum(any(guess.is_right for guess in one.guesses) for one in found.chosen)
    lines += [
        "", f"the first guess is right in {num_right} of {len(found.chosen)}, one of the first "
        f"{top_k} in {num_near}; of all {found.num_words:,} words that the rule chooses among: "
        f"{found.num_right / found.num_words:.0%} and {found.num_near / found.num_words:.0%}",
    ]  # fmt: skip
    result = {"rule": RULE, "num_right": num_right, "sentences": json_values(found.chosen),
              "all_words": {"num_words": found.num_words, "num_right": found.num_right,
                            "num_near": found.num_near}}  # fmt: skip
    echo_result(result, as_json=as_json, quiet=False, lines=lines)


@click.command()
@click.argument("run", type=FOLDER)
@text_options
@click.option("--no-normalize", is_flag=True, help="Leave vectors as long as they are.")
@device_option
@result_options
def embed(
    run: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    no_normalize: bool, device: str | None, as_json: bool, quiet: bool, **layout: Any,
) -> None:  # fmt: skip
    """One vector a text: the mean of the last layer over its tokens, of length 1.

    The special tokens around a text count too. Texts longer than the model takes are read in
    windows side by side and the mean is over all of them; how many is in the result. Without
    --output the vectors are printed, one a line. An --output that ends with .npy has the vectors
    alone.

    \b
    Example: lmmodel embed runs/wiki --file reviews.csv --output reviews.parquet
    Example: lmmodel embed runs/wiki "A cat sleeps." "A dog barks." --json
    """
    import numpy as np

    from lmmodel.predicting.given import PLAIN, TABLE_SUFFIXES
    from lmmodel.predicting.likelihood import embed as embed_texts
    from lmmodel.routing.folder import is_experts
    from lmmodel.trained import load_run

    suffixes = (".npy", *TABLE_SUFFIXES)
    with writing_answers(output, overwrite=overwrite, suffixes=suffixes) as partial:
        given = read_given(texts, file, PLAIN, **layout)
        with ProgressLine("embedding", unit="texts", quiet=quiet or as_json) as line:
            if is_experts(run):
                team = open_experts(run, device)
                found = team.embed(given.texts, normalize=not no_normalize)
            else:
                model = load_run(run, device=device or "auto")
                found = embed_texts(
                    model, given.texts, normalize=not no_normalize, progress=line.update
                )
        if partial is not None and output is not None and output.suffix == ".npy":
            with partial.open("wb") as array:
                np.save(array, found.vectors)
        else:
            write_answers(partial, output, given, [{"vector": v} for v in found.vectors])
    counts = {**given.counts, **({WINDOWED: found.num_windowed} if found.num_windowed else {})}
    result = {**_embedding_result(given, found, output), "counts": counts}
    lines = [*_embedding_lines(found, output), *count_lines(counts)]
    echo_result(result, as_json=as_json, quiet=quiet, lines=lines)


def _embedding_result(given: Given, found: TextVectors, output: Path | None) -> dict[str, Any]:
    num_texts, size = found.vectors.shape
    if output is not None:
        return {"output": str(output), "num_texts": num_texts, "size": size}
    vectors = found.vectors.tolist()
    return {
        "texts": [
            {"text": text, "vector": own} for text, own in zip(given.texts, vectors, strict=True)
        ]
    }


def _embedding_lines(found: TextVectors, output: Path | None) -> list[str]:
    num_texts, size = found.vectors.shape
    if output is not None:
        return [f"{output}  {counted(num_texts, 'vector')} of {size}"]
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
@click.option("--beams", "num_beams", type=int, help="Of encoder-decoders: hypotheses to follow.")
@click.option("--outputs", "num_outputs", type=int, help="Of them, how many to tell.  [default: 1]")
@seed_option
@device_option
@set_option
@json_option
def generate(
    run: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    device: str | None, as_json: bool, text: str | None, delimiter: str | None,
    encoding: str | None, has_header: bool | None, errors: str | None,
    overrides: tuple[str, ...], **settings: Any,
) -> None:  # fmt: skip
    """Go on with texts, up to the token that ends one; or write what a model learned to write.

    A causal or n-gram model goes on; a text must be shorter than it takes, and where it is full,
    the text stops and says so. An encoder-decoder, such as a translator, writes about each text,
    without draws unless --temperature is given (--set length_penalty=1, early_stopping,
    no_repeat_ngram_size, min_new_tokens).

    \b
    Example: lmmodel generate runs/gpt "The river flows into"
    Example: lmmodel generate runs/gpt "Once" --temperature 0.8 --top-p 0.95 --seed 7
    Example: lmmodel generate runs/t5-de --beams 4 < sentences.txt
    """
    from lmmodel.predicting.generation import GenerationConfig
    from lmmodel.predicting.given import PLAIN
    from lmmodel.predicting.written import is_writer
    from lmmodel.writing import WritingConfig

    kind: type[WritingConfig | GenerationConfig]
    kind = WritingConfig if is_writer(run) else GenerationConfig
    config = resolve(kind, None, overrides, **settings)
    with writing_answers(output, overwrite=overwrite) as partial:
        given = read_given(
            texts, file, PLAIN, text=text, delimiter=delimiter, encoding=encoding,
            has_header=has_header, errors=errors,
        )  # fmt: skip
        asked = run, given.texts, device or "auto"
        if isinstance(config, WritingConfig):
            found = write(*asked, config, quiet=as_json)
        else:
            found = go_on(*asked, config, quiet=as_json)
        write_answers(partial, output, given, found.columns)
    echo_answers(given, found.values, found.lines, output=output, as_json=as_json)


# What they print, and the columns of a table of answers.


def filling_lines(
    prompts: Sequence[str], filled: Sequence[Sequence[Sequence[Filling]]]
) -> list[str]:
    """Return the guesses for each masked place of each prompt."""
    lines = []
    for prompt, places in zip(prompts, filled, strict=True):
        lines.append(prompt)
        for number, guesses in enumerate(places):
            if len(places) > 1:
                lines.append(f"  mask {number + 1}")
            lines += [f"  {guess.probability:7.2%}  {guess.piece}" for guess in guesses]
    return lines


def filling_columns(filled: Sequence[Sequence[Sequence[Filling]]]) -> list[dict[str, Any]]:
    """Return the text with the best guesses of its first mask, and the guesses for every mask."""
    return [
        {"filled": places[0][0].text, "guesses": [[one.piece for one in own] for own in places]}
        for places in filled
    ]


VERBS = (fill_mask, embed, generate)
