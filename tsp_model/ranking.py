"""A pool in a strategy's order, as one score an image: kept with a version, so that later images find their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tsp_model.acquisition import STRATEGIES
from tsp_model.files import write_atomically
from tsp_model.predictions import Prediction

RANKING = "ranking.npz"


class Ranking:
    """N images in the order in which a strategy wants them labelled, ties broken.

    Args:
        strategy, seed, ranking_score_threshold: as in the settings.
        order: keys of the images, first to last. scores: the strategy's own, in that order: float64 [N].
        memory: what Strategy.remember kept, for strategies whose score depends on the company.
    """

    def __init__(
        self,
        strategy: str,
        seed: int,
        ranking_score_threshold: float,
        order: Sequence[str],
        scores: np.ndarray,
        memory: Mapping[str, np.ndarray],
    ) -> None:
        self.strategy, self.seed, self.ranking_score_threshold = strategy, seed, ranking_score_threshold
        self.order, self.scores, self.memory = list(order), scores, dict(memory)
        self._place_of = {key: place for place, key in enumerate(self.order)}

    def score(self, prediction: Prediction) -> float:
        """One number in 0..1, lowest first, that orders images as the strategy does.

        S itself if the strategy is TSP. Else the place among the N, (place + 1/2) / N, which no two share. An image
        that was not among them gets the n / N that lies behind the n which the strategy would label before it: those
        with a score up to its own or, where the score depends on the company (core_set, tsp_diverse), as many as its
        `place` says. What falls to chance depends on seed and key.
        """
        strategy = STRATEGIES[self.strategy]
        if strategy.absolute:
            return prediction.image_score
        place = self._place_of.get(prediction.key)
        if place is not None:
            return (place + 0.5) / len(self.order)
        counted = prediction.above(self.ranking_score_threshold)
        if strategy.place is not None:
            before = strategy.place(counted, self.memory)
        else:
            (score,) = strategy.rank([counted], [], _chance(prediction.key, self.seed))
            before = int(np.searchsorted(self.scores, score, side="right"))
        return before / max(len(self.order), 1)

    def write(self, folder: Path) -> None:
        """Keep it in a version's folder; the file appears whole."""
        names = ("strategy", "seed", "ranking_score_threshold", "order")
        about = json.dumps({name: getattr(self, name) for name in names})

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, about=np.array(about), scores=self.scores, **self.memory)

        write_atomically(folder / RANKING, write)

    @staticmethod
    def read(folder: Path) -> Ranking | None:
        """The ranking of a version's folder; None where none was kept."""
        if not (folder / RANKING).is_file():
            return None
        with np.load(folder / RANKING, allow_pickle=False) as file:
            values = dict(file)
        about = json.loads(str(values.pop("about")))
        return Ranking(**about, scores=values.pop("scores"), memory=values)


def _chance(key: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.random.default_rng((seed, int.from_bytes(digest, "big")))
