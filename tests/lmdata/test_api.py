"""`import lmdata` is enough for the two doors to a dataset."""

import numpy as np
import pytest

import lmdata
from lmdata.dataset import ExampleSet, TokenStore, open_store
from lmdata.errors import DatasetError, MismatchError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES, Recipe
from lmdata.views import view
from tests.lmdata.builds import build, write_corpus


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    texts = [f"The cat sat on mat {i}. The dog ran. One tree fell." for i in range(31)]
    corpus = write_corpus(folder / "corpus", {"a.txt": texts})
    build(corpus, folder / "tokens", validation_ratio=0.1)
    write_examples(folder / "tokens", Recipe(max_seq_length=32), folder / "shards", seed=1)
    return folder


def test_a_folder_opens_as_what_it_holds(folders):
    assert isinstance(lmdata.open(folders / "tokens"), TokenStore)
    assert isinstance(lmdata.open(str(folders / "shards")), ExampleSet)
    assert len(lmdata.open(folders / "tokens", "validation")) < len(lmdata.open(folders / "tokens"))
    with pytest.raises(MismatchError, match="no split 'tset'"):
        lmdata.open(folders / "tokens", "tset")


def test_a_view_is_that_of_the_recipe(folders):
    store = lmdata.open(folders / "tokens")
    short = lmdata.view(store, "bert", seed=3, epoch=2, max_seq_length=32, duplicates=1)
    recipe = Recipe(**{**vars(RECIPES["bert"]), "max_seq_length": 32, "duplicates": 1})
    same = view(open_store(folders / "tokens"), recipe, seed=3, epoch=2)
    rows = np.arange(len(short))
    assert len(rows) == len(same) > 0
    assert np.array_equal(short.examples(rows).input_ids, same.examples(rows).input_ids)
    assert len(lmdata.view(folders / "tokens", recipe)) > 0


def test_what_can_not_be_viewed_is_said(folders):
    with pytest.raises(ValueError, match=r"recipe must be one of bert, roberta, .* got 'brt'"):
        lmdata.view(folders / "tokens", "brt")
    with pytest.raises(ValueError, match=r"a recipe has no max_length, it has .*max_seq_length"):
        lmdata.view(folders / "tokens", max_length=32)
    with pytest.raises((MismatchError, DatasetError), match="frozen already"):
        lmdata.view(folders / "shards")
