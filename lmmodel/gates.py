"""What guessing by n-grams costs on a run's own held-out tokens: the levels that a loss passes.

    uniform      every piece alike
    unigram      by frequency (`objectives.terms.unigram_cross_entropy`)
    bigram, trigram, 5-gram                   of causal tokens: after those before them
    two-sided bigram, two-sided trigram       of masked tokens: between one or two on each side

Each is an interpolated Kneser-Ney model of its own order, counted from the training split, of a
large one from a sample of its documents, so that it takes seconds. The levels are kept beside the
data, by the hashes of the data and of the held-out tokens, and so counted once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmdata.batch import ExampleBatch
from lmdata.config import json_text, read_json
from lmdata.dataset import open_examples, open_store
from lmdata.errors import OutputError
from lmdata.files import lease, write_atomically
from lmdata.xxh3 import xxh3_128
from lmmodel.data import TrainingData
from lmmodel.objectives.objective import Vocabulary

MOST_TOKENS = 1 << 23
"""Of the training split that are counted at most: a few seconds on two cores."""

VERSION = 1  # of how levels are computed
_NAMES = {
    "uniform_loss": "uniform",
    "unigram_loss": "unigram",
    "bigram_loss": "bigram",
    "trigram_loss": "trigram",
    "fivegram_loss": "5-gram",
    "two_sided_bigram_loss": "two-sided bigram",
    "two_sided_trigram_loss": "two-sided trigram",
}


def level_names(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the levels among some figures by what people call them, the highest first.

    Example:
        >>> level_names({"loss": 3.0, "unigram_loss": 6.5, "uniform_loss": 8.0})
        {'uniform': 8.0, 'unigram': 6.5}
    """
    found = {name: figures.get(prefix + key) for key, name in _NAMES.items()}
    return {name: value for name, value in found.items() if value is not None}


def find_gates(
    data: TrainingData, examples: ExampleBatch, vocabulary: Vocabulary, *, is_causal: bool
) -> dict[str, float]:
    """Return the levels of labelled examples in nats a label, by name; unigram's is a term's own.

    Args:
        data: whose training split is counted
        examples: held out
        vocabulary: of the data
        is_causal: whether labels are next tokens, else masked ones

    Where Numba is not installed, as on a machine that only trains, n-grams are not counted.
    """
    gates = {"uniform_loss": math.log(max(int((~vocabulary.is_special).sum()), 1))}
    if importlib.util.find_spec("numba") is None or not len(examples.masked_labels):
        return gates
    key = _key(examples, is_causal=is_causal)
    return gates | _kept(data, key, lambda: _count(data, examples, vocabulary, is_causal))


def _key(examples: ExampleBatch, *, is_causal: bool) -> str:
    """Return what tells held-out labels and what stands around them from others."""
    found = xxh3_128(f"{VERSION} {MOST_TOKENS} {is_causal}".encode())
    for array in (
        examples.input_ids.astype(np.uint32), examples.offsets.astype(np.int64),
        examples.masked_labels.astype(np.uint32), examples.flat_masked_positions(),
    ):  # fmt: skip
        found.update(array.tobytes())
    return str(found.hexdigest())


def kept_path(folder: Path) -> Path:
    """Return the file beside some data that keeps the levels of what is held out of it.

    Example:
        >>> kept_path(Path("data/tokens")).as_posix()
        'data/.tokens.gates.json'
    """
    return folder.with_name(f".{folder.name}.gates.json")


def _kept(data: TrainingData, key: str, count: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the levels that lie beside the data, or count them and keep them there."""
    folder = data.path.resolve()
    path = kept_path(folder)
    kept = _read(path, data.hash)
    if key not in kept:
        kept[key] = count()
        # Where nothing can be written beside the data, they are counted by each run.
        with contextlib.suppress(OutputError), lease(path):
            values = {**_read(path, data.hash), key: kept[key]}
            content = {"data_hash": data.hash, "levels": values}
            write_atomically(path, json_text(content, indent=1) + "\n")
    return kept[key]


def _read(path: Path, data_hash: str) -> dict[str, dict[str, float]]:
    """Return the levels that were kept for data of this hash, by key."""
    try:
        values = read_json(path)
        is_ours = values["data_hash"] == data_hash
        found = {
            str(key): {str(name): float(value) for name, value in levels.items()}
            for key, levels in values["levels"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # none yet, or not what was written: they are counted again
    return found if is_ours else {}


def _count(
    data: TrainingData, examples: ExampleBatch, vocabulary: Vocabulary, is_causal: bool
) -> dict[str, float]:
    from lmmodel.counting.keys import Lines, lines_of_examples, lines_of_store
    from lmmodel.counting.labels import find_places, score_between, score_places
    from lmmodel.counting.smoothing import smooth
    from lmmodel.counting.sorting import find_levels, num_usable_cores
    from lmmodel.counting.trie import Trie, join_levels

    def model(text: Lines, order: int) -> tuple[Trie, np.ndarray]:
        threads = num_usable_cores()
        trie = join_levels(smooth(find_levels(text, order, threads), threads)[0])
        return trie, np.exp(trie.log_p[: trie.sizes[0]].astype(np.float64))

    if data.is_frozen:
        text = lines_of_examples(open_examples(data.path, "train"), MOST_TOKENS)
    else:
        text = lines_of_store(open_store(data.path, "train"), MOST_TOKENS)
    found = find_places(examples, vocabulary.is_special, is_causal=is_causal)
    if is_causal:
        orders = {"bigram_loss": 2, "trigram_loss": 3, "fivegram_loss": 5}
        return {
            name: float(score_places(*model(text, order), found)[0].mean())
            for name, order in orders.items()
        }
    back = text.reversed()
    return {
        f"two_sided_{name}_loss": float(
            score_between(model(text, n), model(back, n), vocabulary.counts, found).mean()
        )
        for name, n in (("bigram", 2), ("trigram", 3))
    }
