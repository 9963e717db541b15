"""What Label Studio's webhooks mean: which job an action wakes. Cheap, because an annotator waits for the
answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.jobs import Jobs
from backend.project_settings import for_project, remembered_extra_params
from backend.settings import ServiceSettings
from backend.versions import project_key
from tsp_model.errors import ExplainedError
from tsp_model.settings import SettingsError

TRAIN = ("START_TRAINING",)
CHECK = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")
# A task whose annotation is deleted is back in the pool, possibly without a score.
SCORE = ("TASKS_CREATED", "ANNOTATIONS_DELETED")


class EventError(ExplainedError, ValueError):
    """A webhook that cannot be understood; the message is one line."""


@dataclass(frozen=True)
class Outcome:
    """What an event led to: the id of the job it woke, or the reason why it woke none."""

    job_id: str | None
    reason: str = ""


def key_of(project: Any) -> str:
    """The project key from the `project` of a webhook; EventError where it lacks id or created_at."""
    try:
        if type(project["id"]) is int and project["id"] > 0 and isinstance(project["created_at"], str):
            return project_key(project["id"], project["created_at"])
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise EventError("the event names no project (id and created_at); let the webhook send its payload.")


def handle(action: str, payload: Mapping[str, Any], jobs: Jobs, service: ServiceSettings) -> Outcome:
    """Wake the job that `action` asks for.

    Args:
        action: Label Studio's name of the event.
        payload: the webhook's JSON; only its `project` is read, since a job asks Label Studio for the rest.
        jobs: where jobs are asked for.
        service: the environment's settings.
    Raises:
        EventError: the event concerns training or scoring but does not say of which project.
    """
    if action in TRAIN:
        return Outcome(jobs.request("train", key_of(payload.get("project"))))
    if action in CHECK:
        return check(key_of(payload.get("project")), jobs, service)
    if action in SCORE:
        return Outcome(jobs.request("score", key_of(payload.get("project"))))
    return Outcome(None, f"{action} wakes nothing.")


def check(key: str, jobs: Jobs, service: ServiceSettings) -> Outcome:
    """Wake the job that looks whether there is enough new to train on, where the project wants one."""
    try:
        train_after = for_project(service, remembered_extra_params(service.model_dir, key)).train_after
    except SettingsError as error:
        return Outcome(None, str(error))
    if not train_after:
        return Outcome(None, "annotation events start no training in this project (train_after is 0).")
    return Outcome(jobs.request("check", key))
