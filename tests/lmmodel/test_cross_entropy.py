import pytest
import torch
import torch.nn.functional as F

from lmmodel import cores
from lmmodel.batch import IGNORED
from lmmodel.cores import summed_cross_entropy


def make_rows(num_rows: int, num_ids: int, scale: float = 5.0):
    generator = torch.Generator().manual_seed(num_rows)
    logits = torch.randn(num_rows, num_ids, generator=generator) * scale
    labels = torch.randint(0, num_ids, (num_rows,), generator=generator)
    labels[::5] = IGNORED
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("chunk", [1, 3 * 97, 2**18])
def test_loss_and_gradient_equal_torchs(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(cores, "CHUNK", chunk)
    logits, labels = make_rows(23, 97)
    (summed_cross_entropy(logits, labels) / 7).backward()
    twin = logits.detach().clone().requires_grad_()
    expected = F.cross_entropy(twin, labels, reduction="sum", ignore_index=IGNORED)
    (expected / 7).backward()
    torch.testing.assert_close(summed_cross_entropy(logits, labels), expected)
    torch.testing.assert_close(logits.grad, twin.grad)


def test_bf16_logits_give_a_float32_loss() -> None:
    logits, labels = make_rows(23, 97)
    half = logits.detach().bfloat16().requires_grad_()
    loss = summed_cross_entropy(half, labels)
    expected = F.cross_entropy(half.float(), labels, reduction="sum", ignore_index=IGNORED)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    loss = summed_cross_entropy(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(loss, torch.tensor(2e4 + torch.log(torch.tensor(3.0)).item()))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_without_any_label_the_loss_is_zero() -> None:
    logits = torch.randn(5, 7, requires_grad=True)
    loss = summed_cross_entropy(logits, torch.full((5,), IGNORED))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
    assert summed_cross_entropy(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)) == 0


def test_a_second_backward_is_refused() -> None:
    logits, labels = make_rows(5, 7)
    loss = summed_cross_entropy(logits, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward through a cross-entropy twice"):
        loss.backward()
