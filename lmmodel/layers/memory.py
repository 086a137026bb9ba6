"""Keys and values of what was read, so that a new token is computed alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmmodel.batch import Batch
from lmmodel.layers.attention import attention
from lmmodel.layers.masks import Mask, Side


class KeyValues:
    """Keys and values of S sequences, so that each new token is computed alone.

    `read` says which tokens the next forward pass brings: first whole prompts, then one token of
    each sequence at a time.

    Shapes: S sequences, C places of each, H heads, K features of a head, T tokens of a batch.
    """

    def __init__(
        self, num_layers: int, shape: tuple[int, int, int, int], device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        """Make room for `shape` = (S, H, C, K) in each layer, in what the model computes in."""
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(num_layers)]
        self._batch: Batch | None = None
        self._sequence = torch.zeros(0, dtype=torch.int64)  # (T,) of the batch that is read

    def read(self, batch: Batch) -> None:
        """Take note of the tokens that come next; `position_ids` says where they belong."""
        self._batch = batch
        sequences = torch.arange(batch.num_sequences, device=batch.cu_seqlens.device)
        self._sequence = torch.repeat_interleave(sequences, batch.cu_seqlens.diff().long())

    def keep(self, sequences: Tensor) -> None:
        """Forget all sequences but some, int64 (S',), which are numbered anew."""
        self.keys = [keys[sequences] for keys in self.keys]
        self.values = [values[sequences] for values in self.values]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """Return causal attention over what was read, (T, H, K), and remember k and v."""
        batch = self._batch
        assert batch is not None, "read() comes before the forward pass"
        position = batch.position_ids.long()
        self.keys[layer][self._sequence, :, position] = k
        self.values[layer][self._sequence, :, position] = v
        if batch.num_tokens != batch.num_sequences:  # prompts
            side = Side(batch.cu_seqlens, batch.max_seqlen)
            return attention(q, k, v, side, side, Mask(is_causal=True, window=window))
        stop = int(position.max()) + 1
        keys, values = self.keys[layer][:, :, :stop], self.values[layer][:, :, :stop]
        distance = position[:, None] - torch.arange(stop, device=q.device)  # (S, stop)
        is_seen = (distance >= 0) & (distance <= (stop if window is None else window))
        heads = F.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=is_seen[:, None, None]
        )  # (S, H, 1, K)
        return heads[:, :, 0]
