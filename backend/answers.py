"""What a version has said of images already, so that no network says it twice: a version never changes its mind."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

from tsp_model.predictions import Prediction, read_line

MOST_BYTES = 64 * 2**20
OVERHEAD = 500  # bytes of a detection in Python, its mask's code apart
_KEY = re.compile(rb'\{"key":"([0-9]+)"')  # how each line of a predictions file begins


class AnswerCache:
    """The last predictions of this process by version and image file; safe to share between threads.

    Args:
        most_bytes: what they may take together, by estimate; the longest unused go first.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._known: OrderedDict[tuple[Path, str], Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: Path, image: Path, above: float) -> Prediction | None:
        """The prediction of the version in `folder` for an image of the cache, with what lies above a class score."""
        with self._lock:
            found = self._known.get((folder, image.name))
            if found is None or found.kept_above > above:
                return None
            self._known.move_to_end((folder, image.name))
            return found

    def put(self, folder: Path, image: Path, prediction: Prediction) -> None:
        """Keep it for the next one who asks."""
        place = folder, image.name
        with self._lock:
            before = self._known.pop(place, None)
            self._bytes += _bytes(prediction) - (_bytes(before) if before else 0)
            self._known[place] = prediction
            while self._bytes > self._most:
                self._bytes -= _bytes(self._known.popitem(last=False)[1])


class ScoredPool:
    """The predictions that the worker wrote for the tasks of a version, while it may still be writing.

    Only what is new in the file is read, and of that only where each line begins.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        self._end = 0
        self._lock = threading.Lock()

    def get(self, task: str, above: float) -> Prediction | None:
        """The prediction of a task, with what lies above a class score; None if there is none yet."""
        with self._lock:
            self._read_on()
            offset = self._offsets.get(task)
        if offset is None:
            return None
        with open(self._path, "rb") as file:
            file.seek(offset)
            found = read_line(file.readline())
        # The file may have been written anew in between: then another image is there, or none.
        return found if found and found.key == task and found.kept_above <= above else None

    def _read_on(self) -> None:
        size = self._path.stat().st_size if self._path.is_file() else 0
        if size < self._end:
            self._offsets, self._end = {}, 0
        if size == self._end:
            return
        with open(self._path, "rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                if match := _KEY.match(line):
                    self._offsets[match[1].decode()] = self._end
                self._end += len(line)


@lru_cache(maxsize=16)
def scored_pool(path: Path) -> ScoredPool:
    """One for each file, so that it is read once."""
    return ScoredPool(path)


def _bytes(prediction: Prediction) -> int:
    return OVERHEAD * (1 + len(prediction)) + sum(map(len, prediction.counts)) + len(str(prediction.signals))
