from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmmodel.cores import dropout, seeded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_dropped_is_the_one_asked_for(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    num = 1_000_003
    out = dropout(torch.ones(num, dtype=dtype), 0.1)
    share = float((out == 0).double().mean())
    assert abs(share - 0.1) < 5 * (0.1 * 0.9 / num) ** 0.5
    assert set(out.tolist()) == {0.0, float(torch.tensor(1 / 0.9, dtype=dtype))}


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    is_dropped = dropout(torch.ones(400_000), 0.5).view(-1, 4) == 0
    # Four values share one 64-bit word: every one of 16 patterns occurs equally often.
    counts = (is_dropped.long() * torch.tensor([1, 2, 4, 8])).sum(1).bincount(minlength=16)
    chi_square = float(((counts - 6250).double().square() / 6250).sum())
    assert chi_square < 44.3  # 15 degrees of freedom, p = 1e-4


def test_the_gradient_is_dropped_and_scaled_alike() -> None:
    torch.manual_seed(0)
    x = torch.ones(13, 7, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_the_same_seed_drops_the_same() -> None:
    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(101), 0.5)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_zero_returns_the_tensor_itself() -> None:
    x = torch.ones(3)
    assert dropout(x, 0.0) is x


def test_nearly_all_may_be_dropped():
    assert (dropout(torch.ones(10_000), 1 - 1e-9) != 0).float().mean() < 0.001


def test_a_seed_holds_in_its_thread_until_its_end() -> None:
    x, cpu = torch.ones(1000), torch.device("cpu")
    with seeded(3, cpu):
        first = dropout(x, 0.5)
        with ThreadPoolExecutor(1) as pool:  # another thread draws elsewhere
            pool.submit(dropout, x, 0.5).result()
        second = dropout(x, 0.5)
    with seeded(3, cpu):
        both = [dropout(x, 0.5), dropout(x, 0.5)]
    assert torch.equal(both[0], first)
    assert torch.equal(both[1], second)
    torch.manual_seed(8)
    outside = dropout(x, 0.5)
    torch.manual_seed(8)
    assert torch.equal(dropout(x, 0.5), outside)
