"""What a learning curve says: its area, and the labels that reach a quality."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.reporting.lines import GridResults, Line
from scripts.reporting.runs import Run
from scripts.stats import PairedDifference, Spread, paired_difference


def labels_to_reach(labels: Sequence[int], ap50: Sequence[float], target: float) -> float | None:
    """The number of labels at which a curve first reaches `target`, on straight lines between cycles.

    A curve that begins above it has needed the labels of its first cycle, since fewer were not tried; None: it never
    gets there.
    """
    before: tuple[int, float] | None = None
    for count, value in zip(labels, ap50, strict=True):
        if value >= target:
            if before is None:
                return float(count)
            part = (target - before[1]) / (value - before[1])
            return before[0] + part * (count - before[0])
        before = count, value
    return None


def area(labels: Sequence[int], ap50: Sequence[float]) -> float | None:
    """The mean height of a curve over its labels: the trapezoids' area by the range; None for a single point."""
    if len(labels) < 2:
        return None
    return float(np.trapezoid(ap50, labels) / (labels[-1] - labels[0]))


def areas(grid: GridResults, line: Line) -> dict[int, float]:
    """Of the finished runs, by seed."""
    found = {seed: area(run.labels, run.ap50) for seed, run in grid.finished(line).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def finals(grid: GridResults, line: Line) -> dict[int, float]:
    """AP50 after the last cycle, of the finished runs, by seed."""
    return {seed: run.ap50[-1] for seed, run in grid.finished(line).items()}


def gains(grid: GridResults, line: Line) -> dict[int, float]:
    """AP50 after the last cycle less that of the first model, of the finished runs, by seed."""
    return {seed: run.ap50[-1] - run.ap50[0] for seed, run in grid.finished(line).items()}


def ahead_by_objects(one: Run, other: Run) -> float | None:
    """How much higher a run's AP50 is than another's where both have as many labelled objects, the mean over the
    numbers of objects that both had; None where there are none."""
    curves = [([row["objects"] for row in run.rows], run.ap50) for run in (one, other)]
    first, last = max(objects[0] for objects, _ in curves), min(objects[-1] for objects, _ in curves)
    if last <= first:
        return None
    where = sorted({count for objects, _ in curves for count in objects if first <= count <= last})
    ours, theirs = (np.interp(where, objects, ap50) for objects, ap50 in curves)
    return area(where, ours - theirs)


@dataclass(frozen=True)
class Reached:
    """Labels at which a line reaches a quality.

    Attributes:
        labels: over the seeds that do. tried: how many seeds were asked for and are finished.
        saved: random's labels less the line's, paired by seed; None where that cannot be said of every seed that both
            have finished. Who never gets there is counted with all the labels that it had.
        bound: what `saved` is of the truth, therefore: "≥" if random does not get there in a seed, "≤" if the line does
            not, "" if both always do. Where neither does in a seed, or each in another, nothing can be said.
    """

    labels: Spread | None
    tried: int
    saved: PairedDifference | None
    bound: str

    @property
    def by_all(self) -> bool:
        return self.labels is not None and self.labels.count == self.tried

    @property
    def open_to_zero(self) -> bool:
        """Whether the truth may be zero however far off the bound is: it lies on the other side."""
        if self.saved is None:
            return False
        return (self.bound == "≥" and self.saved.mean < 0) or (self.bound == "≤" and self.saved.mean > 0)


def reached(grid: GridResults, line: Line, target: float, seeds: Collection[int] | None = None) -> Reached:
    """How many labels bring a line to AP50 `target`, and how many fewer than random's that is.

    Args:
        seeds: what is averaged over, as far as it is finished; None: all that is.
    """
    runs = {seed: run for seed, run in grid.finished(line).items() if seeds is None or seed in seeds}
    ours = {seed: _counted(run, target) for seed, run in runs.items()}
    against = grid.finished(grid.random) if grid.random is not None else {}
    theirs = {seed: _counted(run, target) for seed, run in against.items() if seed in ours}
    return Reached(Spread.of([labels for labels, there in ours.values() if there]), len(ours), *_saved(ours, theirs))


Counted = tuple[float, bool]  # see _counted


def _saved(ours: Mapping[int, Counted], theirs: Mapping[int, Counted]) -> tuple[PairedDifference | None, str]:
    """See Reached.saved and bound. theirs: random's, of seeds of ours."""
    arrived = {(ours[seed][1], theirs[seed][1]) for seed in theirs}
    bounds = {"≥" if we_do else "≤" for we_do, random_does in arrived if we_do != random_does}
    if (False, False) in arrived or len(bounds) > 1:
        return None, ""
    labels = ({seed: count for seed, (count, _) in of.items()} for of in (theirs, ours))
    return paired_difference(*labels), "".join(bounds)


def _counted(run: Run, target: float) -> Counted:
    """Labels until a run reaches a quality, all that it had where it does not, and whether it does."""
    count = labels_to_reach(run.labels, run.ap50, target)
    return (run.labels[-1], False) if count is None else (count, True)


@dataclass(frozen=True)
class Overtaking:
    """When a line is as good as random in the end.

    Attributes:
        labels: at which it is, over the seeds that get there. share: of random's labels, of the same seeds.
        tried: seeds that were asked for and that both have finished, without those in which random ends at 0.
    """

    labels: Spread | None
    share: Spread | None
    tried: int

    @property
    def by_all(self) -> bool:
        return self.labels is not None and self.labels.count == self.tried


def overtaking(grid: GridResults, line: Line, random: Line, seeds: Collection[int] | None = None) -> Overtaking:
    """Labels that reach random's last AP50 of the same seed. seeds: as of `reached`."""
    against: dict[int, Run] = grid.finished(random)
    labels, shares, tried = [], [], 0
    for seed, run in grid.finished(line).items():
        if seed in against and against[seed].ap50[-1] > 0 and (seeds is None or seed in seeds):
            tried += 1
            needed = labels_to_reach(run.labels, run.ap50, against[seed].ap50[-1])
            if needed is not None:
                labels.append(needed)
                shares.append(needed / against[seed].labels[-1])
    return Overtaking(Spread.of(labels), Spread.of(shares), tried)
