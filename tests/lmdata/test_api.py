"""`import lmdata` is enough for the whole road, and for the two doors to a dataset."""

import subprocess
import sys

import numpy as np
import pytest

import lmdata
from lmdata.dataset import ExampleSet, TokenStore, open_store
from lmdata.errors import ConfigError, DatasetError, MismatchError
from lmdata.examples import write_examples
from lmdata.recipes import RECIPES, Recipe
from lmdata.views import view
from tests.lmdata.builds import InlineWorkers, all_bytes, build, write_corpus


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


def test_the_road_in_python_is_that_of_the_commands(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("lmdata.tokens.start_tokenizing", InlineWorkers)
    corpus, reading = folders / "corpus", {"documents": "line"}
    tokenizer = folders / "tokens" / "tokenizer"
    manifest = lmdata.tokenize(
        corpus, tmp_path / "tokens", tokenizer=tokenizer, reading=reading, validation_ratio=0.1
    )
    assert all_bytes(tmp_path / "tokens") == all_bytes(folders / "tokens")
    assert manifest.hash == lmdata.open(tmp_path / "tokens").manifest.hash
    lmdata.mask(tmp_path / "tokens", tmp_path / "shards", max_seq_length=32, seed=1)
    expected = all_bytes(folders / "shards")
    assert all_bytes(tmp_path / "shards").keys() == expected.keys()
    report = lmdata.verify(tmp_path / "shards")
    assert report.passed
    trained = lmdata.train_tokenizer(corpus, tmp_path / "wordpiece", vocab_size=60, reading=reading)
    assert trained.vocab_size == 60
    with pytest.raises(ConfigError, match="unknown key vocabsize"):
        lmdata.train_tokenizer(corpus, tmp_path / "other", vocabsize=60)
    with pytest.raises(ValueError, match="a recipe has no max_length"):
        lmdata.mask(tmp_path / "tokens", tmp_path / "other", max_length=3)


def test_importing_both_packages_loads_nothing_heavy():
    code = (
        "import sys; import lmdata, lmmodel;"
        "heavy = {'torch', 'numba', 'polars', 'pyarrow', 'numpy', 'tokenizers', 'fsspec',"
        " 'obstore', 'ray'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_call_is_a_call_whatever_module_of_its_name_is_imported():
    code = (
        "import lmdata, lmmodel; import lmdata.tokens, lmdata.verification, lmmodel.finetune;"
        "from lmmodel.finetune import FinetuneConfig, finetune;"
        "assert all(map(callable, (lmdata.tokenize, lmdata.verify, lmmodel.finetune)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
