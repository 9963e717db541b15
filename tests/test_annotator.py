"""What an annotator meets, in a real browser: the order, the pre-annotation, the next task, a training.

The pictures of the last run lie in runs/screenshots/.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from label_studio_sdk import LabelStudio
from PIL import Image
from playwright.sync_api import Page, Response, expect

from backend.regions import to_instances
from backend.task_order import VIEW
from backend.webhooks import webhooks_of
from scripts.backend_process import BackendProcess
from scripts.browser import LIMIT_MILLISECONDS, NO_BROWSER, browser, seen_once, signed_in
from scripts.connect import connect_project
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from scripts.project_setup import COLOURS
from tests.live import CURIOUS_ENVIRONMENT, QUICK, Loop, filled_project, predictions_of, regions
from tsp_model.data import masks
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.data.synthetic import write_synthetic

SCREENSHOTS = Path(__file__).resolve().parent.parent / "runs" / "screenshots"
OPACITY = {"brush": 0.6, "polygon": 0.2}  # of a region over the image, in Label Studio's editor
INSIDE = 1.5  # pixels from the edge of a part; nearer to it the editor's smoothing and outlines are seen
SHADES = 8  # of 255, by which a colour less its grey may differ; what is scaled and smoothed is grey
LABELLED = 6

Shoot = Callable[[str], None]


@pytest.fixture
def page(label_studio: LabelStudioServer) -> Iterator[Page]:
    """A browser's page, signed in on the server; skips where there is no browser."""
    if browser() is None:
        pytest.skip(NO_BROWSER)
    with signed_in(label_studio) as opened:
        expect.set_options(timeout=LIMIT_MILLISECONDS)
        yield opened


@pytest.fixture
def shoot(page: Page, request: pytest.FixtureRequest) -> Shoot:
    """Keeps a picture of the page, numbered, under the name that it is called with."""
    folder = SCREENSHOTS / re.sub(r"\W+", "-", request.node.name)
    shutil.rmtree(folder, ignore_errors=True)
    numbers = itertools.count(1)
    return lambda name: (page.screenshot(path=folder / f"{next(numbers)}-{name}.png"), None)[1]


@pytest.fixture(scope="module")
def backend(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    method = QUICK | CURIOUS_ENVIRONMENT | {"TSP_IMAGE_SIZE": "128", "TSP_EPOCHS": "20", "TSP_TRAIN_AFTER": "0"}
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **method) as process:
        yield process


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("images")
    write_synthetic(folder, train=12, test=1)
    return load_coco(folder, "train")


@pytest.mark.parametrize("tag", ["polygon", pytest.param("brush", marks=pytest.mark.slow)])
def test_an_annotator_is_led_from_one_uncertain_task_to_the_next(
    page: Page, shoot: Shoot, client: LabelStudio, backend: BackendProcess, images: ImageSet, tag: str
) -> None:
    project, tasks = filled_project(client, images, tag)
    path_of = {task: item.path for task, item in zip(tasks, images.items, strict=True)}
    connect_project(project, backend.url, say=lambda line: None)
    loop = Loop(project, backend)
    for task, item in zip(tasks[:LABELLED], images.items, strict=False):
        project.submit_annotation(task, regions(project, item))
    first = loop.train()
    by_score = sorted(scores := project.scores(), key=scores.get)

    open_tasks(page, project.project_id)
    shoot("tasks")
    check_table(page, scores, tasks[:LABELLED])

    page.get_by_role("button", name="Label All Tasks").click()
    shown = check_opened(page, by_score[0])
    held = prediction_of(project, by_score[0], first)
    assert shown == [(label_of(region), f"{region['score']:.2f}") for region in held]
    seen_once(page, drawn_as(path_of[by_score[0]], held, images.classes, OPACITY[tag]))
    shoot("pre-annotation")

    outliner(page).first.click()
    details = page.get_by_test_id("detailed-region")
    expect(details).to_contain_text(held[0]["meta"]["text"][0])
    assert re.fullmatch(r"class \d\.\d\d, box \d\.\d\d, mask \d\.\d\d", held[0]["meta"]["text"][0])
    shoot("details-of-a-region")
    details.get_by_label("Delete selected region").click()
    expect(outliner(page)).to_have_count(len(held) - 1)
    page.get_by_test_id("bottombar-submit-button").click()
    check_opened(page, by_score[1])
    held_next = prediction_of(project, by_score[1], first)
    seen_once(page, drawn_as(path_of[by_score[1]], held_next, images.classes, OPACITY[tag]))
    shoot("next-task")
    (annotation,) = client.annotations.list(id=by_score[0])
    assert annotation.parent_prediction == predictions_of(project, by_score[0])[0]["id"]
    assert sorted(region["id"] for region in annotation.result) == sorted(region["id"] for region in held[1:])

    start_training(page, project.project_id)
    second = loop.ended("train", 2)["version"]
    open_tasks(page, project.project_id)
    shoot("tasks-after-training")
    after = project.scores()
    assert set(after) == set(scores) - {by_score[0]} and after != {task: scores[task] for task in after}
    check_table(page, after, [*tasks[:LABELLED], by_score[0]])
    page.get_by_role("button", name="Label All Tasks").click()  # the task that was opened and left is still held
    shown = check_opened(page, by_score[1])
    shoot("task-after-training")
    assert shown == [
        (label_of(region), f"{region['score']:.2f}") for region in prediction_of(project, by_score[1], second)
    ]


def test_a_backend_is_connected_and_changed_by_hand(
    page: Page, shoot: Shoot, client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, _ = filled_project(client, images, "polygon")
    page.goto(f"/projects/{project.project_id}/settings/ml")
    page.get_by_text("Connect Model").last.click()
    page.locator("input[name=title]").fill("TSP")
    page.locator("input[name=url]").fill(backend.url)
    params = page.locator("textarea[name=extra_params]")
    params.fill('{"show_area": 20}')
    page.get_by_text("Validate and Save").click()
    expect(page.get_by_text("Connected", exact=True)).to_be_visible()
    shoot("connected")
    assert project.extra_params() == {"show_area": 20}
    assert len(webhooks_of(project.client, project.project_id, backend.url)) == 1

    def change(value: str) -> Response:
        """What Label Studio answers. Whoever reads the connection before that may have the change undone: Label Studio
        tries the backend on each reading and then writes the whole connection back as it read it."""
        page.get_by_label("Machine learning model options").click()
        page.get_by_text("Edit", exact=True).click()
        expect(params).to_have_value(re.compile("show_area"))
        # Label Studio's form fills its fields twice, the second time 50 ms after it is there, over what was typed in
        # between (Form.jsx, componentDidMount). A timer as long, set now, rings after that one.
        page.evaluate("() => new Promise(done => setTimeout(done, 50))")
        params.fill(value)
        with page.expect_response(lambda one: one.request.method == "PATCH" and "/api/ml/" in one.url) as response:
            page.get_by_text("Validate and Save").click()
        return response.value

    assert change('{"show_areas": 20}').status == 400
    expect(page.get_by_text("did you mean show_area?").first).to_be_visible()
    shoot("refused")
    page.reload()
    answer = change('{"show_area": 10}')
    assert answer.ok, answer.text()
    expect(params).not_to_be_visible()
    assert project.extra_params() == {"show_area": 10}


# Steps


def open_tasks(page: Page, project_id: int) -> None:
    """The project as a link to it opens it: with its first tab."""
    page.goto(f"/projects/{project_id}/data")
    expect(page.get_by_test_id("table-row").first).to_be_visible()


def start_training(page: Page, project_id: int) -> None:
    page.goto(f"/projects/{project_id}/settings/ml")
    page.get_by_label("Machine learning model options").click()
    page.get_by_text("Start Training", exact=True).click()
    with page.expect_response(re.compile(r"/api/ml/\d+/train")) as answer:
        page.get_by_role("button", name="Start Training").click()
    assert answer.value.ok


def outliner(page: Page) -> Any:
    """The regions in the side panel."""
    return page.locator(".lsf-outliner-item")


# What the page shows


def check_table(page: Page, scores: dict[int, float], labelled: Sequence[int]) -> None:
    """The first tab is the view: unlabelled tasks by their score, ascending, then those with a label, without one."""
    expect(page.get_by_role("tab", name=VIEW, selected=True)).to_be_visible()
    rows = [row.locator(".lsf-table__cell").all_inner_texts()[1:4] for row in page.get_by_test_id("table-row").all()]
    ranked = [[str(task), "0", f"{scores[task]:.3f}"] for task in sorted(scores, key=scores.get)]
    assert rows[: len(ranked)] == ranked
    assert sorted(rows[len(ranked) :]) == sorted([str(task), "1", ""] for task in labelled)


def check_opened(page: Page, task: int) -> list[tuple[str, str]]:
    """The editor has the task, with regions; (label, score) of each as the side panel lists them."""
    expect(page.locator(".lsf-current-task__task-id")).to_have_text(re.compile(rf"^{task}\s"), use_inner_text=True)
    expect(outliner(page)).not_to_have_count(0)
    return [tuple(text.split("\n")[1:3]) for text in outliner(page).all_inner_texts()]


def drawn_as(
    path: Path, result: list[dict[str, Any]], classes: Sequence[str], opacity: float
) -> Callable[[np.ndarray], bool]:
    """Whether the editor's pixels show each mask of a grey image where it lies, in its label's colour, and no colour
    elsewhere: looked at far inside of what no mask covers, and of each mask's own part that has an inside."""
    height, width = np.asarray(Image.open(path).convert("L")).shape
    stack = [(label, masks.decode([rle])[0].astype(bool)) for label, rle in to_instances(result)]
    covered = sum(mask.astype(int) for _, mask in stack)
    bare, depth = deepest(covered == 0)
    assert depth >= INSIDE, "masks cover everything"
    wanted = {bare: np.zeros(3)}
    for label, mask in stack:
        colour = COLOURS[classes.index(label)]
        spot, depth = deepest(mask & (covered == 1))
        if depth >= INSIDE:
            wanted[spot] = opacity * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    assert len(wanted) > 1, "no mask has a part of its own"

    def true(seen: np.ndarray) -> bool:
        scale = np.array(seen.shape[:2]) / (height, width)
        at = ((np.array(list(wanted)) + 0.5) * scale).astype(int)
        return bool((np.abs(chroma(seen[at[:, 0], at[:, 1]]) - chroma(np.array(list(wanted.values())))) < SHADES).all())

    return true


def chroma(colours: np.ndarray) -> np.ndarray:
    """[N, 3] colours less their grey, so that the image behind them does not count."""
    return colours - colours.mean(axis=1, keepdims=True)


def deepest(inside: np.ndarray) -> tuple[tuple[int, int], float]:
    """The pixel that is farthest from what is not inside, and how far, in pixels; 0 where nothing is inside."""
    distances = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.unravel_index(distances.argmax(), distances.shape), float(distances.max())


def prediction_of(project: Any, task: int, version: str) -> list[dict[str, Any]]:
    (held,) = [one for one in predictions_of(project, task) if one["model_version"] == version]
    return held["result"]


def label_of(region: dict[str, Any]) -> str:
    return region["value"][region["type"]][0]
