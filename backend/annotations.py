"""What trains: which annotation of a task counts, and which instances it holds.

Cancelled ("skipped") annotations and drafts never train. A submitted annotation without regions is an image without
objects. Of several annotations the one marked as ground truth counts, else the latest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from backend.label_config import LabelConfig
from backend.progress import one_line
from backend.regions import RLE, to_instances

logger = logging.getLogger(__name__)

NEVER = datetime.min.replace(tzinfo=timezone.utc)


def training_annotation(annotations: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The annotation of one task that trains; None if the task counts as unlabelled.

    Latest means changed last (created, if never changed); the higher id decides between equals.

    Args:
        annotations: of the task, as the server gives them; drafts are no annotations there.
    """
    submitted = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    marked = [annotation for annotation in submitted if annotation.get("ground_truth")]
    return max(marked or submitted, key=_age, default=None)


def instances_of(
    annotation: Mapping[str, Any], config: LabelConfig, task_id: int
) -> tuple[tuple[str, RLE], ...] | None:
    """The labelled masks of an annotation, by the configuration's labels; those whose label it does not have (any more)
    by their own. None if a region is malformed, said in the log with the task's number: half of an annotation would
    teach that the other half is background.

    Args:
        annotation: with ``id`` and ``result``.
        config: the labeling configuration; a label's ``predicted_values`` name what it was called before.
    """
    try:
        found = to_instances(annotation.get("result") or [], boxed=config.is_boxed)
    except Exception as error:  # whatever somebody stored, it costs its own task only
        logger.warning("task %s, annotation %s is not used: %s", task_id, annotation.get("id"), one_line(error))
        return None
    return tuple((config.called_now(label) or label, rle) for label, rle in found)


def _age(annotation: Mapping[str, Any]) -> tuple[datetime, int]:
    time = annotation.get("updated_at") or annotation.get("created_at")
    moment = datetime.fromisoformat(time.replace("Z", "+00:00")) if time else NEVER
    return moment, annotation.get("id") or 0
