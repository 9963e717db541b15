"""What breaks beneath the service: a full disk, torn files, a damaged job database. The old version goes on."""

from __future__ import annotations

import ctypes
import io
import json
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests
import torch
from flask.testing import FlaskClient
from label_studio_sdk import LabelStudio
from PIL import Image

from backend import project_settings, serving, settings
from backend.__main__ import _cannot_start
from backend.answers import AnswerCache
from backend.app import create_app
from backend.images import fetch_image
from backend.job_database import put_aside_if_damaged
from backend.jobs import Jobs
from backend.progress import Progress
from scripts.backend_process import BackendProcess
from scripts.processes import free_port
from tests.builders import disc_set, new_version, prediction
from tests.web import Server
from tsp_model import checkpoints
from tsp_model.cycle import TRAINING_STATE, train_cycle
from tsp_model.files import write_atomically
from tsp_model.predictions import read_predictions, write_predictions
from tsp_model.settings import Settings

KEY = "4.1700000000"
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="tag" toName="image"><Label value="PED"/></BrushLabels></View>"""


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: writing then fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The job database


def jobs_at(folder: Path) -> tuple[str, str]:
    """A job database with one job in it, closed; its address and the job."""
    url = f"sqlite:///{folder / 'jobs.sqlite'}"
    jobs = Jobs(url, folder)
    job = jobs.request("train", KEY)
    jobs.close()
    return url, job


def test_a_whole_job_database_stays(tmp_path: Path) -> None:
    url, job = jobs_at(tmp_path)
    assert put_aside_if_damaged(url) is None
    jobs = Jobs(url, tmp_path)
    assert jobs.status(job)["status"] == "QUEUED"
    jobs.close()
    assert put_aside_if_damaged(f"sqlite:///{tmp_path}/not-there.sqlite") is None


@pytest.mark.parametrize("damage", ["no database", "a page of noise", "cut off"])
def test_a_damaged_one_is_put_aside_whole_and_a_new_one_begins(tmp_path: Path, damage: str) -> None:
    url, _ = jobs_at(tmp_path)
    path = tmp_path / "jobs.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    size = len(whole)
    broken = {
        "no database": b"something else" * 1000,
        "a page of noise": whole[:4096] + bytes(range(256)) * 64 + whole[4096 + 256 * 64 :],
        "cut off": whole[: size // 2],
    }[damage]
    path.write_bytes(broken)
    said = put_aside_if_damaged(url)
    assert said is not None and str(path) in said and "\n" not in said
    (aside,) = [entry for entry in tmp_path.iterdir() if ".damaged-" in entry.name and entry.suffix not in ("-wal",)]
    assert aside.read_bytes() == broken and aside.name in said
    jobs = Jobs(url, tmp_path)
    assert jobs.request("train", KEY) == f"train-{KEY}-00001"
    jobs.close()


def test_the_service_starts_on_a_damaged_job_database_and_says_so(tmp_path: Path) -> None:
    with BackendProcess(tmp_path, free_port(), f"http://127.0.0.1:{free_port()}", "token") as backend:
        pass  # makes a whole one
    jobs_at(backend.model_dir)
    (backend.model_dir / "jobs").mkdir(exist_ok=True)
    (backend.model_dir / "jobs" / f"train-{KEY}-00001.json").write_text('{"status": "SUCCESS"}')
    (backend.model_dir / "jobs.sqlite").write_bytes(b"something else" * 1000)
    with backend:
        assert "is damaged" in backend.log.read_text()
        event = {"action": "START_TRAINING", "project": {"id": 4, "created_at": "2023-11-14T22:13:20Z"}}
        job = requests.post(f"{backend.url}/webhook", json=event, timeout=30).json()["job_id"]
        status = requests.get(f"{backend.url}/job_status", params={"job_id": job}, timeout=30).json()
        assert status["status"] in ("QUEUED", "RUNNING"), "no old state passes for that of a new job"
    assert "Traceback" not in backend.log.read_text()


def test_a_busy_database_is_no_damaged_one(tmp_path: Path) -> None:
    url, _ = jobs_at(tmp_path)
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        assert put_aside_if_damaged(url) is None
    assert (tmp_path / "jobs.sqlite").is_file()


# Torn files


def test_a_training_whose_state_is_torn_begins_anew_and_ends_as_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = disc_set(tmp_path / "images", 4)
    method = Settings.preset("tiny").override({"image_size": 64, "epochs": 2, "batch_size": 2})
    torn, whole = tmp_path / "torn", tmp_path / "whole"
    torn.mkdir()
    (torn / TRAINING_STATE).write_bytes(b"PK\x03\x04 the beginning of a zip")
    for folder in (torn, whole):
        train_cycle(images, images.subset([]), None, method, folder)
    assert "begins anew" in caplog.text and "\n" not in caplog.records[0].getMessage()
    assert (torn / checkpoints.WEIGHTS).read_bytes() == (whole / checkpoints.WEIGHTS).read_bytes()


class Harm:
    """What runs code where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_a_training_state_that_would_run_code_is_not_unpickled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = disc_set(tmp_path / "images", 2)
    method = Settings.preset("tiny").override({"image_size": 64, "epochs": 1, "batch_size": 2})
    folder = tmp_path / "version"
    folder.mkdir()
    torch.save({"epochs_done": 1, "model": Harm(tmp_path / "harmed")}, folder / TRAINING_STATE)
    train_cycle(images, images.subset([]), None, method, folder)
    assert "begins anew" in caplog.text and not (tmp_path / "harmed").exists()


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path) -> None:
    version = new_version(tmp_path, KEY)
    folder = tmp_path / KEY / "versions" / version
    torch.save({"weights": Harm(tmp_path / "harmed")}, folder / checkpoints.WEIGHTS)
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.load(folder)
    assert not (tmp_path / "harmed").exists()


# A full disk


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    write_predictions(path, [prediction("1", [(0.9, 0.8, 0.7)])])
    many = [prediction(str(number), [(0.9, 0.8, 0.7)] * 5) for number in range(50)]
    with small_files(4096), pytest.raises(OSError, match="File too large"):
        write_predictions(path, many)
    assert list(read_predictions(path)) == ["1"]
    assert list(tmp_path.iterdir()) == [path], "nothing half written stays"


def test_a_full_disk_is_one_whatever_the_library_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1000 vs 900")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_atomically(tmp_path / "model", write)
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="No space left on device"):
        write_atomically(tmp_path / "model", write)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "x.bmp")
    server = Server()
    server.pages["/x.bmp"] = (200, {}, (tmp_path / "x.bmp").read_bytes())
    client, cache = LabelStudio(base_url=server.url, api_key="a" * 40), tmp_path / "cache"
    with small_files(4096), pytest.raises(OSError, match="File too large"):
        fetch_image("/x.bmp", client, cache)
    assert list(cache.iterdir()) == []
    assert fetch_image("/x.bmp", client, cache).stat().st_size > 4096
    server.close()


# A folder that cannot be written


class _Capabilities(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def without_the_right_to_write_everywhere() -> Iterator[None]:
    """root writes where it may not, unless this thread lays CAP_DAC_OVERRIDE down (capabilities(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()
    assert libc.capget(header, sets) == 0
    before, dac_override = sets[0].effective, 1 << 1
    try:
        sets[0].effective &= ~dac_override
        assert libc.capset(header, sets) == 0
        yield
    finally:
        sets[0].effective = before
        assert libc.capset(header, sets) == 0


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in `folder` can be changed, made or deleted by this thread."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & 0o7555)
    try:
        with without_the_right_to_write_everywhere():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_folder_that_became_read_only_ends_trainings_with_a_line_and_the_old_version_answers(
    web: FlaskClient, studio: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    version = new_version(models, KEY)
    pixels = io.BytesIO()
    Image.new("RGB", (64, 64)).save(pixels, "PNG")
    studio.pages |= {f"/{name}.png": (200, {}, pixels.getvalue()) for name in ("known", "new")}

    def predicted(*names: str) -> list[str | None]:
        tasks = [{"id": i, "data": {"image": f"/{name}.png"}} for i, name in enumerate(names, start=1)]
        body = {"tasks": tasks, "project": KEY, "label_config": CONFIG, "params": {}}
        return [one and one["model_version"] for one in web.post("/predict", data=json.dumps(body)).json["results"]]

    assert predicted("known") == [version]
    event = json.dumps({"action": "START_TRAINING", "project": {"id": 4, "created_at": "2023-11-14T22:13:20Z"}})
    assert web.post("/webhook", data=event).status_code in (200, 201)
    serving.ANSWERS = AnswerCache()  # as after a restart
    with read_only(models):
        with pytest.raises(OSError, match="Permission denied"):
            (models / "x").touch()
        setup = {"project": KEY, "schema": CONFIG, "extra_params": {"train_after": 3}}
        answer = web.post("/setup", data=json.dumps(setup))
        assert (answer.status_code, answer.json) == (200, {"model_version": version})
        assert predicted("known", "new") == [version, []], "an image that cannot be kept leaves its task open"
        assert "Permission denied" in caplog.text
        job = Progress(models, f"train-{KEY}-00001")
        with pytest.raises(OSError, match="Permission denied"):
            job.start()
    assert predicted("known", "new") == [version, version]


def test_the_service_does_not_start_on_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with read_only(tmp_path):
        reason = _cannot_start(settings.load({"MODEL_DIR": str(tmp_path)}), "worker")
    assert reason == f"MODEL_DIR={tmp_path} cannot be written (Permission denied); choose another folder."


@pytest.fixture
def studio() -> Iterator[Server]:
    """What /predict asks of Label Studio."""
    server = Server()
    server.pages["/api/current-user/whoami"] = (200, {}, b'{"email": "ann@example.org"}')
    yield server
    server.close()


@pytest.fixture
def web(studio: Server, tmp_path: Path) -> Iterator[FlaskClient]:
    environ = {"MODEL_DIR": str(tmp_path / "models"), "LABEL_STUDIO_URL": studio.url, "LABEL_STUDIO_API_KEY": "a" * 40}
    service = settings.load(environ)
    jobs = Jobs(service.database_url, service.model_dir)
    yield create_app(service, jobs).test_client()
    jobs.close()


def test_setup_answers_with_the_old_version_though_nothing_can_be_kept(
    web: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    version = new_version(tmp_path / "models", KEY)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(project_settings, "write_json", full)
    body = {"project": KEY, "schema": CONFIG, "extra_params": {"train_after": 3}}
    answer = web.post("/setup", data=json.dumps(body))
    assert (answer.status_code, answer.json) == (200, {"model_version": version})
    assert "cannot be kept: OSError: [Errno 28] No space left on device" in caplog.text


def test_a_webhook_says_in_one_line_that_the_job_database_cannot_be_used(
    web: FlaskClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = new_version(tmp_path / "models", KEY)
    (tmp_path / "models" / "jobs.sqlite").write_bytes(b"something else" * 1000)
    event = {"action": "START_TRAINING", "project": {"id": 4, "created_at": "2023-11-14T22:13:20Z"}}
    answer = web.post("/webhook", data=json.dumps(event))
    assert answer.status_code == 500 and "not a database" in answer.json["error"] and "\n" not in answer.json["error"]
    body = {"project": KEY, "schema": CONFIG}
    assert web.post("/setup", data=json.dumps(body)).json == {"model_version": version}, "and goes on answering"
