"""Stock BERT trains on our shards through the collate function that the specification shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.commands import Road

SPECIFICATION = Path(__file__).parents[2] / "docs/file-format.md"


def test_stock_bert_learns_from_shards_through_the_documented_collate(
    road: Road, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    import torch

    blocks = re.findall(
        r"```python\n(.*?)```", SPECIFICATION.read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict = {}
    exec(next(block for block in blocks if "def collate" in block), names)
    files = {"train": str(road.shards / "train-*.arrow")}
    rows = datasets.load_dataset("arrow", data_files=files, cache_dir=str(tmp_path))["train"]
    batch = names["collate"]([rows[index] for index in range(min(8, len(rows)))])
    torch.manual_seed(0)
    vocab_size = int(batch["input_ids"].max()) + 300
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert int((batch["labels"] != -100).sum()) == sum(
        len(rows[index]["masked_positions"]) for index in range(len(batch["labels"]))
    )
    assert losses[-1] < losses[0] - 0.5
