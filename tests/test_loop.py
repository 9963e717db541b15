"""The whole loop: a real Label Studio server and the real backend, web service and worker, on small images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from label_studio_sdk import LabelStudio

from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from backend.project_settings import remembered_extra_params
from backend.snapshot import Snapshot
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from scripts.project_setup import label_config
from tests.builders import disc_set
from tests.live import (
    CLASSES,
    CURIOUS,
    QUICK,
    Loop,
    add_broken_task,
    connect_backend,
    filled_project,
    new_project,
    open_task,
    predictions_of,
    project_values,
    regions,
    retrieve_predictions,
    until,
)
from tsp_model.data.image_set import ImageSet
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import read_predictions
from tsp_model.scores import instance_scores


@pytest.fixture(scope="module")
def backend(label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **QUICK) as process:
        yield process


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return disc_set(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture(scope="module")
def trained(client: LabelStudio, backend: BackendProcess, images: ImageSet) -> tuple[Loop, list[int], str]:
    """What `trained_on` makes; tests add to it."""
    return trained_on(client, backend, images)


def trained_on(client: LabelStudio, backend: BackendProcess, images: ImageSet) -> tuple[Loop, list[int], str]:
    """A project with a first version, its tasks (the first two are annotated) and the version."""
    project, tasks = filled_project(client, images.subset(images.keys[:5]))
    connect_backend(project, backend.url, extra_params=CURIOUS)
    loop = Loop(project, backend)
    for task, item in zip(tasks[:2], images.items, strict=False):
        project.submit_annotation(task, regions(project, item))
    return loop, tasks, loop.train()


# The cycle


@pytest.mark.parametrize("tag", ["polygon", pytest.param("brush", marks=pytest.mark.slow)])
def test_two_cycles(client: LabelStudio, backend: BackendProcess, images: ImageSet, tag: str) -> None:
    project, tasks = filled_project(client, images, tag)
    connect_backend(project, backend.url, extra_params=CURIOUS | {"epochs": 3})
    loop = Loop(project, backend)
    item_of = dict(zip(tasks, images.items, strict=True))
    assert loop.setup() == "untrained"
    for task in tasks[:4]:
        project.submit_annotation(task, regions(project, item_of[task]))
    first = loop.train()
    check_version(loop, first, set(tasks[4:]))
    assert loop.versions.card(first)["counts"]["pseudo_images"] == 0

    scores = project.scores()
    served = project.next_task()
    assert scores[served] == min(scores.values())
    batch = [served, *sorted(set(scores) - {served}, key=scores.get)[:3]]
    for task in batch:
        project.submit_annotation(task, regions(project, item_of[task]))
    watch_training(loop, first, tasks[-1])
    second = loop.ended("train", 2)["version"]
    card = loop.versions.card(second)
    assert card["parent"] == first
    assert (card["counts"]["labelled_images"], card["counts"]["unlabelled_images"]) == (8, 4)
    assert card["counts"]["pseudo_images"] > 0 and card["counts"]["pseudo_objects"] > 0
    assert sorted(card["labelled"]) == sorted(map(str, [*tasks[:4], *batch]))
    check_version(loop, second, set(scores) - set(batch))


def check_version(loop: Loop, version: str, pool: set[int]) -> None:
    """`version` is everywhere, and every task of the pool has its prediction, with scores."""
    project = loop.project
    assert project_values(project)["model_version"] == project.connection()["title"] == version
    assert loop.setup() == loop.versions.active() == version
    listed = requests.get(f"{loop.backend.url}/versions", params={"project": project.key}, timeout=30).json()
    assert listed["active"] == version and version in listed["versions"]
    scored = read_predictions(loop.versions.folder(version) / PREDICTIONS)
    assert set(scored) == set(map(str, pool))
    assert project.scores() == pytest.approx({task: scored[str(task)].image_score for task in pool})
    shown = 0
    for task in pool:
        (held,) = [one for one in predictions_of(project, task) if one["model_version"] == version]
        assert held["score"] == pytest.approx(scored[str(task)].image_score) and 0 <= held["score"] <= 1
        for region in held["result"]:
            shown += 1
            assert region["type"] == project.config.tags[project.classes[0]].region_type and 0 <= region["score"] <= 1
            c, b, m = (region["meta"][f"{name}_score"] for name in ("class", "box", "mask"))
            assert re.fullmatch(r"class \d\.\d\d, box \d\.\d\d, mask \d\.\d\d", *region["meta"]["text"])
            triplet = (torch.tensor([value]) for value in (c, b, m))
            assert region["score"] == pytest.approx(instance_scores(*triplet).item(), abs=2e-4)
    assert shown > 0


def watch_training(loop: Loop, old: str, task: int) -> None:
    """Train; as long as the switch has not come, `old` answers."""
    assert loop.predict([task])["model_version"] == old  # also: the web service has its model from now on
    loop.project.start_training()
    seen = 0
    while True:
        answer, told = loop.predict([task]), loop.setup()
        status = loop.status(project=loop.project.key)
        if status["job_status"] in ("finished", "failed") or status.get("phase") == "switch":
            break
        assert answer["model_version"] == answer["results"][0]["model_version"] == told == old
        seen += 1
    assert seen > 0


def test_going_back_to_a_version_takes_the_order_and_tasks_that_came_later_along(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    loop, tasks, first = trained_on(client, backend, images)
    project = loop.project
    before = project.scores()
    project.submit_annotation(tasks[2], regions(project, images.items[2]))
    second = loop.train()
    late = project.upload_images({item.key: item.path for item in images.items[5:6]})
    loop.settle()
    assert project_values(project)["model_version"] == second
    answer = loop.post("/versions", {"project": str(project.project_id), "version": first})
    assert answer.status_code == 202
    assert loop.ended("activate", 1)["version"] == first
    assert project_values(project)["model_version"] == project.connection()["title"] == first
    assert loop.setup() == loop.versions.active() == first
    after = project.scores()
    assert after.keys() == before.keys() | set(late.values())
    assert {task: after[task] for task in before} == before
    assert project.next_task() == min(after.keys() - {tasks[2]}, key=after.get)
    health = requests.get(f"{loop.backend.url}/health", timeout=30).json()
    assert health["ordering"][project.key]["why"].endswith(f"by the scores of {first}")
    refused = loop.post("/versions", {"project": str(project.project_id), "version": "tsp-0099-20260101T000000"})
    assert refused.status_code == 400 and "has no version" in refused.json()["error"]


def test_tasks_that_come_later_are_scored_without_a_hand(
    trained: tuple[Loop, list[int], str], images: ImageSet
) -> None:
    loop, _, version = trained
    late = loop.project.upload_images({item.key: item.path for item in images.items[5:7]})
    loop.settle()
    for task in late.values():
        (one,) = predictions_of(loop.project, task)
        assert one["model_version"] == version
        assert loop.project.scores()[task] == pytest.approx(one["score"])


def test_opening_a_task_without_a_prediction_brings_one_once(trained: tuple[Loop, list[int], str]) -> None:
    loop, tasks, version = trained
    (held,) = predictions_of(loop.project, tasks[3])
    call(loop.project.client, "DELETE", f"api/predictions/{held['id']}/")
    assert predictions_of(loop.project, tasks[3]) == []
    open_task(loop.project, tasks[3])
    (live,) = predictions_of(loop.project, tasks[3])
    assert live["model_version"] == version
    assert live["score"] == pytest.approx(held["score"], abs=1e-5)
    assert [region["id"] for region in live["result"]] == [region["id"] for region in held["result"]]
    open_task(loop.project, tasks[3])
    assert len(predictions_of(loop.project, tasks[3])) == 1


def test_a_broken_image_costs_only_its_own_task(trained: tuple[Loop, list[int], str]) -> None:
    loop, tasks, version = trained
    broken = add_broken_task(loop.project)
    loop.settle()  # or the job would bring back what is deleted below
    answer = loop.predict([tasks[2], broken, tasks[4]])
    assert [bool(one) for one in answer["results"]] == [True, False, True]
    assert answer["results"][1] == []
    for task in (tasks[2], tasks[4]):
        for held in predictions_of(loop.project, task):
            call(loop.project.client, "DELETE", f"api/predictions/{held['id']}/")
    retrieve_predictions(loop.project, [tasks[2], broken, tasks[4]])
    found = [
        [one["model_version"] for one in predictions_of(loop.project, task)] for task in (tasks[2], broken, tasks[4])
    ]
    assert found == [[version], [], [version]]


def test_skipped_stays_in_the_pool_empty_trains_and_broken_is_left_out(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, (drawn, empty, skipped, *rest) = filled_project(client, images.subset(images.keys[:5]))
    broken, broken_labelled = add_broken_task(project), add_broken_task(project)
    connect_backend(project, backend.url, extra_params=CURIOUS)
    loop = Loop(project, backend)
    item = next(item for item in images.items if item.instances)
    for task in (drawn, broken_labelled):
        project.submit_annotation(task, regions(project, item))
    project.submit_annotation(empty, [])
    project.submit_annotation(skipped, regions(project, item), cancelled=True)
    version = loop.train()
    card = loop.versions.card(version)
    assert sorted(card["labelled"]) == sorted(map(str, (drawn, empty)))
    assert card["counts"]["labelled_objects"] == len(item.instances)
    assert set(project.scores()) == {skipped, *rest}
    assert predictions_of(project, broken) == []
    log = backend.log.read_text()
    assert all(f"task {task} is left out" in log for task in (broken, broken_labelled))


def test_annotations_train_when_there_are_enough_new_ones(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:5]))
    connect_backend(project, backend.url, extra_params={"train_after": 2})
    loop = Loop(project, backend)

    def annotate(number: int) -> dict[str, Any]:
        """The check that the event wakes."""
        project.submit_annotation(tasks[number - 1], regions(project, images.items[number - 1]))
        return loop.ended("check", number)

    assert annotate(1)["due"] is False
    assert loop.status(project=project.key) is None, "no training yet"
    assert annotate(2)["train_job_id"].startswith(f"train-{project.key}-")
    version = loop.ended("train", 1)["version"]
    assert loop.versions.card(version)["counts"]["labelled_images"] == 2
    assert annotate(3)["due"] is False
    assert loop.status(project=project.key)["job_id"].endswith("-00001")
    assert annotate(4)["due"] is True
    assert loop.versions.card(loop.ended("train", 2)["version"])["counts"]["labelled_images"] == 4


def test_a_label_added_after_a_version_is_learned_by_the_next(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:4]))
    connect_backend(project, backend.url, extra_params=CURIOUS)
    loop = Loop(project, backend)
    items = [item for item in images.items if item.instances]
    project.submit_annotation(tasks[0], regions(project, items[0]))
    first = loop.train()
    assert loop.versions.card(first)["classes"] == ["disc", "box"]
    config = label_config(("ring", *CLASSES), "brush")
    call(client, "PATCH", f"api/projects/{project.project_id}", json={"label_config": config})
    changed = Loop(LabelStudioProject(client, project.project_id), backend)
    assert changed.predict([tasks[3]])["results"][0]["model_version"] == first
    drawn = [
        one | {"value": one["value"] | {"brushlabels": ["ring"]}} for one in regions(changed.project, items[1])[:1]
    ]
    changed.project.submit_annotation(tasks[1], drawn)
    second = changed.train()
    assert changed.versions.card(second)["classes"] == ["ring", "disc", "box"]
    assert changed.versions.card(second)["counts"]["labelled_images"] == 2
    check_version(changed, second, set(tasks[2:]))


def test_labels_that_are_renamed_or_removed_though_annotations_and_a_version_use_them(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:4]))
    connect_backend(project, backend.url, extra_params=CURIOUS)
    both = next(item for item in images.items if {one.label for one in item.instances} == {1, 2})
    project.submit_annotation(tasks[0], regions(project, both))
    first = Loop(project, backend).train()

    def changed(config: str) -> Loop:
        call(client, "PATCH", f"api/projects/{project.project_id}", json={"label_config": config})
        return Loop(LabelStudioProject(client, project.project_id), backend)

    count = {name: sum(one.label == label for one in both.instances) for label, name in enumerate(CLASSES, start=1)}
    loop = changed(label_config(("box",), "brush"))
    for answer in loop.predict(tasks[1:])["results"]:
        assert answer["model_version"] == first
        assert {label for region in answer["result"] for label in region["value"]["brushlabels"]} <= {"box"}
    second = loop.train()
    assert loop.versions.card(second)["classes"] == ["box"]
    assert loop.status(project=project.key)["without_label"] == {"disc": count["disc"]}
    loop = changed(
        label_config(("ring", "box"), "brush").replace('value="ring"', 'value="ring" predicted_values="disc"')
    )
    third = loop.train()
    assert loop.versions.card(third)["classes"] == ["ring", "box"]
    assert loop.status(project=project.key)["without_label"] == {}
    learned = Snapshot.read(loop.versions.folder(third)).labelled[0].instances
    assert sum(label == 1 for label, _ in learned) == count["disc"], "the old ones are of the new name"
    check_version(loop, third, set(tasks[1:]))


def test_two_projects_with_different_labels_never_mix(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    loops = {}
    for classes in (("disc", "box"), ("Nucleus",)):
        project = new_project(client, classes=classes)
        given = {item.key: item.path for item in images.items[:4]}
        tasks = list(project.upload_images(given).values())
        connect_backend(project, backend.url, extra_params=CURIOUS)
        item = next(item for item in images.items if item.instances)
        drawn = regions(new_project(client), item)
        value = {"brushlabels": [classes[-1]]}
        project.submit_annotation(tasks[0], [one | {"value": one["value"] | value} for one in drawn])
        loops[classes] = (Loop(project, backend), tasks[1:])
    for loop, _ in loops.values():
        loop.project.start_training()
    names = {classes: loop.ended("train", 1)["version"] for classes, (loop, _) in loops.items()}
    for _ in range(2):
        for classes, (loop, pool) in loops.items():
            assert loop.versions.list() == [names[classes]]
            assert loop.versions.card(names[classes])["classes"] == list(classes)
            for answer in loop.predict(pool)["results"]:
                shown = {label for region in answer["result"] for label in region["value"]["brushlabels"]}
                assert shown <= set(classes)
            for task in pool:
                assert loop.labels_shown(task, names[classes]) <= set(classes)
    shown = [loop.labels_shown(task, names[classes]) for classes, (loop, pool) in loops.items() for task in pool]
    assert {"Nucleus"} in shown and any(one & {"disc", "box"} for one in shown)


# What cannot be answered


def test_before_the_first_training_nothing_is_answered_and_nothing_stored(
    client: LabelStudio, backend: BackendProcess, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    connect_backend(project, backend.url)
    loop = Loop(project, backend)
    assert loop.predict(tasks) == {"results": [[], []], "model_version": "untrained"}
    open_task(project, tasks[0])
    retrieve_predictions(project, tasks)
    assert [predictions_of(project, task) for task in tasks] == [[], []]
    project.start_training()
    job_id = loop.status(project=project.key)["job_id"]
    failed = until(lambda: (s := loop.status(job_id=job_id))["job_status"] == "failed" and s, "the failure")
    assert "nothing to train on" in failed["error"] and "\n" not in failed["error"]
    assert loop.versions.list() == []


TWO_IMAGES = """<View><Image name="a" value="$image"/><Image name="b" value="$other"/>
<BrushLabels name="label" toName="a"><Label value="disc"/></BrushLabels></View>"""
NO_MASKS = """<View><Image name="image" value="$image"/>
<EllipseLabels name="label" toName="image"><Label value="disc"/></EllipseLabels></View>"""


@pytest.mark.parametrize(
    ("config", "reason"), [(TWO_IMAGES, "several images"), (NO_MASKS, "no tag for objects")], ids=["images", "tag"]
)
def test_a_configuration_that_cannot_be_used_is_refused_with_the_reason(
    client: LabelStudio, backend: BackendProcess, config: str, reason: str
) -> None:
    usable = new_project(client)
    call(client, "PATCH", f"api/projects/{usable.project_id}", json={"label_config": config})
    with pytest.raises(ProjectError, match=reason):
        connect_backend(usable, backend.url)
    with pytest.raises(ProjectError, match="0 model connections"):
        usable.connection()


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"action": 3}', b'{"action": "START_TRAINING", "project": {"id": 1}}']
)
def test_a_webhook_that_cannot_be_understood_is_one_line(backend: BackendProcess, body: bytes) -> None:
    answer = requests.post(f"{backend.url}/webhook", data=body, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"] and "\n" not in answer.json()["error"]


def test_extra_params_as_the_form_of_label_studio_sends_them(client: LabelStudio, backend: BackendProcess) -> None:
    """Text, an empty one where nothing was filled in."""
    project = new_project(client)
    row = connect_backend(project, backend.url, extra_params="")
    assert row["state"] == "CO" and project.extra_params() == {}
    project.change_connection(row, extra_params='{"show_area": 20}')
    assert project.extra_params() == remembered_extra_params(backend.model_dir, project.key) == {"show_area": 20}
    with pytest.raises(ProjectError, match="is no JSON object"):
        project.change_connection(row, extra_params="show_area=20")


def test_misspelt_extra_params_are_refused_with_the_name(client: LabelStudio, backend: BackendProcess) -> None:
    with pytest.raises(ProjectError, match="unknown key epoch;"):
        connect_backend(new_project(client), backend.url, extra_params={"epoch": 3})


# Basic authentication


def test_basic_authentication_reaches_events_too(
    client: LabelStudio, label_studio: LabelStudioServer, images: ImageSet, tmp_path: Path
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    guard = {"BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASS": "open sesame"}
    port = free_port()
    with BackendProcess(tmp_path, port, label_studio.url, label_studio.api_key, **QUICK, **guard) as backend:
        for wrong in ({}, {"auth_method": "BASIC_AUTH", "basic_auth_user": "ann", "basic_auth_pass": "sesame"}):
            with pytest.raises(ProjectError, match="authentication parameters"):
                connect_backend(project, backend.url, **wrong)
        access = {"auth_method": "BASIC_AUTH", "basic_auth_user": "ann", "basic_auth_pass": "open sesame"}
        connect_backend(project, backend.url, extra_params={"train_after": 1}, **access)
        loop = Loop(project, backend, auth=("ann", "open sesame"))
        project.submit_annotation(tasks[0], regions(project, images.items[0]))
        version = until(loop.versions.active, "the training that the annotation starts")
        until(lambda: project_values(project)["model_version"] == version, "the switch")
        assert set(project.scores()) == set(tasks[1:])
        assert "open sesame" not in backend.log.read_text()


# Runs last: whatever the tests above made the service do, it did not write its token down.


def test_the_token_is_in_no_log_card_error_or_database(
    trained: tuple[Loop, list[int], str], label_studio: LabelStudioServer
) -> None:
    loop, _, _ = trained
    files = [path for path in loop.backend.folder.rglob("*") if path.is_file()]
    assert {"backend.log", "card.json", "jobs.sqlite", "active"} <= {path.name for path in files}
    secret = label_studio.api_key.encode()
    assert [path for path in files if secret in path.read_bytes()] == []
