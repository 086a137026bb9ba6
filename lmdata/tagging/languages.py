"""Gopher's quality rule for languages: stop words and lengths of words, from a table or a corpus.

The list of a language is eight words that hardly any text lacks. Gopher lets the mean length of
English words be from 3 to 10; the upper limit of another language is as much higher as its words
are longer in the Universal Declaration of Human Rights. Of a corpus of one's own both are shares of
the length of its words.
"""

from __future__ import annotations

from dataclasses import dataclass

OWN = "own"  # the words of a corpus, or of a file


@dataclass(frozen=True)
class Language:
    """What rules of a language are made of."""

    code: str  # as most models label it
    long_code: str  # with which the labels of others begin, as deu_Latn
    longest: int  # characters of its words, on average, at most
    stop_words: tuple[str, ...]


def _language(codes: str, longest: int, words: str) -> Language:
    code, long_code = codes.split()
    return Language(code, long_code, longest, tuple(words.split()))


LANGUAGES = {
    "bulgarian": _language("bg bul", 11, "на и да в се за от не"),
    "catalan": _language("ca cat", 10, "de la que el en per no amb"),
    "croatian": _language("hr hrv", 11, "i u na da se za je su"),
    "czech": _language("cs ces", 11, "a na se v je že s by"),
    "danish": _language("da dan", 11, "og til at i af er en det"),
    "dutch": _language("nl nld", 11, "de van en het een in is dat"),
    "finnish": _language("fi fin", 15, "ja on ei että oli se mutta kun"),
    "french": _language("fr fra", 10, "de et la le les des en que"),
    "german": _language("de deu", 12, "und der die das in zu den nicht"),
    "greek": _language("el ell", 11, "και να του το της με που για"),
    "hungarian": _language("hu hun", 13, "a az és hogy nem is van egy"),
    "italian": _language("it ita", 11, "di e la il che in un per"),
    "norwegian": _language("no nob", 11, "og til i som av er på det"),
    "polish": _language("pl pol", 12, "i w na z do się nie że"),
    "portuguese": _language("pt por", 10, "de a e o que da em um"),
    "romanian": _language("ro ron", 11, "de și în la a care nu se"),
    "russian": _language("ru rus", 12, "и в на не что с по как"),
    "slovak": _language("sk slk", 11, "a na sa v je že s aby"),
    "spanish": _language("es spa", 10, "de y la el en que a los"),
    "swedish": _language("sv swe", 12, "och att i det som en på är"),
    "turkish": _language("tr tur", 13, "ve bir bu için ile da de her"),
    "ukrainian": _language("uk ukr", 11, "і на не в що до та з"),
}
"""Languages by name."""


def language_condition(code: str, long_code: str, version: str) -> str:
    """Return the condition that a document is in a language, in SQL.

    Args:
        code: of two letters
        long_code: of three
        version: of the model that labelled it

    Example:
        >>> language_condition("de", "deu", "py3langid-0.4.0")
        "language = 'de'"
        >>> language_condition("de", "deu", "fasttext-glotlid.bin-1f")
        "(language = 'de' or language like 'deu%')"
    """
    if not version.startswith("fasttext"):
        return f"language = '{code}'"
    return f"(language = '{code}' or language like '{long_code}%')"


def quality_of(language: str) -> str:
    """Return the name of Gopher's rule of quality for a language.

    Example:
        >>> quality_of("german"), stop_words_of("german")
        ('gopher_quality_german', 'num_stop_words_german')
    """
    return f"gopher_quality_{language}"


def stop_words_of(language: str) -> str:
    """Return the name of the figure that counts its stop words."""
    return f"num_stop_words_{language}"
