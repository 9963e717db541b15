"""scripts.active_learning as a user runs it: to its end, killed and gone on with, repeated when it is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from label_studio_sdk import LabelStudio

from backend.connection import call
from backend.project import LabelStudioProject
from backend.versions import Versions
from scripts.backend_process import REPOSITORY, BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port

LIMIT_SECONDS = 240.0
ARGUMENTS = [
    *("--data", "synthetic", "--train-images", "16", "--test-images", "6"),
    *("--cycles", "2", "--per-cycle", "4", "--set", "epochs=1", "--set", "image_size=64"),
]
KEYS = {
    "cycle", "strategy", "ssl", "labels", "pseudo_images", "pseudo_objects", "pseudo_precision", "picked_empty_share",
    "mask_ap50", "box_ap50", "seconds", "version", "seed",
}  # fmt: skip


@pytest.fixture(scope="module")
def backend(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key) as process:
        yield process


class Run:
    """The command in a folder of its own, started as often as a test likes."""

    def __init__(self, out: Path, server: LabelStudioServer, backend: BackendProcess, client: LabelStudio) -> None:
        self.out, self.backend, self.client = out, backend, client
        self.log = out.parent / "log"
        self._environment = os.environ | {"LABEL_STUDIO_API_KEY": server.api_key, "OMP_NUM_THREADS": "1"}
        connection = ["--url", server.url, "--backend-url", backend.url, "--model-dir", str(backend.model_dir)]
        self.command = [sys.executable, "-m", "scripts.active_learning", *ARGUMENTS, *connection, "--out", str(out)]

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, cwd=REPOSITORY, env=self._environment, stdout=log, stderr=log)

    def to_the_end(self) -> None:
        process = self.start()
        try:
            assert process.wait(LIMIT_SECONDS) == 0, self.log.read_text()[-3000:]
        finally:
            process.kill()

    def killed_when(self, condition: Callable[[], Any]) -> None:
        """Start it, and SIGKILL it as soon as `condition` holds."""
        process = self.start()
        deadline = time.monotonic() + LIMIT_SECONDS
        try:
            while not condition():
                assert process.poll() is None, f"ended too early\n{self.log.read_text()[-3000:]}"
                assert time.monotonic() < deadline, "waited for the moment to kill it"
                time.sleep(0.02)
        finally:
            process.kill()
            assert process.wait() == -signal.SIGKILL

    @property
    def state(self) -> dict[str, Any]:
        path = self.out / "experiment.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]

    def project(self) -> LabelStudioProject:
        return LabelStudioProject(self.client, self.state["project_id"])

    def annotations(self) -> dict[str, int]:
        """How many annotations each image has, by its name; those without one are left out."""
        project = self.project()
        found = {
            name: len(call(self.client, "GET", f"api/tasks/{task}/annotations/"))
            for name, task in project.task_ids_by_name().items()
        }
        return {name: count for name, count in found.items() if count}

    def trainings(self) -> dict[str, str]:
        """The status of every training that the project had."""
        found: dict[str, str] = {}
        while True:
            job_id = f"train-{self.project().key}-{len(found) + 1:05d}"
            answer = requests.get(f"{self.backend.url}/job_status", params={"job_id": job_id}, timeout=30)
            if not answer.ok:
                return found
            found[job_id] = answer.json()["job_status"]

    def everything(self) -> tuple[Any, ...]:
        """What a repetition must not change."""
        project = self.project()
        versions = Versions(self.backend.model_dir, project.key)
        tasks = project.task_ids_by_name()
        projects = call(self.client, "GET", "api/projects/")["count"]
        listed = (versions.list(), versions.active(), project.scores())
        return self.rows(), self.state, self.annotations(), self.trainings(), tasks, projects, listed


@pytest.fixture
def run(tmp_path: Path, label_studio: LabelStudioServer, backend: BackendProcess, client: LabelStudio) -> Run:
    return Run(tmp_path / "out", label_studio, backend, client)


def check_finished(run: Run) -> None:
    """Two cycles of four: each image annotated once, each training needed once, every number where it belongs."""
    rows, picked = run.rows(), run.state["picked"]
    assert [row["cycle"] for row in rows] == [1, 2]
    assert all(row.keys() >= KEYS for row in rows)
    assert [row["labels"] for row in rows] == [4, 8]
    assert rows[0]["pseudo_images"] == 0
    for row in rows:
        assert 0 <= row["mask_ap50"] <= 1 and 0 <= row["picked_empty_share"] <= 1
        assert {"label", "pull", "train", "score", "push", "switch", "evaluate", "cycle"} <= row["seconds"].keys()
    assert len(set(picked["1"] + picked["2"])) == 8
    assert run.annotations() == dict.fromkeys(picked["1"] + picked["2"], 1)
    assert list(run.trainings().values()) == ["finished", "finished"]
    versions = Versions(run.backend.model_dir, run.project().key)
    assert versions.list() == [row["version"] for row in rows]


@pytest.mark.slow
def test_killed_in_the_second_cycle_it_goes_on_and_finished_it_changes_nothing(run: Run) -> None:
    # While the oracle labels: some of the four images have their annotation.
    run.killed_when(lambda: "2" in run.state.get("picked", {}) and len(run.project().annotated_task_ids()) > 4)
    assert len(run.rows()) == 1
    before, first = run.state["picked"], run.rows()[0]
    check_lowest_were_picked(run, run.project().scores())
    # While the backend trains.
    run.killed_when(lambda: len(run.trainings()) == 2)
    assert len(run.rows()) == 1
    # Trained, but not evaluated yet.
    run.killed_when(lambda: "2" in run.state["jobs"])
    assert len(run.rows()) == 1
    run.to_the_end()
    assert run.state["picked"] == before, "what was picked stays picked"
    assert run.rows()[0] == first
    check_finished(run)
    finished = run.everything()
    run.to_the_end()
    assert run.everything() == finished


def check_lowest_were_picked(run: Run, scores: dict[int, float]) -> None:
    """`scores`: of the first version, as Label Studio has them."""
    tasks = run.project().task_ids_by_name()
    assert len(scores) == 12
    chosen = sorted(scores[tasks[name]] for name in run.state["picked"]["2"])
    assert chosen == pytest.approx(sorted(scores.values())[:4])


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--label-tag", "polygon"], ["--strategy", "random", "--no-ssl"]], ids=" ".join)
def test_it_runs_through_with_other_options(run: Run, arguments: list[str]) -> None:
    run.command += arguments
    run.to_the_end()
    check_finished(run)
    if "--no-ssl" in arguments:
        assert [row["pseudo_images"] for row in run.rows()] == [0, 0]
