"""What a job does: workflows of durable steps, run by DBOS in a worker. backend.jobs is where they are asked for."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tenacity import Retrying, retry_if_exception, wait_exponential

from backend import progress
from backend.connection import ProjectError
from backend.job_database import prepare_database
from backend.jobs import APPLICATION, QUEUE, Jobs
from backend.progress import Progress, one_line
from backend.versions import project_number
from tsp_model import memory

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

# A job that takes its worker down each time (out of memory, say) is given up after so many starts.
MAX_STARTS = 5
# How long a step waits for a Label Studio that is away or a disk that is full: what is trained is worth a day, what is
# read is there tomorrow. A server that answers with an error of its own may do so to this project alone, and for ever.
MINUTE, DAY, LONGEST_WAIT = 60.0, 24 * 3600.0, 60.0
PATIENCE = {
    **dict.fromkeys(("pull", "wanted", "derive", "due", "score_new", "connect"), MINUTE),
    **dict.fromkeys(("train", "compare", "score", "push", "switch", "prune", "discard", "catch_up"), DAY),
}
_running: set[str] = set()  # jobs that have a thread in this process


class Steps(Protocol):
    """What the worker does (backend.steps does it). Results are small JSON; large things go to disk."""

    def pull(self, key: str, job: Progress) -> dict[str, Any]: ...
    def train(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def compare(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def score(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def push(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def switch(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def prune(self, key: str, job: Progress) -> dict[str, Any]: ...
    def discard(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def wanted(self, key: str, job: Progress) -> dict[str, Any]: ...
    def derive(self, key: str, job: Progress) -> dict[str, Any]: ...
    def catch_up(self, key: str, version: str, job: Progress) -> dict[str, Any]: ...
    def due(self, key: str, job: Progress) -> dict[str, Any]: ...
    def score_new(self, key: str, job: Progress) -> dict[str, Any]: ...
    def connect(self, key: str, job: Progress) -> dict[str, Any]: ...


def running_here() -> set[str]:
    """The jobs that have a thread in this process."""
    return set(_running)


def take_over(executor_ids: set[str]) -> None:
    """Let the jobs of workers that are gone go on where they were, in this process or in another worker's."""
    from dbos import DBOS

    # What DBOS does at its start for the id it starts with; its public way, resume_workflow, would forget how often a
    # job took its worker down.
    DBOS._recover_pending_workflows(sorted(executor_ids))


def start_worker(database_url: str, model_dir: Path, steps: Steps, executor_id: str) -> None:
    """Run jobs in threads of this process until it ends; those that a worker of this id left go on where they were.

    One job at a time in a worker, whatever the project: two trainings would only take each other's memory.
    """
    from dbos import DBOS, DBOSPortableJSONSerializer

    prepare_database(database_url)
    DBOS(
        config={
            **APPLICATION,
            "executor_id": executor_id,
            "system_database_url": database_url,
            "console_log_level": "WARNING",
            "log_level": "WARNING",
            "enable_otlp": False,
            "serializer": DBOSPortableJSONSerializer(),  # its default is pickle, which runs what it reads
        }  # type: ignore[typeddict-item]
    )
    logging.getLogger("dbos").addFilter(_without_stack_trace)
    _Workflows(DBOS, steps, Path(model_dir), Jobs(database_url, model_dir)).register()
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        partition_concurrency=1,
        worker_concurrency=1,
        polling_interval_sec=0.5,
        on_conflict="always_update",
    )


class _Workflows:
    """A method for each kind of job, under its name; what it returns is what the job's state tells in the end."""

    def __init__(self, dbos: Any, steps: Steps, model_dir: Path, jobs: Jobs) -> None:
        self._dbos, self._model_dir = dbos, model_dir
        self._steps = {
            name: dbos.step(name=name)(_patient(getattr(steps, name), model_dir, name, patience))
            for name, patience in PATIENCE.items()
        }
        self._ask = dbos.step(name="ask")(lambda kind, key: jobs.request(kind, key))

    def register(self) -> None:
        """Under the names that the database knows them by."""
        for kind in (self.train, self.activate, self.rank, self.check, self.score, self.connect):
            self._dbos.workflow(name=kind.__name__, max_recovery_attempts=MAX_STARTS)(self._as_job(kind))

    def _as_job(self, kind: Callable[[str, str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
        def workflow(key: str) -> dict[str, Any]:
            with _ending(self._model_dir, self._dbos.workflow_id) as job:
                job.result = kind(key, job.job_id)
            return job.result

        return workflow

    def train(self, key: str, job_id: str) -> dict[str, Any]:
        version = self._do("pull", job_id, key)["version"]
        with self._discarding(key, version, job_id):
            self._do("train", job_id, key, version)
            compared = self._do("compare", job_id, key, version)
            if not compared["worse"]:
                for step in ("score", "push", "switch"):
                    self._do(step, job_id, key, version)
        message = compared["message"] if compared["worse"] else f"{version} is active."
        self._tidy(key, job_id)
        return {"version": version, "activated": not compared["worse"], "message": message}

    def activate(self, key: str, job_id: str) -> dict[str, Any]:
        version = self._do("wanted", job_id, key)["version"]
        for step in ("catch_up", "switch"):
            self._do(step, job_id, key, version)
        return {"version": version, "message": f"{version} is active."}

    def rank(self, key: str, job_id: str) -> dict[str, Any]:
        derived = self._do("derive", job_id, key)
        version, new = derived["version"], derived["new"]
        with self._discarding(key, version, job_id) if new else nullcontext():
            for step in ("score", "push", "switch") if new else ("catch_up", "switch"):
                self._do(step, job_id, key, version)
        self._tidy(key, job_id)
        return {
            "version": version,
            "message": f"the tasks are ranked by {derived['strategy']}, as {version} sees them.",
        }

    def check(self, key: str, job_id: str) -> dict[str, Any]:
        found = self._do("due", job_id, key)
        return found | {"train_job_id": self._ask("train", key)} if found["due"] else found

    def score(self, key: str, job_id: str) -> dict[str, Any]:
        return self._do("score_new", job_id, key)

    def connect(self, key: str, job_id: str) -> dict[str, Any]:
        found = self._do("connect", job_id, key)
        if found["found"]:
            for kind in ("check", "score"):  # events until now were refused
                self._ask(kind, key)
        return found

    def _do(self, step: str, job_id: str, *args: str) -> dict[str, Any]:
        return self._steps[step](job_id, *args)

    def _tidy(self, key: str, job_id: str) -> None:
        try:
            self._do("prune", job_id, key)
        except Exception as error:  # the version answers already: what is too old goes the next time
            logger.warning("old versions of project %d stay for now: %s", project_number(key), one_line(error))

    @contextmanager
    def _discarding(self, key: str, version: str, job_id: str) -> Iterator[None]:
        """A version in the making, of which nothing stays if the job is cancelled."""
        try:
            yield
        except Exception:
            if progress.cancelled(self._model_dir, job_id):
                self._do("discard", job_id, key, version)
            raise


def _patient(
    step: Callable[..., dict[str, Any]], model_dir: Path, name: str, patience: float
) -> Callable[..., dict[str, Any]]:
    """A step as a phase of its job; for `patience` seconds it waits for a Label Studio that is away."""

    def run(job_id: str, *args: str) -> dict[str, Any]:
        job = Progress(model_dir, job_id)

        def say(state: RetryCallState) -> None:
            line = one_line(state.outcome.exception())
            with suppress(OSError):  # which may be what it waits for
                job.note(waits=line)
            logger.warning("job %s waits %.0f s: %s", job_id, state.upcoming_sleep, line)

        def stop(state: RetryCallState) -> bool:
            return state.seconds_since_start > (patience if _away(state.outcome.exception()) else MINUTE)

        def sleep(seconds: float) -> None:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                job.check()
                time.sleep(min(1.0, left))

        retrying = Retrying(
            sleep=sleep,
            stop=stop,
            wait=wait_exponential(1, max=LONGEST_WAIT),
            retry=retry_if_exception(_may_pass),
            before_sleep=say,
            reraise=True,
        )
        with job.phase(name):
            try:
                return retrying(step, *args, job)
            finally:
                job.note(waits=None)

    return run


class _ending:
    """A workflow: RUNNING before, SUCCESS or ERROR with one line after. `result` is what came of it."""

    def __init__(self, model_dir: Path, job_id: str) -> None:
        self._model_dir, self.job_id = model_dir, job_id
        self.result: dict[str, Any] = {}

    def __enter__(self) -> _ending:
        _running.add(self.job_id)
        try:
            Progress(self._model_dir, self.job_id).start()
        except BaseException:
            _running.discard(self.job_id)
            raise
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        memory.release()  # the next job may be hours away
        try:
            if error is None:
                self._succeed()
            elif isinstance(error, Exception):
                self._fail(error)
        finally:
            _running.discard(self.job_id)

    def _succeed(self) -> None:
        job = Progress(self._model_dir, self.job_id)
        job.note(**{name: value for name, value in self.result.items() if name != "message"})
        job.finish(self.result.get("message"))
        logger.info("job %s: %s (%s)", self.job_id, self.result.get("message") or json.dumps(self.result), job.took())

    def _fail(self, error: Exception) -> None:
        line = one_line(error)
        logger.error("job %s failed: %s", self.job_id, line)
        logger.debug("job %s", self.job_id, exc_info=error)
        try:
            job = Progress(self._model_dir, self.job_id)
            job.note(again=_away(error), cancelled=progress.cancelled(self._model_dir, self.job_id))
            job.fail(line)
        except OSError as full:
            logger.error("the end of job %s cannot be noted: %s", self.job_id, one_line(full))
        # The database keeps it, and could not read a class of ours back.
        raise RuntimeError(line) from None


def _without_stack_trace(record: logging.LogRecord) -> bool:
    """Errors as one line; those of a workflow `_ending` has already said."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()} {one_line(record.exc_info[1])}", ()
        record.exc_info = record.exc_text = None
    return "in background workflow" not in record.getMessage()


def _may_pass(error: BaseException) -> bool:
    """Whether the step may be tried again; a refused token or an unknown project will be no other in a minute."""
    return _away(error) or (isinstance(error, ProjectError) and error.may_pass)


def _away(error: BaseException) -> bool:
    """Whether it is Label Studio as a whole that is away, or room on the disk."""
    if isinstance(error, ProjectError):
        return error.away
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
