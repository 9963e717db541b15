"""A Label Studio project for a run of Algorithm 1: made, connected to the backend, filled with images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from label_studio_sdk import LabelStudio

from backend.connection import IMPORT_SECONDS, ProjectError, call
from backend.label_config import LABEL_TAGS, LabelConfig
from backend.project import LabelStudioProject
from backend.regions import to_region
from backend.task_order import UNCERTAINTY
from scripts.service import credentials

if TYPE_CHECKING:
    from scripts.plan import Plan
    from tsp_model.data.image_set import ImageSet, Item

TASKS_A_CALL = 1000
TITLE = "TSP"  # of a connection; by it the backend knows its own among several
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990")


def label_config(classes: Sequence[str], tag: str) -> str:
    """A labeling configuration with one image and one control, `tag` as in LABEL_TAGS."""
    control = LABEL_TAGS[tag]
    labels = "".join(
        f"<Label value={quoteattr(name)} background={quoteattr(COLOURS[i % len(COLOURS)])}/>"
        for i, name in enumerate(classes)
    )
    return (
        '<View><Image name="image" value="$image" zoom="true" zoomControl="true"/>'
        f'<{control} name="label" toName="image">{labels}</{control}></View>'
    )


def create_project(client: LabelStudio, title: str, classes: Sequence[str], plan: Plan) -> int:
    """Make a project in uncertainty order with the backend connected; its id. Nothing stays behind on an error."""
    values = {"sampling": UNCERTAINTY, "show_collab_predictions": True}
    project = new_project(client, title[:50], label_config(classes, plan.label_tag), **values)
    try:
        # The script decides when to train, so annotation events do not; the score alone says what comes next, and every
        # task has one; Algorithm 1 trains on every label.
        loop = {"train_after": 0, "clusters": 0, "push_top": 0, "keep_aside": 0}
        add_connection(project, plan.backend_url, plan.method | loop)
    except ProjectError:
        call(client, "DELETE", f"api/projects/{project.project_id}")
        raise
    return project.project_id


def new_project(client: LabelStudio, title: str, config: str, **values: Any) -> LabelStudioProject:
    """An empty project, which is not connected. config: see `label_config`; values: further ones of Label Studio's."""
    body = {"title": title, "label_config": config, **values}
    return LabelStudioProject(client, call(client, "POST", "api/projects", json=body)["id"])


def add_connection(project: LabelStudioProject, backend_url: str, extra_params: Mapping[str, Any]) -> None:
    """Connect the backend, which reads the project's settings in `extra_params`."""
    body = new_connection(project.project_id, backend_url) | {"extra_params": dict(extra_params)}
    call(project.client, "POST", "api/ml", json=body)


def new_connection(project_id: int, backend_url: str) -> dict[str, Any]:
    """What Label Studio is to be told of a connection to the backend."""
    return {"project": project_id, "url": backend_url, "title": TITLE, "is_interactive": False, **access()}


def access() -> dict[str, str]:
    """What lets Label Studio through to a backend that asks for a password."""
    known = credentials()
    if known is None:
        return {}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": known[0], "basic_auth_pass": known[1]}


def import_images(project: LabelStudioProject, images: ImageSet) -> dict[str, int]:
    """Upload the images that the project lacks; the task id of each by its key."""
    known = project.task_ids_by_name()
    missing = {item.key: item.path for item in images.items if item.key not in known}
    if missing:
        known |= project.upload_images(missing)
    return {key: known[key] for key in images.keys}


def import_addresses(project: LabelStudioProject, addresses: Sequence[str]) -> list[int]:
    """Make a task of each image by its address, which stays where it is; the task ids, in this order."""
    made: list[int] = []
    for start in range(0, len(addresses), TASKS_A_CALL):
        tasks = [{"data": {project.config.image_key: one}} for one in addresses[start : start + TASKS_A_CALL]]
        path = f"api/projects/{project.project_id}/import"
        asked = {"return_task_ids": "true"}
        made += call(project.client, "POST", path, params=asked, json=tasks, timeout=IMPORT_SECONDS)["task_ids"]
    return made


def truth(item: Item, classes: Sequence[str], config: LabelConfig) -> list[dict[str, Any]]:
    """An image's ground truth as an annotator would draw it. classes: those of its set."""
    return [
        to_region(classes[one.label - 1], one.rle, config, f"truth{index}") for index, one in enumerate(item.instances)
    ]
