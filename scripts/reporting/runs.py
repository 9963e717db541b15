"""What a cell of a grid left on the disk (scripts/grid/cell.py), read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.command_line import CommandError
from scripts.grid.cell import IDENTITY, PICKED, RESULTS
from scripts.grid.claims import LOCK
from scripts.grid.spec import OF_A_CELL, strategy_name
from scripts.quality import TEST_PREDICTIONS
from scripts.results import read_rows
from tsp_model.cycle import PSEUDO_LABELS
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.settings import Settings, SettingsError

OF_THE_DATA = ("data", "train_images", "test_images")
OF_THE_GRID = (*OF_THE_DATA, "per_cycle")
NEEDED = (
    "cycle", "strategy", "ssl", "seed", "data", "labels", "objects", "picked_empty_share", "pseudo_images",
    "pseudo_objects", "cell", "pseudo_precision", "semi_gradient_share", "mask_ap50", "box_ap50", "seconds",
)  # fmt: skip
SECONDS = ("train", "score", "evaluate", "cycle")
# Settings that a strategy brings along: no variant of it.
BROUGHT = {"mc_dropout": ("dropout",)}


@dataclass(frozen=True)
class Run:
    """One cell, as far as it is: a name and a seed.

    Attributes:
        identity: what its results were made with besides the settings: OF_THE_GRID.
        rows: of its finished cycles, from the first on.
        picked: keys of the images that each cycle had labelled, by its number as a text.
    """

    name: str
    folder: Path
    settings: Settings
    identity: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    picked: Mapping[str, list[str]]

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def full_data(self) -> bool:
        """Whether its one cycle labels the whole pool."""
        return self.identity["per_cycle"] == self.identity["train_images"]

    @property
    def labels(self) -> list[int]:
        """Labelled images by cycle."""
        return [row["labels"] for row in self.rows]

    @property
    def ap50(self) -> list[float]:
        """AP50 of masks by cycle, 0..1."""
        return [row["mask_ap50"] for row in self.rows]

    def pool_predictions(self, cycle: int) -> Path:
        """The file of what the model of a cycle, from 1 on, found in the images that were not labelled yet."""
        return self.folder / f"M{cycle}" / PREDICTIONS

    def pseudo_labels(self, cycle: int) -> Path:
        """The file of D_semi's labels of a cycle, from 1 on."""
        return self.folder / f"M{cycle}" / PSEUDO_LABELS

    def test_predictions(self, cycle: int) -> Path:
        """The file of what the model of a cycle, from 1 on, found in the test images."""
        return self.folder / f"M{cycle}" / TEST_PREDICTIONS

    @property
    def own_picks(self) -> list[int]:
        """The cycles whose images the strategy picked: from the second on, later if chance has the first labels
        (`random_labels`)."""
        before = zip(range(2, len(self.rows) + 1), self.labels, strict=False)
        return [cycle for cycle, labels in before if self.settings.strategy_at(labels) == self.settings.strategy]

    def picked_until(self, cycle: int) -> set[str]:
        """Keys of the images that are labelled in a cycle, from 1 on."""
        return {key for number in range(1, cycle + 1) for key in self.picked[str(number)]}


def read_runs(out: Path) -> list[Run]:
    """Every cell that a grid's folder holds, by folder.

    Raises:
        CommandError: there is none, a file is torn, or the cells do not belong together (the two are named).
    """
    folders = sorted(path.parent for path in out.glob(f"*/seed*/{IDENTITY}"))
    if not folders:
        raise CommandError(
            f"{out} holds no cells of a grid; run python -m scripts.benchmark run FILE --out {out} first."
        )
    rows = {folder: _rows(folder) for folder in folders}
    # A cell's name stands in its rows; one without any is called as its other seeds, or else as its folder.
    names = {folder.parent: of_cell[0]["cell"] for folder, of_cell in rows.items() if of_cell}
    runs = [_run(folder, names.get(folder.parent, folder.parent.name), rows[folder]) for folder in folders]
    _refuse_strangers(runs)
    return runs


def unfinished_folders(out: Path) -> list[str]:
    """Cells that were begun and have written nothing about themselves yet: folders below `out`."""
    begun = {path.parent for path in out.glob(f"*/seed*/{LOCK}")}
    return sorted(str(folder.relative_to(out)) for folder in begun if not (folder / IDENTITY).exists())


def _run(folder: Path, name: str, rows: list[dict[str, Any]]) -> Run:
    path = folder / IDENTITY
    values = _read_object(path)
    missing = [key for key in OF_THE_GRID if key not in values]
    if missing:
        raise CommandError(f"{path} lacks {', '.join(missing)}; run this cell again.")
    identity = {key: values.pop(key) for key in OF_THE_GRID}
    try:
        settings = Settings.from_dict(values)
    except SettingsError as error:
        raise CommandError(f"{path}: {error} Make the report with the version that made the results.") from None
    picked = _read_object(folder / PICKED) if rows else {}
    if any(str(row["cycle"]) not in picked for row in rows):
        raise CommandError(f"{folder / PICKED} lacks a cycle that {RESULTS} has; run this cell again.")
    run = Run(name, folder, settings, identity, tuple(rows), picked)
    known = {"strategy": settings.strategy, "ssl": settings.ssl, "seed": settings.seed, "data": identity["data"]}
    for row in rows:
        other = [key for key, value in known.items() if row[key] != value]
        if other or row["cell"] != name:
            raise CommandError(
                f"{folder / RESULTS} holds rows with another {', '.join(other) or 'cell'} than its {IDENTITY}; "
                "take the folder away, or run this cell again."
            )
    return run


def _rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / RESULTS
    if not path.exists():
        return []
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        missing = [key for key in NEEDED if key not in row] if isinstance(row, dict) else list(NEEDED)
        if not missing:
            missing = [f"seconds of {key}" for key in SECONDS if key not in row["seconds"]]
        if missing:
            raise CommandError(f"{path}, line {number} lacks {', '.join(missing)}; run this cell again.")
        if row["cycle"] != number or (number > 1 and row["labels"] <= rows[number - 2]["labels"]):
            raise CommandError(f"{path}, line {number} is not cycle {number} with more labels; run this cell again.")
        if row["mask_ap50"] is None:
            raise CommandError(
                f"{path}, line {number} has no AP50: no test image has an object; use other test images."
            )
    return rows


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read ({error}); run this cell again.") from None
    if not isinstance(value, dict):
        raise CommandError(f"{path} holds no object; run this cell again.")
    return value


def _refuse_strangers(runs: list[Run]) -> None:
    """Cells of one grid look at the same images; its seeds share everything else, too, and so do its strategies."""
    first, cycled = runs[0], next((run for run in runs if not run.full_data), None)
    plain = next((run for run in runs if _is_plain(run)), None)
    of_name: dict[str, Run] = {}
    seeds: dict[tuple[str, int], Run] = {}
    for run in runs:
        _refuse(first, run, {key: (first.identity[key], run.identity[key]) for key in OF_THE_DATA})
        if cycled is not None and not run.full_data:
            _refuse(cycled, run, {"per_cycle": (cycled.identity["per_cycle"], run.identity["per_cycle"])})
        same = of_name.setdefault(run.name, run)
        ours, others = run.settings.to_dict(), same.settings.to_dict()
        _refuse(same, run, {key: (others[key], ours[key]) for key in ours if key != "seed"})
        if plain is not None and _is_plain(run):
            common, own = plain.settings.to_dict(), {*own_settings(run.settings), *own_settings(plain.settings)}
            _refuse(plain, run, {key: (common[key], ours[key]) for key in ours if key not in own})
        twin = seeds.setdefault((run.name, run.seed), run)
        if twin is not run:
            raise CommandError(f"{twin.folder} and {run.folder} are both {run.name}, seed {run.seed}; take one away.")


def own_settings(settings: Settings) -> tuple[str, ...]:
    """The settings in which a cell may differ from the grid's common ones without being a variant, by name."""
    return (*OF_A_CELL, *BROUGHT.get(settings.strategy, ()))


def _is_plain(run: Run) -> bool:
    """Whether it is called as a strategy is, or is all labels at once: no variant, but of the grid's own settings."""
    return run.full_data or run.name == strategy_name(run.settings.strategy, run.settings.ssl)


def _refuse(one: Run, other: Run, values: Mapping[str, tuple[Any, Any]]) -> None:
    differing = [f"{key} {ours!r} and {theirs!r}" for key, (ours, theirs) in values.items() if ours != theirs]
    if differing:
        raise CommandError(
            f"{one.folder} and {other.folder} were made with different settings ({', '.join(differing)}); "
            "report each grid from a folder of its own."
        )
