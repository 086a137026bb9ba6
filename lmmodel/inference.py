"""A trained model over many batches, as fast as the machine can: no gradients, every core busy.

On a CPU each core computes batches of its own, one thread each: nothing waits for the slowest at
every product. float32 products go to oneDNN with the weights laid out for it once, where torch has
that; it is 1.4 times as fast as the library torch takes otherwise on the machines measured. There
rows are filled up to whole tiles, so that what is said of a sequence does not depend on its batch:
no product has a remainder of rows for another kernel, no element lies behind the last whole vector.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmdata.ragged import offsets_of
from lmmodel.adapters import LoraLinear
from lmmodel.batch import Batch, pad_batch, spare_sequences
from lmmodel.cores import map_in_order, num_cores
from lmmodel.layers.memory import KeyValues
from lmmodel.model import Linear, Transformer, VocabularyHead

BatchT = TypeVar("BatchT")
ResultT = TypeVar("ResultT")

Precision = Literal["fp32", "bf16"]

# Tokens of one batch: enough that products, not calls, take the time. On a CPU 4,096 take a fifth
# longer a token than 1,024, whose activations stay in the cache.
CPU_BATCH_TOKENS = 1024
GPU_BATCH_TOKENS = 65_536

TILE = 32
"""Rows of float32 products on a CPU are a multiple of it, and so are elements of two vectors."""

# Logits that exist at once: 8 MiB of float32 on a CPU.
CPU_CHUNK = 2**21
GPU_CHUNK = 2**28


def batch_tokens(device: torch.device) -> int:
    """Return the tokens of a batch that suits a device."""
    return CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Return of how many rows the logits should exist at once: whole tiles, at least one."""
    num_rows = (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK) // vocab_size
    return max(TILE, num_rows // TILE * TILE)


def split_by_tokens(lengths: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield items, shortest first, in groups of at most `most` tokens, or of one longer item.

    Args:
        lengths: int64 (N,) tokens of each item
        most: at least 1

    Example:
        >>> [group.tolist() for group in split_by_tokens(np.array([3, 2, 9, 2]), 5)]
        [[1, 3], [0], [2]]
    """
    order = np.argsort(lengths, kind="stable")
    totals = offsets_of(lengths[order])
    start = 0
    while start < len(order):
        fitting = int(np.searchsorted(totals, totals[start] + most, side="right")) - 1
        stop = max(fitting, start + 1)
        yield order[start:stop]
        start = stop


def map_batches(
    function: Callable[[BatchT], ResultT], batches: Iterable[BatchT], device: torch.device
) -> Iterator[ResultT]:
    """Yield what a function returns for each batch, in order, without gradients.

    On a CPU the batches are computed by as many threads as torch has.
    """

    def compute(batch: BatchT) -> ResultT:
        with torch.inference_mode():
            return function(batch)

    yield from map_in_order(compute, batches, num_cores(device))


def prepare(
    model: Transformer, precision: Precision = "fp32", packs: Packs | None = None
) -> Transformer:
    """Return the model for `map_batches`: itself, or a twin that shares what it can.

    On a CPU the twin has its products laid out for oneDNN, which gives the same numbers but for
    rounding. In bf16 layers compute with 8 binary digits; the vocabulary head stays in float32.

    Args:
        model: float32, in evaluation mode
        precision: of the layers
        packs: matrices that are laid out already, which twins share; those of this one are added
    """
    is_on_cpu = model.embeddings.tokens.weight.device.type == "cpu"
    is_packed = is_on_cpu and _has_onednn()
    if model.training or not (is_packed or precision == "bf16"):
        return model
    traits = model.config.traits
    if traits.is_encoder_decoder or traits.is_two_stream:  # they compute in a way of their own
        return model
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    packs = {} if packs is None else packs
    twin = packed(model, dtype, packs) if is_packed else copy.copy(model)
    assert isinstance(twin, Transformer)
    if is_packed and precision == "fp32":
        twin.__class__ = TiledTransformer
    head = ExactHead(model, packs if is_packed else None)
    # Modules of an objective compute as they please.
    twin._modules = {**twin._modules, "head": head, "extras": model.extras}
    twin.compute_dtype = dtype
    return twin


def state_of_weights(model: nn.Module) -> object:
    """Return what is equal as long as the mode stays and no weight is written to or put elsewhere.

    torch counts writes to a tensor and its views, but for those through `.data`.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> before = state_of_weights(layer)
        >>> _ = layer.weight.detach().fill_(1.0)
        >>> before == state_of_weights(layer)
        False
    """
    weights = []
    modules = [model]
    for module in modules:  # a seventh of the time of `parameters`
        modules += [child for child in module._modules.values() if child is not None]
        weights += [
            (weight.data_ptr(), weight._version)
            for weight in module._parameters.values()
            if weight is not None
        ]
    return model.training, weights


def _has_onednn() -> bool:
    is_there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return is_there and hasattr(torch.ops.mkldnn, "_linear_pointwise")


Packs = dict[tuple[object, ...], "PackedLinear"]
"""Matrices that are laid out, by where their weights lie and what these were."""


def packed(module: nn.Module, dtype: torch.dtype, packs: Packs | None = None) -> nn.Module:
    """Return a twin with every product in it laid out for oneDNN; the module stays as it is.

    Args:
        module: of any kind
        dtype: of the products
        packs: as for `prepare`
    """
    packs = {} if packs is None else packs
    if isinstance(module, Linear):
        own = pack(module.weight, module.bias, dtype, packs)
        return PackedLora(own, module, dtype) if isinstance(module, LoraLinear) else own
    twin = copy.copy(module)
    twin._modules = {
        name: None if child is None else packed(child, dtype, packs)
        for name, child in module._modules.items()
    }
    return twin


def pack(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, packs: Packs) -> PackedLinear:
    """Return x W' + b laid out for oneDNN: that of `packs`, to which it is added if need be."""
    places = [None if one is None else (one.data_ptr(), one._version) for one in (weight, bias)]
    key = (*places, dtype)
    if key not in packs:
        packs[key] = PackedLinear(weight, bias, dtype)
    return packs[key]


class TiledTransformer(Transformer):
    """A Transformer whose tokens, and rows that are asked for, are filled up to whole tiles."""

    def forward(
        self, batch: Batch, *, is_causal: bool | None = None, rows: Tensor | None = None,
        past: KeyValues | None = None,
    ) -> Tensor:  # fmt: skip
        """Return floats (T, D) or (R, D), as `Transformer.forward`."""
        num_rows = batch.num_tokens if rows is None else len(rows)
        if past is None:
            batch = fill_batch(batch)
        if rows is not None:
            rows = F.pad(rows, (0, -num_rows % TILE))
        return super().forward(batch, is_causal=is_causal, rows=rows, past=past)[:num_rows]


def fill_batch(batch: Batch) -> Batch:
    """Return the batch with its tokens filled up to whole tiles by sequences of their own.

    Example:
        >>> from lmmodel.batch import make_batch
        >>> fill_batch(make_batch(torch.arange(30), torch.tensor([30]))).cu_seqlens.tolist()
        [0, 30, 32]
    """
    num_more = -batch.num_tokens % TILE
    if not num_more:
        return batch
    return pad_batch(
        batch, num_tokens=batch.num_tokens + num_more, num_masked=batch.num_labels,
        num_sequences=batch.num_sequences + spare_sequences(num_more, batch.max_seqlen),
    )  # fmt: skip


def fill_rows(x: Tensor) -> Tensor:
    """Return floats (R, D) with rows of zeros behind them, up to whole tiles.

    Example:
        >>> fill_rows(torch.ones(3, 2)).shape, fill_rows(torch.ones(64, 2)).shape
        (torch.Size([32, 2]), torch.Size([64, 2]))
    """
    num_more = -len(x) % TILE
    return F.pad(x, (0, 0, 0, num_more)) if num_more else x


class TiledHead(nn.Module):
    """A head of a task, laid out for oneDNN, whose rows are filled up to whole tiles."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = packed(head, torch.float32)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return float32 (N, C) from hidden states (N, D)."""
        logits: Tensor = self.head(fill_rows(hidden))
        return logits[: len(hidden)]


_PACKED_FOR = 64
"""Rows of the products that matrices are laid out for. Measured: 32 rows take 0.6 to 0.8 of the
time that the layout for any number takes, 2,048 rows the same; the bits of a row depend on none."""


class PackedLinear(nn.Module):
    """x W' + b by oneDNN on a CPU, in float32 or bf16, without gradients."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        pack: Any = torch.ops.mkldnn._reorder_linear_weight
        self.weight: Tensor = pack(weight.detach().to(dtype), _PACKED_FOR)
        self.shape, self.dtype = tuple(weight.shape), dtype  # (out_features, in_features)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (..., out_features)."""
        product: Any = torch.ops.mkldnn._linear_pointwise
        out: Tensor = product(x, self.weight, self.bias, "none", [], "")
        return out


def make_kernels(model: nn.Module) -> Iterator[None]:
    """Have oneDNN make its kernels for every number of rows that batches have, one at a time.

    It keeps some 0.6 MB for each shape of a product and number of rows, of which there are 32: a
    server that makes them as they come grows for a hundred thousand requests. The product
    with the vocabulary is left out: it is of a few numbers of rows only.

    Args:
        model: as `prepare` returned it; where nothing is laid out, there is nothing to make
    """
    heads = [module.product for module in model.modules() if isinstance(module, ExactHead)]
    products = {
        module.shape: module
        for module in model.modules()
        if isinstance(module, PackedLinear) and module not in heads
    }
    for (_, width), product in products.items():
        rows = torch.zeros(CPU_BATCH_TOKENS, width, dtype=product.dtype)
        for num_rows in range(TILE, CPU_BATCH_TOKENS + 1, TILE):
            with torch.inference_mode():
                product(rows[:num_rows])
            yield


class PackedLora(nn.Module):
    """What a `LoraLinear` computes, by oneDNN; the matrix may be shared with others."""

    def __init__(self, base: PackedLinear, module: LoraLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.base, self.parts, self.rows = base, module.parts, module.lora_b.shape[1]
        self.first = PackedLinear(module.scale * module.lora_a.flatten(0, 1), None, dtype)
        self.seconds = [PackedLinear(second, None, dtype) for second in module.lora_b]

    def forward(self, x: Tensor) -> Tensor:
        """Return floats (..., out_features)."""
        out: Tensor = self.base(x)
        thin = self.first(x).chunk(len(self.seconds), dim=-1)
        for part, own, second in zip(self.parts.chosen, thin, self.seconds, strict=True):
            out.narrow(-1, part * self.rows, self.rows).add_(second(own.contiguous()))
        return out


class ExactHead(nn.Module):
    """The vocabulary head of a model in float32, whatever its layers compute in."""

    def __init__(self, model: Transformer, packs: Packs | None) -> None:
        """`packs` is as for `prepare`; None: nothing is laid out."""
        super().__init__()
        head = model.head if packs is None else packed(model.head, torch.float32, packs)
        assert isinstance(head, VocabularyHead)
        self.head = head
        weight, bias = model.embeddings.tokens.weight, getattr(model.head, "bias", None)
        self.product = None if packs is None else pack(weight, bias, torch.float32, packs)

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return float32 (P, V) from hidden (P, D) and the embeddings of the model."""
        if self.product is None:
            exact: Tensor = self.head(hidden.float(), embeddings)
            return exact
        logits: Tensor = self.product(self.head.transform(fill_rows(hidden.float())))
        return logits[: len(hidden)]


def logsumexp_in_place(logits: Tensor) -> Tensor:
    """Return log sum exp of each row, float32 (R,); what was in `logits` (R, V) is lost.

    torch's own takes a second array of that size, whose memory costs more than the exponentials.
    """
    largest = logits.amax(dim=1)
    return logits.sub_(largest[:, None]).exp_().sum(dim=1).log_().add_(largest)


def label_log_probabilities(
    model: Transformer, hidden: Tensor, rows: Tensor, labels: Tensor
) -> Tensor:
    """Return how probable labels are: natural logarithms, float32 (P,).

    The logits of a few rows at a time exist.

    Args:
        model: on the device of the tensors
        hidden: floats (R, D) of the last layer
        rows: int64 (P,) ascending, the row of `hidden` that each label is predicted from
        labels: int64 (P,) ids
    """
    num_rows, hidden = chunk_rows(model.config.vocab_size, hidden.device), fill_rows(hidden)
    ends = torch.searchsorted(
        rows, torch.arange(num_rows, len(hidden) + num_rows, num_rows).to(rows)
    )
    parts, start = [], 0
    for index, end in enumerate(ends.tolist()):
        first = index * num_rows
        logits = model.lm_logits(hidden[first : first + num_rows]).float()
        own, wanted = rows[start:end] - first, labels[start:end]
        at_labels = logits[own, wanted]
        parts.append(at_labels - logsumexp_in_place(logits)[own])
        start = end
    return torch.cat(parts)
