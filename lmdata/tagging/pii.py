"""Personal data in text: e-mail, IP, phone, card and IBAN, the last two by their checksums (pure).

Names and addresses are not looked for: no pattern tells them. What is found is told by place, so
that replacing it is a decision of its own. A stretch is of one kind: the first of `KINDS`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

import numba
import numpy as np

VERSION = "pii-1"
KINDS = ("email", "iban", "card", "ip", "phone")

_EMAIL = re.compile(
    rb"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_%+-]+(?:[.'][A-Za-z0-9_%+-]+)*"
    rb"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9-])"
)
_IBAN = re.compile(rb"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}")
_CARD = re.compile(rb"(?<![0-9A-Za-z.-])[2-6](?:[ -]?[0-9]){12,18}(?![0-9A-Za-z])")
_IPV4 = re.compile(rb"(?<![0-9A-Za-z.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9A-Za-z]|\.[0-9])")
_IPV6 = re.compile(rb"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_PHONE = re.compile(
    rb"(?<![0-9A-Za-z+./-])(?:\+[1-9][0-9]{0,2}(?:[ .-]?(?:\([0-9]{1,4}\)|[0-9]{1,4})){2,6}"
    rb"|(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[.-][0-9]{4})"
    rb"(?![0-9A-Za-z]|[.-][0-9])"
)
_AT, _DIGITS, _SIGNS = range(3)
_BEFORE, _BEHIND = 80, 60  # bytes around a place at which something may lie
_VERSION_BEFORE = re.compile(rb"(?:version|release|firmware|build|section|v)\.? ?$", re.IGNORECASE)
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS", 23: "AE GI IL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT", 26: "IS TR",
        27: "FR GR IT MC MR SM", 28: "AL AZ CY DO GT HU LB PL", 29: "BR PS QA UA",
        30: "JO KW MU", 31: "MT",
    }.items()
    for country in countries.split()
}  # fmt: skip


class Finding(NamedTuple):
    """A stretch of a document, in bytes."""

    kind: str
    start: int
    stop: int


def find_pii(text: bytes) -> list[Finding]:
    """Return what is found in a document, in its order.

    Args:
        text: UTF-8

    Example:
        >>> find_pii(b"Write to ann@example.org or call +49 30 1234567.")
        [Finding(kind='email', start=9, stop=24), Finding(kind='phone', start=33, stop=47)]
    """
    places, kinds = _find_places(np.frombuffer(text, np.uint8))
    found: list[Finding] = []
    for kind, find in ((_AT, _find_emails), (_DIGITS, _find_numbers), (_SIGNS, _find_addresses)):
        for start, stop in _windows(places[kinds == kind].tolist(), len(text)):
            found += find(text, start, stop)
    found.sort(key=lambda finding: KINDS.index(finding.kind))
    return sorted(_apart(found), key=lambda finding: finding.start)


def replace_pii(text: bytes) -> tuple[bytes, list[str]]:
    """Return a document with what is found in it replaced by its kind, and the kinds.

    Each stretch is replaced by itself, whatever was replaced before: the order of documents has no
    effect.

    Args:
        text: UTF-8

    Example:
        >>> replace_pii(b"Write to ann@example.org.")
        (b'Write to <email>.', ['email'])
    """
    found = find_pii(text)
    parts, behind = [], 0
    for finding in found:
        parts += [text[behind : finding.start], f"<{finding.kind}>".encode()]
        behind = finding.stop
    return b"".join([*parts, text[behind:]]), [finding.kind for finding in found]


def _find_emails(text: bytes, start: int, stop: int) -> list[Finding]:
    return [Finding("email", *match.span()) for match in _EMAIL.finditer(text, start, stop)]


def _find_numbers(text: bytes, start: int, stop: int) -> list[Finding]:
    ibans = [
        Finding("iban", match.start(), end)
        for match in _IBAN.finditer(text, start, stop)
        for end in [_iban_end(text, match.start(), match.end())]
        if end
    ]
    cards = [
        Finding("card", *match.span())
        for match in _CARD.finditer(text, start, stop)
        if _is_card(match[0])
    ]
    phones = [
        Finding("phone", *match.span())
        for match in _PHONE.finditer(text, start, stop)
        if _is_phone(match[0])
    ]
    return ibans + cards + phones


def _find_addresses(text: bytes, start: int, stop: int) -> list[Finding]:
    return [
        Finding("ip", *match.span())
        for pattern in (_IPV4, _IPV6)
        for match in pattern.finditer(text, start, stop)
        if _is_public(match[0])
        and not _VERSION_BEFORE.search(text[max(0, match.start() - 10) : match.start()])
    ]


def _windows(places: list[int], size: int) -> list[tuple[int, int]]:
    """Return the parts of a document around some places, none of which touches another."""
    windows: list[tuple[int, int]] = []
    for place in places:
        start, stop = max(0, place - _BEFORE), min(size, place + _BEHIND)
        if windows and start <= windows[-1][1]:
            windows[-1] = windows[-1][0], max(stop, windows[-1][1])
        else:
            windows.append((start, stop))
    return windows


@numba.njit(cache=True, nogil=True)
def _find_places(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where something may lie, int64 ascending, and what: _AT, _DIGITS or _SIGNS, int8.

    A place is an @, the seventh digit of 24 bytes, a third dot or a second colon in short numbers.
    """
    places, kinds = np.empty(len(text), np.int64), np.empty(len(text), np.int8)
    num_places, digits, dots, colons, since = 0, 0, 0, 0, 0
    for index in range(len(text)):
        byte = text[index]
        is_digit = 48 <= byte <= 57
        digits += is_digit
        if index >= 24:
            digits -= 48 <= text[index - 24] <= 57
        since += 1
        if byte == 46 or byte == 58:
            if since > 5:
                dots, colons = 0, 0
            dots += byte == 46
            colons += byte == 58
            since = 0
        kind = -1
        if byte == 64:
            kind = _AT
        elif is_digit and digits >= 7:
            kind = _DIGITS
        elif since == 0 and (dots >= 3 or colons >= 2):
            kind = _SIGNS
        if kind >= 0:
            places[num_places], kinds[num_places] = index, kind
            num_places += 1
    return places[:num_places], kinds[:num_places]


def _apart(found: list[Finding]) -> list[Finding]:
    """Return findings without those that overlap one of an earlier kind."""
    kept: list[Finding] = []
    for finding in found:
        if all(finding.stop <= other.start or other.stop <= finding.start for other in kept):
            kept.append(finding)
    return kept


def _iban_end(text: bytes, start: int, stop: int) -> int | None:
    """Return where the IBAN that begins here ends, by the length of its country and modulo 97."""
    length = _IBAN_LENGTHS.get(text[start : start + 2].decode())
    digits, here = b"", start
    while length is not None and here < stop and len(digits) < length:
        digits += text[here : here + 1].strip()
        here += 1
    if length is None or len(digits) < length or text[here : here + 1].isalnum():
        return None
    number = int("".join(str(int(chr(byte), 36)) for byte in digits[4:] + digits[:4]))
    return here if number % 97 == 1 else None


def _is_card(text: bytes) -> bool:
    """Return whether digits are those of a card: a known length and beginning, and Luhn's sum."""
    digits = re.sub(rb"[^0-9]", b"", text)
    begin = int(digits[:4])
    lengths = (
        {13, 16, 19} if begin // 1000 == 4
        else {16} if 2221 <= begin <= 2720 or 51 <= begin // 100 <= 55
        else {15} if begin // 100 in (34, 37)
        else {16, 17, 18, 19} if begin == 6011 or begin // 100 == 65 or 644 <= begin // 10 <= 649
        else {16, 17, 18, 19} if 3528 <= begin <= 3589 or begin // 100 == 62
        else {14} if begin // 100 in (36, 38, 39) or 300 <= begin // 10 <= 305
        else set()
    )  # fmt: skip
    return len(digits) in lengths and _luhn(digits) and len(set(digits)) > 1


def _luhn(digits: bytes) -> bool:
    """Return whether Luhn's sum of digits is a multiple of 10.

    Example:
        >>> _luhn(b"4111111111111111"), _luhn(b"4111111111111112")
        (True, False)
    """
    doubled = [sum(divmod(2 * (byte - 48), 10)) for byte in digits[-2::-2]]
    return (sum(doubled) + sum(byte - 48 for byte in digits[-1::-2])) % 10 == 0


def _is_public(text: bytes) -> bool:
    """Return whether this is an address of the public net, and not a number of a section."""
    try:
        is_global = ipaddress.ip_address(text.decode()).is_global
    except ValueError:
        return False
    return is_global and not (len(text) == 7 and text.count(b".") == 3 and len(set(text)) > 2)


def _is_phone(text: bytes) -> bool:
    """Return whether there are as many digits as a number has: 8 to 15, E.164."""
    return 8 <= len(re.sub(rb"[^0-9]", b"", text)) <= 15
