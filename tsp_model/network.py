"""Mask R-CNN that scores its own predictions (arXiv 2012.04829, section 3.1), wired from its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import resize_boxes

from tsp_model import distributed, losses
from tsp_model.backbones import TinyBackbone, resnet_fpn
from tsp_model.execution import Execution
from tsp_model.heads import DropoutMLPHead, IoUHead, LossHead, TSPRegionProposalNetwork, TSPRoIHeads
from tsp_model.paste import pasted
from tsp_model.resize import Resize
from tsp_model.roi_align import GatherRoIAlign
from tsp_model.settings import BACKBONES, SettingsError

# ImageNet's, as torchvision's weights expect
IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MIN_DETECTIONS = 100
DETECTIONS_HEADROOM = 1.2


@dataclass(frozen=True)
class Proposed:
    """Images half way through the network.

    Attributes:
        features: levels by name, [B, C, H, W]. proposals: [R, 4] XYXY an image, in pixels of `network_sizes`.
        network_sizes: (H, W) of each image as the network sees it; sizes: as it was given.
    """

    features: dict[str, Tensor]
    proposals: list[Tensor]
    network_sizes: list[tuple[int, int]]
    sizes: list[tuple[int, int]]


class TSPMaskRCNN(GeneralizedRCNN):
    """Mask R-CNN whose detections carry a box score and a mask score.

    Attributes:
        architecture: what rebuilds this network, with random weights.
        execution: how it runs; set by `Execution.prepare`.
        loss_head: of a network that learns its own loss.
    """

    architecture: Architecture
    execution = Execution()
    loss_head: LossHead | None

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None, pseudo: bool = False
    ) -> Any:
        """Losses in training mode, detections in evaluation mode.

        Args:
            images: [3, H, W] float32 RGB in 0..1 each, sizes may differ.
            targets: boxes [N, 4] XYXY float32 in pixels, labels [N] int64 in 1..C-1, masks [N, H, W] uint8.
            pseudo: the targets are pseudo labels: the terms of Eq. 4, unweighted, instead of those of Eq. 1.

        Returns:
            Training: the terms of the loss by torchvision's names, and loss_box_iou and loss_mask_iou unless `pseudo`;
            loss_ranking from a network with a loss_head.
            Evaluation: a dict an image: boxes [N, 4] XYXY float32 in pixels, labels [N], scores [N], masks
            [N, 1, H, W] in 0..1, box_scores, mask_scores, instance_scores [N] in 0..1, entropies [N] of the softmax in
            0..log(C), and max_class_score [], the highest foreground class score before any threshold. Ordered by
            falling score.
        """
        if not self.training:
            return [pasted(found) for found in self.detect(self.propose(images))]
        batch, targets = self.transform(images, targets)
        with self.execution.autocast():
            features = self.backbone(batch.tensors)
            proposals, rpn_losses = self.rpn(batch, features, targets, pseudo)
            _, roi_losses = self.roi_heads(features, proposals, batch.image_sizes, targets, pseudo)
            terms = rpn_losses | roi_losses
            if self.loss_head is not None and not pseudo:
                own = self._image_losses(batch, features, targets)
                terms[losses.RANKING_TERM] = losses.loss_ranking(self.loss_head(features), own)
        return terms

    @torch.no_grad()
    def _image_losses(self, batch: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        """L_sup (Eq. 1, with lambda 1 whatever the training's) of each image of the batch alone, [B].

        The heads draw samples of their own for it, so that training goes on as without.
        """
        found = []
        devices = [batch.tensors.device] if batch.tensors.is_cuda else []
        with torch.random.fork_rng(devices), distributed.counting(None):
            for index, target in enumerate(targets):
                one = ImageList(batch.tensors[index : index + 1], batch.image_sizes[index : index + 1])
                own = {name: level[index : index + 1] for name, level in features.items()}
                proposals, rpn_losses = self.rpn(one, own, [target])
                _, roi_losses = self.roi_heads(own, proposals, one.image_sizes, [target])
                found.append(losses.supervised_loss(rpn_losses | roi_losses))
        return torch.stack(found)

    def propose(self, images: list[Tensor]) -> Proposed:
        """Evaluation, first half: what there is before the heads. Images as in `forward`."""
        batch, _ = self.transform(images, None)
        with self.execution.autocast():
            features = self.backbone(batch.tensors)
            proposals, _ = self.rpn(batch, features, None)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return Proposed(features, proposals, batch.image_sizes, sizes)

    def detect(self, proposed: Proposed, above: float = 0.0) -> list[dict[str, Any]]:
        """Evaluation, second half: as `forward`, but each mask in its box only.

        Args:
            above: only detections with a class score above this get scores and a mask; the others' are the same with
                or without them, since NMS lets no detection change a surer one.

        Instead of masks a dict has box_masks [N, M, M] in 0..1, the mask head's grid over the box, and size (H, W), the
        image's in pixels: `paste.pasted` makes masks of them.
        """
        with self.execution.autocast():
            detections, _ = self.roi_heads(proposed.features, proposed.proposals, proposed.network_sizes, above=above)
        for found, seen, size in zip(detections, proposed.network_sizes, proposed.sizes, strict=True):
            found["boxes"] = resize_boxes(found["boxes"], seen, size)
            found["size"] = size
        return detections


def detections_needed(largest_count: int, chosen: int | None = None) -> int:
    """Detections an image: at least 1.2 x the largest count of objects in training, so that AP and S are not cut.

    Raises SettingsError if `chosen` is fewer.
    """
    needed = math.ceil(DETECTIONS_HEADROOM * largest_count)
    if chosen is None:
        return max(MIN_DETECTIONS, needed)
    if chosen < needed:
        raise SettingsError(
            f"detections_per_image={chosen} is too few for training images with up to {largest_count} objects; "
            f"use at least {needed} or leave it out."
        )
    return chosen


@dataclass(frozen=True)
class _Sizes:
    """What a backbone's heads and proposals are made of."""

    anchor_sizes: tuple[int, ...]  # one a feature level, in pixels
    roi_levels: tuple[str, ...]  # the levels that RoIAlign reads
    canonical_scale: int  # boxes of this side in pixels are pooled from level 4 (stride 16)
    box_width: int
    mask_widths: tuple[int, ...]
    proposals: tuple[int, int, int, int]  # before NMS (a level) in training and in testing, after it the same
    rpn_samples: int
    roi_samples: int
    sampling_ratio: int  # RoIAlign's samples a bin and side


# torchvision's own sizes for a ResNet with FPN
_RESNET = _Sizes(
    anchor_sizes=(32, 64, 128, 256, 512),
    roi_levels=("0", "1", "2", "3"),
    canonical_scale=224,
    box_width=1024,
    mask_widths=(256, 256, 256, 256),
    proposals=(2000, 1000, 2000, 1000),
    rpn_samples=256,
    roi_samples=512,
    sampling_ratio=2,
)
# slim heads, small anchors and fewer proposals: torchvision's heads would cost more than the tiny backbone
_TINY = _Sizes(
    anchor_sizes=(12, 24, 48),
    roi_levels=("0", "1", "2"),
    canonical_scale=64,
    box_width=128,
    mask_widths=(64, 64),
    proposals=(500, 500, 300, 300),
    rpn_samples=128,
    roi_samples=64,
    sampling_ratio=1,
)


def proposals_needed(backbone: str, detections: int, chosen: int | None = None) -> int:
    """Proposals an image in testing: as many as belong to the backbone, and at least two for each detection allowed.

    Fewer are quicker and cost little AP50, but a network that was trained on few images does not know yet which are
    good, and the order of a pool changes (`python -m scripts.benchmark agreement`).
    """
    return chosen if chosen is not None else max(_sizes(backbone).proposals[-1], 2 * detections)


def _sizes(backbone: str) -> _Sizes:
    return _TINY if backbone == "tiny" else _RESNET


@dataclass(frozen=True)
class Architecture:
    """What a network is, apart from its weights: kept in a version's card, it rebuilds the network without a download.

    Attributes:
        num_classes: with background, as torchvision counts.
        backbone: one of settings.BACKBONES.
        image_size: images are resized so that their longest side has this many pixels.
        detections_per_image, score_threshold, nms_threshold: what counts as a detection; see detections_needed.
        semi_normaliser: N_cls of Eq. 4, see losses.classification_normaliser.
        frozen_norms: see backbones.resnet_fpn; None: as its weights want it.
        proposals: that reach the box head in testing; None: as many as proposals_needed says.
        dropout: of box and mask head, 0..1.
        learning_loss: with a LossHead.
        intensities: "absolute", or "relative" to the image's own mean and deviation.

    Raises SettingsError for an unknown backbone.
    """

    num_classes: int
    backbone: str = "resnet50"
    image_size: int = 512
    detections_per_image: int = MIN_DETECTIONS
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    semi_normaliser: str = "sampled"
    frozen_norms: bool | None = None
    proposals: int | None = None
    dropout: float = 0.0
    learning_loss: bool = False
    intensities: str = "absolute"

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise SettingsError(f"backbone={self.backbone!r} is unknown; use one of {', '.join(BACKBONES)}.")


def tsp_mask_rcnn(num_classes: int, backbone: str = "resnet50", weights: str = "auto", **choices: Any) -> TSPMaskRCNN:
    """The network, in training mode, with random heads.

    Args:
        weights: of a ResNet, see backbones.resnet_fpn.
        num_classes, backbone, choices: the fields of Architecture.
    """
    asked = Architecture(num_classes, backbone, **choices)
    if backbone == "tiny":
        trunk, frozen = TinyBackbone(), False
    else:
        trunk, frozen = resnet_fpn(backbone, weights, asked.frozen_norms)
    proposals = proposals_needed(backbone, asked.detections_per_image, asked.proposals)
    built = replace(asked, frozen_norms=frozen, proposals=proposals)
    transform = Resize(
        min_size=built.image_size,
        max_size=built.image_size,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        relative=built.intensities == "relative",
    )
    sizes = _sizes(backbone)
    rpn, roi_heads = _build_rpn(trunk.out_channels, sizes, built), _build_roi_heads(trunk.out_channels, sizes, built)
    model = TSPMaskRCNN(trunk, rpn, roi_heads, transform)
    # Last, so that the other weights begin as they do without it.
    model.loss_head = LossHead(trunk.out_channels, sizes.roi_levels) if built.learning_loss else None
    model.architecture = built
    return model


def _build_rpn(channels: int, sizes: _Sizes, built: Architecture) -> TSPRegionProposalNetwork:
    anchors = AnchorGenerator(
        tuple((size,) for size in sizes.anchor_sizes), ((0.5, 1.0, 2.0),) * len(sizes.anchor_sizes)
    )
    return TSPRegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=sizes.rpn_samples,
        positive_fraction=0.5,
        nms_thresh=0.7,
        semi_normaliser=built.semi_normaliser,
        pre_nms_top_n=dict(zip(("training", "testing"), sizes.proposals[:2], strict=True)),
        post_nms_top_n={"training": sizes.proposals[2], "testing": built.proposals},
    )


def _build_roi_heads(channels: int, sizes: _Sizes, built: Architecture) -> TSPRoIHeads:
    def pool(output_size: int) -> GatherRoIAlign:
        return GatherRoIAlign(
            list(sizes.roi_levels), output_size, sizes.sampling_ratio, canonical_scale=sizes.canonical_scale
        )

    return TSPRoIHeads(
        box_roi_pool=pool(7),  # torchvision's sizes; the paper names none
        box_head=DropoutMLPHead(channels * 7**2, sizes.box_width, built.dropout),
        box_predictor=FastRCNNPredictor(sizes.box_width, built.num_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=sizes.roi_samples,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        mask_roi_pool=pool(14),
        mask_head=MaskRCNNHeads(channels, sizes.mask_widths, 1),
        mask_predictor=MaskRCNNPredictor(sizes.mask_widths[-1], sizes.mask_widths[-1], built.num_classes),
        box_iou_head=IoUHead(channels),
        mask_iou_head=IoUHead(channels),
        semi_normaliser=built.semi_normaliser,
        dropout=built.dropout,
        score_thresh=built.score_threshold,
        nms_thresh=built.nms_threshold,
        detections_per_img=built.detections_per_image,
    )
