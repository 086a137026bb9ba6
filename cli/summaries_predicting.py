"""What the predicting verbs print: a few lines a text for people, a record a text for machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .summaries import aligned, figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lmmodel.predicting.generation import Generation
    from lmmodel.predicting.likelihood import Likelihoods
    from lmmodel.predicting.mask_filling import Filling
    from lmmodel.tasks.answering import SpanAnswer
    from lmmodel.tasks.classification import Classification
    from lmmodel.tasks.tagging import Tagging


WINDOWED = "texts longer than the model takes, read in windows"
RESCORED = "pairs close in bf16, scored again in float32"


def count_lines(counts: Mapping[str, int]) -> list[str]:
    """Return what was left out, cut or read in windows, a line each."""
    return [f"note: {what}: {count:,}" for what, count in counts.items() if count]


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


def score_records(texts: Sequence[str], found: Likelihoods) -> list[dict[str, Any]]:
    """Return the log-likelihood of each text, in nats; None a token where none was scored."""
    columns = zip(
        texts, found.total, found.num_tokens, found.per_token, found.per_byte, strict=True
    )
    return [
        {
            "text": text,
            "log_likelihood": float(total),
            "num_tokens": int(num_tokens),
            "per_token": None if math.isnan(per_token) else float(per_token),
            "per_byte": float(per_byte),
        }
        for text, total, num_tokens, per_token, per_byte in columns
    ]


def score_lines(kind: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table: nats, nats a token, nats a byte, text."""
    rows = [(kind, "a token", "a byte", "text")]
    rows += [
        (
            f"{record['log_likelihood']:.4f}",
            "" if record["per_token"] is None else f"{record['per_token']:.4f}",
            f"{record['per_byte']:.4f}",
            record["text"],
        )
        for record in records
    ]
    return aligned(rows)


def generation_lines(generations: Sequence[Generation]) -> list[str]:
    """Return each text as it went on, and why it stopped."""
    return [
        line
        for one in generations
        for line in (one.text, f"  [{len(one.ids)} tokens, stopped by: {one.stopped_by}]")
    ]


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


# Columns of a table of answers.


def filling_columns(filled: Sequence[Sequence[Sequence[Filling]]]) -> list[dict[str, Any]]:
    """Return the text with the best guesses of its first mask, and the guesses for every mask."""
    return [
        {"filled": places[0][0].text, "guesses": [[one.piece for one in own] for own in places]}
        for places in filled
    ]


def generation_columns(generations: Sequence[Generation]) -> list[dict[str, Any]]:
    """Return how each text went on, and why it stopped."""
    return [{"continuation": one.continuation, "stopped_by": one.stopped_by} for one in generations]


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
