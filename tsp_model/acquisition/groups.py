"""Groups of like images, by k-means on what the network sees in them (the features of core-set)."""

from __future__ import annotations

import cv2
import numpy as np

ATTEMPTS, ITERATIONS, TOLERANCE = 5, 100, 1e-4  # of k-means; the best attempt counts


def centres_of(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The centres of k-means groups, float32 [K, C], K at most `count`; the same for the same arguments.

    Args:
        points: float32 [N, C], N at least 1.
    """
    count = min(count, len(np.unique(points, axis=0)))
    if count == 1:  # of a single point OpenCV would take the numbers for points
        return points.mean(axis=0, keepdims=True)
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, ITERATIONS, TOLERANCE)
    return cv2.kmeans(points, count, None, criteria, ATTEMPTS, cv2.KMEANS_PP_CENTERS)[2]


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The group of each point: int [N], an index into centres [K, C]."""
    return np.array([np.square(centres - point).sum(axis=1).argmin() for point in points], dtype=np.int64)
