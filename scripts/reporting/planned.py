"""A grid's folder beside the grid's file: what is missing, what the file does not have, and what was run otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from scripts.command_line import CommandError
from scripts.grid.spec import Cell, Grid, read_grid
from scripts.reporting.runs import Run, unfinished_folders

SIZES = ("train_images", "test_images")  # a file may leave them open


def planned(file: Path, runs: Sequence[Run], data: str | None = None) -> Grid:
    """The grid of a file; its quick form, if that is what all runs are of.

    Args:
        data: that the grid may have been run on instead of the file's.

    Raises:
        CommandError: a run has other settings, data or labels a cycle than the file gives its cell; or see read_grid.
    """
    other = data if data == runs[0].identity["data"] else None
    grid = read_grid(file, data=other)
    wrong = _wrong(runs, grid)
    if not wrong:
        return grid
    quick = read_grid(file, smoke=True, data=other)
    if not _wrong(runs, quick) and not strangers(runs, quick):
        return quick
    run, differing = wrong[0]
    raise CommandError(
        f"{run.folder} was not run as {file} has it ({'; '.join(differing)}); give the file that it was run with (and "
        "its --data), or leave --grid away."
    )


def strangers(runs: Sequence[Run], grid: Grid) -> list[str]:
    """Runs that are no cell of the file, in words."""
    known = {cell.folder for cell in grid.cells}
    return [f"{run.name}, seed {run.seed}" for run in runs if _place(run) not in known]


def longer(runs: Sequence[Run], cycles: int) -> list[str]:
    """Runs that have more than so many cycles, in words."""
    return [f"{run.name}, seed {run.seed}: {len(run.rows)} cycles" for run in runs if len(run.rows) > cycles]


def cut(run: Run, cycles: int) -> Run:
    """A run as it was after so many cycles; a shorter one as it is."""
    picked = {number: keys for number, keys in run.picked.items() if int(number) <= cycles}
    return dataclasses.replace(run, rows=run.rows[:cycles], picked=picked)


def unfinished(runs: Sequence[Run], cycles: int, grid: Grid | None, out: Path) -> list[str]:
    """Cells that are not there whole, in words: of the grid's file, or else of the names and seeds that were begun."""
    places = {_place(run): run for run in runs}
    if grid:
        expected = [(cell.name, cell.settings.seed, places.get(cell.folder)) for cell in grid.cells]
    else:
        there = {(run.name, run.seed): run for run in runs}
        names, seeds = dict.fromkeys(run.name for run in runs), sorted({run.seed for run in runs})
        expected = [(name, seed, there.get((name, seed))) for name in names for seed in seeds]
    found = []
    for name, seed, run in expected:
        whole = 1 if run and run.full_data else cycles
        if run is None:
            found.append(f"{name}, seed {seed}: not begun")
        elif len(run.rows) < whole:
            found.append(f"{name}, seed {seed}: {len(run.rows)} of {whole} cycles")
    begun = [] if grid else [name for name in unfinished_folders(out) if name not in places]
    return found + [f"{name}: begun, nothing written yet" for name in begun]


def _place(run: Run) -> str:
    """A run's folder below the grid's, as Cell.folder has it."""
    return f"{run.folder.parent.name}/{run.folder.name}"


def _wrong(runs: Sequence[Run], grid: Grid) -> list[tuple[Run, list[str]]]:
    """Runs that are not what the file says of their cell, and in what."""
    cells = {cell.folder: cell for cell in grid.cells}
    compared = [(run, _differing(run, cells[_place(run)], grid)) for run in runs if _place(run) in cells]
    return [(run, differing) for run, differing in compared if differing]


def _differing(run: Run, cell: Cell, grid: Grid) -> list[str]:
    sizes = {name: getattr(grid, name) for name in SIZES if getattr(grid, name) is not None}
    asked = grid.identity(cell, run.identity["train_images"], run.identity["test_images"]) | sizes
    known = {**run.identity, **run.settings.to_dict()}
    return [f"{name} {known[name]!r}, in the file {value!r}" for name, value in asked.items() if known[name] != value]
