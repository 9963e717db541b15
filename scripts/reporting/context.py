"""What every section is given: the results, the images, where its pictures go, and what a label costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.reporting.lines import GridResults
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet


@dataclass(frozen=True)
class Context:
    """Attributes:

    out: folder of the pictures. train, test: the images that the grid saw; None where they are not to be had, and
    without_data then says why. minutes_per_image, cost_per_image: of an expert.
    working: told what is being done, for who waits.
    """

    grid: GridResults
    out: Path
    train: ImageSet | None
    test: ImageSet | None
    without_data: str
    minutes_per_image: float
    cost_per_image: float
    working: Callable[[str], None] = lambda what: None


def find_data(grid: GridResults, asked: str | None) -> tuple[ImageSet | None, ImageSet | None, str]:
    """Pool and test images of a grid, or None twice and the reason.

    Args:
        asked: where they are now; None: where the grid found them, and without them the report does with less.

    Raises:
        CommandError, DataError: the data that was asked for is not there, or is not the grid's.
    """
    data = asked or grid.identity["data"]
    if data == "synthetic" and (grid.folder / data).is_dir():
        data = str(grid.folder / data)
    sizes = grid.identity["train_images"], grid.identity["test_images"]
    try:
        train, test = load_sets(data, *sizes, grid.folder, grid.common.image_size, seed=0)
        _check(data, grid, train, test)
    except (DataError, CommandError) as error:
        if asked:
            raise
        return None, None, f"{error} (--data names another folder)"
    return train, test, ""


def _check(data: str, grid: GridResults, train: ImageSet, test: ImageSet) -> None:
    """Refuse images that are not those of the grid."""
    wrong = (len(train), len(test)) != (grid.identity["train_images"], grid.identity["test_images"])
    picked = {key for line in grid.lines for run in line.runs.values() for key in run.picked_until(len(run.rows))}
    if wrong or not picked <= set(train.keys):
        raise CommandError(f"{data} does not hold the images of this grid; name the folder that it was run on.")
