"""How good predictions are: COCO average precision at IoU 0.5, and the precision of pseudo labels.

Matching and averaging are faster_coco_eval's, which gives pycocotools' numbers: 101 recall points, ordered by class
score. Its evaluator is called directly, since the COCO datasets that it usually gets take far longer to build than it
takes itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as codec
from faster_coco_eval.core.cocoeval import Params
from faster_coco_eval.faster_eval_api_cpp import COCOevalEvaluateAccumulate, Dataset

from tsp_model.data import DataError, masks, some
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.estimate import Checked
from tsp_model.predictions import Prediction

IOU_THRESHOLD = 0.5
KINDS = ("mask_ap50", "box_ap50")
# The evaluator's ids tell who found whom, which nobody asks here; an id of 0 would mean "nobody".
SOME_ID = {"id": 1}


def average_precision(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> dict[str, Any]:
    """AP50 of predictions against a set's instances (section 4 of arXiv 2012.04829: mAP@0.5 on mask IoU).

    Every detection counts, however many an image has (COCO's own limit of 100 would cap recall). Images
    without objects take part, so a false positive there costs; no prediction means nothing found.

    Args:
        image_set: the ground truth.
        predictions: by image key; each is read once.

    Returns:
        ``mask_ap50`` and ``box_ap50``, 0..1, means over the classes that have objects (None if none has), and
        ``per_class``: name to ``{"mask_ap50", "box_ap50", "objects"}``, None for a class without objects.

    Raises:
        DataError: a prediction is of an image that is not in the set, or of another size than its masks.
    """
    by_kind = _per_class(image_set, predictions)
    objects = np.zeros(len(image_set.classes), dtype=np.int64)
    for item in image_set.items:
        for instance in item.instances:
            objects[instance.label - 1] += 1
    per_class = {
        name: {kind: float(values[index]) if objects[index] else None for kind, values in by_kind.items()}
        | {"objects": int(objects[index])}
        for index, name in enumerate(image_set.classes)
    }
    present = objects > 0
    means = {kind: float(values[present].mean()) if present.any() else None for kind, values in by_kind.items()}
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
    taken = correct = 0
    for item, labels in _pairs(image_set, pseudo_labels):
        if labels is not None:
            taken += len(labels)
            correct += int((matched(item, labels) >= 0).sum())
    return {"taken": taken, "correct": correct, "precision": correct / taken if taken else None}


def check(item: Item, prediction: Prediction) -> Checked:
    """What an image's labels say of a prediction that was made before they were there (tsp_model.estimate).

    Raises DataError if the image was predicted at another size than it was labelled.
    """
    _refuse_other_size(item, prediction)
    found = matched(item, prediction)
    missed = [instance.label for index, instance in enumerate(item.instances) if index not in found]
    return Checked(prediction, found >= 0, missed)


def matched(item: Item, prediction: Prediction) -> np.ndarray:
    """Which object each of N detections finds, its index among the item's instances, -1 for none: int [N].

    As AP50 has it: surest first, each takes the free object of its class with the highest mask IoU, 0.5 or more.
    """
    overlaps = masks.iou(prediction.rles, [instance.rle for instance in item.instances])
    same_class = np.equal.outer(prediction.labels, [instance.label for instance in item.instances])
    overlaps = np.where(same_class, overlaps, 0)
    found = np.full(len(prediction), -1)
    for index in _by_score(prediction) if item.instances else ():
        best = overlaps[index].argmax()
        if overlaps[index, best] >= IOU_THRESHOLD:
            overlaps[:, best] = 0
            found[index] = best
    return found


def _per_class(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> dict[str, np.ndarray]:
    """AP of each class by kind, float64 [C]; what it is for a class without ground truth has no meaning."""
    objects, detections = Dataset(), Dataset()
    # The IoUs of each class of each image, [detections, objects]; nothing where there are none of either.
    overlaps: dict[str, list[list[Any]]] = {kind: [] for kind in KINDS}
    most = 0
    for image, (item, prediction) in enumerate(_pairs(image_set, predictions)):
        for of_images in overlaps.values():
            of_images.append([[]] * len(image_set.classes))
        for instance in item.instances:
            objects.append_ref(image, instance.label, SOME_ID)
        if prediction is None:
            continue
        prediction = prediction.keep(_by_score(prediction))
        for label, score in zip(prediction.labels, prediction.scores, strict=True):
            detections.append_ref(image, label, SOME_ID | {"score": score})
        for label, ious in _overlaps(item, prediction):
            for kind, values in zip(KINDS, ious, strict=True):
                overlaps[kind][image][label - 1] = values
        most = max(most, len(prediction))
    params = Params("bbox")
    params.imgIds, params.catIds = range(len(image_set)), range(1, len(image_set.classes) + 1)
    params.iouThrs, params.areaRng, params.maxDets = [IOU_THRESHOLD], [[0, 1e10]], [most]
    return {kind: _averaged(params, values, objects, detections) for kind, values in overlaps.items()}


def _averaged(params: Params, overlaps: list[list[Any]], objects: Dataset, detections: Dataset) -> np.ndarray:
    found = COCOevalEvaluateAccumulate(params, overlaps, objects, detections, params.imgIds, params.catIds, True)
    # [IoU threshold, recall point, class, area range, limit of detections]
    return found["precision"][0, :, :, 0, 0].mean(axis=0)


def _overlaps(item: Item, prediction: Prediction) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Labels that both have, and the IoUs of their masks and boxes, each float64 [detections, objects]."""
    rles = [instance.rle for instance in item.instances]
    truth = _by_label([instance.label for instance in item.instances], rles, masks.boxes(rles).tolist())
    found = _by_label(prediction.labels, prediction.rles, prediction.boxes)
    for label in truth.keys() & found.keys():
        pairs = zip(found[label], truth[label], strict=True)
        yield label, [codec.iou(theirs, ours, [0] * len(ours)) for theirs, ours in pairs]


def _by_label(
    labels: Iterable[int], rles: Iterable[masks.RLE], boxes: Iterable[Sequence[float]]
) -> dict[int, tuple[list[masks.RLE], list[list[float]]]]:
    """The masks and the boxes (XYXY in, XYWH out) of each label."""
    shapes: dict[int, tuple[list[masks.RLE], list[list[float]]]] = defaultdict(lambda: ([], []))
    for label, rle, (x1, y1, x2, y2) in zip(labels, rles, boxes, strict=True):
        shapes[label][0].append(rle)
        shapes[label][1].append([x1, y1, x2 - x1, y2 - y1])
    return shapes


def _by_score(prediction: Prediction) -> list[int]:
    """Indices of the detections, highest class score first."""
    return sorted(range(len(prediction)), key=lambda index: -prediction.scores[index])


def _pairs(image_set: ImageSet, predictions: Mapping[str, Prediction]) -> Iterator[tuple[Item, Prediction | None]]:
    """Each image and its prediction, which is read when it is its turn. Raises DataError as `average_precision`."""
    known = set(image_set.keys)
    strangers = [key for key in predictions if key not in known]
    if strangers:
        raise DataError(
            f"{len(strangers)} predictions are of images that are not in the set ({some(strangers)}); "
            "give those of this set only"
        )
    for item in image_set.items:
        prediction = predictions.get(item.key)
        if prediction is not None:
            _refuse_other_size(item, prediction)
        yield item, prediction


def _refuse_other_size(item: Item, prediction: Prediction) -> None:
    for instance in item.instances:
        if list(instance.rle["size"]) != [prediction.height, prediction.width]:
            raise DataError(
                f"{item.key}: predicted at {[prediction.height, prediction.width]} pixels, labelled at "
                f"{instance.rle['size']} (height, width); predict the image that was labelled"
            )
