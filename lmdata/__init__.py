"""Text to training examples.

corpus/ --train-tokenizer--> tokenizer/ --tokenize--> tokens/ --mask--> shards/

    store = lmdata.open("tokens/")
    examples = lmdata.view(store, "bert", seed=0, epoch=3)
    batch = examples.examples(range(256))
    dataset = lmdata.torch_dataset("tokens/", "bert", seed=0)
    lmdata.export("tokens/", "nanoGPT/data/mine", "nanogpt")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.kernel_cache import find_cache_folder, forget_stale_kernels

if TYPE_CHECKING:
    from lmdata.dataset import ExampleSet, TokenStore
    from lmdata.exporting.export import Export
    from lmdata.recipes import Recipe
    from lmdata.torch_data import Examples
    from lmdata.views import View

__all__ = ["__version__", "export", "open", "torch_dataset", "view"]
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
        recipe: a `Recipe`, or the name of one: bert, roberta, albert, spanbert, xlnet, ...
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


def torch_dataset(
    tokens: TokenStore | Path | str, recipe: Recipe | str = "bert", *,
    seed: int = 0, epoch: int = 0, **settings: Any,
) -> Examples:  # fmt: skip
    """Return the examples of a token store as a PyTorch dataset, for `Trainer` or any other loop.

    `DataLoader(dataset, batch_size=32, shuffle=True, collate_fn=dataset.collate)` gives padded
    batches under the names of stock models; `dataset.stream()` is the same as an endless iterable
    with `state_dict`.

    Args:
        tokens: the folder of a token store, or a split that `open` made of it
        recipe: a `Recipe`, or the name of one
        seed: of every draw
        epoch: the first
        settings: fields of the recipe to change, such as `max_seq_length=64`

    Raises:
        ValueError: no such recipe, no such setting, or a value that is not allowed
        DatasetError: the store can't give such examples
        MismatchError: the folder holds examples, which are frozen already
    """
    from lmdata.torch_data import Examples

    store = open(tokens) if isinstance(tokens, str | Path) else tokens
    pad_id = store.tokenizer.special_ids["pad"]
    return Examples(
        view(store, recipe, seed=seed, epoch=epoch, **settings), 0 if pad_id is None else pad_id
    )


def export(
    tokens: Path | str, output: Path | str, format: str, *, end_token: str = "auto",
    row_length: int | None = None, overwrite: bool = False,
) -> Export:  # fmt: skip
    """Write a token store in the format of another trainer: `lmdata export` from Python.

    Args:
        tokens: the folder of a token store
        output: folder to write
        format: nanogpt, megatron, mds, litdata, parquet or datasets
        end_token: a piece that is put behind each document, "none", or "auto": the tokenizer's
            own where the format keeps no boundaries
        row_length: cut into rows of so many tokens; None: a row is a document
        overwrite: replace an export

    Raises:
        ConfigError: no such format or piece, or the format can't hold the vocabulary or the rows
        LmdataError: the store is not whole, or the output can't be written
    """
    from lmdata.exporting.export import export_store

    return export_store(
        tokens, output, format, end_token=end_token, row_length=row_length, overwrite=overwrite
    )
