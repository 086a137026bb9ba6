"""Embeddings and completions as OpenAI's clients ask for them."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np

from lmmodel.errors import FitError
from lmmodel.predicting.generation import Generation
from lmmodel.predicting.likelihood import TextVectors
from lmmodel.serving.endpoints import (
    CHOICE,
    MODEL,
    MOST_NEW_TOKENS,
    MOST_TEXTS,
    SAMPLING,
    STRINGS,
    TEXT,
    USAGE,
    VECTOR,
    WHOLE,
    Asked,
    Endpoint,
    Streaming,
    Values,
    list_of,
    listed,
    object_of,
    sampling_config,
)
from lmmodel.serving.fields import AnyOf, Field, Flag, Many, Nothing, OneOf, String, Whole
from lmmodel.serving.questions import Embed, Generate


def _openai_embeddings(values: Values) -> Asked:
    texts = values["input"]
    if isinstance(texts, list) and isinstance(texts[0], int):
        texts = [texts]

    def tell(found: TextVectors, model: str, num_tokens: int) -> Any:
        vectors = shortened(found.vectors, values["dimensions"])
        is_base64 = values["encoding_format"] == "base64"
        data = [
            {"object": "embedding", "index": index,
             "embedding": base64.b64encode(vector.astype("<f4").tobytes()).decode()
             if is_base64 else vector}
            for index, vector in enumerate(vectors)
        ]  # fmt: skip
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        return {"object": "list", "data": data, "model": model, "usage": usage}

    return Asked(question=Embed(texts=listed(texts)), tell=tell)


def shortened(vectors: np.ndarray, num: int | None) -> np.ndarray:
    """Return the first dimensions of vectors, of length 1 again: float32 (N, num).

    Raises:
        FitError: there are not so many

    Example:
        >>> shortened(np.array([[0.6, 0.8]], np.float32), 1).tolist()
        [[1.0]]
    """
    size = vectors.shape[1]
    if num is None or num == size:
        return vectors
    if num > size:
        raise FitError(f"dimensions must be at most {size}, those of the model, got {num}")
    exact = vectors[:, :num].astype(np.float64)
    exact /= np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
    return exact.astype(np.float32)


def _completions(values: Values) -> Asked:
    stops = tuple(listed(values["stop"])) if values["stop"] is not None else ()
    top_p = None if values["top_p"] == 1 or values["temperature"] == 0 else values["top_p"]
    config = sampling_config(
        max_new_tokens=values["max_tokens"], temperature=values["temperature"], top_p=top_p,
        seed=values["seed"],
    )  # fmt: skip
    prompts = listed(values["prompt"])
    number, created, echo = f"cmpl-{uuid.uuid4().hex}", int(time.time()), values["echo"]

    def head(model: str) -> dict[str, Any]:
        return {
            "id": number,
            "object": "text_completion",
            "created": created,
            "model": model,
        }

    def choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def tell(found: list[Generation], model: str, num_tokens: int) -> Any:
        choices, num_new = [], 0
        for index, own in enumerate(found):
            text, is_cut = cut_at(own.continuation, stops)
            num_new += len(own.ids)
            reason = "stop" if is_cut or own.stopped_by == "end of text" else "length"
            choices.append(choice(index, prompts[index] * echo + text, reason))
        usage = {"prompt_tokens": num_tokens, "completion_tokens": num_new,
                 "total_tokens": num_tokens + num_new}  # fmt: skip
        return {**head(model), "choices": choices, "usage": usage}

    def last(index: int, text: str, found: Generation | None) -> Any:
        is_stop = found is None or found.stopped_by == "end of text"
        reason = "stop" if is_stop else "length"
        return {**head(values["model"]), "choices": [choice(index, "", reason)]}

    streaming = Streaming(
        stops=stops, last=last, ends_with_done=True,
        piece=lambda index, text: {
            **head(values["model"]), "choices": [choice(index, text, None)]
        },
    )  # fmt: skip
    return Asked(
        question=Generate(prompts=prompts, config=config), tell=tell,
        streaming=streaming if values["stream"] else None,
    )  # fmt: skip


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return a text up to the first stop in it, and whether there is one.

    Example:
        >>> cut_at("one. two; three", (";", "."))
        ('one', True)
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


OPENAI: tuple[Endpoint, ...] = (
    Endpoint(
        path="/v1/embeddings", about="Vectors of texts, as OpenAI's.", kind=Embed,
        ask=_openai_embeddings,
        fields={
            "model": MODEL,
            "input": Field(
                AnyOf((String(), Many(String(), MOST_TEXTS), Many(Whole(0, 2**31 - 1), 100_000),
                       Many(Many(Whole(0, 2**31 - 1), 100_000), MOST_TEXTS))),
                "A text, a list of texts, ids of the model's tokenizer, or a list of such lists.",
                is_needed=True,
            ),
            "encoding_format": Field(
                OneOf(("float", "base64")), "How vectors are written.", default="float"
            ),
            "dimensions": Field(Whole(1, 65_536), "Only the first ones, of length 1 again."),
            "user": Field(String(least=0, most=1000), "Taken for OpenAI's clients, and not used."),
        },
        answer=object_of(
            object=TEXT, model=TEXT, usage=USAGE,
            data=list_of(object_of(object=TEXT, index=WHOLE, embedding=VECTOR)),
        ),
    ),
    Endpoint(
        path="/v1/completions", about="Continuations of prompts, as OpenAI's.", kind=Generate,
        ask=_completions,
        fields={
            "model": MODEL,
            "prompt": Field(STRINGS, "A text, or a list of texts.", is_needed=True),
            "max_tokens": Field(Whole(1, MOST_NEW_TOKENS), "Tokens to add at most.", default=16),
            **SAMPLING,
            "stop": Field(
                AnyOf((String(most=100), Many(String(most=100), 4))),
                "Texts that end a continuation.",
            ),
            "echo": Field(Flag(), "Whether the prompt stands before the text.", default=False),
            "n": Field(Whole(1, 1), "Continuations of each prompt.", default=1),
            "user": Field(String(least=0, most=1000), "Taken for OpenAI's clients, and not used."),
            "suffix": Field(Nothing(), "Not known here."),
            "logprobs": Field(Nothing(), "Not known here."),
            "logit_bias": Field(Nothing(), "Not known here."),
        },
        answer=object_of(id=TEXT, object=TEXT, created=WHOLE, model=TEXT,
                       choices=list_of(CHOICE)),
    ),
)  # fmt: skip
