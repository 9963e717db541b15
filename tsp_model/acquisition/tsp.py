"""Triplet scoring: the image score S of Eq. 3 (arXiv 2012.04829, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.predictions import Prediction


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """S_i of each image, which its prediction carries: [len(pool)] in 0..1."""
    return np.array([prediction.image_score for prediction in pool], dtype=np.float64)
