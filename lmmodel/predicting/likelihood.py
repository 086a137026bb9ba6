"""What a model makes of whole texts: how likely it finds them, in nats, and one vector for each.

A causal model gives the log-likelihood: the sum over tokens of log p(token | those before it). A
masked model gives the pseudo-log-likelihood (Salazar et al., "Masked language model scoring", ACL
2020): the sum over tokens of log p(token | all others), each from a copy of the text with that one
token masked. Copies of equal length are packed into large batches, and copies that are equal, as
those of two texts that differ in the masked word only, are computed once.

A text longer than the model takes is read in windows: for likelihoods they overlap by half, each
token scored in the first window that has it; for vectors they lie side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lmmodel.batch import Batch, make_batch
from lmmodel.errors import FitError
from lmmodel.inference import (
    Precision,
    batch_tokens,
    label_log_probabilities,
    map_batches,
    split_by_tokens,
)
from lmmodel.model import Transformer
from lmmodel.texts import Frame, TextIds, Windows, cut_windows
from lmmodel.trained import Run, check_finite, encode_given, frame_of

# Tokens of the masked copies that exist at once.
_COPIED_TOKENS = 2**22


@dataclass(frozen=True)
class Likelihoods:
    """Of N texts."""

    total: np.ndarray  # float64 (N,), nats, at most 0
    num_tokens: np.ndarray  # int64 (N,), tokens scored
    num_bytes: np.ndarray  # int64 (N,), of the text in UTF-8
    num_windowed: int  # texts longer than the model takes

    @property
    def per_token(self) -> np.ndarray:
        """Float64 (N,), nats; NaN where no token was scored."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.total / np.where(self.num_tokens, self.num_tokens, np.nan))

    @property
    def per_byte(self) -> np.ndarray:
        """Float64 (N,), nats: comparable between models with other tokenizers."""
        return np.asarray(self.total / self.num_bytes)


@dataclass(frozen=True)
class _Job:
    """One batch and what it is to predict."""

    batch: Batch
    rows: torch.Tensor  # int64 (R,) of the batch, whose logits are needed
    sources: torch.Tensor  # int64 (P,) ascending, into `rows`
    labels: torch.Tensor  # int64 (P,)
    tokens: np.ndarray  # int64 (P,), into the ids of all texts: where each score belongs


def log_likelihoods(
    run: Run,
    texts: Sequence[str],
    *,
    start_token: str | None = None,
    precision: Precision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Likelihoods:
    """Return how likely a model finds each text: log-likelihood, of masked models pseudo.

    Args:
        run: the model
        texts: each with a token at least; special tokens spelled out in them are read as text
        start_token: of a causal model: the piece to begin with, such as `<|endoftext|>`, so that
            the first token is scored as well; None: the first token is given, as in training
        precision: bf16 is twice as fast where the hardware has it, and off by some 0.01 nats
        progress: called with tokens scored and their number

    Raises:
        FitError: a text is empty, `start_token` is no piece or the model masked, or it learned
            vectors only
        TokenizerError: the tokenizer lacks a special token that the model needs
    """
    if run.objective.makes_vectors:
        raise FitError(
            f"{run.path} learned vectors of texts and no longer guesses tokens: ask it by embed"
        )
    encoded, frame = encode_given(run.tokenizer, texts), frame_of(run, start_token=start_token)
    windows = windows_of(run, encoded, frame)
    model = run.prepared(precision)
    scores = token_scores(run, model, encoded, frame, windows, progress=progress)
    return sum_scores(texts, encoded, scores, windows.num_cut)


def sum_scores(
    texts: Sequence[str], encoded: TextIds, scores: np.ndarray, num_windowed: int
) -> Likelihoods:
    """Return the likelihood of each text from those of its tokens.

    Args:
        texts: N
        encoded: their ids, T in all
        scores: float64 (T,), NaN of tokens that are given
        num_windowed: texts longer than the model takes
    """
    text = np.repeat(np.arange(len(encoded)), encoded.lengths)
    is_scored = ~np.isnan(scores)
    return Likelihoods(
        total=np.bincount(text[is_scored], scores[is_scored], minlength=len(encoded)),
        num_tokens=np.bincount(text[is_scored], minlength=len(encoded)),
        num_bytes=np.array([len(t.encode("utf-8", "surrogatepass")) for t in texts], np.int64),
        num_windowed=num_windowed,
    )


def windows_of(run: Run, encoded: TextIds, frame: Frame) -> Windows:
    """Return windows that leave room for the frame and overlap by half.

    Raises:
        FitError: the model takes too few tokens for one
    """
    most = run.model.config.max_position_embeddings - frame.num_tokens
    if most < 2:
        raise FitError(f"the model takes {most + frame.num_tokens} tokens: too few for any text")
    return cut_windows(encoded.lengths, np.full(len(encoded), most), most // 2)


def token_scores(
    run: Run,
    model: Transformer,
    encoded: TextIds,
    frame: Frame,
    windows: Windows,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the log-probability of each token: float64 (T,), NaN where nothing precedes it.

    Raises:
        DivergedError: the model gives none
    """
    make_jobs = _next_token_jobs if run.is_causal else _masked_jobs
    if run.objective.token_scores is not None:
        make_jobs = _own_jobs
    scores = np.full(len(encoded.ids), np.nan)
    num_done = 0
    jobs = make_jobs(run, encoded, frame, windows)
    for tokens, values in map_batches(lambda job: _score(model, job, run), jobs, run.device):
        check_finite(run, values)
        scores[tokens] = values
        num_done += len(tokens)
        if progress is not None:
            progress(num_done, len(scores))
    return scores


def _score(model: Transformer, job: _Job, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of a job and their log-probabilities, float64 (P,)."""
    device = run.device
    own = run.objective.token_scores
    ask = model.guess if own is None else model
    hidden = ask(job.batch.to(device), is_causal=run.is_causal, rows=job.rows.to(device))
    if own is not None:
        return job.tokens, own(model, hidden).double().cpu().numpy()
    sources, labels = job.sources.to(device), job.labels.to(device)
    values = label_log_probabilities(model, hidden, sources, labels)
    return job.tokens, values.double().cpu().numpy()


def _next_token_jobs(run: Run, encoded: TextIds, frame: Frame, windows: Windows) -> Iterator[_Job]:
    """Yield batches of windows, shortest first, each token predicted from the one before."""
    before = np.array(frame.before, np.int64)
    lengths = windows.lengths + len(before)
    starts, new_starts = _places(encoded, windows)
    for group in split_by_tokens(lengths, batch_tokens(run.device)):
        tokens = [np.arange(starts[w], starts[w] + windows.lengths[w]) for w in group]
        ends = np.cumsum(lengths[group])
        rows, wanted = [], []
        for window, own, end in zip(group, tokens, ends, strict=True):
            is_wanted = own >= new_starts[window]
            is_wanted[0] &= bool(len(before))
            wanted.append(own[is_wanted])
            rows.append(end - own[-1] - 1 + wanted[-1] - 1)
        ids = np.concatenate([np.concatenate([before, encoded.ids[own]]) for own in tokens])
        flat = np.concatenate(wanted)
        if len(flat):
            yield _Job(
                batch=make_batch(torch.from_numpy(ids), torch.from_numpy(lengths[group])),
                rows=torch.from_numpy(np.concatenate(rows)),
                sources=torch.arange(len(flat)),
                labels=torch.from_numpy(encoded.ids[flat].astype(np.int64)),
                tokens=flat,
            )


def _own_jobs(run: Run, encoded: TextIds, frame: Frame, windows: Windows) -> Iterator[_Job]:
    """Yield batches of windows, shortest first, each token judged where it stands."""
    lengths = windows.lengths + frame.num_tokens
    starts, new_starts = _places(encoded, windows)
    for group in split_by_tokens(lengths, batch_tokens(run.device)):
        tokens = [np.arange(starts[w], starts[w] + windows.lengths[w]) for w in group]
        begins = np.cumsum(lengths[group]) - lengths[group] + len(frame.before)
        rows = [begin + np.arange(len(own)) for begin, own in zip(begins, tokens, strict=True)]
        is_new = np.concatenate(
            [own >= new_starts[window] for window, own in zip(group, tokens, strict=True)]
        )
        flat, places = np.concatenate(tokens)[is_new], np.concatenate(rows)[is_new]
        ids = [np.concatenate([frame.before, encoded.ids[own], frame.after]) for own in tokens]
        yield _Job(
            batch=make_batch(
                torch.from_numpy(np.concatenate(ids).astype(np.int64)),
                torch.from_numpy(lengths[group]),
            ),
            rows=torch.from_numpy(places),
            sources=torch.arange(len(flat)),
            labels=torch.from_numpy(encoded.ids[flat].astype(np.int64)),
            tokens=flat,
        )


def _places(encoded: TextIds, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Return where windows begin in the ids of all texts, and from where on tokens count there."""
    begins = encoded.offsets[:-1][windows.sequence]
    return begins + windows.starts, begins + windows.new_starts


def _masked_jobs(run: Run, encoded: TextIds, frame: Frame, windows: Windows) -> Iterator[_Job]:
    """Yield batches of copies of equal length, each with one token masked."""
    mask_id = run.tokenizer.require_special("mask")
    most = batch_tokens(run.device)
    for length in np.unique(windows.lengths):
        own = np.flatnonzero(windows.lengths == length)
        num_together = max(1, _COPIED_TOKENS // int(length) ** 2)
        for start in range(0, len(own), num_together):
            copies = _copy(encoded, frame, windows, own[start : start + num_together], mask_id)
            yield from copies.jobs(most)


@dataclass(frozen=True)
class _Copies:
    """C distinct masked copies of L tokens, and P tokens to predict from them."""

    ids: np.ndarray  # int64 (C, L)
    places: np.ndarray  # int64 (C,), of the mask
    sources: np.ndarray  # int64 (P,) ascending, into the copies
    labels: np.ndarray  # int64 (P,)
    tokens: np.ndarray  # int64 (P,), into the ids of all texts

    def jobs(self, most: int) -> Iterator[_Job]:
        """Yield batches of at most `most` tokens, or of one copy."""
        length = self.ids.shape[1]
        num_rows = max(1, most // length)
        for start in range(0, len(self.ids), num_rows):
            stop = min(start + num_rows, len(self.ids))
            part = slice(*np.searchsorted(self.sources, [start, stop]))
            rows = np.arange(stop - start) * length + self.places[start:stop]
            yield _Job(
                batch=make_batch(
                    torch.from_numpy(self.ids[start:stop].ravel()),
                    torch.full((stop - start,), length),
                ),
                rows=torch.from_numpy(rows),
                sources=torch.from_numpy(self.sources[part] - start),
                labels=torch.from_numpy(self.labels[part]),
                tokens=self.tokens[part],
            )


def _copy(
    encoded: TextIds, frame: Frame, windows: Windows, chosen: np.ndarray, mask_id: int
) -> _Copies:
    """Return the masked copies of windows of one length, equal ones once."""
    length = int(windows.lengths[chosen[0]])
    starts, new_starts = (part[chosen][:, None] for part in _places(encoded, windows))
    tokens = starts + np.arange(length)  # (W, L - frame)
    ids = encoded.ids[tokens].astype(np.int64)
    framed = np.concatenate(
        [
            np.broadcast_to(np.array(frame.before, np.int64), (len(ids), len(frame.before))),
            ids,
            np.broadcast_to(np.array(frame.after, np.int64), (len(ids), len(frame.after))),
        ],
        axis=1,
    )
    window, place = np.nonzero(tokens >= new_starts)  # (P,) each
    copies = framed[window]
    copies[np.arange(len(copies)), place + len(frame.before)] = mask_id
    _, first, source = np.unique(copies, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(source, kind="stable")
    return _Copies(
        ids=copies[first],
        places=(place + len(frame.before))[first],
        sources=source[order],
        labels=ids[window, place][order],
        tokens=tokens[window, place][order],
    )


# ---- Vectors: the mean of the last layer over the tokens


@dataclass(frozen=True)
class TextVectors:
    """Of N texts."""

    vectors: np.ndarray  # float32 (N, D)
    num_windowed: int  # texts longer than the model takes


def embed(
    run: Run,
    texts: Sequence[str] | TextIds,
    *,
    normalize: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> TextVectors:
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
    return TextVectors(vectors.astype(np.float32), windows.num_cut)


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
