"""What must be right on a graphics card before its speed means anything.

`python -m benchmarks.gpu_checks NAME DEVICE STORE` does one check and prints its note as one line
of JSON, last; a check that fails raises. On a CPU the same code runs at toy size.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmmodel.batch import Batch, make_batch
from lmmodel.config import TrainConfig, load_train_config
from lmmodel.families import ModelConfig
from lmmodel.layers.attention import Kernel, attention, choose_kernel, reference
from lmmodel.layers.masks import Mask, Side
from lmmodel.model import Transformer, make_model
from lmmodel.objectives import ObjectiveConfig, make_objective
from lmmodel.objectives.terms import sum_losses
from lmmodel.saving.metrics import TrainProgress
from lmmodel.trainer import train
from references.made_up import is_frozen

VOCAB_SIZE = 997
# Largest ||a - b|| / ||b||: rounding of the products, which the two sides add up in another order.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


class CheckError(Exception):
    """Two things that must agree do not."""


def packed_equals_padded(device: str, store: str) -> str:
    """Compare losses and gradients of a packed batch with those of padded sequences, one by one."""
    worst = 0.0
    for family, dtype in product(("bert", "modern"), TOLERANCE):
        model = make_model(
            ModelConfig(family=family, size="tiny", vocab_size=VOCAB_SIZE), seed=1
        ).to(device)
        model.compute_dtype = dtype
        sequences = [_random_batch([length], seed) for seed, length in enumerate(_lengths(device))]
        packed = _losses_and_gradients(model, [_join(sequences)], kernel=None)
        padded = _losses_and_gradients(model, sequences, kernel="padded")
        difference = relative_difference(packed, padded)
        worst = max(worst, _check(difference, dtype, f"packed and padded {family}"))
    return f"largest difference {worst:.1e}"


def fast_attention_equals_reference(device: str, store: str) -> str:
    """Compare each kernel's outputs and gradients with the definition, in float64."""
    fast: list[Kernel] = ["varlen", "padded"] if device == "cuda" else ["buckets", "padded"]
    lengths = [*_lengths(device), 0]
    names = []
    for kernel, dtype, is_causal, window in product(fast, TOLERANCE, (False, True), (None, 8)):
        if kernel == "varlen" and dtype == torch.float32:
            continue
        qkv = _random_qkv(sum(lengths), device)
        difference = _attention_difference(qkv, lengths, kernel, dtype, is_causal, window)
        name = f"{kernel} {str(dtype).removeprefix('torch.')}"
        _check(difference, dtype, f"{name}, causal {is_causal}, window {window}")
        names += [name] if name not in names else []
    chosen = choose_kernel(device, torch.bfloat16, sum(lengths), len(lengths), max(lengths))
    if device == "cuda" and chosen != "varlen":
        raise CheckError(f"bf16 on {torch.__version__} would run {chosen}, not varlen")
    return f"{', '.join(names)}; bf16 takes {chosen}"


def numbers_equal_those_of_numpy(device: str, store: str) -> str:
    """Compare random words drawn by NumPy and by torch at the same addresses."""
    from lmdata.rng import draw, stream_key

    key = stream_key(11, "mask-positions", 3)
    examples, positions = np.arange(1009)[:, None] + 2**40, np.arange(613)
    tensors = [torch.from_numpy(array).to(device) for array in (examples, positions)]
    words = draw(key, examples, positions, 7)
    num_wrong = int((draw(key, *tensors, 7).cpu().numpy() != words).sum())
    if num_wrong:
        raise CheckError(f"{num_wrong} of {words.size} words differ")
    return f"{words.size:,} words"


def resume_is_exact(device: str, store: str, *, compile: bool) -> str:
    """Compare the weights after 2N steps with those after N, a crash, and the others."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in ("whole", "resumed", "again")]
        config = _drifting_config(device, store, compile=compile, deterministic=True)
        num_steps = config.budget.num_steps
        for run in (runs[0], runs[2]):
            train(config, Path(store), run)
        _crash_and_resume(config, Path(store), runs[1], after=num_steps // 2 + 1)
        whole, resumed, again = ((run / "model.safetensors").read_bytes() for run in runs)
    if resumed != whole:
        cause = "resuming" if again == whole else "a kernel: two whole runs differ as well"
        raise CheckError(f"weights differ after {num_steps} steps, because of {cause}")
    return f"{num_steps} steps, {len(whole):,} bytes of weights the same"


def deterministic_kernels_are_needed(device: str, store: str) -> str:
    """Say whether two runs give the same bits with deterministic=false; either is right."""
    with tempfile.TemporaryDirectory() as folder:
        config = _drifting_config(device, store, compile=False, deterministic=False)
        weights = []
        for name in ("one", "two"):
            train(config, Path(store), Path(folder) / name)
            weights.append((Path(folder) / name / "model.safetensors").read_bytes())
    return f"with deterministic=false two runs {'agree' if weights[0] == weights[1] else 'differ'}"


def _drifting_config(device: str, store: str, *, compile: bool, deterministic: bool) -> TrainConfig:
    """Return a run with masks, dropout and accumulation on."""
    size = "mini" if device == "cuda" else "tiny"
    length, num_steps = (512, 20) if device == "cuda" else (32, 6)
    recipe = ["recipe.view=packed", "recipe.count=bernoulli", f"recipe.max_seq_length={length}"]
    return load_train_config(None, [
        *([] if is_frozen(Path(store)) else recipe),
        f"model.size={size}", "model.dropout=0.1", f"model.max_position_embeddings={length}",
        "objective.name=mlm", "batch.size=32",
        f"batch.micro_batch_tokens={16 * length}", f"device={device}",
        f"compile={str(compile).lower()}", f"deterministic={str(deterministic).lower()}",
        f"budget.num_steps={num_steps}",
        "evaluation.num_examples=0", f"checkpoint.every_steps={num_steps // 2}",
        "logging.every_steps=1", "logging.picture=false",
    ])  # fmt: skip


CHECKS: dict[str, Callable[[str, str], str]] = {
    "packed = padded": packed_equals_padded,
    "fast attention = reference": fast_attention_equals_reference,
    "torch's random numbers = NumPy's": numbers_equal_those_of_numpy,
    "exact resume": partial(resume_is_exact, compile=False),
    "exact resume, compiled": partial(resume_is_exact, compile=True),
    "same bits without deterministic kernels": deterministic_kernels_are_needed,
}


def relative_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return ||a - b|| / ||b|| of all values together; nan and inf stay what they are.

    Example:
        >>> relative_difference([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])])
        0.1
    """
    a, b = (torch.cat([x.detach().double().flatten() for x in xs]) for xs in (ours, theirs))
    return float((a - b).norm() / b.norm())


def _check(difference: float, dtype: torch.dtype, what: str) -> float:
    if not difference <= TOLERANCE[dtype]:  # nan is wrong too
        raise CheckError(f"{what}, {dtype}: differ by {difference:.2e} > {TOLERANCE[dtype]:.0e}")
    return difference


def _lengths(device: str) -> list[int]:
    return [512, 3, 17, 512, 129, 401] if device == "cuda" else [61, 3, 17, 64]


def _random_batch(lengths: list[int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(lengths)
    ids = torch.randint(0, VOCAB_SIZE, (num_tokens,), generator=generator)
    positions = torch.arange(0, num_tokens, 5)
    return make_batch(
        ids, torch.tensor(lengths), max_seqlen=512,
        masked_positions=positions, masked_labels=ids.flip(0)[positions],
    )  # fmt: skip


def _join(batches: list[Batch]) -> Batch:
    """Return the packed batch of single sequences."""
    lengths = torch.tensor([batch.num_tokens for batch in batches])
    starts = (lengths.cumsum(0) - lengths).tolist()
    return make_batch(
        torch.cat([batch.input_ids for batch in batches]), lengths, max_seqlen=512,
        masked_positions=torch.cat(
            [batch.masked_positions + start for batch, start in zip(batches, starts, strict=True)]
        ),
        masked_labels=torch.cat([batch.masked_labels for batch in batches]),
    )  # fmt: skip


def _losses_and_gradients(
    model: Transformer, batches: list[Batch], *, kernel: Kernel | None
) -> list[Tensor]:
    part = make_objective(ObjectiveConfig(name="mlm")).parts[0]
    device = next(model.parameters()).device
    model.kernel = kernel
    model.zero_grad()
    losses = torch.zeros(1, device=device)
    for batch in batches:
        loss = sum_losses(model, part, batch.to(device))
        loss.sum().backward()  # type: ignore[no-untyped-call]
        losses += loss.detach()
    return [losses, *[p.grad for p in model.parameters() if p.grad is not None]]


def _random_qkv(num_tokens: int, device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    shape = (num_tokens, 4, 64)
    return [torch.randn(shape, generator=generator).to(device) for _ in range(3)]


def _attention_difference(
    qkv: list[Tensor],
    lengths: list[int],
    kernel: Kernel,
    dtype: torch.dtype,
    is_causal: bool,
    window: int | None,
) -> float:
    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=qkv[0].device)
    fast = [x.to(dtype).requires_grad_() for x in qkv]
    exact = [x.detach().double().requires_grad_() for x in fast]
    side, mask = Side(cu_seqlens, max(lengths)), Mask(is_causal=is_causal, window=window)
    out = attention(*fast, side, side, mask, kernel=kernel)
    expected = reference(*exact, side, side, mask)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(dtype)
    ours = [out, *torch.autograd.grad((out * weights).sum(), fast)]
    theirs = [expected, *torch.autograd.grad((expected * weights.double()).sum(), exact)]
    return max(relative_difference([a], [b]) for a, b in zip(ours, theirs, strict=True))


class _CrashError(Exception):
    """Stands for a crash: nothing is saved."""


def _crash_and_resume(config: Any, store: Path, run: Path, *, after: int) -> None:
    def crash(progress: TrainProgress) -> None:
        if progress.step == after:
            raise _CrashError

    try:
        train(config, store, run, progress=crash)
    except _CrashError:
        train(config, store, run, resume=True)


def main() -> None:
    """Do the check that the arguments name."""
    name, device, store = sys.argv[1:]
    print(json.dumps({"note": CHECKS[name](device, store)}))


if __name__ == "__main__":
    main()
