"""What the strategies pick: near-duplicates of each other, or images that are unlike all others?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scripts.reporting import words
from scripts.reporting.context import Context
from scripts.reporting.curves import ahead_by_objects, areas
from scripts.reporting.lines import GridResults, Line
from scripts.reporting.page import Absent, Section, Table
from scripts.reporting.runs import Run
from scripts.stats import Spread, paired_difference
from tsp_model.acquisition.core_set import features
from tsp_model.data import DataError
from tsp_model.predictions import read_predictions

WITH_FEATURES = ("core_set", "tsp_diverse")  # strategies for which scoring notes them
CAPTION = (
    "What the strategy picks, once chance has picked the first cycle's images (or random_labels), means over seeds. "
    "Distances are between features that the first model of a cell of core-set or diverse TSP has of the images, each "
    "seed its own. To the next pick: from a pick to the nearest other pick of its cycle, 1 where as many images are "
    "drawn from the pool by chance; less means near-duplicates. To the next image: from a pick to the nearest other "
    "image of the pool, 1 on average over the pool; more means odd images."
)

BY_OBJECTS = (
    "AP50 less random's, the mean over the curve, paired by seed, in brackets its 95% interval: at as many labelled "
    "images, and at as many labelled objects, as far as both had them. Who pays by the outline looks at the second."
)


@dataclass(frozen=True)
class Pool:
    """What a seed's first model leaves to pick from.

    Attributes:
        points: features by image, [C]. alone: distance from an image to the nearest other, the mean of all.
        by_chance: the same among so many as a cycle picks, drawn by chance: what is to be expected.
    """

    points: Mapping[str, np.ndarray]
    alone: float
    by_chance: float

    @staticmethod
    def of(points: Mapping[str, np.ndarray], count: int) -> Pool:
        """count: images that a cycle picks, two or more."""
        everything, shares = np.array(list(points.values())), nearest_by_rank(len(points), count)
        alone, by_chance = [], []
        for point in everything:
            distances = np.sort(np.linalg.norm(everything - point, axis=1))[1:]  # the first is its own
            alone.append(distances[0])
            by_chance.append(distances @ shares)
        return Pool(points, float(np.mean(alone)), float(np.mean(by_chance)))

    def to_the_next_pick(self, picks: Sequence[str]) -> float:
        """Mean over the picks of a cycle, as a share of `by_chance`."""
        return self._mean_nearest(picks, picks) / self.by_chance

    def to_the_next_image(self, picks: Sequence[str]) -> float:
        """Mean over the picks of a cycle, as a share of `alone`."""
        return self._mean_nearest(picks, list(self.points)) / self.alone

    def _mean_nearest(self, of: Sequence[str], among: Sequence[str]) -> float:
        points = np.array([self.points[key] for key in among])
        distances = (np.partition(np.linalg.norm(points - self.points[key], axis=1), 1)[1] for key in of)
        return float(np.mean(list(distances)))


def nearest_by_rank(total: int, count: int) -> np.ndarray:
    """How likely the j-th nearest of an image's others is the nearest of those that are drawn with it, [total - 1].

    Args:
        count: so many of `total` images are drawn by chance, it among them; two or more.
    """
    # The j-th is drawn if none before it was; surely, once as few are left as are to be drawn.
    drawn = np.minimum((count - 1) / np.arange(total - 1, 0, -1), 1)
    return drawn * np.cumprod(np.concatenate([[1.0], 1 - drawn[:-1]]))


def picks(context: Context) -> Section:
    """Two tables with a row a strategy: how near and how odd its picks are, and what their objects bring."""
    grid = context.grid
    section = Section("What is picked")
    if grid.random is not None:
        section.parts.append(_by_objects(grid, grid.random))
    pools, missing = _pools(context)
    rows = [row for line in grid.strategies if (row := _row(grid, line, pools)) is not None]
    if not rows:
        section.parts.append(Absent(f"near-duplicates and odd images among the picks; {missing}."))
        return section
    section.parts.append(
        Table(CAPTION, ["", "seeds", "to the next pick", "to the next image", "objects an image"], rows)
    )
    return section


def _by_objects(grid: GridResults, random: Line) -> Table:
    rows = []
    for line in grid.strategies:
        finished, against = grid.finished(line), grid.finished(random)
        objects = Spread.of([run.rows[-1]["objects"] for run in finished.values()])
        ahead = {seed: ahead_by_objects(run, against[seed]) for seed, run in finished.items() if seed in against}
        known = {seed: value for seed, value in ahead.items() if value is not None}
        by_images = paired_difference(areas(grid, line), areas(grid, random))
        by_objects = paired_difference(known, dict.fromkeys(known, 0.0))
        differences = map(words.difference, (by_images, by_objects) if line is not random else (None, None))
        rows.append([line.title, str(len(finished)), words.spread(objects, 0), *differences])
    return Table(BY_OBJECTS, ["", "seeds", "labelled objects in the end", "by images", "by objects"], rows)


def _pools(context: Context) -> tuple[dict[int, Pool], str]:
    """By seed, and why there is none."""
    grid, count = context.grid, context.grid.identity["per_cycle"]
    if count < 2:
        return {}, "a cycle picks one image"
    lines = [line for strategy in WITH_FEATURES for ssl in (False, True) if (line := grid.plain(strategy, ssl))]
    if not lines:
        return {}, f"they need a cell of {' or '.join(WITH_FEATURES)}"
    found: dict[int, Pool] = {}
    missing = "no cell with features has two finished cycles yet"
    for line in lines:
        for seed, run in line.runs.items():
            if seed in found or len(run.rows) < 2:
                continue
            context.working(f"features of seed {seed}")
            try:
                predictions = read_predictions(run.pool_predictions(1))
            except DataError as error:
                missing = str(error)
                continue
            points = zip(predictions, features(predictions.values()), strict=True)
            found[seed] = Pool.of(dict(points), count)
    return found, missing


def _row(grid: GridResults, line: Line, pools: Mapping[int, Pool]) -> list[str] | None:
    runs = {seed: run for seed, run in grid.finished(line).items() if seed in pools and run.own_picks}
    if not runs:
        return None
    cycles = [(pools[seed], run.picked[str(cycle)]) for seed, run in runs.items() for cycle in run.own_picks]
    return [
        line.title,
        str(len(runs)),
        words.number(float(np.mean([pool.to_the_next_pick(picked) for pool, picked in cycles])), 2),
        words.number(float(np.mean([pool.to_the_next_image(picked) for pool, picked in cycles])), 2),
        words.number(float(np.mean([_objects(run) for run in runs.values()])), 1),
    ]


def _objects(run: Run) -> float:
    """On an image that the strategy picked."""
    first, last = run.rows[run.own_picks[0] - 2], run.rows[-1]
    return (last["objects"] - first["objects"]) / (last["labels"] - first["labels"])
