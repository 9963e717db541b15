"""One project's predictions in Label Studio: sent in bulk, none twice, and counted afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import ceil
from operator import attrgetter
from typing import Any

from label_studio_sdk.label_interface import LabelInterface

from backend.connection import IMPORT_SECONDS, ProjectError, call, chunks
from backend.label_config import LabelConfig
from backend.listing import TaskListing, has_version, lacks_version
from backend.regions import to_regions
from backend.shown import Shown
from tsp_model.data import some
from tsp_model.predictions import Prediction

_s = attrgetter("image_score")

# After each import Label Studio counts the whole project again, unless a flag of its own is set (backend/README.md), so
# few large calls win.
CALLS, PREDICTIONS_A_CALL = 20, 1000
RECOUNT_SECONDS = 0.005  # for each task of the project


class ProjectPredictions:
    """What Label Studio has of the project's versions.

    Args:
        listing: the project's tasks. label_config: its labeling configuration, as text; config: what it asks for.
        task_count: tasks in the project.
    """

    def __init__(self, listing: TaskListing, label_config: str, config: LabelConfig, task_count: int) -> None:
        self._listing, self._label_config, self._config, self._task_count = listing, label_config, config, task_count
        self._client, self._path = listing.client, f"api/projects/{listing.project_id}"

    def push(
        self,
        predictions: Iterable[Prediction],
        version: str,
        classes: Sequence[str],
        shown: Shown,
        a_call: int | None = None,
        score_of: Callable[[Prediction], float] = _s,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Predictions under `version`, in bulk; a task that has one of this version, or is gone, is left out.

        Args:
            predictions: keys are task ids; taken one by one. classes: the model's, whose labels may differ from the
                project's.
            shown: which instances annotators see; S counts what it counted.
            a_call: how many are sent together; None: see `predictions_a_call`. Large ones make it fewer.
            score_of: what orders the tasks, low first, 0..1; S by default (see backend.ordering).
            report: after each call, how many were sent of how many tasks that had none.

        Returns:
            How many were sent.

        Raises:
            ProjectError: one does not fit the configuration, or the server stored fewer than were sent.
        """
        waiting, sent = self._lacking(version), 0
        entries = self._entries(predictions, waiting, version, classes, shown, score_of)
        for chunk in chunks(entries, len, a_call or predictions_a_call(len(waiting))):
            sent += self._import_predictions(chunk, version)
            report(sent, len(waiting))
        return sent

    def _entries(
        self,
        predictions: Iterable[Prediction],
        waiting: Collection[int],
        version: str,
        classes: Sequence[str],
        shown: Shown,
        score_of: Callable[[Prediction], float],
    ) -> Iterator[str]:
        """The predictions that `push` has to send, checked, as the JSON that Label Studio imports.

        waiting: the tasks that have none.
        """
        interface = LabelInterface(self._label_config)
        for prediction in predictions:
            if int(prediction.key) not in waiting:
                continue
            regions = to_regions(prediction, classes, self._config, shown)
            entry = {"model_version": version, "score": score_of(prediction), "result": regions}
            wrong = interface.validate_prediction(entry, return_errors=True)
            if wrong:
                raise ProjectError(f"the prediction of task {prediction.key} does not fit the project: {wrong[0]}")
            yield json.dumps({"task": int(prediction.key)} | entry)

    def remove(self, version: str) -> None:
        """Delete those of `version`; see LabelStudioProject.forget."""
        asked = {"model_version": version}
        call(self._client, "DELETE", f"{self._path}/model-versions/", json=asked, timeout=IMPORT_SECONDS)

    def doubled(self, version: str) -> int:
        """How many predictions of `version` there are more than tasks that have one; two small calls."""
        counts = call(self._client, "GET", f"{self._path}/model-versions/")
        return counts.get(version, 0) - self._listing.count(has_version(version))

    def remove_doubled(self, version: str) -> int:
        """Delete all but the oldest prediction of `version` of each task; of how many tasks there were more.

        There are some when a worker was killed in a call that the server went on with.
        """
        if not self.doubled(version):
            return 0
        doubled = 0
        for _, held in self._held(version):
            doubled += len(held) > 1
            for spare in sorted(found["id"] for found in held)[1:]:
                call(self._client, "DELETE", f"api/predictions/{spare}/")
        return doubled

    def without_cluster(self, version: str) -> Iterator[tuple[int, int]]:
        """(task, prediction) of each prediction of `version` that has no cluster; the server sends them whole."""
        for task, held in self._held(version):
            yield from ((task, found["id"]) for found in held if found["cluster"] is None)

    def set_cluster(self, prediction_id: int, cluster: int) -> None:
        """The number of the group of tasks that a prediction belongs to, in the eyes of next task."""
        call(self._client, "PATCH", f"api/predictions/{prediction_id}/", json={"cluster": cluster})

    def _held(self, version: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Each task that has predictions of `version`, with them."""
        for raw in self._listing.pages([has_version(version)], fields="all", include="id,predictions"):
            yield raw["id"], [found for found in raw["predictions"] if found["model_version"] == version]

    def _import_predictions(self, entries: list[str], version: str) -> int:
        """Send predictions; how many of them. A task that is deleted meanwhile costs its own prediction only."""
        try:
            created = self._imported(entries)
        except ProjectError as error:
            if error.status != 400:
                raise
            # One task is not there. Label Studio stored none of them, or with that flag those of the batches before,
            # which it does not count: their column "total predictions" then stays as it was.
            entry_of = {json.loads(entry)["task"]: entry for entry in entries}
            still = entry_of.keys() & self._lacking(version)
            if len(still) == len(entry_of):
                raise
            if still:
                self._imported([entry for task, entry in entry_of.items() if task in still])
            stored = entry_of.keys() & self._listing.ids(has_version(version))
            left = stored | self._lacking(version)
            entries, created = [entry for task, entry in entry_of.items() if task in left], len(stored)
        if created != len(entries):
            lacking = self._lacking(version)
            missing = [task for task in (json.loads(entry)["task"] for entry in entries) if task in lacking]
            raise ProjectError(
                f"Label Studio stored {created} of {len(entries)} predictions; those of tasks {some(missing)} did not "
                "pass its checks"
            )
        return created

    def _imported(self, entries: list[str]) -> int:
        return call(
            self._client,
            "POST",
            f"{self._path}/import/predictions",
            content="[" + ",".join(entries) + "]",
            headers={"Content-Type": "application/json"},
            timeout=IMPORT_SECONDS + RECOUNT_SECONDS * self._task_count,
        )["created"]

    def _lacking(self, version: str) -> set[int]:
        """Tasks without a prediction of `version`."""
        return self._listing.ids(lacks_version(version))


def predictions_a_call(predictions: int, least: int = PREDICTIONS_A_CALL) -> int:
    """So many that all of them take CALLS calls, whose cost grows with the project; `least` of them at least."""
    return max(least, ceil(predictions / CALLS))
