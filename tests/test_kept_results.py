"""The tables of scripts/experiments/README.md are what the rows in scripts/experiments/results give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.reporting import words
from scripts.reporting.curves import Reached, areas, reached
from scripts.reporting.lines import GridResults, Line, read_results
from scripts.stats import Spread, paired_difference

EXPERIMENTS = Path(__file__).resolve().parent.parent / "scripts" / "experiments"
SETS = sorted(path.name for path in (EXPERIMENTS / "results").iterdir())


def table(grid: GridResults) -> Iterator[str]:
    """Line by line: AP50 by labels, mean and deviation over the finished seeds, and the area less random's."""
    for line in grid.lines:
        finished = list(grid.finished(line).values())
        if finished:
            by_cycle = zip(*(run.ap50 for run in finished), strict=True)
            shown = [words.spread(Spread.of(values)) for values in by_cycle]
            yield f"| {' | '.join([line.title, *shown, str(len(finished)), _less_random(grid, line)])} |"


def _less_random(grid: GridResults, line: Line) -> str:
    if line is grid.random:
        return words.NONE
    return words.difference(paired_difference(areas(grid, line), areas(grid, grid.random)))


@pytest.mark.parametrize("name", SETS)
def test_every_row_of_the_readme_follows_from_the_results(name: str) -> None:
    grid = read_results(EXPERIMENTS / "results" / name, EXPERIMENTS / f"{name}.toml")
    assert not grid.unfinished, "no cell is left out"
    document = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    ((said, shown),) = re.findall(rf"\n{name}, (.*?):\n\n\| labels \|.*\n\|--.*\n((?:\|.*\n)+)", document)
    assert said.endswith(f"labels at once reach {grid.ceiling_in_words}")
    assert shown.splitlines() == list(table(grid))


def saving(found: Reached) -> str:
    """Labels, the seeds that get there where not all do, and what is saved with its sign."""
    if found.labels is None:
        return "none"
    if not found.by_all:
        return f"{found.labels.mean:.0f} ({found.labels.count} of {found.tried})"
    bound = "at least " if found.bound else ""
    return f"{found.labels.mean:.0f}: {bound}{words.interval(found.saved, signed)}"


def signed(value: float) -> str:
    return f"{round(value):+d}" if round(value) else "0"


def test_what_is_saved_follows_from_the_results() -> None:
    document = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    ((head, shown),) = re.findall(r"\n\| (\| ufba425, 80% .*)\n\|--.*\n((?:\|.*\n)+)", document)
    columns = [title.split(", ") for title in head.strip("| ").split(" | ")]
    sets = {name for name, *share in columns if share}
    assert sets == {"ufba425", "dsb2018"}
    asked, name = [], ""
    for *named, share in columns:
        name = named[0] if named else name
        asked.append((name, int(share.rstrip("%")) / 100))
    grids = {name: read_results(EXPERIMENTS / "results" / name) for name in sets}
    for row in shown.splitlines():
        title, *cells = row.strip("| ").split(" | ")
        for (name, share), cell in zip(asked, cells, strict=True):
            grid = grids[name]
            (line,) = [line for line in grid.strategies if line.title == title]
            found = saving(reached(grid, line, share * grid.ceiling_ap50))
            assert cell == (found.partition(":")[0] if line is grid.random else found), (title, name, share)
