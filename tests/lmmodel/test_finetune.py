"""Fine-tuning: it learns, the same seed gives the same weights, and the folder is what it says."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lmdata.errors import ConfigError, OutputError
from lmmodel import finetuner as face
from lmmodel.asking import Specialist
from lmmodel.config import load_train_config
from lmmodel.errors import (
    CheckpointError,
    DivergedError,
    FitError,
    LmmodelError,
    RunError,
    TaskError,
)
from lmmodel.finetuner import (
    FinetuneResult,
    Source,
    finetune,
    read_data,
    resolve_config,
    start_model,
)
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.finetuning.fit import TaskLearner, epoch_batches, evaluation_steps
from lmmodel.finetuning.folder import (
    drawable,
    is_fine_tuned,
    load_fine_tuned,
    plot_confusion,
    plot_scatter,
    read_fine_tuned_record,
)
from lmmodel.tasks.model import predict_logits
from lmmodel.tasks.task_files import TaskFormat
from lmmodel.trained import load_run
from lmmodel.trainer import train
from tests.lmmodel.conftest import OBJECTS, SUBJECTS, TIMES, TINY, VERBS

FAST = {
    "num_seeds": 1, "num_epochs": 6, "batch_size": 16, "lr": 5e-3, "device": "cpu",
    "precision": "fp32", "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_confusion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes half a second; one test does it for all."""
    for name in ("plot_confusion", "plot_scatter"):
        monkeypatch.setattr(face, name, lambda *arguments: arguments[-2].touch())


@pytest.fixture(scope="session")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two steps of each family: weights are random, the folders are real."""
    own = {
        "bert": ["objective.name=mlm"],
        "modern": ["objective.name=mlm", "model.family=modern"],
        "gpt2": ["objective.name=clm", "model.family=gpt2"],
    }
    folder = tmp_path_factory.mktemp("families")
    for family, overrides in own.items():
        fast = ["budget.num_steps=2", "evaluation.num_examples=0", *overrides]
        train(load_train_config(None, [*TINY, *fast]), store, folder / family)
    return {family: folder / family for family in own}


def sentences(count: int, seed: int) -> list[list[str]]:
    draw = random.Random(seed)
    parts = (SUBJECTS, VERBS, OBJECTS, TIMES)
    return [[draw.choice(part) for part in parts] for _ in range(count)]


def write_classes(path: Path, count: int, seed: int) -> Path:
    """Who the sentence is about: an animal or a person."""
    lines = ["text\tlabel"]
    for words in sentences(count, seed):
        is_animal = words[0] in ("the cat", "a dog", "one bird")
        lines.append(f"{' '.join(words)}\t{'animal' if is_animal else 'person'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_pairs(path: Path, count: int, seed: int) -> Path:
    """Whether the second text names the verb of the first."""
    draw = random.Random(seed)
    lines = ["first,second,label"]
    for words in sentences(count, seed):
        verb = draw.choice([words[1], "sees" if words[1] != "sees" else "likes"])
        lines.append(f"{words[0]} {words[1]},{verb},{'yes' if verb == words[1] else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_numbers(path: Path, count: int, seed: int) -> Path:
    """The number of the time of day, far from zero."""
    rows = [
        {"text": " ".join(words), "label": 100.0 + 5 * TIMES.index(words[3])}
        for words in sentences(count, seed)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tags(path: Path, count: int, seed: int) -> Path:
    lines: list[str] = []
    for words in sentences(count, seed):
        tagged = [(w, t) for part, t in zip(words, "SVOT", strict=True) for w in part.split()]
        for number, (word, tag) in enumerate(tagged, start=1):
            lines.append("\t".join([str(number), word, "_", tag, *"______"]))
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def write_questions(path: Path, count: int, seed: int) -> Path:
    paragraphs = []
    for number, words in enumerate(sentences(count, seed)):
        context = f"{words[0]} {words[1]} {words[2]} {words[3]} ."
        answer = {"text": words[2], "answer_start": context.index(words[2])}
        question = {"id": str(number), "question": f"{words[1]} ?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]}))
    return path


WRITERS = {
    "sequence-classification": (write_classes, "tsv"),
    "sentence-pair": (write_pairs, "csv"),
    "regression": (write_numbers, "jsonl"),
    "token-classification": (write_tags, "conllu"),
    "question-answering": (write_questions, "json"),
}
COLUMNS = {"sentence-pair": TaskFormat(text="first", pair="second")}


def write_files(folder: Path, task: str, count: int = 160) -> tuple[Path, Path]:
    write, extension = WRITERS[task]
    return (
        write(folder / f"train.{extension}", count, 1),
        write(folder / f"validation.{extension}", 60, 2),
    )


def make_config(task: str, **changes) -> FinetuneConfig:
    columns = COLUMNS.get(task, TaskFormat())
    return FinetuneConfig(task=task, **({"columns": columns} | FAST | changes))


def run_it(run: Path, folder: Path, task: str, *, count: int = 160, **changes) -> FinetuneResult:
    paths = write_files(folder, task, count)
    return finetune(run, make_config(task, **changes), *paths, folder / "out", overwrite=True)


@pytest.mark.parametrize(
    ("family", "task", "score", "at_least"),
    [
        ("bert", "sequence-classification", "accuracy", 0.95),
        ("gpt2", "sequence-classification", "accuracy", 0.95),
        ("bert", "sentence-pair", "accuracy", 0.8),
        ("modern", "regression", "pearson", 0.8),
        ("bert", "token-classification", "accuracy", 0.95),
        ("gpt2", "token-classification", "accuracy", 0.8),
        ("modern", "question-answering", "f1", 0.8),
    ],
)
def test_each_task_is_learned(runs, tmp_path, family, task, score, at_least) -> None:
    num_epochs = 12 if task in ("sentence-pair", "regression") else 6
    result = run_it(runs[family], tmp_path, task, num_epochs=num_epochs)
    assert result.mean[score] >= at_least
    assert result.best_score == score
    if result.guess:
        assert result.guess[score] < 0.7


@pytest.mark.parametrize("family", ["bert", "modern", "gpt2"])
def test_the_unit_of_the_numbers_changes_nothing_but_the_unit(runs, tmp_path, family) -> None:
    scores = []
    for name, factor in (("metres", 1.0), ("millimetres", 1000.0), ("leagues", 1e-4)):
        folder = tmp_path / name
        folder.mkdir()
        for path in write_files(folder, "regression", 80):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            lines = [json.dumps(row | {"label": factor * row["label"]}) for row in rows]
            path.write_text("\n".join(lines))
        paths = (folder / "train.jsonl", folder / "validation.jsonl")
        result = finetune(
            runs[family], make_config("regression", num_epochs=2), *paths, folder / "out"
        )
        scores.append((result.mean["pearson"], result.mean["mse"] / factor**2))
        opened = load_fine_tuned(result.output, device="cpu")
        data = read_data(opened.record.config, opened.tokenizer, *paths)
        again = data.score(predict_logits(opened.model, data.validation))
        # Numbers around 100,000 keep two digits behind the point in float32.
        assert again == pytest.approx(result.seeds[0].scores, rel=1e-3, abs=1e-3 * factor)
    for other in scores[1:]:
        assert other == pytest.approx(scores[0], rel=0.01, abs=0.01)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_tasks_are_learned_on_a_gpu(runs, tmp_path, task, precision) -> None:
    changes = {"device": "cuda", "precision": precision, "dropout": 0.1, "num_epochs": 12}
    result = run_it(runs["bert"], tmp_path, task, **changes)
    assert result.mean["accuracy"] >= 0.9
    assert load_fine_tuned(result.output, device="cuda").device.type == "cuda"


def test_the_folder_predicts_what_its_record_says(runs, tmp_path) -> None:
    result = run_it(runs["bert"], tmp_path, "token-classification", num_epochs=2)
    opened = load_fine_tuned(result.output, device="cpu")
    record = opened.record
    assert record.labels == result.labels == ("O", "S", "T", "V")
    assert record.tokenizer_hash == opened.tokenizer.hash == load_run(runs["bert"]).tokenizer.hash
    assert record.figures["mean"] == result.mean
    data = read_data(
        record.config, opened.tokenizer,
        tmp_path / "train.conllu", tmp_path / "validation.conllu",
    )  # fmt: skip
    scores = data.score(predict_logits(opened.model, data.validation))
    assert scores == result.seeds[0].scores == record.figures["seeds"][0]["scores"]
    assert record.data["train"]["num_rows"] == 160
    assert record.origin["run"] == str(runs["bert"].resolve())


def test_the_folder_holds_everything(runs, tmp_path) -> None:
    result = run_it(runs["bert"], tmp_path, "sequence-classification", num_epochs=2, num_seeds=2)
    names = {path.name for path in result.output.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "metrics.jsonl",
                     "scores.json", "confusion.png"}  # fmt: skip
    scores = json.loads((result.output / "scores.json").read_text())
    assert [one["seed"] for one in scores["seeds"]] == [0, 1]
    values = [one["scores"]["accuracy"] for one in scores["seeds"]]
    assert scores["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert scores["spread"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    lines = (result.output / "metrics.jsonl").read_text().splitlines()
    assert [(json.loads(line)["seed"], json.loads(line)["epoch"]) for line in lines] == [
        (0, 1.0), (0, 2.0), (1, 1.0), (1, 2.0)
    ]  # fmt: skip
    assert is_fine_tuned(result.output)
    assert not is_fine_tuned(runs["bert"])
    assert not list(tmp_path.glob(".*"))


def test_a_scatter_is_drawn_for_numbers_and_nothing_for_answers(runs, tmp_path) -> None:
    numbers = run_it(runs["bert"], tmp_path, "regression", num_epochs=1, count=20)
    assert numbers.picture == tmp_path / "out" / "scatter.png"
    assert numbers.picture.exists()
    assert run_it(runs["bert"], tmp_path, "question-answering", num_epochs=1).picture is None
    assert not numbers.picture.exists()


def weights_of(run: Path, folder: Path, **changes) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    result = run_it(
        run, folder, "sequence-classification", num_epochs=1, dropout=0.1, count=50, **changes
    )
    return load_fine_tuned(result.output, device="cpu").model.state_dict()


def test_the_same_seed_gives_the_same_weights_to_the_bit(runs, tmp_path) -> None:
    first = weights_of(runs["bert"], tmp_path / "a", seed=3)
    again = weights_of(runs["bert"], tmp_path / "b", seed=3)
    other = weights_of(runs["bert"], tmp_path / "c", seed=4)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])
    assert not torch.equal(
        first["backbone.embeddings.tokens.weight"], other["backbone.embeddings.tokens.weight"]
    )


def test_frozen_trains_the_head_alone_and_from_scratch_takes_no_pretrained_weight(
    runs, tmp_path
) -> None:
    pretrained = load_run(runs["modern"], device="cpu").model.state_dict()
    frozen = weights_of(runs["modern"], tmp_path / "frozen", trainable="head")
    for name, weight in pretrained.items():
        assert torch.equal(frozen[f"backbone.{name}"], weight), name
    assert not torch.equal(frozen["head.dense.weight"], pretrained["head.dense.weight"])
    random = weights_of(runs["modern"], tmp_path / "random", from_scratch=True, lr=1e-9)
    full = weights_of(runs["modern"], tmp_path / "full", lr=1e-9)
    name = "layers.0.attention.qkv.weight"
    torch.testing.assert_close(full[f"backbone.{name}"], pretrained[name], atol=1e-6, rtol=0)
    assert (random[f"backbone.{name}"] - pretrained[name]).abs().max() > 1e-3


@pytest.mark.parametrize(("part", "moves"), [("ffn", ".mlp."), ("bias", ".bias"), ("lora", "")])
def test_what_is_frozen_is_equal_to_the_bit_afterwards(part, moves, runs, tmp_path) -> None:
    pretrained = load_run(runs["bert"], device="cpu").model.state_dict()
    tuned = weights_of(runs["bert"], tmp_path / part, trainable=part)
    for name, weight in pretrained.items():
        now, is_layer = tuned.get(f"backbone.{name}", weight), name.startswith("layers.")
        difference = now - weight
        if part == "lora" and is_layer and weight.ndim == 2:
            num_pairs = 3 if ".qkv." in name else 1
            assert 0 < torch.linalg.matrix_rank(difference) <= 8 * num_pairs, name
        elif part != "lora" and moves in name and (is_layer or name == "embeddings.norm.bias"):
            assert difference.any(), name
        else:
            assert torch.equal(now, weight), name


def test_a_folder_that_calls_it_freeze_opens(runs, tmp_path) -> None:
    files = write_files(tmp_path, "sequence-classification")
    config = make_config("sequence-classification", trainable="head")
    finetune(runs["bert"], config, *files, tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["trainable"], record["config"]["lora"]
    record["config"]["freeze"] = True
    path.write_text(json.dumps(record))
    assert read_fine_tuned_record(tmp_path / "out").config.trainable == "head"


def make_learner(runs, folder: Path, task: str, **changes) -> TaskLearner:
    run = load_run(runs["bert"], device="cpu")
    source = Source(run.model.config, run.tokenizer, run.model, {}, "the run")
    config = resolve_config(make_config(task, **changes), source)
    data = read_data(config, source.tokenizer, *write_files(folder, task))
    model = start_model(source, config, data, seed=0)
    return TaskLearner(model, data.train, config, seed=0)


@pytest.mark.parametrize("task", WRITERS)
def test_micro_batches_change_neither_loss_nor_gradient(runs, tmp_path, task) -> None:
    whole, parts = (
        make_learner(runs, tmp_path, task, micro_batch_tokens=tokens) for tokens in (10_000, 40)
    )
    rows = np.arange(30)
    assert whole.learn(rows) == pytest.approx(parts.learn(rows), rel=1e-5)
    for (name, one), other in zip(
        whole.model.named_parameters(), parts.model.parameters(), strict=True
    ):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-3, msg=name)


def test_bf16_is_what_training_computes_in_and_scores_are_float32s(runs, tmp_path) -> None:
    exact, rough = (
        make_learner(runs, tmp_path, "sequence-classification", precision=precision)
        for precision in ("fp32", "bf16")
    )
    logits = [one.evaluate(one.train, lambda _: {}).logits for one in (exact, rough)]
    np.testing.assert_array_equal(*logits)
    rows = np.arange(4)
    losses = [one.learn(rows) for one in (exact, rough)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_when_the_score_no_longer_rises(runs, tmp_path, patience) -> None:
    result = run_it(
        runs["bert"], tmp_path, "sequence-classification", num_epochs=30, patience=patience,
        lr=1e-2,
    )  # fmt: skip
    (seed,) = result.seeds
    assert seed.best_epoch + patience == seed.num_epochs < 30
    lines = [json.loads(line) for line in (result.output / "metrics.jsonl").read_text().split("\n")
             if line]  # fmt: skip
    assert len(lines) == seed.num_epochs
    assert max(line["accuracy"] for line in lines) == seed.scores["accuracy"]


def test_the_best_seed_is_kept_by_the_score_asked_for(runs, tmp_path) -> None:
    result = run_it(
        runs["bert"], tmp_path, "sequence-classification", num_seeds=2, num_epochs=1, count=40,
        score="matthews",
    )  # fmt: skip
    best = max(result.seeds, key=lambda one: one.scores["matthews"])
    assert result.kept_seed == best.seed
    assert result.best_score == "matthews"


def test_predictions_are_in_the_order_of_the_examples(runs, tmp_path) -> None:
    learner = make_learner(runs, tmp_path, "token-classification")
    together = predict_logits(learner.model, learner.train)
    few = predict_logits(learner.model, learner.train, num_tokens=30)
    np.testing.assert_allclose(together, few, atol=1e-5)
    assert together.shape == (len(learner.train.input_ids), 4)


def test_every_example_is_seen_once_an_epoch_in_another_order() -> None:
    config = FinetuneConfig(task="regression", batch_size=7, num_epochs=2)
    lengths = np.random.default_rng(0).integers(3, 50, 7 * 16 * 2 + 3)
    rows = list(epoch_batches(lengths, config, seed=0))
    half = len(rows) // 2
    first, second = np.concatenate(rows[:half]), np.concatenate(rows[half:])
    assert sorted(first) == sorted(second) == list(range(len(lengths)))
    assert first.tolist() != second.tolist()
    assert sorted(len(batch) for batch in rows) == [3, 3] + [7] * 64
    other = np.concatenate(list(epoch_batches(lengths, config, seed=1)))
    assert other.tolist() != [*first, *second]


def test_examples_of_a_batch_are_of_like_length() -> None:
    config = FinetuneConfig(task="regression", batch_size=32, num_epochs=1)
    lengths = np.random.default_rng(0).integers(3, 103, 32 * 16 * 8)
    spans = [np.ptp(lengths[rows]) for rows in epoch_batches(lengths, config, seed=0)]
    assert np.median(spans) < 10  # of 100
    means = [lengths[rows].mean() for rows in epoch_batches(lengths, config, seed=0)]
    assert np.any(np.diff(means) < 0)
    assert np.any(np.diff(means) > 0)


def test_a_batch_to_write_from_has_all_lengths_with_its_shortest_first() -> None:
    config = FinetuneConfig(task="sequence-to-sequence", batch_size=32, num_epochs=1)
    lengths = np.random.default_rng(0).integers(3, 103, 32 * 16 * 8)
    batches = [lengths[rows] for rows in epoch_batches(lengths, config, seed=0)]
    assert min(map(np.ptp, batches)) > 50  # of 100
    assert all(np.all(np.diff(own) >= 0) for own in batches)


def test_the_last_step_is_always_evaluated() -> None:
    for steps in (1, 2, 3, 10, 17):
        for per_epoch in (1, 2, 5):
            config = FinetuneConfig(
                task="regression", num_epochs=3, evaluations_per_epoch=per_epoch
            )
            assert max(evaluation_steps(steps, config)) == 3 * steps


def test_labels_that_the_font_lacks_are_drawn_without_a_word(tmp_path) -> None:
    assert drawable("é 面 \U0001f469\t") == "é U+9762 U+1F469U+0009"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_confusion(np.eye(2, dtype=np.int64), ["面", "\U0001f469"], tmp_path / "a.png", "b")


def test_pictures_are_drawn(tmp_path) -> None:
    counts = np.arange(9).reshape(3, 3)
    plot_confusion(counts, ["a", "$", "PRP$"], tmp_path / "few.png", "a title")
    plot_scatter(np.array([1.0, 2.0]), np.array([1.5, 1.9]), tmp_path / "scatter.png", "numbers")
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


# What a user gets wrong.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_seeds": 0}, "num_seeds must be at least 1"),
        ({"seed": -1}, "seed must be in"),
        ({"lr": 2.0}, "lr must be above 0 and at most 1"),
        ({"lr": 0.0}, "lr must be above 0 and at most 1"),
        ({"warmup_ratio": 1.0}, "warmup_ratio must be in"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"patience": 0}, "patience must be at least 1 or none"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be above 0 or none"),
        ({"max_seq_length": 3}, "max_seq_length must be at least 4, got 3"),
        ({"score": "mse"}, "score must be one of pearson, spearman for regression, got 'mse'"),
        ({"columns": TaskFormat(has_labels=False)}, "columns.has_labels must be true"),
    ],
)
def test_settings_out_of_range_are_refused(change, message) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(task="regression", **change)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="task must be one of sequence-classification, "):
        FinetuneConfig(task="translation")


def test_settings_come_from_toml_and_pairs(tmp_path) -> None:
    from lmdata.config import load_config

    (tmp_path / "it.toml").write_text('task = "regression"\nlr = 1e-4\n[columns]\nlabel = "y"\n')
    config = load_config(FinetuneConfig, tmp_path / "it.toml", ["lr=0.002", "columns.text=x"])
    assert (config.lr, config.columns.label, config.columns.text) == (0.002, "y", "x")
    with pytest.raises(ConfigError, match="unknown key learning_rate"):
        load_config(FinetuneConfig, None, ["task=regression", "learning_rate=1"])


def test_only_a_fine_tuned_folder_is_replaced_and_only_if_asked(runs, tmp_path) -> None:
    paths = write_files(tmp_path, "sequence-classification", 20)
    config = make_config("sequence-classification", num_epochs=1)
    finetune(runs["bert"], config, *paths, tmp_path / "out")
    with pytest.raises(OutputError, match="already holds a fine-tuned model: add --overwrite"):
        finetune(runs["bert"], config, *paths, tmp_path / "out")
    finetune(runs["bert"], config, *paths, tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    for folder in (tmp_path / "mine", runs["modern"]):
        with pytest.raises(OutputError, match="is not a fine-tuned model, so nothing replaces it"):
            finetune(runs["bert"], config, *paths, folder, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    with pytest.raises(RunError, match="is fine-tuned already: begin with the pretrained run"):
        finetune(tmp_path / "out", config, *paths, tmp_path / "other")
    with pytest.raises(RunError, match="holds no run"):
        finetune(tmp_path / "mine", config, *paths, tmp_path / "other")


def test_an_output_that_can_not_be_written_is_told_before_the_work(tmp_path) -> None:
    (tmp_path / "file").touch()
    config, missing = make_config("regression"), tmp_path / "nothing"
    with pytest.raises(OutputError, match=r"can't write .*file/out"):
        finetune(missing, config, missing, missing, tmp_path / "file" / "out")


def test_paths_may_be_strings(runs, tmp_path) -> None:
    paths = map(str, write_files(tmp_path, "regression", 20))
    result = finetune(
        str(runs["bert"]), make_config("regression", num_epochs=1), *paths, str(tmp_path / "out")
    )
    assert result.output == tmp_path / "out"


def test_files_of_pairs_and_of_single_texts_do_not_go_together(runs, tmp_path) -> None:
    first, second = {"text": "a dog"}, {"sentence1": "a dog", "sentence2": "one bird"}
    for name, texts in (("pairs", second), ("single", first)):
        lines = [json.dumps({**texts, "label": float(n)}) for n in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = [tmp_path / "pairs.jsonl", tmp_path / "single.jsonl"]
    for train_file, validation_file in (files, files[::-1]):
        with pytest.raises(TaskError, match=r"pairs.jsonl has pairs, .*single.jsonl single texts"):
            finetune(
                runs["bert"], make_config("regression"), train_file, validation_file,
                tmp_path / "out",
            )  # fmt: skip


@pytest.mark.parametrize("has_pairs", [True, False])
def test_a_model_of_numbers_remembers_whether_it_learned_pairs(runs, tmp_path, has_pairs) -> None:
    texts = {"sentence1": "a dog", "sentence2": "one"} if has_pairs else {"text": "a dog"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**texts, "label": float(n)}) for n in range(20)))
    config = make_config("regression", num_epochs=1)
    finetune(runs["bert"], config, path, path, tmp_path / "out")
    assert read_fine_tuned_record(tmp_path / "out").has_pairs is has_pairs
    tuned = Specialist(load_fine_tuned(tmp_path / "out"))
    tuned.classify(["a"], ["b"] if has_pairs else None)
    with pytest.raises(FitError, match="give a second text" if has_pairs else "no second ones"):
        tuned.classify(["a"], None if has_pairs else ["b"])


def test_questions_without_right_answers_can_not_be_scored_by(runs, tmp_path) -> None:
    train_file, validation = write_files(tmp_path, "question-answering", 20)
    content = json.loads(validation.read_text())
    for paragraph in content["data"][0]["paragraphs"]:
        paragraph["qas"][0]["answers"] = []
    validation.write_text(json.dumps(content))
    config = make_config("question-answering")
    with pytest.raises(LmmodelError, match=r"validation.json has no right answers to score by"):
        finetune(runs["bert"], config, train_file, validation, tmp_path / "out")


def test_what_does_not_finish_leaves_the_old_folder(runs, tmp_path, monkeypatch) -> None:
    first = run_it(runs["bert"], tmp_path, "sequence-classification", num_epochs=1, count=20)
    before = (first.output / "config.json").read_text()

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr(face, "plot_confusion", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        run_it(runs["bert"], tmp_path, "sequence-classification", num_epochs=1, count=20, seed=9)
    assert (first.output / "config.json").read_text() == before
    assert not list(tmp_path.glob(".out*"))


def test_a_file_without_what_the_task_needs_is_refused(runs, tmp_path) -> None:
    train_path, validation = write_files(tmp_path, "sequence-classification", 20)
    config = make_config("sequence-classification", columns=TaskFormat(text="sentence"))
    with pytest.raises(TaskError, match="sentence"):
        finetune(runs["bert"], config, train_path, validation, tmp_path / "out")
    config = make_config("sequence-classification")
    validation.write_text("text\tlabel\nthe cat\tplant\n")
    with pytest.raises(TaskError, match=r"line 2: unknown label 'plant'; training has 'animal'"):
        finetune(runs["bert"], config, train_path, validation, tmp_path / "out")
    validation.write_text("text\tlabel\n")
    with pytest.raises((TaskError, FitError), match=r"validation\.tsv"):
        finetune(runs["bert"], config, train_path, validation, tmp_path / "out")
    with pytest.raises(TaskError, match=r"absent\.tsv"):
        finetune(runs["bert"], config, tmp_path / "absent.tsv", validation, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_texts_that_are_empty_or_too_long_are_counted(runs, tmp_path) -> None:
    train_path, validation = write_files(tmp_path, "sequence-classification", 20)
    with train_path.open("a") as file:
        file.write("\tanimal\n" + "the cat " * 50 + "\tanimal\n")
    config = make_config("sequence-classification", num_epochs=1)
    result = finetune(runs["bert"], config, train_path, validation, tmp_path / "out")
    assert result.num_train == 21
    assert result.counts["train"]["left out: empty text"] == 1
    assert result.counts["train"]["truncated"] == 1
    record = read_fine_tuned_record(result.output)
    assert record.data["train"]["counts"] == result.counts["train"]
    assert record.max_seq_length == 64  # what the tiny model takes


def test_a_length_beyond_the_models_positions_is_refused(runs, tmp_path) -> None:
    with pytest.raises(FitError, match="max_seq_length=65 exceeds the 64 positions of"):
        run_it(runs["bert"], tmp_path, "sequence-classification", max_seq_length=65)


def test_a_loss_that_is_not_finite_ends_with_what_to_do(runs, tmp_path) -> None:
    learner = make_learner(runs, tmp_path, "sequence-classification")
    with torch.no_grad():
        learner.model.head.classifier.weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"the loss is nan in step 1: set lr lower than 0\.005"):
        learner.learn(np.arange(4))


def test_a_damaged_fine_tuned_folder_is_refused(runs, tmp_path) -> None:
    result = run_it(runs["bert"], tmp_path, "sequence-classification", num_epochs=1, count=20)
    path = result.output / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"labels": ["a", "b", "c"]}))
    with pytest.raises(CheckpointError, match=r"does not hold the weights that config\.json"):
        load_fine_tuned(result.output, device="cpu")
    path.write_text(json.dumps(record | {"format_version": 9}))
    with pytest.raises(RunError, match="has format 9, this version reads 3: fine-tune again"):
        load_fine_tuned(result.output)
    path.write_text(json.dumps(record | {"taks": 1}))
    with pytest.raises(RunError, match="was not written by this version: unknown key taks"):
        load_fine_tuned(result.output)
    with pytest.raises(RunError, match="holds no fine-tuned model: `lmmodel finetune` makes one"):
        load_fine_tuned(runs["bert"])


def test_labels_of_a_regression_set_where_the_head_begins(runs, tmp_path) -> None:
    learner = make_learner(runs, tmp_path, "regression")
    mean = float(np.mean(learner.train.labels))
    saved = learner.model.saved_weights()
    assert saved["head.classifier.bias"].item() == pytest.approx(mean)
    assert learner.learn(np.arange(60)) == pytest.approx(1.0, abs=0.4)  # in units of the variance
