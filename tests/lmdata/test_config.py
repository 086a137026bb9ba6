"""lmdata/config.py: defaults, then TOML, then KEY=VALUE; everything unknown is an error."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from lmdata.config import build_config, config_to_dict, gather, load_config
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
    with pytest.raises(ConfigError, match="is not valid TOML: a number has thousands of digits"):
        load_config(Config, write(tmp_path, "num_steps = " + "9" * 10_000))
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(Config, tmp_path / "absent.toml")


def test_the_four_sources_lie_over_each_other_at_every_depth(tmp_path: Path) -> None:
    path = write(tmp_path, "[optimizer]\nlr = 0.2\n")
    base = {"num_steps": 3, "optimizer": {"lr": 0.1, "name": "muon", "betas": (0.1, 0.2)}}
    options = {"optimizer.betas": (0.3, 0.4), "num_steps": None}
    config = load_config(Config, path, ["optimizer.betas=[0.5, 0.6]"], options=options, base=base)
    wanted = Optimizer(lr=0.2, name="muon", betas=(0.5, 0.6))
    assert config == Config(num_steps=3, optimizer=wanted)
    assert base["optimizer"] == {"lr": 0.1, "name": "muon", "betas": (0.1, 0.2)}


HOSTILE = {
    "tables in tables": "a = " + "{a = " * 5000 + "1" + "}" * 5000,
    "lists in lists": "a = " + "[" * 5000 + "]" * 5000,
    "a key of many parts": "a" + ".a" * 100_000 + " = 1",
    "such a key in a table": "b = {x = 1, a" + ".a" * 100_000 + " = 1}",
    "a table of many parts": "[a" + ' . "b c"' * 40_000 + "]",
    "deeper than any setting": "a = " + "{a = " * 40 + "1" + "}" * 40,
    "a number of many digits": "num_steps = " + "9" * 10_000,
    "a file of many bytes": "#" * 2_000_000,
    "bytes that are no text": "num_steps = '\udcff'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(HOSTILE[name].encode("utf-8", "surrogateescape"))
    started_s = time.process_time()
    with pytest.raises(ConfigError, match=r"c\.toml") as refusal:
        load_config(Config, path)
    assert time.process_time() - started_s < 1
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer = 5", "optimizer must be a table, got 5"),
        ("optimizer = [[1]]", r"optimizer must be a table, got \[\[1\]\]"),
        ("num_steps = {a = 1}", "num_steps must be of type int, got {'a': 1}"),
        ("warmup = 18446744073709551616", "warmup must be a number of at most 64 bits, got 1844"),
        ("num_steps = '" + "a" * 5000 + "'", r"num_steps must be of type int, got 'a+\.\.\.$"),
    ],
)
def test_values_of_other_kinds_are_named_and_shortened(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Config, write(tmp_path, text))


def test_a_value_where_a_table_must_be_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "corpus = 5")
    with pytest.raises(ConfigError, match="corpus must be a table, got 5"):
        gather(path, options={"corpus.encoding": "utf-8"})
    with pytest.raises(ConfigError, match=r"optimizer must be a table, got 5"):
        build_config(Optimizer, 5, "optimizer.")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is no value of a setting"):
        gather(None, ["a=" + "9" * 5000])


def test_a_list_of_any_type_is_checked_item_by_item() -> None:
    @dataclass(frozen=True)
    class Lists:
        names: list[str] = field(default_factory=list)
        sizes: list[int] | None = None

    assert build_config(Lists, {"names": ["a"], "sizes": [1, 2]}) == Lists(["a"], [1, 2])
    with pytest.raises(ConfigError, match=r"names\[1\] must be of type str, got 3"):
        build_config(Lists, {"names": ["a", 3]})
    with pytest.raises(ConfigError, match="sizes must be a list, got 'x'"):
        build_config(Lists, {"sizes": "x"})
