"""`diagnose`: what is wrong with a run, each thing named, with what is seen and what to do.

The curves are looked at while training, too (`diagnosing.curves.examine`); what the data and the
model say is looked at here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.batch import ORDERS, ExampleBatch
from lmdata.dataset import TokenStore, open_store
from lmdata.errors import LmdataError
from lmdata.recipes import Recipe
from lmdata.xxh3 import xxh3_128
from lmmodel.config import TrainConfig
from lmmodel.data import TrainingData
from lmmodel.diagnosing import Finding, examine, no_better_than_frequency
from lmmodel.errors import FitError, RunError
from lmmodel.evaluation import HeldOut, score_held_out, scores_by_term, vocabulary_of
from lmmodel.loader import MicroBatch, Shape, split_micro_batches
from lmmodel.objectives import Objective, make_objective
from lmmodel.objectives.objective import Part, join_scores
from lmmodel.pair_files import open_training_data
from lmmodel.saving.branch import find_weights
from lmmodel.saving.metrics import METRICS_NAME, read_metrics
from lmmodel.saving.run import RunRecord, own_data, read_record
from lmmodel.trained import Run, load_run

# ---- What a run's data and its model say: a sample of rows looked at, and shifted labels


NUM_ROWS = 1024  # of the training split that are looked at
NUM_SCORED = 64  # held-out examples whose labels are shifted
MOST_DOCUMENTS = 100_000  # that are compared with each other
_TOKENS = 2048  # of a micro-batch


def training_rows(config: TrainConfig, data: TrainingData) -> list[tuple[Part, ExampleBatch]]:
    """Return the first training rows as each part of the objective learns from them."""
    objective = make_objective(config.objective)
    rows = data.rows("train", config.recipe or Recipe(), seed=config.seed)
    numbers = np.arange(min(NUM_ROWS, rows.num_rows))
    examples = rows.take(0, numbers)
    parts = objective.split(examples, [(0, numbers)], config.seed)
    return list(zip(objective.parts, parts, strict=True))


def masks_are_not_applied(part: Part, rows: ExampleBatch) -> Finding | None:
    """Most tokens that are to be predicted stand unchanged in the input."""
    is_ordered = ORDERS.name in rows.arrays()  # then they are hidden where they stand
    if part.is_causal or is_ordered or not len(rows.masked_labels):
        return None
    kept = float((rows.input_ids[rows.flat_masked_positions()] == rows.masked_labels).mean())
    if kept <= 0.5:
        return None
    return Finding(
        name="masks-not-applied",
        message=f"{kept:.0%} of the tokens that are to be predicted stand unchanged in the input",
        advice="Raise recipe.mask_proportion (0.8 is usual), and look with `lmdata show`",
    )


def labels_are_others(part: Part, rows: ExampleBatch, recipe: Recipe) -> Finding | None:
    """Labels are not the tokens at their places, as far as the input shows them.

    Of next tokens it shows all, of masked ones those that the recipe keeps, a tenth.
    """
    flat, labels = rows.flat_masked_positions(), rows.masked_labels
    if not len(labels):
        return None
    if part.is_causal:
        wanted, places = 1.0, np.minimum(flat + 1, len(rows.input_ids) - 1)
    else:
        wanted, places = recipe.proportions[2], flat
    share = float((rows.input_ids[places] == labels).mean())
    if share >= 0.5 * wanted or wanted * len(labels) < 50:
        return None
    return Finding(
        name="labels-shifted",
        message=f"{share:.1%} of the labels stand at their place in the input, {wanted:.0%} "
        "should: they are those of other places",
        advice="Label each place with its own token (causal: with the next one), and train again",
    )


def pairs_are_told_by_length(rows: ExampleBatch) -> Finding | None:
    """A bound on one length tells true pairs from false ones nearly as well as a model could."""
    is_pair = rows.next_sentence_label >= 0
    labels = rows.next_sentence_label[is_pair] == 1
    if min(int(labels.sum()), int((~labels).sum())) < 30:
        return None
    totals = np.diff(rows.offsets)
    second = np.add.reduceat(rows.token_type_ids.astype(np.int64), rows.offsets[:-1])
    lengths = {"both": totals, "the second": second, "the first": totals - second}
    found = {name: told_by(own[is_pair], labels) for name, own in lengths.items()}
    name = max(found, key=lambda key: found[key])
    if found[name] <= 0.8:
        return None
    return Finding(
        name="pairs-by-length",
        message=f"the length of {name} alone tells {found[name]:.0%} of the sentence pairs",
        advice="Make the pairs anew with one length for true and false ones (`lmdata mask`)",
    )


def told_by(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the balanced accuracy of the best bound on a value, in [0.5, 1].

    Args:
        values: integers (N,)
        labels: bool (N,), both kinds there

    Example:
        >>> told_by(np.array([1, 2, 8, 9]), np.array([False, False, True, True]))
        1.0
    """
    order = np.argsort(values, kind="stable")
    is_last = np.append(np.diff(values[order]) > 0, True)
    share = [np.cumsum(kind[order])[is_last] / kind.sum() for kind in (labels, ~labels)]
    return float(0.5 + np.abs(share[0] - share[1]).max() / 2)


def documents_are_copies(data: TrainingData) -> Finding | None:
    """Many documents of the training split are copies of others."""
    if data.is_frozen:
        return None
    store = open_store(data.path, "train")
    share = _share_of_copies(store)
    if share <= 0.2:
        return None
    return Finding(
        name="repeated",
        message=f"{share:.0%} of the training documents are copies of others",
        advice="Leave copies out of the corpus and tokenize again",
    )


def _share_of_copies(store: TokenStore) -> float:
    num = min(len(store), MOST_DOCUMENTS)
    hashes = {xxh3_128(store.document(row)[0].tobytes()).hexdigest()
              for row in range(num)}  # fmt: skip
    return 1 - len(hashes) / max(num, 1)


def model_predicts_other_places(run: Run, data: TrainingData) -> Finding | None:
    """The model finds the tokens beside the right ones likelier: it was taught those."""
    losses = shifted_losses(run, data)
    if not losses:
        return None
    best = min(losses, key=lambda shift: losses[shift])
    if losses[best] > losses[0] - 0.5:
        return None
    return Finding(
        name="labels-shifted",
        message=f"the model predicts the token {best:+d} beside the right one with "
        f"{losses[best]:.2f} nats, the right one with {losses[0]:.2f}: it learned shifted labels",
        advice="Label each place with its own token (causal: with the next one), and train again",
    )


def shifted_losses(run: Run, data: TrainingData) -> Mapping[int, float]:
    """Return the mean loss of the held-out tokens at -1, 0 and +1 beside the right ones.

    None of them where the objective labels no tokens of the input.
    """
    config = run.record.config
    objective = make_objective(config.objective)
    definition, part = objective.definition, objective.parts[0]
    examples = data.held_out(definition.hold_out(config.recipe or Recipe()), NUM_SCORED)
    labelled = part.label(examples)
    if definition.has_targets:  # which the decoder reads, and so has beside the right ones
        return {}
    flat = labelled.flat_masked_positions() + part.is_causal
    ids = labelled.input_ids if part.is_causal else labelled.original_ids()
    rows = np.repeat(np.arange(len(labelled)), np.diff(labelled.mask_offsets))
    first, last = labelled.offsets[rows], labelled.offsets[rows + 1] - 1
    return {
        shift: _loss(run, data, objective, labelled.replace(
            masked_labels=ids[np.clip(flat + shift, first, last)]
        ))
        for shift in (0, -1, 1)
    }  # fmt: skip


def _loss(run: Run, data: TrainingData, objective: Objective, labelled: ExampleBatch) -> float:
    part = objective.parts[0]
    batches = split_micro_batches(labelled, Shape(_TOKENS), part.pack)
    held_out = HeldOut(
        objective=objective,
        micro_batches=tuple(MicroBatch(batch, 0) for batch in batches),
        num_examples=len(labelled),
        documents=labelled.document_a,
        vocabulary=vocabulary_of(data),
    )
    scores = scores_by_term(objective, score_held_out(run, held_out))[0]
    return float(join_scores(scores)["losses"].mean())


# ---- The diagnosis


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
        data = open_training_data(own_data(path, record), path, record.config.model)
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
    if find_weights(path):
        yield model_predicts_other_places(load_run(path), data)
