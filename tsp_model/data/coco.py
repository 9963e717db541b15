"""COCO instance folders: ``images/`` beside ``train.json``, ``test.json`` and the like.

The format is https://cocodataset.org/#format-data: polygons, compressed and uncompressed RLE. Everything that
would stop a training later is looked for here, before it starts: a set either loads whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tsp_model.data import DataError, masks, some
from tsp_model.data.image_set import ImageSet, Instance, Item, image_size
from tsp_model.files import write_json

log = logging.getLogger(__name__)


def load_coco(folder: Path | str, split: str = "train") -> ImageSet:
    """Load one split of a COCO instance folder; an image's key is its ``file_name``.

    Classes are the categories in the order of their ids, those without an instance included. Crowd regions
    (``iscrowd``) are left out; so are annotations without a pixel, whose number is logged.

    Raises:
        DataError: one line with the cause and the remedy.
    """
    folder = Path(folder)
    path = folder / f"{split}.json"
    document = _read_document(path)
    try:
        labels, classes = _read_categories(document["categories"])
        records = _read_images(document["images"])
        instances = _read_annotations(document["annotations"], records, labels)
        _check_files(folder / "images", records.values())
        items = [
            Item(record["file_name"], folder / "images" / record["file_name"], tuple(instances[image_id]))
            for image_id, record in records.items()
        ]
        return ImageSet(items, classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def write_coco(
    folder: Path | str,
    split: str,
    images: ImageSet,
    pseudo: Mapping[str, Sequence[float]] = MappingProxyType({}),
    segmentation: Callable[[masks.RLE], Any] = dict,
) -> None:
    """Write a set as `load_coco` reads it: copies of the image files, and last of all the split's document.

    Args:
        pseudo: scores of the instances of images whose labels nobody drew, by key. These images and annotations have
            "pseudo": true, the annotations a "score".
        segmentation: of a mask; as it is, or rings [[x, y, x, y, ...], ...].
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(images.items, start=1):
        shutil.copyfile(item.path, folder / "images" / item.key)
        height, width = image_size(item.path)
        mark = {"pseudo": True} if item.key in pseudo else {}
        records.append({"id": number, "file_name": item.key, "height": height, "width": width} | mark)
        scores = [{"score": score} for score in pseudo.get(item.key, ())] or [{}] * len(item.instances)
        for instance, score in zip(item.instances, scores, strict=True):
            drawn = segmentation(instance.rle)
            rle = _read_mask(drawn, {"height": height, "width": width})  # box and area are those of what is written
            one = annotation(len(annotations) + 1, number, instance.label, rle)
            annotations.append(one | {"segmentation": drawn} | mark | score)
    categories = [{"id": label, "name": name} for label, name in enumerate(images.classes, start=1)]
    write_json(folder / f"{split}.json", {"images": records, "annotations": annotations, "categories": categories})


def annotation(number: int, image: int, label: int, rle: masks.RLE) -> dict[str, Any]:
    """One object, as COCO writes it."""
    ((x1, y1, x2, y2),) = masks.boxes([rle]).tolist()
    (area,) = masks.area([rle]).tolist()
    told = {"id": number, "image_id": image, "category_id": label, "iscrowd": 0, "area": area}
    return told | {"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle}


def _read_document(path: Path) -> dict[str, list[dict[str, Any]]]:
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent}; give a COCO folder with images/ and {path.name} (--data)")
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        there = some(sorted(file.name for file in path.parent.glob("*.json"))) or "no .json file at all"
        raise DataError(f"there is no {path.name} in {path.parent}, but {there}; name the split by it") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export it again") from error
    for name in ("images", "annotations", "categories"):
        entries = document.get(name) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path} has no list of {name}; give a COCO instance file")
    return document


def _read_categories(categories: list[dict[str, Any]]) -> tuple[dict[int, int], list[str]]:
    """Labels 1..C by category id, and the class names in the same order."""
    by_id = _by_id(categories, "category", {"name": str})
    ordered = sorted(by_id)
    return {category: label for label, category in enumerate(ordered, start=1)}, [by_id[c]["name"] for c in ordered]


def _read_images(images: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """The image records by id; their names unique and inside images/."""
    records = _by_id(images, "image", {"file_name": str, "height": int, "width": int})
    if not records:
        raise DataError("it names no images; add some")
    outside = [
        record["file_name"]
        for record in records.values()
        if os.path.isabs(record["file_name"]) or os.path.normpath(record["file_name"]).split(os.sep)[0] == ".."
    ]
    if outside:
        raise DataError(f"{len(outside)} file names lead out of images/ ({some(outside)}); make them relative to it")
    return records


def _read_annotations(
    annotations: list[dict[str, Any]], records: dict[int, dict[str, Any]], labels: dict[int, int]
) -> dict[int, list[Instance]]:
    """The instances of each image id."""
    instances: dict[int, list[Instance]] = {image_id: [] for image_id in records}
    without_area = 0
    for annotation in annotations:
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if image_id not in records:
            raise DataError(
                f"{_name(annotation)} is of image id {image_id}, which is not in images; correct one of them"
            )
        if category not in labels:
            raise DataError(f"{_name(annotation)} has category id {category}, which is not in categories; add it there")
        if annotation.get("iscrowd"):
            continue
        try:
            rle = _read_mask(annotation.get("segmentation"), records[image_id])
            empty = not masks.area([rle])[0]
        except DataError as error:
            raise DataError(f"{_name(annotation)} in {records[image_id]['file_name']}: {error}") from error
        without_area += empty
        if not empty:
            instances[image_id].append(Instance(labels[category], rle))
    if without_area:
        log.warning("%d annotations without a single pixel were left out", without_area)
    return instances


def _read_mask(segmentation: Any, record: dict[str, Any]) -> masks.RLE:
    height, width = record["height"], record["width"]
    if isinstance(segmentation, list):
        return masks.from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), (str, list)):
        raise DataError("it has no segmentation (polygons or an RLE); add one or remove the annotation")
    if segmentation.get("size") != [height, width]:
        raise DataError(
            f"its mask has size {segmentation.get('size')}, the image {[height, width]} (height, width); "
            "make them equal"
        )
    if isinstance(segmentation["counts"], list):
        return masks.from_counts(segmentation["counts"], height, width)
    return {"size": [height, width], "counts": segmentation["counts"]}


def _check_files(images: Path, records: Iterable[dict[str, Any]]) -> None:
    """Refuse files: missing, unreadable, of another size than their masks (headers are read only)."""
    names = [record["file_name"] for record in records]
    missing = [name for name in names if not (images / name).is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} image files are missing from {images} ({some(missing)}); "
            "put them there or remove their entries"
        )
    for record in records:
        size = image_size(images / record["file_name"])
        if size != (record["height"], record["width"]):
            raise DataError(
                f"{record['file_name']} has height and width {size}, its entry "
                f"{(record['height'], record['width'])}; correct the entry or the file"
            )


def _by_id(entries: list[dict[str, Any]], what: str, needed: dict[str, type]) -> dict[int, dict[str, Any]]:
    by_id: dict[int, dict[str, Any]] = {}
    for entry in entries:
        name = f"{what} {entry.get('id')} {entry.get('file_name', '')}".rstrip()
        for key, kind in ({"id": int} | needed).items():
            if not isinstance(entry.get(key), kind) or isinstance(entry[key], bool) or not entry[key] and key != "id":
                raise DataError(f"{name} has no usable {key} ({entry.get(key)!r}); add a {kind.__name__}")
        if entry["id"] in by_id:
            raise DataError(f"{what} id {entry['id']} is there twice; ids are unique")
        by_id[entry["id"]] = entry
    return by_id


def _name(annotation: dict[str, Any]) -> str:
    return f"annotation {annotation.get('id', '(without id)')}"
