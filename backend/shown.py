"""Which instances of a prediction annotators are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tsp_model.predictions import Prediction


@dataclass(frozen=True)
class Shown:
    """What a pre-annotation leaves out counts in S_i and among the pseudo labels all the same.

    Attributes:
        threshold: class score that an instance has to be above.
        area: pixels of the image that its mask has at least.
    """

    threshold: float = 0.0
    area: float = 0.0

    def of(self, prediction: Prediction) -> Prediction:
        """Only the instances that are shown; the image's own scores stay."""
        from tsp_model.data import masks  # brings numpy and COCO's tools, which the start can do without

        areas = masks.area(prediction.rles)
        return prediction.keep(
            index
            for index, score in enumerate(prediction.scores)
            if score > self.threshold and areas[index] >= self.area
        )
