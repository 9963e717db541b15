"""One cycle of Algorithm 1 (arXiv 2012.04829, section 3.2): train M_k, then let it predict the pool.

    pick b images (`pick_images`), the oracle labels them;
    D_semi <- the rest of the pool, instances filtered      \\
    train on D_al + D_semi with Eq. 5 -> M_k                 } `train_cycle`
    predict every image of the pool with M_k -> S (Eq. 3)      tsp_model.prediction_pass

The prediction pass of one cycle serves the next one's ranking and pseudo labels both. Everything is kept in the
version's folder, so each half can be repeated or gone on with after a crash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsp_model import checkpoints, distributed, pseudo_labels
from tsp_model.acquisition import STRATEGIES, choose, pick, scored
from tsp_model.data import DataError
from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import check
from tsp_model.execution import Execution
from tsp_model.network import TSPMaskRCNN, detections_needed, tsp_mask_rcnn
from tsp_model.prediction_pass import PREDICTIONS, score_pool
from tsp_model.predictions import Prediction, PredictionFile, write_predictions
from tsp_model.progress import Progress, silent
from tsp_model.ranking import Ranking
from tsp_model.settings import Settings
from tsp_model.training import beta_at, shortened, train

log = logging.getLogger(__name__)

PSEUDO_LABELS, TRAINING_STATE = "pseudo_labels.jsonl", "training.pt"
FEW_PSEUDO_IMAGES = 0.05  # of the pool; below this share a user should hear of it
FEW_PSEUDO_LABELS = (
    "{} of {} unlabelled images have a pseudo label, which is usual in the first cycles; later lower "
    "pseudo_class_threshold, pseudo_box_threshold or pseudo_mask_threshold if the precision of pseudo labels allows"
)
MANY_SMALL_OBJECTS = 0.1  # of the labelled ones; above this share a user should hear of it
SMALL_OBJECTS = (
    "{} of {} labelled objects have fewer than {:g} pixels in height or width at image_size={} and counted "
    "as background in training; raise image_size, or lower smallest_object"
)


def train_cycle(
    labelled: ImageSet,
    unlabelled: ImageSet,
    previous: Mapping[str, Prediction] | None,
    settings: Settings,
    folder: Path,
    progress: Progress = silent,
    parent: Path | None = None,
) -> dict[str, Any]:
    """D_semi from the previous model's predictions, then M_k on D_al + D_semi, saved in `folder`.

    Args:
        labelled: D_al. unlabelled: what remains of the pool.
        previous: M_(k-1)'s predictions of the unlabelled images by key; None in the first cycle.
        folder: where the model, its card and its pseudo labels go; a training that was interrupted there goes on.
        progress: see training.train.
        parent: folder of M_(k-1): recorded, and where a warm start begins (`warm_parent`). Its card tells which images
            it had not seen, which is what pseudo_target_precision is measured on.

    Returns:
        The card: classes, settings, counts, labelled, metrics, warnings, parent, train_seconds, architecture.
    """
    start = time.monotonic()
    chosen, scale = _pseudo_labels(labelled, unlabelled, previous, settings, parent)
    warnings = []
    if previous is not None and settings.ssl and len(chosen) < FEW_PSEUDO_IMAGES * len(unlabelled):
        warnings.append(FEW_PSEUDO_LABELS.format(len(chosen), len(unlabelled)))
        log.warning(warnings[0])
    folder.mkdir(parents=True, exist_ok=True)
    if distributed.rank() == 0:
        write_predictions(folder / PSEUDO_LABELS, chosen.values())
    pseudo = pseudo_labels.as_image_set(chosen, unlabelled)
    start_from = warm_parent(labelled, settings, parent)
    model = initial_model(labelled, settings, start_from)
    prepared = time.monotonic() - start
    metrics = train(
        Execution.choose(settings, learning=True).prepare(model),
        labelled,
        pseudo,
        shortened(settings) if start_from else settings,
        beta_at(len(labelled), len(unlabelled), settings),
        folder / TRAINING_STATE,
        progress,
    )
    if metrics["small_objects"] > MANY_SMALL_OBJECTS * labelled.objects:
        counted = (metrics["small_objects"], labelled.objects, settings.smallest_object, settings.image_size)
        warnings.append(SMALL_OBJECTS.format(*counted))
        log.warning(warnings[-1])
    card = {
        "classes": list(labelled.classes),
        "settings": settings.to_dict(),
        "counts": _counts(labelled, unlabelled, pseudo),
        "labelled": list(labelled.keys),
        "metrics": metrics | {"pseudo_threshold_scale": scale},
        "warnings": warnings,
        "parent": parent.name if parent else None,
        "train_seconds": round(prepared + metrics["seconds"], 3),
    }
    if distributed.rank() == 0:
        card = checkpoints.save(folder, model, card)
        (folder / TRAINING_STATE).unlink(missing_ok=True)
    distributed.barrier()
    return card


def _pseudo_labels(
    labelled: ImageSet,
    unlabelled: ImageSet,
    previous: Mapping[str, Prediction] | None,
    settings: Settings,
    parent: Path | None,
) -> tuple[dict[str, Prediction], float]:
    """D_semi by key, and the scale of the thresholds that chose it; arguments as in `train_cycle`."""
    if not previous or not settings.ssl:
        return {}, 1.0
    scale = _threshold_scale(labelled, previous, settings, parent)
    return pseudo_labels.from_predictions(previous, unlabelled, settings, scale), scale


def _threshold_scale(
    labelled: ImageSet, previous: Mapping[str, Prediction], settings: Settings, parent: Path | None
) -> float:
    """pseudo_labels.threshold_scale by the images that M_(k-1) predicted and did not train on; 1 if nobody asks."""
    if parent is None or not settings.pseudo_target_precision:
        return 1.0
    trained = set(checkpoints.read_card(parent)["labelled"])
    picks = []
    for item in labelled.items:
        if item.key not in trained and item.key in previous:
            with suppress(DataError):  # the image was replaced by one of another size: it tells nothing
                picks.append(check(item, previous[item.key]))
    return pseudo_labels.threshold_scale(picks, settings)


def pick_images(
    k: int,
    names: Sequence[str],
    labelled: ImageSet,
    settings: Settings,
    budget: int,
    last: Path | None,
    key_of: Callable[[str], str] = str,
) -> list[str]:
    """The images that cycle k has labelled, by the predictions of M_(k-1); see acquisition.choose.

    Args:
        names: of the unlabelled images, sorted. labelled: D_al.
        last: folder of M_(k-1), with the predictions of the unlabelled images; None in the first cycle.
        key_of: the key that an image has in these predictions.
    """
    pool, known = ([], []) if last is None else _ranked_on([key_of(name) for name in names], labelled, settings, last)
    return choose(settings.strategy_at(len(labelled)), names, pool, known, budget, settings.seed, k)


def rank_pool(
    k: int,
    names: Sequence[str],
    labelled: ImageSet,
    settings: Settings,
    last: Path,
    key_of: Callable[[str], str] = str,
    later: bool = False,
) -> Ranking:
    """The order in which cycle k would label the whole pool; its first b are what `pick_images` picks.

    Args:
        later: images that come later are to find their place in it, too. The others as in `pick_images`.
    """
    keys, strategy = [key_of(name) for name in names], settings.strategy_at(len(labelled))
    pool, known = _ranked_on(keys, labelled, settings, last)
    scores = scored(strategy, names, pool, known, settings.seed, k)
    order = pick(scores, len(names), settings.seed)
    remember = STRATEGIES[strategy].remember if later else None
    memory = remember(pool, known) if remember else {}
    return Ranking(
        strategy,
        settings.seed,
        settings.ranking_score_threshold,
        [key_of(name) for name in order],
        np.array([scores[name] for name in order]),
        memory,
    )


def _ranked_on(
    keys: Sequence[str], labelled: ImageSet, settings: Settings, last: Path
) -> tuple[Sequence[Prediction], Sequence[Prediction]]:
    """What a strategy looks at: the predictions of these images, and of the labelled ones if it reads them."""
    predictions = PredictionFile(last / PREDICTIONS, lambda found: found.above(settings.ranking_score_threshold))
    reads_labelled = STRATEGIES[settings.strategy_at(len(labelled))].reads_labelled
    return predictions.sequence(keys), list(score_pool(last, labelled, above=1.0)) if reads_labelled else []


def warm_parent(labelled: ImageSet, settings: Settings, parent: Path | None) -> Path | None:
    """The parent if M_k is to start from it (`warm_start`); None if not, or its classes or backbone are others."""
    if parent is None or not settings.warm_start:
        return None
    card = checkpoints.read_card(parent)
    if card["classes"] == list(labelled.classes) and card["settings"]["backbone"] == settings.backbone:
        return parent
    log.warning("classes or backbone changed since %s: no warm start, initial weights instead", parent.name)
    return None


def initial_model(labelled: ImageSet, settings: Settings, start: Path | None = None) -> TSPMaskRCNN:
    """M_k before training: with the weights of the model in `start`, or the same initial ones in every cycle."""
    largest = max((len(item.instances) for item in labelled.items), default=0)
    detections = detections_needed(largest, settings.detections_per_image)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        model = tsp_mask_rcnn(
            len(labelled.classes) + 1,
            settings.backbone,
            settings.weights,
            image_size=settings.image_size,
            detections_per_image=detections,
            score_threshold=settings.score_threshold,
            nms_threshold=settings.nms_threshold,
            semi_normaliser=settings.semi_normaliser,
            proposals=settings.proposals,
            dropout=settings.dropout,
            learning_loss=settings.strategy == "learning_loss",
            intensities=settings.intensities,
        )
    if start is not None:
        model.load_state_dict(checkpoints.read(start)[0].state_dict())
    return model


def _counts(labelled: ImageSet, unlabelled: ImageSet, pseudo: ImageSet) -> dict[str, int]:
    return {
        "labelled_images": len(labelled),
        "labelled_objects": labelled.objects,
        "unlabelled_images": len(unlabelled),
        "pseudo_images": len(pseudo),
        "pseudo_objects": pseudo.objects,
    }
