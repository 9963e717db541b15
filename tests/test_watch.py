"""What a webhook did not tell is found by looking, on the real server."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk import LabelStudio

from backend import settings, worker_notes
from backend import watch as backend_watch
from backend.connection import ProjectError, call
from backend.progress import Progress
from backend.project import LabelStudioProject, lost_title
from backend.project_settings import remember_extra_params
from backend.settings import ServiceSettings
from backend.steps import CycleSteps
from backend.task_order import view_of
from backend.versions import Versions
from backend.watch import Watch
from scripts.label_studio import LabelStudioServer
from tests.builders import new_version
from tests.live import NEW, OLD, connect_backend, filled_project, open_task, push, regions
from tests.web import Server
from tsp_model.data.image_set import ImageSet


class Jobs:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.failed: tuple[str, ...] = ()
        self.again = False

    def request(self, kind: str, key: str) -> str:
        self.asked.append((kind, key))
        return f"{kind}-{key}-00001"

    def last(self, kind: str, key: str) -> str | None:
        return f"{kind}-{key}-00001" if (kind, key) in self.asked else None

    def status(self, job: str) -> dict:
        return {"status": "ERROR", "again": self.again} if job.startswith(self.failed) else {"status": "SUCCESS"}


@pytest.fixture
def service(label_studio: LabelStudioServer, tmp_path: Path) -> ServiceSettings:
    environ = {
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.api_key,
        "MODEL_DIR": str(tmp_path / "models"),
    }
    return settings.load(environ)


@pytest.fixture
def watched(
    client: LabelStudio, images: ImageSet, service: ServiceSettings, backend: Server
) -> tuple[LabelStudioProject, list[int]]:
    """A project that was connected once: its /setup came."""
    project, tasks = filled_project(client, images)
    connect_backend(project, backend.url)
    remember_extra_params(service.model_dir, project.key, None)
    return project, tasks


def test_each_change_of_tasks_and_annotations_is_seen_once_and_nothing_else_is(
    watched: tuple[LabelStudioProject, list[int]], images: ImageSet, service: ServiceSettings
) -> None:
    project, tasks = watched
    jobs = Jobs()
    watch = Watch(service, jobs)
    both = [f"check-{project.key}-00001", f"score-{project.key}-00001"]
    assert watch.look() == both, "at the start nothing is known"
    assert watch.look() == []
    made = project.submit_annotation(tasks[0], regions(project, images.items[0]))
    assert watch.look() == both and watch.look() == []
    call(project.client, "PATCH", f"api/annotations/{made}/", json={"result": []})
    assert watch.look() == both and watch.look() == []
    call(project.client, "DELETE", f"api/annotations/{made}/")
    assert watch.look() == both and watch.look() == []
    project.upload_images({"later": images.items[0].path})
    assert watch.look() == both and watch.look() == []
    call(project.client, "DELETE", f"api/tasks/{tasks[1]}/")
    assert watch.look() == both and watch.look() == []
    push(project, {tasks[2]: 0.5})
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": OLD})
    open_task(project, tasks[2])
    project.next_task()
    assert watch.look() == [], "what the backend does itself, and reading, wakes nothing"


def test_what_retrieve_predictions_stored_beside_the_workers_is_seen(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    project, tasks = watched
    version = new_version(service.model_dir, project.key)
    push(project, dict.fromkeys(tasks, 0.5), version)
    watch = Watch(service, Jobs())
    assert watch.look() and watch.look() == []
    for task in tasks[:2]:
        body = {"task": task, "model_version": version, "score": 0.5, "result": []}
        call(project.client, "POST", "api/predictions/", json=body)
    assert project.predictions.doubled(version) == 2
    assert f"score-{project.key}-00001" in watch.look()
    assert project.predictions.remove_doubled(version) == 2 and project.predictions.doubled(version) == 0
    assert project.predictions.remove_doubled(version) == 0


def test_who_orders_the_tasks_is_noted_when_somebody_changes_it_there(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    project, tasks = watched
    version = new_version(service.model_dir, project.key)
    versions = Versions(service.model_dir, project.key)
    push(project, dict.fromkeys(tasks, 0.5), version)
    watch = Watch(service, Jobs())
    watch.look()
    assert versions.order()["next_task"] == "not by score"
    project.change_connection(project.connection(), title=version)  # and the project's version with it
    assert watch.look() == [], "nothing to do"
    assert versions.order()["next_task"] == "lowest score first"
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"sampling": "Sequential sampling"})
    watch.look()
    assert "choose" in versions.order()["why"]


def test_a_title_that_a_reader_took_back_is_given_again_by_a_job(
    watched: tuple[LabelStudioProject, list[int]],
    service: ServiceSettings,
    backend: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project, tasks = watched
    version = new_version(service.model_dir, project.key)
    push(project, dict.fromkeys(tasks, 0.5), version)
    watch = Watch(service, Jobs())
    watch.look()
    connection = project.connection()
    answer, tried, go_on = backend.pages["/setup"], threading.Event(), threading.Event()

    def slow_once(request: Any) -> Any:
        backend.pages["/setup"] = answer
        tried.set()
        go_on.wait(60)
        return answer(request)

    backend.pages["/setup"] = slow_once
    with ThreadPoolExecutor() as readers:
        reader = readers.submit(project.connection)
        assert tried.wait(60)
        project.change_connection(connection, title=version)
        go_on.set()
        reader.result()
    assert project.connection()["title"] == "TSP", "Label Studio wrote it back as the reader had read it"
    assert project.values()["model_version"] == version
    job_id = f"score-{project.key}-00001"
    assert job_id in watch.look()
    steps = CycleSteps(service)
    monkeypatch.setattr(steps, "catch_up", lambda *_: {"scored": 0})  # it has nothing to do here
    assert steps.score_new(project.key, Progress(service.model_dir, job_id)) == {"scored": 0}
    assert project.connection()["title"] == version
    assert project.values()["model_version"] == version
    assert watch.look() == []


@pytest.mark.parametrize(
    ("titles", "shown", "active", "lost"),
    [
        ([OLD], NEW, NEW, True),
        (["TSP", "a tracker"], NEW, NEW, True),
        ([NEW], NEW, NEW, False),
        (["TSP"], "TSP", None, False),
        (["by hand"], "by hand", NEW, False),  # Label Studio takes the project's version along
        (["a tracker"], NEW, NEW, False),
        ([OLD], OLD, NEW, False),  # a switch in its midst
        ([OLD, "TSP of somebody else"], NEW, NEW, False),
        ([], NEW, NEW, False),
    ],
)
def test_only_a_connection_of_ours_that_names_another_version_than_the_project_has_lost_its_title(
    titles: list[str], shown: str, active: str | None, lost: bool
) -> None:
    assert lost_title({"model_version": shown}, [{"title": title} for title in titles], active) is lost


def test_a_training_that_waited_too_long_for_label_studio_is_asked_for_again(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    project, _ = watched
    jobs = Jobs()
    jobs.request("train", project.key)
    watch = Watch(service, jobs)
    jobs.failed, jobs.again = ("train",), False
    assert f"train-{project.key}-00001" not in [*watch.look(), *watch.look(), *watch.look()]
    jobs.again = True
    assert any(f"train-{project.key}-00001" in watch.look() for _ in range(5))


def test_a_project_that_is_connected_no_more_is_left_alone(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    project, _ = watched
    watch = Watch(service, Jobs())
    assert watch.look()
    call(project.client, "DELETE", f"api/ml/{project.connection()['id']}")
    view = view_of(project)
    call(project.client, "DELETE", f"api/dm/views/{view['id']}/")
    project.upload_images({"later": Path(__file__).parent.parent / ".github" / "images" / "task.png"})
    assert watch.look() == Watch(service, Jobs()).look() == [] and view_of(project) is None


def test_where_annotations_start_no_training_only_new_tasks_are_scored(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    project, _ = watched
    remember_extra_params(service.model_dir, project.key, {"train_after": 0})
    assert Watch(service, Jobs()).look() == [f"score-{project.key}-00001"]


def test_a_project_that_is_gone_or_another_of_its_number_wakes_nothing(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings, caplog: pytest.LogCaptureFixture
) -> None:
    project, _ = watched
    remember_extra_params(service.model_dir, f"{project.project_id}.1600000000", None)
    assert {job.split("-")[1] for job in Watch(service, Jobs()).look()} == {project.key}
    call(project.client, "DELETE", f"api/projects/{project.project_id}/")
    watch = Watch(service, Jobs())
    with caplog.at_level(logging.INFO):
        assert watch.look() == watch.look() == []
    said = [line for line in caplog.messages if str(service.model_dir / project.key) in line]
    assert len(said) == 1 and "is gone" in said[0]
    assert "may not see it" in worker_notes.noted(service.model_dir)["not_looked_at"][project.key]


def test_a_failed_job_is_tried_again_less_and_less_often(
    watched: tuple[LabelStudioProject, list[int]], service: ServiceSettings
) -> None:
    jobs = Jobs()
    watch = Watch(service, jobs)
    assert watch.look()
    jobs.failed = ("score",)
    assert [bool(watch.look()) for _ in range(8)] == [True, False, True, False, False, True, False, False]
    jobs.failed = ()
    assert not any(watch.look() for _ in range(8))


def test_one_project_that_cannot_be_read_does_not_hide_the_others(
    watched: tuple[LabelStudioProject, list[int]],
    service: ServiceSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    project, _ = watched
    remember_extra_params(service.model_dir, "1.1600000000", None)
    original = backend_watch.state_of

    def refused(client: LabelStudio, versions: Versions) -> object:
        if versions.key == "1.1600000000":
            raise ProjectError("Label Studio answered 500", 500)
        return original(client, versions)

    monkeypatch.setattr(backend_watch, "state_of", refused)
    assert {job.split("-")[1] for job in Watch(service, Jobs()).look()} == {project.key}
    assert "answered 500" in caplog.text
    assert worker_notes.noted(service.model_dir)["not_looked_at"] == {"1.1600000000": "Label Studio answered 500"}


def test_a_server_that_is_away_is_said_once_and_missed_changes_are_found_afterwards(
    watched: tuple[LabelStudioProject, list[int]],
    images: ImageSet,
    service: ServiceSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    project, tasks = watched
    watch = Watch(service, Jobs())
    assert watch.look()
    watch._service = replace(service, label_studio_url="http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        assert watch.look() == watch.look() == []
    assert len(caplog.records) == 1 and "no Label Studio answers" in caplog.text
    assert "no Label Studio answers" in worker_notes.noted(service.model_dir)["label_studio"] and not watch.reached
    project.submit_annotation(tasks[0], regions(project, images.items[0]))
    watch._service = service
    assert watch.look() == [f"check-{project.key}-00001", f"score-{project.key}-00001"]
    noted = {"label_studio": worker_notes.REACHED, "not_looked_at": {}}
    assert worker_notes.noted(service.model_dir) == noted and watch.reached
