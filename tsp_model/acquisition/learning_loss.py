"""Learning loss, which arXiv 2012.04829, section 4, is compared with: images whose loss would be high.

A small head predicts it from the feature pyramid, trained beside the network to put pairs of labelled images in the
order of their losses (Yoo & Kweon, "Learning Loss for Active Learning", CVPR 2019, arXiv 1905.03677): heads.LossHead,
losses.loss_ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tsp_model.inference import Observe
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

SIGNAL = "predicted_loss"


def observer(settings: Settings) -> Observe:
    """The predicted loss of each image; only its order means anything."""
    return lambda model, proposed: [{SIGNAL: value} for value in model.loss_head(proposed.features).tolist()]


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """Minus the predicted loss of each image: [len(pool)]."""
    return -np.array([image.signals[SIGNAL] for image in pool], dtype=np.float64)
