"""What a fine-tuned model answers: `classify`, `tag`, `answer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmdata.config import json_values

from .experts import open_experts
from .inputs import (
    TEXT,
    Given,
    check_is_text,
    echo_answers,
    is_given_table,
    read_given,
    split_at_tab,
    text_options,
    write_answers,
    writing_answers,
)
from .options import FOLDER, NAME, device_option, json_option
from .summaries import aligned, figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmmodel.finetuning.folder import FineTuned
    from lmmodel.tasks.answering import SpanAnswer
    from lmmodel.tasks.classification import Classification
    from lmmodel.tasks.tagging import Tagging

PAIR_FIELD = "Column of a table with the second text or the passage."


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--pair", "second", type=TEXT, help="The second text, for a model of pairs.")
@click.option("--pair-field", "pair", help=PAIR_FIELD)
@device_option
@json_option
def classify(
    model: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    second: str | None, device: str | None, as_json: bool, **layout: Any,
) -> None:  # fmt: skip
    """The class of texts, or the number, by a model that was fine-tuned to tell.

    For a model of pairs each line of --file has both texts, a tab between them, or it is a table.
    Texts longer than the model was fine-tuned with are cut; how many is in the result.

    \b
    Example: lmmodel classify runs/wiki-sequence-classification "What a film!"
    Example: lmmodel classify entailment/ --file pairs.csv --output told.csv
    """
    from lmmodel.predicting.answering import classify as classify_texts
    from lmmodel.routing.folder import is_experts

    if second is not None and (len(texts) != 1 or file is not None):
        raise click.UsageError("--pair goes with one text; a --file has both, a tab between them")
    if second is not None:
        check_is_text(second, "--pair takes a text; --file reads pairs, a tab between them")
    with writing_answers(output, overwrite=overwrite) as partial:
        team = open_experts(model, device) if is_experts(model) else None
        single = model if team is None else Path(team.record.parent.run)
        tuned, given = open_and_read(single, texts, file, "classify", device, layout)
        firsts, seconds = given.texts, given.seconds if second is None else [second]
        if seconds is None and given.rows is None and tuned.record.has_pairs:
            firsts, seconds = split_at_tab(given.texts)
        if team is None:
            found = classify_texts(tuned, firsts, seconds)
        else:
            found = team.classify(firsts, seconds)
        write_answers(partial, output, given, classification_columns(found.answers))
    lines = classification_lines(found.answers)
    records = json_values(found.answers)
    echo_answers(given, records, lines, found.counts, output=output, as_json=as_json)


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--split-at-spaces", is_flag=True, help="Leave punctuation with the word before it.")
@device_option
@json_option
def tag(
    model: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    split_at_spaces: bool, device: str | None, as_json: bool, **layout: Any,
) -> None:  # fmt: skip
    """Tag the words of texts, by a model that was fine-tuned to.

    Texts are split at white space and around punctuation; a number such as 3.50 stays one word, an
    abbreviation such as U.S.A. and an emoji too. A table may have lists of words instead. Long
    texts are read in windows that overlap; how many is in the result.

    \b
    Example: lmmodel tag tagger/ "The old king finds a stone."
    Example: lmmodel tag tagger/ --file sentences.txt --split-at-spaces --json
    """
    from lmmodel.predicting.answering import tag as tag_texts

    with writing_answers(output, overwrite=overwrite) as partial:
        tuned, given = open_and_read(model, texts, file, "tag", device, layout)
        wanted = [
            text.split() if split_at_spaces and isinstance(text, str) else text
            for text in given.texts
        ]
        found = tag_texts(tuned, wanted)
        write_answers(partial, output, given, tagging_columns(found.answers))
    lines = tagging_lines(found.answers)
    records = json_values(found.answers)
    echo_answers(given, records, lines, found.counts, output=output, as_json=as_json)


@click.command()
@click.argument("model", type=FOLDER)
@text_options
@click.option("--passage", type=TEXT, help="The text that all questions are about.")
@click.option("--passage-file", type=NAME, metavar="FILE", help="The same, in a file.")
@click.option("--pair-field", "pair", help=PAIR_FIELD)
@device_option
@json_option
def answer(
    model: Path, texts: tuple[str, ...], file: str | None, output: Path | None, overwrite: bool,
    passage: str | None, passage_file: str | None, device: str | None, as_json: bool, **layout: Any,
) -> None:  # fmt: skip
    """Find the answers to questions in a passage, by a model that was fine-tuned to.

    Without a passage each line of --file has a question and its passage, a tab between them, or it
    is a table with columns for both. Long passages are read in windows that overlap; how many is in
    the result.

    \b
    Example: lmmodel answer runs/wiki-question-answering "Who wrote it?" --passage-file page.txt
    Example: lmmodel answer runs/wiki-question-answering --file questions.jsonl --json
    """
    from lmmodel.predicting.answering import answer as answer_questions
    from lmmodel.tasks.tables import read_text

    if passage is not None and passage_file is not None:
        raise click.UsageError("give --passage or --passage-file, not both")
    if passage is not None:
        check_is_text(passage, f"--passage-file {passage} reads it")
    if passage_file is not None:
        passage = read_text(Path(passage_file), keeps_line_ends=True)  # for the places of answers
    with writing_answers(output, overwrite=overwrite) as partial:
        num_texts = None if passage is None else 1
        tuned, given = open_and_read(model, texts, file, "answer", device, layout, num_texts)
        questions, passages = given.texts, given.seconds if passage is None else [passage]
        if passages is None:
            questions, passages = split_at_tab(given.texts)
        found = answer_questions(tuned, questions, passages)
        write_answers(partial, output, given, answer_columns(found.answers))
    lines = answer_lines(found.answers)
    records = json_values(found.answers)
    echo_answers(given, records, lines, found.counts, output=output, as_json=as_json)


def open_and_read(
    model: Path,
    texts: tuple[str, ...],
    file: str | None,
    verb: str,
    device: str | None,
    layout: Mapping[str, Any],
    num_texts: int | None = None,
) -> tuple[FineTuned, Given]:
    """Return a fine-tuned model and the texts given, a table read by the model's own columns.

    Args:
        model: folder
        texts: arguments
        file: name of a file
        verb: what the model is asked
        device: where it computes
        layout: how a table is read
        num_texts: texts of a row; None: what the model was fine-tuned on
    """
    from lmmodel.finetuning.folder import load_fine_tuned, read_fine_tuned_record
    from lmmodel.predicting.answering import check_verb
    from lmmodel.predicting.given import PLAIN, usual_of
    from lmmodel.tasks.known import find_task

    given = None if is_given_table(file) else read_given(texts, file, PLAIN, **layout)
    record = read_fine_tuned_record(model)
    check_verb(model, find_task(record.task), verb)
    if given is None:
        given = read_given(texts, file, usual_of(record, num_texts), record, **layout)
    return load_fine_tuned(model, device or "auto"), given


# What they print, and the columns of a table of answers.


def classification_lines(answers: Sequence[Classification]) -> list[str]:
    """Return a line a text: class, probability, text; or the number and the text."""
    rows: list[tuple[str, ...]] = []
    for one in answers:
        shown = one.text if one.pair is None else f"{one.text} | {one.pair}"
        if one.labels is not None:
            told = ", ".join(f"{n} {one.probabilities[n]:.2%}" for n in one.labels)
            rows.append((told or "(none)", shown))
        elif one.label is None:
            rows.append(("" if one.value is None else figure(one.value), shown))
        else:
            rows.append((one.label, f"{one.probabilities[one.label]:.2%}", shown))
    return aligned(rows)


def tagging_lines(answers: Sequence[Tagging]) -> list[str]:
    """Return a line a word: word, tag, probability; a blank line between texts."""
    lines: list[str] = []
    for one in answers:
        columns = zip(one.words, one.tags, one.probabilities, strict=True)
        rows = [(word, tag or "-", f"{probability:.2%}") for word, tag, probability in columns]
        lines += [*([""] if lines else []), *aligned(rows)]
    return lines


def answer_lines(answers: Sequence[SpanAnswer]) -> list[str]:
    """Return each question, its answer and where in the passage it stands."""
    return [
        line
        for one in answers
        for line in (
            one.question,
            f"  {one.answer or '(no answer)'}  [{one.probability:.2%}, characters {one.start} to "
            f"{one.end}]",
        )
    ]


def classification_columns(answers: Sequence[Classification]) -> list[dict[str, Any]]:
    """Return the class of each text and its probability; all classes where there are several."""
    rows: list[dict[str, Any]] = []
    for one in answers:
        if one.label is None:
            rows.append({"value": one.value})
        elif one.labels is not None:
            rows.append({"labels": list(one.labels), "probabilities": one.probabilities})
        else:
            rows.append({"label": one.label, "probability": one.probabilities[one.label]})
    return rows


def tagging_columns(answers: Sequence[Tagging]) -> list[dict[str, Any]]:
    """Return the words of each text with their tags and the probabilities of these."""
    return [
        {"words": one.words, "tags": one.tags, "probabilities": one.probabilities}
        for one in answers
    ]


def answer_columns(answers: Sequence[SpanAnswer]) -> list[dict[str, Any]]:
    """Return each answer, where in the passage it stands, and its probability."""
    return [
        {"answer": one.answer, "start": one.start, "end": one.end, "probability": one.probability}
        for one in answers
    ]


VERBS = (classify, tag, answer)
