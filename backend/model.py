"""`TSPBackend`: predict and fit for Label Studio, on both generations of label-studio-ml (1.0.9 and 2.x).

The two differ in what a constructor gets (1.0.9: label_config, train_output; 2.x: project_id, label_config)
and in how fit is called (1.0.9: fit((), event=, data=, job_id=); 2.x: fit(event, data)). State lives on disk,
never in an instance: which version answers is read at every request, so a process that did not train takes up
the new version by itself.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from label_studio_ml.model import LabelStudioMLBase
from label_studio_sdk import LabelStudio

from backend import settings
from backend.connection import connect
from backend.events import handle
from backend.images import ImageError, fetch_image
from backend.jobs import Jobs
from backend.label_config import LabelConfig, parse_label_config
from backend.progress import one_line, unexpected
from backend.project import LabelStudioProject
from backend.project_settings import for_project, remember_extra_params, remembered_extra_params
from backend.serving import ActiveVersion, Image
from backend.settings import ServiceSettings
from backend.versions import UNTRAINED, Versions, project_number
from tsp_model.ahead import ahead
from tsp_model.data.image_set import read_image
from tsp_model.inference import BATCH_SIZE

logger = logging.getLogger(__name__)

_SECOND_GENERATION = "project_id" in inspect.signature(LabelStudioMLBase.__init__).parameters
# Predictions in progress. The web service's other threads stay free for webhooks and /health.
_PLACES = threading.BoundedSemaphore(6)


class TSPBackend(LabelStudioMLBase):
    """Pre-annotations of one project, by the version that is active for it.

    Args:
        project_id: the project key "<id>.<seconds>", or the bare id (2.x). None (1.0.9): the tasks tell.
        label_config: the project's labeling configuration.
        train_output: what 1.0.9 kept of the last fit; not used.
        service: settings; None: those of the environment.
        jobs: where jobs are asked for; None: the job database of `service`, opened when it is needed.
    """

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        train_output: Any = None,
        service: ServiceSettings | None = None,
        jobs: Jobs | None = None,
        **options: Any,
    ) -> None:
        self._service = service or settings.load()
        self._shared_jobs = jobs
        self._project = str(project_id) if project_id else ""
        self._config = label_config
        torch.set_num_threads(self._service.torch_threads)
        if _SECOND_GENERATION:
            super().__init__(project_id=self._project, label_config=label_config)
        else:
            super().__init__(label_config=label_config, train_output=train_output, **options)

    def setup(self) -> None:
        """2.x calls this when it constructs: its own /setup then answers with the active version."""
        key = self._key([])
        version = (Versions(self._service.model_dir, key).active() if key else None) or UNTRAINED
        if self.get("model_version") != version:
            self.set("model_version", version)

    def set_extra_params(self, extra_params: Any) -> None:
        """2.x hands over the connection's extra_params here; its own way to keep them takes text only."""
        for_project(self._service, extra_params)
        if key := self._key([]):
            remember_extra_params(self._service.model_dir, key, extra_params)

    def predict(self, tasks: Sequence[Mapping[str, Any]], context: Any = None, **kwargs: Any) -> list[Any]:
        """One entry per task, in order: {"result": regions, "score": what orders tasks (backend.ordering),
        "model_version"}, or [] for what cannot be answered (no model yet, a broken image, no time left), with the
        reason in the log. Never raises for a task.
        """
        answers: list[Any] = [[] for _ in tasks]
        if not tasks:
            return answers
        if not _PLACES.acquire(blocking=False):
            logger.warning("too many predictions at once; %d tasks are left to the worker", len(tasks))
            if "." in self._project:
                self._ask_worker(self._project)
            return answers
        try:
            key = self._key(tasks)
            version = Versions(self._service.model_dir, key).active() if key else None
            if version is None:
                said = "project %s has no model yet; %d tasks are left unanswered"
                logger.info(said, project_number(key) if key else "?", len(tasks))
            else:
                self._answer(tasks, key, version, answers)
        except Exception as error:  # no memory left, say: what is answered by now stays
            reason, left = one_line(error), answers.count([])
            logger.error("%d tasks are left unanswered: %s", left, reason, exc_info=unexpected(error))
        finally:
            _PLACES.release()
        return answers

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Wake the durable job that the event asks for; nothing is trained here.

        Takes 2.x's fit(event, data) and 1.0.9's fit((), event=, data=, job_id=, workdir=).
        Returns: {"job_id": id}, or {"reason": why nothing was woken}.
        """
        event = kwargs.get("event") or next((one for one in args if isinstance(one, str)), "")
        data = kwargs.get("data") or next((one for one in args if isinstance(one, Mapping)), {})
        with self._jobs() as jobs:
            outcome = handle(event, data, jobs, self._service)
        return {"job_id": outcome.job_id} if outcome.job_id else {"reason": outcome.reason}

    @contextmanager
    def _jobs(self) -> Iterator[Jobs]:
        jobs = self._shared_jobs or Jobs(self._service.database_url, self._service.model_dir)
        try:
            yield jobs
        finally:
            if jobs is not self._shared_jobs:
                jobs.close()

    def _key(self, tasks: Sequence[Mapping[str, Any]]) -> str:
        """The project key, or "". A bare id is no key: a project made anew under it is another project."""
        if "." in self._project:
            return self._project
        project_id = self._project or (str(tasks[0].get("project") or "") if tasks else "")
        if not project_id:
            return ""
        return LabelStudioProject(self._client(), int(project_id)).key

    def _client(self) -> LabelStudio:
        return _connected(self._service.label_studio_url, self._service.label_studio_api_key)

    def _asked(self, tasks: Sequence[Mapping[str, Any]]) -> LabelConfig:
        """1.0.9 keeps one model for all projects, whose configuration may be another project's: ask Label
        Studio."""
        if self._project and self._config:
            return parse_label_config(self._config)
        return LabelStudioProject(self._client(), int(tasks[0]["project"])).config

    def _answer(self, tasks: Sequence[Mapping[str, Any]], key: str, name: str, answers: list[Any]) -> None:
        """Fill in what is known already; then, as long as there is time, what the network says; the worker scores the
        rest. What is filled in stays, whatever happens to the others."""
        deadline = time.monotonic() + self._service.predict_seconds
        config = self._asked(tasks)
        project = for_project(self._service, remembered_extra_params(self._service.model_dir, key))
        version = ActiveVersion(Versions(self._service.model_dir, key), name, project)
        missing = list(range(len(tasks)))
        if len(tasks) > BATCH_SIZE:  # fewer are quicker predicted than looked for in the file of a whole pool
            missing = self._answer_known(tasks, config, version, deadline, answers)
        with ahead(lambda index: self._image(tasks[index], config, version, deadline), missing, BATCH_SIZE) as images:
            for done in range(0, len(missing), BATCH_SIZE):
                if time.monotonic() > deadline:
                    self._leave_to_worker(key, len(missing) - done, len(tasks))
                    break
                batch = missing[done : done + BATCH_SIZE]
                for index, found in zip(batch, version.predict([next(images) for _ in batch]), strict=True):
                    if found is not None:
                        answers[index] = version.answer(tasks[index], found, config)

    def _answer_known(
        self,
        tasks: Sequence[Mapping[str, Any]],
        config: LabelConfig,
        version: ActiveVersion,
        deadline: float,
        answers: list[Any],
    ) -> list[int]:
        """Fill in what the worker predicted, as long as there is time; the places of the others."""
        missing, late = [], 0
        for index, task in enumerate(tasks):
            found = version.scored(task)
            if found is None:
                missing.append(index)
            elif time.monotonic() > deadline:
                late += 1
            else:
                answers[index] = version.answer(task, found, config)
        if late:
            logger.warning("no time left for %d of %d tasks that are predicted already", late, len(tasks))
        return missing

    def _leave_to_worker(self, key: str, left: int, asked: int) -> None:
        logger.warning(
            "no time left after %d tasks; the worker scores those of the other %d that need it", asked - left, left
        )
        self._ask_worker(key)

    def _ask_worker(self, key: str) -> None:
        try:
            with self._jobs() as jobs:
                jobs.request("score", key)
        except Exception as error:  # the job database's own kinds; the next look asks again
            number, reason = project_number(key), one_line(error)
            logger.error("the worker could not be asked to score project %d: %s", number, reason)

    def _image(
        self, task: Mapping[str, Any], config: LabelConfig, version: ActiveVersion, deadline: float
    ) -> Image | None:
        """A task's image, in what time is left; None if it cannot be read, and the reason in the log."""
        data = task.get("data")
        url = data.get(config.image_key) if isinstance(data, Mapping) else None
        limits = self._service.image_limits
        seconds = min(limits.seconds, max(1.0, deadline - time.monotonic()))
        try:
            if not isinstance(url, str) or not url:
                raise ImageError(f"its data has no image under {config.image_key!r}.")
            limits = replace(limits, seconds=seconds)
            path = fetch_image(url, self._client(), version.images, limits, version.project_id)
            known = version.remembered(path)
            return Image(path, known, None if known else read_image(path))
        except Exception as error:  # whatever an image may be, it costs its own task only
            reason = one_line(error)
            logger.warning("task %s is left unanswered: %s", task.get("id"), reason, exc_info=unexpected(error))
            return None


@functools.lru_cache(maxsize=1)
def _connected(url: str, api_key: str) -> LabelStudio:
    """One client for all requests: making one asks the server who we are."""
    return connect(url, api_key)
