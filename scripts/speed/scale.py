"""What pools that no machine here holds would take, from what `scripts.speed.growth` measured: a calculation.

Everything is taken to grow as the pool does, from the largest pool that was measured. What a look at the Data Manager
or at next task costs lies on the line through the two largest, since a part of it is the same for every pool; and so
does a call that pushes, since Label Studio counts the whole project again after each. The network's share is that
of a GPU whose rate is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from backend.project import BYTES_A_CALL, predictions_a_call
from scripts.table import markdown

SIZES = (10**5, 10**6, 10**7)
TOP = 10_000  # least sure predictions that are pushed, where not all are
PATIENCE = 5.0  # seconds that an annotator waits for a task or a page
HOUR, GB = 3600.0, 1e9


def on_paper(rows: Sequence[Mapping[str, Any]], images_per_second: float, sizes: Sequence[int] = SIZES) -> str:
    """A Markdown table with a line for each size.

    Args:
        rows: of `scripts.speed.growth.growth`, smallest first.
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
    last = rows[-1]
    pull, asked = (last["train"][key]["pull"] / last["images"] for key in ("seconds", "label_studio_seconds"))
    again = sum(last["nothing_new"]["seconds"].values()) / last["images"]
    for size in sizes:
        looks = {name: _carried_on(rows, f"{name}_seconds", size) for name in ("next", "page")}
        cells.append(
            (
                f"{size:,}",
                f"{size / images_per_second / HOUR:.1f}",
                f"{size * pull / HOUR:.1f} ({size * asked / HOUR:.1f})",
                f"{_push_seconds(rows, size, size) / HOUR:.1f}; {_push_seconds(rows, size, min(size, TOP)) / HOUR:.2f}",
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


def _push_seconds(rows: Sequence[Mapping[str, Any]], size: int, sent: int) -> float:
    """Of `sent` predictions into a project of `size` tasks, as of now without any of this version."""
    last, real = rows[-1], rows[-1]["real"]

    def counted(images: int) -> float:  # again after each call: what the few new predictions of a job cost, in one call
        pushes = [{"images": row["images"], "push": row["few_new"]["label_studio_seconds"]["push"]} for row in rows]
        return _carried_on(pushes, "push", images)

    def calls(predictions: int, images: int) -> int:
        return ceil(predictions / min(predictions_a_call(images), BYTES_A_CALL / real["bytes"]))

    counting = calls(real["predictions"], last["images"]) * counted(last["images"])
    each = max(0.0, real["seconds"] - counting) / real["predictions"]
    return sent * each + calls(sent, size) * counted(size)


def _carried_on(rows: Sequence[Mapping[str, Any]], key: str, size: int) -> float:
    """What `key` would be at `size`, on the line through the two largest pools, which does not fall; with one pool, in
    proportion."""
    last = rows[-1]
    if len(rows) == 1:
        return last[key] * size / last["images"]
    before = rows[-2]
    slope = max(0.0, (last[key] - before[key]) / (last["images"] - before["images"]))
    return last[key] + slope * (size - last["images"])
