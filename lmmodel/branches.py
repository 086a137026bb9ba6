"""Several branches opened on one parent, whose memory they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lmdata.tokenizer import load_tokenizer
from lmmodel.adapters import PAIR, add_pairs, merged
from lmmodel.encoder_decoder import build_model
from lmmodel.objectives import modules_of
from lmmodel.record import BRANCH_NAME, WEIGHTS_NAME
from lmmodel.saving.branch import find_parent, find_weights, hash_weights
from lmmodel.saving.checkpoint import load_named, load_tensors
from lmmodel.saving.run import RunRecord, read_record
from lmmodel.saving.state import own_names
from lmmodel.trained import Run, load_run


def load_branches(paths: Sequence[Path | str], device: str = "auto") -> list[Run]:
    """Return several runs, ready to answer, which share the memory of what they have in common.

    A parent is loaded once, whether it is among them or not; a branch of it adds what differs, and
    pairs of LoRA stay pairs.

    Args:
        paths: of runs; whole ones share with their own branches only
        device: as for `load_run`

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run`
    """
    opened: dict[str, Run] = {}

    def share(path: Path) -> Run:
        key = hash_weights(path)
        record = read_record(path)
        weights = find_weights(path)
        if key not in opened and weights is not None and weights.name != WEIGHTS_NAME:
            parent = share(find_parent(path, record.origin))
            opened[key] = _branch_of(parent, path, record)
        elif key not in opened:
            opened[key] = dataclasses.replace(load_run(path, device), packs={})
        return dataclasses.replace(opened[key], path=path, record=record)

    return [share(Path(path)) for path in paths]


def _branch_of(parent: Run, path: Path, record: RunRecord) -> Run:
    """Return a branch whose frozen weights are the parent's own memory."""
    config, own = record.config, load_tensors(path / BRANCH_NAME)
    model = build_model(config.model, seed=None, extras=modules_of(config.objective, config.model))
    with torch.no_grad():  # of a parent that is a branch itself, what its pairs add counts too
        whole = merged(dict(parent.model.named_parameters()), parent.record.config.lora)
    shared = own_names(whole, record)
    pairs = {name: own.pop(name) for name in list(own) if name.endswith(PAIR)}
    for name in dict(model.named_parameters()):
        module, _, last = name.rpartition(".")
        weight = own[name].to(parent.device) if name in own else shared[name]
        kept = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
        setattr(model.get_submodule(module), last, kept)
    if pairs:
        add_pairs(model, config.lora, None)
    mine = dict(model.named_parameters())
    load_named({name: mine[name] for name in mine if name.endswith(PAIR)}, pairs)
    model = model.to(parent.device).eval()
    return Run(path, record, model, load_tokenizer(path), parent.device, packs=parent.packs)
