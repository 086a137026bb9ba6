"""`diagnose`: what is wrong with a run, each thing named, with what is seen and what to do.

The curves are looked at while training, too (`diagnosing.curves.examine`); what the data and the
model say is looked at here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmdata.errors import LmdataError
from lmdata.recipes import Recipe
from lmmodel.data import TrainingData, open_data
from lmmodel.diagnosing.curves import Finding, examine, no_better_than_frequency
from lmmodel.diagnosing.probes import (
    documents_are_copies,
    labels_are_others,
    masks_are_not_applied,
    model_predicts_other_places,
    pairs_are_told_by_length,
    training_rows,
)
from lmmodel.errors import FitError, RunError
from lmmodel.record import WEIGHTS_NAME
from lmmodel.saving.metrics import METRICS_NAME, read_metrics
from lmmodel.saving.run import RunRecord, own_data, read_record
from lmmodel.trained import load_run


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with a run, the gravest first as the rules are listed."""

    num_steps: int  # done
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]  # what could not be looked at, and why

    @property
    def summary(self) -> str:
        """One line."""
        found = ", ".join(finding.name for finding in self.findings)
        looked = f"{self.num_steps:,} steps looked at: "
        lacking = "".join(f"; {note}" for note in self.notes)
        return looked + (found or "nothing is wrong that is known here") + lacking


def diagnose(run_path: Path | str) -> Diagnosis:
    """Return what is wrong with a run, told from its curves, its data and its model.

    Raises:
        RunError: no run of a Transformer there
        CheckpointError: its weights are damaged
    """
    path = Path(run_path)
    record = read_record(path)
    entries = read_metrics(path / METRICS_NAME)
    found, notes = list(examine(entries, record.num_steps)), []
    if not found:
        found += [finding for finding in (no_better_than_frequency(entries),) if finding]
    try:
        data = open_data(own_data(path, record))
        found += [finding for finding in _look_inside(path, record, data) if finding is not None]
    except (LmdataError, FitError, RunError) as error:  # moved, imported, or made anew
        notes.append(f"its data could not be looked at: {error}")
    return Diagnosis(
        num_steps=entries[-1]["step"] if entries else 0,
        findings=tuple({finding.name: finding for finding in reversed(found)}.values())[::-1],
        notes=tuple(notes),
    )


def _look_inside(path: Path, record: RunRecord, data: TrainingData) -> Iterator[Finding | None]:
    """Yield what the training rows, the documents and the model say."""
    recipe = record.config.recipe or Recipe()
    for part, rows in training_rows(record.config, data):
        yield masks_are_not_applied(part, rows)
        yield labels_are_others(part, rows, recipe)
        yield pairs_are_told_by_length(rows)
    yield documents_are_copies(data)
    if (path / WEIGHTS_NAME).is_file():
        yield model_predicts_other_places(load_run(path), data)
