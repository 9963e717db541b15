"""How far a job is: one small JSON file per job, written by the worker and read by the web service.

    {job_id, status, phase, done, total, epoch, epochs, loss, eta_seconds, version, message, error,
     seconds: {phase: seconds}, label_studio_seconds: {phase: seconds}}

status is QUEUED, RUNNING, SUCCESS or ERROR; epoch, epochs and loss are those of the training. label_studio_seconds is
how long the server was waited for meanwhile (in score, while the network went on). Writes are atomic, so a reader never
sees half a file. The worker's log says the same in a line now and then.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend import waited
from tsp_model.errors import ExplainedError
from tsp_model.files import write_json

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"(train|activate|rank|check|score|connect)-[0-9]+\.[0-9]+-[0-9]{5,}")
_WRITE_EVERY = 0.5  # seconds; a training step may be much shorter
_LOG_EVERY = 10.0  # seconds
# What is not left half done: a version that answers, or the removal of one.
UNSTOPPABLE = ("switch", "prune", "discard")
ENDED = ("SUCCESS", "ERROR")
_OF_A_PHASE = ("done", "total", "epoch", "epochs", "loss", "eta_seconds")


class JobCancelled(ExplainedError, RuntimeError):
    """Somebody stopped the job."""


def job_file(model_dir: Path, job_id: str) -> Path | None:
    """Where the progress of `job_id` is kept; None for a text that is no job id (it would become a path)."""
    return Path(model_dir) / "jobs" / f"{job_id}.json" if _JOB_ID.fullmatch(job_id) else None


def read(model_dir: Path, job_id: str) -> dict[str, Any] | None:
    """The progress of a job that has started, or None."""
    path = job_file(model_dir, job_id)
    if path is None or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def cancel(model_dir: Path, job_id: str) -> None:
    """Let a job end at its next report, with JobCancelled; also one that waits, or goes on after a crash."""
    path = job_file(model_dir, job_id)
    if path is None:
        raise ValueError(f"{job_id!r} is no job id.")
    path.parent.mkdir(parents=True, exist_ok=True)
    _mark(path).touch()


def cancelled(model_dir: Path, job_id: str) -> bool:
    """Whether somebody stopped the job."""
    path = job_file(model_dir, job_id)
    return path is not None and _mark(path).exists()


def forget(model_dir: Path, job_id: str) -> None:
    """Remove what is kept of a job that ended."""
    path = job_file(model_dir, job_id)
    if path is not None:
        path.unlink(missing_ok=True)
        _mark(path).unlink(missing_ok=True)


def _mark(path: Path) -> Path:
    return path.with_suffix(".cancelled")


def one_line(error: BaseException) -> str:
    """An error as one line for people; the class is named where the text alone would not say what went
    wrong."""
    error = getattr(error, "orig", None) or error  # SQLAlchemy writes the whole statement around the database's reason
    text = " ".join(str(error).split())
    if isinstance(error, (ValueError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def unexpected(error: BaseException) -> bool:
    """Whether the log should show where an error came from. What people can mend, and what disk and network say, tells
    enough by itself."""
    return not isinstance(error, (ExplainedError, OSError))


def in_words(state: dict[str, Any]) -> str:
    """How far a phase is: "train, 40 of 400, epoch 3 of 30, loss 0.832, 95 s left"."""
    parts = [state["phase"]] if state["phase"] else []
    if state.get("total"):
        parts.append(f"{state['done']} of {state['total']}")
    if state.get("epochs"):
        parts.append(f"epoch {state['epoch']} of {state['epochs']}")
    if state.get("loss") is not None:
        parts.append(f"loss {state['loss']:.3f}")
    if state.get("eta_seconds") is not None:
        parts.append(f"{state['eta_seconds']:.0f} s left")
    return ", ".join(parts)


def stages(state: dict[str, Any]) -> str:
    """What the phases of a job took: "pull 12.1 s (Label Studio 8.0 s), score 77.5 s (Label Studio 21.3 s)"."""
    asked = state.get("label_studio_seconds", {})
    parts = [
        f"{name} {took:.1f} s" + (f" (Label Studio {asked[name]:.1f} s)" if asked.get(name, 0) >= 0.05 else "")
        for name, took in state.get("seconds", {}).items()
        if took >= 0.05
    ]
    return ", ".join(parts)


class Progress:
    """The progress file of one job, in the worker. A job that goes on after a crash keeps the seconds it
    had."""

    def __init__(self, model_dir: Path, job_id: str) -> None:
        path = job_file(model_dir, job_id)
        if path is None:
            raise ValueError(f"{job_id!r} is no job id.")
        self._path = path
        self._written = self._logged = 0.0
        new = {"job_id": job_id, "phase": None, "seconds": {}, "label_studio_seconds": {}}
        self._state: dict[str, Any] = read(model_dir, job_id) or new
        self._within = (0.0, 0.0)  # seconds of phases that ended within the one that runs, and Label Studio's

    def start(self) -> None:
        """The job runs."""
        self._state |= {"status": "RUNNING", "error": None}
        self._write()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name the phase and count its seconds; one within another counts for itself only. Raises JobCancelled, but not
        before what ends a job."""
        if name not in ("prune", "discard"):
            self.check()
        began, before = _now(), self._within
        self._within = (0.0, 0.0)
        self._state |= dict.fromkeys(_OF_A_PHASE) | {"phase": name, "done": 0}
        self._write()
        self._log()
        try:
            yield
        finally:
            took = tuple(now - then for now, then in zip(_now(), began, strict=True))
            for key, all_of_it, within in zip(("seconds", "label_studio_seconds"), took, self._within, strict=True):
                counted = self._state.setdefault(key, {})
                counted[name] = round(counted.get(name, 0.0) + all_of_it - within, 3)
            self._within = (before[0] + took[0], before[1] + took[1])
            self._write()

    def check(self) -> None:
        """Raise JobCancelled if somebody stopped the job and it can be stopped where it is."""
        if self._state["phase"] not in UNSTOPPABLE and _mark(self._path).exists():
            raise JobCancelled("it was cancelled.")

    def update(self, values: dict[str, Any]) -> None:
        """What the model's own code reports: done, total, and where it knows them epoch, epochs, loss, eta_seconds.
        Raises JobCancelled."""
        self._state |= {name: values[name] for name in _OF_A_PHASE if name in values}
        if time.monotonic() - self._written >= _WRITE_EVERY:
            self.check()
            self._write()
        if time.monotonic() - self._logged >= _LOG_EVERY:
            self._log()

    def note(self, **values: Any) -> None:
        """Record facts such as version or counts."""
        self._state |= values
        self._write()

    def finish(self, message: str | None = None) -> None:
        """The job ended well."""
        self._state |= {"status": "SUCCESS", "phase": None, "eta_seconds": 0.0, "message": message}
        self._write()

    def fail(self, error: str) -> None:
        """The job ended with `error`, one line."""
        self._state |= {"status": "ERROR", "eta_seconds": None, "error": error}
        self._write()

    def took(self) -> str:
        """What its phases took until now, in words."""
        return stages(self._state)

    def _log(self) -> None:
        self._logged = time.monotonic()
        logger.info("%s: %s", self._state["job_id"], in_words(self._state))

    def _write(self) -> None:
        self._written = time.monotonic()
        write_json(self._path, self._state)


def _now() -> tuple[float, float]:
    """Seconds of the clock, and seconds that Label Studio was waited for."""
    return time.monotonic(), waited.seconds()
