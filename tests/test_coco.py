"""COCO instance folders: every kind of mask, every kind of mistake, and the real sets."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsp_model.data import DataError, masks
from tsp_model.data.coco import load_coco

FULL = {"size": [5, 7], "counts": [0, 35]}
SQUARE = [[1, 1, 4, 1, 4, 3, 1, 3]]


def annotation(identity, **changes):
    return {"id": identity, "image_id": 7, "category_id": 20, "iscrowd": 0, "segmentation": SQUARE} | changes


def coco_folder(tmp_path, annotations=(), **changes) -> Path:
    names = ["b.png", "deep/er/a.png"]
    for name in names:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((5, 7), np.uint8)).save(path)
    document = {
        "images": [{"id": 7 - i, "file_name": name, "height": 5, "width": 7} for i, name in enumerate(names)],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "late"}, {"id": 20, "name": "early"}, {"id": 50, "name": "never"}],
    } | changes
    (tmp_path / "train.json").write_text(json.dumps(document))
    return tmp_path


def test_every_kind_of_segmentation_is_read(tmp_path):
    packed = masks.encode(np.eye(5, 7)[None])[0]
    folder = coco_folder(
        tmp_path,
        [
            annotation(1),
            annotation(2, category_id=90, segmentation=FULL),
            annotation(3, image_id=6, segmentation=packed),
            annotation(4, iscrowd=1, segmentation=FULL),
        ],
    )
    found = load_coco(folder)
    assert found.keys == ("b.png", "deep/er/a.png")
    assert found.classes == ("early", "never", "late")
    _, first = found[0]
    assert first["labels"].tolist() == [1, 3]
    assert first["masks"].sum((1, 2)).tolist() == [6, 35]
    _, second = found[1]
    assert second["masks"][0].tolist() == np.eye(5, 7).tolist()


def test_annotations_without_a_pixel_are_left_out_and_counted(tmp_path, caplog):
    empty = [
        annotation(1),
        annotation(2, segmentation=[]),
        annotation(3, segmentation={"size": [5, 7], "counts": [35]}),
    ]
    with caplog.at_level(logging.WARNING):
        found = load_coco(coco_folder(tmp_path, empty))
    assert len(found.items[0].instances) == 1
    assert "2 annotations without a single pixel" in caplog.text


IMAGE = {"id": 7, "file_name": "b.png", "height": 5, "width": 7}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "names no images; add some"),
        ({"images": None}, "no list of images"),
        ({"images": [IMAGE, IMAGE | {"id": 8}]}, "image keys repeat: b.png"),
        ({"images": [IMAGE, IMAGE | {"file_name": "deep/er/a.png"}]}, "image id 7 is there twice"),
        ({"images": [IMAGE | {"height": 6}]}, r"b.png has height and width \(5, 7\), its entry \(6, 7\)"),
        ({"images": [{"id": 7, "file_name": "b.png"}]}, "image 7 b.png has no usable height"),
        (
            {"images": [IMAGE | {"file_name": "../secret.png"}]},
            r"1 file names lead out of images/ \(../secret.png\)",
        ),
        ({"images": [IMAGE | {"file_name": "a/../../x.png"}]}, "lead out of images/"),
        ({"images": [IMAGE | {"file_name": "/etc/x.png"}]}, "lead out of images/"),
        (
            {"images": [IMAGE | {"id": 8 + i, "file_name": f"{i}.png"} for i in range(5)] + [IMAGE]},
            r"5 of 6 image files are missing from .*images \(0.png, 1.png, 2.png, ...\); put them there",
        ),
        (
            {"annotations": [annotation(3, category_id=1)]},
            "annotation 3 has category id 1, which is not in categories",
        ),
        (
            {"annotations": [annotation(3, image_id=1)]},
            "annotation 3 is of image id 1, which is not in images",
        ),
        (
            {"annotations": [annotation(3, segmentation=None)]},
            "annotation 3 in b.png: it has no segmentation",
        ),
        (
            {"annotations": [annotation(3, segmentation={"size": [7, 5], "counts": [0, 35]})]},
            r"annotation 3 in b.png: its mask has size \[7, 5\], the image \[5, 7\]",
        ),
        (
            {"annotations": [annotation(3, segmentation={"size": [5, 7], "counts": [0, 36]})]},
            "not whole numbers",
        ),
        ({"annotations": [annotation(3, segmentation={"size": [5, 7], "counts": "zz9!!"})]}, "RLE is broken"),
        ({"annotations": [annotation(3, segmentation=[[1, 2, 3]])]}, "annotation 3 in b.png: a polygon"),
        ({"categories": [{"id": 20, "name": "x"}, {"id": 21, "name": "x"}]}, "class names repeat: x"),
        ({"categories": [{"id": "20", "name": "x"}]}, "category 20 has no usable id"),
    ],
)
def test_bad_sets_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        load_coco(coco_folder(tmp_path, **changes))
    assert str(caught.value).count(str(tmp_path / "train.json")) == 1
    assert "\n" not in str(caught.value)


def test_absent_folders_files_and_broken_json_are_named(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*nowhere; give a COCO folder"):
        load_coco(tmp_path / "nowhere")
    coco_folder(tmp_path)
    with pytest.raises(DataError, match=r"there is no test.json in .*, but train.json; name the split by it"):
        load_coco(tmp_path, "test")
    (tmp_path / "train.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"train.json is not valid JSON \(.*line 1.*\); export it again"):
        load_coco(tmp_path)


def test_a_broken_image_is_found_on_loading(tmp_path):
    folder = coco_folder(tmp_path)
    (folder / "images" / "b.png").write_bytes(b"oops")
    with pytest.raises(DataError, match="cannot read the image .*b.png"):
        load_coco(folder)


COUNTS = {"dsb2018": (464, 200, 28_986, 1), "ufba425": (299, 125, 11_570, 4), "duke_dme": (77, 33, 468, 1)}


@pytest.mark.parametrize("name", COUNTS)
def test_real_sets_load_as_described(shared_data, name):
    train, test, instances, classes = COUNTS[name]
    sets = {split: load_coco(shared_data / name, split) for split in ("train", "test")}
    assert (len(sets["train"]), len(sets["test"])) == (train, test)
    assert sum(len(item.instances) for found in sets.values() for item in found.items) == instances
    assert len(sets["train"].classes) == classes
    document = json.loads((shared_data / name / "test.json").read_text())
    given = [entry["bbox"] for entry in document["annotations"]]
    boxes = masks.boxes([entry["segmentation"] for entry in document["annotations"]])
    boxes[:, 2:] -= boxes[:, :2]
    assert np.abs(boxes - np.array(given)).max() == 0
    image, target = sets["test"][0]
    assert target["masks"].shape[-2:] == image.shape[-2:]
