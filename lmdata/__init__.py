"""Text to training examples.

corpus/ --train-tokenizer--> tokenizer/ --tokenize--> tokens/ --mask--> shards/

    lmdata.train_tokenizer("corpus/", "tokenizer/", vocab_size=16384)
    lmdata.select(lmdata.tag("corpus/", "tags/"), "english", "selection/")
    lmdata.tokenize("corpus/", "tokens/", selection="selection/", validation_ratio=0.02)
    lmdata.mask("tokens/", "shards/", "bert", seed=0)
    lmdata.verify("shards/").passed

    store = lmdata.open("tokens/")
    examples = lmdata.view(store, "bert", seed=0, epoch=3)
    batch = examples.examples(range(256))
    dataset = lmdata.torch_dataset("tokens/", "bert", seed=0)
    lmdata.export("tokens/", "nanoGPT/data/mine", "nanogpt")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmdata.kernel_cache import find_cache_folder, forget_stale_kernels

if TYPE_CHECKING:
    from lmdata.chosen import SelectionManifest
    from lmdata.dataset import ExampleSet, TokenStore
    from lmdata.exporting.export import Export
    from lmdata.recipes import Recipe
    from lmdata.schema import Manifest
    from lmdata.tagging.manifests import TagManifest
    from lmdata.tokenizer import Tokenizer
    from lmdata.torch_data import Examples
    from lmdata.verification import Report
    from lmdata.views import View

__all__ = [
    "__version__", "export", "mask", "open", "select", "tag", "tokenize", "torch_dataset",
    "train_tokenizer", "verify", "view",
]  # fmt: skip
__version__ = "0.1.0"

forget_stale_kernels(Path(__file__).parent)
find_cache_folder(Path(__file__).parent)


Corpus = str | Path | Sequence[str | Path]
Progress = Callable[[int, int], None]


def _arguments(corpus: Corpus) -> list[str]:
    return [str(corpus)] if isinstance(corpus, str | Path) else [str(each) for each in corpus]


def _place(output: Path | str) -> Path | str:
    return output if "://" in str(output) else Path(output)


def _num_workers(num_workers: int | None) -> int:
    import os

    return num_workers or len(os.sched_getaffinity(0))


def train_tokenizer(
    corpus: Corpus, output: Path | str = "tokenizer", *, reading: Mapping[str, Any] | None = None,
    num_workers: int | None = None, overwrite: bool = False, progress: Progress | None = None,
    **settings: Any,
) -> Tokenizer:  # fmt: skip
    """Train a tokenizer that `transformers.AutoTokenizer` opens: `lmdata train-tokenizer`.

    Args:
        corpus: a file, folder or glob, or several
        output: folder to write
        reading: how files become documents, such as `{"documents": "line"}`: fields of
            `lmdata.settings.CorpusConfig`
        num_workers: threads; None: one a core. The result does not depend on it
        overwrite: replace the tokenizer that is there
        progress: called with (bytes of files read, bytes of all files)
        settings: fields of `lmdata.settings.TokenizerConfig`, such as `vocab_size=16384`

    Raises:
        LmdataError: an input is missing or broken, or the output can't be written
    """
    from lmdata.build import build_tokenizer
    from lmdata.config import build_config
    from lmdata.settings import CorpusConfig, TokenizerConfig

    settings.setdefault("allow_smaller", "vocab_size" not in settings)
    return build_tokenizer(
        _arguments(corpus), Path(output), build_config(TokenizerConfig, settings),
        build_config(CorpusConfig, reading or {}, "reading."),
        num_workers=_num_workers(num_workers), overwrite=overwrite, progress=progress,
    )  # fmt: skip


def tokenize(
    corpus: Corpus, output: Path | str = "tokens", *, tokenizer: Path | str | None = None,
    selection: Path | str | None = None, reading: Mapping[str, Any] | None = None,
    num_workers: int | None = None, memory_bytes: int = 1 << 30, overwrite: bool = False,
    progress: Callable[[int, int, int], None] | None = None, **settings: Any,
) -> Manifest:  # fmt: skip
    """Turn text into a token store and return its manifest: `lmdata tokenize`.

    Args:
        corpus: a file, folder or glob, or several; also URIs, as of S3
        output: folder to write, or its URI; an unfinished build in it is gone on with
        tokenizer: of any kind; None: the folder `tokenizer`, made if absent
        selection: read only the documents of this one, from `select`
        reading: how files become documents: fields of `lmdata.settings.CorpusConfig`
        num_workers: processes; None: one a core. The result does not depend on it
        memory_bytes: budget of all processes together
        overwrite: replace the store that is there
        progress: called with (bytes done, bytes in all, documents done)
        settings: fields of `lmdata.settings.TokenizeConfig`, such as `validation_ratio=0.02`

    Raises:
        LmdataError: an input is missing or broken, or the output can't be written
    """
    from lmdata.build import build_store
    from lmdata.building.resumable import PartDone
    from lmdata.config import build_config
    from lmdata.settings import TokenizeConfig

    if reading is not None:
        settings["corpus"] = dict(reading)
    built = build_store(
        _arguments(corpus), _place(output), build_config(TokenizeConfig, settings),
        tokenizer_path=None if tokenizer is None else Path(tokenizer),
        selection_path=None if selection is None else Path(selection),
        num_workers=_num_workers(num_workers), memory_bytes=memory_bytes, overwrite=overwrite,
        progress=progress,
    )  # fmt: skip
    assert not isinstance(built.manifest, PartDone)
    return built.manifest


def tag(
    corpus: Corpus, output: Path | str = "tags", *, reading: Mapping[str, Any] | None = None,
    num_workers: int | None = None, overwrite: bool = False,
    progress: Callable[[int, int, int], None] | None = None, **settings: Any,
) -> TagManifest:  # fmt: skip
    """Measure every document of a corpus once and return the tags' manifest: `lmdata tag`.

    Args:
        corpus: a file, folder or glob, or several
        output: folder to write
        reading: how files become documents: fields of `lmdata.settings.CorpusConfig`
        num_workers: processes; None: one a core. The result does not depend on it
        overwrite: replace the tags that are there
        progress: called with (bytes done, bytes in all, documents done)
        settings: fields of `lmdata.settings.TagConfig`, such as `language="py3langid"`

    Raises:
        LmdataError: an input is missing or broken, or the output can't be written
    """
    from lmdata.building.resumable import PartDone
    from lmdata.config import build_config
    from lmdata.reading.sources import find_sources
    from lmdata.settings import TagConfig
    from lmdata.tags import tag_corpus

    if reading is not None:
        settings["corpus"] = dict(reading)
    config = build_config(TagConfig, settings)
    made = tag_corpus(
        find_sources(_arguments(corpus), config.corpus), config, _place(output),
        num_workers=_num_workers(num_workers), overwrite=overwrite, progress=progress,
    )  # fmt: skip
    assert not isinstance(made, PartDone)
    return made


def select(
    tags: Path | str, where: str, output: Path | str = "selection", *, overwrite: bool = False
) -> SelectionManifest:
    """Choose documents by a condition over their tags and return the manifest: `lmdata select`.

    Args:
        tags: the folder that `tag` wrote
        where: a condition in SQL, as "c4 and num_words > 100", or the name of one: english,
            distinct, another language whose rules the tags tell of, or own
        output: folder to write
        overwrite: replace the selection that is there

    Raises:
        LmdataError: no such tag, no condition, or one that holds for no document
    """
    from lmdata.selection import select_documents
    from lmdata.tagging.conditions import NAMES, RECIPES, recipe_condition
    from lmdata.tagging.manifests import read_tag_manifest

    if where in NAMES and where not in RECIPES:
        where = recipe_condition(where, read_tag_manifest(Path(tags)))
    return select_documents(
        Path(tags), RECIPES.get(where, where), Path(output), overwrite=overwrite
    )


def mask(
    tokens: Path | str, output: Path | str = "shards", recipe: Recipe | str = "bert", *,
    seed: int = 0, epoch: int = 0, num_workers: int | None = None, overwrite: bool = False,
    progress: Progress | None = None, **settings: Any,
) -> Manifest:  # fmt: skip
    """Freeze one view of a token store and return the shards' manifest: `lmdata mask`.

    Args:
        tokens: the folder of a token store
        output: folder to write
        recipe: a `Recipe`, or the name of one
        seed: of every draw
        epoch: which epoch of the view is frozen
        num_workers: threads; None: one a core. The result does not depend on it
        overwrite: replace the shards that are there
        progress: called with (examples done, examples in all)
        settings: fields of the recipe to change, such as `max_seq_length=64`

    Raises:
        ValueError: no such recipe, no such setting, or a value that is not allowed
        LmdataError: the store is not whole, or the output can't be written
    """
    from lmdata.examples import write_examples

    return write_examples(
        tokens, _changed_recipe(recipe, settings), output, seed=seed, epoch=epoch,
        num_workers=_num_workers(num_workers), overwrite=overwrite, progress=progress,
    )  # fmt: skip


def verify(dataset: Path | str, *, store: Path | str | None = None) -> Report:
    """Return whether a dataset holds what it promises, check by check: `lmdata verify`.

    Args:
        dataset: the folder of a token store or of example shards
        store: of shards, the store they were made from; None: where their manifest says it was

    Raises:
        LmdataError: there is no manifest to compare with
    """
    from lmdata.verification import verify_dataset

    return verify_dataset(dataset, store_path=store)


def open(path: Path | str, split: str = "train") -> TokenStore | ExampleSet:
    """Return a split of the dataset in a folder, memory-mapped and checked by size.

    Args:
        path: what `lmdata tokenize` wrote (a `TokenStore` comes back) or `lmdata mask` (an
            `ExampleSet`); of a URI, a copy is kept on this machine
        split: "train", "validation" or "test"

    Raises:
        IntegrityError: unfinished, or a file is missing, truncated or swapped
        VersionError: written by a newer format version
        MismatchError: no such split
    """
    from lmdata.copies import at_hand
    from lmdata.dataset import open_examples, open_store
    from lmdata.schema import read_manifest

    folder = at_hand(path)
    kind = read_manifest(folder).kind
    return open_store(folder, split) if kind == "tokens" else open_examples(folder, split)


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
    from lmdata.dataset import TokenStore
    from lmdata.errors import MismatchError
    from lmdata.views import view as make_view

    changed = _changed_recipe(recipe, settings)
    tokens = open(store) if isinstance(store, str | Path) else store
    if not isinstance(tokens, TokenStore):
        raise MismatchError(
            "these examples are frozen already: read them with `.rows(...)`, or view the token "
            "store that they were made from"
        )
    return make_view(tokens, changed, seed=seed, epoch=epoch)


def _changed_recipe(recipe: Recipe | str, settings: Mapping[str, Any]) -> Recipe:
    """Return a recipe, or the one of this name, with other settings.

    Raises:
        ValueError: no such recipe, no such setting, or a value that is not allowed
    """
    import dataclasses

    from lmdata.recipes import RECIPES

    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
        recipe = RECIPES[recipe]
    known = {field.name for field in dataclasses.fields(recipe)}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"a recipe has no {unknown[0]}, it has {', '.join(sorted(known))}")
    return dataclasses.replace(recipe, **settings)


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
        format: nanogpt, megatron, mds, litdata, parquet, parquet-uncompressed or datasets
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
