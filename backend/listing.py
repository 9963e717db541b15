"""A project's tasks, as Label Studio lists them: filtered, ordered, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from label_studio_sdk import LabelStudio

from backend.connection import call

PAGE_SECONDS = 300.0
TASKS_A_PAGE, WHOLE_A_PAGE = 1000, 100  # the latter of tasks that come with all that is nested in them
HAS_ANNOTATION = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
NO_ANNOTATION = HAS_ANNOTATION | {"operator": "equal"}
HAS_SCORE = {"filter": "filter:tasks:predictions_score", "operator": "empty", "type": "Number", "value": "false"}


class TaskListing:
    """The tasks of one project as the server has them, a page in memory at a time."""

    def __init__(self, client: LabelStudio, project_id: int) -> None:
        self.client, self.project_id = client, project_id

    def pages(self, filters: Sequence[Mapping[str, Any]] = (), **chosen: str) -> Iterator[dict[str, Any]]:
        """The project's tasks in the order of their ids, a page in memory at a time.

        `chosen` says what of each: `include` names the fields of a task; it would also thin out what is nested, so
        annotations come with `fields="all"`, and `omit` keeps the predictions of every version out.

        A page begins after the last id seen, not at a number: page numbers would give a task twice, or pass one
        over, when an annotation or a deletion in the meantime moves the rest of a filtered list.
        """
        size, last = WHOLE_A_PAGE if chosen.get("fields") == "all" else TASKS_A_PAGE, 0
        while True:
            after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
            tasks = self.first(size, [*filters, after], ["tasks:id"], **chosen)
            yield from tasks
            if len(tasks) < size:
                return
            last = tasks[-1]["id"]

    def first(
        self,
        size: int,
        filters: Sequence[Mapping[str, Any]],
        ordering: Sequence[str],
        timeout: float | None = PAGE_SECONDS,
        **chosen: str,
    ) -> list[dict[str, Any]]:
        """The first `size` tasks in this order; `timeout` as in backend.connection.call."""
        return self._asked(size, filters, ordering, timeout, **chosen)["tasks"]

    def ids(self, wanted: Mapping[str, Any]) -> set[int]:
        """The tasks that a filter lets through."""
        return {raw["id"] for raw in self.pages([wanted], include="id")}

    def count(self, wanted: Mapping[str, Any]) -> int:
        """How many tasks a filter lets through; one small call."""
        return self._asked(1, [wanted], [], None, include="id")["total"]

    def _asked(
        self,
        size: int,
        filters: Sequence[Mapping[str, Any]],
        ordering: Sequence[str],
        timeout: float | None,
        **chosen: str,
    ) -> dict[str, Any]:
        query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ordering}
        parameters = {
            "project": self.project_id,
            "page_size": size,
            "query": json.dumps(query),
            # Resolved, an object of a bucket has the address by which browsers know Label Studio
            # (LABEL_STUDIO_HOST), which need not lead there from here; see backend.images.
            "resolve_uri": "false",
            **chosen,
        }
        return call(self.client, "GET", "api/tasks/", params=parameters, timeout=timeout)


def has_version(version: str) -> dict[str, Any]:
    """A filter: tasks with a prediction of `version`."""
    return lacks_version(version) | {"operator": "contains"}


def lacks_version(version: str) -> dict[str, Any]:
    """A filter: tasks without one."""
    return {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": "not_contains",
        "type": "List",
        "value": [version],  # a bare text would be taken letter by letter
    }
