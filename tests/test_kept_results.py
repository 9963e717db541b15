"""The tables of scripts/experiments/README.md are what the rows in scripts/experiments/results give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest

from scripts.reporting import words
from scripts.reporting.claims import CLAIMS, measured
from scripts.reporting.curves import Reached, area, areas, reached
from scripts.reporting.lines import GridResults, Line, read_results
from scripts.reporting.runs import read_runs
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


def claims(sets: tuple[str, ...]) -> Iterator[str]:
    """Line by line: what the paper says, and what each set gives."""
    grids = [read_results(EXPERIMENTS / "results" / name) for name in sets]
    for claim in CLAIMS:
        found = [words.difference(measured(grid, claim)) for grid in grids]
        yield f"| {claim.says} ({claim.measure}) | {' | '.join(found)} |"


def test_the_papers_claims_follow_from_the_results() -> None:
    document = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
    ((head, shown),) = re.findall(r"\n\| the paper says \| (.*) \|\n\|--.*\n((?:\|.*\n)+)", document)
    assert shown.splitlines() == list(claims(tuple(head.split(" | "))))


def test_what_luck_is_worth_follows_from_the_results_of_two_machines() -> None:
    theirs = {run.name: run for run in read_runs(EXPERIMENTS / "results_of_a_xeon" / "ufba425")}
    ours = {run.name: run for run in read_runs(EXPERIMENTS / "results" / "ufba425") if run.seed == 1}
    pairs = [(ours[name], run) for name, run in theirs.items()]
    apart = [mean(abs(one.ap50[cycle] - other.ap50[cycle]) for one, other in pairs) for cycle in (1, 2, 3)]
    rose = {one.name: area(one.labels, one.ap50) - area(other.labels, other.ap50) for one, other in pairs}
    moved = [abs(value - rose["random"]) for name, value in rose.items() if name != "random"]
    assert len(pairs) == 7 and min(rose.values()) > 0
    document = " ".join((EXPERIMENTS / "README.md").read_text(encoding="utf-8").split())
    assert "by {:.3f}, {:.3f} and {:.3f} on average at 48, 72 and 96 labels".format(*apart) in document
    assert f"random's by {rose['random']:.3f}, TSP + SSL's by {rose['tsp + SSL']:.3f}" in document
    assert f"moved by {min(moved):.3f} to {max(moved):.3f}, {mean(moved):.3f} on average" in document
