"""Monte Carlo dropout, which arXiv 2012.04829, section 4, is compared with: how much passes with dropout disagree.

As MaskAL defines it for Mask R-CNN (Blok et al., "Active learning with MaskAL reduces annotation effort for training
Mask R-CNN", arXiv 2112.06586): detections of all passes that overlap are observations of one object, and an object is
certain if its class is (1 - entropy / highest entropy), if its boxes and its masks lie where their means lie (IoU), and
if it is there in every pass. The product of the four is the object's certainty, the mean over objects the image's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tsp_model import monte_carlo
from tsp_model.data import masks
from tsp_model.inference import Observe
from tsp_model.losses import paired_box_iou
from tsp_model.network import Proposed, TSPMaskRCNN
from tsp_model.paste import codes
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

SIGNAL = "certainty"
SAME_OBJECT = 0.5  # mask IoU above which two detections are observations of one object
IN_MEAN_MASK = 0.25  # share of the masks that must hold a pixel for the mean mask to hold it


def observer(settings: Settings) -> Observe:
    """The certainty of each image; None where no pass found anything. Passes share backbone and proposals.

    What is dropped follows from the seed and the images that are seen together: a scoring that was killed and goes on
    puts others together, and may find other certainties than an unbroken one.
    """

    def observe(model: TSPMaskRCNN, proposed: Proposed) -> list[dict[str, Any]]:
        devices = [proposed.proposals[0].device] if proposed.proposals[0].is_cuda else []
        with monte_carlo.dropping(model), torch.random.fork_rng(devices):
            torch.manual_seed(settings.seed)
            passes = [model.detect(proposed, settings.ranking_score_threshold) for _ in range(settings.mc_passes)]
        highest = math.log(model.architecture.num_classes)
        return [{SIGNAL: certainty(runs, highest, settings.mask_threshold)} for runs in zip(*passes, strict=True)]

    return observe


def rank(pool: Sequence[Prediction], labelled: Sequence[Prediction], rng: np.random.Generator) -> np.ndarray:
    """The certainty of each image, [len(pool)] in 0..1; 1 - the highest class score where nothing was found."""
    noted = [(image.signals[SIGNAL], 1 - image.max_class_score) for image in pool]
    return np.array([empty if found is None else found for found, empty in noted], dtype=np.float64)


def certainty(passes: Sequence[dict[str, Any]], highest_entropy: float, mask_threshold: float) -> float | None:
    """The mean certainty of the objects of one image, 0..1; None if no pass found any.

    Args:
        passes: detections as TSPMaskRCNN.detect's, one dict a pass. highest_entropy: log(C).
    """
    boxes, entropies, rles = [], [], []
    for found in passes:
        found = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in found.items()}
        boxes.append(found["boxes"])
        entropies.append(found["entropies"])
        rles += codes(found, mask_threshold)[1]
    if not rles:
        return None
    all_boxes, all_entropies = torch.cat(boxes), torch.cat(entropies)
    found = [
        _object(all_boxes[group], all_entropies[group], [rles[i] for i in group], highest_entropy, len(passes))
        for group in same_objects(rles)
    ]
    return float(np.mean(found))


def same_objects(rles: Sequence[masks.RLE]) -> list[list[int]]:
    """Which masks show one object: each joins the first group whose first mask it overlaps enough, or begins one."""
    overlaps = masks.iou(rles, rles)
    groups: list[list[int]] = []
    for index in range(len(rles)):
        home = next((group for group in groups if overlaps[group[0], index] > SAME_OBJECT), None)
        if home is None:
            groups.append([index])
        else:
            home.append(index)
    return groups


def _object(
    boxes: torch.Tensor, entropies: torch.Tensor, rles: Sequence[masks.RLE], highest_entropy: float, passes: int
) -> float:
    """Class x box x mask x occurrence of one object's N observations, 0..1."""
    semantic = float((1 - entropies / highest_entropy).clamp(0, 1).mean())
    box = float(paired_box_iou(boxes, boxes.mean(dim=0).expand_as(boxes)).mean())
    mean_mask = masks.encode(masks.decode(rles).mean(axis=0)[None] >= IN_MEAN_MASK)
    mask = float(masks.iou(rles, mean_mask).mean())
    return semantic * box * mask * min(1.0, len(rles) / passes)
