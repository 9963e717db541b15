"""A project, its listing and its predictions against the real server: what trains, is pushed, cannot be reached."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import pytest
from label_studio_sdk import LabelStudio
from label_studio_sdk.label_interface import LabelInterface

from backend import connection, listing, project_predictions
from backend import project as module
from backend.connection import ProjectError, call, connect
from backend.early import EarlySender
from backend.images import fetch_image
from backend.label_config import LABEL_TAGS
from backend.project import LabelStudioProject
from backend.project_predictions import ProjectPredictions, predictions_a_call
from scripts.label_studio import LabelStudioServer
from scripts.processes import free_port
from scripts.project_setup import import_addresses, label_config
from tests.live import (
    CLASSES,
    NEW,
    OLD,
    SHOWN,
    connect_backend,
    filled_project,
    new_project,
    predictions_of,
    project_values,
    push,
    regions,
    scored,
    until,
)
from tests.web import Server
from tsp_model.data import masks
from tsp_model.data.image_set import ImageSet
from tsp_model.predictions import Prediction, PredictionFile

# What trains


def test_what_trains_of_what_the_api_can_hold(client: LabelStudio, images: ImageSet) -> None:
    project, tasks = filled_project(client, images)
    one = regions(project, images.items[0])[:1]
    both = [*one, one[0] | {"id": "second", "value": one[0]["value"] | {"brushlabels": ["box"]}}]
    submitted, empty, skipped, draft, several, changed, marked, beside = tasks

    def submit(task: int, result: list, **values: object) -> int:
        body = {"result": result, **values}
        return call(client, "POST", f"api/tasks/{task}/annotations/", json=body)["id"]

    submit(submitted, one)
    submit(empty, [])
    submit(skipped, one, was_cancelled=True)
    call(client, "POST", f"api/tasks/{draft}/drafts", json={"result": one, "lead_time": 1})
    submit(several, one)
    latest = submit(several, both)
    older = submit(changed, one)
    submit(changed, both)
    call(client, "PATCH", f"api/annotations/{older}/", json={"result": []})
    truth = submit(marked, one, ground_truth=True)
    submit(marked, both)
    submit(beside, one)
    submit(beside, both, was_cancelled=True)

    found = {task.id: task for task in project.tasks()}
    counts = {number: None if task.instances is None else len(task.instances) for number, task in found.items()}
    assert counts == {submitted: 1, empty: 0, skipped: None, draft: None, several: 2, changed: 0, marked: 1, beside: 1}
    assert all(found[number].annotation is None for number in (skipped, draft))
    assert (found[several].annotation["id"], found[changed].annotation["id"]) == (latest, older)
    assert found[marked].annotation["id"] == truth
    assert project.annotated_task_ids() == {submitted, empty, several, changed, marked, beside}


PAIR = (
    '<View><Image name="image" value="$image"/>'
    '<RectangleLabels name="boxes" toName="image"><Label value="disc"/></RectangleLabels>'
    '<BitmaskLabels name="masks" toName="image"><Label value="box"/></BitmaskLabels></View>'
)


CONFIGS = {tag: label_config(CLASSES, tag) for tag in LABEL_TAGS} | {"pair": PAIR}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_masks_come_back_as_they_were_drawn(client: LabelStudio, images: ImageSet, config: str) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:2]), config)
    for task, item in zip(tasks, images.items[:2], strict=True):
        project.submit_annotation(task, regions(project, item))
    for task, item in zip(project.tasks(), images.items[:2], strict=True):
        assert [label for label, _ in task.instances] == [CLASSES[one.label - 1] for one in item.instances]
        for (label, rle), drawn in zip(task.instances, item.instances, strict=True):
            kind = project.config.tags[label].kind
            wanted = boxed(drawn.rle) if kind == "rectangle" else drawn.rle
            assert masks.iou([rle], [wanted])[0, 0] >= (0.95 if kind == "polygon" else 1)


def boxed(rle: masks.RLE) -> masks.RLE:
    """The box around a mask as a mask."""
    window, top, left = masks.decode_window(rle)
    return masks.encode_window(np.ones_like(window), top, left, *rle["size"])


def test_an_annotation_with_a_malformed_region_trains_nothing_and_hides_nothing(
    client: LabelStudio, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    good = regions(project, images.items[0])[0]
    broken = good | {"id": "broken", "value": good["value"] | {"rle": [1, 2, 3]}}
    project.submit_annotation(tasks[0], [good, broken])
    project.submit_annotation(tasks[1], [good])
    found = {task.id: task for task in project.tasks()}
    assert found[tasks[0]].annotation is not None and found[tasks[0]].instances is None
    assert len(found[tasks[1]].instances) == 1
    assert found[tasks[2]].annotation is None


def test_annotations_are_read_without_the_predictions_beside_them(
    client: LabelStudio, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of every version would come along, and a project has many more of them than annotations."""
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    push(project, dict.fromkeys(tasks, 0.5))
    project.submit_annotation(tasks[0], regions(project, images.items[0]))
    answers = []

    def watched(*arguments, **options):
        answers.append(call(*arguments, **options))
        return answers[-1]

    monkeypatch.setattr(listing, "call", watched)
    first, second = project.tasks()
    assert len(first.instances) == len(images.items[0].instances) and second.annotation is None
    listed = [task for answer in answers for task in answer["tasks"]]
    assert [task["id"] for task in listed] == [tasks[0], *tasks]
    assert not any("predictions" in task for task in listed)


# Images and pages


def test_each_name_has_its_own_image(
    client: LabelStudio, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_A_CALL", 3)
    project = new_project(client)
    names = ["left eye.png", "right eye.png", "a/scan.png", "b/scan.png", "10.png", "9.png", "ä ö.png"]
    given = {name: item.path for name, item in zip(names, images.items, strict=False)}
    made = project.upload_images(given)
    assert made == project.task_ids_by_name()
    assert list(made) == names
    urls = {task.id: task.image_url for task in project.tasks()}
    for name, path in given.items():
        assert fetch_image(urls[made[name]], client, tmp_path).read_bytes() == path.read_bytes(), name


def test_pages_hold_every_task_once(client: LabelStudio, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    project, tasks = filled_project(client, images)
    for task in tasks[1:6]:
        project.submit_annotation(task, [])
    monkeypatch.setattr(listing, "TASKS_A_PAGE", 3)
    monkeypatch.setattr(listing, "WHOLE_A_PAGE", 2)
    asked = []

    def watched(*arguments, **options):
        asked.append(options["params"]["page_size"])
        return call(*arguments, **options)

    with monkeypatch.context() as spy:
        spy.setattr(listing, "call", watched)
        found = [task.id for task in project.tasks()]
    assert found == [*tasks[1:6], tasks[0], *tasks[6:]]
    assert asked == [2, 2, 2, 3, 3, 3]
    assert LabelStudioProject(client, project.project_id).task_count == len(tasks)
    assert project.annotated_task_ids() == set(tasks[1:6])
    assert sorted(project.task_ids_by_name().values()) == tasks


def test_an_annotation_between_two_pages_gives_no_task_twice_and_passes_none_over(
    client: LabelStudio, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, tasks = filled_project(client, images)
    made = {task: project.submit_annotation(task, []) for task in tasks[2:7]}
    monkeypatch.setattr(listing, "WHOLE_A_PAGE", 2)
    reading = project.tasks()
    found = [next(reading).id, next(reading).id]
    project.submit_annotation(tasks[0], [])
    found.append(next(reading).id)
    next_one = next(reading).id
    call(client, "DELETE", f"api/annotations/{made[tasks[2]]}/")
    call(client, "DELETE", f"api/annotations/{made[tasks[3]]}/")
    found += [next_one, *(task.id for task in reading)]
    assert sorted(found) == sorted(set(found)), "a task came twice"
    # The one annotated behind the reader's back waits for the next time; no other is passed over.
    assert set(found) == set(tasks) - {tasks[0]}


# Predictions


def test_pushed_predictions_arrive_with_version_score_and_regions(client: LabelStudio, images: ImageSet) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    assert push(project, {tasks[0]: 0.25, tasks[1]: 0.75}) == 2
    (held,) = predictions_of(project, tasks[0])
    assert (held["model_version"], held["score"]) == (OLD, 0.25)
    (region,) = held["result"]
    assert region["score"] == pytest.approx(scored(tasks[0], 0.25).instance_scores[0]), "one of two is shown"
    assert {name: region["meta"][f"{name}_score"] for name in ("class", "box", "mask")} == {
        "class": 0.9,
        "box": 0.8,
        "mask": 0.7,
    }


def test_what_is_there_is_not_sent_again_and_another_version_is_sent_whole(
    client: LabelStudio, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    scores = dict.fromkeys(tasks, 0.5)
    assert push(project, dict.fromkeys(tasks[:2], 0.5)) == 2
    assert push(project, scores) == 1, "only the task that had none"
    assert push(project, scores) == 0
    # Names made of the same letters: a filter on a text would find them all.
    assert push(project, scores, OLD[::-1]) == 3
    assert push(project, scores, NEW) == 3
    versions = sorted(one["model_version"] for one in predictions_of(project, tasks[0]))
    assert versions == sorted([OLD, OLD[::-1], NEW])


@pytest.mark.parametrize(("a_call", "bytes_a_call", "calls"), [(2, 10**6, [2, 2, 1]), (100, 1, [1] * 5)])
def test_large_pushes_go_in_several_calls(
    client: LabelStudio,
    images: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
    a_call: int,
    bytes_a_call: int,
    calls: list[int],
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:5]))
    monkeypatch.setattr(connection, "BYTES_A_CALL", bytes_a_call)
    sent, original = [], ProjectPredictions._import_predictions

    def watched(self: ProjectPredictions, entries: list[str], version: str) -> int:
        sent.append(len(entries))
        return original(self, entries, version)

    monkeypatch.setattr(ProjectPredictions, "_import_predictions", watched)
    assert push(project, dict.fromkeys(tasks, 0.5), a_call=a_call) == 5
    assert sent == calls
    assert [len(predictions_of(project, task)) for task in tasks] == [1] * 5


def test_a_version_is_forgotten_while_another_goes_on_ordering_the_tasks(
    client: LabelStudio, images: ImageSet, backend: Server
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    connect_backend(project, backend.url)
    for version in (OLD, NEW):
        push(project, dict.fromkeys(tasks, 0.5), version)
    backend.answers = NEW
    project.switch(NEW)
    for _ in range(2):  # what is gone already is no error
        project.forget(OLD, NEW)
        assert project_values(project)["model_version"] == NEW
        for task in tasks:
            assert [one["model_version"] for one in predictions_of(project, task)] == [NEW]


def test_of_doubled_predictions_one_stays(client: LabelStudio, images: ImageSet) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    for version in (OLD, NEW):
        push(project, dict.fromkeys(tasks, 0.5), version)
    assert project.predictions.remove_doubled(OLD) == 0
    (first,) = [one["id"] for one in predictions_of(project, tasks[1]) if one["model_version"] == OLD]
    late = {"task": tasks[1], "model_version": OLD, "score": 0.9, "result": []}
    call(client, "POST", f"api/projects/{project.project_id}/import/predictions", json=[late, late])
    assert project.predictions.remove_doubled(OLD) == 1
    found = [(one["id"], one["model_version"]) for one in predictions_of(project, tasks[1])]
    assert sorted(version for _, version in found) == [OLD, NEW] and (first, OLD) in found


def test_a_server_told_to_count_little_is_pushed_to_as_well(tmp_path: Path) -> None:
    """See backend/README.md; it stores 500 at a time and, unlike others, those before a task that is not there."""
    flag = {"fflag_fix_back_4620_memory_efficient_predictions_import_08012025_short": "true"}
    with LabelStudioServer(tmp_path / "studio", **flag) as server:
        client = connect(server.url, server.api_key)
        project = new_project(client)
        tasks = import_addresses(project, [f"http://127.0.0.1/{number}.png" for number in range(502)])
        with closing(sqlite3.connect(server.database, timeout=60)) as database, database:
            database.execute("UPDATE task SET total_predictions = 7 WHERE id = ?", (tasks[0],))

        def listed() -> dict[int, dict[str, Any]]:
            asked = {"project": project.project_id, "page_size": 1000, "fields": "all"}
            return {task["id"]: task for task in call(client, "GET", "api/tasks/", params=asked)["tasks"]}

        push(project, {tasks[1]: 0.5})
        counts = [listed()[task]["total_predictions"] for task in tasks[:3]]
        assert counts == [7, 1, 0], "only the task that was pushed to is counted"

        def found() -> Iterator[Prediction]:
            yield from (scored(task, 0.5) for task in tasks)
            call(client, "DELETE", f"api/tasks/{tasks[501]}/")

        assert project.predictions.push(found(), NEW, CLASSES, SHOWN) == 501
        stored = {task: [one["model_version"] for one in raw["predictions"]] for task, raw in listed().items()}
        assert stored == {task: [OLD, NEW][task != tasks[1] :] for task in tasks[:501]}


def test_what_was_deleted_since_it_was_scored_is_left_out(client: LabelStudio, images: ImageSet) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:3]))
    call(client, "DELETE", f"api/tasks/{tasks[1]}/")
    assert push(project, dict.fromkeys(tasks, 0.5)) == 2


def test_tasks_that_are_deleted_while_they_are_pushed_cost_their_own_prediction_only(
    client: LabelStudio, images: ImageSet
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:4]))

    def deleting(*gone: int) -> Iterator[Prediction]:
        for task in tasks:
            yield scored(task, 0.5)
        for task in gone:  # after all of them were made, before they are sent
            call(client, "DELETE", f"api/tasks/{task}/")

    assert project.predictions.push(deleting(tasks[1]), OLD, CLASSES, SHOWN) == 3
    assert [len(predictions_of(project, task)) for task in (tasks[0], tasks[2], tasks[3])] == [1, 1, 1]
    assert project.predictions.push(deleting(tasks[0], tasks[2], tasks[3]), NEW, CLASSES, SHOWN) == 0


def test_what_went_out_early_is_not_sent_again(client: LabelStudio, images: ImageSet, tmp_path: Path) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:5]))
    (tmp_path / "p.jsonl").touch()
    file = PredictionFile(tmp_path / "p.jsonl")

    def stream() -> Iterator[Prediction]:
        yield from (scored(task, 0.5) for task in tasks[:3])
        until(lambda: predictions_of(project, tasks[1]), "the first two on the server")
        yield from (scored(task, 0.5) for task in tasks[3:])

    with EarlySender(
        tmp_path / "p.jsonl", lambda found: project.predictions.push(found, OLD, CLASSES, SHOWN, 2), 2
    ) as sender:
        file.add(stream(), sender.on_disk)
    missing = [task for task in tasks if not predictions_of(project, task)]
    assert set(missing) <= set(tasks[2:])
    assert project.predictions.push(file.values(), OLD, CLASSES, SHOWN) == len(missing)
    assert [len(predictions_of(project, task)) for task in tasks] == [1] * 5


def misdirected(monkeypatch: pytest.MonkeyPatch, task_id: int) -> None:
    """Let the regions of one task name a tag that the configuration does not have."""
    original = project_predictions.to_regions

    def wrong(found, *arguments):
        made = original(found, *arguments)
        return [one | {"from_name": "nowhere"} for one in made] if found.key == str(task_id) else made

    monkeypatch.setattr(project_predictions, "to_regions", wrong)


def test_a_prediction_that_does_not_fit_is_refused_before_it_is_sent(
    client: LabelStudio, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[:2]))
    misdirected(monkeypatch, tasks[1])
    with pytest.raises(ProjectError, match=f"task {tasks[1]} does not fit .*nowhere"):
        push(project, dict.fromkeys(tasks, 0.5))
    assert not predictions_of(project, tasks[0])


@pytest.mark.parametrize("gone", [[], [3]])  # also where the call is repeated, because a task was deleted meanwhile
def test_what_the_server_drops_in_silence_is_noticed_and_made_good_by_a_repetition(
    client: LabelStudio, images: ImageSet, monkeypatch: pytest.MonkeyPatch, gone: list[int]
) -> None:
    project, tasks = filled_project(client, images.subset(images.keys[: 3 + len(gone)]))

    def found() -> Iterator[Prediction]:
        yield from (scored(task, 0.5) for task in tasks)
        for index in gone:
            call(client, "DELETE", f"api/tasks/{tasks.pop(index)}/")

    with monkeypatch.context() as bypassed:
        misdirected(bypassed, tasks[1])
        bypassed.setattr(LabelInterface, "validate_prediction", lambda *_, **__: [])
        with pytest.raises(ProjectError, match=f"stored 2 of 3 predictions; those of tasks {tasks[1]} did not"):
            project.predictions.push(found(), OLD, CLASSES, SHOWN)
    assert push(project, dict.fromkeys(tasks, 0.5)) == 1
    assert [len(predictions_of(project, task)) for task in tasks] == [1, 1, 1]


# What cannot be reached


def test_a_project_that_is_not_there(client: LabelStudio) -> None:
    with pytest.raises(ProjectError, match="no project 999999") as refusal:
        LabelStudioProject(client, 999999)
    assert refusal.value.status == 404


def test_a_project_deleted_meanwhile_is_an_error_and_not_an_empty_pool(client: LabelStudio, images: ImageSet) -> None:
    project, _ = filled_project(client, images.subset(images.keys[:1]))
    call(client, "DELETE", f"api/projects/{project.project_id}/")
    for attempt in (lambda: list(project.tasks()), lambda: project.switch(NEW), project.next_task):
        with pytest.raises(ProjectError) as refusal:
            attempt()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("token", ["f" * 40, "not a token", "ey.J.k"])
def test_a_wrong_token_is_said_without_it(label_studio: LabelStudioServer, token: str) -> None:
    with pytest.raises(ProjectError, match="refuses the token.*LABEL_STUDIO_API_KEY") as refusal:
        connect(label_studio.url, token)
    assert token not in str(refusal.value) and "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is None, "the cause would keep the header"


def test_a_redirect_takes_no_token_anywhere_and_is_named() -> None:
    studio, elsewhere = Server(), Server()
    refresh = jwt.encode({"token_type": "refresh", "exp": 4e9}, "k" * 32)
    for path in ("/api/token/refresh/", "/api/current-user/whoami"):
        studio.pages[path] = (307, {"Location": elsewhere.url + path}, b"")
    for token in (refresh, "f" * 40):
        with pytest.raises(ProjectError) as refusal:
            connect(studio.url, token)
        assert token not in str(refusal.value) and "\n" not in str(refusal.value)
    assert f"redirects to {elsewhere.url}/api/current-user/whoami" in str(refusal.value)
    assert elsewhere.asked == [] and len(studio.asked) == 2
    studio.close()
    elsewhere.close()


def test_nobody_at_the_address_or_somebody_else(label_studio: LabelStudioServer, backend: Server) -> None:
    with pytest.raises(ProjectError, match="no Label Studio answers at") as refusal:
        connect(f"http://127.0.0.1:{free_port()}", label_studio.api_key)
    assert label_studio.api_key not in str(refusal.value)
    with pytest.raises(ProjectError, match="is not Label Studio"):
        connect(backend.url, label_studio.api_key)
    with pytest.raises(ProjectError, match="holds a user or a password") as refusal:
        connect(label_studio.url.replace("//", "//ann:sesame@"), label_studio.api_key)
    assert "sesame" not in str(refusal.value)
    for wrong in ("localhost:8080", "ftp://localhost", ""):
        with pytest.raises(ProjectError, match="is no address"):
            connect(wrong, label_studio.api_key)
    with pytest.raises(ProjectError, match="no token"):
        connect(label_studio.url, "")


def test_calls_get_larger_and_not_more_as_a_project_grows() -> None:
    assert [predictions_a_call(count) for count in (0, 999, 20_000, 20_001, 10**6)] == [1000, 1000, 1000, 1001, 50_000]
    assert [predictions_a_call(count, least=100) for count in (500, 2000, 2001)] == [100, 100, 101]
