"""What a handful of numbers says: spread, paired differences with their interval, correlation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Attributes:

    mean: of `count` numbers. deviation: the sample's standard deviation (ddof = 1); None for one number.
    """

    mean: float
    deviation: float | None
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread | None:
        """None where there is no number."""
        if not len(values):
            return None
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Spread(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class PairedDifference:
    """The mean of differences within pairs, and where the true mean lies with 95% confidence.

    Attributes:
        half_width: of the interval around the mean, Student's t of one less than `pairs`; None for one pair.
    """

    mean: float
    half_width: float | None
    pairs: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its two ends."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves zero out; never for one pair."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def times(self, factor: float) -> PairedDifference:
        """The same in another unit: minutes instead of images, or with its sign turned."""
        half_width = None if self.half_width is None else self.half_width * abs(factor)
        return PairedDifference(self.mean * factor, half_width, self.pairs)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> PairedDifference | None:
    """Ours less theirs, over the keys (seeds) that both have; None where there is none."""
    differences = [ours[key] - theirs[key] for key in sorted(ours.keys() & theirs.keys())]
    spread = Spread.of(differences)
    if spread is None:
        return None
    half_width = None
    if spread.deviation is not None:
        error = spread.deviation / math.sqrt(spread.count)
        half_width = student_quantile((1 + CONFIDENCE) / 2, spread.count - 1) * error
    return PairedDifference(spread.mean, half_width, spread.count)


def student_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t with so many degrees of freedom stays below with this probability, 0.5 to below 1.

    For whole degrees of freedom the distribution is a finite sum, so that a bisection replaces a dependency on SciPy.
    """
    low, high = 0.0, 1.0
    while student_probability(high, degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_probability(middle, degrees) < probability else (low, middle)
    return high


def student_probability(t: float, degrees: int) -> float:
    """P(T <= t) for t from 0 on: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        degrees: of freedom, a whole number from 1 on.
    """
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    # 1 + cos^2 / 2 + cos^4 (1 * 3) / (2 * 4) + ..., or for odd degrees cos + cos^3 * 2 / 3 + ...
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    total *= math.sin(angle)
    within = 2 / math.pi * (angle + total) if odd else total
    return 0.5 + within / 2


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) of `trials` independent ones that succeed with this probability."""
    return sum(
        math.comb(trials, count) * probability**count * (1 - probability) ** (trials - count)
        for count in range(successes + 1)
    )


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Linear correlation, -1..1; NaN for fewer than two pairs or where one side does not vary."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, -1..1, ties sharing the mean of their ranks; NaN as `pearson`."""
    return pearson(_ranks(first), _ranks(second))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
