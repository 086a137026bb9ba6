"""Models that know nothing, to be served together; questions of every kind to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.predicting.generation import GenerationConfig
from lmmodel.serving.questions import Embed, FillMask, Generate, Model, Score
from lmmodel.serving.task_questions import Answer, Classify, Tag
from lmmodel.trained import Run
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

WORDS = ("the", "old", "king", "finds", "a", "stone", "every", "day", "green", "apples", "river.")


def make_models(make_run: Callable[..., Run], folder: Path) -> dict[str, Model]:
    """Return one model of each kind; their sizes are no multiple of a vector's."""
    wiki = make_run()
    tasks: dict[str, tuple[str, ...]] = {
        "sequence-classification": ("bad", "good", "so-so"),
        "token-classification": ("NOUN", "VERB"),
        "question-answering": (),
    }
    tuned = {
        task: load_fine_tuned(write_fine_tuned(folder / task, task, wiki.tokenizer, labels), "cpu")
        for task, labels in tasks.items()
    }
    return {
        "wiki": wiki,
        "modern": make_run("model.family=modern", "model.intermediate_size=44"),
        "gpt": make_run("model.family=gpt2", "objective.name=clm"),
        "odd": make_run("model.hidden_size=42", "model.intermediate_size=77"),
        **tuned,
    }


texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join)
some = st.lists(texts, min_size=1, max_size=4)
masked = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(
    lambda words: " ".join([*words, "[MASK]"])
)
short = st.lists(st.sampled_from(WORDS[:5]), min_size=1, max_size=6).map(" ".join)

QUESTIONS: dict[str, st.SearchStrategy[tuple[str, Any]]] = {
    "embed": st.tuples(
        st.sampled_from(["wiki", "modern", "gpt", "odd"]),
        st.builds(Embed, texts=some, normalize=st.booleans()),
    ),
    "fill-mask": st.tuples(
        st.sampled_from(["wiki", "modern", "odd"]),
        st.builds(FillMask, texts=st.lists(masked, min_size=1, max_size=3)),
    ),
    "score": st.tuples(
        st.sampled_from(["wiki", "gpt", "odd"]),
        st.builds(Score, texts=st.lists(short, min_size=1, max_size=3)),
    ),
    "classify": st.tuples(
        st.just("sequence-classification"), st.builds(Classify, texts=some, truncate=st.just(True))
    ),
    "tag": st.tuples(st.just("token-classification"), st.builds(Tag, texts=some)),
    "answer": st.tuples(
        st.just("question-answering"),
        st.builds(
            Answer, questions=st.lists(short, min_size=1, max_size=2),
            passages=st.lists(texts, min_size=1, max_size=1),
        ),
    ),
    "generate": st.tuples(
        st.just("gpt"),
        st.builds(
            Generate, prompts=st.lists(short, min_size=1, max_size=2),
            config=st.builds(GenerationConfig, max_new_tokens=st.just(3), seed=st.integers(0, 3)),
        ),
    ),
}  # fmt: skip
