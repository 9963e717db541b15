"""Masks to polygons with few points, and back.

Label Studio's polygon region is one ring without holes. A mask of several pieces therefore becomes the outline of its
largest piece with its holes filled: one polygon per piece would turn one instance into several, and bridges between the
pieces cannot be edited by an annotator. Small specks beside an object are lost on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from tsp_model.data import masks

KEPT_IOU = 0.965  # of the simplified outline with the exact one
TOLERANCES = (2.0, 1.5, 1.0, 0.75)  # pixels; the first that keeps the IoU is taken


def outline(mask: np.ndarray) -> np.ndarray:
    """The outer edge of a mask's largest piece, simplified as far as the IoU with it stays at 0.965 or more.

    Args:
        mask: [H, W], bool or uint8; what is not zero belongs to the object.

    Returns:
        float64 [P, 2], P >= 3: x, y in pixels, on pixel edges (a one-pixel object is a square of side 1).
        Empty [0, 2] for an empty mask.
    """
    rings = _rings(mask)
    return _simplified(max(rings, key=_area)) if rings else np.zeros((0, 2))


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """`outline` of each piece of a mask, for what knows an object of several rings, as COCO does. Holes are filled,
    with what lies in them."""
    return [_simplified(ring) for ring in _rings(mask)]


def exact_outline(mask: np.ndarray) -> np.ndarray:
    """The outer edge of a mask's largest piece (diagonal neighbours are one piece), every corner of it.

    Arguments and result as in `outline`.
    """
    return max(_rings(mask), key=_area, default=np.zeros((0, 2)))


def _simplified(exact: np.ndarray) -> np.ndarray:
    """A ring with fewer points, as far as the IoU with it allows."""
    origin = exact.min(axis=0)
    local = exact - origin
    width, height = (int(side) for side in local.max(axis=0))
    wanted = masks.from_polygons([local.ravel()], height, width)
    for tolerance in TOLERANCES:
        points = cv2.approxPolyDP(local.astype(np.float32), tolerance, closed=True)[:, 0].astype(np.float64)
        if len(points) < 3:
            continue
        if masks.iou([wanted], [masks.from_polygons([points.ravel()], height, width)])[0, 0] >= KEPT_IOU:
            return points + origin
    return exact


def _rings(mask: np.ndarray) -> list[np.ndarray]:
    """The outer edge of each piece, every corner of it, on pixel edges; none for an empty mask."""
    rows, columns = np.nonzero(np.any(mask, axis=1))[0], np.nonzero(np.any(mask, axis=0))[0]
    if not len(rows):
        return []
    top, left = rows[0], columns[0]
    crop = (mask[top : rows[-1] + 1, left : columns[-1] + 1] != 0).astype(np.uint8)
    # OpenCV follows pixel centres, which would cut half a pixel off every side and leave a line no area.
    # Doubled, the first of a pixel's two samples stands for its left or upper edge, the second for its right
    # or lower one.
    doubled = crop.repeat(2, axis=0).repeat(2, axis=1)
    rings, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    place = np.array([left, top], dtype=np.float64)
    return [_corners((ring[:, 0] + 1) // 2) + place for ring in rings]


def _area(ring: np.ndarray) -> float:
    return cv2.contourArea(ring.astype(np.float32))


def to_mask(rings: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> masks.RLE:
    """Rasterise the union of rings of (x, y) points in pixels; outside the image they are cut off.

    Raises:
        ValueError: a point is not two finite numbers.
    """
    return masks.from_polygons([[number for point in ring for number in point] for ring in rings], height, width)


def _corners(ring: np.ndarray) -> np.ndarray:
    """A closed ring without repeated points and without those on a straight line between neighbours."""
    ring = ring[np.any(ring != np.roll(ring, 1, axis=0), axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]].astype(np.float64)
