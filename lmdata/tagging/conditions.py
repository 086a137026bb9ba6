"""Conditions over tags by name: what a recipe asks of a document, where its tags tell of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from lmdata.errors import ConfigError
from lmdata.tagging.languages import LANGUAGES, OWN, language_condition, quality_of
from lmdata.tagging.manifests import TagManifest

RECIPES = {
    "english": "gopher_quality and gopher_repetition and c4 and fineweb and not duplicate "
    "and not near_duplicate",
    "distinct": "not duplicate and not near_duplicate",
}
"""Expressions by name: the rules that made FineWeb, and nothing but repeats left out."""

_OF_ANY_LANGUAGE = (
    "gopher_repetition and ended_line_ratio >= 0.12 and repeated_full_line_char_ratio < 0.1 "
    "and not duplicate and not near_duplicate"
)
"""What recipes of other languages ask beside the rule of quality, as FineWeb-2 does: not C4."""


NAMES = (*RECIPES, OWN, *LANGUAGES)
"""Recipes that there are; those of languages ask for rules that are measured where named."""


def recipe_condition(name: str, tags: TagManifest) -> str:
    """Return the expression of a recipe over some tags: also by language and evaluations, if told.

    Args:
        name: one of `RECIPES`, a language, or `own`
        tags: the manifest of the tags

    Raises:
        ConfigError: there are no such rules, or the tags say nothing of them
    """
    check_recipe(name)
    condition = RECIPES.get(name)
    if condition is None:
        _check_rules(name, tags)
        condition = f"{quality_of(name)} and {_OF_ANY_LANGUAGE}"
    if name != "distinct":
        condition += "".join(f" and {more}" for more in _told(name, tags.rules))
    return condition


def _told(name: str, versions: Mapping[str, str]) -> Iterator[str]:
    """Yield the conditions that recipes have where tags tell of languages and evaluations."""
    if "language" in versions and name != OWN:
        own = LANGUAGES.get(name)
        codes = (own.code, own.long_code) if own else ("en", "eng")
        yield language_condition(*codes, versions["language"])
    if "contaminated_gpt3" in versions:
        yield "not contaminated_gpt3"


def check_recipe(name: str) -> None:
    """Check that there is a recipe.

    Raises:
        ConfigError: there is none
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"there is no recipe {name!r}: {hint}there are {', '.join(NAMES)}; "
            "`lmdata tag CORPUS --stop-words derive` makes rules of any other language"
        )


def rules_wanted(recipe: str | None) -> tuple[tuple[str, ...], str | None]:
    """Return the rules that tags for a recipe are made with, and where its stop words come from.

    Raises:
        ConfigError: there is no such recipe

    Example:
        >>> rules_wanted("german"), rules_wanted("own"), rules_wanted("english")
        ((('german',), None), ((), 'derive'), ((), None))
    """
    if recipe is not None:
        check_recipe(recipe)
    return (recipe,) if recipe in LANGUAGES else (), "derive" if recipe == OWN else None


def _check_rules(name: str, tags: TagManifest) -> None:
    if quality_of(name) not in tags.rules:
        wanted = "--stop-words derive" if name == OWN else f"--rules {name}"
        raise ConfigError(
            f"the tags say nothing of the rules of {name}: `lmdata tag CORPUS {wanted}` measures "
            "them"
        )
