"""One cell of a grid: Algorithm 1 of arXiv 2012.04829 in memory, ground truth as the oracle.

What a cycle made is written down before the next begins, so that a cell that was killed goes on at its last epoch.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from scripts.command_line import CommandError
from scripts.grid import first
from scripts.grid.spec import Cell, Grid
from scripts.quality import quality_on_test
from scripts.results import read_rows, result_row, write_rows
from tsp_model import checkpoints
from tsp_model.cycle import PSEUDO_LABELS, pick_images, train_cycle
from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import pseudo_label_precision
from tsp_model.files import write_json
from tsp_model.prediction_pass import PREDICTIONS, complete_predictions, looked_at
from tsp_model.predictions import PredictionFile, read_predictions
from tsp_model.progress import Progress, silent
from tsp_model.settings import Settings

IDENTITY, RESULTS, PICKED = "cell.json", "results.jsonl", "picked.json"


class CellRun:
    """A cell with its data and its folder, run in memory.

    Args:
        folder: of this cell alone, two below the grid's. Raises CommandError if it holds a cell with other settings.
    """

    def __init__(self, grid: Grid, cell: Cell, train: ImageSet, test: ImageSet, folder: Path) -> None:
        self.grid, self.cell, self.settings = grid, cell, cell.settings
        self.train_set, self.test_set, self.folder = train, test, folder
        identity = grid.identity(cell, len(train), len(test))
        self.cycles, self.per_cycle = grid.cycles_of(cell), identity["per_cycle"]
        needed = self.cycles * self.per_cycle
        if needed > len(train):
            raise CommandError(
                f"{self.cycles} cycles of {self.per_cycle} labels need {needed} images, {grid.data} has {len(train)}; "
                "lower cycles or per_cycle."
            )
        refuse_other_results(folder, identity)
        if not (folder / IDENTITY).exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / IDENTITY, identity)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The results of finished cycles."""
        return finished_rows(self.folder)

    def run(self, progress: Progress = silent) -> list[dict[str, Any]]:
        """The cycles that are left; all rows. progress: see training.train, with the cycle in "cycle"."""
        done = len(self.rows)
        if 0 < done < self.cycles:  # it was the last cycle once, and scored no pool, if more were asked for later
            self._score(self._version(done), self._split()[1], partial(_in_cycle, progress, done))
        for k in range(done + 1, self.cycles + 1):
            self._cycle(k, partial(_in_cycle, progress, k))
        return self.rows

    def _cycle(self, k: int, progress: Progress) -> None:
        start = time.monotonic()
        picked = self._pick(k)
        labelled, pool = self._split()
        before = PredictionFile(self._version(k - 1) / PREDICTIONS) if k > 1 else None
        folder, parent = self._version(k), self._version(k - 1) if k > 1 else None
        if (folder / checkpoints.CARD).exists():  # trained, but killed before its row was written
            card = checkpoints.read_card(folder)
        elif k == 1:
            shared = self.folder.parents[1] / first.FOLDER
            card = first.train_first(labelled, pool, self.settings, folder, shared, progress)
        else:
            card = train_cycle(labelled, pool, before, self.settings, folder, progress, parent)
        trained = time.monotonic()
        if k < self.cycles:
            self._score(folder, pool, progress)
        scored = time.monotonic()
        quality = quality_on_test(folder, self.test_set, folder, progress)
        pseudo = read_predictions(folder / PSEUDO_LABELS)
        precision = pseudo_label_precision(self.train_set, pseudo)["precision"]
        end = time.monotonic()
        seconds = {
            "train": card["train_seconds"],
            "score": scored - trained,
            "evaluate": end - scored,
            "cycle": end - start,
        }
        images = self.train_set.subset(picked).items
        row = result_row(self.grid.data, k, images, card, quality, precision, folder.name, seconds)
        write_rows(self.folder / RESULTS, [*self.rows, row | {"cell": self.cell.name}])

    def _score(self, folder: Path, pool: ImageSet, progress: Progress) -> None:
        """What is left of the pool, so that a scoring that was killed ends as an unbroken one."""
        complete_predictions(folder, pool, looked_at(self.settings), progress, whole_batches=True)

    def _pick(self, k: int) -> list[str]:
        """The images of cycle k; written down, so that a cycle that begins again has the same."""
        if str(k) in self._picked:
            return self._picked[str(k)]
        labelled, pool = self._split()
        last = self._version(k - 1) if k > 1 else None
        picked = pick_images(k, sorted(pool.keys), labelled, self.settings, self.per_cycle, last)
        write_json(self.folder / PICKED, self._picked | {str(k): picked})
        return picked

    def _split(self) -> tuple[ImageSet, ImageSet]:
        """What was picked until now, and the rest; both in the order of the set, whoever picked them and when."""
        picked = {name for names in self._picked.values() for name in names}
        chosen, rest = ([key for key in self.train_set.keys if (key in picked) is yes] for yes in (True, False))
        return self.train_set.subset(chosen), self.train_set.subset(rest)

    @property
    def _picked(self) -> dict[str, list[str]]:
        path = self.folder / PICKED
        return json.loads(path.read_text()) if path.exists() else {}

    def _version(self, k: int) -> Path:
        return self.folder / f"M{k}"


def finished_rows(folder: Path) -> list[dict[str, Any]]:
    """The results of a cell's finished cycles; none where it was not begun."""
    return read_rows(folder / RESULTS) if (folder / RESULTS).exists() else []


def refuse_other_results(folder: Path, identity: dict[str, Any]) -> None:
    """CommandError if a cell's folder holds results that were made with other settings: they are not mixed in."""
    path = folder / IDENTITY
    if not path.exists():
        return
    known = Settings().to_dict() | json.loads(path.read_text())  # settings that are new since had their defaults
    changed = sorted(name for name in identity if known.get(name) != identity[name])
    if changed:
        raise CommandError(
            f"{folder} holds results with another {', '.join(changed)}; choose another --out, or repeat the old file "
            "(and --data) to go on."
        )


def _in_cycle(progress: Progress, k: int, event: dict[str, Any]) -> None:
    progress({**event, "cycle": k})
