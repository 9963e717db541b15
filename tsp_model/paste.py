"""Masks from the grid of their box into the image, as torchvision pastes them.

An image of 512 x 512 with 100 detections is 100 MB of pasted masks, nearly all of it zeros. Where only the outline is
wanted, each mask is resized, cut and coded inside its box (`codes`): the same pixels for a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_masks_in_image

from tsp_model.data import masks


def pasted(found: Mapping[str, Any]) -> dict[str, Any]:
    """The detections of TSPMaskRCNN.detect with masks [N, 1, H, W] in 0..1 instead of box_masks and size."""
    whole = paste_masks_in_image(found["box_masks"][:, None], found["boxes"], found["size"])
    return {name: value for name, value in found.items() if name not in ("box_masks", "size")} | {"masks": whole}


def codes(found: Mapping[str, Any], threshold: float) -> tuple[tuple[int, int], list[masks.RLE]]:
    """(H, W) of the image and the RLEs of its N masks, cut at `threshold`; the same whether pasted before or not.

    Args:
        found: masks [N, 1, H, W]; or box_masks [N, M, M], boxes [N, 4] XYXY in pixels and size (H, W). On the CPU.
    """
    if "masks" in found:
        soft = found["masks"][:, 0]
        return (soft.shape[-2], soft.shape[-1]), masks.encode(soft > threshold)
    height, width = found["size"]
    windows = _windows(found["box_masks"], found["boxes"], height, width)
    return (height, width), [
        masks.encode_window((window > threshold).numpy(), top, left, height, width) for window, top, left in windows
    ]


def _windows(box_masks: Tensor, boxes: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, int, int]]:
    """Each mask in pixels, as far as it lies in the image: [h, w], and the row and column of its first pixel."""
    # Padded by one cell on each side, as Detectron does it, so that masks fade out at the border of their boxes.
    grids, scale = expand_masks(box_masks[:, None], padding=1)
    for grid, (x0, y0, x1, y1) in zip(grids, expand_boxes(boxes, scale).long().tolist(), strict=True):
        size = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
        window = F.interpolate(grid[None], size=size, mode="bilinear", align_corners=False)[0, 0]
        top, left = max(y0, 0), max(x0, 0)
        yield window[top - y0 : max(height - y0, 0), left - x0 : max(width - x0, 0)], top, left
