"""The worker's look at Label Studio: what webhooks did not tell costs time, and is not lost.

Label Studio sends a webhook once, waits a second at most, and never again. So at its start and every few minutes the
worker asks each project that was ever connected whether tasks or annotations changed, which is a few small calls, and
wakes the jobs that a webhook would have woken.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from label_studio_sdk import LabelStudio

from backend import worker_notes
from backend.connection import ProjectError, connect
from backend.events import check
from backend.jobs import Jobs
from backend.progress import one_line
from backend.project import LabelStudioProject, lost_title
from backend.project_settings import for_project, remembered_extra_params
from backend.settings import ServiceSettings
from backend.task_order import settle
from backend.versions import Versions, project_keys, project_number
from tsp_model.errors import ExplainedError

logger = logging.getLogger(__name__)

NEWEST_FIRST = ["-tasks:updated_at"]


class Watch:
    """Remembers how each project was when it was looked at last; a new one has seen nothing yet.

    A project whose last job failed is woken again without a change, too, after 1, 2, 4 looks and so on: Label Studio
    may have been away for longer than a job waits. What came of each look is noted for /health, and so is, where it
    changed, who orders the tasks.

    Args:
        service: the environment's settings. jobs: where jobs are asked for.

    Attributes:
        reached: whether the last look found Label Studio.
    """

    def __init__(self, service: ServiceSettings, jobs: Jobs) -> None:
        self.reached = False
        self._service, self._jobs = service, jobs
        self._seen: dict[str, State] = {}
        self._waits: dict[str, tuple[int, int]] = {}  # looks until the next attempt, and after that one
        self._gone: set[str] = set()
        self._said: dict[str, str] = {}

    def look(self) -> list[str]:
        """Wake jobs of the projects that changed since the last look; the ids of those jobs. Never raises for a server
        that is not there: it says so once, and the next look finds what this one could not."""
        woken, troubles = [], {}
        self.reached = False
        try:
            client = connect(self._service.label_studio_url, self._service.label_studio_api_key)
        except ProjectError as error:
            self._say("", error)
            worker_notes.note(self._service.model_dir, label_studio=str(error), not_looked_at={})
            return woken
        self.reached = True
        self._said.pop("", None)
        for key in project_keys(self._service.model_dir):
            try:
                woken += self._look_at(client, key)
                self._said.pop(key, None)
                if key in self._gone:
                    troubles[key] = "it is gone, or this token may not see it"
            except Exception as error:  # of this project; the others are looked at all the same
                self._say(key, error)
                troubles[key] = one_line(error)
        worker_notes.note(self._service.model_dir, label_studio=worker_notes.REACHED, not_looked_at=troubles)
        return woken

    def _look_at(self, client: LabelStudio, key: str) -> list[str]:
        versions = Versions(self._service.model_dir, key)
        found = state_of(client, versions)
        if found is None:
            self._say_gone(key)
            return []
        self._gone.discard(key)
        if not found.connected:
            return []
        before = self._seen.get(key)
        if before is None or found.order != before.order:
            params = remembered_extra_params(self._service.model_dir, key)
            settle(found.project, versions, for_project(self._service, params).clusters)
        again = self._again(key)
        asked = []
        if before is None or found.work != before.work or again or found.lost_title:
            asked = [check(key, self._jobs, self._service).job_id, self._jobs.request("score", key)]
            if again == "train":
                asked.append(self._jobs.request("train", key))
        self._seen[key] = found
        return [job for job in asked if job]

    def _say_gone(self, key: str) -> None:
        if key not in self._gone:
            folder = self._service.model_dir / key
            unsure = "project %s is gone, or this token may not see it; if it is gone, %s may be deleted"
            logger.info(unsure, project_number(key), folder)
        self._gone.add(key)

    def _say(self, key: str, error: Exception) -> None:
        """Once, until it is another one or none."""
        if self._said.get(key) != str(error):
            about = f" of project {project_number(key)}" if key else ""
            unexpected = not isinstance(error, ExplainedError)
            logger.warning("cannot look for what changed%s in Label Studio: %s", about, error, exc_info=unexpected)
        self._said[key] = str(error)

    def _again(self, key: str) -> str | None:
        """The kind of job of the project that failed last, if it is time for another attempt. That is a training only
        where Label Studio was away for longer than it waits: what else it met it would meet again."""
        last = {kind: self._jobs.last(kind, key) for kind in ("train", "check", "score")}
        states = {kind: self._jobs.status(job) for kind, job in last.items() if job}
        failed = [
            kind
            for kind, state in states.items()
            if state and state["status"] == "ERROR" and not state.get("cancelled")
        ]
        if not failed:
            self._waits.pop(key, None)
            return None
        left, next_time = self._waits.get(key, (0, 1))
        self._waits[key] = (left - 1, next_time) if left else (next_time, 2 * next_time)
        if left:
            return None
        return "train" if "train" in failed and states["train"].get("again") else "check"


class State(NamedTuple):
    """Attributes:

    project: as it is now. connected: whether it has a connection to a backend, ours or not.
    work: changes with every task and annotation that is made, changed or deleted and where a task has a prediction of
        the active version too many; with neither other predictions nor a task that is opened.
    order: what decides who orders the tasks.
    lost_title: whether the connection does not name the version that orders them, which a score job mends.
    """

    project: LabelStudioProject
    connected: bool
    work: tuple[Any, ...]
    order: tuple[Any, ...]
    lost_title: bool


def state_of(client: LabelStudio, versions: Versions) -> State | None:
    """A project in a few small calls; None if it is gone. ProjectError, LabelConfigError as LabelStudioProject."""
    try:
        project = LabelStudioProject(client, versions.number)
    except ProjectError as error:
        if error.status == 404:
            return None
        raise
    if project.key != versions.key:
        return None
    values = project.found
    last = project.listing.first(1, [], NEWEST_FIRST, timeout=None, include="id,updated_at")
    newest = [task["updated_at"] for task in last]
    active = versions.active()
    # Label Studio stores what "Retrieve predictions" brought without looking whether the worker was quicker.
    doubled = project.predictions.doubled(active) if active else 0
    work = values["task_number"], values["total_annotations_number"], *newest, doubled
    order = values["sampling"], values["model_version"], active
    connections = project.connections()
    return State(project, bool(connections), work, order, lost_title(values, connections, active))
