"""Replaced token detection: a small generator fills in masks, and the model finds what it changed.

ELECTRA (Clark et al., "Pre-training text encoders as discriminators rather than generators", ICLR
2020): 15 % of the tokens are chosen, 85 % of those masked. The generator is trained on the chosen
ones; a token drawn from what it predicts takes the place of each, without a gradient, and the model
says of every token whether it was replaced. A draw that is the original counts as original. The
losses have two denominators, chosen tokens and all tokens, and weights 1 and 50.

Embeddings are shared. Disentangled (He et al., "DeBERTaV3", 2021) the model adds a table of its own
to the generator's, which its gradient does not reach.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmdata.batch import ExampleBatch
from lmdata.rng import draw, stream_key
from lmmodel.batch import IGNORED, Batch
from lmmodel.cores import look_up, summed_cross_entropy
from lmmodel.families import ModelConfig
from lmmodel.inference import chunk_rows
from lmmodel.model import Linear, Transformer, activate, forward_flops, vocabulary_products
from lmmodel.objectives.objective import ObjectiveConfig, Part, TermScores
from lmmodel.objectives.terms import TokenTerm, losses_and_ranks
from lmmodel.packing import pack_examples

REPLACED = "replaced"
"""The labels of all tokens, and the head that guesses them."""
GENERATOR = "generator"
TABLE = "tokens"
"""The generator's own table of tokens, where embeddings are disentangled."""
_BLOCK = 128  # pieces whose chances are summed before any is looked at


class Generator(Transformer):
    """Layers and a vocabulary head over the embeddings of the model that it trains."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.embeddings


class ReplacedHead(nn.Module):
    """Hidden states to one logit each: above 0 the token was replaced."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.classifier = Linear(config.hidden_size, 1)
        self.config = config

    def forward(self, hidden: Tensor) -> Tensor:
        """Return floats (R,) from hidden states (R, D)."""
        logits: Tensor = self.classifier(activate(self.dense(hidden), self.config))
        return logits[:, 0]


def generator_config(config: ObjectiveConfig, model: ModelConfig) -> ModelConfig:
    """Return the shape of the generator: as deep as the model, and thinner.

    Example:
        >>> model = ModelConfig(family="electra", size="mini", vocab_size=64)
        >>> small = generator_config(ObjectiveConfig(name="rtd"), model)
        >>> small.hidden_size, small.num_attention_heads, small.intermediate_size
        (64, 1, 256)
    """
    num_heads = max(1, round(model.num_attention_heads * config.generator_ratio))
    size = num_heads * model.head_size
    return dataclasses.replace(
        model, hidden_size=size, num_attention_heads=num_heads, has_nsp_head=False,
        intermediate_size=max(1, model.intermediate_size * size // model.hidden_size),
    )  # fmt: skip


def make_modules(config: ObjectiveConfig, model: ModelConfig) -> Mapping[str, nn.Module]:
    """Return the generator and the head, and the generator's table where it has one."""
    modules: dict[str, nn.Module] = {
        GENERATOR: Generator(generator_config(config, model)), REPLACED: ReplacedHead(model),
    }  # fmt: skip
    if config.is_disentangled:
        modules[TABLE] = nn.Embedding(model.vocab_size, model.embedding_size)
    return modules


def table_of(model: Transformer) -> Tensor:
    """Return the generator's embeddings of tokens: the model's, or its own (V, E)."""
    has_own = TABLE in model.extras
    module = model.extras[TABLE] if has_own else model.embeddings.tokens
    assert isinstance(module, nn.Embedding)
    return module.weight


@torch.no_grad()
def begin(model: Transformer, fresh: Container[str]) -> None:
    """Make the model's table what it adds to the generator's: nothing, where that one is fresh."""
    if TABLE in model.extras:
        own, table = model.embeddings.tokens.weight, table_of(model)
        if f"extras.{TABLE}.weight" in fresh:
            table.copy_(own)
        own -= table


def finish(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights by name with the model's table whole, for all that reads it by itself."""
    table, own = state.get(f"extras.{TABLE}.weight"), "embeddings.tokens.weight"
    return state if table is None else {**state, own: state[own] + table}


def make_parts(config: ObjectiveConfig) -> tuple[Part, ...]:
    """Return the one part: what the generator learns, then what the model does."""

    def flops(model: ModelConfig, num_tokens: int, num_pairs: int, num_labels: int) -> int:
        """Return the operations of the generator but for its head."""
        return forward_flops(
            generator_config(config, model), num_tokens=num_tokens, num_pairs=num_pairs,
            num_rows=num_labels, head_products=0,
        )  # fmt: skip

    terms = (GeneratorTerm("generator", config=config), ReplacedTerm(config.replaced_weight))
    return (Part(terms=terms, pack=ask_all, read=read, other_flops=flops),)


def ask_all(examples: ExampleBatch, max_seqlen: int | None) -> Batch:
    """Return a batch in which every token will be asked whether it was replaced."""
    batch = pack_examples(examples, max_seqlen)
    num_tokens = batch.num_tokens
    labels = torch.zeros(num_tokens, dtype=torch.int64)
    return batch.with_labels(REPLACED, torch.arange(num_tokens), labels)


def read(model: Transformer, part: Part, batch: Batch) -> tuple[Batch, tuple[Tensor, ...]]:
    """Return the batch with what was drawn from the generator, its logits, and hidden states."""
    generator = model.extras[GENERATOR]
    assert isinstance(generator, Generator)
    generator.compute_dtype, generator.kernel = model.compute_dtype, model.kernel
    table = table_of(model)
    rows = batch.masked_positions
    embedded = model.embeddings(batch, look_up(table, batch.input_ids))
    hidden = generator.encode(embedded, batch, rows=rows)
    logits = generator.head(hidden, table)
    drawn = sample(logits.detach(), uniforms(batch, rows, part.seed))
    changed = fill(batch, drawn)
    asked = batch.stream.labels[REPLACED].rows
    if TABLE not in model.extras or not model.training:  # then the model's table is whole
        return changed, (logits, model(changed, rows=asked))
    tokens = look_up(model.embeddings.tokens.weight, changed.input_ids)
    tokens = tokens + look_up(table, changed.input_ids).detach()
    embedded = model.embeddings(changed, tokens)
    return changed, (logits, model.encode(embedded, changed, rows=asked))


def uniforms(batch: Batch, rows: Tensor, seed: int) -> Tensor:
    """Return a number in (0, 1) for each row, float64 (P,), by its token's address alone.

    An address is the seed, the epoch, the row in it, and the place there: neither packing nor
    micro-batch, process or device changes what is drawn for a token.
    """
    sequence = torch.searchsorted(batch.cu_seqlens.long(), rows, right=True) - 1
    epoch, row, first = batch.addresses[sequence.clamp(max=batch.num_sequences - 1)].unbind(1)
    place = first + batch.position_ids[rows].long()
    words = draw(stream_key(seed, "replace"), row.clamp(min=0), place.clamp(min=0),
                 part=epoch.clamp(min=0))  # fmt: skip
    points: Tensor = (words.double() + 0.5) / 2**32
    return points


def sample(logits: Tensor, points: Tensor) -> Tensor:
    """Return an id for each row, drawn from its softmax: int64 (P,).

    The id is where the running sum of the probabilities passes the point: first of blocks of
    pieces, then of the pieces of one block. One number a row decides, where Gumbel noise takes
    one for each piece.

    Args:
        logits: floats (P, V)
        points: float64 (P,) in (0, 1)

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, -99.0]]).expand(3, 3)
        >>> sample(logits, torch.tensor([0.2, 0.7, 0.999], dtype=torch.float64)).tolist()
        [0, 1, 1]
    """
    num_rows = chunk_rows(logits.shape[1], logits.device)
    parts = zip(torch.split(logits, num_rows), torch.split(points, num_rows), strict=True)
    return torch.cat([_sample(*part) for part in parts])


def _sample(logits: Tensor, points: Tensor) -> Tensor:
    num_pieces = logits.shape[1]
    num_blocks = -(-num_pieces // _BLOCK)
    chances = logits.float()
    chances = (chances - chances.amax(1, keepdim=True)).exp_()
    chances = F.pad(chances, (0, num_blocks * _BLOCK - num_pieces))
    chances = chances.view(len(logits), num_blocks, _BLOCK)
    sums = chances.sum(2)
    ends = sums.double().cumsum(1)
    points = points * ends[:, -1]
    block = torch.searchsorted(ends, points[:, None]).clamp(max=num_blocks - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0)
    own = torch.take_along_dim(chances, block[:, :, None], 1)[:, 0].double().cumsum(1)
    scale = own[:, -1:] / sums.gather(1, block)  # the same sum, as it was rounded above
    piece = torch.searchsorted(own, (points[:, None] - before) * scale).clamp(max=_BLOCK - 1)
    return (block * _BLOCK + piece)[:, 0].clamp(max=num_pieces - 1)  # a sum may end a bit below


def fill(batch: Batch, drawn: Tensor) -> Batch:
    """Return the batch with ids int64 (P,) in its chosen places, and what is to be said of each.

    Rows whose label is ignored stay as they are, though several may name the same place.
    """
    rows, labels, ids = batch.masked_positions, batch.masked_labels, batch.input_ids
    is_label = labels != IGNORED
    changes = torch.where(is_label, drawn - ids[rows].long(), 0).to(ids.dtype)
    is_new = (is_label & (drawn != labels)).long()
    asked = batch.stream.labels[REPLACED]
    is_new = torch.zeros(len(ids), dtype=torch.int64, device=ids.device).index_add(0, rows, is_new)
    values = torch.where(asked.values == IGNORED, IGNORED, is_new[asked.rows])
    changed = batch.with_ids(ids.index_add(0, rows, changes))
    return changed.with_labels(REPLACED, asked.rows, values)


@dataclass(frozen=True)
class GeneratorTerm(TokenTerm):
    """Chosen tokens, guessed by the generator; it gets logits where others get hidden states."""

    needs: str = "masked tokens, and {source} has none: mask it, or train with objective.name=clm"
    config: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`."""
        return summed_cross_entropy(hidden, batch.masked_labels)

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`: once to draw from, which the loss takes over."""
        return vocabulary_products(generator_config(self.config, config))

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`."""
        losses, ranks = losses_and_ranks(hidden.float(), batch.masked_labels)
        return {"labels": batch.masked_labels.cpu().numpy(), "losses": losses, "ranks": ranks}


@dataclass(frozen=True)
class ReplacedTerm:
    """Whether each token was replaced."""

    weight: float
    name: str = REPLACED
    needs: str = "texts, and {source} has none: build it from other text"

    def places(self, examples: ExampleBatch) -> np.ndarray:
        """As in `Term`."""
        return np.arange(len(examples.input_ids))

    def rows(self, batch: Batch) -> Tensor:
        """As in `Term`."""
        return batch.stream.labels[REPLACED].rows

    def loss(self, model: Transformer, hidden: Tensor, batch: Batch) -> Tensor:
        """As in `Term`."""
        labels, logits = batch.stream.labels[REPLACED].values, model.extras[REPLACED](hidden)
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), labels.clamp(min=0).float(), reduction="none"
        )
        return torch.where(labels == IGNORED, 0, losses).sum()

    def head_products(self, config: ModelConfig) -> int:
        """As in `Term`."""
        return config.hidden_size * config.hidden_size + config.hidden_size

    def score(self, model: Transformer, hidden: Tensor, batch: Batch) -> TermScores:
        """As in `Term`: losses in nats, what is right, and whether that was said."""
        labels, logits = batch.stream.labels[REPLACED].values, model.extras[REPLACED](hidden)
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), labels.float(), reduction="none"
        )
        return {
            "losses": losses.double().cpu().numpy(), "labels": labels.cpu().numpy() == 1,
            "hits": ((logits > 0) == (labels == 1)).cpu().numpy(),
        }  # fmt: skip

    def figures(self, scores: TermScores, vocabulary: object) -> dict[str, float]:
        """As in `Term`: the loss, and the accuracy on replaced and on original tokens."""
        labels, hits = scores["labels"], scores["hits"]
        found = {
            "replaced_loss": float(scores["losses"].mean()),
            "replaced_share": float(labels.mean()),
            "replaced_accuracy": float(hits[labels].mean()) if labels.any() else None,
            "original_accuracy": float(hits[~labels].mean()) if not labels.all() else None,
        }
        return {name: value for name, value in found.items() if value is not None}


def log_originality(model: Transformer, hidden: Tensor) -> Tensor:
    """Return how surely each token is an original: natural logarithms, float32 (R,)."""
    return F.logsigmoid(-model.extras[REPLACED](hidden).float())


def generator_of(model: Transformer) -> Mapping[str, Transformer]:
    """Return the generator as a model of its own, with the embeddings that it learned."""
    generator = model.extras[GENERATOR]
    assert isinstance(generator, Generator)
    alone = Transformer(generator.config).eval()
    state = {f"embeddings.{name}": own for name, own in model.embeddings.state_dict().items()}
    if TABLE in model.extras:
        state["embeddings.tokens.weight"] = table_of(model).detach()
    alone.load_state_dict({**state, **generator.state_dict()})
    return {GENERATOR: alone}
