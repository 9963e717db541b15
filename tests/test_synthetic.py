"""The built-in set: the same from the same seed, exact masks, hard and easy images, whole or not at all."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tsp_model.data import DataError, retina
from tsp_model.data import synthetic as synthetic_module
from tsp_model.data.coco import load_coco
from tsp_model.data.retina import CLASSES, draw_b_scan
from tsp_model.data.synthetic import main, write_synthetic


@pytest.fixture(scope="module")
def scans():
    return [draw_b_scan(np.random.default_rng([0, 0, index]), 128) for index in range(300)]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_set_loads_and_its_boxes_fit_its_masks(tmp_path):
    write_synthetic(tmp_path / "oct", train=12, test=5, size=96, seed=3)
    train, test = load_coco(tmp_path / "oct"), load_coco(tmp_path / "oct", "test")
    assert (len(train), len(test), train.classes, test.classes) == (12, 5, CLASSES, CLASSES)
    image, target = next(sample for sample in train if len(sample[1]["labels"]))
    assert image.shape == (3, 96, 96)
    document = json.loads((tmp_path / "oct" / "train.json").read_text())
    assert document["info"]["seed"] == 3
    for entry in document["annotations"]:
        assert entry["area"] >= retina.SMALLEST_AREA / 4
    x, y, width, height = next(e["bbox"] for e in document["annotations"])
    assert target["boxes"][0].tolist() == [x, y, x + width, y + height]


def test_the_same_seed_gives_the_same_bytes_in_another_process(tmp_path):
    write_synthetic(tmp_path / "a", train=4, test=2, size=64, seed=5)
    command = [sys.executable, "-m", "tsp_model.data.synthetic", str(tmp_path / "b")]
    command += ["--train", "4", "--test", "2", "--size", "64", "--seed", "5"]
    root = Path(synthetic_module.__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    write_synthetic(tmp_path / "c", train=4, test=2, size=64, seed=6)
    images = {path for path in contents(tmp_path / "a") if path.suffix == ".png"}
    assert all(contents(tmp_path / "a")[path] != contents(tmp_path / "c")[path] for path in images)


def test_an_image_does_not_depend_on_how_many_are_made(tmp_path):
    write_synthetic(tmp_path / "few", train=2, test=1, size=64)
    write_synthetic(tmp_path / "more", train=5, test=3, size=64)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    shared = [path for path in few if path.suffix == ".png"]
    assert len(shared) == 3
    assert all(few[path] == more[path] for path in shared)
    assert few[Path("images/train_00000.png")] != few[Path("images/test_00000.png")]


def test_about_three_in_ten_images_are_empty_and_ped_is_rare(scans):
    counts = Counter(len(scan.labels) for scan in scans)
    assert 0.25 <= counts[0] / len(scans) <= 0.35
    assert max(counts) == 4
    classes = Counter(label for scan in scans for label in scan.labels)
    assert set(classes) == {1, 2, 3}
    assert classes[2] < 0.2 * classes.total()
    assert classes[2] < 0.5 * min(classes[1], classes[3])


def test_lesions_are_whole_apart_and_not_tiny(scans):
    for scan in scans:
        assert scan.masks.shape == (len(scan.labels), 128, 128)
        assert scan.masks.sum(0).max(initial=0) <= 1
        for mask in scan.masks:
            assert mask.sum() >= retina.SMALLEST_AREA
            columns = np.flatnonzero(mask.any(0))
            # Every column of a lesion is one run of pixels, and no column between its ends is without any.
            assert len(columns) == columns[-1] - columns[0] + 1
            assert (np.abs(np.diff(mask.astype(int), axis=0)).sum(0)[columns] <= 2).all()


def test_lesions_are_darker_than_what_surrounds_them_and_less_so_in_hard_images(scans):
    def contrast(scan, mask):
        columns = np.flatnonzero(mask.any(0))
        rows = mask.argmax(0)[columns]
        above = np.clip(rows[None] - np.arange(1, 4)[:, None], 0, None)
        return 1 - scan.image[mask].mean() / scan.image[above, columns[None]].mean()

    found = [(scan.difficulty, contrast(scan, mask)) for scan in scans for mask in scan.masks]
    easy = [value for difficulty, value in found if difficulty < 0.3]
    hard = [value for difficulty, value in found if difficulty > 0.7]
    assert min(len(easy), len(hard)) >= 20
    assert np.median(easy) > 0.3
    assert np.median(hard) < 0.7 * np.median(easy)


def test_the_picture_has_a_dark_vitreous_and_bright_layers(scans):
    for scan in scans[:50]:
        image = scan.image.astype(float)
        assert image[:10].mean() < 0.5 * np.sort(image.mean(1))[-20:].mean()
        assert 10 < image.mean() < 140


def test_an_existing_set_is_reused_and_another_refused(tmp_path):
    folder = tmp_path / "oct"
    write_synthetic(folder, train=2, test=1, size=64, seed=1)
    before = (folder / "train.json").stat().st_mtime_ns
    write_synthetic(folder, train=2, test=1, size=64, seed=1)
    assert (folder / "train.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"other parameters \(train 2, seed 1\); give another folder"):
        write_synthetic(folder, train=3, test=1, size=64, seed=2)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    write_synthetic(foreign, train=2, test=1, size=64)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="something that is not a synthetic set"):
        write_synthetic(strange, train=2, test=1, size=64)
    assert os.listdir(strange) == ["thesis.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def interrupted(rng, size):
        drawn.append(size)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_b_scan(rng, size)

    monkeypatch.setattr(synthetic_module, "draw_b_scan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "oct", train=5, test=1, size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 0}, {"size": 32}, {"seed": -1}])
def test_senseless_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(DataError, match="cannot make .* images"):
        write_synthetic(tmp_path / "oct", **wrong)
    assert not (tmp_path / "oct").exists()


def test_the_command_ends_with_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "file"), "--train", "1", "--test", "1"])
    assert str(caught.value).startswith("error: ")
    assert "\n" not in str(caught.value)
