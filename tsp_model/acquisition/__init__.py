"""Which images to label next: a strategy a file, each one function `rank(pool, labelled, rng) -> scores, low first`.

pool: the unlabelled images' predictions, in any order, with the detections that count only (Prediction.above).
labelled: the keys of the labelled images.
rng: the only source of chance.
scores: one an entry of the pool, float64; the lowest are labelled first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tsp_model.acquisition import entropy, random, tsp
from tsp_model.predictions import Prediction

Rank = Callable[[Sequence[Prediction], Sequence[str], np.random.Generator], np.ndarray]

STRATEGIES: dict[str, Rank] = {"tsp": tsp.rank, "random": random.rank, "entropy": entropy.rank}


def pick(scores: Mapping[str, float], budget: int, seed: int) -> list[str]:
    """The keys of the `budget` lowest scores, lowest first; ties in an order that depends on key and seed alone.

    Raises ValueError if a score is not finite.
    """
    wrong = [key for key, score in scores.items() if not np.isfinite(score)]
    if wrong:
        raise ValueError(f"the score of {wrong[0]} is not finite; its strategy is broken.")
    return sorted(scores, key=lambda key: (scores[key], _hash(key, seed)))[:budget]


def _hash(key: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
