"""What is asked at each address: fields of a request, the question that they make, the answer told.

One declaration of each checks requests, is described in OpenAPI's words, and is served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmmodel.predicting.answering import Answered
from lmmodel.predicting.generation import Generation, GenerationConfig
from lmmodel.predicting.likelihood import Likelihoods, TextVectors
from lmmodel.predicting.mask_filling import Filling
from lmmodel.serving.fields import (
    AnyOf,
    Field,
    Fields,
    Flag,
    InvalidError,
    Many,
    Number,
    String,
    Whole,
)
from lmmodel.serving.questions import AnyQuestion, Embed, FillMask, Generate, Score
from lmmodel.serving.task_questions import Answer, Classify, Tag

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

MODEL = Field(String(most=200), "Name of a model; may be left out where only one can do this.")
TEXTS = Field(
    AnyOf((String(), Many(String(), MOST_TEXTS))), "A text, or a list of texts.", is_needed=True
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
STRINGS = AnyOf((String(), Many(String(), MOST_PROMPTS)))
ANSWERS = object_of(model=TEXT, texts=list_of({"type": "object"}), counts=COUNTS, num_tokens=WHOLE)
CHOICE = object_of(index=WHOLE, text=TEXT, finish_reason={"type": ["string", "null"]})


# ---- The addresses


def _embed(values: Values) -> Asked:
    question = Embed(texts=listed(values["texts"]), normalize=values["normalize"])

    def tell(found: TextVectors, model: str, num_tokens: int) -> Any:
        return {"model": model, "vectors": found.vectors, "num_tokens": num_tokens,
                "num_windowed": found.num_windowed}  # fmt: skip

    return Asked(question=question, tell=tell)


def _similarity(values: Values) -> Asked:
    texts, others = listed(values["texts"]), values["others"]
    seconds = [] if others is None else listed(others)

    def tell(found: TextVectors, model: str, num_tokens: int) -> Any:
        left = found.vectors[: len(texts)]
        right = left if others is None else found.vectors[len(texts) :]
        return {"model": model, "similarities": cosines(left, right), "num_tokens": num_tokens}

    return Asked(question=Embed(texts=[*texts, *seconds]), tell=tell)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the product of each pair of vectors: float32 (N, M), each summed by itself.

    Args:
        left: float32 (N, D) of length 1
        right: float32 (M, D) of length 1

    Example:
        >>> cosines(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    # Not one matrix product: its sums would depend on how many vectors there are.
    rows = [(right * row).astype(np.float64).sum(axis=1) for row in left]
    return np.array(rows, np.float32).reshape(len(left), len(right))


def _fill_mask(values: Values) -> Asked:
    texts = listed(values["texts"])

    def tell(found: list[list[list[Filling]]], model: str, num_tokens: int) -> Any:
        answers = [{"text": t, "masks": own} for t, own in zip(texts, found, strict=True)]
        return {"model": model, "texts": answers, "num_tokens": num_tokens}

    return Asked(question=FillMask(texts=texts, top_k=values["top_k"]), tell=tell)


def _score(values: Values) -> Asked:
    texts = listed(values["texts"])

    def tell(found: Likelihoods, model: str, num_tokens: int) -> Any:
        columns = zip(texts, found.total, found.num_tokens, found.per_token, found.per_byte,
                      strict=True)  # fmt: skip
        answers = [
            {"text": text, "log_likelihood": float(total), "num_tokens": int(count),
             "per_token": None if math.isnan(per_token) else float(per_token),
             "per_byte": float(per_byte)}
            for text, total, count, per_token, per_byte in columns
        ]  # fmt: skip
        return {"model": model, "texts": answers, "num_windowed": found.num_windowed,
                "num_tokens": num_tokens}  # fmt: skip

    return Asked(question=Score(texts=texts), tell=tell)


def _classify(values: Values) -> Asked:
    pairs = None if values["pairs"] is None else listed(values["pairs"])
    question = Classify(texts=listed(values["texts"]), pairs=pairs, truncate=values["truncate"])
    return Asked(question=question, tell=_tell_answers)


def _tag(values: Values) -> Asked:
    texts = values["texts"]
    is_words = isinstance(texts, list) and isinstance(texts[0], list)
    question = Tag(texts=texts if is_words else listed(texts), truncate=values["truncate"])
    return Asked(question=question, tell=_tell_answers)


def _answer(values: Values) -> Asked:
    question = Answer(
        questions=listed(values["questions"]), passages=listed(values["passages"]),
        truncate=values["truncate"],
    )  # fmt: skip
    return Asked(question=question, tell=_tell_answers)


def _tell_answers(found: Answered[Any], model: str, num_tokens: int) -> Any:
    return {"model": model, "texts": found.answers, "counts": dict(found.counts),
            "num_tokens": num_tokens}  # fmt: skip


def _generate(values: Values) -> Asked:
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
    config = sampling_config(**{name: values[name] for name in names})

    def tell(found: list[Generation], model: str, num_tokens: int) -> Any:
        return {"model": model, "texts": found, "num_tokens": num_tokens}

    streaming = Streaming(
        piece=lambda index, text: {"index": index, "text": text},
        last=lambda index, text, found: {"index": index, "text": "", "done": found},
    )
    question = Generate(prompts=listed(values["prompts"]), config=config)
    return Asked(question=question, tell=tell, streaming=streaming if values["stream"] else None)


OWN: tuple[Endpoint, ...] = (
    Endpoint(
        path="/embed", about="A vector of each text.", kind=Embed, ask=_embed,
        fields={
            "model": MODEL, "texts": TEXTS,
            "normalize": Field(Flag(), "Whether vectors get length 1.", default=True),
        },
        answer=object_of(model=TEXT, vectors=list_of(list_of(NUMBER)), num_tokens=WHOLE,
                       num_windowed=WHOLE),
    ),
    Endpoint(
        path="/similarity", about="The cosine of each text with each other.", kind=Embed,
        ask=_similarity,
        fields={
            "model": MODEL,
            "texts": Field(
                AnyOf((String(), Many(String(), 256))), "One or several.", is_needed=True
            ),
            "others": Field(
                AnyOf((String(), Many(String(), 256))), "Texts to compare with; else the texts."
            ),
        },
        answer=object_of(model=TEXT, similarities=list_of(list_of(NUMBER)), num_tokens=WHOLE),
    ),
    Endpoint(
        path="/fill-mask", about="Guesses for each masked place.", kind=FillMask, ask=_fill_mask,
        fields={
            "model": MODEL,
            "texts": Field(
                AnyOf((String(), Many(String(), 256))), "Each with a mask token.", is_needed=True
            ),
            "top_k": Field(Whole(1, 100), "Guesses for each place.", default=5),
        },
        answer=object_of(
            model=TEXT, num_tokens=WHOLE,
            texts=list_of(object_of(text=TEXT, masks=list_of(list_of(
                object_of(piece=TEXT, id=WHOLE, probability=NUMBER, text=TEXT)
            )))),
        ),
    ),
    Endpoint(
        path="/score", about="How likely a model finds texts, in nats.", kind=Score, ask=_score,
        fields={"model": MODEL, "texts": TEXTS},
        answer=object_of(
            model=TEXT, num_windowed=WHOLE, num_tokens=WHOLE,
            texts=list_of(object_of(text=TEXT, log_likelihood=NUMBER, num_tokens=WHOLE,
                                per_token=MAYBE, per_byte=NUMBER)),
        ),
    ),
    Endpoint(
        path="/generate", about="Continuations of prompts.", kind=Generate, ask=_generate,
        fields={
            "model": MODEL,
            "prompts": Field(STRINGS, "A text, or a list of texts.", is_needed=True),
            "max_new_tokens": Field(
                Whole(1, MOST_NEW_TOKENS), "Tokens to add at most.", default=64
            ),
            "top_k": Field(Whole(1, 2**31 - 1), "Draw from so many of the likeliest."),
            **SAMPLING,
        },
        answer=object_of(model=TEXT, num_tokens=WHOLE, texts=list_of(object_of(
            prompt=TEXT, text=TEXT, continuation=TEXT, ids=list_of(WHOLE), stopped_by=TEXT
        ))),
    ),
    Endpoint(
        path="/classify", about="The class of texts, or the number.", kind=Classify, ask=_classify,
        fields={
            "model": MODEL, "texts": TEXTS,
            "pairs": Field(
                AnyOf((String(), Many(String(), MOST_TEXTS))),
                "Of a model of pairs: the second texts.",
            ),
            "truncate": TRUNCATE,
        },
        answer=ANSWERS,
    ),
    Endpoint(
        path="/tag", about="A tag for each word.", kind=Tag, ask=_tag,
        fields={
            "model": MODEL,
            "texts": Field(
                AnyOf((String(), Many(String(), MOST_TEXTS),
                       Many(Many(String(most=1000), MOST_WORDS), MOST_TEXTS))),
                "Texts, or lists of their words.", is_needed=True,
            ),
            "truncate": TRUNCATE,
        },
        answer=ANSWERS,
    ),
    Endpoint(
        path="/answer", about="Where passages answer questions.", kind=Answer, ask=_answer,
        fields={
            "model": MODEL,
            "questions": Field(TEXTS.shape, "A question, or a list.", is_needed=True),
            "passages": Field(
                TEXTS.shape, "A passage each, or one for all questions.", is_needed=True
            ),
            "truncate": TRUNCATE,
        },
        answer=ANSWERS,
    ),
)  # fmt: skip
