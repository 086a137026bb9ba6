"""The report on runs as a page: what `ModelReport` holds, laid out; nothing is counted here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from lmdata.charts import Curves, Series
from lmdata.page import (
    Bar,
    Bars,
    Block,
    Fact,
    Facts,
    Group,
    Heat,
    Note,
    Page,
    Passage,
    Passages,
    Row,
    Section,
    Span,
    Table,
)
from lmmodel.report import ModelReport, RunReport
from lmmodel.reporting.history import GuessedPlace, History, Points
from lmmodel.reporting.tuned import Answers, Confusion, TunedReport
from lmmodel.saving.metrics import MAIN_LOSS

_TITLES = {
    "loss": "loss (nats)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_s": "tokens a second",
    "mfu": "model FLOPs utilisation",
    "memory_bytes": "memory (bytes, the most so far)",
    "nats_per_byte": "nats a byte",
    "top5_accuracy": "right one in the top 5",
}
_SHARES = ("accuracy", "top5_accuracy", "pair_accuracy")
_SPEED = ("lr", "grad_norm", "tokens_per_s", "mfu", "memory_bytes")

Curved = Callable[[History], Mapping[str, Points]]


def model_page(report: ModelReport) -> Page:
    """Return the page that shows a report."""
    runs = report.runs
    tuned = (section for run in runs if run.tuned for section in _tuned(run, run.tuned))
    sections = [
        _overview(runs), _diagnosis(runs), _losses(runs), _held_out(runs), _speed(runs),
        _guesses(runs), _pairs(runs), *tuned, _differences(report),
        *(_made_with(run) for run in runs), _notices(runs),
    ]  # fmt: skip
    title = ", ".join(run.name for run in runs)
    kinds = dict.fromkeys(run.kind for run in runs)
    return Page(title=title, subtitle=" and ".join(kinds), sections=sections)


def _title(name: str) -> str:
    return _TITLES.get(name, name.replace("_", " "))


# ---- Of all runs together


def _overview(runs: Sequence[RunReport]) -> Section:
    columns = ("run", "what", "model", "learns", "parameters", "steps", "of", "tokens", "seconds",
               "tokens/s", "memory (bytes)", "held-out loss")  # fmt: skip
    rows: list[Row] = []
    for run in runs:
        history = run.history or _NOTHING
        loss = history.held_out.get("loss")
        rows.append((
            run.name, run.kind, run.model, run.objective, run.num_parameters,
            history.last_step or None, run.num_steps, history.num_tokens or None,
            history.logged_s or None, history.tokens_per_s, history.memory_bytes,
            loss[-1][1] if loss else None,
        ))  # fmt: skip
    forms = ("",) * 8 + (",.1f", ",.0f", ",", ".4f")
    unfinished = [run.name for run in runs if run.is_finished is False]
    notes: list[Block] = []
    if unfinished:
        notes.append(Note(f"Not finished yet, or stopped: {', '.join(unfinished)}."))
    table = Table(title="Runs", columns=columns, rows=rows, forms=forms)
    return Section(title="Overview", blocks=[*notes, table])


def _diagnosis(runs: Sequence[RunReport]) -> Section:
    rows: list[Row] = []
    for run in runs:
        if run.diagnosis is not None:
            found = [(one.name, one.message, one.advice) for one in run.diagnosis.findings]
            rows += [(run.name, *one) for one in found or [("nothing is wrong", "", "")]]
            rows += [(run.name, "not looked at", note, "") for note in run.diagnosis.notes]
    table = Table(title="What diagnose finds", columns=("run", "what", "seen", "what to do"),
                  rows=rows)  # fmt: skip
    return Section(title="Diagnosis", blocks=[table])


_NOTHING = History(
    last_step=0, num_tokens=0, logged_s=0.0, tokens_per_s=None, memory_bytes=None, curves={},
    smoothed={}, held_out={}, gates={}, time=(), guesses=(), notices=(),
)  # fmt: skip


def _histories(runs: Sequence[RunReport]) -> Iterator[tuple[int, str, History]]:
    """Yield the place, the name and the history of each run that has one."""
    for place, run in enumerate(runs):
        if run.history is not None:
            yield place, run.name, run.history


def _overlaid(
    runs: Sequence[RunReport], take: Curved, kind: Literal["line", "dots"] = "line"
) -> list[Curves]:
    """Return a chart of each figure, every run's curve over the steps in it."""
    found = [(place, run, take(history)) for place, run, history in _histories(runs)]
    names = dict.fromkeys(name for _, _, curves in found for name in curves)
    return [
        Curves(
            title=_title(name).capitalize(), x_label="step", y_label=_title(name),
            series=[
                Series(name=run, points=curves.get(name, ()), colour=place, kind=kind)
                for place, run, curves in found
            ],
        )
        for name in names
    ]  # fmt: skip


def _losses(runs: Sequence[RunReport]) -> Section:
    blocks: list[Block] = [_main_loss(runs), *_overlaid(runs, _other_losses)]
    gates: list[Row] = []
    for _, run, history in _histories(runs):
        loss = history.held_out.get("loss")
        for gate, level in history.gates.items():
            gain = level - loss[-1][1] if loss else None
            gates.append((run, gate, level, loss[-1][1] if loss else None, gain and gain > 0))
    columns = ("run", "guessing by", "nats a token", "held-out loss", "the model is better")
    table = Table(title="Levels of counting alone", columns=columns, rows=gates,
                  forms=("", "", ".4f", ".4f"))  # fmt: skip
    note = Note(
        "Training loss is smoothed over a fiftieth of the run. Dashed levels are what counting "
        "alone reaches on the held-out tokens: a model that is worth its time is below them."
    )
    return Section(title="Loss", blocks=[note, Group(blocks), table])


def _other_losses(history: History) -> Mapping[str, Points]:
    """Return the smoothed losses of the terms beside the main one."""
    terms = [name for name in history.smoothed if name not in ("loss", MAIN_LOSS)]
    return {name: history.smoothed[name] for name in terms[1:]}


def _main_loss(runs: Sequence[RunReport]) -> Curves:
    """Return training and held-out loss of the main term; of one run, the levels too."""
    series: list[Series] = []
    for place, run, history in _histories(runs):
        prefix = f"{run}: " if len(runs) > 1 else ""
        faint = history.curves.get(MAIN_LOSS, ()) if len(runs) == 1 else ()
        series += [
            Series(name=f"{prefix}training", points=faint, kind="faint", colour=place),
            Series(name=f"{prefix}training", points=history.smoothed.get(MAIN_LOSS, ()),
                   colour=place),
            Series(name=f"{prefix}held out", points=history.held_out.get("loss", ()),
                   kind="dots", colour=place + (1 if len(runs) == 1 else 0)),
        ]  # fmt: skip
        if len(runs) == 1:
            series += [
                Series(name=gate, points=[(0, level)], kind="level", colour=number + 2)
                for number, (gate, level) in enumerate(history.gates.items())
            ]
    return Curves(title="Loss of the predicted tokens", x_label="step",
                  y_label="nats a token", series=series)  # fmt: skip


def _held_out(runs: Sequence[RunReport]) -> Section:
    charts = _overlaid(runs, lambda own: own.held_out, "dots")
    tables: list[Block] = []
    forms = {**dict.fromkeys(_SHARES, ".2%"), "perplexity": ",.1f"}
    for _, run, history in _histories(runs):
        own = list(history.held_out)
        steps = sorted({step for points in history.held_out.values() for step, _ in points})
        rows: list[Row] = [
            (int(step), *(dict(history.held_out[name]).get(step) for name in own)) for step in steps
        ]
        tables.append(
            Table(title=f"{run}, each evaluation", columns=("step", *map(_title, own)), rows=rows,
                  forms=("", *(forms.get(name, ".4f") for name in own)))
        )  # fmt: skip
    return Section(title="Held-out figures", blocks=[Group(charts), *tables])


def _speed(runs: Sequence[RunReport]) -> Section:
    charts = _overlaid(runs, lambda own: {n: own.curves[n] for n in _SPEED if n in own.curves})
    tables = [
        Bars(
            title=f"{run}: where the time went",
            columns=("part", "share", "seconds"),
            bars=[
                Bar(name=part.name, value=part.ratio, notes=(part.seconds,))
                for part in history.time
            ],
            form=".1%",
            note_forms=(",.1f",),
            largest=1.0,
        )
        for _, run, history in _histories(runs)
    ]
    return Section(title="Learning rate, gradients, speed", blocks=[Group(charts), Group(tables)])


def _guesses(runs: Sequence[RunReport]) -> Section:
    blocks: list[Block] = [
        Note(
            "The same held-out places at every evaluation: a masked model sees the text with the "
            "marked word hidden, a causal one what comes before it. Rank 1 is the likeliest piece."
        )
    ]
    for _, run, history in _histories(runs):
        if not history.guesses:
            continue
        blocks.append(Passages(title=run, passages=_places(history)))
        for number, one in enumerate(history.guesses, 1):
            blocks.append(_moments(f"{run}, place {number}: {one.right}", one))
        charted = [
            Series(name=f"{number}: {one.right}", colour=number - 1, kind="dots",
                   points=[(moment.step, moment.probability) for moment in one.moments])
            for number, one in enumerate(history.guesses, 1)
        ]  # fmt: skip
        chart = Curves(title=f"{run}: probability of the right piece", x_label="step",
                       y_label="probability", series=charted, y_low=0)  # fmt: skip
        blocks.append(Group([chart]))
    return Section(title="What it fills in over time", blocks=blocks)


def _places(history: History) -> list[Passage]:
    return [
        Passage(
            title=f"Place {number}",
            lines=((Span(f"{one.before} "), Span(one.right, "strong"), Span(f" {one.after}")),),
        )
        for number, one in enumerate(history.guesses, 1)
    ]


def _moments(title: str, one: GuessedPlace) -> Table:
    rows: list[Row] = [
        (moment.step, moment.probability, moment.rank, *_likeliest(moment.pieces))
        for moment in one.moments
    ]
    columns = ("step", "probability of the right one", "its rank", "likeliest", "then")
    return Table(title=title, columns=columns, rows=rows, forms=("", ".2%"))


def _likeliest(pieces: Sequence[str]) -> tuple[str, str]:
    return (pieces[0] if pieces else "", ", ".join(pieces[1:]))


def _pairs(runs: Sequence[RunReport]) -> Section:
    blocks: list[Block] = []
    for run in runs:
        if run.pairs is None:
            continue
        bars = [
            Bar(name=one.name, value=one.accuracy, low=one.accuracy_low, high=one.accuracy_high,
                notes=(one.accuracy_low, one.accuracy_high, one.num_pairs, one.num_ties))
            for one in (run.pairs.total, *sorted(run.pairs.paradigms, key=lambda p: p.accuracy))
        ]  # fmt: skip
        blocks.append(
            Bars(title=f"{run.name}: {run.pairs.path}, by {run.pairs.score}", bars=bars,
                 columns=("paradigm", "right", "from", "to", "pairs", "ties"), form=".1%",
                 note_forms=(".1%", ".1%"), largest=1.0, line=0.5)
        )  # fmt: skip
    note = Note("How often the acceptable sentence is the likelier one, with 95 % intervals; a tie "
                "is not right. The mark stands at chance.")  # fmt: skip
    return Section(title="Minimal pairs", blocks=[note, *blocks])


def _differences(report: ModelReport) -> Section:
    columns = ("what", *(run.name for run in report.runs))
    rows: list[Row] = [(one.name, *one.values) for one in report.differences]
    table = Table(title="Settings, machines and data", columns=columns, rows=rows)
    return Section(title="What differs between the runs", blocks=[table])


def _made_with(run: RunReport) -> Section:
    facts: list[Fact] = [(name, value) for name, value in run.environment.items()]
    origin: list[Fact] = [(name, value) for name, value in run.origin.items()]
    rows: list[Row] = [(name, value) for name, value in run.settings.items()]
    table = Table(title="Settings", columns=("setting", "value"), rows=rows)
    title = f"{run.name}: settings and machine"
    return Section(title=title, blocks=[Facts(facts=facts), Facts(facts=origin), table])


def _notices(runs: Sequence[RunReport]) -> Section:
    rows: list[Row] = [
        (run, notice.step, notice.message)
        for _, run, history in _histories(runs)
        for notice in history.notices[-50:]
    ]
    table = Table(title="Notices", columns=("run", "step", "message"), rows=rows)
    return Section(title="What training said", blocks=[table])


# ---- Of a fine-tuned model


def _tuned(run: RunReport, tuned: TunedReport) -> Iterator[Section]:
    names = list(tuned.mean)
    rows: list[Row] = [
        (f"seed {seed.seed}", seed.best_epoch, seed.num_epochs, *map(seed.scores.get, names))
        for seed in tuned.seeds
    ]
    for label, figures in (("mean", tuned.mean), ("spread", tuned.spread), ("guess", tuned.guess)):
        rows.append((label, None, None, *map(figures.get, names)))
    facts: list[Fact] = [
        ("task", tuned.task), ("decides", tuned.best_score), ("seed kept", tuned.kept_seed),
    ]  # fmt: skip
    table = Table(title="Scores at the best evaluation of each seed", rows=rows,
                  columns=("", "best epoch", "epochs", *map(_title, names)),
                  forms=("", ".2f", ".2f", *[".4f"] * len(names)))  # fmt: skip
    yield Section(title=f"{run.name}: scores",
                  blocks=[Facts(facts=facts), table, Group(_seed_curves(tuned))])  # fmt: skip
    if tuned.answers is None:
        note = Note(f"No answers to look at: {tuned.why_no_answers}.")
        facts = [("answers", "none")]
        yield Section(title=f"{run.name}: answers", blocks=[note, Facts(facts=facts)])
    else:
        yield Section(title=f"{run.name}: answers", blocks=list(_answers(tuned.answers)))


def _seed_curves(tuned: TunedReport) -> list[Block]:
    """Return the loss and the score that decides, a curve a seed."""
    charts: list[Block] = []
    for wanted in dict.fromkeys(("loss", tuned.best_score)):
        own = [
            (name.removesuffix(f": {wanted}"), points)
            for name, points in tuned.curves.items()
            if name.endswith(f": {wanted}")
        ]
        series = [
            Series(name=name, points=points, kind="dots", colour=number)
            for number, (name, points) in enumerate(own)
        ]
        charts.append(Curves(title=_title(wanted).capitalize(), x_label="step",
                             y_label=_title(wanted), series=series))  # fmt: skip
    return charts


def _answers(answers: Answers) -> Iterator[Block]:
    yield Facts(facts=[("file", answers.path), ("rows", answers.num_rows)])
    found = answers.calibration
    if found is not None:
        yield Facts(facts=[
            ("calibration error", found.error, ".2%"), ("mean confidence", found.confidence, ".2%"),
            ("accuracy", found.accuracy, ".2%"),
        ])  # fmt: skip
        points = [(part.confidence, part.accuracy) for part in found.bins]
        ideal = Series(name="as sure as right", points=[(0.0, 0.0), (1.0, 1.0)], colour=7)
        own = Series(name="this model", points=points, kind="dots")
        yield Group([Curves(title="How often it is right, by how sure it is", x_label="confidence",
                            y_label="accuracy", series=[ideal, own], y_low=0)])  # fmt: skip
        rows: list[Row] = [
            (part.low, part.high, part.count, part.confidence, part.accuracy, part.accuracy_low,
             part.accuracy_high)
            for part in found.bins
        ]  # fmt: skip
        columns = ("confidence from", "to", "answers", "mean confidence", "accuracy", "from", "to")
        yield Table(title="Calibration, with 95 % intervals", columns=columns, rows=rows,
                    forms=(".0%", ".0%", "", ".1%", ".1%", ".1%", ".1%"))  # fmt: skip
    if answers.counts:
        yield Heat(title="What is taken for what", corner="right ↓ taken for →",
                   names=answers.labels, counts=answers.counts)  # fmt: skip
    for one in answers.confusions:
        yield Passages(title=f"{one.right} taken for {one.taken_for}", passages=_texts(one))


def _texts(confusion: Confusion) -> list[Passage]:
    return [
        Passage(
            title=f"{confusion.right} → {confusion.taken_for}",
            facts=(("times", confusion.count), ("sure of it", one.probability, ".1%"),
                   ("of the right one", one.right_probability, ".1%")),
            lines=((Span(one.text),), *([(Span(one.pair),)] if one.pair else [])),
        )
        for one in confusion.examples
    ]  # fmt: skip
