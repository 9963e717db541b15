"""The whole loop as a team runs it that outgrew one machine: Label Studio and the jobs on PostgreSQL, two web services
and two workers, which share nothing but MODEL_DIR and the database."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from label_studio_sdk import LabelStudio

from scripts.backend_process import BackendProcess
from scripts.connect import connect_project
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from tests.live import CURIOUS_ENVIRONMENT, QUICK, Loop, filled_project, regions, until
from tests.postgres import NO_POSTGRES, USER, postgres, program
from tsp_model.data.image_set import ImageSet

LABELLED = 3
# Long enough to be killed in the midst of it, short enough to wait for.
METHOD = QUICK | CURIOUS_ENVIRONMENT | {"TSP_EPOCHS": "40", "TSP_TRAIN_AFTER": "0", "TSP_PROCESSES": "2"}


@dataclass(frozen=True)
class Stack:
    """Attributes:

    client: of Label Studio. webs, workers: of the backend, each in a folder of its own but for the models.
    """

    client: LabelStudio
    webs: list[BackendProcess]
    workers: list[BackendProcess]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    if program("postgres") is None:
        pytest.skip(NO_POSTGRES)
    with ExitStack() as running:
        database = running.enter_context(postgres())
        database.make("studio")
        place = {"POSTGRE_USER": USER, "POSTGRE_PASSWORD": database.password, "POSTGRE_NAME": "studio"}
        place |= {"POSTGRE_HOST": "127.0.0.1", "POSTGRE_PORT": str(database.port), "DJANGO_DB": "default"}
        studio = running.enter_context(LabelStudioServer(tmp_path / "studio", **place))
        shared = {"MODEL_DIR": str(tmp_path / "models"), "TSP_DATABASE_URL": database.url("jobs")}
        parts = [
            BackendProcess(tmp_path / f"{part}{n}", free_port(), studio.url, studio.api_key, part, **shared, **METHOD)
            for part in ("web", "worker")
            for n in (1, 2)
        ]
        for one in parts:
            running.enter_context(one)
        yield Stack(LabelStudio(base_url=studio.url, api_key=studio.api_key), parts[:2], parts[2:])
        assert database.password not in "".join(one.log.read_text() for one in parts)


@pytest.mark.slow
def test_the_loop_goes_on_when_a_worker_dies_and_both_web_services_serve_its_version(
    stack: Stack, images: ImageSet
) -> None:
    project, tasks = filled_project(stack.client, images)
    connect_project(project, stack.webs[0].url, say=lambda line: None)
    first, second = (Loop(project, web) for web in stack.webs)
    until(lambda: requests.get(second.backend.url + "/health", timeout=30).json().get("workers") == 2, "both workers")
    for task, item in zip(tasks[:LABELLED], images.items, strict=False):
        project.submit_annotation(task, regions(project, item))
    project.start_training()
    job_id = first.status(project=project.key)["job_id"]

    until(lambda: (second.status(job_id=job_id) or {}).get("epoch"), "an epoch")
    (killed,) = [one for one in stack.workers if f"{job_id}: train" in one.log.read_text()]
    (other,) = [one for one in stack.workers if one is not killed]
    os.killpg(killed.process_group, signal.SIGKILL)
    version = second.ended("train", 1)["version"]

    assert f"{job_id}: pull" in killed.log.read_text() and f"{job_id}: pull" not in other.log.read_text()
    assert first.setup() == second.setup() == version
    assert set(project.scores()) == set(tasks[LABELLED:])
    assert project.next_task() == next(iter(project.scores()))
    answers = [loop.predict(tasks[LABELLED:]) for loop in (first, second)]
    assert answers[0] == answers[1] and answers[0]["model_version"] == version
    assert requests.get(first.backend.url + "/health", timeout=30).json()["workers"] == 1
