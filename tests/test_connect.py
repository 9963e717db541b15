"""scripts.connect: from a project made by hand to a working loop and back, on the real server and the real backend."""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk import LabelStudio

from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from backend.task_order import UNCERTAINTY, VIEW, keep_view, view_of
from backend.webhooks import webhooks_of
from scripts import command_line, connect
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from tests.live import CURIOUS_ENVIRONMENT, QUICK, Loop, connect_backend, predictions_of, push, regions
from tests.web import Server
from tsp_model.data.image_set import ImageSet

OWN = """<View><Header value="Nuclei"/><Image name="picture" value="$image"/>
<BrushLabels name="what" toName="picture"><Label value="disc"/><Label value="box"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def backend(
    label_studio: LabelStudioServer, personal_token: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BackendProcess]:
    """With a personal access token."""
    folder = tmp_path_factory.mktemp("backend")
    environment = QUICK | CURIOUS_ENVIRONMENT | {"TSP_TRAIN_AFTER": "0"}
    with BackendProcess(folder, free_port(), label_studio.url, personal_token, **environment) as process:
        yield process
    # Neither the token nor what it is exchanged for, whatever the tests made the service do.
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"backend.log", "card.json", "jobs.sqlite"} <= {path.name for path in files}
    tokens = re.compile(rb"eyJ[\w-]+\.[\w-]+\.")
    assert [path for path in files if tokens.search(path.read_bytes())] == []
    assert tokens.search(personal_token.encode())


@pytest.fixture
def project(client: LabelStudio) -> LabelStudioProject:
    """As somebody makes it in the UI, with labels and names of their own."""
    made = call(client, "POST", "api/projects", json={"title": "made by hand", "label_config": OWN})
    return LabelStudioProject(client, made["id"])


@pytest.fixture
def command(
    label_studio: LabelStudioServer,
    backend: BackendProcess,
    project: LabelStudioProject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Any:
    """Run the command; what it printed."""

    def start(*arguments: str) -> list[str]:
        monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.api_key)
        given = ["--project", str(project.project_id), "--backend-url", backend.url, *arguments]
        monkeypatch.setattr(sys, "argv", ["connect", *given])
        command_line.run("connect", connect.main)
        return capsys.readouterr().out.splitlines()

    return start


def state(project: LabelStudioProject) -> tuple[Any, ...]:
    """What the command may change."""
    values = project.values()
    rows = call(project.client, "GET", "api/ml/", params={"project": project.project_id})
    hooks = call(project.client, "GET", "api/webhooks/", params={"project": project.project_id})
    view = view_of(project)
    told = values["sampling"], values["show_collab_predictions"], values["model_version"] or ""
    return *told, len(rows), len(hooks), view and view["data"]["title"]


def test_a_project_is_connected_once_and_its_loop_works_and_undo_brings_back_what_was(
    project: LabelStudioProject, backend: BackendProcess, images: ImageSet, command: Any
) -> None:
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"show_collab_predictions": False})
    before = state(project)
    lines = command()
    assert state(project) == (UNCERTAINTY, True, "", 1, 1, VIEW)
    assert len(lines) == 5, lines
    assert any("'Sequential sampling' -> 'Uncertainty sampling'" in line for line in lines)
    assert lines[-1].startswith("ready: ") and f"/projects/{project.project_id}," in lines[-1]
    assert command()[0] == "nothing to change"
    assert state(project) == (UNCERTAINTY, True, "", 1, 1, VIEW)

    tasks = list(project.upload_images({item.key: item.path for item in images.items[:4]}).values())
    project.submit_annotation(tasks[0], regions(project, images.items[0]))
    version = Loop(project, backend).train()
    assert set(project.scores()) == set(tasks[1:]) and project.next_task() == next(iter(project.scores()))
    assert command()[0] == "nothing to change", "not after a training either, which renames the connection"

    command("--undo")
    assert state(project) == before
    assert [one["model_version"] for one in predictions_of(project, tasks[1])] == [version], "predictions stay"
    assert project.annotated_task_ids() == {tasks[0]}
    assert command("--undo") == ["nothing to change"]
    assert f"version {version} orders the tasks again" in command()
    assert project.next_task() == next(iter(project.scores()))


def test_what_is_half_there_is_made_whole(project: LabelStudioProject, backend: BackendProcess, command: Any) -> None:
    row = connect_backend(project, backend.url)  # by hand, and given up: its webhook stays behind
    call(project.client, "DELETE", f"api/ml/{row['id']}")
    assert command()[0].startswith("connected the backend")
    assert len(webhooks_of(project.client, project.project_id, backend.url)) == 1

    (hook,) = webhooks_of(project.client, project.project_id, backend.url)
    off = {"is_active": False, "actions": hook["actions"]}
    call(project.client, "PATCH", f"api/webhooks/{hook['id']}/", json=off)
    assert command()[:-1] == ["switched the webhook to the backend on"]
    call(project.client, "DELETE", f"api/webhooks/{hook['id']}/")
    assert command()[:-1] == ["made the webhook that tells the backend of annotations and imports"]
    (again,) = webhooks_of(project.client, project.project_id, backend.url)
    assert again["is_active"] and again["send_for_all_actions"]


def test_a_connection_by_another_name_of_this_machine_is_the_same_and_one_elsewhere_is_moved(
    project: LabelStudioProject, backend: BackendProcess, silent_backend: Server, command: Any
) -> None:
    localhost = backend.url.replace("127.0.0.1", "localhost")
    connect_backend(project, localhost)
    assert not any("connected" in line or "webhook" in line for line in command())
    assert state(project)[3:5] == (1, 1)
    nowhere = {"url": f"{backend.url}/elsewhere", "title": "TSP", "project": project.project_id}
    with pytest.raises(ProjectError):  # nobody answers there, so that it cannot be made like this
        call(project.client, "PATCH", f"api/ml/{project.connection()['id']}", json=nowhere)
    call(project.client, "DELETE", f"api/ml/{project.connection()['id']}")
    assert command("--undo", "--backend-url", localhost) == [f"deleted a webhook to {localhost}"]
    assert state(project)[3:5] == (0, 0)
    row = connect_backend(project, silent_backend.url)
    assert f"moved the connection 'TSP' from {silent_backend.url} to {backend.url}" in command()
    assert state(project)[3:5] == (1, 1), "neither a second connection nor the old one's webhook"
    assert (project.connection()["id"], project.connection()["url"]) == (row["id"], backend.url)
    assert len(webhooks_of(project.client, project.project_id, backend.url)) == 1


def test_undo_takes_back_the_connection_that_leads_elsewhere(
    project: LabelStudioProject, silent_backend: Server, command: Any
) -> None:
    before = state(project)
    connect.connect_project(project, silent_backend.url, lambda line: None)
    assert f"deleted the connection 'TSP' to {silent_backend.url}" in command("--undo")
    assert state(project) == before
    for path in ("/one", "/two"):
        for page in ("/health", "/setup"):
            silent_backend.pages[path + page] = silent_backend.pages[page]
        connect_backend(project, silent_backend.url + path)
    for arguments in ((), ("--undo",)):
        with pytest.raises(SystemExit) as ended:
            command(*arguments)
        assert f"2 titled TSP, to {silent_backend.url}/one, {silent_backend.url}/two; " in str(ended.value.code)
    assert len(project.connections()) == 2


def test_a_backend_that_label_studio_does_not_reach_is_not_ready(
    project: LabelStudioProject, silent_backend: Server, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answers this machine's commands and not Label Studio, as one behind a firewall."""
    json, told_studio = {"Content-Type": "application/json"}, [503]
    silent_backend.pages["/versions?project=" + project.key] = (200, json, b'{"active": null}')
    silent_backend.pages["/health"] = lambda request: (
        told_studio[0] if "heartex" in request.headers["User-Agent"] else 200,
        json,
        b'{"model_class": "TSPBackend"}',
    )

    def refused() -> None:
        with pytest.raises(SystemExit) as ended:
            command("--backend-url", silent_backend.url)
        told = f"connect: Label Studio does not reach the backend at {silent_backend.url}, which answers here; "
        assert str(ended.value.code).startswith(told) and "ready" not in capsys.readouterr().out

    before = state(project)
    refused()
    assert state(project) == before
    told_studio[0] = 200
    assert command("--backend-url", silent_backend.url)[-1].startswith("ready: ")
    told_studio[0] = 503
    refused()


def test_a_password_that_changed_is_given_to_label_studio(
    project: LabelStudioProject,
    label_studio: LabelStudioServer,
    tmp_path: Path,
    command: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    for password, last in (("first", "ready: "), ("second", "Label Studio reaches the backend at ")):
        guard = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASS": password}
        for name, value in guard.items():
            monkeypatch.setenv(name, value)
        with BackendProcess(tmp_path, port, label_studio.url, label_studio.api_key, **guard) as guarded:
            lines = command("--backend-url", guarded.url)
            assert any(line.startswith(last) for line in lines) and lines[-1].startswith("ready: ")
            assert project.connection()["state"] == connect.CONNECTED


def test_somebody_elses_connection_webhook_and_view_are_left_alone(
    project: LabelStudioProject, backend: BackendProcess, command: Any
) -> None:
    hook = {"project": project.project_id, "url": "http://127.0.0.1:9/webhook"}
    call(project.client, "POST", "api/webhooks/", params={"project": project.project_id}, json=hook)
    body = {"project": project.project_id, "data": {"title": "Mine"}}
    call(project.client, "POST", "api/dm/views/", json=body)
    command()
    command("--undo")
    assert state(project)[3:] == (0, 1, None)
    views = call(project.client, "GET", "api/dm/views/", params={"project": project.project_id})
    assert [view["data"]["title"] for view in views] == ["Mine"]


def test_a_connection_and_a_view_that_were_there_before_stay_when_it_is_undone(
    project: LabelStudioProject, backend: BackendProcess, command: Any
) -> None:
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"sampling": "Uniform sampling"})
    row = connect_backend(project, backend.url, description="the new one")
    made = keep_view(project)
    before = state(project)
    assert any("'Uniform sampling' -> " in line for line in command())
    assert project.connection()["description"].startswith("the new one\n")
    assert command()[0] == "nothing to change"
    stays = f"the connection 'TSP' to {backend.url} stays: it was there before"
    assert command("--undo") == [stays, "task sampling: back to 'Uniform sampling'"]
    assert state(project) == before and before[3:] == (1, 1, VIEW)
    assert view_of(project)["id"] == made
    assert [project.connection()[name] for name in ("id", "description")] == [row["id"], "the new one"]
    assert command("--undo") == [stays]


def test_a_version_of_ones_own_orders_the_tasks_again_when_it_is_undone(
    project: LabelStudioProject, images: ImageSet, command: Any
) -> None:
    (task,) = project.upload_images({"one": images.items[0].path}).values()
    push(project, {task: 0.5}, "v1")
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": "v1"})
    before = state(project)
    command()
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": "TSP"})
    assert "project's version: back to 'v1'" in command("--undo")
    assert state(project) == before and project.scores() == {task: 0.5}
    command()
    project.forget("v1", None)
    assert "project's version: 'v1' is gone with its predictions" in command("--undo")


def test_the_backend_knows_its_connection_among_others(
    project: LabelStudioProject, backend: BackendProcess, silent_backend: Server, command: Any
) -> None:
    connect_backend(project, silent_backend.url, title="cells")
    row = connect_backend(project, backend.url, title="nuclei")
    before = state(project)
    with pytest.raises(ProjectError, match="2 model connections, 0 with a title"):
        project.connection()
    told = "renamed the connection 'nuclei' to 'TSP', by which the backend knows it among the others"
    assert told in command() and project.connection()["id"] == row["id"]
    assert command()[0] == "nothing to change"
    command("--undo")
    assert state(project) == before
    assert sorted(one["title"] for one in project.connections()) == ["cells", "nuclei"]
    (other,) = (one for one in project.connections() if one["title"] == "cells")
    project.change_connection(other, title="TSP too")
    with pytest.raises(SystemExit) as ended:
        command()
    assert f"others titled TSP, to {silent_backend.url}, and the backend needs one; " in str(ended.value.code)


def test_only_what_it_asks_for_tells_that_an_address_is_not_refused() -> None:
    server = Server()
    json_ = {"Content-Type": "application/json"}
    server.pages["/api/current-user/whoami"] = (200, json_, b'{"email": "a@example.org"}')
    client = LabelStudio(base_url=server.url, api_key="0" * 40)
    try:
        for status, told in ((403, "does not let this token's user do POST api/ml"), (502, "answered 502")):
            server.pages["/api/ml"] = (status, json_, b'{"detail": "no"}')
            with pytest.raises(ProjectError, match=told):
                connect.refused_address(client, "http://127.0.0.1:9090")
        server.pages["/api/ml"] = server.pages["/api/webhooks/"] = (400, json_, b'{"detail": "a field is lacking"}')
        assert connect.refused_address(client, "http://127.0.0.1:9090") == ""
    finally:
        server.close()


def test_a_backend_that_has_just_started_is_given_time(
    project: LabelStudioProject, silent_backend: Server, command: Any
) -> None:
    json_, answers, slow = {"Content-Type": "application/json"}, silent_backend.pages["/setup"], [True]
    silent_backend.pages["/versions?project=" + project.key] = (200, json_, b'{"active": null}')
    told = b'{"model_class": "TSPBackend", "label_studio_url": "http://another.example:8080"}'
    silent_backend.pages["/health"] = (200, json_, told)

    def setup(request: Any) -> Any:
        if slow and slow[-1]:
            time.sleep(4)  # Label Studio waits 3
        if slow:
            slow.pop()
        return answers(request)

    silent_backend.pages["/setup"] = setup
    *_, whose, ready = command("--backend-url", silent_backend.url)
    assert whose.startswith("the backend works for Label Studio at http://another.example:8080; if ")
    assert ready.startswith("ready: ")
    command("--undo", "--backend-url", silent_backend.url)
    slow += [True] * 10
    with pytest.raises(SystemExit) as ended:
        command("--backend-url", silent_backend.url)
    assert "takes longer over /setup than the 3 s that Label Studio waits; try again" in str(ended.value.code)
    slow.clear()
    assert project.connections() == []


@pytest.mark.parametrize("title_stays", [False, True])
def test_a_refused_address_leaves_nothing_behind(
    project: LabelStudioProject,
    backend: BackendProcess,
    command: Any,
    monkeypatch: pytest.MonkeyPatch,
    label_studio: LabelStudioServer,
    title_stays: bool,
) -> None:
    before = state(project)
    original = connect.call

    def half_refused(client: LabelStudio, method: str, path: str, **more: Any) -> Any:
        """As Label Studio does with ML_BLOCK_LOCAL_IP=false alone: the row is made, then 403."""
        made = original(client, method, path, **more)
        if (method, path) == ("POST", "api/ml"):
            raise ProjectError("Label Studio refuses addresses of private networks: start it with", 403)
        if method == "DELETE" and title_stays:
            with closing(sqlite3.connect(label_studio.database, timeout=60)) as database, database:
                values = ("TSP", project.project_id)
                database.execute("UPDATE project SET model_version = ? WHERE id = ?", values)
        return made

    monkeypatch.setattr(connect, "call", half_refused)
    with pytest.raises(SystemExit) as ended:
        command()
    assert str(ended.value.code).startswith("connect: Label Studio refuses addresses of private networks")
    assert state(project)[:3] == before[:3]
