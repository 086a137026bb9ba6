"""Experts for domains: branches of one parent, and a router that sends each text to its own.

runs/law, runs/code --experts--> experts/ --score, fill-mask, embed, generate, evaluate, serve-->

As in Branch-Train-Merge (Li et al., 2022) and DEMix (Gururangan et al., 2022): whole models or what
differs from a parent, a posterior over domains, and no layer of experts within a model. Adding or
removing an expert changes no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lmdata.dataset import open_store
from lmdata.files import output_errors, writing_folder
from lmdata.tokenizer import load_tokenizer, save_tokenizer
from lmmodel.branches import load_branches
from lmmodel.data import open_data
from lmmodel.errors import FitError
from lmmodel.evaluation import (
    Evaluation,
    HeldOut,
    MicroScores,
    TokensDone,
    held_out_for,
    score_held_out,
    summarize,
)
from lmmodel.predicting.likelihood import embed
from lmmodel.routing.alike import DENSE, PARENT, check_alike, find_domains, find_parent_of
from lmmodel.routing.domains import Labelled, read_documents, write_ngrams
from lmmodel.routing.folder import (
    EXPERTS,
    MEANS_NAME,
    TABLE_NAME,
    ExpertRecord,
    ExpertsRecord,
    RouterRecord,
    write_experts_record,
)
from lmmodel.routing.judging import PREFIXES, Judged, judge
from lmmodel.routing.picture import draw_table
from lmmodel.routing.router import RouterKind, halves, learn, mix, posterior, shorten
from lmmodel.routing.team import Experts, load_experts, open_evidence, shorten_to
from lmmodel.saving.branch import hash_weights
from lmmodel.saving.checkpoint import save_tensors
from lmmodel.saving.run import read_record
from lmmodel.texts import TextIds
from lmmodel.trained import (
    Run,
    check_tokenizer,
)


@dataclass(frozen=True, kw_only=True)
class ExpertsResult:
    """What experts came to; bits per byte are of the half of the documents nothing was learned on.

    Attributes:
        bits: of each domain: what each run has by name, the parent and the dense run among them
        routed: of each domain, each text by its likeliest expert
        mixture: of each domain, each text by all experts as likely as they are
        owners: the expert of each domain, by name
        accuracy: share of the texts whose domain is told right, by tokens looked at
    """

    output: Path
    parent: str
    dense: str | None
    experts: tuple[str, ...]
    owners: dict[str, str]
    bits: dict[str, dict[str, float]]
    routed: dict[str, float]
    mixture: dict[str, float]
    accuracy: dict[int, float]
    num_texts: dict[str, int]  # of each domain, that were judged
    router: RouterRecord
    picture: Path
    notes: tuple[str, ...] = ()

    def mean(self, values: Mapping[str, float]) -> float:
        """Return the mean over the domains."""
        return float(np.mean([values[name] for name in self.bits]))

    def mean_of(self, run: str) -> float:
        """Return a run's mean over the domains."""
        return self.mean({name: own[run] for name, own in self.bits.items()})

    @property
    def oracle(self) -> float:
        """The mean over the domains where each text is answered by the expert of its domain."""
        return self.mean({name: own[self.owners[name]] for name, own in self.bits.items()})


# ---- Runs to experts


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """How experts are put together."""

    router: RouterKind = "ngram"
    """What tells domains apart: their n-gram models, the experts' likelihoods, or mean vectors."""
    prefix_tokens: int = 32
    """Tokens of a text that the router looks at, at least 1."""
    top_k: int = 1
    """Experts that answer a text together, at least 1."""
    num_examples: int = 512
    """Held-out examples of each store: half to learn the router on, half to judge."""
    split: str = "validation"
    """Of the stores."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        for name in ("prefix_tokens", "top_k", "num_examples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def make_experts(
    runs: Mapping[str, Path], stores: Sequence[Labelled], output: Path,
    config: ExpertsConfig | None = None, *, dense: Path | None = None, overwrite: bool = False,
    progress: TokensDone | None = None,
) -> ExpertsResult:  # fmt: skip
    """Learn a router over runs that began with one, judge them, and write it into a folder.

    An expert's own domain is the one that is called as it is; of others, the domain on which it is
    the best of all. The run that the others began with is their parent, and may be among them.

    Args:
        runs: of the experts, by name
        stores: token stores with documents of every domain
        output: folder to write; it appears whole or not at all
        config: None: the defaults
        dense: a run to compare with
        overwrite: replace the experts that are there
        progress: called with the tokens done and those of all, store by store

    Raises:
        FitError: runs of different parents, tokenizers, families or objectives; a domain without
            validation text
        RunError, CheckpointError: a run is missing or damaged
        OutputError: `output` can't be written
    """
    config = config or ExpertsConfig()
    with writing_folder(output, EXPERTS, overwrite=overwrite) as folder:
        parent = find_parent_of(runs, {name: read_record(path) for name, path in runs.items()})
        check_alike({**runs, "its parent": parent, **({DENSE: dense} if dense else {})})
        domains = find_domains(stores, config.split, runs)
        opened = load_branches([*runs.values(), parent, *([dense] if dense else [])], config.device)
        judged = judge(
            opened, stores, domains, split=config.split, num_examples=config.num_examples,
            progress=progress,
        )  # fmt: skip
        record = first_record(runs, parent, stores, domains, config)
        mine = opened[: len(runs) + 1]
        with output_errors(output):
            save_tokenizer(mine[-1].tokenizer, folder)
            make_evidence(folder, record, stores, mine[-1], judged)
        team = Experts(folder, record, tuple(mine), open_evidence(folder, record, mine))
        result = learn_router(team, judged, output, dense)
        with output_errors(output):
            draw_table(result, folder / TABLE_NAME)
            write_experts_record(folder, taught(record, result))
    return result


def first_record(
    runs: Mapping[str, Path], parent: Path, stores: Sequence[Labelled], domains: tuple[str, ...],
    config: ExpertsConfig,
) -> ExpertsRecord:  # fmt: skip
    """Return the record of experts whose router has learned nothing yet."""
    even = (1 / len(domains),) * len(domains)
    return ExpertsRecord(
        experts=tuple(
            ExpertRecord(name=name, run=str(path.resolve()), weights_xxh3=hash_weights(path),
                         domains=(name,))
            for name, path in runs.items()
        ),
        parent=ExpertRecord(
            name=PARENT, run=str(parent.resolve()), weights_xxh3=hash_weights(parent)
        ),
        domains=domains,
        router=RouterRecord(
            kind=config.router, prefix_tokens=config.prefix_tokens, top_k=config.top_k,
            prior=even, temperature=1.0,
        ),
        tokenizer_hash=load_tokenizer(parent).hash,
        validation=tuple(
            {"path": str(one.path.resolve()), "hash": open_data(one.path).manifest.hash}
            for one in stores
        ),
        figures={},
    )  # fmt: skip


def make_evidence(
    folder: Path, record: ExpertsRecord, stores: Sequence[Labelled], parent: Run, judged: Judged
) -> None:
    """Write what tells the domains apart."""
    if record.router.kind == "ngram":
        write_ngrams(folder, stores, record.domains)
    if record.router.kind == "embedding":
        is_learned = ~halves(judged.text_domain, record.domains)
        some = shorten_to(judged.texts, np.flatnonzero(is_learned))
        vectors = embed(parent, shorten(some, record.router.prefix_tokens)).vectors
        domain = judged.text_domain[is_learned]
        means = [vectors[domain == number].mean(axis=0) for number in range(len(record.domains))]
        save_tensors(folder / MEANS_NAME, {"means": torch.from_numpy(np.stack(means))})


def learn_router(team: Experts, judged: Judged, output: Path, dense: Path | None) -> ExpertsResult:
    """Return the router learned on every second text, and all of it judged on the others."""
    record, domains = team.record, team.record.domains
    is_judged = halves(judged.text_domain, domains)
    router, accuracy = teach(team, judged.texts, judged.text_domain)
    scores = team.evidence.score(shorten(judged.texts, router.prefix_tokens))
    shares = posterior(scores, router.prior, router.temperature)
    num_runs, is_counted = len(team.runs), is_judged[judged.document]
    by_run = -judged.losses[:, :num_runs]
    table = np.stack(
        [judged.bits(own, is_counted, len(domains)) for own in judged.losses.T], axis=1
    )

    def of_mixture(top_k: int) -> dict[str, float]:
        weights = team.shares_of(shares, top_k)[judged.document]
        bits = judged.bits(-mix(by_run, weights), is_counted, len(domains))
        return dict(zip(domains, bits.tolist(), strict=True))

    names = [*(one.name for one in record.experts), PARENT, *([DENSE] if dense else [])]
    return ExpertsResult(
        output=output,
        parent=record.parent.run,
        dense=None if dense is None else str(dense),
        experts=tuple(one.name for one in record.experts),
        owners={d: names[record.expert_of(d)] for d in domains},
        bits={
            d: dict(zip(names, row, strict=True))
            for d, row in zip(domains, table.tolist(), strict=True)
        },
        routed=of_mixture(1),
        mixture=of_mixture(num_runs),
        accuracy=accuracy,
        num_texts=dict(zip(
            domains, np.bincount(judged.text_domain[is_judged], minlength=len(domains)).tolist(),
            strict=True,
        )),
        router=router,
        picture=output / TABLE_NAME,
        notes=tuple(
            f"no expert is for {d}: the parent answers" for d in domains
            if record.expert_of(d) == len(record.experts)
        ),
    )  # fmt: skip


def teach(
    team: Experts, texts: TextIds, domains: np.ndarray
) -> tuple[RouterRecord, dict[int, float]]:
    """Return the router learned on every second text, and how often it tells the others right.

    Args:
        team: with what tells domains apart
        texts: N
        domains: int64 (N,), theirs

    Returns:
        The router, and the share of texts told right by the tokens looked at.
    """
    router, is_judged = team.record.router, halves(domains, team.record.domains)
    scores = team.evidence.score(shorten(shorten_to(texts, np.flatnonzero(~is_judged)),
                                         router.prefix_tokens))  # fmt: skip
    prior, temperature = learn(scores, domains[~is_judged])
    others, accuracy = shorten_to(texts, np.flatnonzero(is_judged)), {}
    for length in PREFIXES:
        found = posterior(team.evidence.score(shorten(others, length)), prior, temperature)
        accuracy[length] = float((found.argmax(axis=1) == domains[is_judged]).mean())
    return dataclasses.replace(router, prior=prior, temperature=temperature), accuracy


def taught(record: ExpertsRecord, result: ExpertsResult) -> ExpertsRecord:
    """Return the record with what was learned, and the figures."""
    kept = ("owners", "bits", "routed", "mixture", "accuracy", "num_texts")
    figures = {name: getattr(result, name) for name in kept}
    return dataclasses.replace(record, router=result.router, figures=figures)


# ---- Held-out figures of experts on any data


def evaluate_experts(
    path: Path, data_path: Path, *, split: str = "validation", num_examples: int | None = None,
    device: str = "auto", progress: TokensDone | None = None,
) -> Evaluation:  # fmt: skip
    """Return the held-out figures of experts, each text by its likeliest one.

    Args:
        path: folder of the experts
        data_path: a token store
        split: of it
        num_examples: None: as many as during training
        device: "auto", "cpu" or "cuda"
        progress: called with the tokens done and those of all, run by run

    Raises:
        RunError, CheckpointError: as `load_experts`
        FitError: the data is frozen, of another tokenizer, or the split is empty
    """
    team = load_experts(path, device)
    data = open_data(data_path)
    check_tokenizer(team.tokenizer, data)
    if data.is_frozen:
        raise FitError(
            f"{data_path} holds frozen examples, which do not say what text they are of: evaluate "
            "experts on the token store that they were made from"
        )
    run = team.runs[-1]
    view = None if run.objective.pair_view else "single"
    held_out = held_out_for(run, data, split=split, num_examples=num_examples, view=view)
    rows, document = np.unique(held_out.documents, return_inverse=True)
    router = team.record.router
    texts = read_documents(open_store(data_path, split), rows, router.prefix_tokens)
    likeliest = team.likeliest(texts)[document]
    found = {
        int(number): score_held_out(team.runs[number], held_out, progress)
        for number in np.unique(likeliest)
    }
    chosen = _choose(held_out, found, likeliest)
    return summarize(held_out, chosen)


def _choose(
    held_out: HeldOut, found: Mapping[int, list[MicroScores]], likeliest: np.ndarray
) -> list[MicroScores]:
    """Return scores whose main labels are each of its text's run; other terms are the first's."""
    some = next(iter(found.values()))
    start, chosen = 0, []
    for index, micro in enumerate(some):
        if micro.part != 0:
            chosen.append(micro)
            continue
        first, *others = micro.terms
        num = len(next(iter(first.values())))
        own = likeliest[start : start + num]
        start += num
        main = {
            kind: np.stack([scores[index].terms[0][kind] for scores in found.values()])[
                np.searchsorted(list(found), own), np.arange(num)
            ]
            for kind in first
        }
        chosen.append(MicroScores(0, (main, *others)))
    return chosen
