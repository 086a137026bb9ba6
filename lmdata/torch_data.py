"""Views as datasets of PyTorch: faithful examples, exactly resumable, for any training loop.

Rows come as dictionaries of tensors under the names that stock models take. A row is a function of
(store, recipe, seed, epoch, number), so that workers, ranks and resuming change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from lmdata.batch import NO_LABEL, ORDERS, ExampleBatch, targets_of
from lmdata.errors import ConfigError
from lmdata.views import View

Row = dict[str, Tensor]
IGNORED = -100  # label of a token that is not predicted, as torch's cross entropy has it
_ROWS_AT_A_TIME = 64  # that a stream makes together, which is many times faster than one by one


class Examples(Dataset[Row]):
    """The examples of one epoch by number, for samplers and `DataLoader`; made by `torch_dataset`.

    A row holds `input_ids`, `attention_mask`, `labels` (-100 where nothing is predicted; of causal
    recipes the ids themselves, which stock models shift), all int64 (L,), `token_type_ids` int64
    (L,) unless the recipe is causal, and `next_sentence_label` int64 () where there are pairs. With
    a source and a target `labels` are the target, which stock models shift.

    `set_epoch` goes to another epoch: other pairs, masks and order. Trainer and accelerate call it.
    """

    def __init__(self, view: View, pad_id: int) -> None:
        """Serve the examples of a view; `pad_id` is what `collate` fills up with.

        Raises:
            ConfigError: rows would hold several sources and targets
        """
        if view.recipe.noise is not None and view.recipe.view_traits.is_packed:
            raise ConfigError(
                "view=packed lays several sources into a row, which stock encoder-decoders can't "
                "keep apart: use view=single"
            )
        self.view, self.pad_id = view, pad_id

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.view)

    def __getitem__(self, row: int) -> Row:
        """Return the example at a row; `IndexError` outside of [0, len)."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Row]:
        """Return the examples at some rows, made together; `DataLoader` asks for batches so."""
        batch = self.view.examples(np.asarray(rows, np.int64))
        return to_rows(batch, is_causal=self.view.recipe.corruption_traits.is_causal)

    def set_epoch(self, epoch: int) -> None:
        """Go to another epoch of the same store, recipe and seed."""
        if epoch != self.view.epoch:
            self.view = self.view.at_epoch(epoch)

    def collate(self, rows: Sequence[Row]) -> Row:
        """Return a batch, padded on the right to its longest row: tensors (B, L) and (B,)."""
        return pad_rows(rows, self.pad_id)

    def stream(self, *, rank: int = 0, num_ranks: int = 1) -> ExampleStream:
        """Return the examples of this epoch and all that follow as an endless iterable.

        It goes through epochs of its own: this dataset stays where it is.

        Args:
            rank: of this process, in [0, num_ranks), which takes every `num_ranks`-th example
            num_ranks: 1 also where something else deals out batches to processes, as Trainer does
        """
        return ExampleStream(Examples(self.view, self.pad_id), rank, num_ranks)


class ExampleStream(IterableDataset[Row]):
    """Epoch after epoch of `Examples`, dealt out to ranks and workers, with a state to go on from.

    `state_dict` names the next row of this process (of one worker: `torchdata`'s stateful loader
    keeps them all). It may be loaded wherever there are as many ranks and workers.
    """

    def __init__(self, examples: Examples, rank: int, num_ranks: int) -> None:
        """Begin at the epoch of the examples.

        Raises:
            ValueError: no such rank
        """
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank must be in [0, {num_ranks}), got {rank}")
        self._examples, self._rank, self._num_ranks = examples, rank, num_ranks
        self._epoch, self._done = examples.view.epoch, 0  # rows of the epoch that are given out

    def __iter__(self) -> Iterator[Row]:
        """Yield rows from where the state is, without an end."""
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        index, count = self._rank + self._num_ranks * index, self._num_ranks * count
        while True:
            self._examples.set_epoch(self._epoch)
            own = range(index, len(self._examples), count)
            while self._done < len(own):
                for row in self._examples.__getitems__(own[self._done :][:_ROWS_AT_A_TIME]):
                    self._done += 1
                    yield row
            self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Return where this stream is: the epoch and the rows of it that were given out."""
        return {"epoch": self._epoch, "rows_done": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state of a stream of the same store, recipe, seed, ranks and workers."""
        self._epoch, self._done = state["epoch"], state["rows_done"]


def to_rows(batch: ExampleBatch, *, is_causal: bool) -> list[Row]:
    """Return examples as dictionaries of tensors, as `Examples` describes them."""
    flat = {"input_ids": batch.input_ids.astype(np.int64)}
    flat["attention_mask"] = np.ones_like(flat["input_ids"])
    if is_causal:
        flat["labels"] = flat["input_ids"].copy()
    else:
        flat["token_type_ids"] = batch.token_type_ids.astype(np.int64)
        flat["labels"] = np.full_like(flat["input_ids"], IGNORED)
        flat["labels"][batch.flat_masked_positions()] = batch.masked_labels
    if (orders := batch.arrays().get(ORDERS.name)) is not None:
        flat[ORDERS.name] = orders.astype(np.int64)
    lengths = np.diff(batch.offsets).tolist()
    split = {name: torch.split(torch.from_numpy(array), lengths) for name, array in flat.items()}
    rows = [dict(zip(split, tensors, strict=True)) for tensors in zip(*split.values(), strict=True)]
    targets = targets_of(batch)
    for row, target in zip(rows, [] if targets is None else targets.rows(), strict=False):
        row["labels"] = torch.from_numpy(target[1:].astype(np.int64))
    for row, label in zip(rows, batch.next_sentence_label.tolist(), strict=True):
        if label != NO_LABEL:
            row["next_sentence_label"] = torch.tensor(label)
    return rows


def pad_rows(rows: Sequence[Row], pad_id: int) -> Row:
    """Return rows as one batch: ragged columns (B, L) filled up on the right, others (B,).

    Example:
        >>> rows = [{"input_ids": torch.tensor([7, 8])}, {"input_ids": torch.tensor([9])}]
        >>> pad_rows(rows, 0)["input_ids"].tolist()
        [[7, 8], [9, 0]]
    """
    fill = {"input_ids": pad_id, "labels": IGNORED}
    batch: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if values[0].ndim:
            batch[name] = torch.nn.utils.rnn.pad_sequence(
                values, batch_first=True, padding_value=fill.get(name, 0)
            )
        else:
            batch[name] = torch.stack(values)
    return batch
