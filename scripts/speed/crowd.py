"""What Label Studio itself takes once a project holds more tasks than there is time to import.

A small project is filled through the API as usual; then its rows are copied inside the database (SQLite), as often as
the size asks for, and annotators' requests and a call that pushes are timed. Scores are spread over the copies, so
that there is an order to find.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from label_studio_sdk import LabelStudio
from tqdm import tqdm

from backend.connection import IMPORT_SECONDS, call
from backend.project import LabelStudioProject
from backend.project_predictions import RECOUNT_SECONDS
from backend.shown import Shown
from backend.task_order import UNCERTAINTY, keep_view
from scripts.command_line import CommandError
from scripts.project_setup import import_addresses, label_config, new_project
from scripts.speed.opening import blobs
from scripts.speed.timing import in_turns
from tsp_model.predictions import Prediction

IMPORTED = 1000  # tasks that are copied
COUNTED = 100_000  # tasks of the largest project in which a push is waited for: minutes
CALL_SECONDS = IMPORT_SECONDS + RECOUNT_SECONDS * COUNTED
LOOKS = 5  # at next task and the first page of the Data Manager; the median counts
MASKS, SIDE = 20, 512  # of a prediction as real projects have them: instances, and the image's side in pixels
CLASSES = ("a", "b")
VERSION = "real"


def crowd(client: LabelStudio, database: Path, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row for each size of project, smallest first.

    Args:
        client: of a server that keeps its data in the SQLite file `database`.
        sizes: tasks of the project, multiples of IMPORTED.

    Yields:
        Dicts of tasks; next_seconds and page_seconds (next task and the Data Manager's first page, the least sure
        first, each task with a prediction of MASKS polygons); call_seconds (of a call that pushes one prediction, after
        which Label Studio may count the whole project; None above COUNTED tasks).

    Raises:
        CommandError: a size that is no multiple.
    """
    require_copies(sizes)
    project = new_project(client, "a crowd", label_config(CLASSES, "polygon"), sampling=UNCERTAINTY)
    tasks = import_addresses(project, [f"http://127.0.0.1/{number}.png" for number in range(IMPORTED)])
    project.predictions.push(map(real_prediction, map(str, tasks)), VERSION, CLASSES, Shown(0.0, 0, 1.0))
    call(client, "PATCH", f"api/projects/{project.project_id}", json={"model_version": VERSION})
    for size in tqdm(sorted(sizes), desc="crowds", leave=False):
        copy_tasks(database, project.project_id, IMPORTED, size // IMPORTED)
        counted = _push_one(client, project, tasks[0]) if size <= COUNTED else None
        yield {"tasks": size, "call_seconds": counted} | _look_seconds(client, project, database)


def require_copies(sizes: Sequence[int]) -> None:
    """CommandError, unless copies of the imported tasks make these sizes and one of them is counted."""
    if min(sizes) > COUNTED:
        raise CommandError(
            f"crowds of {min(sizes)} tasks and more are not counted; give one of {COUNTED} at most, too."
        )
    for size in sizes:
        if size < IMPORTED or size % IMPORTED:
            raise CommandError(
                f"{size} tasks are no multiple of {IMPORTED}, by which tasks are copied; give multiples."
            )


def real_prediction(key: str) -> Prediction:
    """Of MASKS ragged instances, half sure of each."""
    halves = [0.5] * MASKS
    return Prediction(
        key=key,
        height=SIDE,
        width=SIDE,
        labels=[1] * MASKS,
        boxes=[[0.0, 0.0, 1.0, 1.0]] * MASKS,
        scores=halves,
        box_scores=halves,
        mask_scores=halves,
        instance_scores=halves,
        entropies=halves,
        counts=list(_outlines()),
        max_class_score=0.5,
        image_score=0.5,
    )


@cache
def _outlines() -> list[str]:
    return [rle["counts"] for rle in blobs(SIDE, 5)[:MASKS]]


def copy_tasks(database: Path, project: int, count: int, times: int) -> None:
    """Copy a project's first `count` tasks, with their predictions, until it has them `times` times.

    Copies that are there count. The scores of new ones are spread over 0..1. Tasks and predictions must have been made
    one after the other: their ids follow each other.
    """
    with closing(sqlite3.connect(database, timeout=600)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")  # the server makes no id between looking and writing
        (there,) = connection.execute("SELECT count(*) / ? FROM task WHERE project_id = ?", (count, project)).fetchone()
        task, prediction = (_Ids.of(connection, table, project, count) for table in ("task", "prediction"))
        span = {"copies": times - there, "count": count}
        moved = {"id": task.copy("id"), "inner_id": f"inner_id + ({there} + copy) * :count"}
        _insert_copies(connection, "task", moved, span | {"first": task.first})
        spread = f"({prediction.copy('id')}) * 7919 % 100003 / 100003.0"  # two primes: no two neighbours alike
        moved = {"id": prediction.copy("id"), "task_id": task.copy("task_id"), "score": spread}
        _insert_copies(connection, "prediction", moved, span | {"first": prediction.first})


class _Ids(NamedTuple):
    """Of a table: the first that the project has, and the last of all."""

    first: int
    last: int

    @classmethod
    def of(cls, connection: sqlite3.Connection, table: str, project: int, count: int) -> _Ids:
        """ValueError, if the first `count` do not follow each other."""
        asked = f"SELECT id FROM {table} WHERE project_id = ? ORDER BY id LIMIT ?"
        ids = [row[0] for row in connection.execute(asked, (project, count))]
        if ids != list(range(ids[0], ids[0] + count)):
            raise ValueError(f"the rows of {table} do not follow each other")
        return cls(ids[0], connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0])

    def copy(self, column: str) -> str:
        """SQL of the id that the copy of a row gets, counted on from the last."""
        return f"{column} + {self.last + 1 - self.first} + copy * :count"


def _insert_copies(
    connection: sqlite3.Connection, table: str, moved: Mapping[str, str], span: Mapping[str, int]
) -> None:
    """`copies` times the `count` rows from `first` on; `moved` is the SQL of the columns that are not as they were."""
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    connection.execute(
        f"""WITH RECURSIVE numbers(copy) AS (
                SELECT 0 WHERE :copies > 0 UNION ALL SELECT copy + 1 FROM numbers WHERE copy + 1 < :copies)
            INSERT INTO {table} ({", ".join(names)})
            SELECT {", ".join(moved.get(name, f"{table}.{name}") for name in names)} FROM {table}, numbers
            WHERE {table}.id BETWEEN :first AND :first + :count - 1""",
        span,
    )


def _look_seconds(client: LabelStudio, project: LabelStudioProject, database: Path) -> dict[str, float]:
    page = {"project": project.project_id, "view": keep_view(project), "page": 1, "page_size": 30}
    looks = {
        "next_seconds": project.next_task,
        "page_seconds": lambda: call(client, "GET", "api/tasks/", params=page),
    }
    unlock_tasks(database)
    found = in_turns(looks, LOOKS, step=lambda: unlock_tasks(database))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def unlock_tasks(database: Path) -> None:
    """Let the next task be looked for: whoever has one gets it again."""
    with closing(sqlite3.connect(database, timeout=600)) as connection, connection:
        connection.execute("DELETE FROM tasks_tasklock")


def _push_one(client: LabelStudio, project: LabelStudioProject, task: int) -> float:
    """Seconds of a call with one prediction."""
    body = [{"task": task, "model_version": "one more", "score": 0.5, "result": []}]
    began = time.perf_counter()
    call(client, "POST", f"api/projects/{project.project_id}/import/predictions", json=body, timeout=CALL_SECONDS)
    return time.perf_counter() - began
