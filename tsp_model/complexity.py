"""Parameters and GFLOPs beside the paper's (arXiv 2012.04829, section 4.4): `python -m tsp_model.complexity`."""

from __future__ import annotations

import argparse

import torch
from torch.utils.flop_counter import FlopCounterMode

from tsp_model.network import TSPMaskRCNN, tsp_mask_rcnn
from tsp_model.settings import BACKBONES

PAPER_PARAMETERS_M, PAPER_GFLOPS = 47.07, 132.54
EXPLANATION = """\
The paper does not say how many classes it counted. Each IoU head adds two 3x3 convolutions of 256 channels, 1.18 M
parameters: 46.38 M with 10 classes, 46.82 M with 91; 0.25 M of the paper's 47.07 M stay unexplained. Operations follow
the proposals that enter the box head and the detections that enter the mask head: one multiply and add counts as 2,
RoIAlign, NMS and pasting masks are not counted."""


def parameters(model: TSPMaskRCNN) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in model.parameters()) / 1e6


@torch.inference_mode()
def gflops(model: TSPMaskRCNN, height: int, width: int, proposals: int, detections: int) -> float:
    """10^9 operations (multiply + add = 2) to infer one image with so many proposals and detections.

    Random weights propose and detect any number, so both are given instead of found.
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    image = torch.zeros(1, 3, height, width)
    boxes = torch.tensor([[8.0, 8.0, 72.0, 72.0]])
    heads = model.roi_heads
    with counter:
        features = model.backbone(image)
        model.rpn.head(list(features.values()))
        pooled = heads.box_roi_pool(features, [boxes.expand(proposals, 4)], [(height, width)])
        heads.box_predictor(heads.box_head(pooled))
        heads.box_iou_head(heads.box_roi_pool(features, [boxes.expand(detections, 4)], [(height, width)]))
        masks = heads.mask_roi_pool(features, [boxes.expand(detections, 4)], [(height, width)])
        heads.mask_predictor(heads.mask_head(masks))
        heads.mask_iou_head(masks)
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tsp_model.complexity",
        description="Parameters and GFLOPs of the network beside the paper's.",
        epilog="example: python -m tsp_model.complexity --backbone resnet50 --classes 10",
    )
    parser.add_argument("--backbone", choices=BACKBONES, default="resnet50")
    parser.add_argument("--classes", type=int, default=10, help="with background (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--detections", type=int, default=20, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.classes < 2 or arguments.size < 1 or arguments.detections < 1:
        parser.error("--classes counts background, so give 2 or more; --size and --detections 1 or more")
    model = tsp_mask_rcnn(arguments.classes, arguments.backbone, weights="none", image_size=arguments.size)
    print(f"parameters: {parameters(model):.2f} M (paper: {PAPER_PARAMETERS_M} M)")
    for proposals in (300, 1000):
        count = gflops(model, arguments.size, arguments.size, proposals, arguments.detections)
        print(f"{proposals} proposals: {count:.2f} GFLOPs (paper: {PAPER_GFLOPS})")
    print(EXPLANATION)


if __name__ == "__main__":
    main()
