"""A line of results: one cycle of one run, the same whoever ran it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.command_line import CommandError
from tsp_model.data.image_set import Item
from tsp_model.files import write_text


def result_row(
    data: str,
    cycle: int,
    picked: Sequence[Item],
    card: Mapping[str, Any],
    quality: Mapping[str, Any],
    pseudo_precision: float | None,
    version: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """One row.

    Args:
        data: the set's name. picked: the images of this cycle, with their labels. card: of the version.
        quality: evaluation.average_precision's. seconds: by what took them.
    """
    from scripts.speed.machine import short_name  # imports torch, which reading rows can do without

    counts, settings = card["counts"], card["settings"]
    return {
        "cycle": cycle,
        **{name: settings[name] for name in ("strategy", "ssl", "seed")},
        "data": data,
        "labels": counts["labelled_images"],
        "objects": counts["labelled_objects"],
        "picked_empty_share": sum(not item.instances for item in picked) / len(picked),
        "pseudo_images": counts["pseudo_images"],
        "pseudo_objects": counts["pseudo_objects"],
        "pseudo_precision": pseudo_precision,
        "semi_gradient_share": card["metrics"]["semi_gradient_share"],
        **quality,
        "detections_per_image": card["architecture"]["detections_per_image"],
        "ranking_score_threshold": settings["ranking_score_threshold"],
        "nms_threshold": settings["nms_threshold"],
        "version": version,
        "machine": short_name(),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a run. Raises CommandError for a missing or torn file."""
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{path} holds no result lines ({error}); run scripts.active_learning or scripts.benchmark run first."
        ) from None


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All rows of a run; the file appears whole."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
