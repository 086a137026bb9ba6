"""What pretraining is worth: five tasks from a pretrained model and from random weights."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import zstandard

from benchmarks.measure import DATA, print_table, write_result
from lmdata.config import config_to_dict
from lmmodel.finetuner import FinetuneResult, finetune
from lmmodel.finetuning.data import FinetuneConfig
from lmmodel.saving.run import read_record
from lmmodel.tasks.task_files import TaskFormat

TASKS = DATA / "tasks"
# Every so many documents (UD) or articles (XQuAD) is held out: both have a training file only. Not
# the last tenth: UD's documents are sorted by genre, and the last genre would be in no training.
EVERY = 10
# Of SST-2's 67,349 training phrases, the first of these, and of UD's documents every fourth: labels
# are few where pretraining is worth it, and ten rows of two seeds take a quarter of an hour.
NUM_SST2_ROWS = 6_000
UD_EVERY = 4


@dataclass(frozen=True, kw_only=True)
class Study:
    """One task: its settings, and how its two files are made in a folder."""

    task: str
    settings: dict[str, Any]
    make_files: Callable[[Path], tuple[Path, Path]]
    inputs: str


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks finetune-study", description=__doc__
    )
    parser.add_argument("--run", type=Path, required=True, help="folder of a pretrained model")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=STUDIES, action="append", help="of the tasks; repeatable")
    parser.add_argument("--name", default="finetune", help="of the result's file")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name in options.only or STUDIES:
        for from_scratch in (False, True):
            rows.append(compare(name, options.run, options.seeds, from_scratch=from_scratch))
            print(json.dumps(rows[-1]), flush=True)
    print_table([shown(row) for row in rows])
    write_result(options.name, {"run": describe_run(options.run), "rows": rows})


def compare(name: str, run: Path, num_seeds: int, *, from_scratch: bool) -> dict[str, Any]:
    """Fine-tune on one task from one beginning and return its line."""
    study = STUDIES[name]
    config = FinetuneConfig(
        task=study.task, num_seeds=num_seeds, from_scratch=from_scratch, patience=None,
        **study.settings,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train, validation = study.make_files(folder)
        start_s = time.perf_counter()
        result = finetune(run, config, train, validation, folder / "result")
    return {
        "task": name,
        "begins_with": "random weights" if from_scratch else "pretrained",
        **figures(result),
        "settings": {name: plain(value) for name, value in study.settings.items()},
        "inputs": study.inputs,
        "seconds": round(time.perf_counter() - start_s, 1),
    }


def figures(result: FinetuneResult) -> dict[str, Any]:
    """Return what is kept of a fine-tuning."""
    return {
        "score": result.best_score,
        "mean": rounded(result.mean),
        "spread": rounded(result.spread),
        "guess": rounded(result.guess),
        "seeds": [rounded(seed.scores) | {"best_epoch": seed.best_epoch} for seed in result.seeds],
        "num_train": result.num_train,
        "num_validation": result.num_validation,
        "counts": result.counts,
    }


def plain(value: Any) -> Any:
    """Return a setting as JSON can hold it."""
    return config_to_dict(value) if is_dataclass(value) else value


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Return scores with four digits."""
    return {name: round(value, 4) for name, value in scores.items()}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a line that is printed, scores in percent."""
    score = row["score"]
    guess = row["guess"].get(score)
    return {
        "task": row["task"],
        "begins with": row["begins_with"],
        "score": score,
        "mean": 100 * row["mean"][score],
        "spread": 100 * row["spread"].get(score, 0.0),
        "guess": None if guess is None else 100 * guess,
        "examples": row["num_train"],
        "seconds": row["seconds"],
    }


def describe_run(path: Path) -> dict[str, Any]:
    """Return what the pretrained model is."""
    record = read_record(path)
    model, config = record.config.model, record.config
    return {
        "name": path.name,
        "shape": f"{model.family} {model.num_hidden_layers} x {model.hidden_size}",
        "objective": config.objective.name,
        "num_steps": record.num_steps,
        "examples_per_step": config.batch.size,
        "tokenizer_hash": record.tokenizer_hash,
        "data_hash": record.data_hash,
    }


def sst2_files(folder: Path) -> tuple[Path, Path]:
    lines = (TASKS / "sst2/train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    train = folder / "train.tsv"
    train.write_text("".join(lines[: NUM_SST2_ROWS + 1]), encoding="utf-8")
    return train, TASKS / "sst2/dev.tsv"


def cola_files(folder: Path) -> tuple[Path, Path]:
    return join(folder, [TASKS / "cola/train.tsv", TASKS / "cola/val.tsv"]), TASKS / "cola/dev.tsv"


def rte_files(folder: Path) -> tuple[Path, Path]:
    """RTE's val.tsv, the rest of the official training file, has no header of its own."""
    return join(folder, [TASKS / "rte/train.tsv", TASKS / "rte/val.tsv"]), TASKS / "rte/dev.tsv"


def join(folder: Path, paths: Sequence[Path]) -> Path:
    """Return a file with the lines of several."""
    train = folder / "train.tsv"
    texts = [path.read_text(encoding="utf-8").rstrip("\n") for path in paths]
    train.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return train


def ud_files(folder: Path) -> tuple[Path, Path]:
    packed = (TASKS / "ud-en-ewt/train.conllu.zst").read_bytes()
    text = zstandard.ZstdDecompressor().stream_reader(packed).read().decode("utf-8")
    mark = "# newdoc"
    documents = [mark + part for part in text.split(mark)[1::UD_EVERY]]
    return hold_out(folder, documents, ".conllu", "".join)


def xquad_files(folder: Path) -> tuple[Path, Path]:
    content = json.loads((TASKS / "xquad/xquad.en.json").read_text(encoding="utf-8"))
    articles = content["data"]
    return hold_out(folder, articles, ".json", lambda part: json.dumps({**content, "data": part}))


def hold_out(
    folder: Path, items: Sequence[Any], extension: str, write: Callable[[Any], str]
) -> tuple[Path, Path]:
    """Write every tenth item to one file, the others to another; return (others, tenth)."""
    train, validation = folder / f"train{extension}", folder / f"validation{extension}"
    held = set(range(EVERY - 1, len(items), EVERY))
    train.write_text(write([item for i, item in enumerate(items) if i not in held]), "utf-8")
    validation.write_text(write([items[i] for i in sorted(held)]), "utf-8")
    return train, validation


STUDIES: dict[str, Study] = {
    "sst2": Study(
        task="sequence-classification",
        settings={"num_epochs": 2},
        make_files=sst2_files,
        inputs=f"SST-2: first {NUM_SST2_ROWS} lines of train.tsv, all of dev.tsv",
    ),
    "cola": Study(
        task="sequence-classification",
        settings={"num_epochs": 2, "score": "matthews",
                  "columns": TaskFormat(text="3", label="1", has_header=False)},
        make_files=cola_files,
        inputs="CoLA: train.tsv + val.tsv, dev.tsv",
    ),
    "rte": Study(
        task="sentence-pair",
        settings={"num_epochs": 2},
        make_files=rte_files,
        inputs="RTE: train.tsv + val.tsv, dev.tsv",
    ),
    "ud-tags": Study(
        task="token-classification",
        settings={"num_epochs": 3},
        make_files=ud_files,
        inputs=f"UD English EWT train.conllu, universal tags: every {UD_EVERY}th document; every "
        f"{EVERY}th of them held out",
    ),
    "xquad": Study(
        task="question-answering",
        settings={"num_epochs": 1},
        make_files=xquad_files,
        inputs=f"XQuAD English: every {EVERY}th article held out",
    ),
}  # fmt: skip
