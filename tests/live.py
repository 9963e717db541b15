"""Projects on the real server, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from label_studio_sdk import LabelStudio

from backend.connection import call
from backend.project import LabelStudioProject
from backend.regions import to_region
from scripts.project_setup import label_config
from tsp_model.data.image_set import ImageSet, Item

CLASSES = ("disc", "box")


def new_project(
    client: LabelStudio, tag: str = "brush", classes: Sequence[str] = CLASSES, config: str | None = None
) -> LabelStudioProject:
    """An empty project in uncertainty order."""
    values = {
        "title": "a test's project",
        "label_config": config or label_config(classes, tag),
        "sampling": "Uncertainty sampling",
    }
    return LabelStudioProject(client, call(client, "POST", "api/projects", json=values)["id"])


def filled_project(client: LabelStudio, images: ImageSet, tag: str = "brush") -> tuple[LabelStudioProject, list[int]]:
    """A project with a task per image; the task ids in the order of the images."""
    project = new_project(client, tag, images.classes)
    ids = project.upload_images({item.key: item.path for item in images.items})
    return project, [ids[key] for key in images.keys]


def connect_backend(project: LabelStudioProject, url: str, **values: Any) -> dict[str, Any]:
    """Connect the service at `url` to the project; the connection as Label Studio answers it."""
    body = {"project": project.project_id, "url": url, "title": "TSP", "is_interactive": False, **values}
    return call(project.client, "POST", "api/ml", json=body)


def regions(project: LabelStudioProject, item: Item) -> list[dict[str, Any]]:
    """The ground truth of an image as an annotator would draw it."""
    return [
        to_region(project.classes[one.label - 1], one.rle, project.tag, f"truth{index}")
        for index, one in enumerate(item.instances)
    ]


def project_values(project: LabelStudioProject) -> dict[str, Any]:
    """The project as the server has it now."""
    return call(project.client, "GET", f"api/projects/{project.project_id}/")


def predictions_of(project: LabelStudioProject, task_id: int) -> list[dict[str, Any]]:
    """Every prediction that the server holds for a task."""
    return call(project.client, "GET", "api/predictions/", params={"task": task_id})
