"""A whole cycle of Algorithm 1 through Label Studio, beside its network time alone.

The network's time is measured in this process right after the job, with its threads, on what the job itself wrote down:
its snapshot, its settings and, for scoring, its weights. Images are decoded before, masks are not compressed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from backend.project import LabelStudioProject
from backend.regions import to_region
from backend.snapshot import Image, Snapshot
from backend.versions import Versions
from scripts.command_line import CommandError
from scripts.service import Service, ServiceError
from scripts.speed.house import House, house
from scripts.speed.timing import COST, Bench, Comparison, require_agreement
from tsp_model import checkpoints
from tsp_model.cycle import initial_model
from tsp_model.data.image_set import ImageSet, Instance, Item
from tsp_model.execution import Execution
from tsp_model.inference import predict
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import read_predictions
from tsp_model.settings import Settings
from tsp_model.training import smallest_share, train

LABELLED, EPOCHS = 24, 4  # few, so that training does not hide what the service adds
SMOKE_POOL, SMOKE_LABELLED, SMOKE_EPOCHS = 6, 2, 1
DETECTIONS = 20
SIZES = {"resnet50": 512, "tiny": 128}
AIMS = {"resnet50": 1.15, "tiny": None}
PARTS = ("pull", "train", "score", "push", "switch")


def cycle(bench: Bench) -> Iterator[Comparison]:
    """START_TRAINING until every task of the pool carries the new version's score, for both networks."""
    for backbone, size in SIZES.items():
        size = 64 if bench.smoke else size
        labelled = SMOKE_LABELLED if bench.smoke else LABELLED
        pool = SMOKE_POOL if bench.smoke else bench.cycle_pool
        with house(labelled + pool, size, bench.threads) as there:
            yield _compare(bench, there, backbone, size, labelled)


def _compare(bench: Bench, there: House, backbone: str, size: int, labelled: int) -> Comparison:
    preset = "tiny" if backbone == "tiny" else "paper"
    method = {
        "preset": preset,
        "weights": "none",
        "image_size": size,
        "epochs": SMOKE_EPOCHS if bench.smoke else EPOCHS,
        "ssl": False,  # or the second round would train on more than the first
        # A network of four epochs is sure of nothing; so each image has DETECTIONS, whose masks are pushed.
        "score_threshold": 0.0,
        "ranking_score_threshold": 0.0,
        "detections_per_image": DETECTIONS,
    }
    project, tasks = there.project(method | {"train_after": 0})
    with suppress(ServiceError):  # nothing is labelled yet: the job fails as soon as the worker is awake
        _through_label_studio(there, project, "waiting for the worker")
    for item in there.images.items[:labelled]:
        regions = [_region(project, there.images, one, index) for index, one in enumerate(item.instances)]
        project.submit_annotation(tasks[item.key], regions)
    torch.set_num_threads(bench.threads)
    alone = ("train alone", "score alone")
    seconds: dict[str, list[float]] = {
        name: [] for name in ("whole cycle", "network alone", *PARTS, "between steps", *alone)
    }
    pool = len(there.images) - labelled
    title = f"cycle, {backbone} at {size}, {labelled} labels, pool of {pool}"
    regions = []
    for number in tqdm(range(bench.repeats), desc=f"{bench.label} {title}", leave=False, dynamic_ncols=True):
        whole, status = _through_label_studio(there, project, f"round {number + 1} of {bench.repeats}")
        parts = {part: status["seconds"].get(part, 0.0) for part in PARTS}
        folder = Versions(there.backend.model_dir, project.key).folder(status["version"])
        regions.append(sum(map(len, read_predictions(folder / PREDICTIONS).values())) / pool)
        network = _network_alone(folder)
        measured = {"whole cycle": whole, "between steps": whole - sum(parts.values()), **parts}
        measured |= dict(zip(alone, network, strict=True)) | {"network alone": sum(network)}
        for name, value in measured.items():
            seconds[name].append(value)
    facts = {"regions_an_image": regions, "fetching_round": seconds["whole cycle"][0] / seconds["network alone"][0]}
    row = Comparison(title, "whole cycle", "network alone", seconds, COST, AIMS[backbone], facts=facts)
    return replace(row, note=_split(row))


def _split(row: Comparison) -> str:
    """Where the time goes, medians."""
    parts = [*PARTS, "between steps"]
    job = ", ".join(f"{part} {row.median(part):.1f}" for part in parts)
    return (
        f"seconds: {job}; network alone: train {row.median('train alone'):.1f}, score {row.median('score alone'):.1f}; "
        f"{statistics.median(row.facts['regions_an_image']):.0f} regions an image; "
        f"the first round, which fetches the images: {row.facts['fetching_round']:.2f}x"
    )


def _region(project: LabelStudioProject, images: ImageSet, one: Instance, index: int) -> dict[str, Any]:
    return to_region(images.classes[one.label - 1], one.rle, project.config, f"truth{index}")


def _through_label_studio(there: House, project: LabelStudioProject, title: str) -> tuple[float, dict[str, Any]]:
    """Seconds of a training from the click on, and the job's last status."""
    service = Service(there.backend.url)
    try:
        before = service.last_training(project.key)
        start = time.perf_counter()
        project.start_training()
        job = service.last_training(project.key)
        if job is None or (before and job["job_id"] == before["job_id"]):
            raise CommandError("Label Studio started no training.")
        status = service.wait(job["job_id"], title)
        return time.perf_counter() - start, status
    finally:
        service.close()


def _network_alone(folder: Path) -> tuple[float, float]:
    """Seconds of the training's steps and of the pool's forward passes of a version, without a service."""
    snapshot = Snapshot.read(folder)
    settings = Settings.from_dict(dict(snapshot.settings))
    labelled = ImageSet(_items(snapshot.labelled), snapshot.classes)
    # What training leaves out is left out before, or training would make a set of its own that is not decoded.
    decoded = Decoded(labelled.without_small(smallest_share(settings)).items, snapshot.classes)
    pool = [image for image, _ in Decoded(_items(snapshot.unlabelled), snapshot.classes)]
    untrained = Execution.choose(settings, learning=True).prepare(initial_model(labelled, settings))
    trained, _ = checkpoints.load(folder)
    counts: list[int] = []

    def score() -> None:
        counts.extend(len(found["scores"]) for found in predict(trained, pool, paste=False))

    times = (
        _seconds(lambda: train(untrained, decoded, ImageSet([], snapshot.classes), settings, beta=0.0)),
        _seconds(score),
    )
    job = [len(found) for found in read_predictions(folder / PREDICTIONS).values()]
    require_agreement(counts == job, "detections of the job and of the network alone")
    return times


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _items(images: Sequence[Image]) -> list[Item]:
    return [Item(one.key, Path(one.path), tuple(Instance(*pair) for pair in one.instances)) for one in images]


class Decoded(ImageSet):
    """A set whose images and masks are in memory from the start."""

    def __init__(self, items: Sequence[Item], classes: Sequence[str]) -> None:
        super().__init__(items, classes)
        self._decoded = [super(Decoded, self).__getitem__(index) for index in range(len(self.items))]

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image, target = self._decoded[index]
        return image, dict(target)  # training takes the key out
