"""Exact augmentations of an image and its target: horizontal flip and quarter turns, nothing interpolated.

Both work on ``(image [C, H, W], target)`` as `ImageSet` gives them, leave their arguments as they are and
return new ones. Boxes are XYXY on pixel edges, so a mirrored edge is ``width - x``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Target = dict[str, Any]


def augment(image: Tensor, target: Target, kind: str, generator: torch.Generator) -> tuple[Tensor, Target]:
    """Draw an augmentation.

    Args:
        kind: "flip" (section 4 of arXiv 2012.04829), "flip_rot90" (where no side is up) or "none".
        generator: the only source of chance, on the CPU.
    """
    if kind not in ("flip", "flip_rot90", "none"):
        raise ValueError(f"augmentation {kind!r} is unknown; use flip, flip_rot90 or none")
    if kind != "none" and torch.rand((), generator=generator) < 0.5:
        image, target = flip(image, target)
    if kind == "flip_rot90":
        turns = int(torch.randint(4, (), generator=generator))
        image, target = rot90(image, target, turns)
    return image, target


def flip(image: Tensor, target: Target) -> tuple[Tensor, Target]:
    """Mirror left and right."""
    width = image.shape[-1]
    x1, y1, x2, y2 = target["boxes"].unbind(-1)
    boxes = torch.stack((width - x2, y1, width - x1, y2), dim=-1)
    return image.flip(-1), target | {"boxes": boxes, "masks": target["masks"].flip(-1)}


def rot90(image: Tensor, target: Target, turns: int) -> tuple[Tensor, Target]:
    """Turn counter-clockwise by ``turns`` quarters; height and width swap when the number is odd."""
    for _ in range(turns % 4):
        width = image.shape[-1]
        x1, y1, x2, y2 = target["boxes"].unbind(-1)
        boxes = torch.stack((y1, width - x2, y2, width - x1), dim=-1)
        masks = target["masks"].rot90(1, (-2, -1))
        image, target = image.rot90(1, (-2, -1)), target | {"boxes": boxes, "masks": masks}
    return image, target
