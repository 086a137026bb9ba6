"""What tells the domain of a text: the posterior over domains, given its first tokens.

p(domain | text) is proportional to p(domain) p(text | domain)^(1 / temperature); prior and
temperature are learned on validation text. What is known of a text given a domain comes from n-gram
models of the domains, from the experts' own likelihoods (as in DEMix, Gururangan et al., 2022), or
from how far its vector is from the mean of theirs.

N texts, D domains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from lmdata.ragged import offsets_of
from lmmodel.errors import FitError
from lmmodel.predicting.likelihood import embed, token_scores, windows_of
from lmmodel.texts import TextIds
from lmmodel.trained import Run, frame_of

if TYPE_CHECKING:  # which compiles: 0.4 s
    from lmmodel.ngrams import NgramModel

RouterKind = Literal["ngram", "likelihood", "embedding"]

TEMPERATURES = tuple(2.0**power for power in range(-10, 8))
"""Those that are tried."""


class Evidence(Protocol):
    """How well texts go with each domain."""

    def score(self, texts: TextIds) -> np.ndarray:
        """Return log p(text | domain) up to what is the same for all domains: float64 (N, D)."""


@dataclass(frozen=True)
class NgramEvidence:
    """By an n-gram model of each domain."""

    models: Sequence[NgramModel]

    def score(self, texts: TextIds) -> np.ndarray:
        """As in `Evidence`."""
        return np.stack([_sums(model.score_ids(texts), texts) for model in self.models], axis=1)


@dataclass(frozen=True)
class LikelihoodEvidence:
    """By the expert of each domain: of masked models the pseudo-log-likelihood."""

    runs: Sequence[Run]  # (D,), one may serve several domains

    def score(self, texts: TextIds) -> np.ndarray:
        """As in `Evidence`."""
        found: dict[int, np.ndarray] = {}
        for run in self.runs:
            if id(run) not in found:
                frame = frame_of(run)
                windows = windows_of(run, texts, frame)
                scores = token_scores(run, run.prepared(), texts, frame, windows)
                found[id(run)] = _sums(np.nan_to_num(scores), texts)
        return np.stack([found[id(run)] for run in self.runs], axis=1)


@dataclass(frozen=True)
class EmbeddingEvidence:
    """By the distance of a text's vector from the mean of each domain's."""

    run: Run  # the parent
    means: np.ndarray  # float32 (D, H)

    def score(self, texts: TextIds) -> np.ndarray:
        """As in `Evidence`."""
        vectors = embed(self.run, texts).vectors
        apart = vectors[:, None].astype(np.float64) - self.means[None]
        return np.asarray(-np.square(apart).sum(axis=2))


def _sums(scores: np.ndarray, texts: TextIds) -> np.ndarray:
    """Return the sum of each text's float64 (T,) scores: float64 (N,)."""
    return np.diff(np.concatenate([[0.0], np.cumsum(scores)])[texts.offsets])


def shorten(texts: TextIds, most: int) -> TextIds:
    """Return the first `most` tokens of each text.

    Example:
        >>> texts = TextIds(np.arange(5, dtype=np.int32), np.array([0, 3, 5]))
        >>> shorten(texts, 2).ids.tolist()
        [0, 1, 3, 4]
    """
    lengths = np.minimum(texts.lengths, most)
    span = texts.span(np.arange(len(texts)), 0, lengths)
    return TextIds(texts.ids[span.source], offsets_of(lengths))


def posterior(scores: np.ndarray, prior: Sequence[float], temperature: float) -> np.ndarray:
    """Return p(domain | text): float64 (N, D).

    Args:
        scores: float64 (N, D) of `Evidence`
        prior: of each domain, above 0
        temperature: above 0

    Example:
        >>> posterior(np.log([[0.2, 0.6]]), [0.5, 0.5], 1.0).round(2).tolist()
        [[0.25, 0.75]]
    """
    logits = scores / temperature + np.log(np.asarray(prior))
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def learn(scores: np.ndarray, domains: np.ndarray) -> tuple[tuple[float, ...], float]:
    """Return the prior and the temperature by which labelled texts are likeliest.

    The prior is how frequent domains are, each once more than it is there.

    Args:
        scores: float64 (N, D)
        domains: int64 (N,) in [0, D)

    Example:
        >>> learn(np.array([[0.0, -3.0], [-9.0, 0.0], [0.0, -1.0]]), np.array([0, 1, 0]))[0]
        (0.6, 0.4)
    """
    counts = np.bincount(domains, minlength=scores.shape[1]) + 1.0
    prior = tuple((counts / counts.sum()).tolist())
    rows = np.arange(len(domains))

    def surprise(temperature: float) -> float:
        shares = posterior(scores, prior, temperature)[rows, domains]
        return float(-np.log(np.maximum(shares, 1e-300)).mean())

    return prior, min(TEMPERATURES, key=surprise)


def halves(domains: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return which texts judge: of each domain every second one, bool (N,); the others teach.

    Args:
        domains: int64 (N,)
        names: of the domains

    Raises:
        FitError: a domain has fewer than two

    Example:
        >>> halves(np.array([0, 1, 0, 1, 1]), ["law", "code"]).tolist()
        [False, False, True, True, False]
    """
    counts = np.bincount(domains, minlength=len(names))
    for number in np.flatnonzero(counts < 2)[:1]:
        raise FitError(
            f"domain {names[number]} has {counts[number]} validation texts among those looked at, "
            "a router needs two of each: raise --num-examples, or hold out more text"
        )
    is_judged = np.zeros(len(domains), bool)
    for number in range(len(names)):
        is_judged[np.flatnonzero(domains == number)[1::2]] = True
    return is_judged


def keep_likeliest(shares: np.ndarray, top_k: int) -> np.ndarray:
    """Return shares of which only the `top_k` largest of each row are left, which sum to 1.

    Args:
        shares: float64 (N, E)
        top_k: at least 1

    Example:
        >>> keep_likeliest(np.array([[0.2, 0.3, 0.5]]), 2).round(3).tolist()
        [[0.0, 0.375, 0.625]]
    """
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top_k]
    kept = np.zeros_like(shares)
    np.put_along_axis(kept, order, np.take_along_axis(shares, order, axis=1), axis=1)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def mix(log_p: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the log-probability of each token by a mixture of experts: float64 (T,).

    Args:
        log_p: float64 (T, E) of each expert; where a share is 0 it may be anything
        shares: float64 (T, E), rows sum to 1

    Example:
        >>> mix(np.log([[0.5, 0.1]]), np.array([[0.5, 0.5]])).round(3).tolist()
        [-1.204]
    """
    with np.errstate(divide="ignore"):
        weighted = np.where(shares > 0, log_p + np.log(shares), -np.inf)
    most = weighted.max(axis=1, keepdims=True)
    return np.asarray(most[:, 0] + np.log(np.exp(weighted - most).sum(axis=1)))
