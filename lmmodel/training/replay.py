"""Against forgetting: some examples of each step are of the data that the parent was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmdata.batch import ExampleBatch, concatenate
from lmmodel.config import TrainConfig
from lmmodel.data import Rows, TrainingData, open_data
from lmmodel.errors import FitError
from lmmodel.saving.run import own_data, read_record
from lmmodel.trained import check_tokenizer

# The parent's examples are drawn in epochs of their own, so that no two draws have one address.
FIRST_EPOCH = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """The parent's own held-out loss, nats: of the parent, and after training."""

    before: float
    after: float

    @property
    def sentence(self) -> str:
        """What was forgotten."""
        return (
            f"forgotten of the parent's data: held-out loss {self.before:.4f} before, "
            f"{self.after:.4f} after ({self.after - self.before:+.4f})"
        )


def parents_data(config: TrainConfig, data: TrainingData) -> TrainingData | None:
    """Return what the parent was trained on, None where nothing of it is wanted.

    Raises:
        RunError: it was imported and has no data
        FitError: the data has changed, is frozen, or is of another tokenizer
    """
    if config.replay is None or config.init_from is None:
        return None
    record = read_record(Path(config.init_from))
    found = open_data(own_data(Path(config.init_from), record), record.config.selection)
    if found.hash != record.data_hash:
        raise FitError(
            f"the data of {config.init_from}, {found.path}, is other data now (manifest "
            f"{found.hash}, then {record.data_hash}): leave --replay out"
        )
    if found.is_frozen or data.is_frozen:
        frozen = found.path if found.is_frozen else data.path
        raise FitError(f"replay mixes token stores, {frozen} holds frozen examples: name the store")
    check_tokenizer(data.tokenizer, found)
    return found


class ReplayRows:
    """Rows of which a share, evenly spread, are of other ones.

    Row i is the parent's where the number of those that there should be grows at i.
    """

    def __init__(self, own: Rows, parents: Rows, share: float) -> None:
        self._own, self._parents, self._share = own, parents, share
        self.num_rows = round(own.num_rows / (1 - share))

    def take(self, epoch: int, rows: np.ndarray, progress: float = 0.0) -> ExampleBatch:
        """As in `data.Rows`."""
        before, behind = (np.floor(at * self._share).astype(np.int64) for at in (rows, rows + 1))
        is_parents = behind > before
        parts, order = [], []
        if not is_parents.all():
            own = (rows - before)[~is_parents] % self._own.num_rows
            parts.append(self._own.take(epoch, own, progress))
            order.append(np.flatnonzero(~is_parents))
        if is_parents.any():
            of_epoch = int(self.num_rows * self._share) + 1
            number = before[is_parents] + (epoch % FIRST_EPOCH) * of_epoch
            epochs = FIRST_EPOCH + number // self._parents.num_rows
            for own_epoch in np.unique(epochs):
                chosen = np.flatnonzero(epochs == own_epoch)
                parts.append(self._parents.take(
                    int(own_epoch), number[chosen] % self._parents.num_rows, progress
                ))  # fmt: skip
                order.append(np.flatnonzero(is_parents)[chosen])
        return concatenate(parts).take(np.argsort(np.concatenate(order)))
