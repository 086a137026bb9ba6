"""lmdata/sample_corpus.py: only whole English sentences are left of a docstring."""

from __future__ import annotations

import pytest

from lmdata.sample_corpus import extract_paragraphs, is_prose, unwrap_markup

PROSE = "Return whether all of the values in the list are positive numbers."
LONG = "This sentence is here because a document must have a certain length to be worth a file."


@pytest.mark.parametrize(
    "docstring",
    [
        f"{PROSE}\n\n    >>> all_positive([1])\n    True",
        f"{PROSE}\n\nParameters\n----------\nx : list\n    {LONG}\n\nReturns\n-------\n{LONG}",
        f"{PROSE}\n\nArgs:\n    x (list): {LONG}\n\n    {LONG}\n",
        f"{PROSE}\n\n:param x: {LONG}\n:returns: {LONG}\n",
        f"{PROSE}\n\n.. code-block:: python\n\n    {LONG}\n",
        f"{PROSE}\n\n```\n{LONG}\n```\n",
        f"{PROSE}\n\n=====  =====\n name   kind\n=====  =====\n",
        f"{PROSE}\n\n| The first | of all the columns in | this table. |\n",
        f"{PROSE}\n\nall_positive(x=None, *, key=len, **kwargs) -> bool\n",
        f"All positive\n============\n\n{PROSE}",
        f"* {PROSE}\n* short item\n",
        "Return whether all of the values\nin the *list* are ``positive`` numbers.",
    ],
)
def test_only_the_prose_of_a_docstring_is_kept(docstring: str) -> None:
    assert extract_paragraphs(docstring) == [PROSE]


def test_a_literal_block_is_left_out_but_not_the_line_before_it() -> None:
    docstring = f"{PROSE}\n\nThis is how the function is called by a user::\n\n    {LONG}\n\n{LONG}"
    assert extract_paragraphs(docstring) == [PROSE, LONG]


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        (":meth:`~torch.nn.Module.forward` runs.", "forward runs."),
        ("See `the guide <https://example.org/x>`_.", "See the guide."),
        ("See [the guide](https://example.org/x).", "See the guide."),
        ("A **bold** and *plain* word", "A bold and plain word"),
        ("It was shown before [1]_.", "It was shown before."),
        ("Of ``entry-form'' type.", 'Of "entry-form" type.'),
        ("a * b * c", "a * b * c"),
        ("  two \n lines ", "two lines"),
        ("A ``(host, port)``), where '' is any.", "A (host, port)), where '' is any."),
        ("Say ``none`` or (``so it is'').", 'Say none or ("so it is").'),
    ],
)
def test_markup_is_unwrapped(markup: str, plain: str) -> None:
    assert unwrap_markup(markup) == plain


@pytest.mark.parametrize(
    "text",
    [
        "x : int, optional",
        "the beginning of this sentence is not here, it is lower case.",
        "This sentence has no end because it was cut in the",
        "Die Summe aller Zahlen in der Liste wird hier berechnet.",
        "Call f(x=1, y=2) or g[3] = {4} and then x->y, a.b.c() of d.e.f().",
        "THIS IS ALL IN CAPITALS AND THE LICENSE OF SOME OF THE FILES.",
        "Short one.",
    ],
)
def test_what_is_not_a_whole_english_sentence_is_not_prose(text: str) -> None:
    assert not is_prose(text)
