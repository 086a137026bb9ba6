import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmdata.order import NUM_ROUNDS, batch_rows, permute, walk_cells
from lmdata.rng import stream_key
from lmdata.viewing.rng_kernels import walk_cells_compiled


@given(num_examples=st.integers(1, 3000), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9))
def test_every_example_comes_exactly_once(num_examples, seed, epoch):
    examples = permute(np.arange(num_examples), num_examples, seed=seed, epoch=epoch)
    assert (np.sort(examples) == np.arange(num_examples)).all()


@given(rows=st.lists(st.integers(0, 10**12 - 1), min_size=1, max_size=30, unique=True))
def test_rows_are_independent_of_the_batch_and_of_the_size_of_the_corpus(rows):
    together = permute(np.array(rows), 10**12, seed=7)
    alone = [permute(np.array([row]), 10**12, seed=7)[0] for row in rows]
    assert together.tolist() == alone
    assert len(set(alone)) == len(rows)
    assert (together >= 0).all()
    assert (together < 10**12).all()


@given(
    num_examples=st.integers(1, 10**12), width=st.integers(1, 10**6),
    seed=st.integers(0, 2**63 - 1), data=st.data(),
)  # fmt: skip
def test_numpy_and_numba_go_to_the_same_examples(num_examples, width, seed, data):
    width = min(width, 100 * num_examples)  # of a hundred cells one is an example: long walks
    grid = (-(-num_examples // width), width)
    rows = data.draw(st.lists(st.integers(0, num_examples - 1), max_size=20))
    arguments = (
        np.array(rows, np.int64),
        num_examples,
        grid,
        stream_key(seed, "order"),
        NUM_ROUNDS,
    )
    assert walk_cells(*arguments).tolist() == walk_cells_compiled(*arguments).tolist()


def test_seeds_and_epochs_give_other_orders():
    orders = {
        tuple(permute(np.arange(101), 101, seed=seed, epoch=epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("num_examples", [7, 101])
def test_every_example_is_as_likely_at_every_row(num_examples):
    orders = np.array(
        [permute(np.arange(num_examples), num_examples, seed=seed) for seed in range(3000)]
    )
    for row in (0, 1, num_examples // 2, num_examples - 1):
        counts = np.bincount(orders[:, row], minlength=num_examples)
        assert stats.chisquare(counts).pvalue > 1e-5
    ascents = (np.diff(orders) > 0).mean()
    assert abs(ascents - 0.5) < 4 * (1 / 12 / 3000 / num_examples) ** 0.5 + 0.005
    followers = ((orders[:, 1] - orders[:, 0]) % num_examples)[:]
    assert stats.chisquare(np.bincount(followers, minlength=num_examples)[1:]).pvalue > 1e-5


@given(
    num_examples=st.integers(1, 97), batch_size=st.integers(1, 13), num_ranks=st.integers(1, 5),
    num_steps=st.integers(1, 11),
)  # fmt: skip
def test_ranks_share_the_rows_without_gap_or_overlap(
    num_examples, batch_size, num_ranks, num_steps
):
    seen = []
    for step in range(num_steps):
        for rank in range(num_ranks):
            epochs, rows = batch_rows(
                step, batch_size, num_examples, rank=rank, num_ranks=num_ranks
            )
            seen.extend((epochs * num_examples + rows).tolist())
    assert seen == list(range(num_steps * num_ranks * batch_size))


def test_a_row_outside_the_epoch_is_refused():
    with pytest.raises(IndexError, match=r"row 5 is outside \[0, 5\): the epoch has 5 examples"):
        permute(np.array([0, 5]), 5, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be at least 0, got -1"),
        ({"batch_size": 0}, "batch_size and num_examples must be at least 1, got 0 and 9"),
        ({"rank": 2, "num_ranks": 2}, r"rank must be in \[0, 2\), got 2"),
    ],
)
def test_impossible_batches_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        batch_rows(**{"step": 0, "batch_size": 3, "num_examples": 9, **arguments})
