"""Labelled images that no version trains on, so that a new version can be compared with the one that answers.

They are kept aside once there are `LEAST` of them: before that every label is worth more in training. Which images
these are is in their tasks' ids, so that one that is aside stays there, in all versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backend.snapshot import Image
from tsp_model.comparison import Comparison, compare
from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import check
from tsp_model.execution import Execution
from tsp_model.prediction_pass import score_pool
from tsp_model.predictions import Prediction

LEAST = 30


def split(labelled: Sequence[Image], share: float) -> tuple[list[Image], list[Image]]:
    """The images to train on, and those that are kept aside: about `share` of them, 0..1, or none."""
    aside = [image for image in labelled if _place(image.key) < share]
    if len(aside) < LEAST:
        return list(labelled), []
    kept = {image.key for image in aside}
    return [image for image in labelled if image.key not in kept], aside


def compared(
    before: Path,
    after: Path,
    images: ImageSet,
    in_new_classes: Callable[[Prediction], Prediction],
    execution: Execution,
    progress: Callable[[dict[str, Any]], None],
) -> Comparison:
    """Both versions, by their folders, on images that neither was trained on.

    Args:
        images: with labels, in the new version's classes.
        in_new_classes: makes a prediction of the old version read in these.
    """
    old = (in_new_classes(one) for one in score_pool(before, images, progress, execution=execution, signals=False))
    new = score_pool(after, images, progress, execution=execution, signals=False)
    checked = [[check(item, one) for item, one in zip(images.items, found, strict=True)] for found in (old, new)]
    return compare(*checked, len(images.classes))


def _place(key: str) -> float:
    """0..1, the same for the same task each time, and like chance over tasks."""
    return int.from_bytes(hashlib.blake2s(f"aside {key}".encode(), digest_size=4).digest(), "big") / 2**32
