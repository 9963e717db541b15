"""The backend beside a Label Studio that is slow, refuses for a while, or does what it never answers for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from label_studio_sdk import LabelStudio

from backend.project import LabelStudioProject
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from tests.live import CURIOUS, QUICK, Loop, connect_backend, filled_project, predictions_of, regions, until
from tests.web import Server
from tsp_model.data.image_set import ImageSet

Answer = tuple[int, dict[str, str], bytes] | None
# requests has undone these already.
OF_THE_CONNECTION = {"content-encoding", "transfer-encoding", "content-length", "connection", "keep-alive", "host"}


class Troubled(Server):
    """The real server behind an address of its own; `trouble` decides what becomes of a call."""

    def __init__(self, studio: LabelStudioServer) -> None:
        super().__init__()
        self._studio = studio.url
        self.trouble: Callable[[SimpleNamespace], Answer] = self.pass_on
        self.otherwise = lambda request: self.trouble(request)

    def pass_on(self, request: SimpleNamespace) -> Answer:
        """What the real server answers."""
        headers = {name: value for name, value in request.headers.items() if name.lower() not in OF_THE_CONNECTION}
        answer = requests.request(
            request.method,
            self._studio + request.path,
            headers=headers,
            data=request.body,
            allow_redirects=False,
            timeout=120,
        )
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in OF_THE_CONNECTION}
        return answer.status_code, kept, answer.content


@pytest.fixture
def troubled(label_studio: LabelStudioServer) -> Iterator[Troubled]:
    server = Troubled(label_studio)
    yield server
    server.close()


@pytest.fixture
def loop(
    client: LabelStudio, label_studio: LabelStudioServer, troubled: Troubled, images: ImageSet, tmp_path: Path
) -> Iterator[tuple[Loop, list[int]]]:
    """A project with two annotations and a service that reaches Label Studio through the troubled address only."""
    project, tasks = filled_project(client, images)
    environ: dict[str, Any] = {**QUICK, "TSP_LOOK_MINUTES": "0"}
    with BackendProcess(tmp_path, free_port(), troubled.url, label_studio.api_key, **environ) as backend:
        connect_backend(project, backend.url, extra_params=CURIOUS | {"train_after": 0})
        for task, item in zip(tasks[:2], images.items, strict=False):
            project.submit_annotation(task, regions(project, item))
        yield Loop(project, backend), tasks


def is_push(request: SimpleNamespace) -> bool:
    return request.path.split("?")[0].endswith("import/predictions")


def holders(project: LabelStudioProject, tasks: list[int], version: str) -> list[int]:
    """How many predictions of a version each task has."""
    held = [predictions_of(project, task) for task in tasks]
    return [sum(one["model_version"] == version for one in found) for found in held]


def test_a_push_that_is_refused_and_one_whose_answer_never_comes_are_made_good(
    loop: tuple[Loop, list[int]], troubled: Troubled
) -> None:
    (loop, tasks), pushes = loop, []

    def trouble(request: SimpleNamespace) -> Answer:
        if not is_push(request):
            return troubled.pass_on(request)
        pushes.append(request)
        if len(pushes) in (1, 2):
            return 503, {}, b"a moment"
        answer = troubled.pass_on(request)
        return None if len(pushes) == 3 else answer  # stored, and nobody hears of it

    troubled.trouble = trouble
    version = loop.train()
    assert len(pushes) >= 3, "the trouble was met"
    assert holders(loop.project, tasks[2:], version) == [1] * len(tasks[2:])
    assert holders(loop.project, tasks[:2], version) == [0, 0]
    assert set(loop.project.scores()) == set(tasks[2:]), "they order the tasks"
    log = loop.backend.log.read_text()
    assert "503" in log and "Traceback" not in log


def test_predictions_that_the_server_drops_are_named_and_the_old_version_stays(
    loop: tuple[Loop, list[int]], troubled: Troubled
) -> None:
    (loop, tasks), pushes = loop, []
    first = loop.train()

    def trouble(request: SimpleNamespace) -> Answer:
        if not is_push(request):
            return troubled.pass_on(request)
        pushes.append(request)  # of what it drops Label Studio says no more than a lower count
        return 201, {"Content-Type": "application/json"}, b'{"created": 1}'

    troubled.trouble = trouble
    loop.project.start_training()
    job = loop.status(project=loop.project.key)["job_id"]
    failed = until(lambda: (s := loop.status(job_id=job))["job_status"] == "failed" and s, "the failure")
    assert re.search(r"stored 1 of 6 predictions; those of tasks [0-9, ]+\.\.\. did not pass", failed["error"])
    assert len(pushes) == 1, "what another attempt would not change is not tried again"
    assert loop.versions.active() == first and loop.setup() == first
    assert set(loop.project.scores()) == set(tasks[2:]), "the old order stays"


@pytest.mark.slow
def test_a_server_that_takes_its_time_only_costs_time(loop: tuple[Loop, list[int]], troubled: Troubled) -> None:
    loop, tasks = loop

    def trouble(request: SimpleNamespace) -> Answer:
        time.sleep(0.3)  # each call, the images too
        return troubled.pass_on(request)

    troubled.trouble = trouble
    version = loop.train()
    assert holders(loop.project, tasks[2:], version) == [1] * len(tasks[2:])
