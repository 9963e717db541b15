"""What it took: seconds of a cycle, by strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.lines import Line
from scripts.reporting.page import Absent, Part, Section, Table, Text
from scripts.reporting.shared_seeds import SharedSeeds

ROUNDING = 0.02  # four times, each written down to a hundredth of a second
HEAD = (
    "",
    "cycles",
    "training s",
    "interrupted, left out of training",
    "scoring the pool s",
    "evaluating s",
    "training, against random",
)
WHAT_IT_IS = (
    "Wall clock of one cycle: the median over cycles from the second on, because the first model is trained once for "
    "all cells that begin alike. All labels at once have one cycle alone, which counts in every seed. A cycle whose "
    "parts took longer together than the cycle was interrupted: its training counts what the process before it spent, "
    "too. Such a cycle is left out of the training. The last cycle scores no pool. Picking is in no column. Against "
    "random: the ratio of two medians. Other work on a machine makes everything slower: times of a busy machine are "
    "not to be compared closely."
)


def times(context: Context) -> Section:
    """Median seconds of training, scoring and evaluating a cycle, by strategy."""
    grid = context.grid
    shared = SharedSeeds.of(grid, grid.lines)
    cycles = {line.name: _later_rows(shared, line) for line in grid.lines}
    random = median_training(cycles[grid.random.name]) if grid.random else None
    rows = [[line.title, *_row(cycles[line.name], random)] for line in grid.lines]
    if grid.ceiling is not None:
        at_once = [run.rows[0] for run in grid.ceiling.runs.values() if run.rows]
        rows.append(["all labels at once", *_row(at_once, None)])
    caption = f"Seconds of a cycle, {shared.in_words('median')}."
    table = Table(f"{caption} The paper: 5.2 h of training with pseudo labels, 4.8 h without (1.08x).", HEAD, rows)
    parts: list[Part] = [table, Text(WHAT_IT_IS)]
    if grid.random is None:
        parts.append(Absent("training against random; the grid has no random cells without pseudo labels."))
    return Section("Time", parts)


def interrupted(seconds: Mapping[str, float]) -> bool:
    """Whether the time of training holds some that an earlier process spent: an undisturbed cycle holds all its parts.

    Args:
        seconds: of a row, see scripts/grid/cell.py.
    """
    return seconds["train"] + seconds["score"] + seconds["evaluate"] > seconds["cycle"] + ROUNDING


def median_training(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of the cycles that were not interrupted; None where there is none."""
    return median(_training(rows)) if _training(rows) else None


def _training(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["seconds"]["train"] for row in rows if not interrupted(row["seconds"])]


def _later_rows(shared: SharedSeeds, line: Line) -> list[Mapping[str, Any]]:
    """From the second cycle on, of the shared seeds that the line has finished."""
    finished = shared.grid.finished(line)
    return [row for seed in shared.seeds if seed in finished for row in finished[seed].rows[1:]]


def _row(rows: Sequence[Mapping[str, Any]], random: float | None) -> list[str]:
    """The cells of a strategy. random: the median of random's training, None where there is nothing to compare."""
    train = median_training(rows)
    scored = [row["seconds"]["score"] for row in rows if row["seconds"]["score"] > 0]
    evaluated = [row["seconds"]["evaluate"] for row in rows]
    return [
        str(len(rows)),
        words.number(train, 1),
        str(len(rows) - len(_training(rows))),
        *(words.number(median(values) if values else None, 1) for values in (scored, evaluated)),
        words.NONE if train is None or not random else f"{train / random:.2f}x",
    ]
