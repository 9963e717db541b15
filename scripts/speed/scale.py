"""What pools that no machine here holds would take, from what `scripts.speed.growth` measured: a calculation.

Everything is taken to grow as the pool does, from the largest pool that was measured. What a look at the Data Manager
or at next task costs lies on the line through the two largest crowds, since a part of it is the same for every one; and
so does a call that pushes, since Label Studio may count the whole project again after each. The network's share is that
of a GPU whose rate is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from backend.connection import BYTES_A_CALL
from backend.project_predictions import predictions_a_call
from scripts.table import markdown

SIZES = (10**5, 10**6, 10**7)
TOP = 10_000  # least sure predictions that are pushed, where not all are
PATIENCE = 5.0  # seconds that an annotator waits for a task or a page
HOUR, GB = 3600.0, 1e9


def on_paper(
    found: Mapping[str, Sequence[Mapping[str, Any]]], images_per_second: float, sizes: Sequence[int] = SIZES
) -> str:
    """A Markdown table with a line for each size.

    Args:
        found: by `scripts.speed.growth.growth`.
        images_per_second: of the network on one GPU.
        sizes: images of the pools.
    """
    cells = [
        (
            "images",
            "GPU hours",
            "pull h (Label Studio's)",
            f"push h: all; {TOP:,}",
            "ranked again min",
            "rows of predictions a version",
            "database GB",
            "backend's file GB",
            "worker GB for names",
            "next task s",
            "first page s",
            "Label Studio is enough",
        )
    ]
    last, crowds = found["pools"][-1], found["crowds"]
    pull, asked = (last["train"][key]["pull"] / last["images"] for key in ("seconds", "label_studio_seconds"))
    again = sum(last["nothing_new"]["seconds"].values()) / last["images"]
    for size in sizes:
        looks = {name: _carried_on(crowds, f"{name}_seconds", size) for name in ("next", "page")}
        push_all, push_top = (_push_seconds(found, size, sent) for sent in (size, min(size, TOP)))
        cells.append(
            (
                f"{size:,}",
                f"{size / images_per_second / HOUR:.1f}",
                f"{size * pull / HOUR:.1f} ({size * asked / HOUR:.1f})",
                f"{push_all / HOUR:.1f}; {push_top / HOUR:.2f}",
                f"{size * again / 60:.1f}",
                f"{size:,}",
                f"{size * last['real']['bytes'] / GB:.1f}",
                f"{size * last['real']['file_bytes'] / GB:.1f}",
                f"{size * last['growth_mb'] / last['images'] / 1000:.1f}",
                f"{looks['next']:.1f}",
                f"{looks['page']:.1f}",
                "yes" if max(looks.values()) <= PATIENCE else f"no, {PATIENCE:.0f} s is what annotators wait",
            )
        )
    return markdown(cells)


def _push_seconds(found: Mapping[str, Sequence[Mapping[str, Any]]], size: int, sent: int) -> float:
    """Of `sent` predictions into a project of `size` tasks, as of now without any of this version."""
    last, counted = found["pools"][-1], [row for row in found["crowds"] if row["call_seconds"] is not None]
    real = last["real"]

    def calls(predictions: int, images: int) -> float:  # seconds of Label Studio's counting, once for each call
        count = ceil(predictions / min(predictions_a_call(images), BYTES_A_CALL / real["bytes"]))
        return count * _carried_on(counted, "call_seconds", images)

    each = max(0.0, real["seconds"] - calls(real["predictions"], last["images"])) / real["predictions"]
    return sent * each + calls(sent, size)


def _carried_on(crowds: Sequence[Mapping[str, Any]], key: str, size: int) -> float:
    """What `key` would be with `size` tasks, on the line through the two largest crowds, which does not fall; in
    proportion with one crowd, and below the smaller."""
    before, last = crowds[-2:][0], crowds[-1]
    if before is last or size < before["tasks"]:
        return before[key] * size / before["tasks"]
    slope = max(0.0, (last[key] - before[key]) / (last["tasks"] - before["tasks"]))
    return last[key] + slope * (size - last["tasks"])
