"""TSP with diversity, ours: the least sure images are often near-duplicates, and labelling one of them is enough.

Core-set's greedy order, in which an image's distance to what is labelled or chosen already counts as much as it is
unsure: weight 1 for the lowest S of the pool, down to 1 / N for the highest. Ranks and not S itself, because how far S
is spread differs from network to network, and only a ratio of distances matters to the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.acquisition import core_set
from tsp_model.predictions import Prediction


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """The place of each image in the weighted greedy order, as a share of the pool: [len(pool)] in 0..1."""
    order = core_set.farthest_first(core_set.features(pool), core_set.features(labelled), _unsure(_scores(pool)))
    return core_set.places(order)


def remember(pool: Sequence[Prediction], labelled: Sequence[Prediction]) -> core_set.Memory:
    """What `place` needs of a pool that was ranked."""
    scores = _scores(pool)
    memory = core_set.greedy_memory(core_set.features(pool), core_set.features(labelled), _unsure(scores))
    return memory | {"scores_sorted": np.sort(scores)}


def place(later: Prediction, memory: core_set.Memory) -> int:
    """How many of the pool come before an image that was not there yet, weighted by where its S stands; 0..N."""
    below = np.searchsorted(memory["scores_sorted"], later.image_score, side="right")
    weight = 1 - below / max(len(memory["scores_sorted"]), 1)
    return core_set.greedy_place(core_set.features([later])[0], memory, weight)


def _scores(pool: Sequence[Prediction]) -> np.ndarray:
    return np.array([one.image_score for one in pool], dtype=np.float64)


def _unsure(scores: np.ndarray) -> np.ndarray:
    return 1 - core_set.places(np.argsort(scores, kind="stable"))
