"""One run of Algorithm 1: its Label Studio project, its oracle, its order of images and its results."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.connection import connect
from backend.project import LabelStudioProject
from backend.snapshot import Snapshot
from backend.versions import Versions
from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.plan import STATE, Plan, State
from scripts.project_setup import create_project, import_images, truth
from scripts.quality import quality_on_test
from scripts.results import read_rows, result_row, write_rows
from scripts.service import Service
from tsp_model.cycle import PSEUDO_LABELS, pick_images, rank_pool
from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import pseudo_label_precision
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import iterate_predictions, read_predictions, write_predictions
from tsp_model.ranking import Ranking
from tsp_model.settings import Settings

ORACLE_THREADS = 4  # Label Studio takes about 13 annotations a second from four, 6 from one


class Experiment:
    """A run in progress. Images are named by their file name, Label Studio's tasks by their id."""

    def __init__(self, plan: Plan, train: ImageSet, test: ImageSet, project: LabelStudioProject) -> None:
        self.plan, self.train_set, self.test_set, self.project = plan, train, test, project
        self.service = Service(plan.backend_url)
        self.out = Path(plan.out)
        self.state = State(self.out / STATE)
        self.versions = Versions(Path(plan.model_dir), project.key)
        self.task_of: dict[str, int] = {}
        self._settings = Settings.from_dict(plan.method)
        self._ranked: tuple[int, Ranking] | None = None

    @staticmethod
    def open(plan: Plan, sets: tuple[ImageSet, ImageSet] | None = None) -> Experiment:
        """Check everything that can be checked, then make or find the project and import what is missing.

        Args:
            sets: pool and test split where they are loaded already; None: they are loaded as the plan says.

        Raises the errors of scripts.command_line, before anything is made where possible.
        """
        client = connect(plan.url, plan.api_key)
        Service(plan.backend_url).check()
        train, test = sets or _data(plan)
        needed = plan.cycles * plan.per_cycle
        if needed > len(train):
            raise CommandError(
                f"{plan.cycles} cycles of {plan.per_cycle} labels need {needed} images, {plan.data} has {len(train)}; "
                "lower --cycles or --per-cycle."
            )
        state = State(Path(plan.out) / STATE)
        state.check(plan)
        if state.get("project_id") is None:
            _check_images(train, test)
            arm = plan.cell or f"{plan.strategy}{' + SSL' if plan.ssl else ''}"
            title = f"{Path(plan.data).name} {arm}, seed {plan.seed}"
            state.set(plan=plan.identity, project_id=create_project(client, title, train.classes, plan))
        project = LabelStudioProject(client, state.get("project_id"))
        project.point_connection(plan.backend_url)
        if not Versions(Path(plan.model_dir), project.key).root.is_dir():
            raise CommandError(
                f"the backend keeps its models elsewhere than in {plan.model_dir}; give its MODEL_DIR with --model-dir."
            )
        experiment = Experiment(plan, train, test, project)
        experiment.task_of = import_images(project, train)
        return experiment

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.close()

    def rows(self) -> list[dict[str, Any]]:
        """The result rows of finished cycles."""
        return read_rows(self._results) if self._results.exists() else []

    def picked(self, k: int) -> list[str] | None:
        """The images that an interrupted cycle k had picked already."""
        return self.state.get("picked", {}).get(str(k))

    def pick(self, k: int) -> list[str]:
        """b images for cycle k: at random in the first, the first of the strategy's order later; written down."""
        before = self.state.get("picked", {})
        if k == 1:
            chosen = pick_images(
                k, self._unlabelled(), self.train_set.subset([]), self._settings, self.plan.per_cycle, None
            )
        else:
            chosen = self._first_of(self._order(k))
        self.state.set(picked=before | {str(k): chosen})
        return chosen

    def _order(self, k: int) -> Ranking:
        """The order in which the active version's predictions have the pool labelled in cycle k, of tasks' ids."""
        if self._ranked is None or self._ranked[0] != k:
            names, labelled = self._unlabelled(), self.train_set.subset(self._labelled())
            folder = self._active_folder()
            ranking = rank_pool(k, names, labelled, self._settings, folder, lambda name: str(self.task_of[name]))
            self._ranked = k, ranking
        return self._ranked[1]

    def _first_of(self, ranking: Ranking) -> list[str]:
        """The images that a cycle picks."""
        name_of = {str(task): name for name, task in self.task_of.items()}
        return [name_of[key] for key in ranking.order[: self.plan.per_cycle]]

    def _labelled(self) -> list[str]:
        """What was picked until now, in the order of the set."""
        picked = {name for names in self.state.get("picked", {}).values() for name in names}
        return [key for key in self.train_set.keys if key in picked]

    def _unlabelled(self) -> list[str]:
        """What was not, sorted."""
        return sorted(set(self.train_set.keys) - set(self._labelled()))

    def label(self, picked: Sequence[str]) -> float:
        """The oracle submits ground truth for what has none yet, an empty annotation for an empty image; seconds."""
        start = time.monotonic()
        done = self.project.annotated_task_ids()
        todo = [item for item in self.train_set.subset(picked).items if self.task_of[item.key] not in done]
        with ThreadPoolExecutor(ORACLE_THREADS) as threads:
            labelled = threads.map(self._annotate, todo)
            list(tqdm(labelled, total=len(todo), desc="oracle labels", leave=False, disable=None))
        return time.monotonic() - start

    def _annotate(self, item: Any) -> None:
        regions = truth(item, self.train_set.classes, self.project.config)
        self.project.submit_annotation(self.task_of[item.key], regions)

    def train(self, k: int) -> dict[str, Any]:
        """START_TRAINING, unless the labels so far were trained on already; the job's last status."""
        title = f"cycle {k} of {self.plan.cycles}, {self.plan.strategy}"
        known = self.state.get("jobs", {})
        if str(k) in known:  # trained, but stopped before its row was written
            return self.service.wait(known[str(k)], title)
        job = self.service.last_training(self.project.key)
        if job is None or job["status"] == "ERROR" or job["job_id"] in known.values():
            self.project.start_training()
            job = self.service.last_training(self.project.key)
            if job is None or job["job_id"] in known.values():
                raise CommandError("Label Studio started no training; is the project's backend connected?")
        status = self.service.wait(job["job_id"], title)
        self._refuse_skipped()
        self.state.set(jobs=known | {str(k): status["job_id"]})
        return status

    def _refuse_skipped(self) -> None:
        """An image that the backend could not use would silently leave the pool."""
        folder = self._active_folder()
        for task, reason in Snapshot.read(folder).skipped.items():
            raise CommandError(f"the backend left out task {task} (and maybe others): {reason}")

    def check_order(self, k: int) -> None:
        """After the training of cycle k Label Studio must order tasks as the strategy does; else CommandError.

        Its score column must be what the strategy's order says (S for TSP), task by task, and the task that it serves
        next must be one with the lowest. Being served locks a task for a day, and one that is then not labelled would
        come first again; so the next task is only asked for if the next cycle picks every task that it could be.
        """
        waiting = set(self.task_of.values()) - self.project.annotated_task_ids()
        if not waiting:
            return
        scores, version, ranking = self.project.scores(), self._active_folder(), self._order(k + 1)
        predicted = (found for found in iterate_predictions(version / PREDICTIONS) if int(found.key) in waiting)
        expected = {int(found.key): ranking.score(found) for found in predicted}
        wrong = [task for task in sorted(waiting) if abs(scores.get(task, math.inf) - expected[task]) > 1e-9]
        if wrong:
            raise CommandError(
                f"Label Studio shows score {scores.get(wrong[0])} for task {wrong[0]}, version {version.name} says "
                f"{expected[wrong[0]]} ({len(wrong)} tasks differ); is the project's model version {version.name}?"
            )
        lowest = min(scores[task] for task in waiting)
        first = {task for task in waiting if scores[task] == lowest}
        if not first <= {self.task_of[name] for name in self._first_of(ranking)}:
            return
        served = self.project.next_task()
        if served not in first:
            raise CommandError(
                f"Label Studio serves task {served} (score {scores.get(served)}) next, but the lowest score of "
                f"project {self.project.project_id} is {lowest}; its ordering is not the strategy's."
            )

    def report(
        self, k: int, picked: Sequence[str], job: dict[str, Any], label_seconds: float, start: float
    ) -> dict[str, Any]:
        """Evaluate M_k on the test split; the cycle's row, written to results.jsonl.

        What it predicted of the test images and its pseudo labels stay in the run's own folder M<k>, under the images'
        names.
        """
        folder, kept = self._active_folder(), self.out / f"M{k}"
        card = self.versions.card(folder.name)
        evaluated = time.monotonic()
        quality = quality_on_test(folder, self.test_set, kept)
        name_of = {str(task): name for name, task in self.task_of.items()}
        pseudo = read_predictions(folder / PSEUDO_LABELS)
        pseudo = {name_of[key]: replace(found, key=name_of[key]) for key, found in pseudo.items()}
        write_predictions(kept / PSEUDO_LABELS, pseudo.values())
        end = time.monotonic()
        seconds = {"label": label_seconds, **job["seconds"], "evaluate": end - evaluated, "cycle": end - start}
        precision = pseudo_label_precision(self.train_set, pseudo)["precision"]
        images = self.train_set.subset(picked).items
        row = result_row(self.plan.data, k, images, card, quality, precision, folder.name, seconds)
        row |= {"cell": self.plan.cell} if self.plan.cell else {}
        write_rows(self._results, [*self.rows(), row])
        for warning in card["warnings"]:
            print(f"cycle {k}: {warning}", file=sys.stderr)
        return row

    @property
    def _results(self) -> Path:
        return self.out / "results.jsonl"

    def _active_folder(self) -> Path:
        active = self.versions.active()
        if active is None:
            raise CommandError(f"project {self.project.project_id} has no active version under {self.plan.model_dir}.")
        return self.versions.folder(active)


def _data(plan: Plan) -> tuple[ImageSet, ImageSet]:
    return load_sets(
        plan.data, plan.train_images, plan.test_images, Path(plan.out), plan.method["image_size"], plan.seed
    )


def _check_images(train: ImageSet, test: ImageSet) -> None:
    """Decode every image and label once: a broken one costs a line now, or a run later. Raises DataError."""
    for kind, images in {"pool": train, "test": test}.items():
        for index in tqdm(range(len(images)), desc=f"checking {kind} images", leave=False, disable=None):
            images[index]
