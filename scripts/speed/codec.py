"""Masks to Label Studio's brush regions and back: ours beside the codec of its SDK, byte for byte the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco
from label_studio_sdk.converter import brush as sdk

from backend import brush, regions
from backend.label_config import LabelConfig, LabelTag
from scripts.speed.timing import Bench, Comparison, require_agreement
from tsp_model.data import masks
from tsp_model.data.coco import load_coco

REAL_SETS = ("dsb2018", "ufba425")
IMAGES, MASKS_AN_IMAGE, RAGGED = 12, 5, 8
FULL_SIZES = (64, 256, 512, 1024)
CONFIG = LabelConfig("image", {"object": LabelTag("brush", "tag", "image")}, {})
AIM = 10.0


def codec(bench: Bench) -> Iterator[Comparison]:
    """The masks of each set as the backend writes and reads them."""
    for name in REAL_SETS:
        if (bench.data / name).is_dir():
            yield from _compare(bench, name, _real_masks(bench.data / name, 2 if bench.smoke else IMAGES))
        else:
            yield Comparison(f"{name}: masks", "ours", "SDK", note=f"no {bench.data / name}; give --data")
    size, count = (48, 2) if bench.smoke else (512, RAGGED)
    yield from _compare(bench, "ragged", _ragged_masks(size, count))
    sizes = FULL_SIZES[:1] if bench.smoke else FULL_SIZES
    yield from _compare(bench, "full", [np.full((size, size), 255, dtype=np.uint8) for size in sizes])


def _compare(bench: Bench, name: str, drawn: list[np.ndarray]) -> Iterator[Comparison]:
    """Two rows. Drawn are uint8 [H, W], 0 or 255, as the SDK's codec takes them."""
    rles = [masks.encode(mask[None])[0] for mask in drawn]
    written = [regions.to_region("object", rle, CONFIG, "region") for rle in rles]
    for direction, inputs, ours, theirs in (
        ("masks: COCO RLE to region", rles, _to_region, _to_code_by_sdk),
        ("masks: region to COCO RLE", written, _from_region, _from_region_by_sdk),
    ):
        title = f"{len(drawn)} {name} {direction}"
        same = all(np.array_equal(ours(one), theirs(one)) for one in inputs)
        require_agreement(same, title)
        contestants = {"ours": _all(ours, inputs), "SDK": _all(theirs, inputs)}
        yield Comparison(title, "ours", "SDK", bench.measure(title, contestants), aim=AIM)


def _to_region(rle: masks.RLE) -> list[int]:
    """What the backend does, the region around the code included."""
    return regions.to_region("object", rle, CONFIG, "region")["value"]["rle"]


def _to_code_by_sdk(rle: masks.RLE) -> list[int]:
    return sdk.mask2rle(coco.decode(rle) * np.uint8(255))


def _from_region(region: dict[str, Any]) -> masks.RLE:
    """What the backend does, its checks of the region included."""
    ((_, rle),) = regions.to_instances([region])
    return rle


def _from_region_by_sdk(region: dict[str, Any]) -> masks.RLE:
    size = region["original_height"], region["original_width"]
    alpha = sdk.decode_rle(region["value"]["rle"]).reshape(*size, brush.CHANNELS)[..., -1]
    rle = coco.encode(np.asfortranarray(alpha >= brush.HALF_COVERED).view(np.uint8))
    return {"size": list(size), "counts": rle["counts"].decode()}


def _all(call: Callable[[Any], object], inputs: list[Any]) -> Callable[[], list[object]]:
    return lambda: [call(one) for one in inputs]


def _real_masks(folder: Path, images: int) -> list[np.ndarray]:
    """A few masks of each of the first images that have any."""
    items = [item for item in load_coco(folder, "test").items if item.instances][:images]
    rles = [one.rle for item in items for one in item.instances[:MASKS_AN_IMAGE]]
    return [masks.decode([rle])[0] * np.uint8(255) for rle in rles]


def _ragged_masks(size: int, count: int) -> list[np.ndarray]:
    """Noise with grains of four pixels, cut at its mean: thousands of short runs."""
    coarse = np.random.default_rng(0).random((count, size // 4, size // 4)) > 0.5
    return [np.kron(grains, np.ones((4, 4), dtype=np.uint8)) * np.uint8(255) for grains in coarse]
