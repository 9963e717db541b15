"""How long a task with many objects takes to open, and how large its pre-annotation is, in each kind of region."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from backend.connection import call, connect
from backend.regions import to_region
from backend.task_order import keep_view
from scripts.browser import seen_once, signed_in
from scripts.label_studio import LabelStudioServer
from scripts.project_setup import label_config, new_project
from scripts.speed.timing import COST, Bench, Comparison
from tsp_model.data import masks

KINDS = ("brush", "bitmask", "polygon")
SIZE, GRID = 1024, 10
SMOKE_SIZE, SMOKE_GRID = 128, 2
VERSION = "benchmark"
LIMIT_SECONDS = 600  # masks of brushes take minutes
COLOURED = 40  # of 255, by which a label's colour stands out of a grey image


def opening(bench: Bench) -> Iterator[Comparison]:
    """From the address of the label stream to the last mask drawn, in a real browser; 100 ragged objects on 1024 x 1024
    pixels."""
    size, grid = (SMOKE_SIZE, SMOKE_GRID) if bench.smoke else (SIZE, GRID)
    rles = blobs(size, grid)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tsp-benchmark-")))
        server = stack.enter_context(LabelStudioServer(folder, say=lambda line: None))
        page = stack.enter_context(signed_in(server))
        client = connect(server.url, server.api_key)
        image = folder / "image.png"
        Image.fromarray(np.random.default_rng(0).integers(90, 110, (size, size), dtype=np.uint8)).save(image)
        contestants: dict[str, Callable[[], object]] = {}
        bytes_of: dict[str, int] = {}
        for kind in KINDS:
            project = new_project(client, kind, label_config(["object"], kind), show_collab_predictions=True)
            (task,) = project.upload_images({"image.png": image}).values()
            result = [to_region("object", rle, project.config, f"{number:05d}") for number, rle in enumerate(rles)]
            bytes_of[kind] = len(json.dumps(result))
            prediction = {"task": task, "result": result, "score": 0.5, "model_version": VERSION}
            call(client, "POST", "api/predictions/", json=prediction)
            call(client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": VERSION})
            address = f"/projects/{project.project_id}/data?tab={keep_view(project)}&labeling=1"
            contestants[kind] = lambda address=address: (
                page.goto(address),
                seen_once(page, _all_drawn(grid), LIMIT_SECONDS),
            )
        title = f"opening a task with {len(rles)} masks at {size}"
        seconds = bench.measure(title, contestants)
    told = ", ".join(f"{kind} {bytes_of[kind] / 1e3:.0f} kB" for kind in KINDS)
    for kind in KINDS[1:]:
        yield Comparison(title, kind, KINDS[0], seconds, COST, note=told, facts={"bytes": bytes_of})


def blobs(size: int, grid: int) -> list[masks.RLE]:
    """grid x grid objects with ragged outlines, a cell each of a square image of `size` pixels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    cell = size / grid
    drawn = []
    for index in range(grid * grid):
        y, x = ((np.array(divmod(index, grid)) + 0.5) * cell).astype(int)
        angle = np.arctan2(rows - y, columns - x)
        waves = sum(rng.uniform(0, 0.08) * np.sin(count * angle + rng.uniform(0, 6)) for count in range(2, 12))
        drawn.append(np.hypot(rows - y, columns - x) < 0.32 * cell * (1 + waves))
    return [masks.encode(mask[None])[0] for mask in drawn]


def _all_drawn(grid: int) -> Callable[[np.ndarray], bool]:
    """Whether there is colour in the middle of every object."""

    def true(pixels: np.ndarray) -> bool:
        height, width, _ = pixels.shape
        middle = (np.arange(grid) + 0.5) / grid
        seen = pixels[np.ix_((middle * height).astype(int), (middle * width).astype(int))].astype(int)
        return bool((seen.max(axis=2) - seen.min(axis=2) > COLOURED).all())

    return true
