"""A grid's results as lines of figures: the seeds of a name, told apart by their settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.command_line import CommandError
from scripts.grid.spec import strategy_name
from scripts.reporting import words
from scripts.reporting.planned import cut, longer, planned, strangers, unfinished
from scripts.reporting.runs import BROUGHT, Run, own_settings, read_runs
from tsp_model.settings import Settings

TITLES = {
    "random": "random",
    "entropy": "class entropy",
    "mc_dropout": "MC dropout",
    "core_set": "core-set",
    "learning_loss": "learning loss",
    "tsp": "TSP",
    "tsp_diverse": "diverse TSP",
}


@dataclass(frozen=True)
class Line:
    """The cells of a name: one line of a figure.

    Attributes:
        runs: by seed.
        differences: settings that differ from the grid's common ones, by name; of the seed, strategy and ssl apart.
    """

    name: str
    runs: Mapping[int, Run]
    settings: Settings
    differences: Mapping[str, Any]

    @property
    def title(self) -> str:
        """As figures call it: the paper's name of a strategy, a variant's own."""
        strategy, ssl = self.settings.strategy, self.settings.ssl
        # A cell without results has no name but its folder's.
        plain = self.name == strategy_name(strategy, ssl) or not (self.cycles or self.differences)
        return strategy_name(TITLES[strategy], ssl) if plain else self.name

    @property
    def cycles(self) -> int:
        """Finished cycles of the seed that has come furthest."""
        return max(len(run.rows) for run in self.runs.values())

    @property
    def furthest(self) -> dict[int, Run]:
        """The runs that have come as far as any of the line: those that its means are over, the same in every cycle."""
        return {seed: run for seed, run in self.runs.items() if len(run.rows) == self.cycles}


@dataclass(frozen=True)
class GridResults:
    """Attributes:

    common: the settings that the grid's cells share; strategy, ssl and seed say nothing here.
    cycles: K, of a cell that is finished.
    lines: strategies, then variants, each without and with pseudo labels. ceiling: all labels at once, if it was run.
    unfinished: every cell that is not there whole, in words.
    planned: cells of the grid's file, if that was given. smoke: they are those of its quick form.
    strangers, longer: runs that the file does not have, and runs that were cut to its cycles, in words.
    """

    folder: Path
    identity: Mapping[str, Any]
    common: Settings
    cycles: int
    lines: tuple[Line, ...]
    ceiling: Line | None
    unfinished: tuple[str, ...]
    planned: int | None = None
    strangers: tuple[str, ...] = ()
    longer: tuple[str, ...] = ()
    smoke: bool = False

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for line in self.lines for seed in line.runs})

    @property
    def ceiling_ap50(self) -> float | None:
        """AP50 of masks with every label, the mean over seeds."""
        values = self._ceilings
        return sum(values) / len(values) if values else None

    @property
    def ceiling_in_words(self) -> str:
        """Such as "0.512", and of how many seeds that is where it is not all."""
        return f"{words.number(self.ceiling_ap50)}{self.of_seeds(len(self._ceilings))}"

    @property
    def _ceilings(self) -> list[float]:
        return [run.ap50[0] for run in self.ceiling.runs.values() if run.rows] if self.ceiling else []

    def of_seeds(self, count: int) -> str:
        """Such as " (1 of 3 seeds)", to be told where a line has fewer than the grid; else nothing."""
        return "" if count >= len(self.seeds) else f" ({count} of {words.many(len(self.seeds), 'seed')})"

    @property
    def budget(self) -> int:
        """B, the labels of a finished cell."""
        return self.cycles * self.identity["per_cycle"]

    @property
    def steps(self) -> range:
        """Labels at which cycles end, eight at most: the ticks of a figure."""
        per_cycle = self.identity["per_cycle"]
        return range(per_cycle, self.budget + 1, -(-self.cycles // 8) * per_cycle)

    def plain(self, strategy: str, ssl: bool, **own: Any) -> Line | None:
        """The line of a strategy whose settings are the common ones, but for its `own`."""
        asked = {"strategy": strategy, "ssl": ssl} | own
        for line in self.lines:
            there = all(getattr(line.settings, name) == value for name, value in asked.items())
            if there and line.differences.keys() <= own.keys():
                return line
        return None

    @property
    def strategies(self) -> list[Line]:
        """Every plain line."""
        return [line for line in self.lines if not line.differences]

    @property
    def method(self) -> Line | None:
        """What the report is about: TSP + SSL, else TSP."""
        return self.plain("tsp", True) or self.plain("tsp", False)

    @property
    def random(self) -> Line | None:
        """What it is measured against."""
        return self.plain("random", False)

    def finished(self, line: Line) -> dict[int, Run]:
        """The runs of a line that went through all cycles, by seed."""
        return {seed: run for seed, run in line.runs.items() if len(run.rows) >= self.cycles}


def read_results(out: Path, file: Path | None = None, data: str | None = None) -> GridResults:
    """The results in a grid's folder.

    Args:
        file: the grid's, so that cells which were never begun are named, too. What goes beyond its cycles is left out.
        data: see planned.planned.

    Raises:
        CommandError: see runs.read_runs and planned.planned; or nothing there has finished a cycle.
    """
    whole = read_runs(out)
    grid = planned(file, whole, data) if file else None
    cycles = grid.cycles if grid else max((len(run.rows) for run in whole if not run.full_data), default=0)
    runs = [cut(run, cycles) for run in whole]
    cycled = [run for run in runs if not run.full_data]
    if not any(run.rows for run in cycled):
        raise CommandError(f"{out}: no cell has finished a cycle yet; let python -m scripts.benchmark run go on.")
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    common = _common(runs)
    lines = [_line(name, of_name, common) for name, of_name in by_name.items() if not of_name[0].full_data]
    full = [_line(name, of_name, common) for name, of_name in by_name.items() if of_name[0].full_data]
    return GridResults(
        folder=out,
        identity=cycled[0].identity,
        common=common,
        cycles=cycles,
        lines=tuple(sorted(lines, key=_order)),
        ceiling=full[0] if full else None,
        unfinished=tuple(unfinished(runs, cycles, grid, out)),
        planned=len(grid.cells) if grid else None,
        strangers=tuple(strangers(whole, grid)) if grid else (),
        longer=tuple(longer(whole, cycles)),
        smoke=grid is not None and grid.smoke,
    )


def _line(name: str, runs: Sequence[Run], common: Settings) -> Line:
    settings = runs[0].settings
    ours, shared = settings.to_dict(), common.to_dict()
    ignored = own_settings(settings)
    differences = {key: ours[key] for key in ours if key not in ignored and ours[key] != shared[key]}
    return Line(name, {run.seed: run for run in runs}, settings, differences)


def _common(runs: Sequence[Run]) -> Settings:
    """The settings that the grid's file gives to all: the full-data cell's, or what most names have."""
    full = [run for run in runs if run.full_data]
    if full:
        return full[0].settings
    one_a_name = list({run.name: run for run in runs}.values())
    defaults = Settings().to_dict()
    chosen = {}
    for key, default in defaults.items():
        values = [
            run.settings.to_dict()[key] for run in one_a_name if key not in BROUGHT.get(run.settings.strategy, ())
        ]
        counts = Counter(map(repr, values)) or Counter([repr(default)])
        # Of two that are equally frequent, the paper's.
        chosen[key] = max([*values, default], key=lambda value: (counts[repr(value)], value == default))
    return Settings.from_dict(chosen | {"strategy": "tsp"})


def _order(line: Line) -> tuple[Any, ...]:
    place = list(TITLES).index(line.settings.strategy)
    return bool(line.differences), line.settings.ssl, place, line.name
