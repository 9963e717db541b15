"""What it took, and what it was made with: times, settings, and every cell that is not there whole."""

from __future__ import annotations

import dataclasses
from typing import Any

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.lines import OF_A_LINE, GridResults, Line
from scripts.reporting.page import Part, Section, Table, Text
from scripts.stats import Spread


def times(context: Context) -> Section:
    """Seconds of training and scoring of a cell, by strategy."""
    grid = context.grid
    base = _seconds(grid, grid.random, "train") if grid.random else {}
    rows = []
    for line in (*grid.lines, *([grid.ceiling] if grid.ceiling else [])):
        train, score = (_seconds(grid, line, what) for what in ("train", "score"))
        both = train.keys() & base.keys()
        ratio = sum(train[seed] for seed in both) / sum(base[seed] for seed in both) if both else None
        row = [line.title if line is not grid.ceiling else "all labels at once"]
        row += [str(len(train)), *(words.spread(Spread.of(list(seconds.values())), 0) for seconds in (train, score))]
        rows.append([*row, words.NONE if ratio is None else f"{ratio:.2f}x"])
    table = Table(
        "Seconds of a finished cell, all cycles together: mean and deviation over seeds. The paper: 5.2 h of training "
        "with pseudo labels, 4.8 h without (1.08x). Against random: over the seeds that both have finished.",
        ["", "seeds", "training s", "scoring the pool s", "training, against random"],
        rows,
    )
    note = Text(
        "Wall clock. Cells that shared the machine with other work took longer, and of a cell that was stopped and "
        "went on only the last process's part of a cycle counts."
    )
    return Section("Time", [table, note])


def _seconds(grid: GridResults, line: Line, what: str) -> dict[int, float]:
    """By seed."""
    runs = grid.finished(line) if line is not grid.ceiling else {s: run for s, run in line.runs.items() if run.rows}
    return {seed: sum(row["seconds"][what] for row in run.rows) for seed, run in runs.items()}


def conditions(context: Context) -> Section:
    """Data, machine, budget, seeds, the settings that all share, who deviates, and what is missing."""
    grid = context.grid
    parts: list[Part] = [_about(context)]
    if grid.unfinished:
        text = "Cells that are missing or unfinished, and left out of everything that needs finished cells"
        parts.append(Table(text, ["cell"], [[name] for name in grid.unfinished], words=True))
    else:
        known = "of the grid's file" if grid.planned else "that was begun, in every seed"
        parts.append(Text(f"No cell is left out: each {known} is finished."))
    deviating = [line for line in grid.lines if line.differences or line.settings.strategy == "mc_dropout"]
    if deviating:
        rows = [[line.title, _told(line, grid)] for line in deviating]
        parts.append(Table("Cells with settings of their own", ["", "settings"], rows, words=True))
    shared = {name: value for name, value in dataclasses.asdict(grid.common).items() if name not in OF_A_LINE}
    rows = [[name, str(value)] for name, value in shared.items()]
    parts.append(Table("Settings that all other cells share", ["setting", "value"], rows, words=True))
    return Section("Conditions", parts)


def _told(line: Line, grid: GridResults) -> str:
    ours, common = line.settings.to_dict(), grid.common.to_dict()
    own = {name for name in ours if name not in OF_A_LINE and ours[name] != common[name]}
    return ", ".join(f"{name} {ours[name]} (others {common[name]})" for name in sorted(own)) or "none"


def _about(context: Context) -> Table:
    grid = context.grid
    cells = sum(len(line.runs) for line in grid.lines) + (len(grid.ceiling.runs) if grid.ceiling else 0)
    runs = [run for line in grid.lines for run in line.runs.values()]
    machines = sorted({row["machine"] for run in runs for row in run.rows if "machine" in row})
    values: dict[str, Any] = {
        "data": grid.identity["data"],
        "images": f"{grid.identity['train_images']} in the pool, {grid.identity['test_images']} to evaluate on",
        "budget": f"{words.many(grid.cycles, 'cycle')} of {grid.identity['per_cycle']} labels"
        + ("" if grid.planned else ", as the cell with the most has them; --grid tells what was planned"),
        "seeds": ", ".join(map(str, grid.seeds)),
        "network": f"{grid.common.backbone}, weights {grid.common.weights}, {grid.common.image_size} pixels",
        "machine": "; ".join(machines) or "not recorded",
        "cells": f"{cells} there" + (f" of {grid.planned} planned" if grid.planned else ""),
        "results": str(grid.folder),
    }
    if context.train is not None:
        values["classes"] = ", ".join(context.train.classes)
    return Table("What was run", ["", ""], [[name, str(value)] for name, value in values.items()], words=True)
