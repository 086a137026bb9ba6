"""Texts with personal data in them, and as many that only look so: what is right is known."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

Case = tuple[str, list[tuple[str, str]]]  # a text, and what is in it: kind and stretch

IBANS = [  # published examples of their countries' registers
    "GB29 NWBK 6016 1331 9268 19", "DE89370400440532013000", "FR14 2004 1010 0505 0001 3M02 606",
    "NL91ABNA0417164300", "CH93 0076 2011 6238 5295 7", "NO9386011117947",
    "ES9121000418450200051332", "AT61 1904 3002 3457 3201", "BE68539007547034",
    "IT60 X054 2811 1010 0000 0123 456",
    "SE45 5000 0000 0583 9825 7466", "PL61109010140000071219812874", "PT50000201231234567890154",
    "FI21 1234 5600 0007 85", "DK50 0040 0440 1162 43", "IE29AIBK93115212345678",
    "MT84MALT011000012345MTLCAST001S", "LU280019400644750000", "SK31 1200 0000 1987 4263 7541",
    "GR1601101250000000012300695",
]  # fmt: skip
CARDS = [  # numbers that networks publish for tests
    "4111111111111111", "4012 8888 8888 1881", "4222222222222", "5555-5555-5555-4444",
    "5105105105105100", "2223 0031 2200 3222", "378282246310005", "3714 496353 98431",
    "6011111111111117", "6011 0009 9013 9424", "30569309025904", "3530111333300000",
]  # fmt: skip
IPS = ["8.8.8.8", "93.184.216.34", "151.101.65.69", "2606:4700:4700::1111", "142.250.74.46",
       "2001:4860:4860:0:0:0:0:8888", "52.95.110.1", "2a00:1450:4001:81b::200e"]  # fmt: skip
PHONES = ["+49 30 1234567", "+1 (212) 555-0143", "(415) 555-2671", "212-555-0187", "+442079460958",
          "+33 1 42 68 53 00", "1-800-555-0199", "+81-3-1234-5678", "415.555.0132",
          "+91 98765 43210", "+358 40 1234567", "(303)555-0170"]  # fmt: skip
EMAILS = ["ann@example.org", "john.smith+news@mail.example.co.uk", "x_1@sub-domain.example.com",
          "o'hara@example.ie", "INFO@EXAMPLE.COM", "first.last@a.b.c.example.de",
          "a-b%c@example.museum", "user123@example.io"]  # fmt: skip
FRAMES = ["{}", "Write {} today.", "contact: {}, or come by", "({})", "<{}>", "see {}; it is new",
          "Kontakt:\n{}\nDanke", "„{}“ sagte sie", "values\t{}\tend", "ask {}!"]  # fmt: skip
TRAPS = [
    "4111111111111112", "5555 5555 5555 4445", "GB28 NWBK 6016 1331 9268 19",
    "DE88370400440532013000", "NL91ABNA041716430", "XX89370400440532013000",
    "10.0.0.1", "192.168.1.254", "127.0.0.1", "::1", "300.1.2.3", "1.2.3", "1.2.3.4.5",
    "version 93.18.21.34", "section 3.12.4.18", "v10.15.70.1", "12:30:45", "std::vector",
    "1914-1918", "2001-05-12", "1999/12/31 23:59:59", "978-3-16-148410-0", "0-306-40615-2",
    "ISSN 0317-8471", "1,234,567,890", "$12,345.67", "3.14159265358979", "100-200-300",
    "@handle", "a @ b", "foo@bar", "me at example dot org", "user@localhost", "@media screen",
    "doi:10.1000/182", "10.1038/s41586-020-2649-2", "00000000-0000-0000-0000-000000000000",
    "9007199254740993", "0000 0000 0000 0000", "123-45-6789", "555-1234", "20250101123456",
    "order 000123456789", "N 52.5200 E 13.4050", "1e-10 2e+20", "A4-2023-000117",
    "pages 1001-1009", "1 000 000 000", "2.5.1.9", "5:4-6:7",
]  # fmt: skip


def make_cases() -> list[Case]:
    """Return texts and what is in them: kind and stretch."""
    values = {"iban": IBANS, "card": CARDS, "ip": IPS, "phone": PHONES, "email": EMAILS}
    choose = random.Random(7)
    cases: list[Case] = []
    for kind, own in values.items():
        for number in range(60):
            value = own[number % len(own)]
            cases.append((choose.choice(FRAMES).format(value), [(kind, value)]))
    traps = [TRAPS[number % len(TRAPS)] for number in range(300)]
    return cases + [(choose.choice(FRAMES).format(trap), []) for trap in traps]


def judge(
    cases: list[Case], find: Callable[[str], list[tuple[str, str]]]
) -> dict[str, tuple[int, int, int]]:
    """Return by kind how many stretches were told right, were missed, and were told wrongly.

    Example:
        >>> judge([("a@b.org", [("email", "a@b.org")]), ("x", [])], lambda text: [("email", text)])
        {'email': (1, 0, 1)}
    """
    right, missed, wrong = Counter[str](), Counter[str](), Counter[str]()
    for text, expected in cases:
        found = find(text)
        right.update(kind for kind, value in found if (kind, value) in expected)
        wrong.update(kind for kind, value in found if (kind, value) not in expected)
        missed.update(kind for kind, value in expected if (kind, value) not in found)
    kinds = sorted({*right, *missed, *wrong})
    return {kind: (right[kind], missed[kind], wrong[kind]) for kind in kinds}
