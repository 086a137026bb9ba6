"""Settings: frozen dataclasses filled from defaults, then a TOML file, then KEY=VALUE pairs.

Unknown keys and wrong types are errors that name the key and the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from lmdata.errors import ConfigError

T = TypeVar("T")

MOST_JSON_BYTES = 1 << 24
LFS_MARK = "version https://git-lfs.github.com/spec/"
"""How a file begins that Git keeps elsewhere."""


def load_config(cls: type[T], toml_path: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Return an instance of a dataclass from its defaults, a TOML file and KEY=VALUE pairs.

    Args:
        cls: a frozen dataclass; its fields may be dataclasses themselves
        toml_path: file whose tables mirror the dataclass, or None
        overrides: like `"optimizer.lr=3e-4"`; the value is a TOML value, or else a plain string

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or a broken file
    """
    values = read_toml(toml_path) if toml_path else {}
    for override in overrides:
        set_value(values, override)
    return build_config(cls, values)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file is missing or is not TOML
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no such configuration file: {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Return the content of a JSON file that others may have written.

    Args:
        path: of a description, never of data
        most_bytes: a larger file is not read

    Raises:
        OSError: it can't be read
        ValueError: it is too large, nested too deeply, a pointer, or no JSON; in one line
    """
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"it has {size:,} bytes, such a file has at most {most_bytes:,}")
    text = path.read_text(encoding="utf-8")
    if text.startswith(LFS_MARK):
        raise ValueError(
            "it is a Git LFS pointer, not the file that it points to: fetch it with `git lfs pull`"
        )
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def set_value(values: dict[str, Any], override: str) -> None:
    """Put one `a.b=value` pair into nested tables, in place.

    Example:
        >>> tables = {}
        >>> set_value(tables, "optimizer.lr=3e-4"); set_value(tables, "name=modern"); tables
        {'optimizer': {'lr': 0.0003}, 'name': 'modern'}
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set takes KEY=VALUE, got {override!r}")
    *parents, name = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a table")
    values[name] = _parse_value(text.strip())


def build_config(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Return an instance of a dataclass from nested tables, checking every key and type.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value that the dataclass refuses
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(f"unknown key {prefix}{name}{_near_match(name, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing")
    checked = {
        name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()
    }
    try:
        return cls(**checked)
    except ValueError as error:
        raise ConfigError(f"{prefix.rstrip('.') + ': ' if prefix else ''}{error}") from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested JSON values (tuples become lists, paths strings)."""
    return {
        field.name: _to_json(getattr(config, field.name)) for field in dataclasses.fields(config)
    }


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _near_match(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    suggestion = f", did you mean {near[0]}?" if near else ""
    return f"{suggestion} (known keys: {', '.join(sorted(known))})"


def _convert(hint: Any, value: Any, key: str) -> Any:
    """Return `value` as the type that `hint` asks for, or raise a ConfigError that names `key`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, key)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{key} must be one of {', '.join(map(str, arguments))}, got {value!r}")
    if origin is tuple:
        return _convert_tuple(arguments, value, key)
    if origin is dict and isinstance(value, dict):
        return {name: _convert(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a table, got {value!r}")
        return build_config(hint, value, f"{key}.")
    return _convert_scalar(hint, value, key)


def _convert_union(options: tuple[Any, ...], value: Any, key: str) -> Any:
    if type(None) in options and value in (None, "none"):
        return None
    failure: ConfigError | None = None
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, key)
            except ConfigError as error:
                failure = error
    assert failure is not None
    raise failure


def _convert_tuple(items: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{key} must be a list, got {value!r}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if len(items) != len(value):
        raise ConfigError(f"{key} must have {len(items)} items, got {len(value)}")
    return tuple(
        _convert(hint, item, f"{key}[{i}]")
        for i, (hint, item) in enumerate(zip(items, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, key: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}")
    if hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        return value
    raise ConfigError(f"{key} must be of type {hint.__name__}, got {value!r}")
