"""A real Label Studio server and the real backend, with a project of synthetic images, for what is measured on both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from label_studio_sdk import LabelStudio

from backend.connection import connect
from backend.project import LabelStudioProject
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from scripts.project_setup import add_connection, import_images, label_config, new_project
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic


@dataclass(frozen=True)
class House:
    """Attributes:

    client: of the server. backend: the service, with its folder of models. images: synthetic ones.
    """

    client: LabelStudio
    backend: BackendProcess
    images: ImageSet

    def project(self, extra_params: dict[str, Any]) -> tuple[LabelStudioProject, dict[str, int]]:
        """A project with every image, connected to the backend; the task of each image by its key."""
        classes = self.images.classes
        project = new_project(self.client, "benchmark", label_config(classes, "brush"))
        tasks = import_images(project, self.images)  # before the backend is connected, which would score each import
        add_connection(project, self.backend.url, extra_params)
        return project, tasks


@contextmanager
def house(images: int, size: int, threads: int) -> Iterator[House]:
    """Both servers running, `images` square images of `size` pixels, `threads` for torch in web service and worker."""
    with tempfile.TemporaryDirectory(prefix="tsp-benchmark-") as name:
        folder = Path(name)
        write_synthetic(folder / "set", train=images, test=1, size=size)
        environment = {"TORCH_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "TSP_SHOW_THRESHOLD": "0"}
        with (
            LabelStudioServer(folder / "label-studio", say=lambda line: None) as server,
            BackendProcess(folder / "backend", free_port(), server.url, server.api_key, **environment) as backend,
        ):
            yield House(connect(server.url, server.api_key), backend, load_coco(folder / "set", "train"))
