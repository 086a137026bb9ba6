"""What is asked of what writes: to write about texts, to go on with them or to restore them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lmdata.config import json_values

from .experts import open_experts
from .summaries import ProgressLine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmmodel.predicting.generation import Generation, GenerationConfig
    from lmmodel.writing import WritingConfig


class Generated(NamedTuple):
    """What came of N texts."""

    values: Any  # for JSON
    columns: list[dict[str, Any]]  # (N,) rows of a table of answers
    lines: list[str]  # for people


def write(
    run: Path, texts: Sequence[str], device: str, config: WritingConfig, *, quiet: bool
) -> Generated:
    """Return what an encoder-decoder writes about texts: each target, the next best behind it."""
    from lmmodel.predicting.written import load_writer

    writer = load_writer(run, device)
    with ProgressLine("writing", unit="texts", quiet=quiet) as line:
        found = writer.write(texts, config, progress=line.update)
    return Generated(
        json_values(found),
        [{"target": one.target, "score": one.score} for one in found],
        [line for one in found for line in (one.target, *[f"  {own}" for own in one.others])],
    )


def restore(run: Path, texts: Sequence[str], device: str, top_k: int) -> Generated:
    """Return guesses at texts with sentinels or masks."""
    from lmmodel.predicting.written import load_writer

    found = load_writer(run, device).restore(texts, top_k)
    lines = []
    for text, guesses in zip(texts, found, strict=True):
        lines += [text, *[f"  {guess.probability:7.2%}  {guess.text}" for guess in guesses]]
    return Generated(
        [{"text": text, "guesses": json_values(own)}
         for text, own in zip(texts, found, strict=True)],
        [{"guesses": json_values(own)} for own in found], lines,
    )  # fmt: skip


def go_on(
    run: Path, texts: Sequence[str], device: str, config: GenerationConfig, *, quiet: bool
) -> Generated:
    """Return how a causal or n-gram model goes on with texts, and why it stopped."""
    found = _go_on(run, texts, device, config, quiet=quiet)
    return Generated(
        json_values(found),
        [{"continuation": one.continuation, "stopped_by": one.stopped_by} for one in found],
        [
            line
            for one in found
            for line in (one.text, f"  [{len(one.ids)} tokens, stopped by: {one.stopped_by}]")
        ],
    )


def _go_on(
    run: Path, texts: Sequence[str], device: str, config: GenerationConfig, *, quiet: bool
) -> list[Generation]:
    from lmmodel.counting.folder import is_ngrams
    from lmmodel.ngrams import load_ngrams
    from lmmodel.predicting.generation import generate
    from lmmodel.routing.folder import is_experts
    from lmmodel.trained import load_run

    if is_experts(run):
        return open_experts(run, device).generate(texts, config)
    if is_ngrams(run):
        return load_ngrams(run).generate(texts, config)
    model = load_run(run, device=device)
    with ProgressLine("generating", unit="texts", quiet=quiet) as line:
        return generate(model, texts, config, progress=line.update)
