"""Text of every shape that could cost more than its length says: made up, of any size.

A shape is a function of a number of bytes. Benchmarks print how time grows with it, tests hold it
to a line.
"""

from __future__ import annotations

from collections.abc import Callable

Shape = Callable[[int], bytes]


def repeat(unit: str, *, before: str = "", after: str = "") -> Shape:
    """Return text of one unit over and over, between a beginning and an end.

    Example:
        >>> repeat("ab", before="x")(4)
        b'xababab'
    """
    pattern, head, tail = unit.encode(), before.encode(), after.encode()
    return lambda size: head + pattern * (size // len(pattern) + 1) + tail


def halves(first: str, second: str) -> Shape:
    """Return text of one unit over and over, then of another.

    Example:
        >>> halves("a", "b")(4)
        b'aaabbb'
    """
    return lambda size: repeat(first)(size // 2) + repeat(second)(size // 2)


def distinct(beginning: str) -> Shape:
    """Return text of words that are all different.

    Example:
        >>> distinct("w")(16)
        b'w0 w9e3779b9 w3c6ef372'
    """

    def words(size: int) -> bytes:
        made = bytearray()
        for number in range(size):
            made += f"{beginning}{number * 0x9E3779B9 % 2**32:x} ".encode()
            if len(made) > size:
                break
        return bytes(made[:-1])

    return words


PROSE: dict[str, Shape] = {
    "distinct words": distinct("w"),
    "distinct words with accents": distinct("é"),
    "words": repeat("some words. "),
    "dots": repeat("1.2.3."),
    "dots alone": repeat("."),
    "dots apart": repeat(" ."),
    "letters and dots": repeat("A.B."),
    "hyphens and dots": repeat("-."),
    "no spaces": repeat("北京下雪了很大."),
    "full stops": repeat("。」"),
    "Thai": repeat("ก ข"),
    "Thai and dots": repeat("กขค."),
    "abbreviations": repeat("e.g. i.e. "),
    "abbreviations before small letters": repeat("e.g. b "),
    "a long first word": halves("a", " e.g. b"),
    "a long last word": halves("e.g. ", "A"),
    "white space in front": halves(" ", "e.g. b "),
    "quotes in front": halves('"', "b e.g. b "),
    "quotes": repeat('. "'),
    "closing marks": repeat(")."),
    "a long closing": repeat(")", before="."),
    "footnote marks": repeat(".[12"),
    "a long footnote mark": halves(".[", "1"),
    "numbers of items": repeat("1. "),
    "numbers far apart": repeat("1.      "),
    "initials": repeat("A. "),
    "forgotten spaces": repeat("ab.Cd"),
    "combining marks": repeat("a\u0301."),
    "ellipses": repeat("… a "),
    "wrapped lines": repeat("a line of about sixty characters that was broken here\nand on "),
    "line ends": repeat("\n"),
    "line ends and spaces": repeat("\n   "),
    "Windows line ends": repeat("a.\r\n"),
    "paragraphs": repeat("a\n\n"),
    "zero bytes": repeat("\0"),
    "byte-order marks": repeat("\ufeff"),
}

JSON_LINES: dict[str, Shape] = {
    "plain": repeat('{"text": "some words"}\n'),
    "blank": repeat("\n"),
    "broken": repeat('{"text": x}\n'),
    "repeated keys": repeat('{"text": "a", "text": "b"}\n'),
    "escaped keys": repeat('{"te\\u0078t": "a"}\n'),
    "half characters": repeat('{"text": "\\ud800"}\n'),
    "other fields": repeat('{"x": [1, {"y": null}]}\n'),
    "one deep line": repeat("[", before='{"text": '),
    "one long list": repeat("[],", before='{"x": [', after='1], "text": "a"}\n'),
    "one long text": repeat("a\\n", before='{"text": "', after='"}\n'),
    "one text without end": repeat("a", before='{"text": "'),
    "escapes": repeat("\\u00e9", before='{"text": "', after='"}\n'),
}

TABLES: dict[str, Shape] = {
    "plain": repeat("some words,1\n", before="text,b\n"),
    "blank lines": repeat("\n", before="text,b\n"),
    "blank lines between": repeat("\na,b\n", before="text,b\n"),
    "a quote without end": repeat("a\n", before='text,b\n"'),
    "broken quotes": repeat('a"b"c\n"x"y\n', before="text,b\n"),
    "one long cell": repeat('a""', before='text,b\n"', after='",1\n'),
    "commas in quotes": repeat("1,", before='text,b\n"', after='",1\n'),
    "one row of commas": repeat(",", before="text,b\n"),
    "other numbers of cells": repeat("a\n", before="text,b\n"),
}
