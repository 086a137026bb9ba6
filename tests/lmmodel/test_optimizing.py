"""The learning rate by the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmodel.optimizing import ScheduleConfig, lr_ratio

configs = st.one_of(
    st.builds(ScheduleConfig, kind=st.just("constant"), warmup_ratio=st.floats(0, 0.99)),
    st.builds(
        ScheduleConfig, kind=st.sampled_from(["linear", "cosine"]),
        warmup_ratio=st.floats(0, 0.99), final_ratio=st.floats(0, 1),
    ),
    st.builds(
        ScheduleConfig, kind=st.just("wsd"), warmup_ratio=st.floats(0, 0.5),
        cooldown_ratio=st.floats(0.01, 0.5), final_ratio=st.floats(0, 1),
    ),
)  # fmt: skip


def table(num_steps: int, **options) -> list[float]:
    config = ScheduleConfig(**options)
    return [round(lr_ratio(step, num_steps, config), 4) for step in range(num_steps + 1)]


def test_linear_by_hand() -> None:
    assert table(4, kind="linear", warmup_ratio=0.5) == [0.5, 1.0, 1.0, 0.5, 0.0]


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    for kind in ("constant", "linear", "cosine", "wsd"):
        assert table(5, kind=kind, warmup_ratio=0.0)[0] == 1.0


def test_wsd_is_flat_until_the_cooldown() -> None:
    rates = table(10, kind="wsd", warmup_ratio=0.1, cooldown_ratio=0.2, final_ratio=0.5)
    assert rates == [1.0] * 9 + [0.75, 0.5]


def test_one_step_is_enough() -> None:
    for kind in ("constant", "linear", "cosine", "wsd"):
        assert table(1, kind=kind)[0] == 1.0


@given(config=configs, num_steps=st.integers(1, 997))
def test_the_rate_rises_then_falls_and_never_leaves_its_bounds(
    config: ScheduleConfig, num_steps: int
) -> None:
    rates = [lr_ratio(step, num_steps, config) for step in range(num_steps + 1)]
    assert all(0 <= rate <= 1 + 1e-12 for rate in rates)
    assert all(rate > 0 for rate in rates[:num_steps])
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    falling = [round(rate, 12) for rate in rates[peak:]]
    assert falling == sorted(falling, reverse=True)


@given(config=configs, num_steps=st.integers(1, 97), beyond=st.integers(0, 10**6))
def test_beyond_the_last_step_the_rate_stays(
    config: ScheduleConfig, num_steps: int, beyond: int
) -> None:
    last = lr_ratio(num_steps, num_steps, config)
    assert lr_ratio(num_steps + beyond, num_steps, config) == last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_ratio": 1.0}, r"warmup_ratio must be in \[0, 1\), got 1.0"),
        ({"final_ratio": -0.1}, r"final_ratio must be in \[0, 1\], got -0.1"),
        ({"kind": "constant", "final_ratio": 0.1}, "final_ratio has no effect with kind=constant"),
        ({"cooldown_ratio": 0.1}, "cooldown_ratio needs kind=wsd, got kind=linear"),
        ({"kind": "wsd", "cooldown_ratio": 0.99}, "cooldown_ratio must be in .* got 0.99"),
    ],
)
def test_wrong_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**options)
