"""How long this process has waited for Label Studio: what a stage of a job takes is partly the server's doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_seconds = 0.0


@contextmanager
def waiting() -> Iterator[None]:
    """Around a request: its time counts, from the first attempt until the answer has been read or was given up."""
    global _seconds
    began = time.monotonic()
    try:
        yield
    finally:
        with _lock:
            _seconds += time.monotonic() - began


def seconds() -> float:
    """All of it until now. Requests at the same time count each, so that it may grow faster than the clock."""
    return _seconds
