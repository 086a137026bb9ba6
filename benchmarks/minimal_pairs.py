"""BLiMP by pseudo-log-likelihood: `lmmodel evaluate --minimal-pairs` against a plain loop.

The loop is what one writes with transformers on the exported model: for each sentence the copies
with one token masked, as one batch, the log-softmax of the logits at the
masked place.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.measure import DATA, print_table, write_result
from lmmodel.handover.stock import export_model
from lmmodel.minimal_pairs import TIE_NATS, PairPrecision, Pairs, read_pairs, score_pairs, table_of
from lmmodel.trained import Run, load_run

PRECISIONS: tuple[PairPrecision, ...] = get_args(PairPrecision)


def main(arguments: list[str]) -> None:
    """Score a share of the pairs both ways, then all of them our way, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks minimal-pairs", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of a masked model")
    parser.add_argument("--pairs", type=Path, default=DATA / "blimp")
    parser.add_argument("--num-compared", type=int, default=200, help="pairs that the loop scores")
    parser.add_argument("--num-threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.num_threads)
    run, pairs = load_run(options.run, device="cpu"), read_pairs(options.pairs)
    some = every_nth(pairs, -(-len(pairs) // options.num_compared))
    loop, rows = plain_loop(run, some), []
    rows.append({"what": "transformers, a plain loop", **loop.speed})
    compared, results = {}, {}
    for precision in PRECISIONS:
        ours, everything = (score(run, own, precision) for own in (some, pairs))
        rows.append({"what": f"lmmodel {precision}, the same pairs", **ours.speed})
        rows.append({"what": f"lmmodel {precision}, all pairs", **everything.speed})
        compared[precision] = compare(ours.scores, loop.scores)
        results[precision] = everything.table
    print_table(rows)
    print(compared)
    write_result(
        "minimal-pairs",
        {
            "run": options.run.name, "num_threads": options.num_threads, "rows": rows,
            "against_the_loop": compared, "results": results,
        },
    )  # fmt: skip


@dataclass(frozen=True)
class Timed:
    """Scores, float64 (N, 2), and what they took."""

    scores: np.ndarray
    seconds: float
    cpu_seconds: float  # of all threads
    table: dict[str, Any]

    @property
    def speed(self) -> dict[str, Any]:
        """What goes into the table."""
        return {
            "pairs": len(self.scores),
            "seconds": round(self.seconds, 2),
            "CPU s": round(self.cpu_seconds, 2),
            "pairs/s": round(len(self.scores) / self.seconds, 2),
        }


def every_nth(pairs: Pairs, step: int) -> Pairs:
    """Return every n-th pair, so that all paradigms take part."""
    return Pairs(pairs.choices[::step], pairs.paradigm[::step], pairs.names)


def plain_loop(run: Run, pairs: Pairs) -> Timed:
    """Return what a plain loop makes of pairs; opening the model is not timed."""
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        export_model(run.model, run.tokenizer, Path(folder))
        model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    start, cpu_start = time.perf_counter(), time.process_time()
    scores = [[sentence_score(model, tokenizer, text) for text in both] for both in pairs.choices]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Timed(np.array(scores), seconds, cpu_seconds, {})


@torch.no_grad()
def sentence_score(model: Any, tokenizer: Any, text: str) -> float:
    ids = tokenizer(text, return_tensors="pt").input_ids[0]
    places = torch.arange(1, len(ids) - 1)
    copies = ids.repeat(len(places), 1)
    copies[torch.arange(len(places)), places] = tokenizer.mask_token_id
    rows = torch.arange(len(places))
    logits = model(input_ids=copies).logits[rows, places]  # (copies, V)
    return float(logits.log_softmax(dim=-1)[rows, ids[places]].sum())


def score(run: Run, pairs: Pairs, precision: PairPrecision) -> Timed:
    """Return what the project makes of pairs."""
    start, cpu_start = time.perf_counter(), time.process_time()
    found = score_pairs(run, pairs, precision=precision)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    scores = np.stack([found.good, found.bad], axis=1)
    return Timed(scores, seconds, cpu_seconds, table_of(found))


def compare(ours: np.ndarray, loop: np.ndarray) -> dict[str, Any]:
    """Return how far scores, float64 (N, 2), are apart and how many verdicts differ."""
    differences = np.abs(ours - loop)
    verdicts = [scores[:, 0] - scores[:, 1] > TIE_NATS for scores in (ours, loop)]
    return {
        "mean_difference_nats": float(differences.mean()),
        "largest_difference_nats": float(differences.max()),
        "different_verdicts": int((verdicts[0] != verdicts[1]).sum()),
        "num_pairs": len(ours),
    }
