"""backend.project against the real server: which version a project shows, and which task comes next."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_studio_sdk import LabelStudio

from backend.connection import ProjectError, call, connect
from backend.images import fetch_image
from scripts.label_studio import LabelStudioServer
from tests.live import (
    NEW,
    OLD,
    connect_backend,
    filled_project,
    new_project,
    project_values,
    push,
)
from tests.web import Server
from tsp_model.data.image_set import ImageSet


def test_a_connected_project_follows_the_switch_and_serves_the_lowest_score_next(
    client: LabelStudio, images: ImageSet, backend: Server
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:6]))
    connect_backend(project, backend.url)
    # The old order would be the tasks' own; the new one is neither that nor its reverse.
    push(project, {task: 0.1 * index for index, task in enumerate(tasks)})
    backend.answers = OLD
    project.switch(OLD)
    new = dict(zip(tasks, (0.61, 0.05, 0.93, 0.3, 0.07, 0.31), strict=True))
    push(project, new, NEW)
    assert project.scores() == pytest.approx({task: 0.1 * index for index, task in enumerate(tasks)})
    backend.answers = NEW
    project.switch(NEW)
    assert project_values(project)["model_version"] == project.connection()["title"] == NEW
    assert project.scores() == pytest.approx(new)
    in_order = sorted(new, key=new.get)
    assert list(project.scores()) == in_order and project.first_unlabelled(0) == []
    served = []
    while (task := project.next_task()) is not None:
        left = [(one, pytest.approx(new[one])) for one in in_order if one not in served]
        assert project.first_unlabelled(2) == left[:2] and project.first_unlabelled(5000) == left
        served.append(task)
        project.submit_annotation(task, [])
        assert len(served) <= len(tasks)
    assert served == in_order and project.first_unlabelled(2) == []


def test_tasks_without_a_prediction_of_the_version_have_no_score(
    client: LabelStudio, images: ImageSet, backend: Server
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    connect_backend(project, backend.url)
    push(project, dict.fromkeys(tasks, 0.5))
    push(project, {tasks[1]: 0.25}, NEW)
    project.switch(NEW)
    assert project.scores() == {tasks[1]: 0.25}
    assert project.next_task() == tasks[1]


def test_a_version_chosen_by_hand_does_not_stop_the_next_switch(
    client: LabelStudio, images: ImageSet, backend: Server
) -> None:
    """Then the project does not follow the title by itself."""
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    connect_backend(project, backend.url)
    push(project, dict.fromkeys(tasks, 0.5))
    call(client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": OLD})
    push(project, dict.fromkeys(tasks, 0.4), NEW)
    project.switch(NEW)
    assert project_values(project)["model_version"] == NEW


def test_a_switch_keeps_the_password_that_the_connection_sends(
    client: LabelStudio, images: ImageSet, backend: Server
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:1]))
    connect_backend(project, backend.url, auth_method="BASIC_AUTH", basic_auth_user="ann", basic_auth_pass="secret")
    push(project, {tasks[0]: 0.5})
    backend.asked.clear()
    project.switch(OLD)
    sent = [request.headers.get("Authorization") for request in backend.asked]
    assert sent and set(sent) == {"Basic YW5uOnNlY3JldA=="}
    assert project.connection()["auth_method"] == "BASIC_AUTH"


def test_extra_params_come_back_as_they_were_given(client: LabelStudio, backend: Server) -> None:
    project = new_project(client)
    connect_backend(project, backend.url, extra_params={"epochs": 3, "ssl": False})
    assert project.extra_params() == {"epochs": 3, "ssl": False}


def test_ours_among_several_connections_is_the_one_titled_so(client: LabelStudio, backend: Server) -> None:
    project = new_project(client)
    with pytest.raises(ProjectError, match="has 0 model connections"):
        project.connection()
    other = Server()
    other.pages = backend.pages
    try:
        connect_backend(project, other.url, title="somebody else's")
        mine = connect_backend(project, backend.url, title="Tsp of ours")
        assert project.connection()["id"] == mine["id"]
        call(client, "DELETE", f"api/ml/{mine['id']}")
        assert project.connection()["title"] == "somebody else's", "a lone one may have any title"
    finally:
        other.close()


def test_next_task_is_none_when_all_is_done(client: LabelStudio, images: ImageSet) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:1]))
    assert project.next_task() == tasks[0]
    project.submit_annotation(tasks[0], [])
    assert project.next_task() is None


def test_a_personal_access_token_serves_like_a_legacy_one(
    label_studio: LabelStudioServer, personal_token: str, images: ImageSet, tmp_path: Path
) -> None:
    personal = connect(label_studio.url, personal_token)
    project, tasks = filled_project(personal, images.subset(images.keys[:1]))
    (task,) = project.tasks()
    assert task.id == tasks[0]
    assert fetch_image(task.image_url, personal, tmp_path).read_bytes() == images.items[0].path.read_bytes()
