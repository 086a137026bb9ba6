"""Training steps of ours and of stock classes in a plain loop: the same shapes, rows and numbers.

Rows are full, so nobody pads. Ours is one optimizer step as `lmmodel train` does it, the loader
included; theirs forward, backward and `torch.optim.AdamW` under bf16 autocast.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lmmodel.config import load_train_config
from lmmodel.data import open_data
from lmmodel.device import Processes
from lmmodel.objectives import ObjectiveConfig
from lmmodel.objectives.replaced import generator_config
from lmmodel.training.learner import Learner
from lmmodel.training.plan import make_loader, resolve_config
from references import made_up

LENGTH, VOCAB_SIZE, MASK_SHARE = 128, 8192, 0.15
Step = Callable[[], None]


def our_step(num_rows: int, *settings: str) -> tuple[Step, Any]:
    """Return a step of ours on made-up text, and the shape of the model."""
    folder = Path(tempfile.mkdtemp()) / "tokens"
    made_up.write_made_up_store(folder, num_tokens=200_000, vocab_size=VOCAB_SIZE)
    config = load_train_config(None, [
        "model.size=mini", f"recipe.max_seq_length={LENGTH}", f"batch.size={num_rows}",
        f"model.max_position_embeddings={LENGTH}", "precision=bf16", "device=cpu",
        "optimizer.name=adamw", "budget.num_steps=1000", "evaluation.num_examples=0", *settings,
    ])  # fmt: skip
    data, alone = open_data(folder), Processes()
    resolved = resolve_config(config, data, torch.device("cpu"), alone)
    loader = make_loader(resolved, data, 1000, alone)
    learner, numbers = Learner(resolved, loader, torch.device("cpu")), iter(range(1000))

    def step() -> None:
        batch = loader.batch(next(numbers))
        learner.learn(batch, learner.add_up(batch).num_labels)

    return step, resolved.model


def stock_step(models: list[Any], loss: Callable[[], torch.Tensor]) -> Step:
    """Return a step of stock models by a loss."""
    parameters = {id(p): p for model in models for p in model.parameters()}
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            total = loss()
        total.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimizer.step()

    return step


def draw_rows(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids int64 (B, L), and which are chosen, bool."""
    ids = torch.randint(10, VOCAB_SIZE, (num_rows, LENGTH))
    return ids, torch.rand(num_rows, LENGTH) < MASK_SHARE


def electra(num_rows: int) -> tuple[Step, Step]:
    """Return steps of replaced token detection, embeddings shared."""
    import transformers

    ours, shape = our_step(num_rows, "objective.name=rtd", "model.family=electra")
    small = generator_config(ObjectiveConfig(name="rtd"), shape)

    def config(model: Any) -> Any:
        return transformers.ElectraConfig(
            vocab_size=VOCAB_SIZE, embedding_size=model.embedding_size,
            hidden_size=model.hidden_size, num_hidden_layers=model.num_hidden_layers,
            num_attention_heads=model.num_attention_heads,
            intermediate_size=model.intermediate_size, max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip

    generator = transformers.ElectraForMaskedLM(config(small)).train()
    judge = transformers.ElectraForPreTraining(config(shape)).train()
    generator.electra.embeddings = judge.electra.embeddings

    def loss() -> torch.Tensor:
        ids, is_chosen = draw_rows(num_rows)
        logits = generator(input_ids=ids.masked_fill(is_chosen, 4)).logits[is_chosen]
        drawn = torch.multinomial(logits.detach().float().softmax(-1), 1)[:, 0]
        changed = ids.masked_scatter(is_chosen, drawn)
        labels = (changed != ids).float()
        guessed = F.cross_entropy(logits.float(), ids[is_chosen])
        found = judge(input_ids=changed).logits
        return guessed + 50 * F.binary_cross_entropy_with_logits(found.float(), labels)

    return ours, stock_step([generator, judge], loss)


def albert(num_rows: int) -> tuple[Step, Step]:
    """Return steps of masked tokens and the order of sentences."""
    import transformers

    ours, shape = our_step(num_rows, "objective.name=mlm+sop", "model.family=albert")
    model = transformers.AlbertForPreTraining(
        transformers.AlbertConfig(
            vocab_size=VOCAB_SIZE,
            embedding_size=shape.embedding_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).train()

    def loss() -> torch.Tensor:
        ids, is_chosen = draw_rows(num_rows)
        output = model(
            input_ids=ids.masked_fill(is_chosen, 4), labels=ids.masked_fill(~is_chosen, -100),
            sentence_order_label=torch.randint(0, 2, (num_rows,)),
        )  # fmt: skip
        return output.loss

    return ours, stock_step([model], loss)


STEPS: dict[str, Callable[[int], tuple[Step, Step]]] = {"rtd": electra, "albert": albert}
