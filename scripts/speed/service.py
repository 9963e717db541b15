"""What the service adds to the network's own time for one /predict, and how many threads pay under load."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import requests
import torch

from backend.__main__ import NICE
from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from backend.versions import Versions
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError
from scripts.processes import free_port
from scripts.speed.house import House, house
from scripts.speed.pair import DETECTIONS, build_ours
from scripts.speed.timing import COST, Bench, Comparison, require_agreement
from tsp_model import checkpoints, memory
from tsp_model.data.image_set import ImageSet, read_image
from tsp_model.inference import predict as network_predict
from tsp_model.prediction_pass import score_pool
from tsp_model.predictions import Prediction
from tsp_model.settings import Settings

SIZE, SMOKE_SIZE = 512, 64
WARMUP = 2  # the first request loads the model
REQUEST_SECONDS = 90
SCORED, SMOKE_SCORED = 16, 2
NOBODY = "http://127.0.0.1:9"  # a Label Studio that is not there, which the start does not wait for
LISTED = 100  # tasks on a page of the Data Manager
ASKED = 5  # times in a row, by an annotator beside a worker


def predict(bench: Bench) -> Iterator[Comparison]:
    """One task, new each time, from request to answer, beside the same network on its decoded image in this process."""
    size = SMOKE_SIZE if bench.smoke else SIZE
    count = bench.repeats + WARMUP
    with house(count, size, bench.threads) as there:
        project, tasks = there.project({"train_after": 0})
        # Before there is a version: Label Studio has a task predicted when it is asked for one, and what was predicted
        # once is not predicted again.
        asked = [_body(project, tasks[key]) for key in there.images.keys]
        folder, version = make_version(there, project, size)
        model, card = checkpoints.load(folder)
        settings = Settings.from_dict(card["settings"])
        bodies = iter(asked)
        decoded = iter([read_image(item.path) for item in there.images.items])
        answers: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        contestants = {
            "/predict": lambda: answers.append(_post(there.backend.url, next(bodies))),
            "network alone": lambda: found.extend(network_predict(model, [next(decoded)], paste=False)),
        }
        title = f"/predict, R50 at {size}"
        seconds = bench.measure(title, contestants, warmup=WARMUP)
        for answer, detections in zip(answers, found, strict=True):
            (result,) = answer["results"]
            same = bool(result) and result["model_version"] == version
            score = Prediction.from_detections("", detections, settings).image_score
            require_agreement(same and abs(result["score"] - score) < 1e-3, f"an answer of /predict: {result!s:.200}")
        regions = [len(answer["results"][0]["result"]) for answer in answers]
        facts = {"regions_an_answer": sum(regions) / len(regions)}
        yield Comparison(title, "/predict", "network alone", seconds, COST, aim=1.2, facts=facts)


def make_version(there: House, project: LabelStudioProject, size: int) -> tuple[Path, str]:
    """R50 with random weights as the project's active version: its folder and name."""
    settings = Settings(weights="none", image_size=size, detections_per_image=DETECTIONS)
    model = build_ours(size, classes=len(there.images.classes) + 1)
    versions = Versions(there.backend.model_dir, project.key)
    version = versions.new_name()
    card = {
        "classes": list(there.images.classes),
        "settings": settings.to_dict(),
        "counts": {},
        "labelled": [],
        "metrics": {},
        "warnings": [],
        "parent": None,
        "train_seconds": 0.0,
    }
    checkpoints.save(versions.folder(version), model, card)
    versions.activate(version)
    return versions.folder(version), version


def _body(project: LabelStudioProject, task: int) -> dict[str, Any]:
    """What Label Studio sends for a task."""
    data = call(project.client, "GET", f"api/tasks/{task}/")["data"]
    tasks = [{"id": task, "data": data}]
    return {"tasks": tasks, "project": project.key, "label_config": project.label_config, "params": {}}


def _at_a_new_address(body: dict[str, Any], number: int) -> dict[str, Any]:
    """The same image at an address that was not asked for yet, so that it is predicted."""
    (task,) = body["tasks"]
    data = {name: f"{value}?{number}" if name == "image" else value for name, value in task["data"].items()}
    return body | {"tasks": [task | {"data": data}]}


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    response = requests.post(f"{url}/predict", json=body, timeout=REQUEST_SECONDS)
    response.raise_for_status()
    return response.json()


def threads(bench: Bench) -> Iterator[Comparison]:
    """One thread for the worker or all: how long it scores, alone and beside busy servers, and how long these take."""
    size, scored = (SMOKE_SIZE, SMOKE_SCORED) if bench.smoke else (SIZE, SCORED)
    most = max(2, bench.threads)
    with house(scored, size, most) as there:
        project, tasks = there.project({"train_after": 0})
        body = _body(project, tasks[there.images.keys[0]])
        folder, _ = make_version(there, project, size)
        numbers = itertools.count()

        def page() -> None:
            _list_tasks(project)

        def prediction() -> None:
            _post(there.backend.url, _at_a_new_address(body, next(numbers)))

        loads = {"alone": None, "beside a busy Label Studio": page, "beside busy predictions": prediction}
        for situation, ask in loads.items():
            title = f"scoring {scored} images {situation}"
            contestants = {_threads(number): _scoring(folder, there.images, number) for number in (1, most)}
            with _asked_without_a_pause(ask):
                seconds = bench.measure(title, contestants)
            yield Comparison(title, _threads(1), _threads(most), seconds, note="above 1: one thread is quicker")
        with _worker(folder, there.images, 1) as few, _worker(folder, there.images, most) as many:
            for what, ask in {"pages of tasks": page, "predictions": prediction}.items():
                title = f"{ASKED} {what} beside a worker that scores"
                contestants = {_threads(1): _beside(few, ask), _threads(most): _beside(many, ask)}
                seconds = bench.measure(title, contestants)
                yield Comparison(title, _threads(most), _threads(1), seconds, COST, note="above 1: a longer wait")


@contextmanager
def _worker(folder: Path, images: ImageSet, number: int) -> Iterator[int]:
    """A process that scores without end, as modest as the worker and at first stopped; its id."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_score_without_end, args=(folder, images, number, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(REQUEST_SECONDS):
            raise CommandError("the process that scores did not start; the reason stands above.")
        os.kill(process.pid, signal.SIGSTOP)
        yield process.pid
    finally:
        process.kill()
        process.join()


def _score_without_end(folder: Path, images: ImageSet, number: int, ready: Event) -> None:
    memory.keep()
    os.nice(NICE)
    score = _scoring(folder, images, number)
    score()
    ready.set()
    while True:
        score()


def _beside(worker: int, ask: Callable[[], object]) -> Callable[[], None]:
    def ask_beside_it() -> None:
        os.kill(worker, signal.SIGCONT)
        try:
            for _ in range(ASKED):
                ask()
        finally:
            os.kill(worker, signal.SIGSTOP)

    return ask_beside_it


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number > 1)}"


def _scoring(folder: Path, images: ImageSet, number: int) -> Callable[[], object]:
    def score() -> None:
        torch.set_num_threads(number)
        for _ in score_pool(folder, images):
            pass

    return score


@contextmanager
def _asked_without_a_pause(ask: Callable[[], object] | None) -> Iterator[None]:
    """Somebody asks again as soon as the last answer is there, for the length of a `with` block."""
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            with suppress(requests.RequestException, ProjectError):  # a busy server may refuse; ask again
                ask()

    asker = threading.Thread(target=keep_asking, daemon=True)
    if ask is not None:
        asker.start()
    try:
        yield
    finally:
        over.set()
        if ask is not None:
            asker.join()


def _list_tasks(project: LabelStudioProject) -> None:
    """What an open Data Manager asks for."""
    call(project.client, "GET", "api/tasks", params={"project": project.project_id, "page_size": LISTED})


def start(bench: Bench) -> Iterator[Comparison]:
    """`python -m backend` until /health answers, beside what importing torch alone would take."""
    seconds: dict[str, list[float]] = {"first /health": [], "import of torch": []}
    code = "import time; start = time.perf_counter(); import torch, torchvision; print(time.perf_counter() - start)"
    with tempfile.TemporaryDirectory(prefix="tsp-benchmark-") as name:
        for number in range(bench.repeats):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds["import of torch"].append(float(done.stdout))
            began = time.perf_counter()
            with BackendProcess(Path(name) / str(number), free_port(), NOBODY, "no token"):
                seconds["first /health"].append(time.perf_counter() - began)
    note = f"first /health after {max(seconds['first /health']):.2f} s at most, aim 2 s; the worker starts beside it"
    yield Comparison("start of the service", "first /health", "import of torch", seconds, COST, note=note)
