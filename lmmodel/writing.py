"""An encoder-decoder writes about what it has read: greedily, by lot, or with beams.

The search is that of `generate` in transformers 5, token for token, but that a source whose search
has ended leaves the batch. A finished hypothesis of n tokens, the end included, is worth the sum of
its log-probabilities divided by n to the power of `length_penalty`.

Shapes: S sources that are still written about, B hypotheses each, V vocabulary, C tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lmdata.rng import draw, stream_key
from lmmodel.batch import TARGET, Batch, Stream, batch_of, make_stream
from lmmodel.cores import num_cores
from lmmodel.encoder_decoder import EncoderDecoder, Written
from lmmodel.inference import map_batches, split_by_tokens

IMPOSSIBLE = -1.0e9
"""Score of what is not there, as in transformers."""

# Hypotheses that are written side by side, and source tokens that are read at once.
MOST_ROWS = 512
MOST_TOKENS = 8192


class Drawing(Protocol):
    """How a token is drawn."""

    @property
    def temperature(self) -> float:
        """Logits are divided by it."""

    @property
    def top_k(self) -> int | None:
        """Only so many of the most likely tokens are drawn from."""

    @property
    def top_p(self) -> float | None:
        """Only the most likely tokens that together have this probability."""


def check_drawing(config: Drawing) -> None:
    """Check the ranges of what tokens are drawn by.

    Raises:
        ValueError: one is out of range
    """
    if not 0 <= config.temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0, got {config.temperature}")
    if config.top_k is not None and config.top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {config.top_k}")
    if config.top_p is not None and not 0 < config.top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {config.top_p}")


@dataclass(frozen=True, kw_only=True)
class WritingConfig:
    """How a target is written."""

    num_beams: int = 1
    """Hypotheses that are followed, at least 1; 1: the likeliest token each time."""
    num_outputs: int = 1
    """Targets of each source that are returned, best first: at most `num_beams`."""
    max_new_tokens: int = 128
    """Tokens of a target at most, its end included, at least 1; no more than a model has places."""
    min_new_tokens: int = 0
    """Tokens before the end may come."""
    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis' score is divided by; above 0 favours long ones."""
    early_stopping: bool | Literal["never"] = False
    """When a search ends. True: with `num_beams` finished hypotheses. False: when the best running
    one is not better as it is. never: when none can become better."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens comes twice in a target; 0: they may."""
    forced_first_id: int | None = None
    """Id of the token after the start token, such as a language; None: any."""
    is_end_forced: bool = False
    """Whether a target that reaches `max_new_tokens` ends there by an end token."""
    temperature: float = 0.0
    """0: no draws. Above: tokens are drawn, logits divided by it; with one beam only."""
    top_k: int | None = None
    """Draw from so many of the likeliest tokens."""
    top_p: float | None = None
    """Draw from the likeliest tokens that have this probability, in (0, 1]."""
    seed: int = 0
    """Of the draws, in [0, 2**63)."""

    def __post_init__(self) -> None:
        for name in ("num_beams", "num_outputs", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_outputs > self.num_beams:
            raise ValueError(
                f"num_outputs={self.num_outputs} of num_beams={self.num_beams} can't be returned: "
                "take more beams, or fewer outputs"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be in [0, max_new_tokens={self.max_new_tokens}], got "
                f"{self.min_new_tokens}"
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(
                f"early_stopping must be true, false or never, got {self.early_stopping!r}"
            )
        if self.no_repeat_ngram_size < 0:
            raise ValueError(
                f"no_repeat_ngram_size must be at least 0, got {self.no_repeat_ngram_size}"
            )
        if self.temperature > 0 and self.num_beams > 1:
            raise ValueError(
                f"temperature={self.temperature} draws tokens, num_beams={self.num_beams} searches:"
                " give one of them"
            )
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ValueError("top_k and top_p have no effect without a temperature above 0")
        check_drawing(self)


@dataclass(frozen=True)
class Hypothesis:
    """A target, and how likely it is."""

    ids: list[int]  # without the start token and the end
    score: float  # sum of log-probabilities / length ** length_penalty; nan of draws
    has_ended: bool  # by an end token, not by its length


def write(
    model: EncoderDecoder, sources: Sequence[np.ndarray], start: int, end: int,
    config: WritingConfig, *, progress: Callable[[int, int], None] | None = None,
) -> list[list[Hypothesis]]:  # fmt: skip
    """Return `num_outputs` targets of each source, best first: the same whatever else is asked.

    Args:
        model: in evaluation mode
        sources: ids of each, int64 (U_i,), with what stands around them in training
        start: id of the token that targets begin with
        end: id of the token that ends them
        config: how they are written
        progress: called with sources finished and their number
    """
    lengths = np.array([len(ids) for ids in sources], np.int64)
    if model.config.positions != "relative":
        most = min(config.max_new_tokens, model.config.max_position_embeddings)
        least = min(config.min_new_tokens, most)
        config = replace(config, max_new_tokens=most, min_new_tokens=least)
    device = model.embeddings.tokens.weight.device
    share = -(-len(sources) // num_cores(device))
    most = max(1, min(MOST_ROWS // config.num_beams, share))
    groups = [
        part
        for group in split_by_tokens(np.maximum(lengths, 1), MOST_TOKENS)
        for part in np.split(group, range(most, len(group), most))
    ]

    def find(group: np.ndarray) -> list[list[Hypothesis]]:
        flat = torch.from_numpy(np.concatenate([sources[index] for index in group]))
        source = make_stream(flat, torch.from_numpy(lengths[group]))
        search = Search(model, source.map(lambda x: x.to(device)), group, start, end, config)
        return search.beams() if config.num_beams > 1 else search.one_by_one()

    found: list[list[Hypothesis]] = [[] for _ in sources]
    num_done = 0
    for group, own in zip(groups, map_batches(find, groups, device), strict=True):
        for index, hypotheses in zip(group, own, strict=True):
            found[index] = hypotheses
        num_done += len(group)
        if progress is not None:
            progress(num_done, len(sources))
    return found


class Search:
    """S sources that are written about side by side, each until it is done."""

    def __init__(
        self, model: EncoderDecoder, source: Stream, indices: np.ndarray, start: int, end: int,
        config: WritingConfig,
    ) -> None:  # fmt: skip
        self.model, self.config, self.end, self.indices = model, config, end, indices
        self.past = Written(model, source, config.num_beams)
        self.device = self.past.seen.device
        self.alive = list(range(len(indices)))
        shape = (len(indices), config.num_beams, 1)
        self.tokens = torch.full(shape, start, device=self.device)  # (S, B, written + 1)

    def beams(self) -> list[list[Hypothesis]]:
        """Return the best hypotheses of each source."""
        config, num = self.config, self.config.num_beams
        found: list[list[Hypothesis]] = [[] for _ in self.alive]
        scores = torch.zeros(len(self.alive), num, device=self.device)
        scores[:, 1:] = IMPOSSIBLE  # all begin alike: one of them counts
        ended = Ended.none(len(self.alive), num, self.device)
        for step in range(config.max_new_tokens):
            total = self._log_probabilities(step).view(*scores.shape, -1) + scores[:, :, None]
            vocab_size = total.shape[2]
            top, index = total.flatten(1).topk(2 * num)
            beam, token = index // vocab_size, index % vocab_size  # (S, 2 B)
            grown = torch.cat([_gather(self.tokens, beam), token[:, :, None]], dim=2)
            is_end = (token == self.end) | (step + 1 == config.max_new_tokens)
            running = top + is_end * IMPOSSIBLE
            chosen = running.topk(num)[1]
            ended = ended.add(grown, top / (step + 1) ** config.length_penalty, is_end)
            scores = running.gather(1, chosen)
            parents = beam.gather(1, chosen)
            self.tokens = _gather(grown, chosen)
            is_open = ended.can_grow(scores, step + 1, config) & ~is_end.all(dim=1)
            for row, is_going in enumerate(is_open.tolist()):
                if not is_going:
                    found[self.alive[row]] = self._best(ended, row)
            if not is_open.any():
                break
            rows = is_open.nonzero()[:, 0]
            scores, ended = scores[rows], ended.take(rows)
            self._keep(rows, parents)
        return found

    def one_by_one(self) -> list[list[Hypothesis]]:
        """Return the target of each source, by the likeliest token each time or by draws."""
        found: list[list[Hypothesis]] = [[] for _ in self.alive]
        sums = torch.zeros(len(self.alive), device=self.device)
        for step in range(self.config.max_new_tokens):
            logits = self._log_probabilities(step)
            token = (
                logits.argmax(dim=1) if not self.config.temperature else self._draw(logits, step)
            )
            sums = sums + logits.gather(1, token[:, None])[:, 0]
            self.tokens = torch.cat([self.tokens, token[:, None, None]], dim=2)
            is_open = (token != self.end) & (step + 1 < self.config.max_new_tokens)
            for row, is_going in enumerate(is_open.tolist()):
                if not is_going:
                    value = float(sums[row]) / (step + 1) ** self.config.length_penalty
                    found[self.alive[row]] = [self._hypothesis(self.tokens[row, 0], value)]
            if not is_open.any():
                break
            rows = is_open.nonzero()[:, 0]
            sums = sums[rows]
            self._keep(rows, torch.zeros(len(is_open), 1, dtype=torch.int64, device=self.device))
        return found

    def _keep(self, rows: Tensor, parents: Tensor) -> None:
        """Go on with the sources at int64 (S',) rows, their hypotheses grown from (S, B) others."""
        num = parents.shape[1]
        self.tokens = self.tokens[rows]
        kept = (rows[:, None] * num + parents[rows]).flatten()
        is_same = len(kept) == parents.numel() and bool(
            (kept == torch.arange(len(kept), device=kept.device)).all()
        )
        if not is_same:
            self.past.keep(kept)
        if len(rows) < len(parents):
            self.past.keep_sources(rows)
            self.alive = [self.alive[row] for row in rows.tolist()]

    def _log_probabilities(self, step: int) -> Tensor:
        """Return how likely the next token of each hypothesis is: float32 (S x B, V)."""
        newest = self.tokens[:, :, -1].flatten()
        logits = self.model.lm_logits(self.model(self._batch(newest, step), past=self.past)).float()
        return self._allowed(logits.log_softmax(dim=1), step)

    def _batch(self, newest: Tensor, step: int) -> Batch:
        stream = Stream(
            input_ids=newest, token_type_ids=torch.zeros_like(newest),
            position_ids=torch.full_like(newest, step),
            cu_seqlens=torch.arange(len(newest) + 1, dtype=torch.int32, device=self.device),
            max_seqlen=1, labels={},
        )  # fmt: skip
        return batch_of({TARGET: stream})

    def _allowed(self, values: Tensor, step: int) -> Tensor:
        """Return log-probabilities, -inf of what the settings forbid."""
        config, size = self.config, self.config.no_repeat_ngram_size
        written = self.tokens.flatten(0, 1)  # (N, step + 1)
        if size and step + 1 >= size:
            windows = written.unfold(1, size, 1)  # (N, step + 2 - size, size)
            tail = written[:, written.shape[1] - size + 1 :]
            is_again = (windows[:, :, :-1] == tail[:, None]).all(dim=2)
            row, place = is_again.nonzero(as_tuple=True)
            values[row, windows[row, place, -1]] = -torch.inf
        if step < config.min_new_tokens:
            values[:, self.end] = -torch.inf
        forced = config.forced_first_id if step == 0 else None
        if config.is_end_forced and step + 1 == config.max_new_tokens:
            forced = self.end
        if forced is not None:
            values = torch.full_like(values, -torch.inf)
            values[:, forced] = 0.0
        return values

    def _draw(self, values: Tensor, step: int) -> Tensor:
        places = self.indices[self.alive]
        words = draw(stream_key(self.config.seed, "generate"), places, np.full(len(places), step))
        points = torch.from_numpy((words + 0.5) / 2**32).to(values.device)
        return sample(values, points, self.config)

    def _best(self, ended: Ended, row: int) -> list[Hypothesis]:
        pairs = zip(ended.tokens[row], ended.scores[row].tolist(), strict=True)
        return [self._hypothesis(*pair) for pair in list(pairs)[: self.config.num_outputs]]

    def _hypothesis(self, tokens: Tensor, score: float) -> Hypothesis:
        ids = [int(token) for token in tokens[1:].tolist() if token >= 0]
        has_ended = bool(ids) and ids[-1] == self.end
        return Hypothesis(ids[:-1] if has_ended else ids, score, has_ended)


@dataclass(frozen=True)
class Ended:
    """The best hypotheses that have ended, of each source, best first."""

    tokens: Tensor  # int64 (S, B, written + 1), -1 behind the end
    scores: Tensor  # float32 (S, B)
    is_there: Tensor  # bool (S, B)

    @staticmethod
    def none(num_sources: int, num_beams: int, device: torch.device) -> Ended:
        """Return none of any source."""
        shape = (num_sources, num_beams)
        return Ended(
            torch.full((*shape, 1), -1, device=device),
            torch.full(shape, IMPOSSIBLE, device=device),
            torch.zeros(shape, dtype=torch.bool, device=device),
        )

    def add(self, grown: Tensor, values: Tensor, is_end: Tensor) -> Ended:
        """Return the best of these and of candidates; those beyond the first B don't count.

        Args:
            grown: int64 (S, 2 B, written + 1)
            values: float32 (S, 2 B), what they are worth, best first
            is_end: bool (S, 2 B), whether they end
        """
        num = self.scores.shape[1]
        is_new = is_end & (torch.arange(2 * num, device=is_end.device) < num)
        values = values + ~is_new * IMPOSSIBLE
        tokens = torch.cat([F.pad(self.tokens, (0, 1), value=-1), grown], dim=1)
        best = torch.cat([self.scores, values], dim=1).topk(num)[1]
        return Ended(
            _gather(tokens, best),
            torch.cat([self.scores, values], dim=1).gather(1, best),
            torch.cat([self.is_there, is_new], dim=1).gather(1, best),
        )

    def can_grow(self, running: Tensor, num_written: int, config: WritingConfig) -> Tensor:
        """Return which sources' searches go on: bool (S,); `running` float32 (S, B) are sums."""
        length = num_written
        if config.early_stopping == "never" and config.length_penalty > 0:
            length = config.max_new_tokens
        possible = running[:, 0] / length**config.length_penalty
        worst = torch.where(self.is_there, self.scores.amin(dim=1, keepdim=True), IMPOSSIBLE)
        goes_on: Tensor = (possible[:, None] > worst).any(dim=1)
        return goes_on & ~self.is_there.all(dim=1) if config.early_stopping is True else goes_on

    def take(self, rows: Tensor) -> Ended:
        """Return those of some sources."""
        return Ended(self.tokens[rows], self.scores[rows], self.is_there[rows])


def _gather(tokens: Tensor, beams: Tensor) -> Tensor:
    """Return the hypotheses (S, N, written) of (S, B, written) at int64 (S, N) beams."""
    return tokens.gather(1, beams[:, :, None].expand(-1, -1, tokens.shape[2]))


def sample(logits: Tensor, points: Tensor, config: Drawing) -> Tensor:
    """Return the tokens at some points of the cumulative distributions, likeliest tokens first.

    Temperature, then top-k, then top-p, as in transformers.

    Args:
        logits: float32 (S, V)
        points: float64 (S,) in (0, 1), uniform
        config: temperature above 0

    Returns:
        int64 (S,)

    Example:
        >>> logits = torch.tensor([[0.0, 2.0, 1.0]] * 2)
        >>> drawing = WritingConfig(temperature=1, top_k=2)
        >>> sample(logits, torch.tensor([0.5, 0.9]).double(), drawing).tolist()
        [1, 2]
    """
    num_kept = min(config.top_k or logits.shape[1], logits.shape[1])
    best, tokens = torch.topk(logits.double() / config.temperature, num_kept, dim=1)
    probabilities = best.softmax(dim=1)  # (S, k), descending
    if config.top_p is not None:
        before = probabilities.cumsum(dim=1) - probabilities
        probabilities = probabilities.where(before < config.top_p, 0.0)
    cumulative = probabilities.cumsum(dim=1)
    place = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True)
    return tokens.gather(1, place.clamp(max=num_kept - 1))[:, 0]
