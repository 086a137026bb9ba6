"""What tells the language of text: py3langid, files of fastText, line by line."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from lmdata.errors import ConfigError
from lmdata.settings import TagConfig
from lmdata.tagging.byte_walk import ByteWalk
from lmdata.tagging.language import FastTextModel, check_fasttext, share_languages
from lmdata.tagging.taggers import LanguageTagger, make_taggers
from tests.lmdata.text_batches import tag_batch

ENGLISH, GERMAN = "the cat and the dog are in the house", "der hund und die katze sind im haus"


class ByFirstWord:
    """A model that knows the two sentences."""

    version = "first-word"

    def label(self, text: bytes) -> tuple[str, float, str]:
        return ("en", 0.75, "de") if text.strip().startswith(b"the") else ("de", 0.5, "en")


@pytest.fixture(scope="module", params=["softmax", "hs", "quantized"])
def model_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that was trained on two sentences."""
    fasttext = pytest.importorskip("fasttext", reason="trains the model")
    folder, kind = tmp_path_factory.mktemp("fasttext"), request.param
    if not hasattr(fasttext, "train_supervised"):
        pytest.skip("this package only reads models")
    lines = [f"__label__en {ENGLISH}", f"__label__de {GERMAN}"] * 30
    (folder / "train.txt").write_text("\n".join(lines))
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=4, minn=2, maxn=3, bucket=300, epoch=20, lr=1.0, thread=1,
        verbose=0, loss="softmax" if kind == "quantized" else kind,
    )  # fmt: skip
    if kind == "quantized":
        model.quantize(input=str(folder / "train.txt"), qnorm=True, retrain=False, dsub=2)
    path = folder / f"{kind}.ftz"
    model.save_model(str(path))
    return path


def test_a_file_of_fasttext_tells_languages(model_path: Path) -> None:
    model = FastTextModel(model_path)
    assert model.version.startswith(f"fasttext-{model_path.name}-")
    first, score, second = model.label(ENGLISH.encode())
    assert (first, second) == ("en", "de")
    assert 0.5 < score <= 1
    assert model.label(f"{GERMAN}\n{GERMAN}".encode())[0] == "de"
    tagger = make_taggers(TagConfig(language_model=str(model_path)))[0]
    assert tagger.tag(tag_batch([ENGLISH, GERMAN]))[0].to_pylist() == ["en", "de"]
    assert tagger.versions["language"] == model.version


def test_a_file_that_is_no_whole_model_is_refused(model_path: Path, tmp_path: Path) -> None:
    whole = model_path.read_bytes()
    check_fasttext(model_path)
    parts = [whole[:size] for size in range(0, len(whole), 97)]
    for content in [*parts, whole[:-1], whole + b"x", b"\0" * 500, whole[:8] + b"\xff" * 500]:
        (tmp_path / "other.bin").write_bytes(content)
        with pytest.raises(ConfigError, match=r"other.bin is no whole model of fastText"):
            check_fasttext(tmp_path / "other.bin")
    with pytest.raises(ConfigError, match=r"can't read .*nowhere: No such file"):
        FastTextModel(tmp_path / "nowhere")


def test_reading_a_model_needs_a_package(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fasttext.FastText", None)
    with pytest.raises(ConfigError, match=r"pip install 'lmdata-lmmodel\[fasttext\]'"):
        FastTextModel(model_path)


def test_lines_are_told_apart_by_their_bytes() -> None:
    text = f"{ENGLISH}\n\nthe\n{GERMAN}\n{ENGLISH}\n"
    found = share_languages(text.encode(), ByFirstWord())
    assert found == Counter({"en": 2 * len(ENGLISH), "de": len(GERMAN)})
    tagger = LanguageTagger(ByFirstWord(), by_lines=True)
    columns = tagger.tag(tag_batch([text, "the", GERMAN]))
    assert [column.type for column in columns] == [field.type for field in tagger.fields]
    _, _, _, ratios, names = (column.to_pylist() for column in columns)
    assert ratios == [2 * len(ENGLISH) / found.total(), 1.0, 1.0]
    assert names == ["en de", "", "de"]


def test_settings_of_languages_that_have_no_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="both tell languages: leave one out"):
        TagConfig(language="py3langid", language_model="lid.bin")
    with pytest.raises(ValueError, match="paragraph_languages needs what tells languages"):
        TagConfig(paragraph_languages=True)


TEXTS = [
    "", " ", "123", "HELLO, THIS IS ALL IN CAPITALS", "Le chat dort sur la chaise.",
    "Der Hund schläft im Haus, und die Katze auch.", "e\u0301te\u0301 a\u0300 la mer",
    "Сви људи рађају се слободни", "Svi ljudi rađaju se slobodni", "人人生而自由", "ทุกคนเกิดมา",
    "the cat " * 3000,
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_the_kernel_says_what_py3langid_says(text: str) -> None:
    langid = pytest.importorskip("py3langid.langid", reason="the extra [language]")
    model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    (first, score), (second, _) = model.rank(text)[:2]
    told = ByteWalk(model).rank(text)
    assert (told[0], told[2]) == (first, second)
    assert told[1] == pytest.approx(score, abs=1e-4)
