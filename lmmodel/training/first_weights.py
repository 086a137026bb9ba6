"""What the fresh weights of a run begin with that follows from its data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lmmodel.cooccurrences import MOST_TOKENS, find_embeddings
from lmmodel.device import tensor_of_main
from lmmodel.model import Transformer
from lmmodel.objectives.terms import log_frequencies
from lmmodel.training.plan import Prepared, sample_rows


@dataclass(frozen=True)
class FirstWeights:
    """What fresh weights begin with that follows from the data; None: as they are drawn."""

    bias: Tensor | None = None  # float32 (V,) of the vocabulary head
    embeddings: Tensor | None = None
    """float32 (V, E) of standard deviation 1, rows of pieces that have none 0."""

    @torch.no_grad()
    def put(self, model: Transformer) -> None:
        """Put them in the place of a model's; embeddings keep their standard deviation."""
        if self.bias is not None:
            model.head.bias.copy_(self.bias)
        if self.embeddings is not None:
            drawn = model.embeddings.tokens.weight
            found = self.embeddings.to(drawn.device)
            is_found = found.any(1, keepdim=True)
            drawn.copy_(torch.where(is_found, found * drawn.std(), drawn))


def find_first_weights(prepared: Prepared) -> FirstWeights:
    """Return what fresh weights begin with that follows from the data."""
    config, data = prepared.config, prepared.data
    bias, embeddings = None, None
    num_unused = config.model.vocab_size - data.tokenizer.vocab_size
    is_special = np.pad(data.tokenizer.is_special, (0, num_unused), constant_values=True)
    if config.vocabulary_bias == "frequencies":
        sample = sample_rows(prepared.loader.stages)  # the same in every process
        labels = [part.label(sample).masked_labels for part in prepared.loader.objective.parts]
        counts = np.pad(data.token_counts, (0, num_unused))
        bias = torch.from_numpy(log_frequencies(np.concatenate(labels), counts, is_special)).float()
    if config.first_embeddings == "co-occurrences":
        first = prepared.loader.stages[0]
        recipe = config.recipe or data.frozen_recipe
        assert recipe is not None
        num_rows = min(MOST_TOKENS // recipe.max_seq_length + 1, first.rows.num_rows)
        examples = first.rows.take(first.first_epoch, np.arange(num_rows))
        found = find_embeddings(
            examples.original_ids(), examples.offsets, is_special,
            width=config.model.embedding_size, seed=config.seed,
        )  # fmt: skip
        embeddings = tensor_of_main(found, prepared.device)
    return FirstWeights(bias, embeddings)
