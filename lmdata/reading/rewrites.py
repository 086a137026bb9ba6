"""What is changed in the text of documents while they are read, each by its name, and counted.

Lines go by the rules of C4 for lines (Raffel et al., 2020, section 2.2), or as the boilerplate that
RefinedWeb cuts (Penedo et al., 2023). What makes a whole document go is a rule, and left to tags.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from lmdata.errors import ConfigError
from lmdata.schema import Flow
from lmdata.settings import Rewrite

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_ENDS = (".", "?", "!", '"', "'")
_NOTICES = re.compile(
    "javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)
_FEWEST_WORDS, _LONGEST_WORD = 3, 1000
_COUNTER = re.compile(
    r"\W*\d[\d.,]*\s?[km]?\s+(likes?|shares?|comments?|retweets?|reposts?|quotes?|bookmarks?"
    r"|upvotes?|downvotes?|downloads?|views?|followers?|replies|reply)\W*", re.IGNORECASE
)  # fmt: skip
_MOST_CAPITALS = 0.5


def clean_c4_line(line: str) -> str | None:
    """Return a line as C4 keeps it, without citations, or None where it goes.

    Example:
        >>> clean_c4_line(" It is known.[12] "), clean_c4_line("Home | About")
        ('It is known.', None)
    """
    line = line.strip()
    words = line.split()
    if len(line) > _LONGEST_WORD and max(map(len, words)) > _LONGEST_WORD:
        return None
    line = _CITATION.sub("", line)
    if not line.endswith(_ENDS) or line.endswith("...") or len(words) < _FEWEST_WORDS:
        return None
    return None if _NOTICES.search(line.lower()) else line


def is_boilerplate(line: str) -> bool:
    """Return whether RefinedWeb cuts a line: mostly capitals, a number, a counter, or one word.

    Example:
        >>> [is_boilerplate(line) for line in ("LOG IN", "3 likes", "2,014", "A line.", "")]
        [True, True, True, False, False]
    """
    words = line.split()
    if not words:
        return False
    num_capitals = sum(map(str.isupper, line))
    return len(words) < 2 or num_capitals > _MOST_CAPITALS * len(line) or bool(
        _COUNTER.fullmatch(line.strip())
    ) or all(word.strip(".,").isdigit() for word in words)  # fmt: skip


def _keep_c4_lines(text: str) -> tuple[str, int]:
    lines = text.splitlines()
    kept = [line for line in map(clean_c4_line, lines) if line is not None]
    return "\n".join(kept), sum(map(bool, map(str.strip, lines))) - len(kept)


def _cut_boilerplate(text: str) -> tuple[str, int]:
    lines = text.split("\n")
    kept = [line for line in lines if not is_boilerplate(line)]
    return "\n".join(kept), len(lines) - len(kept)


def _normalize(form: Literal["NFC", "NFKC"], text: str) -> tuple[str, int]:
    found = unicodedata.normalize(form, text)
    return found, int(found != text)


def _mend(text: str) -> tuple[str, int]:
    found = str(_ftfy().fix_encoding(text))
    return found, int(found != text)


def _ftfy() -> Any:
    try:
        import ftfy
    except ImportError as error:
        raise ConfigError(
            "--rewrite mojibake needs ftfy: pip install 'lmdata-lmmodel[mojibake]', or leave it out"
        ) from error
    return ftfy


REWRITES: dict[Rewrite, Callable[[str], tuple[str, int]]] = {
    "mojibake": _mend,
    "nfc": functools.partial(_normalize, "NFC"),
    "nfkc": functools.partial(_normalize, "NFKC"),
    "c4-lines": _keep_c4_lines,
    "boilerplate": _cut_boilerplate,
}
"""Rewrites by name: text in, text and how many documents or lines were changed out."""


def describe_rewrites(names: Sequence[Rewrite] | None) -> dict[str, str]:
    """Return what rewrites text, by name, with its version.

    Raises:
        ConfigError: a package is not installed

    Example:
        >>> describe_rewrites(["c4-lines"])
        {'rewrite c4-lines': 'version 1'}
    """
    return {f"rewrite {name}": _version(name) for name in names or ()}


def _version(name: Rewrite) -> str:
    if name == "mojibake":
        return f"ftfy {_ftfy().__version__}"
    return f"unicode {unicodedata.unidata_version}" if name in ("nfc", "nfkc") else "version 1"


def flows_of_replaced(counts: Mapping[str, int]) -> dict[str, Flow]:
    """Return the flows of what was rewritten in the text, and of personal data that was replaced.

    Example:
        >>> list(flows_of_replaced({"nfc": 2, "email": 1})), flows_of_replaced({})
        (['rewrites', 'personal data'], {})
    """
    parts: dict[str, dict[str, int]] = {
        "rewrites": {name: count for name, count in counts.items() if name in REWRITES},
        "personal data": {name: count for name, count in counts.items() if name not in REWRITES},
    }
    return {
        name: Flow(read=sum(own.values()), written={}, dropped=own)
        for name, own in parts.items() if own
    }  # fmt: skip


def rewrite_documents(
    documents: Iterable[bytes], names: Sequence[Rewrite]
) -> tuple[list[bytes], Counter[str]]:
    """Return documents rewritten in the order of the names, and how much each has changed.

    Args:
        documents: UTF-8
        names: of `REWRITES`

    Example:
        >>> rewrite_documents(["ﬁne. 3 likes".encode(), b"LOG IN"], ["boilerplate", "nfkc"])
        ([b'fine. 3 likes', b''], Counter({'boilerplate': 1, 'nfkc': 1}))
    """
    counts, found = Counter[str](), []
    for document in documents:
        text = document.decode("utf-8")
        for name in names:
            text, count = REWRITES[name](text)
            counts[name] += count
        found.append(text.encode())
    return found, +counts
