"""Jobs that the database takes for running and nobody runs.

A disk that is full or cannot be written ends a job's thread, and then not even its end can be noted: the job would stay
as it is, and all later ones of its project behind it. A worker that starts takes up what it finds running, so once
there is room again this one starts anew. What a worker left that is gone, another takes over.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from backend.jobs import Jobs
from backend.presence import BEAT_SECONDS, Alone, Shared
from backend.ranks import end_ranks
from backend.workflows import running_here, take_over

logger = logging.getLogger(__name__)

ROOM = 10_000_000  # bytes that can be written again
GONE_SECONDS = 5 * BEAT_SECONDS


class Stranded:
    """Looks for them now and then, in the worker's main thread.

    Args:
        jobs: the job database. model_dir: MODEL_DIR, which must be writable again first. presence: this worker's.
    """

    def __init__(self, jobs: Jobs, model_dir: Path, presence: Alone | Shared) -> None:
        self._jobs, self._model_dir, self._presence = jobs, model_dir, presence
        self._before: set[str] = set()  # jobs without a thread
        self._gone_since: dict[str, float] = {}  # when each worker that is gone was first missed

    def look(self) -> None:
        """Take over what workers left that are gone for a while, and start this process anew if a job of its own is
        stranded since the last look or was taken over; does not return then."""
        mine, here, owner_of = self._presence.executor_id, running_here(), self._jobs.running()
        stranded = {job for job, owner in owner_of.items() if owner == mine} - here
        gone = self._presence.gone(set(owner_of.values()) - {mine})
        # At once they would mislead: a job that was taken up just now has no thread yet, and where PostgreSQL starts
        # anew all workers connect again.
        stranded_still, self._before = sorted(stranded & self._before), stranded
        now = time.monotonic()
        self._gone_since = {one: self._gone_since.get(one, now) for one in gone}
        if gone_still := sorted(one for one, since in self._gone_since.items() if now - since >= GONE_SECONDS):
            logger.warning("%s gone: their jobs go on here or elsewhere", ", ".join(gone_still))
            take_over(set(gone_still))
        if taken := sorted(job for job in here if owner_of.get(job, mine) != mine):
            self._start_anew(f"this worker was taken for gone, and another one runs {', '.join(taken)}")
        if stranded_still and self._writable():
            self._start_anew(f"nobody runs {', '.join(stranded_still)} any more, though there is room to")

    @staticmethod
    def _start_anew(reason: str) -> None:
        logger.error("%s: the worker starts anew", reason)
        end_ranks()
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, sys.orig_argv)

    def _writable(self) -> bool:
        try:
            with tempfile.TemporaryFile(dir=self._model_dir) as file:
                file.write(bytes(ROOM))
        except OSError:
            return False
        return True
