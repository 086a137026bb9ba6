"""lmdata/config.py: defaults, then TOML, then KEY=VALUE; everything unknown is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lmdata.config import config_to_dict, load_config
from lmdata.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1e-3
    name: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)


@dataclass(frozen=True, kw_only=True)
class Config:
    num_steps: int = 10
    warmup: float | None = None
    compile: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_then_file_then_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "num_steps = 7\n[optimizer]\nlr = 1\nbetas = [0.8, 0.9]\n")
    config = load_config(Config, path, ["num_steps=9", "optimizer.name=muon"])
    assert config == Config(num_steps=9, optimizer=Optimizer(lr=1.0, name="muon", betas=(0.8, 0.9)))
    assert isinstance(config.optimizer.lr, float)


def test_round_trip_through_a_dictionary() -> None:
    assert config_to_dict(Config())["optimizer"]["betas"] == [0.9, 0.98]


def test_none_is_spelled_none() -> None:
    assert load_config(Config, None, ["warmup=none"]).warmup is None
    assert load_config(Config, None, ["warmup=0.1"]).warmup == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_step=3", "unknown key num_step, did you mean num_steps"),
        ("optimizer.lrr=3", "unknown key optimizer.lrr, did you mean lr"),
        ("num_steps=many", "num_steps must be of type int, got 'many'"),
        ("num_steps=true", "num_steps must be of type int, got True"),
        ("num_steps=1.5", "num_steps must be of type int, got 1.5"),
        ("compile=1", "compile must be of type bool, got 1"),
        ("optimizer=3", "optimizer must be a table, got 3"),
        ("optimizer.name=sgd", "optimizer.name must be one of adamw, muon, got 'sgd'"),
        ("optimizer.betas=[0.9]", "optimizer.betas must have 2 items, got 1"),
        ("num_steps=0", "num_steps must be at least 1, got 0"),
        ("num_steps", "--set takes KEY=VALUE, got 'num_steps'"),
    ],
)
def test_wrong_settings_name_the_key_and_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_config(Config, None, [override])


def test_a_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(Config, write(tmp_path, "num_steps ="))
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(Config, tmp_path / "absent.toml")
