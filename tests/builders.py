"""Small hand-made inputs that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.versions import Versions
from tsp_model import checkpoints
from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.network import tsp_mask_rcnn
from tsp_model.predictions import Prediction
from tsp_model.scores import image_score, instance_scores
from tsp_model.settings import Settings

SIZE = 64


def square(left: int, top: int, side: int, size: int = SIZE) -> Tensor:
    """uint8 [size, size] with a square of ones."""
    mask = torch.zeros(size, size, dtype=torch.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def target(*squares: tuple[int, int, int], label: int = 1, size: int = SIZE) -> dict[str, Tensor]:
    """A training target of (left, top, side) squares in a size x size image."""
    drawn = [square(*entry, size=size) for entry in squares]
    boxes = [[left, top, left + side, top + side] for left, top, side in squares]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.full((len(squares),), label, dtype=torch.int64),
        "masks": torch.stack(drawn) if drawn else torch.zeros(0, size, size, dtype=torch.uint8),
    }


def prediction(key: str, triplets: Sequence[tuple[float, float, float]], side: int = 8) -> Prediction:
    """A prediction with one square of class 1, the only one, for each (c, b, m), side by side."""
    drawn = np.stack([square(4, 4 + index, side).numpy() for index in range(len(triplets))]) if triplets else []
    c, b, m = torch.tensor(triplets).reshape(-1, 3).T
    s = instance_scores(c, b, m)
    return Prediction(
        key=key,
        height=SIZE,
        width=SIZE,
        labels=[1] * len(triplets),
        boxes=[[4.0, 4.0 + i, 4.0 + side, 4.0 + i + side] for i in range(len(triplets))],
        scores=c.tolist(),
        box_scores=b.tolist(),
        mask_scores=m.tolist(),
        instance_scores=s.tolist(),
        entropies=(torch.special.entr(c) + torch.special.entr(1 - c)).tolist(),
        counts=[rle["counts"] for rle in masks.encode(drawn)] if len(triplets) else [],
        max_class_score=max(c.tolist(), default=0.0),
        image_score=image_score(s, 1.0),
    )


def disc_set(folder: Path, count: int, seed: int = 0, size: int = SIZE) -> ImageSet:
    """Noisy images with up to three bright discs (class "disc") or squares (class "box"), some images without any.

    Some are faint, some are cut off by the border, so that how well they can be outlined differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    items = []
    for index in range(count):
        image = rng.normal(60, 15, (size, size))
        instances = []
        taken = np.zeros((size, size), dtype=bool)
        for _ in range(rng.integers(0, 4)):
            radius = int(rng.integers(4, 13))
            x, y = rng.integers(2, size - 2, 2)
            label = int(rng.integers(1, 3))
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            box = (abs(rows - y) <= radius) & (abs(columns - x) <= radius)
            shape = disc if label == 1 else box
            if (shape & taken).any():
                continue
            taken |= shape
            image[shape] += rng.uniform(8, 80)
            instances.append(Instance(label, masks.encode(shape[None])[0]))
        path = folder / f"{index:03d}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
        items.append(Item(path.name, path, tuple(instances)))
    return ImageSet(items, ["disc", "box"])


def truth_told(images: ImageSet, size: int = SIZE) -> dict[str, Prediction]:
    """Predictions that find every object exactly, and one object too many, a weak one, in each image."""
    (wrong,) = masks.encode(square(0, 0, 2, size)[None])
    return {
        item.key: detected(item.key, [*((one.label, one.rle, 0.9) for one in item.instances), (1, wrong, 0.2)], size)
        for item in images.items
    }


def detected(key: str, detections: Sequence[tuple[int, masks.RLE, float]], size: int = SIZE) -> Prediction:
    """A prediction of (label, rle, score) each, all of whose scores are alike; boxes are the masks' own."""
    rles = [rle for _, rle, _ in detections]
    scores = [score for _, _, score in detections]
    return Prediction(
        key=key,
        height=size,
        width=size,
        labels=[label for label, _, _ in detections],
        boxes=masks.boxes(rles).tolist(),
        scores=scores,
        box_scores=list(scores),
        mask_scores=list(scores),
        instance_scores=list(scores),
        entropies=list(scores),
        counts=[rle["counts"] for rle in rles],
        max_class_score=max(scores, default=0.0),
        image_score=0.5,
    )


def new_version(folder: Path, key: str, number: int = 1) -> str:
    """A version whose random network finds things everywhere: its thresholds are low. It becomes the active one."""
    settings = Settings.preset("tiny").override({"image_size": 64})
    versions = Versions(folder, key)
    name = f"tsp-{number:04d}-20260101T000000"
    with torch.random.fork_rng():
        torch.manual_seed(number)
        network = tsp_mask_rcnn(3, "tiny", image_size=64, detections_per_image=5, score_threshold=0.0)
    checkpoints.save(versions.folder(name), network, {"classes": ["PED", "SRF"], "settings": settings.to_dict()})
    versions.activate(name)
    return name
