from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmodel.layers.attention import attention, choose_kernel, reference

HEADS, FEATURES = 3, 7

lengths_lists = st.lists(st.integers(0, 13) | st.integers(17, 43), min_size=1, max_size=7).filter(
    any
)


def cu_seqlens_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def make_qkv(num_tokens: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    shape = (num_tokens, HEADS, FEATURES)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def output_and_gradients(function, qkv: list[torch.Tensor]) -> list[torch.Tensor]:
    out = function(*qkv)
    weights = torch.arange(out.numel()).double().sin().bfloat16().view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad((out * weights).sum(), qkv)]


def test_one_token_sees_itself_only() -> None:
    q, k, v = make_qkv(2)
    out = attention(q, k, v, cu_seqlens_of([1, 1]), 1)
    torch.testing.assert_close(out, v)


def test_two_tokens_by_hand() -> None:
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    k = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    v = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    share = 1 / (1 + torch.e**-1)  # of the second: e^1 / (e^0 + e^1)
    for kernel in ("reference", "dense", "buckets", "padded"):
        out = attention(one, k, v, cu_seqlens_of([2]), 2, kernel=kernel).flatten()
        torch.testing.assert_close(out.tolist(), [share, share])
        out = attention(one, k, v, cu_seqlens_of([2]), 2, is_causal=True, kernel=kernel).flatten()
        torch.testing.assert_close(out.tolist(), [0.0, share])


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_lists,
    is_causal=st.booleans(),
    window=st.none() | st.integers(1, 11),
    kernel=st.sampled_from(["buckets", "rounded", "padded", None]),
    spare=st.integers(0, 3),
)
def test_every_kernel_gives_the_numbers_and_gradients_of_the_reference(
    lengths: list[int], is_causal: bool, window: int | None, kernel, spare: int
) -> None:
    qkv, cu_seqlens = make_qkv(sum(lengths)), cu_seqlens_of(lengths)
    expected = output_and_gradients(
        lambda q, k, v: reference(q, k, v, cu_seqlens, is_causal, window), qkv
    )
    rounded = {torch.float64} if kernel == "rounded" else set()
    with mock.patch("lmmodel.layers.attention.ROUNDED", rounded):
        actual = output_and_gradients(
            lambda q, k, v: attention(
                q, k, v, cu_seqlens, max(lengths) + spare,
                is_causal=is_causal, window=window, kernel="buckets" if rounded else kernel,
            ),
            qkv,
        )  # fmt: skip
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(lengths=lengths_lists, is_causal=st.booleans(), window=st.none() | st.integers(1, 11))
def test_bf16_stays_near_the_reference(
    lengths: list[int], is_causal: bool, window: int | None
) -> None:
    qkv, cu_seqlens = make_qkv(sum(lengths), torch.bfloat16), cu_seqlens_of(lengths)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    expected = output_and_gradients(
        lambda q, k, v: reference(q, k, v, cu_seqlens, is_causal, window), exact
    )
    actual = output_and_gradients(
        lambda q, k, v: attention(
            q, k, v, cu_seqlens, max(lengths), is_causal=is_causal, window=window
        ),
        qkv,
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=0.1, rtol=0.05)


def test_the_result_of_a_sequence_does_not_depend_on_its_neighbours() -> None:
    qkv = make_qkv(17)
    together = attention(*qkv, cu_seqlens_of([5, 11, 1]), 11)
    alone = attention(*(x[5:16] for x in qkv), cu_seqlens_of([11]), 11)
    torch.testing.assert_close(together[5:16], alone)


@pytest.mark.parametrize("kernel", ["reference", "dense", "buckets", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_depends_on_the_seed_only(kernel, dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in make_qkv(22))
    cu_seqlens = cu_seqlens_of([11, 11])

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attention(q, k, v, cu_seqlens, 11, dropout_p=0.3, kernel=kernel).double()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    mean = torch.stack([run(seed) for seed in range(500)]).mean(0)
    plain = attention(q, k, v, cu_seqlens, 11).double()
    # Each of 11 weights varies by a factor with variance 3/7: below 0.6 for one draw of a value
    # of about 1, so below 6 x 0.6 / sqrt(2000) = 0.08 for the mean of 2,000.
    assert (mean - plain).abs().max() < 0.15


def test_dropout_drops_the_share_it_says() -> None:
    num_tokens = 101
    v = torch.eye(num_tokens).view(num_tokens, 1, num_tokens)  # the output is the weights
    zero = torch.zeros(num_tokens, 1, num_tokens)
    torch.manual_seed(0)
    out = attention(zero, zero, v, cu_seqlens_of([num_tokens]), num_tokens, dropout_p=0.25)
    is_dropped = out == 0
    assert abs(float(is_dropped.double().mean()) - 0.25) < 5 * (0.25 * 0.75 / num_tokens**2) ** 0.5
    torch.testing.assert_close(
        out[~is_dropped], torch.full_like(out[~is_dropped], 1 / num_tokens / 0.75)
    )


def test_equal_lengths_run_as_one_dense_call() -> None:
    assert choose_kernel("cpu", torch.float32, 512, 4, 128) == "dense"
    assert choose_kernel("cuda", torch.float32, 512, 4, 128) == "dense"
    assert choose_kernel("cpu", torch.float32, 511, 4, 128) == "buckets"


def test_cuda_takes_the_variable_length_kernel_where_it_can() -> None:
    shape = (511, 4, 128)
    assert choose_kernel("cuda", torch.bfloat16, *shape) == "varlen"
    assert choose_kernel("cuda", torch.bfloat16, *shape, dropout_p=0.1) == "padded"
    assert choose_kernel("cuda", torch.float32, *shape) == "padded"


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("is_causal", [False, True])
def test_varlen_equals_the_reference_on_a_gpu(is_causal: bool, window: int | None) -> None:
    lengths = [128, 3, 0, 511, 17, 0]
    qkv = [torch.randn(sum(lengths), 4, 64, device="cuda", requires_grad=True) for _ in range(3)]
    cu_seqlens = cu_seqlens_of(lengths).cuda()
    options = {"is_causal": is_causal, "window": window}
    expected = output_and_gradients(
        lambda q, k, v: reference(q, k, v, cu_seqlens, is_causal, window), qkv
    )
    for kernel, dtype in (("varlen", torch.bfloat16), ("padded", torch.float32)):
        cast = [x.detach().to(dtype).requires_grad_() for x in qkv]
        actual = output_and_gradients(
            lambda q, k, v, kernel=kernel: attention(
                q, k, v, cu_seqlens, 512, kernel=kernel, **options
            ),
            cast,
        )
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-3
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one.float(), other, atol=tolerance, rtol=tolerance)
