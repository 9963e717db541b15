"""The prediction pass: every image of the pool as M_k sees it, which ranks it and gives the next cycle's pseudo labels.

`score_pool` is the stream; `complete_predictions` keeps it in the version's folder, where a scoring that was killed
goes on and several processes bring theirs together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tsp_model import checkpoints, distributed
from tsp_model.acquisition import observing
from tsp_model.ahead import ahead
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet, read_image
from tsp_model.execution import Execution
from tsp_model.inference import BATCH_SIZE, predict
from tsp_model.predictions import Prediction, PredictionFile, write_predictions
from tsp_model.progress import Progress, silent
from tsp_model.settings import Settings

log = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"


def score_pool(
    folder: Path,
    pool: ImageSet,
    progress: Progress = silent,
    above: float = 0.0,
    execution: Execution | None = None,
    features: bool = False,
    signals: bool = True,
) -> Iterator[Prediction]:
    """Every image of the pool as `folder`'s model sees it, in order, as a stream; labels are not looked at.

    The network runs in the thread that asks; beside it one thread decodes the next images and another compresses the
    last detections, so that it waits for neither. Close the stream, or take all of it, and both have ended.

    Args:
        above: only detections with a class score above this are wanted.
        execution: see checkpoints.load. features: see acquisition.observing.
        signals: False where nobody ranks by these predictions: the strategy then notes nothing, such as ten passes with
            dropout.
    """
    model, card = checkpoints.load(folder, execution)
    settings = Settings.from_dict(card["settings"])
    start = time.monotonic()

    def compressed(found: tuple[str, dict[str, Any]]) -> Prediction:
        return Prediction.from_detections(*found, settings, above)

    observe = observing(settings, features) if signals else None
    with ahead(read_image, (item.path for item in pool.items), 2 * BATCH_SIZE) as images:
        found = zip(pool.keys, predict(model, images, paste=False, above=above, observe=observe), strict=True)
        with ahead(compressed, found, BATCH_SIZE) as predictions:
            for done, prediction in enumerate(predictions, start=1):
                yield prediction
                pace = (time.monotonic() - start) / done
                left = round(pace * (len(pool) - done), 1)
                progress({"phase": "score", "done": done, "total": len(pool), "eta_seconds": left})


def looked_at(settings: Settings) -> float:
    """The class score above which S or the pseudo labels look at a detection."""
    pseudo = settings.pseudo_class_threshold if settings.pseudo_rule == "all" else 0.0
    return min(settings.ranking_score_threshold, pseudo)


def complete_predictions(
    folder: Path,
    pool: ImageSet,
    above: float,
    progress: Progress = silent,
    on_disk: Callable[[int], None] = lambda count: None,
    execution: Execution | None = None,
    features: bool = False,
    whole_batches: bool = False,
) -> int:
    """Score the images of the pool that `folder`'s predictions lack, and add them there; how many that were.

    What a scoring that was killed had written is kept, so that the same call goes on with it. Predictions that were
    made for somebody who looks at fewer detections are made anew.

    Args:
        above: nobody will look at a detection with a class score up to this; see `looked_at`. Masks of weak detections
            are most of the work.
        on_disk: see PredictionFile.add. execution: see checkpoints.load. features: see acquisition.observing.
        whole_batches: see a batch that a kill cut in two once more, whole. What MC dropout drops follows from the
            images that are seen together, so that a scoring that goes on would find others than an unbroken one. For a
            folder that holds one pool alone, scored in its order by one process from the first image on.
    """
    predictions = _known(folder, above, whole_batches)
    missing = [key for key in pool.keys if key not in predictions]
    mine = distributed.share(missing)
    if missing and distributed.world() > 1:
        checkpoints.read(folder)  # a damaged version ends all ranks, and not those alone that have a share
    if mine:  # else nothing is loaded either
        file = predictions if distributed.world() == 1 else _own_file(folder)
        with closing(score_pool(folder, pool.subset(mine), progress, above, execution, features)) as fresh:
            file.add(fresh, on_disk)
    distributed.barrier()
    if distributed.rank() == 0:
        _collect(folder, predictions)
    distributed.barrier()
    return len(missing)


def _known(folder: Path, above: float, whole_batches: bool) -> PredictionFile:
    """The predictions that are there already, and of use; the same for every rank."""
    path = folder / PREDICTIONS
    if distributed.rank() == 0:
        path.touch()
        try:
            predictions = PredictionFile(path)
            _collect(folder, predictions)
            if whole_batches:
                predictions.keep(len(predictions) // BATCH_SIZE * BATCH_SIZE)
            first = next(iter(predictions.values()), None)
            of_use = first is None or first.kept_above <= above
        except DataError as error:  # a damaged file; the model says it all again
            log.warning("the pool is scored anew: %s", error)
            of_use = False
        if not of_use:
            write_predictions(path, [])
            for own in folder.glob(f"{PREDICTIONS}.*"):
                own.unlink()
    distributed.barrier()
    return PredictionFile(path)


def _own_file(folder: Path) -> PredictionFile:
    """What this rank scores; a kill costs none of it."""
    path = folder / f"{PREDICTIONS}.{distributed.rank()}"
    path.touch()
    return PredictionFile(path)


def _collect(folder: Path, predictions: PredictionFile) -> None:
    """Into the version's file what the ranks have scored, also those of a scoring that was killed."""
    for path in sorted(folder.glob(f"{PREDICTIONS}.*")):
        try:
            found = PredictionFile(path)
            predictions.add(found[key] for key in found if key not in predictions)
        except DataError as error:
            log.warning("what a process had scored is scored anew: %s", error)
        path.unlink()
