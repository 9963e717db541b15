"""Durable jobs: asked for by web services, run by workers, carried by DBOS on SQLite or, for several, on PostgreSQL.

Kinds of job, each for one project and one at a time per project:

    train   pull -> train -> compare -> score -> push -> switch -> prune, each a step that a crash does not repeat; a
            version that is worse than the active one ends at compare and is kept
    activate  let another version answer: it catches up with the tasks that came later, then switch
    rank    derive -> score -> push -> switch: the active version's weights, its order by another strategy
    check   has Label Studio enough new annotations for a training? asks for `train` if so
    score   score the tasks that came after the active version
    connect let Label Studio's webhooks send the service's user and password

Ids are "<kind>-<project key>-<number>". The number is the last job's plus one, unless that job still waits:
two requests at the same moment name the same job, and the database keeps one row per id. A job reads what
there is to do when it starts, so a request during a training needs exactly one more job, and a lost one costs
nothing but time. (DBOS's own deduplication is documented as unsupported on partitioned queues.)
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tenacity import Retrying, retry_if_exception, wait_exponential

from backend import progress
from backend.job_database import prepare_database
from backend.progress import Progress, one_line
from backend.versions import project_number
from tsp_model import memory

if TYPE_CHECKING:
    from dbos import DBOSClient
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

QUEUE = "jobs"
# Fixed, so that a changed source file or another process id does not leave old jobs behind.
APPLICATION = {"name": "tsp-backend", "application_version": "1"}
# A job that takes its worker down each time (out of memory, say) is given up after so many starts.
MAX_STARTS = 5
FORGOTTEN_AT_ONCE = 1000
# How long a step waits for a Label Studio that is away or a disk that is full: what is trained is worth a day, what is
# read is there tomorrow. A server that answers with an error of its own may do so to this project alone, and for ever.
MINUTE, DAY, LONGEST_WAIT = 60.0, 24 * 3600.0, 60.0
_running: set[str] = set()  # jobs that have a thread in this process

_STATUS = {"ENQUEUED": "QUEUED", "DELAYED": "QUEUED", "PENDING": "RUNNING", "SUCCESS": "SUCCESS"}
_LABEL_STUDIO_STATUS = {"QUEUED": "queued", "RUNNING": "started", "SUCCESS": "finished", "ERROR": "failed"}


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


class Jobs:
    """The web service's side: ask for a job, and how far it is. Runs no job; safe to share between threads.

    Args:
        database_url: the job database; made if it is not there yet.
        model_dir: MODEL_DIR, where the worker writes its progress.
    """

    def __init__(self, database_url: str, model_dir: Path) -> None:
        self._url = database_url
        self._model_dir = Path(model_dir)
        self._client: DBOSClient | None = None
        self._lock = threading.Lock()

    def request(self, kind: str, key: str) -> str:
        """The id of a job of `kind` for project `key` that starts after this call: one that waits, or new."""
        prefix = f"{kind}-{key}-"
        client = self._connected()
        with self._lock:
            last = _newest(client, prefix)
            number = int(last.workflow_id.removeprefix(prefix)) if last else 0
            if last and self._waits(last):
                return last.workflow_id
            options: Any = {
                "workflow_name": kind,
                "workflow_id": f"{prefix}{number + 1:05d}",
                "queue_name": QUEUE,
                "queue_partition_key": key,
                "app_version": APPLICATION["application_version"],
                "application_name": APPLICATION["name"],
            }
            return client.enqueue(options, key).get_workflow_id()

    def last(self, kind: str, project: str) -> str | None:
        """The id of the newest job of `kind` for a project, whatever became of it; None if there never was one.

        project: its key or, as people know it, its bare id.
        """
        newest = _newest(self._connected(), _prefix(kind, project))
        return newest.workflow_id if newest else None

    def running(self) -> dict[str, str]:
        """The id of the worker that runs it, by the id of each job that counts as running."""
        rows = self._connected().list_workflows(status="PENDING", load_input=False, load_output=False)
        return {row.workflow_id: row.executor_id for row in rows}

    def status(self, job_id: str) -> dict[str, Any] | None:
        """How far a job is (backend.progress), with Label Studio's own `job_status`; None if unknown."""
        if progress.job_file(self._model_dir, job_id) is None:
            return None
        state = progress.read(self._model_dir, job_id)
        if state is None or state["status"] not in progress.ENDED:
            rows = self._connected().list_workflows(workflow_ids=[job_id], load_input=False)
            if not rows:
                return None
            state = (state or {"job_id": job_id}) | self._told_by_database(rows[0], state)
            if state["status"] == "QUEUED" and (running := self._before(job_id)):
                state["waits"] = f"the job before it: {running}"
        return state | {"job_status": _LABEL_STUDIO_STATUS[state["status"]]}

    def _before(self, job_id: str) -> str:
        """The job that runs, one of the same project if there is, and how far it is; "" if none does."""
        jobs = [job for job in self.running() if job != job_id]  # which may have begun a moment ago
        if not jobs:
            return ""
        project = job_id.split("-")[1]
        first = min(jobs, key=lambda job: job.split("-")[1] != project)
        state = progress.read(self._model_dir, first)
        return f"{first}: {progress.in_words(state)}" if state else first

    def cancel(self, project: str) -> list[str]:
        """Stop the trainings and rankings of a project that have not ended, at their next report; their ids.

        One that switches to its version already is not among them.

        project: its key, or its bare id.
        """
        find = partial(self._connected().list_workflows, status=["ENQUEUED", "PENDING"])
        found = [
            row.workflow_id
            for kind in ("train", "rank")
            for row in find(workflow_id_prefix=_prefix(kind, project), load_input=False, load_output=False)
        ]
        states = {job: progress.read(self._model_dir, job) or {} for job in found}
        # The database hears of a job's end a moment after its file does.
        ended = {job for job, state in states.items() if state.get("status") in progress.ENDED}
        stopped = [job for job in found if job not in ended and states[job].get("phase") not in progress.UNSTOPPABLE]
        for job in stopped:
            progress.cancel(self._model_dir, job)
        return stopped

    def forget(self, days: float) -> int:
        """Delete what is known of jobs that ended so many days ago, FORGOTTEN_AT_ONCE at most; of how many.

        The newest of a kind and project stays, since the next one's number follows from it.
        """
        client = self._connected()
        before = datetime.now(timezone.utc) - timedelta(days=days)
        rows = client.list_workflows(
            completed_before=before.isoformat(), limit=FORGOTTEN_AT_ONCE, load_input=False, load_output=False
        )
        ended = {row.workflow_id for row in rows}
        ended -= {self.last(kind, key) for kind, key in {tuple(job.split("-")[:2]) for job in ended}}
        for job in ended:  # the file first: a new job of this number would take it for its own
            progress.forget(self._model_dir, job)
        client.delete_workflows(list(ended))
        return len(ended)

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None

    def connect(self) -> None:
        """Open the database now rather than at the first request."""
        self._connected()

    def _connected(self) -> DBOSClient:
        from dbos import DBOSClient, DBOSPortableJSONSerializer

        with self._lock:
            if self._client is None:
                prepare_database(self._url)  # the worker may not have started yet
                self._client = DBOSClient(
                    system_database_url=self._url,
                    application_name=APPLICATION["name"],
                    serializer=DBOSPortableJSONSerializer(),
                )
            return self._client

    def _waits(self, row: Any) -> bool:
        """A job that goes on after a crash is queued again but has read its annotations: it does not wait. Nor does one
        that will only see that it was cancelled."""
        if row.status != "ENQUEUED" or progress.cancelled(self._model_dir, row.workflow_id):
            return False
        return progress.read(self._model_dir, row.workflow_id) is None

    @staticmethod
    def _told_by_database(row: Any, state: dict[str, Any] | None) -> dict[str, Any]:
        status = _STATUS.get(row.status, "ERROR")
        if status == "QUEUED" and state is not None:
            status = "RUNNING"  # queued again after a crash
        told: dict[str, Any] = {"status": status}
        if status == "ERROR":
            told["error"] = one_line(row.error) if row.error else f"The worker gave the job up ({row.status})."
        return told


def _prefix(kind: str, project: str) -> str:
    """Of the ids of a project's jobs. project: its key, or its bare id."""
    return f"{kind}-{project}-" if "." in project else f"{kind}-{project}."


def _newest(client: DBOSClient, prefix: str) -> Any:
    """The row of the job with the highest number, or None. By the clock it need not be the last."""
    find = partial(client.list_workflows, load_input=False, load_output=False)
    found, newest = find(workflow_id_prefix=prefix, sort_desc=True, limit=1), None
    while found:
        (newest,) = found
        name, _, number = newest.workflow_id.rpartition("-")
        found = find(workflow_ids=[f"{name}-{int(number) + 1:05d}"])
    return newest


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
    _register(DBOS, steps, Path(model_dir), Jobs(database_url, model_dir))
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        partition_concurrency=1,
        worker_concurrency=1,
        polling_interval_sec=0.5,
        on_conflict="always_update",
    )


def _step(dbos: Any, steps: Steps, model_dir: Path, name: str, patience: float) -> Any:
    """`steps.<name>` as a durable step and a phase; for `patience` seconds it waits for a Label Studio that is away."""

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
                return retrying(getattr(steps, name), *args, job)
            finally:
                job.note(waits=None)

    return dbos.step(name=name)(run)


def _register(dbos: Any, steps: Steps, model_dir: Path, jobs: Jobs) -> None:
    """The workflows and their steps, under the names that the database knows them by."""

    def step(name: str, patience: float) -> Any:
        return _step(dbos, steps, model_dir, name, patience)

    pull, wanted, derive, due, score_new, connect = (
        step(name, MINUTE) for name in ("pull", "wanted", "derive", "due", "score_new", "connect")
    )
    train, compare, score, push, switch, prune, discard, catch_up = (
        step(name, DAY) for name in ("train", "compare", "score", "push", "switch", "prune", "discard", "catch_up")
    )
    ask = dbos.step(name="ask")(lambda kind, key: jobs.request(kind, key))

    def tidy(key: str, job: _ending) -> None:
        try:
            prune(job.job_id, key)
        except Exception as error:  # the version answers already: what is too old goes the next time
            logger.warning("old versions of project %d stay for now: %s", project_number(key), one_line(error))

    @contextmanager
    def discarding(key: str, version: str, job: _ending) -> Iterator[None]:
        """A version in the making, of which nothing stays if the job is cancelled."""
        try:
            yield
        except Exception:
            if progress.cancelled(model_dir, job.job_id):
                discard(job.job_id, key, version)
            raise

    def train_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            version = pull(job.job_id, key)["version"]
            with discarding(key, version, job):
                train(job.job_id, key, version)
                compared = compare(job.job_id, key, version)
                if not compared["worse"]:
                    for one in (score, push, switch):
                        one(job.job_id, key, version)
            message = compared["message"] if compared["worse"] else f"{version} is active."
            job.result = {"version": version, "activated": not compared["worse"], "message": message}
            tidy(key, job)
        return job.result

    def activate_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            version = wanted(job.job_id, key)["version"]
            for one in (catch_up, switch):
                one(job.job_id, key, version)
            job.result = {"version": version, "message": f"{version} is active."}
        return job.result

    def rank_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            derived = derive(job.job_id, key)
            with discarding(key, derived["version"], job) if derived["new"] else nullcontext():
                for one in (score, push, switch) if derived["new"] else (catch_up, switch):
                    one(job.job_id, key, derived["version"])
            message = f"the tasks are ranked by {derived['strategy']}, as {derived['version']} sees them."
            job.result = {"version": derived["version"], "message": message}
            tidy(key, job)
        return job.result

    def check_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            job.result = due(job.job_id, key)
            if job.result["due"]:
                job.result |= {"train_job_id": ask("train", key)}
        return job.result

    def score_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            job.result = score_new(job.job_id, key)
        return job.result

    def connect_workflow(key: str) -> dict[str, Any]:
        with _ending(model_dir, dbos.workflow_id) as job:
            job.result = connect(job.job_id, key)
            if job.result["found"]:
                for kind in ("check", "score"):  # events until now were refused
                    ask(kind, key)
        return job.result

    workflows = {
        "train": train_workflow,
        "activate": activate_workflow,
        "rank": rank_workflow,
        "check": check_workflow,
        "score": score_workflow,
        "connect": connect_workflow,
    }
    for kind, workflow in workflows.items():
        dbos.workflow(name=kind, max_recovery_attempts=MAX_STARTS)(workflow)


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
    from backend.connection import ProjectError

    return _away(error) or (isinstance(error, ProjectError) and error.may_pass)


def _away(error: BaseException) -> bool:
    """Whether it is Label Studio as a whole that is away, or room on the disk."""
    from backend.connection import ProjectError

    if isinstance(error, ProjectError):
        return error.away
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
