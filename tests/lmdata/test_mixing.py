"""Mixtures as whole numbers: exact counts, caps, UniMax, repeats of documents and of clusters."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.errors import ConfigError
from lmdata.mixing import (
    MixtureConfig,
    Phase,
    allocate,
    repeat_documents,
    repeats_by_cluster,
    resolve_shares,
    share_below,
)

sizes_strategy = st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any)


@given(sizes_strategy, st.integers(0, 10**9))
def test_amounts_sum_to_what_is_given_out(sizes: list[int], total: int) -> None:
    found = allocate(sizes, total)
    assert int(found.sum()) == total
    exact = np.array(sizes) / sum(sizes) * total
    assert (np.abs(found - exact) < 1 + 1e-6 * total).all()


def test_a_billion_draws_are_exact() -> None:
    mixture = MixtureConfig(weights={"a": 0.1, "b": 0.2, "c": 0.7}, unit="documents")
    sizes = {"a": 50_000, "b": 30_000, "c": 90_000}
    found = resolve_shares(sizes, mixture, Phase(), 10**9)
    assert found == {"a": 10**8, "b": 2 * 10**8, "c": 7 * 10**8}
    keys = np.arange(90_000, dtype=np.uint64)
    repeats = {
        name: repeat_documents(np.ones(sizes[name], np.int64), amount, keys[: sizes[name]], 3)
        for name, amount in found.items()
    }
    assert {name: int(own.sum()) for name, own in repeats.items()} == found
    assert all(int(own.max() - own.min()) <= 1 for own in repeats.values())


def test_unimax_is_that_of_its_authors() -> None:
    sizes = [100.0, 5000.0, 300.0, 1e6]
    most = [4 * size for size in sizes]
    assert share_below([1] * 4, 40_000, most).tolist() == [400.0, 19_200.0, 1200.0, 19_200.0]
    mixture = MixtureConfig(unimax=True, max_repeats=4)
    assert resolve_shares({"a": 10, "b": 200}, mixture, Phase(), 500) == {"a": 40, "b": 460}


def test_what_a_cap_holds_back_goes_to_the_others_also_over_phases() -> None:
    sizes, mixture = {"a": 10, "b": 100}, MixtureConfig(temperature=1e9, max_repeats=2)
    assert resolve_shares(sizes, mixture, Phase(), 100) == {"a": 20, "b": 80}
    assert resolve_shares(sizes, mixture, Phase(), 100, {"a": 20, "b": 80}) == {"a": 0, "b": 100}


def test_a_temperature_makes_shares_more_even() -> None:
    sizes = {"a": 10_000, "b": 100}
    shares = [resolve_shares(sizes, MixtureConfig(temperature=t), Phase(), 10_100)["b"]
              for t in (1.0, 2.0, 1e9)]  # fmt: skip
    assert shares == [100, 918, 5050]
    warm = Phase(temperature=2.0)
    assert resolve_shares(sizes, MixtureConfig(), warm, 10_100)["b"] == 918


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(0, 5000))
def test_repeats_come_as_near_to_the_amount_as_whole_documents_can(
    sizes: list[int], amount: int
) -> None:
    own = np.array(sizes, np.int64)
    keys = np.random.default_rng(1).integers(0, 2**64, len(own), np.uint64)
    repeats = repeat_documents(own, amount, keys, 0)
    read = int((own * repeats).sum())
    assert amount - own.max() < read <= amount
    assert int(repeats.max() - repeats.min()) <= 1
    more = repeat_documents(own, amount + 7, keys, 0)
    assert (more >= repeats).all()  # so a phase goes on where the last one ended


def test_clusters_are_read_by_their_size() -> None:
    table = {"1": 1, "2": 2, "3": 3, "5": 5, "100": 8, "1000": 1}
    sizes = np.array([1, 2, 3, 4, 5, 99, 100, 999, 1000])
    assert repeats_by_cluster(sizes, table).tolist() == [1, 2, 3, 3, 5, 5, 8, 8, 1]


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"weights": {"x": 1.0}}, "there is no group 'x'; there are a, b"),
        ({"weights": {"a": 0.0}}, "no group that is selected has a weight above 0"),
        ({"weights": {"b": 1.0}, "max_repeats": 4}, "110 bytes are asked for, and .* give 40 with"),
    ],
)
def test_mixtures_that_can_not_be_made_are_refused(
    mixture: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_shares({"a": 100, "b": 10}, MixtureConfig(**mixture), Phase(), 110)


def test_a_group_that_would_be_read_too_often_is_refused() -> None:
    with pytest.raises(ConfigError, match="would be read 100,000 times"):
        repeat_documents(np.array([1]), 100_000, np.array([0], np.uint64), 0)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"temperature": 0.0}, "a temperature is above it"),
        ({"weights": {"a": -1.0}}, "can't be below 0"),
        ({"unimax": True}, "unimax needs max_repeats"),
        ({"cluster_repeats": {"2": 2}, "budget": 5}, "cluster_repeats go without"),
        ({"cluster_repeats": {"two": 2}}, "sizes and repeats are whole numbers"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_settings_that_contradict_are_refused(mixture: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixtureConfig(**mixture)
