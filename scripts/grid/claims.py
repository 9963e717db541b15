"""Who works on a folder that several processes share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "lock"


@contextmanager
def claimed(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether nobody else has this folder, for the length of a `with` block; `wait`: until nobody has."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        try:
            # Gone with the process, however that ends.
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
