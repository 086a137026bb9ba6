"""What every test shares: Hypothesis profiles and the real data, where it is at hand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Two workers fill the cores, and models this small are slower on more threads. Torch reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED_DATA = Path(__file__).parents[1] / "../shared/data"

# The example database is off and the search derandomised: the same run on every machine.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=50, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text; tests that use it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data (../shared/data) is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token store of a made-up language of a few dozen words; nobody may change it."""
    from tests.lmmodel.conftest import make_store

    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def _short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plan measures is not looked at: a fifth of a second of it, where it takes five."""
    if trainer := sys.modules.get("lmmodel.trainer"):
        monkeypatch.setattr(trainer, "PLAN_LIMIT_S", 0.2)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name parameters of bytes by their argument, as compressed bytes hold the time of day.

    Every worker of pytest-xdist must collect the same names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(optionalhook=True)  # pytest-xdist may be absent
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Share whole files out so that few workers make the same fixtures and kernels."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.two_ends import FromBothEnds

    return FromBothEnds(config, log)
