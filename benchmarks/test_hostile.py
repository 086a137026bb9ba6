"""What the benchmark of hostile files says of a command is what became of it."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import hostile, hostile_inputs
from benchmarks.hostile_inputs import Case, Stage, damage, twist

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def crash(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_a_bug(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def refuse(*_: object, **__: object) -> None:
    sys.exit(1)


def do_nothing(*_: object, **__: object) -> None:
    sys.exit(0)


def take_memory(*_: object, **__: object) -> None:
    sys.exit(len(bytearray(64 << 20)) and 0)


def wait(*_: object, **__: object) -> None:
    signal.pause()


@pytest.mark.parametrize(
    ("main", "verdict"),
    [(crash, "crash"), (raise_a_bug, "traceback"), (refuse, "refused"), (do_nothing, "done"),
     (take_memory, "memory"), (wait, "hang")],
)  # fmt: skip
def test_each_end_of_a_command_has_its_name(main, verdict, tmp_path, monkeypatch):
    monkeypatch.setattr(hostile, "_program", lambda _: SimpleNamespace(main=main))
    monkeypatch.setattr(hostile, "LONGEST_S", 0.3 if main is wait else 60.0)
    monkeypatch.setattr(hostile, "OWN_BYTES", 0 if main is take_memory else 1 << 40)
    outcome = hostile.run(Case("kind", "lmdata", (), budget_bytes=1 << 20), tmp_path)
    assert outcome.verdict == verdict


@pytest.mark.parametrize("maker", [hostile_inputs.damaged_corpus, hostile_inputs.odd_lines])
def test_a_seed_makes_the_same_bytes(maker, tmp_path):
    stage = Stage(*(Path(name) for name in ("tok", "tokens", "shards", "run", "class", "hf")))
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        maker(random.Random(7), stage, folder)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert found[0] == found[1]
    assert found[0]


def test_damage_and_twists_change_something():
    whole, value = bytes(range(256)) * 4, {"a": [1, {"b": "c"}], "d": None}
    assert sum(damage(random.Random(seed), whole) != whole for seed in range(50)) >= 45
    assert sum(twist(random.Random(seed), value) != value for seed in range(50)) >= 40
    assert value == {"a": [1, {"b": "c"}], "d": None}
