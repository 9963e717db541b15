"""How the report's plots look: colours that colour-blind readers tell apart, lines named at their ends, PNGs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from scripts.reporting.lines import TITLES, GridResults, Line
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
End = tuple[str, str, tuple[float, float]]  # of a line: its name, its colour, the last point of it
DPI = 150
MOST_BANDS = 4  # of a panel; more cover each other
LEADER_ENDS = {"shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
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


def look(line: Line) -> tuple[str, str]:
    """Colour and marker of a strategy, the same in every picture."""
    return OF_A_STRATEGY[line.settings.strategy]


def draw_learning_curve(
    axes: Axes, line: Line, colour: str, marker: str, faint: bool = False, aside: float | None = None
) -> tuple[float, float] | None:
    """AP50 over labels, the mean over seeds and one deviation around it; where it ends, or None for no results.

    A point that not every seed has reached is hollow.

    Args:
        faint: a thin line without deviations. aside: None: the deviation is a band; else it is a bar so many labels
            to the right of each point.
    """
    labels, means, deviations, whole = [], [], [], []
    longest = max(line.runs.values(), key=lambda run: len(run.rows))
    for cycle, count in enumerate(longest.labels, start=1):
        values = line.values(cycle, lambda row: row["mask_ap50"])
        labels.append(count)
        means.append(float(np.mean(values)))
        deviations.append(float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        whole.append(len(values) == len(line.runs))
    if not labels:
        return None
    mean, deviation = np.array(means), np.array(deviations)
    if faint:
        axes.plot(labels, mean, color=colour, linestyle=(0, (4, 2)), linewidth=1.2, zorder=2)
        return labels[-1], means[-1]
    if aside is None:
        axes.fill_between(labels, mean - deviation, mean + deviation, color=colour, alpha=0.12, linewidth=0)
    else:
        beside = np.array(labels) + aside
        axes.errorbar(beside, mean, deviation, color=colour, linestyle="", elinewidth=1, alpha=0.7, zorder=1)
    axes.plot(labels, mean, color=colour, zorder=3)
    for count, value, filled in zip(labels, means, whole, strict=True):
        axes.plot(count, value, marker, color=colour, markerfacecolor=colour if filled else "white", zorder=4)
    return labels[-1], means[-1]


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
    text = f"all {grid.identity['train_images']} labels: {grid.ceiling_ap50:.3f}"
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
    per_cycle = grid.identity["per_cycle"]
    step = -(-grid.cycles // 8) * per_cycle
    for panel in axes:
        panel.set_xticks(range(per_cycle, grid.cycles * per_cycle + 1, step))
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, 0), max(high, (grid.ceiling_ap50 or 0) + 0.06 * (high - low)))
    for panel, of_panel in zip(axes, ends, strict=True):
        # An invisible text of the longest name keeps the room that the names, placed later, need.
        longest = max((name for name, _, _ in of_panel), key=len, default="")
        panel.annotate(longest, (1.03, 0.5), xycoords="axes fraction", fontsize=9, alpha=0)
    canvas.draw_without_rendering()
    for panel, of_panel in zip(axes, ends, strict=True):
        name_ends(panel, of_panel)


def name_ends(axes: Axes, ends: Sequence[End]) -> None:
    """Write each line's name to the right of the panel, apart from each other.

    To be called when the limits of the panel are final.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    # What a line of text takes, as a share of the panel's height; constrained layout takes some of it for titles.
    height = 12.5 / (axes.get_window_extent().height * 72 / axes.figure.dpi)
    wanted = [(end[1] - low) / (high - low) for _, _, end in ends]
    for (name, colour, end), place, true in zip(ends, spread(wanted, height), wanted, strict=True):
        leader = None
        if abs(place - true) > height / 4 or end[0] < axes.get_xlim()[1]:
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6} | LEADER_ENDS
        axes.annotate(
            name, end, xytext=(1.03, place), textcoords="axes fraction", color=text_colour(colour), fontsize=9,
            va="center", annotation_clip=False, arrowprops=leader,
        )  # fmt: skip


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
