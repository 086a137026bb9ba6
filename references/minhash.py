"""MinHash signatures `minhash-1`, number by number: the definition of lmdata/tagging/signatures."""

from __future__ import annotations

import re

MASK, MIX = (1 << 64) - 1, 0x9E3779B97F4A7C15
_WORDS = re.compile(r"\w+(?:['\u2019]\w+)*")


def mix(value: int) -> int:
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def word_number(word: str) -> int:
    number = 0xCBF29CE484222325
    for character in word:
        if character.isdecimal():
            character = "0"
        elif len(character.lower()) == 1:
            character = character.lower()
        number = (number ^ ord(character)) * 0x100000001B3 & MASK
    return mix(number)


def fold(numbers: list[int]) -> int:
    key = 0
    for number in numbers:
        key = mix(key * MIX + number & MASK)
    return key


def shingles_of(text: str) -> list[int]:
    words = [word_number(word) for word in _WORDS.findall(text)]
    if not words:
        return []
    return [fold(words[i : i + 5]) for i in range(max(1, len(words) - 4))]


def draws(count: int) -> list[int]:
    state, drawn = 1, []
    for _ in range(count):
        state = state + MIX & MASK
        value = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        drawn.append(value ^ value >> 31)
    return drawn


def band_keys(text: str) -> list[int]:
    shingles, drawn = shingles_of(text), draws(224)
    if not shingles:
        return [0] * 14
    values = [
        min(((drawn[2 * i] | 1) * shingle + drawn[2 * i + 1]) & MASK for shingle in shingles)
        for i in range(112)
    ]
    return [fold(values[8 * band : 8 * band + 8]) for band in range(14)]
