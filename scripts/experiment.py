"""One run of Algorithm 1: what was asked for, its state on disk, its Label Studio project and its oracle."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.connection import connect
from backend.project import LabelStudioProject
from backend.regions import to_region
from backend.snapshot import Snapshot
from backend.versions import Versions
from scripts.command_line import CommandError
from scripts.data_sets import load_sets
from scripts.project_setup import create_project, import_images
from scripts.results import read_rows, result_row, write_rows
from scripts.service import Service
from tsp_model.cycle import PREDICTIONS, PSEUDO_LABELS, pick_images, score_pool
from tsp_model.data.image_set import ImageSet
from tsp_model.evaluation import average_precision, pseudo_label_precision
from tsp_model.files import write_json
from tsp_model.predictions import iterate_predictions, read_predictions
from tsp_model.settings import Settings

ORACLE_THREADS = 4  # Label Studio takes about 13 annotations a second from four, 6 from one


@dataclass(frozen=True)
class Plan:
    """What a run was asked for; the same plan in the same folder goes on where it was."""

    data: str
    strategy: str
    ssl: bool
    cycles: int
    per_cycle: int
    seed: int
    label_tag: str
    train_images: int | None
    test_images: int | None
    method: dict[str, Any]
    url: str
    api_key: str
    backend_url: str
    model_dir: str
    out: str

    @staticmethod
    def from_arguments(arguments: argparse.Namespace) -> Plan:
        """Checked arguments of scripts.active_learning. Raises SettingsError or CommandError."""
        values = vars(arguments)
        pairs = [entry.partition("=") for entry in values.pop("set")]
        unfinished = [name for name, equals, _ in pairs if not equals]
        if unfinished:
            raise CommandError(f"--set {unfinished[0]} has no value; write --set {unfinished[0]}=VALUE.")
        for name in ("cycles", "per_cycle", "train_images", "test_images"):
            if values[name] is not None and values[name] < 1:
                raise CommandError(f"--{name.replace('_', '-')} must be at least 1.")
        asked = {"strategy": arguments.strategy, "ssl": arguments.ssl, "seed": arguments.seed}
        chosen = {name.strip(): value for name, _, value in pairs} | asked
        values["method"] = Settings.preset(values.pop("preset")).override(chosen).to_dict()
        environment = {
            "url": ("LABEL_STUDIO_URL", "http://localhost:8080"),
            "api_key": ("LABEL_STUDIO_API_KEY", ""),
            "model_dir": ("MODEL_DIR", "models"),
        }
        for name, (variable, default) in environment.items():
            values[name] = values[name] or os.environ.get(variable) or default
        return Plan(**values)

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between a run and its continuation; more cycles may be asked for."""
        where = ("url", "api_key", "backend_url", "model_dir", "out")
        return {name: value for name, value in asdict(self).items() if name not in (*where, "cycles")}


class Experiment:
    """A run in progress. Images are named by their file name, Label Studio's tasks by their id."""

    def __init__(self, plan: Plan, train: ImageSet, test: ImageSet, project: LabelStudioProject) -> None:
        self.plan, self.train_set, self.test_set, self.project = plan, train, test, project
        self.service = Service(plan.backend_url)
        self.out = Path(plan.out)
        self.state = _State(self.out / "experiment.json")
        self.versions = Versions(Path(plan.model_dir), project.key)
        self.task_of: dict[str, int] = {}

    @staticmethod
    def open(plan: Plan) -> Experiment:
        """Check everything that can be checked, then make or find the project and import what is missing.

        Raises the errors of scripts.command_line, before anything is made where possible.
        """
        client = connect(plan.url, plan.api_key)
        Service(plan.backend_url).check()
        train, test = _data(plan)
        needed = plan.cycles * plan.per_cycle
        if needed > len(train):
            raise CommandError(
                f"{plan.cycles} cycles of {plan.per_cycle} labels need {needed} images, {plan.data} has {len(train)}; "
                "lower --cycles or --per-cycle."
            )
        state = _State(Path(plan.out) / "experiment.json")
        state.check(plan)
        if state.get("project_id") is None:
            _check_images(train, test)
            title = f"{Path(plan.data).name} {plan.strategy}{' + SSL' if plan.ssl else ''}, seed {plan.seed}"
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
        """b images for cycle k: at random in the first, by the strategy's scores later; written down at once."""
        before = self.state.get("picked", {})
        labelled = [name for names in before.values() for name in names]
        names = sorted(set(self.train_set.keys) - set(labelled))
        chosen = pick_images(
            k,
            names,
            self.train_set.subset(labelled),
            Settings.from_dict(self.plan.method),
            self.plan.per_cycle,
            self._active_folder() if k > 1 else None,
            lambda name: str(self.task_of[name]),
        )
        served = self.state.get("served")
        if served in names and served not in chosen:
            # It shares the lowest score with a picked one; left locked, it would come first again next time.
            chosen = [served, *chosen[:-1]]
        self.state.set(picked=before | {str(k): chosen})
        return chosen

    def label(self, picked: Sequence[str]) -> float:
        """The oracle submits ground truth for what has none yet, an empty annotation for an empty image; seconds."""
        start = time.monotonic()
        done = self.project.annotated_task_ids()
        todo = [item for item in self.train_set.subset(picked).items if self.task_of[item.key] not in done]
        with ThreadPoolExecutor(ORACLE_THREADS) as threads:
            list(tqdm(threads.map(self._annotate, todo), total=len(todo), desc="oracle labels", leave=False))
        return time.monotonic() - start

    def _annotate(self, item: Any) -> None:
        regions = [
            to_region(self.train_set.classes[instance.label - 1], instance.rle, self.project.tag, f"truth{index}")
            for index, instance in enumerate(item.instances)
        ]
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

    def check_order(self) -> None:
        """Label Studio must order by the new version's S and serve a task with the lowest next; else CommandError.

        The next task itself is asked for only where TSP picks: being served locks a task for a day, and one that
        is then not labelled would come first again. Elsewhere the server's score column must still be S.
        """
        scores = self.project.scores()
        waiting = set(self.task_of.values()) - self.project.annotated_task_ids()
        if not waiting:
            return
        version = self._active_folder()
        expected = {int(found.key): found.image_score for found in iterate_predictions(version / PREDICTIONS)}
        wrong = [task for task in sorted(waiting) if abs(scores.get(task, math.inf) - expected[task]) > 1e-9]
        if wrong:
            raise CommandError(
                f"Label Studio shows score {scores.get(wrong[0])} for task {wrong[0]}, version {version.name} says "
                f"{expected[wrong[0]]} ({len(wrong)} tasks differ); is the project's model version {version.name}?"
            )
        if self.plan.strategy != "tsp":
            return
        served = self.project.next_task()
        lowest = min(scores[task] for task in waiting)
        if served not in waiting or scores[served] > lowest:
            raise CommandError(
                f"Label Studio serves task {served} (score {scores.get(served)}) next, but the lowest score of "
                f"project {self.project.project_id} is {lowest}; its ordering is not the uncertainty's."
            )
        self.state.set(served=next(name for name, task in self.task_of.items() if task == served))

    def report(
        self, k: int, picked: Sequence[str], job: dict[str, Any], label_seconds: float, start: float
    ) -> dict[str, Any]:
        """Evaluate M_k on the test split; the cycle's row, written to results.jsonl."""
        folder = self._active_folder()
        card = self.versions.card(folder.name)
        evaluated = time.monotonic()
        predictions = {p.key: p for p in score_pool(folder, self.test_set)}
        precision = average_precision(self.test_set, predictions)
        name_of = {str(task): name for name, task in self.task_of.items()}
        pseudo = read_predictions(folder / PSEUDO_LABELS)
        pseudo = {name_of[key]: replace(found, key=name_of[key]) for key, found in pseudo.items()}
        end = time.monotonic()
        seconds = {"label": label_seconds, **job["seconds"], "evaluate": end - evaluated, "cycle": end - start}
        right = pseudo_label_precision(self.train_set, pseudo)["precision"]
        images = self.train_set.subset(picked).items
        row = result_row(self.plan.data, k, images, card, precision, right, folder.name, seconds)
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


class _State:
    """A small JSON file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, name: str, default: Any = None) -> Any:
        return self._values.get(name, default)

    def set(self, **values: Any) -> None:
        self._values |= values
        write_json(self._path, self._values)

    def check(self, plan: Plan) -> None:
        """Raise CommandError if this is another plan's state."""
        identity = json.loads(json.dumps(plan.identity))
        known = self.get("plan", identity)
        changed = sorted(name for name in identity if known.get(name) != identity[name])
        if changed:
            raise CommandError(
                f"{self._path.parent} holds a run with another {', '.join(changed)}; choose another --out, or repeat "
                "the old command to go on."
            )


def _data(plan: Plan) -> tuple[ImageSet, ImageSet]:
    return load_sets(
        plan.data, plan.train_images, plan.test_images, Path(plan.out), plan.method["image_size"], plan.seed
    )


def _check_images(*sets: ImageSet) -> None:
    """Decode every image and label once: a broken one costs a line now, or a run later. Raises DataError."""
    for images in sets:
        for index in tqdm(range(len(images)), desc="checking images", leave=False):
            images[index]
