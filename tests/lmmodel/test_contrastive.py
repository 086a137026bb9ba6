"""Sentence vectors: the loss of a whole step in pieces, its figures, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from lmcli.summaries import evaluation_lines
from lmdata.errors import ConfigError
from lmdata.ragged import Ragged, offsets_of
from lmdata.recipes import RECIPES
from lmmodel.config import load_train_config
from lmmodel.cores import SharedWeights, seeded
from lmmodel.data import open_data
from lmmodel.errors import FitError, TaskError
from lmmodel.evaluation import evaluate_run
from lmmodel.exporting import export_run
from lmmodel.families import ModelConfig
from lmmodel.importing import import_checkpoint
from lmmodel.loader import MicroBatch, Shape, split_micro_batches
from lmmodel.model import make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.contrastive import (
    SIDE,
    TEXT,
    alignment,
    contrast,
    pack,
    pair_up,
    read,
    uniformity,
)
from lmmodel.pair_files import open_pairs
from lmmodel.predicting.likelihood import embed, log_likelihoods
from lmmodel.predicting.mask_filling import fill_mask
from lmmodel.similarity import read_rated_pairs, score_similarity
from lmmodel.trained import load_run
from lmmodel.trainer import train
from lmmodel.training.step import accumulate, dropout_seeds
from tests.contracts import check_resume
from tests.lmmodel.conftest import TINY

VECTORS = ("objective.name=simcse", "logging.picture=false", "budget.num_steps=4")
OBJECTIVE = make_objective(ObjectiveConfig(name="simcse"))


@pytest.fixture
def examples(store):
    rows = open_data(store).rows("train", OBJECTIVE.definition.recipe, seed=3)
    return pair_up(rows.take(0, np.arange(23)))


def make(vocab_size, *, dropout=0.1, dtype=torch.float64):
    config = ModelConfig(
        family="bert", num_hidden_layers=2, hidden_size=32, num_attention_heads=2,
        vocab_size=vocab_size, initializer_range=0.3, dropout=dropout,
    )  # fmt: skip
    model = make_model(config, seed=5).to(dtype).train()
    model.compute_dtype = dtype
    return model


def gradients_of(model, batches, **options):
    model.zero_grad()
    sums = accumulate(
        model, OBJECTIVE, [MicroBatch(batch, 0) for batch in batches], torch.tensor([23]),
        seeds=dropout_seeds(0, 0, 0), **options,
    )  # fmt: skip
    return [sums, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def by_definition(model, batches):
    """The loss by the formula, all pieces in one graph, each with its dropout."""
    model.zero_grad()
    vectors, texts = [], []
    for index, batch in enumerate(batches):
        with seeded(dropout_seeds(0, 0, 0)(index), torch.device("cpu")):
            vectors.append(read(model, OBJECTIVE.parts[0], batch)[1][0])
        texts += batch.sequence_labels[TEXT].tolist()
    whole = torch.cat(vectors)
    one, other = whole[0::2], whole[1::2]
    cosines = F.cosine_similarity(one[:, None], other[None], dim=2) / 0.05
    total = torch.zeros((), dtype=whole.dtype)
    for row, text in enumerate(texts[0::2]):
        wrong = [c for c, theirs in enumerate(texts[1::2]) if theirs != text]
        total = total + torch.logsumexp(cosines[row, [row, *wrong]], 0) - cosines[row, row]
    (total / 23).backward()
    return [total.detach()[None], *(p.grad for p in model.parameters() if p.grad is not None)]


def test_pieces_of_a_step_have_the_gradients_of_one_batch_with_dropout_on(store, examples) -> None:
    model = make(open_data(store).tokenizer.vocab_size)
    for num_tokens in (40, 150):
        batches = split_micro_batches(examples, Shape(num_tokens), pack)
        assert len(batches) > 1
        expected = by_definition(model, batches)
        for one, other in zip(gradients_of(model, batches), expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-12)


def test_without_dropout_the_cut_changes_nothing(store, examples) -> None:
    model = make(open_data(store).tokenizer.vocab_size, dropout=0.0)
    whole, cut = (split_micro_batches(examples, Shape(size), pack) for size in (10**6, 60))
    assert len(whole) == 1 < len(cut)
    for one, other in zip(gradients_of(model, cut), gradients_of(model, whole), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_a_broken_twin_with_other_dropout_in_the_second_reading_is_noticed(store, examples) -> None:
    model = make(open_data(store).tokenizer.vocab_size)
    batches = split_micro_batches(examples, Shape(60), pack)
    seeds, expected = iter(range(100)), by_definition(model, batches)
    model.zero_grad()
    accumulate(
        model, OBJECTIVE, [MicroBatch(batch, 0) for batch in batches], torch.tensor([23]),
        seeds=lambda _: next(seeds),
    )  # fmt: skip
    found = [p.grad for p in model.parameters() if p.grad is not None]
    assert not torch.allclose(found[0], expected[1], rtol=1e-2)


def test_cores_that_share_weights_give_the_same(store, examples) -> None:
    model = make(open_data(store).tokenizer.vocab_size, dtype=torch.float32)
    batches = split_micro_batches(examples, Shape(60), pack)
    alone = gradients_of(model, batches)
    shared = SharedWeights(model, torch.float32)
    for one, other in zip(
        gradients_of(model, batches, shared=shared, num_at_once=2), alone, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_batch_of_4096_in_pieces_of_64_has_the_gradients_of_one(store) -> None:
    """Largest relative difference of a gradient, by its norm, dropout on."""
    data = open_data(store)
    recipe = OBJECTIVE.definition.recipe
    rows = data.rows("train", recipe, seed=3)
    whole = pair_up(rows.take(0, np.arange(4096) % rows.num_rows))
    model = make(data.tokenizer.vocab_size)
    batches = [pack(whole.slice(start, start + 64), None) for start in range(0, 4096, 64)]
    model.zero_grad()
    num, seeds = torch.tensor([4096]), dropout_seeds(0, 0, 0)
    micro_batches = [MicroBatch(batch, 0) for batch in batches]
    accumulate(model, OBJECTIVE, micro_batches, num, seeds=seeds)
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    vectors = []
    for index, batch in enumerate(batches):
        with seeded(seeds(index), torch.device("cpu")):
            vectors.append(read(model, OBJECTIVE.parts[0], batch)[1][0])
    unit = F.normalize(torch.cat(vectors), dim=1)
    texts = torch.cat([batch.sequence_labels[TEXT] for batch in batches])[0::2]
    is_equal = (texts[:, None] == texts) & ~torch.eye(4096, dtype=torch.bool)
    cosines = (unit[0::2] @ unit[1::2].T / 0.05).masked_fill(is_equal, -math.inf)
    F.cross_entropy(cosines, torch.arange(4096)).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    worst = max(
        float((one - other).norm() / other.norm()) if float(other.norm()) > 1e-9 else 0.0
        for one, other in zip(found, expected, strict=True)
    )
    assert worst < 1e-6, worst


def test_equal_texts_are_no_wrong_answers() -> None:
    """With a third row that says what the first does, the first's loss is as without it."""
    vectors = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    apart = torch.tensor([[0, 1], [1, 1], [0, 2], [1, 2]])
    alone, _ = contrast(vectors[:4], apart, 0.05)
    beside, _ = contrast(vectors, torch.cat([apart, torch.tensor([[0, 1], [1, 1]])]), 0.05)
    assert beside[0] == alone[0]
    other, _ = contrast(vectors, torch.cat([apart, torch.tensor([[0, 3], [1, 3]])]), 0.05)
    assert other[0] > alone[0]


def test_hard_negatives_are_among_the_wrong_answers() -> None:
    vectors = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 4], [1, 5], [2, 6]])
    losses, _ = contrast(vectors, labels, 0.05)
    unit = F.normalize(vectors, dim=1)
    logits = unit[[0, 3]] @ unit[[1, 2, 4, 5]].T / 0.05
    expected = F.cross_entropy(logits, torch.tensor([0, 2]), reduction="none")
    torch.testing.assert_close(losses[[0, 3]], expected)
    assert losses[[1, 2, 4, 5]].eq(0).all()


def test_many_texts_are_compared_in_pieces(monkeypatch) -> None:
    vectors = torch.randn(40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.stack([torch.arange(40) % 2, torch.arange(40) // 2], dim=1)
    whole = contrast(vectors, labels, 0.05)
    spread = uniformity(F.normalize(vectors, dim=1).numpy())
    monkeypatch.setattr("lmmodel.objectives.contrastive.MOST_COMPARED", 60)
    for one, other in zip(contrast(vectors, labels, 0.05), whole, strict=True):
        torch.testing.assert_close(one, other)
    assert uniformity(F.normalize(vectors, dim=1).numpy()) == pytest.approx(spread)


def test_figures_are_those_of_the_definition() -> None:
    """Of two texts each: how far answers are, how spread texts are, which answer is nearest."""
    vectors = np.random.default_rng(1).normal(size=(5, 2, 7)).astype(np.float32)
    labels = np.stack([np.tile([0, 1], (5, 1)), np.arange(10).reshape(5, 2)], axis=2)
    found = OBJECTIVE.terms[0].figures({"vectors": vectors, "labels": labels}, None)
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    asked, answers = unit[:, 0], unit[:, 1]
    every = unit.reshape(10, -1)
    squares = ((every[:, None] - every[None]) ** 2).sum(2)
    assert found["alignment"] == pytest.approx(((asked - answers) ** 2).sum(1).mean(), rel=1e-5)
    pairs = squares[np.triu_indices(10, 1)]
    assert found["uniformity"] == pytest.approx(np.log(np.exp(-2 * pairs).mean()), rel=1e-5)
    nearest = (asked @ answers.T).argmax(1)
    assert found["answers_found"] == (nearest == np.arange(5)).mean()
    assert alignment(asked, asked) == 0.0


def test_sides_and_equal_texts_are_labelled(examples) -> None:
    batch = pack(examples, None)
    assert batch.sequence_labels[SIDE].tolist() == [0, 1] * 23
    numbers = batch.sequence_labels[TEXT]
    ids = [own.tolist() for own in torch.split(batch.input_ids, batch.cu_seqlens.diff().tolist())]
    for row in range(0, 46, 2):
        assert numbers[row] == numbers[row + 1]
        assert ids[row] == ids[row + 1]
        assert [n == numbers[row] for n in numbers] == [other == ids[row] for other in ids]


def test_a_run_that_crashes_goes_on_to_the_bit(store, tmp_path, tiny) -> None:
    check_resume(tiny(*VECTORS), store, tmp_path, at=3)
    found = evaluate_run(tmp_path / "run")
    assert found.num_labels == 16
    assert found.others["uniformity"] < 0
    assert math.isfinite(found.loss)


def test_what_learned_vectors_guesses_no_tokens(store, tmp_path, tiny) -> None:
    train(tiny(*VECTORS, "budget.num_steps=1"), store, tmp_path / "run")
    run = load_run(tmp_path / "run")
    with pytest.raises(FitError, match="no longer guesses tokens: ask it by embed"):
        log_likelihoods(run, ["the cat sees a stone"])
    with pytest.raises(FitError, match=r"objective simcse, which fills in no masks: .* by embed"):
        fill_mask(run, ["the [MASK] sees a stone"])


def test_frozen_masks_serve_too(shards, tmp_path) -> None:
    """Of pairs in one text: the text is read twice, its masks put back."""
    options = [o for o in TINY if not o.startswith("recipe")]
    summary = train(load_train_config(None, [*options, *VECTORS]), shards, tmp_path / "run")
    assert 0 < summary.loss < 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch.size=1"], "batch.size=1 leaves nothing to compare with"),
        (["compile=true"], "does not go with compile=true"),
        (["objective.contrast_temperature=0"], "contrast_temperature must be above 0"),
        (["model.family=gpt2"], "only sees what came before"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(store, tmp_path, overrides, message) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        train(load_train_config(None, [*TINY, *VECTORS, *overrides]), store, tmp_path / "run")


# Pairs of a file, vectors for others, and figures of a file of ratings.

ROWS = [
    ("the cat sees a stone", f"a dog likes {what}", f"one bird forgets {what} again")
    for what in ("the river", "green apples", "the long road", "a story", "cold water")
]


@pytest.fixture
def base(store, tmp_path, tiny):
    train(tiny("budget.num_steps=1", "logging.picture=false"), store, tmp_path / "base")
    return tmp_path / "base"


def write_pairs(folder, rows=ROWS * 30, names=("anchor", "positive", "negative")):
    path = folder / "pairs.tsv"
    lines = ["\t".join(row[: len(names)]) for row in rows]
    path.write_text("\n".join(["\t".join(names), *lines]) + "\n", encoding="utf-8")
    return path


def pair_config(base, *overrides):
    options = [o for o in TINY if not o.startswith(("recipe", "model"))]
    return load_train_config(
        None, [*options, *VECTORS, *overrides], options={"init_from": f"{base}"}
    )


@pytest.mark.parametrize("names", [("anchor", "positive"), ("anchor", "positive", "negative")])
def test_pairs_of_a_file_are_rows_of_their_texts(base, tmp_path, names) -> None:
    path = write_pairs(tmp_path, names=names)
    data = open_pairs(path, base, 64)
    rows = data.rows("train", data.frozen_recipe, seed=1)
    assert rows.num_rows + data.rows("validation", data.frozen_recipe, seed=1).num_rows == 150
    examples = pair_up(rows.take(0, np.arange(4)))
    assert np.diff(examples.segment_offsets).tolist() == [len(names)] * 4
    own = Ragged(examples.input_ids, offsets_of(examples.segment_lengths.astype(np.int64)))
    texts = [data.tokenizer.backend.decode(ids.tolist()) for ids in own.rows()]
    given = {row[: len(names)] for row in ROWS}
    assert {tuple(texts[i : i + len(names)]) for i in range(0, len(texts), len(names))} <= given


def test_a_run_from_pairs_goes_on_to_the_bit_and_is_evaluated(base, tmp_path) -> None:
    path = write_pairs(tmp_path)
    check_resume(pair_config(base), path, tmp_path, at=3)
    found = evaluate_run(tmp_path / "run")
    assert {"alignment", "uniformity", "answers_found"} <= found.others.keys()
    assert evaluation_lines(found)[0].endswith("nats a label")


@pytest.mark.parametrize(
    ("rows", "names", "message"),
    [
        ([("a dog", "")], ("anchor", "positive"), r"pairs.tsv, line 2: 'positive' is empty"),
        ([("a dog", "1")], ("text", "label"), "call them anchor and positive"),
        ([("a dog", "one bird")], ("anchor", "positive"), "split validation .* is empty"),
    ],
)
def test_files_without_pairs_are_refused_in_one_line(base, tmp_path, rows, names, message) -> None:
    path = write_pairs(tmp_path, rows, names)
    with pytest.raises((TaskError, FitError), match=message):
        open_pairs(path, base, 64).rows("validation", RECIPES["simcse"], seed=0)


def test_pairs_need_a_run_whose_tokenizer_reads_them(tmp_path) -> None:
    with pytest.raises(FitError, match="name the one to begin with by --init-from"):
        open_pairs(write_pairs(tmp_path), None, 64)


def test_ratings_are_compared_with_cosines(base, tmp_path) -> None:
    """STS-B's form is known; ranks are those of the cosines of `embed`."""
    path, run = tmp_path / "sts.tsv", load_run(base)
    rows = [(f"{n}", one, other) for n, (one, other, _) in enumerate(ROWS)]
    path.write_text("".join("\t".join(["a", "b", "c", "d", *row]) + "\n" for row in rows))
    found = score_similarity(run, read_rated_pairs(path))
    one, other = (embed(run, [row[side] for row in rows]).vectors for side in (1, 2))
    expected = stats.spearmanr((one * other).sum(1), np.arange(5)).statistic
    assert found.spearman == pytest.approx(expected)
    assert found.alignment == pytest.approx(float(((one[4] - other[4]) ** 2).sum()), rel=1e-4)
    path.write_text("a\tb\tc\td\t1\tx\t\n")
    with pytest.raises(TaskError, match="a text is empty"):
        read_rated_pairs(path)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "modern", "roberta", "albert", "electra"])
def test_sentence_transformers_give_the_same_vectors(store, tmp_path, tiny, family) -> None:
    """Before and after a round trip through files; the library is opened by the export too."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    train(tiny(*VECTORS, f"model.family={family}"), store, tmp_path / "run")
    done = export_run(tmp_path / "run", tmp_path / "folder")
    assert done.max_vector_difference < 1e-5
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "folder"), device="cpu")
    texts = [text for row in ROWS for text in row]
    ours = embed(load_run(tmp_path / "run"), texts).vectors
    np.testing.assert_allclose(theirs.encode(texts), ours, atol=1e-5)
    import_checkpoint(tmp_path / "folder", tmp_path / "back")
    np.testing.assert_allclose(embed(load_run(tmp_path / "back"), texts).vectors, ours, atol=1e-5)
