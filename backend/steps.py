"""The worker's steps: one cycle of Algorithm 1 on a Label Studio project.

pull -> train -> compare -> score -> push -> switch -> prune. What a step made lies in the version's folder, so that a
step can be repeated after a crash without another being lost; only `switch` changes which version answers.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from backend import task_order
from backend.clusters import keep_clusters, set_clusters
from backend.curves import curves
from backend.kept_aside import LEAST, compared, split
from backend.ordering import keep_order, least_sure, score_of, strategy_of
from backend.pool import forget_images, state
from backend.progress import Progress
from backend.project import lost_title
from backend.project_work import JobError, ProjectWork
from backend.ranks import run_ranks
from backend.settings import ServiceSettings
from backend.snapshot import Snapshot
from backend.version_work import image_set, train_version, translation
from backend.versions import COMPARISON, VersionError, project_number
from tsp_model.acquisition import STRATEGIES
from tsp_model.checkpoints import CARD, WEIGHTS, CheckpointError
from tsp_model.execution import Execution
from tsp_model.files import write_json
from tsp_model.prediction_pass import PREDICTIONS
from tsp_model.predictions import Prediction, PredictionFile, iterate_predictions, write_predictions
from tsp_model.settings import Settings

logger = logging.getLogger(__name__)


class CycleSteps(ProjectWork):
    """The steps of backend.workflows.Steps, for every project of one Label Studio."""

    def __init__(self, service: ServiceSettings) -> None:
        super().__init__(service)
        torch.set_num_threads(service.torch_threads)

    def pull(self, key: str, job: Progress) -> dict[str, Any]:
        """Annotations and images to this disk; a new version's folder with the snapshot to train on."""
        project, versions = self._project(key), self._versions(key)
        removed = versions.remove_incomplete()
        if removed:
            logger.info("removed what unfinished trainings left: %s", ", ".join(removed))
        if self._service.basic_auth is not None:
            self._authorise(project)
        chosen = self._settings(project)
        pool = self._pool(project, project.tasks(), job)
        labelled, aside = split(pool.labelled, chosen.keep_aside)
        snapshot = Snapshot(
            classes=project.classes,
            settings=chosen.method.to_dict(),
            parent=versions.active(),
            labelled=labelled,
            unlabelled=pool.unlabelled,
            skipped=pool.skipped,
            aside=aside,
            annotations=pool.annotations,
        )
        if not snapshot.labelled:
            left_out = "; ".join(f"task {task}: {reason.rstrip('.')}" for task, reason in pool.skipped.items())
            reason = f"what is left out: {left_out[:500]}" if left_out else "submit annotations first"
            raise JobError(f"nothing to train on in project {project.project_id}; {reason}.")
        version = versions.new_name()
        versions.folder(version).mkdir(parents=True)
        snapshot.write(versions.folder(version))
        counts = {name: len(getattr(snapshot, name)) for name in ("labelled", "unlabelled", "aside")}
        job.note(version=version, **counts, without_label=dict(pool.without_label))
        return {"version": version, "skipped": len(pool.skipped)}

    def train(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """M_k on D_al and, from the parent's predictions, D_semi."""
        versions = self._versions(key)
        if version in versions.list():  # killed after it was saved and before the job database knew
            return {"counts": versions.card(version)["counts"]}
        folder = versions.folder(version)
        # Learning loss compares the images of a batch with each other, which one process has to have.
        alone = self._service.processes == 1 or Snapshot.read(folder).settings["strategy"] == "learning_loss"
        with curves(folder, job.update) as progress:
            if alone:
                train_version(versions, version, progress)
            else:
                run_ranks(self._service, {"part": "train", "key": key, "version": version}, progress)
        return {"counts": versions.card(version)["counts"]}

    def compare(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """Whether M_k is worse than the version that answers, on images that neither was trained on."""
        versions = self._versions(key)
        snapshot, active = Snapshot.read(versions.folder(version)), versions.active()
        if active is None:
            return {"worse": False}
        execution = Execution.choose(self._settings(self._project(key)).method)
        folders = versions.folder(active), versions.folder(version)
        try:
            trained = {one.key for one in Snapshot.read(folders[0]).labelled}
            aside = [one for one in snapshot.aside if one.key not in trained]
            if len(aside) < LEAST:
                return {"worse": False}
            translated = translation(versions.card(active)["classes"], snapshot.classes)
            found = compared(*folders, image_set(snapshot, aside), translated, execution, job.update)
        except (VersionError, CheckpointError) as error:
            logger.warning("%s is compared with no version: %s", version, error)
            return {"worse": False}
        comparison = {name: round(value, 4) for name, value in asdict(found).items()} | {"with": active}
        write_json(versions.folder(version) / COMPARISON, comparison)
        job.note(comparison=comparison)
        if found.worse:
            versions.end(version)
        message = (
            f"{version} is kept and not activated: on {found.images} images that neither was trained on its AP50 is "
            f"{found.after:.3f}, that of {active} {found.before:.3f} (difference {found.low:.3f} to {found.high:.3f})."
        )
        return {"worse": found.worse, "message": message}

    def score(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """M_k over the whole pool of unlabelled tasks: predictions.jsonl of the version.

        Label Studio gets them meanwhile, under a version that is not active yet; `push` sees to it that it has all.
        Where their order, or which of them are sent, needs the whole pool, all of them wait for `push`.
        """
        versions = self._versions(key)
        snapshot, chosen = Snapshot.read(versions.folder(version)), self._settings(self._project(key))
        score = self._score if self._service.processes == 1 else self._score_by_ranks
        scored = score(key, version, image_set(snapshot, snapshot.unlabelled), chosen, job)
        keep_order(versions, version, snapshot.unlabelled, image_set(snapshot, snapshot.labelled))
        if chosen.clusters:
            found = iterate_predictions(self._file(key, version))
            keep_clusters(versions.folder(version), found, chosen.clusters, snapshot.settings["seed"])
        return {"scored": scored}

    def push(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """The predictions to Label Studio, with their clusters; those that are there already are not sent again.

        With push_top only the least sure go, of those that nobody has labelled meanwhile: the others stay in the
        version's file, and an opened task is answered by the network.
        """
        file, folder = self._file(key, version), self._versions(key).folder(version)
        project = self._project(key)
        chosen = self._settings(project)
        sent: Iterable[Prediction] = iterate_predictions(file)
        top = chosen.push_top
        if top:
            labelled = {str(task) for task in project.annotated_task_ids()}
            unlabelled = (prediction for prediction in iterate_predictions(file) if prediction.key not in labelled)
            first = least_sure(unlabelled, score_of(folder), top)
            sent = (prediction for prediction in sent if prediction.key in first)
        began = time.monotonic()

        def report(done: int, waiting: int) -> None:
            total = min(waiting, top or waiting)
            left = round((time.monotonic() - began) / done * (total - done), 1) if done else None
            job.update({"done": done, "total": total, "eta_seconds": left})

        pushed = self._push(project, chosen, version, sent, report=report)
        if doubled := project.predictions.remove_doubled(version):
            said = "project %d had %d tasks with two predictions of %s; one each stays"
            logger.warning(said, project.project_id, doubled, version)
        if chosen.clusters:
            set_clusters(project, version, folder, iterate_predictions(file), job)
        return {"pushed": pushed}

    def switch(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """From now on `version` answers, here and in Label Studio's order of tasks, of which the view is kept."""
        project, versions = self._project(key), self._versions(key)
        before = versions.active()
        versions.activate(version)  # first: Label Studio asks /setup for it as soon as it is told
        try:
            project.switch(version)
        except Exception:
            versions.activate(before)
            raise
        versions.end(version)
        task_order.settle(project, versions, self._settings(project).clusters)
        return {}

    def due(self, key: str, job: Progress) -> dict[str, Any]:
        """Whether Label Studio has train_after annotations that the last training did not read. That is not always the
        active version's: it may have been worse, or somebody went back to an older one."""
        project, versions = self._project(key), self._versions(key)
        chosen = self._settings(project)
        needed, last = chosen.train_after, versions.last_ended()
        try:
            seen = set() if last is None else set(Snapshot.read(versions.folder(last)).annotations)
        except VersionError as error:
            logger.warning("all annotations of project %d count as new: %s", project.project_id, error)
            seen = set()
        seen |= set(versions.dismissed())
        new = sum(state(annotation) not in seen for annotation in project.annotations())
        task_order.settle(project, versions, chosen.clusters)
        message = f"{new} of the {needed} new annotations that start a training."
        return {"due": 0 < needed <= new, "message": message}

    def score_new(self, key: str, job: Progress) -> dict[str, Any]:
        """Predictions of the active version for unlabelled tasks that came after it. A title that the connection has
        lost is given to it again: no other job of the project switches meanwhile."""
        active = self._versions(key).active()
        if active is None:
            return {"message": "no version yet: the first training scores every task."}
        project = self._project(key)
        if lost_title(project.found, project.connections(), active):
            project.switch(active)
            logger.info("project %d: the connection is titled %s again", project.project_id, active)
        return self.catch_up(key, active, job)

    def wanted(self, key: str, job: Progress) -> dict[str, Any]:
        """The version that somebody asked to activate."""
        version = self._versions(key).wanted()
        if version is None:
            raise JobError(f"nobody asked for a version of project {project_number(key)}; name one.")
        return {"version": version}

    def derive(self, key: str, job: Progress) -> dict[str, Any]:
        """The version whose order was asked for: the active one, or with another strategy a new one of its weights, in
        a folder as `pull` and `train` leave it."""
        project, versions = self._project(key), self._versions(key)
        active, last = versions.active(), versions.last_ended()
        if active is None or last is None:
            raise JobError(f"project {project.project_id} has no version yet; label some tasks and start a training.")
        card = versions.card(active)
        present = strategy_of(card)
        strategy = versions.wanted_strategy() or present
        if strategy == present:
            return {"version": active, "strategy": strategy, "new": False}
        _refuse_without_its_network(strategy, card)
        method = Settings.from_dict(card["settings"]).override({"strategy": strategy, "random_labels": 0})
        pool = self._pool(project, project.unannotated(), job)
        snapshot = replace(
            Snapshot.read(versions.folder(active)),
            settings=method.to_dict(),
            parent=active,
            unlabelled=pool.unlabelled,
            skipped=pool.skipped,
            annotations=Snapshot.read(versions.folder(last)).annotations,
        )
        version = versions.new_name()
        folder = versions.folder(version)
        folder.mkdir(parents=True)
        snapshot.write(folder)
        shutil.copyfile(versions.folder(active) / WEIGHTS, folder / WEIGHTS)
        if STRATEGIES[strategy].observe is None:  # it reads nothing that the predictions do not hold already
            known = PredictionFile(self._file(key, active))
            kept = [image.key for image in pool.unlabelled if image.key in known]
            write_predictions(folder / PREDICTIONS, (known[key] for key in kept))
        write_json(folder / CARD, card | {"settings": snapshot.settings, "parent": active})
        return {"version": version, "strategy": strategy, "new": True}

    def catch_up(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """Predictions of `version` for the unlabelled tasks that it has none of, to Label Studio with the others."""
        versions, project = self._versions(key), self._project(key)
        path = self._file(key, version)
        path.touch()  # a version that was kept and not activated has predicted nothing yet
        known = PredictionFile(path)
        with job.phase("pull"):
            pool = self._pool(project, project.unannotated(), job, lambda task: str(task.id) not in known)
        with job.phase("score"):
            snapshot = Snapshot.read(versions.folder(version))
            chosen = self._settings(project)
            scored = self._score(key, version, image_set(snapshot, pool.unlabelled), chosen, job)
            keep_order(versions, version, pool.unlabelled, image_set(snapshot, snapshot.labelled))
        with job.phase("push"):
            # All of them: a job that died between scoring and pushing left some on this disk only.
            return {"scored": scored, **self.push(key, version, job)}

    def prune(self, key: str, job: Progress) -> dict[str, Any]:
        """Old versions go, here and their predictions in Label Studio; the active one never does. Images that none of
        the others read go with them."""
        versions = self._versions(key)
        surplus = versions.surplus(self._service.keep_versions)
        for version in surplus:
            self._project(key).forget(version, versions.active())
            versions.prune(version)
        named = set()
        for version in versions.list():
            with suppress(VersionError):  # who goes back to it fetches them again
                read = Snapshot.read(versions.folder(version))
                named |= {Path(image.path).name for images in read.lists for image in images}
        return {"pruned": surplus, "images": forget_images(versions.root / "images", named)}

    def discard(self, key: str, version: str, job: Progress) -> dict[str, Any]:
        """A version whose job was cancelled goes, with what Label Studio has of it. The annotations that it was made of
        start no training by themselves again: somebody did not want it."""
        versions = self._versions(key)
        if version == versions.active():  # cancelled in the moment in which it was switched to
            return {}
        with suppress(VersionError):  # killed after it was deleted
            read = Snapshot.read(versions.folder(version)).annotations
            write_json(versions.dismissed_file, sorted({*versions.dismissed(), *read}))
        self._project(key).forget(version, versions.active())
        versions.discard(version)
        return {}

    def connect(self, key: str, job: Progress) -> dict[str, Any]:
        """With basic authentication set, let the project's webhooks send it."""
        if self._service.basic_auth is None:
            return {"found": False, "message": "no basic authentication is set."}
        return self._authorise(self._project(key))


def _refuse_without_its_network(strategy: str, card: Mapping[str, Any]) -> None:
    """Two strategies read what only a network trained for them says. Raises JobError if the card's network was not."""
    if strategy == "learning_loss" and not card["architecture"]["learning_loss"]:
        raise JobError(
            "learning_loss needs a network that was trained for it; start the backend with "
            "TSP_STRATEGY=learning_loss, or give the connection the extra_params strategy, and train once."
        )
    if strategy == "mc_dropout" and not card["settings"]["dropout"]:
        raise JobError(
            "mc_dropout needs a version that was trained with dropout; start the backend with TSP_DROPOUT=0.25, or "
            "give the connection the extra_params dropout, and train once."
        )
