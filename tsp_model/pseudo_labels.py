"""Pseudo labels: an unlabelled image's surest predictions train in an annotator's stead (arXiv 2012.04829, 3.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Instance
from tsp_model.estimate import Checked
from tsp_model.predictions import Prediction
from tsp_model.scores import counted
from tsp_model.settings import Settings

LEAST_TAKEN = 10  # of the picks' instances, to say how many of them are right


def taken(
    class_scores: Tensor,
    box_scores: Tensor,
    mask_scores: Tensor,
    class_threshold: float,
    box_threshold: float,
    mask_threshold: float,
    rule: str = "all",
    parts: str = "cbm",
) -> Tensor:
    """Which of N instances become pseudo labels: [N] bool.

    rule "all": c > sigma_c and b > sigma_b and m > sigma_m (section 3.2). rule "any": line 10 of Algorithm 1 to the
    letter, which removes an instance only if all three fall short. parts: the scores that are asked (scores.counted).
    """
    tests = (class_scores > class_threshold, box_scores > box_threshold, mask_scores > mask_threshold)
    above = torch.stack(counted(tests, parts), dim=-1)
    return above.all(dim=-1) if rule == "all" else above.any(dim=-1)


def select(
    detections: dict[str, Any],
    class_threshold: float = 0.9,
    box_threshold: float = 0.9,
    mask_threshold: float = 0.8,
    rule: str = "all",
) -> dict[str, Any]:
    """The detections of one image that become pseudo labels.

    Args:
        detections: boxes [N, 4], labels, scores, box_scores, mask_scores, ... [N]; entries that are not one value an
            instance (such as max_class_score) are kept as they are.
    """
    keep = taken(
        detections["scores"],
        detections["box_scores"],
        detections["mask_scores"],
        class_threshold,
        box_threshold,
        mask_threshold,
        rule,
    )
    return {
        name: value[keep] if isinstance(value, Tensor) and value.shape[:1] == keep.shape else value
        for name, value in detections.items()
    }


def threshold_scale(picks: Sequence[Checked], settings: Settings) -> float:
    """The factor of all three thresholds at which `pseudo_target_precision` of what they take is right.

    A network's scores are as high as its training lets them be, and the same thresholds take nothing from one network
    and anything from another. The images of this cycle tell what they mean: M_(k-1) predicted them before they were
    labelled. The lowest scale is chosen at which enough of their instances are right; where that is so for none, the
    scale of the surest of them, so that only what is surer still is taken; 1, the thresholds as they are, where they
    have fewer than `LEAST_TAKEN` instances. Since the picks are what the network is least sure of, the pool's precision
    should be higher.

    Args:
        picks: M_(k-1)'s predictions of images that were labelled later.
    """
    scales = np.concatenate([np.zeros(0), *(_scales(one.prediction, settings) for one in picks)])
    correct = np.concatenate([np.zeros(0), *(one.correct for one in picks)])
    order = np.argsort(-scales, kind="stable")
    scales, precision = scales[order], np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precision >= settings.pseudo_target_precision)
    # Of instances with the same scale all are taken, or none.
    whole = [at for at in enough if at + 1 >= LEAST_TAKEN and (at + 1 == len(scales) or scales[at + 1] < scales[at])]
    if len(scales) < LEAST_TAKEN:
        return 1.0
    return float(scales[whole[-1]]) * (1 - 1e-6) if whole else float(scales[0])


def _scales(prediction: Prediction, settings: Settings) -> np.ndarray:
    """The scale of the thresholds at which each of N instances is just not taken any more: [N]."""
    scores = np.array([prediction.scores, prediction.box_scores, prediction.mask_scores])
    thresholds = np.array(
        [settings.pseudo_class_threshold, settings.pseudo_box_threshold, settings.pseudo_mask_threshold]
    )
    ratios = np.stack(counted(scores / thresholds.clip(1e-6)[:, None], settings.score_parts))
    return ratios.min(axis=0) if settings.pseudo_rule == "all" else ratios.max(axis=0)


def from_predictions(
    predictions: Mapping[str, Prediction], unlabelled: ImageSet, settings: Settings, scale: float = 1.0
) -> dict[str, Prediction]:
    """The taken instances of each unlabelled image, by key.

    An image of which no instance is taken leaves D_semi for this cycle, because its loss would be zero. Instances
    whose mask is empty after it was cut have nothing to teach.

    Args:
        scale: of the three thresholds, see `threshold_scale`.
    """
    chosen = {}
    for key in unlabelled.keys:
        if key not in predictions:
            continue
        prediction = predictions[key]
        above = taken(
            torch.tensor(prediction.scores),
            torch.tensor(prediction.box_scores),
            torch.tensor(prediction.mask_scores),
            settings.pseudo_class_threshold * scale,
            settings.pseudo_box_threshold * scale,
            settings.pseudo_mask_threshold * scale,
            settings.pseudo_rule,
            settings.score_parts,
        )
        kept = prediction.keep(above.nonzero().flatten().tolist())
        kept = kept.keep([i for i, area in enumerate(masks.area(kept.rles)) if area > 0])
        if len(kept):
            chosen[key] = kept
    return chosen


def as_image_set(pseudo_labels: Mapping[str, Prediction], unlabelled: ImageSet) -> ImageSet:
    """D_semi: the images of `pseudo_labels` with these instances as their labels."""
    items = []
    for item in unlabelled.subset(pseudo_labels).items:
        labels = pseudo_labels[item.key]
        instances = [Instance(label, rle) for label, rle in zip(labels.labels, labels.rles, strict=True)]
        items.append(dataclasses.replace(item, instances=tuple(instances)))
    return ImageSet(items, unlabelled.classes)
