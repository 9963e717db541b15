"""Fig. 4 of arXiv 2012.04829, three ablations, and what else the grid varies. Told by settings, not by names."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.reporting import plots
from scripts.reporting.context import Context
from scripts.reporting.curves import areas
from scripts.reporting.learning_curves import BARS, INTERVALS, comparison, intervals
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Absent, Figure, Part, Section, Text
from scripts.reporting.shared_seeds import SharedSeeds

PARTS = {"cbm": "c, b and m", "cm": "c and m", "cb": "c and b", "c": "c alone"}
RANKINGS = ("random", "entropy", "tsp")
Named = list[tuple[str, Line]]


def ablations(context: Context) -> Section:
    """Three panels as the paper has them, then our own variants beside plain TSP + SSL."""
    grid = context.grid
    panels, parts = [], [Text("All with pseudo labels. A cell's panel follows from its settings.")]
    for title, found, needed in (
        ("1: the ranking", _rankings(grid), "random, entropy and tsp cells with pseudo labels"),
        ("2: β", _along(grid, "beta"), "cells that differ from TSP + SSL in beta alone"),
        (
            "3: the scores of Eq. 2",
            _along(grid, "score_parts"),
            "cells that differ from TSP + SSL in score_parts alone",
        ),
    ):
        if len([line for _, line in found if line.cycles]) > 1:
            panels.append((title, found))
        else:
            parts.append(Absent(f"ablation {title}; it takes {needed}, and the grid has fewer than two of them."))
    if panels:
        parts += [*_curves(context, panels), *_tables(grid, panels)]
    section = Section("Ablations (Fig. 4)", parts)
    _add_own(context, section)
    return section


def _rankings(grid: GridResults) -> Named:
    lines = [grid.plain(strategy, True) for strategy in RANKINGS]
    return [(line.title, line) for line in lines if line is not None]


def _along(grid: GridResults, setting: str) -> Named:
    """TSP + SSL and the cells that differ from it in one setting alone, by its value."""
    lines = [line for line in grid.lines if _tsp_with_ssl(line) and set(line.differences) <= {setting}]
    values = [getattr(line.settings, setting) for line in lines]
    if setting == "score_parts":
        order = {parts: place for place, parts in enumerate(PARTS)}
        ordered = sorted(zip(values, lines, strict=True), key=lambda pair: order[pair[0]])
        return [(PARTS[value], line) for value, line in ordered]
    ordered = sorted(zip(values, lines, strict=True), key=lambda pair: pair[0])
    return [(f"β = {value:g}", line) for value, line in ordered]


def _tsp_with_ssl(line: Line) -> bool:
    return line.settings.strategy == "tsp" and line.settings.ssl


def _curves(context: Context, panels: Sequence[tuple[str, Named]]) -> list[Part]:
    grid = context.grid
    shared = SharedSeeds.of(grid, list({line.name: line for _, lines in panels for _, line in lines}.values()))
    canvas, axes = plots.panels(len(panels), width=4.2, height=3.9, columns=3, share_y=True)
    ends = []
    for panel, (title, lines) in zip(axes, panels, strict=True):
        ends.append([])
        beside = plots.asides(len(lines), grid.identity["per_cycle"])
        for place, (name, line) in enumerate(lines):
            look = _look(place, lines)
            ends[-1] += plots.draw_learning_curve(panel, shared, line, name, look, aside=beside[place])
        plots.draw_ceiling(panel, grid)
        panel.set_title(title)
        panel.set_xlabel("labelled images")
    axes[0].set_ylabel("AP50 of masks")
    plots.finish_curves(canvas, axes, ends, grid)
    figure = Figure(
        plots.save(canvas, context.out / "fig4_ablations.png"),
        f"AP50 of masks over labelled images, {shared.in_words('mean and one standard deviation')}. "
        "1: other rankings with the same pseudo labels. 2: the weight of pseudo-labelled images in Eq. 5. 3: a score "
        "that is taken away leaves Eq. 2 and the pseudo labels' thresholds both.",
        "Learning curves of the ablations",
    )
    return [figure, *shared.left_out()]


def _look(place: int, lines: Named) -> plots.Look:
    """A strategy's own colour among strategies; the method's for plain TSP + SSL among its variants."""
    line = lines[place][1]
    if not line.differences:
        return plots.look(line)
    variants = [other for _, other in lines if other.differences]
    return plots.OF_A_VARIANT[1 + variants.index(line) % (len(plots.OF_A_VARIANT) - 1)]


def _tables(grid: GridResults, panels: Sequence[tuple[str, Named]]) -> list[Part]:
    against, parts = grid.plain("tsp", True), []
    for title, lines in panels:
        caption = f"Ablation {title}: area under the curve and AP50 after the last cycle. {INTERVALS}"
        varied = any(line.differences for _, line in lines)
        parts.append(comparison(grid, [line for _, line in lines], against, caption, settings=varied))
    return parts


def _add_own(context: Context, section: Section) -> None:
    """Every variant that is not a panel of the paper's: a table, and differences to what it is a variant of."""
    grid = context.grid
    own = [
        line
        for line in grid.lines
        if line.differences and not (_tsp_with_ssl(line) and set(line.differences) in ({"beta"}, {"score_parts"}))
    ]
    if not own:
        section.parts.append(Absent("ablations of our own; the grid has no further variants."))
        return
    against = grid.plain("tsp", True)
    table = comparison(
        grid,
        [*([against] if against else []), *own],
        against,
        f"Our own ablations: cells that differ from the common settings in something else. {INTERVALS}",
        settings=True,
    )
    section.parts.append(table)
    if against is None:
        section.parts.append(Absent("differences to TSP + SSL; the grid has no such cell with the common settings."))
        return
    rows = intervals(grid, own, against, areas)
    if rows:
        canvas, (axes,) = plots.panels(1, width=7.5, height=1.1 + 0.3 * len(rows))
        plots.draw_intervals(axes, [(name, plots.BLUE, difference) for name, _, difference in rows])
        axes.set_xlabel(f"area, difference to {against.title} (AP50)")
        path = plots.save(canvas, context.out / "fig4_own_ablations.png")
        caption = f"What each variant gains on {against.title} of the same seed over the whole curve. {BARS}"
        section.parts.append(Figure(path, caption, "Difference of each variant's area to the method's, with intervals"))
