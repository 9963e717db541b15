"""The worker's look at Label Studio: what webhooks did not tell costs time, and is not lost.

Label Studio sends a webhook once, waits a second at most, and never again. So at its start and every few minutes the
worker asks each project that was ever connected whether tasks or annotations changed, which is two small calls, and
wakes the jobs that a webhook would have woken.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from label_studio_sdk import LabelStudio

from backend.connection import ProjectError, call, connect
from backend.events import check
from backend.jobs import Jobs
from backend.settings import ServiceSettings
from backend.versions import project_key, project_keys

logger = logging.getLogger(__name__)

NEWEST_FIRST = json.dumps({"ordering": ["-tasks:updated_at"]})


class Watch:
    """Remembers how each project was when it was looked at last; a new one has seen nothing yet.

    A project whose last job failed is woken again without a change, too, after 1, 2, 4 looks and so on: Label Studio
    may have been away for longer than a job waits.

    Args:
        service: the environment's settings. jobs: where jobs are asked for.
    """

    def __init__(self, service: ServiceSettings, jobs: Jobs) -> None:
        self._service, self._jobs = service, jobs
        self._seen: dict[str, Any] = {}
        self._waits: dict[str, tuple[int, int]] = {}  # looks until the next attempt, and after that one
        self._gone: set[str] = set()
        self._silent: str | None = None

    def look(self) -> list[str]:
        """Wake jobs of the projects that changed since the last look; the ids of those jobs. Never raises for a server
        that is not there: it says so once, and the next look finds what this one could not."""
        woken = []
        try:
            client = connect(self._service.label_studio_url, self._service.label_studio_api_key)
        except ProjectError as error:
            self._say(error)
            return woken
        silent = True
        for key in project_keys(self._service.model_dir):
            try:
                found = state_of(client, key)
            except ProjectError as error:  # of this project; the others are looked at all the same
                self._say(error)
                silent = False
                continue
            if found is None and key not in self._gone:
                self._gone.add(key)
                folder = self._service.model_dir / key
                logger.info("project %s is gone from Label Studio; %s is not needed any more", key, folder)
            if found is not None and (found != self._seen.get(key) or self._again(key)):
                asked = (check(key, self._jobs, self._service).job_id, self._jobs.request("score", key))
                woken += [job for job in asked if job]
                self._seen[key] = found
        if silent:
            self._silent = None
        return woken

    def _say(self, error: ProjectError) -> None:
        if str(error) != self._silent:
            logger.warning("cannot look for what changed in Label Studio: %s", error)
        self._silent = str(error)

    def _again(self, key: str) -> bool:
        """Whether a job of the project failed last and it is time for another attempt."""
        last = (self._jobs.last(kind, key) for kind in ("train", "check", "score"))
        states = (self._jobs.status(job) for job in last if job)
        if not any(state and state["status"] == "ERROR" for state in states):
            self._waits.pop(key, None)
            return False
        left, next_time = self._waits.get(key, (0, 1))
        self._waits[key] = (left - 1, next_time) if left else (next_time, 2 * next_time)
        return not left


def state_of(client: LabelStudio, key: str) -> tuple[Any, ...] | None:
    """What changes with every task and annotation of a project that is made, changed or deleted, and with neither
    predictions nor a task that is opened. None if the project is gone."""
    number = int(key.split(".")[0])
    try:
        project = call(client, "GET", f"api/projects/{number}/")
    except ProjectError as error:
        if error.status == 404:
            return None
        raise
    if project_key(project["id"], project["created_at"]) != key:
        return None
    query = {"project": number, "page_size": 1, "query": NEWEST_FIRST, "include": "id,updated_at"}
    newest = [task["updated_at"] for task in call(client, "GET", "api/tasks/", params=query)["tasks"]]
    return project["task_number"], project["total_annotations_number"], *newest
