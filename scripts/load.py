"""What the service holds, on a real Label Studio server: `python -m scripts.load`, three minutes.

Webhooks from many clients that wait for their answers, questions while a training runs, one request for a whole
selection, and whether memory, processes and threads stay. Everything runs on this machine, the clients too.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

from backend.connection import call, connect
from backend.project import LabelStudioProject
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError, parser_of, run
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port, statuses
from scripts.project_setup import add_connection, import_addresses, label_config, new_project, truth
from scripts.service import Service
from scripts.smoke import add_smoke_argument
from scripts.speed.served import served
from scripts.table import markdown
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic
from tsp_model.files import write_json

SIDE, LABELLED = 256, 16
METHOD = {"preset": "tiny", "image_size": SIDE, "epochs": 3, "train_after": 10**6, "keep_aside": 0}
ENDLESS = METHOD | {"epochs": 100_000}
REQUEST_SECONDS = 120
CLIENTS = 16


@dataclass(frozen=True)
class Amount:
    """How many of everything."""

    webhooks: int = 10_000
    questions: int = 500
    predictions: int = 1000
    selection: int = 250


SMOKE = Amount(webhooks=200, questions=20, predictions=40, selection=12)


@dataclass(frozen=True)
class Row:
    """What was measured, the figure as text, what is wanted, and whether it is so; None: a figure without an aim."""

    what: str
    found: str
    aim: str
    held: bool | None


@dataclass
class There:
    """A project with a version, its tasks as Label Studio sends them, and the service."""

    project: LabelStudioProject
    images: ImageSet
    backend: BackendProcess
    tasks: list[dict[str, Any]]

    def post(self, path: str, body: Any, session: Any = requests) -> requests.Response:
        answer = session.post(self.backend.url + path, json=body, timeout=REQUEST_SECONDS)
        answer.raise_for_status()
        return answer

    def predict(self, tasks: Sequence[dict[str, Any]]) -> list[Any]:
        body = {"project": self.project.key, "label_config": self.project.label_config, "params": {}}
        return self.post("/predict", body | {"tasks": list(tasks)}).json()["results"]

    def annotate(self, index: int) -> None:
        """As an annotator would; Label Studio tells the backend."""
        regions = truth(self.images.items[index], self.images.classes, self.project.config)
        self.project.submit_annotation(self.tasks[index]["id"], regions)


def load(amount: Amount) -> Iterator[Row]:
    """Each figure as it is measured. Raises ServerError, ServiceError, ProjectError or CommandError as the parts do."""
    with tempfile.TemporaryDirectory(prefix="tsp-load-") as name:
        folder = Path(name)
        write_synthetic(folder / "set", train=LABELLED + amount.predictions, test=1, size=SIDE)
        images = load_coco(folder / "set", "train")
        environment = {"TSP_IMAGE_HOSTS": "127.0.0.1"}
        with (
            LabelStudioServer(folder / "label-studio") as server,
            served(folder / "set" / "images") as address,
            BackendProcess(folder / "backend", free_port(), server.url, server.api_key, **environment) as backend,
        ):
            client = connect(server.url, server.api_key)
            there = _project(client, backend, address, images, METHOD)
            _train(there)
            yield from _idle(there, amount)
            other = _project(client, backend, address, images.subset(images.keys[:LABELLED]), ENDLESS)
            other.project.start_training()
            _wait_for_training(other)
            yield from _while_training(there, amount)


def _idle(there: There, amount: Amount) -> Iterator[Row]:
    yield from _memory(there, amount.predictions)
    _hammer(there, 4 * CLIENTS)  # a thread for each client from now on
    before = _web(there.backend)
    seconds = _hammer(there, amount.webhooks, during=lambda: [there.annotate(LABELLED + n) for n in range(5)])
    yield _latency(f"{amount.webhooks} webhooks from {CLIENTS} clients, idle", seconds, 0.1)
    found = _last_check(there)
    yield Row("annotations known after them, of 5 made meanwhile", found, "5", found == "5")
    after = _web(there.backend)
    for what in ("processes", "threads"):
        found = f"{before[what]}, then {after[what]}"
        yield Row(f"{what} of the web service", found, "no growth", after[what] <= before[what])


def _while_training(there: There, amount: Amount) -> Iterator[Row]:
    session = requests.Session()
    setup = {"project": there.project.key, "schema": there.project.label_config, "extra_params": METHOD}
    health = _times(lambda: session.get(there.backend.url + "/health", timeout=9).raise_for_status(), amount.questions)
    yield _latency(f"{amount.questions} x /health while a training runs", health, 0.25)
    seconds = _times(lambda: there.post("/setup", setup, session), amount.questions)
    yield _latency(f"{amount.questions} x /setup while a training runs", seconds, 1.0)
    fresh = iter(there.tasks)
    seconds = _times(lambda: there.predict([next(fresh)]), min(20, LABELLED))
    yield _latency("/predict of one task while a training runs, known already", seconds, 100.0)
    seconds = _times(lambda: there.predict([_renamed(next(fresh))]), 20)
    yield _latency("/predict of one new image while a training runs", seconds, 100.0)
    selection = [_renamed(task) for task in there.tasks[: amount.selection]]
    start = time.perf_counter()
    answers = there.predict(selection)
    took = time.perf_counter() - start
    held = took < 100 and len(answers) == len(selection)
    found = f"{took:.1f} s, {sum(map(bool, answers))} answered"
    yield Row(f"/predict of {len(selection)} new images at once while a training runs", found, "100 s", held)
    seconds = _hammer(there, amount.webhooks)
    yield _latency(f"{amount.webhooks} webhooks from {CLIENTS} clients while a training runs", seconds, 0.5)


def _memory(there: There, count: int) -> Iterator[Row]:
    """Resident memory of the web service over predictions of ever new images."""
    marks = {round(count * share): 0.0 for share in (0.1, 0.55, 1)}
    seconds = []
    for number, task in enumerate(there.tasks[LABELLED:], start=1):
        start = time.perf_counter()
        if not all(there.predict([task])):
            raise CommandError(f"task {task['id']} was not answered; see {there.backend.log}.")
        seconds.append(time.perf_counter() - start)
        if number in marks:
            marks[number] = _web(there.backend)["megabytes"]
    figures = ", ".join(f"{mb:.0f} MB after {number}" for number, mb in marks.items())
    first, *_, last = marks.values()
    yield Row(f"resident memory over {count} x /predict", figures, "flat: at most 5% more", last <= 1.05 * first)
    yield _latency(f"{count} x /predict of one new image, idle", seconds, 100.0)


def _renamed(task: dict[str, Any]) -> dict[str, Any]:
    """The same image at an address that nobody asked for yet."""
    number = next(_NUMBERS)
    return task | {"data": {"image": f"{task['data']['image']}?{number}"}}


_NUMBERS = iter(range(10**9))


def _hammer(there: There, count: int, during: Callable[[], object] = lambda: None) -> list[float]:
    """Seconds of each webhook; `during` runs meanwhile."""
    event = {"action": "ANNOTATION_CREATED", "project": _as_sent(there.project)}
    seconds: list[float] = []
    errors: list[Exception] = []

    def client(number: int) -> None:
        session = requests.Session()
        try:
            seconds.extend(_times(lambda: there.post("/webhook", event, session), number))
        except requests.RequestException as error:
            errors.append(error)

    share = [count // CLIENTS + (number < count % CLIENTS) for number in range(CLIENTS)]
    threads = [threading.Thread(target=client, args=(number,)) for number in share]
    for thread in threads:
        thread.start()
    during()
    for thread in threads:
        thread.join()
    if errors or len(seconds) != count:
        raise CommandError(f"{count - len(seconds)} of {count} webhooks were not answered: {errors[:1]}")
    return seconds


def _as_sent(project: LabelStudioProject) -> dict[str, Any]:
    values = call(project.client, "GET", f"api/projects/{project.project_id}/")
    return {"id": values["id"], "created_at": values["created_at"]}


def _last_check(there: There) -> str:
    """How many new annotations the last check of a project found."""
    folder = there.backend.model_dir / "jobs"
    deadline = time.monotonic() + REQUEST_SECONDS
    number = len(list(folder.glob(f"check-{there.project.key}-*.json")))
    while time.monotonic() < deadline:
        name = f"check-{there.project.key}-{number:05d}"
        status = requests.get(f"{there.backend.url}/job_status", params={"job_id": name}, timeout=30)
        later = requests.get(
            f"{there.backend.url}/job_status", params={"job_id": f"{name[:-5]}{number + 1:05d}"}, timeout=30
        )
        if later.ok:
            number += 1
        elif status.ok and status.json()["job_status"] in ("finished", "failed"):
            return str(status.json().get("message", status.json().get("error"))).partition(" ")[0]
        time.sleep(0.1)
    raise CommandError(f"the checks of project {there.project.project_id} do not end; see {there.backend.log}.")


def _latency(what: str, seconds: Sequence[float], aim: float) -> Row:
    """The aim is that of the 99th percentile."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    found = f"p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms"
    wanted = f"p99 {aim:g} s" if aim >= 1 else f"p99 {1000 * aim:.0f} ms"
    return Row(what, found, wanted, bool(p99 < aim))


def _times(ask: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - start)
    return seconds


def _web(backend: BackendProcess) -> dict[str, float]:
    """Processes, threads and resident megabytes of the web service (Linux)."""
    found = statuses(backend.process_group, "web")
    return {
        "processes": len(found),
        "threads": sum(int(status["Threads"]) for status in found),
        "megabytes": sum(int(status["VmRSS"].split()[0]) for status in found) / 1024,
    }


def _project(client: Any, backend: BackendProcess, address: str, images: ImageSet, method: dict[str, Any]) -> There:
    """A connected project of images at `address`; the first LABELLED have their annotation."""
    project = new_project(client, "load", label_config(images.classes, "brush"))
    addresses = [f"{address}/{item.path.name}" for item in images.items]
    made = import_addresses(project, addresses)
    tasks = [{"id": task, "data": {"image": one}} for task, one in zip(made, addresses, strict=True)]
    there = There(project, images, backend, tasks)
    for index in range(LABELLED):
        there.annotate(index)
    add_connection(project, backend.url, method)
    return there


def _train(there: There) -> None:
    service = Service(there.backend.url)
    there.project.start_training()
    service.wait(service.last_training(there.project.key)["job_id"], "a first version")
    service.close()


def _wait_for_training(there: There) -> None:
    deadline = time.monotonic() + REQUEST_SECONDS
    while time.monotonic() < deadline:
        status = requests.get(
            f"{there.backend.url}/job_status", params={"project": there.project.key}, timeout=30
        ).json()
        if status.get("phase") == "train" and status.get("done", 0) > 0:
            return
        time.sleep(0.2)
    raise CommandError(f"the training did not begin; see {there.backend.log}.")


def main() -> None:
    parser = parser_of("load", __doc__, "--smoke")
    add_smoke_argument(parser)
    parser.add_argument("--out", type=Path, default=None, help="also write the figures to this file, as JSON")
    arguments = parser.parse_args()
    rows = []
    for row in load(SMOKE if arguments.smoke else Amount()):
        rows.append(row)
        print(f"{row.what}: {row.found} (wanted: {row.aim})", flush=True)
    if arguments.out:
        write_json(arguments.out, [asdict(row) for row in rows])
    held = {True: "yes", False: "no", None: ""}
    print(
        "\n"
        + markdown([["what", "measured", "wanted", "held"]] + [[r.what, r.found, r.aim, held[r.held]] for r in rows])
    )


if __name__ == "__main__":
    run("scripts.load", main)
