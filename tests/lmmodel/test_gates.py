from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmdata.dataset import open_store
from lmmodel.config import TrainConfig
from lmmodel.counting.labels import Places, guess_specials
from lmmodel.data import open_data
from lmmodel.evaluation import make_held_out, vocabulary_of
from lmmodel.gates import find_gates, kept_path, level_names
from lmmodel.objectives import ObjectiveConfig, make_objective
from references.kneser_ney import KneserNey


def labelled(store: Path, objective: str, num: int = 12):
    data, part = open_data(store), make_objective(ObjectiveConfig(name=objective)).parts[0]
    definition = make_objective(ObjectiveConfig(name=objective)).definition
    examples = data.held_out(definition.hold_out(definition.recipe), num)
    return data, part.label(examples), vocabulary_of(data)


def lines_of(store: Path) -> list[list[int]]:
    opened = open_store(store, "train")
    return [opened.document(row)[0].tolist() for row in range(len(opened))]


def seen(ids: list[int], is_special: np.ndarray, most: int) -> list[int]:
    """Return the ids next to a place, the nearest first, up to a special one."""
    found = []
    for token in ids[:most]:
        if is_special[token]:
            break
        found.append(token)
    return found


def test_causal_levels_are_those_of_the_definition(store: Path) -> None:
    data, examples, vocabulary = labelled(store, "clm", 3)
    gates = find_gates(data, examples, vocabulary, is_causal=True)
    is_special, num = vocabulary.is_special, len(vocabulary.counts)
    flat, labels = examples.flat_masked_positions(), examples.masked_labels.tolist()
    rows = np.repeat(np.arange(len(examples)), np.diff(examples.mask_offsets))
    special_share = np.mean(is_special[labels])
    for name, order in (("bigram_loss", 2), ("trigram_loss", 3), ("fivegram_loss", 5)):
        model, losses = KneserNey(lines_of(store), order, num), []
        for place, label, row in zip(flat.tolist(), labels, rows.tolist(), strict=True):
            if is_special[label]:
                losses.append(-math.log(labels.count(label) / len(labels)))
                continue
            before = examples.input_ids[int(examples.offsets[row]) : place + 1].tolist()
            context = tuple(reversed(seen(before[::-1], is_special, order - 1)))
            p = model.p(label, context) / (1 - model.p("</s>", context))
            losses.append(-math.log(p * (1 - special_share)))
        assert gates[name] == pytest.approx(np.mean(losses), abs=1e-5)
    assert gates["uniform_loss"] == pytest.approx(math.log((~is_special).sum()))


def test_two_sided_levels_are_those_of_the_definition(store: Path) -> None:
    data, examples, vocabulary = labelled(store, "mlm", 2)
    gates = find_gates(data, examples, vocabulary, is_causal=False)
    is_special, counts = vocabulary.is_special, vocabulary.counts
    pieces = np.flatnonzero(~is_special)
    frequency = (counts + 1) / (counts + 1)[pieces].sum()
    lines, ids = lines_of(store), examples.input_ids.tolist()
    rows = np.repeat(np.arange(len(examples)), np.diff(examples.mask_offsets))
    for name, order in (("two_sided_bigram_loss", 2), ("two_sided_trigram_loss", 3)):
        left = KneserNey(lines, order, len(counts))
        right = KneserNey([line[::-1] for line in lines], order, len(counts))
        losses = []
        for place, label, row in zip(
            examples.flat_masked_positions().tolist(), examples.masked_labels, rows, strict=True
        ):
            start, stop = examples.offsets[row : row + 2].tolist()
            before = tuple(reversed(seen(ids[start:place][::-1], is_special, order - 1)))
            behind = tuple(reversed(seen(ids[place + 1 : stop], is_special, order - 1)))
            p = np.array([
                (left.p(int(w), before) if before else frequency[w])
                * (right.p(int(w), behind) if behind else frequency[w]) / frequency[w]
                for w in pieces
            ])  # fmt: skip
            losses.append(-math.log(p[np.searchsorted(pieces, label)] / p.sum()))
        assert gates[name] == pytest.approx(np.mean(losses), abs=1e-5)


def test_levels_lie_in_order_and_in_every_figure(
    store: Path, trained: Path, tiny: Callable[..., TrainConfig]
) -> None:
    import json

    entries = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [entry for entry in entries if "validation_loss" in entry][-1]
    levels = level_names(last, "validation_")
    assert list(levels) == ["uniform", "unigram", "two-sided bigram", "two-sided trigram"]
    uniform, unigram, *two_sided = levels.values()
    assert uniform > unigram > max(two_sided)


def test_frozen_examples_are_counted_as_they_were_before_masks(
    shards: Path, tiny: Callable[..., TrainConfig]
) -> None:
    data = open_data(shards)
    held_out = make_held_out(tiny("device=cpu"), data, num_examples=8)
    assert 0 < held_out.gates["two_sided_trigram_loss"] < held_out.gates["uniform_loss"]


def test_they_are_counted_once_for_data_and_labels(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    own = tmp_path / "tokens"
    shutil.copytree(store, own)
    data, examples, vocabulary = labelled(own, "clm")
    first = find_gates(data, examples, vocabulary, is_causal=True)
    assert kept_path(own).is_file()

    def refuse(*_: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr("lmmodel.gates._count", refuse)
    assert find_gates(data, examples, vocabulary, is_causal=True) == first
    with pytest.raises(AssertionError, match="counted again"):
        find_gates(data, examples.take(np.arange(3)), vocabulary, is_causal=True)
    for content in ("", "[]", '{"data_hash": 1, "levels": {}}', '{"levels": 3}'):
        kept_path(own).write_text(content)
        with pytest.raises(AssertionError, match="counted again"):
            find_gates(data, examples, vocabulary, is_causal=True)


def test_they_are_counted_where_nothing_can_be_kept(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, examples, vocabulary = labelled(store, "clm", 2)
    nowhere = store / "manifest.json" / "levels.json"
    monkeypatch.setattr("lmmodel.gates.kept_path", lambda _folder: nowhere)
    assert find_gates(data, examples, vocabulary, is_causal=True)["trigram_loss"] > 0


def test_special_labels_are_guessed_by_their_share() -> None:
    labels = np.array([2, 0, 1, 0])
    nothing = np.zeros(0, np.int64)
    found = Places(nothing, nothing, nothing, nothing, labels, np.array([False, False, True]))
    losses = guess_specials(np.array([9.0, 1.0, 1.0, 1.0]), found)
    np.testing.assert_allclose(losses, [math.log(4), *[1 - math.log(3 / 4)] * 3])
