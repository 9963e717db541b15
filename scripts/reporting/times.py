"""What it took: seconds of a cycle and hours of a run, by strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.lines import Line
from scripts.reporting.page import Absent, Part, Section, Table, Text
from scripts.reporting.shared_seeds import SharedSeeds

Row = Mapping[str, Any]  # of results.jsonl
ROUNDING = 0.02  # four times, each written down to a hundredth of a second
HEAD = (
    "",
    "cycles",
    "training s",
    "interrupted, left out of training",
    "scoring the pool s",
    "evaluating s",
    "training, against random, seed by seed",
    "training of a whole run, h",
)
WHAT_IT_IS = (
    "Wall clock of one cycle: the median over cycles from the second on, because the first model is trained once for "
    "all cells that begin alike. All labels at once have one cycle alone, which counts in every seed. A cycle whose "
    "parts took longer together than the cycle was interrupted: its training counts what the process before it spent, "
    "too. Such a cycle is left out of the training. The last cycle scores no pool. Picking is in no column. Against "
    "random: over random's median, in each seed, since seeds may be of different machines; not where half of a seed's "
    "cycles or more were interrupted. A whole run: all cycles, the first included, the median over the seeds in which "
    "none after it was interrupted. Other work on a machine makes everything slower: times of a busy machine are not "
    "to be compared closely."
)


def times(context: Context) -> Section:
    """Median seconds of training, scoring and evaluating a cycle, by strategy, and hours of training of a run."""
    grid = context.grid
    shared = SharedSeeds.of(grid, grid.lines)
    random = _training_by_seed(shared, grid.random) if grid.random else {}
    rows = [[line.title, *_row(shared, line, random)] for line in grid.lines]
    if grid.ceiling is not None:
        at_once = [run.rows[:1] for run in grid.ceiling.runs.values() if run.rows]
        of_all = [row for of_run in at_once for row in of_run]
        rows.append(["all labels at once", *_seconds(of_all), words.NONE, _hours(at_once)])
    caption = f"Seconds of a cycle, {shared.in_words('median')}."
    table = Table(
        f"{caption} The paper: 5.2 h of its method up to 1500 labels, 4.8 h of the baseline's 3000.", HEAD, rows
    )
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


def _training(rows: Sequence[Row]) -> list[float]:
    """Seconds of the cycles that were not interrupted."""
    return [row["seconds"]["train"] for row in rows if not interrupted(row["seconds"])]


def _finished(shared: SharedSeeds, line: Line) -> dict[int, Sequence[Row]]:
    """The rows of each of the shared seeds that the line has finished."""
    return {seed: run.rows for seed, run in sorted(shared.grid.finished(line).items()) if seed in shared.seeds}


def _training_by_seed(shared: SharedSeeds, line: Line) -> dict[int, float]:
    """Median seconds of the cycles from the second on; without the seeds in which half or more were interrupted."""
    medians = {}
    for seed, rows in _finished(shared, line).items():
        whole = _training(rows[1:])
        if 2 * len(whole) > len(rows[1:]):
            medians[seed] = median(whole)
    return medians


def _row(shared: SharedSeeds, line: Line, random: Mapping[int, float]) -> list[str]:
    """The cells of a strategy. random: random's training by seed, empty where there is nothing to compare."""
    finished, ours = _finished(shared, line), _training_by_seed(shared, line)
    ratios = [
        f"{ours[seed] / random[seed]:.2f}x" if seed in ours and random.get(seed) else words.NONE
        for seed in shared.seeds
    ]
    later = [row for rows in finished.values() for row in rows[1:]]
    told = ", ".join(ratios) if set(ratios) - {words.NONE} else words.NONE
    return [*_seconds(later), told, _hours(list(finished.values()))]


def _seconds(rows: Sequence[Row]) -> list[str]:
    """How many cycles, their training, how many were interrupted, scoring and evaluating."""
    trained = _training(rows)
    scored = [row["seconds"]["score"] for row in rows if row["seconds"]["score"] > 0]
    evaluated = [row["seconds"]["evaluate"] for row in rows]
    return [
        str(len(rows)),
        _median(trained),
        str(len(rows) - len(trained)),
        _median(scored),
        _median(evaluated),
    ]


def _median(seconds: Sequence[float]) -> str:
    return words.number(median(seconds) if seconds else None, 1)


def _hours(runs: Sequence[Sequence[Row]]) -> str:
    """Of training, the median over the runs in which nothing after the first model was interrupted; that may be another
    cell's, and interrupted."""
    unbroken = [rows for rows in runs if not any(interrupted(row["seconds"]) for row in rows[1:])]
    whole = [sum(row["seconds"]["train"] for row in rows) for rows in unbroken]
    return words.number(median(whole) / 3600 if whole else None, 2)
