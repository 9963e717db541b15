"""A cell of a grid through a Label Studio server and the backend, cycle by cycle as scripts.active_learning does it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.active_learning import run_cycle
from scripts.experiment import Experiment
from scripts.grid.cell import PICKED, CellRun
from scripts.grid.spec import Cell, Grid
from scripts.plan import STATE, Place, Plan, State
from tsp_model.data.image_set import ImageSet
from tsp_model.files import write_json
from tsp_model.progress import Progress, silent


class ServerCellRun(CellRun):
    """A cell with its data and its folder, run through `place`.

    What a run in memory leaves in the folder is there, too: results, picks, and of each cycle what it predicted of the
    test images and its pseudo labels. The models are the backend's.
    """

    def __init__(self, grid: Grid, cell: Cell, train: ImageSet, test: ImageSet, folder: Path, place: Place) -> None:
        super().__init__(grid, cell, train, test, folder)
        self._place = place

    def run(self, progress: Progress = silent) -> list[dict[str, Any]]:
        """The cycles that are left; all rows. Nobody is asked for a cell that is finished."""
        self._keep_picks()
        if len(self.rows) == self.cycles:
            return self.rows
        with Experiment.open(self._plan(), (self.train_set, self.test_set)) as experiment:
            for k in range(len(self.rows) + 1, self.cycles + 1):
                progress({"phase": "through Label Studio", "cycle": k, "done": k, "total": self.cycles})
                run_cycle(experiment, k)
                self._keep_picks()
        return self.rows

    def _keep_picks(self) -> None:
        """The picks so far where a report looks for them; also those of a run that was killed before it came to it."""
        picked = State(self.folder / STATE).get("picked")
        if picked:
            write_json(self.folder / PICKED, picked)

    def _plan(self) -> Plan:
        return Plan(
            data=self.grid.data,
            strategy=self.settings.strategy,
            ssl=self.settings.ssl,
            cycles=self.cycles,
            per_cycle=self.per_cycle,
            seed=self.settings.seed,
            label_tag="brush",  # keeps every pixel, so that a model learns from the same masks as in memory
            train_images=self.grid.train_images,
            test_images=self.grid.test_images,
            method=self.settings.to_dict(),
            **asdict(self._place),
            out=str(self.folder),
            cell=self.cell.name,
        )
