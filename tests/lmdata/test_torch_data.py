"""Views as PyTorch datasets: rows of the view, whatever samples, deals out, stops or resumes."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lmdata
from lmdata.errors import MismatchError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES
from tests.lmdata.builds import build, random_documents, write_corpus

Row = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    corpus = write_corpus(
        folder / "corpus", {"a.txt": [f"{d} . {d}" for d in random_documents(90)]}
    )
    build(corpus, folder / "tokens", sentences="rules")
    return folder / "tokens"


def same(first: Row, second: Row) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("recipe", ["bert", "roberta", "albert"])
def test_rows_are_those_of_the_view(tokens: Path, recipe: str) -> None:
    dataset = lmdata.torch_dataset(tokens, recipe, seed=5, epoch=2, max_seq_length=32)
    view = lmdata.view(tokens, recipe, seed=5, epoch=2, max_seq_length=32)
    assert len(dataset) == len(view)
    for number, row in enumerate(dataset.__getitems__(range(len(dataset)))):
        example = view.examples(np.array([number]))
        original = torch.from_numpy(example.original_ids().astype(np.int64))
        assert row["input_ids"].tolist() == example.input_ids.tolist()
        assert row["token_type_ids"].tolist() == example.token_type_ids.tolist()
        is_masked = row["labels"] != -100
        assert torch.equal(row["labels"][is_masked], original[is_masked])
        assert is_masked.nonzero()[:, 0].tolist() == example.masked_positions.tolist()
        assert row["attention_mask"].tolist() == [1] * len(original)
        label = int(example.next_sentence_label[0])
        assert row.get("next_sentence_label", torch.tensor(lmdata.batch.NO_LABEL)) == label
        assert same(row, dataset[number])


def test_causal_rows_predict_themselves(tokens: Path) -> None:
    row = lmdata.torch_dataset(tokens, "bert", corruption="none", view="packed")[0]
    assert torch.equal(row["labels"], row["input_ids"])
    assert "token_type_ids" not in row


def test_batches_are_padded_on_the_right(tokens: Path) -> None:
    dataset = lmdata.torch_dataset(tokens, "roberta", max_seq_length=24)
    loader = DataLoader(dataset, batch_size=7, collate_fn=dataset.collate)
    seen = 0
    for batch in loader:
        for index in range(len(batch["input_ids"])):
            row, length = dataset[seen], len(dataset[seen]["input_ids"])
            for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
                assert torch.equal(batch[name][index, :length], row[name])
                assert batch[name][index, length:].eq(fill).all()
            seen += 1
    assert seen == len(dataset)


def test_another_epoch_has_other_masks_and_the_old_one_comes_back(tokens: Path) -> None:
    dataset = lmdata.torch_dataset(tokens, "bert", seed=1)
    first = dataset.__getitems__(range(len(dataset)))
    dataset.set_epoch(1)  # which may hold more pairs, or fewer
    assert not any(map(same, first, dataset.__getitems__(range(len(dataset)))))
    dataset.set_epoch(0)
    assert all(map(same, first, dataset.__getitems__(range(len(dataset)))))


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_streams_deal_out_every_row_once_an_epoch(tokens: Path, num_ranks: int) -> None:
    dataset = lmdata.torch_dataset(tokens, "roberta", max_seq_length=32)
    dealt = []
    for rank in range(num_ranks):
        stream = lmdata.torch_dataset(tokens, "roberta", max_seq_length=32).stream(
            rank=rank, num_ranks=num_ranks
        )
        own = range(rank, len(dataset), num_ranks)
        for number, row in zip(own, islice(stream, len(own)), strict=True):
            assert same(row, dataset[number])
            dealt.append(number)
    assert sorted(dealt) == list(range(len(dataset)))


@pytest.mark.parametrize("done", [0, 1, 63, 64, 65, 150])
def test_a_stream_goes_on_where_its_state_was_taken(tokens: Path, done: int) -> None:
    whole = list(islice(stream_of(tokens), 260))
    begun = stream_of(tokens)
    first = list(islice(begun, done))
    state = begun.state_dict()
    later = stream_of(tokens)
    later.load_state_dict(state)
    for row, expected in zip([*first, *islice(later, 260 - done)], whole, strict=True):
        assert same(row, expected)


def stream_of(tokens: Path) -> Any:
    return lmdata.torch_dataset(tokens, "roberta", max_seq_length=16).stream()


def test_a_stream_leaves_the_dataset_where_it_is(tokens: Path) -> None:
    dataset = lmdata.torch_dataset(tokens, "bert", max_seq_length=32)
    first, stream = dataset[0], dataset.stream()
    for _ in islice(stream, len(dataset) + 1):
        pass
    assert stream.state_dict()["epoch"] == 1
    assert dataset.view.epoch == 0
    assert same(dataset[0], first)


def test_the_page_shows_what_runs(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "other-trainers.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tokens.parent)
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block, found)
    names = "input_ids, attention_mask, token_type_ids, labels, next_sentence_label"
    assert set(found["batch"]) == set(names.split(", "))
    assert found["state"] == {"epoch": 1, "rows_done": 1}


def test_workers_deal_out_the_rows_of_a_stream(tokens: Path) -> None:
    dataset = lmdata.torch_dataset(tokens, "roberta", max_seq_length=32)
    loader = DataLoader(dataset.stream(), batch_size=None, num_workers=2)
    rows = list(islice(loader, 20))
    for row, number in zip(rows, [0, 1, 2, 3], strict=False):
        assert same(row, dataset[number])
    found = {next(n for n in range(len(dataset)) if same(row, dataset[n])) for row in rows}
    assert found == set(range(20))


def test_what_is_refused(tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        lmdata.torch_dataset(tokens).stream(rank=2, num_ranks=2)
    with pytest.raises(ValueError, match="recipe must be one of"):
        lmdata.torch_dataset(tokens, "t5x")
    with pytest.raises(IndexError):
        lmdata.torch_dataset(tokens)[10**6]
    write_examples(tokens, RECIPES["bert"], tmp_path / "shards", seed=0)
    with pytest.raises(MismatchError, match="frozen already"):
        lmdata.torch_dataset(tmp_path / "shards")


def test_trainer_trains_and_resumes_to_the_bit(tokens: Path, tmp_path: Path) -> None:
    """Trainer, stopped at step 4 of 8 in the middle of an epoch and resumed: the same weights."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")  # which Trainer needs
    whole = train(transformers, tokens, tmp_path / "whole", steps=8)
    train(transformers, tokens, tmp_path / "part", steps=8, stop=4)
    again = train(transformers, tokens, tmp_path / "part", steps=8, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def train(
    transformers: Any, tokens: Path, output: Path, *,
    steps: int, stop: int | None = None, resume: bool = False,
) -> Row:  # fmt: skip
    torch.manual_seed(0)
    dataset = lmdata.torch_dataset(tokens, "roberta", max_seq_length=16, seed=3)
    config = transformers.BertConfig(
        vocab_size=80, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    arguments = transformers.TrainingArguments(
        str(output), max_steps=steps, save_steps=4, per_device_train_batch_size=20, use_cpu=True,
        report_to=[], disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip

    class Stop(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = state.global_step == stop
            return control

    trainer = transformers.Trainer(
        transformers.BertForMaskedLM(config), arguments, train_dataset=dataset,
        data_collator=dataset.collate, callbacks=[Stop()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume or None)
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}
