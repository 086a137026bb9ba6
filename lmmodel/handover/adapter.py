"""A branch of LoRA pairs as the folder that PEFT opens, and such a folder as a branch.

PEFT has a pair for each of its modules; where one of our matrices merges several of those, or one
of theirs several maps of ours that have a pair each, pairs are stacked: ranks add up, the product
stays.

P maps of a matrix that have a pair, R rank, I inputs, O outputs of a map.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmdata.files import Kind, output_errors, writing_folder
from lmmodel.adapters import PAIR, Parts, find_parts
from lmmodel.config import TrainConfig
from lmmodel.device import describe_environment
from lmmodel.errors import FitError, HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.parity import (
    largest_difference,
    logits_of,
    make_sample,
    open_stock,
    our_logits,
    silent,
)
from lmmodel.handover.stock import export_model, write_json
from lmmodel.handover.stock_families import stock_family
from lmmodel.handover.stock_weights import name_pairs
from lmmodel.optimizing import LoraConfig, Target
from lmmodel.record import BRANCH_NAME, RUN
from lmmodel.saving.branch import find_parent, save_branch
from lmmodel.saving.checkpoint import load_tensors, save_tensors
from lmmodel.saving.run import RunRecord, create_run, read_record
from lmmodel.trained import load_run, read_start

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_WRITER = "lmmodel_objective"


@dataclass(frozen=True, kw_only=True)
class AdapterExport:
    """What was written, and how far the logits are from those of PEFT on the exported parent."""

    output: Path
    parent: Path
    num_modules: int
    num_parameters: int
    max_logit_difference: float | None  # None where peft is not installed


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter as PEFT writes it."""
    return (folder / CONFIG_NAME).is_file()


def _is_ours(folder: Path) -> bool:
    try:
        with safe_open(folder / WEIGHTS_NAME, "pt") as file:
            return _WRITER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


ADAPTER = Kind("an exported adapter", _is_ours, frozenset({CONFIG_NAME, WEIGHTS_NAME}))


def export_adapter(run_path: Path, output: Path, *, overwrite: bool = False) -> AdapterExport:
    """Write a folder that PEFT opens on the exported parent; it appears whole or not at all.

    Raises:
        RunError: no run there, or its parent is gone or has changed
        HuggingFaceError: it is no branch of pairs alone, or PEFT, where installed, computes other
            logits
        OutputError: `output` can't be written
    """
    record = read_record(run_path)
    if record.config.trainable != "lora" or not (run_path / BRANCH_NAME).is_file():
        raise HuggingFaceError(
            f"{run_path} is no branch of LoRA pairs (trainable={record.config.trainable}): leave "
            "--adapter out, which exports the whole model"
        )
    state = load_tensors(run_path / BRANCH_NAME)
    if others := sorted(name for name in state if not name.endswith(PAIR)):
        raise HuggingFaceError(
            f"{run_path} trained {len(others)} weights beside the pairs, first {others[0]}, which "
            "an adapter does not hold: leave --adapter out, which exports the whole model"
        )
    parent = find_parent(run_path, record.origin)
    with writing_folder(output, ADAPTER, overwrite=overwrite) as folder:
        weights, settings = to_their_pairs(state, record.config)
        with output_errors(output):
            header = {"format": "pt", _WRITER: record.config.objective.name}
            save_tensors(folder / WEIGHTS_NAME, weights, header)
            write_json(folder / CONFIG_NAME, settings)
        difference = check_peft(run_path, parent, folder)
    return AdapterExport(
        output=output, parent=parent, num_modules=len(weights) // 2,
        num_parameters=sum(weight.numel() for weight in weights.values()),
        max_logit_difference=difference,
    )  # fmt: skip


def to_their_pairs(
    state: Mapping[str, Tensor], config: TrainConfig
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the pairs under PEFT's names, and what adapter_config.json says of them."""
    model, lora = config.model, config.lora
    names = name_pairs(model, config.objective.name)
    weights: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name in sorted(own.removesuffix(PAIR[0]) for own in state if own.endswith(PAIR[0])):
        theirs = [full.removesuffix(".weight") for full in names[f"{name}.weight"]]
        first, second = (state[f"{name}{kind}"] for kind in PAIR)
        pairs = _their_pairs(first, second, find_parts(name, lora), len(theirs))
        for module, pair in zip(theirs, pairs, strict=True):
            if pair is not None:
                ranks[module] = len(pair[0])
                for kind, weight in zip(("lora_A", "lora_B"), pair, strict=True):
                    weights[f"{_PREFIX}{module}.{kind}.weight"] = weight.contiguous()
    other = {module: rank for module, rank in ranks.items() if rank != lora.rank}
    settings = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None,
        "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": sorted(ranks), "fan_in_fan_out": stock_family(model.family).is_transposed,
        "rank_pattern": other, "alpha_pattern": {m: lora.scale * r for m, r in other.items()},
        "inference_mode": True,
    }  # fmt: skip
    return weights, settings


def _their_pairs(
    first: Tensor, second: Tensor, parts: Parts, num_theirs: int
) -> list[tuple[Tensor, Tensor] | None]:
    """Return A (R, I) and B (O, R) of each of their modules; None: it has no pair.

    Args:
        first: (P, R, I)
        second: (P, O, R)
        parts: which maps these are of
        num_theirs: modules that our matrix merges
    """
    if num_theirs == parts.num and num_theirs > 1:
        found = dict(zip(parts.chosen, zip(first, second, strict=True), strict=True))
        return [found.get(part) for part in range(num_theirs)]
    if parts.num == 1:  # one pair over all rows: they share A
        return [(first[0].clone(), rows) for rows in second[0].chunk(num_theirs)]
    rows, rank = second.shape[1:]
    stacked = second.new_zeros(parts.num * rows, len(first) * rank)
    for place, (part, own) in enumerate(zip(parts.chosen, second, strict=True)):
        stacked[part * rows : (part + 1) * rows, place * rank : (place + 1) * rank] = own
    return [(first.flatten(0, 1), stacked)]


def check_peft(run_path: Path, parent: Path, adapter: Path) -> float | None:
    """Return the largest difference of a branch's logits to PEFT's on its exported parent.

    None where peft or transformers is not installed.

    Raises:
        HuggingFaceError: it is more than rounding
    """
    if any(importlib.util.find_spec(name) is None for name in ("peft", "transformers")):
        return None
    import peft

    run, base = load_run(run_path, "cpu"), load_run(parent, "cpu")
    objective = run.record.config.objective.name
    with tempfile.TemporaryDirectory() as folder:
        theirs = export_model(base.model, base.tokenizer, Path(folder), (), objective)
        stock = open_stock(Path(folder), theirs["architectures"][0])
    with silent():
        opened = peft.PeftModel.from_pretrained(stock, str(adapter)).eval()
    pad_id = theirs.get("pad_token_id")
    sample = make_sample(run.model.config, pad_id)
    return largest_difference(
        our_logits(run.model, sample.packed(), objective),
        logits_of(opened, sample, pad_id, takes_segments=run.model.config.traits.has_segments),
        f"peft computes other logits from {adapter}",
    )


# ---- The other way


@dataclass(frozen=True, kw_only=True)
class AdapterImport:
    """What became of an adapter."""

    output: Path
    parent: Path
    rank: int
    targets: tuple[Target, ...]
    num_parameters: int


def import_adapter(
    folder: Path, parent: Path, output: Path, *, overwrite: bool = False
) -> AdapterImport:
    """Write a branch of a run from an adapter of PEFT; it appears whole or not at all.

    Args:
        folder: that PEFT's `save_pretrained` wrote
        parent: the run that it was trained on, imported from the same base
        output: run folder to write
        overwrite: replace the run that is there

    Raises:
        HuggingFaceError: not of LoRA, or it changes what is no pair of this parent
        RunError, OutputError: the parent is missing, or `output` can't be written
    """
    settings = read_settings(folder)
    start, record = read_start(parent), read_record(parent)
    with writing_folder(output, RUN, overwrite=overwrite) as temporary:
        lora, state = from_their_pairs(
            load_tensors(folder / WEIGHTS_NAME),
            settings,
            start.model,
            record.config.objective.name,
            folder,
        )
        config = dataclasses.replace(
            record.config,
            init_from=str(parent),
            trainable="lora",
            lora=lora,
            replay=None,
            vocabulary_bias="zeros",
            first_embeddings="random",
        )
        own = RunRecord(
            config=config, num_steps=0, data_path="", data_hash="",
            tokenizer_hash=start.tokenizer.hash,
            environment=describe_environment(torch.device("cpu")),
            origin={**start.origin, "adapter": str(folder.resolve())},
        )  # fmt: skip
        with output_errors(output):
            create_run(temporary, own, start.tokenizer, overwrite=False)
            save_branch(temporary, state, config, start.origin)
    return AdapterImport(
        output=output, parent=parent, rank=lora.rank, targets=lora.targets,
        num_parameters=sum(weight.numel() for weight in state.values()),
    )  # fmt: skip


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what an adapter's folder says of itself.

    Raises:
        HuggingFaceError: it is no adapter of plain LoRA
    """
    try:
        settings = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HuggingFaceError(f"{folder / CONFIG_NAME} can't be read: {error}") from error
    wanted: dict[str, tuple[Any, ...]] = {
        "peft_type": ("LORA",), "bias": ("none", None), "use_dora": (False, None),
        "modules_to_save": (None, []), "trainable_token_indices": (None,),
    }  # fmt: skip
    for name, values in wanted.items():
        if settings.get(name) not in values:
            raise HuggingFaceError(
                f"{folder / CONFIG_NAME} says {name}={settings.get(name)!r}: plain LoRA pairs are "
                f"imported, with {name}={values[0]!r}"
            )
    return dict(settings)


def from_their_pairs(
    weights: Mapping[str, Tensor], settings: Mapping[str, Any], model: ModelConfig, objective: str,
    folder: Path,
) -> tuple[LoraConfig, dict[str, Tensor]]:  # fmt: skip
    """Return our pairs and what they are; those of lower rank are filled up with zeros.

    Raises:
        HuggingFaceError: a pair has no place here, or there is none
    """
    found: dict[str, tuple[Parts, dict[int, tuple[Tensor, Tensor]]]] = {}
    left = {name.removeprefix(_PREFIX) for name in weights}
    every = LoraConfig()
    for full, theirs in name_pairs(model, objective).items():
        name, parts = full.removesuffix(".weight"), find_parts(full.removesuffix(".weight"), every)
        pairs = []
        for module in (own.removesuffix(".weight") for own in theirs):
            keys = [f"{module}.{kind}.weight" for kind in ("lora_A", "lora_B")]
            has_pair = "layers." in full and all(key in left for key in keys)
            left -= set(keys) if has_pair else set()
            pairs.append(_scaled(weights, keys, settings, module) if has_pair else None)
        own_pairs = _our_pairs(pairs, parts)
        if own_pairs:
            found[name] = parts, own_pairs
    if left or not found:
        raise HuggingFaceError(
            f"{folder} holds {len(left)} weights that have no place in this parent, first "
            f"{min(left, default='none')}: take the run that was imported from its base model"
        )
    return _filled(found, model)


def _scaled(
    weights: Mapping[str, Tensor], keys: Sequence[str], settings: Mapping[str, Any], module: str
) -> tuple[Tensor, Tensor]:
    """Return A, and B times what the product is multiplied by."""
    first, second = (weights[_PREFIX + key].float() for key in keys)
    alphas = settings.get("alpha_pattern") or {}
    alpha = float(alphas.get(module, settings["lora_alpha"]))
    rank = len(first)
    return first, second * (alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _our_pairs(
    pairs: Sequence[tuple[Tensor, Tensor] | None], parts: Parts
) -> dict[int, tuple[Tensor, Tensor]]:
    """Return A (R, I) and B (O, R) of each map of our matrix that has a pair, by its number."""
    if len(pairs) == parts.num:
        return {part: pair for part, pair in enumerate(pairs) if pair is not None}
    if len(pairs) == 1:
        if pairs[0] is None:
            return {}
        first, second = pairs[0]
        return {part: (first, own) for part, own in enumerate(second.chunk(parts.num))}
    there = [pair for pair in pairs if pair is not None]
    if not there:
        return {}
    rows = there[0][1].shape[0]
    blocks = [
        first.new_zeros(rows, 0) if pair is None else pair[1]
        for pair, first in ((pair, there[0][0]) for pair in pairs)
    ]
    return {0: (torch.cat([first for first, _ in there]), torch.block_diag(*blocks))}  # type: ignore[no-untyped-call]


def _filled(
    found: Mapping[str, tuple[Parts, Mapping[int, tuple[Tensor, Tensor]]]], model: ModelConfig
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Return pairs of one rank for the same maps of every layer."""
    rank = max(len(first) for _, own in found.values() for first, _ in own.values())
    used = {
        target for target in get_args(Target) for name, (_, own) in found.items()
        if set(find_parts(name, LoraConfig(targets=(target,))).chosen) & own.keys()
    }  # fmt: skip
    targets = tuple(target for target in get_args(Target) if target in used)
    lora = LoraConfig(rank=rank, alpha=float(rank), targets=targets)
    state: dict[str, Tensor] = {}
    for full in name_pairs(model):
        name = full.removesuffix(".weight")
        parts = find_parts(name, lora)
        is_matrix = "layers." in full and name.endswith(
            ("qkv", "queries", "keys_values", ".output", ".input")
        )
        if not is_matrix or not full.endswith(".weight") or not parts.chosen:
            continue
        if name not in found:
            raise FitError(
                f"the adapter has pairs in some layers and none at {name}: adapters of some layers "
                "are not imported"
            )
        own = found[name][1]
        some = next(iter(own.values()))
        firsts, seconds = [], []
        for part in parts.chosen:
            first, second = own.get(part, (some[0][:0], some[1][:, :0]))
            firsts.append(torch.nn.functional.pad(first, (0, 0, 0, rank - len(first))))
            seconds.append(torch.nn.functional.pad(second, (0, rank - second.shape[1])))
        state[f"{name}{PAIR[0]}"], state[f"{name}{PAIR[1]}"] = (
            torch.stack(firsts), torch.stack(seconds)
        )  # fmt: skip
    return lora, state
