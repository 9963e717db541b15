"""What a version learns from and what it predicts, from its folder alone: the same in the worker's own process and in
each of several that share the work (backend.ranks)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backend.snapshot import Image, Snapshot
from backend.versions import VersionError, Versions
from tsp_model import checkpoints
from tsp_model.checkpoints import CheckpointError
from tsp_model.cycle import train_cycle
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.prediction_pass import PREDICTIONS, complete_predictions, looked_at
from tsp_model.predictions import Prediction, PredictionFile
from tsp_model.progress import Progress
from tsp_model.settings import Settings

logger = logging.getLogger(__name__)


def train_version(versions: Versions, version: str, progress: Progress) -> dict[str, Any]:
    """M_k on D_al and, from the parent's predictions, D_semi, as the version's snapshot has them; its card."""
    folder = versions.folder(version)
    snapshot = Snapshot.read(folder)
    method = Settings.from_dict(dict(snapshot.settings))
    labelled, unlabelled = (image_set(snapshot, one) for one in (snapshot.labelled, snapshot.unlabelled))
    previous = parent = None
    if snapshot.parent is not None:
        try:
            known = versions.card(snapshot.parent)["classes"]
            parent = versions.folder(snapshot.parent)
            if method.ssl:
                complete_predictions(parent, unlabelled, looked_at(method), progress)
                previous = PredictionFile(parent / PREDICTIONS, translation(known, snapshot.classes))
            if method.warm_start:
                checkpoints.read(parent)
        except (VersionError, CheckpointError) as error:  # no reason to train no better one
            logger.warning("%s is trained without the version before it: %s", version, error)
            previous = parent = None
    return train_cycle(labelled, unlabelled, previous, method, folder, progress, parent)


def image_set(snapshot: Snapshot, images: Sequence[Image]) -> ImageSet:
    """Images of a snapshot with their labels."""
    items = [
        Item(image.key, Path(image.path), tuple(Instance(label, dict(rle)) for label, rle in image.instances))
        for image in images
    ]
    return ImageSet(items, snapshot.classes)


def translation(known: Sequence[str], classes: Sequence[str]) -> Callable[[Prediction], Prediction]:
    """What makes a prediction of a model with the classes `known` read in `classes`: a label may have been added,
    removed or moved since. Detections of a class that is no more are dropped."""
    number = {name: index + 1 for index, name in enumerate(classes)}

    def translated(prediction: Prediction) -> Prediction:
        kept = prediction.keep([i for i, label in enumerate(prediction.labels) if known[label - 1] in number])
        kept.labels = [number[known[label - 1]] for label in kept.labels]
        return kept

    return translated
