"""Text to training examples.

corpus/ --train-tokenizer--> tokenizer/ --tokenize--> tokens/ --mask--> shards/

    store = lmdata.open("tokens/")
    examples = lmdata.view(store, "bert", seed=0, epoch=3)
    batch = examples.examples(range(256))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.kernel_cache import find_cache_folder, forget_stale_kernels

if TYPE_CHECKING:
    from lmdata.dataset import ExampleSet, TokenStore
    from lmdata.recipes import Recipe
    from lmdata.views import View

__all__ = ["__version__", "open", "view"]
__version__ = "0.1.0"

forget_stale_kernels(Path(__file__).parent)
find_cache_folder(Path(__file__).parent)


def open(path: Path | str, split: str = "train") -> TokenStore | ExampleSet:
    """Return a split of the dataset in a folder, memory-mapped and checked by size.

    Args:
        path: what `lmdata tokenize` wrote (a `TokenStore` comes back) or `lmdata mask` (an
            `ExampleSet`)
        split: "train", "validation" or "test"

    Raises:
        IntegrityError: unfinished, or a file is missing, truncated or swapped
        VersionError: written by a newer format version
        MismatchError: no such split
    """
    from lmdata.dataset import open_examples, open_store
    from lmdata.schema import read_manifest

    kind = read_manifest(Path(path)).kind
    return open_store(path, split) if kind == "tokens" else open_examples(path, split)


def view(
    store: TokenStore | ExampleSet | Path | str, recipe: Recipe | str = "bert", *,
    seed: int = 0, epoch: int = 0, **settings: Any,
) -> View:  # fmt: skip
    """Return the examples of one epoch of a token store, with random access.

    Args:
        store: the folder of a token store, or what `open` made of it
        recipe: a `Recipe`, or the name of one: bert, roberta, albert, spanbert
        seed: of every draw
        epoch: part of the address of every draw: another epoch has other pairs and masks
        settings: fields of the recipe to change, such as `max_seq_length=64`

    Raises:
        ValueError: no such recipe, no such setting, or a value that is not allowed
        DatasetError: the store can't give such examples
        MismatchError: the folder holds examples, which are frozen already
    """
    import dataclasses

    from lmdata.dataset import TokenStore
    from lmdata.errors import MismatchError
    from lmdata.recipes import RECIPES
    from lmdata.views import view as make_view

    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
        recipe = RECIPES[recipe]
    known = {field.name for field in dataclasses.fields(recipe)}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"a recipe has no {unknown[0]}, it has {', '.join(sorted(known))}")
    tokens = open(store) if isinstance(store, str | Path) else store
    if not isinstance(tokens, TokenStore):
        raise MismatchError(
            "these examples are frozen already: read them with `.rows(...)`, or view the token "
            "store that they were made from"
        )
    return make_view(tokens, dataclasses.replace(recipe, **settings), seed=seed, epoch=epoch)
