"""Values of a config.json that others wrote, checked one by one before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_families import stock_family

# The most that a folder may ask for: beyond every model of these families, below what hurts.
MOST = {
    "vocab_size": 1 << 24, "hidden_size": 1 << 17, "num_hidden_layers": 1000,
    "num_attention_heads": 1 << 12, "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 24, "type_vocab_size": 1 << 16, "local_window": 1 << 24,
    "global_every": 1 << 12, "embedding_size": 1 << 17, "num_hidden_groups": 1000,
    "num_decoder_layers": 1000, "attention_head_size": 1 << 12,
}  # fmt: skip
RANGES = {
    "norm_eps": (0, 1), "initializer_range": (0, 100), "dropout": (0, 0.999),
    "attention_dropout": (0, 0.999), "global_rope_theta": (1e-6, 1e12),
    "local_rope_theta": (1e-6, 1e12),
}  # fmt: skip

_MOST_SHOWN = 60


def shown(value: Any) -> str:
    """Return a value as the file spells it, cut where it is long.

    Example:
        >>> shown(None), shown(True), shown("a")
        ('null', 'true', '"a"')
    """
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def checked(our: str, their: str, value: Any, default: Any) -> Any:
    """Return a setting of theirs as a number of the right type, None where that is its default.

    Raises:
        HuggingFaceError: another type, or out of range
    """
    if value is None and default is None:
        return None
    is_count = our in MOST
    lowest, highest = (1, MOST[our]) if is_count else RANGES[our]
    is_number = isinstance(value, int if is_count else (int, float)) and not isinstance(value, bool)
    if not is_number or not lowest <= value <= highest:
        kind = "a whole number" if is_count else "a number"
        raise HuggingFaceError(
            f"config.json says {their}={shown(value)}: {kind} from {lowest} to {highest:,} "
            "is needed"
        )
    return value if is_count else float(value)


def check_token_id(theirs: Mapping[str, Any], name: str) -> None:
    """Check that a setting of theirs is an id, null, or of texts' ends a list of them.

    Raises:
        HuggingFaceError: it is something else
    """
    value = theirs.get(name)
    ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
    if any(isinstance(one, bool) or not isinstance(one, int | None) for one in ids):
        raise HuggingFaceError(f"config.json says {name}={shown(value)}: an id is needed, or null")


def rows_of_padding(theirs: Mapping[str, Any], family: str, most: int) -> int:
    """Return how many rows of a position table lie before that of the first position.

    Raises:
        HuggingFaceError: no position is left
    """
    pad_id = theirs.get("pad_token_id", stock_family(family).default_pad_id)
    if not isinstance(pad_id, int) or isinstance(pad_id, bool) or not 0 <= pad_id < most - 1:
        raise HuggingFaceError(
            f"config.json says pad_token_id={shown(pad_id)}: positions follow it, so an id "
            f"from 0 to {most - 2} is needed, below max_position_embeddings={most}"
        )
    return pad_id + 1


def our_layers(theirs: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """Return the layer pattern and rotary bases of a ModernBERT configuration."""
    every = theirs.get("global_attn_every_n_layers", 3)
    every = checked("global_every", "global_attn_every_n_layers", every, 3)
    kinds = theirs.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != num_layers or set(map(repr, kinds)) - {
            "'full_attention'", "'sliding_attention'"
        }:  # fmt: skip
            raise HuggingFaceError(
                f"config.json says layer_types={shown(kinds)}: a list of {num_layers} "
                "layers is needed, each full_attention or sliding_attention"
            )
        every = _every_nth(
            [i for i, kind in enumerate(kinds) if kind == "full_attention"], num_layers
        )
    return {"global_every": every, **_our_rotary_bases(theirs)}


def _every_nth(is_global: list[int], num_layers: int) -> int:
    """Return how far apart the layers lie that see everything.

    Raises:
        HuggingFaceError: they are not every n-th layer from the first

    Example:
        >>> _every_nth([0, 3, 6], 8)
        3
    """
    every = is_global[1] if len(is_global) > 1 else num_layers
    if is_global != list(range(0, num_layers, every or 1)):
        raise HuggingFaceError(
            f"layer_types has full attention in layers {is_global}: "
            "only every n-th layer from the first is supported"
        )
    return every


def _our_rotary_bases(theirs: Mapping[str, Any]) -> dict[str, float]:
    if theirs.get("rope_scaling") is not None:
        raise HuggingFaceError(
            f"rope_scaling={shown(theirs['rope_scaling'])} is not supported, only null"
        )
    tables = theirs.get("rope_parameters")
    kinds = {"full_attention": "global", "sliding_attention": "local"}
    tables = {} if tables is None else tables
    if not isinstance(tables, dict) or any(
        kind not in kinds or not isinstance(table, dict) for kind, table in tables.items()
    ):
        raise HuggingFaceError(
            f"config.json says rope_parameters={shown(tables)}: a table of two tables is "
            f"needed, {' and '.join(kinds)}, as its class writes it"
        )
    bases = {}
    for kind, ours in kinds.items():
        table = tables.get(kind, {})
        if other := {key: value for key, value in table.items() if key != "rope_theta"
                     and (key, value) != ("rope_type", "default")}:  # fmt: skip
            raise HuggingFaceError(
                f"rope_parameters of {kind} say {shown(other)}: only rope_theta and "
                "rope_type='default' are supported"
            )
        name = f"{ours}_rope_theta"
        theta = table.get("rope_theta", theirs.get(name, getattr(ModelConfig, name)))
        bases[name] = checked(name, name, theta, getattr(ModelConfig, name))
    return bases
