"""A model over padded rows, as ONNX wants it, to a file that onnxruntime checks: the extra `onnx`.

Weights, norms and feed-forwards are the model's own; only attention is computed over rows of equal
length with a mask. Shapes: B rows, L tokens of a row, H heads, K features of a head, D hidden_size.
"""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.parity import Sample, largest_difference, make_sample, silent
from lmmodel.model import Attention, Transformer, rotate
from lmmodel.tasks.model import TaskModel


@dataclass(frozen=True)
class PaddedView:
    """What the attention of a layer sees."""

    is_seen: Tensor  # bool (B, 1, L, L)
    rotary: tuple[Tensor, Tensor] | None  # cos and sin (L, 1, K / 2)


class PaddedAttention(nn.Module):
    """Multi-head self-attention over padded rows, with the weights of a packed one."""

    def __init__(self, packed: Attention) -> None:
        super().__init__()
        self.qkv = packed.qkv
        self.output = packed.output
        self.window = packed.window
        self.config = packed.config

    def forward(
        self, x: Tensor, views: tuple[PaddedView, PaddedView], rows: Tensor | None = None
    ) -> Tensor:
        """Return floats (B, L, D); `rows` is what packed attention takes, and always None."""
        view = views[self.window is not None]
        qkv = self.qkv(x).unflatten(-1, (3, self.config.num_attention_heads, self.config.head_size))
        q, k, v = qkv.unbind(dim=2)  # (B, L, H, K) each
        if view.rotary is not None:
            q, k = rotate(q, view.rotary), rotate(k, view.rotary)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H, L, K)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=view.is_seen)
        out: Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return out


class PaddedTransformer(nn.Module):
    """A Transformer that reads padded rows."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        model = copy.deepcopy(model).float().eval()
        self.config = model.config
        self.embeddings = model.embeddings
        if self.config.has_projection:
            self.projection = model.projection
        self.layers = model.layers
        for layer in self.layers:
            assert isinstance(layer.attention, Attention)
            layer.attention = PaddedAttention(layer.attention)
        self.final_norm = model.final_norm
        for name in ("global_angles", "local_angles"):
            self.register_buffer(name, getattr(model, name, None), persistent=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return hidden states: float32 (B, L, D).

        Args:
            input_ids: int64 (B, L)
            attention_mask: int64 (B, L), 1 where there is a token; padding follows the tokens
            token_type_ids: int64 (B, L); bert only, None: all 0
        """
        window = self.config.local_window // 2 if self.config.traits.has_windows else None
        views = (
            self._view(attention_mask, None, "global"),
            self._view(attention_mask, window, "local"),
        )
        x = self._embed(input_ids, token_type_ids)
        if self.config.has_projection:
            x = self.projection(x)
        for i in range(self.config.num_hidden_layers):
            x = self.layers[self.config.group(i)](x, views)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def _embed(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        config, parts = self.config, self.embeddings
        x = parts.tokens(input_ids)
        if config.traits.has_segments:
            segments = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + parts.segments(segments)
        if config.positions == "learned":
            x = x + parts.positions.weight[: input_ids.shape[1]]
        elif config.positions == "sinusoidal":
            x = x + parts.sinusoids[: input_ids.shape[1]]
        return parts.norm(x) if config.traits.has_embedding_norm else x  # type: ignore[no-any-return]

    def _view(self, attention_mask: Tensor, window: int | None, kind: str) -> PaddedView:
        is_seen = visible(attention_mask, self.config, window)
        if self.config.positions != "rotary":
            return PaddedView(is_seen, None)
        angles = getattr(self, f"{kind}_angles")[: attention_mask.shape[1], None]  # (L, 1, K / 2)
        return PaddedView(is_seen, (angles.cos(), angles.sin()))


def visible(attention_mask: Tensor, config: ModelConfig, window: int | None) -> Tensor:
    """Return which places each place sees: bool (B, 1, L, L); every place sees itself.

    A padding place that sees nothing would be NaN, and NaN times weight 0 is NaN in its neighbours.

    Example:
        >>> visible(torch.tensor([[1, 1, 0]]), ModelConfig(), None)[0, 0].int().tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """
    place = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    distance = place[:, None] - place[None, :]  # (L, L)
    is_seen = (attention_mask > 0)[:, None, None, :]  # (B, 1, 1, L)
    if config.is_causal:
        is_seen = is_seen & (distance >= 0)
    if window is not None:
        is_seen = is_seen & (distance.abs() <= window)
    return is_seen | (distance == 0)


class PaddedTaskModel(nn.Module):
    """A fine-tuned model that reads padded rows."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.backbone = PaddedTransformer(model.backbone)
        self.head = copy.deepcopy(model.head).float().eval()
        self.is_over_sequences = model.task.is_over_sequences
        self.config = model.config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return logits: float32 (B, C) for tasks over sequences, (B, L, C) for those over tokens.

        Args as for `PaddedTransformer`.
        """
        hidden = self.backbone(input_ids, attention_mask, token_type_ids)
        pooling = self.config.traits.pooling if self.is_over_sequences else None
        if pooling == "mean":
            weights = attention_mask[:, :, None].to(hidden.dtype)
            hidden = (hidden * weights).sum(dim=1) / weights.sum(dim=1)  # (B, D)
        elif pooling == "last":
            last = attention_mask.sum(dim=1) - 1
            place = last[:, None, None].expand(-1, 1, hidden.shape[-1])
            hidden = hidden.gather(1, place)[:, 0]  # (B, D)
        elif pooling == "first":
            hidden = hidden[:, 0]
        logits: Tensor = self.head(hidden)
        return logits


def make_padded(model: Transformer | TaskModel) -> PaddedTransformer | PaddedTaskModel:
    """Return a copy of a model that reads padded rows; the model itself stays as it is."""
    if isinstance(model, TaskModel):
        return PaddedTaskModel(model)
    return PaddedTransformer(model)


PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 18
MAX_FILE_BYTES = 1_900_000_000  # an ONNX file ends at 2 GiB: weights of larger ones lie beside it
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def check_installed() -> None:
    """Check that the packages are there that ONNX needs.

    Raises:
        HuggingFaceError: one is missing
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise HuggingFaceError(
            f"--onnx needs {', '.join(missing)}, which is not installed: "
            "pip install 'lmdata-lmmodel[onnx]'"
        )


def export_onnx(model: Transformer | TaskModel, path: Path) -> float:
    """Write an ONNX file with any number of rows and tokens, and compare onnxruntime with us.

    Inputs are input_ids, attention_mask and, for bert, token_type_ids: int64 (B, L). The output is
    last_hidden_state (B, L, D) of a Transformer, logits of a fine-tuned model.

    Args:
        model: on the CPU
        path: file to write; its folder exists

    Returns:
        The largest absolute difference of the outputs, over batches of several shapes.

    Raises:
        HuggingFaceError: onnxruntime computes other numbers, or a package is missing
    """
    check_installed()
    names = input_names(model)
    inputs = make_sample(model.config, pad_id=None).padded(0)
    shape = {0: Dim("batch"), 1: Dim("length", max=model.config.max_position_embeddings)}
    num_bytes = sum(weight.numel() * 4 for weight in model.parameters())
    with silent():
        torch.onnx.export(
            make_padded(model),
            tuple(inputs[name] for name in names),
            path,
            dynamo=True,
            external_data=num_bytes > MAX_FILE_BYTES,
            opset_version=OPSET,
            input_names=list(names),
            output_names=[output_name(model)],
            dynamic_shapes=[shape] * len(names),
            verbose=False,
        )
    return check_onnx(model, path)


def input_names(model: Transformer | TaskModel) -> tuple[str, ...]:
    """Return the inputs that the model's numbers depend on."""
    return INPUT_NAMES if model.config.traits.has_segments else INPUT_NAMES[:2]


def output_name(model: Transformer | TaskModel) -> str:
    """Return what the output is called, as Optimum calls it."""
    return "logits" if isinstance(model, TaskModel) else "last_hidden_state"


def check_onnx(model: Transformer | TaskModel, path: Path) -> float:
    """Return the largest difference of a file's output to the model's, over several shapes.

    Raises:
        HuggingFaceError: it is more than rounding
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    sample = make_sample(model.config, pad_id=None, seed=1)
    alone = Sample(sample.ids[1:], sample.segments[1:])  # shorter than the one it was traced with
    differences = []
    for rows in (sample, alone):
        inputs = {name: rows.padded(0)[name].numpy() for name in input_names(model)}
        (theirs,) = session.run(None, inputs)
        ours = _our_output(model, rows)
        found = _without_padding(torch.from_numpy(np.asarray(theirs)), rows.lengths, ours)
        complaint = f"onnxruntime computes other numbers from {path.name}"
        differences.append(largest_difference([ours], [found], complaint))
    return max(differences)


@torch.no_grad()
def _our_output(model: Transformer | TaskModel, rows: Sample) -> Tensor:
    """Return what the packed model makes of the rows: float32 (T, D or C), or (B, C)."""
    output: Tensor = model(rows.packed())
    return output.float()


def _without_padding(output: Tensor, lengths: list[int], like: Tensor) -> Tensor:
    if output.dim() == like.dim():  # one row a sequence
        return output
    return torch.cat([row[:length] for row, length in zip(output, lengths, strict=True)])
