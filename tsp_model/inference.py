"""Images in, detections out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from tsp_model.network import Proposed, TSPMaskRCNN
from tsp_model.paste import pasted

BATCH_SIZE = 4

# One dict an image, by name, JSON-able; called under inference_mode.
Observe = Callable[[TSPMaskRCNN, Proposed], list[dict[str, Any]]]


def to_input(image: Tensor, device: torch.device) -> Tensor:
    """uint8 0..255 or float 0..1 [3, H, W] -> float32 0..1 on `device`, what the network takes."""
    image = image.to(device, non_blocking=True)
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def predict(
    model: TSPMaskRCNN,
    images: Iterable[Tensor],
    batch_size: int = BATCH_SIZE,
    paste: bool = True,
    above: float = 0.0,
    observe: Observe | None = None,
) -> Iterator[dict[str, Any]]:
    """Detections of each image, in order, as a stream: memory holds one batch.

    Within a batch only images of one size run together: torchvision pads smaller ones, and the padding would change
    what a network says about an image with the company it keeps.

    Args:
        model: tsp_mask_rcnn's; left in evaluation mode.
        images: [3, H, W] RGB each, uint8 0..255 or float 0..1, any size, on any device.
        batch_size: images a forward pass.
        paste: False leaves each mask in its box; above: least class score. See TSPMaskRCNN.detect.
        observe: notes something more of each image half way through the network: its `signals`.

    Yields:
        Dicts on the CPU: boxes [N, 4] XYXY float32 in the image's pixels, labels, scores, box_scores, mask_scores,
        instance_scores, entropies [N], masks [N, 1, H, W] float32 in 0..1 and max_class_score (float).
    """
    model.eval()
    device = next(model.parameters()).device
    stream = iter(images)
    while batch := list(islice(stream, batch_size)):
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(batch):
            by_size.setdefault((image.shape[-2], image.shape[-1]), []).append(index)
        found: dict[int, dict[str, Any]] = {}
        for indices in by_size.values():
            with torch.inference_mode():
                proposed = model.propose([to_input(batch[index], device) for index in indices])
                outputs = model.detect(proposed, above)
                if observe is not None:
                    for output, signals in zip(outputs, observe(model, proposed), strict=True):
                        output["signals"] = signals
            for index, output in zip(indices, outputs, strict=True):
                found[index] = {
                    name: value.cpu() if isinstance(value, Tensor) else value for name, value in output.items()
                }
                found[index]["max_class_score"] = float(output["max_class_score"])
        yield from (pasted(found[index]) if paste else found[index] for index in range(len(batch)))
