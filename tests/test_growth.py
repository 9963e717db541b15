"""scripts.speed.growth and crowd on pools that are too small to say anything, and the table on paper by hand."""

from __future__ import annotations

from typing import Any

import pytest
from label_studio_sdk import LabelStudio

from backend.connection import call
from backend.project import LabelStudioProject
from backend.shown import Shown
from scripts.command_line import CommandError
from scripts.label_studio import LabelStudioServer
from scripts.project_setup import import_addresses
from scripts.speed.crowd import CLASSES, copy_tasks, real_prediction, unlock_tasks
from scripts.speed.growth import JOBS, REAL, STAGES, WARM_UP, growth, tables
from scripts.speed.scale import on_paper
from tests.live import new_project


def crowd_of(tasks: int, look: float, call_seconds: float | None = None) -> dict[str, Any]:
    return {"tasks": tasks, "next_seconds": look, "page_seconds": 0.5, "call_seconds": call_seconds}


def found(*crowds: dict[str, Any]) -> dict[str, Any]:
    """As `growth` finds it, with one pool of 10,000."""
    pool = {
        "images": 10_000,
        "train": {"seconds": {"pull": 20.0}, "label_studio_seconds": {"pull": 5.0}},
        "nothing_new": {"seconds": {"pull": 3.0, "score": 0.0, "push": 3.0}},
        "growth_mb": 40.0,
        "real": {"predictions": 1000, "seconds": 9.0, "bytes": 20_000.0, "file_bytes": 5_000},
    }
    return {"pools": [pool], "crowds": list(crowds)}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


@pytest.mark.parametrize(
    ("sizes", "crowds", "said"),
    [
        ([100, 8], [1000], "sizes above 8"),
        ([100], [1000, 1500], "1500 tasks are no multiple of 1000"),
        ([100], [200_000], "give one of 100000 at most"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused_before_anything_starts(sizes, crowds, said):
    with pytest.raises(CommandError, match=said):
        growth(sizes, crowds)


def test_paper_carries_on_what_the_largest_pool_and_the_two_largest_crowds_took():
    # next task: 10 microseconds more for each task; a call that pushes, not waited for in the largest: 0.1 ms
    crowds = [crowd_of(1000, 9.0, 0.1), crowd_of(10_000, 0.19, 1.0), crowd_of(100_000, 1.09)]
    _, _, small, large = map(cells, on_paper(found(*crowds), 25, [10**5, 10**6]).splitlines())
    # 10^5 / 25; x 2 ms; x 8 ms and 40 calls of 50 MB and 10 s; x 0.6 ms
    assert small[1:5] == ["1.1", "0.1 (0.0)", "0.3; 0.03", "1.0"]
    assert small[5:9] == ["100,000", "2.0", "0.5", "0.4"]
    assert small[9:] == ["1.1", "0.5", "yes"]
    assert large[1:5] == ["11.1", "0.6 (0.1)", "13.3; 0.13", "10.0"]  # 400 calls of 100 s; 4
    assert large[9] == "10.1" and large[11].startswith("no")


def test_one_crowd_alone_is_carried_on_in_proportion_and_a_look_does_not_get_quicker():
    def next_task(*crowds: dict[str, Any]) -> str:
        return cells(on_paper(found(*crowds), 25, [10**5]).splitlines()[2])[9]

    assert next_task(crowd_of(10_000, 0.2, 1.0)) == "2.0"
    assert next_task(crowd_of(1000, 0.3, 0.1), crowd_of(10_000, 0.2, 1.0)) == "0.2"
    crowds = crowd_of(200_000, 4.0, 0.1), crowd_of(300_000, 12.0, 1.0)
    assert next_task(*crowds) == "2.0", "below both in proportion, not -4 on the line"


def test_copied_tasks_are_tasks_with_predictions_of_their_own(label_studio: LabelStudioServer, client: LabelStudio):
    def made() -> tuple[LabelStudioProject, list[int]]:
        project = new_project(client, "polygon", CLASSES)
        tasks = import_addresses(project, [f"http://127.0.0.1/{number}.png" for number in range(3)])
        project.predictions.push(map(real_prediction, map(str, tasks)), "real", CLASSES, Shown(0.0, 0, 1.0))
        call(client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": "real"})
        return project, tasks

    project, tasks = made()
    other, others = made()
    for times in (4, 4, 5):  # the second time, all of them are there
        copy_tasks(label_studio.database, project.project_id, 3, times)
        scores = LabelStudioProject(client, project.project_id).scores()
        assert len(scores) == 3 * times and set(tasks) < scores.keys()
        assert len(set(scores.values())) == 3 * times - 2 and all(0 <= score <= 1 for score in scores.values())
        unlock_tasks(label_studio.database)
        assert project.next_task() == min(scores, key=scores.__getitem__)
    addresses = [task.image_url for task in project.tasks()]
    assert sorted(addresses) == sorted(5 * addresses[:3]) and len(set(addresses)) == 3
    assert other.scores().keys() == set(others)


@pytest.mark.slow
def test_every_size_has_its_row():
    found = growth([WARM_UP + 20, WARM_UP], [2000, 1000])
    rows, crowds = found["pools"], found["crowds"]
    assert [row["tasks"] for row in crowds] == [1000, 2000]
    assert all(row[name] > 0 for row in crowds for name in ("next_seconds", "page_seconds", "call_seconds"))
    assert [row["images"] for row in rows] == [WARM_UP, WARM_UP + 20]
    for row in rows:
        assert row["peak_mb"] > 100 and 0 <= row["growth_mb"] < 100
        assert row["train"]["seconds"].keys() == set(STAGES) and row["train"]["seconds"]["score"] > 0
        assert row["few_new"]["new"] == 1 and row["real"]["predictions"] == min(REAL, row["images"] + 1)
        for job in JOBS:
            assert 0 < row[job]["label_studio_seconds"]["pull"] <= row[job]["seconds"]["pull"]
    assert len(tables(found).splitlines()) == 2 + 2 * len(JOBS) + 2 * (1 + 2 + 2)
