"""Predictions beside the truth: how many objects pseudo labels found, and what the scores of detections are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from scripts.stats import pearson, spearman
from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.evaluation import matched, pseudo_label_precision
from tsp_model.predictions import Prediction


@dataclass(frozen=True)
class PseudoLabels:
    """Counts of one cycle. An object is found by at most one pseudo label: of its class, mask IoU at least 0.5.

    Attributes:
        taken: pseudo labels. correct: those that found an object.
        objects_beside: true objects in the images that have a pseudo label (D_semi). objects: in the whole pool.
    """

    taken: int
    correct: int
    objects_beside: int
    objects: int

    @property
    def precision(self) -> float | None:
        return self.correct / self.taken if self.taken else None

    @property
    def recall_beside(self) -> float | None:
        """Share of the objects in D_semi's images that got a correct pseudo label."""
        return self.correct / self.objects_beside if self.objects_beside else None

    @property
    def recall(self) -> float | None:
        """Share of the pool's objects that got a correct pseudo label."""
        return self.correct / self.objects if self.objects else None


def judge_pseudo_labels(pool: ImageSet, pseudo_labels: Mapping[str, Prediction]) -> PseudoLabels:
    """The pseudo labels of a cycle against the truth, which training did not see.

    Args:
        pool: the unlabelled images of that cycle. pseudo_labels: by image key.

    Raises:
        DataError: as evaluation.average_precision.
    """
    found = pseudo_label_precision(pool, pseudo_labels)
    beside = sum(len(item.instances) for item in pool.items if item.key in pseudo_labels)
    return PseudoLabels(found["taken"], found["correct"], beside, pool.objects)


@dataclass(frozen=True)
class Matches:
    """Detections of several images: predicted quality and true IoU of the matched, [N] each, and of the others.

    Attributes:
        box_scores, mask_scores: b and m of matched detections. box_ious, mask_ious: with their objects.
        false_box_scores, false_mask_scores: b and m of the detections that match nothing, [M].
    """

    box_scores: np.ndarray
    mask_scores: np.ndarray
    box_ious: np.ndarray
    mask_ious: np.ndarray
    false_box_scores: np.ndarray
    false_mask_scores: np.ndarray


def match(image_set: ImageSet, predictions: Iterable[Prediction], above: float) -> Matches:
    """Match as AP50 does (tsp_model.evaluation.matched).

    Args:
        above: detections with a class score up to this do not take part.
    """
    items = {item.key: item for item in image_set.items}
    right: list[list[float]] = []
    false: list[list[float]] = []
    for prediction in predictions:
        counted = prediction.above(above)
        found = _match_image(items[prediction.key], counted)
        for index, scores in enumerate(zip(counted.box_scores, counted.mask_scores, strict=True)):
            if index in found:
                right.append([*scores, *found[index]])
            else:
                false.append([*scores])
    columns = np.array(right).reshape(-1, 4).T
    return Matches(*columns, *np.array(false).reshape(-1, 2).T)


def _match_image(item: Item, prediction: Prediction) -> dict[int, tuple[float, float]]:
    """Box IoU and mask IoU of each matched detection, by its index."""
    if not len(prediction) or not item.instances:
        return {}
    truth = [instance.rle for instance in item.instances]
    mask_ious = masks.iou(prediction.rles, truth)
    box_ious = box_iou(torch.tensor(prediction.boxes), torch.from_numpy(masks.boxes(truth))).numpy()
    pairs = enumerate(matched(item, prediction).tolist())
    return {index: (float(box_ious[index, one]), float(mask_ious[index, one])) for index, one in pairs if one >= 0}


@dataclass(frozen=True)
class Calibration:
    """How well a score foretells an IoU, over the matched detections.

    Attributes:
        error: mean absolute difference. bias: mean of score less IoU. pearson, spearman: NaN where nothing varies.
        false_positives: how many detections match nothing; false_mean: the mean of their scores, NaN for none.
    """

    count: int
    error: float
    bias: float
    pearson: float
    spearman: float
    false_positives: int
    false_mean: float


def calibration(scores: np.ndarray, ious: np.ndarray, false_scores: np.ndarray) -> Calibration:
    """The figures of one head: predicted and true IoU of matched detections [N], scores of false positives [M]."""
    nan = float("nan")
    return Calibration(
        count=len(scores),
        error=float(np.abs(scores - ious).mean()) if len(scores) else nan,
        bias=float((scores - ious).mean()) if len(scores) else nan,
        pearson=pearson(scores, ious),
        spearman=spearman(scores, ious),
        false_positives=len(false_scores),
        false_mean=float(false_scores.mean()) if len(false_scores) else nan,
    )


def reliability(scores: np.ndarray, ious: np.ndarray, bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean score, mean IoU and number of detections in equal bins of the score, those that have any."""
    place = np.minimum((scores * bins).astype(int), bins - 1)
    chosen = [place == number for number in range(bins)]
    return [
        (float(scores[in_bin].mean()), float(ious[in_bin].mean()), int(in_bin.sum()))
        for in_bin in chosen
        if in_bin.any()
    ]
