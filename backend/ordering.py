"""What Label Studio orders tasks by: one score a prediction, low first, as the version's strategy wants it.

The strategy of a version is the one that it was trained with: scoring notes what that one reads, and a strategy that is
set later counts from the next training on. Until `random_labels` are there it is chance. With TSP, the default, the
score is S itself. The other strategies' own scores mean nothing outside their pool or do not lie in 0..1, so Label
Studio gets each task's place in their order instead (tsp_model/ranking.py), ties broken, which its ascending order
follows exactly. The order needs the whole pool: it is made when all of it is scored, and kept in the version's folder.

A task that comes later, scored by the worker or live by /predict, gets the place it would have taken in that order;
the tasks that were there keep theirs until the next training. S stays in the version's predictions, and the score of a
region is s_ij whatever the strategy.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from backend.snapshot import Image
from backend.versions import Versions
from tsp_model.acquisition import STRATEGIES
from tsp_model.cycle import rank_pool
from tsp_model.data.image_set import ImageSet
from tsp_model.predictions import Prediction
from tsp_model.ranking import RANKING, Ranking
from tsp_model.settings import Settings

ScoreOf = Callable[[Prediction], float]


def strategy_of(card: Mapping[str, Any]) -> str:
    """What orders the pool of the version with this card."""
    return Settings.from_dict(card["settings"]).strategy_at(card["counts"]["labelled_images"])


def score_of(folder: Path) -> ScoreOf:
    """The score of a prediction of this version: by the order that is kept with it, S where none is."""
    ranking = Ranking.read(folder)
    return ranking.score if ranking is not None else attrgetter("image_score")


def known_at_once(folder: Path, strategy: str) -> bool:
    """Whether a prediction's score is known before the whole pool is scored."""
    return STRATEGIES[strategy].absolute or (folder / RANKING).is_file()


def least_sure(predictions: Iterable[Prediction], score: ScoreOf, count: int) -> set[str]:
    """The keys of the `count` predictions that come first; so many are held at a time, however many there are."""
    return {key for _, key in heapq.nsmallest(count, ((score(one), one.key) for one in predictions))}


def keep_order(versions: Versions, version: str, pool: Sequence[Image], labelled: ImageSet) -> None:
    """Keep the order of the pool of a version that has predicted all of it, unless S says it or it is there.

    Chance and ties fall by the images' own names where all have one, so that a project whose images a script imported
    has the order that the same images have anywhere else; else by the tasks' ids.
    """
    folder = versions.folder(version)
    card = versions.card(version)
    method = Settings.from_dict(card["settings"])
    if not pool or known_at_once(folder, strategy_of(card)):
        return
    names = [image.name for image in pool]
    if not all(names) or len(set(names)) < len(names):
        names = [image.key for image in pool]
    key_of = dict(zip(names, (image.key for image in pool), strict=True))
    cycle = len(versions.lineage(version)) + 1  # of Algorithm 1
    rank_pool(cycle, sorted(key_of), labelled, method, folder, key_of.__getitem__, later=True).write(folder)
