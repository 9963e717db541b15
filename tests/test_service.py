"""`python -m backend` as a whole: up at once, both parts end together, nothing stays behind."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import service as asking
from scripts.processes import free_port
from tests.live import until
from tests.web import Server

ROOT = Path(__file__).resolve().parent.parent
IMPATIENT = """
from backend import web_worker
web_worker.ARRIVAL_SECONDS = 1.0
from backend.__main__ import main
main(["web"])
"""
EVENT = {"action": "START_TRAINING", "project": {"id": 4, "created_at": "2023-11-14T22:13:20Z"}}


class Service:
    """The command in a folder of its own, with nobody at LABEL_STUDIO_URL."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._log = folder / "log"
        environ = os.environ | {
            "LABEL_STUDIO_URL": f"http://127.0.0.1:{free_port()}",
            "LABEL_STUDIO_API_KEY": "token",
            "MODEL_DIR": str(folder / "models"),
            "PORT": str(self.port),
            "TSP_PRESET": "tiny",
        }
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "backend"], cwd=ROOT, env=environ, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def call(self, path: str, body: dict | None = None) -> dict | None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:
            return None

    def children(self) -> dict[str, int]:
        """The pids of web and worker."""
        listing = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in listing}
        return {part: int(pid) for pid, line in names.items() for part in ("web", "worker") if part.encode() in line}

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited for: {what}\n{self.log}")
            time.sleep(0.05)


def gone(pids: dict[str, int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids.values())


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    try:
        service.until(lambda: service.call("/health"), "/health")
        service.until(lambda: len(service.children()) == 2, "both parts")
        yield service
    finally:
        service.process.kill()
        service.process.wait()


@pytest.mark.slow  # the job waits a minute for Label Studio to come back
def test_a_job_without_label_studio_fails_in_one_line_and_a_signal_ends_both(service: Service) -> None:
    job_id = service.call("/webhook", EVENT)["job"]
    service.until(lambda: service.call(f"/job_status?job_id={job_id}")["job_status"] == "failed", "failure", 300)
    error = service.call(f"/job_status?job_id={job_id}")["error"]
    assert "no Label Studio answers" in error and "\n" not in error
    children = service.children()
    assert set(children) == {"web", "worker"}
    service.process.terminate()
    assert service.process.wait(30) == 0
    assert gone(children)
    assert "Traceback" not in service.log


@pytest.mark.parametrize("part", ["web", "worker"])
def test_if_one_part_dies_the_other_is_stopped_and_it_is_said(service: Service, part: str) -> None:
    children = service.children()
    os.kill(children[part], signal.SIGKILL)
    assert service.process.wait(30) == 1
    assert f"the {part} process ended by signal 9 (Killed), perhaps because memory ran out" in service.log
    assert f"start again with `TSP_PRESET=tiny {sys.executable} -m backend`" in service.log
    service.until(lambda: gone(children) and service.call("/health") is None, "the end of the other part")


def test_in_a_file_a_job_s_progress_is_a_line_for_each_phase_and_now_and_then_one_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"phase": "train", "done": 3, "total": 9, "loss": 0.25, "eta_seconds": 40.0}
    states = iter(
        [
            {"phase": None},
            training | {"done": 1},
            training | {"done": 2},
            training,
            {"phase": "score", "done": 0},
            {"phase": "score", "done": 0, "waits": "Label Studio is away"},
        ]
    )
    ended = {"status": "SUCCESS", "job_status": "finished"}
    seconds = itertools.count(0.0, 20.0)
    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: next(seconds)))
    backend = Server()

    def answer(_: object) -> tuple[int, dict[str, str], bytes]:
        state = next(states, None)
        status = ended if state is None else {"status": "RUNNING", "job_status": "started", **state}
        return 200, {"Content-Type": "application/json"}, json.dumps(status).encode()

    backend.otherwise = answer
    assert asking.Service(backend.url).wait("train-4.1-00001", "cycle 1") == ended
    backend.close()
    assert capsys.readouterr().err.splitlines() == [
        "cycle 1: train, 1 of 9, loss 0.250, 40 s left",
        "cycle 1: train, 3 of 9, loss 0.250, 40 s left",
        "cycle 1: score",
        "cycle 1 waits: Label Studio is away",
    ]


def test_who_waits_for_a_job_hears_that_the_worker_is_gone_and_what_starts_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.process.send_signal(signal.SIGSTOP)  # or it would end the web service, too
    os.kill(service.children()["worker"], signal.SIGKILL)
    monkeypatch.setattr(asking, "PATIENCE_SECONDS", 0.0)
    job_id = service.call("/webhook", EVENT)["job"]
    waiting = asking.Service(f"http://127.0.0.1:{service.port}")
    ends = []

    def wait() -> None:
        with pytest.raises(asking.ServiceError) as ended:
            waiting.wait(job_id, "a training")
        ends.append(str(ended.value))

    thread = threading.Thread(target=wait)
    thread.start()
    told = ""
    while (
        f"a training waits: the worker does not run; start it with `TSP_PRESET=tiny {sys.executable} -m backend worker`"
        not in told
    ):
        assert thread.is_alive()
        told += capsys.readouterr().err
        time.sleep(0.1)
    service.process.send_signal(signal.SIGCONT)
    thread.join(30)
    assert "no backend answers" in ends[0] and f"{sys.executable} -m backend`" in ends[0]


def test_nothing_outlives_a_killed_supervisor(service: Service) -> None:
    children = service.children()
    service.process.kill()
    service.process.wait()
    service.until(lambda: gone(children) and service.call("/health") is None, "the end of both parts")


def test_a_second_worker_on_the_same_folder_is_refused(service: Service, tmp_path: Path) -> None:
    service.until((tmp_path / "models" / "worker.lock").exists, "the first worker")
    environ = os.environ | {"LABEL_STUDIO_API_KEY": "token", "MODEL_DIR": str(tmp_path / "models")}
    command = [sys.executable, "-m", "backend", "worker"]
    second = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "another worker" in second.stderr and len(second.stderr.splitlines()) == 1


def test_requests_that_never_arrive_whole_hold_no_thread_for_long(tmp_path: Path) -> None:
    port = free_port()
    environ = os.environ | {"LABEL_STUDIO_API_KEY": "x", "MODEL_DIR": str(tmp_path), "PORT": str(port)}
    with subprocess.Popen([sys.executable, "-c", IMPATIENT], cwd=ROOT, env=environ) as process:
        health = f"http://127.0.0.1:{port}/health"
        try:
            until(lambda: answers(health), "the service")
            halves = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
            for number, half in enumerate(halves):
                begin = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Le"
                half.sendall(begin if number % 2 else begin + b"ngth: 100\r\n\r\n{")
            until(lambda: answers(health), "room for others, of 16 threads")
            for half in halves:
                half.close()
            assert answers(health)
        finally:
            process.terminate()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
