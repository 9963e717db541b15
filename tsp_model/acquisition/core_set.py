"""Core-set, which arXiv 2012.04829, section 4, is compared with: images that lie far from all that are labelled.

k-centre greedy (Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018,
arXiv 1708.00489, algorithm 1): the next image is always the one whose nearest labelled or chosen image is farthest. The
features are the network's own, so that far means different in its eyes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsp_model.inference import Observe
from tsp_model.network import Proposed, TSPMaskRCNN
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

SIGNAL = "features"
TAKEN = -1.0  # below every distance
Memory = dict[str, np.ndarray]


def observer(settings: Settings) -> Observe:
    """Features of each image: the feature pyramid's channels, averaged over all places and then over its levels."""
    return lambda model, proposed: [{SIGNAL: _rounded(row)} for row in pooled(model, proposed)]


def pooled(model: TSPMaskRCNN, proposed: Proposed) -> Tensor:
    """[B, C] float32."""
    return torch.stack([level.float().mean(dim=(2, 3)) for level in proposed.features.values()]).mean(dim=0)


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """The place of each image in the greedy order, as a share of the pool: [len(pool)] in 0..1."""
    order = farthest_first(features(pool), features(labelled))
    return places(order)


def features(predictions: Iterable[Prediction]) -> np.ndarray:
    """[N, C] float32 of N predictions, of which nothing else is kept; without C where there are none."""
    return np.array([one.signals[SIGNAL] for one in predictions], dtype=np.float32)


def places(order: np.ndarray) -> np.ndarray:
    """Of a permutation [N], where each stands in it, as a share of N: [N] in 0..1."""
    found = np.empty(len(order))
    found[order] = np.arange(len(order)) / max(len(order), 1)
    return found


def farthest_first(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """All points in greedy order: each the one that is farthest from the nearest of centres and points before it.

    10,000 points beside 500 centres take 4 s with 64 channels (the tiny network) and some 20 s with 256 (R50), on one
    core of an AMD EPYC.

    Args:
        points: [N, C] float32. centres: [M, C]; none: the first point is the one farthest from the mean.

    Returns:
        int [N], a permutation; ties by position.
    """
    return _greedy(points, centres)[0]


def remember(pool: Sequence[Prediction], labelled: Sequence[Prediction]) -> Memory:
    """What `place` needs of a pool that was ranked: points [N, C] in the greedy order, centres [M, C], the labelled
    images, and reach [N], how far from all of these and the points before it each was when it was taken."""
    points, centres = features(pool), features(labelled)
    order, reach = _greedy(points, centres)
    return {"points": points[order], "centres": centres, "reach": reach}


def place(later: Prediction, memory: Memory) -> int:
    """How many of the pool the greedy order takes before an image that was not there yet, which leaves it as it was."""
    point = features([later])[0]
    to_points, to_centres = (_distances(memory[name].reshape(-1, len(point)), point) for name in ("points", "centres"))
    # Before each of the N: the nearest of the centres and of what was taken until then.
    nearest = np.minimum.accumulate([min(to_centres, default=np.inf), *to_points], dtype=np.float64)[:-1]
    beaten = np.sqrt(nearest) > memory["reach"]
    return int(np.argmax(beaten)) if beaten.any() else len(beaten)


def _greedy(points: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of `farthest_first` and the distance with which each came; infinite for a first without centres."""
    if not len(points):
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    count, left = len(points), np.arange(len(points))
    nearest = np.full(len(points), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, _distances(points, centre))
    if not len(centres):
        first = int(np.argmax(_distances(points, points.mean(axis=0))))
        nearest = _distances(points, points[first])
        nearest[first] = np.inf
    order, reach = [], []
    while len(order) < count:
        at = int(np.argmax(nearest))
        order.append(left[at])
        reach.append(np.sqrt(nearest[at]))
        nearest = np.minimum(nearest, _distances(points, points[at]))
        nearest[at] = TAKEN
        # What is taken leaves once it is half, so that later rounds look at less and few rounds copy.
        if 2 * (count - len(order)) <= len(left):
            waits = nearest > TAKEN
            left, points, nearest = left[waits], points[waits], nearest[waits]
    return np.array(order, dtype=np.int64), np.array(reach, dtype=np.float64)


def _distances(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Squared, [N]."""
    apart = points - centre
    return np.einsum("ij,ij->i", apart, apart)


def _rounded(row: Tensor) -> list[Any]:
    return [float(f"{value:.5g}") for value in row.tolist()]
