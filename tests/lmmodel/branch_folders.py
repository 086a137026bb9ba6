"""Run folders made by hand: a parent with random weights, and branches of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from lmdata.schema import read_manifest
from lmdata.tokenizer import Tokenizer
from lmmodel.adapters import choose_trained
from lmmodel.config import TrainConfig, load_train_config
from lmmodel.encoder_decoder import build_model
from lmmodel.record import WEIGHTS_NAME
from lmmodel.saving.branch import hash_weights
from lmmodel.saving.checkpoint import save_tensors
from lmmodel.saving.run import RunRecord, create_run, read_record, save_weights
from lmmodel.trained import load_run

SHAPE = ["model.hidden_size=16", "model.num_hidden_layers=2", "model.num_attention_heads=2",
         "model.intermediate_size=24", "model.max_position_embeddings=64", "model.dropout=0.0",
         "device=cpu", "precision=fp32", "recipe.max_seq_length=48"]  # fmt: skip
PAIRS = ("trainable=lora", "lora.rank=2", 'lora.targets=["query","value","mlp_output"]')


def write_parent(folder: Path, tokenizer: Tokenizer, *settings: str, data: Path | None = None):
    """Write a run with large random weights; return its folder."""
    config = load_train_config(
        None, [*SHAPE, f"model.vocab_size={tokenizer.vocab_size}", "model.initializer_range=0.2",
               *settings]
    )  # fmt: skip
    _create(folder, config, tokenizer, None, data)
    model = build_model(config.model, seed=3)
    save_tensors(folder / WEIGHTS_NAME, dict(model.named_parameters()))
    return folder


def write_branch(folder: Path, parent: Path, *settings: str, seed: int = 0, by: float = 0.2):
    """Write a branch whose own weights are moved at random; return its folder."""
    run = load_run(parent, "cpu")
    base = read_record(parent).config
    own = load_train_config(None, [f"init_from={parent}", *settings])
    config = dataclasses.replace(
        base,
        init_from=str(parent),
        trainable=own.trainable,
        lora=own.lora,
        seed=seed,
        vocabulary_bias="zeros",
        first_embeddings="random",
    )
    origin = {
        "run": str(parent.resolve()), "weights_xxh3": hash_weights(parent), "num_steps": 0,
    }  # fmt: skip
    _create(folder, config, run.tokenizer, origin, None)
    choose_trained(run.model, config.trainable, config.lora, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: p.detach() + by * torch.randn(p.shape, generator=generator)
        for name, p in run.model.named_parameters() if p.requires_grad
    }  # fmt: skip
    save_weights(folder, {"model": state}, config, origin)
    return folder


def _create(
    folder: Path, config: TrainConfig, tokenizer: Tokenizer, origin: dict | None, data: Path | None
) -> None:
    record = RunRecord(
        config=config, num_steps=0, data_path="" if data is None else str(data),
        data_hash="" if data is None else read_manifest(data).hash,
        tokenizer_hash=tokenizer.hash, environment={}, origin=origin,
    )  # fmt: skip
    create_run(folder, record, tokenizer, overwrite=False)
