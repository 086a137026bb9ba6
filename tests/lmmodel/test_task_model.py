"""Heads of tasks: the same logits, losses and gradients as the stock classes of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lmmodel.batch import IGNORED, Batch, make_batch
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_weights import to_their_weights
from lmmodel.handover.written import to_their_config
from lmmodel.model import make_model
from lmmodel.tasks.known import TASKS as KNOWN
from lmmodel.tasks.model import TaskModel, adopt_weights, make_task_model

FAMILIES = ["bert", "modern", "gpt2", "roberta", "albert", "electra", "distilbert", "xlnet"]
TASKS = ["sequence-classification", "regression", "token-classification", "question-answering"]
NUM_LABELS = {"regression": 1, "question-answering": 2}
KIND = {
    "sequence-classification": "SequenceClassification", "regression": "SequenceClassification",
    "token-classification": "TokenClassification", "question-answering": "QuestionAnswering",
}  # fmt: skip
PREFIX = {
    "bert": "Bert", "modern": "ModernBert", "gpt2": "GPT2", "roberta": "Roberta",
    "albert": "Albert", "electra": "Electra", "distilbert": "DistilBert",
    "xlnet": "XLNet",
}  # fmt: skip
LENGTHS = torch.tensor([5, 11, 2])
PAD = 0


def tiny_config(family: str, **changes) -> ModelConfig:
    own = {
        "modern": {"local_window": 10, "global_every": 2},
        "electra": {"embedding_size": 11},
        "albert": {"embedding_size": 11, "num_hidden_groups": 2},
    }.get(family, {})
    settings = {
        "vocab_size": 17, "hidden_size": 42, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 29, "max_position_embeddings": 37, "initializer_range": 0.2,
    }  # fmt: skip
    return ModelConfig(family=family, **(settings | own | changes))


def tiny_model(family: str, task: str, **changes) -> TaskModel:
    num_labels = NUM_LABELS.get(task, 7)
    model = make_task_model(tiny_config(family, **changes), KNOWN[task], num_labels, seed=2)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(generator=generator), alpha=0.1)
    return model


def tiny_batch() -> Batch:
    total = int(LENGTHS.sum())
    ids = torch.arange(total) * 5 % 16 + 1  # never PAD
    return make_batch(ids, LENGTHS, token_type_ids=(torch.arange(total) % 3 == 0).int())


def make_labels(task: str) -> Tensor:
    if task == "regression":
        return torch.tensor([0.5, -1.0, 3.0])
    if task == "question-answering":
        return torch.tensor([[1, 4], [7, 10], [0, 0]])
    if task == "token-classification":
        labels = torch.arange(int(LENGTHS.sum())) % 7
        return labels.where(torch.arange(len(labels)) % 4 != 0, IGNORED)
    return torch.tensor([6, 0, 3])


def their_head(name: str, family: str, task: str) -> str:
    """Return what the stock class calls a weight of our head."""
    part, kind = name.removeprefix("head.").split(".")
    if part == "classifier":
        part = "qa_outputs" if task == "question-answering" and family != "modern" else part
        if "Sequence" in KIND[task]:
            part = {
                "gpt2": "score",
                "roberta": "classifier.out_proj",
                "electra": "classifier.out_proj",
                "xlnet": "logits_proj",
            }.get(family, part)
    else:
        pooler = {
            "bert": "bert.pooler.dense", "albert": "albert.pooler", "distilbert": "pre_classifier",
            "xlnet": "sequence_summary.summary",
        }  # fmt: skip
        part = {"pooler": pooler.get(family, "classifier.dense"), "dense": "head.dense",
                "norm": "head.norm"}[part]  # fmt: skip
    return f"{part}.{kind}"


def to_stock(state: dict[str, Tensor], model: TaskModel) -> dict[str, Tensor]:
    """Return weights, or their gradients, under the names of the stock class."""
    family, task = model.config.family, model.task.name
    trunk = {name.removeprefix("backbone."): w for name, w in state.items() if "backbone" in name}
    theirs = {  # but those of the vocabulary
        name: weight
        for name, weight in to_their_weights(trunk, model.config, pad_id=PAD).items()
        if not name.startswith(
            (
                "cls.",
                "head.",
                "decoder.",
                "lm_head.",
                "predictions.",
                "generator_",
                "vocab_",
                "lm_loss.",
            )
        )
    }
    heads = {name: w for name, w in state.items() if name.startswith("head.")}
    return theirs | {their_head(name, family, task): weight for name, weight in heads.items()}


def stock_model(model: TaskModel):
    transformers = pytest.importorskip("transformers")
    family, task = model.config.family, model.task.name
    names = [f"label {index}" for index in range(model.num_outputs)]
    settings = to_their_config(model.config, {"pad": PAD}, model.task, names)
    model_type = settings.pop("model_type")
    settings |= {"num_labels": model.num_outputs, "pad_token_id": PAD}
    config = transformers.AutoConfig.for_model(model_type, **settings)
    if task == "regression":
        config.problem_type = "regression"
    kind = KIND[task]
    if family == "xlnet" and task == "question-answering":
        kind = "QuestionAnsweringSimple"
    theirs = getattr(transformers, f"{PREFIX[family]}For{kind}")(config)
    missing, unexpected = theirs.load_state_dict(to_stock(model.state_dict(), model), strict=False)
    assert not unexpected
    assert not missing
    return theirs.eval()


def padded(values: Tensor, fill: int) -> Tensor:
    parts = torch.split(values, LENGTHS.tolist())
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)


def stock_output(theirs, task: str, family: str, batch: Batch, labels: Tensor):
    inputs = {
        "input_ids": padded(batch.input_ids, PAD),
        "attention_mask": padded(torch.ones_like(batch.input_ids), 0),
    }
    if family in ("bert", "albert", "electra", "xlnet"):
        inputs["token_type_ids"] = padded(batch.token_type_ids.long(), 0)
    if task == "question-answering":
        inputs |= {"start_positions": labels[:, 0], "end_positions": labels[:, 1]}
    else:
        is_tokens = task == "token-classification"
        inputs["labels"] = padded(labels, IGNORED) if is_tokens else labels
    return theirs(**inputs)


def stock_logits(output, task: str, batch: Batch) -> Tensor:
    if task == "question-answering":
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        logits = output.logits
    if KIND[task] == "SequenceClassification":
        return logits
    return torch.cat([row[:length] for row, length in zip(logits, LENGTHS.tolist(), strict=True)])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_and_every_gradient_are_those_of_the_stock_class(family, task) -> None:
    model, batch, labels = tiny_model(family, task).eval(), tiny_batch(), make_labels(task)
    theirs = stock_model(model)
    logits = model(batch)
    loss = KNOWN[task].sum_loss(logits, labels, batch) / KNOWN[task].count_labels(labels)
    loss.backward()
    output = stock_output(theirs, task, family, batch, labels)
    expected_loss = output.loss
    expected = stock_logits(output, task, batch)
    if task == "question-answering":  # stock softmaxes over padding too, which batches here lack
        expected_loss = unpadded_answer_loss(expected, labels, batch)
    expected_loss.backward()
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    ours = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad
        for name, weight in model.named_parameters()
    }
    gradients = to_stock(ours, model)
    for name, parameter in theirs.named_parameters():
        if family == "roberta" and "token_type" in name:
            continue  # what all positions learn together, which ours has not apart
        if parameter.grad is None and "mask_emb" in name:
            continue  # no query asks here
        difference = (gradients[name] - parameter.grad).norm()
        bound = 1e-3 * parameter.grad.norm() + 2e-6  # some biases have none but for rounding
        assert difference < bound, (name, float(difference), float(bound))


def unpadded_answer_loss(logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
    """One question at a time, as the stock class sees it."""
    losses = [
        torch.nn.functional.cross_entropy(row.T, label)
        for row, label in zip(torch.split(logits, LENGTHS.tolist()), labels, strict=True)
    ]
    return torch.stack(losses).mean()


def test_a_sequence_in_a_batch_has_the_logits_that_it_has_alone() -> None:
    batch = tiny_batch()
    for family in FAMILIES:
        model = tiny_model(family, "sentence-pair").eval()
        together = model(batch)
        alone = make_batch(
            batch.input_ids[5:16], LENGTHS[1:2], token_type_ids=batch.token_type_ids[5:16]
        )
        torch.testing.assert_close(together[1:2], model(alone), atol=1e-5, rtol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    states = [
        make_task_model(tiny_config("bert"), KNOWN["sentence-pair"], 3, seed=seed).state_dict()
        for seed in (4, 4, 5)
    ]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())
    assert not torch.equal(states[0]["head.classifier.weight"], states[2]["head.classifier.weight"])


@pytest.mark.parametrize(
    ("family", "has_nsp"),
    [("bert", True), ("bert", False), ("modern", False), ("albert", True), ("roberta", False)],
)
def test_adopted_weights_are_the_pretrained_ones_and_the_classifier_is_fresh(
    family, has_nsp
) -> None:
    pretrained = make_model(tiny_config(family, has_nsp_head=has_nsp), seed=11)
    model = make_task_model(tiny_config(family), KNOWN["sequence-classification"], 5, seed=3)
    fresh = {name: weight.clone() for name, weight in model.state_dict().items()}
    adopt_weights(model, pretrained)
    batch = tiny_batch()
    torch.testing.assert_close(model.backbone.eval()(batch), pretrained.eval()(batch))
    state = model.state_dict()
    assert torch.equal(state["head.classifier.weight"], fresh["head.classifier.weight"])
    if family == "modern":
        assert torch.equal(state["head.dense.weight"], pretrained.head.dense.weight)
    elif has_nsp:
        assert torch.equal(state["head.pooler.weight"], pretrained.nsp_head.pooler.weight)
    else:
        assert torch.equal(state["head.pooler.weight"], fresh["head.pooler.weight"])


def test_a_head_for_sentence_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="has_nsp_head must be False"):
        make_task_model(tiny_config("bert", has_nsp_head=True), KNOWN["regression"], 1, seed=0)


def test_the_vocabulary_head_is_not_trained() -> None:
    model = tiny_model("bert", "token-classification")
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert still == {name for name, _ in model.named_parameters() if "backbone.head." in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_computes_in_float32_whatever_the_backbone_does(family) -> None:
    model = tiny_model(family, "regression").eval()
    expected = model(tiny_batch())
    model.backbone.compute_dtype = torch.bfloat16
    logits = model(tiny_batch())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=0.15, rtol=0.1)
    assert not torch.equal(logits, logits.bfloat16().float())
