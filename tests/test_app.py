"""The service's HTTP side, as Label Studio 1.23's own client calls it; no server, no model."""

import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from werkzeug.test import create_environ, run_wsgi_app

from backend import settings, worker_lock, worker_notes
from backend.app import create_app
from backend.progress import Progress
from backend.project_settings import remembered_extra_params
from backend.versions import UNTRAINED, Versions

ROOT = Path(__file__).parent.parent
KEY = "4.1700000000"
PROJECT = {"id": 4, "created_at": "2023-11-14T22:13:20.123456Z"}
SCHEMA = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/></BrushLabels></View>"""


class FakeJobs:
    """Keeps what was asked for."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.states: dict[str, dict] = {}

    def request(self, kind: str, key: str) -> str:
        self.requests.append((kind, key))
        return f"{kind}-{key}-00001"

    def cancel(self, project: str) -> list[str]:
        return [f"{kind}-{key}-00001" for kind, key in self.requests if key.startswith(f"{project.split('.')[0]}.")]

    def last(self, kind: str, project: str) -> str | None:
        return max((job for job in self.states if job.startswith(f"{kind}-{project}.")), default=None)

    def status(self, job_id: str) -> dict | None:
        return self.states.get(job_id)


@pytest.fixture
def jobs():
    return FakeJobs()


@pytest.fixture
def make(tmp_path, jobs):
    def client(**environ: str):
        return create_app(settings.load({"MODEL_DIR": str(tmp_path), **environ}), jobs).test_client()

    return client


def setup_request(**changes) -> dict:
    return {
        "project": KEY,
        "schema": SCHEMA,
        "hostname": "",
        "access_token": "t",
        "extra_params": None,
        **changes,
    }


def finished_version(folder: Path, number: int) -> str:
    versions = Versions(folder, KEY)
    name = f"tsp-{number:04d}-20260101T000000"
    versions.folder(name).mkdir(parents=True)
    (versions.folder(name) / "card.json").write_text("{}")
    versions.activate(name)
    return name


def test_health_answers_up(make):
    assert make().get("/health").get_json()["status"] == "UP"


def test_health_tells_what_the_worker_noted_as_long_as_it_runs(make, tmp_path):
    client = make()
    worker_notes.note(tmp_path, device="cpu")
    worker_notes.note(tmp_path, label_studio="nobody there", not_looked_at={KEY: "gone"})
    told = client.get("/health").json
    assert told["worker"] == "does not run" and told["free_bytes"] > 0 and "device" not in told
    with worker_lock.hold(tmp_path):
        told = client.get("/health").json
        assert (told["worker"], told["device"], told["label_studio"]) == ("runs", "cpu", "nobody there")
        assert told["not_looked_at"] == {KEY: "gone"}
        (tmp_path / "worker.json").write_text("{")
        assert "device" not in client.get("/health").json, "damaged"
        worker_notes.forget(tmp_path)
        worker_notes.forget(tmp_path)
        assert client.get("/health").json["worker"] == "runs"


def test_the_web_service_starts_without_torch():
    code = "import sys, backend.app as a; a.create_app(); print({'torch', 'dbos'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_whoever_finds_the_service_up_can_connect_it(tmp_path):
    """Label Studio waits 3 s for /setup and 1 s for /webhook: what takes seconds to import is there when /health is."""
    config = setup_request() | {"project": "4.1700000001"}
    code = f"""
import sys
from backend._wsgi import app
before = set(sys.modules)
client = app.test_client()
print(client.get("/health").status_code, client.post("/setup", json={config!r}).status_code, end=" ")
print({{"dbos", "label_studio_sdk.label_interface", "torch"}} & (set(sys.modules) - before))
"""
    environ = {**os.environ, "LABEL_STUDIO_API_KEY": "x", "MODEL_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "200 200 set()"


def test_setup_answers_with_the_active_version_as_it_changes(make, tmp_path):
    client = make()
    assert client.post("/setup", json=setup_request()).get_json() == {"model_version": UNTRAINED}
    for number in (1, 2):
        name = finished_version(tmp_path, number)
        assert client.post("/setup", json=setup_request()).get_json() == {"model_version": name}
    other = client.post("/setup", json=setup_request(project="4.1700000001"))
    assert other.get_json() == {"model_version": UNTRAINED}, "the same id, another project"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": '<View><Image name="i" value="$i"/></View>'}, "BrushLabels"),
        ({"schema": "<View"}, "XML"),
        ({"extra_params": {"epoch": 3}}, "epoch"),
        ({"project": "../4"}, "project key"),
        ({"project": None}, "project"),
    ],
)
def test_setup_refuses_with_the_reason(make, changes, reason):
    response = make().post("/setup", json=setup_request(**changes))
    assert response.status_code == 400
    error = response.get_json()["error"]
    assert reason in error and "\n" not in error


def test_training_and_imports_wake_jobs_and_label_studio_finds_the_job(make, jobs):
    client = make()
    response = client.post("/webhook", json={"action": "START_TRAINING", "project": PROJECT})
    assert response.status_code == 201
    assert response.get_json()["job"] == response.get_json()["job_id"] == f"train-{KEY}-00001"
    client.post("/webhook", json={"action": "TASKS_CREATED", "project": PROJECT, "tasks": []})
    client.post("/webhook", json={"action": "ANNOTATIONS_DELETED", "project": PROJECT, "annotations": [{"id": 1}]})
    assert jobs.requests == [("train", KEY), ("score", KEY), ("score", KEY)]


def test_annotations_wake_a_check_only_where_the_project_asks_for_it(make, jobs):
    client = make()
    event = {"action": "ANNOTATION_CREATED", "project": PROJECT, "annotation": {}, "task": {}}
    client.post("/setup", json=setup_request(extra_params={"train_after": 0}))
    assert client.post("/webhook", json=event).get_json()["status"] == "ignored"
    assert jobs.requests == []
    client.post("/setup", json=setup_request(extra_params={"train_after": 5}))
    assert client.post("/webhook", json=event).status_code == 201
    client.post("/webhook", json={**event, "action": "ANNOTATION_UPDATED"})
    assert jobs.requests == [("check", KEY)] * 2
    client.post("/setup", json=setup_request(extra_params=None))  # back to the service's own: after 20
    assert client.post("/webhook", json=event).status_code == 201


@pytest.mark.parametrize("action", ["PROJECT_UPDATED", "TASKS_DELETED", "LABEL_LINK_CREATED", "SOMETHING_NEW"])
def test_other_events_are_answered_politely_and_wake_nothing(make, jobs, action):
    response = make().post("/webhook", json={"action": action, "project": PROJECT})
    assert (response.status_code, response.get_json()["status"]) == (200, "ignored")
    assert jobs.requests == []


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"{}", b'{"action": "START_TRAINING"}', b'{"action": "START_TRAINING", "project": 4}'],
)
def test_a_webhook_that_cannot_be_understood_is_one_line(make, jobs, body):
    response = make().post("/webhook", data=body, content_type="application/json")
    assert response.status_code == 400
    assert "\n" not in response.get_json()["error"]
    assert jobs.requests == []


def test_versions_of_one_project_or_of_all(make, tmp_path):
    first, second = finished_version(tmp_path, 1), finished_version(tmp_path, 2)
    client = make()
    told = client.get(f"/versions?project={KEY}").get_json()
    assert (told["versions"], told["active"]) == ([first, second], second)
    assert set(told["summaries"]) == {first, second} and "labelled" not in told["summaries"][first], "which may be long"
    (tmp_path / KEY / "versions" / first / "card.json").write_text("{")
    damaged = client.get(f"/versions?project={KEY}").get_json()["summaries"]
    assert "is damaged" in damaged[first]["warnings"][0] and damaged[second] == told["summaries"][second]
    none = {"versions": [], "active": None, "summaries": {}, "push_top": 0, "clusters": 0, "left_out": {}}
    assert client.get("/versions?project=5.1").get_json() == none
    bare = client.get(f"/versions?project={KEY.split('.')[0]}").get_json()
    assert bare == client.get(f"/versions?project={KEY}").get_json()
    unknown = client.get("/versions?project=77")
    assert unknown.status_code == 400
    assert "project '77' has done nothing here yet" in unknown.get_json()["error"]
    assert client.get("/versions").get_json() == {"versions": [first, second], "active": {KEY: second}}


def test_job_status_both_ways_and_a_job_that_is_no_more(make, jobs):
    seconds = {"train": 2.0, "score": 1.0, "push": 0.5}
    state = {"job_id": "a", "status": "SUCCESS", "job_status": "finished", "seconds": seconds}
    jobs.states["a"] = state
    client = make()
    answer = client.get("/job_status?job_id=a").get_json()
    assert answer == state and list(answer["seconds"]) == list(seconds), "in their order"
    assert client.post("/job_status", json={"job": "a"}).get_json() == state
    assert client.get("/job_status?job_id=b").status_code == 404
    assert client.post("/job_status", json={"job": "b"}).status_code == 410
    assert client.get("/job_status").status_code == 400


def test_a_training_is_cancelled_where_there_is_one(make, jobs):
    client = make()
    refused = client.post("/cancel", json={"project": "4"})
    assert (refused.status_code, refused.json["error"]) == (
        400,
        "project 4 has no training or ranking that could be cancelled.",
    )
    jobs.request("train", KEY)
    for project in ("4", KEY):
        assert client.post("/cancel", json={"project": project}).json == {"job_ids": [f"train-{KEY}-00001"]}


def test_a_job_that_nobody_runs_says_so_and_what_starts_the_worker(make, jobs, tmp_path):
    jobs.states["a"] = {"job_id": "a", "status": "QUEUED", "job_status": "queued"}
    client = make()
    waits = client.get("/job_status?job_id=a").get_json()["waits"]
    assert "the worker does not run; start it with" in waits and "-m backend worker" in waits
    with worker_lock.hold(tmp_path):
        assert "waits" not in client.get("/job_status?job_id=a").get_json()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("POST", "/setup"), ("POST", "/webhook"), ("GET", "/versions")]
)
def test_basic_authentication_guards_everything(make, method, path):
    client = make(BASIC_AUTH_USER="müller", BASIC_AUTH_PASS="geheim")

    def status(credentials: str | None) -> int:
        token = base64.b64encode(credentials.encode()).decode() if credentials else ""
        headers = {"Authorization": f"Basic {token}"} if credentials else {}
        return client.open(path, method=method, headers=headers, data=b"").status_code

    assert status(None) == status("müller:falsch") == status("anna:geheim") == status("geheim:müller") == 401
    assert status("müller:geheim") in (200, 400)


def test_errors_are_json_of_one_line(make, jobs):
    client = make()
    for response in (
        client.get("/nowhere"),
        client.get("/webhook"),
        client.post("/predict", json={"tasks": 3}),
    ):
        assert "\n" not in response.get_json()["error"]
    assert [client.get("/nowhere").status_code, client.get("/webhook").status_code] == [404, 405]
    jobs.request = lambda kind, key: 1 / 0
    broken = client.post("/webhook", json={"action": "START_TRAINING", "project": PROJECT})
    assert (broken.status_code, broken.get_json()) == (500, {"error": "ZeroDivisionError: division by zero"})


def run_backend(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
    variables = {"PATH": "", "MODEL_DIR": str(folder), "LABEL_STUDIO_API_KEY": "token", **environ}
    command = [sys.executable, "-m", "backend", *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TSP_EPOCHS": "many"}, "epochs"),
        ({"LABEL_STUDIO_API_KEY": ""}, "LABEL_STUDIO_API_KEY"),
        ({"PORT": "x"}, "PORT"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line_and_code_2(tmp_path, environ, named):
    done = run_backend(tmp_path, **environ)
    assert done.returncode == 2
    assert named in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_one_line_and_leaves_nothing_running(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_backend(tmp_path, "--port", str(port))
    assert done.returncode == 1
    assert str(port) in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_lists_every_variable(tmp_path):
    text = run_backend(tmp_path, "--help").stdout
    assert all(variable.name in text for variable in settings.documented_variables())


def test_without_a_training_the_status_tells_what_failed_before(make, jobs, tmp_path):
    client = make()
    assert client.get("/job_status?project=4").get_json() == {"error": "project 4 had no training here yet."}
    refused, fine = f"score-{KEY}-00002", f"check-{KEY}-00001"
    jobs.states[refused] = {"job_id": refused, "status": "ERROR", "error": "the token is refused."}
    jobs.states[fine] = {"job_id": fine, "status": "SUCCESS", "error": None}
    answer = client.get("/job_status?project=4")
    said = "project 4 had no training here yet; the last score failed: the token is refused."
    assert (answer.status_code, answer.get_json()) == (404, {"error": said})


def test_job_status_reads_what_the_worker_writes(tmp_path):
    job = Progress(tmp_path, f"train-{KEY}-00001")
    job.start()
    job.fail("no images")
    client = create_app(settings.load({"MODEL_DIR": str(tmp_path)})).test_client()
    state = client.get(f"/job_status?job_id=train-{KEY}-00001").get_json()
    assert (state["status"], state["job_status"], state["error"]) == ("ERROR", "failed", "no images")
    assert json.dumps(state)


def test_with_authentication_setup_asks_for_webhooks_that_send_it_until_they_do(make, jobs, tmp_path):
    client = make(BASIC_AUTH_USER="anna", BASIC_AUTH_PASS="geheim")
    headers = {"Authorization": "Basic " + base64.b64encode(b"anna:geheim").decode()}
    for _ in range(2):
        client.post("/setup", json=setup_request(), headers=headers)
    assert jobs.requests == [("connect", KEY)] * 2
    service = settings.load({"BASIC_AUTH_USER": "anna", "BASIC_AUTH_PASS": "geheim"})
    Versions(tmp_path, KEY).authorised_file.parent.mkdir(parents=True, exist_ok=True)
    Versions(tmp_path, KEY).authorised_file.write_text(service.credentials_digest)
    client.post("/setup", json=setup_request(), headers=headers)
    assert len(jobs.requests) == 2
    make().post("/setup", json=setup_request())
    assert len(jobs.requests) == 2


def test_a_request_that_does_not_say_how_long_it_is_is_not_read(make):
    answer = make().post("/predict", headers={"Transfer-Encoding": "chunked"})
    assert answer.status_code == 411 and answer.json["error"].startswith("411 ")


def test_files_that_are_damaged_leave_the_rest_answering(make, tmp_path, caplog):
    client = make()
    client.post("/setup", json=setup_request())
    Versions(tmp_path, KEY).order_file.write_text("")
    (tmp_path / KEY / "extra_params.json").write_text("")
    (tmp_path / "5.1700000000").mkdir()
    Versions(tmp_path, "5.1700000000").order_file.write_text('{"next_task": "lowest score first"}')
    health = client.get("/health")
    assert health.status_code == 200 and list(health.json["ordering"]) == ["5.1700000000"]
    assert remembered_extra_params(tmp_path, KEY) == {} and "is damaged" in caplog.text
    assert client.post("/setup", json=setup_request()).status_code == 200
    assert json.loads((tmp_path / KEY / "extra_params.json").read_text()) == {}


def test_a_request_that_announces_too_much_is_not_read(make):
    environ = create_environ("/predict", method="POST") | {"CONTENT_LENGTH": str(600 * 2**20)}
    said, status, _ = run_wsgi_app(make().application, environ)  # old test clients count the bytes themselves
    assert status.startswith("413 ") and json.loads(b"".join(said))["error"].startswith("413 ")
