"""TSP with diversity, ours: each kind of image gets labels in proportion to how many there are, its least sure first.

Plain TSP spends its budget on the kind of image that the network knows least, however rare that kind is, and what is
labelled then no longer resembles what the network will be asked. Here images are put in groups of like ones, and the
next label goes to the group that has the fewest for its size: the method of Sainte-Laguë, by which parliaments are
filled. In a group of n images, l of them labelled, the least sure one has the score (l + 1/2) / n, the next one
(l + 3/2) / n and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tsp_model.acquisition.core_set import Memory, features
from tsp_model.acquisition.groups import centres_of, nearest
from tsp_model.predictions import Prediction

SEED = 0  # of k-means, so that a pool has the same groups whenever it is looked at


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """The score of each image, see above: [len(pool)] in 0..1."""
    return remember(pool, labelled)["turns"] if pool else np.zeros(0)


def remember(pool: Sequence[Prediction], labelled: Sequence[Prediction]) -> Memory:
    """What `place` needs of a pool that was ranked, at least one image.

    centres [K, C] of the groups, K = sqrt(N / 2) of all N images; sizes and labels [K], how many images they have and
    how many of these are labelled; image_scores, groups and turns [len(pool)], each image's S, group and score in this
    strategy.
    """
    points = features([*pool, *labelled])
    centres = centres_of(points, max(1, round(math.sqrt(len(points) / 2))), SEED)
    groups = nearest(points, centres)
    memory = {
        "centres": centres,
        "sizes": np.bincount(groups, minlength=len(centres)),
        "labels": np.bincount(groups[len(pool) :], minlength=len(centres)),
        "image_scores": np.array([one.image_score for one in pool], dtype=np.float64),
        "groups": groups[: len(pool)],
    }
    return memory | {"turns": _turns(memory)}


def place(later: Prediction, memory: Memory) -> int:
    """How many of the pool come before an image that was not there yet; 0..N."""
    (group,) = nearest(features([later]), memory["centres"])
    before = (memory["groups"] == group) & (memory["image_scores"] <= later.image_score)
    return int((memory["turns"] < _score(memory, group, before.sum())).sum())


def _turns(memory: Memory) -> np.ndarray:
    found = np.empty(len(memory["groups"]))
    for group in np.unique(memory["groups"]):
        members = np.flatnonzero(memory["groups"] == group)
        least_sure_first = members[np.argsort(memory["image_scores"][members], kind="stable")]
        found[least_sure_first] = _score(memory, group, np.arange(len(members)))
    return found


def _score(memory: Memory, group: int, before: np.ndarray) -> np.ndarray:
    """before: how many images of the group's part of the pool come first."""
    return (memory["labels"][group] + before + 0.5) / memory["sizes"][group]
