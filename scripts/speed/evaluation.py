"""AP50 by tsp_model.evaluation beside pycocotools, as it comes and told to compute no more: the same number, sooner."""

from __future__ import annotations

import gc
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from scripts.speed.timing import Bench, Comparison, require_agreement
from tsp_model.data import masks
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.data.synthetic import write_synthetic
from tsp_model.evaluation import IOU_THRESHOLD, KINDS, average_precision
from tsp_model.predictions import Prediction

AIM = 3.0
REAL_SETS = ("dsb2018", "ufba425")
# Its ten IoU thresholds and four area ranges, or the one of each that AP50 needs; every detection counts in both.
DEFAULT, RESTRICTED = "pycocotools", "pycocotools told to compute AP50 only"
SMOKE_IMAGES = 6
MISSED, FALSE = 0.1, 0.2  # of the objects: not found, and found where there is nothing


def evaluation(bench: Bench) -> Iterator[Comparison]:
    """Predictions made of the test splits (of the synthetic set without them): shifted, missed, invented."""
    for images, name in _sets(bench):
        title = f"box and mask AP50 of {len(images)} {name} images"
        try:
            import pycocotools  # noqa: F401
        except ImportError:
            note = "pycocotools is absent: pip install -r scripts/requirements-benchmark.txt"
            yield Comparison(title, "ours", "pycocotools", note=note, aim=AIM)
            continue
        yield from _compare(bench, title, images)


def _compare(bench: Bench, title: str, images: ImageSet) -> Iterator[Comparison]:
    predictions = {found.key: found for found in perturbed(images)}
    contestants: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: average_precision(images, predictions),
        DEFAULT: lambda: by_pycocotools(images, predictions, only_ap50=False),
        RESTRICTED: lambda: by_pycocotools(images, predictions, only_ap50=True),
    }
    ours = contestants["ours"]()
    for name in (DEFAULT, RESTRICTED):
        for kind, value in contestants[name]().items():
            # The last digit depends on the order in which the same numbers are added up.
            require_agreement(abs(ours[kind] - value) < 1e-12, f"{kind} is {ours[kind]} and {value} by {name}")
    # What torch and the others left in memory would be gone through in the turn of whoever makes garbage next.
    gc.collect()
    gc.freeze()
    seconds = bench.measure(title, contestants)
    gc.unfreeze()
    facts = {kind: ours[kind] for kind in KINDS}
    for name in (DEFAULT, RESTRICTED):
        pair = {"ours": seconds["ours"], name: seconds[name]}
        yield Comparison(title, "ours", name, pair, aim=AIM, facts=facts)


def _sets(bench: Bench) -> Iterator[tuple[ImageSet, str]]:
    present = [name for name in REAL_SETS if (bench.data / name).is_dir()]
    for name in present:
        images = load_coco(bench.data / name, "test")
        yield images.subset(images.keys[:SMOKE_IMAGES]) if bench.smoke else images, name
    if not present:
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic(Path(folder), train=1, test=SMOKE_IMAGES if bench.smoke else 60, size=128)
            yield load_coco(folder, "test"), "synthetic"


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
        entropies=nothing,
        counts=[rle["counts"] for rle in rles],
        max_class_score=max(scores, default=0.0),
        image_score=0.0,
    )


def by_pycocotools(images: ImageSet, predictions: dict[str, Prediction], only_ap50: bool) -> dict[str, float]:
    """mask_ap50 and box_ap50 as pycocotools has them, every detection counted, whatever its area.

    Args:
        only_ap50: told to leave out the other IoU thresholds and area ranges.
    """
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
        for kind, name in zip(("segm", "bbox"), KINDS, strict=True):
            run = COCOeval(*sides, kind)
            if only_ap50:
                run.params.iouThrs = np.array([IOU_THRESHOLD])
                run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [max(map(len, predictions.values()))]
            run.evaluate()
            run.accumulate()
            # The first threshold is 0.5, the first range all areas: [recall point, class], -1 where no object is.
            precision = run.eval["precision"][0, :, :, 0, 0]
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
