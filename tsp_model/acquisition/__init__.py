"""Which images to label next: a strategy a file, each with `rank(pool, labelled, rng) -> scores, low first`.

pool: the unlabelled images' predictions, in any order, with the detections that count only (Prediction.above).
labelled: the labelled images' predictions, for a strategy that says that it reads them; none for the others.
rng: the only source of chance.
scores: one an entry of the pool, float64; the lowest are labelled first.

A strategy that needs more than detections says what scoring has to note of each image, in `observe`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tsp_model.acquisition import core_set, diverse, entropy, learning_loss, mc_dropout, random, tsp
from tsp_model.errors import NonFiniteError
from tsp_model.inference import Observe
from tsp_model.network import Proposed, TSPMaskRCNN
from tsp_model.predictions import Prediction
from tsp_model.settings import STRATEGY_NAMES, Settings

Rank = Callable[[Sequence[Prediction], Sequence[Prediction], np.random.Generator], np.ndarray]


class NonFiniteScoreError(NonFiniteError, ValueError):
    """A strategy's score of an image is no number."""


class Strategy(NamedTuple):
    """Attributes:

    rank: see above. observe: how scoring is told to note what `rank` reads in Prediction.signals.
    reads_labelled: rank wants the labelled images' predictions.
    absolute: its scores lie in 0..1 and compare between pools, so that they can be shown as they are.
    remember, place: of a strategy whose score depends on the company: what to keep of a ranked pool (in the order of
        `rank`'s arguments), and how many of it come before an image that was not there yet.
    """

    rank: Rank
    observe: Callable[[Settings], Observe] | None = None
    reads_labelled: bool = False
    absolute: bool = False
    remember: Callable[[Sequence[Prediction], Sequence[Prediction]], dict[str, np.ndarray]] | None = None
    place: Callable[[Prediction, dict[str, np.ndarray]], int] | None = None


STRATEGIES: dict[str, Strategy] = {
    "tsp": Strategy(tsp.rank, absolute=True),
    "random": Strategy(random.rank),
    "entropy": Strategy(entropy.rank),
    "mc_dropout": Strategy(mc_dropout.rank, mc_dropout.observer),
    "learning_loss": Strategy(learning_loss.rank, learning_loss.observer),
    "core_set": Strategy(
        core_set.rank, core_set.observer, reads_labelled=True, remember=core_set.remember, place=core_set.place
    ),
    "tsp_diverse": Strategy(
        diverse.rank, core_set.observer, reads_labelled=True, remember=diverse.remember, place=diverse.place
    ),
}
assert set(STRATEGIES) == set(STRATEGY_NAMES)


def observing(settings: Settings, features: bool = False) -> Observe | None:
    """What scoring notes for the strategy of these settings; with `features` core-set's, too, whatever it reads."""
    observers = [STRATEGIES[settings.strategy].observe, core_set.observer if features else None]
    chosen = [observer(settings) for observer in dict.fromkeys(observers) if observer is not None]

    def observe(model: TSPMaskRCNN, proposed: Proposed) -> list[dict[str, Any]]:
        noted = zip(*(one(model, proposed) for one in chosen), strict=True)
        return [{name: value for signals in image for name, value in signals.items()} for image in noted]

    return observe if chosen else None


def choose(
    strategy: str,
    names: Sequence[str],
    pool: Sequence[Prediction],
    labelled: Sequence[Prediction],
    budget: int,
    seed: int,
    cycle: int,
) -> list[str]:
    """The images that cycle k of Algorithm 1 has labelled, first to last: the `budget` lowest of `scored`."""
    return pick(scored(strategy, names, pool, labelled, seed, cycle), budget, seed)


def scored(
    strategy: str,
    names: Sequence[str],
    pool: Sequence[Prediction],
    labelled: Sequence[Prediction],
    seed: int,
    cycle: int,
) -> dict[str, float]:
    """The score of each image in cycle k of Algorithm 1, low first: by chance in the first, the strategy's later.

    The same for the same arguments, wherever the cycle runs.

    Args:
        names: of the unlabelled images, sorted. pool: their predictions, in that order; not looked at if k = 1.
        labelled: see above. cycle: k, from 1 on.
    """
    rng = np.random.default_rng((seed, cycle))
    scores = rng.random(len(names)) if cycle == 1 else STRATEGIES[strategy].rank(pool, labelled, rng)
    return dict(zip(names, map(float, scores), strict=True))


def pick(scores: Mapping[str, float], budget: int, seed: int) -> list[str]:
    """The keys of the `budget` lowest scores, lowest first; ties in an order that depends on key and seed alone.

    Raises NonFiniteScoreError.
    """
    wrong = [key for key, score in scores.items() if not np.isfinite(score)]
    if wrong:
        raise NonFiniteScoreError(f"the score of {wrong[0]} is not finite; its strategy is broken: choose another one.")
    return sorted(scores, key=lambda key: (scores[key], _hash(key, seed)))[:budget]


def _hash(key: str, seed: int) -> bytes:
    """Of an image, for whatever falls to chance."""
    return hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
