"""A job database in a folder or on PostgreSQL, and workers on it whose steps only say that they ran."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backend.jobs import Jobs

KEY = "4.1700000000"
ROOT = Path(__file__).parent.parent

# A worker whose steps write a line each and wait for a file of their name where one is asked for.
WORKER = """
import errno, os, sys, threading, time
from pathlib import Path
from backend.connection import UnansweredError
from backend.jobs import Jobs
from backend.presence import Alone, Shared
from backend.stranded import Stranded
from backend.workflows import start_worker

folder, url = Path(sys.argv[1]), sys.argv[2]

class Steps:
    def _do(self, name, key, job=None):
        with (folder / "pids").open("a") as pids:  # first: who waits for a line in the log may ask whose it is
            pids.write(f"{name} {key} {os.getpid()}\\n")
        with (folder / "log").open("a") as log:
            log.write(f"{name} {key}\\n")
        while (folder / f"hold-{name}").exists():
            time.sleep(0.01)
            if job is not None:
                job.update({"done": 1})
        if (folder / f"fail-{name}").exists():
            raise ValueError(f"{name} cannot go on;\\n do something")
        if (folder / f"away-{name}").exists():
            raise UnansweredError("no Label Studio answers")
        if (folder / f"full-{name}").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return {}
    def pull(self, key, job):
        self._do("pull", key)
        return {"version": "tsp-0001-20260101T000000"}
    def train(self, key, version, job):
        job.update({"done": 1, "total": 2, "loss": 0.5, "eta_seconds": 3.0})
        return self._do("train", key, job)
    def compare(self, key, version, job):
        return {"worse": (folder / "worse").exists(), "message": "it is worse.", **self._do("compare", key)}
    def score(self, key, version, job): return self._do("score", key)
    def push(self, key, version, job): return self._do("push", key, job)
    def switch(self, key, version, job): return self._do("switch", key)
    def prune(self, key, job): return self._do("prune", key)
    def discard(self, key, version, job): return self._do("discard", key)
    def wanted(self, key, job):
        self._do("wanted", key)
        return {"version": (folder / "wanted").read_text()}
    def derive(self, key, job):
        new = (folder / "new").exists()
        return {"version": "tsp-0001-20260101T000000", "strategy": "tsp", "new": new, **self._do("derive", key)}
    def catch_up(self, key, version, job): return self._do("catch_up " + version, key, job)
    def due(self, key, job): return {"due": (folder / "due").exists(), **self._do("due", key)}
    def score_new(self, key, job): return self._do("score_new", key)
    def connect(self, key, job): return {"found": True, **self._do("connect", key)}

presence = Alone(folder) if url.startswith("sqlite") else Shared(url)
presence.hold()
start_worker(url, folder, Steps(), presence.executor_id)
(folder / f"started-{os.getpid()}").touch()
stranded = Stranded(Jobs(url, folder), folder, presence)
while True:
    time.sleep(0.5)
    try:
        stranded.look()
    except Exception as error:
        print(f"cannot look: {error}", file=sys.stderr)
"""


TRAINING = ("pull", "train", "compare", "score", "push", "switch", "prune")


class Bench:
    """What `folder` holds: the jobs' states, a log of the steps; the job database, too, unless `url` says where."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder, self.url = folder, url or f"sqlite:///{folder}/jobs.sqlite"
        self.jobs = Jobs(self.url, folder)
        self.workers: list[subprocess.Popen] = []

    def worker(self) -> subprocess.Popen:
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        errors = (self.folder / "stderr").open("ab")
        command = [sys.executable, "-c", WORKER, str(self.folder), self.url]
        self.workers.append(subprocess.Popen(command, env=environ, stderr=errors))
        return self.workers[-1]

    def all_started(self) -> bool:
        """Whether the workers are ready for jobs; they count as present before that."""
        return all((self.folder / f"started-{worker.pid}").exists() for worker in self.workers)

    def hold(self, step: str) -> None:
        (self.folder / f"hold-{step}").touch()

    def release(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink()

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def in_training(self, key: str = KEY) -> str:
        """A job of that project, its worker in the midst of the training until `release("train")`."""
        self.hold("train")
        job_id = self.jobs.request("train", key)
        self.until(lambda: f"train {key}" in self.log(), "the training to start")
        return job_id

    def killed_in_training(self) -> str:
        """Such a job, its worker killed and no other there."""
        worker = self.worker()
        job_id = self.in_training()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        return job_id

    def waits_for(self, job_id: str, before: str) -> bool:
        """Whether a job says that it waits for `before`, which is in the midst of its training."""
        # The status of a training in progress is written now and then: it may have named the phase only.
        training = (f"the job before it: {before}: train" + more for more in ("", ", 1 of 2, loss 0.500, 3 s left"))
        return self.jobs.status(job_id)["waits"] in training

    def worker_of(self, step: str) -> subprocess.Popen:
        """Who ran a step last."""
        lines = (line.rpartition(" ") for line in (self.folder / "pids").read_text().splitlines())
        pid = [int(pid) for found, _, pid in lines if found == step][-1]
        return next(worker for worker in self.workers if worker.pid == pid)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + 180
        while not condition():
            if time.monotonic() > deadline or any(worker.poll() == 1 for worker in self.workers):
                pytest.fail(f"waited for: {what}\n{self.log()}\n{(self.folder / 'stderr').read_text()}")
            time.sleep(0.02)

    def ended(self, job_id: str) -> dict:
        self.until(lambda: self.jobs.status(job_id)["job_status"] in ("finished", "failed"), f"end of {job_id}")
        return self.jobs.status(job_id)

    def close(self) -> None:
        self.jobs.close()
        for worker in self.workers:
            worker.kill()
            worker.wait()


@contextmanager
def opened(folder: Path, url: str = "") -> Iterator[Bench]:
    """A Bench, closed in the end."""
    bench = Bench(folder, url)
    try:
        yield bench
    finally:
        bench.close()
