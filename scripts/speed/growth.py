"""What a training and a look for new tasks cost as the pool grows: `python -m scripts.benchmark growth`.

A real Label Studio server, and for each size a fresh service that trains the tiny network on the same few labels,
scores the pool and pushes it, then ranks again with nothing new and with a few new tasks. The work should grow as the
pool does, the worker's memory hardly at all. Then Label Studio alone, with more tasks than there is time to import
(scripts.speed.crowd). What all of it took is carried on to pools that no machine here holds by scripts.speed.scale.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio
from tqdm import tqdm

from backend.connection import connect
from backend.project import LabelStudioProject
from backend.shown import Shown
from backend.task_order import UNCERTAINTY
from scripts.backend_process import BackendProcess
from scripts.command_line import CommandError
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port, statuses
from scripts.project_setup import add_connection, import_addresses, label_config, new_project, truth
from scripts.service import Service
from scripts.speed.crowd import MASKS, crowd, real_prediction, require_copies
from scripts.speed.served import served
from scripts.table import markdown
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic

SIDE, LABELLED, WARM_UP = 64, 8, 60  # pixels; images that train; tasks of the project before the one that counts
NEW_SHARE = 100  # of a pool, one in so many comes later
REAL = 1000  # tasks that get a prediction as a real project has it
METHOD = {"preset": "tiny", "image_size": SIDE, "epochs": 10, "train_after": 0}
STAGES = ("pull", "score", "push")
JOBS = {"train": "a training", "nothing_new": "ranked again", "few_new": "ranked again, 1% new tasks"}


def growth(
    sizes: Sequence[int], crowds: Sequence[int], keep: Callable[[dict[str, Any]], None] = lambda found: None
) -> dict[str, list[dict[str, Any]]]:
    """A row for each size, smallest first. keep: given what was found so far, after each row.

    Returns:
        `crowds`: of `scripts.speed.crowd.crowd`. `pools`: dicts of images; for each of JOBS a dict of `seconds` and
        `label_studio_seconds` by stage (most of the pushing happens in score, where the server's share goes on beside
        the network), with `new`, the tasks that were new to it; peak_mb (of the worker process, a new one for each
        size) and growth_mb (how much of that came after a training with a pool of WARM_UP tasks); real: predictions of
        MASKS polygons, how many, seconds to push them, bytes of the database and of the backend's file for each.

    Raises:
        CommandError: a size that cannot be. ServerError, ServiceError, ProjectError: a part does not run.
    """
    if min(sizes) <= LABELLED:
        raise CommandError(f"a pool of {min(sizes)} is too small; give sizes above {LABELLED}.")
    require_copies(crowds)
    with tempfile.TemporaryDirectory(prefix="tsp-growth-") as name:
        folder = Path(name)
        write_synthetic(folder / "set", train=max(*sizes, WARM_UP), test=1, size=SIDE)
        images = load_coco(folder / "set", "train")
        with LabelStudioServer(folder / "label-studio") as server, served(folder / "set" / "images") as address:
            client = connect(server.url, server.api_key)
            found: dict[str, list[dict[str, Any]]] = {"pools": [], "crowds": []}
            for size in tqdm(sorted(sizes), desc="pools", leave=False):
                where = (folder / str(size), free_port(), server.url, server.api_key)
                environment = {"TORCH_THREADS": "1", "OMP_NUM_THREADS": "1", "TSP_IMAGE_HOSTS": "127.0.0.1"}
                with BackendProcess(*where, **environment) as backend:
                    found["pools"].append(_Growing(client, backend, address, images, server.database).row(size))
                keep(found)
            for row in crowd(client, server.database, crowds):
                found["crowds"].append(row)
                keep(found)
        return found


class _Growing:
    """One size of pool on one service."""

    def __init__(
        self, client: LabelStudio, backend: BackendProcess, address: str, images: ImageSet, database: Path
    ) -> None:
        self._client, self._backend, self._address = client, backend, address
        self._images, self._database = images, database

    def row(self, size: int) -> dict[str, Any]:
        self._train(self._project(WARM_UP))
        before = _peak_mb(self._backend)
        project = self._project(size)
        row: dict[str, Any] = {"images": size, "train": self._train(project) | {"new": size - LABELLED}}
        row["nothing_new"] = self._rank(project) | {"new": 0}
        new = max(1, size // NEW_SHARE)
        import_addresses(project, [f"{self._address}/{item.path.name}?later" for item in self._images.items[:new]])
        row["few_new"] = self._rank(project) | {"new": new}
        row["peak_mb"] = _peak_mb(self._backend)
        row["growth_mb"] = row["peak_mb"] - before
        row["real"] = self._push_real(project)
        return row

    def _project(self, size: int) -> LabelStudioProject:
        """A connected project with `size` tasks, LABELLED of which have their annotation."""
        config = label_config(self._images.classes, "polygon")
        project = new_project(self._client, f"a pool of {size}", config, sampling=UNCERTAINTY)
        labelled = [item for item in self._images.items if item.instances][:LABELLED]
        # Those that train come first, so that every pool has them.
        items = [*labelled, *(item for item in self._images.items if item not in labelled)][:size]
        made = import_addresses(project, [f"{self._address}/{item.path.name}" for item in items])
        for task, item in zip(made, labelled, strict=False):
            project.submit_annotation(task, truth(item, self._images.classes, project.config))
        add_connection(project, self._backend.url, METHOD)
        return project

    def _train(self, project: LabelStudioProject) -> dict[str, Any]:
        project.start_training()
        return self._ended(lambda service: (service.last_training(project.key) or {}).get("job_id"))

    def _rank(self, project: LabelStudioProject) -> dict[str, Any]:
        return self._ended(lambda service: service.rank(project.key, None))

    def _ended(self, job_of: Callable[[Service], str | None]) -> dict[str, Any]:
        """What the job took, by stage."""
        service = Service(self._backend.url)
        try:
            job = job_of(service)
            if job is None:
                raise CommandError("Label Studio started no training.")
            status = service.wait(job, "a pool")
        finally:
            service.close()
        return {
            kind: {stage: status[kind].get(stage, 0.0) for stage in STAGES}
            for kind in ("seconds", "label_studio_seconds")
        }

    def _push_real(self, project: LabelStudioProject) -> dict[str, Any]:
        """Predictions of MASKS ragged polygons, to tasks of the project, under a version that orders nothing."""
        keys = [str(task.id) for task in itertools.islice(project.tasks(), REAL)]
        before, began = self._database.stat().st_size, time.perf_counter()
        pushed = project.predictions.push(map(real_prediction, keys), "real", project.classes, Shown(0.0, 0, 1.0))
        seconds = time.perf_counter() - began
        return {
            "predictions": pushed,
            "seconds": seconds,
            "bytes": (self._database.stat().st_size - before) / pushed,
            "file_bytes": len(json.dumps(real_prediction(keys[0]).to_dict(), separators=(",", ":"))),
        }


def _peak_mb(backend: BackendProcess) -> float:
    """The most memory that the service's worker ever held (Linux)."""
    for status in statuses(backend.process_group, "worker"):
        return int(status["VmHWM"].split()[0]) / 1024
    raise CommandError(f"the service has no worker any more; see {backend.log}.")


def tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What `growth` found as Markdown: what each job took by stage, with Label Studio's share, what a pool of that size
    weighs, and what Label Studio alone takes."""
    rows = found["pools"]
    jobs = [["pool", "job", "new", *(f"{stage} s (Label Studio's)" for stage in STAGES), "whole, ms a new task"]]
    for row in rows:
        for job, name in JOBS.items():
            took, asked, new = (row[job][key] for key in ("seconds", "label_studio_seconds", "new"))
            whole = f"{1000 * sum(took.values()) / new:.1f}" if new else ""
            parts = (f"{took[stage]:.1f} ({asked[stage]:.1f})" for stage in STAGES)
            jobs.append([f"{row['images']:,}", name, f"{new:,}", *parts, whole])
    weights = [
        (
            "pool",
            "worker: peak MB",
            "of it for the pool",
            f"push of predictions with {MASKS} masks, a second",
            "kB of database for each",
        )
    ]
    for row in rows:
        rate = row["real"]["predictions"] / row["real"]["seconds"]
        weights.append(
            (
                f"{row['images']:,}",
                f"{row['peak_mb']:.0f}",
                f"{row['growth_mb']:.0f}",
                f"{rate:.0f}",
                f"{row['real']['bytes'] / 1000:.1f}",
            )
        )
    alone = [("tasks, by Label Studio alone", "next task s", "first page s", "a call that pushes one prediction s")]
    for row in found["crowds"]:
        called = "" if row["call_seconds"] is None else f"{row['call_seconds']:.1f}"
        alone.append((f"{row['tasks']:,}", f"{row['next_seconds']:.2f}", f"{row['page_seconds']:.2f}", called))
    return "\n\n".join(map(markdown, (jobs, weights, alone)))
