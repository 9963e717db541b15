"""In which order people meet the tasks, and a view of the Data Manager that has them by score whatever else is set.

`next task` follows the scores if the project samples by uncertainty and its version is the active one. Label Studio
draws it by chance among all of them where a project has several members of its own, as Enterprise's have (the
community edition counts members by organisation only, and follows the scores for each of them; both read and tried on
1.23.2). The view is exact for everybody.
"""

from __future__ import annotations

import logging
from typing import Any

from backend.connection import ProjectError, call
from backend.project import LabelStudioProject
from backend.versions import Versions
from tsp_model.files import write_json

logger = logging.getLogger(__name__)

VIEW = "Most uncertain first"
ORDERING = ["tasks:predictions_score"]
# All but number, annotations, score and data: with them on, the image is outside of a usual window.
HIDDEN = [
    f"tasks:{column}"
    for column in (
        "inner_id",
        "completed_at",
        "cancelled_annotations",
        "total_predictions",
        "annotators",
        "annotations_results",
        "annotations_ids",
        "predictions_results",
        "predictions_model_versions",
        "file_upload",
        "storage_filename",
        "created_at",
        "updated_at",
        "updated_by",
        "avg_lead_time",
        "draft_exists",
    )
]
UNCERTAINTY = "Uncertainty sampling"


def keep_view(project: LabelStudioProject) -> int:
    """The id of the view; it is made, as the first tab, if it is not there, and gets its order back if it lost it."""
    views = _views(project)
    ours = _ours(views)
    if ours is None:
        data = {
            "title": VIEW,
            "type": "list",
            "target": "tasks",
            "ordering": ORDERING,
            "hiddenColumns": {"explore": HIDDEN, "labeling": HIDDEN},
        }
        ours = call(project.client, "POST", "api/dm/views/", json={"project": project.project_id, "data": data})
        first = {"project": project.project_id, "ids": [ours["id"], *(view["id"] for view in views)]}
        call(project.client, "POST", "api/dm/views/order/", json=first)
    elif ours["data"].get("ordering") != ORDERING:
        data = ours["data"] | {"ordering": ORDERING}
        call(project.client, "PATCH", f"api/dm/views/{ours['id']}/", json={"data": data})
    return ours["id"]


def view_of(project: LabelStudioProject) -> dict[str, Any] | None:
    """The view, if it is there."""
    return _ours(_views(project))


def _ours(views: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((view for view in views if view["data"].get("title") == VIEW), None)


def _views(project: LabelStudioProject) -> list[dict[str, Any]]:
    return call(project.client, "GET", "api/dm/views/", params={"project": project.project_id})


def in_force(project: LabelStudioProject, active: str | None, clusters: int = 0) -> dict[str, Any]:
    """What `next task` does in a project, and why."""
    values = project.values()
    sampling, shown = values.get("sampling"), values.get("model_version")
    if active is None:
        reason = "there is no version yet: label some tasks and start a training"
    elif sampling != UNCERTAINTY:
        reason = f"the project's sampling is {sampling!r}: choose {UNCERTAINTY!r} under Settings > General"
    elif shown != active:
        reason = f"the project is at version {shown!r} and {active} is active: start a training"
    else:
        first = f"round {clusters} clusters, lowest score first in each" if clusters else "lowest score first"
        return {"next_task": first, "why": f"{UNCERTAINTY} by the scores of {active}", "view": VIEW}
    return {"next_task": "not by score", "why": reason, "view": VIEW}


def settle(project: LabelStudioProject, versions: Versions, clusters: int) -> None:
    """Keep the view, and note which order is in force for whoever asks /health, which asks nobody.

    An order that cannot be looked at is no reason for a job to fail.
    """
    try:
        keep_view(project)
        write_json(versions.order_file, in_force(project, versions.active(), clusters))
    except ProjectError as error:
        logger.warning("the view %r of project %d: %s", VIEW, versions.number, error)
