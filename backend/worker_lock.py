"""The file by which a worker is known to run: it holds a lock on it as long as it lives, however it ends."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

ATTEMPTS, PAUSE = 5, 0.2  # /health looks at the lock by taking it for a moment


def hold(model_dir: Path) -> IO[str] | None:
    """Take the lock until what is returned is closed; None: a worker of this MODEL_DIR holds it."""
    lock = _file(model_dir).open("w")
    for attempt in range(ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE)
    lock.close()
    return None


def held(model_dir: Path) -> bool:
    """Whether a worker runs on this MODEL_DIR."""
    try:
        with _file(model_dir).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _file(model_dir: Path) -> Path:
    return model_dir / "worker.lock"
