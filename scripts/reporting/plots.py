"""How the report's plots look: colours that colour-blind readers tell apart, lines named at their ends, PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from scripts.reporting.lines import TITLES, GridResults, Line
from scripts.reporting.shared_seeds import SharedSeeds
from scripts.stats import PairedDifference

# Okabe and Ito, Color Universal Design, without its yellow, which is too light for a line on white.
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = (
    "#222222", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7",
)  # fmt: skip
GREY = "#6b7480"
OF_A_STRATEGY = {
    "random": (BLACK, "o"),
    "entropy": (ORANGE, "s"),
    "mc_dropout": (SKY, "D"),
    "core_set": (GREEN, "^"),
    "learning_loss": (PURPLE, "v"),
    "tsp": (VERMILLION, "o"),
    "tsp_diverse": (BLUE, "P"),
}
OF_A_VARIANT = ((VERMILLION, "o"), (BLUE, "s"), (GREEN, "^"), (PURPLE, "v"), (ORANGE, "D"), (SKY, "P"), (BLACK, "X"))
Look = tuple[str, str]  # colour and marker of a line


class End(NamedTuple):
    """Where a curve ends: its last point, in data."""

    name: str
    look: Look
    point: tuple[float, float]


DPI = 150
MOST_BANDS = 4  # of a panel; more cover each other
LEADER_ENDS = {"shrinkA": 2.5, "shrinkB": 3}
IN_THE_MARGIN = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 9, "va": "center"}
KEY = 7  # room of a point before a name, in points
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceff3",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}


def panels(
    count: int, width: float = 5.2, height: float = 4.2, columns: int = 2, share_y: bool = False
) -> tuple[Canvas, list[Axes]]:
    """A picture with so many panels in rows; sizes of each in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    canvas = Canvas(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, sharey=share_y, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return canvas, list(axes[:count])


def tiles(
    rows: int, columns: int, width: float, height: float, above: Sequence[float], below: float = 0.0, left: float = 0.0
) -> tuple[Canvas, list[list[Axes]]]:
    """Panels for images, row by row, exactly as large as they are asked for; all in inches.

    Args:
        above: free space over each row. below: under each. left: of all.
    """
    gap = 0.06
    total = left + columns * (width + gap), sum(above) + rows * (height + below + gap)
    canvas = Canvas(figsize=total)
    FigureCanvasAgg(canvas)
    grid = []
    top = 0.0
    for row in range(rows):
        top += above[row]
        bottom = total[1] - top - height
        places = [(left + column * (width + gap), bottom, width, height) for column in range(columns)]
        grid.append(
            [canvas.add_axes((x / total[0], y / total[1], w / total[0], h / total[1])) for x, y, w, h in places]
        )
        top += height + below + gap
    return canvas, grid


def save(canvas: Canvas, path: Path) -> Path:
    """Write a PNG; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=DPI, facecolor="white")
    return path


def text_colour(colour: str) -> tuple[float, ...]:
    """A colour dark enough for letters on white."""
    return tuple(0.7 * part for part in to_rgb(colour))


def look(line: Line) -> Look:
    """Colour and marker of a strategy, the same in every picture."""
    return OF_A_STRATEGY[line.settings.strategy]


def draw_learning_curve(
    axes: Axes, shared: SharedSeeds, line: Line, name: str, look: Look, aside: float | None = None
) -> list[End]:
    """AP50 over labels, the mean over the shared seeds and one deviation around it; its end, if there is any.

    The points of a curve that is not finished are hollow.

    Args:
        look: without a marker the curve is a thin line without deviations. aside: None: the deviation is a band; else
            it is a bar so many labels to the right of each point.
    """
    (colour, marker), cycles = look, shared.cycles(line)
    if not cycles:
        return []
    labels = line.runs[shared.seeds[0]].labels[:cycles]
    values = np.array([shared.values(line, cycle, lambda row: row["mask_ap50"]) for cycle in range(1, cycles + 1)])
    mean, deviation = values.mean(axis=1), values.std(axis=1, ddof=1) if len(shared.seeds) > 1 else np.zeros(cycles)
    end = [End(name, look, (labels[-1], float(mean[-1])))]
    if not marker:
        axes.plot(labels, mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.2, zorder=2)
        return end
    if aside is None:
        axes.fill_between(labels, mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0)
    else:
        beside = np.array(labels) + aside
        axes.errorbar(beside, mean, deviation, color=colour, linestyle="", elinewidth=1, alpha=0.7, zorder=1)
    draw_points(axes, labels, mean, look, hollow=cycles < shared.grid.cycles)
    return end


def draw_points(
    axes: Axes, x: Sequence[float], y: Sequence[float], look: Look, hollow: bool = False, label: str = ""
) -> None:
    """A line with points, whole ones also at the edge of the panel."""
    colour, marker = look
    inside = "white" if hollow else colour
    (line,) = axes.plot(
        x, y, color=colour, marker=marker, markerfacecolor=inside, zorder=3, clip_on=False, label=label or None
    )
    line.set_in_layout(False)  # what is not clipped would push the panels aside


def asides(count: int, per_cycle: int) -> list[float | None]:
    """How far the bars of each of so many curves of a panel are set aside; None for a few, whose bands are readable."""
    if count <= MOST_BANDS:
        return [None] * count
    return [per_cycle * 0.07 * (place - (count - 1) / 2) for place in range(count)]


def draw_ceiling(axes: Axes, grid: GridResults) -> None:
    """The quality with every label, as a line across."""
    if grid.ceiling_ap50 is None:
        return
    axes.axhline(grid.ceiling_ap50, color=GREY, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=1)
    text = f"all {grid.identity['train_images']} labels: {grid.ceiling_in_words}"
    axes.annotate(
        text, (0, grid.ceiling_ap50), xycoords=("axes fraction", "data"), xytext=(3, 3),
        textcoords="offset points", color=GREY, fontsize=9,
    )  # fmt: skip


def finish_curves(
    canvas: Canvas,
    axes: Sequence[Axes],
    ends: Sequence[Sequence[End]],
    grid: GridResults,
) -> None:
    """Ticks where cycles end, room for the ceiling, and the lines' names, in every panel."""
    for panel in axes:
        panel.set_xticks(grid.steps)
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, 0), max(high, (grid.ceiling_ap50 or 0) + 0.06 * (high - low)))
    for panel, of_panel in zip(axes, ends, strict=True):
        # An invisible text of the longest name keeps the room that the names, placed later, need.
        longest = max((end.name for end in of_panel), key=len, default="")
        panel.annotate(longest, xy=(1.03, 0.5), xytext=(KEY, 0), alpha=0, **IN_THE_MARGIN)
    canvas.draw_without_rendering()
    for panel, of_panel in zip(axes, ends, strict=True):
        name_ends(panel, of_panel, grid.budget)


def name_ends(axes: Axes, ends: Sequence[End], labels: int) -> None:
    """Write each line's name to the right of the panel, apart from each other.

    A leader ties a name to its curve where that has all its labels. From a curve that ends before, it would run across
    the others; the name has the curve's hollow point before it instead.

    To be called when the limits of the panel are final.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    # What a line of text takes, as a share of the panel's height; constrained layout takes some of it for titles.
    height = 12.5 / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    wanted = [(end.point[1] - low) / (high - low) for end in ends]
    for (name, (colour, marker), point), place in zip(ends, spread(wanted, height), strict=True):
        whole = point[0] >= labels
        if whole:
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6} | LEADER_ENDS
            axes.annotate(
                "", point, xytext=(1.03, place), textcoords="axes fraction", annotation_clip=False, arrowprops=leader
            )
        else:
            axes.plot(
                1.03, place, marker, color=colour, markerfacecolor="white", transform=axes.transAxes, clip_on=False
            )
        offset = KEY * (not whole and bool(marker))
        axes.annotate(name, (1.03, place), xytext=(offset, 0), color=text_colour(colour), **IN_THE_MARGIN)


def spread(wanted: Sequence[float], distance: float) -> list[float]:
    """Places in 0..1 as near to `wanted` as `distance` between neighbours allows, in the same order.

    Neighbours that are too close become a block around their middle; blocks that meet become one.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[int]] = []

    def first(block: list[int]) -> float:
        length = (len(block) - 1) * distance
        middle = sum(wanted[index] for index in block) / len(block)
        return min(max(middle - length / 2, 0.0), max(1.0 - length, 0.0))

    for index in order:
        blocks.append([index])
        while len(blocks) > 1:
            end = first(blocks[-2]) + (len(blocks[-2]) - 1) * distance
            if first(blocks[-1]) - end >= distance - 1e-9:
                break
            last = blocks.pop()
            blocks[-1] += last
    places = [0.0] * len(wanted)
    for block in blocks:
        start = first(block)
        for number, index in enumerate(block):
            places[index] = start + number * distance
    return places


def draw_intervals(axes: Axes, rows: Sequence[tuple[str, str, PairedDifference]]) -> None:
    """Paired differences with their intervals, one a row (name, colour, PairedDifference), the first on top."""
    axes.axvline(0, color=GREY, linewidth=1)
    for place, (_, colour, difference) in enumerate(rows):
        if difference.interval is not None:
            axes.plot(difference.interval, [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(difference.mean, place, "o", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], color=BLACK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def name_strategies(canvas: Canvas, lines: Sequence[Line]) -> None:
    """A legend of the strategies below all panels."""
    of_strategy = {TITLES[line.settings.strategy]: look(line) for line in lines}
    handles = [
        Line2D([], [], color=colour, marker=marker, label=title) for title, (colour, marker) in of_strategy.items()
    ]
    canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
