"""An active version as a request needs it: what it said already, its network for the rest, and regions of both."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from backend.answers import AnswerCache, scored_pool
from backend.label_config import LabelConfig
from backend.ordering import ScoreOf, score_of
from backend.project_settings import ProjectSettings
from backend.regions import to_regions
from backend.versions import Versions
from tsp_model import checkpoints
from tsp_model.acquisition import observing
from tsp_model.execution import Execution
from tsp_model.inference import predict
from tsp_model.network import TSPMaskRCNN
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import Prediction
from tsp_model.ranking import RANKING
from tsp_model.settings import Settings


class ModelCache:
    """The models last asked for, by folder. A version's weights never change, so nothing here grows old."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self._models: OrderedDict[tuple[Path, Execution], tuple[TSPMaskRCNN, dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: Path, execution: Execution) -> tuple[TSPMaskRCNN, dict[str, Any]]:
        """The model in `folder`, run as `execution` says, and its card; CheckpointError as checkpoints.load. Loaded
        once, whoever asks."""
        with self._lock:
            wanted = folder, execution
            if wanted not in self._models:
                self._models[wanted] = checkpoints.load(*wanted)
            self._models.move_to_end(wanted)
            while len(self._models) > self._most:
                self._models.popitem(last=False)
            return self._models[wanted]


MODELS = ModelCache()
ANSWERS = AnswerCache()
# One forward pass at a time: two would only share the same cores. Taken batch by batch, so that an annotator
# who opens a task does not wait for somebody's whole selection.
_FORWARD = threading.Lock()


class Image(NamedTuple):
    """An image that somebody asks about: its file in the cache, and what was said of it already or else its pixels."""

    path: Path
    known: Prediction | None
    pixels: torch.Tensor | None


class ActiveVersion:
    """The version that answers for a project, during one request.

    Attributes:
        images: folder of the project's image cache. project_id: its number.
    """

    def __init__(self, versions: Versions, name: str, project: ProjectSettings) -> None:
        self.images, self.project_id = versions.root / "images", versions.number
        self._name, self._folder, self._card = name, versions.folder(name), versions.card(name)
        self._method = Settings.from_dict(self._card["settings"])
        self._execution = Execution.choose(project.method)
        self._shown = project.shown
        self._above = min(self._shown.threshold, self._method.ranking_score_threshold)

    def scored(self, task: Mapping[str, Any]) -> Prediction | None:
        """What the worker predicted for a task."""
        return scored_pool(self._folder / PREDICTIONS).get(str(task.get("id")), self._above)

    def remembered(self, image: Path) -> Prediction | None:
        """What this process predicted for an image."""
        return ANSWERS.get(self._folder, image, self._above)

    def predict(self, images: Sequence[Image | None]) -> Iterator[Prediction | None]:
        """For each image, in order; None stays None. CheckpointError: the version is damaged."""
        found = iter(self._detect([one.pixels for one in images if one is not None and one.pixels is not None]))
        for one in images:
            if one is None or one.pixels is None:
                yield one and one.known
            else:
                made = Prediction.from_detections("", next(found), self._method, self._above)
                ANSWERS.put(self._folder, one.path, made)
                yield made

    def answer(self, task: Mapping[str, Any], prediction: Prediction, config: LabelConfig) -> dict[str, Any]:
        """What Label Studio gets for a task."""
        prediction = replace(prediction, key=str(task.get("id")))
        return {
            "result": to_regions(prediction, self._card["classes"], config, self._shown),
            "score": _score_of(self._folder, (self._folder / RANKING).is_file())(prediction),
            "model_version": self._name,
        }

    def _detect(self, pixels: list[torch.Tensor]) -> list[dict[str, Any]]:
        if not pixels:
            return []
        model, _ = MODELS.get(self._folder, self._execution)
        with _FORWARD:
            return list(predict(model, pixels, paste=False, above=self._above, observe=observing(self._method)))


@functools.lru_cache(maxsize=16)
def _score_of(folder: Path, ranked: bool) -> ScoreOf:
    """Once it is there, a version's order does not change any more."""
    return score_of(folder)
