import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmdata.rng import PURPOSES, draw, philox, probability_word, stream_key
from lmdata.viewing.rng_kernels import below, below_wide, fill_words, philox_block

addresses = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words = philox(*[np.array([word], np.int64) for word in [*counter, *key]])
    assert [int(word[0]) for word in words] == expected


@given(address=addresses, seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**32 - 1))
def test_numpy_and_numba_give_the_same_words(address, seed, epoch):
    example, part = address
    key = stream_key(seed, "pairs", epoch)
    filled = np.zeros(44, np.uint32)
    fill_words(filled, 41, *key, example, part, 3)
    drawn = draw(key, np.full(44, example), np.arange(12, 56), part)
    assert filled.tolist() == drawn.tolist()
    assert philox_block(*key, example, part, 5) == tuple(drawn[8:12])


@given(address=addresses)
def test_numpy_and_torch_give_the_same_words(address):
    torch = pytest.importorskip("torch")
    example, part = address
    key = stream_key(11, "mask-positions")
    positions = np.arange(53)
    drawn = draw(key, np.full(53, example), positions, part)
    tensor = draw(key, torch.full((53,), example), torch.from_numpy(positions), part)
    assert tensor.tolist() == drawn.tolist()


def test_the_address_decides_and_not_the_order_of_drawing():
    key = stream_key(3, "pairs")
    examples, positions = np.meshgrid(np.arange(7), np.arange(11), indexing="ij")
    table = draw(key, examples, positions)
    assert int(draw(key, np.array([5]), np.array([9]))[0]) == table[5, 9]
    assert (draw(key, examples[::-1], positions) == table[::-1]).all()


def test_every_part_of_the_address_changes_the_words():
    words = {
        tuple(draw(stream_key(seed, purpose, epoch), np.full(4, example), np.arange(4), part))
        for seed in (0, 1, 2**32)
        for purpose in ("pairs", "order")
        for epoch in (0, 1)
        for example in (0, 1, 2**32)
        for part in (0, 1)
    }
    assert len(words) == 72


def test_purposes_have_distinct_numbers():
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def is_equidistributed(words: np.ndarray, p_value: float = 1e-4) -> bool:
    """Chi-square of the top and bottom bytes of the words against the uniform distribution."""
    counts = [np.bincount(byte, minlength=256) for byte in (words >> 24, words & 255)]
    return all(stats.chisquare(count).pvalue > p_value for count in counts)


def is_uncorrelated(first: np.ndarray, second: np.ndarray, limit: float = 4.5) -> bool:
    """Correlation of the values and of each bit, within `limit` standard errors of zero."""
    size = len(first)
    correlations = [np.corrcoef(first, second)[0, 1]]
    for bit in range(32):
        agree = ((first ^ second) >> bit & 1).mean()
        correlations.append(1 - 2 * agree)
    return max(map(abs, correlations)) < limit / size**0.5


def test_words_are_equidistributed():
    key = stream_key(17, "mask-positions")
    assert is_equidistributed(draw(key, np.arange(200_000), np.zeros(1, np.int64)))
    assert is_equidistributed(draw(key, np.zeros(1, np.int64), np.arange(200_000)))


@pytest.mark.parametrize("step", ["example", "part", "position", "epoch", "seed", "purpose"])
def test_neighbouring_addresses_are_uncorrelated(step):
    size = 100_000
    examples, positions = np.arange(size), np.full(size, 4)
    first = draw(stream_key(1, "pairs", 1), examples, positions, 1)
    key = stream_key(
        1 + (step == "seed"), "order" if step == "purpose" else "pairs", 1 + (step == "epoch")
    )
    second = draw(
        key, examples + (step == "example"), positions + (step == "position"), 1 + (step == "part")
    )
    assert is_uncorrelated(first, second)


def test_the_checks_reject_a_weak_generator():
    counter = np.arange(200_000) * 2654435761 % 2**32
    assert not is_uncorrelated(counter, (counter + 2654435761) % 2**32)
    assert not is_equidistributed(np.arange(200_000))


def test_bounded_integers_are_uniform():
    key = stream_key(5, "sample")
    words = draw(key, np.arange(70_000), np.zeros(1, np.int64))
    more = draw(key, np.arange(70_000), np.ones(1, np.int64))
    narrow = [below(int(word), 7) for word in words]
    wide = [below_wide(int(a), int(b), 7) for a, b in zip(words, more, strict=True)]
    for values in (narrow, wide):
        counts = np.bincount(values, minlength=7)
        assert len(counts) == 7
        assert stats.chisquare(counts).pvalue > 1e-4


def test_probabilities_become_bounds_of_words():
    assert probability_word(0.15) == 644245094


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "lottery"), "unknown purpose 'lottery', known are split"),
        ((-1, "pairs"), r"seed must be in \[0, 2\*\*63\), got -1"),
        ((0, "pairs", 2**32), r"epoch must be in \[0, 2\*\*32\), got 4294967296"),
    ],
)
def test_impossible_addresses_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stream_key(*arguments)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_words_as_numpy():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    key = stream_key(11, "mask-positions")
    examples, positions = np.arange(1009)[:, None] + 2**40, np.arange(53)
    tensors = [torch.from_numpy(array).cuda() for array in (examples, positions)]
    assert (draw(key, *tensors, 7).cpu().numpy() == draw(key, examples, positions, 7)).all()
