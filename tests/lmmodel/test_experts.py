from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import load_tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from lmdata.tokens import tokenize_corpus
from lmmodel.errors import FitError, RunError
from lmmodel.evaluation import evaluate_run
from lmmodel.experts import (
    PARENT,
    ExpertsConfig,
    ExpertsResult,
    evaluate_experts,
    make_experts,
)
from lmmodel.finetuning.folder import load_fine_tuned
from lmmodel.predicting.answering import classify
from lmmodel.predicting.generation import GenerationConfig, generate
from lmmodel.predicting.likelihood import embed, log_likelihoods
from lmmodel.predicting.mask_filling import fill_mask
from lmmodel.routing.domains import Labelled
from lmmodel.routing.team import load_experts
from lmmodel.serving.engine import Engine
from lmmodel.serving.questions import Embed, FillMask, Generate, Score
from lmmodel.specialists import make_specialists
from lmmodel.trained import load_run
from tests.lmmodel.branch_folders import PAIRS, write_branch, write_parent
from tests.lmmodel.conftest import write_corpus
from tests.lmmodel.fine_tuned_folders import write_fine_tuned

WORDS = ("zebra", "quartz", "violin", "sphinx", "judge")
TEXTS = ["the cat sees the river again.", "quartz judge violin zebra sphinx"]
FAMILIES = {
    "gpt2": ["model.family=gpt2"], "bert": ["objective.name=mlm"], "t5": ["model.family=t5"],
}  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token store of two files: sentences of the little language, and rows of odd words."""
    folder = tmp_path_factory.mktemp("domains")
    write_corpus(folder, num_documents=120, seed=0).rename(folder / "tales.txt")
    draw = np.random.default_rng(0)
    rows = [
        "\n".join(" ".join(draw.choice(WORDS, 6)) for _ in range(draw.integers(3, 7)))
        for _ in range(100)
    ]
    (folder / "rows.txt").write_text("\n\n".join(rows) + "\n")
    config = CorpusConfig(documents="blank-line")
    sources = find_sources([str(folder / "tales.txt"), str(folder / "rows.txt")], config)
    batches = (batch for source in sources for batch in read_documents(source, config))
    learned = TokenizerConfig(vocab_size=140, allow_smaller=True, num_sentinels=12)
    tokenizer = train_tokenizer(batches, learned)
    plan = TokenizeConfig(corpus=config, sentences="lines", validation_ratio=0.3)
    tokenize_corpus(sources, plan, tokenizer, folder / "tokens", num_workers=1)
    return folder / "tokens"


def write_runs(folder: Path, stores: Path, family: str) -> dict[str, Path]:
    tokenizer = load_tokenizer(stores / "tokenizer")
    parent = write_parent(folder / "parent", tokenizer, *FAMILIES[family], data=stores)
    return {
        "tales": write_branch(folder / "tales", parent, *PAIRS, seed=1),
        "rows": write_branch(folder / "rows", parent, "trainable=ffn", seed=2),
    }


def make(folder: Path, runs: dict[str, Path], stores: Path, **settings) -> ExpertsResult:
    config = ExpertsConfig(num_examples=48, device="cpu", **settings)
    return make_experts(runs, [Labelled(stores)], folder / "experts", config, overwrite=True)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_text_is_answered_by_the_expert_of_its_domain(family, stores, tmp_path) -> None:
    runs = write_runs(tmp_path, stores, family)
    result = make(tmp_path, runs, stores)
    assert result.owners == {"tales": "tales", "rows": "rows"}
    assert result.accuracy[32] == 1
    assert result.mean(result.routed) == pytest.approx(result.oracle, abs=1e-9)
    assert result.mean(result.mixture) == pytest.approx(result.oracle, abs=1e-3)
    assert result.bits["tales"].keys() == {"tales", "rows", PARENT}
    team = load_experts(tmp_path / "experts", "cpu")
    assert team.route(TEXTS) == ["tales", "rows"]
    assert (tmp_path / "experts" / "table.png").stat().st_size > 5000
    found = evaluate_experts(tmp_path / "experts", stores, num_examples=48, device="cpu")
    alone = [evaluate_run(run, stores, num_examples=48, device="cpu").loss for run in runs.values()]
    assert min(alone) - 2 < found.loss < max(alone) + 2
    if family == "t5":
        return
    singles = [load_run(runs[name], "cpu") for name in ("tales", "rows")]
    pairs = list(zip(singles, TEXTS, strict=True))
    totals = [float(log_likelihoods(one, [text]).total[0]) for one, text in pairs]
    np.testing.assert_allclose(team.score(TEXTS).total, totals, rtol=1e-5)
    vectors = np.concatenate([embed(one, [text]).vectors for one, text in pairs])
    np.testing.assert_allclose(team.embed(TEXTS).vectors, vectors, atol=1e-5)
    if family == "gpt2":
        greedy = GenerationConfig(max_new_tokens=4, temperature=0)
        wanted = [generate(one, [text], greedy)[0].ids for one, text in pairs]
        assert [one.ids for one in team.generate(TEXTS, greedy)] == wanted
    else:
        masked = [text.replace(text.split()[1], "[MASK]") for text in TEXTS]
        wanted = [
            fill_mask(one, [t])[0][0][0].piece for one, t in zip(singles, masked, strict=True)
        ]
        assert [guesses[0][0].piece for guesses in team.fill_mask(masked)] == wanted


def test_a_mixture_is_the_sum_of_what_each_says_by_how_likely_it_is(stores, tmp_path) -> None:
    runs = write_runs(tmp_path, stores, "gpt2")
    make(tmp_path, runs, stores, top_k=3, prefix_tokens=1)
    team = load_experts(tmp_path / "experts", "cpu")
    path = tmp_path / "experts" / "config.json"
    values = json.loads(path.read_text())
    values["router"] |= {"temperature": 50.0}  # so that both count
    path.write_text(json.dumps(values))
    team = load_experts(tmp_path / "experts", "cpu")
    shares = team.shares_of(np.array([[0.25, 0.75]]))
    assert shares.tolist() == [[0.75, 0.25, 0.0]]  # tales and rows, as runs are given
    found = team.score(TEXTS[:1]).total[0]
    each = [log_likelihoods(load_run(run, "cpu"), TEXTS[:1]).total[0] for run in runs.values()]
    assert min(each) < found
    assert found > max(each) - 3


@pytest.mark.parametrize("router", ["likelihood", "embedding"])
def test_experts_tell_domains_by_likelihood_or_vectors_too(router, stores, tmp_path) -> None:
    result = make(tmp_path, write_runs(tmp_path, stores, "gpt2"), stores, router=router)
    assert 0 <= result.accuracy[8] <= 1
    assert sum(result.router.prior) == pytest.approx(1)
    team = load_experts(tmp_path / "experts", "cpu")
    assert set(team.route(TEXTS)) <= {"tales", "rows"}
    if router == "embedding":
        assert result.accuracy[32] > 0.9


def test_without_an_expert_its_domain_falls_to_the_parent(stores, tmp_path) -> None:
    runs = write_runs(tmp_path, stores, "gpt2")
    whole = make(tmp_path, runs, stores)
    before = load_experts(tmp_path / "experts", "cpu").score(TEXTS).total
    shutil.rmtree(runs["rows"])
    team = load_experts(tmp_path / "experts", "cpu")
    assert "expert rows is gone" in team.notes[0]
    found = team.score(TEXTS).total
    parent = log_likelihoods(load_run(tmp_path / "parent", "cpu"), TEXTS[1:]).total[0]
    assert found[0] == before[0]
    assert found[1] == pytest.approx(parent, rel=1e-6)
    without = make(tmp_path, {"tales": runs["tales"]}, stores)
    assert without.owners == {"tales": "tales", "rows": PARENT}
    assert without.routed["rows"] == pytest.approx(whole.bits["rows"][PARENT], abs=1e-6)
    assert without.routed["tales"] == pytest.approx(whole.routed["tales"], abs=1e-6)


def test_a_server_answers_as_the_experts_do(stores, tmp_path) -> None:
    make(tmp_path, write_runs(tmp_path, stores, "gpt2"), stores)
    team = load_experts(tmp_path / "experts", "cpu")
    greedy = GenerationConfig(max_new_tokens=3, temperature=0)
    heard: list[list[list[int]]] = []
    with Engine({"team": team}) as engine:
        vectors = engine.submit("team", Embed(texts=TEXTS)).result().vectors
        scores = engine.submit("team", Score(texts=TEXTS)).result()
        asked = Generate(prompts=TEXTS, config=greedy)
        texts = engine.submit("team", asked, on_token=heard.append).result()
        with pytest.raises(FitError, match="can't fill-mask"):
            engine.submit("team", FillMask(texts=TEXTS))
    np.testing.assert_array_equal(vectors, team.embed(TEXTS).vectors)
    np.testing.assert_array_equal(scores.total, team.score(TEXTS).total)
    assert [one.ids for one in texts] == [one.ids for one in team.generate(TEXTS, greedy)]
    assert heard


def test_what_are_no_experts_is_told(stores, store, tmp_path) -> None:
    runs = write_runs(tmp_path, stores, "gpt2")
    tokenizer = load_tokenizer(stores / "tokenizer")
    other = write_runs(tmp_path / "other", stores, "bert")
    with pytest.raises(FitError, match="branches need one parent"):
        make(tmp_path, {**runs, "more": other["rows"]}, stores)
    with pytest.raises(FitError, match=r"none of parent began with another run"):
        make(tmp_path, {"parent": tmp_path / "parent"}, stores)
    with pytest.raises(FitError, match=r"began with no other run, .* experts are branches of one"):
        make(tmp_path, {**runs, "parent": tmp_path / "other" / "parent"}, stores)
    dense = write_parent(
        tmp_path / "dense", load_tokenizer(store / "tokenizer"), "model.family=gpt2"
    )
    config = ExpertsConfig(num_examples=8, device="cpu")
    with pytest.raises(FitError, match="has another tokenizer than"):
        make_experts(runs, [Labelled(stores)], tmp_path / "x", config, dense=dense)
    dense = write_parent(tmp_path / "masked", tokenizer, "objective.name=mlm")
    with pytest.raises(FitError, match=r"built otherwise than .*: model.family is bert, there"):
        make_experts(runs, [Labelled(stores)], tmp_path / "x", config, dense=dense)
    with pytest.raises(FitError, match="domain tales has no validation text; there is some of law"):
        make_experts(runs, [Labelled(stores, "law")], tmp_path / "x", config)
    one = {"law": runs["tales"]}
    with pytest.raises(FitError, match="there is one domain, law: a router needs two or more"):
        make_experts(one, [Labelled(stores, "law")], tmp_path / "x", config)
    with pytest.raises(FitError, match="has no test text"):
        make_experts(runs, [Labelled(stores)], tmp_path / "x",
                     ExpertsConfig(split="test", device="cpu"))  # fmt: skip
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        ExpertsConfig(top_k=0)
    assert not (tmp_path / "x").exists()
    make(tmp_path, runs, stores)
    write_branch(tmp_path / "new", tmp_path / "parent", *PAIRS, seed=8)
    shutil.copy(tmp_path / "new" / "branch.safetensors", runs["tales"] / "branch.safetensors")
    with pytest.raises(RunError, match="has other weights now than when"):
        load_experts(tmp_path / "experts", "cpu")
    with pytest.raises(RunError, match="holds experts, which score, fill-mask"):
        load_run(tmp_path / "experts")
    with pytest.raises(RunError, match="holds no experts"):
        load_experts(tmp_path / "parent")


def test_fine_tuned_models_classify_the_texts_of_their_domains(stores, tmp_path) -> None:
    tokenizer = load_tokenizer(stores / "tokenizer")
    models = {
        name: write_fine_tuned(
            tmp_path / name,
            "sequence-classification",
            tokenizer,
            ("bad", "good"),
            initializer_range=scale,
        )
        for name, scale in (("general", 0.1), ("tales", 0.2), ("rows", 0.3))
    }
    general = models.pop("general")
    config = ExpertsConfig(num_examples=60, device="cpu")
    result = make_specialists(models, general, [Labelled(stores)], tmp_path / "team", config)
    assert result.accuracy[32] == 1
    found = load_experts(tmp_path / "team", "cpu").classify(TEXTS).answers
    wanted = [
        classify(load_fine_tuned(models[name], "cpu"), [text]).answers[0]
        for name, text in zip(("tales", "rows"), TEXTS, strict=True)
    ]
    assert [one.probabilities for one in found] == [one.probabilities for one in wanted]
    with pytest.raises(FitError, match="are told apart by n-grams and answer alone"):
        make_specialists(models, general, [Labelled(stores)], tmp_path / "x",
                         ExpertsConfig(router="embedding"))  # fmt: skip
