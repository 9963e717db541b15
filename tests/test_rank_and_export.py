"""scripts.rank_tasks and scripts.export on the real server and the real backend."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from label_studio_sdk import LabelStudio
from PIL import Image

from backend.connection import base_url, call
from backend.jobs import Jobs
from backend.task_order import UNCERTAINTY
from scripts import command_line, doctor, export, rank_tasks, versions
from scripts.backend_process import BackendProcess
from scripts.label_studio import LabelStudioServer
from scripts.plan import Place
from scripts.processes import free_port
from tests.live import CURIOUS, QUICK, Loop, add_broken_task, connect_backend, filled_project, regions, until
from tsp_model.data import masks
from tsp_model.data.coco import load_coco
from tsp_model.data.image_set import ImageSet
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import read_predictions

Command = Callable[..., str]


@pytest.fixture(scope="module")
def loop(
    client: LabelStudio, label_studio: LabelStudioServer, images: ImageSet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop]:
    """A project whose first two tasks are labelled, the third is skipped, the fourth has no objects; its first version
    has predicted the others."""
    folder = tmp_path_factory.mktemp("backend")
    with BackendProcess(folder, free_port(), label_studio.url, label_studio.api_key, **QUICK) as backend:
        project, tasks = filled_project(client, images)
        connect_backend(project, backend.url, extra_params=CURIOUS | {"train_after": 0})
        for task, item in zip(tasks[:2], images.items, strict=False):
            project.submit_annotation(task, regions(project, item))
        project.submit_annotation(tasks[2], [], cancelled=True)
        project.submit_annotation(tasks[3], [])
        loop = Loop(project, backend)
        loop.tasks, loop.api_key = tasks, label_studio.api_key
        loop.train()
        yield loop


@pytest.fixture
def ask(
    loop: Loop, label_studio: LabelStudioServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run a command on the project; what it printed, or the line it ended with."""

    def run(module: object, *arguments: str) -> str:
        where = ["--url", label_studio.url, "--api-key", label_studio.api_key, "--backend-url", loop.backend.url]
        monkeypatch.setenv("MODEL_DIR", str(loop.backend.model_dir))
        place = [*where, "--project", str(loop.project.project_id)]
        monkeypatch.setattr(sys, "argv", [module.__name__, *place, *arguments])
        try:
            command_line.run("asked", module.main)
        except SystemExit as ended:
            return str(ended.code)
        return capsys.readouterr().out

    return run


def test_tasks_are_ranked_by_another_strategy_and_back(loop: Loop, ask: Command, images: ImageSet) -> None:
    project, first = loop.project, loop.versions.active()
    by_tsp = project.scores()
    late = next(iter(project.upload_images({"late": images.items[0].path}).values()))
    loop.settle()
    told = ask(rank_tasks)
    assert f"ranked by tsp, as {first} sees them" in told and str(late) in told
    assert project.scores().keys() == by_tsp.keys() | {late}, "without a strategy what came since has its score, too"
    assert "stays until" not in told
    assert f"next task: lowest score first, Uncertainty sampling by the scores of {first}" in told
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"sampling": "Sequential sampling"})
    assert "next task does not follow it: the project's sampling is 'Sequential sampling'" in ask(rank_tasks)
    call(project.client, "PATCH", f"api/projects/{project.project_id}", json={"sampling": UNCERTAINTY})
    by_tsp = project.scores()

    told = ask(rank_tasks, "--strategy", "entropy", "--show", "3")
    second = loop.versions.active()
    assert second != first and loop.setup() == second and f"ranked by entropy, as {second}" in told
    assert loop.versions.card(second)["parent"] == first
    scored = read_predictions(loop.versions.folder(second) / PREDICTIONS)
    entropies = {int(key): sum(one.entropies) / max(1, len(one)) for key, one in scored.items()}
    assert list(project.scores()) == sorted(entropies, key=lambda task: (-entropies[task], project.scores()[task]))
    not_skipped = (task for task in project.scores() if task != loop.tasks[2])
    assert project.next_task() == next(not_skipped) and told.count("data?task=") == 3
    assert "stays until the next training" in told and "next task does not follow" not in told

    ask(rank_tasks, "--strategy", "tsp")
    assert loop.versions.active() not in (first, second) and project.scores() == pytest.approx(by_tsp)
    ask(rank_tasks, "--strategy", "core_set")  # reads features, so that the network is asked again
    assert set(project.scores()) == set(by_tsp)

    project.submit_annotation(loop.tasks[4], regions(project, images.items[4]))
    version = loop.train()
    assert loop.versions.card(version)["settings"]["strategy"] == "tsp", "the project's own setting counts again"


def test_only_the_least_sure_are_pushed_and_all_again(loop: Loop, ask: Command) -> None:
    before = ask(rank_tasks, "--strategy", "random", "--push-top", "0") and loop.project.scores()
    assert len(before) > 2
    told = ask(rank_tasks, "--strategy", "tsp", "--push-top", "2")
    found = loop.project.scores()
    assert loop.project.extra_params()["push_top"] == 2 and loop.project.extra_params()["train_after"] == 0
    scores = {int(key): one.image_score for key, one in read_predictions(active_predictions(loop)).items()}
    assert "it took: " in told and re.search(r"push [0-9.]+ s \(Label Studio [0-9.]+ s\)", told)
    assert found == pytest.approx({task: scores[task] for task in sorted(scores, key=scores.get)[:2]})
    assert loop.project.next_task() in found
    assert "2 of" in next(one.what for one in doctor_findings(loop) if "have its score" in one.what)
    ask(rank_tasks, "--strategy", "random", "--push-top", "0")
    ask(rank_tasks, "--strategy", "tsp")
    assert loop.project.scores() == pytest.approx(scores)


def active_predictions(loop: Loop) -> Path:
    return loop.versions.folder(loop.versions.active()) / PREDICTIONS


def doctor_findings(loop: Loop) -> list[doctor.Finding]:
    url, api_key = base_url(loop.project.client), loop.api_key
    place = Place(url, api_key, loop.backend.url, str(loop.backend.model_dir))
    return list(doctor.examine(place, loop.project.project_id))


@pytest.mark.parametrize(
    ("strategy", "why"), [("mc_dropout", "TSP_DROPOUT=0.25"), ("learning_loss", "TSP_STRATEGY=learning_loss")]
)
def test_a_strategy_that_the_version_s_network_cannot_serve_is_refused(
    loop: Loop, ask: Command, strategy: str, why: str
) -> None:
    before = loop.versions.active()
    assert why in ask(rank_tasks, "--strategy", strategy)
    assert "has no training or ranking that could be cancelled" in ask(versions, "cancel")
    assert loop.versions.active() == before and loop.setup() == before


def test_of_a_cancelled_training_nothing_stays_and_it_does_not_come_back(
    loop: Loop, ask: Command, images: ImageSet
) -> None:
    project, active, known = loop.project, loop.versions.active(), loop.versions.list()
    row = project.connection()
    project.change_connection(row, extra_params=CURIOUS | {"train_after": 1, "epochs": 5000})
    before = loop.status(project=project.key)["job_id"]
    project.submit_annotation(loop.tasks[5], regions(project, images.items[5]))  # starts a training by itself
    begun = until(
        lambda: (
            (found := loop.status(project=project.key)) and found["job_id"] != before and found.get("epoch") and found
        ),
        "its training",
    )
    assert ask(versions, "cancel") == f"cancelled {begun['job_id']}\n"
    ended = until(lambda: (found := loop.status(job_id=begun["job_id"]))["status"] == "ERROR" and found, "its end")
    assert (ended["error"], ended["cancelled"], ended["again"]) == ("it was cancelled.", True, False)
    assert (loop.versions.active(), loop.versions.list()) == (active, known)
    assert not loop.versions.folder(begun["version"]).exists()

    jobs = Jobs(f"sqlite:///{loop.backend.model_dir}/jobs.sqlite", loop.backend.model_dir)
    check = jobs.request("check", project.key)
    jobs.close()
    assert loop.ended("check", int(check.rpartition("-")[2]))["due"] is False, "nothing new since"
    assert loop.status(project=project.key)["job_id"] == begun["job_id"]
    assert not [one.line for one in doctor_findings(loop) if one.remedy]
    project.change_connection(project.connection(), extra_params=CURIOUS | {"train_after": 0})


def test_what_was_drawn_comes_out_as_it_was(loop: Loop, ask: Command, images: ImageSet, tmp_path: Path) -> None:
    broken = add_broken_task(loop.project)
    loop.project.submit_annotation(broken, [])
    told = ask(export, "--out", str(tmp_path / "labels"))
    found = load_coco(tmp_path / "labels")
    assert found.classes == images.classes and "pseudo labels, " in told
    item_of = dict(zip(loop.tasks, images.items, strict=True))
    for item in found.items:
        task = int(item.path.stem)
        drawn = () if task == loop.tasks[3] else item_of[task].instances
        assert item.path.read_bytes() == item_of[task].path.read_bytes()
        assert [one.label for one in item.instances] == [one.label for one in drawn]
        assert masks.iou([one.rle for one in item.instances], [one.rle for one in drawn]).diagonal().tolist() == [
            1.0
        ] * len(drawn)
    labelled = {int(item.path.stem) for item in found.items}
    assert labelled >= {loop.tasks[0], loop.tasks[1], loop.tasks[3]} and not labelled & {loop.tasks[2], broken}
    ask(export, "--out", str(tmp_path / "outlines"), "--polygons")
    outlined = load_coco(tmp_path / "outlines")
    for item, exact in zip(outlined.items, found.items, strict=True):
        pairs = masks.iou([one.rle for one in item.instances], [one.rle for one in exact.instances])
        assert all(pairs.diagonal() >= 0.95) and len(pairs) == len(exact.instances)
    document = json.loads((tmp_path / "outlines" / "train.json").read_text())
    assert all(isinstance(one["segmentation"], list) for one in document["annotations"])
    assert "is there already" in ask(export, "--out", str(tmp_path / "labels"))
    (tmp_path / "file").touch()
    for nowhere in (tmp_path / "file" / "labels", Path("/proc/there/labels")):
        assert f"{nowhere} cannot be made in {nowhere.parents[0 if nowhere.parent.exists() else 1]} (" in ask(
            export, "--out", str(nowhere)
        )
    call(loop.project.client, "DELETE", f"api/tasks/{broken}/")


def test_an_export_without_the_backend_s_folder_makes_none(
    loop: Loop, ask: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = ["--model-dir", "models"]
    told = ask(export, "--out", "there/labels", "--pseudo", *elsewhere)
    assert f"project {loop.project.project_id} has no version in models" in told and not list(tmp_path.iterdir())
    ask(export, "--out", "there/labels", *elsewhere)
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["there", "labels", "images"]
    assert len(load_coco(tmp_path / "there" / "labels")) > 2


def test_pseudo_labels_are_marked(loop: Loop, ask: Command, tmp_path: Path) -> None:
    told = ask(export, "--out", str(tmp_path / "labels"), "--pseudo")
    assert re.search(r"instances above all of class score [\d.]+, box score [\d.]+, mask score [\d.]+\n", told)
    document = json.loads((tmp_path / "labels" / "train.json").read_text())
    marked = {one["id"] for one in document["images"] if one.get("pseudo")}
    drawn = {one["id"] for one in document["images"]} - marked
    assert marked and drawn
    scored = read_predictions(loop.versions.folder(loop.versions.active()) / PREDICTIONS)
    name = {one["id"]: Path(one["file_name"]).stem for one in document["images"]}
    for one in document["annotations"]:
        assert bool(one.get("pseudo")) == (one["image_id"] in marked) == ("score" in one)
        if "score" in one:
            assert one["score"] in scored[name[one["image_id"]]].instance_scores
    load_coco(tmp_path / "labels")
    with Image.open(tmp_path / "labels" / "images" / document["images"][0]["file_name"]) as image:
        assert image.size == (document["images"][0]["width"], document["images"][0]["height"])
