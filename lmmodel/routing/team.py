"""Opened experts, and what they can be asked: each text is answered by its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from lmdata.tokenizer import Tokenizer
from lmmodel.branches import load_branches
from lmmodel.errors import RunError
from lmmodel.finetuning.folder import FineTuned, is_fine_tuned, load_fine_tuned
from lmmodel.inference import logsumexp_in_place
from lmmodel.predicting.answering import Answered, classify
from lmmodel.predicting.generation import Generation, GenerationConfig, generate
from lmmodel.predicting.likelihood import (
    Likelihoods,
    TextVectors,
    embed,
    sum_scores,
    token_scores,
    windows_of,
)
from lmmodel.predicting.mask_filling import Filling, fillings, masked_logits, read_masks
from lmmodel.routing.folder import DOMAINS_NAME, MEANS_NAME, ExpertsRecord, read_experts_record
from lmmodel.routing.router import (
    EmbeddingEvidence,
    Evidence,
    LikelihoodEvidence,
    NgramEvidence,
    keep_likeliest,
    mix,
    posterior,
    shorten,
)
from lmmodel.saving.branch import find_weights, hash_weights
from lmmodel.saving.checkpoint import load_tensors
from lmmodel.tasks.classification import Classification
from lmmodel.texts import TextIds, encode_texts, join_texts
from lmmodel.trained import Run, encode_given, frame_of, listed

T = TypeVar("T")


@dataclass(frozen=True)
class Experts:
    """Several runs that answer as one: each text is answered by those that know its domain."""

    path: Path
    record: ExpertsRecord
    runs: tuple[Any, ...]  # `Run` or `FineTuned`, as `record.everyone`; the parent for who is gone
    evidence: Evidence
    notes: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """That of all of them."""
        tokenizer: Tokenizer = self.runs[-1].tokenizer
        return tokenizer

    @property
    def device(self) -> torch.device:
        """Where they compute."""
        device: torch.device = self.runs[-1].device
        return device

    @cached_property
    def owners(self) -> np.ndarray:
        """The run of each domain, into `runs`: int64 (D,)."""
        return np.array([self.record.expert_of(name) for name in self.record.domains], np.int64)

    def domain_shares(self, texts: TextIds, prefix_tokens: int | None = None) -> np.ndarray:
        """Return p(domain | first tokens) of each text: float64 (N, D)."""
        router = self.record.router
        scores = self.evidence.score(shorten(texts, prefix_tokens or router.prefix_tokens))
        return posterior(scores, router.prior, router.temperature)

    def shares(self, texts: TextIds) -> np.ndarray:
        """Return what each run counts for each text: float64 (N, E), rows sum to 1."""
        return self.shares_of(self.domain_shares(texts))

    def shares_of(self, domain_shares: np.ndarray, top_k: int | None = None) -> np.ndarray:
        """Return what each run counts, from what each domain does, float64 (N, D)."""
        shares = np.zeros((len(domain_shares), len(self.runs)))
        np.add.at(shares.T, self.owners, domain_shares.T)
        return keep_likeliest(shares, top_k or self.record.router.top_k)

    def route(self, texts: Sequence[str] | str) -> list[str]:
        """Return the domain of each text, the likeliest one."""
        encoded = encode_given(self.tokenizer, listed(texts))
        best = self.domain_shares(encoded).argmax(axis=1)
        return [self.record.domains[index] for index in best.tolist()]

    def score(self, texts: Sequence[str] | str) -> Likelihoods:
        """Return the log-likelihood of each text, by its expert or the mixture of the likeliest."""
        texts = listed(texts)
        encoded = encode_given(self.tokenizer, texts)
        shares = self.shares(encoded)
        log_p = np.full((len(encoded.ids), len(self.runs)), np.nan)
        text = np.repeat(np.arange(len(encoded)), encoded.lengths)
        for number in np.flatnonzero(shares.any(axis=0)):
            run, own = self.runs[number], np.flatnonzero(shares[:, number])
            part = shorten_to(encoded, own)
            windows = windows_of(run, part, frame_of(run))
            scores = token_scores(run, run.prepared(), part, frame_of(run), windows)
            log_p[np.isin(text, own), number] = scores
        num_windowed = windows_of(run, encoded, frame_of(run)).num_cut  # all take as much
        return sum_scores(texts, encoded, mix(log_p, shares[text]), num_windowed)

    def fill_mask(self, texts: Sequence[str] | str, top_k: int = 5) -> list[list[list[Filling]]]:
        """Return guesses for each masked place of each text; see `mask_filling.fill_mask`."""
        texts = listed(texts)
        encoded, places = read_masks(self.runs[-1], texts, top_k=top_k)
        shares = self.shares(_as_texts(encoded))
        found: list[list[Tensor]] = [[] for _ in texts]
        for number in np.flatnonzero(shares.any(axis=0)):
            own = np.flatnonzero(shares[:, number])
            logits = masked_logits(
                self.runs[number], [encoded[i] for i in own], [places[i] for i in own]
            )
            for index, rows in zip(own, logits, strict=True):
                log_p = rows - logsumexp_in_place(rows.clone())[:, None]
                found[index].append(log_p + float(np.log(shares[index, number])))
        return [
            fillings(self.runs[-1], ids, at, torch.stack(rows).logsumexp(0), top_k)
            for ids, at, rows in zip(encoded, places, found, strict=True)
        ]

    def embed(self, texts: Sequence[str] | str, *, normalize: bool = True) -> TextVectors:
        """Return a vector for each text by its likeliest expert; see `likelihood.embed`."""
        texts, num_windowed = listed(texts), 0

        def ask(run: Run, own: Sequence[str]) -> Sequence[np.ndarray]:
            nonlocal num_windowed
            found = embed(run, own, normalize=normalize)
            num_windowed += found.num_windowed
            return list(found.vectors)

        answers = self.ask(encode_given(self.tokenizer, texts), texts, ask)
        return TextVectors(np.stack(answers), num_windowed)

    def generate(
        self, prompts: Sequence[str] | str, config: GenerationConfig | None = None
    ) -> list[Generation]:
        """Return a continuation of each prompt by its likeliest expert; "" asks the parent."""
        prompts, config = listed(prompts), config or GenerationConfig()
        encoded = encode_texts(self.tokenizer.backend, prompts)
        return self.ask(encoded, prompts, lambda run, own: generate(run, own, config))

    def classify(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> Answered[Classification]:
        """Return the class of each text by the fine-tuned model of its domain; see `classify`.

        A pair is of the domain of its first text.
        """
        given = [(text, pairs[i] if pairs else "") for i, text in enumerate(texts)]
        counts: dict[str, int] = {}

        def ask(tuned: Any, own: Sequence[tuple[str, str]]) -> list[Classification]:
            found = classify(tuned, [t for t, _ in own], [p for _, p in own] if pairs else None)
            for name, count in found.counts.items():
                counts[name] = counts.get(name, 0) + count
            return found.answers

        encoded = encode_texts(self.tokenizer.backend, texts)
        return Answered(self.ask(encoded, given, ask), counts)

    def ask(
        self, encoded: TextIds, given: Sequence[T], ask: Callable[[Run, Sequence[T]], Sequence[Any]]
    ) -> list[Any]:
        """Return the answers to some texts in their order, each by its likeliest expert.

        Args:
            encoded: ids of the texts, by which they are routed
            given: the texts, as they are asked
            ask: what a run answers to some of them
        """
        likeliest = self.likeliest(encoded)
        answers: list[Any] = [None] * len(given)
        for number in np.unique(likeliest):
            own = np.flatnonzero(likeliest == number)
            found = ask(self.runs[number], [given[int(index)] for index in own])
            for index, answer in zip(own, found, strict=True):
                answers[index] = answer
        return answers

    def likeliest(self, texts: TextIds) -> np.ndarray:
        """Return the run of each text, into `runs`: int64 (N,); of one without a token the parent.

        Args:
            texts: N
        """
        found = np.full(len(texts), len(self.runs) - 1)
        is_told = texts.lengths > 0
        if is_told.any():
            some = shorten_to(texts, np.flatnonzero(is_told))
            found[is_told] = self.shares_of(self.domain_shares(some), 1).argmax(axis=1)
        return found


def shorten_to(texts: TextIds, chosen: np.ndarray) -> TextIds:
    """Return some texts, int64 (M,) of N, in this order."""
    return _as_texts([texts.ids[texts.offsets[i] : texts.offsets[i + 1]] for i in chosen])


def _as_texts(ids: Sequence[np.ndarray]) -> TextIds:
    """Return arrays of ids as texts."""
    parts = [TextIds(own.astype(np.int32), np.array([0, len(own)])) for own in ids]
    return join_texts(parts)


def load_experts(path: Path | str, device: str = "auto") -> Experts:
    """Return the experts of a folder, ready to answer; they share what they have in common.

    The domain of an expert whose folder is gone falls to the parent, and a note says so.

    Raises:
        RunError: no experts there, the parent is gone, or a run has other weights now
        CheckpointError, DeviceError: as `load_run`
    """
    path = Path(path)
    record = read_experts_record(path)
    there, notes = [], []
    for one in record.everyone:
        folder = Path(one.run)
        if find_weights(folder) is None and one is not record.parent:
            notes.append(f"expert {one.name} is gone from {one.run}: the parent answers for it")
            folder = Path(record.parent.run)
        elif hash_weights(folder) != one.weights_xxh3:
            raise RunError(
                f"{folder} has other weights now than when {path} was made: put those back, or "
                f"make the experts anew with `lmmodel experts`"
            )
        there.append(folder)
    runs = open_members(there, device)
    return Experts(path, record, runs, open_evidence(path, record, runs), tuple(notes))


def open_members(folders: Sequence[Path], device: str) -> tuple[Run | FineTuned, ...]:
    """Return the models of some folders, runs or fine-tuned ones, ready to answer.

    Raises:
        RunError, CheckpointError, DeviceError: as `load_run` and `load_fine_tuned`
    """
    if any(map(is_fine_tuned, folders)):
        opened = {folder: load_fine_tuned(folder, device) for folder in set(folders)}
        return tuple(opened[folder] for folder in folders)
    return tuple(load_branches(folders, device))


def open_evidence(path: Path, record: ExpertsRecord, runs: Sequence[Any]) -> Evidence:
    """Return what a folder's router asks.

    Args:
        path: the folder
        record: of it
        runs: the experts', then the parent's
    """
    kind = record.router.kind
    if kind == "ngram":
        folders = [path / DOMAINS_NAME / name for name in record.domains]
        from lmmodel.ngrams import load_ngrams

        return NgramEvidence([load_ngrams(folder) for folder in folders])
    if kind == "embedding":
        return EmbeddingEvidence(runs[-1], load_tensors(path / MEANS_NAME)["means"].numpy())
    return LikelihoodEvidence([runs[record.expert_of(name)] for name in record.domains])
