from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmodel.layers.attention import attention, choose_kernel, reference
from lmmodel.layers.masks import Mask, Side

HEADS, FEATURES = 3, 7

lengths_lists = st.lists(st.integers(0, 13) | st.integers(17, 43), min_size=1, max_size=7).filter(
    any
)


def cu_seqlens_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def side_of(lengths: list[int], spare: int = 0) -> Side:
    return Side(cu_seqlens_of(lengths), max(lengths) + spare)


def attend(q, k, v, lengths: list[int], **options) -> torch.Tensor:
    """Attention of sequences to themselves."""
    side = side_of(lengths)
    return attention(q, k, v, side, side, **options)


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
    out = attend(q, k, v, [1, 1])
    torch.testing.assert_close(out, v)


def test_two_tokens_by_hand() -> None:
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    k = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    v = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1)
    share = 1 / (1 + torch.e**-1)  # of the second: e^1 / (e^0 + e^1)
    for kernel in ("reference", "dense", "buckets", "padded"):
        out = attend(one, k, v, [2], kernel=kernel).flatten()
        torch.testing.assert_close(out.tolist(), [share, share])
        out = attend(one, k, v, [2], mask=Mask(is_causal=True), kernel=kernel).flatten()
        torch.testing.assert_close(out.tolist(), [0.0, share])


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_lists,
    is_causal=st.booleans(),
    window=st.none() | st.integers(1, 11),
    kernel=st.sampled_from(["buckets", "rounded", "joined", "padded", None]),
    spare=st.integers(0, 3),
)
def test_every_kernel_gives_the_numbers_and_gradients_of_the_reference(
    lengths: list[int], is_causal: bool, window: int | None, kernel, spare: int
) -> None:
    qkv, side = make_qkv(sum(lengths)), side_of(lengths, spare)
    mask = Mask(is_causal=is_causal, window=window)
    expected = output_and_gradients(lambda q, k, v: reference(q, k, v, side, side, mask), qkv)
    rounded = {torch.float64} if kernel == "rounded" else set()
    with mock.patch("lmmodel.layers.attention.ROUNDED", rounded):
        actual = output_and_gradients(
            lambda q, k, v: attention(
                q, k, v, side, side, mask, kernel="buckets" if rounded else kernel,
            ),
            qkv,
        )  # fmt: skip
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


pairs_of_lengths = st.lists(
    st.tuples(st.integers(0, 9) | st.integers(17, 29), st.integers(0, 11) | st.integers(17, 31)),
    min_size=1, max_size=6,
).filter(lambda pairs: any(q for q, _ in pairs))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    pairs=pairs_of_lengths,
    order=st.sampled_from(["none", "causal", "ranks"]),
    is_strict=st.booleans(),
    window=st.none() | st.integers(1, 11),
    has_bias=st.booleans(),
    kernel=st.sampled_from(["buckets", "rounded", "joined", "padded", None]),
    is_self=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_kernel_takes_every_mask_and_sides_of_any_length(
    pairs, order, is_strict, window, has_bias, kernel, is_self, seed
) -> None:
    lengths = [pair[0] for pair in pairs]
    others = lengths if is_self else [pair[1] for pair in pairs]
    queries, generator = side_of(lengths), torch.Generator().manual_seed(seed)
    keys = queries if is_self else side_of(others)
    q, (_, k, v) = make_qkv(sum(lengths))[0], make_qkv(sum(others))
    bias = None
    if has_bias:
        shape = (HEADS, max(lengths), max(1, *others))
        bias = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    ranks = None
    if order == "ranks":
        ranks = tuple(
            torch.randint(-3, 8, (sum(n),), generator=generator) for n in (lengths, others)
        )
    mask = Mask(
        is_causal=order == "causal", ranks=ranks, is_strict=is_strict and order != "none",
        window=window, bias=bias,
    )  # fmt: skip
    learned = [q, k, v] if bias is None else [q, k, v, bias]

    def run(function, **options) -> list[torch.Tensor]:
        out = function(q, k, v, queries, keys, mask, **options)
        weights = torch.arange(out.numel()).double().sin().view(out.shape)
        found = torch.autograd.grad(
            (out * weights).sum(), learned, allow_unused=True, materialize_grads=True
        )
        return [out, *found]

    rounded = {torch.float64} if kernel == "rounded" else set()
    with mock.patch("lmmodel.layers.attention.ROUNDED", rounded):
        actual = run(attention, kernel="buckets" if rounded else kernel)
    for one, other in zip(actual, run(reference), strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_the_rule_by_hand() -> None:
    """A prefix of two sees itself; a permuted query sees what comes before it in the order."""
    side, v = side_of([4]), torch.eye(4).view(4, 1, 4)  # the output is the weights
    zero = torch.zeros(4, 1, 4)

    def seen(mask: Mask) -> list[list[int]]:
        return (attention(zero, zero, v, side, side, mask)[:, 0] > 0).int().tolist()

    prefix = torch.tensor([0, 0, 1, 2])
    assert seen(Mask(ranks=(prefix, prefix))) == [
        [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]
    ]  # fmt: skip
    order = torch.tensor([2, 0, 3, 1])
    assert seen(Mask(ranks=(order, order), is_strict=True)) == [
        [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]
    ]  # fmt: skip
    assert seen(Mask(is_causal=True, window=1)) == [
        [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]
    ]  # fmt: skip


def test_a_sequence_of_the_source_reaches_no_other_target() -> None:
    lengths, others = [3, 0, 5, 2], [4, 6, 0, 1]
    q, (_, k, v) = make_qkv(sum(lengths))[0], make_qkv(sum(others))
    out = attention(q, k, v, side_of(lengths), side_of(others))
    assert torch.equal(out[3:8], torch.zeros_like(out[3:8]))  # it has no source
    gradient = torch.autograd.grad(out[:3].sum(), v)[0]
    assert bool((gradient[:4] != 0).all())
    assert bool((gradient[4:] == 0).all())


def test_a_window_that_hides_nothing_does_not_choose_the_kernel() -> None:
    shape = ("cuda", torch.bfloat16, 511, 4, 128)
    with mock.patch("lmmodel.layers.attention.VARLEN_TAKES_WINDOW", False):
        assert choose_kernel(*shape, mask=Mask(window=127)) == "varlen"
        assert choose_kernel(*shape, mask=Mask(window=126)) == "padded"


def test_a_kernel_is_chosen_for_what_it_can_do() -> None:
    shape = ("cuda", torch.bfloat16, 511, 4, 128)
    ranks = (torch.zeros(511), torch.zeros(511))
    for mask in (Mask(ranks=ranks), Mask(bias=torch.zeros(1, 128, 128)),
                 Mask(is_causal=True, is_strict=True)):  # fmt: skip
        assert choose_kernel(*shape, mask=mask) == "padded"
    assert choose_kernel(*shape, keys=(300, 90)) == "varlen"
    assert choose_kernel(*shape, keys=(300, 90), mask=Mask(is_causal=True)) == "padded"
    assert choose_kernel(*shape[:2], 512, 4, 128, keys=(360, 90)) == "dense"
    with pytest.raises(ValueError, match="varlen has no dropout, bias, strict or given ranks"):
        attend(*make_qkv(4), [4], mask=Mask(is_causal=True, is_strict=True), kernel="varlen")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_causal": True, "ranks": (torch.zeros(1), torch.zeros(1))}, "is_causal means that"),
        ({"is_strict": True}, "is_strict without an order hides every key"),
    ],
)
def test_a_mask_that_contradicts_itself_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Mask(**options)


@settings(max_examples=30, deadline=None)
@given(lengths=lengths_lists, is_causal=st.booleans(), window=st.none() | st.integers(1, 11))
def test_bf16_stays_near_the_reference(
    lengths: list[int], is_causal: bool, window: int | None
) -> None:
    qkv, side = make_qkv(sum(lengths), torch.bfloat16), side_of(lengths)
    mask = Mask(is_causal=is_causal, window=window)
    exact = [x.detach().double().requires_grad_() for x in qkv]
    expected = output_and_gradients(lambda q, k, v: reference(q, k, v, side, side, mask), exact)
    actual = output_and_gradients(lambda q, k, v: attention(q, k, v, side, side, mask), qkv)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=0.1, rtol=0.05)


def test_the_result_of_a_sequence_does_not_depend_on_its_neighbours() -> None:
    qkv = make_qkv(17)
    together = attend(*qkv, [5, 11, 1])
    alone = attend(*(x[5:16] for x in qkv), [11])
    torch.testing.assert_close(together[5:16], alone)


@pytest.mark.parametrize("kernel", ["reference", "dense", "buckets", "joined", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_mean_and_depends_on_the_seed_only(kernel, dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in make_qkv(22))

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(q, k, v, [11, 11], dropout_p=0.3, kernel=kernel).double()

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    mean = torch.stack([run(seed) for seed in range(500)]).mean(0)
    plain = attend(q, k, v, [11, 11]).double()
    # Each of 11 weights varies by a factor with variance 3/7: below 0.6 for one draw of a value
    # of about 1, so below 6 x 0.6 / sqrt(2000) = 0.08 for the mean of 2,000.
    assert (mean - plain).abs().max() < 0.15


def test_dropout_drops_the_share_it_says() -> None:
    num_tokens = 101
    v = torch.eye(num_tokens).view(num_tokens, 1, num_tokens)  # the output is the weights
    zero = torch.zeros(num_tokens, 1, num_tokens)
    torch.manual_seed(0)
    out = attend(zero, zero, v, [num_tokens], dropout_p=0.25)
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
    side = Side(cu_seqlens_of(lengths).cuda(), 512)
    mask = Mask(is_causal=is_causal, window=window)
    expected = output_and_gradients(lambda q, k, v: reference(q, k, v, side, side, mask), qkv)
    for kernel, dtype in (("varlen", torch.bfloat16), ("padded", torch.float32)):
        cast = [x.detach().to(dtype).requires_grad_() for x in qkv]
        actual = output_and_gradients(
            lambda q, k, v, kernel=kernel: attention(q, k, v, side, side, mask, kernel=kernel),
            cast,
        )
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-3
        for one, other in zip(actual, expected, strict=True):
            torch.testing.assert_close(one.float(), other, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "dtype"), [
    ("varlen", torch.bfloat16), ("padded", torch.float32), ("padded", torch.bfloat16),
])  # fmt: skip
def test_sides_of_different_lengths_equal_the_reference_on_a_gpu(kernel, dtype) -> None:
    lengths, others = [128, 3, 0, 200, 17, 5], [7, 64, 9, 300, 0, 1]
    q = torch.randn(sum(lengths), 4, 64, device="cuda")
    k, v = (torch.randn(sum(others), 4, 64, device="cuda") for _ in range(2))
    queries = Side(cu_seqlens_of(lengths).cuda(), max(lengths))
    keys = Side(cu_seqlens_of(others).cuda(), max(others))
    qkv = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in qkv]
    expected = output_and_gradients(lambda *x: reference(*x, queries, keys, Mask()), exact)
    actual = output_and_gradients(lambda *x: attention(*x, queries, keys, kernel=kernel), qkv)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-3
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)
