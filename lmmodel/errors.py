"""What a user of lmmodel can cause and mend.

LmmodelError
  DeviceError         the device or number format asked for is not there
  RunError            a run folder exists already, is missing or holds something else
  CheckpointError     a checkpoint is missing, broken, a pickle, or of another version
  ResumeError         data, tokenizer or configuration differ from those of the run to resume
  FitError            data and model do not fit: vocabulary, length, labels, an empty split
  DivergedError       the loss is not finite or has exploded
  MemoryLimitError    no micro-batch is small enough for the memory there is
  HuggingFaceError    a Hugging Face folder can't be read, written or represented here
  ServeError          a server can't listen, or its models can't be told apart
  TaskError           a task file lacks a column, holds an unknown label or does not align
"""

from __future__ import annotations


class LmmodelError(Exception):
    """Something that a user can cause and correct; its text is one line that says how."""


class DeviceError(LmmodelError):
    """The device or number format asked for is not there."""


class RunError(LmmodelError):
    """A run folder exists already, is missing or holds something else."""


class CheckpointError(LmmodelError):
    """A checkpoint is missing, broken, a pickle, or of another version."""


class ResumeError(LmmodelError):
    """Data, tokenizer or configuration differ from those of the run to resume."""


class FitError(LmmodelError):
    """Data and model do not fit: vocabulary, length, labels, or an empty split."""


class DivergedError(LmmodelError):
    """The loss is not finite or has exploded."""


class MemoryLimitError(LmmodelError):
    """No micro-batch is small enough for the memory there is."""


class HuggingFaceError(LmmodelError):
    """A Hugging Face folder can't be read, written or represented here."""


class ServeError(LmmodelError):
    """A server can't listen, or its models can't be told apart."""


class TaskError(LmmodelError):
    """A task file lacks a column, holds an unknown label or does not align."""
