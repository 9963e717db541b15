"""Predictions to Label Studio regions, and the results of annotations back to labelled masks.

Brush regions carry Label Studio's own run-length code of an RGBA image whose alpha channel is the mask (`brush`),
bitmask regions a PNG (`bitmask`), polygons (`polygons`) and rectangles numbers in percent of the image. All of them
are those of the image as it lies in its file, however an annotator turned the view: the editor's own
`image_rotation` says how it was looked at, and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from backend import bitmask, brush, polygons, settings
from backend.image_limits import MOST_MEGAPIXELS
from backend.label_config import KINDS, LabelConfig, LabelTag
from backend.shown import Shown
from tsp_model.data import masks
from tsp_model.predictions import Prediction

logger = logging.getLogger(__name__)

EVERYTHING = Shown()
RLE = dict[str, Any]
Boxed = Callable[[str], bool]


def to_regions(
    prediction: Prediction, classes: Sequence[str], config: LabelConfig, show: Shown = EVERYTHING
) -> list[dict[str, Any]]:
    """The regions of a pre-annotation, for the detections that are shown.

    A region's ``score`` is s_ij of Eq. 2; class, box and mask score stand in its ``meta``, the text of which
    the editor shows. Detections of a class without a label in ``config`` and empty masks are left out. A rectangle
    is the detection's box. The same prediction always gives the same region ids.

    Args:
        prediction: one image's; its labels are 1..C.
        classes: the C class names of the model.
        config: the project's labeling configuration.
    """
    shown = show.of(prediction)
    regions = []
    for index, rle in enumerate(shown.rles):
        label = config.label_for(classes[shown.labels[index] - 1])
        if label is None:
            continue
        identity = f"{shown.key}/{index}/{shown.labels[index]}/{rle['counts']}"
        region_id = hashlib.blake2s(identity.encode(), digest_size=5).hexdigest()
        region = _region(label, rle, config.tags[label], region_id, shown.boxes[index])
        if region is None:
            continue
        scores = {
            "class": float(shown.scores[index]),
            "box": float(shown.box_scores[index]),
            "mask": float(shown.mask_scores[index]),
        }
        regions.append(
            {
                **region,
                "score": float(shown.instance_scores[index]),
                "meta": {
                    "text": [", ".join(f"{name} {value:.2f}" for name, value in scores.items())],
                    **{f"{name}_score": round(value, 4) for name, value in scores.items()},
                },
            }
        )
    return regions


def to_region(label: str, rle: RLE, config: LabelConfig, region_id: str) -> dict[str, Any]:
    """One mask as a region of the tag that answers for its label; a polygon has the mask's largest piece only
    (`polygons`), a rectangle is the box around it.

    Raises:
        ValueError: the mask is empty, so that there is nothing to draw.
    """
    region = _region(label, rle, config.tags[label], region_id)
    if region is None:
        raise ValueError(f"region {region_id}: the mask is empty; leave it out")
    return region


def _region(
    label: str, rle: RLE, tag: LabelTag, region_id: str, box: Sequence[float] | None = None
) -> dict[str, Any] | None:
    """As `to_region`; None for an empty mask. `box`: [x1, y1, x2, y2], of a rectangle; None: the mask's own."""
    height, width = rle["size"]
    value = _brush(rle) if tag.kind == "brush" else _drawn(rle, tag.kind, box)
    if value is None:
        return None
    return {
        "id": region_id,
        "from_name": tag.from_name,
        "to_name": tag.to_name,
        "type": tag.region_type,
        "original_width": int(width),
        "original_height": int(height),
        "image_rotation": 0,
        "value": {**value, tag.region_type: [label]},
    }


def _brush(rle: RLE) -> dict[str, Any] | None:
    height, width = rle["size"]
    ends = masks.row_ends(rle)
    return {"format": "rle", "rle": _codec().encode(ends, height * width)} if len(ends) else None


def _drawn(rle: RLE, kind: str, box: Sequence[float] | None) -> dict[str, Any] | None:
    height, width = rle["size"]
    window, top, left = masks.decode_window(rle)
    if not window.size:
        return None
    if kind == "bitmask":
        return {"imageDataURL": bitmask.to_address(window, top, left, height, width)}
    percent = np.array([100.0 / width, 100.0 / height])
    if kind == "polygon":
        points = (polygons.outline(window) + np.array([left, top])) * percent
        return {"points": points.clip(0, 100).tolist(), "closed": True}
    rows, columns = window.shape
    corners = np.array(box or [left, top, left + columns, top + rows], dtype=np.float64).reshape(2, 2)
    (x, y), (right, bottom) = (corners * percent).clip(0, 100).tolist()
    return {"x": x, "y": y, "width": right - x, "height": bottom - y, "rotation": 0}


def to_instances(
    result: Sequence[Mapping[str, Any]], size: tuple[int, int] | None = None, boxed: Boxed = lambda label: False
) -> list[tuple[str, RLE]]:
    """The labelled masks of an annotation's (or prediction's) result, in the order of its regions.

    Brush, bitmask and polygon regions count, whatever tag made them: annotations outlive a change of the
    configuration, and a mask that was passed over would teach the model that nothing is there. Everything
    else (relations, choices) is ignored, and so are regions without a label or without a pixel.
    Results with the same id are one instance. A polygon that was left open is closed by a straight line; where one
    crosses itself, its loops are inside and what they share is outside.

    Args:
        result: the list of an annotation.
        size: (H, W) of the image in pixels; each region's own ``original_height`` and ``original_width`` if
        None.
        boxed: whether a rectangle of a label is the object (`LabelConfig.is_boxed`); other rectangles are ignored.

    Raises:
        ValueError: a region is malformed, or was drawn on an image of another size. The message names the
        region.
    """
    instances: dict[Any, tuple[str, list[RLE]]] = {}
    for index, region in enumerate(result):
        kind = KINDS.get(str(region.get("type", "")).lower()) if isinstance(region, Mapping) else None
        if kind is None:
            continue
        name = str(region.get("id") or f"number {index + 1}")
        try:
            label = _label(region, name)
            if label is None or (kind == "rectangle" and not boxed(label)):
                continue
            rle = _mask(region, kind, size)
        # What a broken region makes the codecs raise: index, type and value errors (DataError is one of them), and
        # the SDK's an overflow.
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            cause = f"it has no {cause}" if isinstance(error, KeyError) else cause
            raise ValueError(f"region {name}: {cause}") from error
        if rle is None:
            logger.warning("region %s (%s) has no pixel and is ignored", name, label)
            continue
        instances.setdefault((name, label), (label, []))[1].append(rle)
    return [(label, parts[0] if len(parts) == 1 else masks.union(parts)) for label, parts in instances.values()]


def _label(region: Mapping[str, Any], name: str) -> str | None:
    if not isinstance(region["value"], Mapping):
        raise ValueError(f"its value is {region['value']!r:.100}, not an object")
    labels = region["value"].get(region["type"].lower()) or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {labels!r}, not a list of names")
    if len(labels) > 1:
        logger.warning("region %s has the labels %s; the first one counts", name, ", ".join(labels))
    return labels[0] if labels else None


def _mask(region: Mapping[str, Any], kind: str, size: tuple[int, int] | None) -> RLE | None:
    """None if no pixel is drawn."""
    drawn = (_pixels(region, "original_height"), _pixels(region, "original_width"))
    if drawn[0] * drawn[1] > MOST_MEGAPIXELS * 1e6:
        raise ValueError(
            f"it says that its image has {drawn[1]} x {drawn[0]} pixels; none has more than {MOST_MEGAPIXELS} million"
        )
    value = region["value"]
    if kind in ("polygon", "rectangle"):
        height, width = size or drawn
        points = value["points"] if kind == "polygon" else _corners(value, height, width)
        rle = polygons.to_mask([[(x / 100 * width, y / 100 * height) for x, y in points]], height, width)
        return rle if masks.area([rle])[0] else None
    if size is not None and tuple(size) != drawn:
        raise ValueError(
            f"it was drawn on an image of {drawn[1]} x {drawn[0]} pixels, this one has "
            f"{size[1]} x {size[0]}: was the image replaced?"
        )
    if kind == "bitmask":
        pixels = bitmask.from_address(value["imageDataURL"], *drawn)
        return masks.encode(pixels[None])[0] if pixels.any() else None
    if value.get("format") != "rle":
        raise ValueError(f"its format is {value.get('format')!r}; only 'rle' is known")
    return _decode_brush(value["rle"], *drawn)


def _corners(value: Mapping[str, Any], height: int, width: int) -> list[tuple[float, float]]:
    """The corners of a rectangle in percent. It turns about its first one, clockwise, in pixels."""
    angle = math.radians(value.get("rotation") or 0)
    x, y = value["x"] / 100 * width, value["y"] / 100 * height
    along, down = value["width"] / 100 * width, value["height"] / 100 * height
    turned = [
        (x + right * math.cos(angle) - below * math.sin(angle), y + right * math.sin(angle) + below * math.cos(angle))
        for right, below in ((0, 0), (along, 0), (along, down), (0, down))
    ]
    return [(right / width * 100, below / height * 100) for right, below in turned]


def _pixels(region: Mapping[str, Any], key: str) -> int:
    value = region.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 100_000:
        raise ValueError(f"{key} is {value!r}, not a number of pixels")
    return value


def _codec() -> brush.Codec:
    return brush.CODECS[settings.brush_codec()]


def _decode_brush(code: Sequence[int], height: int, width: int) -> RLE | None:
    code = brush.to_bytes(code)
    # The code begins with its own length: checked here, so that a broken one cannot ask for gigabytes.
    announced = int.from_bytes(code[:4], "big")
    if announced != height * width * brush.CHANNELS:
        raise ValueError(
            f"its rle holds {announced} numbers, {width} x {height} pixels need {height * width * brush.CHANNELS}"
        )
    ends = _codec().decode(code)
    return masks.from_row_ends(ends, height, width) if len(ends) else None
