"""Fig. 2 of arXiv 2012.04829: AP50 over labels, and what lies under the curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scripts.reporting import plots, words
from scripts.reporting.context import Context
from scripts.reporting.curves import areas, finals, gains
from scripts.reporting.lines import TITLES, GridResults, Line
from scripts.reporting.page import Absent, Figure, Part, Section, Table, Text
from scripts.reporting.shared_seeds import SharedSeeds
from scripts.reporting.with_and_without import with_and_without
from scripts.stats import PairedDifference, Spread, paired_difference

Score = Callable[[GridResults, Line], Mapping[int, float]]
INTERVALS = "Differences are paired by seed; in brackets their 95% interval."
BARS = "Point: the mean over seeds; bar: its 95% interval."
# Strategies that need something in the network which the others' has not.
OWN_NETWORK = {"learning_loss": "a loss head", "mc_dropout": "dropout"}
CAUTION = (
    "A difference is taken between cells of the same seed, over the seeds that both have finished; its interval is "
    "Student's t, as wide as few seeds ask for. Where many are compared, one in twenty intervals misses its true "
    "value: one that is just clear of zero proves little."
)


def learning_curves(context: Context) -> Section:
    """The curves of every strategy without and with pseudo labels, their areas, and the differences to random."""
    grid = context.grid
    parts: list[Part] = [*_curves(context), Text(CAUTION)]
    table = comparison(
        grid,
        grid.strategies,
        grid.random,
        "Area under the learning curve (mean AP50 over the range of labels) and AP50 after the last cycle: mean and "
        f"deviation over seeds. Gain: last AP50 less that of the first model, M_1. {INTERVALS}",
    )
    first_models, both = _on_first_models(grid), with_and_without(grid)
    parts += [table, *([Text(first_models)] if first_models else []), both]
    if grid.random is None:
        parts.append(Absent("differences to random; the grid has no random cells without pseudo labels."))
    else:
        parts += _differences(context, grid.random)
    return Section("Learning curves (Fig. 2)", parts)


def _on_first_models(grid: GridResults) -> str:
    """That some strategies begin with another model, where the grid has such; else nothing."""
    own = [strategy for strategy in OWN_NETWORK if any(line.settings.strategy == strategy for line in grid.strategies)]
    if not own:
        return ""
    told = " and ".join(f"{TITLES[strategy]} (with {OWN_NETWORK[strategy]})" for strategy in own)
    train = "trains" if len(own) == 1 else "train"
    return (
        f"{told[0].upper()}{told[1:]} {train} another network than the other strategies. The first model, M_1, is "
        "another one there, and its AP50 differs before anything was picked: compare the gain since M_1, too."
    )


def _curves(context: Context) -> list[Part]:
    grid = context.grid
    shared = SharedSeeds.of(grid, grid.strategies)
    begun = [line for line in grid.strategies if shared.cycles(line)]
    if not begun:
        why = "no cell with the settings that most cells share has finished a cycle"
        return [Absent(f"the curves of the strategies; {why}.")]
    shown = [[line for line in begun if line.settings.ssl is ssl] for ssl in (False, True)]
    titles = [title for title, lines in zip(("labels alone", "with pseudo labels (SSL)"), shown, strict=True) if lines]
    canvas, axes = plots.panels(len(titles), width=5.9, height=4.8, share_y=True)
    reference = grid.random if grid.random is not None and len(titles) == 2 else None
    ends: list[list[plots.End]] = []
    for panel, title, lines in zip(axes, titles, filter(None, shown), strict=True):
        ends.append([])
        if reference is not None and reference not in lines:
            faint = plots.look(reference)[0], ""
            ends[-1] += plots.draw_learning_curve(panel, shared, reference, "random, labels alone", faint)
        for line, aside in zip(lines, plots.asides(len(lines), grid.identity["per_cycle"]), strict=True):
            ends[-1] += plots.draw_learning_curve(panel, shared, line, line.title, plots.look(line), aside)
        plots.draw_ceiling(panel, grid)
        panel.set_title(title)
        panel.set_xlabel("labelled images")
    axes[0].set_ylabel("AP50 of masks")
    plots.finish_curves(canvas, axes, ends, grid)
    path = plots.save(canvas, context.out / "fig2_learning_curves.png")
    figure = Figure(
        path,
        f"AP50 of masks over labelled images: {shared.in_words('mean and one standard deviation')}. "
        "Dotted: trained on every label. Dashed in the right panel: random without pseudo labels, for comparison. "
        f"Where a panel has more than {plots.MOST_BANDS} curves, the deviation is a bar, set a little aside so that "
        f"the bars can be told apart.{_on_models(grid)}",
        "Learning curves of every strategy, without pseudo labels on the left and with them on the right",
    )
    return [figure, *shared.left_out()]


def _on_models(grid: GridResults) -> str:
    """What a caption says of how models begin, after a space."""
    warm = "The first model is trained from the initial weights; each further cycle goes on from the model before."
    return "".join(f" {said}" for said in (warm * grid.common.warm_start, _on_first_models(grid)) if said)


def _differences(context: Context, random: Line) -> list[Part]:
    rows = intervals(context.grid, [line for line in context.grid.strategies if line is not random], random, areas)
    if not rows:
        return [Absent("the picture of differences to random; no seed is finished in both.")]
    canvas, (axes,) = plots.panels(1, width=7.5, height=1.1 + 0.3 * len(rows))
    plots.draw_intervals(axes, rows)
    axes.set_xlabel("area under the learning curve, difference to random (AP50)")
    path = plots.save(canvas, context.out / "fig2_difference_to_random.png")
    caption = f"What a strategy gains on random of the same seed over the whole curve. {BARS}"
    return [Figure(path, caption, "Difference of each strategy's area to random's, with intervals")]


def intervals(
    grid: GridResults, lines: Sequence[Line], against: Line, score: Score
) -> list[tuple[str, str, PairedDifference]]:
    """Title, colour and paired difference of each line that shares a finished seed with `against`.

    How many seeds that are is told where it is not all.
    """
    theirs = score(grid, against)
    found = [(line, paired_difference(score(grid, line), theirs)) for line in lines]
    return [
        (f"{line.title}{grid.of_seeds(difference.pairs)}", plots.look(line)[0], difference)
        for line, difference in found
        if difference is not None
    ]


def comparison(
    grid: GridResults, lines: Sequence[Line], against: Line | None, caption: str, settings: bool = False
) -> Table:
    """Area, gain and last AP50 of each line, over the seeds that all have, and the paired difference to one.

    Args:
        settings: with the settings that a line differs in, from the common ones and from the cell of `against`.
    """
    to_one = [f"difference to {against.title}"] if against is not None else []
    head = ["", *["differs in"] * settings, "seeds", "area", *(f"area, {one}" for one in to_one), "gain since M_1"]
    head += ["last AP50 (masks)", *(f"last, {one}" for one in to_one), "last AP50 (boxes)"]
    shared = SharedSeeds.of(grid, lines)
    rows = []
    for line in lines:
        finished = grid.finished(line)
        row = [line.title, *[_differing(line, against)] * settings, _seeds(len(finished), len(grid.seeds))]
        for score in (areas, gains, finals):
            ours = score(grid, line)
            row.append(words.spread(Spread.of([ours[seed] for seed in shared.seeds if seed in ours])))
            if against is not None and score is not gains:
                found = paired_difference(ours, score(grid, against)) if line is not against else None
                row.append(words.difference(found))
        boxes = [finished[seed].rows[-1]["box_ap50"] for seed in shared.seeds if seed in finished]
        rows.append([*row, words.spread(Spread.of(boxes))])
    return Table(f"{caption}{shared.note}", head, rows)


def _seeds(finished: int, asked: int) -> str:
    return str(finished) if finished == asked else f"{finished} of {asked}"


def _differing(line: Line, against: Line | None) -> str:
    of_cell = {name: getattr(line.settings, name) for name in ("strategy", "ssl")}
    other = {name: value for name, value in of_cell.items() if against and value != getattr(against.settings, name)}
    return ", ".join(f"{name} {value}" for name, value in {**other, **line.differences}.items()) or "nothing"
