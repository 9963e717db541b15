"""Pseudo labels: an unlabelled image's surest predictions train in an annotator's stead (arXiv 2012.04829, 3.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Instance
from tsp_model.predictions import Prediction
from tsp_model.scores import counted
from tsp_model.settings import Settings


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


def from_predictions(
    predictions: Mapping[str, Prediction], unlabelled: ImageSet, settings: Settings
) -> dict[str, Prediction]:
    """The taken instances of each unlabelled image, by key.

    An image of which no instance is taken leaves D_semi for this cycle, because its loss would be zero. Instances
    whose mask is empty after it was cut have nothing to teach.
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
            settings.pseudo_class_threshold,
            settings.pseudo_box_threshold,
            settings.pseudo_mask_threshold,
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
