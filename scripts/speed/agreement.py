"""Does a faster way to run a trained network say the same? `python -m scripts.benchmark agreement`.

AP50, the order of a pool, and which images would be picked.
A network is trained from nothing on a few images of each data set and kept in the folder for the next time.
Then each lever of tsp_model/execution.py is put on top of the one before, and the same weights are asked again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from tqdm import tqdm

from scripts.command_line import CommandError
from scripts.table import markdown
from tsp_model import checkpoints
from tsp_model.cycle import TRAINING_STATE, initial_model
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic
from tsp_model.evaluation import average_precision
from tsp_model.execution import Execution, default_device
from tsp_model.inference import predict
from tsp_model.network import TSPMaskRCNN
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings
from tsp_model.training import train

POOL, SEED = 200, 0  # images of the built-in set to be ordered; of a real one, all that are not labelled
ROIS = 96
STOCK_PROPOSALS = 1000
# From nothing, so with norms that train, and the same for every backbone.
TRAINING = {
    "weights": "none",
    "optimizer": "adamw",
    "schedule": "cosine",
    "gradient_clip": 5.0,
    "warmup_iterations": 20,
    "augmentation": "flip_rot90",
}
LEARNING_RATES = {"tiny": 2e-3}  # of the others: 5e-4


def levers() -> Iterator[tuple[str, Execution, bool]]:
    """Each lever on top of the last: its name, how to run, and whether proposals are the package's own number."""
    device, bfloat16 = default_device(), torch.bfloat16
    steps = Execution(device=device)
    yield "float32, torchvision's RoIAlign, 1000 proposals", steps, False
    steps = dataclasses.replace(steps, channels_last=True)
    yield "+ channels last", steps, False
    if device.type == "cpu":
        steps = dataclasses.replace(steps, gather=True)
        yield "+ RoIAlign as a gather", steps, False
    steps = dataclasses.replace(steps, mask_precision=bfloat16)
    yield "+ bfloat16 in mask and score heads", steps, False
    steps = dataclasses.replace(steps, precision=bfloat16)
    yield "+ bfloat16 everywhere", steps, False
    yield "+ 300 proposals", steps, True


def compare(
    name: str, folder: Path, backbone: str, labels: int, epochs: int, size: int, data: Path, picked: int
) -> dict[str, Any]:
    """One row a lever for one data set and backbone; the trained network is kept in `folder`."""
    labelled, pool, test = splits(name, folder, data, labels)
    version = folder / f"{name}-{backbone}-{size}-{labels}-{epochs}"
    if not (version / checkpoints.CARD).exists():
        train_from_nothing(version, labelled, backbone, epochs, size)
    rows: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for lever, execution, own_proposals in levers():
        model, card = checkpoints.load(version, execution)
        if not own_proposals:
            model.rpn._post_nms_top_n["testing"] = STOCK_PROPOSALS
        settings = Settings.from_dict(card["settings"])
        start = time.perf_counter()
        found = predictions(model, pool, settings, f"{name}, {backbone}: {lever}")
        seconds = (time.perf_counter() - start) / len(pool)
        scores = np.array([found[key].image_score for key in pool.keys])
        reference = scores if reference is None else reference
        quality = average_precision(test, predictions(model, test, settings, "test split"))
        rows.append(
            {
                "lever": lever,
                "mask_ap50": quality["mask_ap50"],
                "box_ap50": quality["box_ap50"],
                "spearman": spearman(reference, scores),
                "overlap": overlap(reference, scores, picked),
                "seconds_an_image": seconds,
            }
        )
    return {
        "data": name,
        "backbone": backbone,
        "image_size": size,
        "epochs": epochs,
        "labelled": len(labelled),
        "pool": len(pool),
        "test": len(test),
        "picked": picked,
        "rows": rows,
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Rank correlation, -1..1, ties sharing the mean of their ranks."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def overlap(first: np.ndarray, second: np.ndarray, count: int) -> float:
    """Share of the `count` lowest of one that are among the lowest of the other, too; ties by position."""
    lowest = [set(np.argsort(scores, kind="stable")[:count].tolist()) for scores in (first, second)]
    return len(lowest[0] & lowest[1]) / count


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def splits(name: str, folder: Path, data: Path, labels: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Labelled images, pool and test split of "synthetic", written to `folder`, or of a COCO folder in `data`."""
    if name == "synthetic":
        data = folder / f"labels{labels}"
        write_synthetic(data / name, train=labels + POOL, test=150, size=128, seed=SEED)
    if not (data / name).is_dir():
        raise CommandError(f"there is no data set {data / name}; give its parent folder as --data.")
    train = load_coco(data / name, "train")
    if len(train) <= labels:
        raise CommandError(f"{data / name} has {len(train)} training images; give fewer than that as --labels.")
    keys = [train.keys[i] for i in np.random.default_rng(SEED).permutation(len(train))]
    return train.subset(keys[:labels]), train.subset(keys[labels:]), load_coco(data / name, "test")


def train_from_nothing(
    folder: Path,
    labelled: ImageSet,
    backbone: str,
    epochs: int,
    size: int,
    seed: int = SEED,
    execution: Execution | None = None,
) -> None:
    """A network in `folder`, with a card. execution: None: as the package trains on this machine."""
    settings = Settings().override(
        TRAINING
        | {
            "backbone": backbone,
            "epochs": epochs,
            "image_size": size,
            "learning_rate": LEARNING_RATES.get(backbone, 5e-4),
            "seed": seed,
        }
    )
    execution = execution or Execution.choose(settings, learning=True)
    model = execution.prepare(initial_model(labelled, settings))
    # A fifth of torchvision's RoIs a step: as good for weights to compare with, and twice as quick.
    model.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(ROIS, 0.25)
    with tqdm(desc=f"train {folder.name}", dynamic_ncols=True) as bar:

        def show(event: Mapping[str, Any]) -> None:
            bar.total = event["total"]
            bar.set_postfix(loss=f"{event['loss']:.3f}", refresh=False)
            bar.update(event["done"] - bar.n)

        folder.mkdir(parents=True, exist_ok=True)
        nothing = labelled.subset([])
        start = time.perf_counter()
        metrics = train(model, labelled, nothing, settings, 0.0, folder / TRAINING_STATE, show)
    card = {
        "classes": list(labelled.classes),
        "settings": settings.to_dict(),
        "metrics": metrics,
        "train_seconds": round(time.perf_counter() - start, 3),
    }
    checkpoints.save(folder, model, card)


def predictions(model: TSPMaskRCNN, images: ImageSet, settings: Settings, title: str) -> dict[str, Prediction]:
    """What the network says of each image, by key, with a progress bar."""
    stream = predict(model, (images[i][0] for i in range(len(images))), paste=False)
    found = tqdm(zip(images.keys, stream, strict=True), title, len(images), leave=False, dynamic_ncols=True)
    return {key: Prediction.from_detections(key, detections, settings) for key, detections in found}


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table a data set and backbone."""
    parts = []
    for result in results:
        cells = [
            ["", "mask AP50", "box AP50", "Spearman of S", f"same {result['picked']} lowest", "s an image", "ratio"]
        ]
        for row in result["rows"]:
            cells.append(
                [
                    row["lever"],
                    f"{row['mask_ap50']:.3f}",
                    f"{row['box_ap50']:.3f}",
                    f"{row['spearman']:.4f}",
                    f"{row['overlap']:.0%}",
                    f"{row['seconds_an_image']:.3f}",
                    f"{result['rows'][0]['seconds_an_image'] / row['seconds_an_image']:.2f}",
                ]
            )
        title = (
            f"{result['data']}, {result['backbone']} at {result['image_size']} px, {result['labelled']} labels, "
            f"{result['epochs']} epochs, pool of {result['pool']}, {result['test']} test images"
        )
        parts.append(f"{title}\n\n{markdown(cells)}")
    return "\n\n".join(parts)
