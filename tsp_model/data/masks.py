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
LARGE = 2**13  # pixels from which on OpenCV turns an image quicker than NumPy


def encode(masks: Any) -> list[RLE]:
    """Encode masks, one RLE each.

    Args:
        masks: [N, H, W], bool or uint8 (array or CPU tensor); what is not zero belongs to the object.
    """
    array = np.asarray(masks)
    if array.ndim != 3:
        raise DataError(f"masks have shape {list(array.shape)}; give [N, H, W]")
    return [encode_window(mask != 0, 0, 0, *mask.shape) for mask in array]


def encode_window(window: np.ndarray, top: int, left: int, height: int, width: int) -> RLE:
    """The RLE of a mask of [height, width] pixels that is empty outside of a window.

    Args:
        window: [h, w] bool, all inside the mask. top, left: its first row and column.
    """
    touched = window.any(axis=0).nonzero()[0]
    if not len(touched):
        return _compressed([height * width], height, width)
    first, last = int(touched[0]), int(touched[-1])
    ends = _run_ends(_turned(window[:, first : last + 1]), (left + first) * height + top, height)
    return _from_column_ends(ends, height, width)


def _run_ends(lines: np.ndarray, first: int, pitch: int) -> np.ndarray:
    """Where runs end in the pixels of a mask one line after the other: background, object, background and so on.

    The mask is empty outside of a window. The last end is an object's; the first is 0 if the mask begins with one.

    Args:
        lines: bool [N, M], the window's part of N lines. first: how many pixels come before the window's first.
        pitch: pixels of a whole line.

    Returns:
        int64 [2R] for R runs of the object.
    """
    count, length = lines.shape
    # A pixel of background behind each line ends its last run, so that the lines can be moved apart.
    padded_length = min(length + 1, pitch)
    padded = np.zeros(count * padded_length + 2, dtype=bool)
    padded[1:-1].reshape(count, padded_length)[:, :length] = lines
    ends = np.flatnonzero(padded[1:] != padded[:-1])
    if padded_length == pitch:
        return first + ends
    line, place = np.divmod(ends, padded_length)
    ends = first + line * pitch + place
    # Where a run ends with its line and the next begins with the line after it, they are one.
    between = ends[1::2][:-1] != ends[2::2]
    return ends[np.concatenate([[True], between.repeat(2), [True]])] if len(ends) else ends


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
        window, top, left = decode_window(rle)
        mask[top : top + window.shape[0], left : left + window.shape[1]] = window
    return masks


def decode_window(rle: RLE) -> tuple[np.ndarray, int, int]:
    """An RLE's pixels in the box around the object.

    Returns:
        bool [h, w] ([0, 0] for an empty mask), and the first row and column of the box.

    Raises:
        DataError: the count string is broken.
    """
    height, width = rle["size"]
    lengths = _run_lengths(rle)
    start, end = int(lengths[0]), height * width - (int(lengths[-1]) if len(lengths) % 2 else 0)
    left, right = start // height, -(-end // height)
    columns = np.zeros((max(0, right - left), height), dtype=bool)
    runs = lengths[1 : len(lengths) // 2 * 2]
    columns.reshape(-1)[start - left * height : end - left * height] = (np.arange(len(runs)) % 2 == 0).repeat(runs)
    rows = columns.any(axis=0).nonzero()[0]
    if not len(rows):
        return np.zeros((0, 0), dtype=bool), 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return _turned(columns[:, top:bottom]), top, left


def row_ends(rle: RLE) -> np.ndarray:
    """Where runs end in the mask's pixels row by row: background, object, background and so on.

    Returns:
        int64 [2R] for R runs of the object, ascending; the first is 0 if the mask begins with one.

    Raises:
        DataError: the count string is broken.
    """
    height, width = rle["size"]
    lengths = _run_lengths(rle)
    ends = lengths.cumsum()[: len(lengths) // 2 * 2]
    # Runs without a pixel, which the codec never writes: what turns an even number of times at a place does not turn.
    if np.count_nonzero(lengths[1:]) < len(lengths) - 1:
        ends, times = np.unique(ends, return_counts=True)
        ends = ends[times % 2 == 1]
    return _turned_ends(ends, height, width)


def from_row_ends(ends: np.ndarray, height: int, width: int) -> RLE:
    """The RLE of a mask of [height, width] pixels from what `row_ends` gives of it."""
    return _from_column_ends(_turned_ends(ends, width, height), height, width)


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


def union(rles: Sequence[RLE]) -> RLE:
    """The pixels that lie in any of one or more masks of one size.

    Raises:
        DataError: a count string is broken, or the sizes differ.
    """
    sizes = {tuple(rle["size"]) for rle in rles}
    if len(sizes) > 1:
        raise DataError(f"masks of the sizes {sorted(sizes)} (height, width) make no union; make them equal")
    merged = _checked(codec.merge, rles)
    counts = merged["counts"]
    return {"size": list(merged["size"]), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}


def iou(first: Sequence[RLE], second: Sequence[RLE]) -> np.ndarray:
    """Intersection over union of every pair, float64 [len(first), len(second)]."""
    return _overlap(first, second, crowd=0)


def covered(first: Sequence[RLE], second: Sequence[RLE]) -> np.ndarray:
    """Which share of each first mask lies in each second one, float64 [len(first), len(second)]; NaN or 0 for an empty
    mask."""
    return _overlap(first, second, crowd=1)


def _overlap(first: Sequence[RLE], second: Sequence[RLE], crowd: int) -> np.ndarray:
    """crowd: COCO's, for which the union is the first mask alone."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    return np.asarray(codec.iou(list(first), list(second), [crowd] * len(second)))


def _checked(function: Any, rles: Sequence[RLE]) -> Any:
    try:
        return function(list(rles))
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"a mask's RLE is broken ({_first_line(error)}); correct or remove it") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _turned(pixels: np.ndarray) -> np.ndarray:
    """bool [H, W] with rows and columns exchanged, contiguous."""
    if pixels.size < LARGE:
        return np.ascontiguousarray(pixels.T)
    return cv2.transpose(pixels.view(np.uint8)).view(bool)


def _turned_ends(ends: np.ndarray, length: int, count: int) -> np.ndarray:
    """Where runs end in a mask read along its lines, from where they end when it is read across them.

    Only those pixels are looked at that differ from the one before them in the direction asked for.

    Args:
        ends: int64 [2R], ascending and each of them once, in lines of `length` pixels. count: of lines.

    Returns:
        int64 [2S], the same for the mask turned: `length` lines of `count` pixels.
    """
    # The mask and itself one line further differ where one of the two turns and the other does not.
    turns = np.empty(2 * len(ends), dtype=np.int64)
    turns[: len(ends)] = ends
    np.add(ends, length, out=turns[len(ends) :])
    turns.sort()
    turns = _unpaired(turns)
    lengths = turns[1::2] - turns[::2]
    behind = lengths.cumsum()
    places = (turns[1::2] - behind).repeat(lengths)
    places += np.arange(len(places))
    lines = places // length
    # (places - lines * length) * count + lines
    found = places * count - lines * (length * count - 1)
    found.sort()
    # A run that reaches the end of its line and the next line's that begins there are one.
    return _unpaired(found)


def _unpaired(places: np.ndarray) -> np.ndarray:
    """Ascending places, of which none comes more than twice, without those that do."""
    new = np.ones(len(places) + 1, dtype=bool)
    new[1:-1] = places[1:] != places[:-1]
    return places[new[1:] & new[:-1]]


def _run_lengths(rle: RLE) -> np.ndarray:
    """Run lengths down the columns, int64, at least one; every second run is the object's."""
    height, width = rle["size"]
    lengths = np.array(_checked(toUncompressedRLE, [rle])[0]["counts"], dtype=np.int64)
    if lengths.sum() != height * width or not len(lengths):
        raise DataError(f"a mask's RLE is broken (it is not {height} x {width} pixels long); correct or remove it")
    return lengths


def _from_column_ends(ends: np.ndarray, height: int, width: int) -> RLE:
    edges = np.empty(len(ends) + 2, dtype=np.int64)
    edges[0], edges[1:-1], edges[-1] = 0, ends, height * width
    lengths = (edges[1:] - edges[:-1]).tolist()
    # An object that reaches the last pixel leaves no background behind it.
    return _compressed(lengths if lengths[-1] else lengths[:-1], height, width)


def _compressed(counts: list[int], height: int, width: int) -> RLE:
    return _with_text_counts(codec.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _with_text_counts(rle: RLE) -> RLE:
    counts = rle["counts"]
    return {
        "size": [int(side) for side in rle["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
