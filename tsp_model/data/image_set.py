"""A labelled (or unlabelled) set of images, decoded on access.

torch, which takes seconds to import, is imported where a tensor is made: a set can be made and counted without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from tsp_model.data import DataError, masks, some

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DataError", "ImageSet", "Instance", "Item", "image_size", "read_image"]

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class Instance:
    """One object. ``label`` is 1..C, the index into the set's classes plus one (0 is background);
    ``rle`` is the mask in image pixels, a compressed COCO RLE with its counts as a string."""

    label: int
    rle: dict[str, Any]


@dataclass(frozen=True)
class Item:
    """One image. ``key`` is unique in its set and stable between runs; ``path`` is a file on this disk."""

    key: str
    path: Path
    instances: tuple[Instance, ...] = ()


class ImageSet:
    """Images with their instances; a map-style dataset for torch's DataLoader.

    ``set[i]`` is ``(image, target)``: image uint8 [3, H, W] RGB; target a dict of boxes float32 [N, 4] (XYXY,
    pixel edges: a one-pixel object is 1 wide), labels int64 [N], masks uint8 [N, H, W] and key str. Images
    keep their size; the network resizes.

    Args:
        items: in the order of the set.
        classes: class names; label i + 1 is ``classes[i]``.

    Raises:
        DataError: keys or classes repeat, or a label has no class. On access: an image cannot be read, or a
            mask's size is not the image's.
    """

    def __init__(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        self.items = tuple(items)
        self.classes = tuple(classes)
        self._index = {item.key: index for index, item in enumerate(self.items)}
        _refuse_repeated("image keys", [item.key for item in self.items])
        _refuse_repeated("class names", self.classes)
        for item in self.items:
            for instance in item.instances:
                if not 1 <= instance.label <= len(self.classes):
                    raise DataError(f"{item.key}: label {instance.label} has no class; use 1 to {len(self.classes)}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Every image's key, in order."""
        return tuple(item.key for item in self.items)

    @property
    def objects(self) -> int:
        """How many there are in all images."""
        return sum(len(item.instances) for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        import torch

        item = self.items[index]
        image = read_image(item.path)
        size = tuple(image.shape[-2:])
        rles = [instance.rle for instance in item.instances]
        try:
            decoded = masks.decode(rles, size=size)
        except DataError as error:
            raise DataError(f"{item.key}: {error}") from error
        target = {
            "boxes": torch.from_numpy(masks.boxes(rles)),
            "labels": torch.tensor([instance.label for instance in item.instances], dtype=torch.int64),
            "masks": torch.from_numpy(decoded),
            "key": item.key,
        }
        return image, target

    def subset(self, keys: Iterable[str]) -> ImageSet:
        """The images of ``keys``, in that order. Raises DataError for a key that is not in the set."""
        wanted = list(keys)
        unknown = [key for key in wanted if key not in self._index]
        if unknown:
            raise DataError(f"{len(unknown)} keys are not in this set of {len(self)} images: {some(unknown)}")
        return ImageSet([self.items[self._index[key]] for key in wanted], self.classes)

    def without_small(self, share: float) -> ImageSet:
        """The same images without the objects whose box is narrower or lower than `share` of the image's longest side.

        The set itself if there are none.
        """
        items = [replace(item, instances=tuple(_large(item.instances, share))) for item in self.items]
        small = any(len(new.instances) < len(old.instances) for new, old in zip(items, self.items, strict=True))
        return ImageSet(items, self.classes) if small else self


def read_image(path: Path | str) -> Tensor:
    """Read an image file as uint8 [3, H, W], RGB.

    EXIF orientation is applied, grey is repeated on the three channels, transparency is dropped. Samples of
    more than 8 bits are scaled by the fewest bits (8, 10, 12, 14 or 16) that hold the image's largest value,
    since scanners store 12-bit data in 16-bit files; of several frames the first is read.

    Raises:
        DataError: with the path and the reason.
    """
    import torch

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I") or image.mode == "F":
                image = Image.fromarray(_to_8_bits(np.asarray(image)))
            array = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the image {path}: {reason}; replace or remove it") from error
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of an image file, as `read_image` will give it; only its header is read.

    Raises:
        DataError: with the path and the reason.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Not for PNG, whose EXIF block may come last, so that asking for it decodes the image.
            sideways = image.format in ("JPEG", "TIFF", "MPO", "WEBP") and image.getexif().get(0x0112) in SIDEWAYS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the image {path}: {reason}; replace or remove it") from error
    return (width, height) if sideways else (height, width)


def _large(instances: Sequence[Instance], share: float) -> list[Instance]:
    sides = np.diff(masks.boxes([one.rle for one in instances]).reshape(-1, 2, 2), axis=1).min(axis=(1, 2))
    return [one for one, side in zip(instances, sides, strict=True) if side >= share * max(one.rle["size"])]


def _to_8_bits(samples: np.ndarray) -> np.ndarray:
    fractions = samples.dtype.kind == "f"
    samples = np.nan_to_num(samples.astype(np.float64)).clip(min=0)
    largest = samples.max(initial=0)
    if fractions and largest <= 1:
        full = 1.0
    else:
        full = next((2**bits - 1 for bits in (8, 10, 12, 14, 16) if largest < 2**bits), largest)
    return np.round(samples * (255 / full)).astype(np.uint8)


def _refuse_repeated(what: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{what} repeat: {some(repeated)}; each may appear once")
