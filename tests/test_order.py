"""Label Studio's order of tasks is the strategy's: real server, real backend, small images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from label_studio_sdk import LabelStudio

from backend.clusters import OF_A_VERSION
from backend.connection import call
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from tests.builders import disc_set
from tests.live import CURIOUS, QUICK, Loop, connect_backend, filled_project, predictions_of, regions
from tsp_model.acquisition import STRATEGIES, pick
from tsp_model.data.image_set import ImageSet
from tsp_model.prediction_pass import PREDICTIONS, score_pool
from tsp_model.predictions import read_predictions

LABELLED, POOL, LATE = 3, 9, 2


@pytest.fixture(scope="module")
def backend(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **QUICK) as process:
        yield process


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return disc_set(tmp_path_factory.mktemp("images"), LABELLED + POOL + LATE)


def trained(client: LabelStudio, backend: BackendProcess, images: ImageSet, **extra: Any) -> tuple[Loop, dict, str]:
    """A project with a first version; the names of its tasks by id."""
    project, tasks = filled_project(client, images.subset(images.keys[: LABELLED + POOL]))
    connect_backend(project, backend.url, extra_params=CURIOUS | extra)
    for task, item in zip(tasks[:LABELLED], images.items, strict=False):
        project.submit_annotation(task, regions(project, item))
    loop = Loop(project, backend)
    return loop, dict(zip(tasks, images.keys, strict=False)), loop.train()


def order_of(loop: Loop, version: str, strategy: str, images: ImageSet, name_of: dict[int, str]) -> list[int]:
    """The tasks of the pool as the strategy alone has them, from the version's predictions."""
    folder = loop.versions.folder(version)
    found = read_predictions(folder / PREDICTIONS)
    task_of = {name: task for task, name in name_of.items() if str(task) in found}
    names = sorted(task_of)
    pool = [found[str(task_of[name])] for name in names]
    labelled = list(score_pool(folder, images.subset(images.keys[:LABELLED]), above=1.0))
    scores = STRATEGIES[strategy].rank(pool, labelled, np.random.default_rng((0, 2)))
    return [task_of[name] for name in pick(dict(zip(names, scores.tolist(), strict=True)), len(names), seed=0)]


@pytest.mark.parametrize(
    "strategy", ["core_set", *(pytest.param(name, marks=pytest.mark.slow) for name in ("entropy", "random"))]
)
def test_the_servers_order_is_the_strategys_and_a_late_task_finds_its_place(
    client: LabelStudio, backend: BackendProcess, images: ImageSet, strategy: str
) -> None:
    loop, name_of, version = trained(client, backend, images, strategy=strategy)
    project = loop.project
    expected = order_of(loop, version, strategy, images, name_of)
    scores = project.scores()
    assert list(scores) == expected, "the Data Manager's ascending order"
    assert list(scores.values()) == pytest.approx([(place + 0.5) / POOL for place in range(POOL)])
    check_regions(loop, version)
    # What was there keeps its place when it is asked for live.
    live = loop.predict(expected)["results"]
    assert [one["score"] for one in live] == pytest.approx(list(scores.values()))
    check_late(loop, images, version, scores, expected)
    for task in expected[:3]:
        assert project.next_task() == task
        project.submit_annotation(task, [])


def check_late(loop: Loop, images: ImageSet, version: str, scores: dict[int, float], order: list[int]) -> None:
    """Tasks that come later stand between those that were there, the same whether scored live or by the worker."""
    project = loop.project
    late = project.upload_images({item.key: item.path for item in images.items[LABELLED + POOL :]})
    loop.settle()
    with_late = project.scores()
    assert {task: with_late[task] for task in scores} == scores
    assert [task for task in with_late if task in scores] == order
    live = loop.predict(list(late.values()))["results"]
    for task, answer in zip(late.values(), live, strict=True):
        (held,) = predictions_of(project, task)
        assert held["model_version"] == version
        assert answer["score"] == held["score"] == pytest.approx(round(held["score"] * POOL) / POOL)
        call(project.client, "DELETE", f"api/tasks/{task}/")  # or it could be served next


def check_regions(loop: Loop, version: str) -> None:
    """A region's score is s_ij, and S stays with the version, whatever orders the tasks."""
    found = read_predictions(loop.versions.folder(version) / PREDICTIONS)
    for task in loop.project.scores():
        (held,) = predictions_of(loop.project, task)
        shown = [region["score"] for region in held["result"]]
        assert shown == pytest.approx(found[str(task)].instance_scores[: len(shown)])
        assert found[str(task)].image_score != held["score"]


def clusters_of(loop: Loop, version: str) -> dict[int, int]:
    """The cluster of each task that has a prediction of this version."""
    found = {}
    for task in loop.project.scores():
        (held,) = [one for one in predictions_of(loop.project, task) if one["model_version"] == version]
        found[task] = held["cluster"]
    return found


def test_next_task_goes_round_the_clusters_and_takes_the_lowest_score_of_each(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    loop, _, version = trained(client, backend, images, clusters=3)
    project = loop.project
    for number, served in ((1, 5), (2, 2)):
        version = loop.train() if number > 1 else version
        cluster_of, scores = clusters_of(loop, version), project.scores()
        assert set(cluster_of.values()) == {number * OF_A_VERSION + i for i in range(3)}
        labelled: Counter[int] = Counter()
        for _ in range(served):
            expected = min(scores, key=lambda task: (labelled[cluster_of[task]], scores[task]))
            assert project.next_task() == expected
            project.submit_annotation(expected, [])
            labelled[cluster_of[expected]] += 1
            del scores[expected]
    late = project.upload_images({item.key: item.path for item in images.items[LABELLED + POOL :]})
    loop.settle()
    assert {clusters_of(loop, version)[task] for task in late.values()} <= set(cluster_of.values())
