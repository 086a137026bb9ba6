"""A small corpus with structure to learn, as a token store; and the smallest sensible runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lmdata.corpus import CorpusConfig, find_sources, read_documents
from lmdata.examples import write_examples
from lmdata.recipes import Recipe
from lmdata.settings import TokenizeConfig
from lmdata.tokenizer import load_tokenizer
from lmdata.tokenizer_training import TokenizerConfig, train_tokenizer
from lmdata.tokens import tokenize_corpus
from lmmodel.config import TrainConfig, load_train_config
from lmmodel.model import make_model
from lmmodel.saving.run import RunRecord
from lmmodel.trained import Run
from lmmodel.trainer import train
from tests.lmdata.builds import InlineWorkers

SUBJECTS = ("the cat", "a dog", "my friend", "the old king", "one bird", "our teacher")
VERBS = ("sees", "likes", "finds", "follows", "paints", "forgets")
OBJECTS = ("the river", "a stone", "green apples", "the long road", "a story", "cold water")
TIMES = ("in spring", "at night", "every day", "after work", "again", "without a word")

# 2 x 32: a step takes a few milliseconds.
TINY = (
    "model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2",
    "model.max_position_embeddings=64", "recipe.max_seq_length=32", "batch.size=12",
    "batch.micro_batch_tokens=128", "precision=fp32", "device=cpu", "budget.num_steps=6",
    "evaluation.num_examples=16", "evaluation.every_steps=3", "checkpoint.every_steps=2",
    "logging.every_steps=1",
)  # fmt: skip

# Eight steps, one checkpoint in the middle.
SHORT = (
    *TINY, "budget.num_steps=8", "optimizer.lr=2e-3", "batch.size=16", "checkpoint.every_steps=4",
    "batch.micro_batch_tokens=300", "logging.every_steps=2", "logging.picture=false",
)  # fmt: skip


def write_corpus(folder: Path, *, num_documents: int, seed: int) -> Path:
    draw = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        subject = draw.choice(SUBJECTS)
        sentences = [
            f"{subject} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(TIMES)}."
            for _ in range(draw.randint(3, 9))
        ]
        documents.append("\n".join(sentences))
    path = folder / "corpus.txt"
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


def make_store(
    folder: Path, *, num_documents: int = 150, seed: int = 0, num_sentinels: int = 0
) -> Path:
    """Return a token store of a made-up language of a few dozen words."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CorpusConfig(documents="blank-line")
    sources = find_sources(
        [str(write_corpus(folder, num_documents=num_documents, seed=seed))], config
    )
    batches = (batch for source in sources for batch in read_documents(source, config))
    learned = TokenizerConfig(vocab_size=120, allow_smaller=True, num_sentinels=num_sentinels)
    tokenizer = train_tokenizer(batches, learned)
    plan = TokenizeConfig(corpus=config, sentences="lines", validation_ratio=0.2)
    tokenize_corpus(sources, plan, tokenizer, folder / "tokens", workers=InlineWorkers())
    return folder / "tokens"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on more threads."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half a second; test_metrics.py does it for all."""
    monkeypatch.setattr(
        "lmmodel.training.reporting.plot_losses", lambda _entries, path, *_: path.touch()
    )


@pytest.fixture(scope="session")
def sentinel_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same language, with a tokenizer that has sentinels."""
    return make_store(tmp_path_factory.mktemp("sentinels"), num_documents=100, num_sentinels=12)


@pytest.fixture(scope="session")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same language and tokenizer training, other documents."""
    return make_store(tmp_path_factory.mktemp("other"), num_documents=140, seed=1)


@pytest.fixture
def tiny() -> Callable[..., TrainConfig]:
    """Return a function from KEY=VALUE pairs to the configuration of a tiny run."""
    return lambda *overrides: load_train_config(None, [*TINY, *overrides])


@pytest.fixture(scope="session")
def shards(store: Path) -> Path:
    """Frozen sentence pairs of the store, of at most 32 tokens."""
    folder = store.with_name("shards")
    write_examples(store, Recipe(max_seq_length=32), folder, seed=0, num_workers=1)
    return folder


@pytest.fixture(scope="session")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run long enough to know the little language."""
    run = tmp_path_factory.mktemp("trained") / "run"
    torch.set_num_threads(1)
    config = load_train_config(None, [
        *TINY, "budget.num_steps=300", "optimizer.name=muon", "optimizer.lr=5e-3",

        "batch.size=24", "batch.micro_batch_tokens=1024", "evaluation.num_examples=64",
        "evaluation.every_steps=100", "checkpoint.every_steps=200", "logging.every_steps=20",
    ])  # fmt: skip
    train(config, store, run)
    return run


@pytest.fixture(scope="session")
def causal_run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gpt2 run long enough to write sentences of the little language."""
    run = tmp_path_factory.mktemp("causal") / "run"
    torch.set_num_threads(1)
    config = load_train_config(None, [
        *TINY, "model.family=gpt2", "objective.name=clm", "budget.num_steps=150",
        "optimizer.name=muon", "optimizer.lr=5e-3", "batch.size=24",
        "batch.micro_batch_tokens=1024", "evaluation.every_steps=150",
        "checkpoint.every_steps=150", "logging.every_steps=50",
    ])  # fmt: skip
    train(config, store, run)
    return run


@pytest.fixture
def make_untrained_run(tiny: Callable[..., TrainConfig], store: Path) -> Callable[..., Run]:
    """Return a function from KEY=VALUE pairs to a run whose weights are random and large."""

    def make(*overrides: str) -> Run:
        tokenizer = load_tokenizer(store / "tokenizer")
        config = tiny(
            f"model.vocab_size={tokenizer.vocab_size}", "model.initializer_range=0.3", *overrides
        )
        record = RunRecord(
            config=config, num_steps=0, data_path=str(store), data_hash="",
            tokenizer_hash=tokenizer.hash, environment={},
        )  # fmt: skip
        model = make_model(config.model, seed=0).eval()
        return Run(Path("untrained"), record, model, tokenizer, torch.device("cpu"))

    return make
