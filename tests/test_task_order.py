"""Which order people meet tasks in, on the real server: for one, for a team, and in the view."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests
from label_studio_sdk import LabelStudio

from backend import task_order
from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from backend.versions import Versions
from scripts.label_studio import LabelStudioServer
from tests.live import NEW, OLD, filled_project, member, push
from tsp_model.data.image_set import ImageSet

SCORES = (0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6)


@pytest.fixture
def project(client: LabelStudio, images: ImageSet) -> LabelStudioProject:
    """One whose next task follows SCORES."""
    project, tasks = filled_project(client, images)
    push(project, dict(zip(tasks, SCORES, strict=True)))
    change(project, model_version=OLD)
    return project


def change(project: LabelStudioProject, **values: str) -> None:
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json=values)


def views(project: LabelStudioProject) -> list[dict]:
    return call(project.client, "GET", "api/dm/views/", params={"project": project.project_id})


def by_score(project: LabelStudioProject) -> list[int]:
    return list(project.scores())


def test_the_view_shows_the_lowest_score_first_and_is_the_first_tab(project: LabelStudioProject) -> None:
    body = {"project": project.project_id, "data": {"title": "Mine", "ordering": ["-tasks:id"]}}
    call(project.client, "POST", "api/dm/views/", json=body)
    made = task_order.keep_view(project)
    assert [view["data"]["title"] for view in views(project)] == [task_order.VIEW, "Mine"]
    parameters = {"project": project.project_id, "view": made, "fields": "all"}
    listed = call(project.client, "GET", "api/tasks/", params=parameters)["tasks"]
    assert [task["id"] for task in listed] == by_score(project)
    assert len({task["id"] for task in listed}) == len(SCORES)


def test_the_view_is_made_once_and_gets_back_its_order_but_not_its_place(project: LabelStudioProject) -> None:
    made = task_order.keep_view(project)
    body = {"project": project.project_id, "data": {"title": "Mine"}}
    other = call(project.client, "POST", "api/dm/views/", json=body)["id"]
    moved = {"project": project.project_id, "ids": [other, made]}
    call(project.client, "POST", "api/dm/views/order/", json=moved)
    mine = {"title": task_order.VIEW, "ordering": ["tasks:id"], "gridWidth": 5}
    call(project.client, "PATCH", f"api/dm/views/{made}/", json={"data": mine})
    assert task_order.keep_view(project) == task_order.keep_view(project) == made
    first, second = views(project)
    assert (first["id"], second["id"]) == (other, made)
    assert (second["data"]["ordering"], second["data"]["gridWidth"]) == (task_order.ORDERING, 5)


@pytest.mark.parametrize(
    ("values", "active", "next_task", "why"),
    [
        ({}, OLD, "lowest score first", f"scores of {OLD}"),
        ({}, None, "not by score", "no version yet"),
        ({"sampling": "Sequential sampling"}, OLD, "not by score", "'Sequential sampling': choose 'Uncertainty"),
        ({}, NEW, "not by score", f"at version '{OLD}' and {NEW} is active"),
    ],
)
def test_what_is_in_force_and_why(
    project: LabelStudioProject, values: dict, active: str | None, next_task: str, why: str
) -> None:
    change(project, **values)
    found = task_order.in_force(project, active)
    assert (found["next_task"], found["view"]) == (next_task, task_order.VIEW)
    assert why in found["why"]
    if next_task == "lowest score first":
        assert task_order.in_force(project, active, 3)["next_task"].startswith("round 3 clusters")


def test_two_members_of_an_organisation_both_meet_the_lowest_scores_first(
    project: LabelStudioProject, label_studio: LabelStudioServer
) -> None:
    order = by_score(project)
    colleague = member(project.client, label_studio.url, "second@example.org")
    assert project.next_task() == order[0]
    for expected in order[1:4]:  # the first one is locked by its annotator
        assert next_task_of(colleague, project, label_studio.url) == expected
        annotate(colleague, project, expected, label_studio.url)
    project.submit_annotation(order[0], [])
    assert project.next_task() == order[4]


def next_task_of(session: requests.Session, project: LabelStudioProject, url: str) -> int:
    return session.get(f"{url}/api/projects/{project.project_id}/next", timeout=30).json()["id"]


def annotate(session: requests.Session, project: LabelStudioProject, task: int, url: str) -> None:
    headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": url}
    body = {"result": [], "project": project.project_id}
    session.post(f"{url}/api/tasks/{task}/annotations/", json=body, headers=headers, timeout=30).raise_for_status()


def test_what_was_found_is_kept_for_health_and_costs_no_job(
    project: LabelStudioProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    versions = Versions(tmp_path, project.key)
    task_order.settle(project, versions, 0)
    kept = json.loads(versions.order_file.read_text())
    assert kept == task_order.in_force(project, None)

    def refuse(*args: object, **options: object) -> None:
        raise ProjectError("not for this token", 403)

    monkeypatch.setattr(task_order, "call", refuse)
    task_order.settle(project, versions, 0)
    assert "not for this token" in caplog.text
    assert json.loads(versions.order_file.read_text()) == kept
