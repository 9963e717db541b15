"""scripts.doctor and scripts.versions on the real server and the real backend: each thing is broken for real."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from label_studio_sdk import LabelStudio

from backend import worker_notes
from backend.connection import call
from backend.project import LabelStudioProject
from backend.task_order import view_of
from backend.webhooks import webhooks_of
from scripts import command_line, connect, doctor, rank_tasks, versions
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError
from scripts.label_studio import LabelStudioServer
from scripts.plan import Place
from scripts.processes import free_port, statuses
from tests.live import (
    CURIOUS_ENVIRONMENT,
    QUICK,
    Loop,
    add_broken_task,
    connect_backend,
    filled_project,
    member,
    predictions_of,
    regions,
    until,
)
from tests.web import Server
from tsp_model.data.image_set import ImageSet


@dataclass
class Patient:
    """A loop that works, and where it is."""

    loop: Loop
    place: Place
    tasks: list[int]
    version: str

    @property
    def project(self) -> LabelStudioProject:
        return LabelStudioProject(self.loop.project.client, self.loop.project.project_id)

    def wrong(self) -> list[str]:
        """What the doctor finds wrong, a line each."""
        found = doctor.examine(self.place, self.loop.project.project_id)
        return [finding.line for finding in found if finding.remedy]

    def change(self, **values: Any) -> None:
        call(self.project.client, "PATCH", f"api/projects/{self.project.project_id}", json=values)

    def connect(self) -> list[str]:
        lines: list[str] = []
        connect.connect_project(self.project, self.place.backend_url, lines.append)
        return lines


@pytest.fixture(scope="module")
def patient(
    client: LabelStudio,
    label_studio: LabelStudioServer,
    images: ImageSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Patient]:
    """Each test mends what it broke."""
    folder = tmp_path_factory.mktemp("backend")
    environment = QUICK | CURIOUS_ENVIRONMENT | {"TSP_TRAIN_AFTER": "0"}
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **environment) as backend:
        project, tasks = filled_project(client, images.subset(images.keys[:4]))
        connect.connect_project(project, backend.url, lambda line: None)
        project.submit_annotation(tasks[0], regions(project, images.items[0]))
        loop = Loop(project, backend)
        place = Place(label_studio.url, label_studio.api_key, backend.url, str(backend.model_dir))
        yield Patient(loop, place, tasks, loop.train())


def test_all_is_well(patient: Patient) -> None:
    found = [finding.line for finding in doctor.examine(patient.place, patient.project.project_id)]
    assert patient.wrong() == []
    text = "\n".join(found)
    assert f"version {patient.version} answers, in Label Studio as here" in text
    assert "3 of 3 unlabelled tasks have its score" in text and "labels of project" in text and "disc (brush)" in text
    assert f"next task: lowest score first, Uncertainty sampling by the scores of {patient.version}" in text
    assert "legacy token of demo@example.com" in text and "the token may change the project" in text
    assert "the backend reaches Label Studio with its own token" in text
    assert "free in the backend's MODEL_DIR" in text and ("no GPU: TSP_PRESET=tiny trains" in text or "GPU: " in text)
    assert patient.place.api_key not in text


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda p: p.change(sampling="Sequential sampling"), "task sampling: 'Sequential sampling': 'Uncertainty sam"),
        (lambda p: p.change(show_collab_predictions=False), "shown to annotators: False: True is needed: .*connect"),
        (lambda p: p.change(model_version=""), "answers, but the project's version is .*scripts.connect --project"),
        (lambda p: call(p.project.client, "DELETE", f"api/dm/views/{view_of(p.project)['id']}/"), "no view .*connect"),
        (lambda p: delete_hook(p, *hooks(p)), "0 active webhooks.*scripts.connect"),
        (lambda p: double(p, *hooks(p)), "2 active webhooks.*scripts.connect"),
    ],
    ids=["sampling", "predictions hidden", "version", "view", "no webhook", "two webhooks"],
)  # fmt: skip
def test_what_somebody_changed_in_label_studio(patient: Patient, harm: Callable[[Patient], Any], told: str) -> None:
    harm(patient)
    lines = patient.wrong()
    assert any(re.search(told, line) for line in lines), lines
    ask(patient, connect)
    assert patient.wrong() == []


def hooks(patient: Patient) -> list[dict[str, Any]]:
    return webhooks_of(patient.project.client, patient.project.project_id, patient.place.backend_url)


def delete_hook(patient: Patient, hook: dict[str, Any]) -> None:
    call(patient.project.client, "DELETE", f"api/webhooks/{hook['id']}/")


def double(patient: Patient, hook: dict[str, Any]) -> None:
    values = {name: hook[name] for name in ("project", "url", "send_payload", "send_for_all_actions")}
    call(patient.project.client, "POST", "api/webhooks/", json=values)


def test_a_connection_that_is_gone(patient: Patient) -> None:
    row = patient.project.connection()
    call(patient.project.client, "DELETE", f"api/ml/{row['id']}")
    lines = patient.wrong()
    assert len(lines) == 1 and "no connection to" in lines[0] and "scripts.connect --project" in lines[0]
    assert any(line.startswith("connected") for line in patient.connect())
    (line,) = patient.wrong()
    assert f"version {patient.version} answers, but" in line and "scripts.connect --project" in line
    ask(patient, connect)
    assert patient.wrong() == []


def test_a_connection_that_leads_elsewhere(patient: Patient, silent_backend: Server) -> None:
    patient.project.change_connection(patient.project.connection(), url=silent_backend.url)
    (line,) = patient.wrong()
    assert f"leads to {silent_backend.url} and not to {patient.place.backend_url}: " in line
    assert f"scripts.connect --project {patient.project.project_id} --backend-url {patient.place.backend_url}," in line
    assert line.endswith(f"scripts.doctor --project {patient.project.project_id} --backend-url {silent_backend.url}")
    ask(patient, connect)
    assert patient.wrong() == []


def test_a_backend_that_is_gone_or_refuses_is_one_line(
    patient: Patient, label_studio: LabelStudioServer, silent_backend: Server, tmp_path: Path
) -> None:
    project, _ = filled_project(patient.project.client, ImageSet([], ["disc"]))

    def wrong(url: str) -> list[str]:
        place = Place(label_studio.url, label_studio.api_key, url, str(tmp_path))
        return [finding.line for finding in doctor.examine(place, project.project_id) if finding.remedy]

    with BackendProcess(tmp_path, free_port(), label_studio.url, label_studio.api_key, **QUICK) as backend:
        connect.connect_project(project, backend.url, lambda line: None)
        until(lambda: wrong(backend.url) == [], "the worker")
    (line,) = wrong(backend.url)
    assert line.startswith(f"WRONG  backend: no backend answers at {backend.url}")
    connect.connect_project(project, silent_backend.url, lambda line: None)
    json = {"Content-Type": "application/json"}
    health = b'{"model_class": "TSPBackend", "worker": "runs", "label_studio": "reached"}'
    silent_backend.pages["/health"] = (200, json, health)
    silent_backend.pages["/versions?project=" + project.key] = (200, json, b'{"active": null}')
    silent_backend.pages["/job_status?project=" + project.key] = (404, json, b'{"error": "none"}')
    silent_backend.pages["/setup"] = (400, json, b'{"error": "no"}')
    (line,) = wrong(silent_backend.url)
    assert f"connection to {silent_backend.url} is Error: 400 " in line and "scripts.connect --project" in line


def test_tasks_without_a_score_are_named(patient: Patient) -> None:
    broken = add_broken_task(patient.project)
    patient.loop.settle()
    assert patient.wrong() == [], "nothing that is run mends an image"
    told = [finding.what for finding in doctor.examine(patient.place, patient.project.project_id)]
    left_out = f"1 of the others left out until their image can be read: task {broken}: "
    assert any(line.startswith(left_out) for line in told), "\n".join(told)
    task = next(iter(patient.project.scores()))
    (prediction,) = predictions_of(patient.project, task)
    call(patient.project.client, "DELETE", f"api/predictions/{prediction['id']}/")
    (line,) = patient.wrong()
    assert f"2 of 4 unlabelled tasks have its score: not {task}: run " in line and "scripts.rank_tasks" in line
    call(patient.project.client, "DELETE", f"api/tasks/{broken}/")
    ask(patient, rank_tasks)
    assert patient.wrong() == []


def test_labels_that_the_version_does_not_have(patient: Patient) -> None:
    config = patient.project.label_config
    patient.change(label_config=config.replace('value="disc"', 'value="ring"'))
    (line,) = patient.wrong()
    assert "no label for the version's disc" in line and 'predicted_values="disc"' in line
    patient.change(label_config=config.replace('value="disc"', 'value="ring" predicted_values="disc"'))
    assert patient.wrong() == []
    more = config.replace("<Label ", '<Label value="later"/><Label ', 1)
    choices = '<Choices name="how" toName="image"><Choice value="well"/></Choices></View>'
    patient.change(label_config=more.replace("</View>", choices))
    assert patient.wrong() == []
    told = [finding.what for finding in doctor.examine(patient.place, patient.project.project_id)]
    assert "the version does not know later: belongs to the next training" in told
    assert "tags that are left alone: <Choices>" in told
    patient.change(label_config=config)
    assert patient.wrong() == []


def test_a_version_whose_card_is_damaged(patient: Patient) -> None:
    card = patient.loop.versions.folder(patient.version) / "card.json"
    whole = card.read_text()
    card.write_text(whole[:20])
    (line,) = patient.wrong()
    card.write_text(whole)
    assert f"version {patient.version}: {card} is damaged" in line and "scripts.versions list --project" in line
    assert patient.wrong() == []


def test_the_order_round_clusters_is_said(patient: Patient) -> None:
    row = patient.project.connection()
    patient.project.change_connection(row, extra_params={"clusters": 2})
    patient.loop.setup()
    told = [finding.what for finding in doctor.examine(patient.place, patient.project.project_id)]
    patient.project.change_connection(row, extra_params={})
    patient.loop.setup()
    assert any(line.startswith("next task: round 2 clusters, lowest score first in each, Uncertain") for line in told)


def test_before_the_first_training(
    patient: Patient, images: ImageSet, silent_backend: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that failed, and a connection that the backend does not know among others."""
    trained, loop = (
        patient.loop,
        Loop(filled_project(patient.project.client, images.subset([]))[0], patient.loop.backend),
    )
    patient.loop = loop
    try:
        patient.connect()
        assert patient.wrong() == []
        patient.change(sampling="Uniform sampling", show_collab_predictions=False)
        sampling, hidden = patient.wrong()
        assert "task sampling: 'Uniform sampling': " in sampling and "shown to annotators: False: " in hidden
        assert "scripts.connect --project" in sampling
        patient.connect()
        connect_backend(patient.project, silent_backend.url, title="cells")
        (ours,) = (one for one in patient.project.connections() if one["url"] == patient.place.backend_url)
        patient.project.change_connection(ours, title="nuclei")
        (line,) = patient.wrong()
        assert "'cells'" in line and "needs a title with TSP for its own, 'nuclei', alone" in line
        patient.connect()
        assert patient.wrong() == []
        loop.project.start_training()
        until(lambda: (loop.status(project=loop.project.key) or {}).get("status") == "ERROR", "the training")
        (line,) = patient.wrong()
        assert "no version yet" in line and "nothing to train on" in line
    finally:
        patient.loop = trained


def test_a_backend_with_a_wrong_token(patient: Patient, label_studio: LabelStudioServer, tmp_path: Path) -> None:
    with BackendProcess(tmp_path, free_port(), label_studio.url, "f" * 40, **QUICK) as backend:
        place = Place(label_studio.url, label_studio.api_key, backend.url, str(tmp_path))

        def wrong() -> str:
            (line,) = [finding.line for finding in doctor.examine(place) if finding.remedy]
            return "" if "worker does not run" in line else line

        line = until(wrong, "the worker's look")
        assert line.startswith("WRONG  the backend does not get into Label Studio: ") and "refuses the token" in line
        assert line.endswith("; then start the backend again")


def test_a_project_that_the_backend_does_not_find(patient: Patient) -> None:
    noted = {patient.project.key: "it is gone, or this token may not see it"}
    worker_notes.note(patient.loop.backend.model_dir, not_looked_at=noted)
    (line,) = patient.wrong()
    worker_notes.note(patient.loop.backend.model_dir, not_looked_at={})
    assert "the backend could not look at the project: it is gone, or this token may not see it; " in line
    assert patient.wrong() == []


def test_a_token_that_may_not_change_the_project(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label Studio's community edition lets every member change every project."""

    def without_put(client: LabelStudio, method: str, path: str, **more: Any) -> Any:
        found = call(client, method, path, **more)
        return found if method != "OPTIONS" else {name: value for name, value in found.items() if name != "actions"}

    monkeypatch.setattr(doctor, "call", without_put)
    (line,) = patient.wrong()
    assert "may see the project and not change it: take one of a user who may" in line


def test_a_token_s_kind_the_members_and_a_full_disk(
    patient: Patient, label_studio: LabelStudioServer, personal_token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    member(patient.project.client, label_studio.url, "third@example.org")
    place = patient.place
    monkeypatch.setattr(doctor, "LEAST_FREE_GB", 1e9)
    for name in ("", f"http://127.0.0.1:{free_port()}"):  # the backend's disk, and without a backend this one's
        patient.place = Place(place.url, personal_token, name or place.backend_url, place.model_dir)
        found = list(doctor.examine(patient.place, patient.project.project_id))
        text = "\n".join(finding.line for finding in found)
        assert "personal access token of demo@example.com is accepted" in text and personal_token not in text
        assert re.search(r"well   [2-9] members: next task follows the scores for each of them", text)
        full = f"free in {Path(place.model_dir)}" if name else "free in the backend's MODEL_DIR"
        (line,) = (finding.line for finding in found if finding.remedy.startswith("make room"))
        assert re.search(rf"WRONG  \d+ GB of disk are {re.escape(full)}: make room: .* need 1e\+09 GB", line)
    patient.place = place


def test_a_configuration_that_cannot_be_used(patient: Patient) -> None:
    config = "<View><Image name='i' value='$image'/><Choices name='c' toName='i'><Choice value='x'/></Choices></View>"
    made = call(patient.project.client, "POST", "api/projects", json={"title": "no masks", "label_config": config})
    lines = [finding.line for finding in doctor.examine(patient.place, made["id"]) if finding.remedy]
    assert len(lines) == 1 and "no tag for objects" in lines[0] and "<BrushLabels>" in lines[0]


def test_nobody_where_label_studio_or_the_backend_should_be_and_a_wrong_token(patient: Patient) -> None:
    place, nowhere = patient.place, f"http://127.0.0.1:{free_port()}"
    patient.place = Place(nowhere, place.api_key, place.backend_url, place.model_dir)
    (line,) = patient.wrong()
    assert line.startswith("WRONG  Label Studio: no Label Studio answers at")
    patient.place = Place(place.url, "f" * 40, place.backend_url, place.model_dir)
    (line,) = patient.wrong()
    assert "refuses the token" in line
    patient.place = Place(place.url, place.api_key, nowhere, place.model_dir)
    assert re.search(r"no backend answers at .*-m backend", patient.wrong()[0])
    patient.place = Place(place.url, place.api_key, place.url, place.model_dir)
    assert "is no TSP backend" in patient.wrong()[0]
    patient.place = place
    (remedy,) = (finding.remedy for finding in doctor.examine(place, 999_999) if finding.remedy)
    assert remedy.startswith("Label Studio has no project 999999")


def test_a_worker_that_is_gone(patient: Patient, label_studio: LabelStudioServer, tmp_path: Path) -> None:
    with BackendProcess(tmp_path, free_port(), label_studio.url, label_studio.api_key, **QUICK) as backend:
        place = Place(label_studio.url, label_studio.api_key, backend.url, str(backend.model_dir))

        def wrong() -> list[str]:
            return [finding.line for finding in doctor.examine(place) if finding.remedy]

        until(lambda: wrong() == [], "the worker")
        (worker,) = statuses(backend.process_group, "worker")
        (supervisor,) = (one for one in statuses(backend.process_group, "backend") if one["Pid"] == worker["PPid"])
        os.kill(int(supervisor["Pid"]), signal.SIGSTOP)  # or it would end the web service, too
        os.kill(int(worker["Pid"]), signal.SIGKILL)
        try:
            (line,) = until(wrong, "the finding")
            assert "worker does not run" in line and "-m backend worker" in line
        finally:
            os.kill(int(supervisor["Pid"]), signal.SIGCONT)


def test_a_label_studio_that_refuses_private_addresses(patient: Patient, tmp_path: Path, monkeypatch: Any) -> None:
    environment = LabelStudioServer._environment
    for given, lacking in (
        ({"ML_BLOCK_LOCAL_IP": "true"}, "ML_BLOCK_LOCAL_IP=false,"),
        ({"SSRF_PROTECTION_ENABLED": "true"}, "SSRF_PROTECTION_ENABLED=false,"),
    ):
        monkeypatch.setattr(LabelStudioServer, "_environment", lambda *a, given=given: environment(*a) | given)
        with LabelStudioServer(tmp_path / next(iter(given)), free_port()) as server:
            place = Place(server.url, server.api_key, patient.place.backend_url, patient.place.model_dir)
            (line,) = [finding.line for finding in doctor.examine(place) if finding.remedy]
            assert "refuses the backend's address" in line and f"start it with {lacking}" in line
            client = LabelStudio(base_url=server.url, api_key=server.api_key)
            assert call(client, "GET", "api/webhooks/") == [], "looking makes nothing"
            body = {"title": "refused", "label_config": patient.project.label_config}
            project = LabelStudioProject(client, call(client, "POST", "api/projects", json=body)["id"])
            with pytest.raises(CommandError, match=f"refuses the backend's address .*: start it with {lacking}"):
                connect.connect_project(project, patient.place.backend_url, lambda line: None)
            assert project.connections() == [] and project.values()["sampling"] == "Sequential sampling"


def ask(patient: Patient, module: Any, *arguments: str) -> None:
    """Run a command on the patient."""
    place, before = patient.place, sys.argv
    given = ["--project", str(patient.project.project_id), "--url", place.url, "--api-key", place.api_key]
    sys.argv = [module.__name__, *arguments, *given, "--backend-url", place.backend_url]
    try:
        command_line.run("asked", module.main)
    finally:
        sys.argv = before


def test_versions_are_listed_and_one_goes_back(
    patient: Patient, images: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        ask(patient, versions, "back")
    assert ended.value.code == "asked: there is no version before the active one."
    first = patient.version
    worse = patient.loop.versions.folder("tsp-0002-20260101T000000")  # kept, and never the one that answered
    shutil.copytree(patient.loop.versions.folder(first), worse)
    second = patient.loop.train()
    late = next(iter(patient.project.upload_images({"late": images.items[5].path}).values()))
    patient.loop.settle()
    ask(patient, versions, "back")
    lines = capsys.readouterr().out.splitlines()
    assert second in lines[2] and "active" not in lines[2] and first in lines[4] and "active" in lines[4]
    shutil.rmtree(worse)
    assert {one["model_version"] for one in predictions_of(patient.project, late)} == {first, second}
    assert patient.wrong() == [] and patient.loop.setup() == first
    ask(patient, versions, "activate", second)
    assert patient.wrong() == [] and patient.loop.setup() == second
    jobs = set((patient.loop.versions.root.parent / "jobs").iterdir())
    capsys.readouterr()
    ask(patient, versions, "activate", second)
    assert capsys.readouterr().out.startswith(f"{second} is active already\n")
    assert set((patient.loop.versions.root.parent / "jobs").iterdir()) == jobs
    patient.version = second
    with pytest.raises(SystemExit) as ended:
        ask(patient, versions, "activate", "tsp-0099-20260101T000000")
    assert f"project {patient.project.project_id} has no version tsp-0099" in str(ended.value.code)


def test_the_command_ends_with_1_if_something_is_wrong(patient: Patient, capsys: pytest.CaptureFixture[str]) -> None:
    ask(patient, doctor)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"doctor: all {len(lines) - 1} are well" and not any("WRONG" in line for line in lines)
    patient.change(sampling="Sequential sampling")
    with pytest.raises(SystemExit) as ended:
        ask(patient, doctor)
    assert re.fullmatch(r"doctor: \d+ of \d+ are well, 1 wrong", str(ended.value.code))
    patient.connect()
