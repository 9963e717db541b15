"""TSP with diversity, ours: the least sure images are often near-duplicates, and labelling one of them is enough.

Core-set's greedy order, in which an image's distance to what is labelled or chosen already counts as much as it is
unsure: weight 1 for the lowest S of the pool, down to 1 / N for the highest. Ranks and not S itself, because how far S
is spread differs from network to network, and only a ratio of distances matters to the order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.acquisition import core_set, tsp
from tsp_model.predictions import Prediction


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """The place of each image in the weighted greedy order, as a share of the pool: [len(pool)] in 0..1."""
    unsure = 1 - core_set.places(np.argsort(tsp.rank(pool, labelled, rng), kind="stable"))
    order = core_set.farthest_first(core_set.features(pool), core_set.features(labelled), unsure)
    return core_set.places(order)
