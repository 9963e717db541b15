"""What it was made with: data, machines, settings, and every cell that is not there whole."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scripts.grid.spec import OF_A_CELL
from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Part, Section, Table, Text
from scripts.reporting.runs import Run


def conditions(context: Context) -> Section:
    """Data, machine, budget, seeds, the settings that all share, who deviates, and what is missing."""
    grid = context.grid
    parts: list[Part] = [_about(context)]
    if grid.unfinished:
        text = "Cells that are missing or unfinished, and left out of everything that needs finished cells"
        parts.append(Table(text, ["cell"], [[name] for name in grid.unfinished], words=True))
    else:
        known = "that was begun, in every seed"
        if grid.planned:
            known = "of the --smoke form of the grid's file" if grid.smoke else "of the grid's file"
        parts.append(Text(f"No cell is left out: each {known} is finished."))
    if grid.strangers:
        text = "Cells that the grid's file does not have; the figures show them all the same"
        parts.append(Table(text, ["cell"], [[name] for name in grid.strangers], words=True))
    if grid.longer:
        text = f"Cells with more cycles than the grid's file has; all that comes after cycle {grid.cycles} is left out"
        parts.append(Table(text, ["cell"], [[name] for name in grid.longer], words=True))
    deviating = [line for line in grid.lines if line.differences or line.settings.strategy == "mc_dropout"]
    if deviating:
        rows = [[line.title, _told(line, grid)] for line in deviating]
        parts.append(Table("Cells with settings of their own", ["", "settings"], rows, words=True))
    shared = {name: value for name, value in dataclasses.asdict(grid.common).items() if name not in OF_A_CELL}
    rows = [[name, str(value)] for name, value in shared.items()]
    parts.append(Table("Settings that all other cells share", ["setting", "value"], rows, words=True))
    return Section("Conditions", parts)


def _told(line: Line, grid: GridResults) -> str:
    ours, common = line.settings.to_dict(), grid.common.to_dict()
    own = {name for name in ours if name not in OF_A_CELL and ours[name] != common[name]}
    return ", ".join(f"{name} {ours[name]} (others {common[name]})" for name in sorted(own)) or "none"


def _machines(runs: Sequence[Run]) -> list[str]:
    """Each machine with the number of cells that it worked on; its name alone, where there is no other."""
    of_cells = Counter(name for run in runs for name in {row["machine"] for row in run.rows if "machine" in row})
    if len(of_cells) < 2:
        return list(of_cells) or ["not recorded"]
    return [f"{name}: {words.many(count, 'cell')}" for name, count in sorted(of_cells.items())]


def _about(context: Context) -> Table:
    grid = context.grid
    runs = [run for line in (*grid.lines, *([grid.ceiling] if grid.ceiling else [])) for run in line.runs.values()]
    there = f"{len(runs)} there"
    if grid.planned:
        there = f"{len(runs) - len(grid.strangers)} there of {grid.planned} planned"
    values: dict[str, Any] = {
        "data": grid.identity["data"],
        "images": f"{grid.identity['train_images']} in the pool, {grid.identity['test_images']} to evaluate on",
        "budget": f"{words.many(grid.cycles, 'cycle')} of {grid.identity['per_cycle']} labels"
        + ("" if grid.planned else ", as the cell with the most has them; --grid tells what was planned"),
        "seeds": ", ".join(map(str, grid.seeds)),
        "network": f"{grid.common.backbone}, weights {grid.common.weights}, {grid.common.image_size} pixels",
        "cells": there,
        "results": str(grid.folder),
    }
    if context.train is not None:
        values["classes"] = ", ".join(context.train.classes)
    rows = [[name, str(value)] for name, value in values.items()]
    rows += [["machine", one] for one in _machines(runs)]
    return Table("What was run", ["", ""], rows, words=True)
