"""What an endpoint is: fields of a request, the question that they make, the answer told.

One declaration of each checks requests, is described in OpenAPI's words, and is served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmmodel.predicting.generation import Generation, GenerationConfig
from lmmodel.serving.fields import (
    AnyOf,
    Field,
    Fields,
    Flag,
    InvalidError,
    Many,
    Number,
    Text,
    Whole,
)
from lmmodel.serving.question import AnyQuestion

MOST_TEXTS = 2048
MOST_WORDS = 10_000
MOST_PROMPTS = 16
MOST_NEW_TOKENS = 4096
SEEDS = 2**63 - 1

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a generation is told piece by piece.

    Attributes:
        stops: texts at which a continuation ends, which are not part of it
        piece: (index, text) to the event of it
        last: (index, text of the whole, generation or None where a stop came) to its last event
    """

    stops: tuple[str, ...] = ()
    piece: Callable[[int, str], Any] = field(default=lambda index, text: None)
    last: Callable[[int, str, Generation | None], Any] = field(
        default=lambda index, text, found: None
    )
    ends_with_done: bool = False  # a line that says so, as OpenAI's clients expect


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks of a model, and how the answer is told."""

    question: AnyQuestion
    tell: Callable[[Any, str, int], Any]
    """(answer, model's name, tokens of the request) to JSON."""
    streaming: Streaming | None = None  # where the client wants it piece by piece


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One address that asks a model something."""

    path: str
    about: str
    kind: type[AnyQuestion]
    fields: Fields
    ask: Callable[[Values], Asked]
    answer: Mapping[str, Any]  # JSON Schema of what is told


# ---- Fields that several have

MODEL = Field(Text(most=200), "Name of a model; may be left out where only one can do this.")
TEXTS = Field(
    AnyOf((Text(), Many(Text(), MOST_TEXTS))), "A text, or a list of texts.", is_needed=True
)
TRUNCATE = Field(
    Flag(), "Cut texts that are longer than the model was fine-tuned with.", default=False
)


def listed(value: Any) -> list[Any]:
    """Return one item as a list of it.

    Example:
        >>> listed("a"), listed(["a"])
        (['a'], ['a'])
    """
    return value if isinstance(value, list) else [value]


# ---- JSON Schema of answers

TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
MAYBE = {"type": ["number", "null"]}
COUNTS = {"type": "object", "additionalProperties": WHOLE}


def object_of(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def list_of(item: Any) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": item}


USAGE = object_of(prompt_tokens=WHOLE, total_tokens=WHOLE)
VECTOR = {"anyOf": [list_of(NUMBER), {**TEXT, "description": "base64 of float32"}]}


def sampling_config(**settings: Any) -> GenerationConfig:
    """Return how tokens are chosen; what contradicts is told by its field."""
    try:
        return GenerationConfig(**{n: v for n, v in settings.items() if v is not None})
    except ValueError as error:
        raise InvalidError(str(error), "temperature") from error


SAMPLING = {
    "temperature": Field(
        Number(0, 100), "Above 1 more surprising, below less, 0 always the likeliest.", default=1.0
    ),
    "top_p": Field(Number(0, 1, is_open=True), "Draw from the likeliest of this probability."),
    "seed": Field(Whole(0, SEEDS), "Of the draws: the same seed, the same text.", default=0),
    "stream": Field(Flag(), "Whether the text comes piece by piece.", default=False),
}
STRINGS = AnyOf((Text(), Many(Text(), MOST_PROMPTS)))
ANSWERS = object_of(model=TEXT, texts=list_of({"type": "object"}), counts=COUNTS, num_tokens=WHOLE)
CHOICE = object_of(index=WHOLE, text=TEXT, finish_reason={"type": ["string", "null"]})
