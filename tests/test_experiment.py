"""What a run of Algorithm 1 checks of Label Studio's order, on a made-up project."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.versions import Versions
from scripts.command_line import CommandError
from scripts.experiment import Experiment
from scripts.plan import Plan
from tests.builders import disc_set, prediction
from tsp_model.files import write_json
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import write_predictions
from tsp_model.settings import Settings

KEY, VERSION = "3.1700000000", "tsp-0001-20260101T000000"
# S falls from task 11 to 14, the class entropy rises from 14 to 11: what TSP wants first is what entropy wants last.
TRIPLETS = {11: (0.51, 0.9, 0.9), 12: (0.6, 0.7, 0.7), 13: (0.8, 0.4, 0.4), 14: (0.95, 0.05, 0.05)}
NOTHING = dict.fromkeys(TRIPLETS)


def experiment(
    folder: Path, strategy: str, triplets: dict[int, Any] = TRIPLETS, **answers: Any
) -> tuple[Experiment, list[str]]:
    """A run whose first version predicted the four tasks that are left of five, and what it asks the project."""
    images = disc_set(folder / "images", 5)
    method = Settings.preset("tiny").override({"strategy": strategy, "ssl": False, "empty_image": "zero"})
    versions = Versions(folder / "models", KEY)
    write_json(versions.folder(VERSION) / "card.json", {"settings": method.to_dict()})
    versions.activate(VERSION)
    found = [prediction(str(task), [triplet] if triplet else []) for task, triplet in triplets.items()]
    if triplets is NOTHING:
        for one in found:
            one.image_score = 0.0
    write_predictions(versions.folder(VERSION) / PREDICTIONS, found)
    asked: list[str] = []

    def answer(name: str, value: Any) -> Any:
        return lambda: (asked.append(name), value)[1]

    scores = {int(one.key): one.image_score for one in found}
    values = {"annotated_task_ids": {10}, "scores": scores, "next_task": 14} | answers
    project = SimpleNamespace(key=KEY, project_id=3, **{name: answer(name, value) for name, value in values.items()})
    place = {"url": "", "api_key": "", "backend_url": "", "model_dir": str(folder / "models"), "out": str(folder)}
    sizes = {"cycles": 2, "per_cycle": 2, "seed": 0, "train_images": None, "test_images": None}
    plan = Plan(data="x", strategy=strategy, ssl=False, label_tag="brush", method=method.to_dict(), **sizes, **place)
    run = Experiment(plan, images, images, project)
    run.task_of = {key: 10 + number for number, key in enumerate(images.keys)}
    run.state.set(picked={"1": [images.keys[0]]})
    return run, asked


PLACES = {11: 0.125, 12: 0.375, 13: 0.625, 14: 0.875}


@pytest.mark.parametrize(
    ("strategy", "answers", "picks"),
    [("tsp", {}, (14, 13)), ("entropy", {"scores": PLACES, "next_task": 11}, (11, 12))],
)
def test_the_strategys_own_scores_pass_and_what_is_served_is_picked(
    tmp_path: Path, strategy: str, answers: dict, picks: tuple[int, int]
) -> None:
    run, asked = experiment(tmp_path, strategy, **answers)
    run.check_order(1)
    assert asked[-1] == "next_task"
    assert [run.task_of[name] for name in run.pick(2)] == list(picks)


@pytest.mark.parametrize(
    ("strategy", "answers", "message"),
    [
        ("entropy", {}, r"shows score 0\.\d+ for task 11, version tsp-0001-\S+ says 0.125 \(4 tasks differ\)"),
        ("tsp", {"scores": PLACES, "next_task": 11}, "shows score 0.125 for task 11"),
        ("entropy", {"scores": PLACES | {12: 0.625, 13: 0.375}, "next_task": 11}, r"task 12.*\(2 tasks differ\)"),
        ("entropy", {"scores": {11: 0.125}, "next_task": 11}, "shows score None for task 12"),
        ("tsp", {"next_task": 13}, "serves task 13 .*its ordering is not the strategy's"),
        ("entropy", {"scores": PLACES, "next_task": 14}, "serves task 14"),
    ],
)
def test_another_order_is_refused(tmp_path: Path, strategy: str, answers: dict, message: str) -> None:
    run, _ = experiment(tmp_path, strategy, **answers)
    with pytest.raises(CommandError, match=message):
        run.check_order(1)


def test_a_task_that_the_next_cycle_may_not_label_is_not_asked_for(tmp_path: Path) -> None:
    run, asked = experiment(tmp_path, "tsp", NOTHING)  # all four share the lowest score, two will be labelled
    run.check_order(1)
    assert "scores" in asked and "next_task" not in asked
    assert len(run.pick(2)) == 2


def test_when_all_is_labelled_nothing_is_asked(tmp_path: Path) -> None:
    run, asked = experiment(tmp_path, "tsp", annotated_task_ids={10, 11, 12, 13, 14})
    run.check_order(1)
    assert asked == ["annotated_task_ids"]


def test_a_run_goes_on_after_settings_were_added(tmp_path: Path) -> None:
    run, _ = experiment(tmp_path, "tsp")
    run.state.set(plan=run.plan.identity)
    run.state.check(run.plan)
    before = dict(run.plan.method)
    del before["linear"], before["pseudo_target_precision"]
    run.state.set(plan=run.plan.identity | {"method": before})
    run.state.check(run.plan)
    run.state.set(plan=run.plan.identity | {"method": before | {"beta": 0.5}})
    with pytest.raises(CommandError, match="another method"):
        run.state.check(run.plan)
