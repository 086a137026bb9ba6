"""Learning from other runs: which teachers there are, and that a student fits them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lmmodel.data import TrainingData
from lmmodel.errors import FitError
from lmmodel.families import ModelConfig
from lmmodel.model import Transformer
from lmmodel.objectives.distilled import student_weights
from lmmodel.optimizing import DistillationConfig
from lmmodel.trained import Start, load_run, read_start, shape_differences, tokenizer_difference


def with_known_teacher(
    config: DistillationConfig, model: ModelConfig, data: TrainingData
) -> DistillationConfig:
    """Return what is learned from teachers with the hashes of their weights, checked to fit.

    Raises:
        RunError, FitError: no run there, it has another vocabulary or width, or has changed
    """
    if config.teacher is None:
        return config
    teachers = [read_start(Path(path)) for path in config.teachers]
    for teacher in teachers:
        _check_fits(config, teacher, model, data)
    hashes = "+".join(teacher.weights_hash for teacher in teachers)
    if config.teacher_xxh3 not in (None, hashes):
        raise FitError(
            f"the teacher {' or '.join(config.teachers)} has other weights now (xxh3 {hashes}) "
            f"than when the run began (xxh3 {config.teacher_xxh3}): start a new run"
        )
    _check_widths(config, teachers[0].model, model)
    return dataclasses.replace(config, teacher_xxh3=hashes)


def _check_fits(
    config: DistillationConfig, teacher: Start, model: ModelConfig, data: TrainingData
) -> None:
    """Refuse a teacher that says nothing of the student's vocabulary."""
    if difference := tokenizer_difference(teacher.tokenizer, data.tokenizer):
        raise FitError(
            f"{data.path} was made with another tokenizer than the teacher {teacher.path}: "
            f"{difference}. Tokenize with `lmdata tokenize --tokenizer {teacher.path}`, or take "
            "a teacher of this vocabulary"
        )
    if teacher.model.vocab_size != model.vocab_size:
        raise FitError(
            f"the teacher {teacher.path} has {teacher.model.vocab_size} ids, the model "
            f"{model.vocab_size}: set model.vocab_size={teacher.model.vocab_size}"
        )


def _check_widths(config: DistillationConfig, teacher: ModelConfig, model: ModelConfig) -> None:
    """Refuse what does not fit the shapes of teacher and student."""
    if config.hidden_weight and teacher.hidden_size != model.hidden_size:
        raise FitError(
            f"hidden states of {model.hidden_size} and of the teacher's {teacher.hidden_size} "
            "features have no angle: set distillation.hidden_weight=0, or take a student as wide"
        )
    if config.takes_layers and (differences := unlike_teacher(teacher, model)):
        raise FitError(
            f"the student can't begin with layers of the teacher {config.teacher}: "
            f"{'; '.join(differences)}. Set distillation.takes_layers=false, or these alike"
        )


def _have_alike_layers(teacher: ModelConfig, model: ModelConfig) -> bool:
    """Whether families differ in segments alone, which the student leaves out, and in heads."""
    own = model.traits
    theirs = dataclasses.replace(
        teacher.traits, pooler_activation=own.pooler_activation, objective=own.objective,
        has_segments=own.has_segments, positions=own.positions,
    )  # fmt: skip
    return theirs == own and teacher.traits.has_segments >= own.has_segments


def unlike_teacher(teacher: ModelConfig, model: ModelConfig) -> list[str]:
    """Return what keeps a student from beginning with layers of a teacher.

    Example:
        >>> unlike_teacher(ModelConfig(), ModelConfig(num_hidden_layers=2))
        []
    """
    depths = ("model.num_hidden_layers", "model.num_hidden_groups")
    teacher = dataclasses.replace(teacher, has_nsp_head=model.has_nsp_head)
    if _have_alike_layers(teacher, model):
        teacher = dataclasses.replace(
            teacher, family=model.family, type_vocab_size=model.type_vocab_size
        )
    found = [
        difference
        for difference in shape_differences(teacher, model)
        if not difference.startswith(depths)
    ]
    if model.num_hidden_groups > teacher.num_hidden_groups:
        found.append(
            f"model.num_hidden_layers is {model.num_hidden_layers}, there only "
            f"{teacher.num_hidden_layers}"
        )
    return found


def load_teachers(config: DistillationConfig, device: str, precision: str) -> list[Transformer]:
    """Return the teachers of a run, in the order of the configuration, ready to be asked."""
    found = []
    for path in config.teachers:
        teacher = load_run(path, device="cpu").model.to(torch.device(device))
        if precision == "bf16":
            teacher = teacher.bfloat16()
            teacher.compute_dtype = torch.bfloat16
        found.append(teacher)
    return found


def layers_of_teacher(
    config: DistillationConfig, model: ModelConfig
) -> Mapping[str, Tensor] | None:
    """Return the weights that a student begins with: layers of its first teacher, or None."""
    if config.teacher is None or not config.takes_layers:
        return None
    teacher = load_run(config.teacher, device="cpu").model
    return student_weights(teacher.state_dict(), teacher.config, model)
