"""What a training costs as the pool grows: `python -m scripts.benchmark growth`.

A real Label Studio server, and for each size a fresh service that trains the tiny network on the same few labels,
scores the pool and pushes it. The work should grow as the pool does, the worker's memory not at all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio
from tqdm import tqdm

from backend.connection import call, connect
from backend.project import LabelStudioProject
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port, statuses
from scripts.project_setup import label_config, truth
from scripts.service import Service
from scripts.speed.served import served
from scripts.table import markdown
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic

SIDE, LABELLED, WARM_UP = 64, 8, 60  # pixels; images that train; tasks of the project before the one that counts
TASKS_A_CALL = 1000
METHOD = {"preset": "tiny", "image_size": SIDE, "epochs": 10, "train_after": 0}
COLUMNS = (
    ("pool", "images", "{}"),
    ("pull s", "pull_seconds", "{:.1f}"),
    ("score s", "score_seconds", "{:.1f}"),
    ("push s", "push_seconds", "{:.1f}"),
    ("score and push, ms an image", "milliseconds_an_image", "{:.1f}"),
    ("peak MB", "peak_mb", "{:.0f}"),
    ("of it for the pool", "growth_mb", "{:.0f}"),
)


def growth(sizes: Sequence[int] = (100, 1000, 10000)) -> list[dict[str, Any]]:
    """A row for each size, smallest first.

    Returns:
        Dicts of images, pull_seconds, score_seconds (most of the pushing happens meanwhile), push_seconds (the rest of
        it), milliseconds_an_image (of these two), peak_mb (of the worker process, a new one for each size) and
        growth_mb (how much of that came after a training with a pool of WARM_UP tasks).

    Raises:
        CommandError: a size is too small. ServerError, ServiceError, ProjectError: a part does not run.
    """
    if min(sizes) <= LABELLED:
        raise CommandError(f"a pool of {min(sizes)} is too small; give sizes above {LABELLED}.")
    with tempfile.TemporaryDirectory(prefix="tsp-growth-") as name:
        folder = Path(name)
        write_synthetic(folder / "set", train=max(*sizes, WARM_UP), test=1, size=SIDE)
        images = load_coco(folder / "set", "train")
        with LabelStudioServer(folder / "label-studio") as server, served(folder / "set" / "images") as address:
            client = connect(server.url, server.api_key)
            rows = []
            for size in tqdm(sorted(sizes), desc="pools", leave=False):
                where = (folder / str(size), free_port(), server.url, server.api_key)
                environment = {"TORCH_THREADS": "1", "OMP_NUM_THREADS": "1", "TSP_IMAGE_HOSTS": "127.0.0.1"}
                with BackendProcess(*where, **environment) as backend:
                    rows.append(_row(client, backend, address, images, size))
        return rows


def _row(client: LabelStudio, backend: BackendProcess, address: str, images: ImageSet, size: int) -> dict[str, Any]:
    _train(_project(client, backend.url, address, images, WARM_UP), backend.url)
    before = _peak_mb(backend)
    seconds = _train(_project(client, backend.url, address, images, size), backend.url)["seconds"]
    peak = _peak_mb(backend)
    return {
        "images": size,
        **{f"{phase}_seconds": seconds[phase] for phase in ("pull", "score", "push")},
        "milliseconds_an_image": 1000 * (seconds["score"] + seconds["push"]) / (size - LABELLED),
        "peak_mb": peak,
        "growth_mb": peak - before,
    }


def _project(client: LabelStudio, backend: str, address: str, images: ImageSet, size: int) -> LabelStudioProject:
    """A connected project with `size` tasks whose images are at `address`; LABELLED of them have their annotation."""
    body = {"title": f"a pool of {size}", "label_config": label_config(images.classes, "brush")}
    project = LabelStudioProject(client, call(client, "POST", "api/projects", json=body)["id"])
    labelled = [item for item in images.items if item.instances][:LABELLED]
    # Those that train come first, so that every pool has them.
    items = [*labelled, *(item for item in images.items if item not in labelled)][:size]
    tasks = [{"data": {"image": f"{address}/{item.path.name}"}} for item in items]
    made: list[int] = []
    for start in range(0, size, TASKS_A_CALL):
        path = f"api/projects/{project.project_id}/import"
        some = tasks[start : start + TASKS_A_CALL]
        made += call(client, "POST", path, params={"return_task_ids": "true"}, json=some, timeout=600)["task_ids"]
    for task, item in zip(made, labelled, strict=False):
        project.submit_annotation(task, truth(item, images.classes, project.config))
    connection = {"project": project.project_id, "url": backend, "title": "TSP", "is_interactive": False}
    call(client, "POST", "api/ml", json=connection | {"extra_params": METHOD})
    return project


def _train(project: LabelStudioProject, backend: str) -> dict[str, Any]:
    """Start training in Label Studio; the job's last status."""
    service = Service(backend)
    try:
        project.start_training()
        job = service.last_training(project.key)
        if job is None:
            raise CommandError("Label Studio started no training.")
        return service.wait(job["job_id"], "a pool")
    finally:
        service.close()


def _peak_mb(backend: BackendProcess) -> float:
    """The most memory that the service's worker ever held (Linux)."""
    for status in statuses(backend.process_group, "worker"):
        return int(status["VmHWM"].split()[0]) / 1024
    raise CommandError(f"the service has no worker any more; see {backend.log}.")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `growth` as a Markdown table."""
    return markdown(
        [[title for title, _, _ in COLUMNS]] + [[f.format(row[key]) for _, key, f in COLUMNS] for row in rows]
    )
