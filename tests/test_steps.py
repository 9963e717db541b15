"""The worker's steps on a made-up project: real training of a tiny network, no server."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from backend import kept_aside, project_work, settings
from backend import pool as backend_pool
from backend import steps as backend_steps
from backend.connection import ProjectError
from backend.images import ImageError
from backend.progress import Progress, read
from backend.snapshot import Snapshot
from backend.steps import CycleSteps, JobError
from backend.version_work import translation
from backend.versions import Versions
from tests.builders import disc_set, prediction
from tsp_model import prediction_pass
from tsp_model.acquisition import STRATEGIES
from tsp_model.data.image_set import Item
from tsp_model.prediction_pass import score_pool
from tsp_model.predictions import read_predictions
from tsp_model.settings import SettingsError

KEY = "4.1700000000"
QUICK = {"preset": "tiny", "image_size": 64, "epochs": 1, "batch_size": 2, "train_after": 2}


class Predictions:
    """Stands for backend.project_predictions.ProjectPredictions: what is pushed is kept."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def remove_doubled(self, version: str) -> int:
        return 0

    def push(self, predictions, version, classes, shown, a_call, score_of, report) -> int:
        already = self._project.pushed.setdefault(version, {})
        self._project.asked.set()
        if self._project.refusal is not None:
            raise self._project.refusal
        sent = 0
        for one in predictions:  # one by one, as the real one takes them
            sent += one.key not in already
            already.setdefault(one.key, score_of(one))
            report(len(already), self._project.task_count)
        return sent


class Project:
    """Stands for backend.project.LabelStudioProject: tasks in memory, what is pushed is kept."""

    key, project_id, client = KEY, 4, None

    def __init__(self, folder: Path, count: int = 5) -> None:
        images = disc_set(folder, count)
        self.truth = images
        self.params: dict = dict(QUICK)
        self.classes = ("disc", "box")
        self.pushed: dict[str, dict[str, float]] = {}
        self.predictions = Predictions(self)
        self.switched: list[str] = []
        self.title = "TSP"
        self.refusal: Exception | None = None
        self.asked = threading.Event()
        self._tasks = {
            number: SimpleNamespace(id=number, image_url=str(item.path), annotation=None, instances=None, name=item.key)
            for number, item in enumerate(images.items, start=1)
        }

    @property
    def found(self) -> dict:
        return {"model_version": self.switched[-1] if self.switched else None}

    def connections(self) -> list[dict]:
        return [{"title": self.title}]

    @property
    def task_count(self) -> int:
        return len(self._tasks)

    def tasks(self):
        return iter(self._tasks.values())

    def annotations(self):
        return (task.annotation for task in self._tasks.values() if task.annotation is not None)

    def unannotated(self):
        return (task for task in self._tasks.values() if task.annotation is None)

    def extra_params(self) -> dict:
        return self.params

    def annotate(self, *numbers: int, stamp: str = "2026-01-01") -> None:
        for number in numbers:
            self.annotate_as(number, self.truth.items[number - 1], stamp)

    def annotate_as(self, number: int, item: Item, stamp: str = "2026-01-01") -> None:
        """With the labels of an image of the truth."""
        self._tasks[number].annotation = {"id": number, "updated_at": stamp}
        self._tasks[number].instances = tuple((self.classes[one.label - 1], one.rle) for one in item.instances)

    def forget(self, version: str, active: str | None) -> None:
        assert active in self.pushed and active != version
        if self.refusal is not None:
            raise self.refusal
        del self.pushed[version]

    def add(self, path: str) -> int:
        number = len(self._tasks) + 1
        self._tasks[number] = SimpleNamespace(id=number, image_url=path, annotation=None, instances=None, name="")
        return number

    def remove(self, number: int) -> None:
        del self._tasks[number]

    def annotated_task_ids(self) -> set[int]:
        return {number for number, task in self._tasks.items() if task.annotation is not None}

    def switch(self, version: str) -> None:
        self.switched.append(version)
        self.title = version


@pytest.fixture
def bench(tmp_path, monkeypatch):
    project = Project(tmp_path / "images")

    def fetch(url: str, client: object, cache: Path, limits: object, project_id: int) -> Path:
        if not Path(url).exists():
            raise ImageError(f"{url}: not there")
        cache.mkdir(parents=True, exist_ok=True)
        return Path(url)

    monkeypatch.setattr(backend_pool, "fetch_image", fetch)
    monkeypatch.setattr(project_work, "connect", lambda url, api_key: None)
    monkeypatch.setattr(backend_steps.task_order, "settle", lambda project, versions, clusters: None)
    monkeypatch.setattr(project_work, "LabelStudioProject", lambda client, number: project)
    service = settings.load({"MODEL_DIR": str(tmp_path / "models")})
    return SimpleNamespace(
        project=project,
        steps=CycleSteps(service),
        versions=Versions(service.model_dir, KEY),
        job=Progress(service.model_dir, f"train-{KEY}-00001"),
    )


def run_training(bench) -> str:
    version = bench.steps.pull(KEY, bench.job)["version"]
    for step in (bench.steps.train, bench.steps.score, bench.steps.push, bench.steps.switch):
        assert json.loads(json.dumps(step(KEY, version, bench.job))) is not None
    return version


def test_two_cycles_train_score_push_and_switch(bench):
    bench.project.annotate(1, 2)
    first = run_training(bench)
    assert bench.versions.active() == first and bench.project.switched == [first]
    assert set(bench.project.pushed[first]) == {"3", "4", "5"}
    assert bench.versions.card(first)["counts"]["labelled_images"] == 2
    bench.project.annotate(3)
    late = bench.project.add(bench.project.truth.items[0].path.as_posix())
    second = run_training(bench)
    assert set(bench.project.pushed[second]) == {"4", "5", str(late)}
    assert bench.versions.card(second)["parent"] == first
    # The parent had not seen the late task: its pseudo labels need its prediction.
    assert str(late) in read_predictions(bench.versions.folder(first) / "predictions.jsonl")


def test_chance_orders_the_tasks_until_enough_are_labelled(bench):
    bench.project.params = bench.project.params | {"random_labels": 3}
    bench.project.annotate(1, 2)
    first = bench.project.pushed[run_training(bench)]
    assert sorted(first.values()) == pytest.approx([0.5 / 3, 1.5 / 3, 2.5 / 3]), "places in an order, no S"
    bench.versions.want_strategy("tsp")  # whoever asks for the strategy's order has it at once
    derived = bench.steps.derive(KEY, bench.job)
    assert derived["new"] and bench.steps.score(KEY, derived["version"], bench.job) == {"scored": 0}
    bench.steps.push(KEY, derived["version"], bench.job)
    known = read_predictions(bench.versions.folder(derived["version"]) / "predictions.jsonl")
    assert bench.project.pushed[derived["version"]] == {key: one.image_score for key, one in known.items()}
    bench.project.annotate(3)
    version = run_training(bench)
    found = read_predictions(bench.versions.folder(version) / "predictions.jsonl")
    assert bench.project.pushed[version] == {key: found[key].image_score for key in ("4", "5")}


def test_a_repeated_step_changes_nothing(bench):
    bench.project.annotate(1, 2)
    version = run_training(bench)
    before = dict(bench.project.pushed[version])
    assert bench.steps.push(KEY, version, bench.job)["pushed"] == 0
    assert bench.project.pushed[version] == before
    bench.steps.score(KEY, version, bench.job)
    stored = read_predictions(bench.versions.folder(version) / "predictions.jsonl")
    assert {key: one.image_score for key, one in stored.items()} == pytest.approx(before, abs=1e-6)


def test_of_a_large_pool_only_the_least_sure_go_to_label_studio(bench):
    """The others are scored all the same, and a push that is repeated sends no more."""
    bench.project.params = bench.project.params | {"push_top": 2}
    version = trained_version(bench)
    bench.steps.score(KEY, version, bench.job)
    assert version not in bench.project.pushed, "which they are is known when all are scored"
    assert bench.steps.push(KEY, version, bench.job) == {"pushed": 2}
    scores = read_predictions(bench.versions.folder(version) / "predictions.jsonl")
    by_score = sorted(scores, key=lambda key: (scores[key].image_score, key))
    assert len(by_score) == 5 and set(bench.project.pushed[version]) == set(by_score[:2])
    assert bench.steps.push(KEY, version, bench.job) == {"pushed": 0}
    bench.project.annotate(int(by_score[0]))
    assert bench.steps.push(KEY, version, bench.job) == {"pushed": 1}, "who labels has as many before him as before"
    assert set(bench.project.pushed[version]) == set(by_score[:3])


def trained_version(bench) -> str:
    """A version whose pool of five tasks is to be scored."""
    for _ in range(2):
        bench.project.add(bench.project.truth.items[0].path.as_posix())
    bench.project.annotate(1, 2)
    version = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, version, bench.job)
    return version


def test_predictions_are_pushed_while_others_are_made(bench, monkeypatch):
    monkeypatch.setattr(project_work, "LEAST_EARLY", 1)
    version = trained_version(bench)
    arrived = threading.Event()
    push = bench.project.predictions.push

    def watched(predictions, *arguments):
        def passing():
            for one in predictions:
                yield one
                arrived.set()

        return push(passing(), *arguments)

    def patient(*arguments):
        for number, one in enumerate(score_pool(*arguments)):
            assert number != 2 or arrived.wait(30), "the first ones are not sent before the last is made"
            yield one

    monkeypatch.setattr(bench.project.predictions, "push", watched)
    monkeypatch.setattr(prediction_pass, "score_pool", patient)
    assert bench.steps.score(KEY, version, bench.job) == {"scored": 5}
    early = len(bench.project.pushed[version])
    assert bench.steps.push(KEY, version, bench.job) == {"pushed": 5 - early}
    assert set(bench.project.pushed[version]) == {"3", "4", "5", "6", "7"}
    assert bench.project.switched == []


def test_if_nothing_can_be_sent_early_scoring_goes_on_and_push_sends_all(bench, monkeypatch, caplog):
    monkeypatch.setattr(project_work, "LEAST_EARLY", 1)
    version = trained_version(bench)
    bench.project.refusal = RuntimeError("no Label Studio answers")

    def patient(*arguments):
        for number, one in enumerate(score_pool(*arguments)):
            assert number == 0 or bench.project.asked.wait(30)
            yield one

    monkeypatch.setattr(prediction_pass, "score_pool", patient)
    with caplog.at_level(logging.WARNING, "backend.early"):
        assert bench.steps.score(KEY, version, bench.job) == {"scored": 5}
    assert bench.project.pushed[version] == {}
    assert [record.name for record in caplog.records] == ["backend.early"]
    with pytest.raises(RuntimeError):
        bench.steps.push(KEY, version, bench.job)
    bench.project.refusal = None
    assert bench.steps.push(KEY, version, bench.job) == {"pushed": 5}


def test_killed_scoring_goes_on_where_it_was(bench, monkeypatch):
    version = trained_version(bench)
    path = bench.versions.folder(version) / "predictions.jsonl"
    bench.steps.score(KEY, version, bench.job)
    whole = read_predictions(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert bench.steps.score(KEY, version, bench.job) == {"scored": 3}
    assert path.read_bytes().startswith(b"".join(lines[:2])), "what is there is not made again"
    again = read_predictions(path)
    assert list(again) == list(whole)
    for key, one in whole.items():
        assert again[key].scores == pytest.approx(one.scores, abs=1e-4)
        assert again[key].image_score == pytest.approx(one.image_score, abs=1e-4)
    assert bench.steps.score(KEY, version, bench.job) == {"scored": 0}


@pytest.mark.parametrize("strategy", ["entropy", "core_set"])
def test_another_strategys_order_is_pushed_as_places_once_the_whole_pool_is_scored(bench, monkeypatch, strategy):
    monkeypatch.setattr(project_work, "LEAST_EARLY", 1)
    bench.project.params["strategy"] = strategy
    version = trained_version(bench)
    assert bench.steps.score(KEY, version, bench.job) == {"scored": 5}
    assert version not in bench.project.pushed, "nothing is sent before the order is known"
    bench.steps.push(KEY, version, bench.job)
    folder = bench.versions.folder(version)
    found = list(read_predictions(folder / "predictions.jsonl").values())
    images = backend_steps.image_set(snapshot := Snapshot.read(folder), snapshot.labelled)
    expected = STRATEGIES[strategy].rank(found, list(score_pool(folder, images)), np.random.default_rng(0))
    pushed = bench.project.pushed[version]
    assert sorted(pushed.values()) == [0.1, 0.3, 0.5, 0.7, 0.9]
    pairs = sorted(zip(expected, (pushed[one.key] for one in found), strict=True))
    assert all(low[1] < high[1] for low, high in itertools.pairwise(pairs) if low[0] < high[0])
    bench.steps.switch(KEY, version, bench.job)
    late = bench.project.add(bench.project.truth.items[1].path.as_posix())
    before = dict(pushed)
    assert bench.steps.score_new(KEY, bench.job)["scored"] == 1
    assert pushed.pop(str(late)) in (0, 0.2, 0.4, 0.6, 0.8, 1)
    assert pushed == before


def test_chance_and_ties_fall_by_the_images_names_in_the_cycle_that_comes(bench):
    bench.project.params |= {"strategy": "random", "seed": 7}
    bench.project.annotate(1, 2)
    for trainings, pool in ((1, ["3", "4", "5"]), (2, ["4", "5"])):
        version = run_training(bench)
        names = [f"{int(key) - 1:03d}.png" for key in pool]
        chance = dict(zip(names, np.random.default_rng((7, trainings + 1)).random(len(names)), strict=True))
        pushed = bench.project.pushed[version]
        assert sorted(pushed, key=pushed.get) == sorted(pool, key=lambda key: chance[f"{int(key) - 1:03d}.png"])
        bench.project.annotate(3)


def test_nothing_to_train_on_is_said_and_leaves_nothing(bench):
    with pytest.raises(JobError, match="nothing to train on in project 4; submit annotations first.$"):
        bench.steps.pull(KEY, bench.job)
    bench.project.annotate(1)
    next(iter(bench.project.tasks())).instances = None  # a region that cannot be read
    with pytest.raises(JobError, match=r"in project 4; what is left out: task 1: [^\n]*[^.]\.$"):
        bench.steps.pull(KEY, bench.job)
    assert bench.versions.list() == [] and bench.versions.new_name().startswith("tsp-0001-")


def test_one_broken_image_or_annotation_costs_its_task_only(bench, tmp_path):
    bench.project.annotate(1, 2, 3, 4)
    tasks = list(bench.project.tasks())
    (tmp_path / "torn.png").write_bytes(Path(tasks[1].image_url).read_bytes()[:200])
    tasks[1].image_url = str(tmp_path / "torn.png")
    tasks[2].instances = None
    other = tmp_path / "other.png"
    Image.new("L", (32, 48)).save(other)
    tasks[3].image_url = str(other)
    tasks[3].instances = (("disc", bench.project.truth.items[0].instances[0].rle),)
    tasks[4].image_url = "nowhere.png"
    version = bench.steps.pull(KEY, bench.job)["version"]
    snapshot = Snapshot.read(bench.versions.folder(version))
    assert [image.key for image in snapshot.labelled] == ["1"]
    assert set(snapshot.skipped) == {"2", "3", "4", "5"}
    assert "another size" in snapshot.skipped["4"]


def test_if_label_studio_cannot_be_told_the_old_version_goes_on(bench):
    def refuse(version: str) -> None:
        raise RuntimeError("no Label Studio answers")

    bench.project.annotate(1, 2)
    switch = bench.project.switch
    bench.project.switch = refuse
    with pytest.raises(RuntimeError):
        run_training(bench)
    assert bench.versions.active() is None
    bench.project.switch = switch
    version = run_training(bench)
    bench.project.switch = refuse
    with pytest.raises(RuntimeError):
        run_training(bench)
    assert bench.versions.active() == version


def test_unknown_extra_params_fail_the_job_by_name(bench):
    bench.project.annotate(1)
    bench.project.params["epoch"] = 3
    with pytest.raises(SettingsError, match="epoch"):
        bench.steps.pull(KEY, bench.job)


def test_a_project_made_anew_under_the_same_id_is_not_trained_into_the_old_one(bench):
    bench.project.annotate(1)
    bench.project.key = "4.1800000000"
    with pytest.raises(JobError, match="gone"):
        bench.steps.pull(KEY, bench.job)


def test_a_training_is_due_after_enough_new_or_changed_annotations(bench):
    assert not bench.steps.due(KEY, bench.job)["due"]
    bench.project.annotate(1, 2)
    assert bench.steps.due(KEY, bench.job)["due"]
    run_training(bench)
    assert not bench.steps.due(KEY, bench.job)["due"]
    bench.project.annotate(1, stamp="2026-02-02")
    assert not bench.steps.due(KEY, bench.job)["due"]
    bench.project.annotate(3)
    assert bench.steps.due(KEY, bench.job)["due"]
    bench.project.params["train_after"] = 0
    assert not bench.steps.due(KEY, bench.job)["due"]


def test_what_the_last_training_read_is_not_new_whichever_version_answers(bench):
    bench.project.annotate(1, 2)
    first = run_training(bench)
    bench.project.annotate(3, 4)
    run_training(bench)
    bench.steps.switch(KEY, first, bench.job)  # somebody goes back
    assert not bench.steps.due(KEY, bench.job)["due"]
    list(bench.project.tasks())[4].image_url = "nowhere.png"
    bench.project.annotate(5)
    bench.project.params["train_after"] = 1
    assert bench.steps.due(KEY, bench.job)["due"]
    run_training(bench)
    assert not bench.steps.due(KEY, bench.job)["due"], "an annotation that cannot be used was read all the same"


def test_a_training_that_failed_before_it_answered_is_due_again(bench):
    bench.project.annotate(1, 2)
    version = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, version, bench.job)
    assert bench.steps.due(KEY, bench.job)["due"], "score, push or switch did not come"


def test_a_training_that_was_saved_is_not_repeated(bench):
    bench.project.annotate(1, 2)
    version = bench.steps.pull(KEY, bench.job)["version"]
    counts = bench.steps.train(KEY, version, bench.job)
    weights = bench.versions.folder(version) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert bench.steps.train(KEY, version, bench.job) == counts
    assert weights.stat().st_mtime_ns == before


def test_new_tasks_are_scored_by_the_active_version_and_old_ones_not_again(bench):
    assert "first training" in bench.steps.score_new(KEY, bench.job)["message"]
    bench.project.annotate(1, 2)
    version = run_training(bench)
    before = dict(bench.project.pushed[version])
    late = bench.project.add(bench.project.truth.items[0].path.as_posix())
    assert bench.steps.score_new(KEY, bench.job) == {"scored": 1, "pushed": 1}
    assert bench.project.pushed[version].keys() == before.keys() | {str(late)}
    assert bench.steps.score_new(KEY, bench.job) == {"scored": 0, "pushed": 0}


def test_a_label_that_was_added_first_in_the_configuration_moves_the_pseudo_labels(bench):
    old = prediction("1", [(0.9, 0.8, 0.7), (0.5, 0.5, 0.5)])
    old = dataclasses.replace(old, labels=[1, 2])
    new = translation(["disc", "box"], ["ring", "disc"])(old)
    assert (new.labels, new.scores) == ([2], old.scores[:1])
    assert new.image_score == old.image_score
    bench.project.annotate(1, 2)
    run_training(bench)
    bench.project.classes = ("ring", "disc", "box")
    assert bench.versions.card(run_training(bench))["classes"] == ["ring", "disc", "box"]


def compared_on(bench, monkeypatch, aside: int, keys: range = range(6, 26)) -> Snapshot:
    """Two versions and then the comparison, with `aside` images kept aside among many tasks of few images."""
    monkeypatch.setattr(backend_steps, "LEAST", aside)
    monkeypatch.setattr(kept_aside, "LEAST", aside)
    bench.project.params["keep_aside"] = 0.3
    truth = bench.project.truth.items
    for number in keys:
        bench.project.add(truth[number % len(truth)].path.as_posix())
        bench.project.annotate_as(number, truth[number % len(truth)])
    first = run_training(bench)
    second = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, second, bench.job)
    assert bench.versions.active() == first
    return Snapshot.read(bench.versions.folder(second))


def test_images_kept_aside_are_trained_on_by_no_version_and_are_no_new_ones(bench, monkeypatch):
    snapshot = compared_on(bench, monkeypatch, aside=4)
    aside, labelled = ({image.key for image in images} for images in (snapshot.aside, snapshot.labelled))
    assert len(aside) >= 4 and len(labelled) == 20 - len(aside) and not aside & labelled
    first = Snapshot.read(bench.versions.folder(bench.versions.active()))
    assert {image.key for image in first.aside} == aside, "the same ones each time"
    assert not bench.steps.due(KEY, bench.job)["due"], "what is kept aside was seen"
    counts = bench.versions.card(snapshot_version(bench))["counts"]
    assert counts["labelled_images"] == len(labelled)


def snapshot_version(bench) -> str:
    return bench.versions.list()[-1]


def test_too_few_images_are_not_kept_aside(bench, monkeypatch):
    snapshot = compared_on(bench, monkeypatch, aside=30)
    assert snapshot.aside == [] and len(snapshot.labelled) == 20
    assert bench.steps.compare(KEY, snapshot_version(bench), bench.job) == {"worse": False}


@pytest.mark.parametrize("spoiled", ["new", "old"])
def test_a_new_version_is_worse_only_if_it_lost_on_images_neither_was_trained_on(bench, monkeypatch, spoiled):
    compared_on(bench, monkeypatch, aside=4)
    old, new = bench.versions.active(), snapshot_version(bench)
    seen: list[str] = []

    def found(folder: Path, images, *arguments, **options):
        """The truth, or nothing at all from the spoiled one."""
        seen.extend(images.keys)
        for item in images.items:
            boxes = [] if folder.name == {"old": old, "new": new}[spoiled] else item.instances
            made = prediction(item.key, [(0.9, 0.9, 0.9)] * len(boxes))
            yield dataclasses.replace(
                made, labels=[one.label for one in boxes], counts=[one.rle["counts"] for one in boxes]
            )

    monkeypatch.setattr(kept_aside, "score_pool", found)
    result = bench.steps.compare(KEY, new, bench.job)
    assert result["worse"] == (spoiled == "new")
    assert set(seen) == {image.key for image in Snapshot.read(bench.versions.folder(new)).aside}
    kept = json.loads((bench.versions.folder(new) / "comparison.json").read_text())
    assert {kept["before"], kept["after"]} == {0.0, 1.0} and kept["with"] == old
    assert f"{new} is kept and not activated: on {len(set(seen))} images" in result["message"]


def test_images_that_the_active_version_was_trained_on_tell_nothing(bench, monkeypatch):
    bench.project.annotate(1, 2)
    truth = bench.project.truth.items
    for number in range(6, 26):
        bench.project.add(truth[number % len(truth)].path.as_posix())
        bench.project.annotate_as(number, truth[number % len(truth)])
    run_training(bench)  # before there were enough to keep some aside
    monkeypatch.setattr(backend_steps, "LEAST", 4)
    monkeypatch.setattr(kept_aside, "LEAST", 4)
    bench.project.params["keep_aside"] = 0.3
    version = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, version, bench.job)
    assert Snapshot.read(bench.versions.folder(version)).aside
    assert bench.steps.compare(KEY, version, bench.job) == {"worse": False}


def test_an_older_version_catches_up_with_new_tasks_before_it_answers_again(bench):
    bench.project.annotate(1, 2)
    first = run_training(bench)
    run_training(bench)
    late = bench.project.add(bench.project.truth.items[0].path.as_posix())
    bench.versions.want(first)
    assert bench.steps.wanted(KEY, bench.job) == {"version": first}
    assert bench.steps.catch_up(KEY, first, bench.job) == {"scored": 1, "pushed": 1}
    assert set(bench.project.pushed[first]) == {"3", "4", "5", str(late)}
    took = read(bench.versions.root.parent, f"train-{KEY}-00001")["seconds"]
    assert list(took) == ["pull", "score", "push"]
    bench.steps.switch(KEY, first, bench.job)
    assert bench.versions.active() == first and bench.project.switched[-1] == first


def test_a_version_that_was_kept_only_can_be_activated_later(bench):
    bench.project.annotate(1, 2)
    run_training(bench)
    kept = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, kept, bench.job)  # worse: nothing was scored or pushed
    assert bench.steps.catch_up(KEY, kept, bench.job) == {"scored": 3, "pushed": 3}


@pytest.mark.parametrize("damaged", ["model.safetensors", "card.json", "predictions.jsonl", "snapshot.json"])
def test_a_version_that_is_damaged_keeps_no_better_one_from_being_trained(bench, monkeypatch, caplog, damaged):
    monkeypatch.setattr(kept_aside, "LEAST", 1)
    bench.project.params |= {"keep_aside": 0.5}
    bench.project.annotate(1, 2)
    first = run_training(bench)
    bench.project.add(bench.project.truth.items[0].path.as_posix())  # not predicted yet, so that the model is asked
    (bench.versions.folder(first) / damaged).write_bytes(b"torn")
    version = bench.steps.pull(KEY, bench.job)["version"]
    bench.steps.train(KEY, version, bench.job)
    assert bench.steps.compare(KEY, version, bench.job)["worse"] is False
    for step in (bench.steps.score, bench.steps.push, bench.steps.switch):
        step(KEY, version, bench.job)
    assert bench.versions.active() == version and "\n" not in caplog.messages[-1]
    alone = damaged in ("model.safetensors", "card.json")  # what it predicted can be made again
    assert bench.versions.card(version)["parent"] == (None if alone else first)
    assert ("is trained without the version before it" in caplog.text) == alone
    assert bench.steps.due(KEY, bench.job)["due"] is False
    assert bench.steps.prune(KEY, bench.job)["pruned"] == []


def test_nobody_asked_for_a_version(bench):
    with pytest.raises(JobError, match="nobody asked for a version"):
        bench.steps.wanted(KEY, bench.job)


def test_images_that_no_version_reads_any_more_go_with_the_versions(bench, monkeypatch):
    monkeypatch.setattr(bench.steps, "_service", dataclasses.replace(bench.steps._service, keep_versions=2))
    cache = bench.versions.root / "images"
    cache.mkdir(parents=True)

    def cached(name: str, days: float) -> Path:
        path = cache / name
        path.write_bytes(bench.project.truth.items[2].path.read_bytes())
        os.utime(path, (time.time() - 86400 * days,) * 2)
        return path

    read, gone, torn, imported = cached("a.png", 2), cached("b.png", 2), cached(".part-x", 2), cached("c.png", 0.5)
    tasks = [bench.project.add(str(path)) for path in (read, gone)]
    bench.project.annotate(1, 2)
    run_training(bench)
    bench.project.remove(tasks[1])
    run_training(bench)
    assert bench.steps.prune(KEY, bench.job) == {"pruned": [], "images": 1}
    assert not torn.exists() and gone.exists(), "one of the two versions can still be gone back to"
    assert set(json.loads((cache / "sizes.json").read_text())) > {"a.png", "b.png"}
    run_training(bench)
    assert bench.steps.prune(KEY, bench.job)["images"] == 1
    assert sorted(cache.iterdir()) == sorted([read, imported, cache / "sizes.json"])
    assert "b.png" not in json.loads((cache / "sizes.json").read_text())


def test_old_versions_go_here_and_in_label_studio_and_what_cannot_go_now_goes_later(bench, monkeypatch):
    monkeypatch.setattr(bench.steps, "_service", dataclasses.replace(bench.steps._service, keep_versions=2))
    bench.project.annotate(1, 2)
    first, second = run_training(bench), run_training(bench)
    assert bench.steps.prune(KEY, bench.job)["pruned"] == []
    third = run_training(bench)
    bench.project.refusal = ProjectError("no Label Studio answers")
    with pytest.raises(ProjectError):
        bench.steps.prune(KEY, bench.job)
    assert first in bench.versions.list()
    bench.project.refusal = None
    assert bench.steps.prune(KEY, bench.job)["pruned"] == [first]
    assert bench.versions.list() == [second, third] and set(bench.project.pushed) == {second, third}
    assert bench.versions.lineage(third) == [third, second, first]
