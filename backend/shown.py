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
        overlap: share of its mask that surer ones of its class may cover, each by itself. Suppression goes by boxes
            (nms_threshold), so one object can have several masks left, of which annotators would delete all but one.
    """

    threshold: float = 0.0
    area: float = 0.0
    overlap: float = 1.0

    def of(self, prediction: Prediction) -> Prediction:
        """Only the instances that are shown; the image's own scores stay."""
        from tsp_model.data import masks  # brings numpy and COCO's tools, which the start can do without

        areas = masks.area(prediction.rles)
        sure = [
            index
            for index, score in enumerate(prediction.scores)
            if score > self.threshold and areas[index] >= self.area
        ]
        return self._apart(prediction.keep(sure))

    def _apart(self, prediction: Prediction) -> Prediction:
        """Without the instances that a surer one of their class covers."""
        from tsp_model.data import masks

        if self.overlap == 1:
            return prediction
        covered = masks.covered(prediction.rles, prediction.rles)
        shown: list[int] = []
        for index in sorted(range(len(prediction.rles)), key=lambda index: -prediction.instance_scores[index]):
            same = [other for other in shown if prediction.labels[other] == prediction.labels[index]]
            if not any(covered[index, other] > self.overlap for other in same):
                shown.append(index)
        return prediction.keep(sorted(shown))
