"""A thousand hostile files: no traceback, no crash, no hang, no memory over the budget.

Each command runs in a process of its own, forked from one that has imported everything, so that a
thousand of them take minutes. What went wrong is written down, and its files are kept to look at.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from benchmarks.hostile_inputs import Case, Stage, flip, make_case, sentences
from benchmarks.measure import print_table, write_result

LONGEST_S = 60.0
"""Of processor time; who computes nothing may take five times as long by the clock."""
OWN_BYTES = 900 << 20
"""What the programs themselves, with torch, Numba and two workers, may take beside the budget."""


@dataclass(frozen=True)
class Outcome:
    """What became of one command."""

    kind: str
    verdict: str  # refused, done, traceback, crash, hang, memory
    seconds: float
    peak_bytes: int
    last_line: str


def run(case: Case, folder: Path) -> Outcome:
    """Run a command in a forked process and say how it ended."""
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(case, folder)
    peak, status = 0, None
    while status is None:
        peak = max(peak, _anonymous_bytes(pid))
        finished, code, usage = os.wait4(pid, os.WNOHANG)
        if finished:
            status, peak = code, max(peak, usage.ru_maxrss * 1024)
        elif time.monotonic() - start > LONGEST_S and _is_hanging(pid, start):
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            seconds = time.monotonic() - start
            return Outcome(case.kind, "hang", seconds, peak, _last_line(folder))
        else:
            time.sleep(0.02)
    seconds = time.monotonic() - start
    return Outcome(
        case.kind, _verdict(case, status, peak, folder), seconds, peak, _last_line(folder)
    )


def _verdict(case: Case, status: int, peak: int, folder: Path) -> str:
    errors = (folder / "stderr").read_text(errors="replace")
    if os.WIFSIGNALED(status) or "Segmentation fault" in errors or "was killed" in errors:
        return "crash"
    if "Traceback (most recent call last)" in errors or "panicked at" in errors:
        return "traceback"
    if peak > case.budget_bytes + OWN_BYTES:
        return "memory"
    return "done" if os.WEXITSTATUS(status) == 0 else "refused"


def _become(case: Case, folder: Path) -> None:
    """Be the command, in the child: it writes into the folder and ends the process."""
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # whatever the parent's are
    code = 1
    try:
        _program(case.program).main(list(case.arguments), prog_name=case.program)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _program(name: str) -> click.Group:
    """Return the Click group of a program."""
    group: click.Group = importlib.import_module(f"lmcli.{name}").main
    return group


def _anonymous_bytes(leader: int) -> int:
    """Return the memory of a process and its descendants, without files that are mapped."""
    total = 0
    for pid in _descendants(leader):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:  # it has just ended
            continue
        line = next((line for line in status.splitlines() if line.startswith("RssAnon")), None)
        total += int(line.split()[1]) * 1024 if line else 0
    return total


def _is_hanging(leader: int, start: float) -> bool:
    """Whether a process and its descendants have had their time, on a machine that may be busy."""
    if time.monotonic() - start > 5 * LONGEST_S:
        return True
    ticks = 0
    for pid in _descendants(leader):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks += sum(map(int, fields[11:15]))  # its own and its ended children's
    return ticks / os.sysconf("SC_CLK_TCK") > LONGEST_S


def _descendants(leader: int) -> list[int]:
    found = [leader]
    for pid in found:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:  # it has just ended
            continue
        found += [int(child) for child in children]
    return found


def _last_line(folder: Path) -> str:
    lines = (folder / "stderr").read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def prepare(folder: Path) -> Stage:
    """Make, with the commands themselves, the sound things that the cases stand on."""
    rng = random.Random(0)
    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": " ".join(sentences(rng, 6))}) + "\n" for _ in range(300))
    )
    task = folder / "task.tsv"
    rows = [f"{text}\t{rng.choice(['good', 'bad'])}" for text in sentences(rng, 40)]
    task.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    names = ("tokenizer", "tokens", "shards", "run", "classifier", "exported")
    stage = Stage(**{name: folder / name for name in names})
    tiny = ["--set", "model.num_hidden_layers=1", "--set", "model.hidden_size=16",
            "--set", "model.num_attention_heads=2", "--device", "cpu"]  # fmt: skip
    for program, arguments in (
        ("lmdata", ["tokenize", str(corpus), "--set", "validation_ratio=0.1"]),
        ("lmdata", ["mask", "tokens", "--output", "shards", "--max-seq-length", "64"]),
        ("lmmodel", ["train", "shards", "--output", "run", "--num-steps", "2", *tiny]),
        ("lmmodel", ["finetune", "run", "--task", "sequence-classification", "--train", str(task),
                     "--validation", str(task), "--output", "classifier", "--seeds", "1",
                     "--num-epochs", "1", "--device", "cpu"]),
        ("lmmodel", ["export", "run", "exported"]),
    ):  # fmt: skip
        code = f"from lmcli.{program} import main; main({arguments!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return stage


def damages(stage: Stage, number: int, folder: Path) -> list[Outcome]:
    """Flip one bit anywhere in a store or in shards; verify and use must both refuse it."""
    outcomes = []
    for seed in range(number):
        rng, place = random.Random(seed), _empty(folder / f"damage-{seed}")
        source = rng.choice([stage.tokens, stage.shards])
        copy = place / source.name
        shutil.copytree(source, copy)
        flip(rng, rng.choice([*sorted(copy.rglob("*.arrow")), copy / "manifest.json"]))
        use = ("lmdata", ("mask", str(copy), "--num-workers", "1", "--output", str(place / "out")))
        if source == stage.shards:
            use = ("lmmodel", ("train", str(copy), "--num-epochs", "1", "--output",
                               str(place / "out"), "--set", "model.hidden_size=16", "--device",
                               "cpu", "--set", "model.num_attention_heads=2"))  # fmt: skip
        for kind, (program, arguments) in (
            ("verify", ("lmdata", ("verify", str(copy)))),
            ("use", use),
        ):
            outcome = run(Case(f"damage, {kind}", program, arguments, 2 << 30), place)
            outcomes.append(outcome)
        if all(outcome.verdict == "refused" for outcome in outcomes[-2:]):
            shutil.rmtree(place)
    return outcomes


def main(arguments: list[str]) -> None:
    """Make the cases, run them, print a table and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks hostile", description=__doc__)
    parser.add_argument("--num", type=int, default=1000, help="hostile inputs")
    parser.add_argument("--num-damages", type=int, default=184, help="single bits flipped")
    parser.add_argument("--seed", type=int, default=0, help="of the first input")
    parser.add_argument(
        "--folder", type=Path, help="keep outcomes and what went wrong here, and go on from them"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.mkdir(parents=True, exist_ok=True)
    stage = prepare(_empty(folder / "stage"))
    for program in ("lmdata", "lmmodel"):
        _program(program)
    for module in ("lmdata.views", "lmmodel.trainer", "lmmodel.finetuner", "lmmodel.importing"):
        importlib.import_module(module)

    record = folder / "outcomes.jsonl"
    lines = map(json.loads, record.read_text().splitlines() if record.exists() else [])
    known = {seed: Outcome(**outcome) for seed, outcome in lines}
    outcomes: list[tuple[int, Outcome]] = []
    for seed in range(options.seed, options.seed + options.num):
        outcome = known.get(seed) or _try_case(seed, stage, folder)
        outcomes.append((seed, outcome))
        if seed not in known:
            with record.open("a") as file:
                file.write(json.dumps([seed, asdict(outcome)]) + "\n")
    found = damages(stage, options.num_damages, folder)
    report(outcomes, found, options.seed)


def _try_case(seed: int, stage: Stage, folder: Path) -> Outcome:
    place = _empty(folder / str(seed))
    outcome = run(make_case(seed, stage, place), place)
    if outcome.verdict in {"done", "refused"}:
        shutil.rmtree(place)
    else:
        print(f"{seed}: {outcome}", flush=True)
    return outcome


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def report(outcomes: list[tuple[int, Outcome]], found: list[Outcome], seed: int) -> None:
    """Print a line a kind and write the result."""
    rows = []
    for kind in sorted({outcome.kind for _, outcome in outcomes}):
        own = [outcome for _, outcome in outcomes if outcome.kind == kind]
        verdicts = collections.Counter(outcome.verdict for outcome in own)
        names = ("done", "refused", "traceback", "crash", "hang", "memory")
        rows.append({"kind": kind, "cases": len(own), **{name: verdicts[name] for name in names},
                     "longest s": max(outcome.seconds for outcome in own),
                     "peak MiB": max(outcome.peak_bytes for outcome in own) >> 20})  # fmt: skip
    for kind in sorted({outcome.kind for outcome in found}):
        own = [outcome for outcome in found if outcome.kind == kind]
        verdicts = collections.Counter(outcome.verdict for outcome in own)
        rows.append({"kind": kind, "cases": len(own), **verdicts})
    if rows:
        print_table(rows)
    bad = [
        (seed, outcome) for seed, outcome in outcomes if outcome.verdict not in {"done", "refused"}
    ]
    wrong = [{"seed": seed, **asdict(outcome)} for seed, outcome in bad]
    write_result("hostile", {"first_seed": seed, "rows": rows, "wrong": wrong})
