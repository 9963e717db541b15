"""What the worker's steps share: a project of Label Studio, its versions and images here, scoring and pushing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.connection import connect
from backend.early import EarlySender
from backend.ordering import known_at_once, score_of, strategy_of
from backend.pool import Pool, Wanted
from backend.progress import Progress
from backend.project import LabelStudioProject, Task
from backend.project_predictions import predictions_a_call
from backend.project_settings import ProjectSettings, for_project
from backend.ranks import run_ranks
from backend.settings import ServiceSettings
from backend.versions import Versions, project_number
from backend.webhooks import authorise
from tsp_model.data.image_set import ImageSet
from tsp_model.errors import ExplainedError
from tsp_model.execution import Execution
from tsp_model.files import write_json, write_text
from tsp_model.prediction_pass import PREDICTIONS, complete_predictions, looked_at
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

LEAST_EARLY = 100  # predictions in a call while others are made


class JobError(ExplainedError, RuntimeError):
    """A job that cannot be done; the message is one line with cause and remedy."""


class ProjectWork:
    """The base of the worker's steps. A project is named by its key, a version by its name."""

    def __init__(self, service: ServiceSettings) -> None:
        self._service = service

    def _versions(self, key: str) -> Versions:
        return Versions(self._service.model_dir, key)

    def _project(self, key: str) -> LabelStudioProject:
        client = connect(self._service.label_studio_url, self._service.label_studio_api_key)
        project = LabelStudioProject(client, project_number(key))
        if project.key != key:
            raise JobError(f"project {project.project_id} is gone; Label Studio has a newer one under that number.")
        return project

    def _authorise(self, project: LabelStudioProject) -> dict[str, Any]:
        url = project.connection()["url"]
        found = authorise(project.client, project.project_id, url, *self._service.basic_auth)
        if found:
            write_text(self._versions(project.key).authorised_file, self._service.credentials_digest)
        message = "webhooks send user and password." if found else f"no webhook to {url} yet."
        return {"found": found, "message": message}

    def _pool(
        self,
        project: LabelStudioProject,
        tasks: Iterable[Task],
        job: Progress,
        wanted: Wanted = lambda task: True,
    ) -> Pool:
        """The `wanted` tasks' images, on this disk; which tasks are left out is kept for whoever asks."""
        versions = self._versions(project.key)
        pool = Pool(project, versions.root / "images", self._service.image_limits).read(tasks, job.update, wanted)
        write_json(versions.left_out_file, pool.skipped)
        return pool

    def _file(self, key: str, version: str) -> Path:
        return self._versions(key).folder(version) / PREDICTIONS

    def _score(self, key: str, version: str, pool: ImageSet, chosen: ProjectSettings, job: Progress) -> int:
        """Complete the predictions of `version` for `pool`, and begin to push them; how many were missing."""
        folder = self._versions(key).folder(version)
        card = self._versions(key).card(version)
        above = _seen(chosen, card)
        execution, features = Execution.choose(chosen.method), chosen.clusters > 0
        if chosen.push_top or not known_at_once(folder, strategy_of(card)):
            return complete_predictions(folder, pool, above, job.update, execution=execution, features=features)
        a_call = predictions_a_call(len(pool), LEAST_EARLY)

        def send(found: Iterable[Prediction]) -> None:
            project = self._project(key)  # as it is now: hours may have passed
            self._push(project, self._settings(project), version, found, a_call)

        with EarlySender(self._file(key, version), send, a_call) as sender:
            return complete_predictions(folder, pool, above, job.update, sender.on_disk, execution, features)

    def _score_by_ranks(self, key: str, version: str, pool: ImageSet, chosen: ProjectSettings, job: Progress) -> int:
        """As `_score` for the pool of the version's snapshot, by several processes, whose predictions come together in
        the end: `push` sends them."""
        work = {"part": "score", "key": key, "version": version, "features": chosen.clusters > 0}
        work |= {"above": _seen(chosen, self._versions(key).card(version))}
        run_ranks(self._service, work | {"method": chosen.method.to_dict()}, job.update)
        return len(pool)

    def _push(
        self,
        project: LabelStudioProject,
        chosen: ProjectSettings,
        version: str,
        predictions: Iterable[Prediction],
        a_call: int | None = None,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        versions = self._versions(project.key)
        classes, score = versions.card(version)["classes"], score_of(versions.folder(version))
        return project.predictions.push(predictions, version, classes, chosen.shown, a_call, score, report)

    def _settings(self, project: LabelStudioProject) -> ProjectSettings:
        """What the project's connection says now. Label Studio tries the backend each time it is asked: once a step
        will do."""
        return for_project(self._service, project.extra_params())


def _seen(chosen: ProjectSettings, card: Mapping[str, Any]) -> float:
    """The class score above which annotators, S or the pseudo labels look at a detection of this card's version."""
    return min(chosen.shown.threshold, looked_at(Settings.from_dict(card["settings"])))
