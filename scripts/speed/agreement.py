"""Does a faster way to run a trained network say the same? `python -m scripts.benchmark agreement`.

AP50, the order of a pool, and which images would be picked.
A network is trained from nothing on a few images of each data set and kept in the folder for the next time.
Then each lever of tsp_model/execution.py is put on top of the one before, and the same weights are asked again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from tqdm import tqdm

from scripts.command_line import CommandError
from scripts.stats import spearman
from scripts.table import markdown
from tsp_model import checkpoints
from tsp_model.cycle import TRAINING_STATE, initial_model
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic
from tsp_model.evaluation import average_precision
from tsp_model.execution import Execution, default_device, onednn_multiplies
from tsp_model.inference import predict
from tsp_model.network import TSPMaskRCNN, proposals_needed
from tsp_model.predictions import Prediction
from tsp_model.settings import PRESETS, Settings
from tsp_model.training import train

SEED = 0
ROIS = 96
FEW_PROPOSALS = 300
LEAST_SPEARMAN, LEAST_OVERLAP = 0.99, 0.95
NOISE = 0.02  # of AP50: what another seed changes, see `learning`
# From nothing, and the same for every backbone but for the rate.
TRAINING = PRESETS["tiny"] | {"augmentation": "flip_rot90"}
RESNET_LEARNING_RATE = 5e-4


def levers(backbone: str, device: torch.device) -> Iterator[tuple[str, Execution, int | None]]:
    """Each lever on top of the last: its name, how to run, and how many proposals (None: the backbone's own)."""
    steps = Execution(device=device)
    yield "float32, torchvision's RoIAlign", steps, None
    steps = dataclasses.replace(steps, channels_last=True, gather=device.type == "cpu")
    yield "+ channels last" + ", RoIAlign as a gather" * steps.gather, steps, None
    steps = dataclasses.replace(steps, folded=True, onednn_linear=onednn_multiplies(device))
    yield "+ norms folded" + ", linear layers by oneDNN" * steps.onednn_linear, steps, None
    steps = dataclasses.replace(steps, mask_precision=torch.bfloat16)
    yield "+ bfloat16 in mask and score heads", steps, None
    steps = dataclasses.replace(steps, precision=torch.bfloat16)
    yield "+ bfloat16 everywhere", steps, None
    if proposals_needed(backbone, 0) > FEW_PROPOSALS:
        yield f"+ {FEW_PROPOSALS} proposals", steps, FEW_PROPOSALS


@dataclass(frozen=True)
class Case:
    """A network to be trained and asked.

    Attributes:
        data: "synthetic" or the name of a COCO folder in `sets`. backbone: one of settings.BACKBONES.
        labels, pool, test: images to train on, to be put in order and to evaluate on. epochs: over the first.
        size: image_size in pixels. folder: where what is made stays.
    """

    data: str
    backbone: str
    labels: int
    pool: int
    test: int
    epochs: int
    size: int
    sets: Path
    folder: Path

    def version(self, *more: str) -> Path:
        """The folder of the trained network."""
        parts = (self.data, self.backbone, self.size, self.labels, self.epochs, *more)
        return self.folder / "-".join(map(str, parts))

    def splits(self) -> tuple[ImageSet, ImageSet, ImageSet]:
        """Labelled images, pool and test split. Raises CommandError if there are too few."""
        sets = self.sets
        if self.data == "synthetic":
            sets = self.folder / f"{self.labels + self.pool}-{self.test}"
            write_synthetic(sets / self.data, train=self.labels + self.pool, test=self.test, size=128, seed=SEED)
        if not (sets / self.data).is_dir():
            raise CommandError(f"there is no data set {sets / self.data}; give its parent folder as --data.")
        train = load_coco(sets / self.data, "train")
        if len(train) < self.labels + self.pool:
            raise CommandError(f"{sets / self.data} has {len(train)} training images; lower --labels or --pool.")
        keys = [train.keys[i] for i in np.random.default_rng(SEED).permutation(len(train))]
        pool = keys[self.labels : self.labels + self.pool]
        test = load_coco(sets / self.data, "test")
        return train.subset(keys[: self.labels]), train.subset(pool), test.subset(test.keys[: self.test])

    def __str__(self) -> str:
        return (
            f"{self.data}, {self.backbone} at {self.size} px, {self.labels} labels, {self.epochs} epochs, "
            f"pool of {self.pool}, {self.test} test images"
        )


def compare(case: Case, picked: int) -> dict[str, Any]:
    """One row a lever; the trained network is kept. picked: images that a cycle would label."""
    labelled, pool, test = case.splits()
    version = case.version()
    train_from_nothing(version, labelled, case)
    rows: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    for lever, execution, proposals in levers(case.backbone, default_device()):
        model, card = checkpoints.load(version, execution)
        settings = Settings.from_dict(card["settings"])
        if proposals is not None:
            model.rpn.proposals = proposals
        shipped = proposals is None and execution == Execution.choose(settings)
        start = time.perf_counter()
        found = predictions(model, pool, settings, f"{case.data}, {case.backbone}: {lever}")
        seconds = (time.perf_counter() - start) / len(pool)
        scores = np.array([found[key].image_score for key in pool.keys])
        reference = scores if reference is None else reference
        quality = average_precision(test, predictions(model, test, settings, "test split"))
        row = {
            "lever": lever + " (as shipped)" * shipped,
            "mask_ap50": quality["mask_ap50"],
            "box_ap50": quality["box_ap50"],
            "spearman": spearman(reference, scores),
            "overlap": overlap(reference, scores, picked),
            "seconds_an_image": seconds,
        }
        rows.append(row | {"agrees": agrees(row, (rows or [row])[0])})
    return {"case": str(case), "picked": picked, "rows": rows}


def agrees(row: Mapping[str, float], reference: Mapping[str, float]) -> bool:
    """Whether a quicker way is as good: the same order of the pool, and no less AP50 than noise explains."""
    lost = max(reference[kind] - row[kind] for kind in ("mask_ap50", "box_ap50"))
    return row["spearman"] >= LEAST_SPEARMAN and row["overlap"] >= LEAST_OVERLAP and lost <= NOISE


def overlap(first: np.ndarray, second: np.ndarray, count: int) -> float:
    """Share of the `count` lowest of one that are among the lowest of the other, too; ties by position."""
    lowest = [set(np.argsort(scores, kind="stable")[:count].tolist()) for scores in (first, second)]
    return len(lowest[0] & lowest[1]) / len(lowest[0])


def train_from_nothing(
    folder: Path, labelled: ImageSet, case: Case, seed: int = SEED, execution: Execution | None = None
) -> None:
    """A network in `folder`, with a card; one that was trained there before with the same settings stays.

    execution: None: as the package trains on this machine.
    """
    rate = TRAINING["learning_rate"] if case.backbone == TRAINING["backbone"] else RESNET_LEARNING_RATE
    settings = Settings().override(
        TRAINING
        | {
            "backbone": case.backbone,
            "epochs": case.epochs,
            "image_size": case.size,
            "learning_rate": rate,
            "seed": seed,
        }
    )
    if (folder / checkpoints.CARD).exists() and checkpoints.read_card(folder)["settings"] == settings.to_dict():
        return
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
            ["", "mask AP50", "box AP50", "Spearman of S", f"same {result['picked']} lowest", "agrees", "s an image"]
        ]
        for row in result["rows"]:
            cells.append(
                [
                    row["lever"],
                    f"{row['mask_ap50']:.3f}",
                    f"{row['box_ap50']:.3f}",
                    f"{row['spearman']:.4f}",
                    f"{row['overlap']:.0%}",
                    "yes" if row["agrees"] else "no",
                    f"{row['seconds_an_image']:.3f}",
                ]
            )
        parts.append(f"{result['case']}\n\n{markdown(cells)}")
    return "\n\n".join(parts)
