"""The losses of arXiv 2012.04829 as pure functions: Eq. 1, Eq. 4, Eq. 5 and the two IoU regressions.

Shapes: S sampled anchors or RoIs, R RoIs that went through the box head, P positive RoIs, C classes with background.
An empty input gives a zero that keeps the graph, so that a step without a positive RoI trains like any other. Counts
are those of the process; where several train together, a sum is divided by what all of them counted.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tsp_model.distributed import normaliser

SUPERVISED_TERMS = ("loss_objectness", "loss_classifier", "loss_rpn_box_reg", "loss_box_reg", "loss_mask")
IOU_TERMS = ("loss_box_iou", "loss_mask_iou")
RANKING_TERM = "loss_ranking"  # of a network with a LossHead


def classification_normaliser(sampled: int, positive: int, rule: str) -> int:
    """N_cls of Eq. 4: every sampled anchor/RoI, as the equation reads, or ("positive") only those with p* = 1."""
    return sampled if rule == "sampled" else positive


def rpn_losses(
    objectness: Tensor,
    deltas: Tensor,
    labels: Tensor,
    regression_targets: Tensor,
    pseudo: bool = False,
    rule: str = "sampled",
) -> tuple[Tensor, Tensor]:
    """L_cls and L_box of the RPN over the sampled anchors.

    Args:
        objectness: [S] logits. deltas, regression_targets: [S, 4]. labels: [S], 1 for positive and 0 for negative.
        pseudo: Eq. 4: p* = label multiplies the classification too, because an object that got no pseudo label would
            be taught as background otherwise. rule: of its N_cls, see classification_normaliser.
    """
    positive = labels > 0
    sampled = labels.numel()
    if pseudo:
        count = classification_normaliser(sampled, int(positive.sum()), rule)
        objectness, labels = objectness[positive], labels[positive]
    else:
        count = sampled
    classification = F.binary_cross_entropy_with_logits(objectness, labels, reduction="sum")
    box = F.smooth_l1_loss(deltas[positive], regression_targets[positive], beta=1 / 9, reduction="sum")
    return classification / normaliser(count), box / normaliser(sampled)


def roi_losses(
    class_logits: Tensor,
    box_regression: Tensor,
    labels: Tensor,
    regression_targets: Tensor,
    classification_count: int,
    box_count: int,
) -> tuple[Tensor, Tensor]:
    """L_cls and L_box of the RoI head; for pseudo-labelled images only positive RoIs are passed (p* of Eq. 4).

    Args:
        class_logits: [R, C]. box_regression: [R, 4 C]. labels: [R], 0 for background. regression_targets: [R, 4].
        classification_count, box_count: N_cls and N_box.
    """
    classification = F.cross_entropy(class_logits, labels, reduction="sum") / normaliser(classification_count)
    positive = torch.where(labels > 0)[0]
    deltas = box_regression.unflatten(1, (box_regression.shape[1] // 4, 4))[positive, labels[positive]]
    box = F.smooth_l1_loss(deltas, regression_targets[positive], beta=1 / 9, reduction="sum")
    return classification, box / normaliser(box_count)


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """l2 of Eq. 1: squared error, mean over the P positive RoIs (N_box = N_mask = P), both heads alike.

    Args:
        predicted, target: [P] in 0..1; the target carries no gradient.
    """
    return F.mse_loss(predicted, target.detach(), reduction="sum") / normaliser(target.numel())


def mask_loss(mean: Tensor, positives: int) -> Tensor:
    """L_mask over all ranks' positive RoIs, of torchvision's mean over this one's."""
    return mean * (positives / normaliser(positives))


def loss_ranking(predicted: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """Eq. 2 of "Learning Loss for Active Learning" (arXiv 1905.03677): in each pair of images, the one with the higher
    loss must be predicted higher by the margin. The scale of losses, which falls as training goes on, plays no part.

    Args:
        predicted, target: [B], neighbours are pairs; an odd one is left out. The target carries no gradient.
    """
    pairs = len(predicted) // 2
    if not pairs:
        return predicted.sum() * 0
    first, second = predicted[: 2 * pairs].view(pairs, 2).unbind(1)
    higher = (target[: 2 * pairs].detach().view(pairs, 2).diff(dim=1)[:, 0] < 0).to(predicted.dtype) * 2 - 1
    return F.relu(margin - higher * (first - second)).mean()


def paired_box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of box i with other i: [P, 4] and [P, 4] XYXY in pixels -> [P] in 0..1."""
    top_left = torch.maximum(boxes[:, :2], others[:, :2])
    bottom_right = torch.minimum(boxes[:, 2:], others[:, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=1)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (boxes, others)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-6)


def mask_iou_target(predicted: Tensor, matched: Tensor, outside: Tensor) -> Tensor:
    """IoU of the predicted mask with the whole matched object, also with what lies outside the RoI.

    Args:
        predicted: [P, M, M] bool, the predicted mask in the RoI's grid. matched: [P, M, M] bool, the object there.
        outside: [P], the object's area outside the RoI, in cells of the RoI's grid (as Mask Scoring R-CNN counts it,
            arXiv 1903.00241, section 3.3).
    """
    intersection = (predicted & matched).sum(dim=(1, 2)).float()
    union = (predicted | matched).sum(dim=(1, 2)) + outside
    return (intersection / union.clamp(min=1)).clamp(0, 1)


def area_outside(masks: Tensor, matched: Tensor, rois: Tensor, grid: int) -> Tensor:
    """How much of each RoI's object lies outside of the RoI, in cells of the RoI's grid x grid.

    Args:
        masks: [G, H, W] 0/1, the image's objects. matched: [P] the object of each RoI. rois: [P, 4] XYXY in pixels.

    Returns:
        [P], at least 0: exact in whole pixels, from an integral image.
    """
    height, width = masks.shape[-2:]
    used, matched = matched.unique(return_inverse=True)  # of hundreds of objects, few are met by a sampled RoI
    integral = F.pad(masks[used].cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32), (1, 0, 1, 0))
    x0, x1 = (rois[:, i].round().long().clamp(0, width) for i in (0, 2))
    y0, y1 = (rois[:, i].round().long().clamp(0, height) for i in (1, 3))
    inside = (
        integral[matched, y1, x1] - integral[matched, y0, x1] - integral[matched, y1, x0] + integral[matched, y0, x0]
    )
    total = integral[matched, -1, -1]
    cell = ((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])).clamp(min=1e-6) / grid**2
    return (total - inside).clamp(min=0) / cell


def supervised_loss(losses: Mapping[str, Tensor], iou_loss_weight: float = 1.0) -> Tensor:
    """Eq. 1: L_sup = L_cls + L_box + L_mask + lambda (box IoU + mask IoU); L_cls and L_box of RPN and RoI head both.

    The ranking loss of a network that has one comes on top, with weight 1 as in its paper.
    """
    total = sum(losses[name] for name in SUPERVISED_TERMS) + iou_loss_weight * sum(losses[name] for name in IOU_TERMS)
    return total + losses[RANKING_TERM] if RANKING_TERM in losses else total


def semi_supervised_loss(losses: Mapping[str, Tensor]) -> Tensor:
    """Eq. 4: the same terms for pseudo-labelled images, without the two IoU regressions."""
    return sum(losses[name] for name in SUPERVISED_TERMS)


def total_loss(supervised: Tensor, semi: Tensor, beta: float) -> Tensor:
    """Eq. 5: L = L_sup + beta * L_semi."""
    return supervised + beta * semi
