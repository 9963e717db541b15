"""The tasks of a project as images on this disk: labelled, unlabelled, or left out for a reason."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.image_limits import ImageLimits
from backend.images import fetch_image
from backend.progress import one_line, unexpected
from backend.snapshot import Image
from tsp_model.data.image_set import read_image
from tsp_model.files import write_json

if TYPE_CHECKING:
    from backend.project import LabelStudioProject, Task

logger = logging.getLogger(__name__)

Wanted = Callable[["Task"], bool]

SIZES = "sizes.json"  # beside the images
DAY = 24 * 3600.0


class Pool:
    """Tasks of a project, by what their images and annotations turn out to be.

    Attributes:
        labelled, unlabelled: what `read` found, in the order of the tasks.
        skipped: why a task is in neither, by its key (its id as text). One broken image or annotation costs its task,
            not the training.
        annotations: the state of each annotation that was read, whether it can be used or not.
        without_label: how many objects were left out, by their label, which the configuration does not have.
    """

    def __init__(self, project: LabelStudioProject, cache: Path, limits: ImageLimits) -> None:
        self._project = project
        self._cache = cache
        self._limits = limits
        self._sizes = _Sizes(cache)
        self._numbers = {name: index + 1 for index, name in enumerate(project.classes)}
        self.labelled: list[Image] = []
        self.unlabelled: list[Image] = []
        self.skipped: dict[str, str] = {}
        self.annotations: list[str] = []
        self.without_label: Counter[str] = Counter()

    def read(
        self,
        tasks: Iterable[Task],
        progress: Callable[[dict[str, Any]], object],
        wanted: Wanted = lambda task: True,
    ) -> Pool:
        """Fetch and check the images of the `wanted` ones of the project's `tasks`, and the labels of those that train;
        `progress` hears how many tasks are done, and how many the project has."""
        try:
            for done, task in enumerate(tasks, start=1):
                if wanted(task):
                    self._take(task)
                progress({"done": done, "total": self._project.task_count})
        finally:
            self._sizes.save()
        for key, reason in self.skipped.items():
            logger.warning("task %s is left out: %s", key, reason)
        for label, count in self.without_label.items():
            logger.warning(
                "%d objects are left out, since the labeling configuration has no label %r; if one was renamed, give "
                'it predicted_values="%s"',
                count,
                label,
                label,
            )
        return self

    def _take(self, task: Task) -> None:
        key = str(task.id)
        if task.annotation is not None:
            self.annotations.append(state(task.annotation))
        try:
            path = fetch_image(
                task.image_url, self._project.client, self._cache, self._limits, self._project.project_id
            )
            size = self._sizes.of(path)
        except OSError:  # a disk that is full or not to be written spoils every task
            raise
        except Exception as error:  # whatever an image may be, it costs its own task only
            self.skipped[key] = one_line(error)
            if unexpected(error):
                logger.warning("task %s", key, exc_info=True)
            return
        if task.annotation is None:
            self.unlabelled.append(Image(key, str(path), name=task.name))
            return
        if task.instances is None:
            self.skipped[key] = "its annotation is malformed; see the log."
            return
        sizes = {tuple(rle["size"]) for _, rle in task.instances}
        if sizes - {size}:
            self.skipped[key] = (
                f"its annotation was drawn on an image of another size than {size} (H, W); draw it anew."
            )
            return
        self.without_label.update(label for label, _ in task.instances if label not in self._numbers)
        instances = [(self._numbers[label], rle) for label, rle in task.instances if label in self._numbers]
        self.labelled.append(Image(key, str(path), instances, state(task.annotation), task.name))


def state(annotation: dict[str, Any]) -> str:
    """Tells one state of one annotation from every other: its id and when it was last changed."""
    return f"{annotation['id']}@{annotation.get('updated_at') or annotation.get('created_at')}"


def forget_images(cache: Path, named: Collection[str]) -> int:
    """Delete the images of a cache whose file names are not among `named`; how many.

    What came within the last day stays: a task may have been imported since the names were read.
    """
    if not cache.is_dir():
        return 0
    before = time.time() - DAY
    forgotten = []
    for path in cache.iterdir():
        with suppress(FileNotFoundError):  # the rest of a download, which its own process has just removed
            if path.name not in named and path.name != SIZES and path.stat().st_mtime < before:
                path.unlink()
                forgotten.append(path.name)
    _Sizes(cache).forget(forgotten)
    return len(forgotten)


class _Sizes:
    """(H, W) of images that could be decoded once; a file in the cache never changes, so once is enough."""

    def __init__(self, cache: Path) -> None:
        self._file = cache / SIZES
        self._known: dict[str, list[int]] = {}
        if self._file.is_file():
            self._known = json.loads(self._file.read_text(encoding="utf-8"))
        self._new = False

    def of(self, path: Path) -> tuple[int, int]:
        """Decodes the image if it is new. Raises DataError for one that is broken."""
        if path.name not in self._known:
            self._known[path.name] = list(read_image(path).shape[-2:])
            self._new = True
        height, width = self._known[path.name]
        return height, width

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self._new |= self._known.pop(name, None) is not None
        self.save()

    def save(self) -> None:
        if self._new:
            write_json(self._file, self._known)
