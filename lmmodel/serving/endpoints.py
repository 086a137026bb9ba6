"""Our own addresses, one for each verb of the command line, and the list of all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lmmodel.predicting.answering import Answered
from lmmodel.predicting.embedding import Embeddings
from lmmodel.predicting.generation import Generation
from lmmodel.predicting.likelihood import Likelihoods
from lmmodel.predicting.mask_filling import Filling
from lmmodel.serving.as_openai import OPENAI
from lmmodel.serving.endpoint import (
    ANSWERS,
    MAYBE,
    MODEL,
    MOST_NEW_TOKENS,
    MOST_TEXTS,
    MOST_WORDS,
    NUMBER,
    SAMPLING,
    STRINGS,
    TEXT,
    TEXTS,
    TRUNCATE,
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
from lmmodel.serving.fields import AnyOf, Field, Flag, Many, Text, Whole
from lmmodel.serving.questions import Embed, FillMask, Generate, Score
from lmmodel.serving.task_questions import Answer, Classify, Tag

# ---- Endpoints


def _embed(values: Values) -> Asked:
    question = Embed(texts=listed(values["texts"]), normalize=values["normalize"])

    def tell(found: Embeddings, model: str, num_tokens: int) -> Any:
        return {"model": model, "vectors": found.vectors, "num_tokens": num_tokens,
                "num_windowed": found.num_windowed}  # fmt: skip

    return Asked(question=question, tell=tell)


def _similarity(values: Values) -> Asked:
    texts, others = listed(values["texts"]), values["others"]
    seconds = [] if others is None else listed(others)

    def tell(found: Embeddings, model: str, num_tokens: int) -> Any:
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


ENDPOINTS: tuple[Endpoint, ...] = (
    *OPENAI,
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
            "texts": Field(AnyOf((Text(), Many(Text(), 256))), "One or several.", is_needed=True),
            "others": Field(
                AnyOf((Text(), Many(Text(), 256))), "Texts to compare with; else the texts."
            ),
        },
        answer=object_of(model=TEXT, similarities=list_of(list_of(NUMBER)), num_tokens=WHOLE),
    ),
    Endpoint(
        path="/fill-mask", about="Guesses for each masked place.", kind=FillMask, ask=_fill_mask,
        fields={
            "model": MODEL,
            "texts": Field(
                AnyOf((Text(), Many(Text(), 256))), "Each with a mask token.", is_needed=True
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
                AnyOf((Text(), Many(Text(), MOST_TEXTS))), "Of a model of pairs: the second texts."
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
                AnyOf((Text(), Many(Text(), MOST_TEXTS),
                       Many(Many(Text(most=1000), MOST_WORDS), MOST_TEXTS))),
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
