"""Every cell of a grid that is not finished yet, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.grid.cell import PICKED, CellRun, finished_rows, refuse_other_results
from scripts.grid.claims import claimed
from scripts.grid.spec import Cell, read_grid
from scripts.plan import STATE, Place
from tsp_model.checkpoints import CheckpointError
from tsp_model.data import DataError
from tsp_model.errors import NonFiniteError


class CellError(CommandError):
    """A cell that cannot go on; the others can."""


def run_grid(
    file: Path, out: Path, place: Place | None = None, smoke: bool = False, data: str | None = None
) -> list[dict[str, Any]]:
    """All rows of the grid that are there in the end.

    Args:
        place: where cells run through a Label Studio server; None: in memory. smoke, data: see read_grid.

    A finished cell is not run again, and one that another process is running is left to it: several processes may
    share a grid and its folder. Cells in memory and through a server are not mixed in one folder.

    Raises:
        CommandError: the file is wrong, the data is too small, or a cell holds other results; at the end, if there was
            a cell that could not go on.
        The errors of scripts.command_line: Label Studio or the backend cannot be used.
    """
    grid = read_grid(file, smoke, data)
    _refuse_mixed(out, through_server=place is not None)
    for cell in grid.cells:  # before hours are spent on the first, and before images are made for them
        refuse_other_results(out / cell.folder, {"data": grid.data, **cell.settings.to_dict()})
    # The same images for every seed: what differs is what is picked, and how training begins.
    size = grid.cells[0].settings.image_size
    train, test = load_sets(grid.data, grid.train_images, grid.test_images, out, size, seed=0)
    for cell in grid.cells:
        refuse_other_results(out / cell.folder, grid.identity(cell, len(train), len(test)))
    rows: list[dict[str, Any]] = []
    failed: list[CellError] = []
    cycles = sum(map(grid.cycles_of, grid.cells))
    before = {cell: min(len(finished_rows(out / cell.folder)), grid.cycles_of(cell)) for cell in grid.cells}
    # smoothing 0: the mean of all cycles made here. What it says of the time left is rough, and as if no other process
    # took any of the rest.
    with tqdm(
        total=cycles, initial=sum(before.values()), desc=file.stem, unit="cycle", smoothing=0, dynamic_ncols=True
    ) as bar:
        for cell in grid.cells:
            folder = out / cell.folder
            with claimed(folder) as mine:
                if not mine:
                    bar.total -= grid.cycles_of(cell) - before[cell]
                    bar.write(f"{cell.folder} is run by another process", file=sys.stderr)
                    continue
                one = (grid, cell, train, test, folder)
                try:
                    rows += _run(_through_server(place)(*one) if place else CellRun(*one), cell, before[cell], bar)
                except CellError as error:
                    bar.write(str(error), file=sys.stderr)
                    failed.append(error)
    if failed:
        raise CommandError(f"{len(failed)} of {len(grid.cells)} cells cannot go on; the first of them is {failed[0]}")
    return rows


def _through_server(place: Place) -> Callable[..., CellRun]:
    from scripts.grid.server import ServerCellRun  # brings the backend, which runs in memory can do without

    return partial(ServerCellRun, place=place)


def _refuse_mixed(out: Path, through_server: bool) -> None:
    """Rows of a folder are compared with each other: what differs must be what their names say."""
    ways = ("in memory", "through Label Studio")
    for folder in sorted({path.parent for name in (PICKED, STATE) for path in out.glob(f"*/*/{name}")}):
        if (folder / STATE).exists() != through_server:
            raise CommandError(
                f"{out} holds {folder.relative_to(out)}, which was run {ways[not through_server]} and not "
                f"{ways[through_server]}; choose another --out."
            )


def _run(run: CellRun, cell: Cell, counted: int, bar: tqdm) -> list[dict[str, Any]]:
    """A cell's rows. counted: the cycles that the bar has of it already."""
    done = min(len(run.rows), run.cycles)
    bar.initial += done - counted  # what another process finished meanwhile says nothing about the time left
    bar.update(done - counted)

    def show(event: Mapping[str, Any]) -> None:
        nonlocal done
        if event["cycle"] - 1 > done:
            bar.update(event["cycle"] - 1 - done)
            done = event["cycle"] - 1
        what = f"{cell.name}, seed {cell.settings.seed}, cycle {event['cycle']}: {event['phase']}"
        bar.set_postfix_str(f"{what} {event['done']}/{event['total']}")

    try:
        rows = run.run(show)
    except (NonFiniteError, DataError, CheckpointError) as error:
        bar.total -= run.cycles - done
        raise CellError(f"{cell.folder}: {error}") from error
    bar.update(min(len(rows), run.cycles) - done)
    return rows
