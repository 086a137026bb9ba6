"""One vector for each text: the mean of the last layer over its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmmodel.batch import Batch, make_batch
from lmmodel.errors import FitError
from lmmodel.inference import batch_tokens, map_batches, split_by_tokens
from lmmodel.model import Transformer
from lmmodel.texts import Frame, TextIds, Windows, cut_windows
from lmmodel.trained import Run, check_finite, encode_given, frame_of


@dataclass(frozen=True)
class Embeddings:
    """Of N texts."""

    vectors: np.ndarray  # float32 (N, D)
    num_windowed: int  # texts longer than the model takes


def embed(
    run: Run,
    texts: Sequence[str] | TextIds,
    *,
    normalize: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Return the mean of the last layer over the tokens of each text.

    Special tokens around the text count, as in the mean pooling of sentence-transformers. A text
    longer than the model takes is read in windows side by side; the mean is over all of them.

    Args:
        run: any model
        texts: each with a token at least; or their ids
        normalize: whether vectors get length 1, so that their product is the cosine
        progress: called with windows finished and their number

    Raises:
        FitError: a text is empty
    """
    encoded = texts if isinstance(texts, TextIds) else encode_given(run.tokenizer, texts)
    frame = frame_of(run)
    most = run.model.config.max_position_embeddings - frame.num_tokens
    if most < 1:
        raise FitError(f"the model takes {most + frame.num_tokens} tokens: too few for any text")
    windows = cut_windows(encoded.lengths, np.full(len(encoded), most), 0)
    sums = np.zeros((len(encoded), run.model.config.hidden_size))
    model, num_done = run.prepared(), 0
    groups = _groups(encoded, frame, windows, batch_tokens(run.device))
    jobs = map_batches(lambda job: (job[0], _sum_tokens(model, job[1], run)), groups, run.device)
    for group, own in jobs:
        np.add.at(sums, windows.sequence[group], own)
        num_done += len(group)
        if progress is not None:
            progress(num_done, len(windows.sequence))
    counts = np.bincount(
        windows.sequence, windows.lengths + frame.num_tokens, minlength=len(encoded)
    )
    check_finite(run, sums)
    vectors = sums / counts[:, None]
    if normalize:
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Embeddings(vectors.astype(np.float32), windows.num_cut)


def _groups(
    encoded: TextIds, frame: Frame, windows: Windows, most: int
) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield window numbers and their batch, shortest first."""
    lengths = windows.lengths + frame.num_tokens
    before, after = np.array(frame.before, np.int64), np.array(frame.after, np.int64)
    starts = encoded.offsets[:-1][windows.sequence] + windows.starts
    stops = starts + windows.lengths
    for group in split_by_tokens(lengths, most):
        parts = [
            part
            for window in group
            for part in (
                before,
                encoded.ids[starts[window] : stops[window]],
                after,
            )
        ]
        ids = torch.from_numpy(np.concatenate(parts))
        yield group, make_batch(ids, torch.from_numpy(lengths[group]))


def _sum_tokens(model: Transformer, batch: Batch, run: Run) -> np.ndarray:
    """Return the sum over the tokens of each sequence: float64 (S, D)."""
    batch = batch.to(run.device)
    hidden = model(batch, is_causal=run.is_causal).double()  # (T, D)
    sequences = torch.arange(batch.num_sequences, device=run.device)
    sequence = torch.repeat_interleave(sequences, batch.cu_seqlens.diff().long())
    sums = hidden.new_zeros(batch.num_sequences, hidden.shape[1]).index_add_(0, sequence, hidden)
    return np.asarray(sums.cpu().numpy())
