"""kill -9 at random moments of train -> compare -> score -> push -> switch -> prune: nothing is lost or half done."""

from __future__ import annotations

import json
import operator
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from label_studio_sdk import LabelStudio
from safetensors.torch import load_file

from backend.connection import call
from backend.project import LabelStudioProject
from backend.snapshot import Snapshot
from backend.version_work import image_set
from backend.versions import Versions
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import ServerError, free_port, require_free_port, statuses
from tests.builders import disc_set
from tests.live import (
    LIMIT_SECONDS,
    QUICK,
    connect_backend,
    filled_project,
    predictions_of,
    project_values,
    regions,
    until,
)
from tsp_model.checkpoints import WEIGHTS
from tsp_model.cycle import TRAINING_STATE, train_cycle
from tsp_model.data.image_set import ImageSet
from tsp_model.settings import Settings

# Long enough to be hit in every phase; one thread, so that a training can be repeated to the last bit.
SLOW = QUICK | {"TSP_EPOCHS": "20", "TORCH_THREADS": "1", "TSP_TRAIN_AFTER": "1", "TSP_KEEP_VERSIONS": "2"}
KILLS = 20
PHASES = ("pull", "train", "compare", "score", "push", "switch", "prune")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return disc_set(tmp_path_factory.mktemp("images"), 60)


@pytest.fixture
def backend(label_studio: LabelStudioServer, tmp_path: Path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path, free_port(), label_studio.url, label_studio.api_key, **SLOW) as process:
        yield process


class Annotator:
    """Submits the next annotation each time, whether the backend is up or not."""

    def __init__(self, project: LabelStudioProject, tasks: list[int], images: ImageSet) -> None:
        self.project = project
        self._left = list(zip(tasks, images.items, strict=True))
        self.done: set[str] = set()

    def annotate(self) -> None:
        task, item = self._left.pop(0)
        self.project.submit_annotation(task, regions(self.project, item))
        self.done.add(str(task))


@pytest.mark.slow
def test_kill_9_loses_nothing(client: LabelStudio, backend: BackendProcess, images: ImageSet) -> None:
    rng = random.Random(KILLS)
    project, tasks = filled_project(client, images)
    connect_backend(project, backend.url)
    versions = Versions(backend.model_dir, project.key)
    annotator = Annotator(project, tasks, images)
    for _ in range(3):
        annotator.annotate()
    hit = Counter()
    for number in range(KILLS):
        if number % 3 == 2:  # soon again, in whatever goes on
            time.sleep(rng.uniform(0, 4))
            hit["soon again"] += 1
        else:
            settled(versions, annotator)
            until(lambda: not any(state["status"] == "RUNNING" for _, state in jobs_of(backend)), "an idle worker")
            since = time.time()
            annotator.annotate()
            hit[reach(backend, rng.choice(PHASES), since)] += 1
        kill(backend, rng.choice(["web", "worker"]))
        check_whole(project, versions)
        annotator.annotate()  # nobody hears of it
        backend.__enter__()
    settled(versions, annotator)
    until(lambda: len(versions.list()) <= 2, "old versions to go, killed or not")
    check_whole(project, versions)
    assert project_values(project)["model_version"] == versions.active() == versions.list()[-1]
    assert len(annotator.done) == project_values(project)["total_annotations_number"]
    print(f"killed in {dict(hit)}")
    assert len(hit) >= 4, "kills fell into few phases only"


@pytest.mark.slow
def test_a_training_that_was_killed_ends_as_an_unbroken_one(
    client: LabelStudio, backend: BackendProcess, images: ImageSet, tmp_path: Path
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:8]))
    connect_backend(project, backend.url, extra_params={"train_after": 0})
    versions = Versions(backend.model_dir, project.key)
    annotator = Annotator(project, tasks, images.subset(images.keys[:8]))
    for _ in range(4):
        annotator.annotate()
    project.start_training()
    for _ in range(2):
        an_epoch_more(versions)
        kill(backend, "worker")
        backend.__enter__()
    settled(versions, annotator)
    folder = versions.folder(versions.active())
    snapshot = Snapshot.read(folder)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        method = Settings.from_dict(dict(snapshot.settings))
        images_of = (image_set(snapshot, one) for one in (snapshot.labelled, snapshot.unlabelled))
        train_cycle(*images_of, None, method, tmp_path / "unbroken")
    finally:
        torch.set_num_threads(before)
    broken, unbroken = (load_file(one / WEIGHTS) for one in (folder, tmp_path / "unbroken"))
    for name, value in unbroken.items():
        torch.testing.assert_close(broken[name], value, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "phase", ["score", *(pytest.param(one, marks=pytest.mark.slow) for one in ("pull", "push", "switch"))]
)
def test_label_studio_that_is_killed_in_the_middle_of_a_job_costs_time_only(
    images: ImageSet, tmp_path: Path, phase: str
) -> None:
    with (
        LabelStudioServer(tmp_path / "label-studio", free_port()) as server,
        BackendProcess(tmp_path, free_port(), server.url, server.api_key, **SLOW) as backend,
    ):
        project, tasks = filled_project(LabelStudio(base_url=server.url, api_key=server.api_key), images)
        connect_backend(project, backend.url)
        versions = Versions(backend.model_dir, project.key)
        annotator = Annotator(project, tasks, images)
        since = time.time()
        for _ in range(3):
            annotator.annotate()
        assert reach(backend, phase, since) in PHASES
        os.killpg(server.process_group, signal.SIGKILL)
        until(lambda: is_free(server.port), "the end of Label Studio")
        server.start()  # on the same port, with the same data
        settled(versions, annotator)
        until(lambda: project_values(project)["model_version"] == versions.active(), "the switch")
        check_whole(project, versions)
        assert not any(state["status"] == "ERROR" for _, state in jobs_of(backend)), "the job went on by itself"


def kill(backend: BackendProcess, part: str) -> None:
    """-9 to all processes of a part; the supervisor then ends the rest."""
    group = backend.process_group
    for status in statuses(group, part):
        os.kill(int(status["Pid"]), signal.SIGKILL)
    until(lambda: not statuses(group), "the end of the service")
    backend.__exit__(None, None, None)


def is_free(port: int) -> bool:
    """A process that was killed lets go of its port after it is gone from the lists."""
    try:
        require_free_port(port)
    except ServerError:
        return False
    return True


def an_epoch_more(versions: Versions) -> None:
    """Until a training has saved its state once more than now."""
    (state,) = until(lambda: list((versions.root / "versions").glob(f"*/{TRAINING_STATE}")), "an epoch's end")
    written = state.stat().st_mtime_ns
    until(lambda: not state.exists() or state.stat().st_mtime_ns > written, "one more")


def reach(backend: BackendProcess, phase: str, since: float) -> str:
    """Wait until a training that began after a moment is in a phase or beyond it; where it is then."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while True:
        begun = [entry for entry in jobs_of(backend) if entry[0] > since]
        state = max(begun, key=operator.itemgetter(0))[1] if begun else {}
        if state.get("phase") in PHASES[PHASES.index(phase) :] or state.get("status") == "SUCCESS":
            return state["phase"] if state["status"] == "RUNNING" else "after it"
        assert time.monotonic() < deadline, f"waited for the phase {phase}: {state}"
        time.sleep(0.002)


def jobs_of(backend: BackendProcess) -> list[tuple[float, dict]]:
    """When the state of each training was last written, and the state."""
    files = list((backend.model_dir / "jobs").glob("train-*.json"))
    return [(path.stat().st_mtime, json.loads(path.read_text())) for path in files]


def settled(versions: Versions, annotator: Annotator) -> None:
    """Until the version that answers was trained on every annotation."""

    def trained() -> bool:
        active = versions.active()
        if active is None or not (versions.folder(active) / "snapshot.json").is_file():
            return False
        return {image.key for image in Snapshot.read(versions.folder(active)).labelled} == annotator.done

    until(trained, "a version with all annotations")


def check_whole(project: LabelStudioProject, versions: Versions) -> None:
    """No annotation is missing, no task has two predictions of a version, and the version that orders the tasks has
    all of its predictions there."""
    shown = project_values(project)["model_version"]
    assert shown in (None, "TSP", *versions.list()), "the order is that of a version that is gone"
    snapshot = Snapshot.read(versions.folder(shown)) if shown in versions.list() else None
    for task in call(project.client, "GET", "api/tasks/", params={"project": project.project_id, "page_size": 100})[
        "tasks"
    ]:
        found = Counter(one["model_version"] for one in predictions_of(project, task["id"]))
        assert all(count == 1 for count in found.values()), f"task {task['id']} has {found}"
        if snapshot is not None and str(task["id"]) in {image.key for image in snapshot.unlabelled}:
            assert found[shown] == 1, f"task {task['id']} lacks a prediction of {shown}, which orders the tasks"
