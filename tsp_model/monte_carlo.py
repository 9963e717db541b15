"""Monte Carlo dropout: the same images seen several times with different units of the box and mask heads dropped.

What the method is compared with (arXiv 2012.04829, section 4). How far the passes disagree tells how unsure the network
is; the price is a pass of the heads, or of the whole network, for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tsp_model.inference import to_input
from tsp_model.network import TSPMaskRCNN


@torch.inference_mode()
def passes(model: TSPMaskRCNN, images: list[Tensor], count: int, shared: bool = True) -> list[list[dict[str, Any]]]:
    """Detections of each image in each of `count` passes; the model is left in evaluation mode.

    Args:
        model: built with `dropout` above 0, or every pass says the same.
        images: [3, H, W] RGB each, uint8 0..255 or float 0..1, all of one size.
        shared: True: features and proposals are computed once, and only the heads run `count` times. There is no
            dropout before the heads, so False gives the same, and costs `count` whole passes.

    Returns:
        [count][len(images)] dicts as TSPMaskRCNN.detect's, on the model's device.
    """
    device = next(model.parameters()).device
    images = [to_input(image, device) for image in images]
    with dropping(model):
        if not shared:
            return [model.detect(model.propose(images)) for _ in range(count)]
        proposed = model.propose(images)
        return [model.detect(proposed) for _ in range(count)]


@contextmanager
def dropping(model: TSPMaskRCNN) -> Iterator[None]:
    """Dropout on for the length of a `with` block, everything else in evaluation mode."""
    model.eval()
    for module in model.roi_heads.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    try:
        yield
    finally:
        model.eval()
