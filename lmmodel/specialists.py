"""Fine-tuned models as experts: each text is classified by the one that knows its domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lmdata.dataset import open_store
from lmdata.files import output_errors, writing_folder
from lmdata.tokenizer import load_tokenizer, save_tokenizer
from lmmodel.errors import FitError
from lmmodel.experts import ExpertsConfig, ExpertsResult, first_record, taught, teach
from lmmodel.finetuning.folder import FineTunedRecord, read_fine_tuned_record
from lmmodel.routing.alike import PARENT, find_domains
from lmmodel.routing.domains import Labelled, read_documents, write_ngrams
from lmmodel.routing.folder import EXPERTS, TABLE_NAME, write_experts_record
from lmmodel.routing.judging import PREFIXES
from lmmodel.routing.picture import draw_table
from lmmodel.routing.team import Experts, open_evidence, open_members
from lmmodel.texts import TextIds, join_texts
from lmmodel.trained import tokenizer_difference


def make_specialists(
    models: Mapping[str, Path], parent: Path, stores: Sequence[Labelled], output: Path,
    config: ExpertsConfig, *, overwrite: bool = False,
) -> ExpertsResult:  # fmt: skip
    """Learn a router over models fine-tuned on one task, and write it into a folder.

    There is no table: how good they are is for a task file to say (`lmmodel evaluate`).

    Args:
        models: folders of fine-tuned models by their domains
        parent: the one that answers where no other does
        stores: token stores with documents of every domain
        output: folder to write; it appears whole or not at all
        config: with the n-gram router, the only one that asks no pretrained model
        overwrite: replace the experts that are there

    Raises:
        FitError: of different tasks, labels or tokenizers, or another router
        RunError, CheckpointError: a model is missing or damaged
        OutputError: `output` can't be written
    """
    if config.router != "ngram" or config.top_k != 1:
        raise FitError(
            f"fine-tuned experts are told apart by n-grams and answer alone: leave "
            f"--router {config.router} and --top-k {config.top_k} out"
        )
    with writing_folder(output, EXPERTS, overwrite=overwrite) as folder:
        check_one_task({**models, PARENT: parent})
        domains = find_domains(stores, config.split, models)
        record = first_record(models, parent, stores, domains, config)
        with output_errors(output):
            save_tokenizer(load_tokenizer(parent), folder)
            write_ngrams(folder, stores, domains)
        members = open_members([*models.values(), parent], config.device)
        team = Experts(folder, record, members, open_evidence(folder, record, members))
        texts, domain = read_labelled(stores, domains, config)
        router, accuracy = teach(team, texts, domain)
        result = ExpertsResult(
            output=output, parent=str(parent), dense=None, experts=tuple(models),
            owners={d: d if d in models else PARENT for d in domains}, bits={}, routed={},
            mixture={}, accuracy=accuracy, router=router, picture=output / TABLE_NAME,
            num_texts=dict(zip(domains, (np.bincount(domain) // 2).tolist(), strict=True)),
        )  # fmt: skip
        with output_errors(output):
            draw_table(result, folder / TABLE_NAME)
            write_experts_record(folder, taught(record, result))
    return result


def check_one_task(models: Mapping[str, Path]) -> None:
    """Check that fine-tuned models read the same ids and answer the same question.

    Raises:
        FitError: two differ
    """
    (_, path), *others = models.items()
    record, tokenizer = read_fine_tuned_record(path), load_tokenizer(path)
    for _, other in others:
        if difference := tokenizer_difference(tokenizer, load_tokenizer(other)):
            raise FitError(f"{other} has another tokenizer than {path}: {difference}")
        found = read_fine_tuned_record(other)
        if _question(found) != _question(record):
            raise FitError(
                f"{other} answers another question ({found.task}: {', '.join(found.labels)}) than "
                f"{path} ({record.task}: {', '.join(record.labels)})"
            )


def _question(record: FineTunedRecord) -> tuple[str, tuple[str, ...], bool]:
    return record.task, record.labels, record.has_pairs


def read_labelled(
    stores: Sequence[Labelled], domains: Sequence[str], config: ExpertsConfig
) -> tuple[TextIds, np.ndarray]:
    """Return the first tokens of documents of each store, and their domains: int64 (N,)."""
    parts, numbers = [], []
    for labelled in stores:
        store = open_store(labelled.path, config.split)
        num = min(config.num_examples, store.num_documents)
        rows = np.linspace(0, store.num_documents - 1, num).astype(np.int64)
        parts.append(read_documents(store, rows, max(PREFIXES)))
        numbers += [domains.index(name) for name in labelled.domains(config.split)[rows].tolist()]
    return join_texts(parts), np.array(numbers)
