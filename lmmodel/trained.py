"""A trained run as its folder holds it, and texts as it reads them: data.

What it can be asked is `lmmodel.asking`; another run may begin with its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from torch import Tensor

from lmdata.config import build_config
from lmdata.errors import ConfigError
from lmdata.tokenizer import Tokenizer, load_tokenizer, twin
from lmmodel.config import OWN_SETTINGS
from lmmodel.data import TrainingData
from lmmodel.device import resolve_device
from lmmodel.encoder_decoder import build_model
from lmmodel.errors import DivergedError, FitError, ResumeError, RunError
from lmmodel.families import ModelConfig
from lmmodel.inference import Packs, Precision, prepare, state_of_weights
from lmmodel.model import Transformer
from lmmodel.objectives import OBJECTIVES, Definition, modules_of
from lmmodel.record import WEIGHTS_NAME, read_values
from lmmodel.saving.branch import find_weights, hash_weights
from lmmodel.saving.checkpoint import load_weights
from lmmodel.saving.run import RunRecord, read_record
from lmmodel.saving.state import load_state
from lmmodel.texts import Frame, TextIds, encode_texts, frame_around


@dataclass(frozen=True)
class Run:
    """A trained model, its tokenizer and what it was trained by."""

    path: Path
    record: RunRecord
    model: Transformer  # float32, in evaluation mode
    tokenizer: Tokenizer
    device: torch.device
    _prepared: dict[Precision, tuple[object, Transformer]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    packs: Packs | None = field(default=None, repr=False, compare=False)
    """What branches of one parent have laid out together; None: it shares nothing."""

    def prepared(self, precision: Precision = "fp32") -> Transformer:
        """Return the model as `inference.prepare` lays it out: made at the first call, then kept.

        It is made anew where the weights were changed since.
        """
        state = state_of_weights(self.model)
        kept = self._prepared.get(precision)
        if kept is None or kept[0] != state:
            twin = prepare(self.model, precision, self.packs)
            kept = self._prepared[precision] = (state, twin)
        return kept[1]

    @cached_property
    def prompt_backend(self) -> tokenizers.Tokenizer:
        """The tokenizer as prompts are read: special tokens that they spell are special."""
        backend = twin(self.tokenizer.backend)
        if self.tokenizer.backend.post_processor is not None:
            backend.post_processor = self.tokenizer.backend.post_processor
        backend.encode_special_tokens = False
        return backend

    @property
    def objective(self) -> Definition:
        """What it was trained on."""
        return OBJECTIVES[self.record.config.objective.name]

    @property
    def is_causal(self) -> bool:
        """Whether it was trained on next tokens only, so that a token sees no later ones."""
        return self.objective.is_causal

    @property
    def can_generate(self) -> bool:
        """Whether it was trained on next tokens, alone or beside masked ones."""
        return self.objective.can_generate


def load_run(path: Path | str, device: str = "auto") -> Run:
    """Return the model in a run folder, ready to answer.

    Raises:
        RunError: no run there, or no weights yet
        CheckpointError: the weights are damaged, not finite or of another model
        DeviceError: a GPU is asked for and there is none
    """
    path = Path(path)
    record, where = read_record(path), resolve_device(device)
    state, config = load_state(path, record), record.config
    model = build_model(config.model, seed=None, extras=modules_of(config.objective, config.model))
    load_weights(model, state)
    return Run(path, record, model.to(where).eval(), load_tokenizer(path), where)


def listed(texts: Sequence[str] | str) -> Sequence[str]:
    """Return one text as a list of it, others as they are."""
    return [texts] if isinstance(texts, str) else texts


def encode_given(tokenizer: Tokenizer, texts: Sequence[str]) -> TextIds:
    """Return the ids of texts; special tokens that are spelled out in them are read as text.

    Raises:
        FitError: a text is empty, or nothing in it is a token
    """
    encoded = encode_texts(tokenizer.backend, texts)
    for index in np.flatnonzero(encoded.lengths == 0)[:1]:
        raise FitError(
            f"text {index + 1} of {len(texts)} has no token in it: {texts[index]!r}; leave it out"
        )
    return encoded


def frame_of(run: Run, *, start_token: str | None = None) -> Frame:
    """Return what stands around a text; causal rows were trained without anything before them.

    Args:
        run: the model
        start_token: of a causal model: the piece to begin with, so that the first token of a text
            is predicted too; None: the first token is given

    Raises:
        TokenizerError: the tokenizer lacks a special token that the model was trained with
        FitError: `start_token` is no piece, or the model is masked
    """
    tokenizer = run.tokenizer
    if not run.is_causal:
        if start_token is not None:
            raise FitError("a masked model sees the whole text: it takes no start token")
        return frame_around([tokenizer.require_special("cls")], [tokenizer.require_special("sep")])
    if start_token is None:
        return frame_around([], [])
    index = tokenizer.backend.token_to_id(start_token)
    if index is None:
        raise FitError(f"{start_token!r} is no piece of the tokenizer of {run.path}")
    return frame_around([index], [])


def check_finite(run: Run, values: np.ndarray | Tensor) -> None:
    """Check that what a model computed is numbers, as nothing may be said by others.

    Raises:
        DivergedError: one is not finite
    """
    is_finite = torch.isfinite(torch.as_tensor(values)).all()
    if not is_finite:
        raise DivergedError(
            f"what {run.path} computes is not finite: its weights are damaged, or training went "
            "astray; take an earlier checkpoint, or train again"
        )


# Beginning with the weights of an earlier run: what is taken over, and what must fit.


@dataclass(frozen=True)
class Start:
    """A run whose weights another one begins with."""

    path: Path
    model: ModelConfig
    tokenizer: Tokenizer
    num_steps: int
    weights_hash: str  # xxh3_128 of its weights

    @property
    def origin(self) -> dict[str, Any]:
        """What the record of the new run says of it."""
        return {
            "run": str(self.path.resolve()),
            "weights_xxh3": self.weights_hash,
            "num_steps": self.num_steps,
        }


def read_start(folder: Path) -> Start:
    """Return the run in a folder, ready to begin with.

    Raises:
        RunError: no run there, or one of another version
        FitError: it has no weights yet
        TokenizerError: its tokenizer is missing or damaged
    """
    values = read_values(folder)
    if find_weights(folder) is None:
        raise FitError(f"{folder} has no {WEIGHTS_NAME} yet: train it to its first checkpoint")
    model = {name: value for name, value in values["config"]["model"].items() if value is not None}
    return Start(
        path=folder,
        model=build_config(ModelConfig, model),
        tokenizer=load_tokenizer(folder),
        num_steps=values["num_steps"],
        weights_hash=hash_weights(folder),
    )


def find_start(init_from: str | None, model: ModelConfig, data: TrainingData) -> Start | None:
    """Return the run to begin with, None where the weights are to be fresh.

    Raises:
        RunError, ConfigError, FitError: as `read_start` and `check_start`
    """
    if init_from is None:
        return None
    start = read_start(Path(init_from))
    check_start(start, model, data)
    return start


def check_own_place(init_from: str | None, output: Path) -> None:
    """Check that a new run does not take the place of the one that it begins with.

    Raises:
        RunError: it would
    """
    if init_from is not None and Path(init_from).resolve() == output.resolve():
        raise RunError(
            f"a run can't begin with {init_from} and take its place: choose another --output"
        )


def check_start(start: Start, model: ModelConfig, data: TrainingData) -> None:
    """Check that a model of this shape can take over a run's weights and go on with this data.

    Raises:
        ConfigError: another shape; the message names what differs
        FitError: the data was made with another tokenizer; the message names what differs
    """
    if differences := shape_differences(start.model, model):
        raise ConfigError(
            f"the model is to begin with the weights of {start.path}, but {'; '.join(differences)}:"
            " leave these settings out, they come from there"
        )
    if difference := tokenizer_difference(start.tokenizer, data.tokenizer):
        raise FitError(
            f"{data.path} was made with another tokenizer than {start.path}: {difference}. "
            f"Tokenize with `lmdata tokenize --tokenizer {start.path}`"
        )


def shape_differences(earlier: ModelConfig, model: ModelConfig) -> list[str]:
    """Return "model.x is A, there B" for each setting that decides about weights and differs.

    A head for sentence pairs may come in addition; it begins afresh.

    Example:
        >>> shape_differences(ModelConfig(size="mini"), ModelConfig(size="small"))
        ['model.hidden_size is 512, there 256', 'model.embedding_size is 512, there 256', \
'model.num_attention_heads is 8, there 4', 'model.intermediate_size is 2048, there 1024']
    """
    before, after = dataclasses.asdict(earlier), dataclasses.asdict(model)
    for own in OWN_SETTINGS:
        del before[own], after[own]
    before["has_nsp_head"] |= after["has_nsp_head"]
    return [
        f"model.{name} is {after[name]}, there {value}"
        for name, value in before.items()
        if after[name] != value
    ]


def tokenizer_difference(ours: Tokenizer, theirs: Tokenizer) -> str | None:
    """Return what of two tokenizers would give a text other ids, None where nothing would.

    What they put around a text does not count: rows are put together by the recipe.
    """
    if ours.hash == theirs.hash:
        return None
    if ours.vocab_size != theirs.vocab_size:
        return f"it has {theirs.vocab_size:,} pieces, there {ours.vocab_size:,}"
    pairs = enumerate(zip(ours.pieces, theirs.pieces, strict=True))
    if other := [(i, a, b) for i, (a, b) in pairs if a != b]:
        index, there, here = other[0]
        return f"{len(other):,} pieces differ, first id {index}: {here!r}, there {there!r}"
    for part in ("normalizer", "pre_tokenizer", "model"):
        if ours.definition.get(part) != theirs.definition.get(part):
            return f"the pieces are the same, its {part} is not"
    for name in sorted(ours.special_tokens.keys() | theirs.special_tokens.keys()):
        here, there = theirs.special_tokens.get(name), ours.special_tokens.get(name)
        if here != there:
            return f"its {name} token is {here!r}, there {there!r}"
    return None


def first_weights(
    init_from: str | None, origin: Mapping[str, Any] | None
) -> dict[str, Tensor] | None:
    """Return the weights that a run's record says it began with, None where they were fresh.

    Raises:
        ResumeError: they are gone, or others by now
        CheckpointError: they are damaged
    """
    if init_from is None or origin is None:
        return None
    path = Path(origin["run"])
    if find_weights(path) is None or hash_weights(path) != origin["weights_xxh3"]:
        raise ResumeError(
            f"the run began with the weights of {origin['run']} (xxh3 {origin['weights_xxh3']}), "
            "which are no longer there, and what it has of its own is not enough to go on: put "
            "them back, or start a new run"
        )
    return load_state(path)


def check_tokenizer(tokenizer: Tokenizer, data: TrainingData) -> None:
    """Check that data was made with the tokenizer of the model.

    Raises:
        FitError: with another one
    """
    if difference := tokenizer_difference(tokenizer, data.tokenizer):
        raise FitError(
            f"{data.path} was made with tokenizer {data.tokenizer.hash}, the run with "
            f"{tokenizer.hash}: {difference}. Tokenize with the tokenizer of the run folder"
        )
