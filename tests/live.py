"""Projects on the real server, and the backend that they are connected to, for tests."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import requests
from label_studio_sdk import LabelStudio

from backend.connection import call
from backend.label_config import LABEL_TAGS
from backend.project import LabelStudioProject
from backend.shown import Shown
from backend.task_order import UNCERTAINTY
from backend.versions import Versions
from scripts import project_setup
from scripts.backend_process import BackendProcess
from scripts.project_setup import import_addresses, label_config, truth
from tests.builders import prediction
from tsp_model.data.image_set import ImageSet, Item
from tsp_model.predictions import Prediction

CLASSES = ("disc", "box")
LIMIT_SECONDS = 240.0
SHOWN = Shown(threshold=0.3)
OLD, NEW = "tsp-0001-20260101T000000", "tsp-0002-20260102T000000"
# A network of one epoch is sure of nothing: every detection counts, is shown and may become a pseudo label.
CURIOUS = {
    "score_threshold": 0.0,
    "ranking_score_threshold": 0.0,
    "show_threshold": 0.0,
    "show_overlap": 1.0,
    "pseudo_class_threshold": 0.0,
    "pseudo_box_threshold": 0.0,
    "pseudo_mask_threshold": 0.0,
    "mask_threshold": 0.3,
    "detections_per_image": 4,
}
CURIOUS_ENVIRONMENT = {f"TSP_{name.upper()}": str(value) for name, value in CURIOUS.items()}
QUICK = {"TSP_PRESET": "tiny", "TSP_IMAGE_SIZE": "64", "TSP_EPOCHS": "1", "TSP_BATCH_SIZE": "2"}


def new_project(client: LabelStudio, tag: str = "brush", classes: Sequence[str] = CLASSES) -> LabelStudioProject:
    """An empty project in uncertainty order; `tag` is one of LABEL_TAGS or a whole labeling configuration."""
    config = label_config(classes, tag) if tag in LABEL_TAGS else tag
    return project_setup.new_project(client, "a test's project", config, sampling=UNCERTAINTY)


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
    return truth(item, project.classes, project.config)


def project_values(project: LabelStudioProject) -> dict[str, Any]:
    """The project as the server has it now."""
    return call(project.client, "GET", f"api/projects/{project.project_id}/")


def predictions_of(project: LabelStudioProject, task_id: int) -> list[dict[str, Any]]:
    """Every prediction that the server holds for a task."""
    return call(project.client, "GET", "api/predictions/", params={"task": task_id})


def until(condition: Callable[[], Any], what: str, seconds: float = LIMIT_SECONDS) -> Any:
    """What `condition` answers once it is true, which it has to be in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)
    return found


class Loop:
    """A project and the service it is connected to, as Label Studio's user and as the service's clients see them."""

    def __init__(
        self, project: LabelStudioProject, backend: BackendProcess, auth: tuple[str, str] | None = None
    ) -> None:
        self.project, self.backend, self.auth = project, backend, auth
        self.versions = Versions(backend.model_dir, project.key)

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(self.backend.url + path, json=body, auth=self.auth, timeout=90)

    def setup(self) -> str:
        """The version that the service tells Label Studio."""
        extra = self.project.extra_params()
        body = {"project": self.project.key, "schema": self.project.label_config, "extra_params": extra}
        return self.post("/setup", body).json()["model_version"]

    def predict(self, tasks: list[int]) -> dict[str, Any]:
        """A live prediction, as Label Studio asks for it."""
        found = [call(self.project.client, "GET", f"api/tasks/{task}/") for task in tasks]
        data = [{"id": task["id"], "data": task["data"]} for task in found]
        body = {"tasks": data, "project": self.project.key, "label_config": self.project.label_config, "params": {}}
        return self.post("/predict", body).json()

    def status(self, **asked: str) -> dict[str, Any] | None:
        answer = requests.get(f"{self.backend.url}/job_status", params=asked, auth=self.auth, timeout=30)
        return answer.json() if answer.ok else None

    def ended(self, kind: str, number: int) -> dict[str, Any]:
        """The status of a job of this project, once it has succeeded."""
        job_id = f"{kind}-{self.project.key}-{number:05d}"

        def over() -> dict[str, Any] | None:
            status = self.status(job_id=job_id)
            return status if status and status["job_status"] in ("finished", "failed") else None

        status = until(over, f"the end of {job_id}")
        assert status["job_status"] == "finished", f"{status}\n{self.backend.log.read_text()[-3000:]}"
        return status

    def settle(self) -> None:
        """Until imports so far are scored: webhooks are synchronous, so their jobs are known by now."""
        number = 1
        while self.status(job_id=f"score-{self.project.key}-{number:05d}"):
            self.ended("score", number)
            number += 1

    def train(self) -> str:
        """Start training, in Label Studio; the version it made once it is active."""
        self.project.start_training()
        job = self.status(project=self.project.key)["job_id"]
        return self.ended("train", int(job.rpartition("-")[2]))["version"]

    def labels_shown(self, task: int, version: str) -> set[str]:
        found = [one for one in predictions_of(self.project, task) if one["model_version"] == version]
        assert len(found) == 1
        return {label for region in found[0]["result"] for label in region["value"][region["type"]]}


def retrieve_predictions(project: LabelStudioProject, tasks: list[int]) -> None:
    """The Data Manager's action "Retrieve predictions"."""
    call(
        project.client,
        "POST",
        "api/dm/actions",
        params={"id": "retrieve_tasks_predictions", "project": project.project_id},
        json={"selectedItems": {"all": False, "included": tasks}},
    )


def open_task(project: LabelStudioProject, task: int) -> None:
    """What the editor does first."""
    call(project.client, "GET", f"api/tasks/{task}/", params={"project": project.project_id})


def add_broken_task(project: LabelStudioProject) -> int:
    """A task whose image is not there."""
    return import_addresses(project, ["/data/upload/1/not-there.png"])[0]


def member(client: LabelStudio, url: str, email: str) -> requests.Session:
    """Another user of the server at `url`, who followed an invitation."""
    session = requests.Session()
    page = url + call(client, "GET", "api/invite")["invite_url"]
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', session.get(page, timeout=30).text)[1]
    form = {"csrfmiddlewaretoken": token, "email": email, "password": "pass-word-12"}
    session.post(page, data=form, headers={"Referer": page}, timeout=30).raise_for_status()
    who = session.get(f"{url}/api/current-user/whoami", timeout=30).json()
    assert who["email"] == email
    return session


def scored(task_id: int, score: float) -> Prediction:
    """A prediction with two instances, one of them too unsure to be shown, and the score given."""
    return replace(prediction(str(task_id), [(0.9, 0.8, 0.7), (0.2, 0.5, 0.5)]), image_score=score)


def push(project: LabelStudioProject, scores: dict[int, float], version: str = OLD, a_call: int = 100) -> int:
    return project.predictions.push((scored(*pair) for pair in scores.items()), version, CLASSES, SHOWN, a_call)
