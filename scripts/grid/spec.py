"""A grid is a small TOML file:

data = "../shared/data/dsb2018"     # "synthetic", a COCO folder or an OCT folder
cycles = 6
per_cycle = 16
seeds = [0, 1, 2]
strategies = ["random", "entropy", "tsp"]
ssl = [false, true]                 # each strategy without and with pseudo labels
train_images = 300                  # optional: so many of the pool and of the test split
test_images = 150
full_data = true                    # optional: also all labels at once, which is what can be reached at most

[settings]                          # any setting of tsp_model/settings.py, and a preset to start from
preset = "tiny"
image_size = 256

[variants."beta 0.05"]              # one more line of the figures: a cell with settings of its own
strategy = "tsp"
ssl = true
beta = 0.05
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.command_line import CommandError
from scripts.smoke import METHOD as SMOKE_METHOD
from scripts.smoke import RUN as SMOKE_RUN
from tsp_model.settings import FIELD_NAMES, STRATEGY_NAMES, Settings, SettingsError, meant

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REQUIRED = {"data": str, "cycles": int, "per_cycle": int, "seeds": list, "strategies": list}
OPTIONAL: dict[str, Any] = {
    "ssl": [False, True],
    "train_images": None,
    "test_images": None,
    "full_data": True,
    "settings": {},
    "variants": {},
}
# A cell decides these itself; asked for in [settings] they would not be what they seem.
OF_A_CELL = ("strategy", "ssl", "seed")
FULL_DATA = "full data"
DROPOUT = 0.25  # what mc_dropout drops unless the file says otherwise


def strategy_name(strategy: str, ssl: bool) -> str:
    """What a cell is called that has no settings of its own."""
    return f"{strategy}{' + SSL' * ssl}"


@dataclass(frozen=True)
class Cell:
    """One run of Algorithm 1.

    Attributes:
        name: of the strategy or variant, with " + SSL"; the seeds of a name are one line of a figure.
        settings: everything, seed, strategy and ssl included.
        full_data: one cycle, in which everything is labelled.
    """

    name: str
    settings: Settings
    full_data: bool = False

    @property
    def folder(self) -> str:
        """Relative to the grid's."""
        letters = "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in self.name)
        return f"{letters}/seed{self.settings.seed}"


@dataclass(frozen=True)
class Grid:
    """Attributes:

    data: "synthetic" or a folder. cycles, per_cycle: K and b. train_images, test_images: None for all.
    cells: in the order in which they are run: seed by seed, so that a grid cut short can be compared.
    smoke: tiny sizes and a few cells, whose figures mean nothing.
    """

    data: str
    cycles: int
    per_cycle: int
    train_images: int | None
    test_images: int | None
    cells: tuple[Cell, ...]
    smoke: bool = False

    def cycles_of(self, cell: Cell) -> int:
        """How many a finished cell has."""
        return 1 if cell.full_data else self.cycles

    def identity(self, cell: Cell, train_images: int, test_images: int) -> dict[str, Any]:
        """All that a cell's results depend on, but for the number of cycles: more may be asked for later.

        Args:
            train_images, test_images: so many are in the pool and in the test split.
        """
        return {
            "data": self.data,
            "per_cycle": train_images if cell.full_data else self.per_cycle,
            "train_images": train_images,
            "test_images": test_images,
            **cell.settings.to_dict(),
        }


def read_grid(path: Path, smoke: bool = False, data: str | None = None) -> Grid:
    """The grid of a file. Raises CommandError, one line, for what is missing, unknown or wrong.

    Args:
        smoke: its first seed, first two strategies and no variants, in tiny sizes. data: instead of the file's.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}; scripts/experiments/ has examples.") from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be read ({error}); correct it.") from None
    values = OPTIONAL | values
    _check(path, values)
    values["data"] = data or values["data"]
    if smoke:
        values |= {"seeds": values["seeds"][:1], "strategies": values["strategies"][:2], "variants": {}}
        values |= {"settings": values["settings"] | SMOKE_METHOD, **SMOKE_RUN}
    try:
        cells = tuple(_cells(values))
    except SettingsError as error:
        raise CommandError(f"{path}: {error}") from None
    names = [cell.folder for cell in cells]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise CommandError(f"{path}: {repeated[0]} is there twice; give each strategy, variant and seed once.")
    sizes = {name: values[name] for name in ("cycles", "per_cycle", "train_images", "test_images")}
    return Grid(data=values["data"], **sizes, cells=cells, smoke=smoke)


def _check(path: Path, values: Mapping[str, Any]) -> None:
    unknown = sorted(set(values) - set(REQUIRED) - set(OPTIONAL))
    if unknown:
        raise CommandError(f"{path}: unknown key {', '.join(unknown)}; {meant(unknown, (*REQUIRED, *OPTIONAL))}")
    for name, kind in REQUIRED.items():
        if name not in values:
            raise CommandError(f"{path}: {name} is missing.")
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise CommandError(f"{path}: {name}={values[name]!r} is no {kind.__name__}.")
    for name in ("cycles", "per_cycle", "train_images", "test_images"):
        if values[name] is not None and (type(values[name]) is not int or values[name] < 1):
            raise CommandError(f"{path}: {name}={values[name]!r} is no whole number above 0.")
    ssl, variants = values["ssl"], values["variants"]
    if not isinstance(ssl, list) or not ssl or any(type(value) is not bool for value in ssl):
        raise CommandError(f"{path}: ssl={ssl!r}; give [false], [true] or [false, true].")
    if type(values["full_data"]) is not bool:
        raise CommandError(f"{path}: full_data={values['full_data']!r}; give true or false.")
    wrong = [name for name in values["strategies"] if name not in STRATEGY_NAMES]
    if wrong or not values["strategies"]:
        raise CommandError(f"{path}: strategies={wrong or []}; known: {', '.join(STRATEGY_NAMES)}.")
    if not values["seeds"] or any(type(seed) is not int for seed in values["seeds"]):
        raise CommandError(f"{path}: seeds={values['seeds']}; give whole numbers.")
    _check_tables(path, {"settings": values["settings"], "variants": variants})
    _check_tables(path, variants)
    _check_keys(path, "settings", values["settings"], {*FIELD_NAMES, "preset"} - set(OF_A_CELL))
    for title, table in variants.items():
        if not title[:1].isalnum():  # a folder is called after it
            raise CommandError(f"{path}: the variant {title!r} needs a name that begins with a letter or a digit.")
        _check_keys(path, title, table, set(FIELD_NAMES) - {"seed"})


def _check_tables(path: Path, tables: Mapping[str, Any]) -> None:
    for title, table in tables.items():
        if not isinstance(table, dict):
            raise CommandError(f"{path}: {title}={table!r} is no table of settings.")


def _check_keys(path: Path, title: str, table: Mapping[str, Any], known: set[str]) -> None:
    if unknown := sorted(set(table) - known):
        remedy = meant(unknown, sorted(known))
        raise CommandError(f"{path}: [{title}] has the unknown key {', '.join(unknown)}; {remedy}")


def _cells(values: Mapping[str, Any]) -> list[Cell]:
    common = dict(values["settings"])
    base = Settings.preset(common.pop("preset", "paper"))
    lines = [
        (strategy_name(strategy, ssl), {"strategy": strategy, "ssl": ssl})
        for strategy in values["strategies"]
        for ssl in values["ssl"]
    ]
    lines += [(name, {"strategy": "tsp", "ssl": True} | own) for name, own in values["variants"].items()]
    cells = []
    for seed in values["seeds"]:
        for name, own in lines:
            asked = common | own | {"seed": seed}
            if asked["strategy"] == "mc_dropout":
                asked = {"dropout": DROPOUT} | asked
            cells.append(Cell(name, base.override(asked)))
        if values["full_data"]:
            cells.append(Cell(FULL_DATA, base.override(common | {"seed": seed, "ssl": False}), full_data=True))
    return cells
