"""The heads of arXiv 2012.04829, section 3.1: torchvision's RPN, box and mask heads, and two IoU heads beside them.

torchvision's classes are subclassed: their proposals, sampling, matching and NMS are used as they are. What differs is
in the `forward` methods: two more branches, pseudo-labelled batches (Eq. 4), and outputs in float32, so that boxes and
scores keep their precision under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    maskrcnn_inference,
    maskrcnn_loss,
    project_masks_on_boxes,
)
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers

from tsp_model import losses
from tsp_model.execution import autocast
from tsp_model.scores import instance_scores

MASK_TARGET_THRESHOLD = 0.3  # where the predicted mask is cut for its IoU target (section 3.1)


class IoUHead(nn.Module):
    """Predicts an IoU from RoI features: two stride-2 convolutions, global average, one linear layer, sigmoid.

    forward: [N, channels, S, S] -> [N] in 0..1.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.predictor = nn.Linear(channels, 1)
        for layer in self.convolutions[::2]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, roi_features: Tensor) -> Tensor:
        pooled = self.convolutions(roi_features).mean(dim=(2, 3))
        return self.predictor(pooled).float().sigmoid().squeeze(1)


class LossHead(nn.Module):
    """Predicts an image's loss from its feature pyramid (Yoo & Kweon, "Learning Loss for Active Learning", CVPR 2019,
    arXiv 1905.03677, section 3.2): global average, a linear layer and ReLU for each level, one linear layer for all.

    forward: levels by name, [B, channels, H, W] each -> [B].

    Attributes:
        detached: its gradient ends here and does not reach the backbone.
    """

    WIDTH = 128

    def __init__(self, channels: int, levels: Sequence[str]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.layers = nn.ModuleList(nn.Linear(channels, self.WIDTH) for _ in self.levels)
        self.predictor = nn.Linear(self.WIDTH * len(self.levels), 1)
        self.detached = False

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        pooled = [features[name].mean(dim=(2, 3)).to(self.predictor.weight.dtype) for name in self.levels]
        pooled = [x.detach() for x in pooled] if self.detached else pooled
        hidden = [layer(x).relu() for layer, x in zip(self.layers, pooled, strict=True)]
        return self.predictor(torch.cat(hidden, dim=1)).float().squeeze(1)


class DropoutMLPHead(TwoMLPHead):
    """torchvision's box head with dropout after each layer.

    forward: [N, channels, S, S] -> [N, width].
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__(inputs, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.fc6, self.fc7):
            x = self.dropout(layer(x.flatten(start_dim=1)).relu())
        return x


class TSPRegionProposalNetwork(RegionProposalNetwork):
    """torchvision's RPN with Eq. 4's classification loss for pseudo-labelled images."""

    def __init__(self, *args: Any, semi_normaliser: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.semi_normaliser = semi_normaliser

    @property
    def proposals(self) -> int:
        """How many of an image reach the box head in testing, at most."""
        return self._post_nms_top_n["testing"]

    @proposals.setter
    def proposals(self, count: int) -> None:
        self._post_nms_top_n["testing"] = count

    def forward(
        self, images: Any, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None, pseudo: bool = False
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals [N, 4] XYXY an image and, in training, loss_objectness and loss_rpn_box_reg."""
        levels = list(features.values())
        objectness, deltas = self.head(levels)
        anchors = self.anchor_generator(images, levels)
        anchors_per_level = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        objectness, deltas = objectness.float(), deltas.float()
        candidates = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, _ = self.filter_proposals(candidates, objectness, images.image_sizes, anchors_per_level)
        if not self.training:
            return proposals, {}
        labels, matched_boxes = self.assign_targets_to_anchors(anchors, targets)
        regression_targets = torch.cat(self.box_coder.encode(matched_boxes, anchors))
        positive, negative = (torch.cat(chosen).bool() for chosen in self.fg_bg_sampler(labels))
        sampled = torch.where(positive | negative)[0]
        classification, box = losses.rpn_losses(
            objectness.flatten()[sampled],
            deltas[sampled],
            torch.cat(labels)[sampled],
            regression_targets[sampled],
            pseudo,
            self.semi_normaliser,
        )
        return proposals, {"loss_objectness": classification, "loss_rpn_box_reg": box}


class TSPRoIHeads(RoIHeads):
    """torchvision's box and mask heads with the two IoU heads beside them."""

    def __init__(
        self,
        *args: Any,
        box_iou_head: IoUHead,
        mask_iou_head: IoUHead,
        semi_normaliser: str,
        dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.box_iou_head = box_iou_head
        self.mask_iou_head = mask_iou_head
        self.semi_normaliser = semi_normaliser
        self.mask_dropout = nn.Dropout(dropout)
        self.mask_precision = torch.float32  # see Execution

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
        pseudo: bool = False,
        above: float = 0.0,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections an image (evaluation) or losses (training); see TSPMaskRCNN.detect and forward."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets, pseudo)
        return self._detections(features, proposals, image_shapes, above), {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
        pseudo: bool,
    ) -> dict[str, Tensor]:
        # Ground-truth boxes join the proposals, as torchvision has it: without them the IoU heads see too few good
        # boxes early on, and far fewer instances become pseudo labels.
        rois, matched, labels, regression_targets = self.select_training_samples(list(proposals), targets)
        sampled = sum(len(entry) for entry in labels)
        positives = [torch.where(entry > 0)[0] for entry in labels]
        counts = (sampled, sampled)
        if pseudo:  # only positive RoIs count in Eq. 4, so only they go through the box head
            rois, labels, regression_targets = (
                [entry[keep] for entry, keep in zip(entries, positives, strict=True)]
                for entries in (rois, labels, regression_targets)
            )
            matched = [entry[keep] for entry, keep in zip(matched, positives, strict=True)]
            positives = [torch.arange(len(entry), device=entry.device) for entry in labels]
            positive_count = sum(len(entry) for entry in labels)
            counts = (losses.classification_normaliser(sampled, positive_count, self.semi_normaliser), sampled)

        box_features = self.box_roi_pool(features, rois, image_shapes)
        class_logits, box_regression = (x.float() for x in self.box_predictor(self.box_head(box_features)))
        all_labels = torch.cat(labels)
        classification, box = losses.roi_losses(
            class_logits, box_regression, all_labels, torch.cat(regression_targets), *counts
        )
        positive_rois = [entry[keep] for entry, keep in zip(rois, positives, strict=True)]
        positive_matched = [entry[keep] for entry, keep in zip(matched, positives, strict=True)]
        mask_features = self.mask_roi_pool(features, positive_rois, image_shapes)
        mask_logits = self._mask_logits(mask_features)
        masks, gt_labels = [t["masks"] for t in targets], [t["labels"] for t in targets]
        result = {
            "loss_classifier": classification,
            "loss_box_reg": box,
            "loss_mask": losses.mask_loss(
                maskrcnn_loss(mask_logits, positive_rois, masks, gt_labels, positive_matched), len(mask_logits)
            ),
        }
        if pseudo:
            return result
        positive = torch.where(all_labels > 0)[0]
        box_target = self._box_iou_target(
            box_regression[positive], all_labels[positive], positive_rois, positive_matched, targets
        )
        mask_target = self._mask_iou_target(mask_logits, all_labels[positive], positive_rois, positive_matched, masks)
        box_scores, mask_scores = self._ious(box_features[positive], mask_features)
        return result | {
            "loss_box_iou": losses.iou_loss(box_scores, box_target),
            "loss_mask_iou": losses.iou_loss(mask_scores, mask_target),
        }

    def mask_branches(self) -> tuple[nn.Module, ...]:
        """The parts that come after an object is found and change neither which are found nor their class score."""
        return self.mask_head, self.mask_predictor, self.box_iou_head, self.mask_iou_head

    def _mask_logits(self, mask_features: Tensor) -> Tensor:
        with autocast(mask_features.device, self.mask_precision):
            return self.mask_predictor(self.mask_dropout(self.mask_head(mask_features))).float()

    def _ious(self, box_features: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(mask_features.device, self.mask_precision):
            return self.box_iou_head(box_features), self.mask_iou_head(mask_features)

    @torch.no_grad()
    def _box_iou_target(
        self,
        box_regression: Tensor,
        labels: Tensor,
        rois: list[Tensor],
        matched: list[Tensor],
        targets: list[dict[str, Tensor]],
    ) -> Tensor:
        """IoU of each positive RoI's predicted box with its matched object's box: [P]."""
        if len(labels) == 0:
            return labels.new_zeros(0, dtype=torch.float32)
        decoded = self.box_coder.decode(box_regression, rois)[torch.arange(len(labels), device=labels.device), labels]
        objects = torch.cat([t["boxes"][entry] for t, entry in zip(targets, matched, strict=True)])
        return losses.paired_box_iou(decoded, objects)

    @torch.no_grad()
    def _mask_iou_target(
        self,
        mask_logits: Tensor,
        labels: Tensor,
        rois: list[Tensor],
        matched: list[Tensor],
        masks: list[Tensor],
    ) -> Tensor:
        """IoU of each positive RoI's predicted mask with its matched object's mask: [P]."""
        if len(labels) == 0:
            return labels.new_zeros(0, dtype=torch.float32)
        grid = mask_logits.shape[-1]
        predicted = mask_logits[torch.arange(len(labels), device=labels.device), labels].sigmoid()
        inside, outside = [], []
        for image_masks, image_rois, image_matched in zip(masks, rois, matched, strict=True):
            if len(image_rois):
                inside.append(project_masks_on_boxes(image_masks, image_rois, image_matched, grid))
                outside.append(losses.area_outside(image_masks, image_matched, image_rois, grid))
        return losses.mask_iou_target(predicted > MASK_TARGET_THRESHOLD, torch.cat(inside) >= 0.5, torch.cat(outside))

    def _detections(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: list[tuple[int, int]], above: float
    ) -> list[dict[str, Tensor]]:
        box_features = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        class_logits, box_regression = (x.float() for x in self.box_predictor(box_features))
        boxes, scores, labels = self.postprocess_detections(class_logits, box_regression, proposals, image_shapes)
        probabilities = class_logits.softmax(dim=-1).split([len(p) for p in proposals])
        wanted = [entry > above for entry in scores]
        boxes, scores, labels = (
            [entry[keep] for entry, keep in zip(entries, wanted, strict=True)] for entries in (boxes, scores, labels)
        )
        # Only the boxes that survive are pooled again, for the two scores and the mask.
        mask_features = self.mask_roi_pool(features, boxes, image_shapes)
        box_scores, mask_scores = self._ious(self.box_roi_pool(features, boxes, image_shapes), mask_features)
        mask_logits = self._mask_logits(mask_features)
        masks = maskrcnn_inference(mask_logits, labels)
        counts = [len(entry) for entry in boxes]
        box_scores, mask_scores = box_scores.split(counts), mask_scores.split(counts)
        return [
            {
                "boxes": boxes[i],
                "labels": labels[i],
                "scores": scores[i],
                "box_masks": masks[i][:, 0],
                "box_scores": box_scores[i],
                "mask_scores": mask_scores[i],
                "instance_scores": instance_scores(scores[i], box_scores[i], mask_scores[i]),
                "entropies": _entropies(probabilities[i], labels[i], scores[i]),
                "max_class_score": probabilities[i][:, 1:].max() if len(probabilities[i]) else scores[i].new_zeros(()),
            }
            for i in range(len(boxes))
        ]


def _entropies(probabilities: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
    """Entropy of the softmax that each detection's class score was taken from.

    Args:
        probabilities: [R, C], of all RoIs. labels, scores: [N], of the detections that NMS left. torchvision does not
            tell from which RoI they came; their score is that RoI's own, to the bit.

    Returns:
        [N] in 0..log(C).
    """
    if not len(scores):
        return scores
    roi = (probabilities[:, labels] == scores).int().argmax(dim=0)
    return torch.special.entr(probabilities[roi]).sum(dim=-1)
