"""Predictions to Label Studio regions, and the results of annotations back to labelled masks.

Brush regions carry Label Studio's own run-length code of an RGBA image whose alpha channel is the mask (`brush`).
Polygon regions carry points in percent of the image.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend import brush, polygons, settings
from backend.label_config import KINDS, LabelTag
from tsp_model.data import masks
from tsp_model.predictions import Prediction

logger = logging.getLogger(__name__)

RLE = dict[str, Any]


def to_regions(
    prediction: Prediction, classes: Sequence[str], tag: LabelTag, show_threshold: float = 0.0
) -> list[dict[str, Any]]:
    """The regions of a pre-annotation, for detections with a class score above ``show_threshold``.

    A region's ``score`` is s_ij of Eq. 2; class, box and mask score stand in its ``meta``, the text of which
    the editor shows. Detections of a class without a label in ``tag`` and empty masks are left out. The same
    prediction always gives the same region ids.

    Args:
        prediction: one image's; its labels are 1..C.
        classes: the C class names of the model.
        tag: of the project's labeling configuration.
    """
    shown = prediction.above(show_threshold)
    regions = []
    for index, rle in enumerate(shown.rles):
        label = tag.label_for(classes[shown.labels[index] - 1])
        if label is None:
            continue
        identity = f"{shown.key}/{index}/{shown.labels[index]}/{rle['counts']}"
        region = _region(label, rle, tag, hashlib.blake2s(identity.encode(), digest_size=5).hexdigest())
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


def to_region(label: str, rle: RLE, tag: LabelTag, region_id: str) -> dict[str, Any]:
    """One mask as a region of the project's tag; a polygon has the mask's largest piece only (`polygons`).

    Raises:
        ValueError: the mask is empty, so that there is nothing to draw.
    """
    region = _region(label, rle, tag, region_id)
    if region is None:
        raise ValueError(f"region {region_id}: the mask is empty; leave it out")
    return region


def _region(label: str, rle: RLE, tag: LabelTag, region_id: str) -> dict[str, Any] | None:
    """As `to_region`; None for an empty mask."""
    height, width = rle["size"]
    if tag.kind == "brush":
        ends = masks.row_ends(rle)
        if not len(ends):
            return None
        value = {"format": "rle", "rle": _codec().encode(ends, height * width)}
    else:
        window, top, left = masks.decode_window(rle)
        if not window.size:
            return None
        percent = (polygons.outline(window) + np.array([left, top])) * (100.0 / width, 100.0 / height)
        value = {"points": percent.clip(0, 100).tolist(), "closed": True}
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


def to_instances(result: Sequence[Mapping[str, Any]], size: tuple[int, int] | None = None) -> list[tuple[str, RLE]]:
    """The labelled masks of an annotation's (or prediction's) result, in the order of its regions.

    Brush and polygon regions count, whatever tag made them: annotations outlive a change of the
    configuration, and a mask that was passed over would teach the model that nothing is there. Everything
    else (relations, choices, boxes) is ignored, and so are regions without a label or without a pixel.
    Results with the same id are one instance. A polygon that was left open is closed by a straight line.

    Args:
        result: the list of an annotation.
        size: (H, W) of the image in pixels; each region's own ``original_height`` and ``original_width`` if
        None.

    Raises:
        ValueError: a region is malformed, or was drawn on an image of another size. The message names the
        region.
    """
    instances: dict[Any, tuple[str, list[RLE]]] = {}
    for index, region in enumerate(result):
        kind = KINDS.get(str(region.get("type", "")).lower()) if isinstance(region, Mapping) else None
        if kind is None:
            continue
        name = region.get("id") or f"number {index + 1}"
        try:
            label = _label(region, name)
            if label is None:
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
    return [(label, _union(parts)) for label, parts in instances.values()]


def _label(region: Mapping[str, Any], name: Any) -> str | None:
    labels = region["value"].get(region["type"].lower()) or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"its labels are {labels!r}, not a list of names")
    if len(labels) > 1:
        logger.warning("region %s has the labels %s; the first one counts", name, ", ".join(labels))
    return labels[0] if labels else None


def _mask(region: Mapping[str, Any], kind: str, size: tuple[int, int] | None) -> RLE | None:
    """None if no pixel is drawn."""
    drawn = (_pixels(region, "original_height"), _pixels(region, "original_width"))
    value = region["value"]
    if kind == "polygon":
        height, width = size or drawn
        ring = [(x / 100 * width, y / 100 * height) for x, y in value["points"]]
        rle = polygons.to_mask([ring], height, width)
        return rle if masks.area([rle])[0] else None
    if size is not None and tuple(size) != drawn:
        raise ValueError(
            f"it was drawn on an image of {drawn[1]} x {drawn[0]} pixels, this one has "
            f"{size[1]} x {size[0]}: was the image replaced?"
        )
    if value.get("format") != "rle":
        raise ValueError(f"its format is {value.get('format')!r}; only 'rle' is known")
    return _decode_brush(value["rle"], *drawn)


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


def _union(parts: list[RLE]) -> RLE:
    if len(parts) == 1:
        return parts[0]
    return masks.encode(masks.decode(parts).any(axis=0)[None])[0]
