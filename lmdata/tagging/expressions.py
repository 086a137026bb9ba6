"""Expressions in SQL over tags: their values, and which of several conditions fails first."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lmdata.errors import ConfigError

_WORD = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|\w+|.", re.DOTALL)


def find_first_failed(table: pa.Table, where: str) -> tuple[npt.NDArray[np.int16], list[str]]:
    """Return the first condition that does not hold for each row, and the conditions.

    Args:
        table: of D rows
        where: conditions joined by AND

    Returns:
        int16 (D,), -1 where all hold, else an index into the texts of the conditions.

    Raises:
        ConfigError: it names no column, or is no condition

    Example:
        >>> found, reasons = find_first_failed(pa.table({"a": [1, 5, 9]}), "a > 1 and a < 6")
        >>> found.tolist(), reasons
        ([0, -1, 1], ['a > 1', 'a < 6'])
    """
    conditions = _split_conditions(where)
    try:
        holds = [_holds(table, condition) for condition in conditions]
    except ConfigError:
        if len(conditions) == 1:
            raise
        conditions = [where.strip()]  # an AND that joins no conditions, as of BETWEEN
        holds = [_holds(table, where)]
    found = np.full(len(table), -1, np.int16)
    for number in reversed(range(len(conditions))):
        found[~holds[number]] = number
    return found, conditions


def _split_conditions(where: str) -> list[str]:
    """Return what AND joins outside of parentheses and quotes.

    Example:
        >>> _split_conditions("a and (b AND c) and d = ' and '")
        ['a', '(b AND c)', "d = ' and '"]
    """
    parts, depth = [""], 0
    for word in _WORD.findall(where):
        depth += (word == "(") - (word == ")")
        if word.lower() == "and" and depth == 0:
            parts.append("")
        else:
            parts[-1] += word
    return [part.strip() for part in parts]


def _holds(table: pa.Table, condition: str) -> npt.NDArray[np.bool_]:
    """Return for which rows a condition holds; where it is unknown, as of a null, it does not."""
    values = evaluate(table, condition, "where")
    if values.dtype != pl.Boolean:
        raise ConfigError(
            f"where: {condition!r} is no condition but {str(values.dtype).lower()}: compare it, as "
            "in 'num_words > 100'"
        )
    return np.asarray(values.fill_null(value=False).to_numpy(), bool)


def evaluate(table: pa.Table, expression: str, setting: str) -> pl.Series:
    """Return the values of an expression in SQL over tags.

    Args:
        table: of tags
        expression: in SQL
        setting: that it is the value of, for messages

    Raises:
        ConfigError: it names no column, or can't be read
    """
    words = words_of(expression)  # the other columns need not be looked at
    names = [name for name in table.column_names if name in words] or table.column_names[:1]
    frame = pl.DataFrame(pl.from_arrow(table.select(names)))
    try:
        return frame.with_columns(pl.sql_expr(expression).alias("value"))["value"]
    except pl.exceptions.ColumnNotFoundError as error:
        raise ConfigError(
            f"{setting}: {_explain_name(table.column_names, expression, error)}"
        ) from error
    except pl.exceptions.PolarsError as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"{setting}: {expression!r} can't be read as SQL: {problem}") from error


def words_of(*expressions: str) -> frozenset[str]:
    """Return all that could be names of columns in expressions.

    Example:
        >>> sorted(words_of("c4 and not num_words > 7"))
        ['7', 'and', 'c4', 'not', 'num_words']
    """
    return frozenset(word for text in expressions for word in re.findall(r"\w+", text))


def group_names(table: pa.Table, by: str) -> npt.NDArray[np.str_]:
    """Return the group of each row, str (D,), by a tag or an expression over tags.

    Raises:
        ConfigError: it names no column, or can't be read

    Example:
        >>> group_names(pa.table({"a": [1, None]}), "a + 1").tolist()
        ['2', 'none']
    """
    values = evaluate(table, by, "by").cast(pl.String).fill_null("none")
    return np.array(values.to_list(), np.str_)


def _explain_name(known: Sequence[str], condition: str, error: Exception) -> str:
    unknown = [
        word for word in re.findall(r"[A-Za-z_]\w*", re.sub(r"'[^']*'", "", condition))
        if word not in known and word.lower() not in ("not", "and", "or", "in", "is")
    ]  # fmt: skip
    name = next((word for word in unknown if word in str(error)), condition)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"there is no tag {name!r}; {hint}"
