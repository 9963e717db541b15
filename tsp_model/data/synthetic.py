"""The built-in data set: synthetic retinal OCT in a COCO folder, made from a seed, nothing is downloaded.

    python -m tsp_model.data.synthetic FOLDER --train 200 --test 100 --size 128 --seed 0

Classes REA, PED (rare) and SRF, after the retinal OCT data of arXiv 2012.04829, section 4; about three images
in ten have no lesion, and how hard an image is varies a lot. Image i of a split is the same however many are
made.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tsp_model.data import DataError, masks
from tsp_model.data.coco import annotation
from tsp_model.data.retina import CLASSES, draw_b_scan

VERSION = 1  # raised whenever the same seed gives other images
SMALLEST_SIZE = 64


def write_synthetic(folder: Path | str, train: int = 200, test: int = 100, size: int = 128, seed: int = 0) -> None:
    """Write ``images/``, ``train.json`` and ``test.json`` into ``folder``, whole or not at all.

    A folder that already holds exactly this set is left as it is.

    Args:
        train, test: numbers of images, at least 1.
        size: side of the square images in pixels, at least 64.
        seed: of everything, 0 or above.

    Raises:
        DataError: the arguments make no sense, or the folder holds something else.
    """
    if min(train, test) < 1 or size < SMALLEST_SIZE or seed < 0:
        raise DataError(
            f"cannot make {train} + {test} images of {size} pixels from seed {seed}; "
            f"give at least 1 + 1 images, {SMALLEST_SIZE} pixels and a seed of 0 or above"
        )
    folder = Path(folder)
    info = {
        "description": "Synthetic retinal OCT with the lesions REA, PED and SRF",
        "generator": "tsp_model.data.synthetic",
        "version": VERSION,
        "train": train,
        "test": test,
        "size": size,
        "seed": seed,
    }
    if _holds(folder, info):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        (unfinished / "images").mkdir()
        for number, (split, count) in enumerate((("train", train), ("test", test))):
            document = {"info": info} | _write_split(unfinished / "images", split, number, count, size, seed)
            (unfinished / f"{split}.json").write_text(json.dumps(document))
        unfinished.chmod(0o755)
        _put_in_place(unfinished, folder, info)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _holds(folder: Path, info: dict[str, Any]) -> bool:
    """Whether the folder holds this set. Raises DataError if it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / "train.json").read_bytes())["info"]
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found == info:
        return True
    kind = "something that is not a synthetic set"
    if isinstance(found, dict) and found.get("generator") == info["generator"]:
        other = ", ".join(f"{key} {found.get(key)}" for key in info if found.get(key) != info[key])
        kind = f"a synthetic set with other parameters ({other})"
    raise DataError(f"{folder} holds {kind}; give another folder, or delete it first")


def _put_in_place(unfinished: Path, folder: Path, info: dict[str, Any]) -> None:
    try:
        os.replace(unfinished, folder)
    except OSError as error:
        # Somebody else may have been faster with the same set.
        if not _holds(folder, info):
            raise DataError(f"cannot write {folder} ({error.strerror}); give another folder") from error


def _write_split(images: Path, split: str, number: int, count: int, size: int, seed: int) -> dict[str, Any]:
    """Draw and save the images of a split; its COCO lists."""
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        scan = draw_b_scan(np.random.default_rng([seed, number, index]), size)
        name = f"{split}_{index:05d}.png"
        Image.fromarray(scan.image).save(images / name)
        entries.append(
            {"id": index + 1, "file_name": name, "height": size, "width": size}
            | {"difficulty": round(scan.difficulty, 4)}
        )
        for label, rle in zip(scan.labels, masks.encode(scan.masks), strict=True):
            annotations.append(annotation(len(annotations) + 1, index + 1, label, rle))
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
    return {"images": entries, "annotations": annotations, "categories": categories}


def main(arguments: list[str] | None = None) -> None:
    """The command line; a bad argument ends it with one line."""
    parser = argparse.ArgumentParser(
        prog="python -m tsp_model.data.synthetic",
        description="Write a synthetic retinal OCT set (COCO folder) made from a seed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where to; an identical set that is there is reused")
    parser.add_argument("--train", type=int, default=200, help="training images")
    parser.add_argument("--test", type=int, default=100, help="test images")
    parser.add_argument("--size", type=int, default=128, help="side of the square images, pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same set")
    options = parser.parse_args(arguments)
    try:
        write_synthetic(**vars(options))
    except DataError as error:
        sys.exit(f"error: {error}")
    print(f"{options.folder}: {options.train} training and {options.test} test images")


if __name__ == "__main__":
    main()
