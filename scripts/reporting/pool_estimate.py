"""When can we stop? The estimate of the pool's AP50 (tsp_model.estimate) beside the truth, which a grid knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from scripts.reporting import plots, words
from scripts.reporting.context import Context
from scripts.reporting.estimates import ON_THE_PICKS, OURS, PICKS, TOO_LITTLE, once, rows_of_cell, summary
from scripts.reporting.lines import Line
from scripts.reporting.page import Absent, Figure, Part, Section, Sentences, Table, Text
from scripts.stats import binomial_tail
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet
from tsp_model.estimate import LEVEL

Row = Mapping[str, Any]  # of scripts.reporting.estimates
MOST_SEEDS = 3  # columns of the picture over the cycles
ENOUGH = 10  # pools; fewer tell little of how often an interval holds the truth
UNLIKELY = 0.05
NO_POOL = "no cell with the common settings has two finished cycles yet, and the last one predicts no pool"
INSTEAD = "label a small random set, keep it aside and watch its AP50 instead"
HOW = (
    "A cycle's model predicts the pool. When the next images are labelled, they tell which of its detections are right "
    "and how much it misses, and from that its AP50 on what remains is estimated. Estimate and truth are of the "
    "detections that ranking or pseudo labels look at; AP50 on the test images counts weaker ones, too. A pool that "
    "several cells share counts once where cells are taken together. The cycles of a cell are not independent, so that "
    "chance has more room than so many pools suggest. Live projects are not told the estimate."
)


@dataclass(frozen=True)
class Estimated:
    """A cell's pools, cycle by cycle: the estimates, and AP50 of the images labelled last alone."""

    line: Line
    seed: int
    rows: Sequence[Row]
    on_the_picks: Sequence[Row]


@dataclass(frozen=True)
class Group:
    """The rows of several cells. Pools that they share, since they begin with the same model, count once."""

    name: str
    rows: Sequence[Row]
    on_the_picks: Sequence[Row]

    @staticmethod
    def of(name: str, cells: Sequence[Estimated]) -> Group:
        rows = [row for cell in cells for row in cell.rows]
        on_the_picks = [row for cell in cells for row in cell.on_the_picks]
        return Group(name, rows, on_the_picks)

    @cached_property
    def pools(self) -> Sequence[Row]:
        return once(self.rows)

    @property
    def held(self) -> int:
        """How many intervals hold the truth."""
        return sum(map(_holds, self.pools))

    @property
    def too_narrow(self) -> bool:
        """Whether intervals that kept their word would hold the truth so seldom by chance only rarely."""
        return binomial_tail(self.held, len(self.pools), LEVEL) < UNLIKELY

    @property
    def few(self) -> bool:
        return len(self.pools) < ENOUGH


def pool_estimate(context: Context) -> Section:
    """What the estimate is worth: in words, over the cycles, against the truth, and in numbers."""
    section = Section("When can we stop? An estimate of the pool's AP50")
    if context.train is None:
        section.parts.append(Absent(f"the estimate of the pool's AP50; {context.without_data}"))
        return section
    cells, missing, refused = _estimate(context, context.train)
    section.parts += _left_out(missing, refused)
    if not cells:
        if not section.parts:
            section.parts.append(Absent(f"the estimate of the pool's AP50; {NO_POOL}."))
        return section
    verdict = _verdict([Group.of(picks, of_picks) for picks, of_picks in _by_picks(cells).items()])
    section.parts[:0] = [Sentences(verdict), Text(HOW)]
    section.parts += [_over_cycles(context, cells), _against_truth(context, cells), _table(cells), _every_pool(cells)]
    return section


def _estimate(context: Context, train: ImageSet) -> tuple[list[Estimated], list[str], int]:
    """Every cell of a plain line that has an estimate, why others have none, and how many pools have too little."""
    found: list[Estimated] = []
    missing: list[str] = []
    refused = 0
    asked = [(line, seed, run) for line in context.grid.strategies for seed, run in sorted(line.runs.items())]
    for line, seed, run in asked:
        context.working(f"estimate of {line.title}, seed {seed}")
        try:
            rows = list(rows_of_cell(run, train, (OURS, ON_THE_PICKS)))
        except DataError as error:
            missing.append(f"{line.title}, seed {seed} ({error})")
            continue
        ours = [row for row in rows if row["method"] == OURS]
        picks = {row["cycle"]: row for row in rows if row["method"] == ON_THE_PICKS}
        refused += len(picks) - len(ours)
        if ours:
            found.append(Estimated(line, seed, ours, [picks[row["cycle"]] for row in ours]))
    return found, missing, refused


def _by_picks(cells: Sequence[Estimated]) -> dict[str, list[Estimated]]:
    """The cells by how the picks came about that their models are judged by. One that leaves the first to chance
    (`random_labels`) has a part in both."""
    found: dict[str, list[Estimated]] = {}
    for by_chance, name in PICKS.items():
        for cell in cells:
            rows = [row for row in cell.rows if row["by_chance"] is by_chance]
            on_the_picks = [row for row in cell.on_the_picks if row["by_chance"] is by_chance]
            if rows:
                found.setdefault(name, []).append(Estimated(cell.line, cell.seed, rows, on_the_picks))
    return found


def _left_out(missing: Sequence[str], refused: int) -> list[Part]:
    parts: list[Part] = []
    if missing:
        more = f" and {words.many(len(missing) - 1, 'more cell')}" * (len(missing) > 1)
        parts.append(Absent(f"the estimate in {missing[0]}{more}."))
    if refused:
        parts.append(Absent(f"the estimate of {words.many(refused, 'pool')}; {TOO_LITTLE}."))
    return parts


def _verdict(groups: Sequence[Group]) -> list[str]:
    """How often the interval keeps its word, and what follows."""
    said = []
    for group in groups:
        judged = "as often as it says, within chance"
        if group.too_narrow:
            judged = "less often than it says"
        elif group.few:
            judged = "too few to judge it by"
        said.append(
            f"With {group.name} the {LEVEL:.0%} interval held the truth in {group.held} of "
            f"{words.many(len(group.pools), 'pool')} ({words.share(group.held / len(group.pools))}): {judged}."
        )
    narrow = [group.name for group in groups if group.too_narrow]
    if narrow:
        return [*said, f"The estimate is not to be relied on with {' or '.join(narrow)}: {INSTEAD}."]
    if any(group.few for group in groups):
        return [*said, f"So far that is no reason to rely on the estimate: {INSTEAD}."]
    width = max(_judged(group.rows)["width"] for group in groups)
    return [*said, f"On this grid the interval keeps its word; with a mean width of {width:.2f} that is all it tells."]


def _over_cycles(context: Context, cells: Sequence[Estimated]) -> Figure:
    """Random and the method, seed by seed."""
    grid, there = context.grid, {(cell.line.name, cell.seed): cell for cell in cells}
    asked = [line for line in (grid.random, grid.method) if line in [cell.line for cell in cells]]
    shown = asked or [cells[0].line]
    seeds = sorted({cell.seed for cell in cells if cell.line in shown})[:MOST_SEEDS]
    canvas, axes = plots.panels(len(shown) * len(seeds), width=3.6, height=2.9, columns=len(seeds), share_y=True)
    drawn = []
    for panel, (line, seed) in zip(axes, ((line, seed) for line in shown for seed in seeds), strict=True):
        if (line.name, seed) not in there:
            panel.remove()
            continue
        _draw_over_cycles(panel, there[line.name, seed])
        panel.set_xlim(0, grid.budget)
        panel.set_xticks(grid.steps)
        panel.set_ylabel("AP50 of the pool" if seed == seeds[0] else "")
        drawn.append(panel)
    drawn[0].set_ylim(bottom=0)
    handles, labels = drawn[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    return Figure(
        plots.save(canvas, context.out / "estimate_over_the_cycles.png"),
        f"AP50 of the pool, estimated and true, over the labels that a model was trained on; bars: the {LEVEL:.0%} "
        f"interval. No more than {MOST_SEEDS} seeds, the lowest. The last cycle predicts no pool.",
        "Estimated and true AP50 of the pool over labels, for random picks and for the method",
    )


def _draw_over_cycles(panel: Axes, cell: Estimated) -> None:
    labels, truth, estimate = ([row[key] for row in cell.rows] for key in ("labels", "truth", "estimate"))
    below_above = [
        [row["estimate"] - row["low"] for row in cell.rows],
        [row["high"] - row["estimate"] for row in cell.rows],
    ]
    plots.draw_points(panel, labels, truth, (plots.BLACK, "o"), label="truth")
    panel.errorbar(
        labels, estimate, below_above, color=plots.BLUE, marker="s", elinewidth=6, label="estimate",
        ecolor=to_rgba(plots.BLUE, 0.25),
    )  # fmt: skip
    panel.set_title(f"{cell.line.title}, seed {cell.seed}", fontsize=10)
    panel.set_xlabel("labelled images")


def _against_truth(context: Context, cells: Sequence[Estimated]) -> Figure:
    """A panel for random picks, one for those of the strategies: each pool a point with its interval."""
    shown = _by_picks(cells)
    most = 1.04 * max(max(row["high"], row["truth"]) for cell in cells for row in cell.rows) or 1
    canvas, axes = plots.panels(len(shown), width=4.8, height=4.8)
    for panel, (picks, of_panel) in zip(axes, shown.items(), strict=True):
        panel.plot([0, most], [0, most], color=plots.GREY, linewidth=1, linestyle=(0, (4, 2)))
        for cell in of_panel:
            _draw_against_truth(panel, cell)
        panel.set_title(picks)
        panel.set_xlabel("true AP50 of the pool")
        panel.set_xlim(-0.02 * most, most)
        panel.set_ylim(-0.02 * most, most)
        panel.set_aspect("equal")
    axes[0].set_ylabel("estimate")
    plots.name_strategies(canvas, [cell.line for cell in cells])
    return Figure(
        plots.save(canvas, context.out / "estimate_against_the_truth.png"),
        f"Each point the pool of a cycle of a cell, bars: the {LEVEL:.0%} interval. Hollow: the interval does not hold "
        "the truth, its bar does not meet the diagonal.",
        "Estimated AP50 of each pool against the true one, with intervals",
    )


def _draw_against_truth(panel: Axes, cell: Estimated) -> None:
    colour, marker = plots.look(cell.line)
    for row in cell.rows:
        holds, truth = _holds(row), row["truth"]
        panel.plot([truth, truth], [row["low"], row["high"]], color=colour, linewidth=1, alpha=0.35 if holds else 0.9)
        inside = colour if holds else "white"
        panel.plot(truth, row["estimate"], marker, color=colour, markerfacecolor=inside, markersize=5, zorder=3)


def _table(cells: Sequence[Estimated]) -> Table:
    lines = list({cell.line.name: cell.line for cell in cells}.values())
    shown = [Group.of(line.title, [cell for cell in cells if cell.line is line]) for line in lines]
    shown += [Group.of(f"all {picks}", of_picks) for picks, of_picks in _by_picks(cells).items()]
    rows = []
    for group in shown:
        of, alone = _judged(group.rows), _judged(group.on_the_picks)
        rows.append(
            [
                group.name,
                str(of["pools"]),
                words.number(_mean(group.on_the_picks, "estimate")),
                words.number(_mean(group.rows, "truth")),
                words.number(of["mean_absolute_error"]),
                f"{of['bias']:+.3f}",
                words.number(alone["mean_absolute_error"]),
                words.number(of["rank_correlation"], 2),
                f"{group.held} of {of['pools']} ({words.share(of['coverage'])})",
                words.number(of["width"]),
            ]
        )
    return Table(
        "The estimate of the pool's AP50 against the truth. Bias: mean of estimate less truth. Rank correlation: of "
        f"estimate and truth over a cell's cycles. The interval should hold the truth in {LEVEL:.0%} of all pools.",
        ["", "pools", "AP50 of the picks", "of the rest: the truth", "mean error", "bias",
         "mean error of the picks' own AP50", "rank correlation", "interval holds the truth", "its mean width"],
        rows,
    )  # fmt: skip


def _every_pool(cells: Sequence[Estimated]) -> Table:
    rows = [
        [cell.line.title, str(cell.seed), str(row["cycle"]), str(row["labels"]), words.number(row["estimate"]),
         f"{row['low']:.3f} to {row['high']:.3f}", words.number(row["truth"]), "yes" if _holds(row) else "no",
         words.number(row["test_ap50"])]
        for cell in cells
        for row in cell.rows
    ]  # fmt: skip
    head = ["", "seed", "cycle", "labels", "estimate", f"{LEVEL:.0%} interval", "truth", "holds it", "test AP50"]
    return Table("Every pool", head, rows, folded=True)


def _mean(rows: Sequence[Row], name: str) -> float:
    pools = once(rows)
    return sum(row[name] for row in pools) / len(pools)


def _judged(rows: Sequence[Row]) -> Mapping[str, Any]:
    (judged,) = summary(rows)
    return judged


def _holds(row: Row) -> bool:
    return row["low"] <= row["truth"] <= row["high"]
