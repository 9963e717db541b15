"""One Label Studio project through its API: annotations out, images in, version and order set.

Its tasks as the server lists them are backend.listing's, its predictions backend.project_predictions'. The calls that
the SDK lacks or that answer differently from its types go through `backend.connection.call`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from label_studio_sdk import LabelStudio

from backend.annotations import instances_of, training_annotation
from backend.connection import IMPORT_SECONDS, ProjectError, base_url, call, chunks
from backend.label_config import parse_label_config
from backend.listing import (
    HAS_ANNOTATION,
    HAS_SCORE,
    NO_ANNOTATION,
    TASKS_A_PAGE,
    TaskListing,
)
from backend.project_predictions import ProjectPredictions
from backend.project_settings import read_extra_params
from backend.regions import RLE
from backend.versions import project_key

NAME = "name"  # of the image, in the data of a task that `upload_images` made
FILES_A_CALL = 50  # Django refuses more than 100 files in one form


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
        listing: its tasks as the server lists them. predictions: those of our versions, as the server has them.

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
        self.listing = TaskListing(client, project_id)
        self.predictions = ProjectPredictions(self.listing, self.label_config, self.config, self.task_count)

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
        for raw in self.listing.pages(include="id,data,total_annotations"):
            if not raw["total_annotations"]:
                yield Task(raw["id"], self._image_url(raw), name=_name(raw))

    def annotated_task_ids(self) -> set[int]:
        """Tasks with an annotation that was submitted and not skipped."""
        return self.listing.ids(HAS_ANNOTATION)

    def task_ids_by_name(self) -> dict[str, int]:
        """The task of each image that `upload_images` imported, by its name."""
        listed = self.listing.pages(include="id,data")
        return {name: raw["id"] for raw in listed if (name := _name(raw))}

    def scores(self) -> dict[int, float]:
        """Label Studio's own prediction score of each task, of the project's version; the lowest first, ties by id.

        Tasks without one are left out. Only a listing that filters or orders by the score carries it.
        """
        listed = self.listing.pages([HAS_SCORE], include="id,predictions_score")
        found = {raw["id"]: raw["predictions_score"] for raw in listed}
        return dict(sorted(found.items(), key=lambda pair: (pair[1], pair[0])))

    def first_unlabelled(self, count: int) -> list[tuple[int, float]]:
        """The `count` tasks without an annotation that have the lowest scores, with them; TASKS_A_PAGE at most."""
        order, chosen = ["tasks:predictions_score"], {"include": "id,predictions_score"}
        tasks = self.listing.first(min(count, TASKS_A_PAGE), [HAS_SCORE, NO_ANNOTATION], order, **chosen)
        return [(raw["id"], raw["predictions_score"]) for raw in tasks[:count]]  # no page is empty

    def connection(self) -> dict[str, Any]:
        """The project's connection to this backend: id, url, title, extra_params and more.

        Raises:
            ProjectError: there is none, or several and none is titled as ours are.
        """
        rows = self.connections()
        ours = ours_among(rows)
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
        self.predictions.remove(version)
        if active is not None:
            self._order_by(active)

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
        for chunk in chunks(images.items(), lambda image: image[1].stat().st_size, FILES_A_CALL):
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
        for raw in self.listing.pages([HAS_ANNOTATION], fields="all", omit="predictions"):
            yield raw, training_annotation(raw["annotations"])


def lost_title(found: Mapping[str, Any], connections: Iterable[dict[str, Any]], active: str | None) -> bool:
    """Whether the project `found` is ordered by the `active` version and the one connection titled as ours are names
    another.

    Label Studio tries the backend whenever somebody reads a connection or opens a task, and then writes the whole
    connection back as it had read it (label_studio/ml/models.py, update_state). Done while a version takes over, that
    brings the old title back, and tasks that are imported later get no live prediction.
    """
    titles = [row["title"] for row in titled_tsp(connections)]
    return active is not None and found["model_version"] == active and len(titles) == 1 and titles != [active]


def ours_among(connections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The only one of a project's connections, else those that are titled as ours are."""
    return list(connections) if len(connections) == 1 else titled_tsp(connections)


def titled_tsp(connections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are titled as ours are: TSP at first, later by the version."""
    return [row for row in connections if row["title"].lower().startswith("tsp")]


def _name(raw: Mapping[str, Any]) -> str:
    name = raw["data"].get(NAME)
    return name if isinstance(name, str) else ""
