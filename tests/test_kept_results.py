"""The tables of scripts/experiments/README.md are what the rows in scripts/experiments/results give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.reporting import words
from scripts.reporting.curves import areas
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
