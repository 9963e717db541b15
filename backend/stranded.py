"""Jobs that the database takes for running and nobody runs.

A disk that is full or cannot be written ends a job's thread, and then not even its end can be noted: the job would stay
as it is, and all later ones of its project behind it. A worker that starts takes up what it finds running, so once
there is room again this one starts anew.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from backend.jobs import Jobs

logger = logging.getLogger(__name__)

ROOM = 10_000_000  # bytes that can be written again


class Stranded:
    """Looks for them now and then, in the worker's main thread.

    Args:
        jobs: the job database. model_dir: MODEL_DIR, which must be writable again first.
    """

    def __init__(self, jobs: Jobs, model_dir: Path) -> None:
        self._jobs, self._model_dir = jobs, model_dir
        self._before: set[str] = set()

    def look(self) -> None:
        """Start this process anew if a job has been stranded since the last look; does not return then."""
        now = self._jobs.stranded()
        both = sorted(now & self._before)  # one that was taken up a moment ago has no thread yet
        self._before = now
        if both and self._writable():
            logger.error("nobody runs %s any more, though there is room to: the worker starts anew", ", ".join(both))
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
