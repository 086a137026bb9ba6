"""The engine: answers together are answers alone, the queue, and who leaves it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmdata.config import json_values
from lmmodel.cores import one_thread
from lmmodel.errors import FitError, ServeError
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.inference import CPU_BATCH_TOKENS, TILE, PackedLinear
from lmmodel.model import Transformer
from lmmodel.predicting.generation import GenerationConfig, generate
from lmmodel.predicting.likelihood import embed, log_likelihoods
from lmmodel.predicting.mask_filling import fill_mask
from lmmodel.predicting.written import load_writer
from lmmodel.serving.engine import (
    BusyError,
    ClosedError,
    Engine,
    EngineConfig,
    TooLargeError,
)
from lmmodel.serving.http import Continuations
from lmmodel.serving.questions import Embed, FillMask, Generate, Model, Score, UnableError
from lmmodel.serving.server import measure_dependence, name_folders
from lmmodel.serving.task_questions import Classify, TruncatedError
from lmmodel.trained import Run
from lmmodel.writing import WritingConfig
from tests.lmmodel.fine_tuned_folders import write_fine_tuned
from tests.lmmodel.serving_models import QUESTIONS, make_models
from tests.lmmodel.tiny_tokenizers import TINY

TEXT = "the old king finds a stone"


@pytest.fixture
def models(make_untrained_run: Callable[..., Run], tmp_path: Path) -> dict[str, Model]:
    return make_models(make_untrained_run, tmp_path)


@pytest.fixture
def wiki(make_untrained_run: Callable[..., Run]) -> Run:
    return make_untrained_run()


@pytest.fixture
def gpt(make_untrained_run: Callable[..., Run]) -> Run:
    return make_untrained_run("model.family=gpt2", "objective.name=clm")


# ---- Same answer whatever the neighbours


def compute(model: Model, questions: list[Any]) -> list[Any]:
    asked = [(question, question.read(model)) for question in questions]
    return [json_values(answer) for answer in type(questions[0]).compute(model, asked)]


def check_together_is_alone(models: dict[str, Model], drawn: list[tuple[str, Any]]) -> None:
    for name in {name for name, _ in drawn}:
        questions = [question for own, question in drawn if own == name]
        together = compute(models[name], questions)
        for question, answer in zip(questions, together, strict=True):
            assert answer == compute(models[name], [question])[0]


def check_many(models: dict[str, Model], verb: str, num_examples: int) -> None:
    @settings(
        max_examples=num_examples, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(drawn=st.lists(QUESTIONS[verb], min_size=2, max_size=8))
    def check(drawn: list[tuple[str, Any]]) -> None:
        check_together_is_alone(models, drawn)

    check()


@pytest.mark.parametrize("verb", QUESTIONS)
def test_answers_together_have_the_bits_of_answers_alone(
    models: dict[str, Model], verb: str
) -> None:
    check_many(models, verb, 4)


@pytest.mark.slow
def test_10_000_requests_together_have_the_bits_of_requests_alone(
    models: dict[str, Model],
) -> None:
    for verb in QUESTIONS:
        check_many(models, verb, 290)


def test_the_largest_difference_that_neighbours_make_is_measured_as_0(
    models: dict[str, Model],
) -> None:
    assert [measure_dependence(model) for model in models.values()] == [0.0] * len(models)


def test_measuring_leaves_the_threads_of_torch_as_they_are() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
        torch.set_num_threads(1)
    assert torch.get_num_threads() == before


def test_kernels_of_every_batch_are_made_before(wiki: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[tuple[int, ...], int]] = set()
    forward = PackedLinear.forward

    def watched(self: PackedLinear, x: torch.Tensor) -> torch.Tensor:
        seen.add((self.shape, len(x)))
        return forward(self, x)

    monkeypatch.setattr(PackedLinear, "forward", watched)
    with Engine({"wiki": wiki}) as engine:
        engine.make_kernels()
        made = set(seen)
        for num_texts in (1, 2, 7, 40, 300):
            engine.submit("wiki", Embed(texts=[TEXT] * num_texts)).result()
    assert len({rows for _, rows in made}) == CPU_BATCH_TOKENS // TILE
    assert seen == made


def test_an_engine_has_a_worker_for_each_core(wiki: Run) -> None:
    torch.set_num_threads(3)
    with Engine({"wiki": wiki}):
        workers = [t for t in threading.enumerate() if t.name.startswith("model-")]
    assert len(workers) == 3


def test_without_whole_tiles_neighbours_make_a_difference(
    gpt: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmmodel.inference.TiledTransformer.forward", Transformer.forward)
    monkeypatch.setattr("lmmodel.inference._PACKED_FOR", 0)  # where one row is a case of its own
    assert measure_dependence(dataclasses.replace(gpt)) > 0  # which is laid out anew


def test_answers_are_those_of_the_functions_of_the_command_line(wiki: Run, gpt: Run) -> None:
    texts = [TEXT, "every day", "a"]
    masks = ["the old [MASK] finds", "[MASK] a stone"]
    config = GenerationConfig(max_new_tokens=4, seed=3)
    with Engine({"wiki": wiki, "gpt": gpt}) as engine:
        vectors = engine.submit("wiki", Embed(texts=texts)).result().vectors
        filled = engine.submit("wiki", FillMask(texts=masks, top_k=3)).result()
        scores = engine.submit("gpt", Score(texts=texts)).result()
        continued = engine.submit("gpt", Generate(prompts=texts, config=config)).result()
    assert np.array_equal(vectors, embed(wiki, texts).vectors)
    assert filled == fill_mask(wiki, masks, top_k=3)
    assert np.array_equal(scores.total, log_likelihoods(gpt, texts).total)
    assert continued == generate(gpt, texts, config)


# ---- The queue


class Held:
    """An engine whose only worker waits in its first batch until it is let go."""

    def __init__(self, model: Run, monkeypatch: pytest.MonkeyPatch, **config: int) -> None:
        self.go, self.batches = threading.Event(), []
        real = Embed.compute

        def compute(model: Model, asked: Any) -> Any:
            self.batches.append([question.texts[0] for question, _ in asked])
            assert self.go.wait(30)
            return real(model, asked)

        monkeypatch.setattr(Embed, "compute", compute)
        self.engine = Engine({"wiki": model}, EngineConfig(num_workers=1, **config))

    def ask(self, text: str) -> Any:
        return self.engine.submit("wiki", Embed(texts=[text]))

    def wait_for_first(self) -> None:
        while not self.batches:
            time.sleep(0.001)


@pytest.fixture
def hold(wiki: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Held]]:
    made = []

    def make(**config: int) -> Held:
        made.append(Held(wiki, monkeypatch, **config))
        return made[-1]

    yield make
    for held in made:
        held.go.set()
        held.engine.close()


def test_an_idle_engine_does_not_wait_and_what_comes_meanwhile_is_one_batch(
    hold: Callable[..., Held],
) -> None:
    held = hold()
    first = held.ask("the first")
    held.wait_for_first()
    later = [held.ask(f"the {number}") for number in ("second", "third", "fourth")]
    held.go.set()
    assert [future.result(30).vectors.shape for future in (first, *later)] == [(1, 32)] * 4
    assert held.batches == [["the first"], ["the second", "the third", "the fourth"]]


def test_who_has_an_answer_finds_it_counted_and_its_room_free(wiki: Run, gpt: Run) -> None:
    verbs = []

    class SlowWatcher:
        def computed(self, verb: str, num_requests: int, num_tokens: int, seconds: float) -> None:
            time.sleep(0.05)
            verbs.append(verb)

    with Engine({"wiki": wiki, "gpt": gpt}, watcher=SlowWatcher()) as engine:
        engine.submit("wiki", Embed(texts=["a"])).result(30)
        assert (verbs, engine.num_waiting_tokens) == (["embed"], 0)
        config = GenerationConfig(max_new_tokens=2)
        engine.submit("gpt", Generate(prompts=["the"], config=config)).result(30)
        assert (verbs, engine.num_waiting_tokens) == (["embed", "generate", "generate"], 0)


def test_a_batch_has_no_more_tokens_than_it_may(hold: Callable[..., Held]) -> None:
    held = hold(max_batch_tokens=12)
    futures = [held.ask("a")]
    held.wait_for_first()
    tokens = [future.tokens.computed for future in futures]
    futures += [held.ask("a") for _ in range(10)]
    held.go.set()
    for future in futures:
        future.result(30)
    assert [len(batch) for batch in held.batches] == [1, 4, 4, 2]
    assert tokens == [3]


def test_a_full_queue_says_when_to_ask_again(hold: Callable[..., Held]) -> None:
    held = hold(max_batch_tokens=6, max_queue_tokens=9)
    held.ask("a")
    held.wait_for_first()
    held.ask("a")
    held.ask("a")
    with pytest.raises(BusyError, match=r"9 tokens are waiting, at most 9 may: ask again in") as e:
        held.ask("a")
    assert e.value.retry_after_s >= 1
    assert held.engine.num_waiting == 2


def test_who_leaves_makes_room_and_is_never_computed(hold: Callable[..., Held]) -> None:
    held = hold(max_batch_tokens=6, max_queue_tokens=9)
    held.ask("a")
    held.wait_for_first()
    gone, stays = held.ask("old"), held.ask("a")
    assert gone.cancel()
    assert held.engine.num_waiting == 1
    late = held.ask("a")
    held.go.set()
    stays.result(30), late.result(30)
    assert held.batches == [["a"], ["a", "a"]]
    assert held.engine.num_waiting_tokens == 0


def test_a_request_that_can_never_wait_is_refused(wiki: Run) -> None:
    config = EngineConfig(max_batch_tokens=4, max_queue_tokens=8)
    with Engine({"wiki": wiki}, config) as engine:
        with pytest.raises(TooLargeError, match="takes 60 tokens of computing, at most 8 are"):
            engine.submit("wiki", Embed(texts=["a"] * 20))
        assert engine.submit("wiki", Embed(texts=["a", "a"])).result().vectors.shape == (2, 32)


def test_a_closed_engine_has_answered_all_and_takes_no_more(hold: Callable[..., Held]) -> None:
    held = hold()
    futures = [held.ask("a")]
    held.wait_for_first()
    futures += [held.ask("old") for _ in range(3)]
    closing = threading.Thread(target=held.engine.close)
    closing.start()
    held.go.set()
    closing.join(30)
    assert all(future.done() for future in futures)
    with pytest.raises(ClosedError, match="shutting down"):
        held.ask("a")


def test_what_fails_together_is_answered_alone(wiki: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = Embed.compute, []

    def compute(model: Model, asked: Any) -> Any:
        sizes.append(len(asked))
        if any("poison" in question.texts[0] for question, _ in asked):
            raise RuntimeError("poisoned")
        return real(model, asked)

    held = Held(wiki, monkeypatch)
    first = held.ask("a")
    held.wait_for_first()
    monkeypatch.setattr(Embed, "compute", compute)
    good, bad = held.ask("a stone"), held.ask("poison")
    held.go.set()
    assert good.result(30).vectors.shape == (1, 32)
    with pytest.raises(RuntimeError, match="poisoned"):
        bad.result(30)
    assert sizes == [2, 1, 1]
    assert first.result(30) is not None
    held.engine.close()


def test_a_long_generation_takes_turns_with_others(wiki: Run, gpt: Run) -> None:
    order: list[str] = []
    config = GenerationConfig(max_new_tokens=40)
    with Engine({"wiki": wiki, "gpt": gpt}, EngineConfig(num_workers=1)) as engine:
        begun = threading.Event()

        def on_token(ids: list[list[int]]) -> None:
            order.append("token")
            begun.set()

        question = Generate(prompts=["a"], config=config)
        generation = engine.submit("gpt", question, on_token=on_token)
        assert begun.wait(30)
        engine.submit("wiki", Embed(texts=["a"])).add_done_callback(lambda _: order.append("it"))
        generation.result(30)
    assert 0 < order.index("it") < len(order) - 1


def test_a_generation_that_nobody_waits_for_ends(gpt: Run) -> None:
    tokens: list[int] = []
    with Engine({"gpt": gpt}, EngineConfig(num_workers=1)) as engine:
        question = Generate(prompts=["a"], config=GenerationConfig(max_new_tokens=50))
        future = engine.submit("gpt", question, on_token=lambda ids: tokens.append(len(ids[0])))
        while not tokens:
            time.sleep(0.001)
        assert future.cancel()
        other = Generate(prompts=["a"], config=GenerationConfig(max_new_tokens=50))
        engine.submit("gpt", other).result(30)
        assert engine.num_waiting_tokens == 0
    assert len(tokens) < 50


# ---- What is wrong is told before it waits


def test_what_a_model_can_not_do_says_what_it_can(models: dict[str, Model]) -> None:
    with Engine(models) as engine:
        with pytest.raises(UnableError, match="wiki can't generate: it can be asked embed, fill-m"):
            engine.submit("wiki", Generate(prompts=["a"]))
        with pytest.raises(UnableError, match="sequence-classification can't embed: it can be"):
            engine.submit("sequence-classification", Embed(texts=["a"]))


def test_a_text_is_cut_only_when_asked(models: dict[str, Model]) -> None:
    long = [" ".join(["the"] * 60), "the"]
    with Engine(models) as engine:
        with pytest.raises(TruncatedError, match="1 of the texts are longer than the 40 tokens"):
            engine.submit("sequence-classification", Classify(texts=long))
        cut = Classify(texts=long, truncate=True)
        found = engine.submit("sequence-classification", cut).result()
    assert found.counts == {"truncated": 1}
    assert [answer.text for answer in found.answers] == long


@pytest.mark.parametrize(
    ("ids", "message"),
    [([[5], []], "text 2 of 2 has no token"), ([[5, 9999]], r"9999 is no piece .* in \[0, ")],
)
def test_ids_that_are_none_are_refused(wiki: Run, ids: list[list[int]], message: str) -> None:
    with Engine({"wiki": wiki}) as engine, pytest.raises(FitError, match=message):
        engine.submit("wiki", Embed(texts=ids))


def test_ids_of_a_text_give_its_vector(wiki: Run) -> None:
    ids = wiki.tokenizer.backend.encode(TEXT, add_special_tokens=False).ids
    with Engine({"wiki": wiki}) as engine:
        by_text = engine.submit("wiki", Embed(texts=[TEXT])).result().vectors
        by_ids = engine.submit("wiki", Embed(texts=[ids])).result().vectors
    assert np.array_equal(by_text, by_ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_tokens": 0}, "max_batch_tokens must be at least 1"),
        ({"max_queue_tokens": 5}, "max_queue_tokens must be at least max_batch_tokens"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(**settings)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(ServeError, match="both called 'sst2': give one as NAME=b/sst2"):
        name_folders(["a/sst2", "b/sst2"])
    assert list(name_folders(["a/sst2", "films=b/sst2"])) == ["sst2", "films"]


# ---- Piece by piece


@settings(deadline=None)
@given(data=st.data(), kind=st.sampled_from(["gpt2", "wordpiece"]))
def test_pieces_make_up_the_text_up_to_a_stop(data: st.DataObject, kind: str) -> None:
    tokenizer = TINY[kind]
    most = tokenizer.vocab_size - 1
    ids = data.draw(st.lists(st.integers(5, most), min_size=1, max_size=20))
    stops = data.draw(st.lists(st.text("ab cat", min_size=1, max_size=3), max_size=2))
    pieces, told = Continuations(tokenizer, stops), ""
    for num in range(1, len(ids) + 1):
        told += "".join(text for _, text in pieces.add([ids[:num]]))
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    told += pieces.rest(0, whole)
    places = [place for stop in stops if (place := whole.find(stop)) >= 0]
    assert told == whole[: min(places, default=len(whole))]


def test_an_encoder_decoder_writes_about_prompts(wiki: Run, tmp_path: Path) -> None:
    folder = write_fine_tuned(tmp_path / "translator", "sequence-to-sequence", wiki.tokenizer,
                              family="transformer", num_hidden_layers=1)  # fmt: skip
    translator = load_fine_tuned(folder, "cpu")
    texts, config = [TEXT, "a stone"], GenerationConfig(max_new_tokens=5, temperature=0)
    with Engine({"translator": translator}) as engine:
        found = engine.submit("translator", Generate(prompts=texts, config=config)).result(60)
        with pytest.raises(UnableError, match="can't embed: it can be asked generate"):
            engine.submit("translator", Embed(texts=texts))
    asked = load_writer(folder, "cpu").write(texts, WritingConfig(max_new_tokens=5))
    assert [one.continuation for one in found] == [one.target for one in asked]
    assert {one.stopped_by for one in found} <= {"end of text", "max_new_tokens"}
