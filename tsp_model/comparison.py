"""Is a new model worse than the last one? A paired bootstrap of AP50 on images that neither was trained on.

Both models' AP50 go up and down with the images that happen to be there, together: so the same images are drawn again
and again, with replacement, for both, and the difference is what counts (Efron & Tibshirani, An Introduction to the
Bootstrap, chapter 8). AP50 is COCO's, of masks, mean over the classes that have objects.

Plain numbers in and out: no images, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tsp_model.estimate import Checked, expected_ap

REPLICATES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """Attributes:

    images: how many they were compared on.
    before, after: AP50 of the last and of the new model, 0..1.
    low, high: the 95% interval of the difference, after less before.
    """

    images: int
    before: float
    after: float
    low: float
    high: float

    @property
    def worse(self) -> bool:
        """Whether the new model is worse and chance does not explain it."""
        return self.high < 0


def compare(before: Sequence[Checked], after: Sequence[Checked], classes: int, seed: int = 0) -> Comparison:
    """Args:

    before, after: both models' predictions of the same N images, in one order, and what labels say of them; N at least
        1, with at least one object.
    classes: C. seed: of the samples.
    """
    models = [[_OfClass.of(checked, label) for label in range(1, classes + 1)] for checked in (before, after)]
    images = len(before)
    rng = np.random.default_rng(seed)
    drawn = [np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(REPLICATES)]
    differences = [_ap50(models[1], times) - _ap50(models[0], times) for times in drawn]
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    once = np.ones(images, dtype=np.int64)
    return Comparison(images, _ap50(models[0], once), _ap50(models[1], once), float(low), float(high))


class _OfClass(NamedTuple):
    """A class's detections, surest first: which are right, bool [N], and of which image; its objects in each image."""

    right: np.ndarray
    image: np.ndarray
    objects: np.ndarray

    @staticmethod
    def of(checked: Sequence[Checked], label: int) -> _OfClass:
        ours = [np.array(one.prediction.labels, dtype=int) == label for one in checked]
        scores = _joined(np.array(one.prediction.scores)[mine] for one, mine in zip(checked, ours, strict=True))
        right = _joined(one.correct[mine] for one, mine in zip(checked, ours, strict=True))
        image = np.repeat(np.arange(len(checked)), [mine.sum() for mine in ours])
        missed = [sum(of == label for of in one.missed) for one in checked]
        order = np.argsort(-scores, kind="stable")
        objects = np.bincount(image, right, minlength=len(checked)) + missed
        return _OfClass(right[order], image[order], objects)


def _joined(parts: object) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])


def _ap50(classes: Sequence[_OfClass], times: np.ndarray) -> float:
    """Of a sample that has each image so many times: int [images]."""
    found = [
        expected_ap(np.repeat(one.right, times[one.image]), objects)
        for one in classes
        if (objects := float(one.objects @ times))
    ]
    return float(np.mean(found)) if found else 0.0
