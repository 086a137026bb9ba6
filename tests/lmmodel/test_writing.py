"""What an encoder-decoder writes is what `generate` of transformers writes, token for token."""

import numpy as np
import pytest
import torch

from lmmodel.writing import WritingConfig, write
from tests.lmmodel.test_encoder_decoder import VOCAB, random_model, stock_of

START = {"t5": 0, "t5-v1.0": 0, "bart": 1, "transformer": 1}
END = 1


def sources_of(count: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(2, VOCAB, generator.integers(1, 12)) for _ in range(count)]


def sharp_model(family: str):
    """Return a model whose next tokens are neither certain nor all alike, and that ends texts."""
    # As many layers in both: the memory of transformers has room for no more in the decoder.
    sharp = {"bart": 0.25, "transformer": 1.5}.get(family, 2.0)
    model = random_model(family, initializer_range=sharp, num_decoder_layers=2).float()
    model.compute_dtype = torch.float32
    if family == "bart":
        with torch.no_grad():
            model.head.bias[END] += 1.0
    return model


def theirs_of(model, family: str, tmp_path, sources, **settings) -> list[list[list[int]]]:
    stock = stock_of(model, family, tmp_path)
    longest = max(map(len, sources))
    ids = torch.zeros(len(sources), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = torch.from_numpy(source)
        mask[row, : len(source)] = 1
    # Whatever the class would take from its configuration is said here.
    usual = {"do_sample": False, "decoder_start_token_id": START[family], "eos_token_id": END,
             "pad_token_id": 0, "forced_eos_token_id": None, "max_new_tokens": 14}  # fmt: skip
    stock.generation_config = type(stock.generation_config)()
    found = stock.generate(input_ids=ids, attention_mask=mask, **(usual | settings))
    num = settings.get("num_return_sequences", 1)
    rows = [_until_end(row[1:].tolist()) for row in found]
    return [rows[index * num : (index + 1) * num] for index in range(len(sources))]


def _until_end(ids: list[int]) -> list[int]:
    ids = ids[: ids.index(END)] if END in ids else ids
    while ids and ids[-1] == 0:  # padding behind a text that did not end
        ids.pop()
    return ids


def ours_of(model, family: str, sources, **settings) -> list[list[list[int]]]:
    config = WritingConfig(max_new_tokens=14, **settings)
    found = write(model, sources, START[family], END, config)
    return [[_until_end(list(one.ids)) for one in own] for own in found]


CASES = [
    ({}, {}),
    ({"num_beams": 4}, {"num_beams": 4}),
    (
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_outputs": 3},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3},
    ),
    (
        {"num_beams": 3, "early_stopping": "never", "min_new_tokens": 4, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "early_stopping": "never", "min_new_tokens": 4, "no_repeat_ngram_size": 2},
    ),
    (
        {"num_beams": 2, "forced_first_id": 7, "is_end_forced": True},
        {"num_beams": 2, "forced_bos_token_id": 7, "forced_eos_token_id": END},
    ),
    ({"no_repeat_ngram_size": 1, "min_new_tokens": 2}, {"no_repeat_ngram_size": 1,
                                                        "min_new_tokens": 2}),
]  # fmt: skip


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_targets_are_those_of_transformers(family: str, case: int, tmp_path) -> None:
    ours, theirs = CASES[case]
    model, sources = sharp_model(family), sources_of(25, seed=case)
    expected = theirs_of(model, family, tmp_path, sources, **theirs)
    found = ours_of(model, family, sources, **ours)
    assert found == expected
    num_lengths = len({len(one) for own in found for one in own})
    assert num_lengths > 1 or "is_end_forced" in ours, "all are equally long"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "t5-v1.0", "bart"])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_five_hundred_targets_are_those_of_transformers(family, num_beams, tmp_path) -> None:
    model, sources = sharp_model(family), sources_of(500)
    expected = theirs_of(model, family, tmp_path, sources, num_beams=num_beams)
    assert ours_of(model, family, sources, num_beams=num_beams) == expected


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_target_is_the_same_whatever_else_is_asked(num_beams: int) -> None:
    model, sources = sharp_model("transformer"), sources_of(12)
    together = ours_of(model, "transformer", sources, num_beams=num_beams)
    alone = [ours_of(model, "transformer", [one], num_beams=num_beams)[0] for one in sources]
    assert together == alone


def test_draws_belong_to_the_place_of_the_source() -> None:
    model, sources = sharp_model("t5"), sources_of(6)
    drawn = ours_of(model, "t5", sources, temperature=1.0, seed=3)
    assert drawn == ours_of(model, "t5", sources, temperature=1.0, seed=3)
    assert drawn != ours_of(model, "t5", sources, temperature=1.0, seed=4)
    assert drawn[:3] == ours_of(model, "t5", sources[:3], temperature=1.0, seed=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 2, "num_outputs": 3}, "num_outputs=3 of num_beams=2 can't be returned"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"min_new_tokens must be in \[0, max_new_"),
        ({"num_beams": 2, "temperature": 0.5}, "draws tokens, num_beams=2 searches"),
        ({"top_k": 3}, "top_k and top_p have no effect"),
        ({"early_stopping": "soon"}, "early_stopping must be true, false or never"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WritingConfig(**settings)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", ["t5", "transformer"])
def test_a_model_that_computes_in_bf16_writes_too(family: str, num_beams: int) -> None:
    model, sources = sharp_model(family), sources_of(6)
    exact = ours_of(model, family, sources, num_beams=num_beams)
    model.compute_dtype = torch.bfloat16
    found = ours_of(model, family, sources, num_beams=num_beams)
    firsts = [one[0][0] == own[0][0] for one, own in zip(exact, found, strict=True)]
    assert sum(firsts) >= 4  # 8 binary digits decide most first tokens alike
