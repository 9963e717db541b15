"""Do b and m mean what they say? The two heads against the true IoUs of the test images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes

from scripts.reporting import plots, words
from scripts.reporting.context import Context
from scripts.reporting.lines import Line
from scripts.reporting.matching import Matches, calibration, match, reliability
from scripts.reporting.page import Absent, Figure, Part, Section, Table, Text
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet
from tsp_model.predictions import Prediction, iterate_predictions

HEADS = (("b", "box IoU", "box"), ("m", "mask IoU", "mask"))


def heads(context: Context) -> Section:
    """A reliability plot of the method's last models, then both heads in numbers, by cycle and by strategy."""
    section = Section("Calibration of the two heads")
    if context.test is None:
        section.parts.append(Absent(f"calibration; {context.without_data}"))
        return section
    above = context.grid.common.ranking_score_threshold
    section.parts.append(
        Text(
            f"Detections of the test images with a class score above {above:g}, matched as AP50 matches them: surest "
            "first, an object of the same class, mask IoU at least 0.5, each object once. Matched detections tell "
            "whether b and m foretell the true IoU of box and mask; the others are false positives, for which the "
            "heads have no target in training."
        )
    )
    measured: list[tuple[str, Matches]] = []
    missing: list[str] = []
    for title, line, cycle in _asked(context):
        context.working(f"calibration of {title}")
        try:
            measured.append((title, _of_all_seeds(context.test, line, cycle, above)))
        except DataError as error:
            missing.append(f"{title} ({error})")
    if missing:
        section.parts.append(
            Absent(f"calibration of {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1))
        )
    if measured:
        section.parts += _parts(context, measured)
    return section


def _asked(context: Context) -> Iterator[tuple[str, Line, int]]:
    """The last cycle of the method first, then its others, then the last of each strategy."""
    grid = context.grid
    method = grid.method or grid.lines[0]
    cycles = method.cycles
    asked = [(method, cycle) for cycle in range(cycles, 0, -1)]
    asked += [(line, line.cycles) for line in grid.strategies if line is not method and line.cycles]
    for line, cycle in asked:
        yield f"{line.title}, cycle {cycle}{grid.of_seeds(len(line.furthest))}", line, cycle


def _of_all_seeds(test: ImageSet, line: Line, cycle: int, above: float) -> Matches:
    """The matches of the models of a cycle, together, of the seeds that have come as far as any."""

    def predictions() -> Iterator[Prediction]:
        for run in line.furthest.values():
            yield from iterate_predictions(run.test_predictions(cycle))

    return match(test, predictions(), above)


def _parts(context: Context, measured: Sequence[tuple[str, Matches]]) -> list[Part]:
    rows = []
    for title, found in measured:
        for symbol, _, head in HEADS:
            of = calibration(*_of_head(found, head))
            rows.append(
                [
                    title if symbol == "b" else "",
                    symbol,
                    str(of.count),
                    words.number(of.error),
                    f"{of.bias:+.3f}" if of.count else words.NONE,
                    words.number(of.pearson, 2),
                    words.number(of.spearman, 2),
                    str(of.false_positives),
                    words.number(of.false_mean, 2),
                ]
            )
    table = Table(
        "b against the true box IoU, m against the true mask IoU, seeds together, in every cycle those that have come "
        "furthest. Bias: mean of score less IoU. "
        "Last column: the mean b or m of false positives, whose IoU is below 0.5 or whose class is wrong.",
        ["", "score", "matched", "mean error", "bias", "Pearson", "Spearman", "false positives", "their mean score"],
        rows,
    )
    title, of_figure = measured[0]
    if not len(of_figure.box_scores):
        return [Absent(f"the figure of b and m over the true IoU; no detection of {title} is right."), table]
    return [_figure(context, title, of_figure), table]


def _of_head(found: Matches, head: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(getattr(found, name) for name in (f"{head}_scores", f"{head}_ious", f"false_{head}_scores"))


def _figure(context: Context, title: str, found: Matches) -> Figure:
    canvas, axes = plots.panels(2, width=4.6, height=4.4)
    for panel, (symbol, iou, head) in zip(axes, HEADS, strict=True):
        scores, ious, _ = _of_head(found, head)
        _draw(panel, scores, ious, plots.BLUE if head == "box" else plots.VERMILLION)
        panel.set_title(f"{symbol} against {iou}")
        panel.set_xlabel(f"predicted, {symbol}")
        panel.set_ylabel(f"true {iou}")
    return Figure(
        plots.save(canvas, context.out / "calibration.png"),
        f"{title}: each dot one matched detection ({len(found.box_scores)}), large points the mean of a tenth of the "
        "score's range, their size by the number of detections. On the diagonal a score is the IoU. Nothing lies below "
        "a mask IoU of 0.5, where no match counts.",
        "Reliability of box score and mask score: true IoU over predicted",
    )


def _draw(panel: Axes, scores: np.ndarray, ious: np.ndarray, colour: str) -> None:
    panel.plot([0, 1], [0, 1], color=plots.GREY, linewidth=1, linestyle=(0, (4, 2)))
    panel.scatter(scores, ious, s=5, color=colour, alpha=max(0.05, min(0.35, 150 / max(len(scores), 1))), linewidths=0)
    points = reliability(scores, ious)
    if points:
        centres, means, counts = (np.array(column) for column in zip(*points, strict=True))
        panel.plot(centres, means, color=colour)
        panel.scatter(centres, means, s=25 + 150 * counts / counts.max(), color=colour, edgecolors="white", zorder=4)
    panel.set_xlim(0, 1.02)
    panel.set_ylim(0, 1.02)
    panel.set_aspect("equal")
