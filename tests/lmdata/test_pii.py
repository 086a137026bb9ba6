"""Personal data: 600 cases of our own, half of them traps, and what else must hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmdata.settings import TagConfig
from lmdata.tagging.language import Py3langidModel
from lmdata.tagging.pii import KINDS, find_pii
from lmdata.tagging.taggers import LanguageTagger, PiiTagger, make_taggers
from references.personal_data import judge, make_cases
from tests.lmdata.text_batches import tag_batch


def found_in(text: str) -> list[tuple[str, str]]:
    content = text.encode()
    return [(kind, content[start:stop].decode()) for kind, start, stop in find_pii(content)]


def test_of_600_cases_98_of_100_are_told_right_of_each_kind() -> None:
    cases = make_cases()
    assert len(cases) >= 500
    judged = judge(cases, found_in)
    assert set(judged) == set(KINDS)
    for kind, (right, missed, wrong) in judged.items():
        assert right / (right + missed) >= 0.98, (kind, missed)
        assert right / (right + wrong) >= 0.98, (kind, wrong)


def test_several_in_one_text_are_told_in_its_order() -> None:
    text = "é ann@example.org 4111111111111111 é +49 30 1234567 and 93.184.216.34, " * 3
    kinds = ["email", "card", "phone", "ip"] * 3
    assert [kind for kind, _ in found_in(text)] == kinds


@given(st.text(st.sampled_from("0123456789 .:-()+@aZé\n"), max_size=300))
def test_stretches_are_apart_and_within_the_text(text: str) -> None:
    content = text.encode()
    found = find_pii(content)
    bounds = [bound for finding in found for bound in (finding.start, finding.stop)]
    assert bounds == sorted(bounds)
    assert all(0 <= bound <= len(content) for bound in bounds)


def test_columns_hold_counts_and_places() -> None:
    batch = tag_batch(["nothing", "ann@example.org, bob@example.org"])
    columns = PiiTagger().tag(batch)
    table = dict(zip([field.name for field in PiiTagger.fields], columns, strict=True))
    assert table["num_emails"].to_pylist() == [0, 2]
    assert table["pii"].to_pylist() == [[], [0, 0, 15, 0, 17, 32]]
    assert [column.type for column in columns] == [field.type for field in PiiTagger.fields]


def test_a_model_tells_languages_and_comes_only_where_asked() -> None:
    pytest.importorskip("py3langid", reason="holds the model")
    assert [type(tagger) for tagger in make_taggers(TagConfig())] == [PiiTagger]
    texts = ["The cat sat on the mat and was happy.", "Der Hund bellt den ganzen Tag im Garten.",
             "Le chat est assis sur la table."]  # fmt: skip
    first, scores, second = LanguageTagger(Py3langidModel()).tag(tag_batch(texts))
    assert first.to_pylist() == ["en", "de", "fr"]
    assert np.all(np.array(scores.to_pylist()) > 0.2)
    assert all(a != b for a, b in zip(first.to_pylist(), second.to_pylist(), strict=True))
