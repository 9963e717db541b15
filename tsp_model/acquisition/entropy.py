"""Class entropy, which arXiv 2012.04829, section 4, is compared with: how undecided the classes of an image are.

The mean over an image's detections of the entropy of the softmax over all classes and background (Settles, "Active
Learning Literature Survey", 2009, section 3.1.1, for one object). It knows nothing of boxes and masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.predictions import Prediction


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """Minus the mean entropy of each image, [len(pool)], at most 0.

    An image without a detection is as undecided as the surest of what was no detection: object or background?
    """
    return -np.array([np.mean(one.entropies) if one.entropies else _binary(one.max_class_score) for one in pool])


def _binary(share: float) -> float:
    """Entropy of two outcomes, one of which has this probability; 0..log(2)."""
    return sum(-p * np.log(p) for p in (share, 1 - share) if p > 0)
