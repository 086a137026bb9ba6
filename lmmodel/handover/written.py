"""Settings as a folder for transformers says them: pure functions over the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmmodel.errors import HuggingFaceError
from lmmodel.families import ModelConfig
from lmmodel.handover.stock_families import stock_class, stock_family
from lmmodel.handover.stock_weights import rows_before_positions

if TYPE_CHECKING:
    from lmmodel.tasks.task import AnyTask


def architecture(
    config: ModelConfig, task: AnyTask | None = None, objective: str | None = None
) -> str:
    """Return the transformers class that opens an export of such a model, trained for an objective.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> architecture(ModelConfig(has_nsp_head=True))
        'BertForPreTraining'
        >>> architecture(ModelConfig(), TASKS["regression"])
        'BertForSequenceClassification'
    """
    family = stock_family(config.family)
    if task is not None:
        stock = stock_class(task)
        return f"{family.class_prefix}For{stock.suffixes.get(config.family, stock.suffix)}"
    if objective is not None and objective in family.of_objectives:
        return family.of_objectives[objective][0]
    return (config.has_nsp_head and family.paired) or family.pretrained


def to_their_config(
    config: ModelConfig,
    special_ids: Mapping[str, int | None],
    task: AnyTask | None = None,
    labels: Sequence[str] = (),
    objective: str | None = None,
) -> dict[str, Any]:
    """Return the content of their `config.json`.

    Args:
        config: ours
        special_ids: ids of cls, sep, mask, pad, unk, bos, eos where the tokenizer has them
        task: of a fine-tuned model
        labels: its classes or tags by number
        objective: of a run
    """
    family = stock_family(config.family)
    _check_expressible(config)
    theirs = their_settings(config, special_ids.get("pad"))
    theirs |= {**family.fixed, **family.written}
    theirs |= {their: getattr(config, our) for their, our in family.repeated.items()}
    theirs |= _layers_and_rotations(config) if config.traits.has_windows else {}
    theirs |= dict.fromkeys(family.dropouts, config.dropout)
    return {
        "architectures": [architecture(config, task, objective)],
        "model_type": family.model_type,
        **theirs,
        **token_ids(config, special_ids),
        **_start_id(config, special_ids),
        **({} if task is None else task_settings(config, task, labels)),
        "dtype": "float32",
    }


def their_settings(config: ModelConfig, pad_id: int | None) -> dict[str, Any]:
    """Return the settings that the family's record lists, under their names.

    Raises:
        HuggingFaceError: positions follow the padding id, and there is none

    Example:
        >>> their_settings(ModelConfig(family="roberta"), pad_id=1)["max_position_embeddings"]
        514
    """
    names = stock_family(config.family).settings
    theirs = {their: getattr(config, our) for our, (their, _) in names.items()}
    theirs[names["max_position_embeddings"][0]] += rows_before_positions(config, pad_id)
    return theirs


def _check_expressible(config: ModelConfig) -> None:
    """Refuse what their class of the family has no setting for.

    Raises:
        HuggingFaceError: embeddings of another size than the layers, or shared layers
    """
    stock = stock_family(config.family)
    usual = {
        "embedding_size": config.hidden_size, "num_hidden_groups": config.num_hidden_layers,
    }  # fmt: skip
    for name, value in usual.items():
        if name not in stock.settings and getattr(config, name) != value:
            raise HuggingFaceError(
                f"{name}={getattr(config, name)} can't be exported: {stock.pretrained} knows only "
                f"{value} here; train with model.family=albert, whose class has both"
            )


def _start_id(config: ModelConfig, special_ids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return what an encoder-decoder's targets begin with."""
    if not config.traits.is_encoder_decoder:
        return {}
    return {"decoder_start_token_id": special_ids.get(config.traits.decoder_start)}


def task_settings(config: ModelConfig, task: AnyTask, labels: Sequence[str]) -> dict[str, Any]:
    """Return the settings of their head for a task.

    Example:
        >>> from lmmodel.tasks.known import TASKS
        >>> task_settings(ModelConfig(), TASKS["sentence-pair"], ["no", "yes"])["id2label"]
        {'0': 'no', '1': 'yes'}
    """
    if task.writes:  # what it says is said by the pretrained class
        return {}
    stock, names = stock_class(task), task.output_names(labels)
    settings: dict[str, Any] = {
        stock_family(config.family).classifier_dropout: config.dropout
        if stock.has_dropout(config.family)
        else 0.0,
        **stock_family(config.family).of_heads,
    }
    if not names:
        return settings
    settings["id2label"] = {str(index): name for index, name in enumerate(names)}
    settings["label2id"] = {name: index for index, name in enumerate(names)}
    if stock.problem_type is not None:
        settings["problem_type"] = stock.problem_type
    return settings


def _layers_and_rotations(config: ModelConfig) -> dict[str, Any]:
    """Return which layers are local and their rotary bases, as transformers 4 and 5 spell it."""
    kinds = [
        "full_attention" if config.window(i) is None else "sliding_attention"
        for i in range(config.num_hidden_layers)
    ]
    thetas = {
        "full_attention": config.global_rope_theta,
        "sliding_attention": config.local_rope_theta,
    }
    return {
        "global_attn_every_n_layers": config.global_every,
        "global_rope_theta": config.global_rope_theta,
        "local_rope_theta": config.local_rope_theta,
        "layer_types": kinds,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()
        },
    }


def token_ids(config: ModelConfig, special_ids: Mapping[str, int | None]) -> dict[str, int | None]:
    """Return the `*_token_id` settings that their class of the family has.

    Example:
        >>> token_ids(ModelConfig(family="gpt2"), {"pad": None, "bos": 1, "eos": 2, "cls": 3})
        {'pad_token_id': None, 'bos_token_id': 1, 'eos_token_id': 2}
    """
    purposes = stock_family(config.family).token_ids
    return {f"{name}_token_id": special_ids.get(name) for name in purposes}
