"""To and from folders that stock transformers classes open. No remote code, no pickle."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lmdata.tokenizer import Tokenizer, save_tokenizer
from lmmodel.batch import Batch, make_batch
from lmmodel.checkpoint import save_tensors
from lmmodel.errors import HuggingFaceError
from lmmodel.huggingface_names import (
    architecture,
    from_their_config,
    from_their_weights,
    to_their_config,
    to_their_weights,
)
from lmmodel.model import Transformer, make_model, num_parameters


def export_model(
    model: Transformer,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that `from_pretrained` of a stock transformers class opens.

    Args:
        model: on any device
        tokenizer: the one its ids belong to
        folder: is made; files in it are overwritten
        figures: what the model card tells: name to value, or to a table of names and values

    Raises:
        HuggingFaceError: the tokenizer has more ids than the model
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise HuggingFaceError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model only "
            f"{model.config.vocab_size}: export with the tokenizer that it was trained with"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: weight.detach().cpu() for name, weight in model.state_dict().items()}
    weights = to_their_weights(state, model.config)
    save_tensors(folder / "model.safetensors", weights)
    theirs = to_their_config(model.config, tokenizer.special_ids)
    _write_text(folder / "config.json", json.dumps(theirs, indent=2) + "\n")
    save_tokenizer(tokenizer, folder)
    _write_text(folder / "README.md", model_card(model, figures or {}))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def model_card(model: Transformer, figures: Mapping[str, Any]) -> str:
    """Return the README of an exported model: what it is, what it was made from, how it does."""
    name = architecture(model.config)
    task = "text-generation" if model.config.is_causal else "fill-mask"
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "---",
        "",
        f"# {name}, {model.config.num_hidden_layers} layers of {model.config.hidden_size}",
        "",
        f"{num_parameters(model.config):,} parameters, {model.config.vocab_size:,} ids, at most "
        f"{model.config.max_position_embeddings} tokens. Opens with `transformers.{name}`, "
        "without remote code.",
    ]
    if model.config.has_nsp_head and name != "BertForPreTraining":
        lines += ["", f"The sentence-pair head is left out: {name} has no place for it."]
    if model.config.vocab_size % 64 == 0:
        lines += ["", "Ids beyond the tokenizer's last, if any, are padding of the matrix."]
    plain = {key: value for key, value in figures.items() if not isinstance(value, Mapping)}
    tables = {key: value for key, value in figures.items() if isinstance(value, Mapping)}
    for title, table in ({"Figures": plain, **tables} if plain else tables).items():
        lines += ["", f"## {title}", "", "| | |", "| --- | --- |"]
        lines += [f"| {key} | {value} |" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def import_model(folder: Path) -> tuple[Transformer, list[str]]:
    """Return the model of a Hugging Face folder and the names of its weights that are fresh.

    Only heads may be fresh: a checkpoint of the base model has none.

    Raises:
        HuggingFaceError: no such folder, only a pickle, an architecture or a setting that is not
            supported, or weights that do not fit
    """
    theirs = _read_config(folder)
    weights = _read_weights(folder)
    has_nsp_head = theirs.get("model_type") == "bert" and "cls.seq_relationship.weight" in weights
    config = from_their_config(theirs, has_nsp_head=has_nsp_head)
    state, missing = from_their_weights(weights, config)
    if lost := [name for name in missing if not name.startswith("head.")]:
        raise HuggingFaceError(
            f"{folder} lacks {len(lost)} weights that a {config.family} model needs, first "
            f"{lost[0]}: is config.json that of these weights?"
        )
    model = make_model(config, seed=0)
    for name, parameter in model.named_parameters():
        if name in state and state[name].shape != parameter.shape:
            raise HuggingFaceError(
                f"{name} has shape {tuple(state[name].shape)} in {folder}, config.json says "
                f"{tuple(parameter.shape)}"
            )
    model.load_state_dict(state, strict=False)
    return model, missing


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise HuggingFaceError(f"{folder} holds no config.json: is it a Hugging Face folder?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HuggingFaceError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise HuggingFaceError(f"{path} must hold a table, it holds a {type(content).__name__}")
    return content


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of all safetensors files of the folder."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    elif (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    else:
        _refuse_pickle(folder)
    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="pt") as file:
                weights |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise HuggingFaceError(f"{folder / name} can't be read: {error}") from error
    return weights


def _refuse_pickle(folder: Path) -> None:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".h5"})
    if pickles:
        raise HuggingFaceError(
            f"{folder} holds its weights as {pickles[0]} only, which can run code when it is "
            "opened: convert it with `AutoModel.from_pretrained(...).save_pretrained(..., "
            "safe_serialization=True)` on a machine where that is safe, or get model.safetensors"
        )
    raise HuggingFaceError(f"{folder} holds no model.safetensors")


def check_parity(model: Transformer, folder: Path, *, seed: int = 0) -> float | None:
    """Return the largest difference of logits between the model and its export, opened stock.

    Both run in float32 on the CPU, on sequences of random ids.

    Returns:
        The largest absolute difference, or None where transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        return None
    batch, input_ids = _random_batch(model, seed)
    ours = vocabulary_logits(model, batch).view(*input_ids.shape, -1)
    difference = ours - stock_logits(folder, architecture(model.config), input_ids)
    return float(difference.abs().max())


def _random_batch(model: Transformer, seed: int) -> tuple[Batch, Tensor]:
    length = min(model.config.max_position_embeddings, 2 * model.config.local_window + 3)
    generator = torch.Generator().manual_seed(seed)
    # Stock BERT takes its pad id, usually 0, as any other where no attention mask is given.
    input_ids = torch.randint(1, model.config.vocab_size, (2, length), generator=generator)
    return make_batch(input_ids.flatten(), torch.full((2,), length)), input_ids


@torch.no_grad()
def vocabulary_logits(model: Transformer, batch: Batch) -> Tensor:
    """Return the logits of every token: float32 (T, V), computed on the CPU without dropout."""
    twin = Transformer(model.config).eval()
    twin.load_state_dict({name: weight.cpu() for name, weight in model.state_dict().items()})
    logits: Tensor = twin.lm_logits(twin(batch))
    return logits


@torch.no_grad()
def stock_logits(folder: Path, class_name: str, input_ids: Tensor) -> Tensor:
    """Return what a stock transformers class makes of the folder: float32 (B, L, V)."""
    import transformers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    theirs = getattr(transformers, class_name).from_pretrained(folder, dtype=torch.float32).eval()
    output = theirs(input_ids=input_ids)
    logits = output.prediction_logits if "prediction_logits" in output else output.logits
    return logits  # type: ignore[no-any-return]
