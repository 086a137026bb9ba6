"""Settings: frozen dataclasses filled from defaults, then a TOML file, then KEY=VALUE pairs.

Unknown keys and wrong types are errors that name the key and the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from lmdata.errors import ConfigError

T = TypeVar("T")
Change = tuple[str, Any, Any]

MOST_TOML_BYTES = 2**20
_MOST_DEPTH = 32
_MOST_INT = 2**63
_MOST_SHOWN = 100  # letters of a value in a message
_DEEP_KEY = re.compile(
    r"""(?:^|[{,\[])[ \t]*(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""", re.MULTILINE
)

MOST_JSON_BYTES = 1 << 24
LFS_MARK = "version https://git-lfs.github.com/spec/"
"""How a file begins that Git keeps elsewhere."""


def load_config(
    cls: type[T],
    toml_path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> T:
    """Return an instance of a dataclass from its defaults and what `gather` lays over them.

    Args:
        cls: a frozen dataclass; its fields may be dataclasses themselves
        toml_path: as in `gather`
        overrides: as in `gather`
        options: as in `gather`
        base: as in `gather`

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or a broken file
    """
    return build_config(cls, gather(toml_path, overrides, options=options, base=base))


def gather(
    toml_path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    options: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return settings as nested tables: `base` < TOML file < options < KEY=VALUE pairs.

    Args:
        toml_path: file whose tables mirror the dataclass, or None
        overrides: like `"optimizer.lr=3e-4"`; the value is a TOML value, or else a plain string
        options: by dotted key, as `{"optimizer.lr": 3e-4}`; None is not given
        base: nested tables that lie under all else

    Raises:
        ConfigError: a broken file, or a value where a table must be

    Example:
        >>> gather(None, ["a.c=3"], options={"a.b": 2, "d": None}, base={"a": {"b": 1, "e": 0}})
        {'a': {'b': 2, 'e': 0, 'c': 3}}
    """
    values = laid_over(base or {}, read_toml(toml_path) if toml_path else {})
    for key, value in (options or {}).items():
        if value is not None:
            _put(values, key, list(value) if isinstance(value, tuple) else value)
    for override in overrides:
        set_value(values, override)
    _check_depth(values)
    return values


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables with others laid over them, table by table.

    Example:
        >>> laid_over({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    merged = {
        key: dict(value) if isinstance(value, dict) else value for key, value in below.items()
    }
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(value, dict):
            value = laid_over(under if isinstance(under, dict) else {}, value)
        merged[key] = value
    return merged


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield "key was OLD, now NEW" for each setting of nested tables that differs.

    Example:
        >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}))
        ['a.b was 1, now 3']
    """
    for key, before, after in changes(old, new, prefix):
        yield f"{key} was {before}, now {after}"


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    """Yield the key, the old and the new value of each setting of nested tables that differs.

    Example:
        >>> list(changes({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}))
        [('a.b', 1, 3)]
    """
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changes(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        ConfigError: the file is missing, is not TOML, or too large or deep to hold settings
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_TOML_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"no such configuration file: {path}") from error
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    if len(content) > MOST_TOML_BYTES:
        raise ConfigError(f"{path} has more than {MOST_TOML_BYTES:,} bytes: it holds no settings")
    try:
        values = _parse_toml(content.decode("utf-8"))
    except ValueError as error:  # also of UTF-8, and of numbers with thousands of digits
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    _check_depth(values, f"{path}: ")
    return values


def _parse_toml(text: str) -> dict[str, Any]:
    """Return TOML tables.

    Raises:
        ValueError: no TOML; keys or values that are nested too deeply
    """
    if _DEEP_KEY.search(text):  # whose prefixes tomllib would all remember
        raise ValueError(f"a key has more than {_MOST_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # of Python's int
        raise ValueError("a number has thousands of digits") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _check_depth(values: Mapping[str, Any], where: str = "") -> None:
    """Refuse values so deep that no setting can be meant, and that showing them would fail."""
    level: list[Any] = [values]
    for _ in range(_MOST_DEPTH):
        tables = (item.values() if isinstance(item, Mapping) else item for item in level)
        level = [child for items in tables for child in items if isinstance(child, dict | list)]
        if not level:
            return
    raise ConfigError(f"{where}settings are nested more than {_MOST_DEPTH} deep")


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
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # of Python's int
        raise ValueError("a number has thousands of digits") from error
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
    _put(values, key.strip(), _parse_value(text.strip()))


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a dotted key into nested tables, in place."""
    *parents, name = key.split(".")
    for index, parent in enumerate(parents, 1):
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(parents[:index])} must be a table, got {_shown(values)}")
    values[name] = value


@functools.cache
def _describe(cls: type) -> tuple[dict[str, Any], dict[str, dataclasses.Field[Any]]]:
    """Return the types of a dataclass and its fields; a manifest has thousands of the same kind."""
    return typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls) if f.init}


def build_config(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Return an instance of a dataclass from nested tables, checking every key and type.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value that the dataclass refuses
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{prefix.rstrip('.')} must be a table, got {_shown(values)}")
    hints, fields = _describe(cls)  # type: ignore[arg-type]  # a class can be hashed
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
        field.name: json_values(getattr(config, field.name)) for field in dataclasses.fields(config)
    }


def json_values(value: Any) -> Any:
    """Return dataclasses, paths and sequences as what JSON knows; a number that is none as None.

    Example:
        >>> json_values({"path": Path("a/b"), "losses": (1.5, float("nan"))})
        {'path': 'a/b', 'losses': [1.5, None]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return config_to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [json_values(item) for item in value]
    if hasattr(value, "tolist"):  # an array, or one of its numbers
        return json_values(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def json_text(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Return a value as JSON that every reader takes: NaN and infinities, which it lacks, as null.

    Example:
        >>> json_text({"loss": float("inf"), "step": 3})
        '{"loss": null, "step": 3}'
    """
    plain = json_values(value)
    return json.dumps(plain, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _parse_value(text: str) -> Any:
    """Return a TOML value, else the text itself.

    Raises:
        ConfigError: a number or a nesting that is too large to be meant
    """
    try:
        return _parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        raise ConfigError(f"{text[:20]}... is no value of a setting: {error}") from error


def _shown(value: Any) -> str:
    """Return a value for a message, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


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
        raise ConfigError(
            f"{key} must be one of {', '.join(map(str, arguments))}, got {_shown(value)}"
        )
    if origin is tuple:
        return _convert_tuple(arguments, value, key)
    if origin is list:
        return list(_convert_tuple((*arguments, ...), value, key))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a table, got {_shown(value)}")
        return {name: _convert(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a table, got {_shown(value)}")
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
        raise ConfigError(f"{key} must be a list, got {_shown(value)}")
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
    if isinstance(value, int) and not -_MOST_INT <= value <= _MOST_INT:
        raise ConfigError(f"{key} must be a number of at most 64 bits, got {_shown(value)}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} must be a finite number, got {value}")
    if hint is Any or (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        return value
    raise ConfigError(f"{key} must be of type {hint.__name__}, got {_shown(value)}")
