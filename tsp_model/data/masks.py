"""Binary masks and their compressed COCO run-length encoding ("RLE").

An RLE is ``{"size": [height, width], "counts": str}``. The codec is faster_coco_eval's; this module adds
batching, the string form that JSON wants, and errors that say what is wrong. No torch.

Between pixels and run lengths the codec walks the whole image one pixel at a time. That step is done here, for the
columns that the object touches, and the codec only compresses and expands the run lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from faster_coco_eval.core import mask as codec
from faster_coco_eval.mask_api_new_cpp import toUncompressedRLE

from tsp_model.data import DataError

RLE = dict[str, Any]


def encode(masks: Any) -> list[RLE]:
    """Encode masks, one RLE each.

    Args:
        masks: [N, H, W], bool or uint8 (array or CPU tensor); what is not zero belongs to the object.
    """
    array = np.asarray(masks)
    if array.ndim != 3:
        raise DataError(f"masks have shape {list(array.shape)}; give [N, H, W]")
    return [_encode(mask != 0) for mask in array]


def encode_window(window: np.ndarray, top: int, left: int, height: int, width: int) -> RLE:
    """The RLE of a mask of [height, width] pixels that is empty outside of a window.

    Args:
        window: [h, w] bool, all inside the mask. top, left: its first row and column.
    """
    # A row of background below each column ends its run, so that columns can be moved apart.
    columns = np.zeros((window.shape[1], window.shape[0] + 1), dtype=bool)
    columns[:, :-1] = window.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False))
    column, row = np.divmod(changes, columns.shape[1])
    ends = (left + column) * height + top + row
    # Where a run ends at the bottom and the next begins at the top, they are one; so is the image's own end.
    ends = np.append(ends, height * width)
    same = ends[1:] == ends[:-1]
    joined = np.append(False, same) | np.append(same, False)
    joined[-1] = False
    return _compressed(np.diff(ends[~joined], prepend=0).tolist(), height, width)


def _encode(mask: np.ndarray) -> RLE:
    """The RLE of one bool [H, W] mask."""
    height, width = mask.shape
    ends = np.array([mask.size])
    touched = np.flatnonzero(mask.any(axis=0))
    if len(touched):
        columns = _turned(mask[:, touched[0] : touched[-1] + 1].view(np.uint8)).ravel().view(bool)
        changes = touched[0] * height + np.flatnonzero(np.diff(columns, prepend=False, append=False))
        # An object that reaches the last pixel ends where the image ends: once is enough.
        ends = np.append(changes[changes < mask.size], mask.size)
    return _compressed(np.diff(ends, prepend=0).tolist(), height, width)


def decode(rles: Sequence[RLE], size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode RLEs of one image to uint8 [N, H, W], contiguous, 0 or 1.

    Args:
        rles: all of one size.
        size: (H, W); needed only to give an empty list its shape.

    Raises:
        DataError: a count string is broken, or the sizes differ.
    """
    height, width = size if size is not None else (rles[0]["size"] if rles else (0, 0))
    masks = np.zeros((len(rles), height, width), dtype=np.uint8)
    for mask, rle in zip(masks, rles, strict=True):
        if list(rle["size"]) != [height, width]:
            raise DataError(f"a mask of {rle['size']} pixels for {[height, width]} (height, width); make them equal")
        _decode_into(mask, rle)
    return masks


def _decode_into(mask: np.ndarray, rle: RLE) -> None:
    """Draw an RLE into zeros of its size, uint8 [H, W]."""
    height = mask.shape[0]
    # Where each run ends, counted down the columns; every second run is the object's.
    counts = _checked(toUncompressedRLE, [rle])[0]["counts"]
    ends = np.cumsum(np.fromiter(counts, np.int64, len(counts)))
    if not len(ends) or ends[-1] != mask.size:
        raise DataError(f"a mask's RLE is broken (it is not {mask.size} pixels long); correct or remove it")
    runs = ends[1::2]
    if not len(runs):
        return
    left, right = ends[0] // height, -(-runs[-1] // height)
    if left < right:
        lengths = np.diff(ends.clip(left * height, right * height), prepend=left * height)
        columns = np.repeat((np.arange(len(ends)) % 2).astype(np.uint8), lengths)
        mask[:, left:right] = _turned(columns.reshape(right - left, height))


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    """Rasterise the union of polygons ``[[x1, y1, x2, y2, ...], ...]`` (pixels, x to the right, y down).

    Parts outside the image are cut off; a polygon of fewer than three points has no area.

    Raises:
        DataError: an odd number of coordinates, or one that is not a finite number.
    """
    usable = []
    for polygon in polygons:
        try:
            points = np.asarray(polygon, dtype=np.float64)
        except (TypeError, ValueError):
            points = np.array(np.nan)
        if points.ndim != 1 or points.size % 2 or not np.isfinite(points).all():
            raise DataError("a polygon is not a flat list of finite x, y pairs; correct or remove it")
        # The codec would take four numbers for a box.
        if points.size >= 6:
            usable.append(points.tolist())
    if not usable:
        return encode(np.zeros((1, height, width), dtype=np.uint8))[0]
    return _with_text_counts(codec.merge(codec.frPyObjects(usable, height, width)))


def from_counts(counts: Sequence[int], height: int, width: int) -> RLE:
    """Compress uncompressed COCO counts (run lengths, columns first, starting with background).

    Raises:
        DataError: they are not whole numbers that add up to height x width.
    """
    if not all(isinstance(count, int) and count >= 0 for count in counts) or sum(counts) != height * width:
        raise DataError(f"uncompressed RLE counts are not whole numbers that add up to {height} x {width}")
    return _compressed(list(counts), height, width)


def area(rles: Sequence[RLE]) -> np.ndarray:
    """Pixels of each mask, int64 [N]."""
    return np.asarray(_checked(codec.area, rles), dtype=np.int64).reshape(-1)


def boxes(rles: Sequence[RLE]) -> np.ndarray:
    """Tight boxes, float32 [N, 4], XYXY on pixel edges (a one-pixel object is 1 wide); zeros if empty."""
    xywh = np.asarray(_checked(codec.toBbox, rles), dtype=np.float32).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def iou(first: Sequence[RLE], second: Sequence[RLE]) -> np.ndarray:
    """Intersection over union of every pair, float64 [len(first), len(second)]."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    return np.asarray(codec.iou(list(first), list(second), [0] * len(second)))


def _checked(function: Any, rles: Sequence[RLE]) -> Any:
    try:
        return function(list(rles))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"a mask's RLE is broken ({_first_line(error)}); correct or remove it") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _turned(pixels: np.ndarray) -> np.ndarray:
    """uint8 [H, W] with rows and columns exchanged, contiguous; OpenCV does it in a tenth of NumPy's time."""
    return cv2.transpose(pixels)


def _compressed(counts: list[int], height: int, width: int) -> RLE:
    return _with_text_counts(codec.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _with_text_counts(rle: RLE) -> RLE:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
