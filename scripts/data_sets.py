"""The images of an experiment: the built-in set, a COCO or an OCT folder, whole or the first of each split."""

from __future__ import annotations

from pathlib import Path

from scripts.command_line import CommandError
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.oct import is_oct, load_oct
from tsp_model.data.synthetic import write_synthetic

SYNTHETIC_TRAIN, SYNTHETIC_TEST = 120, 60


def load_sets(
    data: str, train_images: int | None, test_images: int | None, out: Path, size: int, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Pool and test split.

    Args:
        data: a COCO folder, an OCT folder (see load_oct), or "synthetic", which is written to `out` with images of
            `size` pixels made from `seed`. What a folder holds decides how it is read.
        train_images, test_images: so many, the first ones; None: all, of the built-in set 120 and 60.

    Raises:
        CommandError, DataError: one line with cause and remedy; also where there are fewer images than asked for.
    """
    folder = Path(data)
    if data == "synthetic":
        folder = out / "synthetic"
        train, test = train_images or SYNTHETIC_TRAIN, test_images or SYNTHETIC_TEST
        write_synthetic(folder, train=train, test=test, size=size, seed=seed)
    load = load_oct if is_oct(folder) else load_coco
    train_set, test_set = load(folder, "train"), load(folder, "test")
    if train_set.classes != test_set.classes:
        raise CommandError(f"{folder}: train.json and test.json have different categories; make them the same.")
    return _first(train_set, train_images, f"{folder}/train"), _first(test_set, test_images, f"{folder}/test")


def _first(images: ImageSet, count: int | None, name: str) -> ImageSet:
    if count is not None and count > len(images):
        raise CommandError(f"{name} has {len(images)} images, {count} are asked for; ask for no more than there are.")
    return images if count is None else images.subset(images.keys[:count])
