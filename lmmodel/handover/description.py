"""What a model card tells of a run or a fine-tuned model: all of it read from their records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmdata.errors import LmdataError
from lmdata.recipes import Recipe
from lmdata.schema import Manifest, read_manifest, read_settings
from lmdata.tokenizer import Tokenizer
from lmdata.xxh3 import hash_file
from lmmodel.families import ModelConfig
from lmmodel.finetuning.folder import FineTuned
from lmmodel.handover.card import Card, answering_example, pipeline_example, writing_example
from lmmodel.handover.stock_families import stock_class, stock_family
from lmmodel.handover.written import architecture
from lmmodel.objectives import OBJECTIVES
from lmmodel.record import WEIGHTS_NAME
from lmmodel.saving.metrics import METRICS_NAME, read_metrics
from lmmodel.saving.run import RunRecord, read_record
from lmmodel.trained import Run

# More rows than this make no page that anyone reads.
MAX_LISTED = 12
WHAT_IS_TRAINED = {
    "full": "all weights", "ffn": "the feed-forward networks and the head", "head": "the head only",
    "bias": "biases and the head", "lora": "LoRA pairs beside the matrices, and the head",
}  # fmt: skip
FIGURE_NAMES = {
    "loss": "held-out loss, nats a token",
    "nats_per_byte": "held-out loss, nats a byte",
    "unigram_loss": "loss of guessing by frequency, nats a token",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "top5_accuracy": "accuracy of the first five",
    "causal_loss": "loss of next tokens, nats",
    "pair_loss": "loss of sentence pairs, nats",
    "pair_accuracy": "accuracy of sentence pairs",
    "num_examples": "held-out examples",
    "num_labels": "held-out tokens predicted",
}
FOR_VECTORS = "the model is there to embed"
NO_LICENSE = "No license is stated here: that of the data decides. Add one before you publish."


def describe_run(run: Run, name: str, difference: float | None) -> Card:
    """Return the card of a pretrained model.

    Args:
        run: what is exported
        name: of the folder
        difference: of logits to transformers; None where it is not installed
    """
    config = run.model.config
    class_name = architecture(config, objective=run.record.config.objective.name)
    tag, prompt = _what_for(run)
    return Card(
        title=f"{name}: {class_name}, {config.num_hidden_layers} x {config.hidden_size}",
        class_name=class_name,
        pipeline_tag=tag,
        tags=[config.family, "pretraining"],
        summary=f"A language model of {config.num_parameters:,} parameters, trained by "
        f"{_objective(run.record)}. {_opens(class_name)}",
        example=writing_example(name)
        if config.traits.is_encoder_decoder
        else pipeline_example(tag, name, prompt),
        tables={
            "Figures": held_out_figures(run.path),
            "Data": data_table(run.record, run.tokenizer),
            "Recipe": recipe_table(_recipe(run.record)),
            "Training": training_table(run),
            "Model": model_table(config),
            "Proof": _proof(difference),
        },
        notes=[*_pretraining_notes(run), NO_LICENSE],
    )


def _what_for(run: Run) -> tuple[str, str]:
    """Return the pipeline that serves a pretrained model, and a text to try it on."""
    if run.model.config.traits.is_encoder_decoder:
        return "text2text-generation", ""
    if run.model.config.is_causal:
        return "text-generation", "The capital of"
    if run.model.config.traits.is_two_stream or not run.objective.can_fill_masks:
        return "feature-extraction", "The capital of France is Paris."
    mask = run.tokenizer.special_tokens.get("mask", "[MASK]")
    return "fill-mask", f"The capital of France is {mask}."


def describe_fine_tuned(tuned: FineTuned, name: str, difference: float | None) -> Card:
    """Return the card of a fine-tuned model; arguments as for `describe_run`."""
    record, config = tuned.record, tuned.model.config
    stock = stock_class(tuned.task)
    class_name, tag = architecture(config, tuned.task), stock.pipeline_tag
    return Card(
        title=f"{name}: {class_name}, {config.num_hidden_layers} x {config.hidden_size}",
        class_name=class_name,
        pipeline_tag=tag,
        tags=[config.family, record.task],
        summary=f"A model of {_num_weights(tuned):,} parameters, fine-tuned for {record.task}. "
        f"{_opens(class_name)}",
        example=writing_example(name)
        if tuned.task.writes
        else answering_example(name)
        if not tuned.task.output_names(record.labels)
        else pipeline_example(tag, name, "A text to try it on."),
        tables={
            "Scores on the validation file": score_table(record.figures),
            "Labels": _labels(record.labels),
            "Data": {"": ("rows", "examples", "file (xxh3)"), **_task_files(record.data)},
            "Fine-tuning": _fine_tuning_table(tuned),
            "Data of the pretraining": _pretraining_data(tuned),
            "Model": model_table(config),
            "Proof": _proof(difference),
        },
        notes=[*_fine_tuning_notes(tuned), NO_LICENSE],
    )


def _opens(class_name: str) -> str:
    return f"It opens with the stock `transformers.{class_name}`, without remote code."


def _num_weights(tuned: FineTuned) -> int:
    """Return how many weights the stock class has: all but the unused vocabulary head."""
    named = tuned.model.named_parameters()
    if tuned.task.writes:
        return sum(weight.numel() for _, weight in named)
    return sum(w.numel() for name, w in named if not name.startswith("backbone.head."))


def _pretraining_data(tuned: FineTuned) -> dict[str, Any]:
    """Return what the run was trained on that the model began with, if it is still there."""
    origin = tuned.record.origin
    run, weights = Path(origin["run"]), Path(origin["run"]) / WEIGHTS_NAME
    is_there = weights.is_file() and hash_file(weights) == origin["weights_xxh3"]
    if tuned.record.config.from_scratch or not is_there:
        return {}
    return data_table(read_record(run), tuned.tokenizer)


def _objective(record: RunRecord) -> str:
    config = record.config.objective
    objective = OBJECTIVES[config.name]
    pair_view = objective.pair_view
    skills = [
        "filling in masked tokens" if objective.can_fill_masks else None,
        "predicting the next token" if objective.can_generate else None,
        f"judging sentence pairs ({pair_view})" if pair_view is not None else None,
    ]
    return " and ".join(skill for skill in skills if skill) or f"the objective {config.name}"


def held_out_figures(run_path: Path) -> dict[str, Any]:
    """Return the last held-out figures in a run's metrics, empty where there are none."""
    prefix = "validation_"
    entries = [entry for entry in read_metrics(run_path / METRICS_NAME) if f"{prefix}loss" in entry]
    last = entries[-1] if entries else {}
    named = {
        FIGURE_NAMES.get(name.removeprefix(prefix), name.removeprefix(prefix)): value
        for name, value in last.items()
        if name.startswith(prefix)
    }
    return ({"after step": last["step"]} | named) if last else {}


def data_table(record: RunRecord, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what a run was trained on; of data that is gone, its hash."""
    own = {
        "dataset manifest (xxh3)": f"`{record.data_hash}`" if record.data_hash else None,
        "tokenizer": f"{tokenizer.definition['model']['type']}, {tokenizer.vocab_size:,} pieces",
        "tokenizer (xxh3)": f"`{record.tokenizer_hash}`",
    }
    manifest = _find_manifest(record)
    return own if manifest is None else {**manifest_table(manifest), **own}


def _find_manifest(record: RunRecord) -> Manifest | None:
    """Return the manifest of the data that a run was trained on, if it is still there."""
    if not record.data_path:
        return None
    try:
        manifest = read_manifest(Path(record.data_path))
    except LmdataError:
        return None
    return manifest if manifest.hash == record.data_hash else None


def manifest_table(manifest: Manifest) -> dict[str, Any]:
    """Return what a dataset says of itself: its amounts, and its sources by folder."""
    kind = {"tokens": "documents", "examples": "examples"}[manifest.kind]
    table: dict[str, Any] = {
        f"{kind}, {split}": f"{manifest.num_rows(split):,}; "
        f"{sum(shard.tokens for shard in shards):,} tokens"
        for split, shards in manifest.splits.items()
        if shards
    }
    groups: dict[str, list[int]] = {}
    for source in manifest.sources:
        folder, _, rest = source.name.partition("/")
        amounts = groups.setdefault(f"{folder}/" if rest else folder, [0, 0])
        amounts[0] += 1
        amounts[1] += source.bytes
    table["sources"] = (
        f"{len(manifest.sources):,} files, {sum(one.bytes for one in manifest.sources):,} bytes"
    )
    for name, (num_files, num_bytes) in list(groups.items())[:MAX_LISTED]:
        files = "" if num_files == 1 and not name.endswith("/") else f"{num_files:,} files, "
        table[f"source `{name}`"] = f"{files}{num_bytes:,} bytes"
    if len(groups) > MAX_LISTED:
        table["other sources"] = f"{len(groups) - MAX_LISTED:,} files or folders"
    return {**table, "made with": manifest.created_with}


def _recipe(record: RunRecord) -> Recipe | None:
    """Return the recipe that a run saw examples by: its own, or that of frozen examples."""
    if record.config.recipe is not None or not record.num_steps:
        return record.config.recipe if record.num_steps else None
    manifest = _find_manifest(record)
    if manifest is None or manifest.kind != "examples":
        return None
    return read_settings(manifest).recipe


def recipe_table(recipe: Recipe | None) -> dict[str, Any]:
    """Return a recipe without what is not set.

    Example:
        >>> recipe_table(Recipe(view="single"))["view"]
        'single'
    """
    if recipe is None:
        return {}
    masks = ("mlm_probability", "max_predictions", "count", "coverage",
             "mask_proportion", "random_proportion", "keep_proportion")  # fmt: skip
    unused: tuple[str, ...] = masks if not recipe.is_masking and recipe.noise is None else ()
    unused = masks[4:] if recipe.corruption_traits.orders else unused
    values = {name: value for name, value in vars(recipe).items() if name not in unused}
    return {
        name.replace("_", " "): " to ".join(map(str, value))
        if isinstance(value, list | tuple)
        else value
        for name, value in values.items()
        if value is not None
    }


def training_table(run: Run) -> dict[str, Any]:
    """Return how a run was trained, or where it was imported from."""
    record, config = run.record, run.record.config
    origin = {"began with": _named_origin(record.origin)}
    if not record.num_steps:
        return origin
    entries = read_metrics(run.path / METRICS_NAME)
    seen = [entry["num_tokens"] for entry in entries if "num_tokens" in entry]
    return {
        "objective": config.objective.name,
        "steps": record.num_steps,
        "tokens": seen[-1] if seen else None,
        "examples a step": config.batch.size,
        "optimizer": config.optimizer.sentence,
        "schedule": f"{config.schedule.kind}, warm-up {config.schedule.warmup_ratio:g}",
        "averaging": None if config.averaging.kind == "none" else config.averaging.kind,
        "dropout": config.model.dropout,
        "precision": config.precision,
        "seed": config.seed,
        "device": record.environment["device"],
        "torch": record.environment["torch"],
        **origin,
    }


def _named_origin(origin: Mapping[str, Any] | None) -> str | None:
    """Return where first weights are from: a run, or the folder that was imported."""
    if origin is None:
        return None
    path = Path(origin.get("run") or origin["folder"])
    kind = f"{origin['architecture']} in " if "architecture" in origin else ""
    return f"{kind}`{path.name}`, weights `{origin['weights_xxh3']}`"


def model_table(config: ModelConfig) -> dict[str, Any]:
    """Return the shape of a model."""
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size",
             "vocab_size", "max_position_embeddings", "positions")  # fmt: skip
    table = {name.removeprefix("num_").replace("_", " "): getattr(config, name) for name in names}
    if config.traits.has_windows:
        table["attention"] = (
            f"all tokens in every {config.global_every}. layer from the first, else "
            f"{config.local_window // 2} to either side"
        )
    return {"family": config.family, **table}


def _proof(difference: float | None) -> dict[str, Any]:
    return {"largest difference of logits between lmmodel and transformers": difference}


def _pretraining_notes(run: Run) -> list[str]:
    config, record = run.model.config, run.record
    notes = ["Tokens are asked by `target_mapping`."] if config.traits.is_two_stream else []
    if config.has_nsp_head and stock_family(config.family).paired is None:
        notes.append("The head for sentence pairs is left out: the stock class has none.")
    has_class = record.config.objective.name in stock_family(config.family).of_objectives
    if (names := sorted(run.model.extras)) and not has_class:
        notes.append(f"Modules of the objective are left out: {', '.join(names)}.")
    if names and has_class:
        notes.append("The generator that it was trained with is in the folder generator/.")
    if names and not has_class and not run.objective.can_fill_masks:
        notes.append(f"Its vocabulary head was not trained: {FOR_VECTORS}, or to be fine-tuned.")
    if run.objective.makes_vectors:
        notes.append(f"Its vocabulary head was not trained with the rest: {FOR_VECTORS}.")
    if run.is_causal and not config.is_causal:
        notes.append(
            "It was trained on next tokens only and the stock class sees both sides: "
            "it is there to be fine-tuned, its vocabulary head guesses badly."
        )
    if fresh := (record.origin or {}).get("fresh") if record.is_imported else None:
        notes.append(f"Random, for the checkpoint had none: {', '.join(fresh)}.")
    if config.vocab_size > run.tokenizer.vocab_size:
        count = config.vocab_size - run.tokenizer.vocab_size
        notes.append(f"The last {count:,} ids stand for no piece.")
    return notes


def score_table(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores by name: of the kept weights, their mean and spread over the seeds, guessing.

    Example:
        >>> figures = {"kept_seed": 1, "mean": {"f1": 0.6}, "spread": {"f1": 0.1}, "guess": {},
        ...            "seeds": [{"seed": 0, "scores": {"f1": 0.5}},
        ...                      {"seed": 1, "scores": {"f1": 0.7}}]}
        >>> score_table(figures)
        {'': ('this model', 'mean of 2 seeds', 'spread'), 'f1': (0.7, 0.6, 0.1)}
    """
    seeds = figures["seeds"]
    kept = next(one["scores"] for one in seeds if one["seed"] == figures["kept_seed"])
    columns: dict[str, Mapping[str, float]] = {"this model": kept}
    if len(seeds) > 1:
        columns |= {f"mean of {len(seeds)} seeds": figures["mean"], "spread": figures["spread"]}
    if figures["guess"]:
        columns["most frequent label"] = figures["guess"]
    rows = {
        name.replace("_", " "): tuple(column.get(name, "") for column in columns.values())
        for name in kept
        if not name.endswith(("_low", "_high"))
    }
    if "accuracy_low" in kept:
        interval = f"{kept['accuracy_low']:.4g} to {kept['accuracy_high']:.4g}"
        rows["accuracy, 95 % interval"] = (interval,)
    return {"": tuple(columns), **rows}


def _labels(labels: tuple[str, ...]) -> dict[str, Any]:
    if len(labels) > 4 * MAX_LISTED:
        return {"number of labels": len(labels)}
    return {str(index): f"`{label}`" for index, label in enumerate(labels)}


def _task_files(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (part["num_rows"], part["num_examples"],
               f"`{Path(part['path']).name}` (`{part['xxh3']}`)")
        for name, part in data.items()
    }  # fmt: skip


def _fine_tuning_table(tuned: FineTuned) -> dict[str, Any]:
    record, config = tuned.record, tuned.record.config
    return {
        "began with": "random weights"
        if config.from_scratch
        else f"`{Path(record.origin['run']).name}`, weights `{record.origin['weights_xxh3']}`",
        "trained": WHAT_IS_TRAINED[config.trainable],
        "epochs at most": config.num_epochs,
        "examples a step": config.batch_size,
        "peak learning rate": config.lr,
        "dropout": config.dropout,
        "longest example": f"{record.max_seq_length} tokens",
        "chosen by": config.best_score,
        "tokenizer (xxh3)": f"`{record.tokenizer_hash}`",
        "torch": record.environment["torch"],
    }


def _fine_tuning_notes(tuned: FineTuned) -> list[str]:
    notes = [
        f"It was fine-tuned on at most {tuned.record.max_seq_length} tokens at a time; it takes "
        f"{tuned.model.config.max_position_embeddings}."
    ]
    if (note := stock_class(tuned.task).note) is not None:
        notes.append(note)
    return notes
