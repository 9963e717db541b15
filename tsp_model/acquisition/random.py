"""Images at random: the baseline of arXiv 2012.04829, section 4, and everybody's first cycle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.predictions import Prediction


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """A uniform score for each image: [len(pool)] in 0..1."""
    return rng.random(len(pool))
