"""What pseudo labels and diversity add, each against the same cells without them; and the method in a variant."""

from __future__ import annotations

from scripts.reporting import words
from scripts.reporting.curves import areas, finals
from scripts.reporting.lines import TITLES, GridResults, Line
from scripts.reporting.page import Absent, Table
from scripts.stats import paired_difference

CAPTION = (
    "With and without: what pseudo labels (SSL) add to each strategy, and what diversity adds to TSP; and where a "
    "variant has both, TSP + SSL against random. Area under the learning curve and AP50 after the last cycle, "
    "differences paired by seed, in brackets their 95% interval."
)


def with_and_without(grid: GridResults) -> Table | Absent:
    """A row for each two plain lines that differ in the one thing, over the seeds that both have finished."""
    rows = []
    for more, less in _asked(grid):
        area, last = (paired_difference(score(grid, more), score(grid, less)) for score in (areas, finals))
        if last is not None:
            rows.append([f"{more.title} less {less.title}", str(last.pairs), *map(words.difference, (area, last))])
    if not rows:
        return Absent(
            "what pseudo labels and diversity add; no strategy has finished a seed both with and without them."
        )
    return Table(CAPTION, ["", "seeds", "area, difference", "last AP50 (masks), difference"], rows)


def _asked(grid: GridResults) -> list[tuple[Line, Line]]:
    """What has something, and what lacks it."""
    pairs = [(grid.plain(strategy, True), grid.plain(strategy, False)) for strategy in TITLES]
    pairs += [(grid.plain("tsp_diverse", ssl), grid.plain("tsp", ssl)) for ssl in (False, True)]
    pairs += [(more, less) for more in grid.lines for less in grid.lines if _method_and_random(more, less)]
    return [(more, less) for more, less in pairs if more is not None and less is not None]


def _method_and_random(more: Line, less: Line) -> bool:
    """Whether these are TSP + SSL and random of the same variant, such as a training from initial weights."""
    cells = [(line.settings.strategy, line.settings.ssl) for line in (more, less)]
    return cells == [("tsp", True), ("random", False)] and more.differences == less.differences != {}
