"""Our network and torchvision's stock Mask R-CNN with the same weights, and what both are fed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from scripts.speed.timing import Bench, require_agreement
from tsp_model.execution import CPU, Execution, onednn_multiplies
from tsp_model.network import TSPMaskRCNN, proposals_needed, tsp_mask_rcnn
from tsp_model.settings import Settings

CLASSES, DETECTIONS, STOCK_PROPOSALS = 10, 20, 1000
SIZE, SMOKE_SIZE = 512, 64
OBJECTS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """Attributes:

    ours: as the package trains it on this machine. stock: torchvision's, eager and in float32. Both on `device`, with
        random weights that agree wherever names do.
    size: side of the images in pixels.
    """

    ours: TSPMaskRCNN
    stock: nn.Module
    size: int

    @property
    def device(self) -> torch.device:
        return next(self.ours.parameters()).device

    def answering(self, settings: Settings) -> TSPMaskRCNN:
        """A copy of ours that only answers, run as `settings` say."""
        model = copy.deepcopy(self.ours)
        model.rpn.proposals = proposals_needed(settings.backbone, DETECTIONS, settings.proposals)
        return Execution.choose(settings).freeze(model)


def noise(size: int, count: int, device: torch.device) -> list[Tensor]:
    """Images, [3, size, size] float32 in 0..1 each; the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, size, size, generator=generator).to(device) for _ in range(count)]


def ellipses(size: int, count: int, device: torch.device) -> list[dict[str, Tensor]]:
    """Training targets, OBJECTS filled ellipses an image; the same at every call."""
    generator = torch.Generator().manual_seed(2)

    def target() -> dict[str, Tensor]:
        sides = (torch.rand(OBJECTS, 2, generator=generator) * 0.2 + 0.08) * size
        corners = torch.rand(OBJECTS, 2, generator=generator) * (size - sides)
        boxes = torch.cat([corners, corners + sides], dim=1)
        centres, radii = (boxes[:, :2] + boxes[:, 2:]) / 2, sides / 2
        axis = torch.arange(size) + 0.5
        x = (axis - centres[:, :1]) / radii[:, :1]
        y = (axis - centres[:, 1:]) / radii[:, 1:]
        masks = (x[:, None, :] ** 2 + y[:, :, None] ** 2 <= 1).to(torch.uint8)
        labels = torch.randint(1, CLASSES, (OBJECTS,), generator=generator)
        return {"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)}

    return [target() for _ in range(count)]


def synchronised(run: Callable[[], T], device: torch.device) -> Callable[[], T]:
    """`run`, ended only when the GPU is done, too."""
    if device.type != "cuda":
        return run

    def wait() -> T:
        found = run()
        torch.cuda.synchronize()
        return found

    return wait


def build_pair(bench: Bench) -> Pair:
    """R50 both, 20 detections an image, in evaluation mode; CommandError if they do not compute the same.

    The same pair at every call, so whoever changes it takes a copy.
    """
    return _build(SMOKE_SIZE if bench.smoke else SIZE)


@functools.cache
def _build(size: int) -> Pair:
    stock = build_stock(size)
    ours = build_ours(size)
    share_weights(stock, ours)
    _require_same_network(ours, stock, size)
    execution = Execution.choose(Settings(), learning=True)
    return Pair(execution.prepare(ours).eval(), stock.to(execution.device).eval(), size)


def build_stock(size: int) -> nn.Module:
    """torchvision's R50 as it comes, with the same random weights at every call, on the CPU."""
    torch.manual_seed(0)
    stock = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES,
        min_size=size,
        max_size=size,
        box_detections_per_img=DETECTIONS,
    )
    settle_norms(stock, size)
    return stock


def build_ours(size: int, classes: int = CLASSES, **arguments: Any) -> TSPMaskRCNN:
    """R50 with random weights, not yet prepared for the machine; `classes` with background."""
    model = tsp_mask_rcnn(classes, weights="none", image_size=size, detections_per_image=DETECTIONS, **arguments)
    settle_norms(model, size)
    return model


@torch.no_grad()
def settle_norms(model: nn.Module, size: int) -> None:
    """Give the backbone's batch norms the statistics of noise.

    Without, random weights let activations grow from layer to layer until rounding decides what is detected.
    """
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.backbone.train()(torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(4)))
    for norm in norms:
        norm.momentum = 0.1


def share_weights(source: nn.Module, target: nn.Module) -> None:
    """`target` takes over what `source` has; what only one of them has is the IoU heads', or CommandError."""
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    strangers = [name for name in (*missing, *unexpected) if "_iou_head" not in name]
    require_agreement(not strangers, f"the weights {', '.join(strangers[:3])} are in one network only")


def require_same_objects(
    ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]], what: str, pixels: float = 1e-2
) -> None:
    """CommandError unless both found the same objects on each image, but for rounding. pixels: for boxes."""
    for found, expected in zip(ours, theirs, strict=True):
        for name, tolerance in {"boxes": pixels, "labels": 0, "scores": 1e-4}.items():
            one, other = found[name], expected[name]
            same = one.shape == other.shape and torch.allclose(one, other, atol=tolerance)
            require_agreement(same, f"{name}, {what}")


def require_all_found(counts: Mapping[str, list[int]], batch: int) -> None:
    """CommandError unless every contestant found as many objects as there may be on each image of the batch."""
    full = all(count == [DETECTIONS] * batch for count in counts.values())
    require_agreement(full, f"numbers of detections {counts}")


@torch.inference_mode()
def _require_same_network(ours: TSPMaskRCNN, stock: nn.Module, size: int) -> None:
    """In float32 and with as many proposals, ours must find what stock finds: as it trains, and as it answers."""
    twin, answering = copy.deepcopy(ours).eval(), copy.deepcopy(ours)
    execution = Execution(channels_last=True, gather=True, folded=True, onednn_linear=onednn_multiplies(CPU))
    execution.prepare(twin)
    execution.freeze(answering)
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(3))
    (theirs,) = stock.eval()([image])
    for network in (twin, answering):
        network.rpn.proposals = STOCK_PROPOSALS
        (found,) = network([image])
        require_same_objects([found], [theirs], "float32")
        # Pasting cuts coordinates to whole pixels, where the last digit of a box may move its mask by one.
        require_agreement(float((found["masks"] - theirs["masks"]).abs().mean()) < 1e-3, "masks in float32")
    features = stock.backbone(image[None])
    boxes = [torch.tensor([[4.0, 8.0, size / 2, size / 3], [-3.0, 0.0, 11.5, size + 2.0]])]
    pooled = [network.roi_heads.box_roi_pool(features, boxes, [(size, size)]) for network in (twin, stock)]
    require_agreement(torch.allclose(*pooled, rtol=1e-4, atol=1e-4), "RoIAlign of the same features")
