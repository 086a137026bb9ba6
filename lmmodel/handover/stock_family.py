"""How a family is handed over to transformers, as a record.

`{i}` is a layer. Where one of our weights merges several of theirs along the rows, theirs are
listed in that order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class StockFamily:
    """How a family is handed over, beside its traits in `lmmodel.families`."""

    model_type: str
    """What config.json calls it."""
    class_prefix: str
    """What the classes of tasks begin with."""
    pretrained: str
    """The class of a pretrained model."""
    of_objectives: Mapping[str, tuple[str, Names]] = field(default_factory=dict)
    """By objective: the class for a model with the modules of that one, which has no vocabulary
    head, and their names for the weights in them."""
    paired: str | None = None
    """The same with a head for sentence pairs, None where there is no such class."""
    settings: Mapping[str, tuple[str, Any]]
    """Our setting: theirs, and what their class takes where config.json is silent."""
    dropouts: tuple[str, ...] = ()
    """Other settings of theirs that our one dropout is written to."""
    fixed: Mapping[str, Any]
    """Their settings that have one value here: a folder that says otherwise is refused."""
    unwritten: Mapping[str, Any] = field(default_factory=dict)
    """The same, of old versions only."""
    implied: Mapping[str, str] = field(default_factory=dict)
    """Their setting that older folders don't tell: the one, true by default, that has its value."""
    repeated: Mapping[str, str] = field(default_factory=dict)
    """Their settings of the decoder that must be equal to those of ours."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """Their settings that an export has, whatever an import says."""
    classifier_dropout: str = "classifier_dropout"
    """What they call the dropout before a task's classifier."""
    of_heads: Mapping[str, Any] = field(default_factory=dict)
    """Their settings of every task's head."""
    token_ids: tuple[str, ...]
    """Purposes of the special ids that config.json tells."""
    prefix: str
    """Of the base model's weights; checkpoints saved from it leave it out."""
    names: Names
    """Our weight: theirs."""
    transform: Names = field(default_factory=dict)
    """What transforms hidden states before a task's classifier."""
    transforms_tokens: bool = True
    """Whether that is so for tasks over tokens too."""
    tied: Mapping[str, str]
    """Our weight: the other name under which it may lie, alone or as a copy."""
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """Our weight: what theirs is, where a folder does not hold it."""
    num_unused_positions: int = 0
    """Rows of their position tables before that of the first place, whatever the padding id."""
    summands: Mapping[str, str] = field(default_factory=dict)
    """Our weight: theirs whose first row is added to each row of it, and is zeros in an export."""
    follows_padding: bool = False
    """Whether the row of the first position is the one after the padding id's."""
    default_pad_id: int | None = None
    """The padding id where config.json is silent, for families whose positions follow it."""
    by_heads: Mapping[str, bool] = field(default_factory=dict)
    """How names of ours end whose theirs have heads and their features as two axes: whether those
    are the outputs, which theirs has behind the inputs."""
    is_transposed: bool = False
    """Whether the matrices inside layers lie the other way round."""


def with_biases(names: Names) -> dict[str, tuple[str, ...]]:
    """Return the table with a `.bias` row after each `.weight` row."""
    return {
        f"{ours}.{kind}": tuple(f"{name}.{kind}" for name in theirs)
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
    }
