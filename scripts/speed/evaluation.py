"""AP50 by tsp_model.evaluation beside pycocotools with the same limits: the same number, sooner."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from scripts.speed.timing import Bench, Comparison, require_agreement
from tsp_model.data import masks
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.data.synthetic import write_synthetic
from tsp_model.evaluation import IOU_THRESHOLD, average_precision
from tsp_model.predictions import Prediction

AIM = 3.0
QUICK_IMAGES = 6
MISSED, FALSE = 0.1, 0.2  # of the objects: not found, and found where there is nothing


def evaluation(bench: Bench) -> Iterator[Comparison]:
    """Predictions made of dsb2018's test split (of the synthetic set without it): shifted, missed, invented."""
    images, name = _images(bench)
    title = f"AP50 of {len(images)} {name} images"
    try:
        import pycocotools  # noqa: F401
    except ImportError:
        note = "pycocotools is absent: pip install -r scripts/requirements-benchmark.txt"
        yield Comparison(title, "ours", "pycocotools", note=note, aim=AIM)
        return
    predictions = {found.key: found for found in perturbed(images)}
    ours, theirs = average_precision(images, predictions), by_pycocotools(images, predictions)
    for kind, value in theirs.items():
        require_agreement(abs(ours[kind] - value) < 1e-12, f"{kind} is {ours[kind]} and {value}")
    contestants = {
        "ours": lambda: average_precision(images, predictions),
        "pycocotools": lambda: by_pycocotools(images, predictions),
    }
    yield Comparison(title, "ours", "pycocotools", bench.measure(title, contestants), aim=AIM, facts=theirs)


def _images(bench: Bench) -> tuple[ImageSet, str]:
    if (bench.data / "dsb2018").is_dir():
        images, name = load_coco(bench.data / "dsb2018", "test"), "dsb2018"
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic(Path(folder), train=1, test=QUICK_IMAGES if bench.quick else 60, size=128)
            images, name = load_coco(folder, "test"), "synthetic"
    return (images.subset(images.keys[:QUICK_IMAGES]) if bench.quick else images), name


def perturbed(images: ImageSet) -> Iterator[Prediction]:
    """A prediction an image, made of its ground truth; the same at every call."""
    rng = np.random.default_rng(0)
    for item in images.items:
        if item.instances:
            yield _perturbed(item, rng)


def _perturbed(item: Item, rng: np.random.Generator) -> Prediction:
    """Every object shifted by a few pixels, some left out, some drawn once more at the other end of the image."""
    drawn = masks.decode([one.rle for one in item.instances])
    found, labels, scores = [], [], []
    for mask, one in zip(drawn, item.instances, strict=True):
        draws = rng.random(3)
        shift = tuple(rng.integers(-3, 4, 2))
        if draws[0] >= MISSED:
            found.append(np.roll(mask, shift, axis=(0, 1)))
            labels.append(one.label)
            scores.append(float(draws[1]))
        if draws[2] < FALSE:
            found.append(mask[::-1, ::-1])
            labels.append(one.label)
            scores.append(float(draws[1] / 2))
    rles = masks.encode(np.array(found).reshape(-1, *drawn.shape[1:]))
    nothing = [0.0] * len(found)
    return Prediction(
        key=item.key,
        height=drawn.shape[1],
        width=drawn.shape[2],
        labels=labels,
        boxes=masks.boxes(rles).tolist(),
        scores=scores,
        box_scores=nothing,
        mask_scores=nothing,
        instance_scores=nothing,
        counts=[rle["counts"] for rle in rles],
        max_class_score=max(scores, default=0.0),
        image_score=0.0,
    )


def by_pycocotools(images: ImageSet, predictions: dict[str, Prediction]) -> dict[str, float]:
    """mask_ap50 and box_ap50 as pycocotools has them, every detection counted, whatever its area."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, found = [], []
    for index, item in enumerate(images.items, start=1):
        rles = [one.rle for one in item.instances]
        for one, box in zip(item.instances, masks.boxes(rles).tolist(), strict=True):
            truth.append(_annotation(index, one.label, one.rle, box))
        if item.key in predictions:
            one = predictions[item.key]
            for label, rle, box, score in zip(one.labels, one.rles, one.boxes, one.scores, strict=True):
                found.append(_annotation(index, label, rle, box) | {"score": score})
    frame = {
        "images": [_image(index, item) for index, item in enumerate(images.items, start=1)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(images.classes, start=1)],
    }
    with redirect_stdout(io.StringIO()):  # it tells what it does
        sides = []
        for annotations in (truth, found):
            coco = COCO()
            coco.dataset = frame | {"annotations": [one | {"id": i} for i, one in enumerate(annotations, start=1)]}
            coco.createIndex()
            sides.append(coco)
        values = {}
        for kind, name in (("segm", "mask_ap50"), ("bbox", "box_ap50")):
            run = COCOeval(*sides, kind)
            run.params.iouThrs = np.array([IOU_THRESHOLD])
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [max(map(len, predictions.values()))]
            run.evaluate()
            run.accumulate()
            precision = run.eval["precision"][0, :, :, 0, 0]  # [recall point, class]; -1 where there is no object
            values[name] = float(precision.mean(axis=0)[precision[0] > -1].mean())
    return values


def _image(index: int, item: Item) -> dict[str, int]:
    # Where there is no object to tell the size, nothing asks for it.
    height, width = item.instances[0].rle["size"] if item.instances else (1, 1)
    return {"id": index, "height": height, "width": width}


def _annotation(image: int, label: int, rle: dict[str, Any], box: list[float]) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image,
        "category_id": label,
        "segmentation": rle,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": 1,
        "iscrowd": 0,
    }
