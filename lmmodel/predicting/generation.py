"""A causal model goes on with a text, token by token, remembering what it has read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lmdata.rng import draw, stream_key
from lmmodel.batch import Batch, make_batch
from lmmodel.errors import FitError
from lmmodel.inference import split_by_tokens
from lmmodel.layers.memory import KeyValues
from lmmodel.trained import Run, check_finite, encode_given
from lmmodel.writing import check_drawing, sample

# Places, over all prompts of a batch, whose keys and values are remembered at once.
_MAX_PLACES = 32_768

Stop = Literal["end of text", "max_new_tokens", "model full"]


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How each next token is chosen."""

    max_new_tokens: int = 64
    """Tokens at most, at least 1."""
    temperature: float = 1.0
    """Logits are divided by it, at least 0; 0: always the most likely token (greedy)."""
    top_k: int | None = None
    """Only so many of the most likely tokens are drawn from, at least 1; None: all."""
    top_p: float | None = None
    """Only the most likely tokens that together have this probability, in (0, 1]; None: all."""
    seed: int = 0
    """Of the draws, in [0, 2**63): the same seed and prompt, at its place, give the same text."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        check_drawing(self)
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ValueError(
                "temperature=0 always takes the most likely token, so top_k and top_p have no "
                "effect: leave them out, or choose a temperature above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One prompt and what the model went on with."""

    prompt: str
    text: str  # prompt and continuation
    continuation: str
    ids: list[int]  # of the continuation, without the token that ended it
    stopped_by: Stop


def generate(
    run: Run,
    prompts: Sequence[str],
    config: GenerationConfig | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Return a continuation of each prompt, up to the token that ends a text.

    Args:
        run: of a causal model (objective clm), or hybrid
        prompts: each with a token at least and shorter than the model takes
        config: None: the defaults
        progress: called with prompts finished and their number

    Raises:
        FitError: the model is masked, or a prompt is empty or leaves no room
    """
    config = config or GenerationConfig()
    encoded = encode_beginnings(run, prompts)
    lengths, room = room_after(run, encoded, config)
    results: list[Generation | None] = [None] * len(prompts)
    num_done = 0
    for group in split_by_tokens(lengths + room, _MAX_PLACES):
        loop = GenerationLoop(run, config, [encoded[index] for index in group], group, room[group])
        for index, ids, stopped_by in itertools.chain.from_iterable(loop.steps()):
            results[index] = describe(run, prompts[index], encoded[index], ids, stopped_by)
            num_done += 1
            if progress is not None:
                progress(num_done, len(prompts))
    return [result for result in results if result is not None]


def encode_beginnings(run: Run, prompts: Sequence[str]) -> list[np.ndarray]:
    """Return the ids of each prompt, int64 (T_i,); rows of hybrid training begin with cls.

    Raises:
        FitError: the model is masked, or a prompt is empty or leaves no room
    """
    if not run.can_generate:
        raise FitError(
            f"{run.path} learned by the objective {run.record.config.objective.name}, which does "
            "not tell what comes next: to generate, train one with --objective clm; ask this by "
            f"{'fill-mask, ' if run.objective.can_fill_masks else ''}score or embed"
        )
    texts = encode_given(run.tokenizer, prompts)
    before = [] if run.is_causal else [run.tokenizer.require_special("cls")]
    most = run.model.config.max_position_embeddings
    encoded = [
        np.concatenate([np.array(before, np.int64), ids])
        for ids in np.split(texts.ids, texts.offsets[1:-1])
    ][: len(prompts)]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if len(ids) >= most:
            raise FitError(
                f"a prompt of {len(ids)} tokens leaves no room: the model takes {most} in all; "
                f"shorten it: {prompt[:60]!r}"
            )
    return encoded


def room_after(
    run: Run, encoded: Sequence[np.ndarray], config: GenerationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of each prompt, and how many may follow: int64 (S,) each."""
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    most = run.model.config.max_position_embeddings
    return lengths, np.minimum(config.max_new_tokens, most - lengths)


def describe(
    run: Run, prompt: str, prompt_ids: np.ndarray, ids: list[int], stopped_by: Stop
) -> Generation:
    """Return one prompt and what the model went on with."""
    tokenizer = run.tokenizer
    return Generation(
        prompt=prompt,
        text=tokenizer.decode([*prompt_ids, *ids], skip_special_tokens=True),
        continuation=tokenizer.decode(ids, skip_special_tokens=True),
        ids=ids,
        stopped_by=stopped_by,
    )


class GenerationLoop:
    """Prompts that go on side by side, each until it ends.

    Args:
        run: of a model that generates
        config: how tokens are chosen
        prompts: int64 (T_i,) ids of each
        indices: int64 (S,), addresses of their random numbers
        room: int64 (S,), tokens that may be added, at least 1

    Attributes:
        ids: of each prompt's continuation so far
    """

    def __init__(
        self,
        run: Run,
        config: GenerationConfig,
        prompts: list[np.ndarray],
        indices: np.ndarray,
        room: np.ndarray,
    ) -> None:
        self._run = run
        self._config = config
        self._prompts = prompts
        self._indices = indices
        self._room = room
        self._end_id = _end_id(run)
        self.ids: list[list[int]] = [[] for _ in prompts]

    @torch.inference_mode()
    def steps(self) -> Iterator[list[tuple[int, list[int], Stop]]]:
        """Yield after each token (index, ids of the continuation, why it stopped) of the finished.

        Raises:
            DivergedError: what the model computes is not finite
        """
        run, ids = self._run, self.ids
        past, batch = self._start()
        rows = batch.cu_seqlens[1:].long() - 1
        alive = list(range(len(self._prompts)))
        while alive:
            hidden = run.model(batch, is_causal=True, rows=rows, past=past)
            logits = run.model.lm_logits(hidden).float()
            check_finite(run, logits)
            chosen = self._choose(logits, alive, len(ids[alive[0]]))
            stopped = [self._stop(ids[i], i, token) for i, token in zip(alive, chosen, strict=True)]
            yield [
                (int(self._indices[i]), ids[i], why)
                for i, why in zip(alive, stopped, strict=True)
                if why is not None
            ]
            going = [row for row, why in enumerate(stopped) if why is None]
            if len(going) < len(alive):
                past.keep(torch.tensor(going, dtype=torch.int64, device=run.device))
            alive = [alive[row] for row in going]
            batch = self._next(ids, alive)
            rows = torch.arange(len(alive), device=run.device)

    def _start(self) -> tuple[KeyValues, Batch]:
        config, device = self._run.model.config, self._run.device
        lengths = np.array([len(ids) for ids in self._prompts], np.int64)
        shape = (
            len(lengths), config.num_attention_heads, int((lengths + self._room).max()),
            config.head_size,
        )  # fmt: skip
        flat = torch.from_numpy(np.concatenate(self._prompts))
        batch = make_batch(flat, torch.from_numpy(lengths)).to(device)
        dtype = self._run.model.compute_dtype
        return KeyValues(config.num_hidden_layers, shape, device, dtype), batch

    def _next(self, ids: list[list[int]], alive: list[int]) -> Batch:
        """Return the newest token of each prompt, at its place."""
        tokens = torch.tensor([ids[i][-1] for i in alive], dtype=torch.int64)
        places = [len(self._prompts[i]) + len(ids[i]) - 1 for i in alive]
        batch = make_batch(tokens, torch.ones(len(alive), dtype=torch.int64))
        batch = batch.with_positions(torch.tensor(places, dtype=torch.int64))
        return batch.to(self._run.device)

    def _choose(self, logits: Tensor, alive: list[int], step: int) -> list[int]:
        """Return the next token of each prompt from logits (S, V)."""
        logits = logits[:, : self._run.tokenizer.vocab_size]
        if self._config.temperature == 0:
            return logits.argmax(dim=1).tolist()
        places = self._indices[alive]
        words = draw(stream_key(self._config.seed, "generate"), places, np.full(len(places), step))
        points = torch.from_numpy((words + 0.5) / 2**32).to(logits.device)
        return sample(logits, points, self._config).tolist()

    def _stop(self, ids: list[int], prompt: int, token: int) -> Stop | None:
        """Add a token unless it ends the text; return why the prompt is finished, if it is."""
        if token == self._end_id:
            return "end of text"
        ids.append(token)
        if len(ids) < self._room[prompt]:
            return None
        is_full = self._room[prompt] < self._config.max_new_tokens
        return "model full" if is_full else "max_new_tokens"


def _end_id(run: Run) -> int | None:
    """Return the token that ended documents in training."""
    special_ids = run.tokenizer.special_ids
    name = "eos" if run.is_causal and special_ids["eos"] is not None else "sep"
    return special_ids[name]
