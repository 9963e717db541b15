"""How good predictions are: COCO average precision at IoU 0.5, and the precision of pseudo labels.

The averaging is faster_coco_eval's, which gives pycocotools' numbers: 101 recall points, ordered by class
score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from tsp_model.data import DataError, masks
from tsp_model.data.image_set import ImageSet, Item, some
from tsp_model.predictions import Prediction

IOU_THRESHOLD = 0.5


def average_precision(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """AP50 of predictions against a set's instances (section 4 of arXiv 2012.04829: mAP@0.5 on mask IoU).

    Every detection counts, however many an image has (COCO's own limit of 100 would cap recall). Images
    without objects take part, so a false positive there costs; no prediction means nothing found.

    Args:
        image_set: the ground truth.
        predictions: by image key.

    Returns:
        ``mask_ap50`` and ``box_ap50``, 0..1, means over the classes that have objects (None if none has), and
        ``per_class``: name to ``{"mask_ap50", "box_ap50", "objects"}``, None for a class without objects.

    Raises:
        DataError: a prediction is of an image that is not in the set, or of another size than its masks.
    """
    _refuse_strangers(image_set, predictions)
    objects = np.zeros(len(image_set.classes), dtype=np.int64)
    for item in image_set.items:
        for instance in item.instances:
            objects[instance.label - 1] += 1
    by_kind = {
        "mask_ap50": _per_class(image_set, predictions, "segm"),
        "box_ap50": _per_class(image_set, predictions, "bbox"),
    }
    per_class = {
        name: {kind: float(values[index]) if objects[index] else None for kind, values in by_kind.items()}
        | {"objects": int(objects[index])}
        for index, name in enumerate(image_set.classes)
    }
    present = objects > 0
    means = {
        kind: float(values[present].mean()) if present.any() else None for kind, values in by_kind.items()
    }
    return means | {"per_class": per_class}


def pseudo_label_precision(image_set: ImageSet, pseudo_labels: Mapping[str, Prediction]) -> dict[str, Any]:
    """How many pseudo labels are right, by the ground truth that an experiment has and training does not see.

    A pseudo label is correct when an object of its class overlaps it with a mask IoU of at least 0.5; the
    most confident one chooses first and each object serves once, so duplicates are wrong.

    Returns:
        ``taken`` and ``correct``, counts, and ``precision``, None where nothing was taken.

    Raises:
        DataError: as `average_precision`.
    """
    _refuse_strangers(image_set, pseudo_labels)
    items = {item.key: item for item in image_set.items}
    taken = sum(len(labels) for labels in pseudo_labels.values())
    correct = sum(_correct(items[key], labels) for key, labels in pseudo_labels.items())
    return {"taken": taken, "correct": correct, "precision": correct / taken if taken else None}


def _correct(item: Item, prediction: Prediction) -> int:
    overlaps = masks.iou(prediction.rles, [instance.rle for instance in item.instances])
    same_class = np.equal.outer(prediction.labels, [instance.label for instance in item.instances])
    overlaps = np.where(same_class, overlaps, 0)
    correct = 0
    for index in np.argsort([-score for score in prediction.scores], kind="stable"):
        best = overlaps[index].argmax() if item.instances else None
        if best is not None and overlaps[index, best] >= IOU_THRESHOLD:
            overlaps[:, best] = 0
            correct += 1
    return correct


def _per_class(image_set: ImageSet, predictions: Mapping[str, Prediction], kind: str) -> np.ndarray:
    """AP of each class, float64 [C]; what it is for a class without ground truth has no meaning."""
    detections = _detections(image_set, predictions)
    if not detections:
        return np.zeros(len(image_set.classes))
    frame = {
        "images": [
            {"id": index, "height": height, "width": width}
            for index, (height, width) in enumerate(_sizes(image_set, predictions))
        ],
        "categories": [{"id": label, "name": name} for label, name in enumerate(image_set.classes, start=1)],
    }
    evaluation = COCOeval_faster(
        COCO(frame | {"annotations": _ground_truth(image_set)}),
        COCO(frame | {"annotations": detections}),
        kind,
    )
    evaluation.params.iouThrs = np.array([IOU_THRESHOLD])
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [max(len(prediction) for prediction in predictions.values())]
    evaluation.evaluate()
    evaluation.accumulate()
    # [IoU threshold, recall point, class, area range, limit of detections]
    return np.asarray(evaluation.eval["precision"])[0, :, :, 0, 0].mean(axis=0)


def _ground_truth(image_set: ImageSet) -> list[dict[str, Any]]:
    return _annotations(
        {"image_id": index, "category_id": instance.label, "segmentation": instance.rle, "bbox": box}
        for index, item in enumerate(image_set.items)
        for instance, box in zip(
            item.instances, masks.boxes([instance.rle for instance in item.instances]).tolist(), strict=True
        )
    )


def _detections(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> list[dict[str, Any]]:
    return _annotations(
        {"image_id": index, "category_id": label, "segmentation": rle, "bbox": box, "score": score}
        for index, prediction in ((index, predictions.get(key)) for index, key in enumerate(image_set.keys))
        if prediction is not None
        for label, rle, box, score in zip(
            prediction.labels, prediction.rles, prediction.boxes, prediction.scores, strict=True
        )
    )


def _annotations(entries: Any) -> list[dict[str, Any]]:
    """Complete entries with XYXY boxes to what the library reads."""
    completed = []
    # An id of 0 would mean "no match"; areas only sort objects into ranges, and here there is one range.
    for identity, entry in enumerate(entries, start=1):
        x1, y1, x2, y2 = entry["bbox"]
        completed.append(
            entry
            | {
                "id": identity,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": 1,
                "iscrowd": 0,
            }
        )
    return completed


def _sizes(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> list[tuple[int, int]]:
    """(height, width) of each image; (1, 1) where no object and no prediction tells, since nothing asks."""
    sizes = []
    for item in image_set.items:
        prediction = predictions.get(item.key)
        if prediction is not None:
            sizes.append((prediction.height, prediction.width))
        else:
            sizes.append(tuple(item.instances[0].rle["size"]) if item.instances else (1, 1))
    return sizes


def _refuse_strangers(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> None:
    items = {item.key: item for item in image_set.items}
    strangers = [key for key in predictions if key not in items]
    if strangers:
        raise DataError(
            f"{len(strangers)} predictions are of images that are not in the set ({some(strangers)}); "
            "give those of this set only"
        )
    for key, prediction in predictions.items():
        for instance in items[key].instances:
            if list(instance.rle["size"]) != [prediction.height, prediction.width]:
                raise DataError(
                    f"{key}: predicted at {[prediction.height, prediction.width]} pixels, labelled at "
                    f"{instance.rle['size']} (height, width); predict the image that was labelled"
                )
