"""Retinal OCT folders as AI Challenger 2018 gave them out, the paper's second data set (arXiv 2012.04829, section 4).

Grey images in ``original_images/``, and for each a label image of the same size in ``label_images/`` whose grey values
are classes: 0 nothing, 128 PED, 191 SRF, 255 REA. Like a COCO set, a split loads whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from tsp_model.data import DataError, masks, some
from tsp_model.data.image_set import ImageSet, Instance, Item, image_size

IMAGES, LABELS = "original_images", "label_images"
CLASS_OF_GREY = {128: "PED", 191: "SRF", 255: "REA"}
BACKGROUND = 0
SUFFIXES = (".bmp", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
OF_A_VOLUME = (".img", "_labelMark")  # how the challenge ends the names of a volume's two sub-folders
CONNECTIVITY = 8


def is_oct(folder: Path | str) -> bool:
    """Whether `folder` is laid out as `load_oct` reads it, in itself or in its splits."""
    places = (Path(folder), *(Path(folder) / split for split in ("train", "test")))
    return any((place / name).is_dir() for place in places for name in (IMAGES, LABELS))


def load_oct(folder: Path | str, split: str = "train") -> ImageSet:
    """Load one split; an image's key is its path below ``original_images/``.

    A split is a sub-folder with the two folders, ``<split>/original_images`` and ``<split>/label_images``, or a
    sub-folder of each, ``original_images/<split>`` and ``label_images/<split>``. There is no splitting by chance: the
    128 slices of a volume show one eye, and may not end up on both sides. The challenge's own parts are such splits
    once they are renamed (``Edema_trainingset`` to ``train``).

    Images and labels belong together if their paths agree but for the suffix; a volume's sub-folder may be called
    ``<volume>.img`` among the images and ``<volume>_labelMark`` among the labels.

    An instance is a connected component of one grey value. Pixels that touch at a corner are connected
    (8-connectivity): a thin layer of fluid that runs slantwise through the slice is one lesion, and 4-connectivity
    would cut it into pieces of a pixel or two. The classes are PED, SRF and REA, those without an instance included.

    Raises:
        DataError: one line with the cause and the remedy.
    """
    images, labels = _folders(Path(folder), split)
    paths, label_paths = _by_name(images), _by_name(labels)
    if not paths:
        raise DataError(f"{images} holds no image ({', '.join(SUFFIXES)}); put some there")
    for missing, has, lacks in (
        (sorted(paths.keys() - label_paths.keys()), images, labels),
        (sorted(label_paths.keys() - paths.keys()), labels, images),
    ):
        if missing:
            raise DataError(
                f"{len(missing)} files of {has} have no partner in {lacks} ({some(missing)}); add it under the same "
                "name (all black where there is nothing), or remove them"
            )
    items = [
        Item(path.relative_to(images).as_posix(), path, _instances(label_paths[name], image_size(path)))
        for name, path in tqdm(paths.items(), desc=f"{split}: labels", leave=False, disable=None)
    ]
    return ImageSet(items, tuple(CLASS_OF_GREY.values()))


def _folders(folder: Path, split: str) -> tuple[Path, Path]:
    """Those of a split's images and labels."""
    layouts = [(folder / split / IMAGES, folder / split / LABELS), (folder / IMAGES / split, folder / LABELS / split)]
    for images, labels in layouts:
        absent = [place for place in (images, labels) if not place.is_dir()]
        if not absent:
            return images, labels
        if len(absent) == 1:
            raise DataError(f"there is no folder {absent[0]}; an OCT split has both {IMAGES} and {LABELS}")
    raise DataError(
        f"{folder} has no split {split}: put {IMAGES}/ and {LABELS}/ into {folder / split}, and keep all slices of an "
        "eye in one split"
    )


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files in and below a folder, by what an image and its label have in common; sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        volumes = [_without_suffix(part) for part in path.relative_to(folder).parts[:-1]]
        name = "/".join([*volumes, path.stem])
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name but for the suffix; remove one")
        found[name] = path
    return found


def _without_suffix(volume: str) -> str:
    for suffix in OF_A_VOLUME:
        volume = volume.removesuffix(suffix)
    return volume


def _instances(path: Path, size: tuple[int, int]) -> tuple[Instance, ...]:
    """Those of a label image, class by class. size: (height, width) of its image."""
    grey = _read_grey(path)
    if grey.shape != size:
        raise DataError(f"{path} has height and width {grey.shape}, its image {size}; export it anew without resizing")
    _check_values(path, np.unique(grey).tolist())
    height, width = size
    found = []
    for label, value in enumerate(CLASS_OF_GREY, start=1):
        _, numbered, stats, _ = cv2.connectedComponentsWithStats(
            (grey == value).view(np.uint8), connectivity=CONNECTIVITY
        )
        for number, (left, top, across, down, _) in enumerate(stats[1:].tolist(), start=1):
            window = numbered[top : top + down, left : left + across] == number
            found.append(Instance(label, masks.encode_window(window, top, left, height, width)))
    return tuple(found)


def _read_grey(path: Path) -> np.ndarray:
    """uint8 or wider [H, W]; a palette or equal colour channels are read as the grey they show."""
    try:
        with Image.open(path) as image:
            if image.mode in ("L", "F") or image.mode.startswith("I"):
                return np.asarray(image)
            channels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read the label image {path}: {reason}; export it again") from error
    if (channels != channels[..., :1]).any():
        raise DataError(f"the label image {path} is in colour; export it in grey, with {_values(CLASS_OF_GREY)}")
    return channels[..., 0]


def _check_values(path: Path, values: Sequence[float]) -> None:
    unknown = [value for value in values if value != BACKGROUND and value not in CLASS_OF_GREY]
    if unknown:
        raise DataError(
            f"the label image {path} has unknown grey values ({some(unknown, 8)}); known are {_values(CLASS_OF_GREY)}. "
            "JPEG compression and smooth resizing make such values: export it as PNG or BMP, resized by nearest "
            "neighbour if at all"
        )


def _values(classes: dict[int, str]) -> str:
    return f"{BACKGROUND} nothing, " + ", ".join(f"{grey} {name}" for grey, name in classes.items())
