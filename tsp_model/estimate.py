"""When can we stop? AP50 on images that nobody has labelled, estimated from c, b and m; not part of the paper.

The images that a network trained on say nothing about it. But it predicted the images of the next cycle before they
were labelled, and from these two things are learned that scores alone do not tell:

- P(right | c, b, m): which detections found an object, a logistic regression held close to P = c where data is thin;
- how many objects there are beside those that are found: objects = ratio x (found + `FLOOR` an image), a ratio
  estimator (Cochran, Sampling Techniques, chapter 6).

With both, chance is played through for the images that are still unlabelled: each detection is right or not, and COCO's
AP comes of it. The median is the estimate. The picks are a bootstrap sample each time, so that few of them give a wide
interval. What no interval covers: picks are chosen, and a kind of image that is never picked is not known. On chosen
images it may be far off (`python -m scripts.benchmark estimate` measures it), so no live project is told.

Plain numbers in and out: no images, no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from tsp_model.errors import ExplainedError
from tsp_model.predictions import Prediction

LEAST_IMAGES, LEAST_OBJECTS = 5, 5  # to learn from; fewer say nothing
REPLICATES = 400
LEVEL = 0.9  # of the interval
CLIP = 1e-3  # scores are read between this and 1 - this
# Of the regression on 1, logit c, logit b and logit m: where it starts, P = c, and the precision (1 / variance) of that
# belief. What is learned from ten images with a dozen detections is little more than the intercept.
PRIOR = np.array([0.0, 1.0, 0.0, 0.0])
PRECISION = np.array([0.1, 16.0, 16.0, 16.0])
# Detections of one image are right or wrong together: standard deviation, in logits, of what an image adds to its own.
IMAGE_EFFECT = 2.0
# How far chosen images may differ from the others, standard deviations: of the intercept, and of log(objects).
CHOSEN_EFFECT, CHOSEN_OBJECTS = 0.3, 0.2
# What an image is credited with beside the objects found in it: that nothing was found does not mean nothing is there.
FLOOR = 0.5
RECALLS = np.linspace(0, 1, 101)


class EstimateError(ExplainedError, ValueError):
    """There is too little to learn from; the message is one line with the reason."""


class Checked(NamedTuple):
    """A prediction of an image that the model had not seen, and what labels that came later say of it.

    correct: which of the N detections found an object, bool [N]; see evaluation.check.
    missed: labels, 1..C, of the objects that no detection found.
    """

    prediction: Prediction
    correct: np.ndarray
    missed: Sequence[int]


@dataclass(frozen=True)
class Estimate:
    """AP50, 0..1, and the interval that is meant to hold the truth in `LEVEL` of all cases."""

    estimate: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON-able, four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def pool_ap50(pool: Iterable[Prediction], picks: Sequence[Checked], objects: Sequence[int], seed: int = 0) -> Estimate:
    """Mask AP50 of the pool's detections, had the pool labels.

    It is of exactly these detections: cut the picks' at the same class score before.

    Args:
        pool: a model's predictions of unlabelled images.
        picks: the same model's of images that were labelled later.
        objects: of each class among all labelled images, [C]: how the pool's objects are shared among the classes.
            A class without any is left out of the mean.
        seed: of all chance.

    Raises:
        EstimateError: the pool is empty, or there are fewer than `LEAST_IMAGES` picks or `LEAST_OBJECTS` objects in
            them to learn from.
    """
    unlabelled = _Detections.of(pool)
    learned = _Picks.of(picks)
    _refuse_too_little(unlabelled, learned)
    share = np.asarray(objects, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = [_draw(unlabelled, learned, share / share.sum(), rng) for _ in range(REPLICATES)]
    tail = _tail(learned.detections.images)
    low, middle, high = np.quantile(drawn, [tail, 0.5, 1 - tail])
    return Estimate(float(middle), float(low), float(high))


def expected_ap(right: np.ndarray, objects: float) -> float:
    """COCO's average precision of 101 recall points.

    Args:
        right: whether each detection is right, or the probability of it, 0..1 [N], in falling order of class score.
        objects: how many there are, found or not; at least as many as `right` adds up to.
    """
    if not len(right) or objects <= 0:
        return 0.0
    found = np.cumsum(right)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # 1e-9: the last detection reaches a recall that rounding may have put just below its point.
    reached = np.searchsorted(found / objects, RECALLS - 1e-9)
    return float(np.append(envelope, 0.0)[reached].mean())


class _Detections(NamedTuple):
    """The detections of several images, highest class score first: features [N, 4], labels [N], image [N]."""

    features: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    images: int
    order: np.ndarray  # of the detections as they came

    @staticmethod
    def of(predictions: Iterable[Prediction]) -> _Detections:
        scores: list[np.ndarray] = [np.zeros((0, 3))]
        labels: list[int] = []
        lengths: list[int] = []
        for one in predictions:
            scores.append(np.array([one.scores, one.box_scores, one.mask_scores]).T)
            labels += one.labels
            lengths.append(len(one))
        triplets = np.concatenate(scores)
        order = np.argsort(-triplets[:, 0], kind="stable")
        clipped = triplets[order].clip(CLIP, 1 - CLIP)
        features = np.column_stack([np.ones(len(order)), np.log(clipped / (1 - clipped))])
        image = np.repeat(np.arange(len(lengths)), lengths)
        return _Detections(features, np.array(labels, dtype=int)[order], image[order], len(lengths), order)


class _Picks(NamedTuple):
    """Images to learn from: their detections, which of them are right [N], and the objects of each image."""

    detections: _Detections
    correct: np.ndarray
    objects: np.ndarray

    @staticmethod
    def of(picks: Sequence[Checked]) -> _Picks:
        detections = _Detections.of(one.prediction for one in picks)
        correct = np.concatenate([np.zeros(0), *(one.correct for one in picks)])[detections.order]
        objects = np.array([one.correct.sum() + len(one.missed) for one in picks], dtype=float)
        return _Picks(detections, correct, objects)


def _refuse_too_little(pool: _Detections, picks: _Picks) -> None:
    if not pool.images:
        raise EstimateError("no image is unlabelled")
    images, objects = picks.detections.images, int(picks.objects.sum())
    if images < LEAST_IMAGES or objects < LEAST_OBJECTS:
        raise EstimateError(
            f"only {images} images with {objects} objects were predicted before they were labelled; it takes "
            f"{LEAST_IMAGES} with {LEAST_OBJECTS}"
        )


def _tail(images: int) -> float:
    """What is left out on each side. A bootstrap of few images spreads too little and has the tails of a normal
    distribution; the expanded percentile interval makes up for both (Hesterberg, The American Statistician 69, 2015).
    """
    z, freedom = NormalDist().inv_cdf((1 - LEVEL) / 2), images - 1
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)  # Student's, nearly
    return NormalDist().cdf(t * np.sqrt(images / freedom))


def _draw(pool: _Detections, picks: _Picks, share: np.ndarray, rng: np.random.Generator) -> float:
    """AP50 as it may be, learned from a bootstrap sample of the picks."""
    images = picks.detections.images
    sample = rng.integers(images, size=images)
    times = np.bincount(sample, minlength=images).astype(float)
    weight = times[picks.detections.image]
    coefficients = _fit(picks.detections.features, picks.correct, weight)
    effects = _image_effects(picks, coefficients)[rng.choice(sample, size=pool.images)]
    logits = pool.features @ coefficients + effects[pool.image] + rng.normal(0, CHOSEN_EFFECT)
    right = rng.random(len(logits)) < _sigmoid(logits)
    ratio = (picks.objects @ times) / (picks.correct @ weight + FLOOR * images)
    objects = ratio * (right.sum() + FLOOR * pool.images) * np.exp(rng.normal(0, CHOSEN_OBJECTS))
    found = [right[pool.labels == label] for label in range(1, len(share) + 1)]
    counts = _counts(np.array([of_class.sum() for of_class in found], dtype=float), objects, share)
    return float(np.mean([expected_ap(found[index], counts[index]) for index in np.flatnonzero(share)]))


def _counts(found: np.ndarray, objects: float, share: np.ndarray) -> np.ndarray:
    """How many objects of each class there are, [C]: what is missed goes where `share` misses most."""
    lacking = (share * max(objects, found.sum()) - found).clip(0)
    missed = max(objects - found.sum(), 0.0)
    return found + missed * (lacking / lacking.sum() if missed else share)


def _fit(features: np.ndarray, correct: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients of the logistic regression, [4]: the mode of their posterior, by Newton's method."""
    coefficients = PRIOR.copy()
    for _ in range(50):
        right = _sigmoid(features @ coefficients)
        gradient = features.T @ (weight * (right - correct)) + PRECISION * (coefficients - PRIOR)
        curvature = (features * (weight * right * (1 - right))[:, None]).T @ features + np.diag(PRECISION)
        step = np.linalg.solve(curvature, gradient)
        coefficients = coefficients - step / max(1.0, np.abs(step).max())  # no leaps where the curve is flat
        if np.abs(step).max() < 1e-6:
            break
    return coefficients


def _image_effects(picks: _Picks, coefficients: np.ndarray) -> np.ndarray:
    """What each pick adds to the logits of its detections, [images]: the mode, by Newton's method; 0 without any."""
    logits, image, images = picks.detections.features @ coefficients, picks.detections.image, picks.detections.images
    effects = np.zeros(images)
    for _ in range(8):
        right = _sigmoid(logits + effects[image])
        gradient = np.bincount(image, right - picks.correct, minlength=images) + effects / IMAGE_EFFECT**2
        curvature = np.bincount(image, right * (1 - right), minlength=images) + 1 / IMAGE_EFFECT**2
        effects -= np.clip(gradient / curvature, -1, 1)
    return effects


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
