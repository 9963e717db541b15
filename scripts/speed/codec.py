"""Masks to Label Studio's brush regions and back: ours beside the codec of its SDK, byte for byte the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from label_studio_sdk.converter import brush as sdk

from backend import brush
from scripts.speed.timing import Bench, Comparison, require_agreement
from tsp_model.data import masks
from tsp_model.data.coco import load_coco

REAL_SETS = ("dsb2018", "ufba425")
IMAGES, MASKS_AN_IMAGE, RAGGED = 12, 5, 8
AIM = 10.0


def codec(bench: Bench) -> Iterator[Comparison]:
    """Writing and reading the masks of each set; uint8 [H, W], 0 or 255, as regions hold them."""
    for name in REAL_SETS:
        if (bench.data / name).is_dir():
            yield from _compare(bench, name, _real_masks(bench.data / name, 2 if bench.quick else IMAGES))
        else:
            yield Comparison(f"{name}: masks", "ours", "SDK", note=f"no {bench.data / name}; give --data")
    size, count = (48, 2) if bench.quick else (512, RAGGED)
    yield from _compare(bench, "ragged", _ragged_masks(size, count))


def _compare(bench: Bench, name: str, drawn: list[np.ndarray]) -> Iterator[Comparison]:
    codes = [sdk.mask2rle(mask) for mask in drawn]
    require_agreement([brush.mask2rle(mask) for mask in drawn] == codes, f"codes of {name} masks")
    same = all(np.array_equal(brush.decode_rle(code), sdk.decode_rle(code)) for code in codes)
    require_agreement(same, f"what codes of {name} masks say")
    for verb, inputs, calls in (
        ("to regions", drawn, {"ours": brush.mask2rle, "SDK": sdk.mask2rle}),
        ("from regions", codes, {"ours": brush.decode_rle, "SDK": sdk.decode_rle}),
    ):
        contestants = {who: _all(call, inputs) for who, call in calls.items()}
        title = f"{len(drawn)} {name} masks {verb}"
        yield Comparison(title, "ours", "SDK", bench.measure(title, contestants), aim=AIM)


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
