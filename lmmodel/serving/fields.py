"""What a request's JSON holds: one declaration checks it and describes it in OpenAPI's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class InvalidError(Exception):
    """A field is missing, unknown or of another kind; says where and what is allowed.

    Attributes:
        param: the field
        wanted: what kind of value it may be, where another was sent
    """

    def __init__(
        self, message: str, param: str | None = None, *, wanted: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.wanted = param, wanted


class JsonKind(Protocol):
    """What a value may be."""

    def check(self, value: Any, where: str) -> Any:
        """Return the value as it is used.

        Raises:
            InvalidError: it may not be so
        """
        ...

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        ...


@dataclass(frozen=True)
class String:
    """A string."""

    least: int = 1  # characters
    most: int = 1_000_000

    def check(self, value: Any, where: str) -> str:
        """Return the string."""
        if not isinstance(value, str):
            raise _wrong(where, value, "a string")
        if not self.least <= len(value) <= self.most:
            least, most = self.least, self.most
            raise InvalidError(
                f"{where} must have {least} to {most:,} characters, got {len(value):,}", where
            )
        return value

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "string", "minLength": self.least, "maxLength": self.most}


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    least: int
    most: int

    def check(self, value: Any, where: str) -> int:
        """Return the number; 3.0 is one, as JSON Schema has it."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not self.least <= value <= self.most:
            raise _wrong(where, value, f"a whole number in [{self.least:,}, {self.most:,}]")
        return int(value)

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True)
class Number:
    """A number."""

    least: float
    most: float
    is_open: bool = False  # the least itself is not allowed

    def check(self, value: Any, where: str) -> float:
        """Return the number."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise _wrong(where, value, f"a number up to {self.most:g}")
        if not self.least <= value <= self.most or (self.is_open and value == self.least):
            bracket = "(" if self.is_open else "["
            raise _wrong(where, value, f"a number in {bracket}{self.least:g}, {self.most:g}]")
        return float(value)

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        least = "exclusiveMinimum" if self.is_open else "minimum"
        return {"type": "number", least: self.least, "maximum": self.most}


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def check(self, value: Any, where: str) -> bool:
        """Return the truth."""
        if not isinstance(value, bool):
            raise _wrong(where, value, "true or false")
        return value

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class OneOf:
    """One of some strings."""

    names: tuple[str, ...]

    def check(self, value: Any, where: str) -> str:
        """Return the string."""
        if not isinstance(value, str) or value not in self.names:
            raise _wrong(where, value, " or ".join(map(repr, self.names)))
        return value

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "string", "enum": list(self.names)}


@dataclass(frozen=True)
class Nothing:
    """null, for what others know and we have not."""

    def check(self, value: Any, where: str) -> None:
        """Return nothing."""
        if value is not None:
            raise _wrong(where, value, "null: leave it out")

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "null"}


@dataclass(frozen=True)
class Many:
    """A list."""

    item: JsonKind
    most: int
    least: int = 1

    def check(self, value: Any, where: str) -> list[Any]:
        """Return the list."""
        if not isinstance(value, list):
            raise _wrong(where, value, "a list")
        if not self.least <= len(value) <= self.most:
            raise InvalidError(
                f"{where} must have {self.least} to {self.most:,} items, got {len(value):,}", where
            )
        return [self.item.check(own, f"{where}[{index}]") for index, own in enumerate(value)]

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"type": "array", "items": self.item.schema(),
                "minItems": self.least, "maxItems": self.most}  # fmt: skip


@dataclass(frozen=True)
class AnyOf:
    """One of some shapes, each of another kind: the first that fits."""

    shapes: tuple[JsonKind, ...]

    def check(self, value: Any, where: str) -> Any:
        """Return the value by the shape of its kind; so is the error, if there is one of it."""
        errors = []
        for shape in self.shapes:
            try:
                return shape.check(value, where)
            except InvalidError as error:
                errors.append(error)
        of_its_kind = [e for e in errors if e.wanted is None or e.param != where]
        if of_its_kind:
            raise max(of_its_kind, key=lambda error: (error.param or "").count("["))
        raise _wrong(where, value, " or ".join(dict.fromkeys(str(e.wanted) for e in errors)))

    def schema(self) -> dict[str, Any]:
        """Return it as JSON Schema."""
        return {"anyOf": [shape.schema() for shape in self.shapes]}


@dataclass(frozen=True)
class Field:
    """One field of a request."""

    shape: JsonKind
    about: str
    is_needed: bool = False
    default: Any = None


Fields = Mapping[str, Field]


def check_fields(fields: Fields, body: Any) -> dict[str, Any]:
    """Return the value of each field, defaults where it is left out or null.

    Raises:
        InvalidError: a field is missing, unknown or of another kind

    Example:
        >>> check_fields({"top_k": Field(Whole(1, 9), "guesses", default=5)}, {})
        {'top_k': 5}
    """
    if not isinstance(body, dict):
        raise InvalidError(f"the body is {_name(body)}: send an object with {_listed(fields)}")
    for name in body.keys() - fields.keys():
        raise InvalidError(f"unknown field {name[:60]!r}: known are {_listed(fields)}", name[:60])
    values = {}
    for name, field in fields.items():
        value = body.get(name)
        if value is None and field.is_needed:
            raise InvalidError(f"{name} is missing: {field.about}", name)
        values[name] = field.default if value is None else field.shape.check(value, name)
    return values


def describe_fields(fields: Fields) -> dict[str, Any]:
    """Return the JSON Schema of a request's body."""
    properties = {}
    for name, field in fields.items():
        schema = field.shape.schema()
        if not field.is_needed and schema != {"type": "null"}:
            schema = {"anyOf": [schema, {"type": "null"}]}
            if field.default is not None:
                schema["default"] = field.default
        properties[name] = {**schema, "description": field.about}
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name, field in fields.items() if field.is_needed],
        "additionalProperties": False,
    }


def _listed(names: Sequence[str] | Fields) -> str:
    return ", ".join(names)


def _name(value: Any) -> str:
    """Return what kind of JSON a value is."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"), (str, "a string"), (int, "a number"), (float, "a number"),
        (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _wrong(where: str, found: Any, wanted: str) -> InvalidError:
    is_short = isinstance(found, str | bool | int | float) and len(str(found)) <= 60
    shown = repr(found) if is_short and not isinstance(found, str) else str(found)
    shown = shown if is_short else _name(found)
    return InvalidError(f"{where} must be {wanted}, got {shown}", where, wanted=wanted)
