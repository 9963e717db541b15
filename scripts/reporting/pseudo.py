"""What pseudo labels are worth, cycle by cycle, and how many picks held nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.reporting import plots, words
from scripts.reporting.context import Context
from scripts.reporting.lines import Line
from scripts.reporting.matching import PseudoLabels, judge_pseudo_labels
from scripts.reporting.page import Absent, Figure, Part, Section, Table, Text
from scripts.reporting.runs import Run
from scripts.reporting.shared_seeds import SharedSeeds
from tsp_model.cycle import FEW_PSEUDO_IMAGES
from tsp_model.data import DataError
from tsp_model.predictions import read_predictions

Judged = dict[tuple[str, int, int], PseudoLabels]  # by line, seed and cycle
FURTHEST = "means over the seeds that have come furthest"


@dataclass(frozen=True)
class Column:
    """One number of a cycle.

    Attributes:
        read: it, from a run and a cycle; None where it makes no sense. form: how it is written.
        with_ssl: whether it exists with pseudo labels only.
    """

    title: str
    read: Callable[[Run, int], float | None]
    form: Callable[[float], str]
    with_ssl: bool = True


def pseudo(context: Context) -> Section:
    """Precision, recall, size and weight of the pseudo labels, and the share of picked images without an object."""
    grid = context.grid
    with_ssl = [line for line in grid.lines if line.settings.ssl]
    judged, missing = _judge(context, with_ssl)
    columns = _columns(judged) if with_ssl else [EMPTY_PICKS]
    parts: list[Part] = []
    if context.train is None and with_ssl:
        parts.append(Absent(f"recall of pseudo labels; {context.without_data}"))
    elif missing:
        parts.append(Absent(f"recall of some pseudo labels; {missing}"))
    parts += [Text(sentence) for sentence in _few(context)]
    parts += _figure(context, columns)
    if with_ssl:
        parts.append(_last_cycle(context, with_ssl, columns))
    parts.append(_every_cycle(context, grid.lines, columns))
    return Section("Pseudo labels and empty picks, cycle by cycle", parts)


def _few(context: Context) -> list[str]:
    """Who had next to no pseudo labels, so that SSL could not matter."""
    few = []
    for line in context.grid.lines:
        means = [_mean(line.furthest.values(), cycle, OF_POOL) for cycle in range(2, line.cycles + 1)]
        shares = [mean for mean in means if mean is not None and line.settings.ssl]
        if shares and max(shares) < FEW_PSEUDO_IMAGES:
            few.append(f"{line.title} ({words.share(max(shares))} at most)")
    if not few:
        return []
    return [
        f"Fewer than {words.share(FEW_PSEUDO_IMAGES)} of the pool's images had a pseudo label in every cycle of "
        f"{', '.join(few)}: there SSL can change little or nothing."
    ]


def _judge(context: Context, lines: Sequence[Line]) -> tuple[Judged, str]:
    """Every cycle's pseudo labels that can be judged, and why others cannot."""
    judged: Judged = {}
    missing = ""
    if context.train is None:
        return judged, missing
    keys = context.train.keys
    for line in lines:
        for seed, run in line.runs.items():
            context.working(f"pseudo labels of {line.title}, seed {seed}")
            for cycle in range(2, len(run.rows) + 1):
                labelled = run.picked_until(cycle)
                pool = context.train.subset([key for key in keys if key not in labelled])
                try:
                    judged[line.name, seed, cycle] = judge_pseudo_labels(
                        pool, read_predictions(run.pseudo_labels(cycle))
                    )
                except DataError as error:
                    missing = missing or str(error)
    return judged, missing


def _columns(judged: Judged) -> list[Column]:
    def of_row(key: str) -> Callable[[Run, int], float | None]:
        return lambda run, cycle: run.rows[cycle - 1][key]

    def of_truth(key: str) -> Callable[[Run, int], float | None]:
        return lambda run, cycle: getattr(judged.get((run.name, run.seed, cycle)), key, None)

    return [
        Column("precision", of_row("pseudo_precision"), words.share),
        Column("recall in D_semi's images", of_truth("recall_beside"), words.share),
        Column("recall in the whole pool", of_truth("recall"), words.share),
        OF_POOL,
        Column("pseudo images", of_row("pseudo_images"), "{:.0f}".format),
        Column("pseudo objects", of_row("pseudo_objects"), "{:.0f}".format),
        Column("gradient share of L_semi", of_row("semi_gradient_share"), lambda value: words.share(value, 1)),
        EMPTY_PICKS,
    ]


def _of_pool(run: Run, cycle: int) -> float | None:
    left = run.identity["train_images"] - run.rows[cycle - 1]["labels"]
    return run.rows[cycle - 1]["pseudo_images"] / left if left and cycle > 1 else None


def _empty_picks(run: Run, cycle: int) -> float | None:
    return run.rows[cycle - 1]["picked_empty_share"]


OF_POOL = Column("share of the pool in D_semi", _of_pool, words.share)
EMPTY_PICKS = Column("picked images without an object", _empty_picks, words.share, with_ssl=False)


def _mean(runs: Iterable[Run], cycle: int, column: Column) -> float | None:
    """Over the runs that have the number; all have the cycle."""
    values = [column.read(run, cycle) for run in runs if run.settings.ssl or not column.with_ssl]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _figure(context: Context, columns: Sequence[Column]) -> list[Part]:
    """A small panel a number: strategies with pseudo labels, and for empty picks those without."""
    lines = context.grid.strategies
    with_ssl = [line for line in lines if line.settings.ssl]
    if not with_ssl:
        return [Absent("the picture of pseudo labels by cycle; no cell with the common settings has pseudo labels.")]
    shared = SharedSeeds.of(context.grid, lines)
    if not any(any(_series(line, OF_POOL, shared).values()) for line in with_ssl):
        told = f"no image has passed the thresholds in {shared.in_words('any of')} yet"
        return [Absent(f"the picture of pseudo labels by cycle; {told}.")]
    drawn = [column for column in columns if column.title != "pseudo images"]
    drawn = [column for column in drawn if any(_series(line, column, shared) for line in lines)]
    canvas, axes = plots.panels(len(drawn), width=3.7, height=2.7, columns=3)
    for panel, column in zip(axes, drawn, strict=True):
        for line in lines:
            # What a strategy picks differs with pseudo labels, too, but both would hide each other.
            if line.settings.ssl != column.with_ssl:
                continue
            series = _series(line, column, shared)
            hollow = shared.cycles(line) < context.grid.cycles
            # Where a cycle has no value, the line has a gap.
            cycles = range(min(series, default=1), max(series, default=0) + 1)
            values = [series.get(cycle, math.nan) for cycle in cycles]
            plots.draw_points(panel, cycles, values, plots.look(line), hollow)
        panel.set_title(column.title + ("" if column.with_ssl else "\n(without SSL)"), fontsize=10)
        panel.set_xlim(0.8, context.grid.cycles + 0.2)
        panel.set_xticks(range(1, context.grid.cycles + 1, -(-context.grid.cycles // 8)))
        panel.set_ylim(0, 1.05 * panel.get_ylim()[1])
        if column.title != "pseudo objects":
            panel.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    for panel in axes[-3:]:
        panel.set_xlabel("cycle")
    plots.name_strategies(canvas, [line for line in lines if shared.cycles(line)])
    figure = Figure(
        plots.save(canvas, context.out / "pseudo_labels.png"),
        f"By cycle, {shared.in_words()}; a seed without pseudo labels has no precision. Precision: pseudo labels with "
        "an object of their class and a mask IoU of at least 0.5, each object once. Recall: objects that got such a "
        "label, of those in the images with pseudo labels (D_semi) and of the whole unlabelled pool. Gradient share: "
        "||β∇L_semi|| / ||∇L_sup||, the mean over training. The first cycle's picks are random for all.",
        "Pseudo labels by cycle: precision, recall, number, gradient share; and empty picks",
    )
    return [figure, *shared.left_out()]


def _series(line: Line, column: Column, shared: SharedSeeds) -> dict[int, float]:
    first, last = 2 if column.with_ssl else 1, shared.cycles(line)
    runs = [line.runs[seed] for seed in shared.seeds] if last else []
    found = {cycle: _mean(runs, cycle, column) for cycle in range(first, last + 1)}
    return {cycle: value for cycle, value in found.items() if value is not None}


def _last_cycle(context: Context, lines: Sequence[Line], columns: Sequence[Column]) -> Table:
    rows = []
    for line in lines:
        last = line.cycles
        rows.append([_named(context, line), str(last or words.NONE), *_cells(line, last, columns)])
    caption = f"Pseudo labels of the last cycle, {FURTHEST}."
    return Table(caption, ["", "cycle", *(column.title for column in columns)], rows)


def _every_cycle(context: Context, lines: Sequence[Line], columns: Sequence[Column]) -> Table:
    rows = [
        [_named(context, line), str(cycle), *_cells(line, cycle, columns)]
        for line in lines
        for cycle in range(1, line.cycles + 1)
    ]
    return Table(f"Every cycle, {FURTHEST}", ["", "cycle", *(column.title for column in columns)], rows, folded=True)


def _named(context: Context, line: Line) -> str:
    return f"{line.title}{context.grid.of_seeds(len(line.furthest))}"


def _cells(line: Line, cycle: int, columns: Sequence[Column]) -> list[str]:
    values = [_mean(line.furthest.values(), cycle, column) if cycle else None for column in columns]
    return [
        column.form(value) if value is not None else words.NONE for column, value in zip(columns, values, strict=True)
    ]
