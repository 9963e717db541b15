"""One Label Studio project through its API: annotations out, predictions in, version and order set.

Pages and large calls keep memory flat and the server quick; the calls that the SDK lacks or that answer differently
from its types go through `backend.connection.call`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from label_studio_sdk import LabelStudio
from label_studio_sdk.label_interface import LabelInterface

from backend.annotations import instances_of, training_annotation
from backend.connection import ProjectError, base_url, call
from backend.label_config import parse_label_config
from backend.project_settings import read_extra_params
from backend.regions import RLE, to_regions
from backend.shown import Shown
from backend.versions import project_key
from tsp_model.data import some
from tsp_model.predictions import Prediction

T = TypeVar("T")
_s = attrgetter("image_score")

NAME = "name"  # of the image, in the data of a task that `upload_images` made
TASKS_A_PAGE, ANNOTATED_A_PAGE = 1000, 100
# After each import Label Studio counts the whole project again, unless a flag of its own is set (backend/README.md), so
# few large calls win; it takes 250 MB at most, files included.
CALLS, PREDICTIONS_A_CALL, BYTES_A_CALL = 20, 1000, 50_000_000
FILES_A_CALL = 50  # Django refuses more than 100 files in one form
IMPORT_SECONDS, RECOUNT_SECONDS = 600.0, 0.005  # the latter for each task of the project
HAS_ANNOTATION = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
NO_ANNOTATION = HAS_ANNOTATION | {"operator": "equal"}
HAS_SCORE = {"filter": "filter:tasks:predictions_score", "operator": "empty", "type": "Number", "value": "false"}


@dataclass(frozen=True)
class Task:
    """One task. `annotation` is the one that trains (None: the task counts as unlabelled); `instances` are its objects
    by label, of the configuration or not, None if it is malformed; `name` is the image's in the task's data, "" if it
    has none."""

    id: int
    image_url: str
    annotation: Mapping[str, Any] | None = None
    instances: tuple[tuple[str, RLE], ...] | None = None
    name: str = ""


class LabelStudioProject:
    """A project as it is now: key, configuration and number of tasks are read once, when this is made.

    Attributes:
        found: the project's values as the server had them then; `values` asks for those of now.
        key: "<id>.<seconds of creation>", as Label Studio's own /setup names the project.
        label_config: the labeling configuration, as text; config: what it asks for; classes: its label values.
        task_count: tasks in the project.

    Raises:
        ProjectError: the project cannot be reached. LabelConfigError: its configuration cannot be used.
    """

    def __init__(self, client: LabelStudio, project_id: int) -> None:
        self.client, self.project_id = client, project_id
        self.found = self.values()
        self.key = project_key(self.found["id"], self.found["created_at"])
        self.label_config: str = self.found["label_config"]
        self.config = parse_label_config(self.label_config)
        self.classes = self.config.labels
        self.task_count: int = self.found.get("task_number") or 0

    def tasks(self) -> Iterator[Task]:
        """Every task once, those with an annotation first, page by page. One that is annotated between the two is no
        image to guess at, and trains next time."""
        seen = set()
        for task in self.annotated():
            seen.add(task.id)
            yield task
        yield from (task for task in self.unannotated() if task.id not in seen)

    def annotated(self) -> Iterator[Task]:
        """Those with an annotation that was submitted and not skipped, with it, page by page."""
        for raw, annotation in self._annotated():
            instances = None if annotation is None else instances_of(annotation, self.config, raw["id"])
            yield Task(raw["id"], self._image_url(raw), annotation, instances, _name(raw))

    def annotations(self) -> Iterator[Mapping[str, Any]]:
        """The one that trains of each task that has one, as Label Studio has it: no mask is decoded."""
        return (annotation for _, annotation in self._annotated() if annotation is not None)

    def unannotated(self) -> Iterator[Task]:
        """The others, page by page."""
        for raw in self._pages(TASKS_A_PAGE, include="id,data,total_annotations"):
            if not raw["total_annotations"]:
                yield Task(raw["id"], self._image_url(raw), name=_name(raw))

    def annotated_task_ids(self) -> set[int]:
        """Tasks with an annotation that was submitted and not skipped."""
        return self._ids(HAS_ANNOTATION)

    def task_ids_by_name(self) -> dict[str, int]:
        """The task of each image that `upload_images` imported, by its name."""
        listed = self._pages(TASKS_A_PAGE, include="id,data")
        return {name: raw["id"] for raw in listed if (name := _name(raw))}

    def scores(self) -> dict[int, float]:
        """Label Studio's own prediction score of each task, of the project's version; the lowest first, ties by id.

        Tasks without one are left out. Only a listing that filters or orders by the score carries it.
        """
        listed = self._pages(TASKS_A_PAGE, [HAS_SCORE], include="id,predictions_score")
        found = {raw["id"]: raw["predictions_score"] for raw in listed}
        return dict(sorted(found.items(), key=lambda pair: (pair[1], pair[0])))

    def first_unlabelled(self, count: int) -> list[tuple[int, float]]:
        """The `count` tasks without an annotation that have the lowest scores, with them; TASKS_A_PAGE at most."""
        order, chosen = ["tasks:predictions_score"], {"include": "id,predictions_score"}
        tasks = self._listed(min(count, TASKS_A_PAGE), [HAS_SCORE, NO_ANNOTATION], order, **chosen)
        return [(raw["id"], raw["predictions_score"]) for raw in tasks[:count]]  # no page is empty

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
        for chunk in _chunks(entries, len, a_call or predictions_a_call(len(waiting))):
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
        interface = LabelInterface(self.label_config)
        for prediction in predictions:
            if int(prediction.key) not in waiting:
                continue
            regions = to_regions(prediction, classes, self.config, shown)
            entry = {"model_version": version, "score": score_of(prediction), "result": regions}
            wrong = interface.validate_prediction(entry, return_errors=True)
            if wrong:
                raise ProjectError(f"the prediction of task {prediction.key} does not fit the project: {wrong[0]}")
            yield json.dumps({"task": int(prediction.key)} | entry)

    def without_cluster(self, version: str) -> Iterator[tuple[int, int]]:
        """(task, prediction) of each prediction of `version` that has no cluster; the server sends them whole."""
        for raw in self._pages(ANNOTATED_A_PAGE, [_has_version(version)], fields="all", include="id,predictions"):
            for found in raw["predictions"]:
                if found["model_version"] == version and found["cluster"] is None:
                    yield raw["id"], found["id"]

    def set_cluster(self, prediction_id: int, cluster: int) -> None:
        """The number of the group of tasks that a prediction belongs to, in the eyes of next task."""
        call(self.client, "PATCH", f"api/predictions/{prediction_id}/", json={"cluster": cluster})

    def connection(self) -> dict[str, Any]:
        """The project's connection to this backend: id, url, title, extra_params and more.

        Raises:
            ProjectError: there is none, or several and none is titled as ours are.
        """
        rows = self.connections()
        ours = rows if len(rows) == 1 else titled_tsp(rows)
        if len(ours) != 1:
            raise ProjectError(
                f"project {self.project_id} has {len(rows)} model connections, {len(ours)} with a title that begins "
                "with TSP; connect this backend once, under Settings > Model, titled TSP"
            )
        return ours[0]

    def connections(self) -> list[dict[str, Any]]:
        """All of the project's connections, to this backend and to others."""
        return call(self.client, "GET", "api/ml/", params={"project": self.project_id})

    def extra_params(self) -> dict[str, Any]:
        """The connection's extra_params: settings for this project only."""
        return read_extra_params(self.connection().get("extra_params"))

    def switch(self, version: str) -> None:
        """From now on `version` orders the tasks: the connection takes it as title, the project follows.

        A renamed connection carries the project's model_version with it, so next task, score column and live
        predictions all use it. Predictions of `version` must be there already.

        Raises:
            ProjectError: the project does not follow.
        """
        self.change_connection(self.connection(), title=version)
        self._order_by(version)

    def forget(self, version: str, active: str | None) -> None:
        """Delete the predictions of `version`, which orders no tasks any more, and let `active` order them still.

        Label Studio takes the project's version away with those of any version, if it is the connection's title.
        """
        path = f"api/projects/{self.project_id}/model-versions/"
        call(self.client, "DELETE", path, json={"model_version": version}, timeout=IMPORT_SECONDS)
        if active is not None:
            self._order_by(active)

    def doubled(self, version: str) -> int:
        """How many predictions of `version` there are more than tasks that have one; two small calls."""
        counts = call(self.client, "GET", f"api/projects/{self.project_id}/model-versions/")
        query = json.dumps({"filters": {"conjunction": "and", "items": [_has_version(version)]}})
        parameters = {"project": self.project_id, "page_size": 1, "query": query, "include": "id"}
        return counts.get(version, 0) - call(self.client, "GET", "api/tasks/", params=parameters)["total"]

    def remove_doubled(self, version: str) -> int:
        """Delete all but the oldest prediction of `version` of each task; of how many tasks there were more.

        There are some when a worker was killed in a call that the server went on with.
        """
        if not self.doubled(version):
            return 0
        doubled = 0
        for raw in self._pages(ANNOTATED_A_PAGE, [_has_version(version)], fields="all", include="id,predictions"):
            ids = sorted(found["id"] for found in raw["predictions"] if found["model_version"] == version)
            doubled += len(ids) > 1
            for spare in ids[1:]:
                call(self.client, "DELETE", f"api/predictions/{spare}/")
        return doubled

    def _order_by(self, version: str) -> None:
        if self.values()["model_version"] != version:
            call(self.client, "PATCH", f"api/projects/{self.project_id}", json={"model_version": version})
        found = self.values()["model_version"]
        if found != version:
            raise ProjectError(f"project {self.project_id} stays at version {found!r} instead of {version!r}")

    def point_connection(self, url: str) -> None:
        """Let the connection lead to `url`, where the backend answers now."""
        row = self.connection()
        if row["url"].rstrip("/") != url.rstrip("/"):
            self.change_connection(row, url=url)

    def change_connection(self, row: Mapping[str, Any], **changes: Any) -> None:
        """PATCH the connection `row`; Label Studio refuses a change that does not repeat these values."""
        values = {"url": row["url"], "project": self.project_id, "title": row["title"]}
        if row.get("auth_method") == "BASIC_AUTH":  # an empty password keeps the one that is stored
            values |= {"auth_method": "BASIC_AUTH", "basic_auth_user": row["basic_auth_user"], "basic_auth_pass": ""}
        call(self.client, "PATCH", f"api/ml/{row['id']}", json=values | changes)

    def start_training(self) -> None:
        """What the button "Start training" does."""
        call(self.client, "POST", f"api/ml/{self.connection()['id']}/train", json={}, timeout=120)

    def next_task(self) -> int | None:
        """The task that the server opens next for this user, who then holds its lock for a day; None: none left."""
        try:
            return call(self.client, "GET", f"api/projects/{self.project_id}/next", attempts=1)["id"]
        except ProjectError as error:
            if error.status != 404:
                raise
        self.values()  # a project that is gone is 404 too, and not a finished one
        return None

    def upload_images(self, images: Mapping[str, Path]) -> dict[str, int]:
        """Upload image files and make a task of each, its name in the task's data; the task ids by name."""
        made: dict[str, int] = {}
        # Where Label Studio is served under a path, its addresses without a host begin with that path.
        root = urlsplit(base_url(self.client)).path
        for chunk in _chunks(images.items(), lambda image: image[1].stat().st_size, FILES_A_CALL):
            # The server renames files; fields of one name would overwrite each other.
            files = {str(i): (f"{i}{path.suffix}", path.read_bytes()) for i, (_, path) in enumerate(chunk)}
            form = {"commit_to_project": "false"}
            path = f"api/projects/{self.project_id}/import"
            uploaded = call(self.client, "POST", path, params=form, files=files, timeout=IMPORT_SECONDS)
            ids = uploaded["file_upload_ids"]
            listed = call(
                self.client, "GET", f"api/projects/{self.project_id}/file-uploads", params={"ids": json.dumps(ids)}
            )
            stored = {entry["id"]: entry["file"] for entry in listed}
            tasks = [
                {"data": {self.config.image_key: f"{root}data/{stored[number]}", "name": name}}
                for number, (name, _) in zip(ids, chunk, strict=True)
            ]
            done = call(
                self.client, "POST", path, params={"return_task_ids": "true"}, json=tasks, timeout=IMPORT_SECONDS
            )
            made |= dict(zip((name for name, _ in chunk), done["task_ids"], strict=True))
        return made

    def submit_annotation(self, task_id: int, regions: Sequence[Mapping[str, Any]], cancelled: bool = False) -> int:
        """Submit an annotation as an annotator would (no regions: an image without objects); its id."""
        values = {"result": list(regions), "was_cancelled": cancelled}
        return call(self.client, "POST", f"api/tasks/{task_id}/annotations/", json=values)["id"]

    def values(self) -> dict[str, Any]:
        """The project as the server has it now. ProjectError, status 404, if it is gone."""
        try:
            return call(self.client, "GET", f"api/projects/{self.project_id}/")
        except ProjectError as error:
            if error.status == 404:
                raise ProjectError(f"Label Studio has no project {self.project_id} for this token", 404) from None
            raise

    def _image_url(self, raw: Mapping[str, Any]) -> str:
        return str(raw["data"].get(self.config.image_key) or "")

    def _annotated(self) -> Iterator[tuple[dict[str, Any], Mapping[str, Any] | None]]:
        for raw in self._pages(ANNOTATED_A_PAGE, [HAS_ANNOTATION], fields="all", omit="predictions"):
            yield raw, training_annotation(raw["annotations"])

    def _pages(self, size: int, filters: Sequence[Mapping[str, Any]] = (), **chosen: str) -> Iterator[dict[str, Any]]:
        """The project's tasks in the order of their ids, a page in memory at a time.

        `chosen` says what of each: `include` names the fields of a task; it would also thin out what is nested, so
        annotations come with `fields="all"`, and `omit` keeps the predictions of every version out.

        A page begins after the last id seen, not at a number: page numbers would give a task twice, or pass one
        over, when an annotation or a deletion in the meantime moves the rest of a filtered list.
        """
        last = 0
        while True:
            after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            tasks = self._listed(size, [*filters, after], ["tasks:id"], **chosen)
            yield from tasks
            if len(tasks) < size:
                return
            last = tasks[-1]["id"]

    def _listed(
        self, size: int, filters: Sequence[Mapping[str, Any]], ordering: Sequence[str], **chosen: str
    ) -> list[dict[str, Any]]:
        """The first `size` tasks in this order."""
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ordering}
        parameters = {
            "project": self.project_id,
            "page_size": size,
            "query": json.dumps(query),
            # Resolved, an object of a bucket has the address by which browsers know Label Studio
            # (LABEL_STUDIO_HOST), which need not lead there from here; see backend.images.
            "resolve_uri": "false",
            **chosen,
        }
        return call(self.client, "GET", "api/tasks/", params=parameters, timeout=300)["tasks"]

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
            stored = entry_of.keys() & self._ids(_has_version(version))
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
            self.client,
            "POST",
            f"api/projects/{self.project_id}/import/predictions",
            content="[" + ",".join(entries) + "]",
            headers={"Content-Type": "application/json"},
            timeout=IMPORT_SECONDS + RECOUNT_SECONDS * self.task_count,
        )["created"]

    def _lacking(self, version: str) -> set[int]:
        """Tasks without a prediction of `version`."""
        return self._ids(_lacks_version(version))

    def _ids(self, wanted: Mapping[str, Any]) -> set[int]:
        """The tasks that a filter lets through."""
        return {raw["id"] for raw in self._pages(TASKS_A_PAGE, [wanted], include="id")}


def predictions_a_call(predictions: int, least: int = PREDICTIONS_A_CALL) -> int:
    """So many that all of them take CALLS calls, whose cost grows with the project; `least` of them at least."""
    return max(least, ceil(predictions / CALLS))


def titled_tsp(connections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are titled as ours are: TSP at first, later by the version."""
    return [row for row in connections if row["title"].lower().startswith("tsp")]


def _name(raw: Mapping[str, Any]) -> str:
    name = raw["data"].get(NAME)
    return name if isinstance(name, str) else ""


def _has_version(version: str) -> dict[str, Any]:
    return _lacks_version(version) | {"operator": "contains"}


def _lacks_version(version: str) -> dict[str, Any]:
    return {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": "not_contains",
        "type": "List",
        "value": [version],  # a bare text would be taken letter by letter
    }


def _chunks(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in groups that one call can carry: at most `most`, and BYTES_A_CALL unless one alone is larger."""
    chunk: list[T] = []
    total = 0
    for item in items:
        size = size_of(item)
        if chunk and (len(chunk) == most or total + size > BYTES_A_CALL):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += size
    if chunk:
        yield chunk
