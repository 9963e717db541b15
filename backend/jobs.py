"""Durable jobs: asked for by web services, run by workers (backend.workflows), carried by DBOS on SQLite or, for
several, on PostgreSQL.

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

import threading
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend import progress
from backend.job_database import prepare_database
from backend.progress import one_line

if TYPE_CHECKING:
    from dbos import DBOSClient

QUEUE = "jobs"
# Fixed, so that a changed source file or another process id does not leave old jobs behind.
APPLICATION = {"name": "tsp-backend", "application_version": "1"}
FORGOTTEN_AT_ONCE = 1000

_STATUS = {"ENQUEUED": "QUEUED", "DELAYED": "QUEUED", "PENDING": "RUNNING", "SUCCESS": "SUCCESS"}
_LABEL_STUDIO_STATUS = {"QUEUED": "queued", "RUNNING": "started", "SUCCESS": "finished", "ERROR": "failed"}


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
